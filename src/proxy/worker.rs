//! A worker: one thread, one runtime, its own listeners and sessions.

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::access::{Access, AccessLog};
use super::adopt::{Entrances, Era};
use super::front::Front;
use super::listen::Listener;
use super::registry::{Registry, Tick};
use super::relay::Tools;
use super::session::Refused;
use super::spills::Spills;
use super::{Adoption, FlowTaken, FromWorker, HandFlows, ToWorker, Which};
use crate::dispatch::{Attempt, Snapshot};
use crate::health::OwnFault;
use crate::observe::counters::{Counter, Lasting, OwnFaultCounters, WorkerCounters};
use crate::topology::{PoolId, TargetId, Topology};

/// From one sweep to the next; idle timeouts are kept to within [`SWEEPS`] of it.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Sweeps that it takes to look at every session once.
const SWEEPS: usize = 4;
/// Messages from the control thread that may wait; it sends a handful a transition.
const MESSAGES: usize = 1024;

/// What a worker is started with.
#[derive(Debug)]
pub struct Plan {
    /// Its number, from 0.
    pub index: usize,
    /// Its share of the sessions that the instance may hold.
    pub sessions: usize,
    /// Its share of the flows over UDP that the instance may hold, beside the sessions.
    pub flows: usize,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Flows over UDP to go on with, that came by these.
    pub flows_taken: Vec<FlowTaken>,
    /// What they stand in front of.
    pub topology: Arc<Topology>,
    /// Who may be chosen at first.
    pub snapshot: Arc<Snapshot>,
    /// Where it counts.
    pub counters: Arc<WorkerCounters>,
    /// Where its sessions are told; nowhere when none.
    pub access: Option<AccessLog>,
    /// Where it reports.
    pub reports: mpsc::Sender<FromWorker>,
    /// What its draws follow from.
    pub seed: u64,
}

/// The control thread's end of a worker.
#[derive(Debug)]
pub struct WorkerHandle {
    messages: mpsc::Sender<Inbox>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Tells the worker something, without waiting; false when its inbox is full or it is gone.
    #[must_use]
    pub fn tell(&self, message: ToWorker) -> bool {
        self.messages.try_send(Inbox::News(message)).is_ok()
    }

    /// Whether it takes a message now. Only the control thread tells it anything, so the room that
    /// this finds is there until that thread uses it.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.messages.capacity() > 0 && !self.messages.is_closed()
    }

    /// Has the worker go on under another topology, from its next message on.
    ///
    /// # Errors
    /// When its inbox is full or it is gone; gives the adoption back, which is in force nowhere.
    pub fn adopt(&self, adoption: Adoption) -> Result<(), Box<Adoption>> {
        match self.messages.try_reserve() {
            Ok(room) => {
                room.send(Inbox::Adopt(Box::new(adoption)));
                Ok(())
            }
            Err(_) => Err(Box::new(adoption)),
        }
    }

    /// Has it duplicate its listeners, in its order, for another process to have them too; nothing
    /// comes where it is gone.
    pub fn share_listeners(&self) -> oneshot::Receiver<io::Result<Vec<OwnedFd>>> {
        let (tell, told) = oneshot::channel();
        if self.messages.try_send(Inbox::Share(tell)).is_err() {
            tracing::error!("a worker takes no messages; is it stuck?");
        }
        told
    }

    /// Has it prepare its flows over UDP for another process; false when it takes no messages.
    #[must_use]
    pub fn hand_flows(&self, order: HandFlows) -> bool {
        self.messages.try_send(Inbox::Flows(order)).is_ok()
    }

    /// Ends it, with what sessions it has left, and waits for that.
    pub fn join(self) -> std::thread::Result<()> {
        drop(self.messages);
        self.thread.join()
    }
}

/// What the control thread sends to a worker, in its order.
#[derive(Debug)]
pub(super) enum Inbox {
    News(ToWorker),
    Adopt(Box<Adoption>),
    Flows(HandFlows),
    Share(oneshot::Sender<io::Result<Vec<OwnedFd>>>),
}

