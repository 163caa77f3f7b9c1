//! The hub: the control thread's state, and the one place where decisions become deeds.
//!
//! Everything here runs on one thread, so state is in cells and nothing waits for a lock. Whatever
//! comes in goes to the decider with the moment it came; [`Hub::turn`] then takes every output,
//! publishes one snapshot if routing changed, and only then has sessions ended, so that nobody who
//! reconnects meets the old routes.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, RwLock, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::StartError;
use super::desk::HubDesk;
use super::era::Era;
use super::handover::{Estate, Inheritance, Led, Standing, taken_flows};
use super::journal::Journal;
use super::keeper::Keeper;
use super::logs::Logs;
use super::memory::Remembered;
use super::pairs::Pairs;
use super::paths;
use super::records::{Records, Stored};
use super::reload::Prepared;
use super::resolver::{Resolved, Resolver};
use super::service_manager::ServiceManager;
use crate::clock;
use crate::config::Config;
use crate::control::server;
use crate::control::socket::{Claim, ControlSocket};
use crate::dispatch::addresses::{AddressBook, Change};
use crate::dispatch::{Handles, Snapshot};
use crate::health::probe::Prober;
use crate::health::runner::{self, Runner};
use crate::health::{Answer, Evidence, Failure, OwnFault, ProbeOutcome, Severity};
use crate::log;
use crate::observe::counters::{OwnFaultCounters, WorkerCounters};
use crate::observe::events::{Commanded, Events};
use crate::observe::http;
use crate::observe::measures::Transitions;
use crate::observe::onset::Onsets;
use crate::observe::reloads::Reloads;
use crate::observe::serve::{Gate, ServerCounters};
use crate::observe::shortage::Shortages;
use crate::observe::stamp::{Clock, Stamp};
use crate::observe::view::{Ceiling, LimitedBy, Room, RunState};
use crate::pairing::{Decider, Event, Order, Output, Pause, Refusal};
use crate::proxy::listen::{Listener, begin_to_listen};
use crate::proxy::{
    Adoption, FlowsWanted, FromWorker, HandFlows, Limits, Plan, ToWorker, Which, WorkerHandle,
    source_ports, start,
};
use crate::time::Time;
use crate::topology::{PoolId, Protocol, Service, TargetId, Topology};

/// Reports from workers that may wait; more are counted as dropped, and the next probe makes up
/// for them.
const REPORTS: usize = 4096;
/// Changes of our own links and routes that may wait; each is the whole list.
const PATH_NEWS: usize = 16;
/// How often an idle loop looks after workers that did not take a message.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// More endings at one moment are told as one: a worker looks at all of its sessions for each.
const MANY_ENDINGS: usize = 16;
/// Addresses that targets had and whose sessions are let drain: some for each of a large instance.
const MOST_STRAYS: usize = 4_096;
/// How often a draining instance looks whether its sessions are gone.
const LOOK_EMPTY: Duration = Duration::from_millis(50);
/// A fault of our own is told at most so often for each kind; it is counted every time.
const TELL_FAULT: Duration = Duration::from_secs(10);

/// The control thread's state.
pub(super) struct Hub {
    era: RefCell<Rc<Era>>,
    pub(super) decider: RefCell<Decider>,
    pub(super) book: RefCell<AddressBook>,
    pub(super) runner: Runner,
    pub(super) events: RefCell<Events>,
    pub(super) keeper: Keeper,
    pub(super) journal: Journal,
    pub(super) logs: Logs,
    pub(super) pairs: Pairs,
    pub(super) state: Cell<RunState>,
    pub(super) started: Time,
    /// Faults of our own that probes met; what workers met, they count.
    pub(super) own_faults: OwnFaultCounters,
    pub(super) shortages: RefCell<Shortages>,
    pub(super) transitions: RefCell<Transitions>,
    pub(super) onsets: RefCell<Onsets>,
    pub(super) observe_counters: Rc<ServerCounters>,
    pub(super) control_counters: Rc<ServerCounters>,
    pub(super) manager: ServiceManager,
    observe_address: Option<SocketAddr>,
    /// What came in last, until it is dealt with.
    held: RefCell<Option<Input>>,
    /// Rounds of the control loop.
    rounds: Cell<u64>,
    workers: RefCell<Vec<Worker>>,
    /// Something was decided outside the loop: its timer must be set anew.
    nudge: Notify,
    /// Addresses whose routes are watched.
    watched: watch::Sender<Vec<IpAddr>>,
    faults_told: RefCell<Vec<(OwnFault, Time)>>,
    /// Held by whoever names things by ids across an `await`; a reload waits for all of them.
    pub(super) commands: RwLock<()>,
    pub(super) prepared: mpsc::Sender<Box<Prepared>>,
    pub(super) reloads: RefCell<Reloads>,
    /// When sessions on addresses that are no longer a target's are ended.
    pub(super) strays: RefCell<Vec<(Time, TargetId, IpAddr)>>,
    /// The control socket that the command line gave, where it did.
    pub(super) socket_by_hand: Option<PathBuf>,
    /// Whether nothing is decided, because another process is about to serve, or does.
    still: watch::Sender<bool>,
    pub(super) estate: Estate,
    /// The file of the control socket.
    pub(super) claim: Rc<Claim>,
    /// The HTTP server and that of the control socket.
    pub(super) servers: RefCell<Vec<AbortHandle>>,
    /// Earlier processes that drain by what this one decides.
    pub(super) led: Led,
}

