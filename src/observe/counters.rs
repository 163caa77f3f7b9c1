//! What workers count: one writer a worker, summed when read.
//!
//! An increment is a load and a store of the worker's own cache line: no lock, no shared line, no
//! label. Names and labels exist only where the sums are read.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::health::OwnFault;
use crate::topology::{MemberId, PoolId, Protocol, ServiceId, Topology};

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

/// Everything that one worker counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// By pool, then by service.
    services: Vec<Vec<ServiceCounters>>,
    /// By pool, then by member.
    members: Vec<Vec<MemberCounters>>,
    /// By home pool.
    homes: Vec<HomeCounters>,
    /// Faults of our own side, by kind.
    pub own_faults: OwnFaultCounters,
    /// Evidence that found the way to the control thread full; the next probe makes up for it.
    pub reports_dropped: Counter,
    /// Lines of the access log that found its queue full.
    pub access_dropped: Counter,
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
        fn zeroes<T: Default>(n: usize) -> Vec<T> {
            std::iter::repeat_with(T::default).take(n).collect()
        }
        WorkerCounters {
            services: topology
                .pools
                .iter()
                .map(|p| zeroes(p.services.len()))
                .collect(),
            members: topology
                .pools
                .iter()
                .map(|p| zeroes(p.members.len()))
                .collect(),
            homes: zeroes(topology.pools.len()),
            ..WorkerCounters::default()
        }
    }

    /// Sessions and flows open on this worker.
    pub fn open(&self) -> u64 {
        self.services
            .iter()
            .flatten()
            .map(ServiceCounters::open)
            .sum()
    }

    /// Those of services over this protocol.
    pub fn open_over(&self, topology: &Topology, protocol: Protocol) -> u64 {
        let services = topology.pools.iter().flat_map(|pool| &pool.services);
        let of = services.filter(|service| service.protocol == protocol);
        of.map(|service| self.service(service.id).open()).sum()
    }

    /// A service's counters.
    pub fn service(&self, id: ServiceId) -> &ServiceCounters {
        &self.services[id.pool.index()][id.index()]
    }

    /// The counters of a home pool's users.
    pub fn home(&self, id: PoolId) -> &HomeCounters {
        &self.homes[id.index()]
    }

    /// A member's counters.
    pub fn member(&self, id: MemberId) -> &MemberCounters {
        &self.members[id.pool.index()][id.index()]
    }
}
