//! The pair machine: where the users of two pools that back each other up are sent. Pure, and
//! small enough to be explored whole.
//!
//! ```text
//!          failover (lost for `after`, or ordered)
//!    ┌────────────────────────────────────────────────┐
//!    │                                                ▼
//!  home ◄──── all steps done ──── returning ◄────── away
//!                                 │      failback (well for `hold`, or ordered)
//!                                 └─── relapse ───► away
//! ```
//!
//! Each of the two home pools has such a phase, and at most one is away or returning: so no user
//! is ever sent on by the pool he was sent to. Where the pool that serves is lost and the other one
//! serves, one transition brings one population home and sends the other away.
//!
//! # Before it is in force
//!
//! A transition is first *wanted*: [`PairOutput::Store`] has it written, [`PairMachine::handle_stored`]
//! puts it in force. Nothing else is decided meanwhile. One that could not be written never was;
//! what still holds after [`RETRY`] is decided again, under a generation of its own.
//!
//! # What begins when
//!
//! [`PairMachine::prospects`] is the whole of automation: what would be done next for each side,
//! and from when on, as things stand. What is due is done, the earliest of the rest is the timer,
//! and all of it is what `why` tells. Nothing that is remembered over a restart has a clock in it:
//! `after`, `hold` and the steps of a return begin from zero.
//!
//! Pause, alarm and damage end what automation would begin. A return that is under way still leaves
//! a pool that is lost for one that serves, whoever began it: half of the users stand on either, so
//! there is no staying where they are. One that a person began also goes on.

mod folding;
mod words;

use std::collections::VecDeque;
use std::time::Duration;

use super::record::{By, Cause, Entry, Phase, Record, Share};
use crate::time::Time;
use crate::topology::{Automation, PairRules, Side};
pub use words::{Act, Destination, Fitness, Halt, Move, MoveRefusal, PairOutput, Prospect};

/// How long automation waits after a record could not be written before it tries again.
pub const RETRY: Duration = Duration::from_secs(1);

/// Decides for one pair. See the [module docs](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PairMachine {
    rules: PairRules,
    record: Record,
    wanted: Option<Wanted>,
    /// The highest generation that was ever given to be written.
    issued: u64,
    pools: [Pool; 2],
    damaged: bool,
    paused: bool,
    isolated: bool,
    /// Since when the record has been in force while somebody watched.
    in_force: Time,
    /// Not before, after a record could not be written.
    retry_at: Time,
    outputs: VecDeque<PairOutput>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
struct Wanted {
    record: Record,
    drain: bool,
    /// Whether a person takes it for whole from now on.
    resumes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
struct Pool {
    fitness: Fitness,
    /// Since when it has been lost, or well, without a break that this instance could see.
    since: Time,
    /// Whether the twin was lost too at any time since it was lost.
    both_lost: bool,
}

impl PairMachine {
    /// Begins with a record that was in force before a restart, or a fresh one. With `damaged`,
    /// automation waits for [`PairMachine::handle_resume`].
    pub fn new(rules: PairRules, record: Record, damaged: bool, now: Time) -> PairMachine {
        // See `want`: this is how damage outlives a restart.
        let damaged = damaged || (record.alarm && record.rounds == 0);
        let pool = Pool {
            fitness: Fitness::Unknown,
            since: now,
            both_lost: false,
        };
        PairMachine {
            issued: record.generation,
            in_force: now,
            rules,
            record,
            wanted: None,
            pools: [pool; 2],
            damaged,
            paused: false,
            isolated: false,
            retry_at: now,
            outputs: VecDeque::new(),
        }
    }

    /// The same under other rules: its record, its clocks and what it was told go on.
    #[must_use]
    pub fn with_rules(self, rules: PairRules) -> PairMachine {
        PairMachine { rules, ..self }
    }

    // What comes in.

    /// Takes news of a pool.
    pub fn handle_pool(&mut self, side: Side, fitness: Fitness, now: Time) {
        let pool = &mut self.pools[side.index()];
        if pool.fitness != fitness {
            pool.fitness = fitness;
            pool.since = now;
        }
        let both = self.both_are_lost();
        for pool in &mut self.pools {
            pool.both_lost = pool.fitness == Fitness::Lost && (pool.both_lost || both);
        }
        self.decide(now);
    }

