//! The verdict machine: what one member is thought to be for one service.
//!
//! ```text
//!                 first success                    fall failures, not all hard; flapping
//!   ┌─────────┐ ───────────────► ┌────┐ ─────────────────────────────────► ┌──────┐
//!   │ unknown │                  │ up │ ◄───────────────────────────────── │ busy │
//!   └─────────┘                  └────┘   rise successes (flap, if flapping) └──────┘
//!     │     │  fall failures       │ ▲                                       │  ▲
//!     │     └─────► busy           │ │ rise successes           fall hard    │  │ fall soft
//!     │ fall hard                  │ │                          failures     │  │ failures
//!     │                  fall hard ▼ │                                       ▼  │
//!     └───────────────────────►┌──────┐◄─────────────────────────────────────────┘
//!                              │ down │
//!                              └──────┘
//! ```
//!
//! "Hard" and "soft" are [`Severity`]. A soft failure was an answer, so it ends a run of hard ones;
//! a success ends both runs.
//!
//! Plain runs miss a member that fails every other time. So, after gdnsd's monitoring
//! (`down_thresh`, `ok_thresh`), while `up` every failure counts towards flapping too, and only a
//! run of `flap` successes clears that count.
//!
//! Evidence from traffic can supply all but one of the `fall` hard failures, and has the next probe
//! asked at once; at least one probe must confirm.
//!
//! The counters call for a transition ([`Machine::wants`]); the owner has it made
//! ([`Machine::settle`]) or holds it back. The machine never asks anybody anything: it says when it
//! is [`Machine::due`].

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Answer, Failure, OwnFault, Reason, Severity, Verdict};
use crate::time::Time;
use crate::topology::Check;

/// Evidence may have a member asked no sooner than this part of the in-doubt interval after it was
/// last asked: clients must not be able to make us hammer it.
const PULL_AT: u32 = 2;

/// The verdict of one target, and everything it follows from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    rules: Rules,
    verdict: Verdict,
    reason: Reason,
    since: Time,
    /// Consecutive failures of any kind, those of evidence included.
    failures: u32,
    /// Consecutive hard failures, those of evidence included.
    hard: u32,
    /// Consecutive soft failures.
    soft: u32,
    /// How many of the hard ones evidence supplied.
    evidence: u32,
    /// Consecutive successes.
    successes: u32,
    /// Failures of probes towards flapping.
    flaps: u32,
    last_failure: Option<Failure>,
    own_fault: Option<OwnFault>,
    asking: Asking,
    dice: u64,
}

/// The part of a [`Check`] that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Rules {
    fall: NonZeroU32,
    rise: NonZeroU32,
    flap: NonZeroU32,
    interval: Duration,
    in_doubt: Duration,
    /// Thousandths.
    jitter: u32,
}

/// Whether a probe is out, and when the next is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asking {
    /// Not out.
    Due { at: Time, last: Option<Time> },
    /// Out since `last`; `pulled` once evidence came in meanwhile.
    Out { last: Time, pulled: bool },
}

/// A verdict that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    /// From what.
    pub from: Verdict,
    /// To what.
    pub to: Verdict,
    /// Why.
    pub reason: Reason,
}

/// The counters of a machine and what they are measured against, for `why`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in Machine and Check")]
pub struct Progress {
    pub failures: u32,
    pub from_evidence: u32,
    pub fall: u32,
    pub successes: u32,
    /// Successes in a row that would bring it back from here.
    pub rise: u32,
    pub flaps: u32,
    pub flap: u32,
}

impl Machine {
    /// An `unknown` member, first asked at `first`. Jitter follows from `seed`.
    pub fn new(check: &Check, first: Time, seed: u64, now: Time) -> Machine {
        Machine {
            rules: Rules {
                fall: check.fall,
                rise: check.rise,
                flap: check.flap,
                interval: check.interval,
                in_doubt: check.in_doubt,
                jitter: (check.jitter.clamp(0.0, 0.5) * 1_000.0) as u32,
            },
            verdict: Verdict::Unknown,
            reason: Reason::NotYetAsked,
            since: now,
            failures: 0,
            hard: 0,
            soft: 0,
            evidence: 0,
            successes: 0,
            flaps: 0,
            last_failure: None,
            own_fault: None,
            asking: Asking::Due {
                at: first,
                last: None,
            },
            dice: seed,
        }
    }

