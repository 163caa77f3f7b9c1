//! How the process that serves leads those that drain before it: it tells them its verdicts, whose
//! sessions to end and whose users to move, in their own ids.
//!
//! Two threads for each, of which one waits to write and one to read: a process that hangs, hangs
//! alone. What finds no room to wait is replaced by the whole state, which is told again as soon
//! as there is room.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use tokio::sync::oneshot;

use super::elsewhere::{Elsewhere, RECORD, Record};
use super::wire;
use super::words::{News, Process};
use crate::dispatch::{Handles, MemberHandle};
use crate::pairing::legacy::{Legacy, Question};
use crate::time::Time;
use crate::topology::{MemberId, PoolId, ServiceId, Succession, TargetId, Topology};

/// Messages that may wait for one process: a transition is a handful.
const WAITING: usize = 256;
/// From one telling of everything to the next: it costs a line for every target.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a process may take to read a message.
const HEARING: Duration = Duration::from_secs(10);

/// The processes that drain under this one's verdicts, oldest first.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Led(RefCell<Vec<Follower>>);

#[derive(Debug)]
struct Follower {
    process: Process,
    stream: Arc<UnixStream>,
    /// None where this version does not understand it.
    ids: Option<Ids>,
    outbox: SyncSender<Post>,
    seen: Arc<Seen>,
    /// Whether it does not know how things stand.
    behind: Cell<bool>,
    /// When it was told last.
    told: Cell<Option<Time>>,
}

/// How our ids are found among theirs.
#[derive(Debug)]
struct Ids {
    theirs: Topology,
    to_theirs: Succession,
    /// Their members, for a service each, that are not among ours, and when their sessions end.
    leaving: RefCell<Vec<(Time, TargetId)>>,
}

/// What a process lets see of itself.
#[derive(Debug, Default)]
struct Seen {
    sessions: AtomicU64,
    elsewhere: Elsewhere,
    gone: AtomicBool,
    /// Another process watches it.
    left: AtomicBool,
}

#[derive(Debug)]
enum Post {
    News(Box<News>),
    /// Tells once everything before it has been written.
    Flush(oneshot::Sender<()>),
}

impl Led {
    /// Leads these from now on.
    pub(in crate::daemon) fn lead(
        &self,
        ours: &Topology,
        handles: &Handles,
        all: Vec<(Process, UnixStream)>,
        now: Time,
    ) {
        let mut led = self.0.borrow_mut();
        for (process, stream) in all {
            let pid = process.pid;
            match Follower::new(process, stream, ours, handles, now) {
                Ok(follower) => led.push(follower),
                Err(error) => {
                    tracing::error!("process {pid} drains without this one's verdicts: {error}");
                }
            }
        }
    }

    /// The same under another topology of ours.
    pub(in crate::daemon) fn succeed(&self, ours: &Topology, handles: &Handles, now: Time) {
        for follower in self.0.borrow_mut().iter_mut() {
            if let Some(ids) = &mut follower.ids {
                ids.follow(ours, now);
                follower.behind.set(true);
                follower.seen.elsewhere.count_at(ids.known(ours, handles));
            }
        }
    }

    /// Who drains still: process ids, and how many sessions each has left.
    pub(in crate::daemon) fn draining(&self) -> Vec<(u32, u64)> {
        let mut led = self.0.borrow_mut();
        led.retain(|follower| !follower.seen.gone.load(Ordering::Relaxed));
        let sessions = |follower: &Follower| follower.seen.sessions.load(Ordering::Relaxed);
        let each = led.iter();
        each.map(|follower| (follower.process.pid, sessions(follower)))
            .collect()
    }