/// A worker that has all it needs, and takes nobody until it is to [begin](Ready::begin). It ends
/// with this.
#[derive(Debug)]
pub struct Ready {
    handle: WorkerHandle,
    begin: std::sync::mpsc::SyncSender<()>,
}

impl Ready {
    /// Has it take clients.
    #[must_use]
    pub fn begin(self) -> WorkerHandle {
        // It waits for this and for nothing else.
        self.begin.send(()).ok();
        self.handle
    }
}

/// Makes a worker on a thread of its own.
///
/// # Errors
/// When the kernel gives no thread, or no descriptors for its runtime.
pub fn start(plan: Plan) -> io::Result<Ready> {
    let (messages, inbox) = mpsc::channel(MESSAGES);
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let (begin, may_begin) = std::sync::mpsc::sync_channel(1);
    let thread = Builder::new()
        .name(format!("worker-{}", plan.index))
        .spawn(move || {
            match runtime() {
                Ok(runtime) => {
                    // The starter waits for this message and cannot be gone.
                    ready.send(Ok(())).expect("the starter waits");
                    if may_begin.recv().is_ok() {
                        runtime.block_on(Worker::run(plan, inbox));
                    }
                }
                Err(error) => ready.send(Err(error)).expect("the starter waits"),
            }
        })?;
    started
        .recv()
        .map_err(|_| io::Error::other("the worker's thread ended at once"))??;
    let handle = WorkerHandle { messages, thread };
    Ok(Ready { handle, begin })
}

/// The runtime of one worker.
pub(super) fn runtime() -> io::Result<LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
}

/// What the sessions of one worker share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) snapshot: RefCell<Arc<Snapshot>>,
    /// Which topology is in force.
    pub(super) epoch: Cell<u32>,
    pub(super) era: RefCell<Era>,
    /// Told when another topology is in force, to those who wait for something else.
    pub(super) adopted: Notify,
    own_faults: Lasting<OwnFaultCounters>,
    reports_dropped: Lasting<Counter>,
    reports: mpsc::Sender<FromWorker>,
    registry: Registry,
    tools: Tools,
    spills: Spills,
    tick: Cell<Tick>,
    /// Clients that are being served, connected to a member or not yet.
    open: Cell<usize>,
    pub(super) most: Cell<usize>,
}

impl Worker {
    /// A worker, and where clients come in.
    pub(super) fn new(plan: Plan) -> (Rc<Worker>, Entrances) {
        let epoch = plan.snapshot.epoch();
        let worker = Rc::new(Worker {
            snapshot: RefCell::new(plan.snapshot),
            epoch: Cell::new(epoch),
            adopted: Notify::new(),
            own_faults: plan.counters.own_faults.clone(),
            reports_dropped: plan.counters.reports_dropped.clone(),
            era: RefCell::new(Era::first(
                plan.topology,
                plan.counters,
                plan.access,
                epoch,
                plan.seed,
            )),
            reports: plan.reports,
            registry: Registry::default(),
            tools: Tools::default(),
            spills: Spills::default(),
            tick: Cell::new(0),
            open: Cell::new(0),
            most: Cell::new(plan.sessions),
        });
        let entrances = Entrances::open(&worker, plan.listeners, plan.flows);
        entrances.udp().take(&worker, plan.flows_taken);
        (worker, entrances)
    }

