//! Socket options, each in one place.
//!
//! What a client's socket needs is set on the listener and inherited by every accepted socket, so
//! it costs a connection nothing. What a member's socket needs is set when it comes to matter
//! (see [`super::relay`]): `TCP_NODELAY` before the second write, the rest once the session has
//! lived for a while. Short sessions never pay for it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_linger, set_tcp_quickack};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

/// Connections that may wait to be accepted; the kernel cuts it at `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;

/// Fails when another process listens on `address`. Workers share their ports (`SO_REUSEPORT`), and
/// by that alone a second instance would quietly take a part of the first one's clients.
pub(super) fn check_free(address: SocketAddr) -> io::Result<()> {
    unbound(address)?.bind(&address.into())
}

/// What the kernel takes from us for a client beyond what is on the wire, in bytes: a reader that
/// does not read makes it hold little more (without, up to `tcp_wmem`, some MiB).
const UNSENT: u32 = 128 << 10;

/// A listener of its own on `address`, beside those of the other workers.
pub(super) fn listener(address: SocketAddr, peer_timeout: Duration) -> io::Result<Socket> {
    let socket = to_listen(address, peer_timeout)?;
    listen(&socket)?;
    Ok(socket)
}

/// The same, bound and no more: nobody comes to it until it is to [`listen`].
pub(super) fn to_listen(address: SocketAddr, peer_timeout: Duration) -> io::Result<Socket> {
    let socket = unbound(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    prepare(&socket, peer_timeout)?;
    Ok(socket)
}

/// Makes a bound socket a listener of ours; one that listens already keeps its queue.
pub(super) fn begin_to_listen(socket: &Socket, peer_timeout: Duration) -> io::Result<()> {
    prepare(socket, peer_timeout)?;
    listen(socket)
}

/// Has a bound socket listen.
pub(super) fn listen(socket: &Socket) -> io::Result<()> {
    socket.listen(BACKLOG)
}

fn prepare(socket: &Socket, peer_timeout: Duration) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    watch_peer(socket, peer_timeout)
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    // A virtual address may arrive later.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    Ok(socket)
}

/// Has the kernel notice a peer that is gone without a word: data unacknowledged for
/// `peer_timeout`, or, on an idle connection, keep-alives unanswered for as long.
pub(super) fn watch_peer<S: AsFd>(socket: &S, peer_timeout: Duration) -> io::Result<()> {
    let probe = (peer_timeout / 3).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new()
        .with_time(peer_timeout.max(Duration::from_secs(1)))
        .with_interval(probe)
        .with_retries(3);
    let socket = SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(peer_timeout))?;
    socket.set_tcp_keepalive(&keepalive)
}

/// Begins to connect; the stream is writable once that is settled, and `take_error` then tells.
///
/// The member's answer is not acknowledged at once: what the client has sent already is to carry
/// the acknowledgement, which spares both sides a segment. [`acknowledge`] is due right after.
pub(super) fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_tcp_quickack(&socket, false)?;
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    TcpStream::from_std(socket.into())
}

/// Sends the acknowledgement that [`dial`] put off, unless bytes have carried it meanwhile, and has
/// the kernel acknowledge as it always does from here on: a member that speaks first waits for the
/// one, and a member that writes twice without `TCP_NODELAY` for the other.
pub(super) fn acknowledge(member: &TcpStream) {
    if let Err(error) = set_tcp_quickack(member, true) {
        tracing::debug!(%error, "cannot acknowledge at once");
    }
}

/// Makes closing this socket a reset: what was cut must not look complete.
pub(super) fn reset_on_close<S: AsFd>(socket: &S) {
    // It fails only on a socket that is gone already.
    if let Err(error) = set_socket_linger(socket, Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot turn a close into a reset");
    }
}
