//! What workers count: one writer a worker, summed when read.
//!
//! An increment is a load and a store of the worker's own cache line: no lock, no shared line, no
//! label. Names and labels exist only where the sums are read.
//!
//! Counters outlive topologies: what of one is still there in the next goes on with its own
//! ([`WorkerCounters::succeed`]), and whoever counts holds on to what it counts with.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::{ConnectTimes, LagTimes, SessionTimes};
use crate::health::OwnFault;
use crate::topology::{MemberId, PoolId, Protocol, ServiceId, Succession, Topology};

/// A number that one thread raises and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Raises it. Only the thread that owns it may call this.
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters that outlive topologies, on cache lines of their own: those of two workers never share
/// one.
pub type Lasting<T> = Arc<Apart<T>>;

/// Something on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Everything that one worker counts under one topology.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// By pool, then by service.
    services: Vec<Vec<Service>>,
    /// By pool, then by member.
    members: Vec<Vec<Lasting<MemberCounters>>>,
    /// By home pool.
    homes: Vec<Lasting<HomeCounters>>,
    /// Those of services that are gone and whose last sessions may not be over.
    gone: Vec<Service>,
    /// Faults of our own side, by kind.
    pub own_faults: Lasting<OwnFaultCounters>,
    /// Evidence that found the way to the control thread full; the next probe makes up for it.
    pub reports_dropped: Lasting<Counter>,
    /// Rounds of its loop, four a second: one that stands still is stuck.
    pub rounds: Lasting<Counter>,
    /// Lines of the access log that found its queue full.
    pub access_dropped: Lasting<Counter>,
    /// How late the worker's ticks came: how long news waited for it.
    pub lag: Lasting<LagTimes>,
}

/// A service's counters.
#[derive(Clone, Debug)]
struct Service {
    protocol: Protocol,
    counters: Lasting<ServiceCounters>,
}

/// What one worker counts for one service.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// Connections accepted, and flows begun.
    pub accepted: Counter,
    /// Sessions that reached a member.
    pub established: Counter,
    /// Sessions over, whatever the end. `accepted - ended` are open.
    pub ended: Counter,
    /// Refused: no member usable.
    pub refused_no_member: Counter,
    /// Refused: every attempt failed within the budget.
    pub refused_attempts: Counter,
    /// Refused: the queue was full.
    pub refused_queue_full: Counter,
    /// Refused: waited in the queue for as long as it may.
    pub refused_queue_timeout: Counter,
    /// Not carried: the client broke off while it waited in the queue.
    pub left_queue: Counter,
    /// Refused: a fault of our own.
    pub refused_own_fault: Counter,
    /// Refused: a missing or malformed PROXY header from a source that must send one.
    pub refused_proxy_header: Counter,
    /// Reset at once: the worker holds as many sessions as it may.
    pub shed: Counter,
    /// Attempts beyond the first of a session, hedges not included.
    pub retried: Counter,
    /// Attempts made beside one that was slow.
    pub hedged: Counter,
    /// Hedges not made because the service's share of them was used up.
    pub hedges_withheld: Counter,
    /// Sessions that waited in the queue.
    pub queued: Counter,
    /// Sessions ended because their member is down, or met an operator's deadline.
    pub ended_by_us: Counter,
    /// Sessions ended because they were idle for too long.
    pub ended_idle: Counter,
    /// Sessions that ended with a reset from the client's side.
    pub reset_by_client: Counter,
    /// Sessions that ended with a reset or an error from the member's side.
    pub reset_by_member: Counter,
    /// Bytes from clients to members.
    pub bytes_in: Counter,
    /// Bytes from members to clients.
    pub bytes_out: Counter,
    /// How long clients waited for a member that accepted: PROXY header, queue, retries and hedges
    /// included. Sessions over TCP alone; a flow waits for nothing.
    pub waits: ConnectTimes,
    /// How long sessions that reached a member lasted.
    pub lasted: SessionTimes,
    /// What only a service over UDP counts. Its flows are its sessions: `accepted`, `established`
    /// and `ended` count them too.
    pub udp: UdpCounters,
}

/// What one worker counts for one service over UDP, beside what it counts for any.
#[derive(Debug, Default)]
pub struct UdpCounters {
    /// Datagrams from clients that were passed on to members.
    pub datagrams_in: Counter,
    /// Datagrams from members that were passed on to clients.
    pub datagrams_out: Counter,
    /// Datagrams from clients that were dropped because no member took their flow: none usable,
    /// all full, or all refused; or the instance takes no new ones as it stops.
    pub dropped_no_member: Counter,
    /// Datagrams that were dropped because the kernel had no room for them on their way out, or
    /// would not send them.
    pub dropped_unsent: Counter,
    /// New flows' datagrams that were dropped because no flow could be given up for them.
    pub dropped_table_full: Counter,
    /// Datagrams that were dropped because nobody can be answered at the port that they name as
    /// theirs: port 0.
    pub dropped_no_port: Counter,
    /// Flows given up because the table was full and a new one came.
    pub evicted: Counter,
    /// Flows whose member died and whose client's next datagram went to another one.
    pub moved: Counter,
    /// ICMP errors that came back from members.
    pub icmp_errors: Counter,
}