/// What an instance starts with, beside its configuration.
pub(super) struct Beginning {
    /// With free ports resolved.
    pub(super) topology: Topology,
    pub(super) descriptors: u64,
    /// By worker.
    pub(super) listeners: Vec<Vec<Listener>>,
    pub(super) observe: Option<TcpListener>,
    pub(super) control: ControlSocket,
    pub(super) manager: ServiceManager,
    pub(super) estate: Estate,
    pub(super) socket_by_hand: Option<PathBuf>,
    pub(super) inheritance: Option<Inheritance>,
}

/// A worker, and whether it missed a message and must be brought up to date.
struct Worker {
    handle: WorkerHandle,
    behind: bool,
}

/// What the control loop waits for.
pub(super) struct Inputs {
    pub(super) answers: mpsc::Receiver<(TargetId, ProbeOutcome)>,
    reports: mpsc::Receiver<FromWorker>,
    pub(super) names: mpsc::Receiver<Resolved>,
    paths: mpsc::Receiver<Vec<IpAddr>>,
    pub(super) stored: mpsc::Receiver<Stored>,
    /// Configurations that are to be put in force.
    prepared: mpsc::Receiver<Box<Prepared>>,
    pub(super) resolver: Resolver,
    /// What it looks up.
    pub(super) resolved: Vec<String>,
}

enum Input {
    Answer(TargetId, ProbeOutcome),
    Report(FromWorker),
    Name(Resolved),
    Paths(Vec<IpAddr>),
    Stored(Stored),
    Prepared(Box<Prepared>),
    Due,
}

