//! What the decider thinks, held against how things really are.

use std::time::Duration;

use twinpool::health::Verdict;
use twinpool::health::readiness::Mode;
use twinpool::pairing::Decider;
use twinpool::pairing::isolation::{INQUIRY_MARGIN, LEAD};
use twinpool::time::Time;
use twinpool::topology::{PoolId, TargetId, Topology};

use super::{Checks, Seen};
use crate::world::{Truth, Uplink};

pub(super) fn is_hard(truth: Truth) -> bool {
    matches!(truth, Truth::Dead | Truth::Cut | Truth::Hung | Truth::Flaky)
}

/// Whether it answers whatever it is asked.
fn is_heard(truth: Truth) -> bool {
    matches!(truth, Truth::Well | Truth::Sick | Truth::Dead)
}

impl Checks {
    /// Whether a target, or one that it requires, did not answer within the time that it takes to
    /// notice.
    pub(super) fn is_guilty(&self, target: TargetId, now: Time) -> bool {
        let requires = &self.topology.service(target.service()).requires;
        let involved = requires.iter().copied().chain([target.service()]);
        involved.into_iter().any(|service| {
            let seen = self.seen(target.member().target(service));
            let within = seen.detection;
            let known = |at: Time| now.since(at.max(self.woke.unwrap_or(at))) <= within;
            is_hard(seen.truth) || seen.last_hard.is_some_and(known)
        })
    }

    /// False evidence that fits together with an outage of our own cannot be told from a dead
    /// member, and neither can an outage where no other pool is left to compare with, nor two that
    /// others answered between.
    pub(super) fn is_excused(&self, target: TargetId, now: Time) -> bool {
        let requires = &self.topology.service(target.service()).requires;
        let span = self.seen(target).detection;
        let outage = self.uplink.0 != Uplink::Works || now.since(self.uplink.1) <= span;
        let flooded = requires.iter().copied().chain([target.service()]).any(|s| {
            let flood = self.seen(target.member().target(s)).last_flood;
            flood.is_some_and(|at| now.since(at) <= span)
        });
        let alone = (self.targets.iter())
            .all(|seen| seen.id.pool == target.pool || seen.verdict == Verdict::Down);
        let flapped = (self.flapped).is_some_and(|at| now.since(at) <= span * 2);
        outage && (alone || flooded || flapped)
    }

    /// Users leave a pool alone whose members are really gone, or taken out by people: never one
    /// that an outage of our own only hid.
    pub(super) fn is_truly_lost(&self, decider: &Decider, id: PoolId, now: Time) {
        let pool = self.topology.pool(id);
        let need = pool.quorum.to_stay;
        let counted = pool.members.iter().take(need.of_first.into());
        let present = counted.filter(|member| {
            let target = member.id.target(pool.primary);
            let seen = self.seen(target);
            // One that came back while nobody could ask is given up until it has been asked.
            let asked = self.isolation_ended.max(self.uplink.1);
            let known = |at: Time| now.since(at.max(asked)) <= self.longest;
            let gone = is_hard(seen.truth) || seen.last_hard.is_some_and(known);
            let out = decider
                .operator(member.id)
                .is_some_and(|state| state.mode == Mode::Maintenance);
            !(gone || out || seen.excused)
        });
        let present = present.count();
        assert!(
            present < need.members.into(),
            "{id:?} is left, where {present} members were well"
        );
    }

    /// Isolated for silence: then nobody answered all the time while the uplink worked, not even in
    /// one of two sites.
    pub(super) fn nobody_was_heard(&self, now: Time) {
        if self.uplink.0 != Uplink::Works || now.since(self.uplink.1) <= self.longest {
            return;
        }
        let from = |at: Time| now.since(at) > self.longest;
        // One that answers at one port and not at another speaks for neither side.
        let heard = |seen: &Seen| {
            is_heard(seen.truth) && from(seen.truth_since) && from(seen.last_own_fault)
        };
        let mut members = self.topology.pools.iter().flat_map(|pool| &pool.members);
        let heard = members.find(|member| {
            let services = &self.topology.pool(member.id.pool).services;
            let mut targets = services.iter().map(|s| member.id.target(s.id));
            targets.all(|target| heard(self.seen(target)))
        });
        assert!(heard.is_none(), "isolated, though {heard:?} answers");
    }