/// What one worker counts for one member.
#[derive(Debug, Default)]
pub struct MemberCounters {
    /// Sessions that it was given.
    pub sessions: Counter,
    /// Attempts that it refused, or that the network refused for it.
    pub connect_failed: Counter,
    /// Attempts that it did not answer in time.
    pub connect_timeout: Counter,
    /// Bytes that it was sent.
    pub bytes_in: Counter,
    /// Bytes that it sent.
    pub bytes_out: Counter,
    /// How long it took to accept what it accepted. Over TCP alone.
    pub connects: ConnectTimes,
    /// How long its sessions lasted.
    pub lasted: SessionTimes,
}

/// What one worker counts for the users of one home pool, where it has a twin.
#[derive(Debug, Default)]
pub struct HomeCounters {
    /// Sessions that members of the home pool were given.
    pub at_home: Counter,
    /// Of those, sessions that are over.
    pub at_home_ended: Counter,
    /// Sessions that members of the twin were given.
    pub at_twin: Counter,
    /// Of those, sessions that are over.
    pub at_twin_ended: Counter,
    /// Sessions that no home member took and that the twin did; those that came home from the twin
    /// in the same way while their pool returned, too.
    pub spilled: Counter,
    /// Sessions ended because their users moved.
    pub moved: Counter,
    /// Sessions for which a member was passed over because it had taken all the arrivals of a
    /// moving pool that it may, for then.
    pub arrivals_held: Counter,
}

impl HomeCounters {
    /// Sessions of these users on members of the home pool, and of the twin.
    pub fn open(&self) -> (u64, u64) {
        let left = |ended: &Counter, given: &Counter| {
            // Read in this order, a session that ends meanwhile cannot make it negative.
            let ended = ended.get();
            given.get().saturating_sub(ended)
        };
        let at_home = left(&self.at_home_ended, &self.at_home);
        (at_home, left(&self.at_twin_ended, &self.at_twin))
    }
}

/// Faults of our own side, each counted once an occurrence.
#[derive(Debug, Default)]
pub struct OwnFaultCounters {
    /// No descriptor left.
    pub descriptors: Counter,
    /// No source port left.
    pub source_ports: Counter,
    /// No memory left.
    pub memory: Counter,
    /// No route.
    pub route: Counter,
    /// Anything else.
    pub other: Counter,
}

impl ServiceCounters {
    /// Sessions open now.
    pub fn open(&self) -> u64 {
        // Read in this order, a session that ends meanwhile cannot make it negative.
        let ended = self.ended.get();
        self.accepted.get().saturating_sub(ended)
    }
}

impl OwnFaultCounters {
    /// The counter of a fault.
    pub fn of(&self, fault: OwnFault) -> &Counter {
        match fault {
            OwnFault::Descriptors => &self.descriptors,
            OwnFault::SourcePorts => &self.source_ports,
            OwnFault::Memory => &self.memory,
            OwnFault::Route => &self.route,
            OwnFault::Name | OwnFault::Other => &self.other,
        }
    }
}

impl WorkerCounters {
    /// Zeroes for every service and member.
    pub fn new(topology: &Topology) -> WorkerCounters {
        WorkerCounters::default().succeed(&Succession::default(), topology)
    }

    /// Those of the topology that comes after the one of these. What is still there goes on with
    /// the very same counters, under its new id; what is new begins at zero.
    pub fn succeed(&self, succession: &Succession, topology: &Topology) -> WorkerCounters {
        let service = |service: &crate::topology::Service| Service {
            protocol: service.protocol,
            counters: Lasting::default(),
        };
        let pools = topology.pools.iter();
        let mut next = WorkerCounters {
            services: pools
                .clone()
                .map(|pool| pool.services.iter().map(service).collect())
                .collect(),
            members: pools
                .clone()
                .map(|pool| zeroes(pool.members.len()))
                .collect(),
            homes: zeroes(topology.pools.len()),
            // Sessions may come to a service until the worker knows that it is gone, so only those
            // that were gone before this are certain to see no more.
            gone: self.gone.iter().filter(|s| s.is_open()).cloned().collect(),
            own_faults: self.own_faults.clone(),
            reports_dropped: self.reports_dropped.clone(),
            rounds: self.rounds.clone(),
            access_dropped: self.access_dropped.clone(),
            lag: self.lag.clone(),
        };
        for (pool, id) in (0..).map(PoolId).take(self.homes.len()).enumerate() {
            if let Some(now) = succession.pool(id) {
                next.homes[now.index()] = self.homes[pool].clone();
            }
            for (nth, counters) in (0..).zip(&self.members[pool]) {
                if let Some(now) = succession.member(id.member(nth)) {
                    next.members[now.pool.index()][now.index()] = counters.clone();
                }
            }
            for (nth, service) in (0..).zip(&self.services[pool]) {
                match succession.service(id.service(nth)) {
                    Some(now) => {
                        next.services[now.pool.index()][now.index()] = service.clone();
                    }
                    None => next.gone.push(service.clone()),
                }
            }
        }
        next
    }