impl Hub {
    /// Starts everything; what it returns serves once [`Hub::run`] is polled.
    pub(super) async fn start(
        config: Config,
        beginning: Beginning,
    ) -> Result<(Rc<Hub>, Inputs), StartError> {
        let Beginning {
            topology,
            descriptors,
            mut listeners,
            observe,
            control,
            manager,
            estate,
            socket_by_hand,
            inheritance,
        } = beginning;
        let logs = Logs::start(&config.log)?;
        let topology = Arc::new(topology);
        let limits = Limits::new(
            descriptors,
            listeners.len(),
            listeners.first().map_or(0, Vec::len),
            runner::MAX_AT_ONCE.min(topology.targets().count()),
            config.instance.max_sessions,
            flows_wanted(&config),
            source_ports(),
        );
        let prober = Prober::new(&topology).map_err(StartError::Probes)?;
        let (runner, answers) = Runner::new(prober, clock::now);
        let state_dir = config.instance.state_dir.as_deref();
        let ((keeper, kept), (journal, past)) =
            tokio::join!(Keeper::open(state_dir), Journal::open(state_dir));
        let (records, begin, stored) = match (&config.instance.state_dir, &*topology.pairs) {
            (_, []) => Records::none(),
            (None, [first, ..]) => return Err(StartError::NoStateDir(first.name.clone())),
            (Some(dir), _) => Records::open(dir, &topology, clock_at(clock::now())).await,
        };
        let now = clock::now();
        let mut standing = kept.remembered.standing(&topology, clock_at(now));
        if let Some(why) = kept.unusable.filter(|_| !topology.pairs.is_empty()) {
            // Whoever paused is forgotten with it: a person has to say that automation may go on.
            standing.pause = Some(Pause {
                by: "twinpool".to_owned(),
                reason: Some(format!("what operators decided is not known: {why}")),
                since: now,
            });
        }
        let seed: u64 = rand::random();
        let decider = match &inheritance {
            None => Decider::new(topology.clone(), standing, begin, seed, now),
            Some(inheritance) => inheritance.decider(&topology, begin, seed, now),
        };
        let book = AddressBook::new(&topology);
        let handles = Handles::new(&topology);
        let address = |target| book.current(target);
        let moving = match &inheritance {
            None => Vec::new(),
            Some(inheritance) => inheritance.moving(),
        };
        let is_moving = |pool| {
            let mut moving = moving.iter();
            moving.any(|(home, until)| *home == pool && now < *until)
        };
        let snapshot = Snapshot::new(0, &decider, &handles, now, is_moving, address);
        let snapshot = Arc::new(snapshot);

        let mut taken = match &inheritance {
            None => Vec::new(),
            Some(inheritance) => {
                let flows = inheritance.wait_for_turn().map_err(StartError::TakeOver)?;
                begin_to_listen(&mut listeners).map_err(|(address, error)| {
                    let why = format!("cannot listen on {address} beside others: {error}");
                    StartError::Worker(std::io::Error::other(why))
                })?;
                taken_flows(flows, &listeners, &handles, now)
            }
        };
        taken.resize_with(listeners.len(), Vec::new);
        let (report, reports) = mpsc::channel(REPORTS);
        let mut workers = Vec::new();
        let mut counters = Vec::new();
        let share = |of: u32| (of as usize).div_ceil(listeners.len().max(1));
        let (sessions, flows) = (share(limits.sessions), share(limits.flows));
        let room = room(&config, limits, (sessions, flows));
        let shortages = Shortages::new(&topology);
        let onsets = Onsets::new(&topology);
        for (index, (listeners, flows_taken)) in listeners.into_iter().zip(taken).enumerate() {
            let counted = Arc::new(WorkerCounters::new(&topology));
            counters.push(counted.clone());
            let ready = start(Plan {
                index,
                sessions,
                flows,
                listeners,
                flows_taken,
                topology: topology.clone(),
                snapshot: snapshot.clone(),
                counters: counted,
                access: logs.of_worker(&config.instance.name),
                reports: report.clone(),
                seed: seed.rotate_left(17).wrapping_add(index as u64),
            })
            .map_err(StartError::Worker)?;
            workers.push(ready);
        }
        // Only once all of them can: who is let in by one must not be lost with another.
        let workers = workers.into_iter().map(|ready| Worker {
            handle: ready.begin(),
            behind: false,
        });
        let workers = workers.collect();
        if inheritance.is_some() {
            control.claim().take_over();
        }
        let resolved: Vec<String> = book.names().map(|(name, _)| name.to_owned()).collect();
        let (resolver, names) = Resolver::start(resolved.clone());
        let (prepare, prepared) = mpsc::channel(1);
        let (watched, to_watch) = watch::channel(book.in_use());
        let (path_news, paths) = mpsc::channel(PATH_NEWS);
        spawn_local(paths::watch(to_watch, path_news));
        let inputs = Inputs {
            answers,
            reports,
            names,
            paths,
            stored,
            prepared,
            resolver,
            resolved,
        };
        let hub = Rc::new(Hub {
            pairs: Pairs::new(records, &topology, now),
            decider: RefCell::new(decider),
            book: RefCell::new(book),
            runner,
            events: RefCell::new(Events::after(past.events)),
            keeper,
            journal,
            logs,
            state: Cell::new(RunState::Starting),
            started: now,
            own_faults: OwnFaultCounters::default(),
            shortages: RefCell::new(shortages),
            transitions: RefCell::default(),
            onsets: RefCell::new(onsets),
            observe_counters: Rc::new(ServerCounters::default()),
            control_counters: Rc::new(ServerCounters::default()),
            manager,
            held: RefCell::default(),
            rounds: Cell::new(0),
            observe_address: observe.as_ref().and_then(|l| l.local_addr().ok()),
            workers: RefCell::new(workers),
            nudge: Notify::new(),
            watched,
            faults_told: RefCell::new(Vec::new()),
            commands: RwLock::new(()),
            prepared: prepare,
            reloads: RefCell::default(),
            strays: RefCell::default(),
            socket_by_hand,
            still: watch::channel(false).0,
            estate,
            claim: control.claim(),
            servers: RefCell::default(),
            led: Led::default(),
            era: RefCell::new(Rc::new(Era {
                epoch: 0,
                config,
                topology,
                handles,
                counters,
                room,
            })),
        });
        let before = match &inheritance {
            None => "started".to_owned(),
            Some(inheritance) => inheritance.told(),
        };
        let serves = about_to_serve(&hub.era().config);
        hub.tell_instance(format!("{before}: {serves}"), now);
        if let Some(told) = past.told {
            hub.tell_instance(told, now);
        }
        for (pair, problem) in hub.pairs.found() {
            hub.tell_instance(format!("{pair}: {problem}"), now);
        }
        if let Some(inheritance) = inheritance {
            let era = hub.era();
            hub.settle(&moving, now);
            // Whatever its predecessor could not write any more.
            hub.keeper.check(hub.remembered(now));
            let before = inheritance.serves();
            hub.led.lead(&era.topology, &era.handles, before, now);
        }
        let desk = Rc::new(HubDesk::new(hub.clone()));
        let gate = || Gate::new(hub.still.subscribe());
        let mut servers = Vec::new();
        if let Some(observe) = observe {
            let counters = hub.observe_counters.clone();
            let server = http::run(observe, desk.clone(), counters, gate());
            servers.push(spawn_local(server).abort_handle());
        }
        let server = server::run(control, desk, hub.control_counters.clone(), gate());
        servers.push(spawn_local(server).abort_handle());
        hub.servers.replace(servers);
        Ok((hub, inputs))
    }

