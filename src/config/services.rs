//! The services of a pool: what its role brings, what the file says of them, and what they
//! require of each other.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;

use super::diagnostic::Diagnostic;
use super::listeners::{self, Listener};
use super::presets::{RoleDef, ServiceDef};
use super::reader::{Table, nearest, unknown};
use super::{check, protocol, resolve::check_name};
use crate::topology::{ConnectRules, Policy, PoolId, Service, ServiceId};

/// A name of one's own that is shorter is near to anything.
const SHORTEST_MISSPELT: usize = 6;
/// Services of one pool; a role has fewer than twenty.
const MOST_SERVICES: usize = 256;
const MOST_ATTEMPTS: u32 = crate::balance::Tried::MOST as u32;

/// Every service of a pool, and the places that others may have to point at.
pub(super) struct Read {
    /// Each with its port on members, in file order, then those that the role implies.
    pub(super) services: Vec<(Service, u16)>,
    pub(super) names: Vec<String>,
    pub(super) listeners: Vec<Listener>,
    pub(super) at_twin: Vec<Listener>,
    /// Whether somebody meant to write where clients connect, rightly or not.
    pub(super) wrote_listen: bool,
}

/// A service of the pool as the file names it, or as the role implies it.
struct Entry<'a> {
    def: ServiceDef,
    /// None when it is implied.
    table: Option<Table<'a>>,
    /// The names of those that it requires, and where they were asked for.
    needs: Vec<(String, Range<usize>)>,
}

impl Entry<'_> {
    fn needed(&self) -> impl Iterator<Item = String> + '_ {
        self.needs.iter().map(|(name, _)| name.clone())
    }
}

/// Reads `[pools.NAME.services]`.
pub(super) fn read(table: &Table<'_>, role: &RoleDef, pool: PoolId) -> Read {
    let defs = service_defs(table, role);
    // One that is wrong was told; it is not missing beside that.
    let tables = || defs.iter().filter_map(|entry| entry.table.as_ref());
    let is_written = |table: &Table<'_>| {
        table.is_misread() || table.get("listen").is_some() || table.get("listen_at_twin").is_some()
    };
    let mut read = Read {
        wrote_listen: table.is_misread() || tables().any(is_written),
        names: defs.iter().map(|entry| entry.def.name.clone()).collect(),
        services: Vec::new(),
        listeners: Vec::new(),
        at_twin: Vec::new(),
    };
    let mut requires = Vec::new();
    for (index, entry) in defs.into_iter().enumerate() {
        let id = pool.service(index as u16);
        let service = service(entry.def, entry.table, id, &mut read);
        read.services.push(service);
        requires.push(entry.needs);
    }
    close_requirements(table, &read.names, requires, pool, &mut read.services);
    read
}

/// The services that the file names, and before them those that they need without naming them:
/// the primary, which decides the condition, and whatever is required.
fn service_defs<'a>(services: &Table<'a>, role: &RoleDef) -> Vec<Entry<'a>> {
    let mut defs: Vec<Entry<'a>> = Vec::new();
    let named = services.named();
    if named.len() > MOST_SERVICES {
        let message = format!("{} services are more than a pool may have", named.len());
        let help = format!("at most {MOST_SERVICES}; make several pools of them");
        services.note(Diagnostic::new(message, services.span()).help(help));
    }
    for (name, place, value) in named.into_iter().take(MOST_SERVICES) {
        check_name(services, "service", &name, place.clone());
        let table = services.as_table(&value, "service");
        let mut def = match role.services.iter().find(|def| def.name == name) {
            Some(def) => def.clone(),
            None if table.get("port").is_none() => {
                let known = role.services.iter().map(|def| def.name.as_str());
                let what = format!("service of role `{}`", role.name);
                let diagnostic = unknown(&what, &name, place, known);
                let help = diagnostic.help.clone().unwrap_or_default();
                services
                    .note(diagnostic.help(format!("{help}; a service of your own needs `port`")));
                ServiceDef::unknown(&name)
            }
            None => {
                tell_almost_of_role(services, role, &name, place);
                ServiceDef::unknown(&name)
            }
        };
        let mut needs: Vec<_> = def
            .requires
            .iter()
            .map(|name| (name.clone(), table.span()))
            .collect();
        needs = table.names("requires", "[\"sip\"]").unwrap_or(needs);
        protocol::read(&table, &mut def);
        protocol::tell_misfits(&table, &def);
        defs.push(Entry {
            def,
            table: Some(table),
            needs,
        });
    }
    let mut missing = vec![role.primary.clone()];
    missing.extend(defs.iter().flat_map(Entry::needed));
    while let Some(name) = missing.pop() {
        let known = defs.iter().any(|entry| entry.def.name == name);
        if let Some(def) = role.services.iter().find(|def| def.name == name && !known) {
            let needs = def.requires.iter().cloned();
            let entry = Entry {
                def: def.clone(),
                table: None,
                needs: needs.map(|name| (name, services.span())).collect(),
            };
            missing.extend(entry.needed());
            defs.push(entry);
        }
    }
    defs
}

