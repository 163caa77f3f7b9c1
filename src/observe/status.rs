//! [`Status`]: everything that is known of an instance at one moment, as plain data.
//!
//! `/v1/status` returns it, the command line renders it, `/metrics` is derived from it: one fact is
//! computed once, here, from a [`View`]. Nothing here decides, and nothing here knows how it looks
//! on a page.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::counters::{ServiceCounters, WorkerCounters};
use super::events::{Event, reason_text};
use super::serve::ServerCounters;
use super::stamp::{Clock, Stamp};
use super::view::{CheckTotals, RunState, View};
use crate::health::readiness::{Mode, OperatorState, Takes};
use crate::health::{Reason, Verdict};
use crate::pairing::Condition;
use crate::pairing::IsolationCause;
use crate::topology::{BelowQuorum, Member, Pool, Service, ServiceId, TargetId};

/// How many of the last events a status carries.
pub const RECENT_EVENTS: usize = 8;

/// An instance at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The instance's name.
    pub instance: String,
    /// The version that runs.
    pub version: String,
    /// What it is doing.
    pub state: RunState,
    /// The moment.
    pub now: Stamp,
    /// When the instance started.
    pub started: Stamp,
    /// While it thinks that the fault is its own.
    pub isolated: Option<Isolated>,
    /// Worker threads.
    pub workers: u64,
    /// Sessions over all pools.
    pub sessions: Sessions,
    /// Faults of its own side since the start, by kind.
    pub own_faults: OwnFaults,
    /// Evidence from traffic that found the way to the control thread full.
    pub reports_dropped: u64,
    /// Why decisions might not outlive a restart.
    pub store_problem: Option<String>,
    /// Its HTTP servers.
    pub servers: Vec<ServerStatus>,
    /// In file order.
    pub pools: Vec<PoolStatus>,
    /// The last transitions, oldest first.
    pub recent: Vec<Event>,
}

/// Since when and why an instance holds its verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolated {
    /// Since when.
    pub since: Stamp,
    /// Why, in words.
    pub cause: String,
}

/// Sessions held, and how many there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Held now.
    pub open: u64,
    /// How many may be held.
    pub limit: u64,
}

/// Faults of our own side since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnFaults {
    /// No descriptor left.
    pub descriptors: u64,
    /// No source port left.
    pub source_ports: u64,
    /// No memory left.
    pub memory: u64,
    /// No route.
    pub route: u64,
    /// Anything else.
    pub other: u64,
}

/// One of the instance's HTTP servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// `observe` or `control`.
    pub name: String,
    /// Connections open now.
    pub open: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once because too many were open.
    pub refused: u64,
    /// Connections closed because they were too slow.
    pub too_slow: u64,
    /// Errors of accepting.
    pub accept_errors: u64,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its site.
    pub site: Option<String>,
    /// Whether this instance fronts it.
    pub fronted: bool,
    /// Whether it can serve its users.
    pub condition: Condition,
    /// Since when.
    pub since: Stamp,
    /// Members present among those that count.
    pub present: u16,
    /// Members it needs to stay.
    pub need: u16,
    /// How many members count, from the start of the list.
    pub of_first: u16,
    /// Whether its users can be served here.
    pub health: PoolHealth,
    /// In file order.
    pub services: Vec<ServiceStatus>,
    /// In file order.
    pub members: Vec<MemberStatus>,
}

/// Whether a pool's users can be served here: what `/health/POOL` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolHealth {
    /// The pool's name.
    pub pool: String,
    /// Whether they can.
    pub ok: bool,
    /// Why, or why not.
    pub why: String,
}

/// A service of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Whether it decides quorum and condition.
    pub primary: bool,
    /// Where clients connect.
    pub listen: Vec<SocketAddr>,
    /// Sessions open now.
    pub open: u64,
    /// Members that take new sessions; those of last resort when there are no others.
    pub usable: u16,
    /// Whether no member is usable.
    pub lost: bool,
    /// The chosen member, when it is balanced by `first`.
    pub first: Option<String>,
    /// What was counted since the start.
    pub totals: ServiceTotals,
}

