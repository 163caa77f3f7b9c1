//! The members: three sockets that send back what they get, and answer STUN.

use std::net::{Ipv4Addr, UdpSocket};

use nix::sys::socket::SockaddrIn;

use super::batch::Batch;
use crate::support::Result;

/// How many.
pub(crate) const MEMBERS: usize = 3;
/// Receive buffer of members, bytes, as far as `net.core.rmem_max` lets them: nothing is to be
/// lost here.
const ROOM: usize = 4 << 20;

/// STUN (RFC 8489): the cookie of every message, the length of its header, and what is used here.
const COOKIE: u32 = 0x2112_A442;
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const IPV4: u8 = 1;

/// Members that answer.
pub(crate) struct Members {
    sockets: Vec<UdpSocket>,
    /// Datagrams that each was sent, checks among them.
    pub(crate) received: [u64; MEMBERS],
    batch: Batch,
}

/// Sockets for all of them, on ports of their own.
pub(crate) fn bind() -> Result<Vec<UdpSocket>> {
    let socket = |_| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(ROOM)?;
        Ok(socket)
    };
    (0..MEMBERS).map(socket).collect()
}

impl Members {
    /// Behind these sockets.
    pub(crate) fn new(sockets: Vec<UdpSocket>) -> Members {
        Members {
            sockets,
            received: [0; MEMBERS],
            batch: Batch::new(),
        }
    }

    /// Their sockets.
    pub(crate) fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    /// One of them has something: it answers a batch.
    pub(crate) fn serve(&mut self, member: usize) -> Result<()> {
        let socket = &self.sockets[member];
        let n = self.batch.receive(socket)?;
        self.received[member] += n as u64;
        for place in 0..n {
            if let (Some(request), Some(peer)) = (
                binding_request(self.batch.datagram(place)),
                self.batch.peer(place),
            ) {
                let answer = binding_success(request, peer);
                self.batch
                    .write(place, answer.len())
                    .copy_from_slice(&answer);
            }
        }
        // What the kernel does not take is lost, and missed by the flow that it was for.
        self.batch.answer(socket, n);
        Ok(())
    }
}

/// The transaction id, when this is a STUN Binding request.
fn binding_request(datagram: &[u8]) -> Option<[u8; 12]> {
    let header: &[u8; HEADER] = datagram.first_chunk()?;
    let asked = header.starts_with(&BINDING_REQUEST.to_be_bytes())
        && header[4..8] == COOKIE.to_be_bytes()
        && usize::from(u16::from_be_bytes([header[2], header[3]])) == datagram.len() - HEADER;
    let mut transaction = [0; 12];
    transaction.copy_from_slice(&header[8..]);
    asked.then_some(transaction)
}

/// A Binding success response: where the request came from.
fn binding_success(transaction: [u8; 12], peer: SockaddrIn) -> [u8; HEADER + 12] {
    let mut answer = [0; HEADER + 12];
    let cookie = COOKIE.to_be_bytes();
    answer[..2].copy_from_slice(&BINDING_SUCCESS.to_be_bytes());
    answer[2..4].copy_from_slice(&12u16.to_be_bytes());
    answer[4..8].copy_from_slice(&cookie);
    answer[8..20].copy_from_slice(&transaction);
    answer[20..22].copy_from_slice(&XOR_MAPPED_ADDRESS.to_be_bytes());
    answer[22..24].copy_from_slice(&8u16.to_be_bytes());
    answer[25] = IPV4;
    let hidden_port = peer.port() ^ (COOKIE >> 16) as u16;
    answer[26..28].copy_from_slice(&hidden_port.to_be_bytes());
    let hidden_address = u32::from(peer.ip()) ^ COOKIE;
    answer[28..32].copy_from_slice(&hidden_address.to_be_bytes());
    answer
}
