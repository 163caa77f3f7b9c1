//! What must outlive a restart, read and written off the control thread, in whatever state the
//! disk is.
//!
//! Reading never fails: what cannot be used is [`Found::Unusable`], with why, and the daemon serves
//! without it. Writing says whether it is on disk. Neither is waited for on this thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::pairing::store::{Loaded, Store};

/// How long a start waits for a disk that does not answer: longer than one needs that is only
/// busy, shorter than anybody would wait for a listener.
pub(super) const LOAD_PATIENCE: Duration = Duration::from_secs(5);
/// A write that takes longer than this is told: a disk that is only busy takes a fraction of it.
pub(super) const SLOW_WRITE: Duration = Duration::from_secs(2);

/// Where one record is kept.
#[derive(Clone, Debug)]
pub(super) struct Place {
    dir: PathBuf,
    name: String,
    /// Two saves at once would write into each other's files.
    one_save: Arc<Mutex<()>>,
}

/// What is kept there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// Nothing ever was.
    Fresh,
    /// The latest.
    Current(T),
    /// The one before it, and why not the latest.
    Previous(T, String),
    /// Nothing that can be used, and why. What is there must be set aside before anything is
    /// written.
    Unusable(String),
}

impl Place {
    pub(super) fn new(dir: &Path, name: impl Into<String>) -> Place {
        Place {
            dir: dir.to_owned(),
            name: name.into(),
            one_save: Arc::default(),
        }
    }

    /// What is there, as far as the disk says so within `patience`.
    pub(super) async fn load<T>(&self, patience: Duration) -> Found<T>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let place = self.clone();
        let load = move || Store::open(&place.dir, &place.name)?.load();
        match timeout(patience, spawn_blocking(load)).await {
            Ok(Ok(Ok(loaded))) => match loaded {
                Loaded::Fresh => Found::Fresh,
                Loaded::Current(record) => Found::Current(record),
                Loaded::Previous(record, why) => Found::Previous(record, why),
                Loaded::Damaged(why) => Found::Unusable(why),
            },
            Ok(Ok(Err(error))) => Found::Unusable(error.to_string()),
            Ok(Err(error)) => Found::Unusable(error.to_string()),
            Err(_) => Found::Unusable(format!(
                "{} does not answer within {patience:?}",
                self.dir.display()
            )),
        }
    }

    /// Puts `record` there, and returns once it is on disk. With `aside`, whatever is there is
    /// given another name first.
    pub(super) async fn save<T>(&self, record: T, aside: bool) -> Result<(), String>
    where
        T: Serialize + Send + 'static,
    {
        let place = self.clone();
        let save = move || {
            // It guards files, and a save that panicked left them as a crash would.
            let _alone = place
                .one_save
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let store = Store::open(&place.dir, &place.name)?;
            match aside {
                true => store.save_aside(&record),
                false => store.save(&record),
            }
        };
        match spawn_blocking(save).await {
            Ok(saved) => saved.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
