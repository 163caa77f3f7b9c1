//! Services over UDP: flows, and the path of their datagrams.
//!
//! ```text
//! listener ─► batch ─► flow of this client? ─► its member's socket ─► member
//!                       none: pick a member, room in the table?
//! member ─► its flow's socket ─► batch ─► listener ─► client
//! ```
//!
//! A client's address and port, at one listener, make a *flow*; port 0 makes none, as nobody can be
//! answered there. It has one member, and a connected
//! socket of its own towards it: the member sees a port for each flow, the kernel looks its route
//! up once, takes nothing from anybody else, and tells of ICMP errors. Listeners are unconnected;
//! each is read in batches, and what follows each other in one flow at one length goes out in one
//! piece (`UDP_SEGMENT`) and comes in so (`UDP_GRO`).
//!
//! One task a worker moves all of them. Its sockets are in one epoll set of their own, level
//! triggered, whose events name the flow; a turn is bounded, so that neither a flood nor a single
//! flow starves the worker's sessions.
//!
//! What a flow is and when it ends is decided as for a session: it picks its member from the
//! snapshot, holds its place by an [`Attempt`](crate::dispatch::Attempt) and stands in the worker's
//! registry, which ends it with its member, when its users move, and when it is idle. To end a
//! flow is to forget it: the client's next datagram begins another one, on a member that lives. Where
//! thousands are to end at once, they do so a few at a time, each at its client's next datagram at
//! the latest.
//!
//! The table is bounded ([`table`]). A sender of forged addresses takes no proven flow that moves
//! from anybody, and where room, descriptors, source ports or limited places at members run short,
//! forged flows give way to the next newcomer; so do others' flows that are not proven yet. Until
//! then they hold what sessions over TCP share with them: places at members, and descriptors.

mod adopt;
mod batch;
mod carry;
mod firsts;
mod flow;
mod handover;
mod runs;
mod search;
mod sockets;
mod table;

pub(super) use flow::Ending;
pub(super) use handover::inode;
pub(super) use search::Refused;
pub(super) use sockets::{listener, prepare};

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::{spawn_local, yield_now};

use super::front::Front;
use super::listen::Listener;
use super::registry::Told;
use super::worker::Worker;
use super::{FlowTaken, HandFlows};
use crate::topology::ServiceId;
use batch::{Batch, SLOTS};
use carry::Heard;
use flow::{Dropped, Flows, fit};
use runs::{Piece, runs};
use table::{FlowId, Origin};

/// Sockets with news that are asked for at once.
const EVENTS: usize = 32;
/// What a turn may cost before the worker's sessions have theirs, whatever is left: about a
/// millisecond, reckoned in microseconds by the figures below. They need not be exact: a turn that
/// is some times longer or shorter harms nobody.
const TURN: usize = 1_000;
/// A read, and what comes with it.
const READ: usize = 1;
/// A run of datagrams, or a single one, sent.
const SEND: usize = 2;
/// A new flow: a member is picked, a socket made, and often another one closed.
const BEGIN: usize = 15;
/// Flows that end in one go once others may have waited: half of a turn, where each was to go to
/// another member.
const ENDS: usize = TURN / 2 / BEGIN;
/// Bytes copied in a microsecond, in and out.
const COPY: usize = 1 << 11;
/// Slots that a read of a listener has at least. A read that leaves one empty has emptied the
/// socket, so nobody needs to ask whether there is more.
const FEWEST_SLOTS: usize = 4;

/// What a worker does for services over UDP; nothing, until it has one.
#[derive(Debug)]
pub(super) struct Udp {
    flows: Option<Rc<RefCell<Flows>>>,
    /// How many flows there may be.
    most: usize,
}

/// What another topology changes.
#[derive(Debug)]
pub(super) struct Change {
    /// Listeners to close.
    pub(super) close: Vec<SocketAddr>,
    /// Those that stand in front of another service from now on.
    pub(super) pass: Vec<(SocketAddr, ServiceId)>,
    /// How many flows there may be.
    pub(super) most: usize,
}

impl Udp {
    /// Has no listeners yet; `most` flows may come through those to come.
    pub(super) fn new(most: usize) -> Udp {
        Udp { flows: None, most }
    }