    pub(super) async fn run(plan: Plan, mut inbox: mpsc::Receiver<Inbox>) {
        let (worker, mut entrances) = Worker::new(plan);
        let mut sweeps = interval(TICK);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Inbox::News(ToWorker::Publish(snapshot))) => worker.publish(snapshot),
                    Some(Inbox::News(ToWorker::End(which))) => {
                        worker.end(&which);
                        entrances.udp().end_doomed(&worker);
                    }
                    Some(Inbox::News(ToWorker::Close)) => entrances.close(),
                    Some(Inbox::News(ToWorker::Leave)) => entrances.leave(&worker),
                    Some(Inbox::Flows(order)) => entrances.udp().hand_over(&worker, order),
                    Some(Inbox::Share(tell)) => {
                        if tell.send(entrances.shared()).is_err() {
                            tracing::debug!("nobody waits for the listeners any more");
                        }
                    }
                    Some(Inbox::Adopt(adoption)) => entrances.adopt(&worker, *adoption),
                    None => break,
                },
                due = sweeps.tick() => {
                    {
                        let counters = &worker.era.borrow().counters;
                        counters.rounds.add(1);
                        counters.lag.observe(due.elapsed());
                    }
                    worker.tick.set(worker.tick.get().wrapping_add(1));
                    worker.registry.sweep(SWEEPS, worker.tick.get());
                    worker.registry.go_on(worker.tick.get(), |home, ended| {
                        worker.era.borrow().counters.home(home).moved.add(ended);
                    });
                    entrances.udp().end_doomed(&worker);
                }
            }
        }
        // What is left is dropped with the runtime, and each session with a reset to both sides.
        entrances.close();
        entrances.udp().end_all(&worker);
    }

    fn publish(&self, snapshot: Arc<Snapshot>) {
        if snapshot.epoch() != self.epoch.get() {
            tracing::error!(epoch = snapshot.epoch(), "a snapshot of another topology");
            return;
        }
        let before = self.snapshot.replace(snapshot);
        for home in self.snapshot().redirected_since(&before) {
            self.spills.forget_all(home);
        }
    }

    fn end(&self, which: &Which) {
        let snapshot = self.snapshot().clone();
        let down = |target| snapshot.is_down(target);
        let ended = self.registry.end(which, down, self.tick());
        if let Which::Moved { home, .. } = which
            && ended > 0
        {
            let era = self.era.borrow();
            era.counters.home(*home).moved.add(ended as u64);
        }
        tracing::debug!(ended, ?which, "sessions ended");
    }

    /// Where sessions are told, if they are.
    pub(super) fn access(&self) -> Option<Rc<Access>> {
        self.era.borrow().access.clone()
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        self.era.borrow().topology.clone()
    }

    pub(super) fn snapshot(&self) -> Ref<'_, Arc<Snapshot>> {
        self.snapshot.borrow()
    }

    /// Which topology is in force; ids of another one mean nothing.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.get()
    }

    /// Has `front` be the one in force, as whoever waited for anything has to before it uses an id;
    /// says whether it was not.
    ///
    /// # Errors
    /// When its service is gone.
    pub(super) fn renew(&self, front: &mut Rc<Front>) -> Result<bool, Refused> {
        if front.epoch == self.epoch.get() {
            return Ok(false);
        }
        *front = front.current().ok_or(Refused::NoService)?;
        Ok(true)
    }

    /// With whom a client's attempt, of whatever topology, is made under the one in force; none
    /// where this client must not go now.
    pub(super) fn find(
        &self,
        front: &Front,
        client: IpAddr,
        attempt: &Attempt,
    ) -> Option<TargetId> {
        let snapshot = self.snapshot();
        let serving = snapshot.serving(front.service, client);
        let other = || snapshot.find(snapshot.spill(front.service, serving)?, attempt);
        snapshot.find(serving, attempt).or_else(other)
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn tools(&self) -> &Tools {
        &self.tools
    }

    pub(super) fn tick(&self) -> Tick {
        self.tick.get()
    }

    /// A limited place at one of a pool's members was given back.
    pub(super) fn room(&self, pool: PoolId) {
        self.era.borrow().room(pool);
    }

    pub(super) fn spills(&self) -> &Spills {
        &self.spills
    }

    /// Reports to the control thread; when its inbox is full the report is counted and lost.
    pub(super) fn tell(&self, report: FromWorker) {
        if self.reports.try_send(report).is_err() {
            self.reports_dropped.add(1);
        }
    }

    /// Counts and tells a fault of our own.
    pub(super) fn own_fault(&self, fault: OwnFault) {
        self.own_faults.of(fault).add(1);
        self.tell(FromWorker::OwnFault(fault));
    }

    /// One more client; false when there are as many as there may be.
    pub(super) fn open_one(&self) -> bool {
        let room = self.open.get() < self.most.get();
        if room {
            self.open.set(self.open.get() + 1);
        }
        room
    }

    /// A client is gone.
    pub(super) fn closed_one(&self) {
        self.open.set(self.open.get() - 1);
    }
}
