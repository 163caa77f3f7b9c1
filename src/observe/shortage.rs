//! [`Shortages`]: what the instance, or a service of it, had too little of lately.
//!
//! ```text
//! counters of all workers ─ once a second ─► Shortages ─► View ─► Status ─► a problem's line
//! ```
//!
//! A counter tells that clients were turned away since the start, and not whether they still are.
//! So those that count what overflowed are looked at now and then: one that rose is a shortage until
//! it has not risen for [`OVER`]. Pure: whoever looks brings the moment. Nothing is decided by it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counters::{OwnFaultCounters, ServiceCounters, WorkerCounters};
use super::stamp::{Clock, Stamp};
use crate::time::Time;
use crate::topology::{ServiceId, Succession, Topology};

/// So long without another one, and it is over: long enough that who was called to look finds it,
/// and that a trickle is one shortage.
pub const OVER: Duration = Duration::from_secs(60);

/// What there was too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortage {
    /// Room for sessions: connections were reset at once.
    Sessions,
    /// Room in the queue while members were full.
    QueueRoom,
    /// Room at a member, for as long as a client may wait.
    QueueTime,
    /// Something of our own side: sessions were refused for it, or flows.
    OwnSide,
    /// Room for flows: datagrams of new ones were dropped.
    Flows,
    /// The same, but others could be given up for them.
    FlowsEvicted,
    /// Room on the way out, or leave of the kernel, for datagrams.
    Sending,
    /// File descriptors.
    Descriptors,
    /// Source ports.
    SourcePorts,
    /// The kernel's memory for sockets.
    Memory,
    /// A route.
    Route,
    /// Anything else that our own kernel refused.
    Other,
}

/// A shortage of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lately {
    /// Of what.
    pub what: Shortage,
    /// How often it was met since it began.
    pub count: u64,
    /// When it began.
    pub since: Stamp,
    /// When it was last seen to go on.
    pub last: Stamp,
}

/// Reads how often something was met.
type Read<C> = fn(&C) -> u64;

/// What is short at a service.
const OF_SERVICE: [(Shortage, Read<ServiceCounters>); 7] = [
    (Shortage::Sessions, |c| c.shed.get()),
    (Shortage::QueueRoom, |c| c.refused_queue_full.get()),
    (Shortage::QueueTime, |c| c.refused_queue_timeout.get()),
    (Shortage::OwnSide, |c| c.refused_own_fault.get()),
    (Shortage::Flows, |c| c.udp.dropped_table_full.get()),
    (Shortage::FlowsEvicted, |c| c.udp.evicted.get()),
    (Shortage::Sending, |c| c.udp.dropped_unsent.get()),
];

/// What is short on the whole instance.
const OF_INSTANCE: [(Shortage, Read<OwnFaultCounters>); 5] = [
    (Shortage::Descriptors, |c| c.descriptors.get()),
    (Shortage::SourcePorts, |c| c.source_ports.get()),
    (Shortage::Memory, |c| c.memory.get()),
    (Shortage::Route, |c| c.route.get()),
    (Shortage::Other, |c| c.other.get()),
];

/// The shortages of an instance and of each of its services.
#[derive(Debug)]
pub struct Shortages {
    /// By pool, then by service; each in the order of [`OF_SERVICE`].
    services: Vec<Vec<[Rise; OF_SERVICE.len()]>>,
    /// In the order of [`OF_INSTANCE`].
    instance: [Rise; OF_INSTANCE.len()],
}

impl Shortages {
    /// None yet.
    pub fn new(topology: &Topology) -> Shortages {
        let none = |count| vec![Default::default(); count];
        Shortages {
            services: topology
                .pools
                .iter()
                .map(|pool| none(pool.services.len()))
                .collect(),
            instance: Default::default(),
        }
    }

    /// The same for the next topology; what is new in it lacks nothing yet.
    #[must_use]
    pub fn succeed(&self, old: &Topology, new: &Topology, succession: &Succession) -> Shortages {
        let mut next = Shortages::new(new);
        next.instance = self.instance;
        for service in old.pools.iter().flat_map(|pool| &pool.services) {
            if let Some(now) = succession.service(service.id) {
                let rises = self.services[service.id.pool.index()][service.id.index()];
                next.services[now.pool.index()][now.index()] = rises;
            }
        }
        next
    }

    /// Looks at what was counted since the start: by workers, and of our own faults by `others`.
    pub fn handle_counts(
        &mut self,
        topology: &Topology,
        workers: &[Arc<WorkerCounters>],
        others: &OwnFaultCounters,
        now: Time,
    ) {
        for service in topology.pools.iter().flat_map(|pool| &pool.services) {
            let rises = &mut self.services[service.id.pool.index()][service.id.index()];
            for (rise, (_, read)) in rises.iter_mut().zip(OF_SERVICE) {
                let counts = workers
                    .iter()
                    .map(|worker| read(worker.service(service.id)));
                rise.handle_count(counts.sum(), now);
            }
        }
        for (rise, (_, read)) in self.instance.iter_mut().zip(OF_INSTANCE) {
            let counts = workers.iter().map(|worker| read(&worker.own_faults));
            rise.handle_count(counts.sum::<u64>() + read(others), now);
        }
    }

