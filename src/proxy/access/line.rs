//! What is handed to the writer of the access log, and how it is written there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::super::registry::Told;
use crate::log::access::Entry;
use crate::time::Time;
use crate::topology::{Protocol, ServiceId, TargetId, Topology};

/// What is handed to the writer.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) instance: Arc<str>,
    pub(super) topology: Arc<Topology>,
    pub(super) service: ServiceId,
    pub(super) client: SocketAddr,
    pub(super) source: Option<SocketAddr>,
    pub(super) listener: Option<SocketAddr>,
    pub(super) began: SystemTime,
    pub(super) phase: Phase,
    pub(super) reached: Option<Reached>,
    pub(super) end: End,
    pub(super) retries: u32,
    pub(super) hedges: u32,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) queue: Duration,
    pub(super) connect: Duration,
    pub(super) total: Duration,
}

/// How far a session came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// It had just been accepted.
    Accept,
    /// Its PROXY header was awaited.
    Header,
    /// It waited for a member with room.
    Queue,
    /// A member was sought.
    Connect,
    /// It was carried.
    Relay,
}

/// How it came to the pool that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// It is the home pool.
    Home,
    /// The redirect table sent it there.
    Redirected,
    /// No member of the pool that it was sent to accepted it.
    Spilled,
}

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum By {
    Client,
    Member,
    Idle,
    MemberDown,
    Drained,
    Removed,
    Readdressed,
    Moved,
    Evicted,
    OwnFault,
    Shed,
    Refused,
    Stopped,
}

/// How it ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) by: By,
    pub(super) orderly: bool,
    /// Why it was refused, in the words of the metrics.
    pub(super) reason: Option<&'static str>,
    /// What the kernel or the caller said.
    pub(super) detail: Option<String>,
}

/// The member that was reached.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    /// What its ids are of.
    pub(super) topology: Arc<Topology>,
    pub(super) target: TargetId,
    pub(super) address: SocketAddr,
    pub(super) way: Way,
    pub(super) generation: Option<u64>,
    pub(super) at: Time,
}

impl By {
    pub(super) fn of(told: Told) -> By {
        match told {
            Told::Down => By::MemberDown,
            Told::Drained => By::Drained,
            Told::Removed => By::Removed,
            Told::Readdressed => By::Readdressed,
            Told::Moved => By::Moved,
            Told::Stopped => By::Stopped,
        }
    }
}

impl End {
    pub(super) fn by(by: By) -> End {
        End {
            by,
            orderly: false,
            reason: None,
            detail: None,
        }
    }

    pub(super) fn refused(reason: &'static str) -> End {
        End {
            reason: Some(reason),
            ..End::by(By::Refused)
        }
    }

    pub(super) fn because(by: By, error: &impl fmt::Display) -> End {
        End {
            detail: Some(error.to_string()),
            ..End::by(by)
        }
    }
}

/// A line as it is read.
#[derive(Serialize)]
struct Written<'a> {
    /// When it was accepted.
    time: String,
    instance: &'a str,
    pool: &'a str,
    service: &'a str,
    protocol: &'static str,
    client: SocketAddr,
    /// Where it comes from by its PROXY header.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<SocketAddr>,
    ended: By,
    orderly: bool,
    phase: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(flatten)]
    served: Option<Served<'a>>,
    retries: u32,
    hedges: u32,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(serialize_with = "seconds")]
    queue: Duration,
    #[serde(serialize_with = "seconds")]
    connect: Duration,
    #[serde(serialize_with = "seconds")]
    total: Duration,
}

/// Of a session that reached a member.
#[derive(Serialize)]
struct Served<'a> {
    member: String,
    address: SocketAddr,
    /// The pool that serves it: its own, or the twin.
    serving: &'a str,
    way: Way,
    /// Of the pair's record by which it was sent, where there is a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

impl Entry for Line {
    fn write(&self, line: &mut String) {
        let service = self.topology.service(self.service);
        let written = Written {
            time: time(self.began),
            instance: &self.instance,
            pool: &self.topology.pool(self.service.pool).name,
            service: &service.name,
            protocol: Protocol::word(service.protocol),
            client: self.client,
            source: self.source,
            listener: self.listener,
            ended: self.end.by,
            orderly: self.end.orderly,
            phase: self.phase,
            reason: self.end.reason,
            detail: self.end.detail.as_deref(),
            served: self.reached.as_ref().map(|reached| Served {
                member: reached.topology.member_path(reached.target.member()),
                address: canonical(reached.address),
                serving: &reached.topology.pool(reached.target.pool).name,
                way: reached.way,
                generation: reached.generation,
            }),
            retries: self.retries,
            hedges: self.hedges,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            queue: self.queue,
            connect: self.connect,
            total: self.total,
        };
        *line += &serde_json::to_string(&written).expect("plain values have a form in JSON");
    }
}

fn time(wall: SystemTime) -> String {
    let stamp = Timestamp::try_from(wall).unwrap_or(Timestamp::MAX);
    format!("{stamp:.6}")
}

/// To the microsecond.
fn seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_micros() as f64 / 1e6)
}

/// An address of IPv4 as one, however the socket that tells it writes it.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
