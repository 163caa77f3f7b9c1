//! What is told of pairs and sites: where a pool's users go, and why.

use std::time::Duration;

use super::span;
use crate::pairing::Pause;
use crate::pairing::pair::RETRY;
use crate::pairing::record::{By, Cause, Phase};
use crate::topology::{Pair, PairId, PoolId, SiteId, Topology};

/// Why a transition was decided.
pub(super) struct Decision<'a> {
    pub(super) cause: Cause,
    pub(super) by: &'a By,
    pub(super) reason: Option<&'a str>,
}

/// `fe-seoul: home → away (to fe-busan): the home pool was lost for 10 s; generation 7`.
pub(super) fn redirected(
    topology: &Topology,
    pool: PoolId,
    (from, to): (Phase, Phase),
    decision: &Decision<'_>,
    generation: u64,
) -> String {
    let why = why(topology, pool, decision);
    let way = way(topology, pool, from, to);
    let (pool, to) = (&topology.pool(pool).name, word(to));
    format!("{pool}: {from} → {to}{way}: {why}; generation {generation}")
}

/// The last session of a pool's users that stood on the wrong side has ended.
pub(super) fn moved(topology: &Topology, home: PoolId, off: PoolId) -> String {
    let (pool, off) = (&topology.pool(home).name, &topology.pool(off).name);
    format!("{pool}: all moved: no session of its users is left on {off}")
}

/// Automation ended for a pair, or goes on.
pub(super) fn alarm(topology: &Topology, pair: PairId, on: bool) -> String {
    let pair = &topology.pair(pair).name;
    match on {
        true => format!(
            "{pair}: alarm: automation has ended, because it failed over and back too often; it \
             goes on after `twinpool resume`"
        ),
        false => format!("{pair}: the alarm is over, automation goes on"),
    }
}

/// A record could not be written, or can be again.
pub(super) fn unwritten(topology: &Topology, pair: PairId, error: Option<&str>) -> String {
    let pair = &topology.pair(pair).name;
    match error {
        Some(error) => format!(
            "{pair}: the record cannot be written, and what it wanted is not in force: {error}; \
             automation tries again every {}",
            span(RETRY)
        ),
        None => format!("{pair}: the record can be written again"),
    }
}

/// All automation was paused, or goes on.
pub(super) fn pause(pause: Option<&Pause>, resumed_by: Option<&str>) -> String {
    match pause {
        Some(pause) => format!(
            "all automation of pairs is paused by {}; it goes on after `twinpool resume`",
            person(&pause.by, pause.reason.as_deref())
        ),
        None => format!(
            "automation of pairs goes on: resumed by {}",
            resumed_by.unwrap_or("twinpool")
        ),
    }
}

/// Every pool of a site is lost, or no longer.
pub(super) fn site(topology: &Topology, site: SiteId, lost: bool) -> String {
    let name = &topology.sites[site.index()].name;
    match (lost, pools_of(topology, site).as_slice()) {
        (false, _) => format!("site {name}: no longer lost: a pool of it serves again"),
        (true, [pool]) => format!("site {name}: lost: its only pool, {pool}, is lost"),
        (true, pools) => format!(
            "site {name}: lost: all of its pools are lost: {}",
            pools.join(", ")
        ),
    }
}

/// Sessions go to the twin one by one, or no longer.
pub(super) fn spill(topology: &Topology, pool: PoolId, on: bool) -> String {
    let name = &topology.pool(pool).name;
    match on {
        true => format!(
            "{name}: spilling: sessions that no member takes go to {} one by one",
            twin(topology, pool)
        ),
        false => format!("{name}: no longer spilling"),
    }
}

/// Why users are sent where they are sent, in words.
pub fn redirect_cause_text(cause: Cause) -> &'static str {
    match cause {
        Cause::Start => "they always were",
        Cause::Ordered => "ordered",
        Cause::Lost => "the home pool was lost",
        Cause::LeftLost => "the twin, which served them, was lost",
        Cause::FirstToReturn => {
            "both pools were lost, and the one that serves them now was the first to return"
        }
        Cause::Relapsed => "the home pool was lost again while they came home",
        Cause::Held => "the home pool was well for long enough",
        Cause::Returned => "all are home again",
    }
}

