//! Sockets that were bound before this process began: by systemd (a socket unit, or its descriptor
//! store after a crash), or by the process that this one follows.
//!
//! They are matched by what they are, protocol and local address, never by name or position, so
//! whoever gives them needs to tell nothing else. A listener that is wanted and was given goes on
//! as it is: its queue of connections is kept, and nobody was refused meanwhile.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};

use crate::topology::Protocol;

/// Sockets that were bound before this process began, and that nothing has taken yet.
///
/// ```text
/// Given::new(descriptors) ─► listen::bind takes what the configuration wants ─► close_rest
/// ```
#[derive(Debug, Default)]
pub struct Given {
    sockets: Vec<GivenSocket>,
    /// Whether another process serves by them, and may go on to.
    served: bool,
}

#[derive(Debug)]
struct GivenSocket {
    protocol: Protocol,
    address: SocketAddr,
    socket: Socket,
}

/// Why a descriptor cannot be a listener of ours.
#[derive(Debug)]
enum Unfit {
    /// The kernel would not say what it is.
    Unknown(io::Error),
    /// Not IPv4 or IPv6, or neither TCP nor UDP.
    Kind,
    /// It is a connection, or a socket that takes from one peer only.
    Connected(SocketAddr),
    /// It takes IPv4 at the address `[::]` too.
    Dual(SocketAddr),
}

impl Given {
    /// Sockets by descriptor. Those that cannot be listeners are closed with a warning; a socket
    /// that was given twice counts once.
    pub fn new(descriptors: impl IntoIterator<Item = OwnedFd>) -> Given {
        let mut seen = HashSet::new();
        let mut sockets = Vec::new();
        for descriptor in descriptors {
            // Two descriptors of one socket are one listener: as two, its clients would be counted
            // for two workers that share one queue.
            let is_first = match rustix::fs::fstat(&descriptor) {
                Ok(stat) => seen.insert((stat.st_dev, stat.st_ino)),
                Err(_) => true,
            };
            match GivenSocket::new(descriptor) {
                Ok(socket) if is_first => sockets.push(socket),
                Ok(_) => {}
                Err(why) => tracing::warn!("closing a socket that was given: {why}"),
            }
        }
        Given {
            sockets,
            served: false,
        }
    }

    /// The same, by which another process serves until this one does. Nothing of theirs changes
    /// before: no socket joins those of an address over UDP, where each has its share of the flows,
    /// and those that join over TCP [begin to listen](super::begin_to_listen) by and by.
    #[must_use]
    pub fn served(self) -> Given {
        Given {
            served: true,
            ..self
        }
    }

    pub(super) fn is_served(&self) -> bool {
        self.served
    }

    /// How many nothing has taken.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether all were taken, or none was given.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Takes all sockets of this protocol at this address, in the order in which they were given.
    /// An address with port 0 is nobody's.
    pub fn take(&mut self, protocol: Protocol, address: SocketAddr) -> Vec<Socket> {
        let fits =
            |given: &mut GivenSocket| given.protocol == protocol && is_same(given.address, address);
        let taken = self.sockets.extract_if(.., fits);
        taken.map(|given| given.socket).collect()
    }

    /// Closes what nothing in the configuration wants, with a warning that names each address; what
    /// and where that was, for whoever keeps them too.
    pub fn close_rest(self) -> Vec<(Protocol, SocketAddr)> {
        let close = |given: GivenSocket| {
            let protocol = match given.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
            };
            tracing::warn!(
                "closing {protocol} {}, which was given: nothing in the configuration listens there",
                given.address
            );
            (given.protocol, given.address)
        };
        self.sockets.into_iter().map(close).collect()
    }
}

