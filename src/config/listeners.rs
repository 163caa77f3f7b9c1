//! Where clients connect: the addresses of `listen` and `listen_at_twin`, and that no two
//! listeners of one instance share one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;

use super::diagnostic::Diagnostic;
use super::reader::{Notes, Table};
use crate::topology::Protocol;

/// An address, what is listened for there, and where it is written.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) place: Range<usize>,
}

/// The place of what the file does not say.
pub(super) const UNWRITTEN: Range<usize> = usize::MAX..usize::MAX;

/// The addresses of a key: one, or a list.
pub(super) fn read(table: &Table<'_>, key: &'static str, protocol: Protocol) -> Vec<Listener> {
    let Some(value) = table.get(key) else {
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
            Some(address) => listen.push(Listener {
                address,
                protocol,
                place,
            }),
            None => {
                let message = format!("`{key}` is not an address with a port");
                let help = "write \"10.1.0.10:443\" or \"[2001:db8::10]:443\", or several in [ ]";
                table.note(Diagnostic::new(message, place).help(help));
            }
        }
    }
    listen
}

/// Two listeners of one protocol may not share an address; one on every address has all of them.
pub(super) fn tell_shared_listeners(listeners: &[Listener], notes: &Notes) {
    let mut exact: HashMap<(SocketAddr, Protocol), &Listener> = HashMap::new();
    // By port, family and protocol: the first on every address, and the first on any.
    let mut on_every: HashMap<(u16, bool, Protocol), &Listener> = HashMap::new();
    let mut on_any: HashMap<(u16, bool, Protocol), &Listener> = HashMap::new();
    for listener in listeners {
        let Listener {
            address, protocol, ..
        } = *listener;
        if address.port() == 0 {
            continue;
        }
        let key = (address.port(), address.is_ipv4(), protocol);
        let is_every = address.ip().is_unspecified();
        let on_this = exact.get(&(address, protocol));
        let on_this = on_this.or_else(|| on_every.get(&key));
        let earlier = on_this.or_else(|| on_any.get(&key).filter(|_| is_every));
        if let Some(other) = earlier {
            notes.note(listened_on_twice(listener, other));
        }
        exact.entry((address, protocol)).or_insert(listener);
        on_any.entry(key).or_insert(listener);
        if is_every {
            on_every.entry(key).or_insert(listener);
        }
    }
}

fn listened_on_twice(listener: &Listener, other: &Listener) -> Diagnostic {
    let address = listener.address;
    let message = match listener.protocol {
        Protocol::Tcp => format!("{address} is listened on twice"),
        Protocol::Udp => format!("{address} is listened on twice over UDP"),
    };
    let twice = Diagnostic::new(message, listener.place.clone()).label("here");
    if other.place == UNWRITTEN {
        return twice.help(format!(
            "[observe] listens on {} unless told otherwise; give this service another port, or \
             write another `listen` in [observe]",
            other.address
        ));
    }
    let label = if other.address == address {
        "here too".to_owned()
    } else {
        format!("{} takes it", other.address)
    };
    twice
        .also(other.place.clone(), label)
        .help("give each listener an address or a port of its own")
}
