//! What tests look at: a small topology, statuses of it in every plight, and a desk with nobody
//! behind it.

mod measures;
mod pairs;

pub(crate) use measures::measures;
pub(crate) use pairs::{Plight, pair_topology};

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use super::desk::{Command, Desk, LocalFuture, Redirection, Refused, SetLevel};
use super::events::{Commanded, Event, Events, Query};
use super::measures::Measures;
use super::names::{self, NoSuch};
use super::shortage::{Lately, Shortage};
use super::stamp::{Clock, Stamp};
use super::status::*;
use super::view::{CheckTotals, EventLog, LimitedBy, RunState};
use super::why::{ExchangeWhy, PoolWhy, TargetWhy, Why};
use crate::health::readiness::{Mode, Takes};
use crate::health::{Failure, Reason, Verdict};
use crate::pairing::Condition;
use crate::time::Time;
use crate::topology::*;

/// 2026-11-22 03:14:07 UTC, an hour and 40 minutes after the start.
pub(crate) const NOW: Time = Time::from_millis(6_000_000);

pub(crate) fn clock() -> Clock {
    Clock {
        now: NOW,
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_317_247),
    }
}

pub(crate) fn ago(seconds: u64) -> Stamp {
    Stamp::from(clock().wall - Duration::from_secs(seconds))
}

pub(crate) fn ahead(millis: u64) -> Stamp {
    clock().stamp(NOW + Duration::from_millis(millis))
}

/// `fe-seoul` with fe1 to fe3 for `sip` (primary) and `web-internal`, which requires it; `med` with
/// m1 for `sip`; `edge` with e1 and e2 for `sip` and, over UDP, `av`.
pub(crate) fn topology() -> Topology {
    Topology {
        pairs: Vec::new(),
        sites: vec![Site {
            name: "seoul".to_owned(),
            region: None,
        }],
        pools: vec![
            pool(
                0,
                "fe-seoul",
                "front-end",
                &["fe1", "fe2", "fe3"],
                &["sip", "web-internal"],
            ),
            pool(1, "med", "mediation", &["m1"], &["sip"]),
            pool(2, "edge", "edge", &["e1", "e2"], &["sip", "av"]),
        ],
    }
}

fn pool(id: u16, name: &str, role: &str, members: &[&str], services: &[&str]) -> Pool {
    let id = PoolId(id);
    let need = QuorumNeed {
        members: (members.len() as u16).div_ceil(2),
        of_first: members.len() as u16,
    };
    Pool {
        id,
        name: name.to_owned(),
        role: role.to_owned(),
        site: Some(SiteId(0)),
        quorum: Quorum {
            to_start: need,
            to_stay: need,
        },
        below_quorum: BelowQuorum::Serve,
        drain_deadline: Duration::from_secs(600),
        queue_limit: 1_024,
        queue_timeout: Duration::from_secs(5),
        members: (0u16..)
            .zip(members)
            .map(|(i, name)| Member {
                id: id.member(i),
                name: (*name).to_owned(),
                weight: NonZeroU32::MIN,
                max_connections: None,
                backup: false,
                endpoints: (0u16..)
                    .zip(services)
                    .map(|(s, _)| Endpoint {
                        host: Host::Address([10, 1, 0, 11 + i as u8].into()),
                        port: 5061 + s,
                    })
                    .collect(),
            })
            .collect(),
        services: (0u16..)
            .zip(services)
            .map(|(i, name)| Service {
                id: id.service(i),
                name: (*name).to_owned(),
                listen: vec![([10, 1, 0, 10], 5061 + i).into()],
                listen_at_twin: Vec::new(),
                check: check(),
                requires: match *name {
                    "web-internal" => vec![id.service(0)],
                    _ => vec![],
                },
                balance: Policy::LeastConnections,
                idle_timeout: Duration::from_secs(1_800),
                protocol: match *name {
                    "av" => Protocol::Udp,
                    _ => Protocol::Tcp,
                },
                peer_timeout: Duration::from_secs(30),
                connect: ConnectRules {
                    hedge: Duration::from_millis(250),
                    budget: Duration::from_secs(2),
                    attempts: NonZeroU32::MIN,
                },
                send_proxy: false,
                accept_proxy: vec![],
                slow_start: Duration::from_secs(30),
            })
            .collect(),
        primary: id.service(0),
        after_pools: Vec::new(),
    }
}

