//! One try to reach a member for a session.

use std::net::SocketAddr;
use std::sync::Arc;

use super::MemberHandle;
use crate::time::Time;
use crate::topology::TargetId;

/// A place at a member, held from the choice on: through the connect phase, and through the
/// session when that succeeds. Dropping it gives the place back.
#[derive(Debug)]
pub struct Attempt {
    member: Arc<MemberHandle>,
    target: TargetId,
    address: SocketAddr,
    began: Time,
}

impl Attempt {
    /// The caller has taken a place in `member`'s load.
    pub(super) fn new(
        member: Arc<MemberHandle>,
        target: TargetId,
        address: SocketAddr,
        began: Time,
    ) -> Attempt {
        Attempt {
            member,
            target,
            address,
            began,
        }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When it was chosen.
    pub fn began(&self) -> Time {
        self.began
    }

    /// The member, and the service that is asked of it.
    pub fn target(&self) -> TargetId {
        self.target
    }

    /// Whether others may be waiting for the place that this one holds.
    pub fn is_limited(&self) -> bool {
        self.member.is_limited()
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.member.load.release();
    }
}
