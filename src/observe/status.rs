//! [`Status`]: everything that is known of an instance at one moment, as plain data.
//!
//! `/v1/status` returns it, the command line renders it, `/metrics` is derived from it: one fact is
//! computed once, here, from a [`View`](super::view::View). Nothing here decides, and nothing here knows how it looks
//! on a page.

mod health;
mod pair;
mod survey;

pub use health::{Scope, pool_health};
pub(super) use pair::pair_status;
pub use pair::{HomePhase, HomeStatus, NextMove, PairStatus, PauseStatus, RedirectRow, SiteStatus};
pub use survey::{cause_text, status};
pub(super) use survey::{isolated, pool_status, target_status};

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::events::Event;
use super::shortage::Lately;
use super::stamp::Stamp;
use super::view::{CheckTotals, EventLog, LimitedBy, RunState};
use crate::health::Verdict;
use crate::health::readiness::{Mode, Takes};
use crate::pairing::Condition;
use crate::topology::Protocol;

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
    /// Sessions over TCP, of all pools.
    pub sessions: Sessions,
    /// Flows, the sessions of services over UDP, where there is such a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<Sessions>,
    /// The same by worker: each has its share of what the instance may hold.
    pub by_worker: Vec<WorkerStatus>,
    /// Descriptors that it may open.
    pub descriptor_limit: u64,
    /// What there was too little of lately on the whole instance.
    pub lately: Vec<Lately>,
    /// Faults of its own side that sessions and probes met since the start, by kind.
    pub own_faults: OwnFaults,
    /// Evidence from traffic that found the way to the control thread full.
    pub reports_dropped: u64,
    /// The access log, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessStatus>,
    /// Why decisions might not outlive a restart.
    pub store_problem: Option<String>,
    /// Since when, unless it was so at the start.
    pub store_problem_since: Option<Stamp>,
    /// Why the configuration that was read last is not in force.
    #[serde(default)]
    pub reload_refused: Option<String>,
    /// Since when that is known.
    #[serde(default)]
    pub reload_refused_since: Option<Stamp>,
    /// How the log of events on disk does.
    pub event_log: EventLog,
    /// Since when that cannot be written, unless it was so at the start.
    pub event_log_since: Option<Stamp>,
    /// Earlier processes that drain after an upgrade, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierProcess>,
    /// Its HTTP servers.
    pub servers: Vec<ServerStatus>,
    /// In file order.
    pub pools: Vec<PoolStatus>,
    /// In file order.
    pub pairs: Vec<PairStatus>,
    /// While all automation of pairs is paused.
    pub pause: Option<PauseStatus>,
    /// In file order.
    pub sites: Vec<SiteStatus>,
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

/// What became of the lines of the access log, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessStatus {
    /// Written.
    pub written: u64,
    /// Not taken, because the queue was full.
    pub dropped: u64,
    /// Lost, because they could not be written.
    pub lost: u64,
}

/// Sessions held, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Held now.
    pub open: u64,
    /// How many may be held.
    pub limit: u64,
    /// Why not more.
    pub limited_by: LimitedBy,
}

/// What a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Sessions over TCP.
    pub sessions: Sessions,
    /// Flows, where there is a service over UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<Sessions>,
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

/// A process that was upgraded, and keeps the sessions that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierProcess {
    /// Its process id.
    pub pid: u32,
    /// Sessions that it has left.
    pub sessions: u64,
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
    /// Connections that broke, or carried something else than HTTP/1.
    pub broken: u64,
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
    /// What carries it.
    pub protocol: Protocol,
    /// Where clients connect, or send their datagrams.
    pub listen: Vec<SocketAddr>,
    /// Sessions open now; of a service over UDP these are its flows.
    pub open: u64,
    /// Members that take new sessions; those of last resort when there are no others.
    pub usable: u16,
    /// Whether no member is usable.
    pub lost: bool,
    /// The chosen member, when it is balanced by `first`.
    pub first: Option<String>,
    /// What was counted since the start.
    pub totals: ServiceTotals,
    /// What there was too little of lately.
    pub lately: Vec<Lately>,
}

