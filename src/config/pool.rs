//! One pool: its role, services, members and quorum.

use std::ops::Range;
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::listeners::Listener;
use super::presets::RoleDef;
use super::reader::{Table, nearest, unknown};
use super::resolve::unknown_site;
use super::{members, services};
use crate::pairing::quorum;
use crate::topology::{BelowQuorum, Pool, PoolId, Quorum, SiteId};

/// A pool, and the places that others may have to point at.
pub(super) struct Read {
    pub(super) pool: Pool,
    pub(super) listeners: Vec<Listener>,
    /// Those for the twin's site.
    pub(super) at_twin: Vec<Listener>,
    /// The names of `after_pool`.
    pub(super) after_pool: Vec<(String, Range<usize>)>,
    /// Whether it says where it stands, rightly or not.
    pub(super) wrote_site: bool,
    /// Whether what its services are was read.
    pub(super) is_whole: bool,
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
    let wrote_site = table.get("site").is_some();
    let after_pool = table.name_or_names("after_pool", "\"fe-seoul\"");
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

    let services = services::read(&services_table, role, id);
    let names = &services.names;

    let named_members = members_table.named().len();
    let drafts = members::read(&members_table, names);
    if named_members == 0 && !members_table.is_misread() {
        let message = format!("pool `{name}` has no members");
        let help = format!("write `[pools.{name}.members]` and below it `fe1 = \"10.1.0.11\"`");
        table.note(Diagnostic::new(message, table.span()).help(help));
    }
    members::tell_all_backup(&members_table, &drafts);
    let members = members::resolve(&members_table, id, drafts, &services.services);
    if !services.wrote_listen {
        let message = format!("pool `{name}` listens nowhere");
        // The first that the file names, else the primary.
        let first = services.services.first();
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
        services: services
            .services
            .into_iter()
            .map(|(service, _)| service)
            .collect(),
        primary: id.service(primary as u16),
        after_pools: Vec::new(),
    };
    Some(Read {
        pool,
        listeners: services.listeners,
        at_twin: services.at_twin,
        after_pool,
        wrote_site,
        is_whole: !services_table.is_misread(),
    })
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
