//! The log of this process, set up once, and the writer of the access log.
//!
//! ```text
//! tracing ─► level (changeable) ─► collapse (storms) ─► journal, text or JSON lines on stderr
//! workers ─► bounded queue ─► access: one thread ─► file, journal or stderr
//! ```
//!
//! Where stderr is the journal, events go to it with their fields ([`Format::Auto`]); to a terminal
//! in colour; else as plain lines. Nothing here knows what is told, or decides what is worth it.
//!
//! `tracing` itself is one to a process, so what is set up here is, too: [`level`] and
//! [`set_level`] work on it, and do nothing where [`start`] was never called.

pub mod access;
mod collapse;
mod format;
mod journal;
mod level;
pub mod storm;

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::time::Time;
use collapse::{Collapse, Held};
use format::{Output, Stderr, Text};
use journal::ToJournal;

pub use format::Format;
pub use level::{Level, NotALevel};

/// The target of transitions: their sentence says everything that their fields do.
pub const EVENTS: &str = "twinpool::events";
/// What programs read a level from before the configuration's is.
const ENVIRONMENT: &str = "RUST_LOG";

static STARTED: OnceLock<Started> = OnceLock::new();

/// What can be changed once the log is set up.
struct Started {
    filter: reload::Handle<Targets, Registry>,
    level: Mutex<Level>,
    held: Held,
    /// `RUST_LOG` gave the level, and the configuration's means nothing.
    from_environment: bool,
}

/// How to log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// In which form.
    pub format: Format,
    /// What is told, unless `RUST_LOG` says so.
    pub level: Level,
}

/// Why a level was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSet {
    /// This process has set up no log.
    NoLog,
    /// `RUST_LOG` decides, and was not to be overruled.
    Environment,
}

impl fmt::Display for NotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotSet::NoLog => "this process has no log whose level could be changed",
            NotSet::Environment => "RUST_LOG decides what is told",
        })
    }
}

impl std::error::Error for NotSet {}

/// Sets the log of this process up; the first call counts.
pub fn start(settings: &Settings) {
    let environment = std::env::var(ENVIRONMENT).ok().filter(|it| !it.is_empty());
    let read = environment.as_deref().map(Level::parse);
    let (level, wrong) = match read {
        Some(Ok(level)) => (level, None),
        Some(Err(wrong)) => (settings.level.clone(), Some(wrong)),
        None => (settings.level.clone(), None),
    };
    let output = settings.format.output(Stderr::look());
    let (told, unreached) = layer(output);
    let (filter, handle) = reload::Layer::new(level.targets());
    let held = Held::default();
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(Collapse::new(held.clone()))
        .with(told);
    if subscriber.try_init().is_err() {
        return;
    }
    let started = Started {
        filter: handle,
        level: Mutex::new(level),
        held,
        from_environment: environment.is_some() && wrong.is_none(),
    };
    if STARTED.set(started).is_err() {
        return;
    }
    if let Some(error) = unreached {
        tracing::warn!(%error, "the journal cannot be reached by its socket: plain lines instead");
    }
    if let Some(wrong) = wrong {
        tracing::warn!("RUST_LOG is not heeded: {wrong}; {}", wrong.help);
    }
}

type Inner = tracing_subscriber::layer::Layered<
    Collapse,
    tracing_subscriber::layer::Layered<reload::Layer<Targets, Registry>, Registry>,
>;

/// What writes events, and why the journal does not where it should.
fn layer(output: Output) -> (Box<dyn Layer<Inner> + Send + Sync>, Option<io::Error>) {
    let lines = |text: Text, ansi| {
        let lines = tracing_subscriber::fmt::layer()
            .event_format(text)
            .with_ansi(ansi)
            .with_writer(io::stderr);
        lines.boxed()
    };
    match output {
        Output::Journal => match ToJournal::open() {
            Ok(journal) => (journal.boxed(), None),
            Err(error) => (lines(Text::FOR_JOURNAL, false), Some(error)),
        },
        Output::JournalLines => (lines(Text::FOR_JOURNAL, false), None),
        Output::Terminal => (lines(Text::FOR_TERMINAL, io::stderr().is_terminal()), None),
        Output::Lines => (lines(Text::PLAIN, false), None),
        Output::Json => {
            let json = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(io::stderr);
            (json.boxed(), None)
        }
    }
}

/// What is told now; none where this process has set up no log.
pub fn level() -> Option<Level> {
    let started = STARTED.get()?;
    let level = started.level.lock().unwrap_or_else(PoisonError::into_inner);
    Some(level.clone())
}

/// Tells this from now on; what was told before.
///
/// # Errors
/// When this process has set up no log.
pub fn set_level(level: &Level) -> Result<Level, NotSet> {
    let started = STARTED.get().ok_or(NotSet::NoLog)?;
    let mut now = started.level.lock().unwrap_or_else(PoisonError::into_inner);
    started
        .filter
        .reload(level.targets())
        .map_err(|_| NotSet::NoLog)?;
    Ok(std::mem::replace(&mut *now, level.clone()))
}

/// Tells what a configuration that was read anew says, as [`set_level`] does.
///
/// # Errors
/// When `RUST_LOG` decides, or this process has set up no log.
pub fn set_configured_level(level: &Level) -> Result<Level, NotSet> {
    heeds_configuration()?;
    set_level(level)
}

/// Says why a configuration's level means nothing here, where it does.
///
/// # Errors
/// When `RUST_LOG` decides, or this process has set up no log.
pub fn heeds_configuration() -> Result<(), NotSet> {
    let started = STARTED.get().ok_or(NotSet::NoLog)?;
    match started.from_environment {
        true => Err(NotSet::Environment),
        false => Ok(()),
    }
}

/// Says how many events were held back in storms whose period is over. To be called about once a
/// second; costs next to nothing while there is no storm.
pub fn tell_storms(now: Time) {
    if let Some(started) = STARTED.get() {
        started.held.tell(now, false);
    }
}

/// The same for all that were held back, as the process ends.
pub fn tell_last_storms(now: Time) {
    if let Some(started) = STARTED.get() {
        started.held.tell(now, true);
    }
}