/// A service of one's own whose name is almost one of the role's was probably meant to be that.
fn tell_almost_of_role(table: &Table<'_>, role: &RoleDef, name: &str, place: Range<usize>) {
    let known = role.services.iter().map(|def| def.name.as_str());
    let near = nearest(name, known).filter(|_| name.len() >= SHORTEST_MISSPELT);
    if let Some(near) = near {
        let message = format!("`{name}` is not `{near}` of role `{}`", role.name);
        let help = format!(
            "write `{near}` if that is meant; `{name}` is a service of your own, with a tcp check \
             and no requirement unless you write them"
        );
        table.note(Diagnostic::new(message, place).help(help).warning());
    }
}

/// A service without what it requires, and its port on members.
fn service<'a>(
    def: ServiceDef,
    entry: Option<Table<'a>>,
    id: ServiceId,
    read: &mut Read,
) -> (Service, u16) {
    let mut service = Service {
        id,
        name: def.name.clone(),
        protocol: def.protocol,
        listen: Vec::new(),
        listen_at_twin: Vec::new(),
        check: def.check.clone(),
        requires: Vec::new(),
        balance: def.balance,
        idle_timeout: protocol::idle_timeout(def.protocol),
        peer_timeout: Duration::from_secs(30),
        connect: ConnectRules {
            hedge: Duration::from_millis(250),
            budget: Duration::from_secs(2),
            attempts: NonZeroU32::new(4).unwrap_or(NonZeroU32::MIN),
        },
        send_proxy: false,
        accept_proxy: Vec::new(),
        slow_start: Duration::from_secs(30),
    };
    let mut port = def.port.unwrap_or(0);
    let Some(table) = entry else {
        return (service, port);
    };
    let listen = listeners::read(&table, "listen", def.protocol);
    let at_twin = listeners::read(&table, "listen_at_twin", def.protocol);
    let addresses = |listeners: &[Listener]| listeners.iter().map(|l| l.address).collect();
    service.listen = addresses(&listen);
    service.listen_at_twin = addresses(&at_twin);
    read.listeners.extend(listen);
    read.at_twin.extend(at_twin);
    if let Some(given) = table.integer("port", 1..=65_535) {
        port = u16::try_from(given).unwrap_or(port);
    }
    if let Some(value) = table.get("check") {
        service.check = check::read(&table, &value, &def.check);
    }
    let policies = [
        ("least-connections", Policy::LeastConnections),
        ("round-robin", Policy::RoundRobin),
        ("random", Policy::Random),
        ("source", Policy::Source),
        ("first", Policy::First),
    ];
    service.balance = table.word("balance", &policies).unwrap_or(service.balance);
    service.idle_timeout = table
        .duration("idle_timeout")
        .unwrap_or(service.idle_timeout);
    service.peer_timeout = table
        .duration("peer_timeout")
        .unwrap_or(service.peer_timeout);
    service.slow_start = table
        .duration_or_none("slow_start")
        .unwrap_or(service.slow_start);
    service.send_proxy = table.bool("send_proxy").unwrap_or(false);
    service.accept_proxy = accept_proxy(&table);
    connect(&table, &mut service.connect);
    (service, port)
}

