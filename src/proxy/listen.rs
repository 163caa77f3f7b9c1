//! Listeners: bound before anything serves, all at once, so that every problem is told at once.
//!
//! What was bound before this process began is taken as it is ([`Given`]); the rest is bound anew.

mod given;

pub use given::Given;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use super::{sockets, udp};
use crate::topology::{Protocol, Service, ServiceId, Topology};

/// A bound listener of one worker.
#[derive(Debug)]
pub struct Listener {
    /// The service that it stands in front of.
    pub service: ServiceId,
    /// Where it is bound.
    pub address: SocketAddr,
    /// What it takes: connections or datagrams.
    pub protocol: Protocol,
    pub(super) socket: Socket,
    /// Whether it is bound only, beside others by which another process serves.
    is_mute: bool,
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// `POOL/SERVICE`.
    pub service: String,
    /// The key that names the address.
    pub key: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What was to be taken there.
    pub protocol: Protocol,
    /// What the kernel said.
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError {
            service,
            key,
            address,
            protocol,
            source,
        } = self;
        let option = match protocol {
            Protocol::Tcp => 't',
            Protocol::Udp => 'u',
        };
        write!(f, "cannot listen on {address} for {service}: {source}")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "; find who does with `ss -l{option}np 'sport = :{}'`, or choose another `{key}`",
                address.port()
            ),
            io::ErrorKind::PermissionDenied => write!(
                f,
                "; ports below 1024 need CAP_NET_BIND_SERVICE \
                 (`setcap cap_net_bind_service=+ep` on the binary, or run it by systemd)"
            ),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

/// Listeners for every worker of `workers`: in front of each service those of `listen`, then those
/// of `listen_at_twin`. What `given` has of them is taken from it, and the rest bound.
///
/// A worker may get more than one socket of an address, after all others of its own: where more
/// were given than there are workers, closing one would drop the connections that wait in it. The
/// first worker has one of each.
pub fn bind(
    topology: &Topology,
    workers: usize,
    given: &mut Given,
) -> Result<Vec<Vec<Listener>>, Vec<BindError>> {
    bind_new(topology, workers, given, &[])
}

/// The same without those that are among `stays`.
pub fn bind_new(
    topology: &Topology,
    workers: usize,
    given: &mut Given,
    stays: &[(Protocol, SocketAddr)],
) -> Result<Vec<Vec<Listener>>, Vec<BindError>> {
    let mut bound: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    let is_served = given.is_served();
    let mut more = Vec::new();
    let mut errors = Vec::new();
    for service in topology.pools.iter().flat_map(|pool| &pool.services) {
        let own = service.listen.iter().map(|address| ("listen", *address));
        let at_twin = service.listen_at_twin.iter();
        let at_twin = at_twin.map(|address| ("listen_at_twin", *address));
        for (key, address) in own.chain(at_twin) {
            if stays.contains(&(service.protocol, address)) {
                continue;
            }
            let sockets = given.take(service.protocol, address);
            let listening = if sockets.is_empty() {
                bind_one(service, address, &mut bound)
            } else {
                take_one(service, address, sockets, is_served, &mut bound, &mut more)
            };
            if let Err(source) = listening {
                errors.push(BindError {
                    service: topology.service_path(service.id),
                    key,
                    address,
                    protocol: service.protocol,
                    source,
                });
            }
        }
    }
    for (listener, listeners) in more.into_iter().zip((0..workers).cycle()) {
        bound[listeners].push(listener);
    }
    if errors.is_empty() {
        Ok(bound)
    } else {
        Err(errors)
    }
}

/// Binds one address for every worker; a free port is chosen once, and shared by them.
fn bind_one(
    service: &Service,
    mut address: SocketAddr,
    bound: &mut [Vec<Listener>],
) -> io::Result<()> {
    if service.protocol == Protocol::Tcp {
        sockets::check_free(address)?;
    }
    for (worker, listeners) in bound.iter_mut().enumerate() {
        let socket = match service.protocol {
            Protocol::Tcp => sockets::listener(address, service.peer_timeout)?,
            Protocol::Udp => udp::listener(address, worker == 0)?,
        };
        if let Some(local) = local_address(&socket) {
            address = local;
        }
        listeners.push(Listener::new(service, address, socket));
    }
    Ok(())
}

