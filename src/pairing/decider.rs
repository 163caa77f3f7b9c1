//! The decider: every verdict machine, every operator's decision, conditions and isolation, behind
//! one `handle_*` / `poll_*` interface.

use std::sync::Arc;

use super::Condition;
use crate::health::readiness::{Mode, OperatorState, Readiness};
use crate::health::{Evidence, OwnFault, ProbeOutcome, Reason, Verdict};
use crate::time::Time;
use crate::topology::{MemberId, PoolId, ServiceId, TargetId, Topology};

/// Decides for one topology. See the [module docs](super) for how to drive it.
#[derive(Debug)]
pub struct Decider {
    topology: Arc<Topology>,
}

/// What an operator orders of a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Order {
    /// Of whom.
    pub member: MemberId,
    /// What.
    pub mode: Mode,
    /// Who orders.
    pub by: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// When it lapses.
    pub until: Option<Time>,
    /// Even where it loses the pool.
    pub force: bool,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Maintenance would take the pool below quorum; `force` overrides.
    WouldLosePool {
        /// The pool.
        pool: PoolId,
        /// Members that would remain of those that count.
        remain: u16,
        /// Members it needs.
        need: u16,
    },
}

/// What must be remembered over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Members that are not simply ready.
    pub operators: Vec<(MemberId, OperatorState)>,
    /// The chosen member of each service balanced by `first`.
    pub first: Vec<(ServiceId, MemberId)>,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask this target now; each ask is answered by exactly one `handle_probe`.
    Probe(TargetId),
    /// End the sessions that this member holds for these services, at once, with a reset.
    End {
        /// Whose.
        member: MemberId,
        /// For one service, or for all when none.
        service: Option<ServiceId>,
        /// Why.
        event: Event,
    },
    /// Tell this (log, event list).
    Tell(Event),
    /// What a service's members may do has changed: publish a new snapshot once the outputs of
    /// this moment are drained.
    Publish,
    /// [`Decider::standing`] has changed: store it.
    Remember,
}

/// A transition, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member's verdict for a service changed.
    Verdict {
        /// Whose.
        target: TargetId,
        /// From what.
        from: Verdict,
        /// To what.
        to: Verdict,
        /// Why.
        reason: Reason,
    },
    /// A pool's condition changed.
    Condition {
        /// Whose.
        pool: PoolId,
        /// From what.
        from: Condition,
        /// To what.
        to: Condition,
        /// Members present among those that count.
        present: u16,
        /// Members it needs to stay.
        need: u16,
    },
    /// A service other than the primary lost its last usable member, or got one again.
    Service {
        /// Which.
        service: ServiceId,
        /// Whether it has none left.
        lost: bool,
    },
    /// An operator's decision took effect, or lapsed (then `by` is "twinpool").
    Operator {
        /// About whom.
        member: MemberId,
        /// What is wanted now.
        state: OperatorState,
    },
    /// The sessions that a drained or maintained member still held met their deadline.
    Deadline {
        /// Whose.
        member: MemberId,
    },
    /// A service balanced by `first` has another member now.
    First {
        /// Which.
        service: ServiceId,
        /// From whom.
        from: MemberId,
        /// To whom.
        to: MemberId,
    },
    /// This instance has reason to think the fault is its own, or no longer.
    Isolation {
        /// Why, while it is.
        cause: Option<IsolationCause>,
    },
}

/// Why an instance thinks the fault is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IsolationCause {
    /// Most members of so many pools fell silent within one window.
    ManySilent {
        /// Pools.
        pools: u16,
        /// Members.
        members: u16,
    },
    /// A local link or route towards members that had answered vanished.
    PathVanished,
}

/// When to call [`Decider::handle_timeout`], and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wake {
    /// To ask a target.
    Probe,
    /// To let an operator's decision lapse.
    Lapse,
    /// To end what a drained member still holds.
    Deadline,
    /// To judge isolation with what has come in.
    Isolation,
}

