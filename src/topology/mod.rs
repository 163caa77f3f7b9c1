//! What there is: sites, pools, members, services, pairs and their ids. Immutable, look-up only.
//!
//! A [`Topology`] is resolved once from a configuration that validated. Everything that decides or
//! forwards names things by the small `Copy` ids defined here and looks the rest up. Nothing here
//! changes while it is in force, knows a socket, or decides anything.
//!
//! Members are listed in file order, because quorum rules count them in that order.

mod former;
mod ids;
mod pair;
mod settings;
mod succession;

pub use former::{FormerMember, FormerService};
pub use ids::{MemberId, PoolId, ServiceId, SiteId, TargetId};
pub use pair::{Automation, Pair, PairId, PairRules, Side};
pub use settings::{
    BelowQuorum, Check, CheckKind, ConnectRules, Host, HttpCheck, Policy, Protocol, Quorum,
    QuorumNeed, Verify,
};
pub use succession::Succession;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

/// Every site, pool, member, service and pair of one configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Indexed by [`SiteId`].
    pub sites: Vec<Site>,
    /// Indexed by [`PoolId`].
    pub pools: Vec<Pool>,
    /// Indexed by [`PairId`].
    pub pairs: Vec<Pair>,
}

/// A data centre and the area it stands in.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The name in `[sites.NAME]`.
    pub name: String,
    /// The region, where the file gives one.
    pub region: Option<String>,
}

/// Members with one role in one site that serve the same users.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// This pool's own id.
    pub id: PoolId,
    /// The name in `[pools.NAME]`.
    pub name: String,
    /// The role's name, a preset's or one of `[roles]`.
    pub role: String,
    /// The site that it stands in, where the file gives one.
    pub site: Option<SiteId>,
    /// How many members it needs, resolved for its size.
    pub quorum: Quorum,
    /// What its members do below quorum with nowhere to go.
    pub below_quorum: BelowQuorum,
    /// How long sessions of a drained or maintained member are kept.
    pub drain_deadline: Duration,
    /// How many connections may wait for a member with room (`max_connections`), instance-wide.
    pub queue_limit: u32,
    /// How long each of them may wait.
    pub queue_timeout: Duration,
    /// In file order, indexed by [`MemberId::index`].
    pub members: Vec<Member>,
    /// In file order, indexed by [`ServiceId::index`].
    pub services: Vec<Service>,
    /// The service that decides quorum and condition.
    pub primary: ServiceId,
    /// Pools that move before this one when a site is evacuated or restored (`after_pool`).
    pub after_pools: Vec<PoolId>,
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// This member's own id.
    pub id: MemberId,
    /// Its name in `[pools.POOL.members]`.
    pub name: String,
    /// Its share of new sessions relative to the others', 1 to 256.
    pub weight: NonZeroU32,
    /// How many sessions it may hold at once, over all services of this instance.
    pub max_connections: Option<NonZeroU32>,
    /// Used only while no other member is usable.
    pub backup: bool,
    /// Where each service is found on it, indexed by [`ServiceId::index`].
    pub endpoints: Vec<Endpoint>,
}

/// Where one service is found on one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// An address, or a name that is resolved again and again.
    pub host: Host,
    /// The port on it.
    pub port: u16,
}

/// One named port of a pool, with listeners in front and an endpoint on each member.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// This service's own id.
    pub id: ServiceId,
    /// The name in `[pools.POOL.services.NAME]`.
    pub name: String,
    /// What carries it.
    pub protocol: Protocol,
    /// Where clients connect. Empty: checked, and required by others, but not fronted.
    pub listen: Vec<SocketAddr>,
    /// Where the twin's site serves these users while they are away.
    pub listen_at_twin: Vec<SocketAddr>,
    /// How its members are asked whether they live.
    pub check: Check,
    /// Services of the same pool whose verdict a member needs too, direct and indirect, without
    /// this one.
    pub requires: Vec<ServiceId>,
    /// How a member is chosen.
    pub balance: Policy,
    /// A session that carries no byte in either direction for so long is ended.
    pub idle_timeout: Duration,
    /// How long data may stay unacknowledged, or a peer silent to keep-alives, before the kernel
    /// gives a connection up (`TCP_USER_TIMEOUT`).
    pub peer_timeout: Duration,
    /// How a member is connected to.
    pub connect: ConnectRules,
    /// Whether members are sent a PROXY protocol v2 header.
    pub send_proxy: bool,
    /// Sources that must, and alone may, send one to us.
    pub accept_proxy: Vec<IpNet>,
    /// How long a returning member's share of new sessions rises to its full weight.
    pub slow_start: Duration,
}

impl Topology {
    /// The pool with this id.
    pub fn pool(&self, id: PoolId) -> &Pool {
        &self.pools[id.index()]
    }

    /// The pool with this name.
    pub fn pool_named(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The member with this id.
    pub fn member(&self, id: MemberId) -> &Member {
        &self.pool(id.pool).members[id.index()]
    }

    /// The service with this id.
    pub fn service(&self, id: ServiceId) -> &Service {
        &self.pool(id.pool).services[id.index()]
    }

    /// Where `target`'s service is found on its member.
    pub fn endpoint(&self, target: TargetId) -> &Endpoint {
        &self.member(target.member()).endpoints[target.service().index()]
    }

    /// Every member and service that is to be checked, pool by pool, member by member.
    pub fn targets(&self) -> impl Iterator<Item = TargetId> + '_ {
        self.pools.iter().flat_map(|pool| {
            pool.members.iter().flat_map(|member| {
                pool.services
                    .iter()
                    .map(|service| TargetId::new(member.id, service.id))
            })
        })
    }

    /// `POOL/MEMBER`, as commands and logs name a member.
    pub fn member_path(&self, id: MemberId) -> String {
        format!("{}/{}", self.pool(id.pool).name, self.member(id).name)
    }

    /// `POOL/MEMBER SERVICE`, as logs name a target.
    pub fn target_path(&self, id: TargetId) -> String {
        let service = &self.service(id.service()).name;
        format!("{} {service}", self.member_path(id.member()))
    }

    /// `POOL/SERVICE`, as logs and metrics name a service.
    pub fn service_path(&self, id: ServiceId) -> String {
        format!("{}/{}", self.pool(id.pool).name, self.service(id).name)
    }
}

impl Pool {
    /// The member with this name.
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The service with this name.
    pub fn service_named(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The service that decides quorum and condition.
    pub fn primary(&self) -> &Service {
        &self.services[self.primary.index()]
    }
}
