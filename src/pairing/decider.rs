//! The decider: every verdict machine, every pair's, every operator's decision, conditions and
//! isolation, behind one `handle_*` / `poll_*` interface.
//!
//! ```text
//! probe, evidence ─► machine ─► turn due ─► condemned? ─► effective verdict ─► condition, first
//!                                  │ no: held, others asked     (with what it requires)  │
//! order, lapse, deadline ──────────┴──────────────────────────► readiness ─► publish, end, tell
//!                                                                                        │
//! move, pause, resume ─► pair machine ◄── fitness ◄──────────────────────────────────────┘
//!                            └─► store ─► (disk) ─► handle_stored ─► publish, clear, tell
//! ```
//!
//! What one probe costs grows with the size of its pool, not of the fleet. A change of condition
//! looks the pool's pair and site up, and isolation or a gap touches every pair: rare moments.

mod deriving;
mod holding;
mod orders;
mod pairs;
mod taking_over;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Condition;
use super::agenda::{Agenda, Item};
use super::dice::Dice;
use super::isolation::{EVIDENCE_LAG, Heard, Isolation};
use super::operators::Operators;
use super::pair::PairMachine;
use super::places::Places;
use super::record::Record;
pub use super::words::{
    Event, Explanation, IsolationCause, Order, Output, Pause, Refusal, Standing, Wake,
};
use crate::health::machine::{Machine, Rules};
use crate::health::readiness::{Mode, OperatorState, Readiness, readiness};
use crate::health::{Answer, Evidence, Failure, OwnFault, ProbeOutcome, Reason, Verdict};
use crate::time::Time;
use crate::topology::{Member, MemberId, Pool, PoolId, ServiceId, TargetId, Topology};

/// First probes are spread over one interval, but over no more than this: nobody should be
/// unknown for long.
pub const FIRST_SPREAD: Duration = Duration::from_secs(1);

/// Who is called so much later than it asked to be was suspended, or starved: longer than a busy
/// host keeps anyone waiting. What was known before is too old for a pair's `after` and `hold`.
pub const GAP: Duration = Duration::from_secs(5);

/// Decides for one topology. See the [module docs](super) for how to drive it.
#[derive(Debug)]
pub struct Decider {
    topology: Arc<Topology>,
    places: Places,
    /// By target.
    machines: Vec<Machine>,
    /// By target.
    effective: Vec<Effective>,
    /// By pool.
    pools: Vec<PoolState>,
    /// By service.
    services: Vec<ServiceState>,
    operators: Operators,
    isolation: Isolation,
    /// Targets whose turn is due and waits for a witness.
    held: BTreeSet<usize>,
    /// Silent targets that wait for others to answer before they are asked again, and how long.
    waiting: BTreeMap<usize, Time>,
    agenda: Agenda,
    dice: Dice,
    outputs: VecDeque<Output>,
    /// By pair.
    pairs: Vec<PairMachine>,
    /// By pair: why its last record could not be written.
    unwritten: Vec<Option<String>>,
    pause: Option<Pause>,
    /// By site: whether every pool in it is lost.
    sites_lost: Vec<bool>,
    publish: bool,
    remember: bool,
    /// Targets whose first probe has not come back.
    unsettled: usize,
}

/// The worst of a target's own verdict and those that it requires.
#[derive(Clone, Copy, Debug)]
struct Effective {
    verdict: Verdict,
    reason: Reason,
    since: Time,
    /// Since when it takes new sessions again.
    returned: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct PoolState {
    condition: Condition,
    since: Time,
    present: u16,
}

#[derive(Clone, Copy, Debug)]
struct ServiceState {
    /// Without a usable member.
    lost: bool,
    /// The chosen member, where `first` chooses.
    first: Option<MemberId>,
    /// Members whose first probe has not come back.
    unsettled: usize,
}

impl Decider {
    /// Starts with every verdict `unknown`, everything remembered in force, first probes spread
    /// over one interval, or [`FIRST_SPREAD`] if that is shorter. `records` are the pairs' own, in
    /// their order, each with whether it was damaged; a pair without one begins at home.
    pub fn new(
        topology: Arc<Topology>,
        remembered: Standing,
        records: Vec<(Record, bool)>,
        seed: u64,
        now: Time,
    ) -> Decider {
        let mut records = records.into_iter();
        let pairs = topology.pairs.iter().map(|pair| {
            let (record, damaged) = records.next().unwrap_or((Record::home(0, now), false));
            PairMachine::new(pair.rules.clone(), record, damaged, now)
        });
        let pairs: Vec<PairMachine> = pairs.collect();
        let places = Places::new(&topology);
        let mut dice = Dice::new(seed);
        let machines = topology.targets().map(|target| {
            let rules = Rules::from(&topology.service(target.service()).check);
            let spread = rules.interval.min(FIRST_SPREAD);
            Machine::new(rules, now + spread.mul_f64(dice.share()), now)
        });
        let machines: Vec<Machine> = machines.collect();
        let mut decider = Decider {
            effective: vec![Effective::unknown(now); places.targets()],
            pools: vec![
                PoolState {
                    condition: Condition::Serving,
                    since: now,
                    present: 0,
                };
                topology.pools.len()
            ],
            services: vec![
                ServiceState {
                    lost: false,
                    first: None,
                    unsettled: 0,
                };
                places.services()
            ],
            operators: Operators::default(),
            isolation: Isolation::new(&topology, &places),
            held: BTreeSet::new(),
            waiting: BTreeMap::new(),
            agenda: Agenda::default(),
            dice,
            outputs: VecDeque::new(),
            unwritten: vec![None; pairs.len()],
            pairs,
            pause: None,
            sites_lost: vec![false; topology.sites.len()],
            publish: false,
            remember: false,
            unsettled: places.targets(),
            machines,
            places,
            topology,
        };
        decider.start(remembered, now);
        decider
    }