    /// Those of a service.
    pub fn of_service(&self, id: ServiceId, clock: &Clock) -> Vec<Lately> {
        let rises = &self.services[id.pool.index()][id.index()];
        let named = rises.iter().zip(OF_SERVICE);
        named
            .filter_map(|(rise, (what, _))| rise.lately(what, clock))
            .collect()
    }

    /// Those of the whole instance.
    pub fn of_instance(&self, clock: &Clock) -> Vec<Lately> {
        let named = self.instance.iter().zip(OF_INSTANCE);
        named
            .filter_map(|(rise, (what, _))| rise.lately(what, clock))
            .collect()
    }
}

/// A count that may be on the rise.
#[derive(Clone, Copy, Debug, Default)]
struct Rise {
    seen: u64,
    on: Option<Span>,
}

/// From when to when a count rose, and what it was before.
#[derive(Clone, Copy, Debug)]
struct Span {
    before: u64,
    since: Time,
    last: Time,
}

impl Rise {
    fn handle_count(&mut self, count: u64, now: Time) {
        let before = std::mem::replace(&mut self.seen, count);
        match &mut self.on {
            Some(span) if count > before => span.last = now,
            Some(span) if now.since(span.last) >= OVER => self.on = None,
            None if count > before => {
                self.on = Some(Span {
                    before,
                    since: now,
                    last: now,
                });
            }
            Some(_) | None => {}
        }
    }

    fn lately(&self, what: Shortage, clock: &Clock) -> Option<Lately> {
        let span = self.on?;
        Some(Lately {
            what,
            count: self.seen - span.before,
            since: clock.stamp(span.since),
            last: clock.stamp(span.last),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample;

    struct Watched {
        topology: Topology,
        workers: Vec<Arc<WorkerCounters>>,
        others: OwnFaultCounters,
        shortages: Shortages,
    }

    impl Watched {
        fn new() -> Watched {
            let topology = sample::topology();
            Watched {
                workers: (0..2)
                    .map(|_| Arc::new(WorkerCounters::new(&topology)))
                    .collect(),
                others: OwnFaultCounters::default(),
                shortages: Shortages::new(&topology),
                topology,
            }
        }

        fn look(&mut self, seconds: u64) -> Clock {
            let now = Time::from_millis(seconds * 1_000);
            self.shortages
                .handle_counts(&self.topology, &self.workers, &self.others, now);
            Clock {
                now,
                ..sample::clock()
            }
        }
    }

    #[test]
    fn a_count_that_rises_is_a_shortage_until_it_has_not_for_a_while() {
        let mut watched = Watched::new();
        let sip = watched.topology.pools[0].primary;
        let at = |watched: &mut Watched, seconds| {
            let clock = watched.look(seconds);
            watched.shortages.of_service(sip, &clock)
        };
        assert_eq!(at(&mut watched, 10), []);
        watched.workers[0].service(sip).shed.add(3);
        watched.workers[1].service(sip).shed.add(2);
        let [began] = at(&mut watched, 11)[..] else {
            panic!("not one shortage");
        };
        assert_eq!((began.what, began.count), (Shortage::Sessions, 5));
        assert_eq!(began.since, began.last);
        watched.workers[1].service(sip).shed.add(1);
        let [goes_on] = at(&mut watched, 50)[..] else {
            panic!("not one shortage");
        };
        assert_eq!(goes_on.count, 6);
        assert_eq!(goes_on.last.since(goes_on.since), Duration::from_secs(39));
        assert_eq!(at(&mut watched, 109).len(), 1);
        assert_eq!(at(&mut watched, 110), []);
        watched.workers[0].service(sip).shed.add(1);
        assert_eq!(at(&mut watched, 200)[0].count, 1, "another one");
        let other = watched.topology.pools[1].primary;
        assert_eq!(watched.shortages.of_service(other, &sample::clock()), []);
    }

    #[test]
    fn faults_of_workers_and_of_others_are_one_shortage() {
        let mut watched = Watched::new();
        watched.workers[1].own_faults.descriptors.add(4);
        watched.others.descriptors.add(1);
        watched.others.route.add(2);
        let clock = watched.look(1);
        let told = watched.shortages.of_instance(&clock);
        let told: Vec<_> = told
            .iter()
            .map(|lately| (lately.what, lately.count))
            .collect();
        assert_eq!(told, [(Shortage::Descriptors, 5), (Shortage::Route, 2)]);
    }

    #[test]
    fn each_counter_of_a_service_is_a_shortage_of_its_own() {
        let mut watched = Watched::new();
        let sip = watched.topology.pools[0].primary;
        let counters = watched.workers[0].clone();
        let counters = counters.service(sip);
        for (n, counter) in (1..).zip([
            &counters.shed,
            &counters.refused_queue_full,
            &counters.refused_queue_timeout,
            &counters.refused_own_fault,
            &counters.udp.dropped_table_full,
            &counters.udp.evicted,
            &counters.udp.dropped_unsent,
        ]) {
            counter.add(n);
        }
        let clock = watched.look(1);
        let told = watched.shortages.of_service(sip, &clock);
        let told: Vec<_> = told
            .iter()
            .map(|lately| (lately.what, lately.count))
            .collect();
        let all = OF_SERVICE.map(|(what, _)| what);
        assert_eq!(told, all.into_iter().zip(1..).collect::<Vec<_>>());
    }
}
