//! Asks when told to, and reports back: the tasks around the [`Prober`].
//!
//! [`Runner::ask`] starts one task that waits for a place, has the prober ask, notes the exchange
//! and sends the outcome. Every ask is answered exactly once, whatever happens to its probe: one
//! that panics is answered as a fault of our own. The runner never decides when to ask or what an
//! answer means.
//!
//! ```text
//! ask(target, address) ─► place ─► probe ─► note (why, metrics) ─► (target, outcome)
//! ```
//!
//! Tasks end with their probe's timeout at the latest. When the receiver is gone (shutdown,
//! reload) what still comes back is dropped, because nobody waits for it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_local;

use super::probe::Prober;
use super::{Answer, OwnFault, ProbeOutcome};
use crate::observe::histogram::{CheckTimes, Distribution};
use crate::time::Time;
use crate::topology::TargetId;

/// Probes out at once. Each holds a descriptor, and those of an instance belong to its sessions
/// first. At 500 ms each in the worst case this asks a thousand silent targets a second.
pub const MAX_AT_ONCE: usize = 512;

/// Outcomes that may wait to be taken. A full queue stops probes from starting, it loses none.
pub const MAX_ANSWERS: usize = 1024;

/// Exchanges kept for each target: enough to see a `fall`, and the answer before it.
pub const MAX_EXCHANGES: usize = 5;

/// Asks targets through a [`Prober`] and remembers the last exchanges. Shared within the control
/// thread.
#[derive(Debug)]
pub struct Runner(Rc<Inner>);

/// One asking, for `why`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// When its outcome was known.
    pub at: Time,
    /// Who was asked; none for a name that was never resolved.
    pub address: Option<SocketAddr>,
    /// What it brought.
    pub outcome: ProbeOutcome,
}

/// How the probes of one target ended since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered well.
    pub good: u64,
    /// Failed.
    pub bad: u64,
    /// Said nothing about the member, because the fault was our own.
    pub own_fault: u64,
    /// How long the last one took.
    pub last: Option<Duration>,
}

#[derive(Debug)]
struct Inner {
    asker: RefCell<Rc<Asker>>,
    /// Asks that have not been answered, by whom they are about; none for those whose answer
    /// nobody wants any more.
    out: RefCell<Slab<Option<TargetId>>>,
    clock: fn() -> Time,
    places: Semaphore,
    waiting: Cell<usize>,
    answers: mpsc::Sender<(TargetId, ProbeOutcome)>,
    records: RefCell<HashMap<TargetId, Record>>,
}

/// What asks: the prober, or what a test puts in its place.
#[derive(Debug)]
enum Asker {
    Prober(Prober),
    #[cfg(test)]
    Fake(tests::Fake),
}

#[derive(Debug, Default)]
struct Record {
    exchanges: VecDeque<Exchange>,
    counts: Counts,
    /// Of each kind of answer that came, in the order in which they first did.
    times: Vec<(&'static str, CheckTimes)>,
}

impl Runner {
    /// A runner, and where its answers come out. `clock` reads the time of an [`Exchange`].
    pub fn new(
        prober: Prober,
        clock: fn() -> Time,
    ) -> (Runner, mpsc::Receiver<(TargetId, ProbeOutcome)>) {
        Runner::with(Asker::Prober(prober), clock)
    }

    fn with(
        asker: Asker,
        clock: fn() -> Time,
    ) -> (Runner, mpsc::Receiver<(TargetId, ProbeOutcome)>) {
        let (answers, receiver) = mpsc::channel(MAX_ANSWERS);
        let inner = Inner {
            asker: RefCell::new(Rc::new(asker)),
            out: RefCell::default(),
            clock,
            places: Semaphore::new(MAX_AT_ONCE),
            waiting: Cell::new(0),
            answers,
            records: RefCell::default(),
        };
        (Runner(Rc::new(inner)), receiver)
    }

    /// Has `target` asked at `address`; without one (its name was never resolved) the answer is
    /// [`OwnFault::Name`]. Asks beyond [`MAX_AT_ONCE`] wait in order. There are never more of them
    /// than targets, because a target is not asked again before it was answered.
    ///
    /// # Panics
    ///
    /// Outside a `LocalRuntime` or `LocalSet`.
    pub fn ask(&self, target: TargetId, address: impl Into<Option<SocketAddr>>) {
        let inner = Rc::clone(&self.0);
        let address = address.into();
        inner.waiting.set(inner.waiting.get() + 1);
        let ticket = inner.out.borrow_mut().insert(Some(target));
        spawn_local(async move { inner.answer(ticket, address).await });
    }

