//! Ids: positions in the lists of one [`Topology`](super::Topology), meaningless beside another.

/// A site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub u16);

/// A pool.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct PoolId(pub u16);

/// A member of a pool.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct MemberId {
    /// The pool that it belongs to.
    pub pool: PoolId,
    index: u16,
}

/// A service of a pool.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct ServiceId {
    /// The pool that it belongs to.
    pub pool: PoolId,
    index: u16,
}

/// One service on one member: what a probe asks and a verdict is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct TargetId {
    /// The pool that both belong to.
    pub pool: PoolId,
    member: u16,
    service: u16,
}

impl SiteId {
    /// Its place in [`Topology::sites`](super::Topology::sites).
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl PoolId {
    /// Its place in [`Topology::pools`](super::Topology::pools).
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Its member at this place.
    pub const fn member(self, index: u16) -> MemberId {
        MemberId { pool: self, index }
    }

    /// Its service at this place.
    pub const fn service(self, index: u16) -> ServiceId {
        ServiceId { pool: self, index }
    }
}

impl MemberId {
    /// Its place in its pool's members.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// This member's `service`, which must be of the same pool.
    pub const fn target(self, service: ServiceId) -> TargetId {
        TargetId::new(self, service)
    }
}

impl ServiceId {
    /// Its place in its pool's services.
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

impl TargetId {
    /// `service` on `member`, both of the same pool.
    pub const fn new(member: MemberId, service: ServiceId) -> TargetId {
        debug_assert!(member.pool.0 == service.pool.0);
        TargetId {
            pool: member.pool,
            member: member.index,
            service: service.index,
        }
    }

    /// The member asked.
    pub const fn member(self) -> MemberId {
        self.pool.member(self.member)
    }

    /// The service asked for.
    pub const fn service(self) -> ServiceId {
        self.pool.service(self.service)
    }
}