    /// Has flows come through these listeners, too.
    pub(super) fn add(&mut self, worker: &Rc<Worker>, listeners: Vec<(Rc<Front>, Listener)>) {
        if listeners.is_empty() {
            return;
        }
        if self.flows.is_none() {
            match begin(worker, self.most) {
                Ok(flows) => self.flows = Some(flows),
                Err(error) => {
                    tracing::error!(%error, "cannot poll the listeners of services over UDP");
                }
            }
        }
        let Some(flows) = &self.flows else { return };
        let mut flows = flows.borrow_mut();
        for (front, listener) in listeners {
            flows.listen(front, listener.address, listener.socket.into());
        }
    }

    /// Has all flows and listeners go on under the topology that came into force just before.
    pub(super) fn adopt(&mut self, worker: &Worker, change: &Change) {
        self.most = change.most;
        if let Some(flows) = &self.flows {
            flows.borrow_mut().adopt(worker, change);
        }
    }

    /// Ends the flows that the registry has doomed. To be called after all that may have.
    pub(super) fn end_doomed(&self, worker: &Worker) {
        if let Some(flows) = &self.flows {
            flows.borrow_mut().end_doomed(worker);
        }
    }

    /// The listeners once more, by descriptors of their own.
    pub(super) fn shared(&self) -> Vec<io::Result<OwnedFd>> {
        let Some(flows) = &self.flows else {
            return Vec::new();
        };
        let flows = flows.borrow();
        let sockets = flows.listeners.iter();
        let sockets = sockets.filter_map(|(_, listener)| listener.socket.as_ref());
        sockets.map(OwnedFd::try_clone).collect()
    }

    /// Carries out an order about flows on their way to another process.
    pub(super) fn hand_over(&self, worker: &Worker, order: HandFlows) {
        let flows = self.flows.as_ref();
        match order {
            HandFlows::Pause(tell) => {
                answer(tell, flows.map_or(0, |flows| flows.borrow_mut().pause()));
            }
            HandFlows::Give { from, most, tell } => {
                let given = flows.map(|flows| flows.borrow().give(worker, from, most));
                answer(tell, given.unwrap_or_default());
            }
            HandFlows::Resume => flows.into_iter().for_each(|f| f.borrow_mut().resume()),
            HandFlows::Leave => flows.into_iter().for_each(|f| f.borrow_mut().leave(worker)),
        }
    }

    /// Goes on with flows of another process, before anything is read.
    pub(super) fn take(&self, worker: &Worker, taken: Vec<FlowTaken>) {
        if let Some(flows) = &self.flows {
            flows.borrow_mut().take(worker, taken);
        }
    }

    /// No new flows from now on. The listeners stay to the worker's end, even when it has no flows
    /// left: the kernel spreads clients over the workers' sockets by how many there are, and one
    /// that is missing would send other workers' clients to where nobody knows their flows.
    pub(super) fn close(&self) {
        if let Some(flows) = &self.flows {
            flows.borrow_mut().closing = true;
        }
    }

    /// Ends all flows, and listens no more.
    pub(super) fn end_all(&self, worker: &Worker) {
        let Some(flows) = &self.flows else { return };
        let mut flows = flows.borrow_mut();
        flows.closing = true;
        let all: Vec<FlowId> = flows.table.iter().map(|(id, _)| id).collect();
        for id in all {
            flows.end(worker, id, Ending::Told(Told::Stopped));
        }
    }
}

fn answer<T>(tell: oneshot::Sender<T>, with: T) {
    if tell.send(with).is_err() {
        tracing::debug!("nobody waits for an answer about flows any more");
    }
}

fn begin(worker: &Rc<Worker>, most: usize) -> io::Result<Rc<RefCell<Flows>>> {
    let epoll = Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
    let ready = readiness(epoll.clone())?;
    let flows = Rc::new(RefCell::new(Flows::new(epoll, most)));
    spawn_local(turns(worker.clone(), flows.clone(), ready));
    spawn_local(ends(worker.clone(), flows.clone()));
    Ok(flows)
}

/// Has the runtime tell when the epoll set has events.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for descriptors that may be closed meanwhile; this one is \
              owned by what is registered"
)]
fn readiness(epoll: Rc<OwnedFd>) -> io::Result<AsyncFd<Rc<OwnedFd>>> {
    AsyncFd::with_interest(epoll, Interest::READABLE)
}

