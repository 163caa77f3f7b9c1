//! What is wrong with a pool and its members.

use super::{Problem, Severity, few, moment, number};
use crate::health::Verdict;
use crate::health::readiness::{Mode, Takes};
use crate::observe::events::mode_word;
use crate::observe::outlook::outlook;
use crate::observe::stamp::{Stamp, span};
use crate::observe::status::{
    HomePhase, HomeStatus, MemberStatus, OperatorStatus, PairStatus, PoolStatus, ServiceStatus,
    Status, TargetStatus,
};
use crate::pairing::Condition;
use crate::topology::Protocol;

/// Everything that is wrong with a pool and its members.
pub(super) fn of_pool(status: &Status, pool: &PoolStatus) -> Vec<Problem> {
    let mut found = of_members(status, pool);
    found.extend(outages(pool).iter().map(|o| told(status, pool, o)));
    let explained = !found.is_empty();
    match pool.condition {
        // Where its users are is told of the pair, with the pool's loss.
        Condition::Lost if !is_away(status, pool) => found.push(pool_lost(status, pool)),
        Condition::Degraded if !explained => found.push(degraded(pool)),
        _ => {}
    }
    let lost = pool.services.iter().filter(|s| s.lost && !s.primary);
    for service in lost.filter(|_| pool.condition != Condition::Lost) {
        found.push(Problem {
            severity: Severity::ServiceLost,
            label: "LOST",
            about: vec![],
            what: format!("{}/{}: no member is usable", pool.name, service.name),
            since: lost_since(pool, service),
            whom: Some(format!(
                "{} sessions open; new ones for it are refused",
                number(service.open)
            )),
            next: Some("served again as soon as one member is up for it".to_owned()),
        });
    }
    found
}

/// When the last of its members became unusable for a service that has none: it went down, or
/// somebody ordered it out.
fn lost_since(pool: &PoolStatus, service: &ServiceStatus) -> Option<Stamp> {
    let each = pool.members.iter().filter_map(|member| {
        let targets = member.services.iter();
        let target = targets.into_iter().find(|t| t.service == service.name)?;
        let went = (target.verdict != Verdict::Up).then_some(target.since);
        let ordered = member.operator.as_ref().map(|operator| operator.since);
        // Either alone would do.
        went.into_iter().chain(ordered).min()
    });
    each.max()
}

/// What was ordered of its members.
pub(super) fn of_members(status: &Status, pool: &PoolStatus) -> Vec<Problem> {
    let members = pool.members.iter();
    members
        .filter_map(|member| Some(ordered(status, pool, member, member.operator.as_ref()?)))
        .collect()
}

/// Why members of these pools are down, each reason once, in words.
pub(super) fn reasons<'a>(pools: impl Iterator<Item = &'a PoolStatus>) -> Vec<&'a str> {
    let mut reasons: Vec<&str> = Vec::new();
    for outage in pools.flat_map(outages) {
        if outage.verdict == Verdict::Down && !reasons.contains(&outage.reason) {
            reasons.push(outage.reason);
        }
    }
    reasons
}

/// `0 of 3 members present, 2 needed`.
pub(super) fn presence(pool: &PoolStatus) -> String {
    format!(
        "{} of {} members present, {} needed",
        pool.present, pool.of_first, pool.need
    )
}

fn is_away(status: &Status, pool: &PoolStatus) -> bool {
    let home = status.home(&pool.name);
    home.is_some_and(|(_, home)| home.phase == HomePhase::Away)
}

fn pool_lost(status: &Status, pool: &PoolStatus) -> Problem {
    let home = status.home(&pool.name);
    Problem {
        severity: Severity::PoolLost,
        label: "LOST",
        about: vec![],
        what: format!("pool {}: {}", pool.name, presence(pool)),
        since: Some(pool.since),
        whom: Some(format!(
            "all users of {}: {}; {} sessions open",
            whose(pool, home),
            match home {
                Some(_) => pool.health.why.clone(),
                None => users_alone(pool),
            },
            number(pool.open())
        )),
        next: Some(match home {
            Some((pair, home)) => outlook(pair, home, status.isolated.is_some(), status.now),
            None => enough_again(pool),
        }),
    }
}

/// The pool, and its twin where that one's users are here.
fn whose(pool: &PoolStatus, home: Option<(&PairStatus, &HomeStatus)>) -> String {
    match home {
        Some((pair, home)) if pair.twin_of(home).phase != HomePhase::Home => {
            format!("{}, and of {}, which it serves", pool.name, home.twin)
        }
        _ => pool.name.clone(),
    }
}

/// How a lost pool without a twin serves its users.
fn users_alone(pool: &PoolStatus) -> String {
    let usable: Vec<&str> = pool
        .members
        .iter()
        .filter(|member| takes_on_primary(pool, member))
        .map(|member| member.name.as_str())
        .collect();
    match (pool.health.ok, usable.is_empty()) {
        (true, _) => format!("below quorum, still served by {}", usable.join(", ")),
        (false, true) => "new sessions are refused: no member takes them".to_owned(),
        (false, false) => "new sessions are refused: the pool is below quorum".to_owned(),
    }
}

