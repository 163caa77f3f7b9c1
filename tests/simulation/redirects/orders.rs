//! What people order of pairs: whether it is carried out exactly, or refused for a reason that holds.

use twinpool::pairing::Record;
use twinpool::pairing::pair::{Destination, Fitness, Move, MoveRefusal};
use twinpool::pairing::record::{By, Cause, Entry, Phase, Share};
use twinpool::time::Time;
use twinpool::topology::PairId;

use super::{Asked, Redirects, Seen};

impl Redirects {
    /// A person orders a move, before the decider hears of it.
    pub(crate) fn orders(&mut self, id: PairId, order: &Move) {
        self.pairs[id.index()].order = Some(Asked::Move(order.clone()));
    }

    /// What the decider says to it.
    pub(crate) fn ordered(&mut self, id: PairId, order: &Move, done: &Result<u64, MoveRefusal>) {
        let pair = self.topology.pair(id);
        let there = match order.to {
            Destination::Twin => pair.pool(order.side.other()),
            Destination::Home => pair.pool(order.side),
        };
        let fitness = self.pools.fitness(there);
        let (isolated, seen) = (self.isolated, &mut self.pairs[id.index()]);
        let phase = seen.in_force.phase(order.side);
        let there_already = match order.to {
            Destination::Twin => phase == Phase::Away && !order.now,
            Destination::Home => match phase {
                Phase::Home => true,
                Phase::Returning(_) => !order.now,
                Phase::Away => false,
            },
        };
        let twin_away =
            order.to == Destination::Twin && seen.in_force.phase(order.side.other()) != Phase::Home;
        let low = order.to == Destination::Home && fitness == Fitness::Low;
        let Err(refusal) = done else {
            assert!(seen.writing.is_none() && !there_already);
            assert_ne!(fitness, Fitness::Lost, "ordered to a lost pool: {order:?}");
            let worth_force = twin_away || low || fitness == Fitness::Unknown || isolated;
            assert!(order.force || !worth_force, "{order:?} without force");
            if order.to == Destination::Twin && phase == Phase::Away {
                self.counts.one("drains cut");
            }
            self.counts
                .one(match (order.to, order.force && worth_force) {
                    (Destination::Twin, false) => "failovers ordered",
                    (Destination::Twin, true) => "failovers forced",
                    (Destination::Home, false) => "failbacks ordered",
                    (Destination::Home, true) => "failbacks forced",
                });
            return;
        };
        seen.order = None;
        let forced = order.force;
        let (holds, what) = match refusal {
            MoveRefusal::Already(at) => (*at == phase && there_already, "refused: there already"),
            MoveRefusal::Lost => (fitness == Fitness::Lost, "refused: lost"),
            MoveRefusal::Unknown => (fitness == Fitness::Unknown && !forced, "refused: unknown"),
            MoveRefusal::Low => (low && !forced, "refused: low"),
            MoveRefusal::TwinAway => (twin_away && !forced, "refused: twin away"),
            MoveRefusal::Isolated => (isolated && !forced, "refused: isolated"),
            MoveRefusal::Writing => (seen.writing.is_some(), "refused: writing"),
        };
        assert!(holds, "{refusal:?} is no reason to refuse {order:?}");
        self.counts.one(what);
    }

    /// A person resumes, before the decider hears of it.
    pub(crate) fn resumes(&mut self) {
        let halted = |seen: &&mut Seen| seen.damaged || seen.in_force.alarm;
        for seen in self.pairs.iter_mut().filter(halted) {
            seen.order = Some(Asked::Resume);
        }
    }

    /// What the decider says to it.
    pub(crate) fn resumed(&mut self, done: &Result<Vec<(PairId, u64)>, PairId>) {
        if let Err(busy) = done {
            assert!(self.pairs[busy.index()].writing.is_some());
            self.counts.one("resumes to be repeated");
            for seen in &mut self.pairs {
                seen.order = None;
            }
        }
    }

    pub(super) fn is_what_was_ordered(
        &mut self,
        id: PairId,
        order: &Move,
        wanted: &Record,
        now: Time,
    ) {
        let pair = self.topology.pair(id);
        let seen = &self.pairs[id.index()];
        let (side, twin) = (order.side, order.side.other());
        let twin_is_lost = self.pools.is_lost(pair.pool(twin));
        let entry = |phase| Entry {
            phase,
            cause: Cause::Ordered,
            by: By::Operator(order.by.clone()),
            reason: order.reason.clone(),
            since: now,
        };
        let mut expected = seen.in_force.clone();
        expected.generation = wanted.generation;
        match order.to {
            Destination::Twin => {
                if expected.phase(twin) != Phase::Home {
                    expected.entries[twin.index()] = entry(Phase::Home);
                }
                expected.entries[side.index()] = entry(Phase::Away);
            }
            Destination::Home => {
                let at_once = order.now || pair.rules.ramp.is_zero() || twin_is_lost;
                let phase = match at_once {
                    true => Phase::Home,
                    false => Phase::Returning(Share::FIRST),
                };
                expected.entries[side.index()] = entry(phase);
                if !expected.alarm {
                    expected.rounds = 0;
                }
            }
        }
        if seen.damaged {
            (expected.alarm, expected.rounds) = (true, 0);
        }
        assert_eq!(*wanted, expected, "{order:?}");
    }
}
