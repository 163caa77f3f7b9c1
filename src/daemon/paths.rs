//! Watches our own links and routes, so that a fault of ours is not taken for the members'.
//!
//! The kernel's news of links, addresses and routes (rtnetlink) serve as a wake-up alone, with a
//! poll beside them for where they are not permitted. What counts is then read anew from
//! `/proc/net` and `/sys/class/net`: which members' addresses no longer have a route over a link
//! that is up. The watcher reports that list when it changes; it changes nothing itself.
//!
//! ```text
//! rtnetlink ─┐
//! poll ──────┼─► read files ─► path() of each address ─► unrouted addresses, when they change
//! addresses ─┘
//! ```
//!
//! An alarm here makes the instance hold every verdict, so it must not be false:
//!
//! - An address is only reported after it had been seen with a good path, so nothing that this
//!   reading does not understand from the start is ever reported.
//! - A route missing from the main table is only believed when the kernel, asked by connecting a
//!   UDP socket (which sends nothing), finds none either: policy rules and other tables count.
//! - What cannot be read, or belongs to another network namespace, counts as good.
//!
//! What remains: `/proc/net/route` shows only the first next hop of an IPv4 multipath route. When
//! that one's link dies, the instance holds until something answers.

mod links;
mod routes;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

pub use links::{Link, Links};
pub use routes::{Route, RouteKind, Routes};

/// How often everything is read even without news.
pub const POLL: Duration = Duration::from_secs(1);

/// From one reading to the next at the least: a router that learns its table makes news by the
/// thousand.
pub const SETTLE: Duration = Duration::from_millis(50);

/// The longest table that is read, in bytes: some ten thousand routes. A machine with more is a
/// router; reading its table every second would cost more than it tells, and all counts as good.
pub const MAX_TABLE: u64 = 1024 * 1024;

/// News that are taken at one go before everything is read.
const MAX_NEWS: usize = 256;

/// Where a path to an address ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// A route over a link that is up, or nothing that would speak against one.
    Good,
    /// All routes of the longest matching prefix lead over links that are down.
    LinkDown,
    /// No route in the main table, or one that rejects.
    NoRoute,
}

/// The addresses that have no route over a link that is up.
pub fn unrouted(links: &Links, routes: &Routes, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let bad = |address: &&IpAddr| path(links, routes, **address) != PathState::Good;
    addresses.iter().filter(bad).copied().collect()
}

/// The path to one address.
pub fn path(links: &Links, routes: &Routes, address: IpAddr) -> PathState {
    let address = address.to_canonical();
    // A link-local address has a link of its own, which it does not name here.
    let local = match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    };
    if local || routes.is_own(address) {
        return PathState::Good;
    }
    let Some(table) = routes.towards(address) else {
        return PathState::Good;
    };
    let is_up = |route: &Route| links.get(&route.link).is_none_or(|link| link.up);
    let counts = |route: &&Route| {
        let link = links.get(&route.link);
        !link.is_some_and(|link| !link.up && link.skipped_when_down)
    };
    let matching: Vec<&Route> = table.filter(counts).collect();
    let Some(longest) = matching.iter().map(|route| route.prefix.prefix_len()).max() else {
        return PathState::NoRoute;
    };
    let mut best = matching
        .into_iter()
        .filter(|route| route.prefix.prefix_len() == longest);
    let mut rejected = true;
    let good = best.any(|route| {
        rejected &= route.kind == RouteKind::Reject;
        match route.kind {
            RouteKind::Own => true,
            RouteKind::Forward => is_up(route),
            RouteKind::Reject => false,
        }
    });
    match (good, rejected) {
        (true, _) => PathState::Good,
        (false, true) => PathState::NoRoute,
        (false, false) => PathState::LinkDown,
    }
}

/// Watches until either channel is closed. The list of unrouted addresses is sent whenever it
/// changes; at the start it is taken for empty.
pub async fn watch(addresses: watch::Receiver<Vec<IpAddr>>, changes: mpsc::Sender<Vec<IpAddr>>) {
    let watcher = Watcher::new(Path::new("/proc"), Path::new("/sys"), kernel_has_route);
    let news = match News::subscribe() {
        Ok(news) => Some(news),
        Err(error) => {
            tracing::info!(%error, "no news of links and routes from the kernel: polling alone");
            None
        }
    };
    drive(watcher, news, addresses, changes).await;
}