    /// Takes what a probe brought back.
    pub fn handle_probe(&mut self, target: TargetId, outcome: &ProbeOutcome, now: Time) {
        let place = self.places.target(target);
        let Some(started) = self.machines[place].out_since() else {
            return;
        };
        // By the agenda alone: where very many probes are out, answers wait for a place of theirs.
        self.notice_gap(now, now);
        let first = !self.machines[place].is_settled();
        if first {
            self.unsettled -= 1;
            let service = self.places.service(target.service());
            self.services[service].unsettled -= 1;
        }
        let answer = outcome.answer;
        let swing = self.dice.swing(self.machines[place].rules().jitter);
        let mut heard = Heard::from(answer);
        if heard == Heard::Answer && self.is_refuted(place) {
            self.machines[place].forgive();
        }
        if matches!(heard, Heard::Silence | Heard::Hang) && self.isolation.outlasts(started) {
            heard = Heard::Nothing;
            self.machines[place].handle_void(now, swing);
        } else {
            self.machines[place].handle_answer(answer, now, swing);
        }
        self.isolation
            .handle_probe(place, target.member(), heard, started, now);
        if matches!(heard, Heard::Answer | Heard::Hang) {
            self.handle_sign(target.member(), started, now);
        }
        if answer == Answer::OwnFault(OwnFault::Route)
            && self.machines[place].verdict().0 == Verdict::Up
        {
            self.paths_vanished(BTreeSet::from([target.member()]), now);
        }
        self.weigh(place, now);
        if matches!(heard, Heard::Silence | Heard::Hang) {
            self.call_witnesses(place, now);
        }
        self.advance_inquiry(now, false);
        if first {
            self.settle(target, now);
        }
        self.schedule(place);
        self.do_due(now);
    }

    /// Takes what a client's connect saw.
    pub fn handle_evidence(&mut self, target: TargetId, evidence: Evidence, now: Time) {
        self.notice_gap(now, now);
        let place = self.places.target(target);
        let sign = match evidence {
            Evidence::Answered => true,
            Evidence::Failed(failure) => !failure.is_silence(),
            Evidence::Slow(_) => false,
        };
        if sign {
            let lag = EVIDENCE_LAG.as_nanos() as u64;
            let asked = Time::from_nanos(now.as_nanos().saturating_sub(lag));
            self.isolation.handle_sign(target.member(), asked);
            self.handle_sign(target.member(), asked, now);
        }
        match evidence {
            Evidence::Answered => {}
            Evidence::Failed(failure) => self.handle_failed_connect(place, failure, now, now),
            Evidence::Slow(since) => {
                self.handle_failed_connect(place, Failure::ConnectTimeout, since.min(now), now);
            }
        }
        self.do_due(now);
    }

    /// Takes news of local links and routes: `unrouted` are all members that no local route with
    /// a live link leads to now.
    pub fn handle_paths(&mut self, unrouted: &[MemberId], now: Time) {
        self.notice_gap(now, now);
        let unrouted = unrouted.iter().copied().collect();
        let (lost, back) = self.isolation.handle_paths(unrouted);
        self.paths_vanished(lost.into_iter().collect(), now);
        for member in back {
            for place in self.places.targets_of(member) {
                self.pull_spread(place, now);
            }
        }
        self.do_due(now);
    }

    /// Carries out an operator's order, or says why not.
    pub fn handle_order(&mut self, order: Order, now: Time) -> Result<(), Refusal> {
        self.notice_gap(now, now);
        let member = order.member;
        if order.mode == Mode::Maintenance && !order.force {
            self.refuse_to_lose(member)?;
        }
        let drain = self.topology.pool(member.pool).drain_deadline;
        let before = self.takes_of(member);
        if let Some(state) = self.operators.handle_order(order, drain, now) {
            self.operator_changed(member, state, &before, now);
        }
        if self.operators.mode(member) == Mode::Maintenance && self.isolation.leave_out(member) {
            self.end_isolation(now);
        }
        self.do_due(now);
        Ok(())
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.notice_gap(now, now);
        self.do_due(now);
    }

