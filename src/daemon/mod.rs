//! The running instance: everything else, wired together.
//!
//! One control thread owns the [`Hub`](hub::Hub) and everything that decides or is asked: probes,
//! names, own links and routes, HTTP, commands. Workers carry traffic and decide nothing. Between
//! them goes one message type each way.
//!
//! # Phases of a run
//!
//! 1. bind: the control socket, then, with descriptors raised, every listener that systemd did not
//!    give, and every problem with one told at once
//! 2. limits: sessions counted by what descriptors leave
//! 3. memory: what operators decided before a restart, and where the users of pairs were sent;
//!    whatever state the disk is in, it serves
//! 4. serve: workers with a first snapshot, systemd told, then the control loop
//! 5. drain: listeners closed, sessions kept to `stop_deadline`, the rest reset, the last state written
//!
//! A process that takes over from another one ([`handover`]) is given in 1 what it would bind, and
//! in 3 what it would read; one that hands over drains by what its successor decides.

mod desk;
mod disk;
mod era;
mod handover;
mod hub;
mod journal;
mod keeper;
mod logs;
mod memory;
mod pairs;
pub mod paths;
mod records;
mod redirecting;
mod reload;

pub mod resolver;
#[cfg(test)]
mod rig;
pub mod service_manager;
mod spill;
mod strays;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::config::Config;
use crate::control::socket::{self, ControlSocket};
use crate::health::probe::ProberError;
use crate::log::access::Destination;
use crate::observe::view::RunState;
use crate::proxy::listen::{self, BindError, Given, Listener};
use crate::proxy::raise_descriptor_limit;
use crate::topology::{Protocol, Topology};

use handover::{Estate, Following};
pub use handover::{Heir, TakeOverError};
use hub::{Beginning, Hub, Inputs};
use service_manager::ServiceManager;