fn enough_again(pool: &PoolStatus) -> String {
    match pool.need.saturating_sub(pool.present) {
        1 => "whole enough again as soon as 1 more member is present".to_owned(),
        n => format!("whole enough again as soon as {n} more members are present"),
    }
}

fn degraded(pool: &PoolStatus) -> Problem {
    Problem {
        severity: Severity::Degraded,
        label: "DEGRADED",
        about: vec![],
        what: format!("pool {}: {}", pool.name, presence(pool)),
        since: Some(pool.since),
        whom: None,
        next: None,
    }
}

/// Members of a pool that are not up for the same services and the same reason: one trouble,
/// however many they are.
struct Outage<'a> {
    verdict: Verdict,
    reason: &'a str,
    services: Vec<&'a str>,
    members: Vec<&'a MemberStatus>,
    /// The first service's target on each of `members`.
    targets: Vec<&'a TargetStatus>,
}

fn outages(pool: &PoolStatus) -> Vec<Outage<'_>> {
    let mut outages: Vec<Outage<'_>> = Vec::new();
    for member in &pool.members {
        for outage in outages_of(member) {
            let same = outages.iter_mut().find(|other| {
                (other.verdict, other.reason, &other.services)
                    == (outage.verdict, outage.reason, &outage.services)
            });
            match same {
                Some(other) => {
                    other.members.extend(outage.members);
                    other.targets.extend(outage.targets);
                }
                None => outages.push(outage),
            }
        }
    }
    outages
}

/// One member's troubles, each with the services that share it. Services that are out only because
/// they require another are no trouble of their own.
fn outages_of(member: &MemberStatus) -> Vec<Outage<'_>> {
    let mut outages: Vec<Outage<'_>> = Vec::new();
    let own = member.services.iter().filter(|target| {
        matches!(target.verdict, Verdict::Down | Verdict::Busy) && target.requires.is_none()
    });
    for target in own {
        let same = outages
            .iter_mut()
            .find(|other| (other.verdict, other.reason) == (target.verdict, &target.reason));
        match same {
            Some(other) => other.services.push(&target.service),
            None => outages.push(Outage {
                verdict: target.verdict,
                reason: &target.reason,
                services: vec![&target.service],
                members: vec![member],
                targets: vec![target],
            }),
        }
    }
    outages
}

fn told(status: &Status, pool: &PoolStatus, outage: &Outage<'_>) -> Problem {
    let down = outage.verdict == Verdict::Down;
    let names: Vec<&str> = outage
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    let held: u64 = outage.members.iter().map(|member| member.load).sum();
    let held = match (down, held) {
        (true, 0) => ended(pool, &outage.services).to_owned(),
        (_, n) => format!("{} sessions kept", number(n)),
    };
    let others = pool
        .services
        .iter()
        .find(|service| service.name == outage.services[0])
        .map_or(0, |service| service.usable);
    let carried = match others {
        0 => "no other member can carry the load".to_owned(),
        1 => "one member carries the load".to_owned(),
        n => format!("{n} members carry the load"),
    };
    let first = outage.targets[0];
    Problem {
        severity: match down {
            true => Severity::MemberDown,
            false => Severity::MemberBusy,
        },
        label: if down { "DOWN" } else { "BUSY" },
        about: outage
            .members
            .iter()
            .map(|member| path(pool, member))
            .collect(),
        what: format!(
            "{}/{} {}: {}{}",
            pool.name,
            names.join(","),
            outage.services.join(", "),
            outage.reason,
            dependants(outage)
        ),
        since: outage.targets.iter().map(|target| target.since).min(),
        whom: Some(format!("{held}; {carried}")),
        next: Some(match outage.members.as_slice() {
            [_] => what_next(status.now, first),
            _ => format!(
                "{}: {}; for the others see `twinpool why {}`",
                names[0],
                what_next(status.now, first),
                pool.name
            ),
        }),
    }
}

/// What became of the sessions for these services that a member held when it went down.
fn ended(pool: &PoolStatus, services: &[&str]) -> &'static str {
    let of = |protocol| {
        let mut services = pool
            .services
            .iter()
            .filter(|s| services.contains(&&*s.name));
        services.any(|service| service.protocol == protocol)
    };
    match (of(Protocol::Tcp), of(Protocol::Udp)) {
        (_, false) => "sessions were ended, so that clients reconnect",
        (false, true) => "flows were ended: their clients' next datagrams begin new ones",
        (true, true) => {
            "sessions were ended: clients reconnect, and the next datagrams of flows begin new ones"
        }
    }
}

/// What is out besides, because it requires one of the outage's services.
fn dependants(outage: &Outage<'_>) -> String {
    let mut also: Vec<&str> = Vec::new();
    for target in outage.members.iter().flat_map(|member| &member.services) {
        let requires = target.requires.as_deref();
        if requires.is_some_and(|on| outage.services.contains(&on))
            && !also.contains(&target.service.as_str())
        {
            also.push(&target.service);
        }
    }
    match also.as_slice() {
        [] => String::new(),
        all => format!("; with it {}", all.join(", ")),
    }
}

