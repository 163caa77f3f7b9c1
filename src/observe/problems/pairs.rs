//! What is wrong with pairs and sites, or not as it usually is.
//!
//! One outage is one problem: what took a whole site, or both pools of a pair, is told once, with
//! where the users of each of its pools are; pools that were moved together are told together.

use std::collections::BTreeSet;

use super::pools::{presence, reasons};
use super::{Problem, Severity, few, number};
use crate::observe::outlook::{both_lost, decided, fitness_text, halt_text, outlook, whereabouts};
use crate::observe::stamp::{Stamp, span};
use crate::observe::status::{HomePhase, HomeStatus, PairStatus, PoolStatus, SiteStatus, Status};
use crate::pairing::pair::{Fitness, Halt};

/// Pools whose loss is told as that of a pair or of a site.
pub(super) struct Outage<'a> {
    pairs: Vec<&'a PairStatus>,
    sites: Vec<&'a SiteStatus>,
    pools: BTreeSet<&'a str>,
}

impl<'a> Outage<'a> {
    pub(super) fn of(status: &'a Status) -> Outage<'a> {
        let pairs: Vec<&PairStatus> = status.pairs.iter().filter(|pair| pair.is_lost()).collect();
        let homes = pairs.iter().flat_map(|pair| &pair.pools);
        let mut pools: BTreeSet<&str> = homes.map(|home| home.pool.as_str()).collect();
        // A site of one pool is told as that pool.
        let sites: Vec<&SiteStatus> = status
            .sites
            .iter()
            .filter(|site| site.lost && site.pools.len() > 1)
            .filter(|site| !site.pools.iter().all(|pool| pools.contains(pool.as_str())))
            .collect();
        pools.extend(sites.iter().flat_map(|s| &s.pools).map(String::as_str));
        Outage {
            pairs,
            sites,
            pools,
        }
    }

    pub(super) fn includes(&self, pool: &str) -> bool {
        self.pools.contains(pool)
    }
}

/// All of them.
pub(super) fn problems(status: &Status, outage: &Outage<'_>) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(outage.pairs.iter().map(|pair| pair_lost(status, pair)));
    found.extend(outage.sites.iter().map(|site| site_lost(status, site)));
    found.extend(moved(status, outage));
    found.extend(spilling(status));
    found.extend(status.pairs.iter().filter_map(halted));
    found.extend(status.pairs.iter().filter_map(record));
    found.extend(unwritten(status));
    found.extend(paused(status));
    found
}

fn pair_lost(status: &Status, pair: &PairStatus) -> Problem {
    let pools: Vec<&PoolStatus> = pair
        .pools
        .iter()
        .filter_map(|home| status.pool(&home.pool))
        .collect();
    let counted: Vec<String> = pools
        .iter()
        .map(|pool| format!("{} ({})", pool.name, presence(pool)))
        .collect();
    let open: u64 = pools.iter().map(|pool| pool.open()).sum();
    let served: Vec<String> = pools
        .iter()
        .map(|pool| format!("{}: {}", pool.name, pool.health.why))
        .collect();
    Problem {
        severity: Severity::PairLost,
        label: "PAIR LOST",
        about: vec![],
        what: format!(
            "pair {}: both pools are lost: {}{}",
            pair.name,
            counted.join(", "),
            because(&pools)
        ),
        since: pair.pools.iter().map(|home| home.fitness_since).max(),
        whom: Some(format!(
            "{}; {} sessions open",
            served.join("; "),
            number(open)
        )),
        next: Some(both_lost(pair)),
    }
}

fn site_lost(status: &Status, site: &SiteStatus) -> Problem {
    let pools: Vec<&PoolStatus> = site
        .pools
        .iter()
        .filter_map(|name| status.pool(name))
        .collect();
    let (away, here): (Vec<&PoolStatus>, Vec<&PoolStatus>) = pools.iter().partition(|pool| {
        let home = status.home(&pool.name);
        home.is_some_and(|(_, home)| home.phase == HomePhase::Away)
    });
    let away: Vec<&HomeStatus> = away
        .iter()
        .filter_map(|pool| Some(status.home(&pool.name)?.1))
        .collect();
    let mut whom: Vec<String> = Vec::new();
    if !away.is_empty() {
        whom.push(format!("away: {}", destinations(&away)));
    }
    whom.extend(few(here.iter().map(|pool| {
        let alone = match status.home(&pool.name) {
            Some(_) => "",
            None => ", and it has no twin",
        };
        format!("{}: {}{alone}", pool.name, pool.health.why)
    })));
    Problem {
        severity: Severity::SiteLost,
        label: "SITE LOST",
        about: vec![],
        what: format!(
            "site {}: all of its pools are lost: {}{}",
            site.name,
            site.pools.join(", "),
            because(&pools)
        ),
        since: pools.iter().map(|pool| pool.since).max(),
        whom: Some(whom.join("; ")),
        next: Some(next_of_site(status, site, &away, &here)),
    }
}

/// What comes next for those of a lost site who are not away; where all are, for the first of them.
fn next_of_site(
    status: &Status,
    site: &SiteStatus,
    away: &[&HomeStatus],
    here: &[&PoolStatus],
) -> String {
    let isolated = status.isolated.is_some();
    let homes: Vec<(&PairStatus, &HomeStatus)> = here
        .iter()
        .filter_map(|pool| status.home(&pool.name))
        .collect();
    let (by_itself, waiting): (Vec<_>, Vec<_>) = homes
        .into_iter()
        .partition(|(pair, home)| home.next.is_some() || pair.is_lost() || isolated);
    let mut next: Vec<String> = few(by_itself.iter().map(|(pair, home)| {
        let next = outlook(pair, home, isolated, status.now);
        format!("{}: {next}", home.pool)
    }));
    match waiting.as_slice() {
        [] => {}
        [(pair, home)] => {
            let next_of_one = outlook(pair, home, isolated, status.now);
            next.push(format!("{}: {next_of_one}", home.pool));
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(_, home)| home.pool.as_str()).collect();
            let halt = several.iter().find_map(|(pair, _)| pair.halt);
            let halt = halt.map(|halt| format!("{}: ", halt_text(halt)));
            next.push(format!(
                "{}`twinpool evacuate {}` sends the users of {} to their twins",
                halt.unwrap_or_default(),
                site.name,
                names.join(", ")
            ));
        }
    }
    if next.is_empty() {
        let pairs: Vec<(&PairStatus, &HomeStatus)> = away
            .iter()
            .filter_map(|home| status.home(&home.pool))
            .collect();
        next.extend(next_of_many(status, site.name.as_str(), &pairs));
    }
    match next.is_empty() {
        true => "served again as soon as its members are".to_owned(),
        false => next.join("; "),
    }
}

