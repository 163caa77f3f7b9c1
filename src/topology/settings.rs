//! The settings of pools and services as code uses them: resolved, typed, defaults filled in.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// An address, or a name that is resolved again and again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Fixed.
    Address(IpAddr),
    /// Followed.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name) => name.fmt(f),
        }
    }
}

/// What carries a service between its clients and its members.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections, byte for byte.
    #[default]
    Tcp,
    /// Datagrams, each whole. A client's address and port make a flow, which has one member.
    Udp,
}

impl Protocol {
    /// The word that names it in configuration, status and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        })
    }
}

/// How many members a pool of some size needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quorum {
    /// To be brought back by automation.
    pub to_start: QuorumNeed,
    /// To go on serving.
    pub to_stay: QuorumNeed,
}

/// `members` of the first `of_first` in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuorumNeed {
    /// How many must be present.
    pub members: u16,
    /// Of how many, from the start of the list.
    pub of_first: u16,
}

/// What the members of a pool below quorum do when its users have nowhere to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BelowQuorum {
    /// Those that answer go on serving.
    #[default]
    Serve,
    /// New connections are refused.
    Refuse,
}

/// How a service's members are asked whether they live, and how the answers are judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Whether it is asked over TLS. Always false for [`CheckKind::Tls`], which is its own TLS, and
    /// for [`CheckKind::Stun`], which asks over UDP.
    pub tls: bool,
    /// Whether the certificate is verified, where there is TLS.
    pub verify: Verify,
    /// The name sent as SNI and verified; the member's host name when none.
    pub server_name: Option<String>,
    /// Asked on this port instead of the service's.
    pub port: Option<u16>,
    /// From the start of one probe to the start of the next, while the verdict is not in doubt.
    pub interval: Duration,
    /// The same while it is in doubt.
    pub in_doubt: Duration,
    /// Each interval varies by so much of itself, 0.0 to 0.5, in both directions.
    pub jitter: f64,
    /// How long one probe may take, connecting included.
    pub timeout: Duration,
    /// Consecutive failures that turn a member away from `up`.
    pub fall: NonZeroU32,
    /// Consecutive successes that bring it back.
    pub rise: NonZeroU32,
    /// Failures without a run of as many successes between them that make a member `busy` as
    /// flapping; after gdnsd's `down_thresh` and `ok_thresh`.
    pub flap: NonZeroU32,
}

impl Check {
    /// Whether it asks the same as another one. How often, and what is made of the answers, may
    /// differ.
    pub fn asks_as(&self, other: &Check) -> bool {
        self.kind == other.kind
            && self.tls == other.tls
            && self.verify == other.verify
            && self.server_name == other.server_name
            && self.port == other.port
    }
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// To accept a connection.
    Tcp,
    /// To answer a TLS ClientHello: any ServerHello or alert is life.
    Tls,
    /// An HTTP/1.1 request.
    Http(HttpCheck),
    /// A SIP OPTIONS request (RFC 3261 section 11); any final answer but 503 is life.
    Sip,
    /// A STUN Binding request (RFC 8489) over UDP; a success or an error response is life.
    Stun,
}

/// The request of an HTTP check and the answers that count as good.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpCheck {
    /// The request's method, upper case.
    pub method: String,
    /// The request's target, from its slash.
    pub path: String,
    /// The `Host` header; the member's address when none.
    pub host: Option<String>,
    /// Good status codes.
    pub status: RangeInclusive<u16>,
}

/// Whether a TLS check verifies the member's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// A check asks for life, not for identity.
    #[default]
    No,
    /// Against the authorities in this PEM file.
    Authorities(PathBuf),
}

/// How a member is chosen for a new session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The less loaded of two members drawn at random (the power of two choices).
    #[default]
    LeastConnections,
    /// Each in turn, by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// By the client's address; a failed member's clients alone move.
    Source,
    /// One member; the next only when it is lost, and no automatic return.
    First,
}

/// How a member is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRules {
    /// After so long without an answer a second member is tried beside the first.
    pub hedge: Duration,
    /// How long all attempts together may take.
    pub budget: Duration,
    /// How many attempts there may be, hedges included.
    pub attempts: NonZeroU32,
}

impl ConnectRules {
    /// Where a connection that no member of one pool accepts goes to the twin's, the first of the
    /// two has one part in so many of the budget, so that the other one's members can be tried as
    /// often as is usual; but never less than [`ConnectRules::FIRST_HEDGES`].
    const FIRST_SHARE: u32 = 4;
    /// So many hedge delays are the least that the first of two pools has: one member that is
    /// silent must not send a client to another site, so there is time for two.
    const FIRST_HEDGES: u32 = 2;

    /// What the first of two pools has of the budget. The other one has the rest, at least as much.
    pub fn first_share(&self) -> Duration {
        let share = (self.budget / Self::FIRST_SHARE).max(self.hedge * Self::FIRST_HEDGES);
        share.min(self.budget / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_pools_has_time_for_two_hedges_and_leaves_half_at_least() {
        let share = |hedge, budget| {
            let rules = ConnectRules {
                hedge: Duration::from_millis(hedge),
                budget: Duration::from_millis(budget),
                attempts: NonZeroU32::MIN,
            };
            rules.first_share().as_millis()
        };
        assert_eq!(share(250, 2_000), 500);
        assert_eq!(share(50, 2_000), 500);
        assert_eq!(share(400, 2_000), 800);
        assert_eq!(share(1_500, 2_000), 1_000);
    }
}
