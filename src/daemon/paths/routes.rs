//! The main routing tables, by `/proc/net`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The main tables of IPv4 and IPv6, and the addresses that are our own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// None when it could not be read.
    v4: Option<Vec<Route>>,
    /// The same.
    v6: Option<Vec<Route>>,
    /// IPv4 only: the IPv6 table has its own addresses in it.
    own: BTreeSet<Ipv4Addr>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub prefix: IpNet,
    /// Over which link, by name.
    pub link: String,
    /// What becomes of a packet.
    pub kind: RouteKind,
}

/// What becomes of a packet on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// It is sent over the link.
    Forward,
    /// It is for ourselves.
    Own,
    /// It is refused or dropped.
    Reject,
}

/// Flags of `linux/route.h` and `linux/ipv6_route.h`.
const RTF_UP: u32 = 0x1;
const RTF_REJECT: u32 = 0x200;
const RTF_ANYCAST: u32 = 0x0010_0000;
const RTF_LOCAL: u32 = 0x8000_0000;

impl Routes {
    /// From the texts of `route`, `ipv6_route` and `fib_trie`. Without the last, our own IPv4
    /// addresses are not known, and without them no IPv4 route can be judged.
    pub fn parse(route: Option<&str>, ipv6_route: Option<&str>, fib_trie: Option<&str>) -> Routes {
        const HEADINGS: usize = 1;
        let v4 = route.zip(fib_trie).map(|(route, _)| {
            let lines = route.lines().skip(HEADINGS);
            lines.filter_map(v4_route).collect()
        });
        let v6 = ipv6_route.map(|text| text.lines().filter_map(v6_route).collect());
        Routes {
            v4,
            v6,
            own: fib_trie.map(own_addresses).unwrap_or_default(),
        }
    }

    /// Whether `address` is known to be our own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if self.own.contains(&v4))
    }

    /// All routes whose prefix has `address` in it; none when its table is not known.
    pub fn towards(&self, address: IpAddr) -> Option<impl Iterator<Item = &Route>> {
        let table = match address {
            IpAddr::V4(_) => self.v4.as_ref()?,
            IpAddr::V6(_) => self.v6.as_ref()?,
        };
        Some(
            table
                .iter()
                .filter(move |route| route.prefix.contains(&address)),
        )
    }
}

/// `eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0`: addresses as the number that their bytes
/// make in this machine's order.
fn v4_route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [link, destination, _, flags, _, _, _, mask, ..] = fields[..] else {
        return None;
    };
    let address = |text| {
        let number = u32::from_str_radix(text, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let net = Ipv4Net::with_netmask(address(destination)?, address(mask)?).ok()?;
    route(net.into(), link, flags)
}

/// `fd00… 40 0000… 00 0000… 00000100 00000001 00000000 00000001 eth0`: destination and its length,
/// source and its length, next hop, metric, two counts, flags, link.
fn v6_route(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [
        destination,
        length,
        _,
        source_length,
        _,
        _,
        _,
        _,
        flags,
        link,
    ] = fields[..]
    else {
        return None;
    };
    if source_length != "00" {
        // A route for some sources only says nothing about ours.
        return None;
    }
    let address = Ipv6Addr::from(u128::from_str_radix(destination, 16).ok()?);
    let net = Ipv6Net::new(address, u8::from_str_radix(length, 16).ok()?).ok()?;
    route(net.into(), link, flags)
}

fn route(prefix: IpNet, link: &str, flags: &str) -> Option<Route> {
    let flags = u32::from_str_radix(flags, 16).ok()?;
    if flags & RTF_UP == 0 && flags & RTF_REJECT == 0 {
        return None;
    }
    let kind = match flags {
        _ if flags & RTF_REJECT != 0 => RouteKind::Reject,
        _ if flags & (RTF_LOCAL | RTF_ANYCAST) != 0 => RouteKind::Own,
        _ => RouteKind::Forward,
    };
    Some(Route {
        prefix,
        link: link.to_owned(),
        kind,
    })
}

/// The leaves `|-- 10.0.0.5` that are followed by `/32 host LOCAL`.
fn own_addresses(fib_trie: &str) -> BTreeSet<Ipv4Addr> {
    let mut own = BTreeSet::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.starts_with("+-- ") {
            leaf = None;
        } else if line == "/32 host LOCAL" {
            own.extend(leaf);
        }
    }
    own
}