/// The same, with the names, spans and persons of the moment when it was decided.
fn why(topology: &Topology, pool: PoolId, decision: &Decision<'_>) -> String {
    let pair = topology.pair_of(pool).map(|(pair, _)| pair);
    let lasting =
        |span_of: fn(&Pair) -> Duration| pair.map(span_of).filter(|lasting| !lasting.is_zero());
    let (after, hold) = (lasting(|p| p.rules.after), lasting(|p| p.rules.hold));
    match (decision.cause, decision.by, after, hold) {
        (Cause::Ordered, By::Operator(name), ..) => {
            format!("ordered by {}", person(name, decision.reason))
        }
        (Cause::Lost, _, Some(after), _) => {
            format!("the home pool was lost for {}", span(after))
        }
        (Cause::Held, _, _, Some(hold)) => {
            format!("the home pool was well for {} at least", span(hold))
        }
        (Cause::LeftLost, ..) => format!("{}, which served them, was lost", twin(topology, pool)),
        (cause, ..) => redirect_cause_text(cause).to_owned(),
    }
}

/// `alice (kernel update)`.
fn person(name: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{name} ({reason})"),
        None => name.to_owned(),
    }
}

/// ` (to fe-busan)`, ` (from fe-busan, over 1 min)`.
fn way(topology: &Topology, pool: PoolId, from: Phase, to: Phase) -> String {
    let twin = twin(topology, pool);
    let ramp = topology.pair_of(pool).map(|(pair, _)| pair.rules.ramp);
    match (from, to, ramp) {
        (_, Phase::Away, _) => format!(" (to {twin})"),
        (_, Phase::Returning(_), Some(ramp)) => format!(" (from {twin}, over {})", span(ramp)),
        (Phase::Away | Phase::Returning(_), _, _) => format!(" (from {twin})"),
        (Phase::Home, ..) => String::new(),
    }
}

/// The phase alone: the first share of a return is always the same.
fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Home => "home",
        Phase::Away => "away",
        Phase::Returning(_) => "returning",
    }
}

fn twin(topology: &Topology, pool: PoolId) -> &str {
    let twin = topology.twin(pool);
    twin.map_or("its twin", |twin| &topology.pool(twin).name)
}

