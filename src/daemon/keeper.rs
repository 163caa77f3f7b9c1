//! The keeper: has what must outlive a restart written to disk, off the control thread.
//!
//! Only the newest state matters: while one write is under way, what comes in replaces what waits.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::{spawn_blocking, spawn_local};

use super::memory::{NAME, Remembered};
use crate::pairing::store::{Loaded, Store, StoreError};

/// Why nothing is kept.
const NOWHERE: &str = "no `state_dir` is configured";

/// Keeps the newest [`Remembered`] on disk.
#[derive(Clone)]
pub(super) struct Keeper(Rc<Shared>);

struct Shared {
    wanted: RefCell<Option<Remembered>>,
    /// Counts what was given to be kept.
    given: Cell<u64>,
    /// The latest that was written, and how that went.
    written: watch::Sender<(u64, Result<(), String>)>,
    wake: Notify,
}

impl Keeper {
    /// Opens the store in `dir` and reads what is there.
    ///
    /// # Errors
    /// When the directory cannot be used, or what is there must not be overwritten.
    pub(super) fn open(dir: Option<&Path>) -> Result<(Keeper, Remembered), StoreError> {
        let Some(dir) = dir else {
            let (written, _) = watch::channel((u64::MAX, Err(NOWHERE.to_owned())));
            let keeper = Keeper(Rc::new(Shared {
                wanted: RefCell::new(None),
                given: Cell::new(0),
                written,
                wake: Notify::new(),
            }));
            return Ok((keeper, Remembered::default()));
        };
        let store = Store::open(dir, NAME)?;
        let mut problem = Ok(());
        let remembered = match store.load()? {
            Loaded::Fresh => Remembered::default(),
            Loaded::Current(remembered) => remembered,
            Loaded::Previous(remembered, why) => {
                tracing::warn!(%why, "the state file is damaged; the copy before it is in force");
                problem = Err(format!(
                    "the state file was damaged ({why}); an older copy is in force"
                ));
                remembered
            }
            Loaded::Damaged(why) => {
                tracing::error!(%why, "the state file and the copy before it are damaged; every member is ready");
                problem = Err(format!(
                    "the state file was damaged ({why}); every member is ready"
                ));
                Remembered::default()
            }
        };
        let (written, _) = watch::channel((0, problem));
        let shared = Rc::new(Shared {
            wanted: RefCell::new(None),
            given: Cell::new(0),
            written,
            wake: Notify::new(),
        });
        spawn_local(write_all(store, shared.clone()));
        Ok((Keeper(shared), remembered))
    }

    /// Has this written; what waited to be is replaced.
    pub(super) fn keep(&self, remembered: Remembered) {
        self.0.given.set(self.0.given.get() + 1);
        self.0.wanted.replace(Some(remembered));
        self.0.wake.notify_one();
    }

    /// Waits until what was given last has been written.
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
        self.0.written.borrow().1.clone().err()
    }
}

async fn write_all(store: Store, shared: Rc<Shared>) {
    let store = Arc::new(store);
    loop {
        shared.wake.notified().await;
        let Some(remembered) = shared.wanted.take() else {
            continue;
        };
        let number = shared.given.get();
        let store = store.clone();
        let write = move || store.save(&remembered).map_err(|error| error.to_string());
        let result = spawn_blocking(write)
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
        if let Err(error) = &result {
            tracing::error!(%error, "cannot store what operators decided");
        }
        shared
            .written
            .send_modify(|written| *written = (number, result));
    }
}
