//! The decider where pools have twins: what their machines are told, and what they say.

use super::{Decider, GAP, Item};
use crate::health::Verdict;
use crate::pairing::Condition;
use crate::pairing::condition::present;
use crate::pairing::pair::{Fitness, Halt, Move, MoveRefusal, PairMachine, PairOutput};
use crate::pairing::record::{Phase, Record};
use crate::pairing::words::{Event, Output, Pause};
use crate::time::Time;
use crate::topology::{PairId, Pool, PoolId, QuorumNeed, Side, SiteId};

impl Decider {
    /// Takes how the writing of a pair's record went; with the error when it failed.
    pub fn handle_stored(
        &mut self,
        pair: PairId,
        generation: u64,
        stored: Result<(), String>,
        now: Time,
    ) {
        self.notice_gap(now, now);
        let error = stored.err();
        let stored = error.is_none();
        let before = std::mem::replace(&mut self.unwritten[pair.index()], error.clone());
        if before.is_none() != stored {
            self.tell(Event::Unwritten { pair, error });
        }
        self.pairs[pair.index()].handle_stored(generation, stored, now);
        self.follow(pair, now);
        self.do_due(now);
    }

    /// The disk takes what is written again: what it did not take of an order that was dropped is no
    /// longer told.
    pub fn handle_writable(&mut self) {
        for index in 0..self.pairs.len() {
            if self.pairs[index].wanted().is_none() && self.unwritten[index].take().is_some() {
                let pair = PairId(index as u16);
                self.tell(Event::Unwritten { pair, error: None });
            }
        }
    }

    /// Carries out a person's order about a pool's users, as far as its record being written;
    /// gives back the generation to wait for.
    pub fn handle_move(
        &mut self,
        pair: PairId,
        order: &Move,
        now: Time,
    ) -> Result<u64, MoveRefusal> {
        self.notice_gap(now, now);
        let machine = &mut self.pairs[pair.index()];
        machine.handle_move(order, now)?;
        let wanted = machine.wanted().unwrap_or(machine.record());
        let generation = wanted.generation;
        self.follow(pair, now);
        self.do_due(now);
        Ok(generation)
    }

    /// What an order would change: the record that it would have written.
    pub fn foresee(&self, pair: PairId, order: &Move, now: Time) -> Result<Record, MoveRefusal> {
        let mut machine = self.pairs[pair.index()].clone();
        machine.handle_move(order, now)?;
        Ok(machine.wanted().unwrap_or(machine.record()).clone())
    }

    /// Pauses all automation of pairs.
    pub fn handle_pause(&mut self, by: String, reason: Option<String>, now: Time) {
        self.notice_gap(now, now);
        if self.pause.is_some() && reason.is_none() {
            // Paused already: who did, since when and why stay known.
            return;
        }
        let since = self.pause.as_ref().map_or(now, |pause| pause.since);
        let pause = Pause { by, reason, since };
        self.pause = Some(pause.clone());
        self.remember = true;
        self.tell(Event::Pause {
            pause: Some(pause),
            by: None,
        });
        self.every_pair(now, |machine| machine.handle_paused(true, now));
    }

    /// Lets automation go on: ends a pause, alarms, and the wait after a damaged record. Gives back
    /// the generations to wait for; an error names a pair whose record is being written: call it
    /// again then.
    pub fn handle_resume(&mut self, by: String, now: Time) -> Result<Vec<(PairId, u64)>, PairId> {
        self.notice_gap(now, now);
        let ids = || (0..).map(PairId);
        let halted =
            |machine: &PairMachine| matches!(machine.halt(), Some(Halt::Damaged | Halt::Alarm));
        let mut busy = ids().zip(&self.pairs).filter(|(_, m)| halted(m));
        if let Some((busy, _)) = busy.find(|(_, machine)| machine.wanted().is_some()) {
            return Err(busy);
        }
        if self.pause.take().is_some() {
            self.remember = true;
            self.tell(Event::Pause {
                pause: None,
                by: Some(by),
            });
        }
        let mut written = Vec::new();
        for (id, machine) in ids().zip(&mut self.pairs) {
            if halted(machine) && machine.handle_resume() {
                written.extend(machine.wanted().map(|record| (id, record.generation)));
            }
        }
        self.every_pair(now, |machine| machine.handle_paused(false, now));
        Ok(written)
    }

    /// A pair's machine.
    pub fn pair(&self, pair: PairId) -> &PairMachine {
        &self.pairs[pair.index()]
    }

    /// Why the last record of a pair could not be written, if so.
    pub fn unwritten(&self, pair: PairId) -> Option<&str> {
        self.unwritten[pair.index()].as_deref()
    }

