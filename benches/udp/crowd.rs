//! The load: members and clients in one thread, which takes orders.
//!
//! One thread does both so that nothing is spent on switching between them, and in a phase it
//! never sleeps: a proxy is not charged for waking it, as it would not be by clients on other
//! hosts. Between phases members go on answering, checks among others.

use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::flows::{Counts, Flows, GIVEN_UP};
use super::members::{self, MEMBERS, Members};
use crate::meter::{Charge, Meter};
use crate::support::Result;

/// The proxy's core.
pub(crate) const PROXY_CORE: u32 = 0;
/// How long a phase runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// How often bursts are looked at that may have waited too long.
const LOOK: Duration = Duration::from_millis(10);
/// How long the thread sleeps between orders when no datagram comes.
const NAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
const NO_NAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// Flows that are opened at once: as many first datagrams fit into any listener's buffer.
const OPENED_AT_ONCE: usize = 32;
/// Echoes of a flow when it is opened: with the second it has answered an answer.
const ECHOES_TO_OPEN: usize = 2;
/// How long flows may take to open.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// How long a finished order may take at most, beside what it asks for.
const ORDER_LIMIT: Duration = Duration::from_secs(60);
/// How long what was given up may still come back after a phase.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// Events taken at once.
const EVENTS: usize = 256;

/// What the load is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Forget all flows; those to come go through the proxy at this address.
    Meet(SocketAddr),
    /// Have so many flows, each of which has been answered.
    Open(usize),
    /// Have as many flows as it needs, run a phase, and report.
    Run(Phase),
}

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    /// Flows that send.
    pub(crate) flows: usize,
    /// Datagrams of a burst.
    pub(crate) window: usize,
    /// Bytes of a datagram.
    pub(crate) size: usize,
    /// How long it is measured.
    pub(crate) span: Duration,
    /// The process id of the proxy.
    pub(crate) proxy: u32,
}

/// What came of a phase.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Datagrams.
    pub(crate) counts: Counts,
    /// Bursts given up.
    pub(crate) given_up: u64,
    /// Seconds.
    pub(crate) seconds: f64,
    /// Seconds that the proxy's core was busy meanwhile.
    pub(crate) busy: f64,
    /// Seconds that the proxy's process had of it.
    pub(crate) own: f64,
    /// Datagrams that found a receive buffer full, anywhere on this host.
    pub(crate) overflowed: u64,
    /// Datagrams that each member got.
    pub(crate) members: [u64; MEMBERS],
}

/// The thread, seen from outside.
pub(crate) struct Crowd {
    /// Where the members are.
    pub(crate) members: Vec<SocketAddr>,
    orders: Sender<Order>,
    done: Receiver<std::result::Result<Option<Report>, String>>,
    _thread: JoinHandle<()>,
}

impl Crowd {
    /// Starts it, on the cores that this thread may use.
    pub(crate) fn start() -> Result<Crowd> {
        let sockets = members::bind()?;
        let addresses = sockets.iter().map(UdpSocket::local_addr);
        let addresses = addresses.collect::<std::result::Result<_, _>>()?;
        let (orders, taken) = channel();
        let (tell, done) = channel();
        let thread = std::thread::spawn(move || {
            let ended = Inside::new(Members::new(sockets)).and_then(|mut inside| {
                loop {
                    match taken.try_recv() {
                        Ok(order) => {
                            let outcome = inside.obey(order).map_err(|e| e.to_string());
                            if tell.send(outcome).is_err() {
                                return Ok(());
                            }
                        }
                        Err(TryRecvError::Empty) => inside.turn(NAP)?,
                        Err(TryRecvError::Disconnected) => return Ok(()),
                    }
                }
            });
            if let Err(e) = ended {
                eprintln!("the load ended: {e}");
            }
        });
        Ok(Crowd {
            members: addresses,
            orders,
            done,
            _thread: thread,
        })
    }

    /// Gives an order and waits until it is carried out.
    pub(crate) fn order(&self, order: Order) -> Result<Option<Report>> {
        let span = match order {
            Order::Run(phase) => phase.span,
            Order::Meet(_) | Order::Open(_) => Duration::ZERO,
        };
        self.orders
            .send(order)
            .map_err(|_| "the load takes no orders any longer")?;
        let outcome = self.done.recv_timeout(ORDER_LIMIT + span);
        Ok(outcome.map_err(|e| format!("the load was ordered {order:?}: {e}"))??)
    }

    /// Runs a phase.
    pub(crate) fn run(&self, phase: Phase) -> Result<Report> {
        let report = self.order(Order::Run(phase))?;
        report.ok_or_else(|| "a phase without a report".into())
    }
}

/// The thread, seen from inside.
struct Inside {
    epoll: OwnedFd,
    meter: Rc<Meter>,
    members: Members,
    flows: Option<Flows>,
    given_up: u64,
    look: Instant,
}

