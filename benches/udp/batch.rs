//! Datagrams by the batch: many received, or sent, in one system call.
//!
//! Plain datagrams, each by itself: what real clients send reaches a proxy neither as one piece
//! (`UDP_SEGMENT`) nor is it put together on the way (`UDP_GRO`), so nothing here does either.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

/// Most datagrams of one batch.
pub(crate) const BATCH: usize = 64;
/// Longest datagram: an Ethernet frame's.
pub(crate) const LONGEST: usize = 1_500;

/// Room for a batch, used again and again.
pub(crate) struct Batch {
    /// Apart from those to send: `sendmmsg` leaves its own addresses in them, into which the next
    /// `recvmmsg` would write.
    received: MultiHeaders<SockaddrIn>,
    sent: MultiHeaders<SockaddrIn>,
    buffers: Vec<[u8; LONGEST]>,
    lengths: [usize; BATCH],
    peers: [Option<SockaddrIn>; BATCH],
}

impl Batch {
    /// An empty one.
    pub(crate) fn new() -> Batch {
        Batch {
            received: MultiHeaders::preallocate(BATCH, None),
            sent: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; LONGEST]; BATCH],
            lengths: [0; BATCH],
            peers: [None; BATCH],
        }
    }

    /// Receives what is there, at most a batch; none when nothing is.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut places: [[IoSliceMut<'_>; 1]; BATCH] = {
            let mut buffers = self.buffers.iter_mut();
            std::array::from_fn(|_| {
                let buffer = buffers.next().expect("a buffer for each of a batch");
                [IoSliceMut::new(buffer)]
            })
        };
        let received = recvmmsg(
            socket.as_raw_fd(),
            &mut self.received,
            places.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        match received {
            Ok(datagrams) => {
                let mut n = 0;
                for datagram in datagrams {
                    self.lengths[n] = datagram.bytes;
                    self.peers[n] = datagram.address;
                    n += 1;
                }
                Ok(n)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// The datagram at this place.
    pub(crate) fn datagram(&self, place: usize) -> &[u8] {
        &self.buffers[place][..self.lengths[place]]
    }

    /// The datagram at this place, to be made `length` long and written.
    pub(crate) fn write(&mut self, place: usize, length: usize) -> &mut [u8] {
        self.lengths[place] = length;
        &mut self.buffers[place][..length]
    }

    /// Where the datagram at this place came from.
    pub(crate) fn peer(&self, place: usize) -> Option<SockaddrIn> {
        self.peers[place]
    }

    /// Sends the first `n` back to where they came from; how many the kernel took.
    pub(crate) fn answer(&mut self, socket: &UdpSocket, n: usize) -> usize {
        self.send_to_peers(socket, n)
    }

    /// Sends the first `n` to where the socket is connected; how many the kernel took.
    pub(crate) fn send(&mut self, socket: &UdpSocket, n: usize) -> usize {
        self.peers[..n].fill(None);
        self.send_to_peers(socket, n)
    }

    fn send_to_peers(&mut self, socket: &UdpSocket, n: usize) -> usize {
        let empty: &[u8] = &[];
        let pieces: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|place| {
            let piece = match self.buffers.get(place) {
                Some(buffer) if place < n => &buffer[..self.lengths[place]],
                _ => empty,
            };
            [IoSlice::new(piece)]
        });
        let (mut next, mut taken) = (0, 0);
        while next < n {
            let sent = sendmmsg(
                socket.as_raw_fd(),
                &mut self.sent,
                pieces[next..n].iter(),
                &self.peers[next..n],
                [],
                MsgFlags::MSG_DONTWAIT,
            );
            // An error is that of the first datagram, which is lost; the others have their turn.
            let now = sent.map_or(0, |results| results.count());
            taken += now;
            next += now.max(1);
        }
        taken
    }
}
