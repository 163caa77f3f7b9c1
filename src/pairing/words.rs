//! What goes into a [`Decider`](super::Decider) and what comes out of it.

use super::Condition;
use super::record::{By, Cause, Phase, Record};
use crate::health::readiness::{Mode, OperatorState};
use crate::health::{Failure, OwnFault, Reason, Verdict};
use crate::time::Time;
use crate::topology::{MemberId, PairId, PoolId, ServiceId, SiteId, TargetId};

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
    /// Whether all automation of pairs is paused.
    pub pause: Option<Pause>,
}

/// Who paused all automation of pairs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Pause {
    /// Who.
    pub by: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Since when.
    pub since: Time,
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
    /// [`Decider::standing`](super::Decider::standing) has changed: store it.
    Remember,
    /// Write this record of a pair; answered by exactly one
    /// [`Decider::handle_stored`](super::Decider::handle_stored). It is in force after that, and
    /// not before.
    Store(PairId, Record),
    /// End the sessions of a pool's users that stand on a pool's members, at the pair's bounded
    /// rate, however long that takes. Replaces what was said of the same users before.
    Clear {
        /// The home pool.
        home: PoolId,
        /// Off whose members; none to let them all be.
        off: Option<PoolId>,
        /// From when on.
        from: Time,
    },
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
    /// The users of a home pool are sent elsewhere. Steps of a return are not told one by one.
    Redirect {
        /// Whose.
        pool: PoolId,
        /// From where.
        from: Phase,
        /// Where to.
        to: Phase,
        /// Why.
        cause: Cause,
        /// Who decided.
        by: By,
        /// Why, in their words.
        reason: Option<String>,
        /// The generation that it came with.
        generation: u64,
    },
    /// Automation ended for a pair, or a person ended the alarm.
    Alarm {
        /// Which.
        pair: PairId,
        /// Whether it is on.
        on: bool,
    },
    /// A record could not be written, and what it wanted is not in force; or the first that could
    /// be again.
    Unwritten {
        /// Whose.
        pair: PairId,
        /// Why; none when it could be written again.
        error: Option<String>,
    },
    /// All automation of pairs was paused, or goes on.
    Pause {
        /// By whom, while it is.
        pause: Option<Pause>,
        /// Who ended it, when it is not.
        by: Option<String>,
    },
    /// Every pool of a site is lost, or no longer.
    Site {
        /// Which.
        site: SiteId,
        /// Whether they are.
        lost: bool,
    },
    /// Connections that no home member accepted go to the twin, or no longer.
    Spill {
        /// Whose.
        pool: PoolId,
        /// Whether they do.
        on: bool,
    },
}

/// Why an instance thinks the fault is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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

/// When to call [`Decider::handle_timeout`](super::Decider::handle_timeout), and what for.
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
    /// To take a pair's next step.
    Pair,
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
