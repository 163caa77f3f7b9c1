//! The verdict machine of one target: from answers to `unknown`, `up`, `busy` or `down`.
//!
//! A [`Machine`] counts what it is told, says which turn its counts call for ([`Machine::due`]) and
//! makes it when allowed ([`Machine::turn`]): whether a turn is held back, because the fault may be
//! our own, is not its business. It also knows when it wants to be asked next. It never asks, never
//! reads a clock, and knows nothing of other targets.
//!
//! # What counts
//!
//! A good answer clears every failure; a failure clears every success. A soft failure clears the
//! hard ones before it, because whoever answers badly does answer. Evidence from clients' connects
//! counts as hard failures, but supplies at most `fall - 1` of any run: a probe must confirm.
//! It never counts as flapping. While `down`, evidence is ignored.
//!
//! While `up`, each failed probe counts towards flapping too, and only `flap` good answers in a row
//! clear that count (gdnsd's `down_thresh` and `ok_thresh`): a member that fails every other
//! probe never meets `fall`, but meets this. Dying is not flapping: `down` clears it.
//!
//! # When to ask
//!
//! `interval` after the start of the last probe, `in_doubt` while a count is on its way to a turn,
//! each times a swing that the caller draws within the jitter, and never before the last probe came
//! back. Evidence pulls the next probe to now; one that is out may have been answered before the
//! member died, so news that came meanwhile pulls another after it. A pulled probe starts at least
//! half of `in_doubt` after the last one: clients cannot make us hammer a member.

use std::time::Duration;

use super::{Answer, Failure, OwnFault, Reason, Severity, Verdict};
use crate::time::Time;
use crate::topology::Check;

/// How answers are judged and how often they are asked for: the part of a [`Check`] that decides.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rules {
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// The same while a turn is near.
    pub in_doubt: Duration,
    /// Intervals vary by so much of themselves, both ways; 0.0 to 0.5.
    pub jitter: f64,
    /// Failures in a row that turn it away.
    pub fall: u32,
    /// Successes in a row that bring it back.
    pub rise: u32,
    /// Failures that make it flapping, and successes in a row that clear them.
    pub flap: u32,
}

/// Decides the verdict of one target.
///
/// ```text
///             a success           hard ≥ fall
///  ┌─────────┐ ──────────► ┌────┐ ──────────────────────► ┌──────┐
///  │ unknown │             │ up │ ◄────────────────────── │ down │
///  └─────────┘             └────┘      successes ≥ rise   └──────┘
///   │  │                    │  ▲                           ▲ │  ▲
///   │  │     failures ≥ fall│  │successes ≥ rise           │ │  │
///   │  │  or flaps ≥ flap   ▼  │(≥ flap when flapping)     │ │  │
///   │  │ failures ≥ fall   ┌──────┐       hard ≥ fall      │ │  │
///   │  └─────────────────► │ busy │ ───────────────────────┘ │  │
///   │                      └──────┘ ◄────────────────────────┘  │
///   │                                     soft ≥ fall           │
///   └───────────────────────────────────────────────────────────┘
///                          hard ≥ fall
/// ```
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    rules: Rules,
    verdict: Verdict,
    reason: Reason,
    since: Time,
    failures: Run,
    hard: Run,
    /// Soft failures in a row.
    soft: u32,
    successes: u32,
    flaps: u32,
    last_failure: Option<Failure>,
    own_fault: Option<OwnFault>,
    settled: bool,
    asking: Asking,
}

/// Failures in a row, and how many of them evidence supplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// All of them.
    pub count: u32,
    /// Those from evidence, always fewer than `fall`.
    pub from_evidence: u32,
}

/// A turn from one verdict to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// From what.
    pub from: Verdict,
    /// To what.
    pub to: Verdict,
    /// Why.
    pub reason: Reason,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
enum Asking {
    /// No probe is out.
    Waits {
        /// When the last one started; none before the first.
        started: Option<Time>,
        /// When it came back, or when the first one is due.
        ended: Time,
        /// What the next interval is multiplied with.
        swing: f64,
        /// News wants an answer by then.
        pulled: Option<Time>,
        /// Whoever drives waits for something else first.
        not_before: Time,
    },
    /// One is out.
    Out {
        since: Time,
        /// News came since it started.
        again: bool,
    },
}

impl From<&Check> for Rules {
    fn from(check: &Check) -> Rules {
        Rules {
            interval: check.interval,
            in_doubt: check.in_doubt,
            jitter: check.jitter,
            fall: check.fall.get(),
            rise: check.rise.get(),
            flap: check.flap.get(),
        }
    }
}

impl Machine {
    /// Knows nothing yet, and wants its first answer at `first`.
    pub fn new(rules: Rules, first: Time, now: Time) -> Machine {
        Machine {
            rules,
            verdict: Verdict::Unknown,
            reason: Reason::NotYetAsked,
            since: now,
            failures: Run::default(),
            hard: Run::default(),
            soft: 0,
            successes: 0,
            flaps: 0,
            last_failure: None,
            own_fault: None,
            settled: false,
            asking: Asking::Waits {
                started: None,
                ended: first,
                swing: 1.0,
                pulled: None,
                not_before: Time::ZERO,
            },
        }
    }

