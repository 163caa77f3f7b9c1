//! The instance's logs: who writes its sessions down, and the level that goes back by itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::StartError;
use super::hub::Hub;
use crate::clock;
use crate::config;
use crate::log::access::{Counts, Writer};
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
    access: RefCell<Option<Writer>>,
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

impl Logs {
    /// Opens what the configuration names.
    pub(super) fn start(config: &config::Log) -> Result<Logs, StartError> {
        let logs = Logs::default();
        if let Some(destination) = &config.access {
            let writer = Writer::start(destination.clone())
                .map_err(|error| StartError::Access(destination.clone(), error))?;
            logs.access.replace(Some(writer));
        }
        Ok(logs)
    }

    /// What a worker of this instance is given.
    pub(super) fn of_worker(&self, instance: &str) -> Option<AccessLog> {
        let writer = self.access.borrow();
        writer.as_ref().map(|writer| AccessLog {
            sink: writer.sink(),
            instance: instance.into(),
        })
    }

    /// What became of the lines that the writer took, where there is an access log.
    pub(super) fn counts(&self) -> Option<Counts> {
        self.access.borrow().as_ref().map(Writer::counts)
    }

    /// Has the access log's file opened anew whenever SIGUSR1 says that it was moved away.
    pub(super) async fn reopen_when_told(&self) {
        let mut told = match signal(SignalKind::user_defined1()) {
            Ok(told) => told,
            Err(error) => {
                tracing::warn!(%error, "SIGUSR1 cannot be heard: it ends this process");
                return;
            }
        };
        while told.recv().await.is_some() {
            self.reopen();
        }
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

    /// Has the logs follow a configuration that was read anew. A level that holds for a while goes on
    /// for as long, and then it is the new one.
    pub(super) fn reload_logs(&self, was: &config::Log, is: &config::Log) {
        self.logs.reopen();
        let level = &is.settings.level;
        if was.settings.level == *level {
            return;
        }
        if let Some(passing) = &mut *self.logs.passing.borrow_mut() {
            passing.then = level.clone();
            return;
        }
        match log::set_configured_level(level) {
            Ok(before) => {
                let text = format!("log level: {before} → {level}: the configuration says so");
                self.tell_instance(text, clock::now());
            }
            Err(error) => tracing::warn!("the log level stays as it was: {error}"),
        }
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
