//! The flows of a worker, from where each begins to where it ends.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::event::epoll;
use rustix::io::Errno;
use slab::Slab;
use tokio::sync::Notify;

use super::super::access::SessionLog;
use super::super::front::Front;
use super::super::registry::{Arrival, Fate, Key, Left, Owner, Tick, Told};
use super::super::worker::{TICK, Worker};
use super::batch::SLOTS;
use super::firsts::Firsts;
use super::search::{Reached, Refused, Search};
use super::sockets;
use super::table::{FlowId, IDLE, Origin, Room, Table};
use crate::dispatch::Attempt;
use crate::health::{Answer, OwnFault, connect_failure};
use crate::observe::counters::{Lasting, MemberCounters};
use crate::topology::TargetId;

/// Slots that a read of a flow's socket may have at most.
const MOST_SLOTS: usize = SLOTS / 2;
/// Unproven flows that are looked at, the oldest first, for one at a member that is full: a flood
/// at one pool is among them unless another pool has a flood, too.
const LOOK: usize = 32;
/// Flows that end as soon as they are doomed: a millisecond's work. Where more are, the rest ends in
/// the turns that the worker has for it.
pub(super) const END_AT_ONCE: usize = 256;
/// Flows whose members died and whose clients may yet send, for the count of those that moved.
const BEREFT: usize = 1 << 14;

/// The flows of one worker and its listeners.
#[derive(Debug)]
pub(super) struct Flows {
    pub(super) epoll: Rc<OwnedFd>,
    /// By what their flows call them, which is given to another one once none of those is left.
    pub(super) listeners: Slab<Listening>,
    pub(super) table: Table<Flow>,
    pub(super) firsts: Firsts,
    /// Whose member died or is gone, by where they came from; emptied when it is full, and with
    /// every topology, as the ids are of one.
    pub(super) bereft: HashMap<(u16, SocketAddr), Option<TargetId>>,
    /// When members were last blamed, once a tick at most: forged addresses make many flows. Emptied
    /// with every topology, too.
    pub(super) blamed: HashMap<TargetId, Tick>,
    /// Those that are to end, by their numbers: no more than there are flows, but for those that were
    /// moved on from one dying member to the next meanwhile.
    doomed: VecDeque<u64>,
    /// Told when some of them are left to others than who doomed them.
    pub(super) left_over: Rc<Notify>,
    /// Whether no new flows begin. The listeners stay: by how many sockets share its port, the
    /// kernel chooses whose a client is, and flows of other workers would lose theirs.
    pub(super) closing: bool,
    /// While nothing is read, because all of it may be another process's: the flows of that moment.
    pub(super) paused: Option<Vec<FlowId>>,
}

/// A listener of this worker.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    /// None once it is closed, until its flows have ended.
    pub(super) socket: Option<OwnedFd>,
    pub(super) front: Rc<Front>,
    /// Slots for its next read.
    pub(super) slots: usize,
}

/// A client's datagrams to one service, and its member's answers.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) socket: OwnedFd,
    pub(super) attempt: Attempt,
    /// Its member's counters.
    pub(super) serving: Lasting<MemberCounters>,
    pub(super) key: Key,
    pub(super) began: Tick,
    /// Slots for its next read.
    pub(super) slots: u8,
    /// Whether answers come in runs.
    pub(super) reads_runs: bool,
    /// Whether runs go to the member, and to the client.
    pub(super) runs_in: bool,
    pub(super) runs_out: bool,
    /// Where its first datagram is kept, until its client sends another one.
    pub(super) first: Option<usize>,
    /// How its member was found, once one has refused.
    pub(super) search: Option<Box<Search>>,
    /// What the access log tells of it.
    pub(super) log: SessionLog,
}

/// Why a datagram went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    NoMember,
    TableFull,
    OwnFault,
    /// It names port 0 as its own: no answer can be sent there.
    NoPort,
}

/// Why a flow ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Ending {
    /// The registry says so, or the instance stops.
    Told(Told),
    Idle,
    /// A new one takes its place.
    Evicted,
    /// No member takes it.
    Refused,
    /// A fault of our own kept it from another member.
    OwnFault,
}

