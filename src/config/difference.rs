//! What a configuration changes in another one, in words, with what follows for those who are
//! connected.
//!
//! ```text
//! + pool web
//! ~ pool fe: drain_deadline 10m -> 5m
//! - member fe/fe3: takes no new sessions, those it has end within 10m
//! ```
//!
//! What counts as the same is what [`Succession`] finds again; who is not found again is removed,
//! or new.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::Config;
use super::{duration, logs};
use crate::topology::{
    BelowQuorum, Check, Member, Pair, Policy, Pool, Protocol, Service, ServiceId, Succession,
    Topology,
};

/// What one configuration changes in another, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    lines: Vec<String>,
}

/// What changes where `new` takes the place of `old`.
pub fn between(old: &Config, new: &Config) -> Difference {
    let mut found = Difference::default();
    found.instances(old, new);
    let (was, is) = (&old.topology, &new.topology);
    let succession = Succession::between(was, is);
    let sides = Sides {
        was,
        is,
        succession: &succession,
    };
    for pool in &is.pools {
        match was.pool_named(&pool.name) {
            None => found.add(format!("pool {}", pool.name)),
            Some(before) => found.pools(&sides, before, pool),
        }
    }
    for pool in &was.pools {
        if is.pool_named(&pool.name).is_none() {
            let within = duration::write(pool.drain_deadline);
            found.remove(format!(
                "pool {}: its sessions end within {within}",
                pool.name
            ));
        }
    }
    for pair in &is.pairs {
        match was
            .pairs
            .iter()
            .find(|before| succession.pair(before.id) == Some(pair.id))
        {
            None => found.add(format!("pair {}", pair.name)),
            Some(before) => found.pairs(before, pair),
        }
    }
    for pair in was
        .pairs
        .iter()
        .filter(|pair| succession.pair(pair.id).is_none())
    {
        found.remove(format!(
            "pair {}: its pools no longer back each other up",
            pair.name
        ));
    }
    found
}

/// Two topologies, and where what is in the first is found in the second.
struct Sides<'a> {
    was: &'a Topology,
    is: &'a Topology,
    succession: &'a Succession,
}

impl Difference {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What changes, a line each.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    fn instances(&mut self, old: &Config, new: &Config) {
        let (was, is) = (&old.instance, &new.instance);
        let site = |config: &Config| {
            let site = config.instance.site.map(|site| site.index());
            site.map(|site| config.topology.sites[site].name.clone())
        };
        self.key("[instance]", "name", &was.name, &is.name, String::clone);
        self.key("[instance]", "site", &site(old), &site(new), named);
        let dir = |dir: &Option<std::path::PathBuf>| {
            named(&dir.as_ref().map(|dir| dir.display().to_string()))
        };
        self.key(
            "[instance]",
            "state_dir",
            &was.state_dir,
            &is.state_dir,
            dir,
        );
        self.key("[instance]", "workers", &was.workers, &is.workers, named);
        self.key(
            "[instance]",
            "max_sessions",
            &was.max_sessions,
            &is.max_sessions,
            named,
        );
        self.key(
            "[instance]",
            "max_flows",
            &was.max_flows,
            &is.max_flows,
            named,
        );
        self.time(
            "[instance]",
            "stop_deadline",
            was.stop_deadline,
            is.stop_deadline,
        );
        self.time(
            "[instance]",
            "upgrade_deadline",
            was.upgrade_deadline,
            is.upgrade_deadline,
        );
        let listen = |listen: &Option<SocketAddr>| {
            listen.map_or_else(|| "false".to_owned(), |at| at.to_string())
        };
        self.key(
            "[observe]",
            "listen",
            &old.observe.listen,
            &new.observe.listen,
            listen,
        );
        let (said, says) = (&old.log, &new.log);
        let format = (said.settings.format, says.settings.format);
        self.key("[log]", "format", &format.0, &format.1, |format| {
            logs::word(*format).to_owned()
        });
        let level = (&said.settings.level, &says.settings.level);
        self.key("[log]", "level", level.0, level.1, ToString::to_string);
        self.key("[log]", "access", &said.access, &says.access, |access| {
            named(access)
        });
        let socket = |path: &std::path::PathBuf| path.display().to_string();
        self.key(
            "[control]",
            "socket",
            &old.control.socket,
            &new.control.socket,
            socket,
        );
    }

