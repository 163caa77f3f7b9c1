//! Moments and spans as people and other programs read them.
//!
//! Deciding code knows [`Time`] alone. Here, at the edge, a [`Clock`] turns it into a [`Stamp`] of
//! the wall clock, written as RFC 3339 in UTC, and [`span`] writes how long something took.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::time::Time;

/// A moment by the wall clock, to the millisecond; RFC 3339 in UTC where it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamp(Timestamp);

/// One reading of both clocks at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// By the clock that decides.
    pub now: Time,
    /// By the clock on the wall.
    pub wall: SystemTime,
}

impl Clock {
    /// When `time` was or will be, if the wall clock is not set in between.
    pub fn stamp(&self, time: Time) -> Stamp {
        let wall = if time >= self.now {
            self.wall.checked_add(self.now.until(time))
        } else {
            self.wall.checked_sub(self.now.since(time))
        };
        wall.map_or(Stamp(Timestamp::MAX), Stamp::from)
    }
}

impl Stamp {
    /// How long ago `earlier` was; zero when it lies in the future.
    pub fn since(self, earlier: Stamp) -> Duration {
        let millis = self.0.as_millisecond() - earlier.0.as_millisecond();
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    /// How long until `later`; zero when it has passed.
    pub fn until(self, later: Stamp) -> Duration {
        later.since(self)
    }

    /// `03:14:07`, or `2026-11-21 03:14` when that is not of the same day as `now`; in UTC.
    pub fn clock_face(self, now: Stamp) -> String {
        let (own, other) = (self.0.to_string(), now.0.to_string());
        match (own.get(..10), other.get(..10), own.get(11..19)) {
            (Some(day), Some(today), Some(clock)) if day == today => clock.to_owned(),
            (Some(day), _, Some(clock)) => format!("{day} {}", &clock[..5]),
            _ => own,
        }
    }

    /// `2026-11-22 03:14:07 UTC`.
    pub fn in_full(self) -> String {
        let text = self.0.to_string();
        match (text.get(..10), text.get(11..19)) {
            (Some(day), Some(clock)) => format!("{day} {clock} UTC"),
            _ => text,
        }
    }

    /// Seconds since 1970, for metrics.
    pub fn unix_seconds(self) -> f64 {
        self.0.as_millisecond() as f64 / 1e3
    }
}

impl From<SystemTime> for Stamp {
    fn from(wall: SystemTime) -> Stamp {
        let stamp = Timestamp::try_from(wall)
            .and_then(|exact| Timestamp::from_millisecond(exact.as_millisecond()));
        Stamp(stamp.unwrap_or(Timestamp::MAX))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A span in at most two units: `0.2 s`, `4 min`, `1 h 20 min`, `3 d 4 h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |big: u64, unit: &str, small: u64, sub: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {sub}"),
    };
    match seconds {
        0..10 => {
            let tenths = span.as_millis() / 100;
            match tenths % 10 {
                0 => format!("{} s", tenths / 10),
                rest => format!("{}.{rest} s", tenths / 10),
            }
        }
        10..60 => format!("{seconds} s"),
        60..600 => pair(minutes, "min", seconds % 60, "s"),
        600..3600 => format!("{minutes} min"),
        3600..86_400 => pair(hours, "h", minutes % 60, "min"),
        _ => pair(days, "d", hours % 24, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Duration = Duration::from_millis(1_795_404_847_123);

    fn clock() -> Clock {
        Clock {
            now: Time::from_millis(100_000),
            wall: SystemTime::UNIX_EPOCH + WALL,
        }
    }

    #[test]
    fn a_moment_before_or_after_now_is_stamped_by_the_wall_clock() {
        let clock = clock();
        let now = clock.stamp(clock.now);
        assert_eq!(now.to_string(), "2026-11-23T03:34:07.123Z");
        assert_eq!(
            clock.stamp(Time::from_millis(99_000)).to_string(),
            "2026-11-23T03:34:06.123Z"
        );
        assert_eq!(
            now.until(clock.stamp(Time::from_millis(101_500)))
                .as_millis(),
            1_500
        );
        assert_eq!(
            now.since(clock.stamp(Time::from_millis(101_500))),
            Duration::ZERO
        );
    }

    #[test]
    fn a_moment_beyond_all_clocks_does_not_panic() {
        assert!(clock().stamp(Time::FAR) > clock().stamp(Time::ZERO));
    }

    #[test]
    fn the_day_is_named_only_when_it_is_another() {
        let now = clock().stamp(clock().now);
        assert_eq!(now.clock_face(now), "03:34:07");
        let clock = Clock {
            now: Time::from_millis(86_400_000),
            ..clock()
        };
        assert_eq!(clock.stamp(Time::ZERO).clock_face(now), "2026-11-22 03:34");
        assert_eq!(now.in_full(), "2026-11-23 03:34:07 UTC");
    }

    #[test]
    fn a_stamp_survives_json() {
        let now = clock().stamp(clock().now);
        let json = serde_json::to_string(&now).unwrap();
        assert_eq!(json, "\"2026-11-23T03:34:07.123Z\"");
        assert_eq!(serde_json::from_str::<Stamp>(&json).unwrap(), now);
    }

    #[test]
    fn a_span_is_told_in_at_most_two_units() {
        let told = |millis| span(Duration::from_millis(millis));
        assert_eq!(told(0), "0 s");
        assert_eq!(told(250), "0.2 s");
        assert_eq!(told(2_000), "2 s");
        assert_eq!(told(59_999), "59 s");
        assert_eq!(told(61_000), "1 min 1 s");
        assert_eq!(told(240_000), "4 min");
        assert_eq!(told(660_500), "11 min");
        assert_eq!(told(4_800_000), "1 h 20 min");
        assert_eq!(told(90_000_000), "1 d 1 h");
    }
}
