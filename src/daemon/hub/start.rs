//! How the hub comes to be: everything is opened, read and bound, and only then served.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{Notify, RwLock, mpsc, watch};
use tokio::task::spawn_local;

use super::super::StartError;
use super::super::desk::HubDesk;
use super::super::era::Era;
use super::super::handover::{Estate, Inheritance, Led, taken_flows};
use super::super::journal::Journal;
use super::super::keeper::Keeper;
use super::super::logs::Logs;
use super::super::pairs::Pairs;
use super::super::paths;
use super::super::records::Records;
use super::super::resolver::Resolver;
use super::super::service_manager::ServiceManager;
use super::room::{flows_wanted, room};
use super::workers::Worker;
use super::{Hub, Inputs, clock_at};
use crate::clock;
use crate::config::Config;
use crate::control::server;
use crate::control::socket::ControlSocket;
use crate::dispatch::addresses::AddressBook;
use crate::dispatch::{Handles, Snapshot};
use crate::health::probe::Prober;
use crate::health::runner::{self, Runner};
use crate::observe::counters::{OwnFaultCounters, WorkerCounters};
use crate::observe::events::Events;
use crate::observe::http;
use crate::observe::onset::Onsets;
use crate::observe::serve::{Gate, ServerCounters};
use crate::observe::shortage::Shortages;
use crate::observe::view::RunState;
use crate::pairing::{Decider, Pause};
use crate::proxy::listen::{Listener, begin_to_listen};
use crate::proxy::{Limits, Plan, source_ports, start};
use crate::time::Time;
use crate::topology::Topology;

/// Reports from workers that may wait; more are counted as dropped, and the next probe makes up
/// for them.
const REPORTS: usize = 4096;
/// Changes of our own links and routes that may wait; each is the whole list.
const PATH_NEWS: usize = 16;

/// What an instance starts with, beside its configuration.
pub(in crate::daemon) struct Beginning {
    /// With free ports resolved.
    pub(in crate::daemon) topology: Topology,
    pub(in crate::daemon) descriptors: u64,
    /// By worker.
    pub(in crate::daemon) listeners: Vec<Vec<Listener>>,
    pub(in crate::daemon) observe: Option<TcpListener>,
    pub(in crate::daemon) control: ControlSocket,
    pub(in crate::daemon) manager: ServiceManager,
    pub(in crate::daemon) estate: Estate,
    pub(in crate::daemon) socket_by_hand: Option<PathBuf>,
    pub(in crate::daemon) inheritance: Option<Inheritance>,
}

impl Hub {
    /// Starts everything; what it returns serves once [`Hub::run`] is polled.
    pub(in crate::daemon) async fn start(
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
        let share = |of: u32| (of as usize).div_ceil(listeners.len().max(1));
        let (sessions, flows) = (share(limits.sessions), share(limits.flows));
        let room = room(&config, limits, (sessions, flows));
        let (report, reports) = mpsc::channel(REPORTS);
        let plan = |index, listeners, flows_taken| Plan {
            index,
            sessions,
            flows,
            listeners,
            flows_taken,
            topology: topology.clone(),
            snapshot: snapshot.clone(),
            counters: Arc::new(WorkerCounters::new(&topology)),
            access: logs.of_worker(&config.instance.name),
            reports: report.clone(),
            seed: seed.rotate_left(17).wrapping_add(index as u64),
        };
        let each = (0..).zip(listeners.into_iter().zip(taken));
        let plans = each.map(|(index, (listeners, taken))| plan(index, listeners, taken));
        let (workers, counters) = start_workers(plans)?;
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
            shortages: RefCell::new(Shortages::new(&topology)),
            transitions: RefCell::default(),
            onsets: RefCell::new(Onsets::new(&topology)),
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
        hub.tell_beginning(inheritance.as_ref(), past.told, now);
        if let Some(inheritance) = inheritance {
            let era = hub.era();
            hub.settle(&moving, now);
            // Whatever its predecessor could not write any more.
            hub.keeper.check(hub.remembered(now));
            let before = inheritance.serves();
            hub.led.lead(&era.topology, &era.handles, before, now);
        }
        hub.answer_at(observe, control);
        Ok((hub, inputs))
    }

    fn tell_beginning(
        &self,
        inheritance: Option<&Inheritance>,
        of_the_past: Option<String>,
        now: Time,
    ) {
        let before = match inheritance {
            None => "started".to_owned(),
            Some(inheritance) => inheritance.told(),
        };
        let serves = about_to_serve(&self.era().config);
        self.tell_instance(format!("{before}: {serves}"), now);
        if let Some(told) = of_the_past {
            self.tell_instance(told, now);
        }
        for (pair, problem) in self.pairs.found() {
            self.tell_instance(format!("{pair}: {problem}"), now);
        }
    }

    /// Has the HTTP server, if there is to be one, and that of the control socket answer.
    fn answer_at(self: &Rc<Self>, observe: Option<TcpListener>, control: ControlSocket) {
        let desk = Rc::new(HubDesk::new(self.clone()));
        let gate = || Gate::new(self.still.subscribe());
        let mut servers = Vec::new();
        if let Some(observe) = observe {
            let counters = self.observe_counters.clone();
            let server = http::run(observe, desk.clone(), counters, gate());
            servers.push(spawn_local(server).abort_handle());
        }
        let server = server::run(control, desk, self.control_counters.clone(), gate());
        servers.push(spawn_local(server).abort_handle());
        self.servers.replace(servers);
    }
}

/// Starts a worker by each of these plans; what they count.
fn start_workers(
    plans: impl Iterator<Item = Plan>,
) -> Result<(Vec<Worker>, Vec<Arc<WorkerCounters>>), StartError> {
    let (mut ready, mut counters) = (Vec::new(), Vec::new());
    for plan in plans {
        counters.push(plan.counters.clone());
        ready.push(start(plan).map_err(StartError::Worker)?);
    }
    // Only once all of them can: who is let in by one must not be lost with another.
    let begun = ready.into_iter().map(|ready| Worker::new(ready.begin()));
    Ok((begun.collect(), counters))
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
