//! Readiness: what verdict and operator state together mean for a member's sessions.
//!
//! One function derives it; nothing stores it.

use super::Verdict;
use crate::time::Time;

/// What an operator wants of a member.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// To serve.
    #[default]
    Ready,
    /// To finish what it has, to a deadline; it still counts towards quorum.
    Drain,
    /// To be left alone: its sessions end at the deadline and it does not count.
    Maintenance,
}

/// An operator's decision about a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct OperatorState {
    /// What is wanted.
    pub mode: Mode,
    /// Who asked.
    pub by: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Since when.
    pub since: Time,
    /// Until when; then the member is ready again.
    pub until: Option<Time>,
    /// When the sessions that remain are ended.
    pub deadline: Option<Time>,
}

/// Whether a member takes new sessions.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Takes {
    /// No.
    No,
    /// Only while nobody else does.
    LastResort,
    /// Yes.
    New,
}

/// What a member may do for one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Readiness {
    /// Does it take new sessions?
    pub takes: Takes,
    /// Does it keep those that it has (until an operator's deadline)?
    pub keeps: bool,
}

/// The one place where verdict and operator state meet.
pub fn readiness(verdict: Verdict, mode: Mode) -> Readiness {
    let takes = match (mode, verdict) {
        (Mode::Drain | Mode::Maintenance, _) | (_, Verdict::Down) => Takes::No,
        (Mode::Ready, Verdict::Busy) => Takes::LastResort,
        (Mode::Ready, Verdict::Up | Verdict::Unknown) => Takes::New,
    };
    Readiness {
        takes,
        keeps: verdict != Verdict::Down,
    }
}