    /// The same under other rules: its verdict, its counts and the probe that is out go on.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Machine {
        Machine { rules, ..self }
    }

    /// The probe that is out, if one is, never comes back: wants to be asked again.
    pub fn handle_lost(&mut self, now: Time) {
        if let Asking::Out { since, .. } = self.asking {
            self.asking = Asking::Waits {
                started: Some(since),
                ended: now,
                swing: 1.0,
                pulled: Some(now),
                not_before: Time::ZERO,
            };
        }
    }

    /// Notes that a probe goes out. At most one is out at a time.
    pub fn handle_ask(&mut self, now: Time) {
        self.asking = Asking::Out {
            since: now,
            again: false,
        };
    }

    /// Counts what the probe that was out brought back. The next interval is multiplied with
    /// `swing`.
    pub fn handle_answer(&mut self, answer: Answer, now: Time, swing: f64) {
        if !self.came_back(now, swing) {
            return;
        }
        self.own_fault = None;
        match answer {
            Answer::Good => self.succeeded(),
            Answer::Bad(failure) => self.failed(failure),
            Answer::OwnFault(fault) => self.own_fault = Some(fault),
        }
    }

    /// The probe that was out came back with what is known to mean nothing: asks again at once.
    pub fn handle_void(&mut self, now: Time, swing: f64) {
        if self.came_back(now, swing) {
            self.pull(now);
        }
    }

    /// Counts a client's connect that failed, and wants to know more.
    pub fn handle_evidence(&mut self, failure: Failure, now: Time) {
        if self.verdict == Verdict::Down {
            return;
        }
        let most = self.rules.fall - 1;
        let counted = self.failures.add_evidence(most);
        if failure.severity() == Severity::Hard {
            self.hard.add_evidence(most);
        }
        if counted {
            self.last_failure = Some(failure);
            self.successes = 0;
        }
        self.pull(now);
    }

    /// Wants to be asked at `at`, or as soon after it as one may ask.
    pub fn pull(&mut self, at: Time) {
        match &mut self.asking {
            Asking::Out { again, .. } => *again = true,
            Asking::Waits {
                pulled, not_before, ..
            } => {
                *pulled = Some(pulled.map_or(at, |earlier| earlier.min(at)));
                *not_before = Time::ZERO;
            }
        }
    }

    /// Is not to be asked before `until`, unless pulled once more.
    pub fn defer(&mut self, until: Time) {
        if let Asking::Waits { not_before, .. } = &mut self.asking {
            *not_before = until;
        }
    }

    /// The turn that the counts call for.
    pub fn due(&self) -> Option<Turn> {
        use Verdict::{Busy, Down, Unknown, Up};
        let Rules { fall, rise, .. } = self.rules;
        let hard = self.hard.count >= fall;
        let failing = self.failures.count >= fall;
        let failed = || self.last_failure.map_or(self.reason, Reason::Failed);
        let (to, reason) = match self.verdict {
            Unknown | Up | Busy if hard => (Down, failed()),
            Unknown | Up if failing => (Busy, failed()),
            Up if self.flaps >= self.rules.flap => (Busy, Reason::Flapping),
            Unknown if self.successes >= 1 => (Up, Reason::Answered),
            Busy if self.successes >= self.successes_needed() => (Up, Reason::Answered),
            Down if self.soft >= fall => (Busy, failed()),
            Down if self.successes >= rise => (Up, Reason::Answered),
            Unknown | Up | Busy | Down => return None,
        };
        Some(Turn {
            from: self.verdict,
            to,
            reason,
        })
    }

    /// Makes the turn that is due.
    pub fn turn(&mut self, now: Time) -> Option<Turn> {
        let turn = self.due()?;
        self.verdict = turn.to;
        self.reason = turn.reason;
        self.since = now;
        if turn.to == Verdict::Down || turn.from == Verdict::Down {
            self.flaps = 0;
        }
        if turn.to == Verdict::Up && self.successes >= self.rules.flap {
            self.flaps = 0;
        }
        Some(turn)
    }

    /// Forgets every failure that did not lead to a turn: the network may have been to blame.
    pub fn forgive(&mut self) {
        self.failures = Run::default();
        self.hard = Run::default();
        self.soft = 0;
        self.flaps = 0;
    }

    /// When it wants to be asked next; none while a probe is out.
    pub fn next_probe(&self) -> Option<Time> {
        let Asking::Waits {
            started,
            ended,
            swing,
            pulled,
            not_before,
        } = self.asking
        else {
            return None;
        };
        let Some(started) = started else {
            return Some(pulled.map_or(ended, |at| at.min(ended)).max(not_before));
        };
        let span = if self.in_doubt() {
            self.rules.in_doubt
        } else {
            self.rules.interval
        };
        let regular = started + span.mul_f64(swing);
        let at = match pulled {
            Some(at) => regular.min(at.max(started + self.rules.in_doubt / 2)),
            None => regular,
        };
        Some(at.max(ended).max(not_before))
    }

    /// Whether a turn is near enough to ask more often.
    pub fn in_doubt(&self) -> bool {
        self.own_fault.is_some()
            || match self.verdict {
                Verdict::Unknown => true,
                Verdict::Up => self.failures.count > 0,
                Verdict::Busy => self.successes > 0 || self.hard.count > 0,
                Verdict::Down => self.successes > 0 || self.soft > 0,
            }
    }

    /// What the answers to come would do if they go on as the last ones did, and when at the
    /// earliest.
    pub fn next_turn(&self) -> Option<(Verdict, Time)> {
        let Rules {
            fall,
            rise,
            in_doubt,
            ..
        } = self.rules;
        let (to, missing) = match self.verdict {
            Verdict::Unknown | Verdict::Up if self.failures.count > 0 => {
                match self.last_failure.map(Failure::severity) {
                    Some(Severity::Hard) => (Verdict::Down, fall.saturating_sub(self.hard.count)),
                    _ => (Verdict::Busy, fall.saturating_sub(self.failures.count)),
                }
            }
            Verdict::Unknown => (Verdict::Up, 1),
            Verdict::Up => return None,
            Verdict::Busy if self.hard.count > 0 => {
                (Verdict::Down, fall.saturating_sub(self.hard.count))
            }
            Verdict::Busy => {
                let needed = self.successes_needed();
                (Verdict::Up, needed.saturating_sub(self.successes))
            }
            Verdict::Down if self.soft > 0 => (Verdict::Busy, fall.saturating_sub(self.soft)),
            Verdict::Down => (Verdict::Up, rise.saturating_sub(self.successes)),
        };
        let from = self.out_since().or(self.next_probe())?;
        Some((to, from + in_doubt * missing.saturating_sub(1)))
    }

    /// The verdict, why, and since when.
    pub fn verdict(&self) -> (Verdict, Reason, Time) {
        (self.verdict, self.reason, self.since)
    }

    /// When the probe that is out started.
    pub fn out_since(&self) -> Option<Time> {
        match self.asking {
            Asking::Out { since, .. } => Some(since),
            Asking::Waits { .. } => None,
        }
    }

    /// Whether a probe has come back yet.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Failures in a row.
    pub fn failures(&self) -> Run {
        self.failures
    }

    /// Successes in a row.
    pub fn successes(&self) -> u32 {
        self.successes
    }

    /// Failures towards flapping.
    pub fn flaps(&self) -> u32 {
        self.flaps
    }

    /// The latest failure, unless a run of successes has followed that decided something.
    pub fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }

    /// The fault of our own that the last probe met.
    pub fn own_fault(&self) -> Option<OwnFault> {
        self.own_fault
    }

    /// By what it judges.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn came_back(&mut self, now: Time, swing: f64) -> bool {
        let Asking::Out { since, again } = self.asking else {
            return false;
        };
        self.asking = Asking::Waits {
            started: Some(since),
            ended: now,
            swing,
            pulled: None,
            not_before: Time::ZERO,
        };
        if again {
            self.pull(now);
        }
        self.settled = true;
        true
    }

    fn succeeded(&mut self) {
        self.successes = self.successes.saturating_add(1);
        self.failures = Run::default();
        self.hard = Run::default();
        self.soft = 0;
        if self.successes >= self.rules.flap {
            self.flaps = 0;
        }
        if self.successes >= self.rules.rise.max(self.rules.flap) {
            self.last_failure = None;
        }
    }

    fn failed(&mut self, failure: Failure) {
        self.last_failure = Some(failure);
        self.successes = 0;
        self.failures.add();
        match failure.severity() {
            Severity::Hard => {
                self.hard.add();
                self.soft = 0;
            }
            Severity::Soft => {
                self.soft = self.soft.saturating_add(1);
                self.hard = Run::default();
            }
        }
        if self.verdict == Verdict::Up {
            self.flaps = self.flaps.saturating_add(1);
        }
    }

    /// Successes in a row that make a busy one up: one that flapped has more to prove.
    fn successes_needed(&self) -> u32 {
        if self.reason == Reason::Flapping || self.flaps >= self.rules.flap {
            self.rules.flap
        } else {
            self.rules.rise
        }
    }
}

impl Run {
    fn add(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Adds one from evidence unless that supplied as many as it may.
    fn add_evidence(&mut self, most: u32) -> bool {
        let room = self.from_evidence < most;
        if room {
            self.count = self.count.saturating_add(1);
            self.from_evidence += 1;
        }
        room
    }
}

#[cfg(test)]
mod tests;
