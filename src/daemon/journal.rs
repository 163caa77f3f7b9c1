//! The journal: has events written to the event log in the state directory, off the control thread.
//!
//! ```text
//! Events::tell ─► Journal::keep ─► waiting lines, bounded ─► one write at a time ─► events.jsonl
//! ```
//!
//! Nobody waits for it but a stopping instance. While one write is under way lines gather, and go
//! to the disk together; a write that failed is tried again every few seconds. What finds no room
//! to wait is lost from the log, counted, and told; it is still among the events in memory.

mod file;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::disk::{LOAD_PATIENCE, SLOW_WRITE};
use crate::observe::events::Event;
use crate::observe::stamp::span;
use crate::observe::view::EventLog;

/// Lines that may wait for the disk: a storm of every verdict of hundreds of members, in some
/// hundreds of KiB.
const WAITING: usize = 4_096;
/// Bytes that go to the disk in one write, unless one line alone is longer.
const BATCH: usize = 256 * 1024;
/// From a write that failed to the next try: a full disk is emptied by people, in minutes.
const RETRY: Duration = Duration::from_secs(3);

/// Writes events to the log.
#[derive(Clone)]
pub(super) struct Journal(Rc<Shared>);

struct Shared {
    /// Nowhere without a state directory.
    dir: Option<PathBuf>,
    waiting: RefCell<VecDeque<String>>,
    /// Whether the log is another process's by now.
    closed: Cell<bool>,
    /// Counts the lines that were given.
    given: Cell<u64>,
    /// How many of those are dealt with, in the file or lost; and why the last write failed.
    written: watch::Sender<(u64, Option<String>)>,
    /// Since when a write has been under way.
    writing: Cell<Option<Instant>>,
    /// Counts the lines that found no room to wait.
    lost: Cell<u64>,
    /// Lines of before that could not be read.
    unreadable: u64,
    wake: Notify,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// What happened before, oldest first.
    pub(super) events: Vec<Event>,
    /// What of it could not be read, in a sentence.
    pub(super) told: Option<String>,
}

impl Journal {
    /// Reads the log in `dir`. Nothing that is found there keeps an instance from serving.
    pub(super) async fn open(dir: Option<&Path>) -> (Journal, Past) {
        let Some(dir) = dir else {
            return (Journal::new(None, 0, None).0, Past::default());
        };
        let place = dir.to_owned();
        let read = spawn_blocking(move || file::read(&place));
        let found = match timeout(LOAD_PATIENCE, read).await {
            Ok(Ok(found)) => found.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {}", span(LOAD_PATIENCE))),
        };
        let (past, unreadable, problem) = match found {
            Ok(found) => {
                let told = (found.unreadable > 0).then(|| {
                    let lines = match found.unreadable {
                        1 => "1 line".to_owned(),
                        n => format!("{n} lines"),
                    };
                    format!(
                        "event log: {lines} in {} could not be read, damaged or cut off; the rest \
                         is in force",
                        dir.display()
                    )
                });
                let events = found.events;
                (Past { events, told }, found.unreadable, None)
            }
            Err(why) => {
                let told = format!(
                    "event log: what happened before could not be read in {}: {why}",
                    dir.display()
                );
                let past = Past {
                    events: Vec::new(),
                    told: Some(told),
                };
                (past, 0, Some(why))
            }
        };
        let (journal, shared) = Journal::new(Some(dir.to_owned()), unreadable, problem);
        spawn_local(write_all(dir.to_owned(), shared));
        (journal, past)
    }

    fn new(
        dir: Option<PathBuf>,
        unreadable: u64,
        problem: Option<String>,
    ) -> (Journal, Rc<Shared>) {
        let (written, _) = watch::channel((0, problem));
        let shared = Rc::new(Shared {
            dir,
            waiting: RefCell::default(),
            closed: Cell::new(false),
            given: Cell::new(0),
            written,
            writing: Cell::new(None),
            lost: Cell::new(0),
            unreadable,
            wake: Notify::new(),
        });
        (Journal(shared.clone()), shared)
    }

