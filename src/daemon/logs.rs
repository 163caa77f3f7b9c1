//! The instance's logs: who writes its sessions down, and the level that goes back by itself.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::StartError;
use super::hub::Hub;
use crate::clock;
use crate::config;
use crate::log::access::{Counts, Opened, Writer};
use crate::log::{self, Level};
use crate::observe::desk::{Refused, SetLevel};
use crate::observe::stamp::span;
use crate::proxy::AccessLog;
use crate::time::Time;

/// How long a stopping instance waits for the last lines of the access log.
const LAST_LINES: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Logs {
    /// Once there has been an access log, whether there is one now or not: its counters only rise,
    /// and sessions that were told before go on telling it.
    access: RefCell<Option<Writer>>,
    /// Whether sessions that come now are told.
    tells: Cell<bool>,
    /// The level is to go back.
    passing: RefCell<Option<Passing>>,
    /// Rises with every change of the level.
    changes: Cell<u64>,
}

/// A level for a while.
#[derive(Clone, Debug)]
struct Passing {
    /// The one afterwards.
    then: Level,
    until: Time,
    by: String,
}

/// What a configuration that was read anew changes, with all that may fail done.
#[derive(Debug)]
pub(super) struct Change {
    /// What is to be told, where the file says another thing than before.
    level: Option<Level>,
    access: Access,
}

#[derive(Debug)]
enum Access {
    Stays,
    Begins(Writer),
    Turns(Opened),
    Ends,
}

impl Logs {
    /// Opens what the configuration names.
    pub(super) fn start(config: &config::Log) -> Result<Logs, StartError> {
        let logs = Logs::default();
        if let Some(destination) = &config.access {
            let writer = Opened::open(destination.clone()).and_then(Writer::start);
            let writer = writer.map_err(|error| StartError::Access(destination.clone(), error))?;
            logs.access.replace(Some(writer));
            logs.tells.set(true);
        }
        Ok(logs)
    }

    /// Does all that may fail of going on with another configuration.
    pub(super) async fn prepare(
        &self,
        was: &config::Log,
        is: &config::Log,
    ) -> Result<Change, StartError> {
        let access = match &is.access {
            same if *same == was.access => Access::Stays,
            None => Access::Ends,
            Some(destination) => {
                let failed = |error| StartError::Access(destination.clone(), error);
                let to_open = destination.clone();
                // A disk may hold its breath.
                let opened = tokio::task::spawn_blocking(move || Opened::open(to_open)).await;
                let opened = opened.map_err(io::Error::other).flatten().map_err(failed)?;
                match self.access.borrow().is_some() {
                    true => Access::Turns(opened),
                    false => Access::Begins(Writer::start(opened).map_err(failed)?),
                }
            }
        };
        let (was, is) = (&was.settings.level, &is.settings.level);
        let level = (was != is).then(|| is.clone());
        Ok(Change { level, access })
    }

    /// Goes on with another configuration.
    pub(super) fn adopt(&self, change: Change) {
        let writer = self.access.borrow();
        match (change.access, &*writer) {
            (Access::Stays, _) => {}
            (Access::Ends, writer) => {
                self.tells.set(false);
                if let Some(writer) = writer {
                    writer.rest();
                }
            }
            (Access::Turns(opened), writer) => {
                self.tells.set(true);
                // It is taken away only when the instance ends.
                if let Some(writer) = writer {
                    writer.turn_to(opened);
                }
            }
            (Access::Begins(begun), _) => {
                drop(writer);
                self.access.replace(Some(begun));
                self.tells.set(true);
            }
        }
        if let Some(level) = change.level {
            self.configure(level);
        }
    }

    /// Tells what the file says now: at once, or once a level that is for a while is over.
    fn configure(&self, level: Level) {
        let set = log::heeds_configuration().and_then(|()| {
            if let Some(passing) = &mut *self.passing.borrow_mut() {
                passing.then = level;
                return Ok(());
            }
            log::set_configured_level(&level).map(drop)
        });
        if let Err(why) = set {
            tracing::warn!("the `level` in [log] is not in force: {why}");
        }
    }

    /// What a worker of this instance is given.
    pub(super) fn of_worker(&self, instance: &str) -> Option<AccessLog> {
        let writer = self.access.borrow();
        let writer = writer.as_ref().filter(|_| self.tells.get());
        writer.map(|writer| AccessLog {
            sink: writer.sink(),
            instance: instance.into(),
        })
    }

    /// What became of the lines that the writer took, where there is an access log.
    pub(super) fn counts(&self) -> Option<Counts> {
        let writer = self.access.borrow();
        let writer = writer.as_ref().filter(|_| self.tells.get());
        writer.map(Writer::counts)
    }

    /// Has the access log's file opened anew, for it may have been moved away.
    pub(super) fn reopen(&self) {
        if let Some(writer) = &*self.access.borrow() {
            writer.reopen();
        }
    }

    /// Writes the last lines; once the workers are gone.
    pub(super) fn finish(&self) {
        if let Some(writer) = self.access.take()
            && !writer.finish(LAST_LINES)
        {
            tracing::error!("the access log is not written after {LAST_LINES:?}; stopping without");
        }
        log::tell_last_storms(clock::now());
    }
}

impl Hub {
    /// What the log tells: `info`, or `debug; info again in 9 min (by alice)`.
    pub(super) fn log_level(&self, now: Time) -> Result<String, Refused> {
        let level = log::level().ok_or_else(no_log)?;
        let passing = self.logs.passing.borrow();
        Ok(match &*passing {
            None => level.to_string(),
            Some(Passing { then, until, by }) => {
                let left = span(now.until(*until));
                format!("{level}; {then} again in {left} (by {by})")
            }
        })
    }

    /// Has the log tell this from now on, or for a while; then what it told before all that is
    /// for a while.
    pub(super) fn set_log_level(self: &Rc<Self>, order: SetLevel) -> Result<String, Refused> {
        let SetLevel { level, lasting, by } = order;
        let now = clock::now();
        let before = log::set_level(&level).map_err(|error| Refused::Failed(error.to_string()))?;
        let was_passing = self.logs.passing.take();
        let change = self.logs.changes.get() + 1;
        self.logs.changes.set(change);
        let (told, done) = match lasting {
            None => (String::new(), String::new()),
            Some(lasting) => {
                let then = was_passing.map_or_else(|| before.clone(), |passing| passing.then);
                let lasts = span(lasting);
                let done = format!("; {then} again in {lasts}");
                self.logs.passing.replace(Some(Passing {
                    then,
                    until: now + lasting,
                    by: by.clone(),
                }));
                let hub = self.clone();
                spawn_local(async move {
                    sleep(lasting).await;
                    hub.restore_log_level(change);
                });
                (format!(", for {lasts}"), done)
            }
        };
        self.tell_instance(format!("log level: {before} → {level} by {by}{told}"), now);
        Ok(format!("log level: {before} → {level}{done}"))
    }

    /// Goes back, unless the level was changed again after that change.
    fn restore_log_level(&self, change: u64) {
        if self.logs.changes.get() != change {
            return;
        }
        let Some(Passing { then, by, .. }) = self.logs.passing.take() else {
            return;
        };
        match log::set_level(&then) {
            Ok(before) => {
                let text = format!("log level: {before} → {then}: the time that {by} set is over");
                self.tell_instance(text, clock::now());
            }
            Err(error) => tracing::error!(%error, "cannot set the log level back"),
        }
    }
}

fn no_log() -> Refused {
    Refused::Failed(log::NotSet::NoLog.to_string())
}
