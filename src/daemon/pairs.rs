//! The hub where pools have twins: records on their way to the disk, sessions on their way to
//! another pool, and who waits for either.
//!
//! ```text
//! Output::Store ─► Records ─► disk ─► Input::Stored ─► Decider ─► Publish ─► who waits is answered
//! Output::Clear ─► Moves ─► a slice every 100 ms ─► ToWorker::End(Moved), each worker its part
//! ```
//!
//! Nothing is ended while this instance is isolated: what is due then comes once it no longer is.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::hub::{Hub, clock_at};
use super::records::{Newcomers, Records, Stored};
use super::spill::{LOOK, Spilling};
use crate::clock;
use crate::observe::onset::PairTroubles;
use crate::pairing::Event;
use crate::pairing::moving::Moves;
use crate::pairing::pair::{Halt, Move, MoveRefusal};
use crate::pairing::record::{Phase, Record};
use crate::proxy::{ToWorker, Which};
use crate::time::Time;
use crate::topology::{PairId, Pool, PoolId, Succession, Topology};

/// How often it is seen whether the disk takes anything, while nothing is written: one small write a
/// minute costs nothing.
const CHECK: Duration = Duration::from_secs(60);

/// What the hub keeps of pairs, beside what is decided.
pub(super) struct Pairs {
    records: RefCell<Records>,
    moves: RefCell<Moves>,
    /// By pool.
    spilling: RefCell<Vec<Spilling>>,
    /// By pool: whether the snapshot that was published last takes it for moving.
    limited: RefCell<Vec<bool>>,
    /// By pair: whether it was told that the disk does not answer.
    slow: RefCell<Vec<bool>>,
    /// By pool: off whose members its users move, until the last of their sessions has.
    leaving: RefCell<Vec<Option<PoolId>>>,
    waiting: RefCell<Vec<Waiting>>,
    looked: Cell<Time>,
    /// When it was last seen whether the disk takes anything.
    checked: Cell<Option<Time>>,
}

/// Somebody who waits for a record to be written: no more than there are commands under way, each
/// for one record a pair.
struct Waiting {
    pair: PairId,
    generation: u64,
    tell: oneshot::Sender<Result<(), String>>,
}

impl Pairs {
    pub(super) fn new(records: Records, topology: &Topology, now: Time) -> Pairs {
        Pairs {
            records: RefCell::new(records),
            moves: RefCell::default(),
            spilling: RefCell::new(vec![Spilling::default(); topology.pools.len()]),
            limited: RefCell::new(vec![false; topology.pools.len()]),
            slow: RefCell::new(vec![false; topology.pairs.len()]),
            leaving: RefCell::new(vec![None; topology.pools.len()]),
            waiting: RefCell::default(),
            looked: Cell::new(now),
            checked: Cell::new(None),
        }
    }

    /// Goes on for the next topology. No record is being written, and nobody waits for one.
    pub(super) fn succeed(&self, new: &Topology, succession: &Succession, records: Newcomers) {
        let pools = new.pools.len();
        let pool = |at: usize| succession.pool(PoolId(at as u16)).map(PoolId::index);
        self.spilling
            .replace_with(|before| moved(before, pools, pool));
        self.limited
            .replace_with(|before| moved(before, pools, pool));
        self.leaving.replace_with(|before| {
            let off = before.iter().map(|off| succession.pool((*off)?));
            moved(&off.collect::<Vec<_>>(), pools, pool)
        });
        let pair = |at: usize| succession.pair(PairId(at as u16)).map(PairId::index);
        self.slow
            .replace_with(|before| moved(before, new.pairs.len(), pair));
        self.moves
            .replace_with(|before| std::mem::take(before).renumber(succession));
        self.records
            .borrow_mut()
            .succeed(new.pairs.len(), succession, records);
    }

    /// What is wrong with a pair's record on disk, if anything.
    pub(super) fn problem(&self, pair: PairId, now: Time) -> Option<String> {
        self.records.borrow().problem(pair, now)
    }

