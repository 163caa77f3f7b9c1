//! The flows of a worker, from the first datagram to the end: what is done with one, not when.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;

use super::super::FromWorker;
use super::super::registry::{Doomed, Key, Owner, Tick};
use super::super::worker::{Front, TICK, Worker};
use super::batch::SLOTS;
use super::firsts::Firsts;
use super::runs::{Parcel, Run, takes_no_runs};
use super::search::{Refused, Search};
use super::sockets::{self, Undelivered};
use super::table::{FlowId, Origin, Room, Table};
use crate::dispatch::Attempt;
use crate::health::{Answer, connect_failure};
use crate::topology::TargetId;

/// A flow whose client has not sent again after an answer is idle after this at most, as for
/// Linux's `nf_conntrack_udp_timeout`: it may be one datagram under a forged address.
const UNPROVEN_IDLE: Tick = (Duration::from_secs(30).as_millis() / TICK.as_millis()) as Tick;
/// ICMP errors that are taken from a flow's socket at once. What a forger adds beyond them waits
/// for another turn, and beyond the socket's buffer for none.
const ERRORS: usize = 4;
/// How often a datagram is tried while errors of earlier ones come in its way: for each member that
/// a flow may be moved on to, and one more.
const TRIES: usize = 5;
/// Slots that a read of a flow's socket may have at most.
const MOST_SLOTS: usize = SLOTS / 2;
/// Flows whose members died and whose clients may yet send, for the count of those that moved.
const BEREFT: usize = 1 << 14;

/// The flows of one worker and its listeners.
#[derive(Debug)]
pub(super) struct Flows {
    pub(super) epoll: Rc<OwnedFd>,
    pub(super) listeners: Vec<Listening>,
    pub(super) table: Table<Flow>,
    firsts: Firsts,
    /// Whose member died, by where they came from; emptied when it is full.
    bereft: HashMap<(u16, SocketAddr), TargetId>,
    doomed: Vec<Doomed>,
    pub(super) closing: bool,
}

/// A listener of this worker.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) socket: OwnedFd,
    pub(super) front: Rc<Front>,
    pub(super) is_v6: bool,
    /// Slots for its next read.
    pub(super) slots: usize,
}

/// A client's datagrams to one service, and its member's answers.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) socket: OwnedFd,
    attempt: Attempt,
    key: Key,
    /// Slots for its next read.
    pub(super) slots: u8,
    /// Whether answers come in runs.
    pub(super) reads_runs: bool,
    /// Whether runs go to the member, and to the client.
    runs_in: bool,
    runs_out: bool,
    /// When its member was last blamed.
    blamed: Option<Tick>,
    /// Where its first datagram is kept.
    first: Option<usize>,
    /// How its member was found, once one has refused.
    search: Option<Box<Search>>,
}

/// Why a datagram went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    NoMember,
    TableFull,
    OwnFault,
}

/// Why a flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The registry says so, or the instance stops.
    Told,
    Idle,
    /// A new one takes its place.
    Evicted,
    /// No member takes it.
    Refused,
}

impl Flows {
    pub(super) fn new(epoll: Rc<OwnedFd>, listeners: Vec<Listening>, most: usize) -> Flows {
        Flows {
            epoll,
            listeners,
            table: Table::new(most),
            firsts: Firsts::new(),
            bereft: HashMap::new(),
            doomed: Vec::new(),
            closing: false,
        }
    }

    /// Begins a flow for whoever sent from there.
    pub(super) fn begin(&mut self, worker: &Worker, origin: Origin) -> Result<FlowId, Dropped> {
        if self.closing {
            return Err(Dropped::NoMember);
        }
        let now = worker.tick();
        let room = self.table.room(now);
        if room == Room::Full {
            return Err(Dropped::TableFull);
        }
        let front = self.listeners[usize::from(origin.listener)].front.clone();
        let counters = front.counters(worker);
        counters.accepted.add(1);
        let mut search = Search::new(worker, &front, origin.client.ip());
        let reached = search.reach(worker, &front).and_then(|(attempt, socket)| {
            if let Room::GiveUp(other) = room {
                self.end(worker, other, Ending::Evicted);
            }
            self.settle(worker, &front, origin, attempt, socket)
        });
        match reached {
            Ok(id) => {
                counters.established.add(1);
                Ok(id)
            }
            Err(refused) => {
                counters.ended.add(1);
                match refused {
                    Refused::NoMember => counters.refused_no_member.add(1),
                    Refused::Attempts => counters.refused_attempts.add(1),
                    Refused::OwnFault => counters.refused_own_fault.add(1),
                }
                Err(match refused {
                    Refused::OwnFault => Dropped::OwnFault,
                    Refused::NoMember | Refused::Attempts => Dropped::NoMember,
                })
            }
        }
    }

