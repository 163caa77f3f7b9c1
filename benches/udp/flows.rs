//! The clients: flows, each with an address, a port and a window of datagrams of its own.
//!
//! A flow sends its window in one burst, waits until all of it is back, and sends the next one.
//! What has not come back in [`GIVEN_UP`] is not waited for any longer, so that a lost datagram
//! never stops a flow. Each datagram says which flow, burst and place it belongs to: one that comes
//! back to another flow, twice, or changed in length is an error of the proxy.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::batch::{BATCH, Batch};
use crate::support::Result;

/// How long a burst is waited for. Several times what the slowest proxy takes for the most flows.
pub(crate) const GIVEN_UP: Duration = Duration::from_millis(250);
/// Most echo times that are kept of one phase.
const MOST_TIMES: usize = 1 << 22;
/// The first byte of a datagram: nothing that STUN begins with.
const FIRST: u8 = b'T';
/// First byte, place, flow and burst.
const HEADER: usize = 10;

/// What was counted since the last [`Flows::measure`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Datagrams that came back, whenever they were sent.
    pub(crate) returned: u64,
    /// Datagrams that came back of those sent since.
    pub(crate) answered: u64,
    /// Of the returned, those that were not waited for any longer.
    pub(crate) late: u64,
    /// From a burst's first datagram to its last answer, µs.
    pub(crate) times: Vec<u32>,
}

/// Flows through one proxy.
pub(crate) struct Flows {
    door: SocketAddr,
    flows: Vec<Flow>,
    active: usize,
    window: usize,
    size: usize,
    /// What was counted.
    pub(crate) counts: Counts,
    batch: Batch,
}

struct Flow {
    socket: UdpSocket,
    /// The number of its latest burst.
    burst: u32,
    /// Bursts from this one on are measured.
    measured: u32,
    /// The places of the burst that are not back yet.
    missing: u64,
    /// When the burst was sent.
    since: Instant,
}

impl Flows {
    /// None yet, for a proxy that listens at `door`.
    pub(crate) fn new(door: SocketAddr) -> Flows {
        Flows {
            door,
            flows: Vec::new(),
            active: 0,
            window: 1,
            size: 64,
            counts: Counts::default(),
            batch: Batch::new(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// One more, silent so far; its socket. Each has an address of its own, so that a proxy
    /// spreads them however it likes.
    pub(crate) fn add(&mut self) -> Result<&UdpSocket> {
        let n = u32::try_from(self.flows.len() + 1)?;
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + n);
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect(self.door)?;
        socket.set_nonblocking(true)?;
        self.flows.push(Flow {
            socket,
            burst: 0,
            measured: 0,
            missing: 0,
            since: Instant::now(),
        });
        Ok(&self.flows[self.flows.len() - 1].socket)
    }

    /// From now on bursts are of so many datagrams of this size, and the flows in `from..to`
    /// begin.
    pub(crate) fn begin(&mut self, from: usize, to: usize, window: usize, size: usize) {
        assert!((1..=BATCH).contains(&window), "a burst is one batch");
        (self.window, self.size, self.active) = (window, size, to);
        for flow in from..to {
            self.send(flow);
        }
    }

    /// No flow begins another burst.
    pub(crate) fn stop(&mut self) {
        self.active = 0;
    }

    /// Whether all that is waited for is back.
    pub(crate) fn quiet(&self) -> bool {
        self.flows.iter().all(|flow| flow.missing == 0)
    }

    /// What is counted begins here: bursts sent from now on are measured.
    pub(crate) fn measure(&mut self) {
        self.counts = Counts::default();
        for flow in &mut self.flows {
            flow.measured = flow.burst + 1;
        }
    }

    /// A flow has something: it takes what is there.
    pub(crate) fn serve(&mut self, number: usize) -> Result<()> {
        let flow = &mut self.flows[number];
        // A refusal comes from a proxy that is gone: worth an error.
        let n = if self.window == 1 {
            match flow.socket.recv(self.batch.write(0, super::batch::LONGEST)) {
                Ok(length) => {
                    self.batch.write(0, length);
                    1
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => 0,
                Err(e) => return Err(format!("flow {number}: {e}").into()),
            }
        } else {
            self.batch
                .receive(&flow.socket)
                .map_err(|e| format!("flow {number}: {e}"))?
        };
        for place in 0..n {
            let datagram = self.batch.datagram(place);
            let (whose, burst, bit) = read(datagram)
                .ok_or_else(|| format!("flow {number}: {} bytes of no flow", datagram.len()))?;
            if whose as usize != number {
                return Err(format!("flow {number} got what flow {whose} had sent").into());
            }
            self.counts.returned += 1;
            self.counts.answered += u64::from(burst >= flow.measured);
            if burst != flow.burst {
                self.counts.late += 1;
                continue;
            }
            if datagram.len() != self.size {
                return Err(format!("a datagram came back with {} bytes", datagram.len()).into());
            }
            if flow.missing & bit == 0 {
                return Err(format!("flow {number}: a datagram came back twice").into());
            }
            flow.missing &= !bit;
        }
        if n > 0 && flow.missing == 0 {
            let micros = flow.since.elapsed().as_micros();
            if self.counts.times.len() < MOST_TIMES && flow.burst >= flow.measured {
                self.counts
                    .times
                    .push(u32::try_from(micros).unwrap_or(u32::MAX));
            }
            if number < self.active {
                self.send(number);
            }
        }
        Ok(())
    }

    /// Bursts that have waited too long are given up, and flows go on; how many were.
    pub(crate) fn give_up(&mut self, now: Instant) -> usize {
        let mut given_up = 0;
        for number in 0..self.flows.len() {
            let flow = &mut self.flows[number];
            if flow.missing != 0 && now.saturating_duration_since(flow.since) > GIVEN_UP {
                given_up += 1;
                flow.missing = 0;
                // Its stragglers are late, not twice there.
                flow.burst += 1;
                if number < self.active {
                    self.send(number);
                }
            }
        }
        given_up
    }

    fn send(&mut self, number: usize) {
        let flow = &mut self.flows[number];
        flow.burst += 1;
        flow.missing = u64::MAX >> (64 - self.window);
        flow.since = Instant::now();
        for place in 0..self.window {
            let datagram = self.batch.write(place, self.size);
            datagram[0] = FIRST;
            datagram[1] = u8::try_from(place).expect("a burst is one batch");
            datagram[2..6].copy_from_slice(&(number as u32).to_be_bytes());
            datagram[6..HEADER].copy_from_slice(&flow.burst.to_be_bytes());
        }
        // What the kernel does not take is lost, and missed like all that is.
        if self.window == 1 {
            if let Err(e) = flow.socket.send(self.batch.datagram(0)) {
                eprintln!("flow {number}: {e}");
            }
        } else {
            self.batch.send(&flow.socket, self.window);
        }
        self.counts.sent += self.window as u64;
    }
}

/// The flow, the burst and the place, as a bit, of one of our datagrams.
fn read(datagram: &[u8]) -> Option<(u32, u32, u64)> {
    let header: &[u8; HEADER] = datagram.first_chunk()?;
    let &[FIRST, place, f0, f1, f2, f3, b0, b1, b2, b3] = header else {
        return None;
    };
    let bit = 1u64.checked_shl(u32::from(place))?;
    Some((
        u32::from_be_bytes([f0, f1, f2, f3]),
        u32::from_be_bytes([b0, b1, b2, b3]),
        bit,
    ))
}
