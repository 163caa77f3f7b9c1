//! One clock for all processes of a program: `CLOCK_MONOTONIC`, in nanoseconds.

use std::time::{Duration, Instant};

use super::Result;

/// Nanoseconds on a clock that every process of this machine shares.
pub(crate) fn now() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |n: i64| u64::try_from(n).expect("the monotonic clock is never negative");
    part(t.tv_sec) * 1_000_000_000 + part(t.tv_nsec)
}

/// Seconds from one moment to a later one; negative when it is earlier.
pub(crate) fn seconds(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e9
}

/// Asks every 10 ms until the answer is there, or fails with `what` after `limit`.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return Err(format!("{what}: not within {limit:?}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