/// [`ServiceCounters`] of all workers, summed. The fields mean the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented where they are counted")]
pub struct ServiceTotals {
    pub accepted: u64,
    pub established: u64,
    pub ended: u64,
    pub refused_no_member: u64,
    pub refused_attempts: u64,
    pub refused_queue_full: u64,
    pub refused_queue_timeout: u64,
    pub refused_own_fault: u64,
    pub refused_proxy_header: u64,
    pub shed: u64,
    pub retried: u64,
    pub hedged: u64,
    pub hedges_withheld: u64,
    pub queued: u64,
    pub ended_by_us: u64,
    pub ended_idle: u64,
    pub reset_by_client: u64,
    pub reset_by_member: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// A member of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Used only while no other is usable.
    pub backup: bool,
    /// What an operator wants of it.
    pub mode: Mode,
    /// Who wants it, why and for how long, when it is not simply ready.
    pub operator: Option<OperatorStatus>,
    /// Sessions that it holds now.
    pub load: u64,
    /// Sessions that it may hold.
    pub max_connections: Option<u32>,
    /// Sessions that it was given since the start.
    pub sessions: u64,
    /// Connects that it, or the network for it, refused.
    pub connect_failed: u64,
    /// Connects that it did not answer in time.
    pub connect_timeout: u64,
    /// One for each service of the pool, in file order.
    pub services: Vec<TargetStatus>,
}

/// An operator's decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorStatus {
    /// Who.
    pub by: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Since when.
    pub since: Stamp,
    /// When it lapses.
    pub until: Option<Stamp>,
    /// When the sessions that remain are ended.
    pub deadline: Option<Stamp>,
}

/// One service on one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// The service's name.
    pub service: String,
    /// `HOST:PORT` as configured.
    pub endpoint: String,
    /// Where that is now.
    pub address: Option<SocketAddr>,
    /// The effective verdict: the worst of its own and of those it requires.
    pub verdict: Verdict,
    /// The service's own verdict, before what it requires.
    pub own_verdict: Verdict,
    /// Why the effective one.
    pub reason: String,
    /// The required service whose verdict this is, when it is not its own.
    pub requires: Option<String>,
    /// Since when.
    pub since: Stamp,
    /// Whether it takes new sessions.
    pub takes: Takes,
    /// How far its counts have come.
    pub progress: Progress,
    /// When it is asked next; none while a probe is out.
    pub next_probe: Option<Stamp>,
    /// The next transition that probes could bring, and when at the earliest.
    pub next: Option<NextVerdict>,
    /// Whether a transition is held back because the instance is, or may be, isolated.
    pub held: bool,
    /// The fault of our own side that the last probe met.
    pub own_fault: Option<String>,
    /// What its probes came back with since the start.
    pub checks: CheckTotals,
}

/// How far the counts behind a verdict have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Failures in a row.
    pub failures: u32,
    /// How many of them traffic supplied.
    pub from_traffic: u32,
    /// Failures in a row that turn it away.
    pub fall: u32,
    /// Good answers in a row.
    pub successes: u32,
    /// Good answers in a row that bring it back.
    pub rise: u32,
    /// Failures towards flapping.
    pub flaps: u32,
    /// How many make it flap.
    pub flap: u32,
}

/// The transition that comes next if probes go on as they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextVerdict {
    /// To what.
    pub verdict: Verdict,
    /// When at the earliest.
    pub at: Stamp,
}

