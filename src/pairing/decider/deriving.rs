//! The decider from an answer to a turn, and to everything that is derived from it.

use super::Decider;
use crate::health::readiness::Takes;
use crate::health::{Reason, Verdict};
use crate::pairing::condition;
use crate::pairing::words::{Event, Output};
use crate::time::Time;
use crate::topology::{MemberId, Policy, Pool, ServiceId, TargetId};

impl Decider {
    /// Makes the turn that a target's counts call for, unless it is to be held back.
    pub(super) fn weigh(&mut self, place: usize, now: Time) {
        if self.machines[place].due().is_none() {
            self.held.remove(&place);
        } else if self.isolation.cause().is_some() {
            // Held with everything else.
        } else if self.isolation.condemns(place) {
            self.turn(place, now);
        } else {
            self.held.insert(place);
        }
    }

    pub(super) fn turn(&mut self, place: usize, now: Time) {
        self.held.remove(&place);
        let target = self.places.target_at(place);
        if self.machines[place].turn(now).is_none() {
            return;
        }
        self.isolation.settle(place);
        self.schedule(place);
        let topology = self.topology.clone();
        let pool = topology.pool(target.pool);
        for service in &pool.services {
            if service.id == target.service() || service.requires.contains(&target.service()) {
                self.refresh_target(target.member().target(service.id), now);
                self.refresh_service(pool, service.id);
            }
        }
        if target.service() == pool.primary {
            self.refresh_condition(pool, now);
        }
    }

    /// Derives a target's effective verdict anew, and what follows.
    pub(super) fn refresh_target(&mut self, target: TargetId, now: Time) {
        let place = self.places.target(target);
        let (mut verdict, mut reason, _) = self.machines[place].verdict();
        for &required in &self.topology.service(target.service()).requires {
            let other = self.places.target(target.member().target(required));
            let (theirs, ..) = self.machines[other].verdict();
            if badness(theirs) > badness(verdict) {
                (verdict, reason) = (theirs, Reason::Requires(required));
            }
        }
        let before = self.readiness(target);
        let effective = &mut self.effective[place];
        let from = effective.verdict;
        effective.reason = reason;
        if from == verdict {
            return;
        }
        effective.verdict = verdict;
        effective.since = now;
        let event = Event::Verdict {
            target,
            from,
            to: verdict,
            reason,
        };
        self.tell(event.clone());
        if verdict == Verdict::Down {
            self.outputs.push_back(Output::End {
                member: target.member(),
                service: Some(target.service()),
                event,
            });
        }
        let after = self.readiness(target);
        self.publish |= after != before;
        self.note_return(place, before.takes, after.takes, now);
    }

    pub(super) fn note_return(&mut self, place: usize, before: Takes, after: Takes, now: Time) {
        if after > before {
            self.effective[place].returned = Some(now);
        }
    }

    /// Derives anew whether a service has a usable member, and its first one.
    pub(super) fn refresh_service(&mut self, pool: &Pool, id: ServiceId) {
        let place = self.places.service(id);
        let takes = |member: MemberId| self.readiness(member.target(id)).takes;
        let usable = pool.members.iter().filter(|m| takes(m.id) != Takes::No);
        let best = usable.min_by_key(|m| (std::cmp::Reverse(takes(m.id)), m.backup, m.id));
        let best = best.map(|member| member.id);
        let state = self.services[place];
        if self.topology.service(id).balance == Policy::First {
            let stays = state.first.is_some_and(|first| takes(first) != Takes::No);
            if let (false, Some(to)) = (stays, best) {
                self.choose_first(id, state.first, to);
            }
        }
        let lost = best.is_none();
        if id != pool.primary && state.unsettled == 0 && lost != state.lost {
            self.services[place].lost = lost;
            self.tell(Event::Service { service: id, lost });
        }
    }

    fn choose_first(&mut self, service: ServiceId, from: Option<MemberId>, to: MemberId) {
        let place = self.places.service(service);
        self.services[place].first = Some(to);
        self.publish = true;
        self.remember = true;
        if let Some(from) = from {
            self.tell(Event::First { service, from, to });
        }
    }

    pub(super) fn refresh_condition(&mut self, pool: &Pool, now: Time) {
        let need = pool.quorum.to_stay;
        let settled = self.services[self.places.service(pool.primary)].unsettled == 0;
        let members = self.presence(pool);
        let (to, present) = condition::condition(need, members.into_iter(), settled);
        let state = &mut self.pools[pool.id.index()];
        state.present = present;
        if to == state.condition {
            self.refresh_fitness(pool, now);
            return;
        }
        let from = std::mem::replace(&mut state.condition, to);
        state.since = now;
        self.publish = true;
        self.tell(Event::Condition {
            pool: pool.id,
            from,
            to,
            present,
            need: need.members,
        });
        self.refresh_site(pool);
        self.refresh_fitness(pool, now);
    }

    /// The first probe of a target came back: its service may be known for the first time.
    pub(super) fn settle(&mut self, target: TargetId, now: Time) {
        let topology = self.topology.clone();
        let pool = topology.pool(target.pool);
        if self.services[self.places.service(target.service())].unsettled == 0 {
            self.refresh_service(pool, target.service());
            if target.service() == pool.primary {
                self.refresh_condition(pool, now);
            }
        }
    }
}

/// Which of two verdicts decides for a member that needs both. Unknown may be tried, so a known
/// fault counts for more.
fn badness(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Up => 0,
        Verdict::Unknown => 1,
        Verdict::Busy => 2,
        Verdict::Down => 3,
    }
}
