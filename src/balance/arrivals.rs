//! How many new connections a member takes each second, where that is limited.
//!
//! The generic cell rate algorithm (ITU-T I.371): one number a member, the moment by which all that
//! it took will have been due at an even pace. Who comes while that moment lies too far ahead is
//! turned away, and changes nothing.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Time;

/// A burst is what is due in this part of a second: enough that workers, which come when they are
/// scheduled, do not leave any of a second's worth unused.
const BURST: u64 = 10;
const SECOND: u64 = 1_000_000_000;

/// So many a second, and a burst of a tenth of them, at least one, after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds from one to the next.
    each: u64,
    /// Nanoseconds that the next one may be early by.
    early: u64,
}

/// What one member took, over all workers.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// When the next one is due at an even pace, in nanoseconds since boot.
    due: AtomicU64,
}

impl Pace {
    /// So many a second.
    pub fn new(a_second: NonZeroU32) -> Pace {
        let a_second = u64::from(a_second.get());
        let each = SECOND.div_ceil(a_second);
        let burst = (a_second / BURST).max(1);
        Pace {
            each,
            early: each * (burst - 1),
        }
    }
}

impl Arrivals {
    /// Whether one more would be taken.
    pub fn has_room(&self, pace: Pace, now: Time) -> bool {
        self.due.load(Ordering::Relaxed) <= now.as_nanos().saturating_add(pace.early)
    }

    /// Takes one, unless there is no room.
    #[must_use]
    pub fn take(&self, pace: Pace, now: Time) -> bool {
        let now = now.as_nanos();
        let take = |due: u64| {
            let room = due <= now.saturating_add(pace.early);
            room.then(|| due.max(now).saturating_add(pace.each))
        };
        self.due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(a_second: u32) -> Pace {
        Pace::new(NonZeroU32::new(a_second).expect("not zero"))
    }

    #[test]
    fn after_a_rest_a_tenth_of_a_seconds_worth_comes_at_once() {
        for (a_second, burst) in [(1, 1), (9, 1), (10, 1), (50, 5), (200, 20)] {
            let (arrivals, now) = (Arrivals::default(), Time::from_millis(60_000));
            let taken = (0..1_000).filter(|_| arrivals.take(pace(a_second), now));
            assert_eq!(taken.count(), burst, "{a_second} a second");
            assert!(!arrivals.has_room(pace(a_second), now));
        }
    }

    #[test]
    fn under_pressure_the_whole_pace_is_used() {
        let arrivals = Arrivals::default();
        let looks = (0..1_000).map(|n| Time::from_millis(60_000 + n * 10));
        let taken: usize = looks
            .map(|now| (0..50).filter(|_| arrivals.take(pace(200), now)).count())
            .sum();
        assert!((1_998..=2_020).contains(&taken), "{taken} in ten seconds");
    }

    proptest! {
        #[test]
        fn never_more_than_the_pace_and_one_burst_in_any_span(
            a_second in 1_u32..2_000,
            waits in proptest::collection::vec(0_u64..50_000_000, 1..300),
        ) {
            let arrivals = Arrivals::default();
            let mut now = Time::from_millis(60_000);
            let mut taken = Vec::new();
            for wait in waits {
                now += std::time::Duration::from_nanos(wait);
                let room = arrivals.has_room(pace(a_second), now);
                let took = arrivals.take(pace(a_second), now);
                prop_assert_eq!(room, took);
                if took {
                    taken.push(now);
                }
            }
            let burst = f64::from((a_second / 10).max(1));
            for (nth, &from) in taken.iter().enumerate() {
                for (count, &to) in taken[nth..].iter().enumerate() {
                    let span = to.since(from).as_secs_f64();
                    let most = f64::from(a_second) * span + burst;
                    prop_assert!((count + 1) as f64 <= most + 1e-6);
                }
            }
        }
    }
}
