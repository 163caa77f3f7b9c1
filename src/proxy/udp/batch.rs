//! Reading many datagrams with one system call.
//!
//! A worker has one [`Batch`], whose memory every read uses anew: what was read is sent on before
//! the next read.

use std::array;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg,
};
use nix::{cmsg_space, libc};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::runs::Piece;

/// Datagrams, or runs of them, that one read may bring. A system call costs less than a tenth of
/// what it takes to move so many, and a listener has had its turn after a fraction of a
/// millisecond.
pub(super) const SLOTS: usize = 32;
/// What one of them may take: any datagram, and any run that the kernel puts together. The odd
/// length keeps their beginnings from falling on the same few lines of the cache. Memory that was
/// never written costs nothing.
const SLOT: usize = (1 << 16) + 1_088;

/// What the last read brought, and the memory for it: 2 MiB a worker at most.
#[derive(Debug)]
pub(super) struct Batch {
    memory: Box<[u8]>,
    got: Vec<Got>,
}

/// One datagram or run of the batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Got {
    slot: usize,
    len: usize,
    segment: usize,
    /// Who sent it, where the socket is not connected.
    pub(super) from: SocketAddr,
    /// The address that was asked, where the listener is told.
    pub(super) local: Option<IpAddr>,
}

const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Batch {
    pub(super) fn new() -> Batch {
        Batch {
            memory: vec![0; SLOTS * SLOT].into_boxed_slice(),
            got: Vec::with_capacity(SLOTS),
        }
    }

    /// Reads from a listener, at most `slots` times one.
    pub(super) fn read_listener(
        &mut self,
        socket: &impl AsFd,
        is_v6: bool,
        slots: usize,
    ) -> Result<&[Got], Errno> {
        if is_v6 {
            self.read_many(socket, true, slots, |from: SockaddrIn6| {
                let scope = (from.flowinfo(), from.scope_id());
                let from = SocketAddrV6::new(from.ip(), from.port(), scope.0, scope.1);
                SocketAddr::V6(from)
            })
        } else {
            self.read_many(socket, true, slots, |from: SockaddrIn| {
                SocketAddr::V4(SocketAddrV4::new(from.ip(), from.port()))
            })
        }
    }

    /// Reads from a flow's socket, at most `slots` times one.
    pub(super) fn read_flow(
        &mut self,
        socket: &impl AsFd,
        runs: bool,
        slots: usize,
    ) -> Result<&[Got], Errno> {
        if runs || slots > 1 {
            return self.read_many(socket, runs, slots, |()| NOBODY);
        }
        self.got.clear();
        let memory = &mut self.memory[..SLOT];
        let (_, len) = rustix::net::recv(socket, memory, RecvFlags::DONTWAIT)?;
        self.got.push(Got {
            slot: 0,
            len,
            segment: len,
            from: NOBODY,
            local: None,
        });
        Ok(&self.got)
    }

    /// Reads from any socket; `is_told` says whether the kernel tells anything beside the data.
    fn read_many<S: SockaddrLike + Copy>(
        &mut self,
        socket: &impl AsFd,
        is_told: bool,
        slots: usize,
        address: impl Fn(S) -> SocketAddr,
    ) -> Result<&[Got], Errno> {
        self.got.clear();
        let mut memory = self.memory.chunks_exact_mut(SLOT);
        let mut slices: [[IoSliceMut<'_>; 1]; SLOTS] =
            array::from_fn(|_| [IoSliceMut::new(memory.next().unwrap_or_default())]);
        // Made anew for each read: it remembers how much control data the last one brought, and
        // would have room for no more than that.
        let control = is_told.then(|| cmsg_space!(libc::in6_pktinfo, i32));
        let mut headers = MultiHeaders::<S>::preallocate(slots, control);
        let fd = socket.as_fd().as_raw_fd();
        let slices = slices[..slots].iter_mut();
        let read = recvmmsg(fd, &mut headers, slices, MsgFlags::MSG_DONTWAIT, None);
        let read = read.map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        for (slot, message) in read.enumerate() {
            let mut got = Got {
                slot,
                len: message.bytes,
                segment: message.bytes,
                from: message.address.map_or(NOBODY, &address),
                local: None,
            };
            // There is room for all that was asked for, so none is ever cut.
            let Ok(told) = message.cmsgs() else { continue };
            for told in told {
                match told {
                    ControlMessageOwned::UdpGroSegments(length) if length > 0 => {
                        got.segment = got.len.min(length as usize);
                    }
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                        got.local = Some(IpAddr::V4(ip));
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                        got.local = Some(IpAddr::V6(ip));
                    }
                    _ => {}
                }
            }
            self.got.push(got);
        }
        Ok(&self.got)
    }

    /// What the last read brought.
    pub(super) fn got(&self) -> &[Got] {
        &self.got
    }

    /// The bytes of one of it.
    pub(super) fn piece(&self, got: &Got) -> Piece<'_> {
        let start = got.slot * SLOT;
        Piece {
            bytes: &self.memory[start..start + got.len],
            segment: got.segment,
        }
    }
}