    fn pools(&mut self, sides: &Sides<'_>, was: &Pool, is: &Pool) {
        let at = format!("pool {}", is.name);
        let site = |topology: &Topology, pool: &Pool| {
            pool.site
                .map(|site| topology.sites[site.index()].name.clone())
        };
        self.key(&at, "role", &was.role, &is.role, String::clone);
        let sites = (site(sides.was, was), site(sides.is, is));
        self.key(&at, "site", &sites.0, &sites.1, named);
        let need = |pool: &Pool| (pool.quorum.to_stay.members, pool.quorum.to_stay.of_first);
        let of = |(members, of): &(u16, u16)| format!("{members} of {of}");
        self.key(&at, "quorum", &need(was), &need(is), of);
        let below = |below: &BelowQuorum| match below {
            BelowQuorum::Serve => "serve".to_owned(),
            BelowQuorum::Refuse => "refuse".to_owned(),
        };
        self.key(
            &at,
            "below_quorum",
            &was.below_quorum,
            &is.below_quorum,
            below,
        );
        self.time(&at, "drain_deadline", was.drain_deadline, is.drain_deadline);
        self.key(
            &at,
            "queue",
            &was.queue_limit,
            &is.queue_limit,
            u32::to_string,
        );
        self.time(&at, "queue_timeout", was.queue_timeout, is.queue_timeout);
        let before: Vec<_> = was
            .after_pools
            .iter()
            .map(|p| sides.succession.pool(*p))
            .collect();
        let after: Vec<_> = is.after_pools.iter().map(|pool| Some(*pool)).collect();
        self.told(&at, "after_pool", before == after);
        let primary =
            |topology: &Topology, pool: &Pool| topology.service(pool.primary).name.clone();
        let primaries = (primary(sides.was, was), primary(sides.is, is));
        self.key(&at, "primary", &primaries.0, &primaries.1, String::clone);
        self.members(sides, was, is);
        self.services(sides, was, is);
    }

    fn members(&mut self, sides: &Sides<'_>, was: &Pool, is: &Pool) {
        let mut order = Vec::new();
        for member in &is.members {
            let path = sides.is.member_path(member.id);
            let same = |old: &&Member| sides.succession.member(old.id) == Some(member.id);
            let Some(before) = was.members.iter().find(same) else {
                let host = member.endpoints.first().map(|endpoint| &endpoint.host);
                let host = host.map(ToString::to_string).unwrap_or_default();
                self.add(format!("member {path} at {host}"));
                continue;
            };
            order.push(before.id);
            let at = format!("member {path}");
            self.key(
                &at,
                "weight",
                &before.weight,
                &member.weight,
                ToString::to_string,
            );
            let most = (before.max_connections, member.max_connections);
            self.key(&at, "max_connections", &most.0, &most.1, named);
            self.key(
                &at,
                "backup",
                &before.backup,
                &member.backup,
                bool::to_string,
            );
            for service in &is.services {
                let Some(old) = was.service_named(&service.name) else {
                    continue;
                };
                let ports = (
                    before.endpoints[old.id.index()].port,
                    member.endpoints[service.id.index()].port,
                );
                let key = format!("port of {}", service.name);
                self.key(&at, &key, &ports.0, &ports.1, u16::to_string);
            }
        }
        for member in &was.members {
            if sides.succession.member(member.id).is_none() {
                let path = sides.was.member_path(member.id);
                let within = duration::write(was.drain_deadline);
                self.remove(format!(
                    "member {path}: takes no new sessions, those it has end within {within}"
                ));
            }
        }
        let at = format!("pool {}", is.name);
        self.told(&at, "the order of its members", order.is_sorted());
    }

    fn services(&mut self, sides: &Sides<'_>, was: &Pool, is: &Pool) {
        for service in &is.services {
            let path = sides.is.service_path(service.id);
            let same = |old: &&Service| sides.succession.service(old.id) == Some(service.id);
            match was.services.iter().find(same) {
                None => {
                    let listens: Vec<_> = service.listen.iter().map(ToString::to_string).collect();
                    self.add(match listens.is_empty() {
                        true => format!("service {path}"),
                        false => format!("service {path} at {}", listens.join(", ")),
                    });
                }
                Some(before) => self.service(sides, &format!("service {path}"), before, service),
            }
        }
        for service in &was.services {
            if sides.succession.service(service.id).is_none() {
                let path = sides.was.service_path(service.id);
                let within = duration::write(was.drain_deadline);
                self.remove(format!("service {path}: its sessions end within {within}"));
            }
        }
    }