/// How long a stopping instance waits for look-ups that hang.
const LET_GO: Duration = Duration::from_millis(500);
/// How long a stopping instance waits for its last state to be on disk.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Why an instance did not start.
#[derive(Debug)]
pub enum StartError {
    /// The runtime could not be made.
    Runtime(io::Error),
    /// Listeners that could not be bound, all of them.
    Bind(Vec<BindError>),
    /// The HTTP listener could not be bound.
    Observe(SocketAddr, io::Error),
    /// The control socket could not be made.
    Control(socket::BindError),
    /// The access log cannot be written.
    Access(Destination, io::Error),
    /// The checks cannot be asked.
    Probes(ProberError),
    /// There is a pair, of this name, and nowhere to keep where its users are sent.
    NoStateDir(String),
    /// A worker could not be started.
    Worker(io::Error),
    /// It cannot take over from the process that started it.
    TakeOver(TakeOverError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Runtime(error) => write!(f, "cannot make a runtime: {error}"),
            StartError::Bind(errors) => {
                for (index, error) in errors.iter().enumerate() {
                    if index > 0 {
                        writeln!(f)?;
                    }
                    error.fmt(f)?;
                }
                Ok(())
            }
            StartError::Observe(address, error) => write!(
                f,
                "cannot listen on {address} for [observe]: {error}; \
                 choose another `listen`, or `listen = false` for none"
            ),
            StartError::Control(error) => error.fmt(f),
            StartError::Access(destination, error) => write!(
                f,
                "cannot write the access log to {destination}: {error}; let the user of twinpool \
                 write there, choose another `access` in [log], or leave it out for none"
            ),
            StartError::Probes(error) => error.fmt(f),
            StartError::NoStateDir(pair) => write!(
                f,
                "pair {pair} needs a directory where twinpool keeps to which pool users are sent; \
                 write `state_dir = \"/var/lib/twinpool\"` in [instance]"
            ),
            StartError::Worker(error) => write!(f, "cannot start a worker: {error}"),
            StartError::TakeOver(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// Where a started instance is found.
#[derive(Clone, Debug)]
pub struct Started {
    /// What it fronts, with free ports resolved.
    pub topology: Arc<Topology>,
    /// The read-only HTTP listener.
    pub observe: Option<SocketAddr>,
    /// The control socket.
    pub socket: PathBuf,
}

/// Who started this process, and what it gave along. By default nobody of importance, and nothing.
#[derive(Debug, Default)]
pub struct Starter {
    /// Listeners that were bound before this process began.
    pub sockets: Given,
    /// Whom it tells how it does, and who keeps its listeners over a crash.
    pub manager: ServiceManager,
    /// What another process hands over, whose place it is to take.
    pub heir: Option<Heir>,
    /// The program of this process, which is started again for an upgrade; none for one that cannot
    /// be upgraded.
    pub executable: Option<PathBuf>,
    /// The control socket that the command line gave, instead of the configuration's.
    pub socket: Option<PathBuf>,
}

impl Starter {
    /// systemd, where it started this process. To be called once, before there is any other thread.
    pub fn systemd() -> Starter {
        Starter {
            sockets: service_manager::sockets_given(),
            manager: ServiceManager::from_environment(),
            executable: program(),
            ..Starter::default()
        }
    }
}

/// This program, by the path that it was started by where that is a whole one: behind a link there
/// may be another version some day.
fn program() -> Option<PathBuf> {
    let started_by = std::env::args_os().next().map(PathBuf::from);
    let whole = started_by.filter(|path| path.is_absolute() && path.is_file());
    whole.or_else(|| std::env::current_exe().ok())
}

/// Runs an instance on this thread until it is told to stop and its sessions have ended, or until
/// they met the stop deadline. `started` is called once it serves.
///
/// # Errors
/// When it cannot start; once it serves it does not fail.
pub fn run(
    config: Config,
    starter: Starter,
    signals: impl Signals,
    started: impl FnOnce(Started),
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(StartError::Runtime)?;
    let served = runtime.block_on(serve(config, starter, signals, started));
    // Dropping it would wait for a look-up that hangs in `getaddrinfo`, for as long as that likes.
    runtime.shutdown_timeout(LET_GO);
    served
}

/// What an instance is told from outside, beside commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// To stop; said again, not to wait for its sessions.
    Stop,
    /// To read its configuration again.
    Reload,
    /// To have its program, as it is on disk now, take over.
    Upgrade,
    /// To open the files of its logs anew.
    Reopen,
}

/// Where an instance is told so.
pub trait Signals {
    /// Begins to listen; called once, before anything is bound.
    ///
    /// # Errors
    /// When it cannot.
    fn listen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Resolves when the instance is told something. May be dropped and called again.
    fn told(&mut self) -> impl Future<Output = Told>;
}

/// SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR2 upgrades, SIGUSR1 opens logs anew.
#[derive(Debug, Default)]
pub struct UnixSignals(Option<[Signal; 5]>);

impl Signals for UnixSignals {
    fn listen(&mut self) -> io::Result<()> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let upgrade = signal(SignalKind::user_defined2())?;
        let reopen = signal(SignalKind::user_defined1())?;
        self.0 = Some([terminate, interrupt, hangup, upgrade, reopen]);
        Ok(())
    }

    async fn told(&mut self) -> Told {
        match &mut self.0 {
            Some([terminate, interrupt, hangup, upgrade, reopen]) => tokio::select! {
                _ = terminate.recv() => Told::Stop,
                _ = interrupt.recv() => Told::Stop,
                _ = hangup.recv() => Told::Reload,
                _ = upgrade.recv() => Told::Upgrade,
                _ = reopen.recv() => Told::Reopen,
            },
            None => std::future::pending().await,
        }
    }
}

async fn serve(
    config: Config,
    mut starter: Starter,
    mut signals: impl Signals,
    started: impl FnOnce(Started),
) -> Result<(), StartError> {
    signals.listen().map_err(StartError::Runtime)?;
    let heir = starter.heir.take();
    let (hub, mut inputs, handed_over) = begin(config, starter, heir).await?;
    spawn_local(service_manager::accompany(hub.clone()));
    spawn_local(listen_to_us(hub.clone()));
    started(Started {
        topology: hub.topology(),
        observe: hub.observe_address(),
        socket: hub.socket(),
    });
    let stopped_here = async {
        stopped(&mut signals, &hub).await;
        hub.estate.stop().await;
    };
    let following = tokio::select! {
        biased;
        Ok(following) = handed_over => Some(following),
        () = stopped_here => None,
        () = hub.run(&mut inputs) => None,
    };
    if let Some(following) = following {
        handover::follow(&hub, &mut inputs, following, &mut signals).await;
        hub.end();
        hub.finish_logs();
        return Ok(());
    }
    hub.close();
    tokio::select! {
        () = hub.run(&mut inputs) => {}
        () = hub.emptied() => {}
        () = stopped(&mut signals, &hub) => {
            tracing::info!("told again: not waiting for sessions");
        }
    }
    hub.end();
    hub.finish_logs();
    // A failure has been told where it occurred; a write that hangs has not.
    hub.tell_instance("stopped".to_owned(), crate::clock::now());
    let last = async { tokio::join!(hub.kept(), hub.journal.flushed()) };
    if timeout(LAST_WRITE, last).await.is_err() {
        tracing::error!("the last state is not on disk after {LAST_WRITE:?}; stopping without it");
    }
    Ok(())
}

/// Has systemd hear that the instance serves: it listens to its main process alone, and that may be
/// another one still.
async fn listen_to_us(hub: Rc<Hub>) {
    hub.led.is_main().await;
    hub.manager.ready();
    if hub.state.get() == RunState::Draining {
        hub.manager.stopping();
    }
}

type Begun = (Rc<Hub>, Inputs, oneshot::Receiver<Following>);

/// Binds everything, or takes it over, and starts the hub. Where it takes over and cannot, the
/// process that was to hand over is told why.
async fn begin(config: Config, starter: Starter, heir: Option<Heir>) -> Result<Begun, StartError> {
    let Some(mut heir) = heir else {
        // First of all: who answers here already must not lose a client to a second instance.
        let control = ControlSocket::bind(&config.control)
            .await
            .map_err(StartError::Control)?;
        let topology = config.topology.clone();
        let (beginning, handed_over) = bind(&config, starter, topology, control)?;
        let (hub, inputs) = Hub::start(config, beginning).await?;
        return Ok((hub, inputs, handed_over));
    };
    let refused = |heir: &Heir, why: StartError| {
        heir.refuse(&why.to_string());
        why
    };
    let (mut old, before) = match heir.predecessor() {
        Ok(predecessor) => predecessor,
        Err(why) => return Err(refused(&heir, StartError::TakeOver(why))),
    };
    if let Some(socket) = &starter.socket {
        old.control.socket.clone_from(socket);
    }
    let mut topology = config.topology.clone();
    reload::take_known_ports(&old.topology, &before, &mut topology);
    if let Err(why) = Heir::may((&old, &before), (&config, &topology)) {
        return Err(refused(&heir, StartError::TakeOver(why)));
    }
    let control = heir.control(&config.control);
    let starter = Starter {
        sockets: heir.listeners(),
        ..starter
    };
    let bound = control
        .map_err(|error| StartError::Control(socket::BindError::Io(PathBuf::new(), error)))
        .and_then(|control| bind(&config, starter, topology, control));
    let (mut beginning, handed_over) = match bound {
        Ok(bound) => bound,
        Err(why) => return Err(refused(&heir, why)),
    };
    let inherited = heir.inherit((&old, before), &config, &beginning.topology);
    let inheritance = inherited.map_err(|(heir, why)| refused(&heir, StartError::TakeOver(why)))?;
    let voice = inheritance.voice();
    beginning.inheritance = Some(inheritance);
    match Hub::start(config, beginning).await {
        Ok((hub, inputs)) => Ok((hub, inputs, handed_over)),
        Err(why) => {
            if let Some(voice) = voice {
                voice.refuse(&why.to_string());
            }
            Err(why)
        }
    }
}

/// Binds every listener that was not given.
fn bind(
    config: &Config,
    starter: Starter,
    mut topology: Topology,
    control: ControlSocket,
) -> Result<(Beginning, oneshot::Receiver<Following>), StartError> {
    let workers = config
        .instance
        .workers
        .map_or_else(usable_cores, NonZeroUsize::get);
    // Before the listeners: there may be more of them than the soft limit allows.
    let descriptors = raise_descriptor_limit();
    let mut given = starter.sockets;
    let listeners = listen::bind(&topology, workers, &mut given).map_err(StartError::Bind)?;
    let observe = match config.observe.listen {
        Some(address) => Some(
            observe_listener(address, &mut given)
                .map_err(|error| StartError::Observe(address, error))?,
        ),
        None => None,
    };
    let rest = given.close_rest();
    take_bound_addresses(&mut topology, &listeners);
    let manager = starter.manager;
    // Where nobody serves any more a port has to refuse, and not to keep who comes.
    for (protocol, address) in rest {
        manager.forget(protocol, address);
    }
    manager.keep_listeners(listeners.iter().flatten());
    let observed = observe.as_ref().and_then(|listener| {
        let address = listener.local_addr().ok()?;
        Some((Protocol::Tcp, address, listener))
    });
    manager.keep(observed);
    let own: [Option<&dyn AsFd>; 2] = [Some(&control), observe.as_ref().map(|own| own as _)];
    let once_more = own.into_iter().flatten();
    let once_more = once_more.map(|own| own.as_fd().try_clone_to_owned());
    let once_more: io::Result<Vec<_>> = once_more.collect();
    let once_more = once_more.map_err(StartError::Runtime)?;
    let (estate, handed_over) = Estate::new(starter.executable, once_more);
    let beginning = Beginning {
        topology,
        descriptors,
        listeners,
        observe,
        control,
        manager,
        estate,
        socket_by_hand: starter.socket,
        inheritance: None,
    };
    Ok((beginning, handed_over))
}

/// Resolves when the instance is told to stop; reloads and upgrades whenever it is told to.
async fn stopped(signals: &mut impl Signals, hub: &Rc<Hub>) {
    loop {
        let hub = hub.clone();
        // What comes of either is in the log, in the events and in the status.
        match signals.told().await {
            Told::Stop => return,
            Told::Reopen => hub.logs.reopen(),
            Told::Reload => drop(spawn_local(
                async move { reload::reload(hub, "SIGHUP").await },
            )),
            Told::Upgrade => drop(spawn_local(async move {
                handover::upgrade(hub, "SIGUSR2").await
            })),
        }
    }
}

/// The HTTP listener: the one that was given, or a new one.
fn observe_listener(address: SocketAddr, given: &mut Given) -> io::Result<TcpListener> {
    match given.take(Protocol::Tcp, address).into_iter().next() {
        Some(socket) => {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket.into())
        }
        None => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        }
    }
}

