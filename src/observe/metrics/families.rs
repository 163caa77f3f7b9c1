//! Metrics of the instance, its workers and HTTP servers, and of pools, their services and members.

use std::fmt;

use super::page::{Family, Page, Subject, and, one_of};
use crate::health::Verdict;
use crate::health::readiness::Mode;
use crate::observe::status::{
    MemberStatus, PoolStatus, ServerStatus, ServiceStatus, Sessions, Status, TargetStatus,
    UdpTotals, WorkerStatus,
};
use crate::observe::view::RunState;
use crate::pairing::Condition;

/// Writes all of them.
pub(super) fn families(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    page.table(INSTANCE, &[(vec![], status)])?;
    let flows: Vec<Subject<'_, Sessions>> =
        status.flows.iter().map(|flows| (vec![], flows)).collect();
    page.table(FLOWS, &flows)?;
    workers(status, page)?;
    page.table(SERVER, &servers(status))?;
    page.table(SERVICE, &services(status))?;
    page.table(UDP_SERVICE, &udp_services(status))?;
    page.table(POOL, &pools(status))?;
    page.table(MEMBER, &members(status))?;
    page.table(TARGET, &targets(status))
}

/// Of the instance.
const INSTANCE: &[Family<Status>] = &[
    Family::seconds(
        "twinpool_start_time",
        "When the instance started, since 1970",
        |status| status.started.unix_seconds(),
    ),
    Family::seconds(
        "twinpool_uptime",
        "How long the instance has run",
        |status| status.now.since(status.started).as_secs_f64(),
    ),
    Family::state(
        "twinpool_state",
        "What the instance is doing; one that is starting for minutes waits for a listener or a first \
         probe: see `twinpool status`",
        "state",
        |status| {
            let states = [
                ("starting", RunState::Starting),
                ("serving", RunState::Serving),
                ("draining", RunState::Draining),
            ];
            one_of(states, status.state)
        },
    ),
    Family::gauge("twinpool_workers", "Worker threads", |status| {
        status.workers
    }),
    Family::gauge(
        "twinpool_isolated",
        "1 while the instance thinks that the fault is its own and holds its verdicts: look at its \
         links and routes first",
        |status| u64::from(status.isolated.is_some()),
    ),
    Family::gauge(
        "twinpool_state_store_failing",
        "1 while what operators decided might not outlive a restart: see to the disk of `state_dir`",
        |status| u64::from(status.store_problem.is_some()),
    ),
    Family::gauge(
        "twinpool_descriptor_limit",
        "Descriptors that the instance may open, by `LimitNOFILE=` of its unit",
        |status| status.descriptor_limit,
    ),
    Family::gauge(
        "twinpool_session_limit",
        "Sessions over TCP that the instance may hold, each worker its share",
        |status| status.sessions.limit,
    ),
    Family::gauge(
        "twinpool_earlier_processes",
        "Processes from before an upgrade that keep the sessions they had",
        |status| status.earlier.len() as u64,
    ),
    Family::gauge(
        "twinpool_earlier_sessions",
        "Sessions that those have left, at most `upgrade_deadline` after the upgrade",
        |status| {
            status
                .earlier
                .iter()
                .map(|process| process.sessions)
                .sum::<u64>()
        },
    ),
    Family::counter_by(
        "twinpool_own_faults",
        "Faults of our own side that sessions and probes met, by kind; no member is blamed. Raise \
         LimitNOFILE= for descriptors, widen net.ipv4.ip_local_port_range for source ports, see to \
         the routes for route",
        "kind",
        |status| status.own_faults.kinds().into(),
    ),
    Family::counter(
        "twinpool_reports_dropped",
        "Evidence from traffic that found the way to the control thread full; the next probes make up \
         for it",
        |status| status.reports_dropped,
    ),
];

/// Of the flows of an instance with a service over UDP.
const FLOWS: &[Family<Sessions>] = &[Family::gauge(
    "twinpool_flow_limit",
    "Flows over UDP that the instance may hold, each worker its share",
    |flows| flows.limit,
)];

/// Of a worker.
const WORKER: &[Family<WorkerStatus>] = &[Family::gauge(
    "twinpool_worker_sessions_open",
    "Sessions over TCP that a worker holds now",
    |worker| worker.sessions.open,
)];

/// Of the flows of a worker.
const WORKER_FLOWS: &[Family<Sessions>] = &[Family::gauge(
    "twinpool_worker_flows_open",
    "Flows over UDP that a worker holds now",
    |flows| flows.open,
)];

