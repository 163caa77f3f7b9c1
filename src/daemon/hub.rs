//! The hub: the control thread's state, and the one place where decisions become deeds.
//!
//! Everything here runs on one thread, so state is in cells and nothing waits for a lock. Whatever
//! comes in goes to the decider with the moment it came; [`Hub::turn`] then takes every output,
//! publishes one snapshot if routing changed, and only then has sessions ended, so that nobody who
//! reconnects meets the old routes.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};

use super::StartError;
use super::desk::HubDesk;
use super::keeper::Keeper;
use super::logs::Logs;
use super::memory::Remembered;
use super::pairs::Pairs;
use super::paths;
use super::records::{Records, Stored};
use super::resolver::{Resolved, Resolver};
use crate::clock;
use crate::config::Config;
use crate::control::server;
use crate::control::socket::ControlSocket;
use crate::dispatch::addresses::{AddressBook, Change};
use crate::dispatch::{Handles, Snapshot};
use crate::health::probe::Prober;
use crate::health::runner::{self, Runner};
use crate::health::{Answer, Evidence, Failure, OwnFault, ProbeOutcome, Severity};
use crate::log;
use crate::observe::counters::{OwnFaultCounters, WorkerCounters};
use crate::observe::events::Events;
use crate::observe::http;
use crate::observe::onset::Onsets;
use crate::observe::serve::ServerCounters;
use crate::observe::shortage::Shortages;
use crate::observe::stamp::Clock;
use crate::observe::view::{Ceiling, LimitedBy, Room, RunState};
use crate::pairing::{Decider, Event, Order, Output, Pause, Refusal};
use crate::proxy::listen::Listener;
use crate::proxy::{
    FlowsWanted, FromWorker, Limits, Plan, ToWorker, Which, WorkerHandle, source_ports, start,
};
use crate::time::Time;
use crate::topology::{Protocol, Service, TargetId, Topology};

/// Reports from workers that may wait; more are counted as dropped, and the next probe makes up
/// for them.
const REPORTS: usize = 4096;
/// Changes of our own links and routes that may wait; each is the whole list.
const PATH_NEWS: usize = 16;
/// How often an idle loop looks after workers that did not take a message.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// More endings at one moment are told as one: a worker looks at all of its sessions for each.
const MANY_ENDINGS: usize = 16;
/// How often a draining instance looks whether its sessions are gone.
const LOOK_EMPTY: Duration = Duration::from_millis(50);
/// A fault of our own is told at most so often for each kind; it is counted every time.
const TELL_FAULT: Duration = Duration::from_secs(10);

/// The control thread's state.
pub(super) struct Hub {
    pub(super) config: Config,
    pub(super) topology: Arc<Topology>,
    pub(super) decider: RefCell<Decider>,
    pub(super) book: RefCell<AddressBook>,
    pub(super) handles: Handles,
    pub(super) runner: Runner,
    pub(super) counters: Vec<Arc<WorkerCounters>>,
    pub(super) events: RefCell<Events>,
    pub(super) keeper: Keeper,
    pub(super) logs: Logs,
    pub(super) pairs: Pairs,
    pub(super) state: Cell<RunState>,
    pub(super) started: Time,
    pub(super) room: Room,
    /// Faults of our own that probes met; what workers met, they count.
    pub(super) own_faults: OwnFaultCounters,
    pub(super) shortages: RefCell<Shortages>,
    pub(super) onsets: RefCell<Onsets>,
    pub(super) observe_counters: Rc<ServerCounters>,
    pub(super) control_counters: Rc<ServerCounters>,
    observe_address: Option<SocketAddr>,
    workers: RefCell<Vec<Worker>>,
    /// Something was decided outside the loop: its timer must be set anew.
    nudge: Notify,
    /// Addresses whose routes are watched.
    watched: watch::Sender<Vec<IpAddr>>,
    faults_told: RefCell<Vec<(OwnFault, Time)>>,
}

/// A worker, and whether it missed a message and must be brought up to date.
struct Worker {
    handle: WorkerHandle,
    behind: bool,
}

/// What the control loop waits for.
pub(super) struct Inputs {
    answers: mpsc::Receiver<(TargetId, ProbeOutcome)>,
    reports: mpsc::Receiver<FromWorker>,
    names: mpsc::Receiver<Resolved>,
    paths: mpsc::Receiver<Vec<IpAddr>>,
    stored: mpsc::Receiver<Stored>,
    _resolver: Resolver,
}

enum Input {
    Answer(TargetId, ProbeOutcome),
    Report(FromWorker),
    Name(Resolved),
    Paths(Vec<IpAddr>),
    Stored(Stored),
    Due,
}

