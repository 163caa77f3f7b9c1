//! What is wrong, worst first: for the status page and for `/readyz`.
//!
//! A pure reading of a [`Status`]. Each [`Problem`] says what is wrong, since when, whom it
//! affects, and what happens next and when. One dead server is one problem, however many services
//! it took with it.

use super::events::mode_word;
use super::stamp::{Stamp, span};
use super::status::{MemberStatus, OperatorStatus, PoolStatus, Status, TargetStatus};
use crate::health::Verdict;
use crate::health::readiness::{Mode, Takes};
use crate::pairing::Condition;

/// Something that is not as it should be, or not as it usually is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad; problems are listed by it.
    pub severity: Severity,
    /// One word in capitals: `LOST`, `DOWN`, `DRAIN`.
    pub label: &'static str,
    /// What it is about, each once: members as `POOL/MEMBER`, pools, pairs or sites by name. Empty
    /// where it is about one thing that `what` names.
    pub about: Vec<String>,
    /// What is wrong.
    pub what: String,
    /// Since when.
    pub since: Option<Stamp>,
    /// Whom it affects.
    pub whom: Option<String>,
    /// What happens next, and when.
    pub next: Option<String>,
}

/// How bad a problem is, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Both pools of a pair are lost: nobody can serve the users of either.
    PairLost,
    /// The instance does not know what is true any more.
    Isolated,
    /// Every pool of a site is lost.
    SiteLost,
    /// Users of a pool are not served.
    PoolLost,
    /// Users of one service are not served.
    ServiceLost,
    /// Automation does not protect a pair until a person has looked.
    Halted,
    /// Automation sent a pool's users to its twin, and nobody backs that one up.
    Away,
    /// A member does not answer.
    MemberDown,
    /// The instance itself lacks something.
    Own,
    /// Connections go to the twin one by one.
    Spilling,
    /// A member answers badly.
    MemberBusy,
    /// A member cannot be asked.
    NotAsked,
    /// Fewer members than there should be.
    Degraded,
    /// A pool's users come home.
    Returning,
    /// Somebody paused all automation of pairs.
    Paused,
    /// Somebody sent a pool's users to its twin.
    Sent,
    /// Somebody wants it so.
    Operator,
}

/// How a problem is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Users are not served, or nearly so.
    Bad,
    /// Somebody should look.
    Doubtful,
    /// Somebody wants it so, or it mends itself.
    Wanted,
}

impl Severity {
    /// All of them, worst first.
    pub const ALL: [Severity; 17] = [
        Severity::PairLost,
        Severity::Isolated,
        Severity::SiteLost,
        Severity::PoolLost,
        Severity::ServiceLost,
        Severity::Halted,
        Severity::Away,
        Severity::MemberDown,
        Severity::Own,
        Severity::Spilling,
        Severity::MemberBusy,
        Severity::NotAsked,
        Severity::Degraded,
        Severity::Returning,
        Severity::Paused,
        Severity::Sent,
        Severity::Operator,
    ];

    /// Whether it is a fault, and not what somebody ordered or what mends itself.
    pub fn is_fault(self) -> bool {
        self.grade() != Grade::Wanted
    }

    /// How it is to look.
    pub fn grade(self) -> Grade {
        match self {
            Severity::PairLost
            | Severity::Isolated
            | Severity::SiteLost
            | Severity::PoolLost
            | Severity::ServiceLost
            | Severity::MemberDown => Grade::Bad,
            Severity::Halted
            | Severity::Away
            | Severity::Own
            | Severity::Spilling
            | Severity::MemberBusy
            | Severity::NotAsked
            | Severity::Degraded => Grade::Doubtful,
            Severity::Returning | Severity::Paused | Severity::Sent | Severity::Operator => {
                Grade::Wanted
            }
        }
    }

    /// So many of them in a few words: `3 members down`.
    pub fn counted(self, n: usize) -> String {
        let (one, many) = match self {
            Severity::PairLost => ("1 pair lost", "pairs lost"),
            Severity::Isolated => return "isolated, verdicts are held".to_owned(),
            Severity::SiteLost => ("1 site lost", "sites lost"),
            Severity::PoolLost => ("1 pool lost", "pools lost"),
            Severity::ServiceLost => ("1 service lost", "services lost"),
            Severity::Halted => ("1 pair without automation", "pairs without automation"),
            Severity::Away => ("1 pool's users away", "pools' users away"),
            Severity::MemberDown => ("1 member down", "members down"),
            Severity::Own => ("this instance needs help", "things this instance needs"),
            Severity::Spilling => ("1 pool spilling", "pools spilling"),
            Severity::MemberBusy => ("1 member busy", "members busy"),
            Severity::NotAsked => ("1 member cannot be asked", "members cannot be asked"),
            Severity::Degraded => ("1 pool degraded", "pools degraded"),
            Severity::Returning => ("1 pool's users come home", "pools' users come home"),
            Severity::Paused => return "automation is paused".to_owned(),
            Severity::Sent => (
                "1 pool's users are away by order",
                "pools' users are away by order",
            ),
            Severity::Operator => ("one member is out by order", "members are out by order"),
        };
        match n {
            1 => one.to_owned(),
            n => format!("{n} {many}"),
        }
    }
}

/// What is wrong, worst first; in file order where equally bad.
pub fn problems(status: &Status) -> Vec<Problem> {
    let mut found: Vec<Problem> = isolation(status).into_iter().collect();
    found.extend(own_side(status));
    for pool in &status.pools {
        found.extend(of_pool(status, pool));
    }
    found.sort_by_key(|problem| problem.severity);
    found
}