    /// What is in force until the next reload.
    pub(super) fn era(&self) -> Rc<Era> {
        self.era.borrow().clone()
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        self.era.borrow().topology.clone()
    }

    pub(super) fn observe_address(&self) -> Option<SocketAddr> {
        self.observe_address
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.era().config.control.socket.clone()
    }

    /// The control loop: one input, one moment, one turn. Never ends; may be dropped and called
    /// again.
    pub(super) async fn run(self: &Rc<Self>, inputs: &mut Inputs) {
        self.turn(clock::now());
        loop {
            let held = self.held.take();
            let input = match held {
                Some(input) => input,
                None => self.next_input(inputs).await,
            };
            // Whoever drops this while it stands still must not lose what came in.
            self.held.replace(Some(input));
            self.goes_on().await;
            let Some(input) = self.held.take() else {
                continue;
            };
            let now = clock::now();
            match input {
                Input::Prepared(prepared) => self.switch(*prepared, inputs, now),
                input => self.handle(input, now),
            }
            // Pairs move together when a site is lost: one snapshot for what is in force by now.
            while let Ok(stored) = inputs.stored.try_recv() {
                self.stored(stored, now);
            }
            self.turn(now);
            self.check_disk(now);
            self.count_round();
        }
    }

    /// How often the control loop has gone round, then each worker.
    pub(super) fn rounds(&self) -> Vec<u64> {
        let era = self.era();
        let workers = era.counters.iter().map(|worker| worker.rounds.get());
        std::iter::once(self.rounds.get()).chain(workers).collect()
    }

    /// Has the control loop go round, whatever there is to do.
    pub(super) fn go_round(&self) {
        self.nudge.notify_one();
    }

    async fn next_input(&self, inputs: &mut Inputs) -> Input {
        let due = self.decider.borrow().poll_timeout().map(|(due, _)| due);
        let strays = self.strays.borrow().iter().map(|(at, _, _)| *at).min();
        let due = due.into_iter().chain(self.next_slice()).chain(strays);
        let due = due.chain(self.led.due()).min();
        let wait = due.map_or(LOOK_AFTER, |due| clock::now().until(due).min(LOOK_AFTER));
        let timer = sleep_until(Instant::now() + wait);
        tokio::select! {
            Some((target, outcome)) = inputs.answers.recv() => Input::Answer(target, outcome),
            Some(report) = inputs.reports.recv() => Input::Report(report),
            Some(resolved) = inputs.names.recv() => Input::Name(resolved),
            Some(unrouted) = inputs.paths.recv() => Input::Paths(unrouted),
            Some(stored) = inputs.stored.recv() => Input::Stored(stored),
            Some(prepared) = inputs.prepared.recv() => Input::Prepared(prepared),
            () = self.nudge.notified() => Input::Due,
            () = timer => Input::Due,
        }
    }
    fn handle(self: &Rc<Self>, input: Input, now: Time) {
        match input {
            Input::Answer(target, outcome) => self.answered(target, &outcome, now),
            // What a worker saw under an earlier topology names others by now.
            Input::Report(
                FromWorker::ConnectFailed { epoch, .. } | FromWorker::ConnectSlow { epoch, .. },
            ) if epoch != self.era().epoch => {}
            Input::Report(FromWorker::ConnectFailed {
                target, failure, ..
            }) => {
                let evidence = Evidence::Failed(failure);
                self.decider
                    .borrow_mut()
                    .handle_evidence(target, evidence, now);
            }
            Input::Report(FromWorker::ConnectSlow { target, since, .. }) => {
                self.decider
                    .borrow_mut()
                    .handle_evidence(target, Evidence::Slow(since), now);
            }
            Input::Report(FromWorker::OwnFault(fault)) => self.tell_fault(fault, now),
            Input::Name((name, answer)) => self.resolved(&name, answer),
            Input::Paths(unrouted) => {
                let members = self.book.borrow().members_only_at(&unrouted);
                self.decider.borrow_mut().handle_paths(&members, now);
            }
            Input::Stored(stored) => self.stored(stored, now),
            Input::Due => self.decider.borrow_mut().handle_timeout(now),
            // Taken by the loop itself.
            Input::Prepared(_) => {}
        }
    }

