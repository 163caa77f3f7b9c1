//! [`Places`]: every target, member and service of a topology as a place in one flat list.

use crate::topology::{MemberId, ServiceId, TargetId, Topology};

/// Where each pool's members, services and targets begin.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pools: Vec<Start>,
    targets: Vec<TargetId>,
    members: usize,
    services: usize,
}

#[derive(Clone, Copy, Debug)]
struct Start {
    target: usize,
    member: usize,
    service: usize,
    services: usize,
}

impl Places {
    pub(super) fn new(topology: &Topology) -> Places {
        let (mut target, mut member, mut service) = (0, 0, 0);
        let pools = topology.pools.iter().map(|pool| {
            let start = Start {
                target,
                member,
                service,
                services: pool.services.len(),
            };
            target += pool.members.len() * pool.services.len();
            member += pool.members.len();
            service += pool.services.len();
            start
        });
        Places {
            pools: pools.collect(),
            targets: topology.targets().collect(),
            members: member,
            services: service,
        }
    }

    pub(super) fn target(&self, id: TargetId) -> usize {
        let start = &self.pools[id.pool.index()];
        start.target + id.member().index() * start.services + id.service().index()
    }

    pub(super) fn target_at(&self, place: usize) -> TargetId {
        self.targets[place]
    }

    /// The places of a member's targets, by service.
    pub(super) fn targets_of(&self, id: MemberId) -> std::ops::Range<usize> {
        let start = &self.pools[id.pool.index()];
        let first = start.target + id.index() * start.services;
        first..first + start.services
    }

    pub(super) fn member(&self, id: MemberId) -> usize {
        self.pools[id.pool.index()].member + id.index()
    }

    pub(super) fn service(&self, id: ServiceId) -> usize {
        self.pools[id.pool.index()].service + id.index()
    }

    pub(super) fn targets(&self) -> usize {
        self.targets.len()
    }

    pub(super) fn members(&self) -> usize {
        self.members
    }

    pub(super) fn services(&self) -> usize {
        self.services
    }
}