async fn drive(
    mut watcher: Watcher,
    mut news: Option<News>,
    mut addresses: watch::Receiver<Vec<IpAddr>>,
    changes: mpsc::Sender<Vec<IpAddr>>,
) {
    loop {
        let wanted = addresses.borrow_and_update().clone();
        if let Some(unrouted) = watcher.look(&wanted)
            && changes.send(unrouted).await.is_err()
        {
            return;
        }
        sleep(SETTLE).await;
        let heard = async {
            match &mut news {
                Some(news) => news.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = heard => if let Err(error) = heard {
                tracing::warn!(%error, "news of links and routes ended: polling alone");
                news = None;
            },
            changed = addresses.changed() => if changed.is_err() {
                return;
            },
            () = changes.closed() => return,
            () = sleep(POLL) => {}
        }
    }
}

/// Reads, compares, remembers.
#[derive(Debug)]
struct Watcher {
    proc_net: PathBuf,
    proc_sys: PathBuf,
    sys_net: PathBuf,
    has_route: fn(IpAddr) -> bool,
    /// Addresses that had a good path once.
    seen: BTreeSet<IpAddr>,
    /// The list as last reported.
    reported: Vec<IpAddr>,
}

impl Watcher {
    fn new(proc: &Path, sys: &Path, has_route: fn(IpAddr) -> bool) -> Watcher {
        Watcher {
            proc_net: proc.join("net"),
            proc_sys: proc.join("sys/net"),
            sys_net: sys.join("class/net"),
            has_route,
            seen: BTreeSet::new(),
            reported: Vec::new(),
        }
    }

    /// The unrouted ones of `addresses`, if they are others than before.
    fn look(&mut self, addresses: &[IpAddr]) -> Option<Vec<IpAddr>> {
        let (links, routes) = (self.links(), self.routes());
        let mut unrouted = Vec::new();
        let mut seen = BTreeSet::new();
        for &address in addresses {
            let good = match path(&links, &routes, address) {
                PathState::Good => true,
                PathState::LinkDown => false,
                PathState::NoRoute => (self.has_route)(address),
            };
            if good || self.seen.contains(&address) {
                seen.insert(address);
            }
            if !good && self.seen.contains(&address) {
                unrouted.push(address);
            }
        }
        self.seen = seen;
        unrouted.sort_unstable();
        unrouted.dedup();
        if unrouted == self.reported {
            return None;
        }
        self.reported = unrouted.clone();
        Some(unrouted)
    }

    fn routes(&self) -> Routes {
        Routes::parse(
            text(&self.proc_net.join("route")).as_deref(),
            text(&self.proc_net.join("ipv6_route")).as_deref(),
            text(&self.proc_net.join("fib_trie")).as_deref(),
        )
    }

    fn links(&self) -> Links {
        let Ok(entries) = fs::read_dir(&self.sys_net) else {
            return Links::default();
        };
        let mut links = Links::default();
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let dir = entry.path();
            if !dir.is_dir() {
                continue;
            }
            let skips = |family: &str| {
                let file = format!("{family}/conf/{name}/ignore_routes_with_linkdown");
                text(&self.proc_sys.join(file)).is_some_and(|value| value.trim() == "1")
            };
            let link = Link::parse(
                text(&dir.join("flags")).as_deref(),
                text(&dir.join("carrier")).as_deref(),
                text(&dir.join("operstate")).as_deref(),
                skips("ipv4") || skips("ipv6"),
            );
            links.insert(name, link);
        }
        links.if_of_namespace(text(&self.proc_net.join("dev")).as_deref())
    }
}

/// A whole file, or none when it is not there, unreadable, or beyond all bounds.
fn text(path: &Path) -> Option<String> {
    let file = fs::File::open(path).ok()?;
    let mut text = String::new();
    let read = file.take(MAX_TABLE + 1).read_to_string(&mut text).ok()?;
    (read as u64 <= MAX_TABLE).then_some(text)
}

/// Whether the kernel finds a route, by every rule and table it has. Connecting a UDP socket looks
/// one up and sends nothing. What else may go wrong counts as a route.
fn kernel_has_route(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    const DISCARD_PORT: u16 = 9;
    let connected = UdpSocket::bind((any, 0)).and_then(|s| s.connect((address, DISCARD_PORT)));
    !connected.is_err_and(|error| {
        use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable};
        matches!(
            error.kind(),
            HostUnreachable | NetworkDown | NetworkUnreachable
        )
    })
}

/// The kernel's multicast of what happens to links, addresses and routes.
#[derive(Debug)]
struct News {
    /// A netlink socket. It is waited for and read as any datagram socket is, and tokio's are the
    /// ones that take a descriptor safely: `AsyncFd` needs `unsafe`.
    socket: UnixDatagram,
}

impl News {
    /// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR` and
    /// `RTMGRP_IPV6_ROUTE` of `linux/rtnetlink.h`.
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

    fn subscribe() -> io::Result<News> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, News::GROUPS))?;
        Ok(News {
            socket: UnixDatagram::from_std(socket.into())?,
        })
    }

    /// Waits for news and takes all there are. What they say is of no interest; that some were
    /// lost (`ENOBUFS`) is news too.
    async fn wait(&mut self) -> io::Result<()> {
        self.socket.readable().await?;
        let mut buffer = [0; 4096];
        for _ in 0..MAX_NEWS {
            match self.socket.try_recv(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    let errno = rustix::io::Errno::from_io_error(&error);
                    if errno != Some(rustix::io::Errno::NOBUFS) {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
