//! Listeners: bound before anything serves, all at once, so that every problem is told at once.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use socket2::Socket;

use super::sockets;
use crate::topology::{ServiceId, Topology};

/// A bound listener of one worker.
#[derive(Debug)]
pub struct Listener {
    /// The service that it stands in front of.
    pub service: ServiceId,
    /// Where it is bound.
    pub address: SocketAddr,
    pub(super) socket: Socket,
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// `POOL/SERVICE`.
    pub service: String,
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError {
            service,
            address,
            source,
        } = self;
        write!(f, "cannot listen on {address} for {service}: {source}")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "; find who does with `ss -ltnp 'sport = :{}'`, or choose another `listen`",
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

/// Binds every listener of `topology` once for each worker.
///
/// # Errors
/// All addresses that cannot be had: those that another daemon of the same user listens on too.
pub fn bind(topology: &Topology, workers: usize) -> Result<Vec<Vec<Listener>>, Vec<BindError>> {
    let mut bound: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut errors = Vec::new();
    let failed = |service, address, source| BindError {
        service: topology.service_path(service),
        address,
        source,
    };
    let wanted: Vec<_> = topology
        .pools
        .iter()
        .flat_map(|pool| &pool.services)
        .flat_map(|service| service.listen.iter().map(move |&at| (service, at)))
        .collect();
    // Before any is bound: one of ours may stand on all addresses and another on one of them.
    let free: Vec<_> = wanted
        .into_iter()
        .filter_map(|(service, address)| match sockets::try_alone(address) {
            Ok(()) => Some((service, address)),
            Err(source) => {
                errors.push(failed(service.id, address, source));
                None
            }
        })
        .collect();
    for (service, mut address) in free {
        for listeners in &mut bound {
            match sockets::listener(address, service.peer_timeout) {
                Ok(socket) => {
                    // A free port is chosen once, and shared by the workers.
                    if let Some(local) = local_address(&socket) {
                        address = local;
                    }
                    listeners.push(Listener {
                        service: service.id,
                        address,
                        socket,
                    });
                }
                Err(source) => {
                    errors.push(failed(service.id, address, source));
                    break;
                }
            }
        }
    }
    if errors.is_empty() {
        Ok(bound)
    } else {
        Err(errors)
    }
}

fn local_address(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok()?.as_socket()
}
