//! Whether sessions of a pool's users go to the twin one by one, told from a count of them.
//! Pure.

use std::time::Duration;

use crate::time::Time;

/// From one look at the counts to the next.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// So long without another one, and it is over: long enough that a trickle is told once.
const OVER: Duration = Duration::from_secs(10);

/// One home pool's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spilling {
    seen: u64,
    rose: Option<Time>,
}

impl Spilling {
    /// Takes how many there have been since the start; whether that turned it on or off.
    pub(super) fn handle_count(&mut self, count: u64, now: Time) -> Option<bool> {
        let before = self.is_on();
        if count > self.seen {
            self.rose = Some(now);
        } else if self.rose.is_some_and(|rose| now.since(rose) >= OVER) {
            self.rose = None;
        }
        self.seen = count;
        (self.is_on() != before).then_some(!before)
    }

    /// Whether there have been more since the last look.
    pub(super) fn has_risen(&self, count: u64) -> bool {
        count > self.seen
    }

    pub(super) fn is_on(&self) -> bool {
        self.rose.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_when_it_begins_and_once_when_none_came_for_a_while() {
        let mut spilling = Spilling::default();
        let mut told = Vec::new();
        let counts = [0, 0, 3, 3, 3, 7].into_iter().chain([7; 20]);
        for (second, count) in counts.enumerate() {
            let now = Time::from_millis(second as u64 * 1_000);
            if let Some(on) = spilling.handle_count(count, now) {
                told.push((second, on));
            }
            let on = (2..15).contains(&second);
            assert_eq!(spilling.is_on(), on, "after {second} s");
        }
        assert_eq!(told, [(2, true), (15, false)]);
    }
}
