//! Whether a pool's users can be served here: what `/health/POOL` answers, cheaply.
//!
//! By home or twin, as the redirect table says: away by the twin, at home by the home pool or, where
//! the pair spills, by the twin as well, returning by either.

use super::PoolHealth;
use crate::health::readiness::Takes;
use crate::observe::view::{RunState, View};
use crate::pairing::Condition;
use crate::pairing::record::Phase;
use crate::topology::{BelowQuorum, Pool, ServiceId};

/// By whom a pool's users may be served for its health to be good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// By whoever the redirect table and the pair's spill allow.
    #[default]
    HomeOrTwin,
    /// By the home pool alone, wherever its users are now.
    Home,
}

/// Whether a pool's users can be served here, or none when there is no such pool.
pub fn pool_health(view: &View<'_>, pool: &str, scope: Scope) -> Option<PoolHealth> {
    let pool = view.topology.pool_named(pool)?;
    Some(health_of(view, pool, scope))
}

pub(super) fn health_of(view: &View<'_>, pool: &Pool, scope: Scope) -> PoolHealth {
    let (ok, why) = match (fronted(view, pool), view.state) {
        (false, _) => (
            false,
            "this instance fronts the pools of another site".to_owned(),
        ),
        (_, RunState::Starting) => (false, "this instance is starting".to_owned()),
        (_, RunState::Draining) => (
            false,
            "this instance is draining: it takes no new sessions".to_owned(),
        ),
        (true, RunState::Serving) => match (scope, twin_of(view, pool)) {
            (Scope::HomeOrTwin, Some(twin)) => {
                by_either(view.decider.phase(pool.id), servable(view, pool), twin)
            }
            _ => servable(view, pool),
        },
    };
    PoolHealth {
        pool: pool.name.clone(),
        ok,
        why,
    }
}

pub(super) fn fronted(view: &View<'_>, pool: &Pool) -> bool {
    view.site.is_none() || pool.site == view.site
}

/// Members that take new sessions for a service; those of last resort when there are no others.
pub(super) fn usable(view: &View<'_>, service: ServiceId) -> u16 {
    let pool = view.topology.pool(service.pool);
    let count = |wanted: Takes| {
        pool.members
            .iter()
            .filter(|member| view.decider.readiness(member.id.target(service)).takes == wanted)
            .count()
    };
    let usable = match count(Takes::New) {
        0 => count(Takes::LastResort),
        usable => usable,
    };
    u16::try_from(usable).unwrap_or(u16::MAX)
}

/// What counts of a twin.
struct Twin<'a> {
    name: &'a str,
    /// Whether it can serve, and why or why not.
    serves: (bool, String),
    /// Whether single sessions may go to it.
    spill: bool,
}

fn twin_of<'a>(view: &View<'a>, pool: &Pool) -> Option<Twin<'a>> {
    let (pair, side) = view.topology.pair_of(pool.id)?;
    let twin = view.topology.pool(pair.pool(side.other()));
    let (condition, ..) = view.decider.condition(twin.id);
    Some(Twin {
        name: &twin.name,
        serves: servable(view, twin),
        spill: pair.spill && condition != Condition::Lost,
    })
}

/// Whether the users of a home pool in this phase can be served, and why.
fn by_either(phase: Phase, home: (bool, String), twin: Twin<'_>) -> (bool, String) {
    let (at_home, home) = home;
    let (at_twin, there) = twin.serves;
    let name = twin.name;
    match phase {
        Phase::Home if at_home => (true, home),
        Phase::Home if twin.spill && at_twin => (
            true,
            format!("{home}; its sessions go to {name} one by one ({there})"),
        ),
        Phase::Home => (false, home),
        Phase::Away => (at_twin, format!("its users are on {name}: {there}")),
        Phase::Returning(share) => (
            at_home || at_twin,
            format!(
                "{} % of its clients are home: {home}; the others on {name}: {there}",
                share.percent()
            ),
        ),
    }
}

/// Whether a pool can serve, by its own members, and why.
fn servable(view: &View<'_>, pool: &Pool) -> (bool, String) {
    let (condition, _, present) = view.decider.condition(pool.id);
    let counts = Counts {
        present,
        need: pool.quorum.to_stay.members,
        usable: usable(view, pool.primary),
    };
    judged(condition, pool.below_quorum, counts)
}