    /// Takes whether this instance thinks that the fault is its own. What was seen before counts
    /// for nothing afterwards: `after` and `hold` begin anew.
    pub fn handle_isolated(&mut self, isolated: bool, now: Time) {
        if self.isolated == isolated {
            return;
        }
        self.isolated = isolated;
        self.handle_gap(now);
    }

    /// Takes that nobody watched the pools for a while, as when the machine was suspended: `after`,
    /// `hold` and the step of a return begin anew.
    pub fn handle_gap(&mut self, now: Time) {
        let both = self.both_are_lost();
        self.in_force = now;
        for pool in &mut self.pools {
            pool.since = now;
            pool.both_lost = both;
        }
        self.decide(now);
    }

    /// Takes whether a person paused all automation.
    pub fn handle_paused(&mut self, paused: bool, now: Time) {
        self.paused = paused;
        self.decide(now);
    }

    /// A person has looked: a damaged record stands as it is, an alarm is over. False while
    /// another change is being written; call it again then.
    #[must_use]
    pub fn handle_resume(&mut self) -> bool {
        if self.wanted.is_some() {
            return false;
        }
        if self.damaged || self.record.alarm {
            let mut record = self.record.clone();
            record.alarm = false;
            record.rounds = 0;
            self.store(record, false, true);
        }
        true
    }

    /// Carries out a person's order, or says why not.
    pub fn handle_move(&mut self, order: &Move, now: Time) -> Result<(), MoveRefusal> {
        if self.wanted.is_some() {
            return Err(MoveRefusal::Writing);
        }
        let side = order.side;
        let drain = !order.now && !self.is_lost(side);
        match order.to {
            Destination::Twin => {
                self.may_go(order)?;
                self.want(drain, |record| {
                    record.entries[side.index()] = ordered(Phase::Away, order, now);
                    if record.phase(side.other()) != Phase::Home {
                        record.entries[side.other().index()] = ordered(Phase::Home, order, now);
                    }
                });
            }
            Destination::Home => {
                self.may_come(order)?;
                let phase = match order.now {
                    true => Phase::Home,
                    false => self.first_step(side),
                };
                self.want(false, |record| {
                    record.entries[side.index()] = ordered(phase, order, now);
                    if !record.alarm {
                        record.rounds = 0;
                    }
                });
            }
        }
        Ok(())
    }

    /// Takes how the writing of a record went; one that was not asked for changes nothing.
    pub fn handle_stored(&mut self, generation: u64, stored: bool, now: Time) {
        let asked = |wanted: &mut Wanted| wanted.record.generation == generation;
        let Some(wanted) = self.wanted.take_if(asked) else {
            return;
        };
        if stored {
            let before = std::mem::replace(&mut self.record, wanted.record);
            self.in_force = now;
            self.damaged &= !wanted.resumes;
            let drain = wanted.drain;
            self.outputs
                .push_back(PairOutput::InForce { before, drain });
        } else {
            self.retry_at = now + RETRY;
        }
        self.decide(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.decide(now);
    }

    // What comes out.

    /// The next thing to do; drain until none.
    pub fn poll_output(&mut self) -> Option<PairOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`PairMachine::handle_timeout`] next, and what for.
    pub fn poll_timeout(&self) -> Option<(Time, Act)> {
        let next = self.prospects().min_by_key(|prospect| prospect.at)?;
        Some((next.at, next.act))
    }

    /// The record that is in force.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The record that is being written.
    pub fn wanted(&self) -> Option<&Record> {
        self.wanted.as_ref().map(|wanted| &wanted.record)
    }

    /// Whether a pool can be sent users, and since when it has been seen so.
    pub fn fitness(&self, side: Side) -> (Fitness, Time) {
        let pool = &self.pools[side.index()];
        (pool.fitness, pool.since)
    }

    /// Why automation decides nothing, if so.
    pub fn halt(&self) -> Option<Halt> {
        if self.damaged {
            Some(Halt::Damaged)
        } else if self.record.alarm {
            Some(Halt::Alarm)
        } else {
            self.paused.then_some(Halt::Paused)
        }
    }

