//! What of one topology is still there in the next, and where: ids are positions and change with
//! every reload, so whatever outlives one is taken over by these rules and by nothing else.
//!
//! The same are: pools of one name; members of one name in the same pool that are found at the
//! same hosts; services of one name in the same pool over the same protocol; pairs of one name and
//! the same two pools. Everything else about them may differ.

use super::{Host, Member, MemberId, Pair, PairId, Pool, PoolId, ServiceId, TargetId, Topology};

/// Where everything of one topology is found in the one after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Succession {
    /// By the old pool's id.
    pools: Vec<Option<PoolSuccession>>,
    /// By the old pair's id.
    pairs: Vec<Option<PairId>>,
}

/// A pool that is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PoolSuccession {
    id: PoolId,
    /// By the old member's index.
    members: Vec<Option<MemberId>>,
    /// By the old service's index.
    services: Vec<Option<ServiceId>>,
}

impl Succession {
    /// Between a topology and the one that comes after it.
    pub fn between(old: &Topology, new: &Topology) -> Succession {
        let pool = |pool: &Pool| {
            let successor = new.pool_named(&pool.name)?;
            Some(PoolSuccession::between(pool, successor))
        };
        let pools = old.pools.iter().map(pool).collect();
        let mut succession = Succession {
            pools,
            pairs: Vec::new(),
        };
        let pairs = old.pairs.iter().map(|pair| {
            let same = |other: &&Pair| {
                other.name == pair.name
                    && pair.pools.map(|pool| succession.pool(pool)) == other.pools.map(Some)
            };
            new.pairs.iter().find(same).map(|pair| pair.id)
        });
        succession.pairs = pairs.collect();
        succession
    }

    /// Where a pool is found now.
    pub fn pool(&self, old: PoolId) -> Option<PoolId> {
        Some(self.of(old)?.id)
    }

    /// Where a member is found now.
    pub fn member(&self, old: MemberId) -> Option<MemberId> {
        self.of(old.pool)?.members.get(old.index()).copied()?
    }

    /// Where a service is found now.
    pub fn service(&self, old: ServiceId) -> Option<ServiceId> {
        self.of(old.pool)?.services.get(old.index()).copied()?
    }

    /// Where a target is found now: its member and its service are both still there.
    pub fn target(&self, old: TargetId) -> Option<TargetId> {
        Some(
            self.member(old.member())?
                .target(self.service(old.service())?),
        )
    }

    /// Where a pair is found now.
    pub fn pair(&self, old: PairId) -> Option<PairId> {
        self.pairs.get(old.index()).copied()?
    }

    fn of(&self, old: PoolId) -> Option<&PoolSuccession> {
        self.pools.get(old.index())?.as_ref()
    }
}

impl PoolSuccession {
    fn between(old: &Pool, new: &Pool) -> PoolSuccession {
        let member = |member: &Member| {
            let other = new.member_named(&member.name)?;
            is_at(hosts(old, member), new, other).then_some(other.id)
        };
        let services = old.services.iter().map(|service| {
            let other = new.service_named(&service.name)?;
            (other.protocol == service.protocol).then_some(other.id)
        });
        PoolSuccession {
            id: new.id,
            members: old.members.iter().map(member).collect(),
            services: services.collect(),
        }
    }
}

/// Where a member is found for each service of its pool.
pub(super) fn hosts<'a>(
    pool: &'a Pool,
    member: &'a Member,
) -> impl Iterator<Item = (&'a str, &'a Host)> {
    let services = pool.services.iter();
    services.map(|service| {
        let endpoint = &member.endpoints[service.id.index()];
        (service.name.as_str(), &endpoint.host)
    })
}

/// Whether a member is found at these hosts for every service that its pool has, too. Ports may
/// differ: who moves to another port is the same server still.
pub(super) fn is_at<'a>(
    mut hosts: impl Iterator<Item = (&'a str, &'a Host)>,
    pool: &Pool,
    member: &Member,
) -> bool {
    hosts.all(|(service, host)| {
        let service = pool.service_named(service);
        service.is_none_or(|service| member.endpoints[service.id.index()].host == *host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn topology(pools: &str) -> Topology {
        config::parse(pools, "f").unwrap().config.topology
    }

    fn pool(name: &str, members: &str, services: &str) -> String {
        format!(
            "[pools.{name}]\nrole = \"mediation\"\nmembers = {{ {members} }}\nquorum = \"any\"\n{services}\n"
        )
    }

    fn sip(pool: &str, listen: u16) -> String {
        format!("[pools.{pool}.services.sip]\nlisten = \"127.0.0.1:{listen}\"")
    }

    #[test]
    fn what_is_still_there_is_found_wherever_it_moved() {
        let a = pool("a", "m1 = \"192.0.2.1\", m2 = \"192.0.2.2\"", &sip("a", 1));
        let b = pool("b", "m1 = \"192.0.2.3\"", &sip("b", 2));
        let reversed = pool("a", "m2 = \"192.0.2.2\", m1 = \"192.0.2.1\"", &sip("a", 1));
        let (old, new) = (
            topology(&format!("{a}{b}")),
            topology(&format!("{b}{reversed}")),
        );
        let succession = Succession::between(&old, &new);
        for pool in &old.pools {
            let now = succession.pool(pool.id).unwrap();
            assert_eq!(new.pool(now).name, pool.name);
            for member in &pool.members {
                let now = succession.member(member.id).unwrap();
                assert_eq!(new.member_path(now), old.member_path(member.id));
            }
            for service in &pool.services {
                let now = succession.service(service.id).unwrap();
                assert_eq!(new.service_path(now), old.service_path(service.id));
            }
        }
        for target in old.targets() {
            let now = succession.target(target).unwrap();
            assert_eq!(new.target_path(now), old.target_path(target));
        }
    }

    #[test]
    fn who_is_found_elsewhere_or_not_at_all_is_gone() {
        let old = pool("a", "m1 = \"192.0.2.1\", m2 = \"192.0.2.2\"", &sip("a", 1));
        let new = pool("a", "m1 = \"192.0.2.9\"", &sip("a", 1));
        let (old, new) = (topology(&old), topology(&new));
        let succession = Succession::between(&old, &new);
        assert!(succession.pool(PoolId(0)).is_some());
        for member in &old.pools[0].members {
            assert_eq!(succession.member(member.id), None);
        }
        for target in old.targets() {
            assert_eq!(succession.target(target), None);
        }
    }

    #[test]
    fn a_pool_by_another_name_is_another_pool() {
        let old = topology(&pool("a", "m1 = \"192.0.2.1\"", &sip("a", 1)));
        let new = topology(&pool("b", "m1 = \"192.0.2.1\"", &sip("b", 1)));
        let succession = Succession::between(&old, &new);
        assert_eq!(succession.pool(PoolId(0)), None);
        assert_eq!(succession.member(PoolId(0).member(0)), None);
        assert_eq!(succession.service(PoolId(0).service(0)), None);
    }
}
