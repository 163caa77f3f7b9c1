//! Condition: whether a pool can serve its users, decided by its primary service alone.
//!
//! Who counts as present, among the first members in file order that the quorum names:
//!
//! | | ready | drain | maintenance |
//! |---|---|---|---|
//! | unknown, up, busy | yes | yes | no |
//! | down | no | no | no |
//!
//! A busy member answers and a drained one could, so neither may cost a pool its quorum; a member
//! that nobody has asked yet is presumed well.

use crate::health::Verdict;
use crate::health::readiness::Mode;
use crate::topology::QuorumNeed;

/// Whether a pool can serve its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// All of its members take part.
    Serving,
    /// Not all, but enough for its quorum.
    Degraded,
    /// Fewer than its quorum.
    Lost,
}

/// Whether a member counts towards its pool's quorum, by the primary service's own verdict.
pub fn is_present(verdict: Verdict, mode: Mode) -> bool {
    verdict != Verdict::Down && mode != Mode::Maintenance
}

/// How many of the members that count are present.
pub fn present(need: QuorumNeed, members: impl Iterator<Item = (Verdict, Mode)>) -> u16 {
    let present = members
        .take(usize::from(need.of_first))
        .filter(|(verdict, mode)| is_present(*verdict, *mode))
        .count();
    u16::try_from(present).unwrap_or(u16::MAX)
}

/// The condition of a pool whose members, in file order, have these verdicts for the primary
/// service, and how many of those that count are present. Until its first probes are in
/// (`settled`) unknown members are presumed well, and a pool is not called lost: nothing has been
/// learnt yet that automation should act on.
pub fn condition(
    need: QuorumNeed,
    members: impl Iterator<Item = (Verdict, Mode)> + Clone,
    settled: bool,
) -> (Condition, u16) {
    let present = present(need, members.clone());
    let well = |(verdict, mode)| {
        let verdict_well = match verdict {
            Verdict::Up => true,
            Verdict::Unknown => !settled,
            Verdict::Busy | Verdict::Down => false,
        };
        verdict_well && mode == Mode::Ready
    };
    let condition = if present < need.members && settled {
        Condition::Lost
    } else if present >= need.members && members.clone().all(well) {
        Condition::Serving
    } else {
        Condition::Degraded
    };
    (condition, present)
}

#[cfg(test)]
mod tests;