fn check() -> Check {
    let count = |n| NonZeroU32::new(n).unwrap();
    Check {
        kind: CheckKind::Tls,
        tls: false,
        verify: Verify::No,
        server_name: None,
        port: None,
        interval: Duration::from_secs(1),
        in_doubt: Duration::from_millis(250),
        jitter: 0.1,
        timeout: Duration::from_millis(500),
        fall: count(3),
        rise: count(2),
        flap: count(6),
    }
}

/// Everything is well.
pub(crate) fn well() -> Status {
    let topology = topology();
    Status {
        instance: "seoul-1".to_owned(),
        version: "0.1.0".to_owned(),
        state: RunState::Serving,
        now: ago(0),
        started: ago(6_000),
        isolated: None,
        workers: 2,
        sessions: held(1_204, 20_000),
        flows: Some(held(301, 8_000)),
        by_worker: vec![
            WorkerStatus {
                sessions: held(604, 10_000),
                flows: Some(held(151, 4_000)),
            },
            WorkerStatus {
                sessions: held(600, 10_000),
                flows: Some(held(150, 4_000)),
            },
        ],
        descriptor_limit: 65_536,
        lately: vec![],
        own_faults: OwnFaults::default(),
        reports_dropped: 0,
        access: None,
        store_problem: None,
        store_problem_since: None,
        reload_refused: None,
        reload_refused_since: None,
        event_log: EventLog::default(),
        event_log_since: None,
        earlier: vec![],
        servers: vec![ServerStatus {
            name: "observe".to_owned(),
            open: 1,
            accepted: 90,
            refused: 0,
            too_slow: 0,
            broken: 0,
            accept_errors: 0,
        }],
        pools: topology.pools.iter().map(pool_well).collect(),
        pairs: vec![],
        pause: None,
        sites: vec![],
        recent: vec![],
    }
}

fn held(open: u64, limit: u64) -> Sessions {
    Sessions {
        open,
        limit,
        limited_by: LimitedBy::Setting,
    }
}

fn pool_well(pool: &Pool) -> PoolStatus {
    let count = pool.members.len() as u16;
    PoolStatus {
        name: pool.name.clone(),
        role: pool.role.clone(),
        site: Some("seoul".to_owned()),
        fronted: true,
        condition: Condition::Serving,
        since: ago(5_998),
        present: count,
        need: pool.quorum.to_stay.members,
        of_first: count,
        health: PoolHealth {
            pool: pool.name.clone(),
            ok: true,
            why: format!("serving: {count} members usable"),
        },
        services: pool
            .services
            .iter()
            .map(|service| ServiceStatus {
                name: service.name.clone(),
                primary: service.id == pool.primary,
                protocol: service.protocol,
                listen: service.listen.clone(),
                open: 301,
                usable: count,
                lost: false,
                first: None,
                totals: ServiceTotals {
                    accepted: 88_123,
                    established: 88_120,
                    ended: 87_822,
                    refused_attempts: 3,
                    bytes_in: 1_000,
                    bytes_out: 2_000,
                    udp: (service.protocol == Protocol::Udp).then_some(UdpTotals {
                        datagrams_in: 4_117_300,
                        datagrams_out: 4_002_511,
                        dropped_no_member: 7,
                        moved: 12,
                        icmp_errors: 15,
                        ..UdpTotals::default()
                    }),
                    ..ServiceTotals::default()
                },
                lately: vec![],
            })
            .collect(),
        members: pool
            .members
            .iter()
            .map(|member| MemberStatus {
                name: member.name.clone(),
                backup: false,
                mode: Mode::Ready,
                operator: None,
                load: 401,
                max_connections: None,
                sessions: 29_374,
                connect_failed: 1,
                connect_timeout: 2,
                services: pool
                    .services
                    .iter()
                    .map(|service| target_well(member, service))
                    .collect(),
            })
            .collect(),
    }
}