    /// Gives a flow that has a member its place.
    fn settle(
        &mut self,
        worker: &Worker,
        front: &Front,
        origin: Origin,
        attempt: Attempt,
        socket: OwnedFd,
    ) -> Result<FlowId, Refused> {
        let target = attempt.target();
        let flow = Flow {
            socket,
            attempt,
            key: 0,
            slots: 1,
            reads_runs: false,
            runs_in: true,
            runs_out: true,
            blamed: None,
            first: None,
            search: None,
        };
        let id = self.table.insert(origin, flow, worker.tick());
        self.stand(worker, front, id);
        if let Err(errno) = self.watch(id) {
            worker.own_fault(own_fault(errno));
            if let Some(flow) = self.forget(worker, front, id) {
                give_back(worker, flow.attempt);
            }
            return Err(Refused::OwnFault);
        }
        if !self.bereft.is_empty() {
            let before = self.bereft.remove(&(origin.listener, origin.client));
            if before.is_some_and(|before| before != target) {
                front.counters(worker).udp.moved.add(1);
            }
        }
        Ok(id)
    }

    /// Enters a flow with its member in the registry, and counts it there.
    fn stand(&mut self, worker: &Worker, front: &Front, id: FlowId) {
        let Some(flow) = self.table.get_mut(id) else {
            return;
        };
        let target = flow.attempt.target();
        flow.key = worker.registry().enter(
            front.service.pool,
            target,
            flow.attempt.address().ip(),
            front.idle_ticks.min(UNPROVEN_IDLE),
            worker.tick(),
            Owner::Flow(id.into()),
        );
        front.count_begun(worker, target.pool);
        worker.counters().member(target.member()).sessions.add(1);
    }

    /// Has events of a flow's socket told.
    fn watch(&self, id: FlowId) -> Result<(), Errno> {
        let Some(flow) = self.table.get(id) else {
            return Ok(());
        };
        let data = epoll::EventData::new_u64(id.into());
        epoll::add(&*self.epoll, &flow.socket, data, epoll::EventFlags::IN)
    }

    /// Forgets a flow: its next datagram begins another one.
    pub(super) fn end(&mut self, worker: &Worker, id: FlowId, why: Ending) {
        let Some(&origin) = self.table.origin(id) else {
            return;
        };
        let front = self.listeners[usize::from(origin.listener)].front.clone();
        let Some(flow) = self.forget(worker, &front, id) else {
            return;
        };
        let counters = front.counters(worker);
        counters.ended.add(1);
        match why {
            Ending::Told => counters.ended_by_us.add(1),
            Ending::Idle => counters.ended_idle.add(1),
            Ending::Evicted => counters.udp.evicted.add(1),
            Ending::Refused => counters.reset_by_member.add(1),
        }
        let target = flow.attempt.target();
        tracing::debug!(client = %origin.client, address = %flow.attempt.address(), ?why, "flow ended");
        if why == Ending::Told && worker.snapshot().is_down(target) {
            if self.bereft.len() >= BEREFT {
                self.bereft.clear();
            }
            self.bereft.insert((origin.listener, origin.client), target);
        }
        give_back(worker, flow.attempt);
        if self.closing && self.table.is_empty() {
            // Nobody is left who could be heard here.
            self.listeners.clear();
        }
    }

    /// Takes a flow out of the table and the registry.
    fn forget(&mut self, worker: &Worker, front: &Front, id: FlowId) -> Option<Flow> {
        let flow = self.table.remove(id)?;
        let target = worker.registry().leave(flow.key);
        front.count_over(worker, target.pool);
        Some(flow)
    }

    /// Ends the flows that the registry has doomed.
    pub(super) fn end_doomed(&mut self, worker: &Worker) {
        let mut doomed = std::mem::take(&mut self.doomed);
        worker.registry().take_doomed(&mut doomed);
        for doomed in doomed.drain(..) {
            let why = if doomed.idle {
                Ending::Idle
            } else {
                Ending::Told
            };
            self.end(worker, FlowId::from(doomed.flow), why);
        }
        self.doomed = doomed;
    }

    /// Notes that a flow's client sent again.
    pub(super) fn heard_client(&mut self, worker: &Worker, front: &Front, id: FlowId) {
        let now = worker.tick();
        let proven = self.table.from_client(id, now);
        if let Some(flow) = self.table.get(id) {
            worker.registry().moved(flow.key, now);
            if proven {
                worker.registry().set_idle(flow.key, front.idle_ticks);
            }
        }
    }

