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
    /// The instance does not know what is true any more.
    Isolated,
    /// Users of a pool are not served.
    PoolLost,
    /// Users of one service are not served.
    ServiceLost,
    /// A member does not answer.
    MemberDown,
    /// The instance itself lacks something.
    Own,
    /// A member answers badly, or cannot be asked.
    MemberBusy,
    /// Fewer members than there should be.
    Degraded,
    /// Somebody wants it so.
    Operator,
}

impl Severity {
    /// Whether it is a fault, and not what somebody ordered.
    pub fn is_fault(self) -> bool {
        self != Severity::Operator
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
        what: format!(
            "this instance thinks that the fault is its own: {}",
            isolated.cause
        ),
        since: Some(isolated.since),
        whom: Some(format!(
            "{} sessions are kept; new ones are tried with the members that answered last",
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
        (true, _) => format!("below quorum {} go on serving", usable.join(", ")),
        (false, true) => "new connections are refused: no member takes them".to_owned(),
        (false, false) => "new connections are refused: the pool is below quorum".to_owned(),
    };
    let missing = pool.need.saturating_sub(pool.present);
    Problem {
        severity: Severity::PoolLost,
        label: "LOST",
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
            "back as soon as {missing} more {} present",
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
    for (verdict, severity, label) in [
        (Verdict::Down, Severity::MemberDown, "DOWN"),
        (Verdict::Busy, Severity::MemberBusy, "BUSY"),
    ] {
        let mut own: Vec<&TargetStatus> = member
            .services
            .iter()
            .filter(|target| target.verdict == verdict && target.requires.is_none())
            .collect();
        while let Some(first) = own.first().copied() {
            let (same, others) = own.iter().partition(|target| target.reason == first.reason);
            own = others;
            found.push(not_up(status, pool, member, &same, severity, label));
        }
    }
    found.extend(unaskable(pool, member));
    found
}

/// Targets of one member that are not up for one reason.
fn not_up(
    status: &Status,
    pool: &PoolStatus,
    member: &MemberStatus,
    targets: &[&TargetStatus],
    severity: Severity,
    label: &'static str,
) -> Problem {
    let first = targets[0];
    let names: Vec<&str> = targets
        .iter()
        .map(|target| target.service.as_str())
        .collect();
    let dependants: Vec<&str> = member
        .services
        .iter()
        .filter(|target| {
            target
                .requires
                .as_deref()
                .is_some_and(|on| names.contains(&on))
        })
        .map(|target| target.service.as_str())
        .collect();
    let also = match dependants.as_slice() {
        [] => String::new(),
        all => format!("; also out, as they require it: {}", all.join(", ")),
    };
    let others = pool
        .services
        .iter()
        .find(|service| service.name == first.service)
        .map_or(0, |service| service.usable);
    let carried = match (member.mode, others) {
        (Mode::Maintenance, _) => "it is in maintenance".to_owned(),
        (_, 0) => "no other member can carry its load".to_owned(),
        (_, 1) => "one other member carries its load".to_owned(),
        (_, n) => format!("{n} other members carry its load"),
    };
    let held = match (severity, member.load) {
        (Severity::MemberDown, 0) => "its sessions were ended".to_owned(),
        (_, n) => format!("{} sessions kept", number(n)),
    };
    Problem {
        severity,
        label,
        what: format!(
            "{}/{} {}: {}{also}",
            pool.name,
            member.name,
            names.join(", "),
            first.reason
        ),
        since: Some(first.since),
        whom: Some(format!("{held}; {carried}")),
        next: Some(what_next(status.now, first)),
    }
}

/// Targets that cannot be asked through a fault of our own side.
fn unaskable(pool: &PoolStatus, member: &MemberStatus) -> Option<Problem> {
    let (target, fault) = member
        .services
        .iter()
        .find_map(|target| Some((target, target.own_fault.as_ref()?)))?;
    Some(Problem {
        severity: Severity::MemberBusy,
        label: "NOT ASKED",
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

fn takes_on_primary(pool: &PoolStatus, member: &MemberStatus) -> bool {
    pool.services
        .iter()
        .zip(&member.services)
        .any(|(service, target)| service.primary && target.takes != Takes::No)
}
