//! The worst case: how long a member can be dead before it is out, from its check's settings.
//!
//! Probes start `interval` (give or take `jitter`) apart, and `in_doubt` apart once one has
//! failed, but never before the one before it has ended. A member that dies right after a probe
//! was answered is asked again a whole interval later; after that `fall` probes have to fail.
//!
//! What traffic sees only makes it sooner. What makes it later is not in the settings: a fault of
//! our own, and the search for a witness where nobody else has answered lately.

use std::time::Duration;

use crate::topology::{Check, CheckKind, Pool, Service};

/// The longest time from a member's death until it is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorstCase {
    /// When its host answers that nothing listens any more.
    pub refused: Duration,
    /// When nothing answers: a host that vanished, or a process that hangs where the check
    /// notices it ([`notices_hang`]).
    pub silent: Duration,
}

/// The longest times until a member is out for every service of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolWorstCase {
    /// When its host refuses.
    pub refused: Duration,
    /// When its host vanished.
    pub silent: Duration,
    /// When its process hangs while its kernel still accepts. None: some service never notices.
    pub hang: Option<Duration>,
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

/// Whether a check asks for more than what the kernel answers for a process that hangs.
pub fn notices_hang(check: &Check) -> bool {
    check.tls || !matches!(check.kind, CheckKind::Tcp)
}

/// The worst case of a pool: that of its slowest service.
pub fn of_pool(pool: &Pool) -> PoolWorstCase {
    let slowest = |time: &dyn Fn(&Check) -> Duration| {
        let services = pool.services.iter();
        services
            .filter_map(|service| soonest(pool, service, &|check| Some(time(check))))
            .max()
            .unwrap_or_default()
    };
    let hangs = pool.services.iter().map(|service| {
        soonest(pool, service, &|check| {
            notices_hang(check).then(|| until_out(check).silent)
        })
    });
    PoolWorstCase {
        refused: slowest(&|check| until_out(check).refused),
        silent: slowest(&|check| until_out(check).silent),
        hang: hangs
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max()),
    }
}

/// A member is out for a service by its own check, or by that of one that it requires, whichever
/// is sooner.
fn soonest(
    pool: &Pool,
    service: &Service,
    time: &dyn Fn(&Check) -> Option<Duration>,
) -> Option<Duration> {
    let required = service.requires.iter().map(|id| &pool.services[id.index()]);
    let all = required.chain([service]);
    all.filter_map(|service| time(&service.check)).min()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{self, presets};
    use crate::health::machine::{Machine, Rules};
    use crate::health::{Answer, Failure, Verdict};
    use crate::time::Time;

    /// How long after its death a member is out when it dies right after the probe that comes
    /// after `probes` others, with these swings in turn.
    fn simulated(check: &Check, failure: Failure, probes: usize, swings: &[f64]) -> Duration {
        let takes = match failure {
            Failure::Refused => Duration::ZERO,
            _ => check.timeout,
        };
        let start = Time::from_millis(1_000_000);
        let mut machine = Machine::new(Rules::from(check), start, start);
        let mut death = None;
        for asked in 0..10_000 {
            let now = machine.next_probe().unwrap();
            machine.handle_ask(now);
            let swing = swings[asked % swings.len()];
            match death {
                None => machine.handle_answer(Answer::Good, now, swing),
                Some(_) => machine.handle_answer(Answer::Bad(failure), now + takes, swing),
            }
            machine.turn(now);
            if asked == probes {
                death = Some(now);
            }
            if let Some(death) = death
                && machine.verdict().0 == Verdict::Down
            {
                return (now + takes).since(death);
            }
        }
        panic!("it was never out");
    }

    #[test]
    fn with_the_defaults_a_dead_member_is_out_within_three_seconds() {
        let worst = until_out(&presets::check(CheckKind::Tcp));
        assert_eq!(worst.refused, Duration::from_millis(1_650));
        assert_eq!(worst.silent, Duration::from_millis(2_600));
    }

    proptest! {
        #[test]
        fn the_machine_is_never_slower_than_the_figure_and_can_be_as_slow(
            interval in 1_u64..5_000,
            in_doubt in 1_u64..5_000,
            timeout in 1_u64..8_000,
            fall in 1_u32..8,
            jitter in 0_u32..=50,
            probes in 2_usize..6,
            draws in proptest::collection::vec(-1.0_f64..=1.0, 1..40),
        ) {
            let mut check = presets::check(CheckKind::Tcp);
            check.interval = Duration::from_millis(interval);
            check.in_doubt = Duration::from_millis(in_doubt);
            check.timeout = Duration::from_millis(timeout);
            check.fall = NonZeroU32::new(fall).unwrap();
            check.jitter = f64::from(jitter) / 100.0;
            let worst = until_out(&check);
            let swings: Vec<f64> = draws.iter().map(|draw| 1.0 + draw * check.jitter).collect();
            let longest = [1.0 + check.jitter];
            for (failure, figure) in [
                (Failure::Refused, worst.refused),
                (Failure::ConnectTimeout, worst.silent),
            ] {
                prop_assert!(simulated(&check, failure, probes, &swings) <= figure);
                prop_assert_eq!(simulated(&check, failure, probes, &longest), figure);
            }
        }
    }

    fn pool(services: &str) -> Pool {
        let text =
            format!("[pools.p]\nrole = \"front-end\"\nmembers.a = \"192.0.2.1\"\n{services}");
        config::parse(&text, "test.toml")
            .unwrap()
            .config
            .topology
            .pools
            .remove(0)
    }

    #[test]
    fn a_service_is_out_as_soon_as_one_that_it_requires() {
        let slow =
            "services.web-internal = { listen = \"127.0.0.1:0\", check = { interval = \"1h\" } }";
        let worst = of_pool(&pool(slow));
        assert_eq!(worst.refused, Duration::from_millis(1_650));
        assert_eq!(worst.silent, Duration::from_millis(2_600));
    }

    #[test]
    fn a_hang_that_a_tcp_check_cannot_see_is_seen_by_a_tls_check_that_is_required() {
        let focus = "services.focus = { listen = \"127.0.0.1:0\" }";
        assert_eq!(
            of_pool(&pool(focus)).hang,
            Some(Duration::from_millis(2_600))
        );
        let alone = "services.focus = { listen = \"127.0.0.1:0\", requires = [] }";
        assert_eq!(of_pool(&pool(alone)).hang, None);
    }
}