/// What can be seen, as plain data.
pub fn status(view: &View<'_>) -> Status {
    let clock = view.clock();
    let pools: Vec<PoolStatus> = view
        .topology
        .pools
        .iter()
        .map(|pool| pool_status(view, pool))
        .collect();
    let open = pools
        .iter()
        .flat_map(|pool| &pool.services)
        .map(|service| service.open)
        .sum();
    Status {
        instance: view.name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: view.state,
        now: clock.stamp(view.now),
        started: clock.stamp(view.started),
        isolated: isolated(view),
        workers: view.workers.len() as u64,
        sessions: Sessions {
            open,
            limit: view.session_limit,
        },
        own_faults: OwnFaults::sum(view.workers),
        reports_dropped: view.workers.iter().map(|w| w.reports_dropped.get()).sum(),
        store_problem: view.store_problem.map(str::to_owned),
        servers: view
            .servers
            .iter()
            .map(|(name, counters)| ServerStatus::of(name, counters))
            .collect(),
        pools,
        recent: view.events.last(RECENT_EVENTS),
    }
}

/// Whether a pool's users can be served here, or none when there is no such pool.
pub fn pool_health(view: &View<'_>, pool: &str) -> Option<PoolHealth> {
    let pool = view.topology.pool_named(pool)?;
    Some(health_of(view, pool, usable(view, pool.primary)))
}

/// Why an instance thinks that the fault is its own, in words.
pub fn cause_text(cause: IsolationCause) -> String {
    match cause {
        IsolationCause::ManySilent { pools, members } => {
            format!("{members} members of {pools} pools fell silent at once")
        }
        IsolationCause::PathVanished => {
            "a local link or route towards members that had answered vanished".to_owned()
        }
    }
}

pub(super) fn isolated(view: &View<'_>) -> Option<Isolated> {
    let (cause, since) = view.decider.isolated()?;
    Some(Isolated {
        since: view.clock().stamp(since),
        cause: cause_text(cause),
    })
}

pub(super) fn pool_status(view: &View<'_>, pool: &Pool) -> PoolStatus {
    let (condition, since, present) = view.decider.condition(pool.id);
    let services: Vec<ServiceStatus> = pool
        .services
        .iter()
        .map(|service| service_status(view, pool, service))
        .collect();
    let usable = services[pool.primary.index()].usable;
    PoolStatus {
        name: pool.name.clone(),
        role: pool.role.clone(),
        site: pool
            .site
            .map(|site| view.topology.sites[site.index()].name.clone()),
        fronted: fronted(view, pool),
        condition,
        since: view.clock().stamp(since),
        present,
        need: pool.quorum.to_stay.members,
        of_first: pool.quorum.to_stay.of_first,
        health: health_of(view, pool, usable),
        services,
        members: pool
            .members
            .iter()
            .map(|member| member_status(view, pool, member))
            .collect(),
    }
}

fn service_status(view: &View<'_>, pool: &Pool, service: &Service) -> ServiceStatus {
    let totals = ServiceTotals::sum(view.workers, service.id);
    let usable = usable(view, service.id);
    ServiceStatus {
        name: service.name.clone(),
        primary: service.id == pool.primary,
        listen: service.listen.clone(),
        open: totals.accepted.saturating_sub(totals.ended),
        usable,
        lost: usable == 0,
        first: view
            .decider
            .first(service.id)
            .map(|member| view.topology.member(member).name.clone()),
        totals,
    }
}

fn member_status(view: &View<'_>, pool: &Pool, member: &Member) -> MemberStatus {
    let clock = view.clock();
    let operator = view.decider.operator(member.id);
    let sum = |read: fn(&super::counters::MemberCounters) -> u64| {
        view.workers.iter().map(|w| read(w.member(member.id))).sum()
    };
    MemberStatus {
        name: member.name.clone(),
        backup: member.backup,
        mode: operator.map_or(Mode::Ready, |state| state.mode),
        operator: operator.map(|state| OperatorStatus::of(state, &clock)),
        load: (view.load)(member.id),
        max_connections: member.max_connections.map(|most| most.get()),
        sessions: sum(|c| c.sessions.get()),
        connect_failed: sum(|c| c.connect_failed.get()),
        connect_timeout: sum(|c| c.connect_timeout.get()),
        services: pool
            .services
            .iter()
            .map(|service| target_status(view, member.id.target(service.id)))
            .collect(),
    }
}

