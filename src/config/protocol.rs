//! What carries a service: the key `protocol`, and what it means for the others.

use std::ops::Range;
use std::time::Duration;

use super::check;
use super::diagnostic::Diagnostic;
use super::presets::ServiceDef;
use super::reader::{Table, unknown};
use crate::topology::{Policy, Protocol};

/// A session that carries nothing for so long ends.
const IDLE_TCP: Duration = Duration::from_secs(1_800);
/// The same over UDP, where nobody says goodbye: what RFC 4787 recommends to address translators
/// (REQ-5), who hold a client's way in the same manner.
const IDLE_UDP: Duration = Duration::from_secs(300);
/// Keys that are about connections.
const OF_CONNECTIONS: [&str; 4] = ["connect", "send_proxy", "accept_proxy", "peer_timeout"];

/// How long a session over this protocol may be idle where nothing is said.
pub(super) fn idle_timeout(protocol: Protocol) -> Duration {
    match protocol {
        Protocol::Tcp => IDLE_TCP,
        Protocol::Udp => IDLE_UDP,
    }
}

/// Reads what carries a service into its definition, before anything else is read of it: defaults
/// follow from it.
pub(super) fn read(table: &Table<'_>, def: &mut ServiceDef) {
    let Some((name, place)) = table.string("protocol") else {
        return;
    };
    let given = match name.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "http" | "sip" => {
            let message = format!("protocol `{name}` is not in this version yet");
            let help = "write `protocol = \"tcp\"`, or leave it out; TCP carries it unseen";
            table.note(Diagnostic::new(message, place).help(help));
            return;
        }
        _ => {
            table.note(unknown(
                "protocol",
                &name,
                place,
                ["tcp", "udp"].into_iter(),
            ));
            return;
        }
    };
    if given == def.protocol {
        return;
    }
    if def.of_role {
        tell_other_than_role(table, def, given, place);
        return;
    }
    def.protocol = given;
    if given == Protocol::Udp {
        // Datagrams of one client belong together, whatever ports they come from.
        def.balance = Policy::Source;
    }
}

fn tell_other_than_role(table: &Table<'_>, def: &ServiceDef, given: Protocol, place: Range<usize>) {
    let message = format!("`{}` of this role is not served over {given}", def.name);
    let help = "leave `protocol` out; for a service of your own write another name, with `port` and \
                `protocol`";
    table.note(Diagnostic::new(message, place).help(help));
}

/// Tells keys that mean nothing for a service over UDP, and one that lacks a check.
pub(super) fn tell_misfits(table: &Table<'_>, def: &ServiceDef) {
    if def.protocol != Protocol::Udp {
        return;
    }
    for key in OF_CONNECTIONS {
        if let Some(value) = table.get(key) {
            let message = format!("`{key}` is about connections, and a service over UDP has none");
            let help = match key {
                "peer_timeout" => "leave it out; `idle_timeout` ends a flow that carries nothing",
                "connect" => "leave it out; a flow whose member refuses it goes to another at once",
                _ => "leave it out",
            };
            table.note(Diagnostic::new(message, value.span.clone()).help(help));
        }
    }
    let check = table.get("check");
    if !def.of_role && !check.as_ref().is_some_and(check::names_kind) {
        let message = format!(
            "`{}` needs a `check` with its kind: over UDP silence tells nothing",
            def.name
        );
        let help = "write `check = \"stun\"` where members answer STUN, or ask a port of theirs \
                    over TCP, `check = { kind = \"tcp\", port = 443 }`";
        let place = check.map_or(table.span(), |check| check.span);
        table.note(Diagnostic::new(message, place).help(help));
    }
}