    /// Who paused all automation of pairs, while it is.
    pub fn pause(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

    /// Where a pool's users are sent; home for one without a twin.
    pub fn phase(&self, pool: PoolId) -> Phase {
        let pair = self.topology.pair_of(pool);
        pair.map_or(Phase::Home, |(pair, side)| {
            self.pair(pair.id).record().phase(side)
        })
    }

    /// Whether every pool of a site is lost.
    pub fn is_site_lost(&self, site: SiteId) -> bool {
        self.sites_lost[site.index()]
    }

    /// Tells the machine of a pool's pair how the pool does.
    pub(super) fn refresh_fitness(&mut self, pool: &Pool, now: Time) {
        let topology = self.topology.clone();
        if let Some((pair, side)) = topology.pair_of(pool.id) {
            let fitness = self.fitness(pool);
            let machine = &mut self.pairs[pair.id.index()];
            if machine.fitness(side).0 != fitness {
                machine.handle_pool(side, fitness, now);
                self.follow(pair.id, now);
            }
        }
    }

    /// Tells once that the last pool of a site is lost, or the first serves again.
    pub(super) fn refresh_site(&mut self, pool: &Pool) {
        let Some(site) = pool.site else { return };
        let mut pools = self.topology.pools.iter().filter(|p| p.site == Some(site));
        let lost = pools.all(|pool| self.condition(pool.id).0 == Condition::Lost);
        if std::mem::replace(&mut self.sites_lost[site.index()], lost) != lost {
            self.tell(Event::Site { site, lost });
        }
    }

    /// Tells every machine whether this instance thinks that the fault is its own.
    pub(super) fn refresh_isolated(&mut self, now: Time) {
        let isolated = self.isolation.cause().is_some();
        self.every_pair(now, |machine| machine.handle_isolated(isolated, now));
    }

    /// Has every machine begin anew where nobody watched for a while: something was due at `due`,
    /// or long before now.
    pub(super) fn notice_gap(&mut self, due: Time, now: Time) {
        let first = self.agenda.next().map_or(due, |(at, _)| at.min(due));
        if now.since(first) >= GAP {
            if self.isolation.cause().is_none() {
                self.forget_silence(now);
            }
            self.every_pair(now, |machine| machine.handle_gap(now));
        }
    }

    /// Takes a pair's next step.
    pub(super) fn step_pair(&mut self, pair: PairId, now: Time) {
        self.pairs[pair.index()].handle_timeout(now);
        self.follow(pair, now);
    }

    pub(super) fn every_pair(&mut self, now: Time, tell: impl Fn(&mut PairMachine)) {
        for index in 0..self.pairs.len() {
            tell(&mut self.pairs[index]);
            self.follow(PairId(index as u16), now);
        }
    }

    /// A member that has neither answered nor failed often enough counts for nothing here: where
    /// the pool needs it, nothing is known of the pool.
    fn fitness(&self, pool: &Pool) -> Fitness {
        let known = self.services[self.places.service(pool.primary)].unsettled == 0;
        let (condition, ..) = self.condition(pool.id);
        let mut members = self.presence(pool);
        for (verdict, _) in &mut members {
            if *verdict == Verdict::Unknown {
                *verdict = Verdict::Down;
            }
        }
        let enough = |need: QuorumNeed| present(need, members.iter().copied()) >= need.members;
        if known && condition == Condition::Lost {
            Fitness::Lost
        } else if !known || !enough(pool.quorum.to_stay) {
            Fitness::Unknown
        } else if !enough(pool.quorum.to_start) {
            Fitness::Low
        } else {
            Fitness::Well
        }
    }

    /// Does what a machine says.
    fn follow(&mut self, pair: PairId, now: Time) {
        while let Some(output) = self.pairs[pair.index()].poll_output() {
            match output {
                PairOutput::Store(record) => {
                    self.outputs.push_back(Output::Store(pair, record));
                }
                PairOutput::InForce { before, drain } => {
                    self.publish = true;
                    for side in Side::BOTH {
                        self.redirected(pair, side, &before, drain, now);
                    }
                    // Without rounds it stands for damage, which is told where it was found.
                    let alarmed = |record: &Record| record.alarm && record.rounds > 0;
                    let on = alarmed(self.pair(pair).record());
                    if alarmed(&before) != on {
                        self.tell(Event::Alarm { pair, on });
                    }
                }
            }
        }
        let next = self.pairs[pair.index()].poll_timeout();
        self.agenda.set(Item::Pair(pair), next.map(|(at, _)| at));
    }

    /// What follows for the users of one side from a new record.
    fn redirected(&mut self, id: PairId, side: Side, before: &Record, drain: bool, now: Time) {
        let topology = self.topology.clone();
        let pair = topology.pair(id);
        let (home, twin) = (pair.pool(side), pair.pool(side.other()));
        let record = self.pair(id).record();
        let generation = record.generation;
        let (from, entry) = (before.phase(side), record.entry(side).clone());
        let to = entry.phase;
        if (from, to) == (Phase::Away, Phase::Away) && *before.entry(side) != entry {
            // Ordered once more: what was drained is ended now.
            let (off, from) = (Some(home), now);
            self.outputs.push_back(Output::Clear { home, off, from });
        }
        let is_step = matches!((from, to), (Phase::Returning(_), Phase::Returning(_)));
        if from == to || is_step {
            return;
        }
        self.tell(Event::Redirect {
            pool: home,
            from,
            to,
            cause: entry.cause,
            by: entry.by,
            reason: entry.reason,
            generation,
        });
        let deadline = topology.pool(home).drain_deadline;
        let (off, from) = match to {
            Phase::Away if drain => (Some(home), now + deadline),
            Phase::Away => (Some(home), now),
            Phase::Returning(_) => (None, now),
            Phase::Home => (Some(twin), now),
        };
        self.outputs.push_back(Output::Clear { home, off, from });
    }
}