fn isolation(status: &Status) -> Option<Problem> {
    let isolated = status.isolated.as_ref()?;
    Some(Problem {
        severity: Severity::Isolated,
        label: "ISOLATED",
        about: vec![],
        what: format!(
            "this instance thinks that the fault is its own: {}",
            isolated.cause
        ),
        since: Some(isolated.since),
        whom: Some(format!(
            "{} sessions are kept, and new ones are tried as before",
            number(status.sessions.open)
        )),
        next: Some(
            "verdicts are held until something answers again; look at this host's own network"
                .to_owned(),
        ),
    })
}

fn own_side(status: &Status) -> Vec<Problem> {
    let own = |label, what, whom: &str, next: &str| Problem {
        severity: Severity::Own,
        label,
        about: vec![],
        what,
        since: None,
        whom: Some(whom.to_owned()),
        next: Some(next.to_owned()),
    };
    let mut found = Vec::new();
    if let Some(problem) = &status.store_problem {
        found.push(own(
            "STORE",
            format!("decisions are not stored: {problem}"),
            "drains and maintenance would be forgotten at a restart",
            "stored again as soon as it can be; see state_dir in [instance]",
        ));
    }
    let sessions = status.sessions;
    if sessions.limit > 0 && sessions.open >= sessions.limit {
        found.push(own(
            "FULL",
            format!(
                "{} sessions are open, as many as this instance may hold",
                number(sessions.open)
            ),
            "new connections are reset at once",
            "raise the descriptor limit, or max_sessions in [instance]",
        ));
    }
    found
}

fn of_pool(status: &Status, pool: &PoolStatus) -> Vec<Problem> {
    let mut found: Vec<Problem> = pool
        .members
        .iter()
        .flat_map(|member| of_member(status, pool, member))
        .collect();
    found.extend(outages(status, pool));
    let explained = !found.is_empty();
    if pool.condition == Condition::Lost {
        found.push(pool_lost(pool));
    } else if pool.condition == Condition::Degraded && !explained {
        found.push(degraded(pool));
    }
    let lost = pool.services.iter().filter(|s| s.lost && !s.primary);
    for service in lost.filter(|_| pool.condition != Condition::Lost) {
        found.push(Problem {
            severity: Severity::ServiceLost,
            label: "LOST",
            about: vec![],
            what: format!("{}/{}: no member is usable", pool.name, service.name),
            since: None,
            whom: Some(format!(
                "{} sessions open; new connections to it are refused",
                number(service.open)
            )),
            next: Some("served again as soon as one member is up for it".to_owned()),
        });
    }
    found
}

fn pool_lost(pool: &PoolStatus) -> Problem {
    let usable: Vec<&str> = pool
        .members
        .iter()
        .filter(|member| takes_on_primary(pool, member))
        .map(|member| member.name.as_str())
        .collect();
    let users = match (pool.health.ok, usable.is_empty()) {
        (true, _) => format!("below quorum, still served by {}", usable.join(", ")),
        (false, true) => "new connections are refused: no member takes them".to_owned(),
        (false, false) => "new connections are refused: the pool is below quorum".to_owned(),
    };
    let missing = pool.need.saturating_sub(pool.present);
    Problem {
        severity: Severity::PoolLost,
        label: "LOST",
        about: vec![],
        what: format!(
            "pool {}: {} of {} members present, {} needed",
            pool.name, pool.present, pool.of_first, pool.need
        ),
        since: Some(pool.since),
        whom: Some(format!(
            "all users of {}: {users}; {} sessions open",
            pool.name,
            number(pool.open())
        )),
        next: Some(format!(
            "whole enough again as soon as {missing} more {} present",
            if missing == 1 {
                "member is"
            } else {
                "members are"
            }
        )),
    }
}

fn degraded(pool: &PoolStatus) -> Problem {
    Problem {
        severity: Severity::Degraded,
        label: "DEGRADED",
        about: vec![],
        what: format!(
            "pool {}: {} of {} members present, {} needed",
            pool.name, pool.present, pool.of_first, pool.need
        ),
        since: Some(pool.since),
        whom: None,
        next: None,
    }
}

fn of_member(status: &Status, pool: &PoolStatus, member: &MemberStatus) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some(operator) = &member.operator {
        found.push(ordered(status, pool, member, operator));
    }
    found.extend(unaskable(pool, member));
    found
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

fn outages(status: &Status, pool: &PoolStatus) -> Vec<Problem> {
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
        .iter()
        .map(|outage| told(status, pool, outage))
        .collect()
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
        (true, 0) => "sessions were ended, so that clients reconnect".to_owned(),
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

/// Targets that cannot be asked through a fault of our own side.
fn unaskable(pool: &PoolStatus, member: &MemberStatus) -> Option<Problem> {
    let (target, fault) = member
        .services
        .iter()
        .find_map(|target| Some((target, target.own_fault.as_ref()?)))?;
    Some(Problem {
        severity: Severity::NotAsked,
        label: "NOT ASKED",
        about: vec![path(pool, member)],
        what: format!(
            "{}/{} {}: {fault} ({})",
            pool.name, member.name, target.service, target.endpoint
        ),
        since: None,
        whom: Some(format!("it stays {} until it can be asked", target.verdict)),
        next: None,
    })
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
        Verdict::Up => "up while it answers".to_owned(),
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

/// `at 14:00:00 (in 1 h 20 min)`.
pub fn moment(now: Stamp, at: Stamp) -> String {
    format!("at {} UTC (in {})", at.clock_face(now), span(now.until(at)))
}

/// A number with its thousands apart.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut told = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            told.push(',');
        }
        told.push(digit);
    }
    told
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
