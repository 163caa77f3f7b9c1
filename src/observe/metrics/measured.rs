//! Metrics of what only metrics show: histograms, reloads, transitions, lag.

use std::fmt;

use super::page::{Family, Page, Subject, and};
use crate::observe::histogram::Distribution;
use crate::observe::measures::{
    Measures, MemberMeasures, PoolMeasures, ServiceMeasures, TargetMeasures,
};

/// Writes all of them.
pub(super) fn families(measures: &Measures, page: &mut Page<'_>) -> fmt::Result {
    page.table(INSTANCE, &[(vec![], measures)])?;
    workers(measures, page)?;
    let (mut pools, mut services) = (Vec::new(), Vec::new());
    let (mut members, mut targets) = (Vec::new(), Vec::new());
    for pool in &measures.pools {
        let labels = vec![("pool", pool.name.as_str())];
        for service in &pool.services {
            services.push((and(&labels, "service", &service.name), service));
        }
        for member in &pool.members {
            let labels = and(&labels, "member", &member.name);
            for target in &member.targets {
                targets.push((and(&labels, "service", &target.service), target));
            }
            members.push((labels, member));
        }
        pools.push((labels, pool));
    }
    page.table(POOL, &pools)?;
    page.table(SERVICE, &services)?;
    page.table(MEMBER, &members)?;
    page.table(TARGET, &targets)
}

/// Of the instance.
const INSTANCE: &[Family<Measures>] = &[
    Family::info(
        "twinpool_build",
        "What runs: instances of one fleet should agree once an upgrade is over",
        |measures| {
            let revision = Some(("revision", measures.revision));
            let known = revision.filter(|(_, revision)| !revision.is_empty());
            let version = ("version", measures.version);
            [version].into_iter().chain(known).collect()
        },
    ),
    Family::counter_by(
        "twinpool_config_reloads",
        "Reloads of the configuration, by what became of them",
        "result",
        |measures| {
            let reloads = measures.reloads;
            vec![("applied", reloads.applied), ("refused", reloads.refused)]
        },
    ),
    Family::gauge(
        "twinpool_config_last_reload_successful",
        "0 while the last reload was refused and what was in force before still is: `twinpool \
         status` tells why, and `twinpool reload` all that is wrong",
        |measures| u64::from(measures.reloads.last_applied),
    ),
    Family::seconds(
        "twinpool_config_last_reload_timestamp",
        "When the last reload ended, or the instance started, since 1970",
        |measures| measures.reloads.last.unix_seconds(),
    ),
    Family::gauge(
        "twinpool_config_generation",
        "Configurations that were in force since the start, the first one included",
        |measures| measures.reloads.generation,
    ),
    Family::counter_by(
        "twinpool_transitions",
        "What was decided, by kind; `twinpool events` tells each",
        "kind",
        |measures| measures.transitions.clone(),
    ),
    Family::gauge(
        "twinpool_checks_waiting",
        "Probes that wait for others to come back; above 0 for long, members are found dead late: \
         lengthen the checks' intervals or spread pools over instances",
        |measures| measures.probes_waiting,
    ),
];

/// Of a worker.
const WORKER: &[Family<Distribution>] = &[Family::times(
    "twinpool_worker_lag_seconds",
    "How late a worker's tick of 250 ms came, which is how long everything waited for it; a count \
     that stands still is a worker that is stuck",
    |lag| lag,
)];

/// Of a pool.
const POOL: &[Family<PoolMeasures>] = &[
    Family::gauge(
        "twinpool_pool_queue_length",
        "Sessions that wait for a member with room now; members are full: raise max_connections, \
         add members, or see which of them are out",
        |pool| pool.queue,
    ),
    Family::counter(
        "twinpool_pool_condition_changes",
        "How often a pool's condition changed",
        |pool| pool.conditions,
    ),
];

/// Of a service.
const SERVICE: &[Family<ServiceMeasures>] = &[
    Family::times(
        "twinpool_session_wait_seconds",
        "How long clients waited for a member that accepted, PROXY header, queue, retries and \
         hedges included; of a service over UDP none is counted",
        |service| &service.waits,
    ),
    Family::times(
        "twinpool_session_duration_seconds",
        "How long sessions that reached a member lasted, counted when they end; of a service over \
         UDP, flows, to within 250 ms",
        |service| &service.lasted,
    ),
];

/// Of a member.
const MEMBER: &[Family<MemberMeasures>] = &[
    Family::bytes_by(
        "twinpool_member_session",
        "Bytes carried, by direction: in is from clients to the member",
        "direction",
        |member| vec![("in", member.bytes_in), ("out", member.bytes_out)],
    ),
    Family::times(
        "twinpool_member_connect_duration_seconds",
        "How long a member took to accept what it accepted over TCP; one that is slower than its \
         peers is overloaded or far",
        |member| &member.connects,
    ),
    Family::times(
        "twinpool_member_session_duration_seconds",
        "How long a member's sessions lasted, counted when they end; much shorter than its peers', \
         it may be turning clients away itself",
        |member| &member.lasted,
    ),
];

/// Of a member for a service.
const TARGET: &[Family<TargetMeasures>] = &[
    Family::counter(
        "twinpool_member_verdict_changes",
        "How often the verdict on a member changed; often in an hour, `twinpool why` tells what its \
         probes came back with",
        |target| target.verdicts,
    ),
    Family::times_by(
        "twinpool_check_duration_seconds",
        "How long probes took, by what came of them: good, own_fault or how they failed, those that \
         occurred. Good ones that near the check's timeout will fail soon",
        "reason",
        |target| &target.checks,
    ),
];

fn workers(measures: &Measures, page: &mut Page<'_>) -> fmt::Result {
    let names: Vec<String> = (0..measures.lag.len()).map(|n| n.to_string()).collect();
    let named = names.iter().zip(&measures.lag);
    let workers: Vec<Subject<'_, Distribution>> = named
        .map(|(name, lag)| (vec![("worker", name.as_str())], lag))
        .collect();
    page.table(WORKER, &workers)
}
