//! Listeners: bound before anything serves, all at once, so that every problem is told at once.

use std::fmt;
use std::io;
use std::net::SocketAddr;

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

/// Binds every listener of `topology` once for each worker: in front of each service those of
/// `listen`, then those of `listen_at_twin`.
pub fn bind(topology: &Topology, workers: usize) -> Result<Vec<Vec<Listener>>, Vec<BindError>> {
    bind_new(topology, workers, &[])
}

/// Binds those listeners of `topology` that are not among `stays`, as [`bind`] does.
pub fn bind_new(
    topology: &Topology,
    workers: usize,
    stays: &[(Protocol, SocketAddr)],
) -> Result<Vec<Vec<Listener>>, Vec<BindError>> {
    let mut bound: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut errors = Vec::new();
    for service in topology.pools.iter().flat_map(|pool| &pool.services) {
        let own = service.listen.iter().map(|address| ("listen", *address));
        let at_twin = service.listen_at_twin.iter();
        let at_twin = at_twin.map(|address| ("listen_at_twin", *address));
        for (key, address) in own.chain(at_twin) {
            if stays.contains(&(service.protocol, address)) {
                continue;
            }
            if let Err(source) = bind_one(service, address, &mut bound) {
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
        listeners.push(Listener {
            service: service.id,
            address,
            protocol: service.protocol,
            socket,
        });
    }
    Ok(())
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
        let bound = bind(&topology, 2).unwrap();
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
        let errors = bind(&topology, 1).unwrap_err();
        let [error] = errors.as_slice() else {
            panic!("{errors:?}");
        };
        let message = error.to_string();
        assert!(message.contains(&taken.to_string()), "{message}");
        assert!(message.contains("another `listen_at_twin`"), "{message}");
    }
}