/// Has every worker listen at an address of which at least one socket was given.
fn take_one(
    service: &Service,
    address: SocketAddr,
    sockets: Vec<Socket>,
    is_served: bool,
    bound: &mut [Vec<Listener>],
    more: &mut Vec<Listener>,
) -> io::Result<()> {
    for socket in &sockets {
        match service.protocol {
            Protocol::Tcp => sockets::begin_to_listen(socket, service.peer_timeout)?,
            Protocol::Udp => udp::prepare(socket, address)?,
        }
        // So that those of the other workers may join it.
        socket.set_reuse_port(true)?;
    }
    let mut sockets = sockets.into_iter();
    let mut first: Option<Socket> = None;
    for listeners in bound {
        let socket = match (sockets.next(), &first) {
            (Some(socket), None) => {
                first = Some(socket.try_clone()?);
                socket
            }
            (Some(socket), Some(_)) => socket,
            (None, Some(first)) if is_served => match mute(service, address, first)? {
                Some(listener) => {
                    listeners.push(listener);
                    continue;
                }
                None => continue,
            },
            (None, Some(first)) => match beside(service, address, first)? {
                Some(socket) => socket,
                None => continue,
            },
            (None, None) => return Ok(()),
        };
        listeners.push(Listener::new(service, address, socket));
    }
    more.extend(sockets.map(|socket| Listener::new(service, address, socket)));
    Ok(())
}

/// A socket for one more worker at an address that was given: its own where the kernel lets it join
/// (`SO_REUSEPORT`, which it does for sockets of the same user only), else a share of the given one.
/// Datagrams cannot be shared: those of one flow would come to workers that do not know it.
fn beside(service: &Service, address: SocketAddr, given: &Socket) -> io::Result<Option<Socket>> {
    let own = match service.protocol {
        Protocol::Tcp => sockets::listener(address, service.peer_timeout),
        Protocol::Udp => udp::listener(address, false),
    };
    match (own, service.protocol) {
        (Ok(socket), _) => Ok(Some(socket)),
        (Err(error), Protocol::Tcp) if error.kind() == io::ErrorKind::AddrInUse => {
            given.try_clone().map(Some)
        }
        (Err(error), Protocol::Udp) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::info!("one worker takes the datagrams of {address}: its socket was given");
            Ok(None)
        }
        (Err(error), _) => Err(error),
    }
}

/// The same while another process serves by the given one: a client that came to a socket which
/// listens already would wait for this process to serve, and a flow over UDP would come to a worker
/// that does not know it.
fn mute(service: &Service, address: SocketAddr, given: &Socket) -> io::Result<Option<Listener>> {
    if service.protocol == Protocol::Udp {
        tracing::info!(
            "no more workers than before take the datagrams of {address}, for the flows that go \
             on; a restart has all of them do"
        );
        return Ok(None);
    }
    match sockets::to_listen(address, service.peer_timeout) {
        Ok(socket) => Ok(Some(Listener {
            is_mute: true,
            ..Listener::new(service, address, socket)
        })),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let shared = given.try_clone()?;
            Ok(Some(Listener::new(service, address, shared)))
        }
        Err(error) => Err(error),
    }
}

/// Has those listen that were bound beside others by which another process served. To be called
/// when it is this one's turn, and before any worker has them.
///
/// # Errors
/// When the kernel does not let one listen, with its address.
pub fn begin_to_listen(listeners: &mut [Vec<Listener>]) -> Result<(), (SocketAddr, io::Error)> {
    for listener in listeners.iter_mut().flatten().filter(|one| one.is_mute) {
        let listens = sockets::listen(&listener.socket);
        listens.map_err(|error| (listener.address, error))?;
        listener.is_mute = false;
    }
    Ok(())
}

impl Listener {
    fn new(service: &Service, address: SocketAddr, socket: Socket) -> Listener {
        Listener {
            service: service.id,
            address,
            protocol: service.protocol,
            socket,
            is_mute: false,
        }
    }
}