/// Members that cannot be asked through a fault of our own side; those with the same fault in one.
pub(super) fn unaskable(status: &Status) -> Vec<Problem> {
    let mut groups: Vec<(&str, Vec<Unasked<'_>>)> = Vec::new();
    for pool in &status.pools {
        for member in &pool.members {
            let faults = member.services.iter();
            let mut faults = faults.filter_map(|target| Some((target, target.own_fault.as_ref()?)));
            let Some((target, fault)) = faults.next() else {
                continue;
            };
            let unasked = Unasked {
                path: path(pool, member),
                target,
            };
            match groups.iter_mut().find(|(other, _)| other == fault) {
                Some((_, members)) => members.push(unasked),
                None => groups.push((fault, vec![unasked])),
            }
        }
    }
    groups
        .iter()
        .map(|(fault, members)| not_asked(fault, members))
        .collect()
}

/// A member that cannot be asked, by its first service for which that is so.
struct Unasked<'a> {
    path: String,
    target: &'a TargetStatus,
}

fn not_asked(fault: &str, members: &[Unasked<'_>]) -> Problem {
    let (what, whom) = match members {
        [one] => (
            format!(
                "{} {}: {fault} ({})",
                one.path, one.target.service, one.target.endpoint
            ),
            format!("it stays {} until it can be asked", one.target.verdict),
        ),
        several => {
            let each = several.iter().map(|one| match fault {
                // The fault is one of each name, and it helps to know which.
                "name not resolved" => format!("{} ({})", one.path, one.target.endpoint),
                _ => one.path.clone(),
            });
            (
                format!(
                    "{} members: {fault}: {}",
                    several.len(),
                    few(each).join(", ")
                ),
                "their verdicts stay as they are until they can be asked".to_owned(),
            )
        }
    };
    Problem {
        severity: Severity::NotAsked,
        label: "NOT ASKED",
        about: members.iter().map(|one| one.path.clone()).collect(),
        what,
        since: None,
        whom: Some(whom),
        next: None,
    }
}

fn ordered(
    status: &Status,
    pool: &PoolStatus,
    member: &MemberStatus,
    operator: &OperatorStatus,
) -> Problem {
    let now = status.now;
    let reason = match &operator.reason {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    };
    let left = match (member.load, operator.deadline) {
        (0, _) => "no sessions left".to_owned(),
        (n, Some(at)) => format!("{} sessions left, ended {}", number(n), moment(now, at)),
        (n, None) => format!("{} sessions left", number(n)),
    };
    Problem {
        severity: Severity::Operator,
        label: match member.mode {
            Mode::Drain => "DRAIN",
            Mode::Maintenance => "MAINTENANCE",
            Mode::Ready => "READY",
        },
        about: vec![path(pool, member)],
        what: format!("{}/{} by {}{reason}", pool.name, member.name, operator.by),
        since: Some(operator.since),
        whom: Some(left),
        next: Some(match operator.until {
            Some(at) => format!("{} lapses {}", mode_word(member.mode), moment(now, at)),
            None => format!(
                "stays so until `twinpool ready {}/{}`",
                pool.name, member.name
            ),
        }),
    }
}

/// What the next answers of a target would do: `asked again in 0.2 s; up after 2 good answers in a
/// row, 1 so far`.
pub fn what_next(now: Stamp, target: &TargetStatus) -> String {
    if target.held {
        return "held: this instance is, or may be, isolated".to_owned();
    }
    let asked = match target.next_probe {
        Some(at) => format!("asked again in {}", span(now.until(at))),
        None => "being asked now".to_owned(),
    };
    let progress = target.progress;
    let goal = match target.own_verdict {
        Verdict::Up if progress.failures > 0 => format!(
            "away after {} failures in a row, {} so far",
            progress.fall, progress.failures
        ),
        Verdict::Up => match &target.requires {
            Some(service) => format!("its own checks are good: up as soon as {service} is"),
            None => "up while it answers".to_owned(),
        },
        Verdict::Unknown => "judged by its first answers".to_owned(),
        Verdict::Busy | Verdict::Down if target.flapping => format!(
            "up after a run of {} good answers, {} so far",
            progress.flap, progress.successes
        ),
        Verdict::Busy | Verdict::Down => format!(
            "up after {} good answers in a row, {} so far",
            progress.rise, progress.successes
        ),
    };
    match target.next {
        Some(next) if target.own_verdict != Verdict::Up => format!(
            "{asked}; {goal}: {} in {} at the earliest",
            next.verdict,
            span(now.until(next.at))
        ),
        _ => format!("{asked}; {goal}"),
    }
}

fn path(pool: &PoolStatus, member: &MemberStatus) -> String {
    format!("{}/{}", pool.name, member.name)
}

fn takes_on_primary(pool: &PoolStatus, member: &MemberStatus) -> bool {
    pool.services
        .iter()
        .zip(&member.services)
        .any(|(service, target)| service.primary && target.takes != Takes::No)
}