/// Everything behind one verdict, for `why`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The service's own verdict, before what it requires.
    pub own: Verdict,
    /// With what it requires.
    pub effective: Verdict,
    /// Why the effective one.
    pub reason: Reason,
    /// Since when.
    pub since: Time,
    /// The latest failure, if any since the last run of successes.
    pub last_failure: Option<Failure>,
    /// Consecutive failures, and how many of them evidence supplied.
    pub failures: u32,
    /// See `failures`.
    pub from_evidence: u32,
    /// Failures in a row that turn it away.
    pub fall: u32,
    /// Consecutive successes.
    pub successes: u32,
    /// Successes in a row that bring it back.
    pub rise: u32,
    /// Failures towards flapping, and how many make it so.
    pub flaps: u32,
    /// See `flaps`.
    pub flap: u32,
    /// When it is asked next; none while a probe is out.
    pub next_probe: Option<Time>,
    /// What the next answers would do, and by when at the earliest: the next transition.
    pub next: Option<(Verdict, Time)>,
    /// The last fault of our own side, if the last probe met one.
    pub own_fault: Option<OwnFault>,
    /// Whether a transition is held back because this instance is isolated, or asks first
    /// whether it is.
    pub held: bool,
}

use crate::health::Failure;

impl Decider {
    /// Starts with every verdict `unknown`, everything remembered in force, first probes spread
    /// over one interval.
    pub fn new(topology: Arc<Topology>, remembered: Standing, seed: u64, now: Time) -> Decider {
        let _ = (remembered, seed, now);
        Decider { topology }
    }

    /// Takes what a probe brought back.
    pub fn handle_probe(&mut self, target: TargetId, outcome: &ProbeOutcome, now: Time) {
        let _ = (target, outcome, now);
    }

    /// Takes what a client's connect saw.
    pub fn handle_evidence(&mut self, target: TargetId, evidence: Evidence, now: Time) {
        let _ = (target, evidence, now);
    }

    /// Takes news of local links and routes: `unrouted` are all members that no local route with
    /// a live link leads to now.
    pub fn handle_paths(&mut self, unrouted: &[MemberId], now: Time) {
        let _ = (unrouted, now);
    }

    /// Carries out an operator's order, or says why not.
    pub fn handle_order(&mut self, order: Order, now: Time) -> Result<(), Refusal> {
        let _ = (order, now);
        Ok(())
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        let _ = now;
    }

    /// The next thing to do; drain until none.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When to call [`Decider::handle_timeout`] next, and what for.
    pub fn poll_timeout(&self) -> Option<(Time, Wake)> {
        None
    }

    /// What it decides for.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// What a member may do for a service, by effective verdict and operator state.
    pub fn readiness(&self, target: TargetId) -> Readiness {
        let _ = target;
        todo!()
    }

    /// The effective verdict: the worst of the service's own and those it requires.
    pub fn verdict(&self, target: TargetId) -> (Verdict, Reason, Time) {
        let _ = target;
        todo!()
    }

    /// Since when the member takes new sessions for this service again after it did not; slow
    /// start counts from here. None when it always has since the start.
    pub fn returned(&self, target: TargetId) -> Option<Time> {
        let _ = target;
        todo!()
    }

    /// The pool's condition, since when; members present among those that count.
    pub fn condition(&self, pool: PoolId) -> (Condition, Time, u16) {
        let _ = pool;
        todo!()
    }

    /// The chosen member of a service balanced by `first`.
    pub fn first(&self, service: ServiceId) -> Option<MemberId> {
        let _ = service;
        todo!()
    }

    /// The operator's decision about a member, when it is not simply ready.
    pub fn operator(&self, member: MemberId) -> Option<&OperatorState> {
        let _ = member;
        todo!()
    }

    /// Why this instance holds its verdicts, and since when, while it does.
    pub fn isolated(&self) -> Option<(IsolationCause, Time)> {
        todo!()
    }

    /// Whether the first probe of every target has come back.
    pub fn settled(&self) -> bool {
        todo!()
    }

    /// What must be remembered over a restart.
    pub fn standing(&self) -> Standing {
        todo!()
    }

    /// Everything behind one verdict.
    pub fn explain(&self, target: TargetId) -> Explanation {
        let _ = target;
        todo!()
    }
}
