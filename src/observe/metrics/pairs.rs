//! Metrics of pairs, of the users of their home pools, and of sites.

use std::fmt;

use super::page::{Family, Page, Subject, one_of};
use crate::observe::status::{HomePhase, HomeStatus, PairStatus, SiteStatus, Status};
use crate::pairing::pair::Halt;

/// Writes all of them.
pub(super) fn families(status: &Status, page: &mut Page<'_>) -> fmt::Result {
    page.table(SITE, &sites(status))?;
    if status.pairs.is_empty() {
        return Ok(());
    }
    page.table(AUTOMATION, &[(vec![], status)])?;
    page.table(PAIR, &pairs(status))?;
    page.table(
        PHASE,
        &homes(status, |pair, home| {
            vec![("pair", pair.name.as_str()), ("pool", home.pool.as_str())]
        }),
    )?;
    page.table(
        USERS,
        &homes(status, |_, home| vec![("pool", home.pool.as_str())]),
    )
}

/// Of a site.
const SITE: &[Family<SiteStatus>] = &[Family::gauge(
    "twinpool_site_lost",
    "1 while every pool of a site is lost",
    |site| u64::from(site.lost),
)];

/// Of an instance with pairs.
const AUTOMATION: &[Family<Status>] = &[Family::gauge(
    "twinpool_automation_paused",
    "1 while a person has paused all automation of pairs; `twinpool resume` lets it go on",
    |status| u64::from(status.pause.is_some()),
)];

/// Of a pair.
const PAIR: &[Family<PairStatus>] = &[
    Family::gauge(
        "twinpool_pair_generation",
        "The generation of a pair's record that is in force; it rises with every redirect",
        |pair| pair.generation,
    ),
    Family::gauge(
        "twinpool_pair_rounds",
        "Automatic failbacks that were begun since a pair was last calm",
        |pair| u64::from(pair.rounds),
    ),
    Family::gauge(
        "twinpool_pair_record_ok",
        "0 while a pair's record was damaged, or cannot be written: what was decided last is not in \
         force. See to the disk of `state_dir`; `twinpool why PAIR` tells more",
        |pair| u64::from(is_record_ok(pair)),
    ),
    Family::state(
        "twinpool_pair_automation_halted",
        "1 while automation decides nothing for a pair, by the reason; alarm and damaged end with \
         `twinpool resume`",
        "reason",
        |pair| {
            let reasons = [
                ("paused", Some(Halt::Paused)),
                ("alarm", Some(Halt::Alarm)),
                ("damaged", Some(Halt::Damaged)),
            ];
            one_of(reasons, pair.halt)
        },
    ),
    Family::seconds(
        "twinpool_pair_hold",
        "How long a recovered pool has to stay well before automation brings its users home",
        |pair| pair.hold.as_secs_f64(),
    ),
];

/// Of a home pool in its pair.
const PHASE: &[Family<HomeStatus>] = &[
    Family::state(
        "twinpool_pair_phase",
        "Where the users of a home pool are sent; `twinpool redirects` tells why, by whom, and what \
         comes next",
        "phase",
        |home| {
            let phases = [HomePhase::Home, HomePhase::Away, HomePhase::Returning];
            one_of(phases.map(|phase| (phase.word(), phase)), home.phase)
        },
    ),
    Family::seconds(
        "twinpool_pair_phase_start_time",
        "Since when the users of a home pool are sent where they are, since 1970",
        |home| home.since.unix_seconds(),
    ),
    Family::share(
        "twinpool_pair_share",
        "The share of a home pool's clients that go home, 0 to 1",
        |home| f64::from(home.share) / 100.0,
    ),
];

/// Of a home pool's users.
const USERS: &[Family<HomeStatus>] = &[
    Family::gauge(
        "twinpool_pool_sessions_at_twin",
        "Sessions of a home pool's users that its twin's members hold",
        |home| home.sessions_at_twin,
    ),
    Family::gauge(
        "twinpool_pool_sessions_to_move",
        "Sessions of a home pool's users that are still to be ended because they move",
        |home| home.to_move,
    ),
    Family::gauge(
        "twinpool_pool_spilling",
        "1 while sessions that no home member took go to the twin one by one: the home pool is failing \
         and not yet lost",
        |home| u64::from(home.spilling),
    ),
    Family::counter(
        "twinpool_pool_moved_sessions",
        "Sessions ended because a home pool's users moved",
        |home| home.moved,
    ),
    Family::counter(
        "twinpool_pool_spilled_connections",
        "Connections and flows that no home member took and that went to the twin",
        |home| home.spilled,
    ),
    Family::counter(
        "twinpool_pool_arrivals_held",
        "Times that a member was passed over because it had taken all the arrivals of a moving \
         pool that it may",
        |home| home.arrivals_held,
    ),
];

fn sites(status: &Status) -> Vec<Subject<'_, SiteStatus>> {
    let sites = status.sites.iter();
    sites
        .map(|site| (vec![("site", site.name.as_str())], site))
        .collect()
}

fn pairs(status: &Status) -> Vec<Subject<'_, PairStatus>> {
    let pairs = status.pairs.iter();
    pairs
        .map(|pair| (vec![("pair", pair.name.as_str())], pair))
        .collect()
}

fn homes<'a>(
    status: &'a Status,
    labels: fn(&'a PairStatus, &'a HomeStatus) -> Vec<(&'static str, &'a str)>,
) -> Vec<Subject<'a, HomeStatus>> {
    let pairs = status.pairs.iter();
    pairs
        .flat_map(|pair| {
            pair.pools
                .iter()
                .map(move |home| (labels(pair, home), home))
        })
        .collect()
}

fn is_record_ok(pair: &PairStatus) -> bool {
    pair.record_problem.is_none() && pair.unwritten.is_none() && pair.halt != Some(Halt::Damaged)
}
