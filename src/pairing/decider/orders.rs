//! The decider where operators have the word: orders, how they lapse, and deadlines.

use super::{Decider, Item};
use crate::health::readiness::{Mode, OperatorState, Takes};
use crate::pairing::condition::present;
use crate::pairing::words::{Event, Output, Refusal, Standing};
use crate::time::Time;
use crate::topology::MemberId;

impl Decider {
    /// Puts what is remembered in force and derives everything for the first time.
    pub(super) fn start(&mut self, remembered: Standing, now: Time) {
        let before = remembered.clone();
        let topology = self.topology.clone();
        let exists = |member: MemberId| {
            let pool = topology.pools.get(member.pool.index());
            pool.is_some_and(|pool| member.index() < pool.members.len())
        };
        for (member, state) in remembered.operators {
            if exists(member) {
                self.operators.remember(member, state, now);
                self.set_alarms(member);
            }
        }
        if let Some(pause) = remembered.pause {
            self.pause = Some(pause);
            for machine in &mut self.pairs {
                machine.handle_paused(true, now);
            }
        }
        for (service, member) in remembered.first {
            let pool = topology.pools.get(service.pool.index());
            if pool.is_some_and(|pool| service.index() < pool.services.len())
                && exists(member)
                && member.pool == service.pool
            {
                let place = self.places.service(service);
                self.services[place].first = Some(member);
            }
        }
        for pool in &topology.pools {
            for service in &pool.services {
                let place = self.places.service(service.id);
                self.services[place].unsettled = pool.members.len();
                self.refresh_service(pool, service.id);
            }
            self.refresh_condition(pool, now);
            self.pools[pool.id.index()].since = now;
        }
        for place in 0..self.machines.len() {
            self.schedule(place);
        }
        self.outputs.clear();
        self.publish = true;
        self.remember = self.standing() != before;
    }

    /// Maintenance must not lose a pool that is not lost.
    pub(super) fn refuse_to_lose(&self, member: MemberId) -> Result<(), Refusal> {
        let pool = self.topology.pool(member.pool);
        let need = pool.quorum.to_stay;
        let mut members = self.presence(pool);
        let now = present(need, members.iter().copied());
        members[member.index()].1 = Mode::Maintenance;
        let remain = present(need, members.into_iter());
        if now >= need.members && remain < need.members {
            return Err(Refusal::WouldLosePool {
                pool: pool.id,
                remain,
                need: need.members,
            });
        }
        Ok(())
    }

    /// Whether a member takes sessions, by service.
    pub(super) fn takes_of(&self, member: MemberId) -> Vec<Takes> {
        let services = &self.topology.pool(member.pool).services;
        let takes = services
            .iter()
            .map(|s| self.readiness(member.target(s.id)).takes);
        takes.collect()
    }

    /// What follows from a new state of a member; `before` is what it took.
    pub(super) fn operator_changed(
        &mut self,
        member: MemberId,
        state: OperatorState,
        before: &[Takes],
        now: Time,
    ) {
        self.tell(Event::Operator { member, state });
        self.remember = true;
        self.set_alarms(member);
        let topology = self.topology.clone();
        let pool = topology.pool(member.pool);
        for (service, &before) in pool.services.iter().zip(before) {
            let target = member.target(service.id);
            let after = self.readiness(target).takes;
            self.publish |= after != before;
            self.note_return(self.places.target(target), before, after, now);
            self.refresh_service(pool, service.id);
        }
        self.refresh_condition(pool, now);
    }

    pub(super) fn lapse(&mut self, member: MemberId, now: Time) {
        let before = self.takes_of(member);
        if let Some(state) = self.operators.lapse(member, now) {
            self.operator_changed(member, state, &before, now);
        }
    }

    /// Ends what a member still holds, unless this instance is isolated: then later.
    pub(super) fn meet_deadline(&mut self, member: MemberId, now: Time) {
        if self.isolation.cause().is_some() || !self.operators.meet_deadline(member, now) {
            return;
        }
        let event = Event::Deadline { member };
        self.tell(event.clone());
        self.outputs.push_back(Output::End {
            member,
            service: None,
            event,
        });
    }

    /// Meets the deadlines that passed during an isolation.
    pub(super) fn meet_overdue(&mut self, now: Time) {
        for member in self.operators.members() {
            self.meet_deadline(member, now);
        }
    }

    pub(super) fn set_alarms(&mut self, member: MemberId) {
        let until = self.operators.get(member).and_then(|state| state.until);
        self.agenda.set(Item::Lapse(member), until);
        let deadline = self.operators.deadline(member);
        self.agenda.set(Item::Deadline(member), deadline);
    }
}
