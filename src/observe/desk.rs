//! [`Desk`]: what the HTTP servers ask of the daemon, and all that they can ask.
//!
//! The daemon sits behind it on the same thread. Reading is immediate; a [`Command`] may have to be
//! stored before it is answered, so it returns a future.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::events::{Commanded, Event, Query};
use super::measures::Measures;
use super::names::NoSuch;
use super::status::{PoolHealth, Scope, Status};
use super::view::RunState;
use super::why::Why;
use crate::health::readiness::Mode;
use crate::log::Level;

/// A future that stays on this thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// The daemon, as seen from its HTTP servers.
pub trait Desk {
    /// What the instance is doing: `/readyz`. Cheap.
    fn state(&self) -> RunState;

    /// Whether a pool's users can be served here, or none when there is no such pool:
    /// `/health/POOL`, which other load balancers ask every second. Cheap. Implement it by
    /// [`status::pool_health`](super::status::pool_health).
    fn pool_health(&self, pool: &str, scope: Scope) -> Option<PoolHealth>;

    /// Everything at this moment. Implement it by [`status::status`](super::status::status).
    fn status(&self) -> Status;

    /// Everything behind a pool's condition, a member's verdicts or a pair's redirects. Implement it by
    /// [`why::why`](super::why::why).
    fn why(&self, name: &str) -> Result<Why, NoSuch>;

    /// Events that are asked for, oldest first. Implement it by
    /// [`Events::asked`](super::events::Events::asked).
    fn events(&self, query: &Query) -> Result<Vec<Event>, NoSuch>;

    /// Keeps what a person ordered, and what came of it, among the events.
    fn record(&self, command: Commanded);

    /// What the log tells, and until when, in words.
    fn log_level(&self) -> Result<String, Refused>;

    /// Has the log tell more or less.
    fn set_log_level(&self, order: SetLevel) -> Result<String, Refused>;

    /// Carries a command out, and answers once it is in force (and stored, where it must outlive a
    /// restart) with a sentence for the person who gave it. Implement it by
    /// [`order`](crate::control::order::order) and the decider.
    fn command(&self, command: Command) -> LocalFuture<Result<String, Refused>>;

    /// The same for an order about pairs; of several steps each is told, and the first that failed
    /// ends them.
    fn redirect(&self, redirection: Redirection) -> LocalFuture<Result<String, Refused>>;

    /// The text of the configuration that is in force; none where it was not read from a file.
    fn configuration(&self) -> Option<Arc<str>>;

    /// Reads the configuration again and puts it in force, or says why not; what it changed, a line
    /// each. `by` is who wants it.
    fn reload(&self, by: String) -> LocalFuture<Result<String, Refused>>;

    /// Has the program, as it is on disk now, take over from this process, or says why not; what came
    /// of it, a line each. `by` is who wants it.
    fn upgrade(&self, by: String) -> LocalFuture<Result<String, Refused>>;

    /// What only metrics show. Implement it by [`measures::measures`](super::measures::measures).
    fn measures(&self) -> Measures;
}

/// What a person orders of a member over the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What is wanted.
    pub mode: Mode,
    /// `POOL/MEMBER`, as it was typed.
    pub member: String,
    /// Who orders, by the credentials of the connection.
    pub by: String,
    /// Why, in their words, bounded.
    pub reason: Option<String>,
    /// For how long; until told otherwise when none.
    pub lasting: Option<Duration>,
    /// Even where it loses the pool.
    pub force: bool,
}

/// What a person wants the log to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetLevel {
    /// What.
    pub level: Level,
    /// For how long; until told otherwise when none.
    pub lasting: Option<Duration>,
    /// Who orders, by the credentials of the connection.
    pub by: String,
}

/// What a person orders of pairs over the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    /// What is wanted.
    pub what: Redirect,
    /// Who orders, by the credentials of the connection.
    pub by: String,
    /// Why, in their words, bounded.
    pub reason: Option<String>,
    /// Without drain or ramp.
    pub now: bool,
    /// Even against what is worth a refusal.
    pub force: bool,
    /// Only tell what would happen.
    pub dry_run: bool,
}

/// What can be ordered of pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// Send this pool's users to its twin.
    Failover(String),
    /// Send them home.
    Failback(String),
    /// Failover of every pool of this site, in order.
    Evacuate(String),
    /// Failback of every pool of this site, in order.
    Restore(String),
    /// Stop all automation.
    Pause,
    /// Let it go on; ends alarms too.
    Resume,
}

/// Why a command was not carried out, in words for the person who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It names what does not exist.
    NoSuch(NoSuch),
    /// It makes no sense as it stands.
    Malformed(String),
    /// It would do harm; the text says what to do instead.
    Harmful(String),
    /// It was not carried out because something failed on our side.
    Failed(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::NoSuch(name) => name.fmt(f),
            Refused::Malformed(text) | Refused::Harmful(text) | Refused::Failed(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for Refused {}

impl From<NoSuch> for Refused {
    fn from(name: NoSuch) -> Refused {
        Refused::NoSuch(name)
    }
}