/// Of one of our own HTTP servers.
const SERVER: &[Family<ServerStatus>] = &[
    Family::gauge(
        "twinpool_http_connections_open",
        "Connections to our own HTTP servers",
        |server| server.open,
    ),
    Family::counter(
        "twinpool_http_connections_accepted",
        "Connections to our own HTTP servers since the start",
        |server| server.accepted,
    ),
    Family::counter(
        "twinpool_http_connections_refused",
        "Connections to our own HTTP servers closed at once because too many were open",
        |server| server.refused,
    ),
    Family::counter(
        "twinpool_http_connections_too_slow",
        "Connections to our own HTTP servers closed because they were too slow",
        |server| server.too_slow,
    ),
    Family::counter(
        "twinpool_http_connections_broken",
        "Connections to our own HTTP servers that broke, or carried something else than HTTP/1",
        |server| server.broken,
    ),
    Family::counter(
        "twinpool_http_accept_errors",
        "Errors of accepting connections to our own HTTP servers",
        |server| server.accept_errors,
    ),
];

/// Of a service, over TCP or UDP.
const SERVICE: &[Family<ServiceStatus>] = &[
    Family::info(
        "twinpool_service",
        "What carries a service; join it to sum over one protocol alone",
        |service| vec![("protocol", service.protocol.word())],
    ),
    Family::gauge(
        "twinpool_sessions_open",
        "Sessions open now; of a service over UDP, its flows",
        |service| service.open,
    ),
    Family::gauge(
        "twinpool_service_members_usable",
        "Members that take new sessions, those of last resort when there are no others; at 0 the \
         service turns clients away: `twinpool why POOL`",
        |service| u64::from(service.usable),
    ),
    Family::counter(
        "twinpool_sessions_accepted",
        "Connections accepted from clients, and flows begun by them",
        |service| service.totals.accepted,
    ),
    Family::counter(
        "twinpool_sessions_established",
        "Sessions that reached a member, and flows that were given one",
        |service| service.totals.established,
    ),
    Family::counter(
        "twinpool_sessions_shed",
        "Connections reset at once because the worker held as many sessions as it may: raise \
         max_sessions of [instance], or LimitNOFILE= of the unit",
        |service| service.totals.shed,
    ),
    Family::counter(
        "twinpool_sessions_queued",
        "Sessions that waited for a member with room",
        |service| service.totals.queued,
    ),
    Family::counter(
        "twinpool_attempts_retried",
        "Attempts beyond the first of a session, hedges not included",
        |service| service.totals.retried,
    ),
    Family::counter(
        "twinpool_attempts_hedged",
        "Attempts made beside one that was slow; twinpool_member_connect_duration_seconds shows whose",
        |service| service.totals.hedged,
    ),
    Family::counter(
        "twinpool_hedges_withheld",
        "Hedges not made because the service's share of them was used up: many members are slow at \
         once",
        |service| service.totals.hedges_withheld,
    ),
    Family::counter_by(
        "twinpool_sessions_refused",
        "Connections and flows refused, by reason: no_member and attempts ask for `twinpool why POOL`, \
         queue_full and queue_timeout for more room at members, own_fault for \
         twinpool_own_faults_total",
        "reason",
        |service| service.totals.refusals().into(),
    ),
    Family::counter_by(
        "twinpool_sessions_ended",
        "Sessions over, by who ended them",
        "by",
        |service| service.totals.endings(),
    ),
    Family::bytes_by(
        "twinpool_session",
        "Bytes carried, by direction: in is from clients to members",
        "direction",
        |service| {
            let totals = &service.totals;
            vec![("in", totals.bytes_in), ("out", totals.bytes_out)]
        },
    ),
];

/// Of a service over UDP alone.
const UDP_SERVICE: &[Family<UdpTotals>] = &[
    Family::counter_by(
        "twinpool_udp_datagrams",
        "Datagrams passed on, by direction: in is from clients to members",
        "direction",
        |udp| vec![("in", udp.datagrams_in), ("out", udp.datagrams_out)],
    ),
    Family::counter_by(
        "twinpool_udp_datagrams_dropped",
        "Datagrams that went nowhere, by reason",
        "reason",
        |udp| udp.drops().into(),
    ),
    Family::counter(
        "twinpool_udp_flows_evicted",
        "Flows given up because the worker held as many as it may and a new one came",
        |udp| udp.evicted,
    ),
    Family::counter(
        "twinpool_udp_flows_moved",
        "Flows whose member died and whose client's next datagram went to another one",
        |udp| udp.moved,
    ),
    Family::counter(
        "twinpool_udp_icmp_errors",
        "ICMP errors that came back from members",
        |udp| udp.icmp_errors,
    ),
];

/// Of a pool.
const POOL: &[Family<PoolStatus>] = &[
    Family::state(
        "twinpool_pool_condition",
        "Whether a pool can serve its users; `twinpool why POOL` tells by which rule",
        "condition",
        |pool| {
            let conditions = [
                ("serving", Condition::Serving),
                ("degraded", Condition::Degraded),
                ("lost", Condition::Lost),
            ];
            one_of(conditions, pool.condition)
        },
    ),
    Family::gauge(
        "twinpool_pool_members_present",
        "Members present among those that count towards quorum",
        |pool| u64::from(pool.present),
    ),
    Family::gauge(
        "twinpool_pool_members_needed",
        "Members that a pool needs to stay",
        |pool| u64::from(pool.need),
    ),
];