    /// When it is to be asked; none while a probe is out.
    pub fn due(&self) -> Option<Time> {
        match self.asking {
            Asking::Due { at, .. } => Some(at),
            Asking::Out { .. } => None,
        }
    }

    /// It is being asked.
    pub fn handle_asked(&mut self, now: Time) {
        self.asking = Asking::Out {
            last: now,
            pulled: false,
        };
    }

    /// A probe came back. Counts, and sets when the next is due.
    pub fn handle_probe(&mut self, answer: Answer, now: Time) {
        self.own_fault = None;
        match answer {
            Answer::Good => self.succeeded(),
            Answer::Bad(failure) => {
                self.failed(failure);
                if self.verdict == Verdict::Up {
                    self.flaps += 1;
                }
            }
            Answer::OwnFault(fault) => self.own_fault = Some(fault),
        }
        let (last, pulled) = match self.asking {
            Asking::Out { last, pulled } => (last, pulled),
            Asking::Due { last, .. } => (last.unwrap_or(now), false),
        };
        let wait = if self.is_in_doubt() {
            self.rules.in_doubt
        } else {
            self.rules.interval
        };
        let at = (last + self.jittered(wait)).max(now);
        self.asking = Asking::Due {
            at,
            last: Some(last),
        };
        if pulled {
            self.pull(now);
        }
    }

    /// A client's connect failed on it.
    pub fn handle_evidence(&mut self, failure: Failure, now: Time) {
        if self.verdict == Verdict::Down {
            return;
        }
        if self.evidence + 1 < self.rules.fall.get() {
            self.evidence += 1;
            self.failed(failure);
        }
        self.pull(now);
    }

    /// Has the next probe asked as soon as may be.
    pub fn pull(&mut self, now: Time) {
        match &mut self.asking {
            Asking::Out { pulled, .. } => *pulled = true,
            Asking::Due { at, last } => {
                let soonest = last.map_or(now, |last| last + self.rules.in_doubt / PULL_AT);
                *at = (*at).min(soonest.max(now));
            }
        }
    }

    /// The transition that the counters call for.
    pub fn wants(&self) -> Option<Transition> {
        let (to, reason) = self.called_for()?;
        Some(Transition {
            from: self.verdict,
            to,
            reason,
        })
    }

    fn called_for(&self) -> Option<(Verdict, Reason)> {
        let fall = self.rules.fall.get();
        let failed = self.last_failure.map_or(self.reason, Reason::Failed);
        let dead = self.hard >= fall;
        let ill = self.failures >= fall;
        let well = self.successes >= self.needed_successes();
        match self.verdict {
            Verdict::Down if well => Some((Verdict::Up, Reason::Answered)),
            Verdict::Down if self.soft >= fall => Some((Verdict::Busy, failed)),
            Verdict::Down => None,
            _ if dead => Some((Verdict::Down, failed)),
            Verdict::Busy if well => Some((Verdict::Up, Reason::Answered)),
            Verdict::Busy => None,
            _ if ill => Some((Verdict::Busy, failed)),
            Verdict::Up if self.flaps >= self.rules.flap.get() => {
                Some((Verdict::Busy, Reason::Flapping))
            }
            Verdict::Up => None,
            Verdict::Unknown if well => Some((Verdict::Up, Reason::Answered)),
            Verdict::Unknown => None,
        }
    }

    /// Makes the transition that the counters call for, if they do.
    pub fn settle(&mut self, now: Time) -> Option<Transition> {
        let transition = self.wants()?;
        self.verdict = transition.to;
        self.reason = transition.reason;
        self.since = now;
        self.flaps = 0;
        Some(transition)
    }