fn target_well(member: &Member, service: &Service) -> TargetStatus {
    let endpoint = &member.endpoints[service.id.index()];
    let endpoint = format!("{}:{}", endpoint.host, endpoint.port);
    TargetStatus {
        service: service.name.clone(),
        address: endpoint.parse().ok(),
        endpoint,
        verdict: Verdict::Up,
        own_verdict: Verdict::Up,
        reason: "answers well".to_owned(),
        requires: None,
        flapping: false,
        since: ago(5_999),
        takes: Takes::New,
        progress: Progress {
            successes: 2,
            fall: 3,
            rise: 2,
            flap: 6,
            ..Progress::default()
        },
        next_probe: Some(ahead(700)),
        next: None,
        held: false,
        own_fault: None,
        checks: CheckTotals {
            good: 5_999,
            bad: 0,
            own_fault: 0,
        },
    }
}

/// Takes `member` of `fe-seoul` down: `sip` refuses, `web-internal` requires it.
pub(crate) fn take_down(status: &mut Status, member: usize) {
    let pool = &mut status.pools[0];
    pool.present -= 1;
    pool.since = ago(245);
    pool.condition = match pool.present < pool.need {
        true => Condition::Lost,
        false => Condition::Degraded,
    };
    for service in &mut pool.services {
        service.usable -= 1;
        service.lost = service.usable == 0;
    }
    pool.health.why = format!(
        "degraded: {0} members present, 2 needed, {0} usable",
        pool.present
    );
    let member = &mut pool.members[member];
    member.load = 0;
    for target in &mut member.services {
        target.verdict = Verdict::Down;
        target.takes = Takes::No;
        target.since = ago(245);
    }
    let sip = &mut member.services[0];
    sip.own_verdict = Verdict::Down;
    sip.reason = super::events::reason_text(&topology(), Reason::Failed(Failure::Refused));
    sip.next_probe = Some(ahead(200));
    sip.next = Some(NextVerdict {
        verdict: Verdict::Up,
        at: ahead(450),
    });
    sip.progress = Progress {
        failures: 0,
        from_traffic: 1,
        successes: 1,
        flaps: 3,
        ..sip.progress
    };
    sip.checks.bad = 245;
    member.services[1].reason = "requires sip".to_owned();
    member.services[1].requires = Some("sip".to_owned());
}

pub(crate) fn one_member_down() -> Status {
    let mut status = well();
    take_down(&mut status, 0);
    status.recent = happened();
    status
}

pub(crate) fn pool_lost() -> Status {
    let mut status = well();
    for member in 0..3 {
        take_down(&mut status, member);
    }
    status.pools[0].services[0].open = 0;
    status.pools[0].services[1].open = 0;
    status.pools[0].health.ok = false;
    status.pools[0].health.why = "no member takes new sessions".to_owned();
    status
}

/// fe3 alone is left, and goes on serving.
pub(crate) fn below_quorum() -> Status {
    let mut status = well();
    take_down(&mut status, 0);
    take_down(&mut status, 1);
    status.pools[0].health.why = "below quorum (1 present, 2 needed): 1 go on serving".to_owned();
    status
}

pub(crate) fn isolated() -> Status {
    let mut status = well();
    status.isolated = Some(Isolated {
        since: ago(3),
        cause: "4 members of 2 pools fell silent at once".to_owned(),
    });
    status.pools[0].members[0].services[0].held = true;
    status.pools[0].members[0].services[0].progress.failures = 3;
    status
}

/// What is rare, all at once.
pub(crate) fn oddities() -> Status {
    let mut status = well();
    status.sessions.limit = status.sessions.open;
    status.sessions.limited_by = LimitedBy::Descriptors;
    status.workers = 1;
    status.by_worker = vec![WorkerStatus {
        sessions: status.sessions,
        flows: status.flows,
    }];
    let pool = &mut status.pools[0];
    pool.services[0].first = Some("fe2".to_owned());
    pool.services[1].listen = vec![];
    pool.members[0].max_connections = Some(5_000);
    pool.members[2].backup = true;
    pool.members[2].services[1].own_fault = Some("name not resolved".to_owned());
    pool.members[2].services[1].verdict = Verdict::Unknown;
    pool.members[2].services[1].own_verdict = Verdict::Unknown;
    let flapping = &mut pool.members[1].services[0];
    flapping.verdict = Verdict::Busy;
    flapping.own_verdict = Verdict::Busy;
    flapping.takes = Takes::LastResort;
    flapping.reason = super::events::reason_text(&topology(), Reason::Flapping);
    flapping.flapping = true;
    flapping.since = ago(100_000);
    pool.members[0].services[0].progress.failures = 2;
    status.pools[1].fronted = false;
    status.pools[1].site = None;
    status
}