fn accept_proxy(table: &Table<'_>) -> Vec<IpNet> {
    let Some(value) = table.get("accept_proxy") else {
        return Vec::new();
    };
    let Some(list) = value.raw.as_array() else {
        table.wrong_type(&value, "a list of networks", "[\"10.0.0.0/8\"]");
        return Vec::new();
    };
    let net = |text: &str| {
        let alone = |_| text.parse::<std::net::IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or_else(alone).ok()
    };
    let mut nets = Vec::new();
    for entry in list {
        match entry.get_ref().as_str().and_then(net) {
            Some(net) => {
                if net.prefix_len() == 0 {
                    let message = "every client is trusted to say which address it comes from";
                    let help = "write only the networks of the load balancers in front";
                    let diagnostic = Diagnostic::new(message, entry.span());
                    table.note(diagnostic.help(help).warning());
                }
                nets.push(net);
            }
            None => {
                let message = "`accept_proxy` holds something else than a network";
                let help = "write networks with their length, [\"10.0.0.0/8\", \"2001:db8::/32\"]";
                table.note(Diagnostic::new(message, entry.span()).help(help));
            }
        }
    }
    nets
}

fn connect(service: &Table<'_>, rules: &mut ConnectRules) {
    let table = service.table("connect", "connect");
    rules.budget = table.duration("budget").unwrap_or(rules.budget);
    let hedge = table.duration("hedge");
    rules.hedge = hedge.unwrap_or(rules.hedge.min(rules.budget / 2));
    let attempts = table.integer("attempts", 1..=MOST_ATTEMPTS);
    rules.attempts = attempts.and_then(NonZeroU32::new).unwrap_or(rules.attempts);
    if rules.hedge >= rules.budget {
        let message = "the hedge delay must be shorter than the budget";
        let help = "write `connect = { hedge = \"250ms\", budget = \"2s\" }`";
        table.note(Diagnostic::new(message, table.span()).help(help));
    }
}

/// Turns the names of required services into ids, indirect ones included.
fn close_requirements(
    table: &Table<'_>,
    names: &[String],
    requires: Vec<Vec<(String, Range<usize>)>>,
    pool: PoolId,
    services: &mut [(Service, u16)],
) {
    let mut direct: Vec<Vec<usize>> = Vec::new();
    for named in &requires {
        let mut indices = Vec::new();
        for (name, place) in named {
            match names.iter().position(|known| known == name) {
                Some(index) => indices.push(index),
                None => {
                    let known = names.iter().map(String::as_str);
                    let what = "service that is required";
                    table.note(unknown(what, name, place.clone(), known));
                }
            }
        }
        direct.push(indices);
    }
    let mut told = HashSet::new();
    for (index, (service, _)) in services.iter_mut().enumerate() {
        let mut reached = HashSet::new();
        let mut ahead = direct[index].clone();
        while let Some(next) = ahead.pop() {
            if reached.insert(next) {
                ahead.extend(&direct[next]);
            }
        }
        if reached.contains(&index) {
            // Once a circle, not once for each in it.
            if !told.is_disjoint(&reached) {
                continue;
            }
            told.insert(index);
            let message = format!(
                "`{}` requires itself, directly or through others",
                service.name
            );
            let place = requires[index]
                .first()
                .map_or(table.span(), |(_, place)| place.clone());
            let help = "take one of the services in this circle out of a `requires`";
            table.note(Diagnostic::new(message, place).help(help));
            continue;
        }
        let mut reached: Vec<usize> = reached.into_iter().collect();
        reached.sort_unstable();
        service.requires = reached
            .into_iter()
            .map(|i| pool.service(i as u16))
            .collect();
    }
}
