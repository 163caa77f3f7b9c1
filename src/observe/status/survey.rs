//! From a [`View`] to a [`Status`]: what is decided, counted and known, written down.

use std::sync::Arc;

use super::health::{Scope, fronted, health_of, usable};
use super::{
    AccessStatus, EarlierProcess, Isolated, MemberStatus, NextVerdict, OperatorStatus, OwnFaults,
    PoolStatus, Progress, RECENT_EVENTS, ServerStatus, ServiceStatus, ServiceTotals, Sessions,
    Status, TargetStatus, UdpTotals, WorkerStatus, pair,
};
use crate::health::Reason;
use crate::health::readiness::{Mode, OperatorState};
use crate::observe::counters::{
    MemberCounters, OwnFaultCounters, ServiceCounters, UdpCounters, WorkerCounters,
};
use crate::observe::events::{self, reason_text};
use crate::observe::serve::ServerCounters;
use crate::observe::stamp::Clock;
use crate::observe::view::{Ceiling, View};
use crate::pairing::IsolationCause;
use crate::topology::{Member, Pool, Protocol, Service, ServiceId, TargetId};

/// What can be seen, as plain data.
pub fn status(view: &View<'_>) -> Status {
    let clock = view.clock();
    let pools: Vec<PoolStatus> = view
        .topology
        .pools
        .iter()
        .map(|pool| pool_status(view, pool))
        .collect();
    // With those of services that are gone.
    let open = |protocol| view.workers.iter().map(|w| w.open_over(protocol)).sum();
    let held = |ceiling: Ceiling, protocol| Sessions {
        open: open(protocol),
        limit: ceiling.most,
        limited_by: ceiling.by,
    };
    Status {
        instance: view.name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: view.state,
        now: clock.stamp(view.now),
        started: clock.stamp(view.started),
        isolated: isolated(view),
        workers: view.workers.len() as u64,
        sessions: held(view.room.sessions, Protocol::Tcp),
        flows: view.room.flows.map(|flows| held(flows, Protocol::Udp)),
        by_worker: view
            .workers
            .iter()
            .map(|w| worker_status(view, w))
            .collect(),
        descriptor_limit: view.room.descriptors,
        lately: view.shortages.of_instance(&clock),
        own_faults: OwnFaults::sum(view.workers, view.own_faults),
        reports_dropped: view.workers.iter().map(|w| w.reports_dropped.get()).sum(),
        access: view.access.map(|counts| AccessStatus {
            written: counts.written,
            dropped: view.workers.iter().map(|w| w.access_dropped.get()).sum(),
            lost: counts.lost,
        }),
        store_problem: view.store_problem.map(str::to_owned),
        reload_refused: view.reload_refused.map(|(why, _)| why.to_owned()),
        reload_refused_since: view.reload_refused.map(|(_, at)| clock.stamp(at)),
        store_problem_since: view.onsets.store().map(|at| clock.stamp(at)),
        event_log: view.event_log.clone(),
        event_log_since: view.onsets.event_log().map(|at| clock.stamp(at)),
        earlier: view
            .earlier
            .iter()
            .map(|&(pid, sessions)| EarlierProcess { pid, sessions })
            .collect(),
        servers: view
            .servers
            .iter()
            .map(|(name, counters)| ServerStatus::of(name, counters))
            .collect(),
        pools,
        pairs: pair::pairs(view),
        pause: pair::pause(view),
        sites: pair::sites(view),
        recent: view.events.last_of(RECENT_EVENTS, events::is_told),
    }
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

pub(in crate::observe) fn isolated(view: &View<'_>) -> Option<Isolated> {
    let (cause, since) = view.decider.isolated()?;
    Some(Isolated {
        since: view.clock().stamp(since),
        cause: cause_text(cause),
    })
}

pub(in crate::observe) fn pool_status(view: &View<'_>, pool: &Pool) -> PoolStatus {
    let (condition, since, present) = view.decider.condition(pool.id);
    let services: Vec<ServiceStatus> = pool
        .services
        .iter()
        .map(|service| service_status(view, pool, service))
        .collect();
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
        health: health_of(view, pool, Scope::HomeOrTwin),
        services,
        members: pool
            .members
            .iter()
            .map(|member| member_status(view, pool, member))
            .collect(),
    }
}

fn worker_status(view: &View<'_>, worker: &WorkerCounters) -> WorkerStatus {
    let held = |ceiling: Ceiling, protocol| Sessions {
        open: worker.open_over(protocol),
        limit: ceiling.each,
        limited_by: ceiling.by,
    };
    WorkerStatus {
        sessions: held(view.room.sessions, Protocol::Tcp),
        flows: view.room.flows.map(|flows| held(flows, Protocol::Udp)),
    }
}

fn service_status(view: &View<'_>, pool: &Pool, service: &Service) -> ServiceStatus {
    let mut totals = ServiceTotals::sum(view.workers, service.id);
    if service.protocol == Protocol::Udp {
        totals.udp = Some(UdpTotals::sum(view.workers, service.id));
    }
    let usable = usable(view, service.id);
    ServiceStatus {
        name: service.name.clone(),
        primary: service.id == pool.primary,
        protocol: service.protocol,
        listen: service.listen.clone(),
        open: totals.accepted.saturating_sub(totals.ended),
        usable,
        lost: usable == 0,
        first: view
            .decider
            .first(service.id)
            .map(|member| view.topology.member(member).name.clone()),
        totals,
        lately: view.shortages.of_service(service.id, &view.clock()),
    }
}

