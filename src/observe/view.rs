//! [`View`]: everything that can be seen of a running instance at one moment.
//!
//! The daemon builds one when it is asked and lends it to the pure functions that make a status, an
//! explanation or a health answer of it. A view is never kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::counters::{OwnFaultCounters, WorkerCounters};
use super::events::Events;
use super::onset::Onsets;
use super::serve::ServerCounters;
use super::shortage::Shortages;
use super::stamp::Clock;
use crate::log::access::Counts;
use crate::pairing::Decider;
use crate::time::Time;
use crate::topology::{MemberId, PairId, PoolId, SiteId, TargetId, Topology};

/// What the daemon lends to those who describe it.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The instance's name.
    pub name: &'a str,
    /// The site whose pools it fronts; all pools when none.
    pub site: Option<SiteId>,
    /// What it is doing.
    pub state: RunState,
    /// When it started.
    pub started: Time,
    /// How much it may hold.
    pub room: Room,
    /// Why decisions might not outlive a restart, while that is so.
    pub store_problem: Option<&'a str>,
    /// Why the configuration that was read last is not in force, and since when.
    pub reload_refused: Option<(&'a str, Time)>,
    /// How the log of events on disk does.
    pub event_log: &'a EventLog,
    /// Earlier processes that drain after an upgrade, oldest first: process ids and sessions left.
    pub earlier: &'a [(u32, u64)],
    /// What is decided.
    pub decider: &'a Decider,
    /// What there is.
    pub topology: &'a Topology,
    /// What each worker counted.
    pub workers: &'a [Arc<WorkerCounters>],
    /// Faults of our own side that others than workers met.
    pub own_faults: &'a OwnFaultCounters,
    /// Sessions that a member holds now.
    pub load: &'a dyn Fn(MemberId) -> u64,
    /// Where a target is now; none while its name has never been resolved.
    pub address: &'a dyn Fn(TargetId) -> Option<SocketAddr>,
    /// How many probes of a target came back with what.
    pub checks: &'a dyn Fn(TargetId) -> CheckTotals,
    /// The last probes of a target, oldest first.
    pub exchanges: &'a dyn Fn(TargetId) -> Vec<Exchange>,
    /// Since when what is wrong has been so.
    pub onsets: &'a Onsets,
    /// What there was too little of lately.
    pub shortages: &'a Shortages,
    /// Sessions of a home pool's users that are still to be ended because they move.
    pub to_move: &'a dyn Fn(PoolId) -> u64,
    /// When those begin to be ended, while they are let drain.
    pub drains_until: &'a dyn Fn(PoolId) -> Option<Time>,
    /// Whether sessions of a home pool's users went to the twin one by one lately.
    pub spilling: &'a dyn Fn(PoolId) -> bool,
    /// What is wrong with a pair's record on disk: how it was found, until the next good write, or
    /// that the disk does not answer.
    pub record_problem: &'a dyn Fn(PairId) -> Option<String>,
    /// What happened lately.
    pub events: &'a Events,
    /// What became of the lines that the access log's writer took, where there is one.
    pub access: Option<Counts>,
    /// The HTTP servers by name (`observe`, `control`) and what they counted.
    pub servers: &'a [(&'static str, &'a ServerCounters)],
    /// The moment, by the clock that decides.
    pub now: Time,
    /// The same moment, by the clock on the wall.
    pub wall: SystemTime,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Not every listener stands yet, or some first probe is still out.
    Starting,
    /// It takes new sessions.
    Serving,
    /// It was told to stop and keeps what sessions it has, to a deadline.
    Draining,
}

/// How much an instance may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Descriptors that it may open.
    pub descriptors: u64,
    /// Sessions over TCP.
    pub sessions: Ceiling,
    /// Flows, the sessions of services over UDP; none without such a service.
    pub flows: Option<Ceiling>,
}

/// How many of something there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// On the whole instance.
    pub most: u64,
    /// On each worker: they share nothing, so one may be full while others are not.
    pub each: u64,
    /// Why not more.
    pub by: LimitedBy,
}

/// What keeps an instance from holding more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitedBy {
    /// The limit of open descriptors.
    Descriptors,
    /// A key of `[instance]`.
    Setting,
    /// The source ports that the host gives out.
    #[serde(rename = "source-ports")]
    SourcePorts,
}

/// How many probes came back with what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckTotals {
    /// A good answer.
    pub good: u64,
    /// A failure of the member's.
    pub bad: u64,
    /// A fault of our own side.
    pub own_fault: u64,
}

/// How the log of events on disk does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLog {
    /// Whether there is one: not without a state directory.
    pub is_kept: bool,
    /// Why it cannot be written or could not be read, while that is so.
    pub problem: Option<String>,
    /// Events that are not in it because the disk took nothing for too long.
    pub lost: u64,
    /// Lines of it that could not be read at the start.
    pub unreadable: u64,
}

/// One probe and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// When it came back.
    pub at: Time,
    /// Whether the answer was good; none when the fault was our own.
    pub good: Option<bool>,
    /// What was asked and what came, in words.
    pub text: String,
}

impl View<'_> {
    /// Both clocks at the moment of the view.
    pub fn clock(&self) -> Clock {
        Clock {
            now: self.now,
            wall: self.wall,
        }
    }
}