/// Takes turns, for as long as the worker lives.
async fn turns(worker: Rc<Worker>, flows: Rc<RefCell<Flows>>, ready: AsyncFd<Rc<OwnedFd>>) {
    let mut desk = Desk::new();
    loop {
        let mut guard = match ready.readable().await {
            Ok(guard) => guard,
            Err(error) => {
                tracing::error!(%error, "cannot wait for datagrams any more");
                return;
            }
        };
        if flows.borrow_mut().turn(&worker, &mut desk) {
            drop(guard);
            yield_now().await;
        } else {
            guard.clear_ready();
        }
    }
}

/// Ends what is left of many flows that were doomed together, a few at a time: datagrams and sessions
/// have their turns between.
async fn ends(worker: Rc<Worker>, flows: Rc<RefCell<Flows>>) {
    let left_over = flows.borrow().left_over.clone();
    loop {
        left_over.notified().await;
        while flows.borrow_mut().end_some(&worker, ENDS) {
            yield_now().await;
        }
    }
}

/// What a turn works with.
struct Desk {
    batch: Batch,
    events: Vec<epoll::Event>,
    /// The events before this one have been seen to.
    next: usize,
}

impl Desk {
    fn new() -> Desk {
        Desk {
            batch: Batch::new(),
            events: Vec::with_capacity(EVENTS),
            next: 0,
        }
    }
}

impl Flows {
    /// Moves what there is to move, within bounds; says whether there may be more.
    ///
    /// The runtime is told of news once, so false must mean that every socket was found empty, or
    /// will have news. What a turn has no time for is the first thing of the next one: else a
    /// flood at one socket would starve those behind it.
    fn turn(&mut self, worker: &Worker, desk: &mut Desk) -> bool {
        if self.paused.is_some() {
            return false;
        }
        let mut cost = 0;
        let mut more = true;
        loop {
            if desk.next == desk.events.len() {
                if !more {
                    return false;
                }
                desk.next = 0;
                desk.events.clear();
                let at_once = Timespec::default();
                let spare = rustix::buffer::spare_capacity(&mut desk.events);
                match epoll::wait(&*self.epoll, spare, Some(&at_once)) {
                    Ok(0) => return false,
                    Ok(count) => more = count == EVENTS,
                    Err(Errno::INTR) => continue,
                    Err(errno) => {
                        tracing::error!(%errno, "cannot ask which sockets have datagrams");
                        return false;
                    }
                }
            }
            if cost >= TURN {
                return true;
            }
            let event = desk.events[desk.next];
            desk.next += 1;
            let (flags, number) = (event.flags, event.data.u64());
            let read = match u16::try_from(number) {
                Ok(at) => self.hear(worker, &mut desk.batch, at),
                Err(_) => {
                    let id = FlowId::from(number);
                    if flags.contains(epoll::EventFlags::ERR) && self.told(worker, id) {
                        // It may have more to tell, and may have gone to another member.
                        more = true;
                        cost += BEGIN;
                    }
                    self.answer(worker, &mut desk.batch, id)
                }
            };
            more |= read.more;
            cost += read.cost;
        }
    }

