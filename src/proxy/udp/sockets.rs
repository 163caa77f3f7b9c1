//! The sockets of services over UDP, and the options of each in one place.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::{
    Ipv4PacketInfo, Ipv4RecvErr, Ipv6RecvErr, Ipv6RecvPacketInfo, UdpGroSegment,
};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::{cmsg_space, libc};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use socket2::{Domain, Protocol, Socket, Type};

use crate::health::Failure;

/// What a listener may hold of datagrams that were not read yet, and of what was not sent yet: a
/// few milliseconds of a gigabit, in which the worker may be with others. Without the right to go
/// beyond it (`CAP_NET_ADMIN`), the kernel cuts it at `net.core.rmem_max` and `wmem_max`.
const BUFFER: usize = 4 << 20;

/// A listener on `address`. The first one of an address is bound alone, so that it fails when
/// anybody else has the port; then it lets those of the other workers join it (`SO_REUSEPORT`).
/// `SO_REUSEADDR`, which lets anybody share a port over UDP, is never set.
pub(in crate::proxy) fn listener(address: SocketAddr, first: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // A virtual address may arrive later.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    prepare(&socket, address)?;
    socket.set_reuse_port(!first)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

/// Sets what a listener needs, bound or not yet.
pub(in crate::proxy) fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if set_socket_recv_buffer_size_force(socket, BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    if set_socket_send_buffer_size_force(socket, BUFFER).is_err() {
        socket.set_send_buffer_size(BUFFER)?;
    }
    receive_runs(socket);
    if address.ip().is_unspecified() {
        // Which address was asked; the answer has to come from there.
        if address.is_ipv6() {
            setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(socket, Ipv4PacketInfo, &true)?;
        }
    }
    Ok(())
}

/// A flow's socket towards its member. It takes nothing from anybody else, and tells of every ICMP
/// error that comes back.
pub(super) fn towards(member: SocketAddr) -> io::Result<OwnedFd> {
    let family = match member {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    match member {
        SocketAddr::V4(_) => setsockopt(&socket, Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvErr, &true)?,
    }
    connect(&socket, &member)?;
    Ok(socket)
}

/// Has the kernel hand over datagrams that follow each other at one length in one piece
/// (`UDP_GRO`).
pub(super) fn receive_runs(socket: &impl AsFd) {
    // Where the kernel cannot, they come one by one.
    if let Err(error) = setsockopt(socket, UdpGroSegment, &true) {
        tracing::debug!(%error, "datagrams come one by one");
    }
}

/// What a flow's socket had to tell of a datagram that did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undelivered {
    /// An ICMP error came back; what it says of the member, if anything.
    Icmp(Option<Failure>),
    /// It never left; whoever sent it was told.
    Local,
}

/// The oldest of what a flow's socket has to tell; none when that was all.
pub(super) fn undelivered(socket: &impl AsFd) -> Option<Undelivered> {
    // The datagram itself comes back too. A forger would write it: it is of no use.
    let mut data = [0; 0];
    let mut data = [IoSliceMut::new(&mut data)];
    let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let fd = socket.as_fd().as_raw_fd();
    let message = recvmsg::<()>(fd, &mut data, Some(&mut control), flags).ok()?;
    let mut told = message.cmsgs().ok()?;
    let origin = told.find_map(|message| match message {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
            Some(error)
        }
        _ => None,
    });
    match origin {
        Some(error)
            if matches!(
                error.ee_origin,
                libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6
            ) =>
        {
            let is_v6 = error.ee_origin == libc::SO_EE_ORIGIN_ICMP6;
            Some(Undelivered::Icmp(evidence(
                is_v6,
                error.ee_type,
                error.ee_code,
            )))
        }
        _ => Some(Undelivered::Local),
    }
}

/// What an ICMP error says of the member: that nobody is there, or nobody takes datagrams there
/// (RFC 792; RFC 4443, 3.1). All others are about the way, the datagram, or what somebody forbids.
fn evidence(is_v6: bool, kind: u8, code: u8) -> Option<Failure> {
    match (is_v6, kind, code) {
        (false, 3, 1) | (true, 1, 3) => Some(Failure::Unreachable),
        (false, 3, 2 | 3) | (true, 1, 4) => Some(Failure::Refused),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_or_port_that_nobody_has_is_held_against_a_member() {
        assert_eq!(evidence(false, 3, 1), Some(Failure::Unreachable));
        assert_eq!(evidence(false, 3, 2), Some(Failure::Refused));
        assert_eq!(evidence(false, 3, 3), Some(Failure::Refused));
        assert_eq!(evidence(true, 1, 3), Some(Failure::Unreachable));
        assert_eq!(evidence(true, 1, 4), Some(Failure::Refused));
        // Network unreachable, too big, prohibited, time exceeded.
        for (kind, code) in [(3, 0), (3, 4), (3, 9), (3, 10), (3, 13), (11, 0), (12, 0)] {
            assert_eq!(evidence(false, kind, code), None, "{kind}/{code}");
        }
        // No route, prohibited, beyond scope, policy, too big, time exceeded.
        for (kind, code) in [
            (1, 0),
            (1, 1),
            (1, 2),
            (1, 5),
            (1, 6),
            (2, 0),
            (3, 0),
            (3, 3),
        ] {
            assert_eq!(evidence(true, kind, code), None, "{kind}/{code}");
        }
    }
}
