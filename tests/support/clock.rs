//! One clock for all processes of a program: `CLOCK_MONOTONIC`, in nanoseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
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

/// How often stalls are looked for.
const DOZE: Duration = Duration::from_millis(5);
/// Who sleeps so much longer than it wanted was kept from running.
const LATE: Duration = Duration::from_millis(50);

/// Measures for how long nothing ran, while it lives: the machine's doing, and nobody's fault who
/// is tested on it.
#[derive(Debug)]
pub(crate) struct Stalls {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<Duration>,
}

impl Stalls {
    pub(crate) fn watch() -> Stalls {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let watching = std::thread::spawn(move || {
            let mut sum = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(DOZE);
                let late = before.elapsed().saturating_sub(DOZE);
                if late > LATE {
                    sum += late;
                }
            }
            sum
        });
        Stalls { stop, watching }
    }

    /// For how many seconds so far; watches no longer.
    pub(crate) fn seconds(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let sum = self.watching.join();
        Ok(sum
            .map_err(|_| "who watched for stalls panicked")?
            .as_secs_f64())
    }
}
