//! From a TOML file to a [`Config`] that validated, or to every mistake in it at once.
//!
//! ```text
//! text ─► spanned TOML ─► reader (typed, remembers keys) ─► resolve ─► Config
//!              └──────────────┴──── Diagnostics, all of them ─┴────► Errors
//! ```
//!
//! The spanned TOML is the raw form, and nothing outside this room sees it. Reading never stops at
//! a mistake: it notes a diagnostic with its place and what to write instead, takes a stand-in and
//! goes on; a configuration comes out only if no error was noted.

mod after_pool;
mod check;
mod control;
mod diagnostic;
pub mod difference;
pub mod duration;
mod listeners;
mod logs;
mod members;
mod pairs;
mod pool;
mod presets;
mod protocol;
mod reader;
mod resolve;
mod roles;
mod services;
pub mod worst_case;

pub use diagnostic::{Diagnostic, Errors};
pub use reader::known_keys;

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::log::Settings;
use crate::log::access::Destination;
use crate::topology::{SiteId, Topology};

/// A thousand pools with a thousand members each take less; a device that never ends stops here.
const LARGEST_FILE: u64 = 64 << 20;

/// Everything one file says, resolved: defaults filled in, names turned into ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[instance]`.
    pub instance: Instance,
    /// `[observe]`.
    pub observe: Observe,
    /// `[control]`.
    pub control: Control,
    /// `[log]`.
    pub log: Log,
    /// `[sites]`, `[roles]`, `[pools]` and `[pairs]`; the pairs that are in force on this instance.
    pub topology: Topology,
    /// The file that all of it was read from; none for text that was given otherwise.
    pub source: Option<Source>,
}

/// A configuration file, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it lies.
    pub path: PathBuf,
    /// What stood in it.
    pub text: Arc<str>,
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
    /// Flows over UDP it may hold; from the descriptor limit when none.
    pub max_flows: Option<NonZeroU32>,
    /// How long sessions are kept when it is told to stop.
    pub stop_deadline: Duration,
    /// How long they are kept once another process has taken over.
    pub upgrade_deadline: Duration,
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
    /// Its permissions: whoever may write to it may command.
    pub mode: u32,
    /// Its group by name; that of the daemon when none.
    pub group: Option<String>,
}

/// The permissions of a control socket, unless told otherwise: owner and group may command.
pub const CONTROL_MODE: u32 = 0o660;

impl Control {
    /// A socket with the permissions that it has unless told otherwise.
    pub fn at(socket: impl Into<PathBuf>) -> Control {
        Control {
            socket: socket.into(),
            mode: CONTROL_MODE,
            group: None,
        }
    }
}

/// What is told of the instance and of its sessions, and where.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// The log of the instance.
    pub settings: Settings,
    /// Where a line is written for each session; nowhere when none.
    pub access: Option<Destination>,
}

/// A configuration that validated, and what is worth a warning in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// It.
    pub config: Config,
    /// What is allowed and probably not meant, rendered as errors are.
    pub warnings: Errors,
}

/// Reads and resolves a file.
///
/// # Errors
/// Every mistake in it, or why it cannot be read.
pub fn load(path: &Path) -> Result<Loaded, Errors> {
    let name = path.display().to_string();
    match read_bounded(path) {
        Ok(text) => {
            let mut loaded = parse(&text, &name)?;
            loaded.config.source = Some(Source {
                path: path.to_owned(),
                text: text.into(),
            });
            Ok(loaded)
        }
        Err(error) => Err(Errors::unreadable(&name, &error)),
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// Resolves a file's text; `file` names it in errors.
///
/// # Errors
/// Every mistake in it.
pub fn parse(text: &str, file: &str) -> Result<Loaded, Errors> {
    resolve::resolve(text, file)
}
