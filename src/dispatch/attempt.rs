//! One try to reach a member for a session.

use std::net::SocketAddr;
use std::sync::Arc;

use super::MemberHandle;
use crate::time::Time;

/// A place at a member, held from the choice on: through the connect phase, and through the
/// session when that succeeds. Dropping it gives the place back.
///
/// It outlives the topology in which it was made, so it names its member by no id: whoever holds
/// one keeps the id that came with it for as long as that topology is in force, and then asks for
/// the one of the next ([`Snapshot::find`](super::Snapshot::find)).
#[derive(Debug)]
pub struct Attempt {
    pub(super) member: Arc<MemberHandle>,
    address: SocketAddr,
    began: Time,
}

impl Attempt {
    /// The caller has taken a place in `member`'s load.
    pub(super) fn new(member: Arc<MemberHandle>, address: SocketAddr, began: Time) -> Attempt {
        Attempt {
            member,
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
