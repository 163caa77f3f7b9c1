//! Whether members live: the verdict machine (pure), the probes, the runner that asks them.
//!
//! [`Machine`](machine::Machine) decides one member's verdict for one service from what it is told
//! and does nothing else. Probes (`probe/`, one file each) ask one question of one address and
//! return a [`ProbeOutcome`]; the runner beside them asks when told to and reports back.

pub mod machine;
pub mod probe;
pub mod readiness;
pub mod runner;

use std::fmt;
use std::time::Duration;

use crate::time::Time;
use crate::topology::ServiceId;

/// What is thought of one member for one service.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No probe has come back yet; traffic may try it.
    #[default]
    Unknown,
    /// It answers well.
    Up,
    /// It answers, badly: no new sessions unless nobody else is left.
    Busy,
    /// It does not answer: its sessions are ended.
    Down,
}

/// Why a verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Reason {
    /// No probe has come back yet.
    NotYetAsked,
    /// `rise` probes in a row were answered well (the first one, after a start).
    Answered,
    /// `fall` probes in a row failed, the last one so.
    Failed(Failure),
    /// `flap` failures without a run of successes between them.
    Flapping,
    /// The verdict of a service that this one requires is worse than its own.
    Requires(ServiceId),
}

/// How a probe failed, named by the layer that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Failure {
    /// The host answered that nothing listens (RST).
    Refused,
    /// The network answered that the host is not there.
    Unreachable,
    /// Nothing answered the connection request in time.
    ConnectTimeout,
    /// The connection stood, the protocol's answer did not come in time: a hang.
    NoAnswer,
    /// Nothing answered a datagram in time: the host is gone, its process hangs, or the network
    /// lost every one.
    Silent,
    /// The connection was closed or reset before an answer.
    Closed,
    /// What came was not the protocol.
    Garbled,
    /// The certificate did not verify.
    Certificate,
    /// An answer with a status that is not a good one.
    Status(u16),
    /// The protocol's own "not now": HTTP 503, SIP 503.
    Unavailable,
}

/// What a failure says about new sessions, sessions held, and quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Answers badly: no new sessions unless nobody else is left, sessions kept, still counted.
    Soft,
    /// Does not answer: no new sessions, sessions ended, not counted.
    Hard,
}

/// What a probe brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeOutcome {
    /// Good, bad, or no fault of the member's.
    pub answer: Answer,
    /// From start to end.
    pub took: Duration,
    /// What was asked and what came, in words, bounded; for `why`.
    pub transcript: String,
}

/// The judgement in a [`ProbeOutcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// A good answer.
    Good,
    /// A failure of the member's, or of the network towards it.
    Bad(Failure),
    /// The fault is our own; nothing is learnt about the member.
    OwnFault(OwnFault),
}

/// A fault on our own side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum OwnFault {
    /// No file descriptor left (`EMFILE`, `ENFILE`).
    Descriptors,
    /// No source port left (`EADDRNOTAVAIL`).
    SourcePorts,
    /// No memory or buffer left (`ENOMEM`, `ENOBUFS`).
    Memory,
    /// No route to the member from here (`ENETUNREACH`, `ENETDOWN`).
    Route,
    /// The member's name has never been resolved.
    Name,
    /// Any other error that the kernel blames on the caller.
    Other,
}

/// What the connect phase of a client's session says about a member. Nothing else of a session
/// counts: its bytes and resets prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// It accepted a connection: somebody is there. Clears no doubt, but ends isolation.
    Answered,
    /// It, or the network towards it, failed one. Only `Refused`, `Unreachable` and
    /// `ConnectTimeout` occur.
    Failed(Failure),
    /// It should have answered one by this moment, however slow the way to it, and still has not: a
    /// `ConnectTimeout` whose silence is that old.
    Slow(Time),
}

impl Answer {
    /// What came of a probe, in one word for metrics; there are a dozen, and an HTTP status adds
    /// none.
    pub fn word(self) -> &'static str {
        match self {
            Answer::Good => "good",
            Answer::Bad(failure) => failure.word(),
            Answer::OwnFault(_) => "own_fault",
        }
    }
}