    /// Forgets every failure that has not led to a verdict, and has it asked anew.
    pub fn forget_doubt(&mut self, now: Time) {
        if self.verdict == Verdict::Down || self.failures == 0 {
            return;
        }
        self.failures = 0;
        self.hard = 0;
        self.soft = 0;
        self.evidence = 0;
        self.pull(now);
    }

    /// The verdict, why, and since when.
    pub fn verdict(&self) -> (Verdict, Reason, Time) {
        (self.verdict, self.reason, self.since)
    }

    /// Whether the last failure, of a run that goes on, was silence.
    pub fn is_silent(&self) -> bool {
        self.hard > 0 && self.last_failure.is_some_and(Failure::is_silence)
    }

    /// Whether any probe has come back with something about the member.
    pub fn is_settled(&self) -> bool {
        self.verdict != Verdict::Unknown
    }

    /// The latest failure that still counts for something.
    pub fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }

    /// The fault of our own that the last probe met, if it did.
    pub fn own_fault(&self) -> Option<OwnFault> {
        self.own_fault
    }

    /// The counters, and what they are measured against.
    pub fn progress(&self) -> Progress {
        Progress {
            failures: self.failures,
            from_evidence: self.evidence,
            fall: self.rules.fall.get(),
            successes: self.successes,
            rise: self.needed_successes(),
            flaps: self.flaps,
            flap: self.rules.flap.get(),
        }
    }

    /// The next transition if the answers go on as they are, and when at the earliest. None when
    /// they lead to none.
    pub fn outlook(&self) -> Option<(Verdict, Time)> {
        let (to, missing) = if self.failures > 0 && self.verdict != Verdict::Down {
            let to = if self.hard == self.failures {
                Verdict::Down
            } else {
                Verdict::Busy
            };
            (to, self.rules.fall.get().saturating_sub(self.failures))
        } else if self.verdict != Verdict::Up {
            let missing = self.needed_successes().saturating_sub(self.successes);
            (Verdict::Up, missing)
        } else {
            return None;
        };
        if to == self.verdict {
            return None;
        }
        let next = match self.asking {
            Asking::Due { at, .. } => at,
            Asking::Out { last, .. } => last,
        };
        Some((to, next + self.rules.in_doubt * missing.saturating_sub(1)))
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.hard = 0;
        self.soft = 0;
        self.evidence = 0;
        self.successes = self.successes.saturating_add(1);
        if self.successes >= self.rules.flap.get() {
            self.flaps = 0;
            self.last_failure = None;
        }
    }

    fn failed(&mut self, failure: Failure) {
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(failure);
        match failure.severity() {
            Severity::Hard => {
                self.hard = self.hard.saturating_add(1);
                self.soft = 0;
            }
            Severity::Soft => {
                self.soft = self.soft.saturating_add(1);
                self.hard = 0;
            }
        }
    }

    /// Successes in a row that would make it `up`.
    fn needed_successes(&self) -> u32 {
        match (self.verdict, self.reason) {
            (Verdict::Unknown, _) => 1,
            (_, Reason::Flapping) => self.rules.flap.get(),
            _ => self.rules.rise.get(),
        }
    }

    /// Whether the next answers may change the verdict.
    fn is_in_doubt(&self) -> bool {
        let fall = self.rules.fall.get();
        self.own_fault.is_some()
            || self.wants().is_some()
            || match self.verdict {
                Verdict::Unknown => true,
                Verdict::Up => self.failures > 0,
                Verdict::Busy => self.successes > 0 || (1..fall).contains(&self.hard),
                Verdict::Down => self.successes > 0 || (1..fall).contains(&self.soft),
            }
    }

    fn jittered(&mut self, wait: Duration) -> Duration {
        self.dice = self
            .dice
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        let draw = (self.dice >> 33) as u32 % 2_001;
        // From 1 - jitter to 1 + jitter, in millionths.
        let factor = 1_000_000 + self.rules.jitter * draw - 1_000 * self.rules.jitter;
        wait / 1_000 * factor / 1_000
    }
}

#[cfg(test)]
mod tests;
