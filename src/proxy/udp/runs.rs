//! Runs: datagrams of one flow that leave in one system call.
//!
//! What came for a flow in one batch stands in pieces of memory: single datagrams, or several of
//! one length that the kernel had put together. In their order they are joined to runs of one
//! length, of which only the last may be shorter, without being copied (`UDP_SEGMENT`).

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, sendmsg};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::batch::SLOTS;

/// Datagrams in one run: what every kernel with `UDP_SEGMENT` takes (`UDP_MAX_SEGMENTS`, doubled
/// later).
const MOST: usize = 64;
/// Bytes in one run: what one datagram over IPv4 may carry.
const MOST_BYTES: usize = 65_507;

/// Datagrams that stand behind each other: one, or several of one length, the last of which may be
/// shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    /// The length of each but the last.
    pub(super) segment: usize,
}

/// Datagrams of one length, of which the last may be shorter.
#[derive(Debug)]
pub(super) struct Run<'a> {
    parts: [IoSlice<'a>; SLOTS],
    used: usize,
    segment: usize,
    datagrams: usize,
    bytes: usize,
}

/// Joins pieces to runs, in their order.
pub(super) fn runs<'a>(pieces: impl Iterator<Item = Piece<'a>>) -> impl Iterator<Item = Run<'a>> {
    let mut pieces = pieces;
    let mut held = None;
    std::iter::from_fn(move || {
        let first: Piece<'a> = held.take().or_else(|| pieces.next())?;
        let (first, rest) = first.split();
        let mut run = Run::of(first);
        held = rest;
        while held.is_none() && run.is_open() {
            let Some(piece) = pieces.next() else { break };
            if !run.take(piece) {
                held = Some(piece);
            }
        }
        Some(run)
    })
}

impl<'a> Piece<'a> {
    /// How many datagrams it is.
    pub(super) fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.segment.max(1)).max(1)
    }

    /// What fits one run, and the rest.
    fn split(self) -> (Piece<'a>, Option<Piece<'a>>) {
        let Piece { bytes, segment } = self;
        let fits = (MOST_BYTES / segment.max(1)).clamp(1, MOST) * segment;
        if bytes.len() <= fits {
            return (self, None);
        }
        let (bytes, rest) = bytes.split_at(fits);
        let rest = Piece {
            bytes: rest,
            segment: segment.min(rest.len()),
        };
        (Piece { bytes, segment }, Some(rest))
    }
}

impl<'a> Run<'a> {
    fn of(piece: Piece<'a>) -> Run<'a> {
        let mut parts = [IoSlice::new(&[]); SLOTS];
        parts[0] = IoSlice::new(piece.bytes);
        Run {
            parts,
            used: 1,
            segment: piece.segment,
            datagrams: piece.datagrams(),
            bytes: piece.bytes.len(),
        }
    }

    /// Whether another datagram may follow: none after a shorter one.
    fn is_open(&self) -> bool {
        self.segment > 0
            && self.bytes == self.segment * self.datagrams
            && self.datagrams < MOST
            && self.used < SLOTS
    }

    /// Takes a piece, if it fits.
    fn take(&mut self, piece: Piece<'a>) -> bool {
        let (bytes, datagrams) = (piece.bytes.len(), piece.datagrams());
        let fits =
            piece.segment == self.segment || datagrams == 1 && (1..self.segment).contains(&bytes);
        let room = self.datagrams + datagrams <= MOST && self.bytes + bytes <= MOST_BYTES;
        if fits && room {
            self.parts[self.used] = IoSlice::new(piece.bytes);
            self.used += 1;
            self.datagrams += datagrams;
            self.bytes += bytes;
        }
        fits && room
    }

    /// All of it, to be sent at once.
    pub(super) fn whole(&self) -> Parcel<'_> {
        Parcel {
            parts: &self.parts[..self.used],
            segment: (self.datagrams > 1).then_some(self.segment as u16),
            datagrams: self.datagrams as u64,
            bytes: self.bytes as u64,
        }
    }

    /// Its datagrams, each alone.
    pub(super) fn singles(&self) -> impl Iterator<Item = IoSlice<'_>> {
        // Nothing is a datagram, too.
        let empty = (self.bytes == 0).then(|| IoSlice::new(&[]));
        let parts = self.parts[..self.used].iter();
        let each = parts.flat_map(|part| part.chunks(self.segment.max(1)));
        empty.into_iter().chain(each.map(IoSlice::new))
    }
}

/// What one system call sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parcel<'a> {
    parts: &'a [IoSlice<'a>],
    /// The length of each of its datagrams but the last, where there are several.
    segment: Option<u16>,
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
}