fn pools_of(topology: &Topology, site: SiteId) -> Vec<&str> {
    let pools = topology.pools.iter();
    pools
        .filter(|pool| pool.site == Some(site))
        .map(|pool| pool.name.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::observe::events::sentence;
    use crate::observe::sample::{NOW, Plight, pair_topology};
    use crate::pairing::Event as E;
    use crate::pairing::Pause;
    use crate::pairing::pair::Destination;
    use crate::pairing::record::{By, Cause, Phase};
    use crate::topology::{PairId, PoolId, SiteId};

    fn told(event: E) -> String {
        sentence(&pair_topology(), &event, NOW)
    }

    #[test]
    fn the_story_of_a_site_that_dies_and_returns() {
        let mut plight = Plight::new();
        plight.lose(&["fe-seoul", "med-seoul"]);
        plight.run(12_000);
        plight.order("med-seoul", Destination::Twin);
        plight.set("fe-seoul", false);
        plight.set("med-seoul", false);
        plight.run(320_000);
        plight.order("med-seoul", Destination::Home);
        plight.run(100_000);
        assert_eq!(
            plight.story(),
            [
                "site seoul: lost: all of its pools are lost: fe-seoul, med-seoul",
                "fe-seoul: home → away (to fe-busan): the home pool was lost for 10 s; \
                 generation 1",
                "med-seoul: home → away (to med-busan): ordered by alice (kernel update); \
                 generation 1",
                "site seoul: no longer lost: a pool of it serves again",
                "fe-seoul: away → returning (from fe-busan, over 1 min 35 s): the home pool was \
                 well for 5 min at least; generation 2",
                "med-seoul: away → returning (from med-busan, over 1 min 35 s): ordered by alice \
                 (kernel update); generation 2",
                "fe-seoul: returning (95 %) → home (from fe-busan): all are home again; \
                 generation 21",
                "med-seoul: returning (95 %) → home (from med-busan): all are home again; \
                 generation 21",
            ]
        );
    }

    #[test]
    fn every_cause_is_told_with_its_names() {
        let redirect = |from, to, cause| {
            told(E::Redirect {
                pool: PoolId(0),
                from,
                to,
                cause,
                by: By::Twinpool,
                reason: None,
                generation: 7,
            })
        };
        let share = crate::pairing::record::Share::of(9).unwrap();
        for (from, to, cause, sentence) in [
            (
                Phase::Home,
                Phase::Away,
                Cause::Lost,
                "fe-seoul: home → away (to fe-busan): the home pool was lost for 10 s; \
                 generation 7",
            ),
            (
                Phase::Away,
                Phase::Home,
                Cause::LeftLost,
                "fe-seoul: away → home (from fe-busan): fe-busan, which served them, was lost; \
                 generation 7",
            ),
            (
                Phase::Home,
                Phase::Away,
                Cause::FirstToReturn,
                "fe-seoul: home → away (to fe-busan): both pools were lost, and the one that \
                 serves them now was the first to return; generation 7",
            ),
            (
                Phase::Returning(share),
                Phase::Away,
                Cause::Relapsed,
                "fe-seoul: returning (45 %) → away (to fe-busan): the home pool was lost again \
                 while they came home; generation 7",
            ),
        ] {
            assert_eq!(redirect(from, to, cause), sentence);
        }
    }

    #[test]
    fn what_else_happens_to_pairs_is_told_with_what_to_do() {
        let pause = Pause {
            by: "bob".to_owned(),
            reason: Some("network work".to_owned()),
            since: NOW,
        };
        let pair = PairId(0);
        let error = Some("no space left on device (os error 28)".to_owned());
        for (event, sentence) in [
            (
                E::Alarm { pair, on: true },
                "korea: alarm: automation has ended, because it failed over and back too often; \
                 it goes on after `twinpool resume`",
            ),
            (
                E::Alarm { pair, on: false },
                "korea: the alarm is over, automation goes on",
            ),
            (
                E::Unwritten { pair, error },
                "korea: the record cannot be written, and what it wanted is not in force: no \
                 space left on device (os error 28); automation tries again every 1 s",
            ),
            (
                E::Unwritten { pair, error: None },
                "korea: the record can be written again",
            ),
            (
                E::Pause {
                    pause: Some(pause),
                    by: None,
                },
                "all automation of pairs is paused by bob (network work); it goes on after \
                 `twinpool resume`",
            ),
            (
                E::Pause {
                    pause: None,
                    by: Some("bob".to_owned()),
                },
                "automation of pairs goes on: resumed by bob",
            ),
            (
                E::Site {
                    site: SiteId(1),
                    lost: true,
                },
                "site busan: lost: all of its pools are lost: fe-busan, med-busan",
            ),
            (
                E::Spill {
                    pool: PoolId(0),
                    on: true,
                },
                "fe-seoul: spilling: sessions that no member takes go to fe-busan one by one",
            ),
            (
                E::Spill {
                    pool: PoolId(0),
                    on: false,
                },
                "fe-seoul: no longer spilling",
            ),
        ] {
            assert_eq!(told(event), sentence);
        }
    }

    #[test]
    fn an_event_of_a_pair_names_it() {
        let mut plight = Plight::new();
        plight.lose(&["fe-seoul", "med-seoul"]);
        plight.run(12_000);
        let events = plight.events.since(0);
        let of = |text: &str| events.iter().find(|e| e.text.starts_with(text)).unwrap();
        let away = of("fe-seoul: home → away");
        assert_eq!(away.pool.as_deref(), Some("fe-seoul"));
        assert_eq!(away.pair.as_deref(), Some("korea"));
        assert_eq!(of("site seoul: lost").site.as_deref(), Some("seoul"));
    }
}