    /// How long a recovered pool has to stay well before automation brings its users home, grown by
    /// the rounds of the past.
    pub fn hold(&self) -> Duration {
        self.hold_of(self.record.rounds)
    }

    /// What automation does next, as things stand; at most one a side.
    pub fn prospects(&self) -> impl Iterator<Item = Prospect> {
        let decides = self.wanted.is_none() && !self.isolated;
        Side::BOTH
            .into_iter()
            .filter(move |_| decides)
            .filter_map(|side| {
                let (at, act) = self.prospect(side)?;
                let at = at.max(self.retry_at);
                Some(Prospect { at, side, act })
            })
    }

    // How it is decided.

    fn prospect(&self, side: Side) -> Option<(Time, Act)> {
        let home = &self.pools[side.index()];
        let twin = &self.pools[side.other().index()];
        let entry = self.record.entry(side);
        let automatic = self.halt().is_none() && self.rules.failover == Automation::Automatic;
        match entry.phase {
            Phase::Home if automatic && self.must_leave(side) => {
                let after = match home.both_lost {
                    true => Duration::ZERO,
                    false => self.rules.after,
                };
                Some((home.since + after, Act::Failover))
            }
            Phase::Returning(_) if self.must_leave(side) => Some((home.since, Act::Relapse)),
            Phase::Returning(_) if !home.fitness.serves() => None,
            Phase::Returning(_) if twin.fitness == Fitness::Lost => Some((twin.since, Act::Finish)),
            Phase::Returning(_) => {
                let carries_on = self.halt().is_none() || entry.by != By::Twinpool;
                carries_on.then(|| (self.in_force + step(&self.rules), Act::Step))
            }
            Phase::Away => {
                let automatic =
                    self.halt().is_none() && self.rules.failback == Automation::Automatic;
                let well = home.fitness == Fitness::Well && entry.by == By::Twinpool;
                (automatic && well).then(|| (home.since + self.hold(), Act::Failback))
            }
            Phase::Home => {
                // Told once, for the first side: rounds are the pair's.
                let calm = self.record.rounds > 0
                    && self.halt().is_none()
                    && side == Side::First
                    && self.record.phase(side.other()) == Phase::Home
                    && self.pools.iter().all(|pool| pool.fitness == Fitness::Well);
                let since = home.since.max(twin.since).max(self.in_force);
                calm.then(|| (since + self.hold(), Act::Calm))
            }
        }
    }

    fn decide(&mut self, now: Time) {
        let due = self.prospects().filter(|prospect| prospect.at <= now);
        let Some(Prospect { side, act, .. }) = due.min_by_key(|prospect| prospect.act) else {
            return;
        };
        let (home, twin) = (side.index(), side.other().index());
        let exhausted = self.is_exhausted();
        let both_lost = self.pools[home].both_lost;
        let by_itself = |phase, cause| Entry {
            phase,
            cause,
            by: By::Twinpool,
            reason: None,
            since: now,
        };
        let returning = by_itself(self.first_step(side), Cause::Held);
        self.want(false, |record| match act {
            Act::Relapse => {
                record.entries[home] = by_itself(Phase::Away, Cause::Relapsed);
                record.alarm |= exhausted;
            }
            Act::Failover => {
                let cause = if both_lost {
                    Cause::FirstToReturn
                } else {
                    Cause::Lost
                };
                record.entries[home] = by_itself(Phase::Away, cause);
                if record.entries[twin].phase != Phase::Home {
                    let cause = if both_lost { cause } else { Cause::LeftLost };
                    record.entries[twin] = by_itself(Phase::Home, cause);
                }
                record.alarm |= exhausted;
            }
            Act::Finish => record.entries[home] = by_itself(Phase::Home, Cause::LeftLost),
            Act::Failback => {
                record.entries[home] = returning;
                record.rounds += 1;
            }
            Act::Step => {
                let entry = &mut record.entries[home];
                let Phase::Returning(share) = entry.phase else {
                    return;
                };
                match share.next() {
                    Some(next) => entry.phase = Phase::Returning(next),
                    None => {
                        entry.phase = Phase::Home;
                        entry.cause = Cause::Returned;
                        entry.since = now;
                    }
                }
            }
            Act::Calm => record.rounds = 0,
        });
    }