impl GivenSocket {
    fn new(descriptor: OwnedFd) -> Result<GivenSocket, Unfit> {
        let socket = Socket::from(descriptor);
        let domain = socket.domain().map_err(Unfit::Unknown)?;
        let kind = socket.r#type().map_err(Unfit::Unknown)?;
        let address = socket.local_addr().map_err(Unfit::Unknown)?;
        let address = address.as_socket().ok_or(Unfit::Kind)?;
        let ours = socket.protocol().map_err(Unfit::Unknown)?;
        let protocol = match kind {
            Type::STREAM if ours == Some(socket2::Protocol::TCP) => Protocol::Tcp,
            Type::DGRAM if ours == Some(socket2::Protocol::UDP) => Protocol::Udp,
            _ => return Err(Unfit::Kind),
        };
        if let Some(peer) = socket.peer_addr().ok().and_then(|peer| peer.as_socket()) {
            return Err(Unfit::Connected(peer));
        }
        let takes_both = domain == Domain::IPV6
            && address.ip().is_unspecified()
            && !socket.only_v6().map_err(Unfit::Unknown)?;
        if takes_both {
            return Err(Unfit::Dual(address));
        }
        // What a connection is given is not to be left to a process that this one starts.
        socket.set_cloexec(true).map_err(Unfit::Unknown)?;
        Ok(GivenSocket {
            protocol,
            address,
            socket,
        })
    }
}

/// Scope and flow of an IPv6 address are not part of what is configured.
fn is_same(given: SocketAddr, wanted: SocketAddr) -> bool {
    given.ip() == wanted.ip() && given.port() == wanted.port() && wanted.port() != 0
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Unknown(error) => write!(f, "the kernel does not say what it is: {error}"),
            Unfit::Kind => f.write_str("it is not one of TCP or UDP over IPv4 or IPv6"),
            Unfit::Connected(peer) => write!(f, "it is connected to {peer}"),
            Unfit::Dual(address) => write!(
                f,
                "{address} takes IPv4 too; write `BindIPv6Only=ipv6-only` in its socket unit, and \
                 one `ListenStream=` or `ListenDatagram=` for each address"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn tcp() -> (OwnedFd, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (socket.into(), address)
    }

    #[test]
    fn a_socket_is_found_by_protocol_and_address() {
        let (first, at) = tcp();
        let (other, other_at) = tcp();
        let datagrams = UdpSocket::bind("[::1]:0").unwrap();
        let datagrams_at = datagrams.local_addr().unwrap();
        let mut given = Given::new([first, other, datagrams.into()]);
        assert!(given.take(Protocol::Udp, at).is_empty());
        let taken = given.take(Protocol::Tcp, at);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].local_addr().unwrap().as_socket(), Some(at));
        assert!(given.take(Protocol::Tcp, at).is_empty(), "taken once");
        assert_eq!(given.take(Protocol::Udp, datagrams_at).len(), 1);
        assert_eq!(given.len(), 1);
        assert_eq!(given.take(Protocol::Tcp, other_at).len(), 1);
        assert!(given.is_empty());
    }

    #[test]
    fn all_sockets_of_a_shared_port_are_taken_together() {
        let make = |at: SocketAddr| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&at.into()).unwrap();
            let at = socket.local_addr().unwrap().as_socket().unwrap();
            (OwnedFd::from(socket), at)
        };
        let (first, at) = make("127.0.0.1:0".parse().unwrap());
        let (second, _) = make(at);
        let mut given = Given::new([first, second]);
        assert_eq!(given.take(Protocol::Tcp, at).len(), 2);
    }

    #[test]
    fn a_socket_that_was_given_twice_counts_once() {
        let (socket, at) = tcp();
        let again = socket.as_fd().try_clone_to_owned().unwrap();
        let mut given = Given::new([socket, again]);
        assert_eq!(given.take(Protocol::Tcp, at).len(), 1);
    }

    #[test]
    fn what_cannot_listen_is_not_kept() {
        let (listener, at) = tcp();
        let connection = TcpStream::connect(at).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.connect(at).unwrap();
        let both = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        both.set_only_v6(false).unwrap();
        let any: SocketAddr = "[::]:0".parse().unwrap();
        both.bind(&any.into()).unwrap();
        let dir = std::env::temp_dir().join(format!("given-{}", std::process::id()));
        let unix = UnixListener::bind(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let given = Given::new([
            OwnedFd::from(connection),
            datagrams.into(),
            both.into(),
            unix.into(),
            file.into(),
        ]);
        assert!(given.is_empty(), "{given:?}");
        drop(listener);
    }

    #[test]
    fn a_free_port_is_never_matched() {
        let (socket, _) = tcp();
        let mut given = Given::new([socket]);
        let free = "127.0.0.1:0".parse().unwrap();
        assert!(given.take(Protocol::Tcp, free).is_empty());
    }
}