    /// Notes that a flow's member answered.
    pub(super) fn heard_member(&mut self, worker: &Worker, id: FlowId) {
        let now = worker.tick();
        self.table.from_member(id, now);
        if let Some(flow) = self.table.get_mut(id) {
            worker.registry().moved(flow.key, now);
            if flow.search.is_some() {
                // It has found its member.
                flow.search = None;
            }
        }
    }

    /// Sends a run of a flow's datagrams to its member, at once or, where that is not possible, one
    /// by one.
    pub(super) fn to_member(&mut self, worker: &Worker, front: &Front, id: FlowId, run: &Run<'_>) {
        let whole = run.whole();
        if whole.datagrams > 1 {
            if self.push(worker, front, id, &whole) {
                return;
            }
            if let Some(flow) = self.table.get_mut(id) {
                flow.runs_in = false;
            }
        }
        for datagram in run.singles() {
            self.push(worker, front, id, &Parcel::single(&datagram));
        }
    }

    /// Sends one parcel to a flow's member, and to the next where it refuses; false when it has to
    /// be taken apart.
    fn push(&mut self, worker: &Worker, front: &Front, id: FlowId, parcel: &Parcel<'_>) -> bool {
        let counters = front.counters(worker);
        for _ in 0..TRIES {
            let Some(flow) = self.table.get_mut(id) else {
                counters.udp.dropped_no_member.add(parcel.datagrams);
                return true;
            };
            if parcel.datagrams > 1 && !flow.runs_in {
                return false;
            }
            let errno = match parcel.send(&flow.socket) {
                Ok(()) => {
                    counters.udp.datagrams_in.add(parcel.datagrams);
                    counters.bytes_in.add(parcel.bytes);
                    return true;
                }
                Err(errno) => errno,
            };
            if is_full(errno) {
                break;
            }
            // An error of an earlier datagram is told here, and this one was not sent.
            // Where a flood of them has filled the socket's buffer, the refusal alone is told.
            if !self.hear_errors(worker, front, id) && errno != Errno::CONNREFUSED {
                if parcel.datagrams > 1 && takes_no_runs(errno) {
                    return false;
                }
                tracing::debug!(%errno, "a datagram was not sent to its member");
                break;
            }
        }
        counters.udp.dropped_unsent.add(parcel.datagrams);
        true
    }

    /// Keeps the first datagram of a flow that just began, as its member may yet refuse it.
    pub(super) fn keep_first(&mut self, id: FlowId, datagram: &[u8]) {
        if let Some(flow) = self.table.get_mut(id) {
            flow.first = Some(self.firsts.keep(id, datagram));
        }
    }

