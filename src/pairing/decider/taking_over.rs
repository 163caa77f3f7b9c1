//! The decider where another one was before it: what it leaves, and what it begins with.

use std::sync::Arc;

use super::{Decider, Effective};
use crate::health::machine::Rules;
use crate::pairing::Condition;
use crate::pairing::legacy::{Legacy, MemberLegacy, ServiceLegacy, TargetLegacy};
use crate::pairing::record::Record;
use crate::pairing::words::Standing;
use crate::time::Time;
use crate::topology::{PairId, Pool, TargetId, Topology};

impl Decider {
    /// What it leaves to the next one, in its own ids.
    pub fn legacy(&self) -> Legacy {
        let topology = &self.topology;
        let target = |target: TargetId| {
            let place = self.places.target(target);
            let effective = &self.effective[place];
            TargetLegacy {
                target,
                machine: self.machines[place].clone(),
                silence: self.isolation.silence(place),
                verdict: effective.verdict,
                reason: effective.reason,
                since: effective.since,
                returned: effective.returned,
                comes_back: true,
                asked_anew: false,
            }
        };
        let members = topology.pools.iter().flat_map(|pool| &pool.members);
        let members = members.map(|member| MemberLegacy {
            member: member.id,
            answered: self.isolation.answered(member.id),
            decision: self.operators.decision(member.id).cloned(),
            unrouted: self.isolation.is_unrouted(member.id),
        });
        let services = topology.pools.iter().flat_map(|pool| &pool.services);
        let services = services.map(|service| {
            let state = self.services[self.places.service(service.id)];
            ServiceLegacy {
                service: service.id,
                lost: state.lost,
                first: state.first,
            }
        });
        let pools = topology.pools.iter().map(|pool| {
            let state = self.pools[pool.id.index()];
            (pool.id, state.condition, state.since)
        });
        let pairs = (0..).map(PairId).zip(&self.pairs).zip(&self.unwritten);
        Legacy {
            targets: topology.targets().map(target).collect(),
            members: members.collect(),
            pools: pools.collect(),
            services: services.collect(),
            pairs: pairs
                .map(|((pair, machine), why)| (pair, machine.clone(), why.clone()))
                .collect(),
            pause: self.pause.clone(),
            answered: self.isolation.last_answer(),
            isolated: self.isolation.isolated().cloned(),
            isolation_ended: self.isolation.ended(),
        }
    }

    /// Takes over from another one: whatever `legacy` knows goes on, what is new begins as in
    /// [`Decider::new`]. `records` are those of the pairs that `legacy` does not know, each with
    /// whether it was damaged. What the new topology makes of what is known comes out as outputs.
    pub fn after(
        topology: Arc<Topology>,
        legacy: Legacy,
        mut records: impl FnMut(PairId) -> (Record, bool),
        seed: u64,
        now: Time,
    ) -> Decider {
        let known = |pair: PairId| legacy.pairs.iter().find(|(id, ..)| *id == pair);
        let records = topology.pairs.iter().map(|pair| match known(pair.id) {
            Some((_, machine, _)) => (machine.record().clone(), false),
            None => records(pair.id),
        });
        let records = records.collect();
        let standing = Standing {
            pause: legacy.pause.clone(),
            ..Standing::default()
        };
        let mut decider = Decider::new(topology, standing, records, seed, now);
        decider.take_over(legacy, now);
        decider
    }

    fn take_over(&mut self, legacy: Legacy, now: Time) {
        let topology = self.topology.clone();
        for (pool, condition, since) in legacy.pools {
            let state = &mut self.pools[pool.index()];
            (state.condition, state.since) = (condition, since);
        }
        for (site, lost) in self.sites_lost.iter_mut().enumerate() {
            let mut pools = topology
                .pools
                .iter()
                .filter(|pool| pool.site.is_some_and(|id| id.index() == site));
            let is_lost = |pool: &Pool| self.pools[pool.id.index()].condition == Condition::Lost;
            *lost = pools.all(is_lost);
        }
        for legacy in legacy.members {
            self.isolation
                .remember(legacy.member, legacy.answered, legacy.unrouted);
            if let Some(decision) = legacy.decision {
                self.operators.take_over(legacy.member, decision);
                self.set_alarms(legacy.member);
            }
        }
        for legacy in legacy.services {
            let state = &mut self.services[self.places.service(legacy.service)];
            (state.lost, state.first) = (legacy.lost, legacy.first);
        }
        self.isolation
            .resume(legacy.answered, legacy.isolated, legacy.isolation_ended);
        for (pair, machine, unwritten) in legacy.pairs {
            let rules = topology.pair(pair).rules.clone();
            self.pairs[pair.index()] = machine.with_rules(rules);
            self.unwritten[pair.index()] = unwritten;
        }
        for legacy in legacy.targets {
            self.take_target_over(legacy, now);
        }
        for target in topology.targets() {
            self.refresh_target(target, now);
        }
        for pool in &topology.pools {
            for service in &pool.services {
                self.refresh_service(pool, service.id);
            }
            self.refresh_condition(pool, now);
            self.refresh_site(pool);
        }
        for place in 0..self.machines.len() {
            self.weigh(place, now);
            self.schedule(place);
        }
        let isolated = self.isolation.cause().is_some();
        self.every_pair(now, |machine| machine.handle_isolated(isolated, now));
        self.advance_inquiry(now, false);
        self.publish = true;
        self.remember = true;
    }

    fn take_target_over(&mut self, legacy: TargetLegacy, now: Time) {
        let target = legacy.target;
        let place = self.places.target(target);
        let rules = Rules::from(&self.topology.service(target.service()).check);
        let mut machine = legacy.machine.with_rules(rules);
        if legacy.asked_anew {
            machine.forgive();
        }
        if !legacy.comes_back {
            machine.handle_lost(now);
        }
        if legacy.asked_anew {
            machine.pull(now);
        } else if legacy.silence.is_some() {
            self.isolation.go_on(place, legacy.silence);
        }
        if machine.is_settled() {
            self.unsettled -= 1;
            self.services[self.places.service(target.service())].unsettled -= 1;
        }
        self.machines[place] = machine;
        self.effective[place] = Effective {
            verdict: legacy.verdict,
            reason: legacy.reason,
            since: legacy.since,
            returned: legacy.returned,
        };
    }
}
