//! The running instance: everything else, wired together.
//!
//! One control thread owns the [`Hub`](hub::Hub) and everything that decides or is asked: probes,
//! names, own links and routes, HTTP, commands. Workers carry traffic and decide nothing. Between
//! them goes one message type each way.
//!
//! # Phases of a run
//!
//! 1. bind: the control socket, then, with descriptors raised, every listener, and every problem
//!    with one told at once
//! 2. limits: sessions counted by what descriptors leave
//! 3. memory: what operators decided before a restart, and where the users of pairs were sent;
//!    whatever state the disk is in, it serves
//! 4. serve: workers with a first snapshot, then the control loop
//! 5. drain: listeners closed, sessions kept to `stop_deadline`, the rest reset, the last state written

mod desk;
mod disk;
mod hub;
mod keeper;
mod logs;
mod memory;
mod pairs;
pub mod paths;
mod records;
mod redirecting;

pub mod resolver;
#[cfg(test)]
mod rig;
mod spill;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::config::Config;
use crate::control::socket::{self, ControlSocket};
use crate::health::probe::ProberError;
use crate::log::access::Destination;
use crate::proxy::listen::{self, BindError, Listener};
use crate::proxy::raise_descriptor_limit;
use crate::topology::Topology;

use hub::Hub;

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

/// Runs an instance on this thread until `stop` resolves and its sessions have ended, or until
/// they met the stop deadline. `started` is called once it serves.
///
/// # Errors
/// When it cannot start; once it serves it does not fail.
pub fn run(
    config: Config,
    stop: impl Stop,
    started: impl FnOnce(Started),
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(StartError::Runtime)?;
    let served = runtime.block_on(serve(config, stop, started));
    // Dropping it would wait for a look-up that hangs in `getaddrinfo`, for as long as that likes.
    runtime.shutdown_timeout(LET_GO);
    served
}

/// When to stop.
pub trait Stop {
    /// Begins to listen; called once, before anything is bound.
    ///
    /// # Errors
    /// When it cannot.
    fn listen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Resolves when the instance is told to stop; asked again, when it is told not to wait for
    /// its sessions.
    fn told(&mut self) -> impl Future<Output = ()>;
}

/// Stops on SIGTERM or SIGINT; a second one does not wait.
#[derive(Debug, Default)]
pub struct Signals(Option<[Signal; 2]>);

impl Stop for Signals {
    fn listen(&mut self) -> io::Result<()> {
        let terminate = signal(SignalKind::terminate())?;
        self.0 = Some([terminate, signal(SignalKind::interrupt())?]);
        Ok(())
    }

    async fn told(&mut self) {
        match &mut self.0 {
            Some([terminate, interrupt]) => tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            },
            None => std::future::pending().await,
        }
    }
}

async fn serve(
    mut config: Config,
    mut stop: impl Stop,
    started: impl FnOnce(Started),
) -> Result<(), StartError> {
    stop.listen().map_err(StartError::Runtime)?;
    // First of all: who answers here already must not lose a client to a second instance.
    let control = ControlSocket::bind(&config.control.socket)
        .await
        .map_err(StartError::Control)?;
    let workers = config
        .instance
        .workers
        .map_or_else(usable_cores, NonZeroUsize::get);
    // Before the listeners: there may be more of them than the soft limit allows.
    let descriptors = raise_descriptor_limit();
    let listeners = listen::bind(&config.topology, workers).map_err(StartError::Bind)?;
    take_bound_addresses(&mut config.topology, &listeners);
    let (hub, mut inputs) = Hub::start(config, descriptors, listeners, control).await?;
    started(Started {
        topology: hub.topology().clone(),
        observe: hub.observe_address(),
        socket: hub.socket().to_owned(),
    });
    tokio::select! {
        () = hub.run(&mut inputs) => {}
        () = stop.told() => {}
    }
    hub.close();
    tokio::select! {
        () = hub.run(&mut inputs) => {}
        () = hub.emptied() => {}
        () = stop.told() => tracing::info!("told again: not waiting for sessions"),
    }
    hub.end();
    hub.finish_logs();
    // A failure has been told where it occurred; a write that hangs has not.
    if timeout(LAST_WRITE, hub.kept()).await.is_err() {
        tracing::error!("the last state is not on disk after {LAST_WRITE:?}; stopping without it");
    }
    Ok(())
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
        // As they were bound, worker by worker; the first has them all.
        let bound = listeners
            .iter()
            .flatten()
            .filter(|l| l.service == service.id);
        let mut bound = bound.map(|listener| listener.address);
        for list in [&mut service.listen, &mut service.listen_at_twin] {
            let count = list.len();
            *list = bound.by_ref().take(count).collect();
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
        let listeners = listen::bind(&topology, 2).unwrap();
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
