//! Scenes: hosts with members, a proxy in front of them, ready for clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::child::Child;
use super::clock::wait_for;
use super::lab::Lab;
use super::proxies::{Front, Proxy, Settings, Target};
use super::{Result, http, member, proxies};

/// The clients' network, and everybody's unless members have one of their own.
pub(crate) const OUTSIDE: &str = "outside";
/// The clients' host.
pub(crate) const CLIENT: &str = "client";
/// The proxy's host.
pub(crate) const PROXY: &str = "proxy";
/// The proxy's address towards clients.
pub(crate) const PROXY_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
/// The port that every member listens on.
const MEMBER_PORT: u16 = 8080;
/// Where the first pool's clients come; the next pool's come to the next port.
const FRONT_PORT: u16 = 8000;
/// twinpool's read-only HTTP, reachable by everybody in the lab.
pub(crate) const OBSERVE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 77, 0, 10)), 9600);
/// How long a proxy may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Which proxy.
    pub(crate) proxy: Proxy,
    /// Pools, of three members each.
    pub(crate) pools: u8,
    /// Whether the first two pools stand in two sites and back each other up; a peer serves only
    /// the first and uses the second's members as backups.
    pub(crate) paired: bool,
    /// Whether the proxy reaches members over a link of its own, apart from the clients'.
    pub(crate) two_links: bool,
    /// Whether a vanished host is silence for good, as behind a router; otherwise the proxy's
    /// kernel finds out by ARP after some seconds and says "host unreachable".
    pub(crate) silent: bool,
    /// How long a member works on a request.
    pub(crate) work: Duration,
}

/// A scene. Fields are dropped in this order: processes before their hosts.
#[derive(Debug)]
pub(crate) struct Scene {
    /// The proxy.
    pub(crate) proxy: Child,
    /// Members by name.
    pub(crate) members: Vec<(String, Child)>,
    /// Pools.
    pub(crate) fronts: Vec<Front>,
    /// How long a member works on a request.
    work: Duration,
    /// Hosts.
    pub(crate) lab: Lab,
}

impl Scene {
    /// Builds it and waits until every pool serves.
    pub(crate) fn new(plan: Plan) -> Result<Scene> {
        let mut lab = Lab::new()?;
        lab.add_network(OUTSIDE)?;
        lab.add_host(CLIENT, OUTSIDE, Ipv4Addr::new(10, 77, 0, 2))?;
        lab.add_host(PROXY, OUTSIDE, PROXY_IP)?;
        let (network, net) = if plan.two_links {
            lab.add_network("inside")?;
            lab.add_link(PROXY, "eth1", "inside", Ipv4Addr::new(10, 78, 0, 10))?;
            ("inside", 78)
        } else {
            (OUTSIDE, 77)
        };
        let mut members = Vec::new();
        let mut fronts = Vec::new();
        for pool in 0..plan.pools {
            let mut front = Front {
                pool: format!("p{}", pool + 1),
                listen: SocketAddr::from((PROXY_IP, FRONT_PORT + u16::from(pool))),
                members: Vec::new(),
            };
            for n in 1..=3 {
                let name = format!("p{}m{n}", pool + 1);
                let address = Ipv4Addr::new(10, net, 1 + pool, n);
                lab.add_host(&name, network, address)?;
                members.push((
                    name.clone(),
                    member::start(&lab, &name, MEMBER_PORT, plan.work)?,
                ));
                front
                    .members
                    .push(Target::new(&name, (address, MEMBER_PORT)));
            }
            fronts.push(front);
        }
        if plan.silent {
            let hosts: Vec<(&str, Ipv4Addr)> = fronts
                .iter()
                .flat_map(|front| &front.members)
                .filter_map(|m| match m.address.ip() {
                    std::net::IpAddr::V4(ip) => Some((m.name.as_str(), ip)),
                    std::net::IpAddr::V6(_) => None,
                })
                .collect();
            lab.knows(PROXY, &hosts)?;
        }
        let command = match plan.proxy {
            Proxy::Twinpool => proxies::twinpool(
                lab.dir(),
                &fronts,
                Settings {
                    observe: OBSERVE,
                    workers: None,
                    check: "/health",
                    every: None,
                    paired: plan.paired,
                },
            )?,
            Proxy::Haproxy => proxies::haproxy_failures(lab.dir(), &fronts)?,
            Proxy::Nginx | Proxy::Envoy => {
                return Err(format!("{} takes no part in failures", plan.proxy.name()).into());
            }
        };
        let proxy = lab.start(PROXY, plan.proxy.name(), &command)?;
        let mut scene = Scene {
            proxy,
            members,
            fronts,
            work: plan.work,
            lab,
        };
        scene.settle(plan.proxy)?;
        Ok(scene)
    }

    /// Waits until every pool answers, and a twinpool says that it is ready.
    fn settle(&mut self, proxy: Proxy) -> Result<()> {
        let log = self.lab.log(proxy.name());
        let mut doors = vec![(self.fronts[0].listen, "/health")];
        if proxy == Proxy::Twinpool {
            doors.extend(self.fronts[1..].iter().map(|f| (f.listen, "/health")));
            doors.push((OBSERVE, "/readyz"));
        }
        for (door, path) in doors {
            wait_for(&format!("{} at {door}", proxy.name()), START_LIMIT, || {
                self.proxy.must_live(&log)?;
                let (status, _) = http::get(&self.lab, CLIENT, door, path)?;
                Ok((status == 200).then_some(()))
            })
            .map_err(|e| {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                format!("{e}; it said:\n{said}")
            })?;
        }
        Ok(())
    }

    /// What the proxy printed.
    pub(crate) fn log(&self, proxy: Proxy) -> PathBuf {
        self.lab.log(proxy.name())
    }

    /// Starts a member anew in place of one that died.
    pub(crate) fn restart(&mut self, name: &str) -> Result<()> {
        let child = member::start(&self.lab, name, MEMBER_PORT, self.work)?;
        let slot = self.members.iter_mut().find(|(n, _)| n == name);
        slot.ok_or_else(|| format!("no member is named {name}"))?.1 = child;
        Ok(())
    }

    /// A member's process.
    pub(crate) fn member(&self, name: &str) -> Result<&Child> {
        let found = self.members.iter().find(|(n, _)| n == name);
        let (_, child) = found.ok_or_else(|| format!("no member is named {name}"))?;
        Ok(child)
    }
}