    /// A probe came back. One that found nobody may have asked the wrong one of several addresses.
    pub(super) fn answered(&self, target: TargetId, outcome: &ProbeOutcome, now: Time) {
        self.decider.borrow_mut().handle_probe(target, outcome, now);
        if let Answer::OwnFault(fault) = outcome.answer {
            // A name without an address is no lack of ours; it is told of the member.
            if fault != OwnFault::Name {
                self.own_faults.of(fault).add(1);
            }
            self.tell_fault(fault, now);
        }
        let nobody = |failure: Failure| failure.severity() == Severity::Hard;
        if matches!(outcome.answer, Answer::Bad(failure) if nobody(failure))
            && self.book.borrow_mut().rotate(target).is_some()
        {
            self.readdress();
        }
    }

    /// A name was looked up. Sessions on addresses that are gone are kept for as long as those of
    /// a drained member.
    fn resolved(self: &Rc<Self>, name: &str, answer: Result<Vec<IpAddr>, String>) {
        let changes = self.book.borrow_mut().handle_resolved(name, answer);
        if changes.is_empty() {
            return;
        }
        self.readdress();
        for change in changes {
            let Change::Gone { target, address } = change else {
                continue;
            };
            let deadline = self.topology().pool(target.pool).drain_deadline;
            let mut strays = self.strays.borrow_mut();
            // Each from when it went. Where more go than anybody has, the first go early.
            strays.retain(|(_, stray, host)| (*stray, *host) != (target, address.ip()));
            let now = clock::now();
            let over = (strays.len() + 1).saturating_sub(MOST_STRAYS);
            strays
                .iter_mut()
                .take(over)
                .for_each(|(at, _, _)| *at = now);
            strays.push((now + deadline, target, address.ip()));
        }
    }

    /// Ends sessions on addresses that have not been their target's for long enough.
    fn end_strays(&self, now: Time) {
        let due = |(at, _, _): &mut (Time, TargetId, IpAddr)| *at <= now;
        let due: Vec<_> = self.strays.borrow_mut().extract_if(.., due).collect();
        for (_, target, _) in due {
            let strays = self.strays.borrow();
            let others = strays.iter().filter(|(_, stray, _)| *stray == target);
            let others = others.map(|(_, _, host)| *host);
            let book = self.book.borrow();
            let known = book.addresses(target).map(|address| address.ip());
            let keep = known.chain(others).collect();
            self.tell_workers(&ToWorker::End(Which::Strays { target, keep }));
        }
    }

    /// What holds from now on.
    pub(super) fn begin_era(&self, era: Rc<Era>) {
        self.era.replace(era);
    }

    /// Whether every worker takes another configuration now.
    pub(super) fn can_adopt(&self) -> bool {
        let workers = self.workers.borrow();
        workers.iter().all(|worker| worker.handle.has_room())
    }

    /// Has a worker go on under another configuration; it has room for that.
    pub(super) fn have_adopted(&self, worker: usize, adoption: Adoption) {
        if let Some(worker) = self.workers.borrow_mut().get_mut(worker)
            && worker.handle.adopt(adoption).is_err()
        {
            tracing::error!("a worker takes no configuration; is it stuck?");
        }
    }

