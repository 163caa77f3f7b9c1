//! Whether everything that must move does: what a beat of the watchdog stands for.
//!
//! Pure: it is given what the control loop and each worker have counted of their own rounds, and
//! compares. A beat is due only once every one of them has moved since the last beat, so a single
//! thread that is stuck is a missed beat, however busy the others are.

/// What was counted at the last beat.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    at_beat: Vec<u64>,
}

impl Pulse {
    /// Whether a beat is due: every count has moved since the last one. Threads that are new, and
    /// counts that begin anew, have moved.
    pub(super) fn is_due(&mut self, counts: &[u64]) -> bool {
        if self.still(counts).next().is_some() {
            return false;
        }
        self.at_beat = counts.to_vec();
        true
    }

    /// Those that have not moved since the last beat.
    pub(super) fn still(&self, counts: &[u64]) -> impl Iterator<Item = usize> {
        let pairs = self.at_beat.iter().zip(counts).enumerate();
        let still = pairs.filter(|(_, (before, now))| before == now);
        still
            .map(|(index, _)| index)
            .collect::<Vec<_>>()
            .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_is_due_once_everything_has_moved() {
        let mut pulse = Pulse::default();
        assert!(pulse.is_due(&[1, 1, 1]));
        assert!(!pulse.is_due(&[1, 1, 1]));
        assert!(!pulse.is_due(&[2, 2, 1]));
        assert!(pulse.is_due(&[2, 3, 2]));
    }

    #[test]
    fn those_that_move_by_turns_all_count() {
        let mut pulse = Pulse::default();
        assert!(pulse.is_due(&[0, 0]));
        assert!(!pulse.is_due(&[1, 0]));
        // The first stood still since the last look, but not since the last beat.
        assert!(pulse.is_due(&[1, 1]));
    }

    #[test]
    fn a_stuck_worker_is_a_missed_beat_for_as_long_as_it_is_stuck() {
        let mut pulse = Pulse::default();
        assert!(pulse.is_due(&[0, 7, 0]));
        for round in 1..100 {
            let counts = [round, 7, round];
            assert!(!pulse.is_due(&counts));
            assert_eq!(pulse.still(&counts).collect::<Vec<_>>(), [1]);
        }
        assert!(pulse.is_due(&[100, 8, 100]));
    }

    #[test]
    fn other_workers_than_before_have_moved() {
        let mut pulse = Pulse::default();
        assert!(pulse.is_due(&[5, 5]));
        assert!(pulse.is_due(&[6, 6, 0]));
        assert!(!pulse.is_due(&[7, 7, 0]));
        assert!(pulse.is_due(&[8, 0]));
    }
}
