//! [`Operators`]: what operators decided about members, and what of it is still to be done.

use std::collections::BTreeMap;
use std::time::Duration;

use super::words::Order;
use crate::health::readiness::{Mode, OperatorState};
use crate::time::Time;
use crate::topology::MemberId;

/// In whose name a decision lapses.
pub(super) const ITSELF: &str = "twinpool";

/// Decisions about members that are not simply ready.
#[derive(Debug, Default)]
pub(super) struct Operators(BTreeMap<MemberId, Decision>);

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Decision {
    state: OperatorState,
    /// Whether the sessions have met the deadline.
    met: bool,
}

impl Operators {
    /// Takes back what was in force before a restart and has not lapsed since. No session outlived
    /// that, so a deadline that has passed is met.
    pub(super) fn remember(&mut self, member: MemberId, state: OperatorState, now: Time) {
        let lapsed = state.until.is_some_and(|until| until <= now);
        if state.mode != Mode::Ready && !lapsed {
            let met = state.deadline.is_none_or(|deadline| deadline <= now);
            self.0.insert(member, Decision { state, met });
        }
    }

    /// Takes a decision over from whoever decided before, as it is.
    pub(super) fn take_over(&mut self, member: MemberId, decision: Decision) {
        self.0.insert(member, decision);
    }

    /// What is decided about a member, if anything.
    pub(super) fn decision(&self, member: MemberId) -> Option<&Decision> {
        self.0.get(&member)
    }

    /// Carries out an order; gives back the state that is new, if anything is. An order that is
    /// repeated keeps the earlier deadline, and its start if it asks for the same.
    pub(super) fn handle_order(
        &mut self,
        order: Order,
        drain: Duration,
        now: Time,
    ) -> Option<OperatorState> {
        let before = self.0.remove(&order.member);
        let mut state = OperatorState {
            mode: order.mode,
            by: order.by,
            reason: order.reason,
            since: now,
            until: order.until,
            deadline: None,
        };
        if order.mode == Mode::Ready {
            state.until = None;
            return before.map(|_| state);
        }
        let mut met = false;
        state.deadline = Some(now + drain);
        if let Some(before) = before {
            met = before.met;
            state.deadline = before.state.deadline.min(state.deadline).or(state.deadline);
            if before.state.mode == state.mode {
                state.since = before.state.since;
            }
        }
        let decision = Decision {
            state: state.clone(),
            met,
        };
        self.0.insert(order.member, decision);
        Some(state)
    }

    /// Lets a decision lapse; gives back what the member's state is then.
    pub(super) fn lapse(&mut self, member: MemberId, now: Time) -> Option<OperatorState> {
        self.0.remove(&member)?;
        Some(OperatorState {
            mode: Mode::Ready,
            by: ITSELF.to_owned(),
            reason: Some("the time that it was ordered for is over".to_owned()),
            since: now,
            until: None,
            deadline: None,
        })
    }

    /// Marks a deadline as met. True when it had not been and has passed.
    pub(super) fn meet_deadline(&mut self, member: MemberId, now: Time) -> bool {
        self.0.get_mut(&member).is_some_and(|decision| {
            let due = decision.state.deadline.is_some_and(|at| at <= now) && !decision.met;
            decision.met |= due;
            due
        })
    }

    /// When a member's sessions are to be ended, if that is still to be done.
    pub(super) fn deadline(&self, member: MemberId) -> Option<Time> {
        let decision = self.0.get(&member)?;
        (!decision.met).then_some(decision.state.deadline).flatten()
    }

    /// Everyone about whom something is decided.
    pub(super) fn members(&self) -> Vec<MemberId> {
        self.0.keys().copied().collect()
    }

    pub(super) fn get(&self, member: MemberId) -> Option<&OperatorState> {
        self.0.get(&member).map(|decision| &decision.state)
    }

    pub(super) fn mode(&self, member: MemberId) -> Mode {
        self.get(member).map_or(Mode::Ready, |state| state.mode)
    }

    pub(super) fn all(&self) -> Vec<(MemberId, OperatorState)> {
        let all = self.0.iter();
        all.map(|(member, decision)| (*member, decision.state.clone()))
            .collect()
    }
}