impl Hub {
    /// Starts everything; what it returns serves once [`Hub::run`] is polled.
    pub(super) async fn start(
        config: Config,
        descriptors: u64,
        listeners: Vec<Vec<Listener>>,
        control: ControlSocket,
    ) -> Result<(Rc<Hub>, Inputs), StartError> {
        let logs = Logs::start(&config.log)?;
        let topology = Arc::new(config.topology.clone());
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
        let (keeper, kept) = Keeper::open(config.instance.state_dir.as_deref()).await;
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
        let decider = Decider::new(topology.clone(), standing, begin, seed, now);
        let book = AddressBook::new(&topology);
        let handles = Handles::new(&topology);
        let address = |target| book.current(target);
        let snapshot = Snapshot::new(&decider, &handles, now, |_| false, address);
        let snapshot = Arc::new(snapshot);

        let observe = match config.observe.listen {
            Some(address) => {
                let listener = TcpListener::bind(address).await;
                Some(listener.map_err(|error| StartError::Observe(address, error))?)
            }
            None => None,
        };

        let (report, reports) = mpsc::channel(REPORTS);
        let mut workers = Vec::new();
        let mut counters = Vec::new();
        let share = |of: u32| (of as usize).div_ceil(listeners.len().max(1));
        let (sessions, flows) = (share(limits.sessions), share(limits.flows));
        let room = room(&config, limits, (sessions, flows));
        let shortages = Shortages::new(&topology);
        let onsets = Onsets::new(&topology);
        for (index, listeners) in listeners.into_iter().enumerate() {
            let counted = Arc::new(WorkerCounters::new(&topology));
            counters.push(counted.clone());
            let handle = start(Plan {
                index,
                sessions,
                flows,
                listeners,
                topology: topology.clone(),
                snapshot: snapshot.clone(),
                counters: counted,
                access: logs.of_worker(&config.instance.name),
                reports: report.clone(),
                seed: seed.rotate_left(17).wrapping_add(index as u64),
            })
            .map_err(StartError::Worker)?;
            workers.push(Worker {
                handle,
                behind: false,
            });
        }
        let names = book.names().map(|(name, _)| name.to_owned());
        let (resolver, names) = Resolver::start(names.collect::<Vec<_>>());
        let (watched, to_watch) = watch::channel(book.in_use());
        let (path_news, paths) = mpsc::channel(PATH_NEWS);
        spawn_local(paths::watch(to_watch, path_news));
        let inputs = Inputs {
            answers,
            reports,
            names,
            paths,
            stored,
            _resolver: resolver,
        };
        let hub = Rc::new(Hub {
            pairs: Pairs::new(records, &topology, now),
            topology,
            decider: RefCell::new(decider),
            book: RefCell::new(book),
            handles,
            runner,
            counters,
            events: RefCell::new(Events::new()),
            keeper,
            logs,
            state: Cell::new(RunState::Starting),
            started: now,
            room,
            own_faults: OwnFaultCounters::default(),
            shortages: RefCell::new(shortages),
            onsets: RefCell::new(onsets),
            observe_counters: Rc::new(ServerCounters::default()),
            control_counters: Rc::new(ServerCounters::default()),
            observe_address: observe.as_ref().and_then(|l| l.local_addr().ok()),
            workers: RefCell::new(workers),
            nudge: Notify::new(),
            watched,
            faults_told: RefCell::new(Vec::new()),
            config,
        });
        for (pair, problem) in hub.pairs.found() {
            hub.tell_instance(format!("{pair}: {problem}"), now);
        }
        let desk = Rc::new(HubDesk::new(hub.clone()));
        if let Some(observe) = observe {
            spawn_local(http::run(
                observe,
                desk.clone(),
                hub.observe_counters.clone(),
            ));
        }
        let logs = hub.clone();
        spawn_local(async move { logs.logs.reopen_when_told().await });
        spawn_local(server::run(control, desk, hub.control_counters.clone()));
        Ok((hub, inputs))
    }

    pub(super) fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    pub(super) fn observe_address(&self) -> Option<SocketAddr> {
        self.observe_address
    }

    pub(super) fn socket(&self) -> &Path {
        &self.config.control.socket
    }

    /// The control loop: one input, one moment, one turn. Never ends; may be dropped and called
    /// again.
    pub(super) async fn run(self: &Rc<Self>, inputs: &mut Inputs) {
        self.turn(clock::now());
        loop {
            let input = self.next_input(inputs).await;
            let now = clock::now();
            self.handle(input, now);
            // Pairs move together when a site is lost: one snapshot for what is in force by now.
            while let Ok(stored) = inputs.stored.try_recv() {
                self.stored(stored, now);
            }
            self.turn(now);
            self.check_disk(now);
        }
    }