impl Listener {
    /// What tells its socket from any other, in whatever process.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn inode(&self) -> io::Result<u64> {
        udp::inode(&self.socket)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn local_address(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok()?.as_socket()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn topology(here: &str, there: &str) -> Topology {
        let pool = |name: &str, site: &str, listen: &str| {
            format!(
                "[sites.{site}]\nregion = \"{site}\"\n[pools.{name}]\nrole = \"mediation\"\n\
                 site = \"{site}\"\nmembers.m = \"192.0.2.1\"\nservices.sip = {{ {listen} }}\n"
            )
        };
        let text = format!(
            "{}{}[pairs.both]\npools = [\"one\", \"two\"]\n",
            pool("one", "a", here),
            pool("two", "b", there)
        );
        config::parse(&text, "f").unwrap().config.topology
    }

    #[test]
    fn a_service_is_bound_at_the_twins_site_too() {
        let topology = topology(
            "listen = \"127.0.0.1:0\", listen_at_twin = [\"127.0.0.1:0\", \"127.0.0.1:0\"]",
            "listen = \"127.0.0.1:0\"",
        );
        let bound = bind(&topology, 2, &mut Given::default()).unwrap();
        let services = |listeners: &[Listener]| -> Vec<u16> {
            listeners.iter().map(|l| l.service.pool.0).collect()
        };
        for listeners in &bound {
            assert_eq!(services(listeners), [0, 0, 0, 1]);
        }
        let addresses = |at: usize| bound[at].iter().map(|l| l.address).collect::<Vec<_>>();
        assert_eq!(addresses(0), addresses(1));
        assert!(addresses(0).iter().all(|address| address.port() != 0));
    }

    #[test]
    fn an_address_that_is_taken_at_the_twins_site_is_told_by_its_key() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = holder.local_addr().unwrap();
        let topology = topology(
            &format!("listen = \"127.0.0.1:0\", listen_at_twin = \"{taken}\""),
            "listen = \"127.0.0.1:0\"",
        );
        let errors = bind(&topology, 1, &mut Given::default()).unwrap_err();
        let [error] = errors.as_slice() else {
            panic!("{errors:?}");
        };
        let message = error.to_string();
        assert!(message.contains(&taken.to_string()), "{message}");
        assert!(message.contains("another `listen_at_twin`"), "{message}");
    }

    fn one_service(protocol: &str, address: SocketAddr) -> Topology {
        let text = format!(
            "[roles.r]\nprimary = \"s\"\n[roles.r.services.s]\nport = 1\nprotocol = \"{protocol}\"\n\
             check = {{ kind = \"tcp\", port = 2 }}\n\
             [pools.p]\nrole = \"r\"\nmembers.m = \"192.0.2.1\"\nservices.s.listen = \"{address}\"\n"
        );
        config::parse(&text, "f").unwrap().config.topology
    }

    fn inode(socket: impl AsFd) -> u64 {
        rustix::fs::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn a_given_socket_keeps_its_queue_and_other_workers_listen_beside_it() {
        let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = given.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let known = inode(&given);
        let mut given = Given::new([given.into()]);
        let bound = bind(&one_service("tcp", address), 3, &mut given).unwrap();
        assert!(given.is_empty());
        assert_eq!(inode(&bound[0][0]), known);
        for listeners in &bound[1..] {
            assert_eq!(listeners[0].address, address);
            assert_ne!(inode(&listeners[0]), known);
        }
        let (_, peer) = bound[0][0].socket.accept().unwrap();
        assert_eq!(peer.as_socket(), Some(client.local_addr().unwrap()));
    }

    #[test]
    fn more_sockets_than_workers_are_all_kept() {
        let address = "127.0.0.1:0".parse().unwrap();
        let before = bind(&one_service("tcp", address), 3, &mut Given::default()).unwrap();
        let address = before[0][0].address;
        let descriptors = before.into_iter().flatten().map(|l| l.socket.into());
        let mut given = Given::new(descriptors);
        let bound = bind(&one_service("tcp", address), 2, &mut given).unwrap();
        let counts: Vec<usize> = bound.iter().map(Vec::len).collect();
        assert_eq!(counts, [2, 1]);
    }

    #[test]
    fn a_given_socket_of_datagrams_is_taken_with_what_waits_in_it() {
        let given = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = given.local_addr().unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"early", address).unwrap();
        let mut given = Given::new([given.into()]);
        let mut bound = bind(&one_service("udp", address), 1, &mut given).unwrap();
        let socket: std::net::UdpSocket = bound.remove(0).remove(0).socket.into();
        let mut bytes = [0; 8];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 5);
    }
}