impl Flows {
    pub(super) fn new(epoll: Rc<OwnedFd>, most: usize) -> Flows {
        Flows {
            epoll,
            listeners: Slab::new(),
            table: Table::new(most),
            firsts: Firsts::new(),
            bereft: HashMap::new(),
            blamed: HashMap::new(),
            doomed: VecDeque::new(),
            left_over: Rc::default(),
            closing: false,
            paused: None,
        }
    }

    /// Begins a flow for whoever sent from there.
    pub(super) fn begin(&mut self, worker: &Worker, origin: Origin) -> Result<FlowId, Dropped> {
        if origin.client.port() == 0 {
            return Err(Dropped::NoPort);
        }
        if self.closing {
            return Err(Dropped::NoMember);
        }
        let now = worker.tick();
        let room = self.table.room(now);
        if room == Room::Full {
            return Err(Dropped::TableFull);
        }
        let front = self.listeners[usize::from(origin.listener)].front.clone();
        let counters = front.counters();
        counters.accepted.add(1);
        let log = SessionLog::begin(worker, front.service, origin.client, || {
            Some(self.asked_at(&origin))
        });
        log.seeks();
        let mut reached = self.try_to_begin(worker, &front, origin, room, &log);
        if let Err(refused) = reached
            && refused.is_for_want_of_room()
            && let Some(oldest) = self.who_makes_room(worker, &front, origin, refused)
        {
            // A flood of forged flows may have all of what is short; it gives back of its own.
            self.end(worker, oldest, Ending::Evicted);
            let room = self.table.room(now);
            reached = self.try_to_begin(worker, &front, origin, room, &log);
        }
        match reached {
            Ok(id) => {
                counters.established.add(1);
                self.keep_log(worker, &front, id, log);
                Ok(id)
            }
            Err(refused) => {
                log.flow_refused(refused);
                counters.ended.add(1);
                match refused {
                    Refused::NoMember | Refused::Full => counters.refused_no_member.add(1),
                    Refused::Attempts => counters.refused_attempts.add(1),
                    Refused::OwnFault(_) => counters.refused_own_fault.add(1),
                }
                Err(match refused {
                    Refused::OwnFault(_) => Dropped::OwnFault,
                    Refused::NoMember | Refused::Full | Refused::Attempts => Dropped::NoMember,
                })
            }
        }
    }

    /// Has the access log tell of a flow from now on, if there is one.
    pub(super) fn keep_log(&mut self, worker: &Worker, front: &Front, id: FlowId, log: SessionLog) {
        if log.is_kept()
            && let Some(flow) = self.table.get_mut(id)
            && let Some(target) = worker.registry().target(flow.key)
        {
            log.reached(worker, front, target, &flow.attempt);
            flow.log = log;
        }
    }

    /// Where a client sent its datagrams to.
    pub(super) fn asked_at(&self, origin: &Origin) -> SocketAddr {
        let listener = self.listeners[usize::from(origin.listener)].address;
        origin
            .local
            .map_or(listener, |local| SocketAddr::new(local, listener.port()))
    }

    /// The oldest unproven flow that holds some of what was short.
    fn who_makes_room(
        &self,
        worker: &Worker,
        front: &Front,
        origin: Origin,
        refused: Refused,
    ) -> Option<FlowId> {
        let mut unproven = self.table.unproven();
        if refused != Refused::Full {
            return unproven.next();
        }
        let serving = worker.snapshot().serving(front.service, origin.client.ip());
        let on = |flow: &Flow| worker.registry().target(flow.key).map(|target| target.pool);
        let has_a_place = |id: &FlowId| {
            let flow = self.table.get(*id);
            flow.is_some_and(|flow| flow.attempt.is_limited() && on(flow) == Some(serving.pool))
        };
        unproven.take(LOOK).find(has_a_place)
    }