    /// Tells what was decided: whose sessions end, and, before that, how things stand if they
    /// changed.
    pub(in crate::daemon) fn tell(
        &self,
        changed: bool,
        endings: &[(MemberId, Option<ServiceId>)],
        all_down: bool,
        now: Time,
        legacy: impl Fn() -> Legacy,
    ) {
        let led = self.0.borrow();
        for follower in led.iter() {
            let Some(ids) = &follower.ids else { continue };
            if changed {
                follower.behind.set(true);
            }
            let rested = follower
                .told
                .get()
                .is_none_or(|told| now.since(told) >= PAUSE);
            if follower.behind.get() && (rested || all_down) {
                follower.stands(ids, legacy(), now);
            }
            let is_due = |(at, _): &mut (Time, TargetId)| *at <= now;
            for (_, target) in ids.leaving.borrow_mut().extract_if(.., is_due) {
                let (member, service) = (target.member(), Some(target.service()));
                follower.post(News::End { member, service });
            }
            if all_down {
                follower.post(News::EndDown);
                continue;
            }
            for (member, service) in endings {
                let Some(member) = ids.to_theirs.member(*member) else {
                    continue;
                };
                let service = match service {
                    None => None,
                    Some(service) => match ids.to_theirs.service(*service) {
                        None => continue,
                        known => known,
                    },
                };
                follower.post(News::End { member, service });
            }
        }
    }

    /// Tells that a pool's users are to leave.
    pub(in crate::daemon) fn clear(&self, home: PoolId, off: Option<PoolId>, from: Time) {
        for follower in self.0.borrow().iter() {
            let Some(ids) = &follower.ids else { continue };
            let Some(home) = ids.to_theirs.pool(home) else {
                continue;
            };
            let off = off.and_then(|off| ids.to_theirs.pool(off));
            follower.post(News::Clear { home, off, from });
        }
    }

    /// Tells all that it is over.
    pub(in crate::daemon) fn stop(&self) {
        for follower in self.0.borrow().iter() {
            follower.post(News::Stop);
        }
    }

    /// When somebody is to be told something.
    pub(in crate::daemon) fn due(&self) -> Option<Time> {
        let led = self.0.borrow();
        let of = |follower: &Follower| {
            let ids = follower.ids.as_ref()?;
            let told = follower.told.get().map_or(Time::ZERO, |told| told + PAUSE);
            let behind = follower.behind.get().then_some(told);
            let leaving = ids.leaving.borrow().iter().map(|(at, _)| *at).min();
            behind.into_iter().chain(leaving).min()
        };
        led.iter().filter_map(of).min()
    }

    /// Resolves once everything that was told has been written, so that somebody else can go on.
    pub(in crate::daemon) async fn flushed(&self) {
        let waits: Vec<_> = {
            let led = self.0.borrow();
            let flush = |follower: &Follower| {
                let (tell, told) = oneshot::channel();
                follower
                    .outbox
                    .try_send(Post::Flush(tell))
                    .ok()
                    .map(|()| told)
            };
            led.iter().filter_map(flush).collect()
        };
        for wait in waits {
            // One that is gone has been told all that it ever will be.
            drop(wait.await);
        }
    }

    /// Another one leads them: what they hold is no longer of interest here.
    pub(super) fn leave(&self) {
        for follower in self.0.borrow().iter() {
            follower.seen.left.store(true, Ordering::Relaxed);
            follower.seen.elsewhere.forget();
        }
    }

    /// For another one to lead them: whom, and by which streams.
    pub(in crate::daemon) fn handed_on(&self) -> (Vec<Process>, Vec<Arc<UnixStream>>) {
        self.draining();
        let led = self.0.borrow();
        let each = led.iter();
        each.map(|f| (f.process.clone(), f.stream.clone())).unzip()
    }
}

impl Ids {
    fn new(theirs: Topology, ours: &Topology, now: Time) -> Ids {
        let mut ids = Ids {
            theirs,
            to_theirs: Succession::default(),
            leaving: RefCell::default(),
        };
        ids.follow(ours, now);
        ids
    }

    /// Their members that are among ours.
    fn known(
        &self,
        ours: &Topology,
        handles: &Handles,
    ) -> impl Iterator<Item = (MemberId, Arc<MemberHandle>)> {
        let to_ours = Succession::between(&self.theirs, ours);
        let theirs = self.theirs.pools.iter().flat_map(|pool| &pool.members);
        theirs.filter_map(move |member| {
            let known = to_ours.member(member.id)?;
            Some((member.id, handles.member(known).clone()))
        })
    }