    /// Sends a run of answers to a flow's client.
    pub(super) fn to_client(
        &mut self,
        worker: &Worker,
        front: &Front,
        id: FlowId,
        origin: &Origin,
        run: &Run<'_>,
    ) {
        let counters = front.counters(worker);
        let Some(listener) = self.listeners.get(usize::from(origin.listener)) else {
            return;
        };
        let listener = &listener.socket;
        let send = |parcel: &Parcel<'_>, may_split: bool| {
            let (datagrams, bytes) = (parcel.datagrams, parcel.bytes);
            match parcel.send_to(listener, origin.client, origin.local) {
                Ok(()) => {
                    counters.udp.datagrams_out.add(datagrams);
                    counters.bytes_out.add(bytes);
                }
                Err(errno) if may_split && takes_no_runs(errno) => return false,
                Err(errno) => {
                    tracing::debug!(%errno, "a datagram was not sent to its client");
                    counters.udp.dropped_unsent.add(datagrams);
                }
            }
            true
        };
        let Some(flow) = self.table.get_mut(id) else {
            return;
        };
        let whole = run.whole();
        if whole.datagrams > 1 && flow.runs_out {
            if send(&whole, true) {
                return;
            }
            flow.runs_out = false;
        }
        for datagram in run.singles() {
            send(&Parcel::single(&datagram), false);
        }
    }

    /// Takes what a flow's socket tells of datagrams that did not arrive; says whether there were
    /// ICMP errors. They are evidence against the member; a flow that it never answered goes to
    /// another one at once.
    pub(super) fn hear_errors(&mut self, worker: &Worker, front: &Front, id: FlowId) -> bool {
        let Some(flow) = self.table.get_mut(id) else {
            return false;
        };
        let mut heard = 0;
        let mut answer = None;
        for _ in 0..ERRORS {
            match sockets::undelivered(&flow.socket) {
                Some(Undelivered::Icmp(errno)) => {
                    heard += 1;
                    answer = answer.or_else(|| verdict(errno));
                }
                Some(Undelivered::Local) => {}
                None => break,
            }
        }
        if heard == 0 {
            return false;
        }
        front.counters(worker).udp.icmp_errors.add(heard);
        if let Some(answer) = answer {
            let (target, now) = (flow.attempt.target(), worker.tick());
            if flow.blamed.replace(now) != Some(now) {
                match answer {
                    Answer::Bad(failure) => {
                        let member = worker.counters().member(target.member());
                        member.connect_failed.add(1);
                        worker.tell(FromWorker::ConnectFailed(target, failure));
                    }
                    Answer::OwnFault(fault) => worker.own_fault(fault),
                    Answer::Good => {}
                }
            }
            if !self.table.is_answered(id) {
                self.move_on(worker, front, id);
            }
        }
        true
    }

    /// Moves a flow whose member refused it to another one, with its first datagram; ends it when
    /// there is none.
    fn move_on(&mut self, worker: &Worker, front: &Front, id: FlowId) {
        let Some(&origin) = self.table.origin(id) else {
            return;
        };
        let Some(flow) = self.table.get_mut(id) else {
            return;
        };
        let mut search = match flow.search.take() {
            Some(search) => search,
            None => Box::new(Search::after(
                worker,
                front,
                origin.client.ip(),
                flow.attempt.target(),
            )),
        };
        let Ok((attempt, socket)) = search.reach(worker, front) else {
            self.end(worker, id, Ending::Refused);
            return;
        };
        let before = worker.registry().leave(flow.key);
        front.count_over(worker, before.pool);
        let attempt = std::mem::replace(&mut flow.attempt, attempt);
        flow.socket = socket;
        flow.search = Some(search);
        flow.blamed = None;
        flow.slots = 1;
        flow.reads_runs = false;
        flow.runs_in = true;
        let first = flow.first;
        give_back(worker, attempt);
        self.stand(worker, front, id);
        if let Err(errno) = self.watch(id) {
            worker.own_fault(own_fault(errno));
            self.end(worker, id, Ending::Refused);
            return;
        }
        let first = first.and_then(|place| self.firsts.get(place, id));
        if let (Some(first), Some(flow)) = (first, self.table.get(id)) {
            let first = std::io::IoSlice::new(first);
            if let Err(errno) = Parcel::single(&first).send(&flow.socket) {
                tracing::debug!(%errno, "a first datagram was not sent again");
                front.counters(worker).udp.dropped_unsent.add(1);
            }
        }
    }
}

impl Flow {
    /// Fits the next read to what the last one brought: more slots when there was no room left,
    /// fewer when there was a lot. Says whether there may be more to read.
    pub(super) fn fit(&mut self, got: usize) -> bool {
        let slots = usize::from(self.slots);
        let (fitted, full) = fit(slots, got, MOST_SLOTS);
        self.slots = fitted as u8;
        if full && slots > 1 && !self.reads_runs {
            self.reads_runs = true;
            sockets::receive_runs(&self.socket.as_fd());
        }
        full
    }
}

/// Slots for the next read of a socket whose last one brought `got` of `slots`, and whether it was
/// full.
pub(super) fn fit(slots: usize, got: usize, most: usize) -> (usize, bool) {
    let full = got >= slots;
    let fitted = if full {
        (slots * 2).min(most)
    } else if got * 4 <= slots {
        (slots / 2).max(1)
    } else {
        slots
    };
    (fitted, full)
}

/// What an ICMP error says; none for those that are about the datagram and not its member.
fn verdict(errno: Errno) -> Option<Answer> {
    match connect_failure(&errno.into()) {
        Answer::OwnFault(fault) if fault != crate::health::OwnFault::Route => None,
        answer => Some(answer),
    }
}

fn own_fault(errno: Errno) -> crate::health::OwnFault {
    match connect_failure(&errno.into()) {
        Answer::OwnFault(fault) => fault,
        Answer::Good | Answer::Bad(_) => crate::health::OwnFault::Other,
    }
}

/// Whether there was no room for a datagram on its way out.
fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM)
}

/// Gives a flow's place at its member back.
fn give_back(worker: &Worker, attempt: Attempt) {
    let (limited, pool) = (attempt.is_limited(), attempt.target().pool);
    drop(attempt);
    if limited {
        worker.room(pool);
    }
}