/// [`ServiceCounters`](super::counters::ServiceCounters) of all workers, summed. The fields mean the same.
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
    pub left_queue: u64,
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
    /// What was counted besides, of a service over UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<UdpTotals>,
}

/// [`UdpCounters`](super::counters::UdpCounters) of all workers, summed. The fields mean the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented where they are counted")]
pub struct UdpTotals {
    pub datagrams_in: u64,
    pub datagrams_out: u64,
    pub dropped_no_member: u64,
    pub dropped_unsent: u64,
    pub dropped_table_full: u64,
    pub dropped_no_port: u64,
    pub evicted: u64,
    pub moved: u64,
    pub icmp_errors: u64,
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
    /// Sessions that it holds now, those in earlier processes that drain among them.
    pub load: u64,
    /// Sessions that it may hold.
    pub max_connections: Option<u32>,
    /// Sessions that it was given since the start.
    pub sessions: u64,
    /// Connects that it, or the network for it, refused, and flows for which an ICMP error came back.
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
    /// Whether it is busy because failures keep coming back.
    pub flapping: bool,
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

impl Sessions {
    /// Whether there is room for no more.
    pub fn is_full(self) -> bool {
        self.limit > 0 && self.open >= self.limit
    }
}

impl OwnFaults {
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
    /// Connections and flows that were not carried, by reason; those shed are not among them.
    pub fn refusals(&self) -> [(&'static str, u64); 7] {
        [
            ("no_member", self.refused_no_member),
            ("attempts", self.refused_attempts),
            ("queue_full", self.refused_queue_full),
            ("queue_timeout", self.refused_queue_timeout),
            ("left_queue", self.left_queue),
            ("own_fault", self.refused_own_fault),
            ("proxy_header", self.refused_proxy_header),
        ]
    }

    /// Sessions over, by who ended them; `sides` is an orderly end, which a flow never has, and
    /// `evicted` one that only a flow has.
    pub fn endings(&self) -> Vec<(&'static str, u64)> {
        let mut endings = vec![
            ("us", self.ended_by_us),
            ("idle", self.ended_idle),
            ("client", self.reset_by_client),
            ("member", self.reset_by_member),
            ("refused", self.refused()),
        ];
        match &self.udp {
            Some(udp) => endings.push(("evicted", udp.evicted)),
            None => {
                let known: u64 = endings.iter().map(|(_, n)| n).sum();
                endings.push(("sides", self.ended.saturating_sub(known)));
            }
        }
        endings
    }

    /// Connections and flows that were not carried, for whatever reason.
    pub fn refused(&self) -> u64 {
        self.refusals().iter().map(|(_, n)| n).sum::<u64>() + self.shed
    }
}

impl UdpTotals {
    /// Datagrams that went nowhere, by reason.
    pub fn drops(&self) -> [(&'static str, u64); 4] {
        [
            ("no_member", self.dropped_no_member),
            ("table_full", self.dropped_table_full),
            ("unsent", self.dropped_unsent),
            ("no_port", self.dropped_no_port),
        ]
    }

    /// The same, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.drops().iter().map(|(_, n)| n).sum()
    }
}

impl Status {
    /// Sessions and flows held now.
    pub fn open(&self) -> u64 {
        self.sessions.open + self.flows.map_or(0, |flows| flows.open)
    }

    /// The pool with this name.
    pub fn pool(&self, name: &str) -> Option<&PoolStatus> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pair of the pool with this name, and the pool's users in it.
    pub fn home(&self, pool: &str) -> Option<(&PairStatus, &HomeStatus)> {
        let homes = self.pairs.iter().flat_map(|pair| {
            let homes = pair.pools.iter();
            homes.map(move |home| (pair, home))
        });
        homes.into_iter().find(|(_, home)| home.pool == pool)
    }
}

impl PoolStatus {
    /// The service with this name.
    pub fn service(&self, name: &str) -> Option<&ServiceStatus> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The member with this name.
    pub fn member(&self, name: &str) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Sessions open now, over its services.
    pub fn open(&self) -> u64 {
        self.services.iter().map(|service| service.open).sum()
    }
}
