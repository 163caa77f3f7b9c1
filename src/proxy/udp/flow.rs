//! The flows of a worker, from where each begins to where it ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::event::epoll;
use rustix::io::Errno;

use super::super::access::Account;
use super::super::registry::{Doomed, Key, Owner, Tick, Told};
use super::super::worker::{Front, Worker};
use super::batch::SLOTS;
use super::firsts::Firsts;
use super::search::{Refused, Search};
use super::sockets;
use super::table::{FlowId, IDLE, Origin, Room, Table};
use crate::dispatch::Attempt;
use crate::health::{Answer, OwnFault, connect_failure};
use crate::topology::TargetId;

/// Slots that a read of a flow's socket may have at most.
const MOST_SLOTS: usize = SLOTS / 2;
/// Unproven flows that are looked at, the oldest first, for one at a member that is full: a flood
/// at one pool is among them unless another pool has a flood, too.
const LOOK: usize = 32;
/// Flows whose members died and whose clients may yet send, for the count of those that moved.
const BEREFT: usize = 1 << 14;

/// The flows of one worker and its listeners.
#[derive(Debug)]
pub(super) struct Flows {
    pub(super) epoll: Rc<OwnedFd>,
    pub(super) listeners: Vec<Listening>,
    pub(super) table: Table<Flow>,
    pub(super) firsts: Firsts,
    /// Whose member died, by where they came from; emptied when it is full.
    bereft: HashMap<(u16, SocketAddr), TargetId>,
    /// When members were last blamed, once a tick at most: forged addresses make many flows.
    pub(super) blamed: HashMap<TargetId, Tick>,
    doomed: Vec<Doomed>,
    /// Whether no new flows begin. The listeners stay: by how many sockets share its port, the
    /// kernel chooses whose a client is, and flows of other workers would lose theirs.
    pub(super) closing: bool,
}

/// A listener of this worker.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) socket: OwnedFd,
    pub(super) front: Rc<Front>,
    pub(super) address: SocketAddr,
    /// Slots for its next read.
    pub(super) slots: usize,
}