    /// Finds a member and gives the flow its place, in the stead of another one where it must be.
    fn try_to_begin(
        &mut self,
        worker: &Worker,
        front: &Front,
        origin: Origin,
        room: Room,
        log: &SessionLog,
    ) -> Result<FlowId, Refused> {
        let mut search = Search::new(worker, front, origin.client.ip());
        let reached = search.reach(worker, front, log)?;
        match room {
            Room::Free => {}
            Room::GiveUp(other) => self.end(worker, other, Ending::Evicted),
            Room::Full => return Err(Refused::NoMember),
        }
        self.settle(worker, front, origin, reached)
    }

    /// Gives a flow that has a member its place.
    fn settle(
        &mut self,
        worker: &Worker,
        front: &Front,
        origin: Origin,
        reached: Reached,
    ) -> Result<FlowId, Refused> {
        let Reached {
            target,
            attempt,
            socket,
        } = reached;
        let member = front.member(target.member()).clone();
        let flow = Flow::new(socket, attempt, member, worker.tick());
        let id = self.table.insert(origin, flow, worker.tick());
        self.stand(worker, front, id, target);
        if let Err(errno) = self.watch(id) {
            let fault = own_fault(errno);
            worker.own_fault(fault);
            if let Some((flow, left)) = self.forget(worker, front, id) {
                give_back(worker, flow.attempt, left);
            }
            return Err(Refused::OwnFault(fault));
        }
        if !self.bereft.is_empty() {
            let before = self.bereft.remove(&(origin.listener, origin.client));
            if before.is_some_and(|before| before != Some(target)) {
                front.counters().udp.moved.add(1);
            }
        }
        Ok(id)
    }

    /// Enters a flow with its member in the registry, and counts it there.
    pub(super) fn stand(&mut self, worker: &Worker, front: &Front, id: FlowId, target: TargetId) {
        let Some(flow) = self.table.get_mut(id) else {
            return;
        };
        let arrival = Arrival {
            asked: front.service,
            target,
            side: front.side(target.pool),
            address: flow.attempt.address().ip(),
            idle_ticks: front.idle_ticks.min(IDLE),
        };
        let owner = Owner::Flow(id.into());
        flow.key = worker.registry().enter(arrival, worker.tick(), owner);
        front.account.count_begun(arrival.side);
        flow.serving = front.member(target.member()).clone();
        flow.serving.sessions.add(1);
    }

    /// Has events of a flow's socket told.
    pub(super) fn watch(&self, id: FlowId) -> Result<(), Errno> {
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
        let listener = &self.listeners[usize::from(origin.listener)];
        let (front, is_open) = (listener.front.clone(), listener.socket.is_some());
        let target = self.target(worker, id);
        let Some((flow, left)) = self.forget(worker, &front, id) else {
            return;
        };
        let counters = front.counters();
        counters.ended.add(1);
        // To within a tick: a flow's moments need no clock.
        let lasted = TICK * worker.tick().wrapping_sub(flow.began);
        counters.lasted.observe(lasted);
        flow.serving.lasted.observe(lasted);
        match why {
            Ending::Told(_) => counters.ended_by_us.add(1),
            Ending::Idle => counters.ended_idle.add(1),
            Ending::Evicted => counters.udp.evicted.add(1),
            Ending::Refused => counters.reset_by_member.add(1),
            // Counted by its kind.
            Ending::OwnFault => {}
        }
        flow.log.flow_ended(why);
        tracing::debug!(client = %origin.client, address = %flow.attempt.address(), ?why, "flow ended");
        if matches!(why, Ending::Told(_)) && is_open && is_dead(worker, target) {
            if self.bereft.len() >= BEREFT {
                self.bereft.clear();
            }
            self.bereft.insert((origin.listener, origin.client), target);
        }
        give_back(worker, flow.attempt, left);
    }

    /// Takes a flow out of the table and the registry.
    pub(super) fn forget(
        &mut self,
        worker: &Worker,
        front: &Front,
        id: FlowId,
    ) -> Option<(Flow, Left)> {
        let flow = self.table.remove(id)?;
        let left = worker.registry().leave(flow.key);
        front.account.count_over(left.side);
        Some((flow, left))
    }

