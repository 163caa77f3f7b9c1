//! Roles of one's own: `[roles.NAME]`, beside the presets.

use super::diagnostic::Diagnostic;
use super::presets::{RoleDef, ServiceDef};
use super::reader::{Table, unknown};
use super::resolve::check_name;
use super::{check, protocol};

/// Adds the roles that the file defines.
pub(super) fn own_roles(table: &Table<'_>, roles: &mut Vec<RoleDef>) {
    for (name, place, value) in table.named() {
        check_name(table, "role", &name, place.clone());
        if roles.iter().any(|role| role.name == name) {
            let message = format!("there is a role `{name}` already");
            let help = "choose another name for your own";
            table.note(Diagnostic::new(message, place).help(help));
            continue;
        }
        let role = table.as_table(&value, "role");
        let services_table = role.table("services", "services of a role");
        let services = role_services(&services_table);
        let names = services.iter().map(|service| service.name.as_str());
        if services.is_empty() && !role.is_misread() && !services_table.is_misread() {
            let message = format!("role `{name}` has no services");
            let help = "write `services.http = { port = 8080 }` in it";
            table.note(Diagnostic::new(message, role.span()).help(help));
        }
        let primary = match role.string("primary") {
            Some((primary, place)) => {
                if !services.is_empty() && !services.iter().any(|service| service.name == primary) {
                    table.note(unknown("primary service", &primary, place, names));
                }
                primary
            }
            None => {
                let first = names.clone().next().unwrap_or("http");
                let message = format!("role `{name}` has no primary service");
                let help = format!(
                    "write `primary = \"{first}\"`: its check decides the pool's condition"
                );
                table.note(Diagnostic::new(message, role.span()).help(help));
                first.to_owned()
            }
        };
        roles.push(RoleDef {
            name,
            primary,
            needs_quorum: false,
            services,
        });
    }
}

fn role_services(table: &Table<'_>) -> Vec<ServiceDef> {
    let mut services: Vec<ServiceDef> = Vec::new();
    let mut requires = Vec::new();
    for (index, (name, place, value)) in table.named().into_iter().enumerate() {
        check_name(table, "service", &name, place);
        let service = table.as_table(&value, "service of a role");
        let mut def = ServiceDef::unknown(&name);
        match service.integer("port", 1..=65_535) {
            Some(port) => def.port = u16::try_from(port).ok(),
            None if service.get("port").is_none() && !service.is_misread() => {
                let message = format!("service `{name}` has no port");
                let help = "write the port that members serve it on, `port = 8080`";
                service.note(Diagnostic::new(message, service.span()).help(help));
            }
            None => {}
        }
        protocol::read(&service, &mut def);
        protocol::tell_misfits(&service, &def);
        def.of_role = true;
        if let Some(value) = service.get("check") {
            def.check = check::read(&service, &value, &def.check);
        }
        if let Some(names) = service.names("requires", "[\"sip\"]") {
            def.requires = names.iter().map(|(name, _)| name.clone()).collect();
            requires.push((index, names));
        }
        services.push(def);
    }
    for (index, names) in requires {
        for (name, place) in names {
            if !services.iter().any(|service| service.name == name) {
                let known = services.iter().map(|service| service.name.as_str());
                table.note(unknown("service that is required", &name, place, known));
                services[index].requires.retain(|kept| *kept != name);
            }
        }
    }
    services
}
