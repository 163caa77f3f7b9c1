//! The keeper: has what must outlive a restart written to disk, off the control thread.
//!
//! Only the newest state matters: while one write is under way, what comes in replaces what waits,
//! and one that failed is tried again every few seconds. What was found and could not be used is
//! set aside by the first write, never overwritten.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::disk::{Found, LOAD_PATIENCE, Place, SLOW_WRITE};
use super::memory::{NAME, Remembered};
use crate::observe::stamp::span;

/// Why nothing is kept.
const NOWHERE: &str = "no `state_dir` is configured";
/// From a write that failed to the next try: a full disk is emptied by people, in minutes.
const RETRY: Duration = Duration::from_secs(3);

/// Keeps the newest [`Remembered`] on disk.
#[derive(Clone)]
pub(super) struct Keeper(Rc<Shared>);

struct Shared {
    wanted: RefCell<Option<Remembered>>,
    /// Counts what was given to be kept.
    given: Cell<u64>,
    /// The latest that was written, and how that went.
    written: watch::Sender<(u64, Result<(), String>)>,
    /// Since when a write has been under way.
    writing: Cell<Option<Instant>>,
    /// Whether nothing was found that a person has yet to look at.
    is_plain: Cell<bool>,
    /// Whether another process writes.
    closed: Cell<bool>,
    wake: Notify,
}

/// What was kept before a restart.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// As far as it could be read.
    pub(super) remembered: Remembered,
    /// Why nothing of it could be, if so: then nobody knows what operators decided.
    pub(super) unusable: Option<String>,
}

impl Keeper {
    /// Reads what is kept in `dir`. Nothing that is found there keeps an instance from serving.
    pub(super) async fn open(dir: Option<&Path>) -> (Keeper, Kept) {
        let Some(dir) = dir else {
            let (keeper, _) = Keeper::new((u64::MAX, Err(NOWHERE.to_owned())));
            return (keeper, Kept::default());
        };
        let place = Place::new(dir, NAME);
        let mut kept = Kept::default();
        let problem = match place.load(LOAD_PATIENCE).await {
            Found::Fresh => Ok(()),
            Found::Current(remembered) => {
                kept.remembered = remembered;
                Ok(())
            }
            Found::Previous(remembered, why) => {
                kept.remembered = remembered;
                tracing::warn!(%why, "the state file is damaged; the copy before it is in force");
                Err(format!(
                    "the state file was damaged ({why}); an older copy is in force"
                ))
            }
            Found::Unusable(why) => {
                tracing::error!(%why, "the state file cannot be used; every member is ready");
                kept.unusable = Some(why.clone());
                Err(format!(
                    "the state file cannot be used ({why}); every member is ready. It is set aside \
                     by the next write"
                ))
            }
        };
        let is_plain = problem.is_ok();
        let (keeper, shared) = Keeper::new((0, problem));
        shared.is_plain.set(is_plain);
        spawn_local(write_all(place, kept.unusable.is_some(), shared));
        (keeper, kept)
    }

    fn new(written: (u64, Result<(), String>)) -> (Keeper, Rc<Shared>) {
        let (written, _) = watch::channel(written);
        let shared = Rc::new(Shared {
            wanted: RefCell::new(None),
            given: Cell::new(0),
            written,
            writing: Cell::new(None),
            is_plain: Cell::new(false),
            closed: Cell::new(false),
            wake: Notify::new(),
        });
        (Keeper(shared.clone()), shared)
    }

    /// Has this written; what waited to be is replaced.
    pub(super) fn keep(&self, remembered: Remembered) {
        self.0.given.set(self.0.given.get() + 1);
        self.0.wanted.replace(Some(remembered));
        self.0.wake.notify_one();
    }

    /// Has it written once more, to see whether the disk takes it; not over what was found damaged,
    /// which the next decision replaces.
    pub(super) fn check(&self, remembered: Remembered) {
        if self.0.is_plain.get() {
            self.keep(remembered);
        }
    }

    /// Writes nothing more: another process does from now on.
    pub(super) fn close(&self) {
        self.0.closed.set(true);
        self.0.wake.notify_one();
    }

    /// Waits until what was given last has been written, or could not be.
    pub(super) async fn kept(&self) -> Result<(), String> {
        let given = self.0.given.get();
        let mut written = self.0.written.subscribe();
        match written.wait_for(|(number, _)| *number >= given).await {
            Ok(state) => state.1.clone(),
            Err(_) => Err("nobody writes any more".to_owned()),
        }
    }

    /// Why what is decided might not outlive a restart, if so.
    pub(super) fn problem(&self) -> Option<String> {
        let under_way = self.0.writing.get().map(|since| since.elapsed());
        match under_way {
            Some(for_long) if for_long > SLOW_WRITE => {
                Some(format!("the disk has not answered for {}", span(for_long)))
            }
            _ => self.0.written.borrow().1.clone().err(),
        }
    }
}

async fn write_all(place: Place, mut aside: bool, shared: Rc<Shared>) {
    let mut failed = false;
    loop {
        tokio::select! {
            () = shared.wake.notified() => {}
            () = sleep(RETRY), if failed => {}
        }
        if shared.closed.get() {
            return;
        }
        let Some(remembered) = shared.wanted.take() else {
            continue;
        };
        let number = shared.given.get();
        shared.writing.set(Some(Instant::now()));
        let result = place.save(remembered.clone(), aside).await;
        shared.writing.set(None);
        aside &= result.is_err();
        match &result {
            Ok(()) if failed => tracing::info!("what operators decided can be stored again"),
            Err(error) if !failed => {
                tracing::error!(%error, "cannot store what operators decided; trying again");
            }
            Ok(()) | Err(_) => {}
        }
        failed = result.is_err();
        if failed {
            shared.wanted.borrow_mut().get_or_insert(remembered);
        }
        shared
            .written
            .send_modify(|written| *written = (number, result));
    }
}

#[cfg(test)]
mod tests;