    /// Takes every output of the decider: deeds in order, one snapshot, then endings.
    pub(super) fn turn(&self, now: Time) {
        let mut endings = Vec::new();
        let mut publish = false;
        while let Some(output) = self.next_output() {
            match output {
                Output::Probe(target) => {
                    self.runner.ask(target, self.book.borrow().current(target));
                }
                Output::End {
                    member, service, ..
                } => {
                    // Who is ended must not be given another by a connect that is under way.
                    publish = true;
                    endings.push((member, service));
                }
                Output::Tell(event) => self.tell(&event, now),
                Output::Publish => publish = true,
                Output::Remember => self.keeper.keep(self.remembered(now)),
                Output::Store(pair, record) => self.store(pair, &record, now),
                Output::Clear { home, off, from } => {
                    self.clear(home, off, from, now);
                    self.led.clear(home, off, from);
                }
            }
        }
        if publish {
            self.publish();
        }
        let all_down = endings.len() > MANY_ENDINGS;
        if all_down {
            self.tell_workers(&ToWorker::End(Which::Down));
        } else {
            for &(member, service) in &endings {
                self.tell_workers(&ToWorker::End(Which::Member { member, service }));
            }
        }
        let legacy = || self.decider.borrow().legacy();
        self.led.tell(publish, &endings, all_down, now, legacy);
        self.move_on(now);
        self.end_strays(now);
        self.bring_up_to_date();
        self.look(now);
        log::tell_storms(now);
        if self.state.get() == RunState::Starting && self.decider.borrow().settled() {
            self.state.set(RunState::Serving);
        }
    }

    fn next_output(&self) -> Option<Output> {
        self.decider.borrow_mut().poll_output()
    }

    /// Carries out an operator's order and what follows from it.
    pub(super) fn order(&self, order: Order, now: Time) -> Result<(), Refusal> {
        self.decider.borrow_mut().handle_order(order, now)?;
        self.follow(now);
        Ok(())
    }

    /// Does what follows from something that was decided outside the loop.
    pub(super) fn follow(&self, now: Time) {
        if !*self.still.borrow() {
            self.turn(now);
        }
        self.nudge.notify_one();
    }

    // While another process takes over.

    /// Whether another process decides by now.
    pub(super) fn has_handed_over(&self) -> bool {
        self.estate.is_handed_over()
    }

    /// Has nothing decided until [`Hub::go_on`]: neither by the loop nor by commands, and nobody
    /// new is let in to ask for anything.
    pub(super) fn stand_still(&self) {
        self.still.send_replace(true);
    }

    pub(super) fn go_on(&self) {
        self.still.send_replace(false);
        self.nudge.notify_one();
    }

    async fn goes_on(&self) {
        let mut still = self.still.subscribe();
        loop {
            tokio::select! {
                biased;
                // Its sender is in here.
                _ = still.wait_for(|still| !still) => return,
                // It is not stuck: it stands still for as long as it may.
                () = self.nudge.notified() => self.count_round(),
            }
        }
    }

    fn count_round(&self) {
        self.rounds.set(self.rounds.get().wrapping_add(1));
    }

    /// Every worker's listeners once more, worker by worker.
    pub(super) fn share_listeners(&self) -> Vec<oneshot::Receiver<std::io::Result<Vec<OwnedFd>>>> {
        let workers = self.workers.borrow();
        let shared = workers.iter().map(|worker| worker.handle.share_listeners());
        shared.collect()
    }

    /// Has a worker prepare its flows over UDP for another process.
    ///
    /// # Errors
    /// When it takes no messages.
    pub(super) fn hand_flows(&self, worker: usize, order: HandFlows) -> Result<(), String> {
        let workers = self.workers.borrow();
        let told = workers
            .get(worker)
            .map(|worker| worker.handle.hand_flows(order));
        match told {
            Some(true) => Ok(()),
            _ => Err(format!("worker {worker} takes no messages; is it stuck?")),
        }
    }

    /// Closes the listeners, which live on in another process; resolves once every worker has.
    pub(super) fn leave(&self) -> impl Future<Output = ()> + use<> {
        self.tell_workers(&ToWorker::Leave);
        // A worker answers in order: what it shares now is nothing, and it has left.
        let left = self.share_listeners();
        async move {
            for left in left {
                drop(left.await);
            }
        }
    }