    /// A person has seen what was wrong with records: what was made good is no longer told.
    pub(super) fn acknowledge(&self) -> Vec<String> {
        self.records.borrow().acknowledge()
    }

    /// What was wrong with records as they were read, by the names of their pairs.
    pub(super) fn found(&self) -> Vec<(String, String)> {
        self.records.borrow().found()
    }
}

/// A list by ids in the order of the next ids; what is new begins with the default.
fn moved<T: Copy + Default>(
    before: &[T],
    count: usize,
    place: impl Fn(usize) -> Option<usize>,
) -> Vec<T> {
    let mut after = vec![T::default(); count];
    for (at, value) in before.iter().enumerate() {
        if let Some(now) = place(at) {
            after[now] = *value;
        }
    }
    after
}

impl Hub {
    /// When the next slice of a move is due.
    pub(super) fn next_slice(&self) -> Option<Time> {
        match self.decider.borrow().isolated() {
            Some(_) => None,
            None => self.pairs.moves.borrow().poll_timeout(),
        }
    }

    /// Whether a pool's users are on the move: their arrivals are bounded.
    pub(super) fn is_moving(&self, pool: PoolId, now: Time) -> bool {
        let returning = || matches!(self.decider.borrow().phase(pool), Phase::Returning(_));
        self.pairs.moves.borrow().is_moving(pool, now) || returning()
    }

    /// The pools whose users are on the move, and until when at least.
    pub(super) fn moving(&self, now: Time) -> Vec<(PoolId, Time)> {
        self.pairs.moves.borrow().moving(now)
    }

    /// Goes on with pools whose users are on the move, as the snapshot in force does.
    pub(super) fn settle(&self, moving: &[(PoolId, Time)], now: Time) {
        for (home, until) in moving {
            self.pairs.moves.borrow_mut().settle(*home, *until);
        }
        self.note_moving(now);
    }

    /// Sessions of a pool's users that are still to be ended because they move.
    pub(super) fn to_move(&self, pool: PoolId) -> u64 {
        let left = |home, off| self.left(home, off);
        self.pairs.moves.borrow().to_move(pool, left)
    }

    /// When those begin to be ended, while they are let drain.
    pub(super) fn drains_until(&self, pool: PoolId) -> Option<Time> {
        self.pairs.moves.borrow().drains_until(pool)
    }

    /// Sessions of a pool's users on its own members, and on the twin's.
    pub(super) fn stand(&self, pool: PoolId) -> (u64, u64) {
        let era = self.era();
        let each = era.counters.iter().map(|worker| worker.home(pool).open());
        each.fold((0, 0), |(a, b), (home, twin)| (a + home, b + twin))
    }

    /// Whether sessions of a pool's users went to the twin one by one lately.
    pub(super) fn is_spilling(&self, pool: PoolId) -> bool {
        if self.decider.borrow().phase(pool) == Phase::Away {
            // They are sent there now.
            return false;
        }
        let spilling = self.pairs.spilling.borrow()[pool.index()];
        spilling.is_on() || spilling.has_risen(self.spilled(pool))
    }

    // What the decider says.

    pub(super) fn store(&self, pair: PairId, record: &Record, now: Time) {
        self.pairs
            .records
            .borrow()
            .write(pair, record, clock_at(now));
    }

    pub(super) fn clear(&self, home: PoolId, off: Option<PoolId>, from: Time, now: Time) {
        let mut moves = self.pairs.moves.borrow_mut();
        match (off, self.topology().pair_of(home)) {
            (Some(off), Some((pair, _))) => moves.begin(home, off, from, pair.move_rate, now),
            _ => moves.cancel(home, now),
        }
        drop(moves);
        let leaves = off.filter(|_| self.to_move(home) > 0);
        self.pairs.leaving.borrow_mut()[home.index()] = leaves;
    }