    /// Has an event written. Never waits.
    pub(super) fn keep(&self, event: &Event) {
        let shared = &*self.0;
        if shared.dir.is_none() || shared.closed.get() {
            return;
        }
        shared.given.set(shared.given.get() + 1);
        let mut waiting = shared.waiting.borrow_mut();
        if waiting.len() >= WAITING {
            shared.lost.set(shared.lost.get() + 1);
            return;
        }
        waiting.push_back(file::line(event));
        shared.wake.notify_one();
    }

    /// Writes nothing more that is not waiting yet, and tries nothing again: another process writes
    /// from now on, and what follows a write that failed might take its lines away.
    pub(super) fn close(&self) {
        self.0.closed.set(true);
        self.0.wake.notify_one();
    }

    /// Waits until what was given has been written, or could not be.
    pub(super) async fn flushed(&self) -> Result<(), String> {
        if self.0.dir.is_none() {
            return Ok(());
        }
        let given = self.0.given.get() - self.0.lost.get();
        let mut written = self.0.written.subscribe();
        let done = written.wait_for(|(number, _)| *number >= given).await;
        match done {
            Ok(state) => state.1.clone().map_or(Ok(()), Err),
            Err(_) => Err("nobody writes any more".to_owned()),
        }
    }

    /// How the log does.
    pub(super) fn state(&self) -> EventLog {
        let shared = &*self.0;
        let under_way = shared.writing.get().map(|since| since.elapsed());
        let problem = match under_way {
            Some(for_long) if for_long > SLOW_WRITE => {
                Some(format!("the disk has not answered for {}", span(for_long)))
            }
            _ => shared.written.borrow().1.clone(),
        };
        EventLog {
            is_kept: shared.dir.is_some(),
            problem,
            lost: shared.lost.get(),
            unreadable: shared.unreadable,
        }
    }
}

async fn write_all(dir: PathBuf, shared: Rc<Shared>) {
    // Lines that were taken out to be written, until they are.
    let mut batch: Vec<String> = Vec::new();
    let mut done = 0;
    let mut failed = false;
    loop {
        let idle = batch.is_empty() && shared.waiting.borrow().is_empty();
        tokio::select! {
            () = shared.wake.notified(), if idle => {}
            () = sleep(RETRY), if failed => {}
            () = std::future::ready(()), if !idle && !failed => {}
        }
        if failed && shared.closed.get() {
            let left = batch.len() + shared.waiting.take().len();
            shared.lost.set(shared.lost.get() + left as u64);
            return;
        }
        if batch.is_empty() {
            batch = next_batch(&mut shared.waiting.borrow_mut());
        }
        if batch.is_empty() {
            continue;
        }
        let lines = batch.concat();
        let place = dir.clone();
        shared.writing.set(Some(Instant::now()));
        let result = spawn_blocking(move || file::append(&place, &lines)).await;
        shared.writing.set(None);
        let problem = match result {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        match &problem {
            None => {
                done += batch.len() as u64;
                batch.clear();
                if failed {
                    tracing::info!("the event log can be written again");
                }
            }
            Some(error) if !failed => {
                tracing::error!(%error, "cannot write the event log; trying again");
            }
            Some(_) => {}
        }
        failed = problem.is_some();
        // Whoever waits for a flush is not kept waiting by a disk that takes nothing.
        let dealt_with = match failed {
            true => shared.given.get(),
            false => done,
        };
        shared.written.send_replace((dealt_with, problem));
    }
}

/// The lines that are written next.
fn next_batch(waiting: &mut VecDeque<String>) -> Vec<String> {
    let mut size = 0;
    let count = waiting
        .iter()
        .take_while(|line| {
            let first = size == 0;
            size += line.len();
            first || size <= BATCH
        })
        .count();
    waiting.drain(..count).collect()
}

#[cfg(test)]
mod tests;
