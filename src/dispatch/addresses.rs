//! Where each member is found now: the address book. Pure.
//!
//! A member's host is an address, or a name that the resolver looks up again and again. The book
//! is told every answer, keeps the addresses of each name, and says which of them each target
//! uses. It never resolves, connects or waits.
//!
//! ```text
//! resolver ─► handle_resolved ─┐
//!                              ├─► Change ─► snapshot, sessions to drain
//! failed probe ─► rotate ──────┘
//! ```
//!
//! What is there is kept for as long as it fits: a target stays with its address while the name
//! still has it, whatever the order of a new answer, and a look-up that fails changes nothing. So
//! a resolver that dies costs nobody a session.
//!
//! Each target (a member's service) has a current address of its own. Two services of one member
//! under one name may so use different addresses of it, on purpose: if they moved together, a
//! service that is dead on every address would drag a healthy one to and fro.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use crate::topology::{Host, MemberId, Succession, TargetId, Topology};

/// Addresses used of one name. A member is one server: a name with more is a mistake or an attack,
/// and each address costs memory, and time when all are tried in turn. What is left out is shown
/// by [`Name::left_out`].
pub const MAX_ADDRESSES: usize = 16;

/// The addresses of every member's services.
#[derive(Clone, Debug)]
pub struct AddressBook {
    names: BTreeMap<String, Name>,
    targets: HashMap<TargetId, Entry>,
}

/// What is known of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Its addresses, in the resolver's order; none before the first answer.
    pub addresses: Vec<IpAddr>,
    /// Why the last look-up failed, if it did.
    pub error: Option<String>,
    /// How many addresses the last answer had beyond [`MAX_ADDRESSES`].
    pub left_out: usize,
    targets: Vec<TargetId>,
}

/// What an answer or a rotation means for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// New connections to this target, and its probes, go to `address` now.
    Current {
        /// Whose.
        target: TargetId,
        /// Where to.
        address: SocketAddr,
    },
    /// The target is no longer at `address`: sessions on it no longer fit and are to be drained.
    Gone {
        /// Whose.
        target: TargetId,
        /// Where it was.
        address: SocketAddr,
    },
}

#[derive(Clone, Debug)]
struct Entry {
    host: Host,
    port: u16,
    current: Option<IpAddr>,
}

impl AddressBook {
    /// Fixed addresses are known at once, names are yet to be resolved.
    pub fn new(topology: &Topology) -> AddressBook {
        let mut names: BTreeMap<String, Name> = BTreeMap::new();
        let mut targets = HashMap::new();
        for target in topology.targets() {
            let endpoint = topology.endpoint(target);
            let current = match &endpoint.host {
                Host::Address(address) => Some(*address),
                Host::Name(name) => {
                    names.entry(name.clone()).or_default().targets.push(target);
                    None
                }
            };
            let entry = Entry {
                host: endpoint.host.clone(),
                port: endpoint.port,
                current,
            };
            targets.insert(target, entry);
        }
        AddressBook { names, targets }
    }

    /// The same for the next topology: names that are still in it keep what is known of them, and
    /// targets under the same name their address.
    #[must_use]
    pub fn succeed(&self, new: &Topology, succession: &Succession) -> AddressBook {
        let mut next = AddressBook::new(new);
        for (name, known) in &mut next.names {
            if let Some(before) = self.names.get(name) {
                known.addresses.clone_from(&before.addresses);
                known.error.clone_from(&before.error);
                known.left_out = before.left_out;
            }
        }
        for entry in next.targets.values_mut() {
            if let Host::Name(name) = &entry.host {
                let first = next.names.get(name).and_then(|name| name.addresses.first());
                entry.current = first.copied();
            }
        }
        for (target, before) in &self.targets {
            let now = succession.target(*target);
            let Some(entry) = now.and_then(|now| next.targets.get_mut(&now)) else {
                continue;
            };
            if entry.host == before.host && before.current.is_some() {
                entry.current = before.current;
            }
        }
        next
    }

