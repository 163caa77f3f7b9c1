//! Listeners: bound before anything serves, all at once, so that every problem is told at once.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use socket2::Socket;

use super::sockets;
use crate::topology::{Service, ServiceId, Topology};

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
pub fn bind(topology: &Topology, workers: usize) -> Result<Vec<Vec<Listener>>, Vec<BindError>> {
    let mut bound: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut errors = Vec::new();
    for service in topology.pools.iter().flat_map(|pool| &pool.services) {
        for &address in &service.listen {
            if let Err(source) = bind_one(service, address, &mut bound) {
                errors.push(BindError {
                    service: topology.service_path(service.id),
                    address,
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
    sockets::check_free(address)?;
    for listeners in bound {
        let socket = sockets::listener(address, service.peer_timeout)?;
        if let Some(local) = local_address(&socket) {
            address = local;
        }
        listeners.push(Listener {
            service: service.id,
            address,
            socket,
        });
    }
    Ok(())
}

fn local_address(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok()?.as_socket()
}
