//! How many hedges a service may make.

use std::cell::Cell;
use std::time::Duration;

use crate::time::Time;

/// At most one in so many attempts of a service over [`WINDOW`] is a hedge, rounded up.
const ONE_IN: u32 = 10;
/// The span over which attempts and hedges are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// The window moves in steps of this span.
const STEP: Duration = Duration::from_secs(1);
const STEPS: usize = (WINDOW.as_secs() / STEP.as_secs()) as usize;

/// Attempts and hedges of one service on one worker over the last ten seconds. When every connect
/// is slow, hedging all of them would double the load of members that are in trouble already
/// (Dean and Barroso 2013, "The Tail at Scale", limits hedges the same way).
#[derive(Debug, Default)]
pub struct HedgeBudget {
    steps: [Cell<Step>; STEPS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Step {
    /// Which step since boot these numbers belong to.
    number: u64,
    attempts: u32,
    hedges: u32,
}

impl HedgeBudget {
    /// Counts an attempt that is not a hedge.
    pub fn attempt(&self, now: Time) {
        self.update(now, |step| step.attempts += 1);
    }

    /// Counts a hedge and allows it, if the budget does.
    #[must_use]
    pub fn hedge(&self, now: Time) -> bool {
        let current = number(now);
        let (attempts, hedges) = self
            .steps
            .iter()
            .map(Cell::get)
            .filter(|step| step.number + STEPS as u64 > current)
            .fold((0, 0), |(a, h), step| (a + step.attempts, h + step.hedges));
        let allowed = hedges < attempts.div_ceil(ONE_IN);
        if allowed {
            self.update(now, |step| step.hedges += 1);
        }
        allowed
    }

    fn update(&self, now: Time, change: impl FnOnce(&mut Step)) {
        let number = number(now);
        let cell = &self.steps[(number % STEPS as u64) as usize];
        let mut step = cell.get();
        if step.number != number {
            step = Step {
                number,
                ..Step::default()
            };
        }
        change(&mut step);
        cell.set(step);
    }
}

fn number(now: Time) -> u64 {
    now.as_nanos() / STEP.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_millis(1_000_000 + seconds * 1_000)
    }

    #[test]
    fn one_attempt_in_ten_may_be_hedged() {
        let budget = HedgeBudget::default();
        for _ in 0..100 {
            budget.attempt(at(0));
        }
        let allowed = (0..100).filter(|_| budget.hedge(at(1))).count();
        assert_eq!(allowed, 10);
    }

    #[test]
    fn a_quiet_service_may_hedge_its_only_attempt_once() {
        let budget = HedgeBudget::default();
        assert!(!budget.hedge(at(0)));
        budget.attempt(at(0));
        assert!(budget.hedge(at(0)));
        assert!(!budget.hedge(at(0)));
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let budget = HedgeBudget::default();
        for _ in 0..10 {
            budget.attempt(at(0));
        }
        assert!(budget.hedge(at(9)));
        assert!(!budget.hedge(at(9)));
        assert!(
            !budget.hedge(at(10)),
            "the attempts are forgotten, the hedge is not"
        );
        budget.attempt(at(11));
        assert!(!budget.hedge(at(11)));
        budget.attempt(at(19));
        assert!(budget.hedge(at(19)));
    }
}