impl<'a> Parcel<'a> {
    /// One datagram.
    pub(super) fn single(datagram: &'a IoSlice<'a>) -> Parcel<'a> {
        Parcel {
            parts: std::slice::from_ref(datagram),
            segment: None,
            datagrams: 1,
            bytes: datagram.len() as u64,
        }
    }

    /// Sends it from a connected socket.
    pub(super) fn send(&self, socket: &impl AsFd) -> Result<(), Errno> {
        match (self.parts, self.segment) {
            ([only], None) => rustix::net::send(socket, only, SendFlags::DONTWAIT).map(drop),
            _ => self.send_message::<()>(socket, None, None),
        }
    }

    /// Sends it to a client; from `local`, where that is to be said.
    pub(super) fn send_to(
        &self,
        socket: &impl AsFd,
        client: SocketAddr,
        local: Option<IpAddr>,
    ) -> Result<(), Errno> {
        match (self.parts, self.segment, local) {
            ([only], None, None) => {
                rustix::net::sendto(socket, only, SendFlags::DONTWAIT, &client).map(drop)
            }
            _ => match client {
                SocketAddr::V4(client) => {
                    self.send_message(socket, Some(&SockaddrIn::from(client)), local)
                }
                SocketAddr::V6(client) => {
                    self.send_message(socket, Some(&SockaddrIn6::from(client)), local)
                }
            },
        }
    }

    fn send_message<S: SockaddrLike>(
        &self,
        socket: &impl AsFd,
        to: Option<&S>,
        local: Option<IpAddr>,
    ) -> Result<(), Errno> {
        let (v4, v6);
        let source = match local {
            None => None,
            Some(IpAddr::V4(local)) => {
                v4 = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(local.octets()),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                Some(ControlMessage::Ipv4PacketInfo(&v4))
            }
            Some(IpAddr::V6(local)) => {
                v6 = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: local.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                Some(ControlMessage::Ipv6PacketInfo(&v6))
            }
        };
        let segment = self.segment.as_ref().map(ControlMessage::UdpGsoSegments);
        let fd = socket.as_fd().as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT;
        let sent = match (source, segment) {
            (None, None) => sendmsg(fd, self.parts, &[], flags, to),
            (Some(one), None) | (None, Some(one)) => sendmsg(fd, self.parts, &[one], flags, to),
            (Some(one), Some(other)) => sendmsg(fd, self.parts, &[one, other], flags, to),
        };
        match sent {
            Ok(_) => Ok(()),
            Err(errno) => Err(Errno::from_raw_os_error(errno as i32)),
        }
    }
}

/// Whether a kernel, or the way to there, takes no runs: unknown to it, or longer than what it can
/// send in one packet.
pub(super) fn takes_no_runs(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INVAL | Errno::IO | Errno::OPNOTSUPP | Errno::MSGSIZE | Errno::NOPROTOOPT
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(pieces: &[(usize, usize)]) -> Vec<(usize, Option<u16>)> {
        let memory = vec![0; 1 << 17];
        let pieces = pieces.iter().map(|&(length, segment)| Piece {
            bytes: &memory[..length],
            segment,
        });
        let lengths: Vec<usize> = pieces.clone().map(|piece| piece.bytes.len()).collect();
        let joined: Vec<_> = runs(pieces)
            .map(|run| {
                let singles: Vec<usize> = run.singles().map(|one| one.len()).collect();
                let whole = run.whole();
                assert_eq!(singles.len() as u64, whole.datagrams);
                assert_eq!(singles.iter().sum::<usize>() as u64, whole.bytes);
                if let Some(segment) = whole.segment {
                    let (last, others) = singles.split_last().expect("one");
                    assert!(others.iter().all(|one| *one == usize::from(segment)));
                    assert!((1..=usize::from(segment)).contains(last));
                }
                assert!(whole.datagrams <= MOST as u64 && whole.bytes <= MOST_BYTES as u64);
                (singles.len(), whole.segment)
            })
            .collect();
        let datagrams = joined.iter().map(|(datagrams, _)| datagrams).sum::<usize>();
        assert!(datagrams >= lengths.len());
        joined
    }

    fn singles(lengths: &[usize]) -> Vec<(usize, Option<u16>)> {
        let pieces: Vec<_> = lengths.iter().map(|&length| (length, length)).collect();
        joined(&pieces)
    }

    #[test]
    fn datagrams_of_one_length_make_a_run_and_a_shorter_one_ends_it() {
        assert_eq!(singles(&[]), []);
        assert_eq!(singles(&[100]), [(1, None)]);
        assert_eq!(singles(&[100, 100, 100]), [(3, Some(100))]);
        assert_eq!(singles(&[100, 100, 40]), [(3, Some(100))]);
        assert_eq!(
            singles(&[100, 40, 40, 100]),
            [(2, Some(100)), (1, None), (1, None)]
        );
        assert_eq!(singles(&[40, 100, 100]), [(1, None), (2, Some(100))]);
    }

    #[test]
    fn nothing_at_all_is_a_datagram_and_in_no_run() {
        assert_eq!(singles(&[0, 0]), [(1, None), (1, None)]);
        assert_eq!(singles(&[100, 0, 100]), [(1, None), (1, None), (1, None)]);
    }

    #[test]
    fn what_came_in_runs_is_joined_too() {
        assert_eq!(joined(&[(1_000, 100), (1_000, 100)]), [(20, Some(100))]);
        assert_eq!(
            joined(&[(1_050, 100), (1_000, 100)]),
            [(11, Some(100)), (10, Some(100))]
        );
        assert_eq!(
            joined(&[(1_000, 100), (1_000, 50)]),
            [(10, Some(100)), (20, Some(50))]
        );
        assert_eq!(
            joined(&[(1_000, 100), (50, 50), (50, 50)])[0],
            (11, Some(100))
        );
    }

    #[test]
    fn no_run_is_longer_than_the_kernel_takes() {
        assert_eq!(singles(&[10; 32]), [(32, Some(10))]);
        assert_eq!(joined(&[(1_000, 10)]), [(64, Some(10)), (36, Some(10))]);
        assert_eq!(joined(&[(650, 10)]), [(64, Some(10)), (1, None)]);
        assert_eq!(
            singles(&[30_000; 5]),
            [(2, Some(30_000)), (2, Some(30_000)), (1, None)]
        );
        assert_eq!(
            joined(&[(640, 10), (640, 10)]),
            [(64, Some(10)), (64, Some(10))]
        );
        assert_eq!(singles(&[65_507, 65_507]), [(1, None), (1, None)]);
    }
}
