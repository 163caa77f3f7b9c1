//! [`Reloads`]: how often the configuration was read anew, and what came of it last.

use crate::time::Time;

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force.
    InForce,
    /// What was in force before still is, for this reason.
    Refused(String),
}

/// The reloads of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Put in force.
    pub in_force: u64,
    /// Refused.
    pub refused: u64,
    /// The last one, and when it was.
    pub last: Option<(Outcome, Time)>,
}

impl Reloads {
    /// Notes one.
    pub fn note(&mut self, outcome: Outcome, now: Time) {
        match outcome {
            Outcome::InForce => self.in_force += 1,
            Outcome::Refused(_) => self.refused += 1,
        }
        self.last = Some((outcome, now));
    }

    /// Why the file that lies there is not in force, and since when that is known; none while the
    /// last reload went well.
    pub fn refusal(&self) -> Option<(&str, Time)> {
        match &self.last {
            Some((Outcome::Refused(why), at)) => Some((why, *at)),
            Some((Outcome::InForce, _)) | None => None,
        }
    }
}
