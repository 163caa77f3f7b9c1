//! The decider: every verdict machine, every operator's decision, conditions and isolation, behind
//! one `handle_*` / `poll_*` interface.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Condition;
use super::condition::{condition, is_present};
use super::isolation::{Heard, Isolation, IsolationCause};
use crate::health::machine::Machine;
use crate::health::readiness::{Mode, OperatorState, Readiness, Takes, readiness};
use crate::health::{Answer, Evidence, Failure, OwnFault, ProbeOutcome, Reason, Verdict};
use crate::time::Time;
use crate::topology::{MemberId, Policy, PoolId, Service, ServiceId, TargetId, Topology};

/// First probes are spread over this, or over the check's interval where that is shorter.
const SPREAD: Duration = Duration::from_secs(1);
/// Members asked beside one whose silence is about to be believed, in its own pool and as many in
/// others: whether the network lives must be known by then. Enough for a majority of the largest
/// usual pools; larger ones are asked by their own schedule within an interval.
const WITNESSES: usize = 16;
/// Who ends what an operator ordered for a while.
const LAPSED_BY: &str = "twinpool";

/// Decides for one topology. See the [module docs](super) for how to drive it.
#[derive(Clone, Debug)]
pub struct Decider {
    topology: Arc<Topology>,
    pools: Vec<PoolState>,
    isolation: Isolation,
    /// Everything that is due some time. A probe's place here follows its machine's.
    timers: BTreeSet<(Time, Timer)>,
    outputs: VecDeque<Output>,
    /// Targets that no probe has come back for.
    unsettled: usize,
    /// How long silence is held back for want of a witness before it is believed all the same.
    patience: Duration,
}

/// What is known of one pool.
#[derive(Clone, Debug)]
struct PoolState {
    members: Vec<MemberState>,
    services: Vec<ServiceState>,
    condition: Condition,
    since: Time,
    present: u16,
    /// Targets of its primary service that no probe has come back for.
    unsettled: usize,
}

/// What is known of one member.
#[derive(Clone, Debug)]
struct MemberState {
    operator: Option<OperatorState>,
    /// By service.
    targets: Vec<TargetState>,
}