    /// The next thing to do; drain until none.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            Some(output)
        } else if std::mem::take(&mut self.publish) {
            Some(Output::Publish)
        } else if std::mem::take(&mut self.remember) {
            Some(Output::Remember)
        } else {
            None
        }
    }

    /// When to call [`Decider::handle_timeout`] next, and what for.
    pub fn poll_timeout(&self) -> Option<(Time, Wake)> {
        self.agenda.next()
    }

    /// What it decides for.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// What a member may do for a service, by effective verdict and operator state.
    pub fn readiness(&self, target: TargetId) -> Readiness {
        let verdict = self.effective[self.places.target(target)].verdict;
        readiness(verdict, self.operators.mode(target.member()))
    }

    /// The effective verdict: the worst of the service's own and those it requires.
    pub fn verdict(&self, target: TargetId) -> (Verdict, Reason, Time) {
        let effective = &self.effective[self.places.target(target)];
        (effective.verdict, effective.reason, effective.since)
    }

    /// Since when the member takes new sessions for this service again after it did not; slow
    /// start counts from here. None when it always has since the start.
    pub fn returned(&self, target: TargetId) -> Option<Time> {
        self.effective[self.places.target(target)].returned
    }

    /// The pool's condition, since when; members present among those that count.
    pub fn condition(&self, pool: PoolId) -> (Condition, Time, u16) {
        let state = &self.pools[pool.index()];
        (state.condition, state.since, state.present)
    }

    /// The chosen member of a service balanced by `first`.
    pub fn first(&self, service: ServiceId) -> Option<MemberId> {
        self.services[self.places.service(service)].first
    }

    /// The operator's decision about a member, when it is not simply ready.
    pub fn operator(&self, member: MemberId) -> Option<&OperatorState> {
        self.operators.get(member)
    }

    /// Why this instance holds its verdicts, and since when, while it does.
    pub fn isolated(&self) -> Option<(IsolationCause, Time)> {
        self.isolation.cause()
    }

    /// Whether the first probe of every target has come back.
    pub fn settled(&self) -> bool {
        self.unsettled == 0
    }

    /// What must be remembered over a restart.
    pub fn standing(&self) -> Standing {
        let services = self.topology.pools.iter().flat_map(|pool| &pool.services);
        let first = services.filter_map(|service| Some((service.id, self.first(service.id)?)));
        Standing {
            operators: self.operators.all(),
            first: first.collect(),
            pause: self.pause.clone(),
        }
    }

    /// Everything behind one verdict.
    pub fn explain(&self, target: TargetId) -> Explanation {
        let place = self.places.target(target);
        let machine = &self.machines[place];
        let effective = &self.effective[place];
        let failures = machine.failures();
        let held = machine.due().is_some();
        Explanation {
            own: machine.verdict().0,
            effective: effective.verdict,
            reason: effective.reason,
            since: effective.since,
            last_failure: machine.last_failure(),
            failures: failures.count,
            from_evidence: failures.from_evidence,
            fall: machine.rules().fall,
            successes: machine.successes(),
            rise: machine.rules().rise,
            flaps: machine.flaps(),
            flap: machine.rules().flap,
            next_probe: machine.next_probe(),
            next: machine.next_turn(),
            own_fault: machine.own_fault(),
            held,
        }
    }

    // Small things.

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Tell(event));
    }

    /// The primary service's own verdict and the operator's wish, by member.
    fn presence(&self, pool: &Pool) -> Vec<(Verdict, Mode)> {
        let of = |member: &Member| {
            let place = self.places.target(member.id.target(pool.primary));
            let (verdict, ..) = self.machines[place].verdict();
            (verdict, self.operators.mode(member.id))
        };
        pool.members.iter().map(of).collect()
    }

    /// Puts a target's next probe on the agenda.
    fn schedule(&mut self, place: usize) {
        let next = self.machines[place].next_probe();
        self.agenda.set(Item::Probe(place), next);
    }

    fn do_due(&mut self, now: Time) {
        while let Some(item) = self.agenda.pop(now) {
            match item {
                Item::Probe(place) => self.ask(place, now),
                Item::Lapse(member) => self.lapse(member, now),
                Item::Deadline(member) => self.meet_deadline(member, now),
                Item::Inquiry => self.advance_inquiry(now, true),
                Item::Pair(pair) => self.step_pair(pair, now),
            }
        }
    }

    fn ask(&mut self, place: usize, now: Time) {
        self.waiting.remove(&place);
        self.machines[place].handle_ask(now);
        self.isolation.handle_ask(place);
        let target = self.places.target_at(place);
        self.outputs.push_back(Output::Probe(target));
    }
}

impl Effective {
    fn unknown(now: Time) -> Effective {
        Effective {
            verdict: Verdict::Unknown,
            reason: Reason::NotYetAsked,
            since: now,
            returned: None,
        }
    }
}

#[cfg(test)]
pub(in crate::pairing) mod tests;