    /// What another process has to know to go on as this one would.
    pub(super) fn standing(&self) -> Box<Standing> {
        let now = clock::now();
        Box::new(Standing {
            legacy: self.decider.borrow().legacy().without_probes(),
            moving: self.moving(now),
        })
    }

    /// Takes what comes in for one that decides nothing: where names are found, and nothing else.
    pub(super) async fn idle(self: &Rc<Self>, inputs: &mut Inputs) {
        tokio::select! {
            Some((name, answer)) = inputs.names.recv() => self.resolved(&name, answer),
            Some(_) = inputs.answers.recv() => {}
            Some(_) = inputs.reports.recv() => {}
            Some(_) = inputs.paths.recv() => {}
            () = self.nudge.notified() => {}
        }
    }

    /// Does what goes on where nothing is decided any more: moves and endings that have begun.
    pub(super) fn carry_on(&self, now: Time) {
        self.count_round();
        self.move_on(now);
        self.end_strays(now);
        self.bring_up_to_date();
        log::tell_storms(now);
    }

    pub(super) fn stop_deadline(&self) -> Duration {
        self.era().config.instance.stop_deadline
    }

    /// Waits until what was ordered last is on disk.
    pub(super) async fn kept(&self) -> Result<(), String> {
        self.keeper.kept().await
    }

    /// Closes the listeners; sessions go on.
    pub(super) fn close(&self) {
        self.state.set(RunState::Draining);
        let open = self.open();
        self.tell_instance(
            format!("stopping: no new sessions, {open} left"),
            clock::now(),
        );
        self.manager.stopping();
        self.tell_workers(&ToWorker::Close);
        self.led.stop();
    }

    /// Resolves once no session is left, nor any process that drains before this one, or the stop
    /// deadline has passed.
    pub(super) async fn emptied(&self) {
        let deadline = Instant::now() + self.stop_deadline();
        let is_empty = || self.open() == 0 && self.led.draining().is_empty();
        while !is_empty() && Instant::now() < deadline {
            sleep(LOOK_EMPTY).await;
        }
    }

    /// Ends the workers, with what sessions they have left.
    pub(super) fn end(&self) {
        let open = self.open();
        if open > 0 {
            tracing::warn!(sessions = open, "the rest is reset");
        }
        for worker in self.workers.take() {
            if worker.handle.join().is_err() {
                tracing::error!("a worker panicked; this is a bug in twinpool");
            }
        }
    }

    /// Writes the last lines of the logs; after [`Hub::end`].
    pub(super) fn finish_logs(&self) {
        self.logs.finish();
    }

    /// Sessions open on all workers.
    pub(super) fn open(&self) -> u64 {
        self.era().counters.iter().map(|worker| worker.open()).sum()
    }

    /// Some target is found elsewhere now.
    pub(super) fn readdress(&self) {
        self.watched.send_replace(self.book.borrow().in_use());
        self.publish();
    }

    pub(super) fn publish(&self) {
        let snapshot = self.snapshot(clock::now());
        self.tell_workers(&ToWorker::Publish(Arc::new(snapshot)));
    }

    /// Who may be chosen, as things stand.
    pub(super) fn snapshot(&self, now: Time) -> Snapshot {
        let era = self.era();
        let decider = self.decider.borrow();
        let book = self.book.borrow();
        let moving = |pool| self.is_moving(pool, now);
        let address = |target| book.current(target);
        let snapshot = Snapshot::new(era.epoch, &decider, &era.handles, now, moving, address);
        self.note_moving(now);
        snapshot
    }

    pub(super) fn tell_workers(&self, message: &ToWorker) {
        for worker in self.workers.borrow_mut().iter_mut() {
            worker.tell(message.clone());
        }
    }

    pub(super) fn tell_worker(&self, index: usize, message: ToWorker) {
        if let Some(worker) = self.workers.borrow_mut().get_mut(index) {
            worker.tell(message);
        }
    }

    /// A worker that missed a message gets what stands now: routes, endings of all who are down,
    /// and that the instance stops.
    fn bring_up_to_date(&self) {
        if self.workers.borrow().iter().all(|worker| !worker.behind) {
            return;
        }
        for worker in self.workers.borrow_mut().iter_mut() {
            worker.behind = false;
        }
        if self.state.get() == RunState::Draining {
            self.tell_workers(&ToWorker::Close);
        }
        self.publish();
        self.tell_workers(&ToWorker::End(Which::Down));
        self.move_anew();
    }