/// Users who are away or come home, those who were moved together in one.
fn moved(status: &Status, outage: &Outage<'_>) -> Vec<Problem> {
    let mut groups: Vec<Vec<(&PairStatus, &HomeStatus)>> = Vec::new();
    for pair in &status.pairs {
        for home in &pair.pools {
            if home.phase == HomePhase::Home || outage.includes(&home.pool) {
                continue;
            }
            let together = |group: &&mut Vec<(&PairStatus, &HomeStatus)>| {
                group
                    .first()
                    .is_some_and(|(_, first)| are_alike(first, home))
            };
            match groups.iter_mut().find(together) {
                Some(group) => group.push((pair, home)),
                None => groups.push(vec![(pair, home)]),
            }
        }
    }
    let told = |group: &Vec<(&PairStatus, &HomeStatus)>| match group.as_slice() {
        [(pair, home)] => moved_alone(status, pair, home),
        several => moved_together(status, several),
    };
    groups.iter().map(told).collect()
}

/// Whether the users of two pools were moved by one decision, as far as people are concerned.
fn are_alike(one: &HomeStatus, other: &HomeStatus) -> bool {
    one.site.is_some()
        && (&one.site, one.phase, one.cause, &one.by, &one.reason)
            == (
                &other.site,
                other.phase,
                other.cause,
                &other.by,
                &other.reason,
            )
        && severity(one) == severity(other)
}

fn severity(home: &HomeStatus) -> Severity {
    match home.phase {
        HomePhase::Home | HomePhase::Returning => Severity::Returning,
        HomePhase::Away if home.ordered && home.fitness != Fitness::Lost => Severity::Sent,
        HomePhase::Away => Severity::Away,
    }
}

