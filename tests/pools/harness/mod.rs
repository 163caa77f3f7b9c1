//! What the tests are made of.

mod client;
mod daemon;
mod member;
mod setup;

use std::future::Future;
use std::time::Duration;

pub(crate) use client::{Client, Ended, served_by, turned_away};
pub(crate) use daemon::{Daemon, http, twinpool};
pub(crate) use member::{Full, Member, Speaks, free_address, pattern};
pub(crate) use setup::{FAST, HTTP, Pool, RARE, Scratch, Setup};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What `future` comes to; the test fails when that takes too long.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Looks again and again until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
