//! The worst case: how long a member can be dead before it is out, from its check's settings.
//!
//! Probes start `interval` (give or take `jitter`) apart, and `in_doubt` apart once one has
//! failed, but never before the one before it has ended. A member that dies right after a probe
//! was answered is asked again a whole interval later; after that `fall` probes have to fail. What
//! traffic sees only makes it sooner.

use std::time::Duration;

use crate::topology::Check;

/// The longest time from a member's death until it is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorstCase {
    /// When its host answers that nothing listens any more.
    pub refused: Duration,
    /// When nothing answers: a host that vanished, or a process that hangs.
    pub silent: Duration,
}

/// The worst case of one check.
pub fn until_out(check: &Check) -> WorstCase {
    let longest = |wait: Duration| wait.mul_f64(1.0 + check.jitter);
    let (interval, in_doubt) = (longest(check.interval), longest(check.in_doubt));
    let more = check.fall.get() - 1;
    WorstCase {
        refused: interval + in_doubt * more,
        silent: interval + check.timeout.max(in_doubt) * more + check.timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::presets;
    use crate::topology::CheckKind;

    #[test]
    fn with_the_defaults_a_dead_member_is_out_within_three_seconds() {
        let worst = until_out(&presets::check(CheckKind::Tcp));
        assert_eq!(worst.refused, Duration::from_millis(1_650));
        assert_eq!(worst.silent, Duration::from_millis(2_600));
    }
}