/// Everything that can run out has.
pub(crate) fn exhausted() -> Status {
    let mut status = well();
    let lately = |what, count| Lately {
        what,
        count,
        since: ago(40),
        last: ago(2),
    };
    status.by_worker[1].sessions.open = 10_000;
    status.sessions.open = 10_604;
    status.lately = vec![
        lately(Shortage::Descriptors, 12),
        lately(Shortage::SourcePorts, 1),
    ];
    status.own_faults.descriptors = 12;
    status.own_faults.source_ports = 3;
    for target in &mut status.pools[0].members[0].services {
        target.own_fault = Some("no file descriptor left".to_owned());
    }
    status.pools[1].members[0].services[0].own_fault = Some("no file descriptor left".to_owned());
    let [sip, web] = &mut status.pools[0].services[..] else {
        unreachable!("the sample has two");
    };
    sip.lately = vec![
        lately(Shortage::Sessions, 1_500),
        lately(Shortage::OwnSide, 11),
    ];
    sip.totals.shed = 1_700;
    web.lately = vec![
        lately(Shortage::Sessions, 4),
        lately(Shortage::QueueRoom, 300),
        lately(Shortage::QueueTime, 20),
    ];
    let av = &mut status.pools[2].services[1];
    av.lately = vec![
        lately(Shortage::Flows, 9),
        lately(Shortage::FlowsEvicted, 50_000),
        lately(Shortage::Sending, 33),
    ];
    let udp = av.totals.udp.as_mut().unwrap();
    udp.evicted = 50_001;
    udp.dropped_table_full = 9;
    udp.dropped_unsent = 40;
    udp.dropped_no_port = 2;
    status.flows = Some(held(8_000, 8_000));
    status
}

pub(crate) fn drained() -> Status {
    let mut status = well();
    let member = &mut status.pools[0].members[1];
    member.mode = Mode::Drain;
    member.load = 12;
    member.operator = Some(OperatorStatus {
        by: "alice".to_owned(),
        reason: Some("kernel update".to_owned()),
        since: ago(60),
        until: Some(ahead(4_800_000)),
        deadline: Some(ahead(540_000)),
    });
    for target in &mut member.services {
        target.takes = Takes::No;
    }
    for service in &mut status.pools[0].services {
        service.usable = 2;
    }
    status
}

pub(crate) fn starting() -> Status {
    let mut status = well();
    status.state = RunState::Starting;
    status.started = ago(1);
    status.sessions.open = 0;
    for pool in &mut status.pools {
        pool.since = ago(1);
        for member in &mut pool.members {
            member.load = 0;
            for target in member.services.iter_mut().skip(1) {
                target.verdict = Verdict::Unknown;
                target.own_verdict = Verdict::Unknown;
                target.reason = "not yet asked".to_owned();
            }
        }
    }
    status
}

/// A verdict, a condition and an order, as the ring keeps them.
pub(crate) fn happened() -> Vec<Event> {
    use crate::pairing::Event as E;
    let topology = topology();
    let pool = &topology.pools[0];
    let mut events = Events::new();
    let at = Time::from_millis(6_000_000 - 245_000);
    for event in [
        E::Verdict {
            target: pool.members[0].id.target(pool.primary),
            from: Verdict::Up,
            to: Verdict::Down,
            reason: Reason::Failed(Failure::Refused),
        },
        E::Condition {
            pool: pool.id,
            from: Condition::Serving,
            to: Condition::Degraded,
            present: 2,
            need: 2,
        },
    ] {
        events.tell(&topology, &event, at, ago(245));
    }
    events.since(0)
}

/// Why `status`'s pool or member is as it is, with two exchanges each.
pub(crate) fn why_of(status: &Status, name: &str) -> Why {
    let (pool_name, member) = match name.split_once('/') {
        Some((pool, member)) => (pool, Some(member)),
        None => (name, None),
    };
    let pool = status.pool(pool_name).unwrap().clone();
    let exchange = |seconds, good, text: &str| ExchangeWhy {
        at: ago(seconds),
        good,
        text: text.to_owned(),
    };
    let targets = pool
        .members
        .iter()
        .filter(|m| member.is_none_or(|name| m.name == name))
        .flat_map(|m| {
            let kept = if member.is_some() { usize::MAX } else { 1 };
            m.services.iter().take(kept).map(|target| TargetWhy {
                member: m.name.clone(),
                status: target.clone(),
                rule: super::why::check_rule(&check()),
                exchanges: vec![
                    exchange(1, Some(true), "ClientHello: ServerHello\r\n in 0.4 ms"),
                    exchange(2, Some(false), "connect: refused in 0.1 ms"),
                ],
            })
        })
        .collect();
    Why::Pool(Box::new(PoolWhy {
        name: name.to_owned(),
        now: status.now,
        isolated: status.isolated.clone(),
        rule: super::why::quorum_rule(topology().pool_named(pool_name).unwrap()),
        member: member.map(str::to_owned),
        pool,
        targets,
        redirect: None,
    }))
}