    /// Takes how the writing of a record went. Who waits for it is told in the same turn, and goes
    /// on after it.
    pub(super) fn stored(&self, (pair, generation, result): Stored, now: Time) {
        let told = result.clone();
        self.decider
            .borrow_mut()
            .handle_stored(pair, generation, result, now);
        let is_it =
            |waiting: &mut Waiting| (waiting.pair, waiting.generation) == (pair, generation);
        let over: Vec<Waiting> = self
            .pairs
            .waiting
            .borrow_mut()
            .extract_if(.., is_it)
            .collect();
        for waiting in over {
            if waiting.tell.send(told.clone()).is_err() {
                tracing::debug!(generation, "nobody waits for the record any more");
            }
        }
    }

    // What follows in each turn.

    /// Has the sessions ended that are due. After the routes that their clients shall find.
    pub(super) fn move_on(&self, now: Time) {
        if self.next_slice().is_none_or(|due| due > now) {
            return;
        }
        let left = |home, off| self.left(home, off);
        let slices = self.pairs.moves.borrow_mut().handle_timeout(now, left);
        for slice in slices {
            for (worker, &most) in slice.most.iter().enumerate() {
                if most == 0 && !slice.first {
                    continue;
                }
                let which = Which::Moved {
                    home: slice.home,
                    off: slice.off,
                    job: slice.job,
                    most,
                };
                self.tell_worker(worker, ToWorker::End(which));
            }
        }
    }

    /// Notes which pools a snapshot takes for moving.
    pub(super) fn note_moving(&self, now: Time) {
        let topology = self.topology();
        let moving = |pool: &Pool| self.is_moving(pool.id, now);
        let moving = topology.pools.iter().map(moving).collect();
        self.pairs.limited.replace(moving);
    }

    /// Whether some pool has begun or ceased to move since the last snapshot.
    fn moving_changed(&self, now: Time) -> bool {
        let limited = self.pairs.limited.borrow();
        let topology = self.topology();
        let mut pools = topology.pairs.iter().flat_map(|pair| pair.pools);
        pools.any(|pool| self.is_moving(pool, now) != limited[pool.index()])
    }

    /// A worker may have missed what it was told to end.
    pub(super) fn move_anew(&self) {
        self.pairs.moves.borrow_mut().handle_missed();
    }

    /// Looks once a second at what nobody tells: what is short, pools that begin or cease to move,
    /// sessions that spill, a disk that hangs.
    pub(super) fn look(&self, now: Time) {
        if now.since(self.pairs.looked.get()) < LOOK {
            return;
        }
        self.pairs.looked.set(now);
        self.look_at_counts(now);
        if self.moving_changed(now) {
            self.publish();
        }
        for pool in self.topology().pairs.iter().flat_map(|pair| pair.pools) {
            let count = self.spilled(pool);
            let turned = self.pairs.spilling.borrow_mut()[pool.index()].handle_count(count, now);
            if let Some(on) = turned {
                self.tell(&Event::Spill { pool, on }, now);
            }
        }
        for home in self.topology().pairs.iter().flat_map(|pair| pair.pools) {
            let leaving = self.pairs.leaving.borrow()[home.index()];
            if let Some(off) = leaving
                && self.to_move(home) == 0
            {
                self.pairs.leaving.borrow_mut()[home.index()] = None;
                self.tell_moved(home, off, now);
            }
        }
        self.note_onsets(now);
        for pair in &self.topology().pairs {
            let hangs = self.pairs.records.borrow().hangs(pair.id, now);
            let told = &mut self.pairs.slow.borrow_mut()[pair.id.index()];
            if std::mem::replace(told, hangs.is_some()) {
                continue;
            }
            if let Some(hangs) = hangs {
                self.tell_instance(format!("{}: {hangs}", pair.name), now);
            }
        }
    }

    /// Sees which of what is counted rises because something is short.
    pub(super) fn look_at_counts(&self, now: Time) {
        self.shortages.borrow_mut().handle_counts(
            &self.topology(),
            &self.era().counters,
            &self.own_faults,
            now,
        );
    }