    pub(super) fn tell(&self, event: &Event, now: Time) {
        self.transitions.borrow_mut().count(event);
        let at = clock_at(now).stamp(now);
        let mut events = self.events.borrow_mut();
        self.journal
            .keep(events.tell(&self.topology(), event, now, at));
    }

    pub(super) fn tell_instance(&self, text: String, now: Time) {
        let at = clock_at(now).stamp(now);
        let mut events = self.events.borrow_mut();
        self.journal.keep(events.tell_instance(text, at));
    }

    pub(super) fn tell_moved(&self, home: PoolId, off: PoolId, now: Time) {
        let at = clock_at(now).stamp(now);
        let mut events = self.events.borrow_mut();
        self.journal
            .keep(events.tell_moved(&self.topology(), home, off, at));
    }

    pub(super) fn tell_command(&self, command: &Commanded) {
        let at = Stamp::from(clock::wall());
        let mut events = self.events.borrow_mut();
        self.journal
            .keep(events.tell_command(&self.topology(), command, at));
    }

    fn tell_fault(&self, fault: OwnFault, now: Time) {
        let mut told = self.faults_told.borrow_mut();
        match told.iter_mut().find(|(kind, _)| *kind == fault) {
            Some((_, last)) if now.since(*last) < TELL_FAULT => return,
            Some((_, last)) => *last = now,
            None => told.push((fault, now)),
        }
        tracing::warn!(%fault, "something failed through a fault of our own; no member is blamed");
    }

    pub(super) fn remembered(&self, now: Time) -> Remembered {
        let standing = self.decider.borrow().standing();
        Remembered::new(&standing, &self.topology(), clock_at(now))
    }
}

impl Worker {
    fn tell(&mut self, message: ToWorker) {
        if !self.handle.tell(message) && !self.behind {
            self.behind = true;
            tracing::error!("a worker takes no messages; is it stuck?");
        }
    }
}

/// What an instance begins to serve, in a few words.
fn about_to_serve(config: &Config) -> String {
    let counted = |n: usize, one: &str| match n {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    };
    let topology = &config.topology;
    format!(
        "version {}, {}, {}",
        env!("CARGO_PKG_VERSION"),
        counted(topology.pools.len(), "pool"),
        counted(topology.pairs.len(), "pair")
    )
}

pub(super) fn clock_at(now: Time) -> Clock {
    Clock {
        now,
        wall: clock::wall(),
    }
}

/// What the instance may hold, and why not more.
pub(super) fn room(config: &Config, limits: Limits, (sessions, flows): (usize, usize)) -> Room {
    let ceiling = |what: &str, most: u32, each: usize, wanted: Option<NonZeroU32>, ports: bool| {
        let wanted = wanted.map(NonZeroU32::get);
        if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
            if ports {
                tracing::warn!(
                    "half of the source ports leave room for {most} {what}, not for {wanted}; widen \
                     net.ipv4.ip_local_port_range"
                );
            } else {
                tracing::warn!(
                    "the limit of {} open descriptors leaves room for {most} {what}, not for \
                     {wanted}; raise LimitNOFILE= in the unit of twinpool",
                    limits.descriptors
                );
            }
        }
        Ceiling {
            most: u64::from(most),
            each: each as u64,
            by: match wanted {
                Some(wanted) if wanted <= most => LimitedBy::Setting,
                _ if ports => LimitedBy::SourcePorts,
                _ => LimitedBy::Descriptors,
            },
        }
    };
    let instance = &config.instance;
    let has_flows = flows_wanted(config) != FlowsWanted::NoService;
    Room {
        descriptors: limits.descriptors,
        sessions: ceiling(
            "sessions",
            limits.sessions,
            sessions,
            instance.max_sessions,
            false,
        ),
        flows: has_flows.then(|| {
            ceiling(
                "flows",
                limits.flows,
                flows,
                instance.max_flows,
                limits.short_of_ports,
            )
        }),
    }
}

/// What is wanted of flows: where no service is over UDP, sessions have all the room.
pub(super) fn flows_wanted(config: &Config) -> FlowsWanted {
    let mut services = config.topology.pools.iter().flat_map(|pool| &pool.services);
    let is_udp = |service: &Service| service.protocol == Protocol::Udp;
    match config.instance.max_flows {
        _ if !services.any(is_udp) => FlowsWanted::NoService,
        None => FlowsWanted::AsFit,
        Some(most) => FlowsWanted::Most(most),
    }
}