/// What is known of one target.
#[derive(Clone, Debug)]
struct TargetState {
    machine: Machine,
    /// When the probe that is out, or was last, was asked.
    asked: Time,
    /// Its place among the timers.
    timer: Option<Time>,
    /// Whether any probe has come back.
    settled: bool,
    /// Since when a transition is held back.
    held: Option<Time>,
    effective: (Verdict, Reason, Time),
    returned: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct ServiceState {
    lost: bool,
    /// The chosen member, where the policy is `first`.
    first: Option<MemberId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Probe(TargetId),
    Lapse(MemberId),
    Deadline(MemberId),
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

/// When to call [`Decider::handle_timeout`], and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wake {
    /// To ask a target.
    Probe,
    /// To let an operator's decision lapse.
    Lapse,
    /// To end what a drained member still holds.
    Deadline,
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

impl Decider {
    /// Starts with every verdict `unknown`, everything remembered in force, first probes spread
    /// over one interval.
    pub fn new(topology: Arc<Topology>, remembered: Standing, seed: u64, now: Time) -> Decider {
        let mut dice = seed;
        let mut patience = Duration::ZERO;
        let pools = topology.pools.iter().map(|pool| {
            let mut member_state = |id: MemberId| MemberState {
                operator: None,
                targets: pool
                    .services
                    .iter()
                    .map(|service| {
                        dice = dice
                            .wrapping_mul(0x5851_f42d_4c95_7f2d)
                            .wrapping_add(id.index() as u64);
                        let check = &service.check;
                        patience = patience.max(check.interval * 2 + check.timeout);
                        let spread = check.interval.min(SPREAD);
                        let first = now + spread / 1_024 * ((dice >> 33) as u32 % 1_024);
                        TargetState {
                            machine: Machine::new(check, first, dice, now),
                            asked: now,
                            timer: None,
                            settled: false,
                            held: None,
                            effective: (Verdict::Unknown, Reason::NotYetAsked, now),
                            returned: None,
                        }
                    })
                    .collect(),
            };
            PoolState {
                members: pool.members.iter().map(|m| member_state(m.id)).collect(),
                services: vec![
                    ServiceState {
                        lost: false,
                        first: None,
                    };
                    pool.services.len()
                ],
                condition: Condition::Serving,
                since: now,
                present: pool.quorum.to_stay.of_first.min(pool.members.len() as u16),
                unsettled: pool.members.len(),
            }
        });
        let pools = pools.collect();
        let mut decider = Decider {
            pools,
            isolation: Isolation::default(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            unsettled: topology.targets().count(),
            patience,
            topology,
        };
        decider.recall(remembered, now);
        decider
    }

    fn recall(&mut self, remembered: Standing, now: Time) {
        for (member, state) in remembered.operators {
            self.set_timers(member, Some(&state));
            self.member_mut(member).operator = Some(state);
        }
        for (service, member) in remembered.first {
            self.service_mut(service).first = Some(member);
        }
        let topology = self.topology.clone();
        for pool in &topology.pools {
            self.review(pool.id, now);
        }
        for target in topology.targets() {
            self.reschedule(target);
        }
        // What has been in force since before the start is no news.
        self.outputs.clear();
    }

    /// Takes what a probe brought back.
    pub fn handle_probe(&mut self, target: TargetId, outcome: &ProbeOutcome, now: Time) {
        let was_up = self.target(target).machine.verdict().0 == Verdict::Up;
        let state = self.target_mut(target);
        let asked = state.asked;
        state.machine.handle_probe(outcome.answer, now);
        self.mark_settled(target, outcome.answer);
        match outcome.answer {
            Answer::Good => self.heard(target.member(), now),
            // The connect was answered, the rest was not: it proves nothing about our side.
            Answer::Bad(Failure::NoAnswer) => {}
            Answer::Bad(failure) if failure.is_silence() => self.silence(target, asked, now),
            Answer::Bad(_) => self.heard(target.member(), now),
            Answer::OwnFault(OwnFault::Route) if was_up => {
                if self.isolation.handle_vanished(now) {
                    self.tell_isolated();
                }
            }
            Answer::OwnFault(_) => {}
        }
        self.settle(target, now);
        self.reschedule(target);
        self.review(target.pool, now);
    }

    /// Takes what a client's connect saw.
    pub fn handle_evidence(&mut self, target: TargetId, evidence: Evidence, now: Time) {
        match evidence {
            Evidence::Answered => self.heard(target.member(), now),
            Evidence::Failed(failure) => {
                let machine = &mut self.target_mut(target).machine;
                machine.handle_evidence(failure, now);
                if !failure.is_silence() {
                    self.settle(target, now);
                } else if self.wants_witness(target) {
                    self.ask_witnesses(target.member(), now);
                }
                self.reschedule(target);
            }
        }
        self.review(target.pool, now);
    }

    /// Takes news of local links and routes: `unrouted` are all members that no local route with
    /// a live link leads to now.
    pub fn handle_paths(&mut self, unrouted: &[MemberId], now: Time) {
        let had_answered = |member: &MemberId| {
            let well =
                |t: &TargetState| matches!(t.machine.verdict().0, Verdict::Up | Verdict::Busy);
            !self.isolation.is_unrouted(*member) && self.member(*member).targets.iter().any(well)
        };
        let vanished = unrouted.iter().any(had_answered);
        self.isolation.handle_paths(unrouted);
        if vanished && self.isolation.handle_vanished(now) {
            self.tell_isolated();
        }
    }

    /// Carries out an operator's order, or says why not.
    pub fn handle_order(&mut self, order: Order, now: Time) -> Result<(), Refusal> {
        let pool = self.topology.pool(order.member.pool);
        if order.mode == Mode::Maintenance && !order.force {
            self.may_maintain(order.member)?;
        }
        let present = self.member(order.member).operator.as_ref();
        let deadline = match order.mode {
            Mode::Ready => None,
            _ => Some(
                present
                    .filter(|state| state.mode == order.mode)
                    .and_then(|state| state.deadline)
                    .unwrap_or(now + pool.drain_deadline),
            ),
        };
        let since = present
            .filter(|state| state.mode == order.mode)
            .map_or(now, |state| state.since);
        let state = OperatorState {
            mode: order.mode,
            by: order.by,
            reason: order.reason,
            since,
            until: order.until.filter(|_| order.mode != Mode::Ready),
            deadline,
        };
        self.set_operator(order.member, state, now);
        Ok(())
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(&(due, timer)) = self.timers.first() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Probe(target) => self.ask(target, now),
                Timer::Lapse(member) => self.lapse(member, now),
                Timer::Deadline(member) if self.isolation.state().is_some() => {
                    self.timers.insert((now + SPREAD, Timer::Deadline(member)));
                }
                Timer::Deadline(member) => {
                    let event = Event::Deadline { member };
                    self.outputs.push_back(Output::Tell(event.clone()));
                    self.outputs.push_back(Output::End {
                        member,
                        service: None,
                        event,
                    });
                }
            }
        }
    }

    /// The next thing to do; drain until none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Decider::handle_timeout`] next, and what for.
    pub fn poll_timeout(&self) -> Option<(Time, Wake)> {
        let (due, timer) = *self.timers.first()?;
        let wake = match timer {
            Timer::Probe(_) => Wake::Probe,
            Timer::Lapse(_) => Wake::Lapse,
            Timer::Deadline(_) => Wake::Deadline,
        };
        Some((due, wake))
    }

    /// What it decides for.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// What a member may do for a service, by effective verdict and operator state.
    pub fn readiness(&self, target: TargetId) -> Readiness {
        let (verdict, ..) = self.target(target).effective;
        readiness(verdict, self.mode(target.member()))
    }

    /// The effective verdict: the worst of the service's own and those it requires.
    pub fn verdict(&self, target: TargetId) -> (Verdict, Reason, Time) {
        self.target(target).effective
    }

    /// Since when the member takes new sessions for this service again after it did not; slow
    /// start counts from here. None when it always has since the start.
    pub fn returned(&self, target: TargetId) -> Option<Time> {
        self.target(target).returned
    }

    /// The pool's condition, since when; members present among those that count.
    pub fn condition(&self, pool: PoolId) -> (Condition, Time, u16) {
        let pool = &self.pools[pool.index()];
        (pool.condition, pool.since, pool.present)
    }

    /// The chosen member of a service balanced by `first`.
    pub fn first(&self, service: ServiceId) -> Option<MemberId> {
        self.pools[service.pool.index()].services[service.index()].first
    }

    /// The operator's decision about a member, when it is not simply ready.
    pub fn operator(&self, member: MemberId) -> Option<&OperatorState> {
        self.member(member).operator.as_ref()
    }

    /// Why this instance holds its verdicts, and since when, while it does.
    pub fn isolated(&self) -> Option<(IsolationCause, Time)> {
        self.isolation.state()
    }

    /// Whether the first probe of every target has come back.
    pub fn settled(&self) -> bool {
        self.unsettled == 0
    }

    /// What must be remembered over a restart.
    pub fn standing(&self) -> Standing {
        let members = self.topology.pools.iter().flat_map(|pool| &pool.members);
        let services = self.topology.pools.iter().flat_map(|pool| &pool.services);
        Standing {
            operators: members
                .filter_map(|m| Some((m.id, self.operator(m.id)?.clone())))
                .collect(),
            first: services
                .filter_map(|s| Some((s.id, self.first(s.id)?)))
                .collect(),
        }
    }

    /// Everything behind one verdict.
    pub fn explain(&self, target: TargetId) -> Explanation {
        let state = self.target(target);
        let machine = &state.machine;
        let (effective, reason, since) = state.effective;
        let progress = machine.progress();
        Explanation {
            own: machine.verdict().0,
            effective,
            reason,
            since,
            last_failure: machine.last_failure(),
            failures: progress.failures,
            from_evidence: progress.from_evidence,
            fall: progress.fall,
            successes: progress.successes,
            rise: progress.rise,
            flaps: progress.flaps,
            flap: progress.flap,
            next_probe: machine.due(),
            next: machine.outlook(),
            own_fault: machine.own_fault(),
            held: state.held.is_some(),
        }
    }

    fn ask(&mut self, target: TargetId, now: Time) {
        let state = self.target_mut(target);
        state.timer = None;
        state.asked = now;
        state.machine.handle_asked(now);
        self.outputs.push_back(Output::Probe(target));
        if self.wants_witness(target) {
            self.ask_witnesses(target.member(), now);
        }
    }

    /// Whether a target is silent, is being asked, and nobody was heard since.
    fn wants_witness(&self, target: TargetId) -> bool {
        let TargetState { machine, asked, .. } = self.target(target);
        self.topology.pools.len() > 1
            && machine.is_silent()
            && machine.due().is_none()
            && !self.isolation.has_witness(target.member(), *asked)
    }

    /// Has others asked beside a member that is silent: its own pool's, and others'.
    fn ask_witnesses(&mut self, doubted: MemberId, now: Time) {
        let topology = self.topology.clone();
        let of_pool = |pool: PoolId| topology.pool(pool).members.iter().map(|member| member.id);
        let own = of_pool(doubted.pool).filter(|&member| member != doubted);
        let others = topology.pools.iter().map(|pool| pool.id);
        let others = others
            .filter(|&pool| pool != doubted.pool)
            .flat_map(of_pool);
        let witnesses: Vec<MemberId> = own.take(WITNESSES).chain(others.take(WITNESSES)).collect();
        for member in witnesses {
            let target = member.target(topology.pool(member.pool).primary);
            let machine = &mut self.target_mut(target).machine;
            if machine.due().is_some() {
                machine.pull(now);
                self.reschedule(target);
            }
        }
    }

    /// Somebody answered; that may end an isolation, and with it every doubt it caused.
    fn heard(&mut self, member: MemberId, now: Time) {
        if self.isolation.handle_answer(member, now) == Heard::Over {
            self.outputs
                .push_back(Output::Tell(Event::Isolation { cause: None }));
            let topology = self.topology.clone();
            for target in topology.targets() {
                let state = self.target_mut(target);
                state.held = None;
                state.machine.forget_doubt(now);
                self.settle(target, now);
                self.reschedule(target);
            }
            for pool in &topology.pools {
                self.review(pool.id, now);
            }
        }
    }

    fn silence(&mut self, target: TargetId, asked: Time, now: Time) {
        if self.target(target).machine.verdict().0 == Verdict::Down {
            return;
        }
        self.isolation.handle_silence(target.member(), asked);
        let well = |pool: PoolId| {
            let primary = self.topology.pool(pool).primary.index();
            let alive = |m: &&MemberState| m.targets[primary].machine.verdict().0 != Verdict::Down;
            self.pools[pool.index()]
                .members
                .iter()
                .filter(alive)
                .count()
        };
        if self.isolation.judge(well, now) {
            self.tell_isolated();
        }
    }

    fn tell_isolated(&mut self) {
        let cause = self.isolation.state().map(|(cause, _)| cause);
        self.outputs
            .push_back(Output::Tell(Event::Isolation { cause }));
    }

    /// Makes the transition that a machine calls for, unless it is held back.
    fn settle(&mut self, target: TargetId, now: Time) {
        let Some(wanted) = self.target(target).machine.wants() else {
            self.target_mut(target).held = None;
            return;
        };
        if self.is_held(target, wanted.reason, now) {
            let held = &mut self.target_mut(target).held;
            *held = held.or(Some(now));
            return;
        }
        let state = self.target_mut(target);
        state.held = None;
        let Some(made) = state.machine.settle(now) else {
            return;
        };
        if made.to == Verdict::Down {
            self.isolation.handle_down(target.member());
        }
        self.refresh(target.member(), now);
    }

    /// Whether the fault may be our own: then nothing changes.
    fn is_held(&self, target: TargetId, reason: Reason, now: Time) -> bool {
        if self.isolation.state().is_some() {
            return true;
        }
        let Reason::Failed(failure) = reason else {
            return false;
        };
        if !failure.is_silence() {
            return false;
        }
        if self.isolation.is_unrouted(target.member()) {
            return true;
        }
        let state = self.target(target);
        let out_of_patience = state
            .held
            .is_some_and(|held| now.since(held) >= self.patience);
        self.topology.pools.len() > 1
            && !out_of_patience
            && !self.isolation.has_witness(target.member(), state.asked)
    }

    /// Derives a member's effective verdicts, and what follows from each that changed.
    fn refresh(&mut self, member: MemberId, now: Time) {
        let topology = self.topology.clone();
        for service in &topology.pool(member.pool).services {
            let target = member.target(service.id);
            let (from, ..) = self.target(target).effective;
            let (to, reason) = self.effective(member, service);
            let state = self.target_mut(target);
            if to == from {
                state.effective.1 = reason;
                continue;
            }
            state.effective = (to, reason, now);
            let event = Event::Verdict {
                target,
                from,
                to,
                reason,
            };
            self.outputs.push_back(Output::Tell(event.clone()));
            self.outputs.push_back(Output::Publish);
            if to == Verdict::Down {
                self.outputs.push_back(Output::End {
                    member,
                    service: Some(service.id),
                    event,
                });
            }
            let mode = self.mode(member);
            self.note_return(target, readiness(from, mode), readiness(to, mode), now);
        }
    }

    fn effective(&self, member: MemberId, service: &Service) -> (Verdict, Reason) {
        let own = |service: ServiceId| self.target(member.target(service)).machine.verdict();
        let (verdict, reason, _) = own(service.id);
        let required = service.requires.iter().map(|&required| {
            let (verdict, ..) = own(required);
            (verdict, Reason::Requires(required))
        });
        required.fold((verdict, reason), |worst, other| {
            if badness(other.0) > badness(worst.0) {
                other
            } else {
                worst
            }
        })
    }

    /// Slow start begins when a member takes new sessions that did not, but for the start of all.
    fn note_return(&mut self, target: TargetId, before: Readiness, after: Readiness, now: Time) {
        let state = self.target_mut(target);
        match (before.takes, after.takes) {
            (Takes::New, Takes::New) => {}
            (_, Takes::New) => state.returned = Some(now),
            _ => state.returned = None,
        }
    }

    /// Derives a pool's condition, its services' state and chosen members.
    fn review(&mut self, id: PoolId, now: Time) {
        let topology = self.topology.clone();
        let pool = topology.pool(id);
        for service in &pool.services {
            if service.balance == Policy::First {
                self.choose_first(service.id);
            }
        }
        if self.pools[id.index()].unsettled > 0 {
            return;
        }
        let primary = pool.primary.index();
        let state = &self.pools[id.index()];
        let members = state.members.iter().map(|member| {
            let (verdict, ..) = member.targets[primary].effective;
            (verdict, mode_of(member))
        });
        let (to, present) = condition(pool.quorum.to_stay, members);
        let state = &mut self.pools[id.index()];
        let from = std::mem::replace(&mut state.condition, to);
        state.present = present;
        if from != to {
            state.since = now;
            let need = pool.quorum.to_stay.members;
            self.outputs.push_back(Output::Tell(Event::Condition {
                pool: id,
                from,
                to,
                present,
                need,
            }));
            self.outputs.push_back(Output::Publish);
        }
        for service in pool.services.iter().filter(|s| s.id != pool.primary) {
            let takes = |member: MemberId| self.readiness(member.target(service.id)).takes;
            let lost = pool.members.iter().all(|m| takes(m.id) == Takes::No);
            let before = std::mem::replace(&mut self.service_mut(service.id).lost, lost);
            if before != lost {
                self.outputs.push_back(Output::Tell(Event::Service {
                    service: service.id,
                    lost,
                }));
            }
        }
    }

    /// Keeps the chosen member of a `first` service while it is usable; else takes the next.
    fn choose_first(&mut self, service: ServiceId) {
        let pool = self.topology.pool(service.pool);
        let takes = |member: MemberId| self.readiness(member.target(service)).takes;
        let before = self.first(service);
        if before.is_some_and(|member| takes(member) == Takes::New) {
            return;
        }
        // The best that is usable; members sort stably in file order.
        let best = pool
            .members
            .iter()
            .filter(|member| takes(member.id) != Takes::No)
            .min_by_key(|member| {
                let others_turn = before != Some(member.id);
                (
                    takes(member.id) == Takes::LastResort,
                    member.backup,
                    others_turn,
                )
            });
        let Some(chosen) = best.map(|member| member.id) else {
            return;
        };
        if before == Some(chosen) {
            return;
        }
        self.service_mut(service).first = Some(chosen);
        if let Some(from) = before {
            let to = chosen;
            self.outputs
                .push_back(Output::Tell(Event::First { service, from, to }));
        }
        self.outputs.push_back(Output::Remember);
        self.outputs.push_back(Output::Publish);
    }

    fn may_maintain(&self, member: MemberId) -> Result<(), Refusal> {
        let pool = self.topology.pool(member.pool);
        let primary = pool.primary.index();
        let need = pool.quorum.to_stay;
        let counted = &self.pools[member.pool.index()].members
            [..usize::from(need.of_first).min(pool.members.len())];
        let present = |m: &MemberState| is_present(m.targets[primary].effective.0, mode_of(m));
        let now_present = counted.iter().filter(|m| present(m)).count() as u16;
        let leaves = member.index() < counted.len() && present(self.member(member));
        let remain = now_present - u16::from(leaves);
        if leaves && now_present >= need.members && remain < need.members {
            return Err(Refusal::WouldLosePool {
                pool: pool.id,
                remain,
                need: need.members,
            });
        }
        Ok(())
    }

    fn lapse(&mut self, member: MemberId, now: Time) {
        let state = OperatorState {
            mode: Mode::Ready,
            by: LAPSED_BY.to_owned(),
            reason: Some("its time is over".to_owned()),
            since: now,
            until: None,
            deadline: None,
        };
        self.set_operator(member, state, now);
    }

    fn set_operator(&mut self, member: MemberId, state: OperatorState, now: Time) {
        let before = self.mode(member);
        let after = state.mode;
        self.set_timers(member, Some(&state));
        self.member_mut(member).operator = (after != Mode::Ready).then(|| state.clone());
        self.outputs
            .push_back(Output::Tell(Event::Operator { member, state }));
        self.outputs.push_back(Output::Remember);
        self.outputs.push_back(Output::Publish);
        let topology = self.topology.clone();
        for service in &topology.pool(member.pool).services {
            let target = member.target(service.id);
            let (verdict, ..) = self.target(target).effective;
            let (was, is) = (readiness(verdict, before), readiness(verdict, after));
            self.note_return(target, was, is, now);
        }
        self.review(member.pool, now);
    }

    /// Puts a member's lapse and deadline among the timers, instead of those it had.
    fn set_timers(&mut self, member: MemberId, state: Option<&OperatorState>) {
        if let Some(old) = &self.member(member).operator {
            let (until, deadline) = (old.until, old.deadline);
            if let Some(until) = until {
                self.timers.remove(&(until, Timer::Lapse(member)));
            }
            if let Some(deadline) = deadline {
                self.timers.remove(&(deadline, Timer::Deadline(member)));
            }
        }
        if let Some(until) = state.and_then(|state| state.until) {
            self.timers.insert((until, Timer::Lapse(member)));
        }
        if let Some(deadline) = state.and_then(|state| state.deadline) {
            self.timers.insert((deadline, Timer::Deadline(member)));
        }
    }

    fn mark_settled(&mut self, target: TargetId, answer: Answer) {
        let primary = self.topology.pool(target.pool).primary == target.service();
        // A fault of our own says nothing, but waiting for more could last for ever.
        let state = self.target_mut(target);
        let undecided = state.machine.wants().is_none() && !state.machine.is_settled();
        let waits = undecided && matches!(answer, Answer::Bad(_));
        if state.settled || waits {
            return;
        }
        state.settled = true;
        self.unsettled -= 1;
        if primary {
            self.pools[target.pool.index()].unsettled -= 1;
        }
    }

    fn reschedule(&mut self, target: TargetId) {
        let state = self.target(target);
        let (before, due) = (state.timer, state.machine.due());
        if before == due {
            return;
        }
        if let Some(before) = before {
            self.timers.remove(&(before, Timer::Probe(target)));
        }
        if let Some(due) = due {
            self.timers.insert((due, Timer::Probe(target)));
        }
        self.target_mut(target).timer = due;
    }

    fn mode(&self, member: MemberId) -> Mode {
        mode_of(self.member(member))
    }

    fn member(&self, id: MemberId) -> &MemberState {
        &self.pools[id.pool.index()].members[id.index()]
    }

    fn member_mut(&mut self, id: MemberId) -> &mut MemberState {
        &mut self.pools[id.pool.index()].members[id.index()]
    }

    fn target(&self, id: TargetId) -> &TargetState {
        &self.member(id.member()).targets[id.service().index()]
    }

    fn target_mut(&mut self, id: TargetId) -> &mut TargetState {
        &mut self.member_mut(id.member()).targets[id.service().index()]
    }

    fn service_mut(&mut self, id: ServiceId) -> &mut ServiceState {
        &mut self.pools[id.pool.index()].services[id.index()]
    }
}

fn mode_of(member: &MemberState) -> Mode {
    member
        .operator
        .as_ref()
        .map_or(Mode::Ready, |state| state.mode)
}

/// Which of two verdicts is worse for a member that needs both.
fn badness(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Up => 0,
        Verdict::Unknown => 1,
        Verdict::Busy => 2,
        Verdict::Down => 3,
    }
}

#[cfg(test)]
mod tests;