impl Inside {
    fn new(members: Members) -> Result<Inside> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (n, socket) in members.sockets().iter().enumerate() {
            let data = EventData::new_u64(n as u64);
            epoll::add(&epoll, socket, data, EventFlags::IN)?;
        }
        Ok(Inside {
            epoll,
            meter: Rc::new(Meter::new(Charge::Core, PROXY_CORE)?),
            members,
            flows: None,
            given_up: 0,
            look: Instant::now(),
        })
    }

    fn obey(&mut self, order: Order) -> Result<Option<Report>> {
        match order {
            Order::Meet(door) => {
                self.flows = Some(Flows::new(door));
                Ok(None)
            }
            Order::Open(flows) => self.open(flows).map(|()| None),
            Order::Run(phase) => {
                self.open(phase.flows)?;
                self.run(phase).map(Some)
            }
        }
    }

    /// Moves what there is to move.
    fn turn(&mut self, nap: Timespec) -> Result<()> {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let ready = match epoll::wait(&self.epoll, &mut events, Some(&nap)) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        for event in ready {
            let n = usize::try_from(event.data.u64())?;
            match &mut self.flows {
                _ if n < MEMBERS => self.members.serve(n)?,
                Some(flows) => flows.serve(n - MEMBERS)?,
                None => {}
            }
        }
        let now = Instant::now();
        if now.saturating_duration_since(self.look) > LOOK {
            self.look = now;
            if let Some(flows) = &mut self.flows {
                self.given_up += flows.give_up(now) as u64;
            }
        }
        Ok(())
    }

    fn turns(&mut self, until: Instant) -> Result<()> {
        while Instant::now() < until {
            self.turn(NO_NAP)?;
        }
        Ok(())
    }

    /// Turns until all that was sent is back or given up.
    fn settle(&mut self) -> Result<()> {
        while !self.flows()?.quiet() {
            self.turn(NO_NAP)?;
        }
        Ok(())
    }

    /// Turns until nothing has come back for a while: what was given up may stand in a queue.
    fn stragglers(&mut self) -> Result<()> {
        let end = Instant::now() + STRAGGLERS;
        let mut returned = None;
        while returned != Some(self.flows()?.counts.returned) && Instant::now() < end {
            returned = Some(self.flows()?.counts.returned);
            self.turns(Instant::now() + GIVEN_UP)?;
        }
        Ok(())
    }

    fn flows(&mut self) -> Result<&mut Flows> {
        self.flows.as_mut().ok_or_else(|| "no proxy is met".into())
    }

    fn open(&mut self, wanted: usize) -> Result<()> {
        let deadline = Instant::now() + OPEN_LIMIT;
        loop {
            let from = self.flows()?.len();
            let to = wanted.min(from + OPENED_AT_ONCE);
            if from >= wanted {
                return Ok(());
            }
            for n in from..to {
                let flows = self.flows.as_mut().ok_or("no proxy is met")?;
                let data = EventData::new_u64((n + MEMBERS) as u64);
                epoll::add(&self.epoll, flows.add()?, data, EventFlags::IN)?;
            }
            let mut echoes = 0;
            while echoes < ECHOES_TO_OPEN {
                if Instant::now() > deadline {
                    return Err(format!("flow {from}: no answer through the proxy").into());
                }
                let given_up = self.given_up;
                let flows = self.flows()?;
                flows.begin(from, to, 1, 64);
                flows.stop();
                self.settle()?;
                // Once more for all of them when one was not answered.
                echoes = if self.given_up == given_up {
                    echoes + 1
                } else {
                    0
                };
            }
        }
    }

    fn run(&mut self, phase: Phase) -> Result<Report> {
        self.flows()?
            .begin(0, phase.flows, phase.window, phase.size);
        self.turns(Instant::now() + WARM_UP)?;
        let (given_up, full) = (self.given_up, overflowed()?);
        let members = self.members.received;
        self.flows()?.measure();
        let own = self.meter.own(&[phase.proxy])?;
        let begin = Instant::now();
        let meter = Rc::clone(&self.meter);
        let ((), busy) = meter.busy(|| self.turns(begin + phase.span))?;
        let seconds = begin.elapsed().as_secs_f64();
        let own = self.meter.own(&[phase.proxy])? - own;
        let flows = self.flows()?;
        let sent_and_returned = (flows.counts.sent, flows.counts.returned);
        flows.stop();
        self.settle()?;
        self.stragglers()?;
        let mut counts = std::mem::take(&mut self.flows()?.counts);
        (counts.sent, counts.returned) = sent_and_returned;
        let mut each = self.members.received;
        for (now, before) in each.iter_mut().zip(members) {
            *now -= before;
        }
        Ok(Report {
            counts,
            given_up: self.given_up - given_up,
            seconds,
            busy,
            own,
            overflowed: overflowed()? - full,
            members: each,
        })
    }
}

/// Datagrams that this host had no room for in a receive buffer, since boot.
fn overflowed() -> Result<u64> {
    let table = std::fs::read_to_string("/proc/net/snmp")?;
    let mut udp = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (udp.next().unwrap_or(""), udp.next().unwrap_or(""));
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both
        .find(|(name, _)| *name == "RcvbufErrors")
        .ok_or("no RcvbufErrors in /proc/net/snmp")?;
    Ok(value.parse()?)
}
