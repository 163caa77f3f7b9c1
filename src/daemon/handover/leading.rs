//! How the process that serves leads those that drain before it: it tells them its verdicts, whose
//! sessions to end and whose users to move, in their own ids.
//!
//! Two threads for each, of which one waits to write and one to read: a process that hangs, hangs
//! alone. What finds no room to wait is replaced by the whole state, which is told again as soon
//! as there is room, with the end of all who are down by then; that users move and that all is
//! over are told again themselves.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

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
/// How long a process may take to read all that waits for it, while this one stands still.
const FLUSHING: Duration = Duration::from_secs(1);
/// How long a process may take to read a message.
const HEARING: Duration = Duration::from_secs(10);

/// The processes that drain under this one's verdicts, oldest first.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Led {
    followers: RefCell<Vec<Follower>>,
    /// Whether the last of them has said that this is the main process now, or is gone.
    is_main: RefCell<Option<watch::Receiver<bool>>>,
}

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
    /// Whose sessions it is to end, in its ids, once it has been told how things stand.
    endings: RefCell<Vec<(MemberId, Option<ServiceId>)>>,
    missed: RefCell<Missed>,
}

/// What found no room.
#[derive(Debug, Default)]
struct Missed {
    /// The end of all who are down.
    down: bool,
    /// By home pool, in its ids.
    clear: BTreeMap<PoolId, (Option<PoolId>, Time)>,
    stop: bool,
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
    /// Told once it says that its successor is the main process.
    main: watch::Sender<bool>,
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
        let mut led = self.followers.borrow_mut();
        for (process, stream) in all {
            let pid = process.pid;
            match Follower::new(process, stream, ours, handles, now) {
                Ok(follower) => led.push(follower),
                Err(error) => {
                    tracing::error!("process {pid} drains without this one's verdicts: {error}");
                }
            }
        }
        let predecessor = led.last().map(|follower| follower.seen.main.subscribe());
        self.is_main.replace(predecessor);
    }

    /// Resolves once this is the service's main process, as the one before it says; at once where
    /// there is none before it, or no more.
    pub(in crate::daemon) async fn is_main(&self) {
        let predecessor = self.is_main.borrow().clone();
        if let Some(mut predecessor) = predecessor {
            // Whoever tells is gone with its process.
            drop(predecessor.wait_for(|is_main| *is_main).await);
        }
    }

    /// The same under another topology of ours.
    pub(in crate::daemon) fn succeed(&self, ours: &Topology, handles: &Handles, now: Time) {
        for follower in self.followers.borrow_mut().iter_mut() {
            if let Some(ids) = &mut follower.ids {
                ids.follow(ours, now);
                follower.behind.set(true);
                follower.seen.elsewhere.count_at(ids.known(ours, handles));
            }
        }
    }

    /// Who drains still: process ids, and how many sessions each has left.
    pub(in crate::daemon) fn draining(&self) -> Vec<(u32, u64)> {
        let mut led = self.followers.borrow_mut();
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
        let led = self.followers.borrow();
        for follower in led.iter() {
            let Some(ids) = &follower.ids else { continue };
            if changed {
                follower.behind.set(true);
            }
            let rested = follower
                .told
                .get()
                .is_none_or(|told| now.since(told) >= PAUSE);
            if !all_down {
                let endings = endings.iter();
                let theirs =
                    endings.filter_map(|(member, service)| ids.theirs_of(*member, *service));
                theirs.for_each(|ending| follower.is_to_end(ending));
            }
            if follower.behind.get() && (rested || all_down) {
                follower.stands(ids, legacy(), now);
            }
            let is_due = |(at, _): &mut (Time, TargetId)| *at <= now;
            for (_, target) in ids.leaving.borrow_mut().extract_if(.., is_due) {
                follower.is_to_end((target.member(), Some(target.service())));
            }
            // Who is ended comes again, and must not find the member as it was.
            if !follower.behind.get() {
                for (member, service) in follower.endings.take() {
                    follower.post(News::End { member, service });
                }
            }
            if all_down {
                follower.post(News::EndDown);
            }
        }
    }

    /// Tells that a pool's users are to leave.
    pub(in crate::daemon) fn clear(&self, home: PoolId, off: Option<PoolId>, from: Time) {
        for follower in self.followers.borrow().iter() {
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
        for follower in self.followers.borrow().iter() {
            follower.post(News::Stop);
        }
    }

    /// When somebody is to be told something.
    pub(in crate::daemon) fn due(&self) -> Option<Time> {
        let led = self.followers.borrow();
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
    ///
    /// # Errors
    /// The id of a process that does not read what it is told.
    pub(in crate::daemon) async fn flushed(&self) -> Result<(), u32> {
        let waits: Vec<_> = {
            let led = self.followers.borrow();
            let flush = |follower: &Follower| {
                let (tell, told) = oneshot::channel();
                let full = match follower.outbox.try_send(Post::Flush(tell)) {
                    Ok(()) => false,
                    Err(TrySendError::Full(_)) => true,
                    // One that is gone has been told all that it ever will be.
                    Err(TrySendError::Disconnected(_)) => return None,
                };
                Some((follower.process.pid, (!full).then_some(told)))
            };
            led.iter().filter_map(flush).collect()
        };
        for (pid, told) in waits {
            let told = told.ok_or(pid)?;
            // Nobody tells of one that is gone either.
            drop(timeout(FLUSHING, told).await.map_err(|_| pid)?);
        }
        Ok(())
    }

    /// Another one leads them: what they hold is no longer of interest here.
    pub(super) fn leave(&self) {
        for follower in self.followers.borrow().iter() {
            follower.seen.left.store(true, Ordering::Relaxed);
            follower.seen.elsewhere.forget();
        }
    }

    /// For another one to lead them: whom, and by which streams.
    pub(in crate::daemon) fn handed_on(&self) -> (Vec<Process>, Vec<Arc<UnixStream>>) {
        self.draining();
        let led = self.followers.borrow();
        let each = led.iter();
        each.map(|f| (f.process.clone(), f.stream.clone())).unzip()
    }
}

impl Ids {
    /// A member, for a service or all of them, as they know it.
    fn theirs_of(
        &self,
        member: MemberId,
        service: Option<ServiceId>,
    ) -> Option<(MemberId, Option<ServiceId>)> {
        let member = self.to_theirs.member(member)?;
        match service {
            None => Some((member, None)),
            Some(service) => Some((member, Some(self.to_theirs.service(service)?))),
        }
    }

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
            endings: RefCell::default(),
            missed: RefCell::default(),
        })
    }

    /// Has a member's sessions ended once it knows how things stand.
    fn is_to_end(&self, ending: (MemberId, Option<ServiceId>)) {
        let mut endings = self.endings.borrow_mut();
        match endings.len() < WAITING {
            true => endings.push(ending),
            // It does not read; nearly all who are ended are down.
            false => self.missed.borrow_mut().down = true,
        }
    }

    fn stands(&self, ids: &Ids, legacy: Legacy, now: Time) {
        let legacy = legacy.renumber(&ids.to_theirs, |_, _| Question::Same);
        let legacy = Box::new(legacy.without_probes());
        self.behind.set(false);
        self.told.set(Some(now));
        self.post(News::Stands(legacy));
        if self.behind.get() {
            return;
        }
        let Missed { down, clear, stop } = self.missed.take();
        if down {
            self.post(News::EndDown);
        }
        for (home, (off, from)) in clear {
            self.post(News::Clear { home, off, from });
        }
        if stop {
            self.post(News::Stop);
        }
    }

    fn post(&self, news: News) {
        match self.outbox.try_send(Post::News(Box::new(news))) {
            Ok(()) => {}
            Err(TrySendError::Full(post)) => {
                self.behind.set(true);
                if let Post::News(news) = post {
                    self.note_missed(*news);
                }
            }
            Err(TrySendError::Disconnected(_)) => self.seen.gone.store(true, Ordering::Relaxed),
        }
    }

    fn note_missed(&self, news: News) {
        let mut missed = self.missed.borrow_mut();
        match news {
            // The next one says it all.
            News::Stands(_) => {}
            News::End { member, service } => {
                drop(missed);
                self.is_to_end((member, service));
            }
            News::EndDown => missed.down = true,
            News::Clear { home, off, from } => drop(missed.clear.insert(home, (off, from))),
            News::Stop => missed.stop = true,
        }
    }
}

/// Writes what is posted, until the other process is gone.
fn write(stream: &UnixStream, posts: &Receiver<Post>) {
    for post in posts {
        match post {
            Post::News(news) => {
                if let Err(error) = wire::send(stream, &news, &[], HEARING) {
                    if error.kind() == std::io::ErrorKind::TimedOut {
                        tracing::warn!("a process that drains does not read what it is told");
                    }
                    // After half a message nothing more can be read: it goes on by what it knows.
                    drop(stream.shutdown(Shutdown::Write));
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
            Record::Main => drop(seen.main.send_replace(true)),
        }
        if seen.left.load(Ordering::Relaxed) {
            return;
        }
    }
    seen.gone.store(true, Ordering::Relaxed);
    seen.main.send_replace(true);
    seen.elsewhere.forget();
}

#[cfg(test)]
mod tests;