    /// With whom a flow stands, unless its member is gone.
    fn target(&self, worker: &Worker, id: FlowId) -> Option<TargetId> {
        let flow = self.table.get(id)?;
        worker.registry().target(flow.key)
    }

    /// Ends the flows that the registry has doomed, or the first of them where they are many.
    pub(super) fn end_doomed(&mut self, worker: &Worker) {
        worker.registry().take_doomed(&mut self.doomed);
        if self.end_some(worker, END_AT_ONCE) {
            self.left_over.notify_one();
        }
    }

    /// Ends so many of the flows that are to end; says whether there are more.
    pub(super) fn end_some(&mut self, worker: &Worker, most: usize) -> bool {
        for _ in 0..most {
            let Some(number) = self.doomed.pop_front() else {
                return false;
            };
            let id = FlowId::from(number);
            let Some(flow) = self.table.get(id) else {
                continue;
            };
            // It may have been moved on meanwhile: then it has another fate.
            if let Some(why) = ending(worker.registry().fate(flow.key)) {
                self.end_one(worker, id, why);
            }
        }
        !self.doomed.is_empty()
    }

    /// Ends a flow that is to end. One whose member died before it ever answered goes to another
    /// one, with its first datagram: its client sent that a moment ago and waits.
    fn end_one(&mut self, worker: &Worker, id: FlowId, why: Ending) {
        if matches!(why, Ending::Told(_))
            && self.waits_for_the_dead(worker, id)
            && let Some(front) = self.front_of(id)
        {
            self.move_on(worker, &front, id);
        } else {
            self.end(worker, id, why);
        }
    }

    /// Whether a flow's member is down or gone and never answered it.
    fn waits_for_the_dead(&self, worker: &Worker, id: FlowId) -> bool {
        self.table.get(id).is_some()
            && !self.table.is_answered(id)
            && is_dead(worker, self.target(worker, id))
    }

    /// Notes that a flow's client sent again. One that is to end does so instead, and false is said:
    /// this datagram begins another one.
    pub(super) fn heard_client(&mut self, worker: &Worker, front: &Front, id: FlowId) -> bool {
        let now = worker.tick();
        let Some(flow) = self.table.get_mut(id) else {
            return false;
        };
        // It has waited, or needs no other member: what it sends now is what counts.
        flow.first = None;
        let key = flow.key;
        if let Some(why) = ending(worker.registry().moved(key, now)) {
            self.end(worker, id, why);
            return false;
        }
        if self.table.from_client(id, now) {
            worker.registry().set_idle(key, front.idle_ticks);
        }
        true
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
}

impl Flow {
    /// One that begins now.
    pub(super) fn new(
        socket: OwnedFd,
        attempt: Attempt,
        serving: Lasting<MemberCounters>,
        began: Tick,
    ) -> Flow {
        Flow {
            socket,
            attempt,
            serving,
            key: 0,
            began,
            slots: 1,
            reads_runs: false,
            runs_in: true,
            runs_out: true,
            first: None,
            search: None,
            log: SessionLog::default(),
        }
    }

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

/// Why a flow of this fate ends, if it does.
fn ending(fate: Fate) -> Option<Ending> {
    match fate {
        Fate::End(told) => Some(Ending::Told(told)),
        Fate::Idle => Some(Ending::Idle),
        Fate::Young | Fate::Settle | Fate::Settled => None,
    }
}

/// Whether a flow's member is down, or gone.
fn is_dead(worker: &Worker, target: Option<TargetId>) -> bool {
    target.is_none_or(|target| worker.snapshot().is_down(target))
}

/// Gives the place at its member back that a flow had where it left.
pub(super) fn give_back(worker: &Worker, attempt: Attempt, left: Left) {
    let limited = attempt.is_limited();
    drop(attempt);
    if limited && let Some(pool) = left.on {
        worker.room(pool);
    }
}

/// What it means that an epoll set took no more sockets.
pub(super) fn own_fault(errno: Errno) -> OwnFault {
    match connect_failure(&errno.into()) {
        Answer::OwnFault(fault) => fault,
        Answer::Good | Answer::Bad(_) => OwnFault::Other,
    }
}