fn label(home: &HomeStatus) -> &'static str {
    match home.phase {
        HomePhase::Home | HomePhase::Returning => "RETURNING",
        HomePhase::Away => "AWAY",
    }
}

fn moved_alone(status: &Status, pair: &PairStatus, home: &HomeStatus) -> Problem {
    let lost = match (home.fitness, status.pool(&home.pool)) {
        (Fitness::Lost, Some(pool)) => format!(", {}", presence(pool)),
        _ => String::new(),
    };
    Problem {
        severity: severity(home),
        label: label(home),
        about: vec![home.pool.clone()],
        what: format!("{}: {}, {}", home.pool, whereabouts(home), decided(home)),
        since: Some(home.since),
        whom: Some(format!(
            "{}; {} itself: {}{lost}",
            sessions(&[home], status.now),
            home.pool,
            fitness_text(home, status.now)
        )),
        next: Some(outlook(pair, home, status.isolated.is_some(), status.now)),
    }
}

fn moved_together(status: &Status, group: &[(&PairStatus, &HomeStatus)]) -> Problem {
    let homes: Vec<&HomeStatus> = group.iter().map(|(_, home)| *home).collect();
    let first = homes[0];
    let site = first.site.as_deref().unwrap_or_default();
    let doing = match first.phase {
        HomePhase::Away => "their users are away",
        HomePhase::Home | HomePhase::Returning => "their users come home",
    };
    Problem {
        severity: severity(first),
        label: label(first),
        about: homes.iter().map(|home| home.pool.clone()).collect(),
        what: format!(
            "{} pools of site {site}: {doing}, {}: {}",
            homes.len(),
            decided(first),
            destinations(&homes)
        ),
        since: homes.iter().map(|home| home.since).min(),
        whom: Some(sessions(&homes, status.now)),
        next: next_of_many(status, site, group),
    }
}

/// What comes next for pools of one site that were moved together.
fn next_of_many(
    status: &Status,
    site: &str,
    group: &[(&PairStatus, &HomeStatus)],
) -> Option<String> {
    let (pair, first) = group.first()?;
    let next = outlook(pair, first, status.isolated.is_some(), status.now);
    Some(match group {
        [_] => format!("{}: {next}", first.pool),
        all if all
            .iter()
            .all(|(_, h)| h.ordered && h.phase == HomePhase::Away) =>
        {
            format!("stays so until `twinpool restore {site}`")
        }
        _ => format!(
            "{}: {next}; for the others see `twinpool redirects`",
            first.pool
        ),
    })
}

