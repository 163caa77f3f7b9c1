//! One pool: its role, services, members and quorum.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;

use super::diagnostic::Diagnostic;
use super::presets::{RoleDef, ServiceDef};
use super::reader::{Table, nearest, unknown};
use super::resolve::{check_name, unknown_site};
use super::{check, members};
use crate::pairing::quorum;
use crate::topology::{
    BelowQuorum, ConnectRules, Policy, Pool, PoolId, Quorum, Service, ServiceId, SiteId,
};

/// A name of one's own that is shorter is near to anything.
const SHORTEST_MISSPELT: usize = 6;
/// Services of one pool; a role has fewer than twenty.
const MOST_SERVICES: usize = 256;
const MOST_ATTEMPTS: u32 = crate::balance::Tried::MOST as u32;

/// A pool, and the places that others may have to point at.
pub(super) struct Read {
    pub(super) pool: Pool,
    pub(super) listeners: Vec<(SocketAddr, Range<usize>)>,
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

/// Reads `[pools.NAME]`. None when so little of it is right that the rest would only confuse.
pub(super) fn read(
    table: &Table<'_>,
    name: String,
    id: PoolId,
    roles: &[RoleDef],
    sites: &[String],
) -> Option<Read> {
    let site = site(table, sites);
    let drain_deadline = table
        .duration("drain_deadline")
        .unwrap_or(Duration::from_secs(600));
    let below_quorum = table
        .word(
            "below_quorum",
            &[
                ("serve", BelowQuorum::Serve),
                ("refuse", BelowQuorum::Refuse),
            ],
        )
        .unwrap_or_default();
    let queue = table.table("queue", "queue");
    let queue_limit = queue.integer("limit", 0..=1_000_000).unwrap_or(1_024);
    let queue_timeout = queue.duration("timeout").unwrap_or(Duration::from_secs(5));
    let quorum_value = table.get("quorum");
    let services_table = table.table("services", "services");
    let members_table = table.table("members", "members");
    let Some(role) = role(table, roles) else {
        services_table.ignore();
        members_table.ignore();
        return None;
    };

    let mut listeners = Vec::new();
    let defs = service_defs(&services_table, role);
    // One that is wrong was told; it is not missing beside that.
    let tables = || defs.iter().filter_map(|entry| entry.table.as_ref());
    let wrote_listen = services_table.is_misread()
        || tables().any(|table| table.is_misread() || table.get("listen").is_some());
    let names: Vec<String> = defs.iter().map(|entry| entry.def.name.clone()).collect();
    let mut services = Vec::new();
    let mut requires = Vec::new();
    for (index, Entry { def, table, needs }) in defs.into_iter().enumerate() {
        let service_id = id.service(index as u16);
        services.push(service(def, table, service_id, &mut listeners));
        requires.push(needs);
    }
    close_requirements(&services_table, &names, requires, id, &mut services);

    let named_members = members_table.named().len();
    let drafts = members::read(&members_table, &names);
    if named_members == 0 && !members_table.is_misread() {
        let message = format!("pool `{name}` has no members");
        let help = format!("write `[pools.{name}.members]` and below it `fe1 = \"10.1.0.11\"`");
        table.note(Diagnostic::new(message, table.span()).help(help));
    }
    members::tell_all_backup(&members_table, &drafts);
    let members = members::resolve(&members_table, id, drafts, &services);
    if listeners.is_empty() && !wrote_listen {
        let message = format!("pool `{name}` listens nowhere");
        // The first that the file names, else the primary.
        let first = services.first();
        let help = format!(
            "write `listen = \"10.1.0.10:{port}\"` in `[pools.{name}.services.{service}]`",
            port = first.map_or(443, |(_, port)| *port),
            service = first.map_or(&role.primary, |(service, _)| &service.name),
        );
        table.note(Diagnostic::new(message, table.span()).help(help));
    }
    let quorum = quorum(table, quorum_value, role, named_members);
    let primary = names
        .iter()
        .position(|name| *name == role.primary)
        .unwrap_or(0);
    let pool = Pool {
        id,
        name,
        role: role.name.clone(),
        site,
        quorum,
        below_quorum,
        drain_deadline,
        queue_limit,
        queue_timeout,
        members,
        services: services.into_iter().map(|(service, _)| service).collect(),
        primary: id.service(primary as u16),
        after_pools: Vec::new(),
    };
    Some(Read { pool, listeners })
}

fn role<'r>(table: &Table<'_>, roles: &'r [RoleDef]) -> Option<&'r RoleDef> {
    let Some((name, place)) = table.string("role") else {
        if table.get("role").is_none() && !table.is_misread() {
            let message = "a pool needs a role";
            let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
            let help = format!(
                "write `role = \"front-end\"`; there are: {}",
                names.join(", ")
            );
            table.note(Diagnostic::new(message, table.span()).help(help));
        }
        return None;
    };
    let known = || roles.iter().map(|role| role.name.as_str());
    let found = roles.iter().find(|role| role.name == name);
    if found.is_none() {
        table.note(unknown("role", &name, place, known()));
        // The rest is read as that which was probably meant, so that its mistakes are told too.
        let near = nearest(&name, known())?;
        return roles.iter().find(|role| role.name == near);
    }
    found
}

fn site(table: &Table<'_>, sites: &[String]) -> Option<SiteId> {
    let (name, place) = table.string("site")?;
    let found = sites.iter().position(|site| *site == name);
    if found.is_none() {
        let known = sites.iter().map(String::as_str);
        let diagnostic = unknown_site(&name, place, known);
        table.note(diagnostic);
    }
    Some(SiteId(u16::try_from(found?).ok()?))
}

fn quorum(
    table: &Table<'_>,
    value: Option<super::reader::Value<'_>>,
    role: &RoleDef,
    members: usize,
) -> Quorum {
    let any = quorum::number(1, members as u16);
    let (word, place) = match &value {
        None if role.needs_quorum => ("front-end", table.span()),
        None => return any,
        Some(value) if value.raw.as_integer().is_some() => {
            let need = table.as_integer(value, 1..=u32::from(u16::MAX));
            let need = need.unwrap_or(1);
            if members > 0 && need as usize > members {
                let message = format!("a quorum of {need} is never reached by a pool of {members}");
                let help = format!("write at most `quorum = {members}`, or add members");
                table.note(Diagnostic::new(message, value.span.clone()).help(help));
            }
            return quorum::number(need as u16, members as u16);
        }
        Some(value) => match value.raw.as_str() {
            Some(word) => (word, value.span.clone()),
            None => {
                table.wrong_type(value, "\"front-end\", \"any\" or a number", "2");
                return any;
            }
        },
    };
    match word {
        "any" => any,
        "front-end" if members == 0 => any,
        "front-end" => quorum::front_end(members).unwrap_or_else(|| {
            let message = format!("there is no front-end quorum for {members} members");
            let help = format!(
                "the table knows 1 to 12 and 16; write a number, `quorum = {}`",
                members / 2 + 1
            );
            table.note(Diagnostic::new(message, place).help(help));
            any
        }),
        other => {
            let known = ["front-end", "any"].into_iter();
            table.note(unknown("quorum", other, place, known));
            any
        }
    }
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
        let def = match role.services.iter().find(|def| def.name == name) {
            Some(def) if def.is_udp => {
                services.note(udp_later(&name, place));
                table.ignore();
                continue;
            }
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
        needs = table.names("requires").unwrap_or(needs);
        needs.retain(|(name, place)| {
            let is_udp = role
                .services
                .iter()
                .any(|def| def.is_udp && def.name == *name);
            if is_udp {
                services.note(udp_later(name, place.clone()));
            }
            !is_udp
        });
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

fn udp_later(name: &str, place: Range<usize>) -> Diagnostic {
    let message = format!("`{name}` is served over UDP, which is not in this version yet");
    let help = format!("leave `{name}` out; it comes with a later version");
    Diagnostic::new(message, place).help(help)
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
    listeners: &mut Vec<(SocketAddr, Range<usize>)>,
) -> (Service, u16) {
    let mut service = Service {
        id,
        name: def.name.clone(),
        listen: Vec::new(),
        listen_at_twin: Vec::new(),
        check: def.check.clone(),
        requires: Vec::new(),
        balance: def.balance,
        idle_timeout: Duration::from_secs(1_800),
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
    protocol(&table);
    service.listen = listen(&table, listeners);
    if let Some(value) = table.get("listen_at_twin") {
        let message = "`listen_at_twin` is not in this version yet";
        let help = "leave it out; pairs come with a later version";
        table.note(Diagnostic::new(message, value.span).help(help));
    }
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

fn protocol(table: &Table<'_>) {
    match table.string("protocol") {
        None => {}
        Some((name, _)) if name == "tcp" => {}
        Some((name, place)) if ["udp", "http", "sip"].contains(&name.as_str()) => {
            let message = format!("protocol `{name}` is not in this version yet");
            let help = "write `protocol = \"tcp\"`, or leave it out; TCP carries it unseen";
            table.note(Diagnostic::new(message, place).help(help));
        }
        Some((name, place)) => {
            table.note(unknown("protocol", &name, place, ["tcp"].into_iter()));
        }
    }
}

fn listen(table: &Table<'_>, listeners: &mut Vec<(SocketAddr, Range<usize>)>) -> Vec<SocketAddr> {
    let Some(value) = table.get("listen") else {
        return Vec::new();
    };
    let texts: Vec<(Option<&str>, Range<usize>)> = match value.raw.as_array() {
        Some(list) => list
            .iter()
            .map(|v| (v.get_ref().as_str(), v.span()))
            .collect(),
        None => vec![(value.raw.as_str(), value.span.clone())],
    };
    let mut listen = Vec::new();
    for (text, place) in texts {
        let address = text.and_then(|text| text.parse::<SocketAddr>().ok());
        match address {
            Some(address) if address.port() == 0 && !address.ip().is_loopback() => {
                let message = "a listener needs a port";
                let help = "write the port that clients connect to, \"10.1.0.10:443\"";
                table.note(Diagnostic::new(message, place).help(help));
            }
            Some(address) => {
                listeners.push((address, place));
                listen.push(address);
            }
            None => {
                let message = "`listen` is not an address with a port";
                let help = "write \"10.1.0.10:443\" or \"[2001:db8::10]:443\", or several in [ ]";
                table.note(Diagnostic::new(message, place).help(help));
            }
        }
    }
    listen
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