impl Failure {
    /// It in one word.
    pub fn word(self) -> &'static str {
        match self {
            Failure::Refused => "refused",
            Failure::Unreachable => "unreachable",
            Failure::ConnectTimeout => "connect_timeout",
            Failure::NoAnswer => "no_answer",
            Failure::Silent => "silent",
            Failure::Closed => "closed",
            Failure::Garbled => "garbled",
            Failure::Certificate => "certificate",
            Failure::Status(_) => "status",
            Failure::Unavailable => "unavailable",
        }
    }

    /// By the severity table of the design.
    pub fn severity(self) -> Severity {
        match self {
            Failure::Refused
            | Failure::Unreachable
            | Failure::ConnectTimeout
            | Failure::NoAnswer
            | Failure::Silent => Severity::Hard,
            Failure::Closed
            | Failure::Garbled
            | Failure::Certificate
            | Failure::Status(_)
            | Failure::Unavailable => Severity::Soft,
        }
    }

    /// Whether nothing at all came back. Only silence can be the fault of our own uplink; a
    /// refusal is an answer, and a hang followed one.
    pub fn is_silence(self) -> bool {
        matches!(
            self,
            Failure::Unreachable | Failure::ConnectTimeout | Failure::Silent
        )
    }

    /// The layer that failed, as HAProxy names check results: `L4`, `L6` or `L7`.
    pub fn layer(self) -> &'static str {
        match self {
            Failure::Refused | Failure::Unreachable | Failure::ConnectTimeout | Failure::Silent => {
                "L4"
            }
            Failure::Certificate => "L6",
            Failure::NoAnswer
            | Failure::Closed
            | Failure::Garbled
            | Failure::Status(_)
            | Failure::Unavailable => "L7",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => f.write_str("connection refused"),
            Failure::Unreachable => f.write_str("host unreachable"),
            Failure::ConnectTimeout => f.write_str("connect timed out"),
            Failure::NoAnswer => f.write_str("accepted, but did not answer in time"),
            Failure::Silent => f.write_str("did not answer in time"),
            Failure::Closed => f.write_str("closed without an answer"),
            Failure::Garbled => f.write_str("answered with something else than the protocol"),
            Failure::Certificate => f.write_str("certificate not trusted"),
            Failure::Status(code) => write!(f, "status {code}"),
            Failure::Unavailable => f.write_str("says 503, unavailable"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Unknown => "unknown",
            Verdict::Up => "up",
            Verdict::Busy => "busy",
            Verdict::Down => "down",
        })
    }
}

impl fmt::Display for OwnFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OwnFault::Descriptors => "no file descriptor left",
            OwnFault::SourcePorts => "no source port left",
            OwnFault::Memory => "no memory left for a connection",
            OwnFault::Route => "no route from here",
            OwnFault::Name => "name not resolved",
            OwnFault::Other => "refused by our own kernel",
        })
    }
}

/// Sorts an error of `connect` (or of `socket` before it) into whose fault it is.
pub fn connect_failure(error: &std::io::Error) -> Answer {
    use std::io::ErrorKind;
    let errno = rustix::io::Errno::from_io_error(error);
    use rustix::io::Errno;
    match errno {
        Some(Errno::CONNREFUSED | Errno::CONNRESET) => Answer::Bad(Failure::Refused),
        Some(Errno::HOSTUNREACH | Errno::HOSTDOWN) => Answer::Bad(Failure::Unreachable),
        Some(Errno::TIMEDOUT) => Answer::Bad(Failure::ConnectTimeout),
        Some(Errno::MFILE | Errno::NFILE) => Answer::OwnFault(OwnFault::Descriptors),
        Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE | Errno::AGAIN) => {
            Answer::OwnFault(OwnFault::SourcePorts)
        }
        Some(Errno::NOMEM | Errno::NOBUFS) => Answer::OwnFault(OwnFault::Memory),
        Some(Errno::NETUNREACH | Errno::NETDOWN) => Answer::OwnFault(OwnFault::Route),
        _ if error.kind() == ErrorKind::TimedOut => Answer::Bad(Failure::ConnectTimeout),
        _ => Answer::OwnFault(OwnFault::Other),
    }
}