/// Of a member.
const MEMBER: &[Family<MemberStatus>] = &[
    Family::state(
        "twinpool_member_mode",
        "What an operator wants of a member",
        "mode",
        |member| {
            let modes = [
                ("ready", Mode::Ready),
                ("drain", Mode::Drain),
                ("maintenance", Mode::Maintenance),
            ];
            one_of(modes, member.mode)
        },
    ),
    Family::gauge(
        "twinpool_member_sessions_open",
        "Sessions that a member holds now",
        |member| member.load,
    ),
    Family::counter(
        "twinpool_member_sessions",
        "Sessions that a member was given",
        |member| member.sessions,
    ),
    Family::counter_by(
        "twinpool_member_connect_failures",
        "Attempts that failed, by how: a connect that was refused or not answered in time, a flow \
         for which ICMP said so",
        "how",
        |member| {
            vec![
                ("refused", member.connect_failed),
                ("timeout", member.connect_timeout),
            ]
        },
    ),
];

/// Of a member for a service.
const TARGET: &[Family<TargetStatus>] = &[
    Family::state(
        "twinpool_member_verdict",
        "What is thought of a member for a service; `twinpool why POOL/MEMBER` tells why, with the last \
         exchanges",
        "verdict",
        |target| {
            let verdicts = [
                ("unknown", Verdict::Unknown),
                ("up", Verdict::Up),
                ("busy", Verdict::Busy),
                ("down", Verdict::Down),
            ];
            one_of(verdicts, target.verdict)
        },
    ),
    Family::gauge(
        "twinpool_member_flapping",
        "1 while a member is busy because failures keep coming back before it has been well",
        |target| u64::from(target.flapping),
    ),
    Family::gauge(
        "twinpool_member_verdict_held",
        "1 while a verdict is held back because the instance is, or may be, isolated",
        |target| u64::from(target.held),
    ),
    Family::counter_by(
        "twinpool_checks",
        "Probes of a member for a service that came back, by result; \
         twinpool_check_duration_seconds_count tells the bad ones by reason",
        "result",
        |target| {
            let checks = target.checks;
            vec![
                ("good", checks.good),
                ("bad", checks.bad),
                ("own_fault", checks.own_fault),
            ]
        },
    ),
];

fn workers(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    let names: Vec<String> = (0..status.by_worker.len()).map(|n| n.to_string()).collect();
    let each = || {
        let named = names.iter().zip(&status.by_worker);
        named.map(|(name, worker)| (vec![("worker", name.as_str())], worker))
    };
    let workers: Vec<_> = each().collect();
    let flows: Vec<_> = each()
        .filter_map(|(labels, worker)| Some((labels, worker.flows.as_ref()?)))
        .collect();
    page.table(WORKER, &workers)?;
    page.table(WORKER_FLOWS, &flows)
}

fn servers(status: &Status) -> Vec<Subject<'_, ServerStatus>> {
    let servers = status.servers.iter();
    servers
        .map(|server| (vec![("server", server.name.as_str())], server))
        .collect()
}

fn pools(status: &Status) -> Vec<Subject<'_, PoolStatus>> {
    let pools = status.pools.iter();
    pools
        .map(|pool| (vec![("pool", pool.name.as_str())], pool))
        .collect()
}

fn services(status: &Status) -> Vec<Subject<'_, ServiceStatus>> {
    let mut subjects = Vec::new();
    for pool in &status.pools {
        for service in &pool.services {
            let labels = vec![
                ("pool", pool.name.as_str()),
                ("service", service.name.as_str()),
            ];
            subjects.push((labels, service));
        }
    }
    subjects
}

fn udp_services(status: &Status) -> Vec<Subject<'_, UdpTotals>> {
    let services = services(status).into_iter();
    services
        .filter_map(|(labels, service)| Some((labels, service.totals.udp.as_ref()?)))
        .collect()
}

fn members(status: &Status) -> Vec<Subject<'_, MemberStatus>> {
    let mut subjects = Vec::new();
    for pool in &status.pools {
        for member in &pool.members {
            let labels = vec![
                ("pool", pool.name.as_str()),
                ("member", member.name.as_str()),
            ];
            subjects.push((labels, member));
        }
    }
    subjects
}

fn targets(status: &Status) -> Vec<Subject<'_, TargetStatus>> {
    let mut subjects = Vec::new();
    for (labels, member) in members(status) {
        for target in &member.services {
            let labels = and(&labels, "service", &target.service);
            subjects.push((labels, target));
        }
    }
    subjects
}
