//! A pool's members: an address or a name, or a table with more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::reader::{Table, Value, unknown};
use crate::topology::{Endpoint, Host, Member, PoolId, Service};

/// Members of one pool: ids are 16 bits wide, and far fewer are checked within a second.
pub(super) const MOST: usize = 4_096;
const LARGEST_WEIGHT: u32 = 256;

/// A member as it was written, before the pool's services are known.
pub(super) struct Draft {
    name: String,
    place: Range<usize>,
    host: Host,
    hosts: HashMap<String, Host>,
    ports: HashMap<String, u16>,
    weight: NonZeroU32,
    max_connections: Option<NonZeroU32>,
    backup: bool,
}

/// Reads the members, in file order.
pub(super) fn read(table: &Table<'_>, services: &[String]) -> Vec<Draft> {
    let named = table.named();
    if named.len() > MOST {
        let message = format!("{} members are more than a pool may have", named.len());
        let help = format!("at most {MOST}; make several pools of them");
        table.note(Diagnostic::new(message, table.span()).help(help));
    }
    named
        .into_iter()
        .take(MOST)
        .filter_map(|(name, place, value)| draft(table, name, place, &value, services))
        .collect()
}

fn draft<'a>(
    members: &Table<'a>,
    name: String,
    place: Range<usize>,
    value: &Value<'a>,
    services: &[String],
) -> Option<Draft> {
    super::resolve::check_name(members, "member", &name, place.clone());
    let mut draft = Draft {
        name,
        place,
        host: Host::Address(IpAddr::from([0, 0, 0, 0])),
        hosts: HashMap::new(),
        ports: HashMap::new(),
        weight: NonZeroU32::MIN,
        max_connections: None,
        backup: false,
    };
    if value.raw.as_str().is_some() {
        draft.host = host(members, value)?;
        return Some(draft);
    }
    if !value.raw.is_table() {
        members.wrong_type(value, "an address, a name or a table", "\"10.1.0.11\"");
        return None;
    }
    let table = members.as_table(value, "member");
    let address = table.get("address");
    if address.is_none() {
        let message = format!("member `{}` has no address", draft.name);
        let help = "write `address = \"10.1.0.11\"`, or a host name";
        table.note(Diagnostic::new(message, value.span.clone()).help(help));
    }
    let own_hosts = table.table("addresses", "addresses of a member");
    for (service, place, value) in own_hosts.named() {
        if known_service(&own_hosts, &service, place, services)
            && let Some(host) = host(&own_hosts, &value)
        {
            draft.hosts.insert(service, host);
        }
    }
    let own_ports = table.table("ports", "ports of a member");
    for (service, place, value) in own_ports.named() {
        if known_service(&own_ports, &service, place, services)
            && let Some(port) = own_ports.as_integer(&value, 1..=65_535)
            && let Ok(port) = u16::try_from(port)
        {
            draft.ports.insert(service, port);
        }
    }
    let weight = table.integer("weight", 1..=LARGEST_WEIGHT);
    draft.weight = weight.and_then(NonZeroU32::new).unwrap_or(draft.weight);
    let most = table.integer("max_connections", 1..=u32::MAX);
    draft.max_connections = most.and_then(NonZeroU32::new);
    draft.backup = table.bool("backup").unwrap_or(false);
    draft.host = host(&table, &address?)?;
    Some(draft)
}

fn known_service(table: &Table<'_>, name: &str, place: Range<usize>, services: &[String]) -> bool {
    let known = services.iter().any(|service| service == name);
    if !known {
        let all = services.iter().map(String::as_str);
        table.note(unknown("service of this pool", name, place, all));
    }
    known
}

/// An address or a host name (RFC 1123 section 2.1), nothing else.
fn host(table: &Table<'_>, value: &Value<'_>) -> Option<Host> {
    let text = table.as_string(value)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        if !address.is_unspecified() && !address.is_multicast() {
            return Some(Host::Address(address));
        }
    } else if is_host_name(&text) {
        return Some(Host::Name(text));
    }
    let with_port = text
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok());
    let help = match with_port {
        Some((host, port)) if !host.contains(':') => {
            format!(
                "write \"{host}\"; port {port} belongs to the service (`port = {port}`), or to `ports` of this member"
            )
        }
        _ => "write an address, \"10.1.0.11\" or \"2001:db8::11\", or a host name".to_owned(),
    };
    let message = format!("`{}` is not the address of a server", value.key);
    table.note(Diagnostic::new(message, value.span.clone()).help(help));
    None
}

pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    // All digits and dots was meant for an address.
    name.len() <= 253
        && name.split('.').all(label)
        && name.chars().any(|c| !c.is_ascii_digit() && c != '.')
}

/// A backup is used while no other member is usable: where all are, the word means nothing.
pub(super) fn tell_all_backup(table: &Table<'_>, drafts: &[Draft]) {
    if let Some(first) = drafts.first()
        && drafts.iter().all(|draft| draft.backup)
    {
        let message = "every member of the pool is a backup, so none is";
        let help = "leave `backup` out where a member is to be used first";
        table.note(
            Diagnostic::new(message, first.place.clone())
                .help(help)
                .warning(),
        );
    }
}

/// Gives each member its endpoints; two that answer at the same place are told.
pub(super) fn resolve(
    table: &Table<'_>,
    pool: PoolId,
    drafts: Vec<Draft>,
    services: &[(Service, u16)],
) -> Vec<Member> {
    let mut taken: HashMap<(usize, String, u16), Range<usize>> = HashMap::new();
    let mut members = Vec::new();
    for (index, draft) in drafts.into_iter().enumerate() {
        let endpoints = services.iter().map(|(service, port)| Endpoint {
            host: draft
                .hosts
                .get(&service.name)
                .unwrap_or(&draft.host)
                .clone(),
            port: draft.ports.get(&service.name).copied().unwrap_or(*port),
        });
        let endpoints: Vec<Endpoint> = endpoints.collect();
        for (at, endpoint) in endpoints.iter().enumerate() {
            let place = draft.place.clone();
            // A name is the same in either case, with or without the root's dot.
            let host = endpoint.host.to_string().to_ascii_lowercase();
            let host = host.trim_end_matches('.').to_owned();
            if let Some(other) = taken.insert((at, host, endpoint.port), place.clone()) {
                let message = format!(
                    "two members answer at {}:{} for `{}`",
                    endpoint.host, endpoint.port, services[at].0.name
                );
                let help = "give each member an address of its own, or leave one out";
                table.note(
                    Diagnostic::new(message, place)
                        .label("this one")
                        .also(other, "and this one")
                        .help(help),
                );
                break;
            }
        }
        members.push(Member {
            id: pool.member(index as u16),
            name: draft.name,
            weight: draft.weight,
            max_connections: draft.max_connections,
            backup: draft.backup,
            endpoints,
        });
    }
    members
}
