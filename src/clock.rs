//! The one place where the clock is read.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

use crate::time::Time;

/// Now, by `CLOCK_BOOTTIME`.
pub fn now() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    Time::from_nanos(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Now, by the wall clock: for people and for what must outlive a restart, never for decisions.
pub fn wall() -> SystemTime {
    SystemTime::now()
}