    /// Goes on for another topology: has `prober` ask from now on. `now` says where a target is
    /// found in it, if what is asked of it is still the same: then what is known of it is kept, and
    /// the probe that is out is answered for it. All others are forgotten, and never answered.
    pub fn succeed(&self, prober: Prober, now: impl Fn(TargetId) -> Option<TargetId>) {
        self.0.asker.replace(Rc::new(Asker::Prober(prober)));
        for (_, out) in self.0.out.borrow_mut().iter_mut() {
            *out = out.and_then(&now);
        }
        self.0.records.replace_with(|records| {
            let records = records.drain();
            records
                .filter_map(|(target, record)| Some((now(target)?, record)))
                .collect()
        });
    }

    /// The last exchanges with `target`, oldest first; at most [`MAX_EXCHANGES`].
    pub fn exchanges(&self, target: TargetId) -> Vec<Exchange> {
        let records = self.0.records.borrow();
        let exchanges = records.get(&target).map(|record| &record.exchanges);
        exchanges.into_iter().flatten().cloned().collect()
    }

    /// How the probes of `target` ended so far.
    pub fn counts(&self, target: TargetId) -> Counts {
        let records = self.0.records.borrow();
        records
            .get(&target)
            .map(|record| record.counts)
            .unwrap_or_default()
    }

    /// How long the probes of `target` took, by the word of what came of them ([`Answer::word`]).
    pub fn times(&self, target: TargetId) -> Vec<(&'static str, Distribution)> {
        let records = self.0.records.borrow();
        let times = records.get(&target).map(|record| record.times.iter());
        let times = times.into_iter().flatten();
        times
            .map(|(word, times)| (*word, CheckTimes::total([times].into_iter())))
            .collect()
    }

    /// How many asks wait for a place now. Above zero for long means that [`MAX_AT_ONCE`] slows
    /// detection down.
    pub fn waiting(&self) -> usize {
        self.0.waiting.get()
    }
}

impl Clone for Runner {
    /// The same runner.
    fn clone(&self) -> Runner {
        Runner(Rc::clone(&self.0))
    }
}

impl Record {
    fn time(&mut self, outcome: &ProbeOutcome) {
        let word = outcome.answer.word();
        let known = self.times.iter().position(|(other, _)| *other == word);
        let at = known.unwrap_or_else(|| {
            self.times.push((word, CheckTimes::default()));
            self.times.len() - 1
        });
        self.times[at].1.observe(outcome.took);
    }
}

impl Inner {
    async fn answer(self: Rc<Self>, ticket: usize, address: Option<SocketAddr>) {
        let place = self.places.acquire().await;
        self.waiting.set(self.waiting.get() - 1);
        let target = self.out.borrow().get(ticket).copied().flatten();
        let outcome = match (target, address) {
            (None, _) => None,
            (Some(_), None) => Some(own_fault(
                OwnFault::Name,
                "not asked: the name has never been resolved",
            )),
            (Some(target), Some(address)) => Some(Rc::clone(&self).ask(target, address).await),
        };
        // Before it is looked up whom the answer is about: that may change while this waits.
        let room = self.answers.reserve().await;
        let target = self.out.borrow_mut().remove(ticket);
        if let (Some(target), Some(outcome)) = (target, outcome) {
            self.note(target, address, &outcome);
            match room {
                Ok(room) => room.send((target, outcome)),
                Err(_) => {
                    tracing::debug!("a probe came back after its runner's receiver was gone");
                }
            }
        }
        drop(place);
    }

    /// In a task of its own, so that a bug in a probe costs this answer and no more.
    async fn ask(self: Rc<Self>, target: TargetId, address: SocketAddr) -> ProbeOutcome {
        let asker = self.asker.borrow().clone();
        let probe = spawn_local(async move {
            match &*asker {
                Asker::Prober(prober) => prober.ask(target, address).await,
                #[cfg(test)]
                Asker::Fake(fake) => fake.ask(target, address).await,
            }
        });
        probe.await.unwrap_or_else(|error| {
            tracing::error!(%address, %error, "a probe failed inside twinpool: this is a bug");
            own_fault(
                OwnFault::Other,
                "the probe failed inside twinpool: this is a bug, the log has more",
            )
        })
    }

    fn note(&self, target: TargetId, address: Option<SocketAddr>, outcome: &ProbeOutcome) {
        let mut records = self.records.borrow_mut();
        let record = records.entry(target).or_default();
        let count = match outcome.answer {
            Answer::Good => &mut record.counts.good,
            Answer::Bad(_) => &mut record.counts.bad,
            Answer::OwnFault(_) => &mut record.counts.own_fault,
        };
        *count += 1;
        record.counts.last = Some(outcome.took);
        record.time(outcome);
        if record.exchanges.len() == MAX_EXCHANGES {
            record.exchanges.pop_front();
        }
        record.exchanges.push_back(Exchange {
            at: (self.clock)(),
            address,
            outcome: outcome.clone(),
        });
    }
}

fn own_fault(fault: OwnFault, transcript: &str) -> ProbeOutcome {
    ProbeOutcome {
        answer: Answer::OwnFault(fault),
        took: Duration::ZERO,
        transcript: transcript.to_owned(),
    }
}

#[cfg(test)]
mod tests;
