//! A worker: one thread, one runtime, its own listeners and sessions.

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::access::{Access, AccessLog, Account};
use super::listen::Listener;
use super::queue::Line;
use super::registry::{Registry, Tick};
use super::relay::Tools;
use super::session::{lies_in, serve};
use super::sockets::reset_on_close;
use super::spills::Spills;
use super::udp::Udp;
use super::{FromWorker, ToWorker, Which};
use crate::balance::Lane;
use crate::dispatch::{HedgeBudget, Snapshot};
use crate::health::{Answer, OwnFault, connect_failure};
use crate::observe::counters::{HomeCounters, ServiceCounters, WorkerCounters};
use crate::topology::{ConnectRules, PoolId, Protocol, ServiceId, Topology};

/// From one sweep to the next; idle timeouts are kept to within [`SWEEPS`] of it.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Sweeps that it takes to look at every session once.
const SWEEPS: usize = 4;
/// How long a listener rests after an accept that failed for want of something of our own: long
/// enough not to spin, short enough that nobody notices once there is room again.
const ACCEPT_REST: Duration = Duration::from_millis(50);
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
    messages: mpsc::Sender<ToWorker>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Tells the worker something, without waiting; false when its inbox is full or it is gone.
    #[must_use]
    pub fn tell(&self, message: ToWorker) -> bool {
        self.messages.try_send(message).is_ok()
    }

    /// Ends it, with what sessions it has left, and waits for that.
    pub fn join(self) -> std::thread::Result<()> {
        drop(self.messages);
        self.thread.join()
    }
}

/// Starts a worker on a thread of its own.
///
/// # Errors
/// When the kernel gives no thread, or no descriptors for its runtime.
pub fn start(plan: Plan) -> io::Result<WorkerHandle> {
    let (messages, inbox) = mpsc::channel(MESSAGES);
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let thread = Builder::new()
        .name(format!("worker-{}", plan.index))
        .spawn(move || {
            match runtime() {
                Ok(runtime) => {
                    // The starter waits for this message and cannot be gone.
                    ready.send(Ok(())).expect("the starter waits");
                    runtime.block_on(Worker::run(plan, inbox));
                }
                Err(error) => ready.send(Err(error)).expect("the starter waits"),
            }
        })?;
    started
        .recv()
        .map_err(|_| io::Error::other("the worker's thread ended at once"))??;
    Ok(WorkerHandle { messages, thread })
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
    snapshot: RefCell<Arc<Snapshot>>,
    counters: Arc<WorkerCounters>,
    reports: mpsc::Sender<FromWorker>,
    access: Option<Rc<Access>>,
    registry: Registry,
    tools: Tools,
    /// By home pool.
    queues: Vec<Queue>,
    spills: Spills,
    tick: Cell<Tick>,
    /// Clients that are being served, connected to a member or not yet.
    open: Cell<usize>,
    most: usize,
}

/// The queue of one home pool.
#[derive(Debug, Default)]
struct Queue {
    twin: Option<PoolId>,
    /// Those whom the pool itself serves.
    at_home: Line,
    /// Those whom the twin serves.
    at_twin: Line,
}

/// What a worker knows of a service that it fronts.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) service: ServiceId,
    pub(super) connect: ConnectRules,
    pub(super) queue_timeout: Duration,
    pub(super) idle_ticks: Tick,
    pub(super) peer_timeout: Duration,
    /// Whether the pool has a twin.
    has_twin: bool,
    /// Whether members are sent a PROXY header: the pool's own, and the twin's.
    send_proxy: [bool; 2],
    accept_proxy: Vec<IpNet>,
    pub(super) lane: Lane,
    pub(super) hedges: HedgeBudget,
}