struct Counts {
    present: u16,
    need: u16,
    usable: u16,
}

fn judged(condition: Condition, below: BelowQuorum, counts: Counts) -> (bool, String) {
    let Counts {
        present,
        need,
        usable,
    } = counts;
    match (condition, below) {
        (Condition::Lost, BelowQuorum::Refuse) => (
            false,
            format!("lost: {present} members present, {need} needed"),
        ),
        _ if usable == 0 => (false, "no member takes new sessions".to_owned()),
        (Condition::Serving, _) => (true, format!("serving: {usable} members usable")),
        (Condition::Degraded, _) => (
            true,
            format!("degraded: {present} members present, {need} needed, {usable} usable"),
        ),
        (Condition::Lost, BelowQuorum::Serve) => (
            true,
            format!("below quorum ({present} present, {need} needed): {usable} go on serving"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample::Plight;
    use crate::pairing::pair::Destination;
    use crate::pairing::record::Share;

    fn ok(plight: &Plight, pool: &str, scope: Scope) -> bool {
        let health = plight.look(|view| pool_health(view, pool, scope));
        health.unwrap().ok
    }

    #[test]
    fn a_pool_is_servable_while_somebody_may_serve_its_users() {
        use BelowQuorum::{Refuse, Serve};
        use Condition::{Degraded, Lost, Serving};
        for (condition, below, present, usable, ok) in [
            (Serving, Serve, 3, 3, true),
            (Serving, Serve, 3, 0, false),
            (Degraded, Serve, 2, 2, true),
            (Degraded, Refuse, 2, 1, true),
            (Degraded, Serve, 2, 0, false),
            (Lost, Serve, 1, 1, true),
            (Lost, Serve, 0, 0, false),
            (Lost, Refuse, 1, 1, false),
        ] {
            let counts = Counts {
                present,
                need: 2,
                usable,
            };
            let (servable, why) = judged(condition, below, counts);
            assert_eq!(servable, ok, "{condition:?} {below:?} {usable}: {why}");
        }
    }

    #[test]
    fn a_pool_of_a_pair_is_served_by_whom_the_redirect_table_says() {
        let returning = Phase::Returning(Share::FIRST);
        for (phase, at_home, at_twin, spill, ok) in [
            (Phase::Home, true, false, false, true),
            (Phase::Home, false, true, false, false),
            (Phase::Home, false, true, true, true),
            (Phase::Home, false, false, true, false),
            (Phase::Away, true, false, true, false),
            (Phase::Away, false, true, false, true),
            (returning, true, false, false, true),
            (returning, false, true, false, true),
            (returning, false, false, true, false),
        ] {
            let twin = Twin {
                name: "fe-busan",
                serves: (at_twin, "there".to_owned()),
                spill,
            };
            let (served, why) = by_either(phase, (at_home, "here".to_owned()), twin);
            assert_eq!(served, ok, "{phase} {at_home} {at_twin} {spill}: {why}");
        }
    }

    #[test]
    fn the_health_of_a_pool_follows_its_users_and_that_of_its_home_does_not() {
        use Scope::{Home, HomeOrTwin};
        let mut plight = Plight::new();
        assert!(ok(&plight, "fe-seoul", HomeOrTwin) && ok(&plight, "fe-seoul", Home));
        plight.lose(&["fe-seoul", "med-seoul"]);
        assert!(ok(&plight, "fe-seoul", HomeOrTwin), "by spill");
        assert!(!ok(&plight, "fe-seoul", Home));
        assert!(!ok(&plight, "med-seoul", HomeOrTwin), "no spill");
        plight.run(12_000);
        plight.order("med-seoul", Destination::Twin);
        assert!(ok(&plight, "fe-seoul", HomeOrTwin) && ok(&plight, "med-seoul", HomeOrTwin));
        plight.set("med-seoul", false);
        plight.lose(&["med-busan"]);
        plight.run(3_000);
        assert!(!ok(&plight, "med-seoul", HomeOrTwin), "its users are away");
        assert!(ok(&plight, "med-seoul", Home), "it would serve them");
        plight.state = RunState::Draining;
        assert!(!ok(&plight, "fe-busan", HomeOrTwin));
        let unknown = plight.look(|view| pool_health(view, "korea", HomeOrTwin));
        assert_eq!(unknown, None);
    }
}
