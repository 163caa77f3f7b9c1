//! Whether pools can be sent users, read from what the decider told of their members, and since
//! when: what the rules for pairs speak of.

use std::sync::Arc;

use twinpool::health::Verdict;
use twinpool::health::readiness::Mode;
use twinpool::pairing::pair::Fitness;
use twinpool::pairing::{Condition, Decider, Event};
use twinpool::time::Time;
use twinpool::topology::{PoolId, QuorumNeed, TargetId, Topology};

/// Every pool, as told.
pub(crate) struct Pools {
    topology: Arc<Topology>,
    pools: Vec<Seen>,
}

struct Seen {
    /// By member: of the primary service.
    verdicts: Vec<Verdict>,
    /// By member: whether its first probe came back.
    asked: Vec<bool>,
    modes: Vec<Mode>,
    condition: Condition,
    fitness: Fitness,
    /// Without a break, and without a moment in which this instance could not know.
    since: Time,
    /// The twin was lost too, at some time of this loss.
    beside_lost: bool,
}

impl Pools {
    /// As a start finds them: nothing is known but what operators decided.
    pub(crate) fn new(topology: &Arc<Topology>, decider: &Decider, now: Time) -> Pools {
        let pools = topology.pools.iter().map(|pool| Seen {
            verdicts: vec![Verdict::Unknown; pool.members.len()],
            asked: vec![false; pool.members.len()],
            modes: (pool.members.iter())
                .map(|member| decider.operator(member.id).map_or(Mode::Ready, |s| s.mode))
                .collect(),
            condition: decider.condition(pool.id).0,
            fitness: Fitness::Unknown,
            since: now,
            beside_lost: false,
        });
        Pools {
            pools: pools.collect(),
            topology: topology.clone(),
        }
    }

    /// A probe came back; true when its pool may be known by that.
    pub(crate) fn answered(&mut self, target: TargetId, now: Time) -> bool {
        let is_primary = self.is_primary(target);
        let asked = &mut self.pools[target.pool.index()].asked[target.member().index()];
        let first = is_primary && !std::mem::replace(asked, true);
        if first {
            self.refresh(target.pool, now);
        }
        first
    }

    pub(crate) fn told(&mut self, event: &Event, now: Time) {
        match event {
            Event::Verdict { target, to, .. } if self.is_primary(*target) => {
                self.pools[target.pool.index()].verdicts[target.member().index()] = *to;
                self.refresh(target.pool, now);
            }
            Event::Operator { member, state } => {
                self.pools[member.pool.index()].modes[member.index()] = state.mode;
                self.refresh(member.pool, now);
            }
            Event::Condition { pool, to, .. } => {
                self.pools[pool.index()].condition = *to;
                self.refresh(*pool, now);
            }
            Event::Isolation { .. } => self.gap(now),
            _ => {}
        }
    }

    /// Nobody could know for a while how pools did.
    pub(crate) fn gap(&mut self, now: Time) {
        for pool in &self.topology.pools {
            let beside = self.is_lost(pool.id) && self.twin_is_lost(pool.id);
            let seen = &mut self.pools[pool.id.index()];
            seen.since = now;
            seen.beside_lost = beside;
        }
    }

    pub(crate) fn fitness(&self, pool: PoolId) -> Fitness {
        self.pools[pool.index()].fitness
    }

    pub(crate) fn since(&self, pool: PoolId) -> Time {
        self.pools[pool.index()].since
    }

    pub(crate) fn beside_lost(&self, pool: PoolId) -> bool {
        self.pools[pool.index()].beside_lost
    }

    pub(crate) fn is_lost(&self, pool: PoolId) -> bool {
        self.fitness(pool) == Fitness::Lost
    }

    pub(crate) fn is_well(&self, pool: PoolId) -> bool {
        self.fitness(pool) == Fitness::Well
    }

    pub(crate) fn serves(&self, pool: PoolId) -> bool {
        matches!(self.fitness(pool), Fitness::Low | Fitness::Well)
    }

    pub(crate) fn condition(&self, pool: PoolId) -> Condition {
        self.pools[pool.index()].condition
    }

    fn is_primary(&self, target: TargetId) -> bool {
        target.service() == self.topology.pool(target.pool).primary
    }

    fn twin_is_lost(&self, pool: PoolId) -> bool {
        let twin = self.topology.twin(pool);
        twin.is_some_and(|twin| self.is_lost(twin))
    }

    fn refresh(&mut self, id: PoolId, now: Time) {
        let quorum = self.topology.pool(id).quorum;
        let seen = &mut self.pools[id.index()];
        let all_asked = seen.asked.iter().all(|asked| *asked);
        let fitness = if all_asked && seen.condition == Condition::Lost {
            Fitness::Lost
        } else if !all_asked || !seen.are_enough(quorum.to_stay) {
            Fitness::Unknown
        } else if !seen.are_enough(quorum.to_start) {
            Fitness::Low
        } else {
            Fitness::Well
        };
        if seen.fitness != fitness {
            seen.fitness = fitness;
            seen.since = now;
            seen.beside_lost = false;
        }
        if self.is_lost(id) && self.twin_is_lost(id) {
            let twin = self.topology.twin(id).unwrap();
            self.pools[id.index()].beside_lost = true;
            self.pools[twin.index()].beside_lost = true;
        }
    }
}

impl Seen {
    /// Whether so many are known to answer, and not taken out.
    fn are_enough(&self, need: QuorumNeed) -> bool {
        let members = self.verdicts.iter().zip(&self.modes);
        let counted = members.take(need.of_first.into());
        let answers = |verdict: &Verdict| matches!(verdict, Verdict::Up | Verdict::Busy);
        let present =
            counted.filter(|(verdict, mode)| answers(verdict) && **mode != Mode::Maintenance);
        present.count() >= need.members.into()
    }
}