fn member_status(view: &View<'_>, pool: &Pool, member: &Member) -> MemberStatus {
    let clock = view.clock();
    let operator = view.decider.operator(member.id);
    let sum = |read: fn(&MemberCounters) -> u64| {
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

pub(in crate::observe) fn target_status(view: &View<'_>, target: TargetId) -> TargetStatus {
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
        flapping: behind.reason == Reason::Flapping,
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
            broken: counters.broken.get(),
            accept_errors: counters.accept_errors.get(),
        }
    }
}

impl OwnFaults {
    fn sum(workers: &[Arc<WorkerCounters>], others: &OwnFaultCounters) -> OwnFaults {
        let mut sum = OwnFaults::default();
        let counted = workers.iter().map(|worker| &**worker.own_faults);
        for faults in counted.chain([others]) {
            sum.descriptors += faults.descriptors.get();
            sum.source_ports += faults.source_ports.get();
            sum.memory += faults.memory.get();
            sum.route += faults.route.get();
            sum.other += faults.other.get();
        }
        sum
    }
}

impl ServiceTotals {
    /// The sums for one service. `ended` is read before `accepted`, so that a session that ends in
    /// between is never counted as less than none.
    pub fn sum(workers: &[Arc<WorkerCounters>], service: ServiceId) -> ServiceTotals {
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
        self.left_queue += c.left_queue.get();
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
}

impl UdpTotals {
    /// The sums for one service.
    pub fn sum(workers: &[Arc<WorkerCounters>], service: ServiceId) -> UdpTotals {
        let mut sum = UdpTotals::default();
        for counters in workers.iter().map(|worker| &worker.service(service).udp) {
            sum.add(counters);
        }
        sum
    }

    fn add(&mut self, c: &UdpCounters) {
        self.datagrams_in += c.datagrams_in.get();
        self.datagrams_out += c.datagrams_out.get();
        self.dropped_no_member += c.dropped_no_member.get();
        self.dropped_unsent += c.dropped_unsent.get();
        self.dropped_table_full += c.dropped_table_full.get();
        self.dropped_no_port += c.dropped_no_port.get();
        self.evicted += c.evicted.get();
        self.moved += c.moved.get();
        self.icmp_errors += c.icmp_errors.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample;
    use crate::observe::view::LimitedBy;

    #[test]
    fn counters_of_all_workers_are_summed() {
        let topology = sample::topology();
        let sip = topology.pools[0].primary;
        let workers: Vec<Arc<WorkerCounters>> = (0..3)
            .map(|_| Arc::new(WorkerCounters::new(&topology)))
            .collect();
        for (n, worker) in (1..).zip(&workers) {
            worker.service(sip).accepted.add(10 * n);
            worker.service(sip).ended.add(n);
            worker.service(sip).shed.add(1);
            worker.own_faults.route.add(n);
        }
        let sum = ServiceTotals::sum(&workers, sip);
        assert_eq!((sum.accepted, sum.ended, sum.refused()), (60, 6, 3));
        let others = OwnFaultCounters::default();
        others.route.add(2);
        assert_eq!(OwnFaults::sum(&workers, &others).route, 8);
        let other = ServiceTotals::sum(&workers, topology.pools[1].primary);
        assert_eq!(other, ServiceTotals::default());
    }

    #[test]
    fn flows_are_told_apart_from_sessions_on_the_whole_and_by_worker() {
        let mut plight = sample::Plight::new();
        let topology = Arc::make_mut(&mut plight.topology);
        topology.pools[1].services[0].protocol = Protocol::Udp;
        let workers = (0..2).map(|_| Arc::new(WorkerCounters::new(topology)));
        plight.workers = workers.collect();
        plight.flows = Some(Ceiling {
            most: 7,
            each: 4,
            by: LimitedBy::Setting,
        });
        let [tcp, udp] = [0, 1].map(|pool| plight.topology.pools[pool].primary);
        for (n, worker) in (1..).zip(&plight.workers) {
            worker.service(tcp).accepted.add(10);
            worker.service(tcp).ended.add(n);
            worker.service(udp).accepted.add(2 * n);
            worker.service(udp).udp.datagrams_in.add(100);
            worker.service(udp).udp.evicted.add(n);
        }
        let status = plight.status();
        assert_eq!((status.sessions.open, status.open()), (17, 23));
        let flows = status.flows.expect("a service over UDP");
        assert_eq!((flows.open, flows.limit), (6, 7));
        let by_worker: Vec<_> = status
            .by_worker
            .iter()
            .map(|worker| (worker.sessions.open, worker.flows.map(|flows| flows.open)))
            .collect();
        assert_eq!(by_worker, [(9, Some(2)), (8, Some(4))]);
        assert!(status.by_worker[1].flows.is_some_and(Sessions::is_full));
        let of = |pool: usize| status.pools[pool].services[0].totals.udp;
        assert_eq!(of(0), None);
        let udp = of(1).expect("one over UDP");
        assert_eq!((udp.datagrams_in, udp.evicted), (200, 3));
    }

    #[test]
    fn a_status_survives_json() {
        for status in [
            sample::one_member_down(),
            sample::drained(),
            sample::isolated(),
            sample::exhausted(),
        ] {
            let json = serde_json::to_string(&status).unwrap();
            assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
        }
    }
}