    /// Notes since when what is wrong has been so.
    fn note_onsets(&self, now: Time) {
        let mut onsets = self.onsets.borrow_mut();
        onsets.handle_store(self.keeper.problem().is_some(), now);
        onsets.handle_event_log(self.journal.state().problem.is_some(), now);
        let decider = self.decider.borrow();
        for pair in &self.topology().pairs {
            let halt = decider.pair(pair.id).halt();
            let troubles = PairTroubles {
                halted: matches!(halt, Some(Halt::Alarm | Halt::Damaged)),
                record: self.pairs.problem(pair.id, now).is_some(),
                unwritten: decider.unwritten(pair.id).is_some(),
            };
            onsets.handle_pair(pair.id, troubles, now);
        }
        let spilling = self.pairs.spilling.borrow();
        for pool in self.topology().pairs.iter().flat_map(|pair| pair.pools) {
            onsets.handle_spilling(pool, spilling[pool.index()].is_on(), now);
        }
    }

    /// Sees once a minute whether the disk takes what will have to be written, and each second
    /// while it did not take a record: an outage is a bad time to find out.
    pub(super) fn check_disk(self: &Rc<Self>, now: Time) {
        let unwritten = {
            let decider = self.decider.borrow();
            let topology = self.topology();
            let mut pairs = topology.pairs.iter();
            pairs.any(|pair| decider.unwritten(pair.id).is_some())
        };
        let pause = if unwritten { LOOK } else { CHECK };
        let due = self
            .pairs
            .checked
            .get()
            .is_none_or(|last| now.since(last) >= pause);
        if self.topology().pairs.is_empty() || !due {
            return;
        }
        self.pairs.checked.set(Some(now));
        self.keeper.check(self.remembered(now));
        let hub = self.clone();
        spawn_local(async move {
            if hub.kept().await.is_ok() && unwritten {
                hub.decider.borrow_mut().handle_writable();
                hub.follow(clock::now());
            }
        });
    }

    // What a person orders.

    /// Orders a move, and gives back the record to wait for.
    pub(super) fn move_users(
        &self,
        pair: PairId,
        order: &Move,
        now: Time,
    ) -> Result<Record, MoveRefusal> {
        self.decider.borrow_mut().handle_move(pair, order, now)?;
        let wanted = self.foreseen(pair);
        self.follow(now);
        Ok(wanted)
    }

    pub(super) fn pause(&self, by: String, reason: Option<String>, now: Time) {
        self.decider.borrow_mut().handle_pause(by, reason, now);
        self.follow(now);
    }

    pub(super) fn resume(&self, by: String, now: Time) -> Result<Vec<(PairId, u64)>, PairId> {
        let written = self.decider.borrow_mut().handle_resume(by, now)?;
        self.follow(now);
        Ok(written)
    }

    /// Resolves once a record is in force, or could not be written. Listens from now on.
    pub(super) fn written(
        &self,
        pair: PairId,
        generation: u64,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        let (tell, told) = oneshot::channel();
        let mut waiting = self.pairs.waiting.borrow_mut();
        waiting.retain(|waiting| !waiting.tell.is_closed());
        waiting.push(Waiting {
            pair,
            generation,
            tell,
        });
        async move {
            let told = told.await;
            told.unwrap_or_else(|_| Err("the instance stops".to_owned()))
        }
    }

    /// The record that is being written, or else the one in force.
    fn foreseen(&self, pair: PairId) -> Record {
        let decider = self.decider.borrow();
        let machine = decider.pair(pair);
        machine.wanted().unwrap_or(machine.record()).clone()
    }

    /// Sessions of a pool's users that went to the twin one by one, since the start.
    fn spilled(&self, pool: PoolId) -> u64 {
        let era = self.era();
        let counts = era.counters.iter();
        counts.map(|worker| worker.home(pool).spilled.get()).sum()
    }

    /// By worker, the sessions of a pool's users on its own members or on the twin's.
    fn left(&self, home: PoolId, off: PoolId) -> Vec<u64> {
        let stand = |(at_home, at_twin)| if off == home { at_home } else { at_twin };
        let era = self.era();
        let workers = era.counters.iter();
        workers
            .map(|worker| stand(worker.home(home).open()))
            .collect()
    }
}
