//! The worst case: how long a member can be dead before it is out, from its check's settings; and
//! how long a pool can be lost before its users are on the twin.
//!
//! Probes start `interval` (give or take `jitter`) apart, and `in_doubt` apart once one has
//! failed, but never before the one before it has ended. A member that dies right after a probe
//! was answered is asked again a whole interval later; after that `fall` probes have to fail.
//!
//! What traffic sees only makes it sooner. Over UDP it sees little: a flow has no connect phase
//! and is not hedged, so that silence is noticed by the check alone, and until then what flows to
//! a silent member is lost. What makes it later is not in the settings: a fault of
//! our own, and the search for a witness where nobody else has answered lately.

use std::time::Duration;

use crate::topology::{Automation, Check, CheckKind, PairRules, Pool, Protocol, Service};

/// What a decided failover takes until it is written to disk, in force, and with every worker. A
/// margin and no bound: a sync that takes longer delays it by as much, and one that fails is tried
/// again. The moments in which witnesses of the silence are asked
/// ([`LEAD`](crate::pairing::isolation::LEAD) before a probe) lie within it too.
pub const WRITE_AND_PUBLISH: Duration = Duration::from_millis(500);

/// The longest time from a member's death until it is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorstCase {
    /// When its host answers that nothing listens any more.
    pub refused: Duration,
    /// When nothing answers: a host that vanished, or a process that hangs where the check
    /// notices it ([`notices_hang`]).
    pub silent: Duration,
}

/// The longest times until a member is out for every service of a pool, or for some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolWorstCase {
    /// When its host refuses.
    pub refused: Duration,
    /// When its host vanished.
    pub silent: Duration,
    /// When its process hangs while its kernel still accepts. None: some service never notices.
    pub hang: Option<Duration>,
}

/// The longest time from the moment when all members of a pool fall silent until its users are
/// sent to the twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossWorstCase {
    /// Until the pool is known to be lost: its primary service alone decides that.
    pub known: Duration,
    /// Until automation sends its users away. None: a person does.
    pub after: Option<Duration>,
    /// Until that is written and published.
    pub published: Duration,
}

impl LossWorstCase {
    /// All of it, where no person is waited for.
    pub fn total(&self) -> Option<Duration> {
        Some(self.known + self.after? + self.published)
    }
}

/// The worst case of a pool in a pair with these rules.
pub fn of_loss(pool: &Pool, rules: &PairRules) -> LossWorstCase {
    LossWorstCase {
        known: until_out(&pool.primary().check).silent,
        after: (rules.failover == Automation::Automatic).then_some(rules.after),
        published: WRITE_AND_PUBLISH,
    }
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
    of_services(pool, |_| true)
}

/// The worst case of a pool's flows over UDP, which is when those of a dead member begin to move:
/// that of the slowest such service that has clients. None without one.
pub fn of_flows(pool: &Pool) -> Option<PoolWorstCase> {
    let mut services = pool.services.iter();
    services
        .any(has_flows)
        .then(|| of_services(pool, has_flows))
}

/// Whether clients reach a service, over UDP.
pub fn has_flows(service: &Service) -> bool {
    service.protocol == Protocol::Udp && is_fronted(service)
}

/// Whether clients reach a service.
pub fn is_fronted(service: &Service) -> bool {
    !(service.listen.is_empty() && service.listen_at_twin.is_empty())
}

/// The worst case of the slowest of these services.
fn of_services(pool: &Pool, is_one: impl Fn(&Service) -> bool) -> PoolWorstCase {
    let services = || pool.services.iter().filter(|service| is_one(service));
    let slowest = |time: &dyn Fn(&Check) -> Duration| {
        services()
            .filter_map(|service| soonest(pool, service, &|check| Some(time(check))))
            .max()
            .unwrap_or_default()
    };
    let hangs = services().map(|service| {
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
    use crate::pairing::pair::{Fitness, PairMachine, PairOutput};
    use crate::pairing::record::Record;
    use crate::time::Time;
    use crate::topology::Side;

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

    #[test]
    fn a_stun_check_sees_a_hang_and_a_tcp_check_of_a_service_over_udp_does_not() {
        let edge = |check: &str| {
            let text = format!(
                "[pools.p]\nrole = \"edge\"\nmembers.a = \"192.0.2.1\"\n\
                 services.access = {{ listen = \"127.0.0.1:0\", check = {{ interval = \"1h\" }} }}\n\
                 services.av-udp = {{ listen = \"127.0.0.1:0\", check = {check} }}\n"
            );
            let config = config::parse(&text, "test.toml").unwrap().config;
            of_flows(&config.topology.pools[0]).unwrap()
        };
        let stun = edge("\"stun\"");
        assert_eq!(stun.refused, Duration::from_millis(1_650));
        assert_eq!(stun.silent, Duration::from_millis(2_600));
        assert_eq!(stun.hang, Some(stun.silent));
        let tcp = edge("{ kind = \"tcp\", port = 443 }");
        assert_eq!((tcp.silent, tcp.hang), (stun.silent, None));
        let none = "services.sip.listen = \"127.0.0.1:0\"";
        assert_eq!(of_flows(&pool(none)), None);
    }

    fn rules(failover: Automation) -> PairRules {
        PairRules {
            failover,
            after: Duration::from_secs(10),
            failback: Automation::Manual,
            hold: Duration::from_secs(300),
            longest_hold: Duration::from_secs(3_600),
            ramp: Duration::from_secs(60),
        }
    }

    #[test]
    fn a_lost_pool_waits_for_its_primary_service_alone() {
        let slow =
            "services.web-internal = { listen = \"127.0.0.1:0\", check = { interval = \"1h\" } }";
        let worst = of_loss(&pool(slow), &rules(Automation::Automatic));
        assert_eq!(worst.known, Duration::from_millis(2_600));
        assert_eq!(worst.total(), Some(Duration::from_millis(13_100)));
        let worst = of_loss(&pool(slow), &rules(Automation::Manual));
        assert_eq!((worst.after, worst.total()), (None, None));
    }

    #[test]
    fn the_pair_machine_has_the_failover_written_when_the_figure_says() {
        let start = Time::from_millis(1_000_000);
        let rules = rules(Automation::Automatic);
        let service = "services.sip = { listen = \"127.0.0.1:0\" }";
        let worst = of_loss(&pool(service), &rules);
        let mut machine = PairMachine::new(rules, Record::home(1, start), false, start);
        for side in Side::BOTH {
            machine.handle_pool(side, Fitness::Well, start);
        }
        machine.handle_pool(Side::First, Fitness::Lost, start + worst.known);
        let (at, _) = machine.poll_timeout().unwrap();
        machine.handle_timeout(at);
        assert!(matches!(machine.poll_output(), Some(PairOutput::Store(_))));
        assert_eq!(Some(at.since(start) + worst.published), worst.total());
    }
}
