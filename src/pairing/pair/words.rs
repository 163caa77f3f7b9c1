//! What goes into a [`PairMachine`](super::PairMachine) and what comes out of it.

use crate::pairing::record::{Phase, Record};
use crate::time::Time;
use crate::topology::Side;

/// Whether a pool can be sent users.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Fitness {
    /// Its first probes are not in.
    Unknown,
    /// It has no quorum.
    Lost,
    /// Enough members to go on serving, too few to be brought back by automation.
    Low,
    /// Enough for both.
    Well,
}

/// What a person orders of a pool's users.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    /// Whose.
    pub side: Side,
    /// Where to.
    pub to: Destination,
    /// Who orders.
    pub by: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Without drain or ramp.
    pub now: bool,
    /// Even against what is worth a refusal.
    pub force: bool,
}

/// Where a person sends users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Failover.
    Twin,
    /// Failback.
    Home,
}

/// Why a person's order was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveRefusal {
    /// They are there already, or on the way.
    Already(Phase),
    /// The pool that would serve them is lost; nothing overrides this.
    Lost,
    /// The first probes of the pool that would serve them are not in; `force` overrides.
    Unknown,
    /// The home pool has fewer members than it needs to start; `force` overrides.
    Low,
    /// The twin's own users are away, here; `force` sends them home in the same moment.
    TwinAway,
    /// This instance thinks that the fault is its own; `force` overrides.
    Isolated,
    /// Another change is being written.
    Writing,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum PairOutput {
    /// Write this record, then tell [`PairMachine::handle_stored`](super::PairMachine::handle_stored).
    Store(Record),
    /// The record is in force instead of this one.
    InForce {
        /// What was in force.
        before: Record,
        /// Whether sessions on the side that users leave are kept to its drain deadline.
        drain: bool,
    },
}

/// What automation does next for one side, if things stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prospect {
    /// From when on.
    pub at: Time,
    /// For whose users.
    pub side: Side,
    /// What.
    pub act: Act,
}

/// What automation can do; of what is due at one moment, the first of these is done.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Send those who were coming home away again.
    Relapse,
    /// Send them to the twin; its own users go home where they were away.
    Failover,
    /// Bring all home, because the twin is lost.
    Finish,
    /// Begin to bring them home.
    Failback,
    /// Bring the next share home.
    Step,
    /// Forget the rounds of the past.
    Calm,
}

/// Why automation decides nothing for a pair.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Halt {
    /// Its record was damaged; a person has to look, and resume.
    Damaged,
    /// It failed over and back too often; a person has to look, and resume.
    Alarm,
    /// A person paused it.
    Paused,
}

impl Fitness {
    /// Whether users can be sent there.
    pub fn serves(self) -> bool {
        matches!(self, Fitness::Low | Fitness::Well)
    }
}
