//! Metrics of pairs, of the users of their home pools, and of sites.

use std::fmt;

use prometheus_client::registry::Unit;

use super::one_of;
use super::page::{Labels, Page};
use crate::observe::status::{HomePhase, HomeStatus, PairStatus, Status};
use crate::pairing::pair::Halt;

/// Writes all of them.
pub(super) fn families(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    page.gauge(
        "twinpool_site_lost",
        "1 while every pool of a site is lost",
        status
            .sites
            .iter()
            .map(|site| (vec![("site", site.name.as_str())], site.lost)),
    )?;
    if status.pairs.is_empty() {
        return Ok(());
    }
    page.gauge(
        "twinpool_automation_paused",
        "1 while a person has paused all automation of pairs",
        [(vec![], status.pause.is_some())],
    )?;
    pairs(status, page)?;
    phases(status, page)?;
    users(status, page)
}

fn pairs(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    let each = |read: fn(&PairStatus) -> u64| {
        status
            .pairs
            .iter()
            .map(move |pair| (pair_labels(pair), read(pair)))
    };
    page.gauges([
        (
            "twinpool_pair_generation",
            "The generation of a pair's record that is in force",
            each(|pair| pair.generation),
        ),
        (
            "twinpool_pair_rounds",
            "Automatic failbacks that were begun since a pair was last calm",
            each(|pair| u64::from(pair.rounds)),
        ),
        (
            "twinpool_pair_record_ok",
            "0 while a pair's record was damaged, or cannot be written",
            each(|pair| u64::from(pair.record_problem.is_none() && pair.unwritten.is_none())),
        ),
    ])?;
    page.gauge(
        "twinpool_pair_automation_halted",
        "1 while automation decides nothing for a pair, by the reason",
        status.pairs.iter().flat_map(|pair| {
            let reasons = [
                ("paused", Some(Halt::Paused)),
                ("alarm", Some(Halt::Alarm)),
                ("damaged", Some(Halt::Damaged)),
            ];
            one_of(pair_labels(pair), "reason", reasons, pair.halt)
        }),
    )?;
    page.gauge_of(
        "twinpool_pair_hold",
        "How long a recovered pool has to stay well before automation brings its users home",
        Some(Unit::Seconds),
        status
            .pairs
            .iter()
            .map(|pair| (pair_labels(pair), pair.hold.as_secs_f64())),
    )
}

fn phases(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    page.gauge(
        "twinpool_pair_phase",
        "Where the users of a home pool are sent",
        homes(status).flat_map(|(pair, home)| {
            let phases = [HomePhase::Home, HomePhase::Away, HomePhase::Returning];
            let phases = phases.map(|phase| (phase.word(), phase));
            one_of(home_labels(pair, home), "phase", phases, home.phase)
        }),
    )?;
    page.gauge_of(
        "twinpool_pair_share",
        "The share of a home pool's clients that go home, 0 to 1",
        None,
        homes(status).map(|(pair, home)| {
            let share = f64::from(home.share) / 100.0;
            (home_labels(pair, home), share)
        }),
    )
}

fn users(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    let each = |read: fn(&HomeStatus) -> u64| {
        homes(status).map(move |(_, home)| (vec![("pool", home.pool.as_str())], read(home)))
    };
    page.gauges([
        (
            "twinpool_pool_sessions_at_twin",
            "Sessions of a home pool's users that its twin's members hold",
            each(|home| home.sessions_at_twin),
        ),
        (
            "twinpool_pool_sessions_to_move",
            "Sessions of a home pool's users that are still to be ended because they move",
            each(|home| home.to_move),
        ),
        (
            "twinpool_pool_spilling",
            "1 while connections that no home member accepted go to the twin one by one",
            each(|home| u64::from(home.spilling)),
        ),
    ])?;
    page.counters([
        (
            "twinpool_pool_moved_sessions",
            "Sessions ended because a home pool's users moved",
            each(|home| home.moved),
        ),
        (
            "twinpool_pool_spilled_connections",
            "Connections that no home member accepted and that went to the twin",
            each(|home| home.spilled),
        ),
        (
            "twinpool_pool_arrivals_held",
            "Times that a member was passed over because it had taken all the arrivals of a moving \
             pool that it may",
            each(|home| home.arrivals_held),
        ),
    ])
}

fn homes(status: &Status) -> impl Iterator<Item = (&PairStatus, &HomeStatus)> {
    let pairs = status.pairs.iter();
    pairs.flat_map(|pair| pair.pools.iter().map(move |home| (pair, home)))
}

fn pair_labels(pair: &PairStatus) -> Labels<'_> {
    vec![("pair", pair.name.as_str())]
}

fn home_labels<'a>(pair: &'a PairStatus, home: &'a HomeStatus) -> Labels<'a> {
    vec![("pair", pair.name.as_str()), ("pool", home.pool.as_str())]
}