    async fn next_input(&self, inputs: &mut Inputs) -> Input {
        let due = self.decider.borrow().poll_timeout().map(|(due, _)| due);
        let due = due.into_iter().chain(self.next_slice()).min();
        let wait = due.map_or(LOOK_AFTER, |due| clock::now().until(due).min(LOOK_AFTER));
        let timer = sleep_until(Instant::now() + wait);
        tokio::select! {
            Some((target, outcome)) = inputs.answers.recv() => Input::Answer(target, outcome),
            Some(report) = inputs.reports.recv() => Input::Report(report),
            Some(resolved) = inputs.names.recv() => Input::Name(resolved),
            Some(unrouted) = inputs.paths.recv() => Input::Paths(unrouted),
            Some(stored) = inputs.stored.recv() => Input::Stored(stored),
            () = self.nudge.notified() => Input::Due,
            () = timer => Input::Due,
        }
    }
    fn handle(self: &Rc<Self>, input: Input, now: Time) {
        match input {
            Input::Answer(target, outcome) => self.answered(target, &outcome, now),
            Input::Report(FromWorker::ConnectFailed(target, failure)) => {
                let evidence = Evidence::Failed(failure);
                self.decider
                    .borrow_mut()
                    .handle_evidence(target, evidence, now);
            }
            Input::Report(FromWorker::ConnectSlow(target, since)) => {
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
        }
    }

    /// A probe came back. One that found nobody may have asked the wrong one of several addresses.
    fn answered(&self, target: TargetId, outcome: &ProbeOutcome, now: Time) {
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
            let Change::Gone { target, .. } = change else {
                continue;
            };
            let hub = self.clone();
            let deadline = self.topology.pool(target.pool).drain_deadline;
            spawn_local(async move {
                sleep(deadline).await;
                let keep = hub
                    .book
                    .borrow()
                    .addresses(target)
                    .map(|a| a.ip())
                    .collect();
                hub.tell_workers(&ToWorker::End(Which::Strays { target, keep }));
            });
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
                    endings.push(Which::Member { member, service });
                }
                Output::Tell(event) => self.tell(&event, now),
                Output::Publish => publish = true,
                Output::Remember => self.keeper.keep(self.remembered(now)),
                Output::Store(pair, record) => self.store(pair, &record, now),
                Output::Clear { home, off, from } => self.clear(home, off, from, now),
            }
        }
        if publish {
            self.publish();
        }
        if endings.len() > MANY_ENDINGS {
            self.tell_workers(&ToWorker::End(Which::Down));
        } else {
            for which in endings {
                self.tell_workers(&ToWorker::End(which));
            }
        }
        self.move_on(now);
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
        self.turn(now);
        self.nudge.notify_one();
    }

    /// Waits until what was ordered last is on disk.
    pub(super) async fn kept(&self) -> Result<(), String> {
        self.keeper.kept().await
    }

    /// Closes the listeners; sessions go on.
    pub(super) fn close(&self) {
        self.state.set(RunState::Draining);
        tracing::info!(sessions = self.open(), "stopping: no new sessions");
        self.tell_workers(&ToWorker::Close);
    }

    /// Resolves once no session is left, or the stop deadline has passed.
    pub(super) async fn emptied(&self) {
        let deadline = Instant::now() + self.config.instance.stop_deadline;
        while self.open() > 0 && Instant::now() < deadline {
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
    fn open(&self) -> u64 {
        self.counters.iter().map(|worker| worker.open()).sum()
    }

    /// Some target is found elsewhere now.
    fn readdress(&self) {
        self.watched.send_replace(self.book.borrow().in_use());
        self.publish();
    }

    pub(super) fn publish(&self) {
        let decider = self.decider.borrow();
        let book = self.book.borrow();
        let now = clock::now();
        let moving = |pool| self.is_moving(pool, now);
        let address = |target| book.current(target);
        let snapshot = Snapshot::new(&decider, &self.handles, now, moving, address);
        self.note_moving(now);
        self.tell_workers(&ToWorker::Publish(Arc::new(snapshot)));
    }

    fn tell_workers(&self, message: &ToWorker) {
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
        let at = clock_at(now).stamp(now);
        self.events
            .borrow_mut()
            .tell(&self.topology, event, now, at);
    }

    pub(super) fn tell_instance(&self, text: String, now: Time) {
        let at = clock_at(now).stamp(now);
        self.events.borrow_mut().tell_instance(text, at);
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
        Remembered::new(&standing, &self.topology, clock_at(now))
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

pub(super) fn clock_at(now: Time) -> Clock {
    Clock {
        now,
        wall: clock::wall(),
    }
}

/// What the instance may hold, and why not more.
fn room(config: &Config, limits: Limits, (sessions, flows): (usize, usize)) -> Room {
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
fn flows_wanted(config: &Config) -> FlowsWanted {
    let mut services = config.topology.pools.iter().flat_map(|pool| &pool.services);
    let is_udp = |service: &Service| service.protocol == Protocol::Udp;
    match config.instance.max_flows {
        _ if !services.any(is_udp) => FlowsWanted::NoService,
        None => FlowsWanted::AsFit,
        Some(most) => FlowsWanted::Most(most),
    }
}
