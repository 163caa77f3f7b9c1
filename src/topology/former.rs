//! What was there once, by its names: what it is found again by, should it come back.
//!
//! The same rules hold as from one topology to the next ([`Succession`](super::Succession)); what
//! lies between does not matter.

use super::succession::{hosts, is_at};
use super::{Host, MemberId, Protocol, ServiceId, Topology};

/// A member that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerMember {
    pool: String,
    name: String,
    /// By service.
    hosts: Vec<(String, Host)>,
}

/// A service that is gone, or whose members are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerService {
    pool: String,
    name: String,
    protocol: Protocol,
}

impl FormerMember {
    /// What a member is found again by.
    pub fn of(topology: &Topology, id: MemberId) -> FormerMember {
        let (pool, member) = (topology.pool(id.pool), topology.member(id));
        let hosts = hosts(pool, member).map(|(service, host)| (service.to_owned(), host.clone()));
        FormerMember {
            pool: pool.name.clone(),
            name: member.name.clone(),
            hosts: hosts.collect(),
        }
    }

    /// Where it is in this topology, if it is.
    pub fn found(&self, topology: &Topology) -> Option<MemberId> {
        let pool = topology.pool_named(&self.pool)?;
        let member = pool.member_named(&self.name)?;
        let hosts = self.hosts.iter();
        let hosts = hosts.map(|(service, host)| (service.as_str(), host));
        is_at(hosts, pool, member).then_some(member.id)
    }
}

impl FormerService {
    /// What a service is found again by.
    pub fn of(topology: &Topology, id: ServiceId) -> FormerService {
        let service = topology.service(id);
        FormerService {
            pool: topology.pool(id.pool).name.clone(),
            name: service.name.clone(),
            protocol: service.protocol,
        }
    }

    /// The pool that it was a service of.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// Where it is in this topology, if it is.
    pub fn found(&self, topology: &Topology) -> Option<ServiceId> {
        let service = topology.pool_named(&self.pool)?.service_named(&self.name)?;
        (service.protocol == self.protocol).then_some(service.id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PoolId, Succession};
    use super::*;

    fn topology(pool: &str, members: &str, services: &str) -> Topology {
        let text = format!(
            "[pools.other]\nrole = \"director\"\nmembers.m = \"192.0.2.9\"\nquorum = \"any\"\n\
             services.sip.listen = \"127.0.0.1:0\"\n\
             [pools.{pool}]\nrole = \"mediation\"\nquorum = \"any\"\n{members}\n{services}\n"
        );
        crate::config::parse(&text, "f")
            .expect("valid")
            .config
            .topology
    }

    const SIP: &str = "services.sip.listen = \"127.0.0.1:0\"";

    /// What was the second pool's first member and service is found again as its successor would be.
    #[test]
    fn what_comes_back_is_found_by_the_rule_of_what_stays() {
        let was = topology("p", "members.m = \"192.0.2.1\"", SIP);
        let id = PoolId(1).member(0);
        let (member, service) = (
            FormerMember::of(&was, id),
            FormerService::of(&was, PoolId(1).service(0)),
        );
        for (pool, members, is_there) in [
            ("p", "members.m = \"192.0.2.1\"", true),
            (
                "p",
                "members.m = { address = \"192.0.2.1\", weight = 7 }",
                true,
            ),
            (
                "p",
                "members = { l = \"192.0.2.3\", m = \"192.0.2.1\" }",
                true,
            ),
            ("p", "members.m = \"192.0.2.2\"", false),
            ("p", "members.n = \"192.0.2.1\"", false),
            ("q", "members.m = \"192.0.2.1\"", false),
        ] {
            let is = topology(pool, members, SIP);
            let succession = Succession::between(&was, &is);
            let found = member.found(&is);
            assert_eq!(found, succession.member(id), "{pool} {members}");
            assert_eq!(found.is_some(), is_there, "{pool} {members}");
            assert_eq!(
                service.found(&is),
                succession.service(PoolId(1).service(0)),
                "{pool}"
            );
        }
        assert_eq!(member.found(&Topology::default()), None);
        assert_eq!(service.pool(), "p");
    }

    #[test]
    fn a_service_over_another_protocol_is_another_service() {
        let over = |protocol: &str| {
            let media = format!(
                "services.m = {{ listen = \"127.0.0.1:0\", port = 9, protocol = \"{protocol}\", \
                 check = {{ kind = \"tcp\", port = 80 }} }}"
            );
            topology("p", "members.m = \"192.0.2.1\"", &format!("{SIP}\n{media}"))
        };
        let (tcp, udp) = (over("tcp"), over("udp"));
        let id = tcp.pools[1].service_named("m").unwrap().id;
        let service = FormerService::of(&tcp, id);
        assert_eq!(service.found(&tcp), Some(id));
        assert_eq!(service.found(&udp), None);
    }
}
