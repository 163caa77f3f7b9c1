//! Storms: which events are told, and how many were not. Pure: it is given `now` and reads no
//! clock.
//!
//! Of each source (a place in the code), as many events as its limit in a [`PERIOD`] are told; the
//! rest are counted, and the count is told once when the period is over. A storm that goes on is
//! thus a handful of lines a period, however hard it blows, and nothing is lost without being
//! counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::time::Time;

/// After so long a source is told anew, and what was held back of it is counted in a line.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Sources that are kept apart. A program has some hundreds of places that log; events of any
/// beyond these are told whole.
pub const MOST_SOURCES: usize = 1_024;

/// What is told and held back, by source.
#[derive(Debug)]
pub struct Storms<K> {
    windows: HashMap<K, Window>,
    /// Events held back and not told of, over all sources.
    owed: u64,
}

/// What is to be done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is told.
    Told,
    /// It is counted; as the first of its period it also gives an example of what is.
    HeldFirst,
    /// It is counted.
    Held,
}

/// What was held back of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary<K> {
    /// Of whom.
    pub source: K,
    /// How many.
    pub count: u64,
    /// In how long.
    pub span: Duration,
    /// What one of them said.
    pub example: String,
}

/// One source, since its period began.
#[derive(Debug)]
struct Window {
    began: Time,
    told: u32,
    held: u64,
    example: String,
    /// From periods before, not told of yet.
    before: Option<(u64, Time)>,
}

