//! From a TOML file to a [`Config`] that validated, or to every mistake in it at once.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use crate::topology::{SiteId, Topology};

/// Everything one file says, resolved: defaults filled in, names turned into ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[instance]`.
    pub instance: Instance,
    /// `[observe]`.
    pub observe: Observe,
    /// `[control]`.
    pub control: Control,
    /// `[sites]`, `[roles]` and `[pools]`.
    pub topology: Topology,
}

/// This running twinpool.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// How it names itself; the host's name where the file gives none.
    pub name: String,
    /// With a site it fronts the pools of that site alone.
    pub site: Option<SiteId>,
    /// Where decisions that must outlive a restart are kept. None: nowhere, and said so.
    pub state_dir: Option<PathBuf>,
    /// Worker threads; one per usable core when none.
    pub workers: Option<NonZeroUsize>,
    /// Sessions it may hold; from the descriptor limit when none.
    pub max_sessions: Option<NonZeroU32>,
    /// How long sessions are kept when it is told to stop.
    pub stop_deadline: Duration,
}

/// The read-only HTTP listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Observe {
    /// Where it listens; none when the file turns it off with `listen = false`.
    pub listen: Option<SocketAddr>,
}

/// The control socket.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    /// Its path.
    pub socket: PathBuf,
}
