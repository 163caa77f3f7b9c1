//! How a process drains whose successor serves: it decides nothing any more, and does what the
//! successor says.

use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread::Builder;
use std::time::Duration;

use rustix::net::{SendFlags, send};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep_until};

use super::elsewhere::{PIECE, Reports};
use super::giving::last_answers;
use super::successor::Successor;
use super::wire;
use super::words::News;
use crate::clock;
use crate::daemon::hub::{Hub, Inputs};
use crate::daemon::{Signals, Told};
use crate::pairing::Decider;
use crate::pairing::legacy::{Legacy, Question};
use crate::proxy::{ToWorker, Which};
use crate::time::Time;
use crate::topology::Succession;

/// Messages of the successor that may wait; it waits with more.
const WAITING: usize = 16;
/// How long the successor may be silent: for ever, in effect. It has news, or it has none.
const SILENCE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often it is seen whether the sessions are gone.
const LOOK: Duration = Duration::from_millis(50);
/// How often the successor is told what is left.
const REPORT: Duration = Duration::from_millis(200);

/// What a process that drains has of its successor.
#[derive(Debug)]
pub(in crate::daemon) struct Following {
    successor: Successor,
    news: mpsc::Receiver<News>,
    reports: Reports,
    /// How long sessions are kept.
    deadline: Duration,
    /// Over once no worker accepts any more and systemd knows its new main process: until then the
    /// end of this one would be that of the service.
    gone_over: JoinHandle<()>,
}

impl Following {
    pub(super) fn begin(
        successor: Successor,
        deadline: Duration,
        gone_over: JoinHandle<()>,
    ) -> Following {
        let stream = successor.stream.clone();
        let (tell, news) = mpsc::channel(WAITING);
        let heard = Builder::new().name("successor".to_owned()).spawn({
            let stream = stream.clone();
            move || hear(&stream, &tell)
        });
        if let Err(error) = heard {
            tracing::error!("draining without the successor's verdicts: {error}");
        }
        Following {
            successor,
            news,
            reports: Reports::default(),
            deadline,
            gone_over,
        }
    }

    /// Tells what sessions are left. A report that finds no room is followed by others.
    fn report(&mut self, hub: &Hub) {
        let era = hub.era();
        let open = hub.open();
        let is_main = self.gone_over.is_finished();
        let report = self
            .reports
            .next(&era.topology, &era.handles, open, is_main);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        for piece in report.chunks(PIECE) {
            if let Err(error) = send(&*self.successor.stream, piece, flags) {
                tracing::trace!(%error, "the successor was not told what sessions are left");
                return;
            }
        }
    }
}

fn hear(stream: &UnixStream, tell: &mpsc::Sender<News>) {
    loop {
        match wire::receive::<News>(stream, SILENCE) {
            Ok((news, _)) => {
                if tell.blocking_send(news).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
            Err(error) => {
                tracing::error!("draining without the successor's verdicts: {error}");
                return;
            }
        }
    }
}

/// Drains until no session is left, the deadline has passed, or it is told to stop twice.
pub(in crate::daemon) async fn follow(
    hub: &Rc<Hub>,
    inputs: &mut Inputs,
    mut following: Following,
    signals: &mut impl Signals,
) {
    let pid = following.successor.pid;
    let mut until = Instant::now() + following.deadline;
    let answering = spawn_local({
        let hub = hub.clone();
        async move { last_answers(&hub).await }
    });
    // Who told this process to stop meant the one that serves by now.
    let (mut led, mut stopping) = (true, hub.estate.is_stopping());
    if stopping {
        following.successor.stop();
        until = until.min(Instant::now() + hub.stop_deadline());
    }
    let mut report = Instant::now();
    let mut was_main = false;
    loop {
        let now = Instant::now();
        let is_done = answering.is_finished() && following.gone_over.is_finished();
        if (hub.open() == 0 && is_done) || now >= until {
            break;
        }
        let is_main = following.gone_over.is_finished();
        if now >= report || is_main != was_main {
            following.report(hub);
            report = now + REPORT;
            was_main = is_main;
        }
        tokio::select! {
            news = following.news.recv(), if led => match news {
                Some(News::Stop) => until = until.min(now + hub.stop_deadline()),
                Some(news) => hub.hear(news, clock::now()),
                None => {
                    led = false;
                    tracing::warn!("process {pid} is gone; draining by what it said last");
                }
            },
            () = hub.idle(inputs) => {}
            told = signals.told() => match told {
                Told::Stop if stopping => {
                    tracing::info!("told again: not waiting for sessions");
                    break;
                }
                Told::Stop => {
                    stopping = true;
                    until = until.min(now + hub.stop_deadline());
                }
                Told::Reopen => hub.logs.reopen(),
                Told::Reload | Told::Upgrade => {
                    tracing::info!("process {pid} serves; tell it instead");
                }
            },
            () = sleep_until(now + LOOK) => {}
        }
        hub.carry_on(clock::now());
    }
    following.report(hub);
}

impl Hub {
    /// Does what the successor says.
    fn hear(&self, news: News, now: Time) {
        let topology = self.topology();
        match news {
            News::Stands(legacy) => self.stands(*legacy, now),
            News::End { member, service } => {
                // Ids that are not ours would be another version's fault.
                let known = topology.pools.get(member.pool.index());
                if known.is_some_and(|pool| member.index() < pool.members.len()) {
                    let which = Which::Member { member, service };
                    self.tell_workers(&ToWorker::End(which));
                }
            }
            News::EndDown => self.tell_workers(&ToWorker::End(Which::Down)),
            News::Clear { home, off, from } => {
                let pools = topology.pools.len();
                if [Some(home), off]
                    .into_iter()
                    .flatten()
                    .all(|p| p.index() < pools)
                {
                    self.clear(home, off, from, now);
                }
            }
            // Taken where the deadline is known.
            News::Stop => {}
        }
    }

    /// Takes over what is known, without deciding anything by it.
    fn stands(&self, legacy: Legacy, now: Time) {
        let topology = self.topology();
        let ids = Succession::between(&topology, &topology);
        let legacy = legacy.renumber(&ids, |_, _| Question::Same);
        let records: Vec<_> = {
            let decider = self.decider.borrow();
            let pairs = topology.pairs.iter();
            pairs
                .map(|pair| decider.pair(pair.id).record().clone())
                .collect()
        };
        let begin = |pair: crate::topology::PairId| (records[pair.index()].clone(), false);
        let mut decider = Decider::after(topology, legacy, begin, 0, now);
        while decider.poll_output().is_some() {}
        self.decider.replace(decider);
        self.publish();
    }
}