impl<K: Clone + Eq + Hash> Default for Storms<K> {
    fn default() -> Storms<K> {
        Storms {
            windows: HashMap::new(),
            owed: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Storms<K> {
    /// An event of a source, of which `limit` in a period are told.
    pub fn handle_event(&mut self, source: &K, limit: u32, now: Time) -> Fate {
        if !self.windows.contains_key(source) {
            if self.windows.len() >= MOST_SOURCES {
                self.windows.retain(|_, window| !window.is_forgettable(now));
            }
            if self.windows.len() >= MOST_SOURCES {
                return Fate::Told;
            }
        }
        let window = self
            .windows
            .entry(source.clone())
            .or_insert_with(|| Window::new(now));
        if window.is_over(now) {
            window.begin_anew(now);
        }
        if window.told < limit {
            window.told += 1;
            return Fate::Told;
        }
        window.held += 1;
        self.owed += 1;
        match window.held {
            1 => Fate::HeldFirst,
            _ => Fate::Held,
        }
    }

    /// What the first of a source's events that are held back says.
    pub fn handle_example(&mut self, source: &K, example: String) {
        if let Some(window) = self.windows.get_mut(source) {
            window.example = example;
        }
    }

    /// Whether anything was held back that nobody has been told of.
    pub fn is_owing(&self) -> bool {
        self.owed > 0
    }

    /// What was held back in periods that are over; with `last`, in those that are not, too.
    pub fn poll_summaries(&mut self, now: Time, last: bool) -> Vec<Summary<K>> {
        let mut summaries = Vec::new();
        for (source, window) in &mut self.windows {
            if window.held > 0 && (last || window.is_over(now)) {
                window.begin_anew(now);
            }
            if let Some((count, since)) = window.before.take() {
                self.owed -= count;
                summaries.push(Summary {
                    source: source.clone(),
                    count,
                    span: now.since(since),
                    example: std::mem::take(&mut window.example),
                });
            }
        }
        self.windows.retain(|_, window| !window.is_forgettable(now));
        summaries
    }
}

impl Window {
    fn new(now: Time) -> Window {
        Window {
            began: now,
            told: 0,
            held: 0,
            example: String::new(),
            before: None,
        }
    }

    fn is_over(&self, now: Time) -> bool {
        now.since(self.began) >= PERIOD
    }

    fn is_forgettable(&self, now: Time) -> bool {
        self.is_over(now) && self.held == 0 && self.before.is_none()
    }

    fn begin_anew(&mut self, now: Time) {
        if self.held > 0 {
            let (count, since) = self.before.unwrap_or((0, self.began));
            self.before = Some((count + self.held, since));
        }
        self.began = now;
        self.told = 0;
        self.held = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 10;

    fn at(millis: u64) -> Time {
        Time::from_millis(1_000_000 + millis)
    }

    /// How many of `count` events at one moment are told.
    fn blow(storms: &mut Storms<&'static str>, source: &'static str, count: u32, now: Time) -> u32 {
        let told = (0..count).filter(|_| storms.handle_event(&source, LIMIT, now) == Fate::Told);
        told.count() as u32
    }

    #[test]
    fn the_first_of_a_period_are_told_and_the_rest_is_counted_once() {
        let mut storms = Storms::default();
        assert_eq!(blow(&mut storms, "a", 10, at(0)), 10);
        assert!(!storms.is_owing());
        assert_eq!(storms.handle_event(&"a", LIMIT, at(1)), Fate::HeldFirst);
        storms.handle_example(&"a", "what it says".to_owned());
        assert_eq!(blow(&mut storms, "a", 1_233, at(9_999)), 0);
        assert!(storms.is_owing());
        assert_eq!(storms.poll_summaries(at(9_999), false), []);
        let told = storms.poll_summaries(at(10_000), false);
        let expected = Summary {
            source: "a",
            count: 1_234,
            span: PERIOD,
            example: "what it says".to_owned(),
        };
        assert_eq!(told, [expected]);
        assert!(!storms.is_owing());
        assert_eq!(storms.poll_summaries(at(20_000), false), []);
    }

    #[test]
    fn a_storm_that_goes_on_is_told_anew_each_period() {
        let mut storms = Storms::default();
        let (mut told, mut counted) = (0, 0);
        for second in 0..60 {
            told += u64::from(blow(&mut storms, "a", 100, at(second * 1_000)));
            let summaries = storms.poll_summaries(at(second * 1_000 + 500), false);
            assert!(summaries.len() <= 1);
            counted += summaries.iter().map(|summary| summary.count).sum::<u64>();
        }
        assert_eq!(told, 60);
        let last = storms.poll_summaries(at(59_900), true);
        counted += last.iter().map(|summary| summary.count).sum::<u64>();
        assert_eq!(told + counted, 6_000);
        assert!(!storms.is_owing());
    }

    #[test]
    fn what_nobody_asked_for_in_time_is_not_lost() {
        let mut storms = Storms::default();
        for period in 0..3 {
            blow(&mut storms, "a", 15, at(period * 10_000));
        }
        let [summary] = &storms.poll_summaries(at(30_000), false)[..] else {
            panic!("one source");
        };
        assert_eq!((summary.count, summary.span), (15, 3 * PERIOD));
    }

    #[test]
    fn one_source_in_a_storm_silences_no_other() {
        let mut storms = Storms::default();
        blow(&mut storms, "a", 1_000, at(0));
        assert_eq!(blow(&mut storms, "b", 3, at(1)), 3);
        let told = storms.poll_summaries(at(10_001), false);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].source, "a");
    }

    #[test]
    fn sources_are_bounded_and_those_beyond_are_told_whole() {
        let mut storms = Storms::default();
        for source in 0..MOST_SOURCES {
            storms.handle_event(&source, LIMIT, at(0));
        }
        for _ in 0..100 {
            let fate = storms.handle_event(&usize::MAX, LIMIT, at(1));
            assert_eq!(fate, Fate::Told);
        }
        assert_eq!(storms.windows.len(), MOST_SOURCES);
        storms.handle_event(&usize::MAX, LIMIT, at(10_000));
        assert_eq!(storms.windows.len(), 1);
    }

    #[test]
    fn every_event_is_told_or_counted_whatever_comes() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};
        for seed in 0..50 {
            let mut dice = StdRng::seed_from_u64(seed);
            let mut storms = Storms::default();
            let (mut sent, mut told, mut counted, mut now) = (0, 0, 0, 0);
            for _ in 0..2_000 {
                now += dice.random_range(0..40);
                let source: u8 = dice.random_range(0..5);
                sent += 1;
                told += u64::from(storms.handle_event(&source, 3, at(now)) == Fate::Told);
                if dice.random_range(0..100) == 0 {
                    let summaries = storms.poll_summaries(at(now), false);
                    counted += summaries.iter().map(|summary| summary.count).sum::<u64>();
                }
            }
            let last = storms.poll_summaries(at(now), true);
            counted += last.iter().map(|summary| summary.count).sum::<u64>();
            assert_eq!(sent, told + counted, "seed {seed}");
            assert!(!storms.is_owing(), "seed {seed}");
        }
    }
}
