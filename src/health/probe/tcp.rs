//! Connecting, which is all that a `tcp` check asks.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// Connects, without Nagle, and so that dropping the connection resets it. With `unseen` the
/// kernel is asked to hold back the last acknowledgement, so that a reset that follows at once
/// keeps the connection from ever reaching the member's process.
pub(super) async fn connect(address: SocketAddr, unseen: bool) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    options.set_linger(Some(Duration::ZERO))?;
    if unseen {
        options.set_tcp_quickack(false)?;
    }
    let stream = socket.connect(address).await?;
    if stream.local_addr()? == stream.peer_addr()? {
        // On loopback the source port that the kernel chose can be the very port that nothing
        // listens on: TCP then connects the socket to itself.
        return Err(ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}
