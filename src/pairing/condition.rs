//! Condition: whether a pool can serve its users, decided by its primary service alone.

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

/// Whether a member counts towards quorum: drained ones do, those in maintenance do not, and
/// neither do those that are down. `busy` and `unknown` ones answer, or may.
pub fn is_present(verdict: Verdict, mode: Mode) -> bool {
    verdict != Verdict::Down && mode != Mode::Maintenance
}

/// The condition of a pool whose members, in file order, have these verdicts for the primary
/// service and these operators' modes, and how many of those that count are present.
pub fn condition(
    need: QuorumNeed,
    members: impl Iterator<Item = (Verdict, Mode)>,
) -> (Condition, u16) {
    let (mut present, mut all_well) = (0, true);
    for (index, (verdict, mode)) in members.enumerate() {
        if index < usize::from(need.of_first) && is_present(verdict, mode) {
            present += 1;
        }
        all_well &= mode == Mode::Ready && matches!(verdict, Verdict::Up | Verdict::Unknown);
    }
    let condition = match (present < need.members, all_well) {
        (true, _) => Condition::Lost,
        (false, true) => Condition::Serving,
        (false, false) => Condition::Degraded,
    };
    (condition, present)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: (Verdict, Mode) = (Verdict::Up, Mode::Ready);
    const DOWN: (Verdict, Mode) = (Verdict::Down, Mode::Ready);

    fn of(members: u16, of_first: u16, list: &[(Verdict, Mode)]) -> (Condition, u16) {
        let need = QuorumNeed { members, of_first };
        condition(need, list.iter().copied())
    }

    #[test]
    fn who_counts_as_present() {
        for (verdict, mode, present) in [
            (Verdict::Unknown, Mode::Ready, true),
            (Verdict::Up, Mode::Ready, true),
            (Verdict::Busy, Mode::Ready, true),
            (Verdict::Down, Mode::Ready, false),
            (Verdict::Up, Mode::Drain, true),
            (Verdict::Busy, Mode::Drain, true),
            (Verdict::Down, Mode::Drain, false),
            (Verdict::Up, Mode::Maintenance, false),
            (Verdict::Unknown, Mode::Maintenance, false),
        ] {
            assert_eq!(is_present(verdict, mode), present, "{verdict} {mode:?}");
        }
    }

    #[test]
    fn a_pool_is_lost_below_what_it_needs_to_stay() {
        assert_eq!(of(2, 3, &[UP, UP, UP]), (Condition::Serving, 3));
        assert_eq!(of(2, 3, &[UP, DOWN, UP]), (Condition::Degraded, 2));
        assert_eq!(of(2, 3, &[UP, DOWN, DOWN]), (Condition::Lost, 1));
    }

    #[test]
    fn only_the_first_in_file_order_count() {
        let mut eight = [UP; 8];
        eight[7] = DOWN;
        assert_eq!(of(4, 7, &eight), (Condition::Degraded, 7));
        for member in &mut eight[..4] {
            *member = DOWN;
        }
        eight[7] = UP;
        assert_eq!(of(4, 7, &eight), (Condition::Lost, 3));
    }

    #[test]
    fn a_drained_or_busy_member_degrades_and_does_not_lose() {
        let drained = (Verdict::Up, Mode::Drain);
        let busy = (Verdict::Busy, Mode::Ready);
        assert_eq!(of(2, 3, &[drained, busy, DOWN]), (Condition::Degraded, 2));
        let maintained = (Verdict::Up, Mode::Maintenance);
        assert_eq!(of(2, 3, &[UP, maintained, DOWN]), (Condition::Lost, 1));
    }
}
