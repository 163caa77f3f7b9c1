//! Workers and what they carry: listeners, sessions, the byte path.
//!
//! ```text
//! accept ─► room for a session? ─► PROXY header? ─► connect: pick, dial, hedge, retry ─► relay
//!              no: shed              bad: refuse       no member: spill, queue or refuse
//! ```
//!
//! A worker is one thread with a current-thread runtime, listeners of its own (`SO_REUSEPORT`) and
//! sessions of its own. It shares the members' load counters, and nothing else: a new snapshot
//! comes as a message, counters are its own and summed by whoever reads them.
//!
//! Forwarding is plain code: one task a session, no lock, and no buffer while nothing moves. What
//! a session may hold is bounded: two sockets, one pipe a direction while that direction is bulk,
//! and what one read could not pass on.
//!
//! Users of a pool with a twin stand with the members that the snapshot sends them to; those who
//! move are ended at the rate that the control thread sets ([`Which::Moved`]).
//!
//! This room never decides whether a member lives. It reports what the connect phase saw
//! ([`FromWorker`]) and ends what it is told to end ([`ToWorker`]).

mod access;
mod connect;
mod limits;
pub mod listen;
mod pipes;
mod proxy_header;
mod queue;
mod registry;
mod relay;
mod session;
mod sockets;
mod spills;
mod udp;
mod worker;

pub use access::AccessLog;
pub use limits::{FlowsWanted, Limits, raise_descriptor_limit, source_ports};
pub use worker::{Plan, WorkerHandle, start};

use std::net::IpAddr;
use std::sync::Arc;

use crate::dispatch::Snapshot;
use crate::health::{Failure, OwnFault};
use crate::time::Time;
use crate::topology::{MemberId, PoolId, ServiceId, TargetId};

/// What the control thread tells a worker.
#[derive(Clone, Debug)]
pub enum ToWorker {
    /// New sessions follow this snapshot from now on.
    Publish(Arc<Snapshot>),
    /// End sessions, each with a reset to both sides.
    End(Which),
    /// Close the listeners: no new sessions.
    Close,
}

/// Which sessions to end.
#[derive(Clone, Debug)]
pub enum Which {
    /// A member's, for one service or for all.
    Member {
        /// Whose.
        member: MemberId,
        /// For which; all when none.
        service: Option<ServiceId>,
    },
    /// Those that stand on an address which is no longer the member's.
    Strays {
        /// Whose.
        target: TargetId,
        /// The addresses that are.
        keep: Arc<[IpAddr]>,
    },
    /// Those of a home pool's users that stand on another's members, or on its own.
    Moved {
        /// The home pool.
        home: PoolId,
        /// On whose members.
        off: PoolId,
        /// Which move it is, later ones higher: only sessions from before its first mention are
        /// ended.
        job: u64,
        /// How many at most.
        most: u64,
    },
    /// Those of whoever is down in the snapshot that was published last.
    Down,
    /// All of them.
    All,
}

/// What a worker tells the control thread.
#[derive(Clone, Copy, Debug)]
pub enum FromWorker {
    /// The connect phase of a client's session failed on this member.
    ConnectFailed(TargetId, Failure),
    /// A connect should have been answered by this moment, and has not been for long.
    ConnectSlow(TargetId, Time),
    /// It failed through a fault of our own.
    OwnFault(OwnFault),
}

#[cfg(test)]
mod tests;