    /// Finds ours anew. Who is no longer among them is let drain, to the deadline of its pool.
    fn follow(&mut self, ours: &Topology, now: Time) {
        self.to_theirs = Succession::between(ours, &self.theirs);
        let to_ours = Succession::between(&self.theirs, ours);
        let mut leaving = self.leaving.borrow_mut();
        leaving.retain(|(_, target)| to_ours.target(*target).is_none());
        let known: HashSet<TargetId> = leaving.iter().map(|(_, target)| *target).collect();
        let gone = self
            .theirs
            .targets()
            .filter(|target| to_ours.target(*target).is_none() && !known.contains(target));
        leaving.extend(gone.map(|target| {
            let deadline = self.theirs.pool(target.pool).drain_deadline;
            (now + deadline, target)
        }));
    }
}

impl Follower {
    fn new(
        process: Process,
        stream: UnixStream,
        ours: &Topology,
        handles: &Handles,
        now: Time,
    ) -> std::io::Result<Follower> {
        stream.set_read_timeout(None)?;
        let stream = Arc::new(stream);
        let ids = match process.understood() {
            Ok((_, theirs)) => Some(Ids::new(theirs, ours, now)),
            Err(why) => {
                tracing::warn!(
                    "process {} drains without this one's verdicts: {why}",
                    process.pid
                );
                None
            }
        };
        let seen = Arc::new(Seen::default());
        if let Some(ids) = &ids {
            seen.elsewhere.count_at(ids.known(ours, handles));
        }
        let (outbox, posts) = sync_channel(WAITING);
        let name = |what: &str| format!("{what}-{}", process.pid);
        Builder::new().name(name("lead")).spawn({
            let stream = stream.clone();
            move || write(&stream, &posts)
        })?;
        Builder::new().name(name("watch")).spawn({
            let (stream, seen) = (stream.clone(), seen.clone());
            move || watch(&stream, &seen)
        })?;
        Ok(Follower {
            process,
            stream,
            ids,
            outbox,
            seen,
            behind: Cell::new(false),
            told: Cell::new(None),
        })
    }

    fn stands(&self, ids: &Ids, legacy: Legacy, now: Time) {
        let legacy = legacy.renumber(&ids.to_theirs, |_, _| Question::Same);
        let legacy = Box::new(legacy.without_probes());
        self.behind.set(false);
        self.told.set(Some(now));
        self.post(News::Stands(legacy));
    }

    fn post(&self, news: News) {
        match self.outbox.try_send(Post::News(Box::new(news))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.behind.set(true),
            Err(TrySendError::Disconnected(_)) => self.seen.gone.store(true, Ordering::Relaxed),
        }
    }
}

/// Writes what is posted, until the other process is gone.
fn write(stream: &UnixStream, posts: &Receiver<Post>) {
    for post in posts {
        match post {
            Post::News(news) => {
                if let Err(error) = wire::send(stream, &news, &[], HEARING) {
                    tracing::debug!(%error, "a process that drained is told nothing more");
                    return;
                }
            }
            Post::Flush(tell) => {
                if tell.send(()).is_err() {
                    tracing::debug!("nobody waits for the last word to a process any more");
                }
            }
        }
    }
}

/// Reads what sessions it has left, until it is gone or another process does.
fn watch(mut stream: &UnixStream, seen: &Seen) {
    let mut record = [0; RECORD];
    while stream.read_exact(&mut record).is_ok() {
        match Record::read(record) {
            Record::All(sessions) => seen.sessions.store(sessions.into(), Ordering::Relaxed),
            Record::Of(member, sessions) => seen.elsewhere.holds(member, sessions),
        }
        if seen.left.load(Ordering::Relaxed) {
            return;
        }
    }
    seen.gone.store(true, Ordering::Relaxed);
    seen.elsewhere.forget();
}