    /// Takes what a look-up of `name` brought. Addresses that no server can have (unspecified,
    /// multicast, broadcast) and repeated ones are passed over; an answer without any other is a
    /// failure, and a failure leaves every address as it is.
    pub fn handle_resolved(
        &mut self,
        name: &str,
        answer: Result<Vec<IpAddr>, String>,
    ) -> Vec<Change> {
        let Some(known) = self.names.get_mut(name) else {
            return Vec::new();
        };
        let usable = answer.and_then(usable);
        let answer = match usable {
            Ok(answer) => answer,
            Err(error) => {
                known.error = Some(error);
                return Vec::new();
            }
        };
        let (addresses, left_out) = bounded(answer, &known.addresses);
        known.error = None;
        known.left_out = left_out;
        let before = std::mem::replace(&mut known.addresses, addresses);

        let mut changes = Vec::new();
        for &target in &known.targets {
            let Some(entry) = self.targets.get_mut(&target) else {
                continue;
            };
            if !entry.current.is_some_and(|c| known.addresses.contains(&c)) {
                let first = known.addresses[0];
                entry.current = Some(first);
                let address = SocketAddr::new(first, entry.port);
                changes.push(Change::Current { target, address });
            }
            let gone = before.iter().filter(|b| !known.addresses.contains(b));
            changes.extend(gone.map(|&address| Change::Gone {
                target,
                address: SocketAddr::new(address, entry.port),
            }));
        }
        changes
    }

    /// Has the next address of a name with several tried for `target`, after the present one
    /// failed. None when there is no other.
    pub fn rotate(&mut self, target: TargetId) -> Option<Change> {
        let entry = self.targets.get_mut(&target)?;
        let Host::Name(name) = &entry.host else {
            return None;
        };
        let addresses = &self.names.get(name)?.addresses;
        let at = addresses.iter().position(|a| Some(*a) == entry.current)?;
        let next = addresses[(at + 1) % addresses.len()];
        if entry.current.replace(next) == Some(next) {
            return None;
        }
        let address = SocketAddr::new(next, entry.port);
        Some(Change::Current { target, address })
    }

    /// Where new connections to `target` go; none while its name was never resolved.
    pub fn current(&self, target: TargetId) -> Option<SocketAddr> {
        let entry = self.targets.get(&target)?;
        entry.current.map(|ip| SocketAddr::new(ip, entry.port))
    }

    /// Everywhere that `target` is found: sessions on any of these still fit.
    pub fn addresses(&self, target: TargetId) -> impl Iterator<Item = SocketAddr> + '_ {
        let entry = self.targets.get(&target);
        let ips: &[IpAddr] = match entry.map(|entry| &entry.host) {
            None => &[],
            Some(Host::Address(address)) => std::slice::from_ref(address),
            Some(Host::Name(name)) => self.names.get(name).map_or(&[], |name| &name.addresses),
        };
        let port = entry.map_or(0, |entry| entry.port);
        ips.iter().map(move |&ip| SocketAddr::new(ip, port))
    }

    /// Every name that is to be resolved, with what is known of it, in order.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Name)> {
        self.names.iter().map(|(name, known)| (&name[..], known))
    }

    /// Every address that is in use now, each once, in order.
    pub fn in_use(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.targets.values().filter_map(|e| e.current).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The members that are in use at these addresses and nowhere else.
    pub fn members_only_at(&self, addresses: &[IpAddr]) -> Vec<MemberId> {
        let mut only: BTreeMap<MemberId, bool> = BTreeMap::new();
        for (target, entry) in &self.targets {
            if let Some(current) = entry.current {
                *only.entry(target.member()).or_insert(true) &= addresses.contains(&current);
            }
        }
        only.into_iter()
            .filter_map(|(member, only)| only.then_some(member))
            .collect()
    }
}

/// What a server can have of `answer`, each once; an error when nothing is.
fn usable(answer: Vec<IpAddr>) -> Result<Vec<IpAddr>, String> {
    let mut kept: Vec<IpAddr> = Vec::new();
    let mut unusable = None;
    for address in answer {
        let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
        if address.is_unspecified() || address.is_multicast() || broadcast {
            unusable = Some(address);
        } else if !kept.contains(&address) {
            kept.push(address);
        }
    }
    match (kept.is_empty(), unusable) {
        (false, _) => Ok(kept),
        (true, None) => Err("the answer has no address".to_owned()),
        (true, Some(bad)) => Err(format!(
            "the answer has only {bad}, which no server can have"
        )),
    }
}

/// At most [`MAX_ADDRESSES`], and how many were left out. Known ones are kept before new ones, so
/// that an overlong answer in changing order does not move anybody.
fn bounded(answer: Vec<IpAddr>, known: &[IpAddr]) -> (Vec<IpAddr>, usize) {
    let left_out = answer.len().saturating_sub(MAX_ADDRESSES);
    if left_out == 0 {
        return (answer, 0);
    }
    let (mut kept, new): (Vec<_>, Vec<_>) = answer.into_iter().partition(|a| known.contains(a));
    kept.extend(new);
    kept.truncate(MAX_ADDRESSES);
    (kept, left_out)
}

#[cfg(test)]
mod tests;