    /// How a return begins: all at once without a ramp, or where the twin is lost.
    fn first_step(&self, side: Side) -> Phase {
        match self.rules.ramp.is_zero() || self.is_lost(side.other()) {
            true => Phase::Home,
            false => Phase::Returning(Share::FIRST),
        }
    }

    /// Has a changed record written.
    fn want(&mut self, drain: bool, change: impl FnOnce(&mut Record)) {
        let mut record = self.record.clone();
        change(&mut record);
        if self.damaged {
            // It is whole on disk from now on, and nobody has looked yet: an alarm in which no
            // round led says so after a restart.
            record.alarm = true;
            record.rounds = 0;
        }
        self.store(record, drain, false);
    }

    fn store(&mut self, mut record: Record, drain: bool, resumes: bool) {
        self.issued = self.issued.max(self.record.generation) + 1;
        record.generation = self.issued;
        self.outputs.push_back(PairOutput::Store(record.clone()));
        self.wanted = Some(Wanted {
            record,
            drain,
            resumes,
        });
    }

    fn may_go(&self, order: &Move) -> Result<(), MoveRefusal> {
        let there = order.side.other();
        let phase = self.record.phase(order.side);
        // A drain under way can be cut.
        if phase == Phase::Away && !order.now {
            return Err(MoveRefusal::Already(phase));
        }
        if self.is_lost(there) {
            return Err(MoveRefusal::Lost);
        }
        if order.force {
            return Ok(());
        }
        if self.record.phase(there) != Phase::Home {
            return Err(MoveRefusal::TwinAway);
        }
        if self.pools[there.index()].fitness == Fitness::Unknown {
            return Err(MoveRefusal::Unknown);
        }
        self.is_clear()
    }

    fn may_come(&self, order: &Move) -> Result<(), MoveRefusal> {
        let phase = self.record.phase(order.side);
        let hastened = order.now && phase != Phase::Home;
        if phase != Phase::Away && !hastened {
            return Err(MoveRefusal::Already(phase));
        }
        match self.pools[order.side.index()].fitness {
            Fitness::Lost => return Err(MoveRefusal::Lost),
            _ if order.force => return Ok(()),
            Fitness::Unknown => return Err(MoveRefusal::Unknown),
            Fitness::Low => return Err(MoveRefusal::Low),
            Fitness::Well => {}
        }
        self.is_clear()
    }

    fn is_clear(&self) -> Result<(), MoveRefusal> {
        if self.isolated {
            Err(MoveRefusal::Isolated)
        } else {
            Ok(())
        }
    }

    fn is_lost(&self, side: Side) -> bool {
        self.pools[side.index()].fitness == Fitness::Lost
    }

    fn both_are_lost(&self) -> bool {
        Side::BOTH.into_iter().all(|side| self.is_lost(side))
    }

    fn serves(&self, side: Side) -> bool {
        self.pools[side.index()].fitness.serves()
    }

    /// Whether this pool is lost and the other one serves.
    fn must_leave(&self, side: Side) -> bool {
        self.is_lost(side) && self.serves(side.other())
    }

    /// Whether the last automatic failback was held for as long as any may be: a relapse after that
    /// ends automation.
    fn is_exhausted(&self) -> bool {
        let rounds = self.record.rounds;
        rounds > 0 && self.hold_of(rounds - 1) >= self.rules.longest_hold
    }

    fn hold_of(&self, rounds: u32) -> Duration {
        let factor = 1u32.checked_shl(rounds).unwrap_or(u32::MAX);
        let grown = self.rules.hold.saturating_mul(factor);
        grown.min(self.rules.longest_hold.max(self.rules.hold))
    }
}

fn ordered(phase: Phase, order: &Move, now: Time) -> Entry {
    Entry {
        phase,
        cause: Cause::Ordered,
        by: By::Operator(order.by.clone()),
        reason: order.reason.clone(),
        since: now,
    }
}

/// From one share to the next: the first goes home as the return begins, the last as it ends.
fn step(rules: &PairRules) -> Duration {
    rules.ramp / u32::from(Share::STEPS - 1)
}

#[cfg(test)]
mod tests;
