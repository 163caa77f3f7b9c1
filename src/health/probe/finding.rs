//! What an asking came to, and the judgement of it.

use std::io::{self, ErrorKind};

use crate::health::{Answer, Failure, OwnFault};
use crate::topology::CheckKind;

/// What an asking came to, before it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// No connection, or over UDP no way to the port; whose fault that is has been sorted by
    /// [`connect_failure`](crate::health::connect_failure).
    ConnectFailed(Answer),
    /// Nothing answered the connection request within the timeout.
    ConnectTimedOut,
    /// Connected, and then not enough came within the timeout.
    Silence,
    /// Asked in datagrams, and nothing at all came back within the timeout.
    NeverHeard,
    /// Closed or reset before an answer.
    Closed,
    /// Something else than the protocol.
    Garbled,
    /// A certificate that did not verify.
    Untrusted,
    /// Our own side ran out of something while it talked.
    Own(OwnFault),
    /// The sign of life that the check asks for: accepted, spoke TLS, or answered by
    /// STUN.
    Life,
    /// A final status of HTTP or SIP.
    Status(u16),
}

/// The status by which HTTP and SIP alike say "not now".
const UNAVAILABLE: u16 = 503;

/// Judges what an asking of this kind came to.
pub fn judge(kind: &CheckKind, finding: &Finding) -> Answer {
    match *finding {
        Finding::ConnectFailed(answer) => answer,
        Finding::ConnectTimedOut => Answer::Bad(Failure::ConnectTimeout),
        Finding::Silence => Answer::Bad(Failure::NoAnswer),
        Finding::NeverHeard => Answer::Bad(Failure::Silent),
        Finding::Closed => Answer::Bad(Failure::Closed),
        Finding::Garbled => Answer::Bad(Failure::Garbled),
        Finding::Untrusted => Answer::Bad(Failure::Certificate),
        Finding::Own(fault) => Answer::OwnFault(fault),
        Finding::Life => Answer::Good,
        Finding::Status(status) => judge_status(kind, status),
    }
}

fn judge_status(kind: &CheckKind, status: u16) -> Answer {
    let good = match kind {
        CheckKind::Http(check) => check.status.contains(&status),
        CheckKind::Sip => status != UNAVAILABLE,
        CheckKind::Tcp | CheckKind::Tls | CheckKind::Stun => true,
    };
    match status {
        _ if good => Answer::Good,
        UNAVAILABLE => Answer::Bad(Failure::Unavailable),
        _ => Answer::Bad(Failure::Status(status)),
    }
}

/// Sorts an error of a connection that stood. The kernel gives one up that is not acknowledged
/// (timed out, unreachable): that is silence. Out of memory is our own fault. What is left is some
/// form of a reset.
pub(super) fn broken(error: &io::Error) -> Finding {
    match error.kind() {
        ErrorKind::TimedOut
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown => Finding::Silence,
        ErrorKind::OutOfMemory => Finding::Own(OwnFault::Memory),
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
            Finding::Own(OwnFault::Memory)
        }
        ErrorKind::InvalidData => Finding::Garbled,
        _ => Finding::Closed,
    }
}