impl Worker {
    pub(super) async fn run(plan: Plan, mut inbox: mpsc::Receiver<ToWorker>) {
        let worker = Rc::new(Worker {
            snapshot: RefCell::new(plan.snapshot),
            access: plan.access.map(|log| {
                let (topology, counters) = (plan.topology.clone(), plan.counters.clone());
                Rc::new(Access::new(log, topology, counters))
            }),
            counters: plan.counters,
            reports: plan.reports,
            registry: Registry::default(),
            tools: Tools::default(),
            queues: plan
                .topology
                .pools
                .iter()
                .map(|pool| Queue {
                    twin: plan.topology.twin(pool.id),
                    ..Queue::default()
                })
                .collect(),
            spills: Spills::default(),
            tick: Cell::new(0),
            open: Cell::new(0),
            most: plan.sessions,
        });
        let mut listening = JoinSet::new();
        let mut fronts: Vec<Rc<Front>> = Vec::new();
        let mut datagrams = Vec::new();
        for listener in plan.listeners {
            let front = match fronts
                .iter()
                .find(|front| front.service == listener.service)
            {
                Some(front) => front.clone(),
                None => {
                    let seed = plan.seed.wrapping_add(fronts.len() as u64);
                    let front = Rc::new(Front::new(&plan.topology, listener.service, seed));
                    fronts.push(front.clone());
                    front
                }
            };
            if listener.protocol == Protocol::Udp {
                datagrams.push((front, listener));
                continue;
            }
            match TcpListener::from_std(listener.socket.into()) {
                Ok(socket) => {
                    listening.spawn_local(worker.clone().accept_all(front, socket));
                }
                Err(error) => {
                    tracing::error!(address = %listener.address, %error, "cannot poll a listener");
                }
            }
        }
        let udp = Udp::start(&worker, datagrams, plan.flows);
        let mut sweeps = interval(TICK);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(ToWorker::Publish(snapshot)) => {
                        let before = worker.snapshot.replace(snapshot);
                        for home in worker.snapshot().redirected_since(&before) {
                            worker.spills.forget_all(home);
                        }
                    }
                    Some(ToWorker::End(which)) => {
                        worker.end(&which);
                        udp.end_doomed(&worker);
                    }
                    Some(ToWorker::Close) => {
                        udp.close();
                        listening.shutdown().await;
                    }
                    None => break,
                },
                _ = sweeps.tick() => {
                    worker.tick.set(worker.tick.get().wrapping_add(1));
                    worker.registry.sweep(SWEEPS, worker.tick.get());
                    worker.registry.go_on(worker.tick.get(), |home, ended| {
                        worker.counters.home(home).moved.add(ended);
                    });
                    udp.end_doomed(&worker);
                }
            }
        }
        udp.end_all(&worker);
        // What is left is dropped with the runtime, and each session with a reset to both sides.
        listening.shutdown().await;
    }

    /// Accepts until told to stop. What the kernel lacks for a moment costs a rest, never the
    /// listener.
    async fn accept_all(self: Rc<Self>, front: Rc<Front>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((client, peer)) => {
                    let counters = front.counters(&self);
                    counters.accepted.add(1);
                    if self.open.get() >= self.most {
                        counters.shed.add(1);
                        counters.ended.add(1);
                        let listener = || client.local_addr().ok();
                        Account::begin(&self, front.service, peer, listener).shed();
                        reset_on_close(&client);
                        continue;
                    }
                    self.open.set(self.open.get() + 1);
                    spawn_local(serve(self.clone(), front.clone(), client, peer));
                }
                Err(error) => match connect_failure(&error) {
                    // The client was gone before it was accepted (accept(2), "Error handling").
                    Answer::Bad(_) | Answer::Good => {}
                    Answer::OwnFault(fault) => {
                        if error.kind() != io::ErrorKind::ConnectionAborted {
                            self.own_fault(fault);
                            sleep(ACCEPT_REST).await;
                        }
                    }
                },
            }
        }
    }

    fn end(&self, which: &Which) {
        let snapshot = self.snapshot().clone();
        let down = |target| snapshot.is_down(target);
        let ended = self.registry.end(which, down, self.tick());
        if let Which::Moved { home, .. } = which {
            self.counters.home(*home).moved.add(ended as u64);
        }
        tracing::debug!(ended, ?which, "sessions ended");
    }

    pub(super) fn snapshot(&self) -> Ref<'_, Arc<Snapshot>> {
        self.snapshot.borrow()
    }

    pub(super) fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Where sessions are told, if they are.
    pub(super) fn access(&self) -> Option<&Rc<Access>> {
        self.access.as_ref()
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

    /// Where users of a home pool wait for members of the pool that serves them.
    pub(super) fn line(&self, home: PoolId, serving: PoolId) -> &Line {
        let queue = &self.queues[home.index()];
        if serving == home {
            &queue.at_home
        } else {
            &queue.at_twin
        }
    }

    /// A limited place at one of a pool's members was given back.
    pub(super) fn room(&self, pool: PoolId) {
        let queue = &self.queues[pool.index()];
        queue.at_home.room();
        if let Some(twin) = queue.twin {
            self.queues[twin.index()].at_twin.room();
        }
    }

    pub(super) fn spills(&self) -> &Spills {
        &self.spills
    }

    /// Reports to the control thread; when its inbox is full the report is counted and lost.
    pub(super) fn tell(&self, report: FromWorker) {
        if self.reports.try_send(report).is_err() {
            self.counters.reports_dropped.add(1);
        }
    }

    /// Counts and tells a fault of our own.
    pub(super) fn own_fault(&self, fault: OwnFault) {
        self.counters.own_faults.of(fault).add(1);
        self.tell(FromWorker::OwnFault(fault));
    }

    /// A client is gone.
    pub(super) fn closed_one(&self) {
        self.open.set(self.open.get() - 1);
    }
}

