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
mod adopt;
mod connect;
mod door;
mod front;
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
mod walk;
mod worker;

pub use access::AccessLog;
pub use limits::{FlowsWanted, Limits, raise_descriptor_limit, source_ports};
pub use worker::{Plan, Ready, WorkerHandle, start};

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::dispatch::{Attempt, Snapshot};
use crate::health::{Failure, OwnFault};
use crate::observe::counters::WorkerCounters;
use crate::time::Time;
use crate::topology::{MemberId, PoolId, Protocol, ServiceId, Succession, TargetId, Topology};
use listen::Listener;

/// What the control thread tells a worker.
#[derive(Clone, Debug)]
pub enum ToWorker {
    /// New sessions follow this snapshot from now on.
    Publish(Arc<Snapshot>),
    /// End sessions, each with a reset to both sides.
    End(Which),
    /// Close the listeners: no new sessions.
    Close,
    /// The same where the listeners live on in another process, or never come back: whoever waits
    /// to be accepted is let in first.
    Leave,
}

/// What a worker needs to go on under another topology: the one that follows the topology that it
/// knows. It takes all of it between two events of its loop, so that nothing on it ever sees half.
///
/// Sessions whose member and service are still there go on untouched, whatever their new ids are.
/// Those whose member or service is gone are kept to `drain` of their old pool and then ended;
/// flows over UDP end at once, and their clients' next datagrams begin others. Connects that are
/// under way go on under the new rules, or are refused where their service is gone. Listeners that
/// are in no list are not touched, and go on in front of the service that they stand in front of.
#[derive(Debug)]
pub struct Adoption {
    /// The topology from now on.
    pub topology: Arc<Topology>,
    /// Where what was there before is found in it.
    pub succession: Arc<Succession>,
    /// Who may be chosen from now on. Its epoch is that of the topology: higher than any before.
    pub snapshot: Arc<Snapshot>,
    /// Where the worker counts from now on: what is still there goes on with the counters that it
    /// had ([`WorkerCounters::succeed`](crate::observe::counters::WorkerCounters::succeed)).
    pub counters: Arc<WorkerCounters>,
    /// Listeners to begin with; services and pools by their new ids.
    pub open: Vec<Listener>,
    /// Listeners to close, by protocol and address, once all who wait there have been accepted;
    /// flows over UDP that came by one end.
    pub close: Vec<(Protocol, SocketAddr)>,
    /// Listeners that stand in front of another service from now on, by its new id. Connections go
    /// there from the next one on; flows over UDP that came by one end.
    pub pass: Vec<(Protocol, SocketAddr, ServiceId)>,
    /// Where sessions that come from now on are told; nowhere when none.
    pub access: Option<AccessLog>,
    /// Its share of the sessions that the instance may hold from now on.
    pub sessions: usize,
    /// Its share of the flows over UDP.
    pub flows: usize,
    /// Told once all of it is in force.
    pub done: oneshot::Sender<()>,
}

/// A flow over UDP on its way to another process.
#[derive(Debug)]
pub struct FlowGiven {
    /// The socket of its listener, by what [`Listener::inode`] tells in either process.
    pub listener: u64,
    /// Its client.
    pub client: SocketAddr,
    /// The address at which a listener for all addresses was asked.
    pub local: Option<IpAddr>,
    /// With whom it stands, in the ids of the topology in force.
    pub target: TargetId,
    /// Where that is.
    pub member: SocketAddr,
    /// Whether its member has answered.
    pub is_answered: bool,
    /// Whether its client has sent again after an answer.
    pub is_proven: bool,
    /// Whether its socket is read in runs; whether runs go to its member, and to its client.
    pub reads_runs: bool,
    /// See there.
    pub runs_in: bool,
    /// See there.
    pub runs_out: bool,
    /// Its own socket towards its member.
    pub socket: OwnedFd,
}

/// A flow of another process, and its place at its member.
#[derive(Debug)]
pub struct FlowTaken {
    /// It, in the ids of this process's topology.
    pub given: FlowGiven,
    /// Its place.
    pub attempt: Attempt,
}

/// What a worker is to do with its flows when they go over to another process.
#[derive(Debug)]
pub enum HandFlows {
    /// Read nothing any more: what comes waits in the kernel. Says how many there are.
    Pause(oneshot::Sender<usize>),
    /// Say which those are, and give their sockets once more. One without a descriptor to spare is
    /// left out.
    Give {
        /// How many to pass over.
        from: usize,
        /// How many at most.
        most: usize,
        /// With whom they go.
        tell: oneshot::Sender<Vec<FlowGiven>>,
    },
    /// Go on as if nothing had been.
    Resume,
    /// Forget them, and their listeners.
    Leave,
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
    /// The connect phase of a client's session failed on a member.
    ConnectFailed {
        /// Which topology the target is of ([`Snapshot::epoch`]).
        epoch: u32,
        /// On whom.
        target: TargetId,
        /// How.
        failure: Failure,
    },
    /// A connect has not been answered for long.
    ConnectSlow {
        /// Which topology the target is of.
        epoch: u32,
        /// By whom.
        target: TargetId,
        /// When it should have been.
        since: Time,
    },
    /// It failed through a fault of our own.
    OwnFault(OwnFault),
}

#[cfg(test)]
mod tests;
