//! The record of a pair: its two rows of the redirect table, under one generation.

use std::fmt;

use crate::time::Time;
use crate::topology::Side;

/// What stands in the redirect table about one pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// Rises with every change, and never falls.
    pub generation: u64,
    /// By side, of the users whose home pool it is.
    pub entries: [Entry; 2],
    /// Automatic failbacks that were begun since the pair was last calm; each doubles the hold.
    pub rounds: u32,
    /// Automation has ended for this pair until a person resumes it: it failed over and back too
    /// often; or, with no rounds, this record replaces one that was damaged.
    pub alarm: bool,
}

/// Where the users of one home pool are sent, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Where.
    pub phase: Phase,
    /// Why.
    pub cause: Cause,
    /// Who decided.
    pub by: By,
    /// Why, in the words of a person who decided.
    pub reason: Option<String>,
    /// Since when; while returning, since the return began.
    pub since: Time,
}

/// Where the users of a home pool are sent.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Phase {
    /// To their home pool.
    Home,
    /// To its twin.
    Away,
    /// This share of them home, the others to the twin.
    Returning(Share),
}

/// A share of the clients, in steps of one in [`Share::STEPS`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Share(u8);

/// Who decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum By {
    /// Automation.
    Twinpool,
    /// A person, by name.
    Operator(String),
}

/// Why an entry is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It always was.
    Start,
    /// A person ordered it.
    Ordered,
    /// The home pool was lost.
    Lost,
    /// The pool that served was lost while the other one served.
    LeftLost,
    /// Both pools were lost; the one that serves now was the first to return.
    FirstToReturn,
    /// The home pool was lost again while its users came home.
    Relapsed,
    /// The home pool stayed well for as long as it had to.
    Held,
    /// All are home again.
    Returned,
}

impl Record {
    /// Everybody at home.
    pub fn home(generation: u64, now: Time) -> Record {
        let entry = || Entry {
            phase: Phase::Home,
            cause: Cause::Start,
            by: By::Twinpool,
            reason: None,
            since: now,
        };
        Record {
            generation,
            entries: [entry(), entry()],
            rounds: 0,
            alarm: false,
        }
    }

    /// The users of the pool on this side.
    pub fn entry(&self, side: Side) -> &Entry {
        &self.entries[side.index()]
    }

    /// Where those users are sent.
    pub fn phase(&self, side: Side) -> Phase {
        self.entry(side).phase
    }
}

impl Share {
    /// Steps that a whole consists of: each moves few enough for a pool to take at once, and each
    /// is written to disk before it is in force.
    pub const STEPS: u8 = 20;
    /// The first step of a return.
    pub const FIRST: Share = Share(1);

    /// So many steps; none unless more than nothing and less than all.
    pub fn of(steps: u8) -> Option<Share> {
        (1..Share::STEPS).contains(&steps).then_some(Share(steps))
    }

    /// In steps.
    pub const fn steps(self) -> u8 {
        self.0
    }

    /// In percent.
    pub const fn percent(self) -> u8 {
        (self.0 as u16 * 100 / Share::STEPS as u16) as u8
    }

    /// One step more; none when that is all of them.
    pub fn next(self) -> Option<Share> {
        Share::of(self.0 + 1)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Home => f.write_str("home"),
            Phase::Away => f.write_str("away"),
            Phase::Returning(share) => write!(f, "returning ({} %)", share.percent()),
        }
    }
}