    /// Sessions and flows open on this worker, those of services that are gone too.
    pub fn open(&self) -> u64 {
        self.all().map(|service| service.counters.open()).sum()
    }

    /// Those of services over this protocol.
    pub fn open_over(&self, protocol: Protocol) -> u64 {
        let of = self.all().filter(|service| service.protocol == protocol);
        of.map(|service| service.counters.open()).sum()
    }

    /// A service's counters.
    pub fn service(&self, id: ServiceId) -> &Lasting<ServiceCounters> {
        &self.services[id.pool.index()][id.index()].counters
    }

    /// The counters of a home pool's users.
    pub fn home(&self, id: PoolId) -> &Lasting<HomeCounters> {
        &self.homes[id.index()]
    }

    /// A member's counters.
    pub fn member(&self, id: MemberId) -> &Lasting<MemberCounters> {
        &self.members[id.pool.index()][id.index()]
    }

    fn all(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().flatten().chain(&self.gone)
    }
}

impl Service {
    fn is_open(&self) -> bool {
        self.counters.open() > 0
    }
}

fn zeroes<T: Default>(n: usize) -> Vec<Lasting<T>> {
    std::iter::repeat_with(Lasting::default).take(n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::fixture::{ALONE, HOME, TWIN, topology};

    /// The same pools without the first, whose ids are all others'.
    fn without_home(topology: &Topology) -> Topology {
        let mut pools = topology.pools.clone();
        pools.remove(HOME.index());
        for (id, pool) in (0..).map(PoolId).zip(&mut pools) {
            pool.id = id;
            for (nth, member) in (0..).zip(&mut pool.members) {
                member.id = id.member(nth);
            }
            for (nth, service) in (0..).zip(&mut pool.services) {
                service.id = id.service(nth);
            }
        }
        Topology {
            pools,
            pairs: Vec::new(),
            ..Topology::default()
        }
    }

    #[test]
    fn what_is_still_there_goes_on_with_its_counters_and_what_is_new_begins_at_zero() {
        let old = topology([2, 2, 2]);
        let new = without_home(&old);
        let first = WorkerCounters::new(&old);
        first.service(TWIN.service(1)).accepted.add(3);
        first.member(ALONE.member(1)).sessions.add(5);
        first.home(TWIN).moved.add(7);
        first.own_faults.route.add(9);
        first.reports_dropped.add(11);
        let next = first.succeed(&Succession::between(&old, &new), &new);
        let (twin, alone) = (PoolId(0), PoolId(1));
        // Whoever counts goes on for both until it has heard.
        first.service(TWIN.service(1)).ended.add(1);
        next.member(alone.member(1)).sessions.add(1);
        assert_eq!(next.service(twin.service(1)).open(), 2);
        assert_eq!(first.member(ALONE.member(1)).sessions.get(), 6);
        assert_eq!(next.home(twin).moved.get(), 7);
        assert_eq!(
            (next.own_faults.route.get(), next.reports_dropped.get()),
            (9, 11)
        );
        let back = next.succeed(&Succession::between(&new, &old), &old);
        assert_eq!(back.service(TWIN.service(1)).open(), 2);
        assert_eq!(back.service(HOME.service(0)).accepted.get(), 0);
    }

    #[test]
    fn sessions_of_a_service_that_is_gone_are_open_until_they_are_over() {
        let old = topology([1, 1, 1]);
        let new = without_home(&old);
        let same = Succession::between(&new, &new);
        let first = WorkerCounters::new(&old);
        let gone = first.service(HOME.service(0)).clone();
        let mut next = first.succeed(&Succession::between(&old, &new), &new);
        // One more may come before the worker knows.
        gone.accepted.add(1);
        for _ in 0..3 {
            next = next.succeed(&same, &new);
            assert_eq!((next.open(), next.open_over(Protocol::Tcp)), (1, 1));
        }
        gone.ended.add(1);
        assert_eq!(next.open(), 0);
        next = next.succeed(&same, &new);
        assert!(next.gone.is_empty());
    }
}