/// Cores that this process may run on, by affinity and cgroup.
fn usable_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Free ports were chosen when they were bound; from here on they are known.
fn take_bound_addresses(topology: &mut Topology, listeners: &[Vec<Listener>]) {
    for service in topology
        .pools
        .iter_mut()
        .flat_map(|pool| &mut pool.services)
    {
        // As they were bound, worker by worker; the first has them all. Those with a port that the
        // file gives may have been bound before.
        let bound = listeners
            .iter()
            .take(1)
            .flatten()
            .filter(|l| l.service == service.id);
        let mut bound: Vec<SocketAddr> = bound.map(|listener| listener.address).collect();
        for address in service.listen.iter_mut().chain(&mut service.listen_at_twin) {
            let is_it = |found: &SocketAddr| match address.port() {
                0 => found.ip() == address.ip(),
                _ => found == address,
            };
            if let Some(at) = bound.iter().position(is_it) {
                *address = bound.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn free_ports_are_known_once_they_are_bound_at_both_sites() {
        let pool = |name: &str, listen: &str| {
            format!(
                "[sites.{name}]\nregion = \"{name}\"\n[pools.{name}]\nrole = \"mediation\"\n\
                 site = \"{name}\"\nmembers.m = \"192.0.2.1\"\nservices.sip = {{ {listen} }}\n"
            )
        };
        let free = "[\"127.0.0.1:0\", \"127.0.0.1:0\"]";
        let text = format!(
            "{}{}[pairs.both]\npools = [\"one\", \"two\"]\n",
            pool("one", &format!("listen = {free}, listen_at_twin = {free}")),
            pool("two", &format!("listen = {free}"))
        );
        let mut topology = config::parse(&text, "f").unwrap().config.topology;
        let listeners = listen::bind(&topology, 2, &mut Given::default()).unwrap();
        take_bound_addresses(&mut topology, &listeners);
        let service = |pool: usize| &topology.pools[pool].services[0];
        let at = |from: usize, to: usize| -> Vec<SocketAddr> {
            listeners[0][from..to].iter().map(|l| l.address).collect()
        };
        assert_eq!(service(0).listen, at(0, 2));
        assert_eq!(service(0).listen_at_twin, at(2, 4));
        assert_eq!(service(1).listen, at(4, 6));
        assert!(service(1).listen_at_twin.is_empty());
        assert!(at(0, 6).iter().all(|address| address.port() != 0));
    }
}