/// A client's datagrams to one service, and its member's answers.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) socket: OwnedFd,
    pub(super) attempt: Attempt,
    pub(super) key: Key,
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
    pub(super) account: Account,
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
    pub(super) fn new(epoll: Rc<OwnedFd>, listeners: Vec<Listening>, most: usize) -> Flows {
        Flows {
            epoll,
            listeners,
            table: Table::new(most),
            firsts: Firsts::new(),
            bereft: HashMap::new(),
            blamed: HashMap::new(),
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
        let account = Account::begin(worker, front.service, origin.client, || {
            Some(self.asked_at(&origin))
        });
        account.seeks();
        let mut reached = self.try_to_begin(worker, &front, origin, room, &account);
        if let Err(refused) = reached
            && refused.is_for_want_of_room()
            && let Some(oldest) = self.who_makes_room(worker, &front, origin, refused)
        {
            // A flood of forged flows may have all of what is short; it gives back of its own.
            self.end(worker, oldest, Ending::Evicted);
            let room = self.table.room(now);
            reached = self.try_to_begin(worker, &front, origin, room, &account);
        }
        match reached {
            Ok(id) => {
                counters.established.add(1);
                if account.is_kept()
                    && let Some(flow) = self.table.get_mut(id)
                {
                    account.reached(worker, &front, &flow.attempt);
                    flow.account = account;
                }
                Ok(id)
            }
            Err(refused) => {
                account.flow_refused(refused);
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

    /// Where a client sent its datagrams to.
    fn asked_at(&self, origin: &Origin) -> SocketAddr {
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
        let has_a_place = |id: &FlowId| {
            let attempt = self.table.get(*id).map(|flow| &flow.attempt);
            attempt.is_some_and(|held| held.is_limited() && held.target().pool == serving.pool)
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
        account: &Account,
    ) -> Result<FlowId, Refused> {
        let mut search = Search::new(worker, front, origin.client.ip());
        let (attempt, socket) = search.reach(worker, front, account)?;
        match room {
            Room::Free => {}
            Room::GiveUp(other) => self.end(worker, other, Ending::Evicted),
            Room::Full => return Err(Refused::NoMember),
        }
        self.settle(worker, front, origin, attempt, socket)
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
            first: None,
            search: None,
            account: Account::default(),
        };
        let id = self.table.insert(origin, flow, worker.tick());
        self.stand(worker, front, id);
        if let Err(errno) = self.watch(id) {
            let fault = own_fault(errno);
            worker.own_fault(fault);
            if let Some(flow) = self.forget(worker, front, id) {
                give_back(worker, flow.attempt);
            }
            return Err(Refused::OwnFault(fault));
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
    pub(super) fn stand(&mut self, worker: &Worker, front: &Front, id: FlowId) {
        let Some(flow) = self.table.get_mut(id) else {
            return;
        };
        let target = flow.attempt.target();
        flow.key = worker.registry().enter(
            front.service.pool,
            target,
            flow.attempt.address().ip(),
            front.idle_ticks.min(IDLE),
            worker.tick(),
            Owner::Flow(id.into()),
        );
        front.count_begun(worker, target.pool);
        worker.counters().member(target.member()).sessions.add(1);
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
        let front = self.listeners[usize::from(origin.listener)].front.clone();
        let Some(flow) = self.forget(worker, &front, id) else {
            return;
        };
        let counters = front.counters(worker);
        counters.ended.add(1);
        match why {
            Ending::Told(_) => counters.ended_by_us.add(1),
            Ending::Idle => counters.ended_idle.add(1),
            Ending::Evicted => counters.udp.evicted.add(1),
            Ending::Refused => counters.reset_by_member.add(1),
            // Counted by its kind.
            Ending::OwnFault => {}
        }
        flow.account.flow_ended(why);
        let target = flow.attempt.target();
        tracing::debug!(client = %origin.client, address = %flow.attempt.address(), ?why, "flow ended");
        if matches!(why, Ending::Told(_)) && worker.snapshot().is_down(target) {
            if self.bereft.len() >= BEREFT {
                self.bereft.clear();
            }
            self.bereft.insert((origin.listener, origin.client), target);
        }
        give_back(worker, flow.attempt);
    }

    /// Takes a flow out of the table and the registry.
    fn forget(&mut self, worker: &Worker, front: &Front, id: FlowId) -> Option<Flow> {
        let flow = self.table.remove(id)?;
        let target = worker.registry().leave(flow.key);
        front.count_over(worker, target.pool);
        Some(flow)
    }

    /// Ends the flows that the registry has doomed. One whose member died before it ever answered
    /// goes to another one, with its first datagram: its client sent that a moment ago and waits.
    pub(super) fn end_doomed(&mut self, worker: &Worker) {
        let mut doomed = std::mem::take(&mut self.doomed);
        worker.registry().take_doomed(&mut doomed);
        for doomed in doomed.drain(..) {
            let id = FlowId::from(doomed.flow);
            let Some(told) = doomed.told else {
                self.end(worker, id, Ending::Idle);
                continue;
            };
            if self.waits_for_the_dead(worker, id) {
                if let Some(origin) = self.table.origin(id) {
                    let front = self.listeners[usize::from(origin.listener)].front.clone();
                    self.move_on(worker, &front, id);
                }
            } else {
                self.end(worker, id, Ending::Told(told));
            }
        }
        self.doomed = doomed;
    }

    /// Whether a flow's member is down and never answered it.
    fn waits_for_the_dead(&self, worker: &Worker, id: FlowId) -> bool {
        let target = self.table.get(id).map(|flow| flow.attempt.target());
        !self.table.is_answered(id)
            && target.is_some_and(|target| worker.snapshot().is_down(target))
    }

    /// Notes that a flow's client sent again.
    pub(super) fn heard_client(&mut self, worker: &Worker, front: &Front, id: FlowId) {
        let now = worker.tick();
        let proven = self.table.from_client(id, now);
        if let Some(flow) = self.table.get_mut(id) {
            // It has waited, or needs no other member: what it sends now is what counts.
            flow.first = None;
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

/// Gives a flow's place at its member back.
pub(super) fn give_back(worker: &Worker, attempt: Attempt) {
    let (limited, pool) = (attempt.is_limited(), attempt.target().pool);
    drop(attempt);
    if limited {
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