/// Answers with what it was given, and keeps what it was told.
#[derive(Debug)]
pub(crate) struct FakeDesk {
    pub(crate) status: RefCell<Status>,
    pub(crate) asked: Cell<u32>,
    pub(crate) commands: RefCell<Vec<Command>>,
    pub(crate) redirections: RefCell<Vec<Redirection>>,
    pub(crate) log: RefCell<Events>,
    pub(crate) levels: RefCell<Vec<SetLevel>>,
}

impl FakeDesk {
    pub(crate) fn new(status: Status) -> FakeDesk {
        FakeDesk {
            status: RefCell::new(status),
            asked: Cell::new(0),
            commands: RefCell::new(vec![]),
            redirections: RefCell::new(vec![]),
            log: RefCell::new(Events::after(happened())),
            levels: RefCell::new(vec![]),
        }
    }
}

impl Desk for FakeDesk {
    fn state(&self) -> RunState {
        self.status.borrow().state
    }

    fn pool_health(&self, pool: &str, scope: Scope) -> Option<PoolHealth> {
        let health = self.status.borrow().pool(pool)?.health.clone();
        Some(match scope {
            Scope::HomeOrTwin => health,
            Scope::Home => PoolHealth {
                why: format!("at home: {}", health.why),
                ..health
            },
        })
    }

    fn status(&self) -> Status {
        self.asked.set(self.asked.get() + 1);
        self.status.borrow().clone()
    }

    fn measures(&self) -> Measures {
        measures()
    }

    fn why(&self, name: &str) -> Result<Why, NoSuch> {
        names::find(&topology(), name)?;
        Ok(why_of(&self.status.borrow(), name))
    }

    fn events(&self, query: &Query) -> Result<Vec<Event>, NoSuch> {
        self.log.borrow().asked(query, &topology(), ago(0))
    }

    fn record(&self, command: Commanded) {
        self.log
            .borrow_mut()
            .tell_command(&topology(), &command, ago(0));
    }

    fn configuration(&self) -> Option<std::sync::Arc<str>> {
        Some("[pools]".into())
    }

    fn reload(&self, by: String) -> LocalFuture<Result<String, Refused>> {
        Box::pin(async move { Ok(format!("reloaded by {by}")) })
    }

    fn upgrade(&self, by: String) -> LocalFuture<Result<String, Refused>> {
        Box::pin(async move { Ok(format!("reloaded by {by}")) })
    }

    fn log_level(&self) -> Result<String, Refused> {
        Ok("info".to_owned())
    }

    fn set_log_level(&self, order: SetLevel) -> Result<String, Refused> {
        self.levels.borrow_mut().push(order);
        Ok("done".to_owned())
    }

    fn redirect(&self, redirection: Redirection) -> LocalFuture<Result<String, Refused>> {
        self.redirections.borrow_mut().push(redirection);
        Box::pin(async { Ok("done".to_owned()) })
    }

    /// Maintenance of fe1 without force is refused; everything else is done.
    fn command(&self, command: Command) -> LocalFuture<Result<String, Refused>> {
        self.commands.borrow_mut().push(command.clone());
        let topology = topology();
        Box::pin(async move {
            let order = crate::control::order::order(command, &topology, NOW)?;
            if order.mode == Mode::Maintenance && !order.force {
                let refusal = crate::pairing::Refusal::WouldLosePool {
                    pool: order.member.pool,
                    remain: 1,
                    need: 2,
                };
                return Err(crate::control::order::refused(
                    &refusal,
                    order.member,
                    &topology,
                ));
            }
            Ok(crate::control::order::done(&order, &topology, NOW))
        })
    }
}