pub(super) fn target_status(view: &View<'_>, target: TargetId) -> TargetStatus {
    let clock = view.clock();
    let service = view.topology.service(target.service());
    let endpoint = view.topology.endpoint(target);
    let behind = view.decider.explain(target);
    let own_fault = behind.own_fault.map(|fault| fault.to_string());
    TargetStatus {
        service: service.name.clone(),
        endpoint: format!("{}:{}", endpoint.host, endpoint.port),
        address: (view.address)(target),
        verdict: behind.effective,
        own_verdict: behind.own,
        reason: reason_text(view.topology, behind.reason),
        requires: match behind.reason {
            Reason::Requires(other) => Some(view.topology.service(other).name.clone()),
            _ => None,
        },
        since: clock.stamp(behind.since),
        takes: view.decider.readiness(target).takes,
        progress: Progress {
            failures: behind.failures,
            from_traffic: behind.from_evidence,
            fall: behind.fall,
            successes: behind.successes,
            rise: behind.rise,
            flaps: behind.flaps,
            flap: behind.flap,
        },
        next_probe: behind.next_probe.map(|at| clock.stamp(at)),
        next: behind.next.map(|(verdict, at)| NextVerdict {
            verdict,
            at: clock.stamp(at),
        }),
        held: behind.held,
        own_fault,
        checks: (view.checks)(target),
    }
}

fn fronted(view: &View<'_>, pool: &Pool) -> bool {
    view.site.is_none() || pool.site == view.site
}

/// Members that take new sessions for a service; those of last resort when there are no others.
fn usable(view: &View<'_>, service: ServiceId) -> u16 {
    let pool = view.topology.pool(service.pool);
    let count = |wanted: Takes| {
        pool.members
            .iter()
            .filter(|member| view.decider.readiness(member.id.target(service)).takes == wanted)
            .count()
    };
    let usable = match count(Takes::New) {
        0 => count(Takes::LastResort),
        usable => usable,
    };
    u16::try_from(usable).unwrap_or(u16::MAX)
}

fn health_of(view: &View<'_>, pool: &Pool, usable: u16) -> PoolHealth {
    let (condition, _, present) = view.decider.condition(pool.id);
    let need = pool.quorum.to_stay.members;
    let (ok, why) = if !fronted(view, pool) {
        (
            false,
            "this instance fronts the pools of another site".to_owned(),
        )
    } else if view.state == RunState::Starting {
        (false, "this instance is starting".to_owned())
    } else if view.state == RunState::Draining {
        (
            false,
            "this instance is draining: it takes no new sessions".to_owned(),
        )
    } else if usable == 0 {
        (false, "no member takes new sessions".to_owned())
    } else {
        match (condition, pool.below_quorum) {
            (Condition::Serving, _) => (true, format!("serving: {usable} members usable")),
            (Condition::Degraded, _) => (
                true,
                format!("degraded: {present} members present, {need} needed, {usable} usable"),
            ),
            (Condition::Lost, BelowQuorum::Serve) => (
                true,
                format!("below quorum ({present} of {need} needed): {usable} go on serving"),
            ),
            (Condition::Lost, BelowQuorum::Refuse) => (
                false,
                format!("lost: {present} members present, {need} needed"),
            ),
        }
    };
    PoolHealth {
        pool: pool.name.clone(),
        ok,
        why,
    }
}

impl OperatorStatus {
    fn of(state: &OperatorState, clock: &Clock) -> OperatorStatus {
        OperatorStatus {
            by: state.by.clone(),
            reason: state.reason.clone(),
            since: clock.stamp(state.since),
            until: state.until.map(|at| clock.stamp(at)),
            deadline: state.deadline.map(|at| clock.stamp(at)),
        }
    }
}

impl ServerStatus {
    fn of(name: &str, counters: &ServerCounters) -> ServerStatus {
        ServerStatus {
            name: name.to_owned(),
            open: counters.open.get(),
            accepted: counters.accepted.get(),
            refused: counters.refused.get(),
            too_slow: counters.too_slow.get(),
            accept_errors: counters.accept_errors.get(),
        }
    }
}