/// `fe-seoul on fe-busan, med-seoul on med-busan`.
fn destinations(homes: &[&HomeStatus]) -> String {
    let each = homes.iter().map(|home| match home.phase {
        HomePhase::Returning => format!("{} % of {}", home.share, home.pool),
        HomePhase::Home | HomePhase::Away => format!("{} on {}", home.pool, home.twin),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Sessions of these pools' users, by where they stand.
fn sessions(homes: &[&HomeStatus], now: Stamp) -> String {
    let sum = |read: fn(&HomeStatus) -> u64| homes.iter().map(|home| read(home)).sum::<u64>();
    let mut told = format!(
        "{} sessions on the twin, {} at home",
        number(sum(|home| home.sessions_at_twin)),
        number(sum(|home| home.sessions_at_home))
    );
    match sum(|home| home.to_move) {
        0 => {}
        n => match homes.iter().filter_map(|home| home.drains_until).max() {
            Some(until) => {
                told += &format!(", {} drain for {} yet", number(n), span(now.until(until)));
            }
            None => told += &format!(", {} still to move", number(n)),
        },
    }
    told
}

/// Pools whose sessions go to the twin one by one. Of one that is lost this is told with that.
fn spilling(status: &Status) -> impl Iterator<Item = Problem> {
    let homes = status.pairs.iter().flat_map(|pair| &pair.pools);
    homes
        .filter(|home| home.spilling && home.fitness != Fitness::Lost)
        .map(|home| Problem {
            severity: Severity::Spilling,
            label: "SPILLING",
            about: vec![home.pool.clone()],
            what: format!(
                "{}: sessions that no member took went to {} one by one",
                home.pool, home.twin
            ),
            since: home.spilling_since,
            whom: Some(format!(
                "{} of them since the start; {} sessions on {} now",
                number(home.spilled),
                number(home.sessions_at_twin),
                home.twin
            )),
            next: Some(format!(
                "ends by itself when members of {} take sessions again; see `twinpool why {}`",
                home.pool, home.pool
            )),
        })
}

/// Pairs whose automation waits for a person, but for a pause.
fn halted(pair: &PairStatus) -> Option<Problem> {
    let (label, what, next) = match pair.halt? {
        Halt::Alarm => (
            "ALARM",
            "automation has ended: it failed over and back too often".to_owned(),
            "find out why its pools do not stay well, then `twinpool resume`",
        ),
        Halt::Damaged => (
            "RECORD",
            match &pair.record_problem {
                Some(problem) => format!("automation waits: {problem}"),
                None => "automation waits: its record was damaged".to_owned(),
            },
            "compare `twinpool redirects` with where the users should be, then `twinpool resume`",
        ),
        Halt::Paused => return None,
    };
    Some(Problem {
        severity: Severity::Halted,
        label,
        about: vec![pair.name.clone()],
        what: format!("pair {}: {what}", pair.name),
        since: pair.halt_since,
        whom: Some(format!(
            "users of {} and {} go to the twin, and home, by command alone",
            pair.pools[0].pool, pair.pools[1].pool
        )),
        next: Some(next.to_owned()),
    })
}

/// A record that was not whole when it was read, where automation goes on all the same.
fn record(pair: &PairStatus) -> Option<Problem> {
    let problem = pair.record_problem.as_ref()?;
    (pair.halt != Some(Halt::Damaged)).then(|| Problem {
        severity: Severity::Own,
        label: "RECORD",
        about: vec![],
        what: format!("pair {}: {problem}", pair.name),
        since: pair.record_problem_since,
        whom: Some(format!(
            "users of {} and {} may not be where they were before the restart",
            pair.pools[0].pool, pair.pools[1].pool
        )),
        next: Some(
            "compare `twinpool redirects` with where the users should be, then `twinpool resume`"
                .to_owned(),
        ),
    })
}

/// Pairs whose record cannot be written; those with the same trouble in one.
fn unwritten(status: &Status) -> Vec<Problem> {
    let mut groups: Vec<(&str, Vec<&PairStatus>)> = Vec::new();
    for pair in &status.pairs {
        let Some(error) = pair.unwritten.as_deref() else {
            continue;
        };
        match groups.iter_mut().find(|(other, _)| *other == error) {
            Some((_, pairs)) => pairs.push(pair),
            None => groups.push((error, vec![pair])),
        }
    }
    let told = |(error, pairs): &(&str, Vec<&PairStatus>)| Problem {
        severity: Severity::Own,
        label: "STORE",
        about: vec![],
        what: match pairs.as_slice() {
            [pair] => format!("pair {}: its record cannot be written: {error}", pair.name),
            pairs => {
                let names: Vec<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
                format!(
                    "pairs {}: their records cannot be written: {error}",
                    names.join(", ")
                )
            }
        },
        since: pairs.iter().filter_map(|pair| pair.unwritten_since).min(),
        whom: Some(
            "nobody is sent elsewhere until it can be; users are served where they are".to_owned(),
        ),
        next: Some(
            "automation tries again every second; make state_dir of [instance] writable, or free \
             space there"
                .to_owned(),
        ),
    };
    groups.iter().map(told).collect()
}

fn paused(status: &Status) -> Option<Problem> {
    let pause = status.pause.as_ref()?;
    let reason = pause.reason.as_ref().map(|reason| format!(": {reason}"));
    Some(Problem {
        severity: Severity::Paused,
        label: "PAUSED",
        about: vec![],
        what: format!(
            "all automation of pairs, by {}{}",
            pause.by,
            reason.unwrap_or_default()
        ),
        since: Some(pause.since),
        whom: Some(
            "users go to the twin, and home, by command alone, or by spill where a pair has it"
                .to_owned(),
        ),
        next: Some("stays so until `twinpool resume`".to_owned()),
    })
}

/// `; members: connection refused (L4)`: why they are down, in as few words as that takes.
fn because(pools: &[&PoolStatus]) -> String {
    let told = few(reasons(pools.iter().copied())
        .into_iter()
        .map(str::to_owned));
    match told.is_empty() {
        true => String::new(),
        false => format!("; their members: {}", told.join(", ")),
    }
}