impl Front {
    fn new(topology: &Topology, id: ServiceId, seed: u64) -> Front {
        let service = topology.service(id);
        let ticks = service.idle_timeout.as_nanos().div_ceil(TICK.as_nanos());
        Front {
            service: id,
            connect: service.connect.clone(),
            queue_timeout: topology.pool(id.pool).queue_timeout,
            idle_ticks: Tick::try_from(ticks).unwrap_or(Tick::MAX),
            peer_timeout: service.peer_timeout,
            has_twin: topology.twin(id.pool).is_some(),
            send_proxy: [
                service.send_proxy,
                topology
                    .twin_service(id)
                    .is_some_and(|twin| topology.service(twin).send_proxy),
            ],
            accept_proxy: service.accept_proxy.clone(),
            lane: Lane::new(seed),
            hedges: HedgeBudget::default(),
        }
    }

    /// A session of this service now stands with a member of this pool, the front's own or its
    /// twin.
    pub(super) fn count_begun(&self, worker: &Worker, serving: PoolId) {
        if let Some(counters) = self.home_counters(worker) {
            if serving == self.service.pool {
                counters.at_home.add(1);
            } else {
                counters.at_twin.add(1);
            }
        }
    }

    /// One that stood there is over.
    pub(super) fn count_over(&self, worker: &Worker, serving: PoolId) {
        if let Some(counters) = self.home_counters(worker) {
            if serving == self.service.pool {
                counters.at_home_ended.add(1);
            } else {
                counters.at_twin_ended.add(1);
            }
        }
    }

    /// This service's counters on this worker.
    pub(super) fn counters<'a>(&self, worker: &'a Worker) -> &'a ServiceCounters {
        worker.counters.service(self.service)
    }

    /// The counters of the home pool's users, where it has a twin.
    fn home_counters<'a>(&self, worker: &'a Worker) -> Option<&'a HomeCounters> {
        let home = || worker.counters.home(self.service.pool);
        self.has_twin.then(home)
    }

    /// Whether a member of this pool, the front's own or its twin, is sent a PROXY header.
    pub(super) fn sends_header_to(&self, pool: PoolId) -> bool {
        self.send_proxy[usize::from(pool != self.service.pool)]
    }

    /// Whether a client at this address must begin with a PROXY header.
    pub(super) fn expects_header_from(&self, address: IpAddr) -> bool {
        lies_in(&self.accept_proxy, address)
    }
}