    /// Passes on what one read of a listener brings.
    fn hear(&mut self, worker: &Worker, batch: &mut Batch, at: u16) -> Read {
        let Some(listener) = self.listeners.get_mut(usize::from(at)) else {
            return Read::NOTHING;
        };
        let Some(socket) = &listener.socket else {
            return Read::NOTHING;
        };
        let read = batch.read_listener(socket, listener.address.is_ipv6(), listener.slots);
        let count = match read {
            Ok(got) => got.len(),
            Err(Errno::AGAIN) => return Read::NOTHING,
            Err(errno) => {
                tracing::debug!(%errno, "cannot read from a listener");
                return Read::NOTHING;
            }
        };
        let (slots, more) = fit(listener.slots, count, SLOTS);
        listener.slots = slots.max(FEWEST_SLOTS);
        let front = listener.front.clone();
        let got = batch.got();
        let mut done = [false; SLOTS];
        let mut cost = READ;
        for first in 0..count {
            if done[first] {
                continue;
            }
            let (client, local) = (got[first].from, got[first].local);
            let mut same = |&other: &usize| {
                let same = other == first
                    || !done[other] && got[other].from == client && got[other].local == local;
                done[other] |= same;
                same
            };
            let mut mine = [0; SLOTS];
            let mut all = 0;
            for other in (first..count).filter(|other| same(other)) {
                mine[all] = other;
                all += 1;
            }
            let pieces = mine[..all].iter().map(|&at| batch.piece(&got[at]));
            cost += copied(pieces.clone());
            let origin = Origin {
                listener: at,
                client,
                local,
            };
            let found = self.table.find(&origin);
            let id = match found {
                Some(id) if self.heard_client(worker, &front, id) => id,
                _ => {
                    cost += BEGIN;
                    match self.begin(worker, origin) {
                        Ok(id) => {
                            let piece = batch.piece(&got[first]);
                            self.keep_first(worker, id, &piece.bytes[..piece.segment]);
                            id
                        }
                        Err(dropped) => {
                            let datagrams = pieces.map(|piece| piece.datagrams() as u64).sum();
                            let counters = &front.counters().udp;
                            match dropped {
                                Dropped::NoMember => &counters.dropped_no_member,
                                Dropped::TableFull => &counters.dropped_table_full,
                                Dropped::OwnFault => &counters.dropped_unsent,
                                Dropped::NoPort => &counters.dropped_no_port,
                            }
                            .add(datagrams);
                            continue;
                        }
                    }
                }
            };
            for run in runs(pieces) {
                cost += SEND;
                self.pass_in(worker, &front, id, &run);
            }
        }
        Read { cost, more }
    }

    /// Takes errors from a flow's socket; says whether there were any.
    fn told(&mut self, worker: &Worker, id: FlowId) -> bool {
        match self.front_of(id) {
            Some(front) => self.hear_errors(worker, &front, id) != Heard::Nothing,
            None => false,
        }
    }

    /// Passes on what one read of a flow's socket brings.
    fn answer(&mut self, worker: &Worker, batch: &mut Batch, id: FlowId) -> Read {
        let Some(&origin) = self.table.origin(id) else {
            return Read::NOTHING;
        };
        let Some(front) = self.front_of(id) else {
            // Its listener is closed: nobody can be answered.
            self.end(worker, id, Ending::Told(Told::Removed));
            return Read::NOTHING;
        };
        let Some(flow) = self.table.get_mut(id) else {
            return Read::NOTHING;
        };
        let slots = usize::from(flow.slots);
        let more = match batch.read_flow(&flow.socket, flow.reads_runs, slots) {
            Ok(got) => flow.fit(got.len()),
            Err(Errno::AGAIN) => return Read::NOTHING,
            Err(errno) => {
                // What it was is told by the socket's queue of errors.
                tracing::debug!(%errno, "cannot read from a flow's socket");
                return Read {
                    cost: READ,
                    more: true,
                };
            }
        };
        self.heard_member(worker, id);
        let pieces = batch.got().iter().map(|got| batch.piece(got));
        let mut cost = READ + copied(pieces.clone());
        for run in runs(pieces) {
            cost += SEND;
            self.pass_out(&front, id, &origin, &run);
        }
        Read { cost, more }
    }

    /// The front in force of a flow's service; none when its listener is closed.
    fn front_of(&self, id: FlowId) -> Option<Rc<Front>> {
        let origin = self.table.origin(id)?;
        let listener = self.listeners.get(usize::from(origin.listener))?;
        listener.socket.is_some().then(|| listener.front.clone())
    }
}

/// What a read brought.
#[derive(Clone, Copy, Debug)]
struct Read {
    /// What it cost to pass it on, in microseconds.
    cost: usize,
    /// Whether the socket may have more.
    more: bool,
}

impl Read {
    const NOTHING: Read = Read {
        cost: READ,
        more: false,
    };
}

/// What it costs to copy these, in microseconds.
fn copied<'a>(pieces: impl Iterator<Item = Piece<'a>>) -> usize {
    pieces.map(|piece| piece.bytes.len()).sum::<usize>() / COPY
}

#[cfg(test)]
mod tests;