    fn service(&mut self, sides: &Sides<'_>, at: &str, was: &Service, is: &Service) {
        self.listeners((at, is.protocol), "listen", &was.listen, &is.listen);
        self.listeners(
            (at, is.protocol),
            "listen_at_twin",
            &was.listen_at_twin,
            &is.listen_at_twin,
        );
        self.check(at, &was.check, &is.check);
        let required = |topology: &Topology, ids: &[ServiceId]| {
            let names = ids.iter().map(|id| topology.service(*id).name.clone());
            names.collect::<Vec<_>>()
        };
        let requires = (
            required(sides.was, &was.requires),
            required(sides.is, &is.requires),
        );
        self.key(at, "requires", &requires.0, &requires.1, |names| {
            format!("{names:?}")
        });
        let policy = |policy: &Policy| {
            let word = match policy {
                Policy::LeastConnections => "least-connections",
                Policy::RoundRobin => "round-robin",
                Policy::Random => "random",
                Policy::Source => "source",
                Policy::First => "first",
            };
            word.to_owned()
        };
        self.key(at, "balance", &was.balance, &is.balance, policy);
        self.time(at, "idle_timeout", was.idle_timeout, is.idle_timeout);
        self.time(at, "peer_timeout", was.peer_timeout, is.peer_timeout);
        self.time(at, "connect.hedge", was.connect.hedge, is.connect.hedge);
        self.time(at, "connect.budget", was.connect.budget, is.connect.budget);
        let attempts = (was.connect.attempts, is.connect.attempts);
        self.key(
            at,
            "connect.attempts",
            &attempts.0,
            &attempts.1,
            ToString::to_string,
        );
        self.key(
            at,
            "send_proxy",
            &was.send_proxy,
            &is.send_proxy,
            bool::to_string,
        );
        self.told(at, "accept_proxy", was.accept_proxy == is.accept_proxy);
        self.time(at, "slow_start", was.slow_start, is.slow_start);
    }

    fn listeners(
        &mut self,
        (at, protocol): (&str, Protocol),
        key: &str,
        was: &[SocketAddr],
        is: &[SocketAddr],
    ) {
        let who = match protocol {
            Protocol::Tcp => "who came by it stays",
            Protocol::Udp => "flows that came by it end",
        };
        for address in is.iter().filter(|address| !was.contains(address)) {
            self.change(format!("{at}: {key} gains {address}"));
        }
        for address in was.iter().filter(|address| !is.contains(address)) {
            self.change(format!("{at}: {key} loses {address}; {who}"));
        }
    }

    fn check(&mut self, at: &str, was: &Check, is: &Check) {
        if !was.asks_as(is) {
            self.change(format!(
                "{at}: check asks something else; each member is asked at once, and keeps its \
                 verdict until the answers call for another"
            ));
        }
        self.time(at, "check.interval", was.interval, is.interval);
        self.time(at, "check.in_doubt", was.in_doubt, is.in_doubt);
        self.time(at, "check.timeout", was.timeout, is.timeout);
        self.key(at, "check.jitter", &was.jitter, &is.jitter, f64::to_string);
        self.key(at, "check.fall", &was.fall, &is.fall, ToString::to_string);
        self.key(at, "check.rise", &was.rise, &is.rise, ToString::to_string);
        self.key(at, "check.flap", &was.flap, &is.flap, ToString::to_string);
    }

    fn pairs(&mut self, was: &Pair, is: &Pair) {
        let at = format!("pair {}", is.name);
        let automation = |mode: &crate::topology::Automation| format!("{mode:?}").to_lowercase();
        let (old, new) = (&was.rules, &is.rules);
        self.key(&at, "failover", &old.failover, &new.failover, automation);
        self.time(&at, "after", old.after, new.after);
        self.key(&at, "failback", &old.failback, &new.failback, automation);
        self.time(&at, "hold", old.hold, new.hold);
        self.time(&at, "longest_hold", old.longest_hold, new.longest_hold);
        self.time(&at, "ramp", old.ramp, new.ramp);
        self.key(&at, "spill", &was.spill, &is.spill, bool::to_string);
        self.key(
            &at,
            "exclusive",
            &was.exclusive,
            &is.exclusive,
            bool::to_string,
        );
        self.key(
            &at,
            "move_rate",
            &was.move_rate,
            &is.move_rate,
            ToString::to_string,
        );
        self.key(
            &at,
            "arrivals",
            &was.arrivals,
            &is.arrivals,
            ToString::to_string,
        );
    }

    // How a line is written.

    fn time(&mut self, at: &str, key: &str, was: Duration, is: Duration) {
        self.key(at, key, &was, &is, |time| duration::write(*time));
    }

    fn key<T: PartialEq>(
        &mut self,
        at: &str,
        key: &str,
        was: &T,
        is: &T,
        word: impl Fn(&T) -> String,
    ) {
        if was != is {
            self.change(format!("{at}: {key} {} -> {}", word(was), word(is)));
        }
    }

    /// Something changed whose value is too long to be told.
    fn told(&mut self, at: &str, key: &str, is_same: bool) {
        if !is_same {
            self.change(format!("{at}: {key} has changed"));
        }
    }

    fn add(&mut self, what: String) {
        self.lines.push(format!("+ {what}"));
    }

    fn remove(&mut self, what: String) {
        self.lines.push(format!("- {what}"));
    }

    fn change(&mut self, what: String) {
        self.lines.push(format!("~ {what}"));
    }
}

/// A value that may be left out.
fn named<T: fmt::Display>(value: &Option<T>) -> String {
    match value {
        Some(value) => value.to_string(),
        None => "unset".to_owned(),
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return f.write_str("nothing has changed");
        }
        f.write_str(&self.lines.join("\n"))
    }
}

#[cfg(test)]
mod tests;