    /// A target that does not answer is down, and one that answers is up, once that has been so for
    /// long enough, nothing else was wrong, and somebody could bear witness.
    pub(super) fn target_is_judged_in_time(&self, decider: &Decider, seen: &Seen, now: Time) {
        let target = seen.id;
        if self.isolated_since.is_some() || self.uplink.0 != Uplink::Works {
            return;
        }
        let clean = self.uplink.1.max(self.isolation_ended).max(self.started);
        let requires = &self.topology.service(target.service()).requires;
        let required = requires
            .iter()
            .map(|&r| self.seen(target.member().target(r)));
        let involved = required.chain([seen]);
        if matches!(seen.truth, Truth::Dead | Truth::Cut | Truth::Hung) {
            let since = seen.clear_since().max(clean);
            let bound = seen.detection;
            if now.since(since) > bound && self.had_witness(target, since) {
                let verdict = decider.explain(target).own;
                assert_eq!(
                    verdict,
                    Verdict::Down,
                    "{target:?} is {:?} for {bound:?}",
                    seen.truth
                );
            }
        } else if involved.clone().all(|seen| seen.truth == Truth::Well) {
            let since = involved.map(Seen::clear_since).max();
            let since = since.unwrap().max(clean);
            let bound = seen.recovery;
            if now.since(since) > bound {
                let verdict = decider.verdict(target).0;
                assert_eq!(verdict, Verdict::Up, "{target:?} is well for {bound:?}");
            }
        }
    }

    /// Somebody in another pool was well all the time.
    fn had_witness(&self, target: TargetId, since: Time) -> bool {
        self.topology.pools.len() == 1
            || self.targets.iter().any(|seen| {
                seen.id.pool != target.pool
                    && seen.truth == Truth::Well
                    && seen.truth_since <= since
                    && seen.last_own_fault <= since
            })
    }

    /// Isolation ends when the uplink works and those who were silent answer.
    pub(super) fn isolation_is_justified(&self, now: Time) {
        let Some(since) = self.isolated_since else {
            return;
        };
        if self.uplink.0 != Uplink::Works {
            return;
        }
        let from = since.max(self.uplink.1);
        let longest = self.targets.iter().map(|seen| seen.recovery).max().unwrap();
        let all_well = (self.targets.iter())
            .all(|seen| seen.truth == Truth::Well && now.since(seen.truth_since) > longest);
        if all_well && now.since(from) > longest {
            panic!("isolated since {since:?}, though everything is well since {from:?}");
        }
    }
}

impl Seen {
    /// Since when it is what it is, and nothing false was said of it: what clients say keeps its
    /// counts from rising.
    fn clear_since(&self) -> Time {
        let flooded = self.last_flood.unwrap_or(Time::ZERO);
        self.truth_since.max(self.last_own_fault).max(flooded)
    }
}

/// The longest from the first silence of a target to `down`.
pub(super) fn detection(topology: &Topology, target: TargetId) -> Duration {
    let check = &topology.service(target.service()).check;
    let timeouts = topology.pools.iter().flat_map(|pool| &pool.services);
    let longest = timeouts.map(|service| service.check.timeout).max().unwrap();
    let each = check
        .timeout
        .max(check.in_doubt.mul_f64(1.0 + check.jitter))
        + LEAD;
    let first = check.interval.mul_f64(1.0 + check.jitter) + check.timeout;
    let inquiry = longest * 2 + INQUIRY_MARGIN;
    first + each * (check.fall.get() + 1) + inquiry
}

/// The longest from the first good answer of a target to `up`.
pub(super) fn recovery(topology: &Topology, target: TargetId) -> Duration {
    let services = &topology.pool(target.pool).services;
    let bound = services.iter().map(|service| {
        let check = &service.check;
        let between = check
            .in_doubt
            .mul_f64(1.0 + check.jitter)
            .max(check.timeout);
        let needed = check.rise.max(check.flap).get() + 2;
        check.interval.mul_f64(1.0 + check.jitter) + check.timeout + between * needed
    });
    bound.max().unwrap() + Duration::from_secs(1)
}