impl OwnFaults {
    fn sum(workers: &[std::sync::Arc<WorkerCounters>]) -> OwnFaults {
        let mut sum = OwnFaults::default();
        for faults in workers.iter().map(|worker| &worker.own_faults) {
            sum.descriptors += faults.descriptors.get();
            sum.source_ports += faults.source_ports.get();
            sum.memory += faults.memory.get();
            sum.route += faults.route.get();
            sum.other += faults.other.get();
        }
        sum
    }

    /// Each kind's name and count.
    pub fn kinds(&self) -> [(&'static str, u64); 5] {
        [
            ("descriptors", self.descriptors),
            ("source_ports", self.source_ports),
            ("memory", self.memory),
            ("route", self.route),
            ("other", self.other),
        ]
    }
}

impl ServiceTotals {
    /// The sums for one service. `ended` is read before `accepted`, so that a session that ends in
    /// between is never counted as less than none.
    pub fn sum(workers: &[std::sync::Arc<WorkerCounters>], service: ServiceId) -> ServiceTotals {
        let mut sum = ServiceTotals::default();
        for counters in workers.iter().map(|worker| worker.service(service)) {
            sum.add(counters);
        }
        sum
    }

    fn add(&mut self, c: &ServiceCounters) {
        self.ended += c.ended.get();
        self.accepted += c.accepted.get();
        self.established += c.established.get();
        self.refused_no_member += c.refused_no_member.get();
        self.refused_attempts += c.refused_attempts.get();
        self.refused_queue_full += c.refused_queue_full.get();
        self.refused_queue_timeout += c.refused_queue_timeout.get();
        self.refused_own_fault += c.refused_own_fault.get();
        self.refused_proxy_header += c.refused_proxy_header.get();
        self.shed += c.shed.get();
        self.retried += c.retried.get();
        self.hedged += c.hedged.get();
        self.hedges_withheld += c.hedges_withheld.get();
        self.queued += c.queued.get();
        self.ended_by_us += c.ended_by_us.get();
        self.ended_idle += c.ended_idle.get();
        self.reset_by_client += c.reset_by_client.get();
        self.reset_by_member += c.reset_by_member.get();
        self.bytes_in += c.bytes_in.get();
        self.bytes_out += c.bytes_out.get();
    }

    /// Refused connections by reason, shed ones included.
    pub fn refusals(&self) -> [(&'static str, u64); 6] {
        [
            ("no_member", self.refused_no_member),
            ("attempts", self.refused_attempts),
            ("queue_full", self.refused_queue_full),
            ("queue_timeout", self.refused_queue_timeout),
            ("own_fault", self.refused_own_fault),
            ("proxy_header", self.refused_proxy_header),
        ]
    }

    /// Sessions over, by who ended them; `sides` is an orderly end.
    pub fn endings(&self) -> [(&'static str, u64); 6] {
        let abnormal = [
            ("us", self.ended_by_us),
            ("idle", self.ended_idle),
            ("client", self.reset_by_client),
            ("member", self.reset_by_member),
        ];
        let refused = self.refused();
        let known: u64 = abnormal.iter().map(|(_, n)| n).sum::<u64>() + refused;
        let [us, idle, client, member] = abnormal;
        let orderly = ("sides", self.ended.saturating_sub(known));
        [us, idle, client, member, ("refused", refused), orderly]
    }

    /// Connections that were not carried, for whatever reason.
    pub fn refused(&self) -> u64 {
        self.refusals().iter().map(|(_, n)| n).sum::<u64>() + self.shed
    }
}

impl Status {
    /// The pool with this name.
    pub fn pool(&self, name: &str) -> Option<&PoolStatus> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}

impl PoolStatus {
    /// The member with this name.
    pub fn member(&self, name: &str) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Sessions open now, over its services.
    pub fn open(&self) -> u64 {
        self.services.iter().map(|service| service.open).sum()
    }
}
