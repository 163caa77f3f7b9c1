//! The page of `twinpool status`, for a tired person at three in the morning.
//!
//! The first line says whether all is well. Then what is wrong, worst first: what, since when, whom
//! it affects, what happens next and when. Then everything else, in compact tables. A pure function
//! of a [`Status`].

use std::collections::BTreeSet;

use super::paint::{Ink, Look, Table, cut, harmless, wrap};
use super::redirects::{phase_text, served_by};
use crate::health::Verdict;
use crate::health::readiness::Mode;
use crate::observe::events::{condition_word, mode_word};
use crate::observe::outlook::{halt_text, whereabouts};
use crate::observe::problems::{Grade, Problem, Severity, number, problems};
use crate::observe::stamp::span;
use crate::observe::status::{
    HomePhase, MemberStatus, PairStatus, PoolStatus, ServiceStatus, Sessions, Status, TargetStatus,
};
use crate::observe::view::RunState;
use crate::pairing::Condition;
use crate::pairing::pair::Halt;
use crate::topology::{Automation, Protocol};

/// Where the text of a problem begins.
const INDENT: usize = 13;

/// The whole page.
pub fn page(status: &Status, look: Look) -> String {
    let problems = problems(status);
    let mut page = headline(status, &problems, look);
    page += &summary(status, look);
    for problem in &problems {
        page.push('\n');
        page += &told(status, problem, look);
    }
    for pool in &status.pools {
        page.push('\n');
        page += &pool_table(status, pool, look);
    }
    for pair in &status.pairs {
        page.push('\n');
        page += &pair_table(status, pair, look);
    }
    page += &lately(status, look);
    page
}

/// Whether all is well, or what is not, in a line.
fn headline(status: &Status, problems: &[Problem], look: Look) -> String {
    let faults = problems.iter().any(|problem| problem.severity.is_fault());
    let (ink, verdict) = match status.state {
        RunState::Draining => (
            Ink::Warn,
            format!("draining: {} sessions left", number(status.open())),
        ),
        RunState::Starting => (Ink::Warn, starting(status)),
        RunState::Serving if faults => (Ink::Bad, counted(problems)),
        RunState::Serving => match problems.len() {
            0 => (Ink::Good, "all is well".to_owned()),
            _ => (Ink::Good, format!("all is well; {}", counted(problems))),
        },
    };
    let left = format!("twinpool {}: {verdict}", status.instance);
    with_moment(status, ink, &left, look)
}

/// A page's first line, with the moment at its right end; below it where there is no room.
pub(super) fn with_moment(status: &Status, ink: Ink, left: &str, look: Look) -> String {
    let right = status.now.in_full();
    let gap = look
        .width
        .saturating_sub(left.chars().count() + right.chars().count());
    if gap < 2 {
        return format!("{}\n{right}\n", look.ink(ink, &wrap(left, look.width, 0)));
    }
    format!("{}{}{right}\n", look.ink(ink, left), " ".repeat(gap))
}

fn starting(status: &Status) -> String {
    let targets = || {
        status
            .pools
            .iter()
            .flat_map(|p| &p.members)
            .flat_map(|m| &m.services)
    };
    let all = targets().count();
    let asked = targets()
        .filter(|t| t.own_verdict != Verdict::Unknown)
        .count();
    format!("starting: {asked} of {all} first probes are back")
}

/// How many there are of each kind, worst first; where there are faults, of those alone.
pub(super) fn counted(problems: &[Problem]) -> String {
    let faults = problems.iter().any(|problem| problem.severity.is_fault());
    let count = |severity| {
        let of = || {
            problems
                .iter()
                .filter(|problem| problem.severity == severity)
        };
        let named: BTreeSet<&String> = of().flat_map(|problem| &problem.about).collect();
        match named.len() {
            0 => of().count(),
            named => named,
        }
    };
    let parts: Vec<String> = Severity::ALL
        .into_iter()
        .filter(|severity| severity.is_fault() == faults)
        .filter_map(|severity| match count(severity) {
            0 => None,
            n => Some(severity.counted(n)),
        })
        .collect();
    parts.join(", ")
}

/// The instance in a line.
fn summary(status: &Status, look: Look) -> String {
    let state = match status.state {
        RunState::Starting => "starting",
        RunState::Serving => "serving",
        RunState::Draining => "draining",
    };
    let mut parts = vec![state.to_owned(), held(status.sessions, "sessions")];
    parts.extend(status.flows.map(|flows| held(flows, "flows")));
    parts.extend([
        match status.workers {
            1 => "1 worker".to_owned(),
            n => format!("{n} workers"),
        },
        format!("up {}", span(status.now.since(status.started))),
        format!("version {}", status.version),
    ]);
    let faults: Vec<String> = status
        .own_faults
        .kinds()
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(kind, n)| format!("{} ({})", kind.replace('_', " "), number(*n)))
        .collect();
    parts.extend(status.earlier.iter().map(|earlier| {
        let left = match earlier.sessions {
            1 => "1 session".to_owned(),
            n => format!("{} sessions", number(n)),
        };
        format!("{left} in process {}, from before an upgrade", earlier.pid)
    }));
    if !faults.is_empty() {
        parts.push(format!("own faults since the start: {}", faults.join(", ")));
    }
    let line = wrap(&parts.join(" · "), look.width, 0);
    format!("{}\n", look.ink(Ink::Faint, &line))
}

/// `1,204 of 20,000 sessions`.
fn held(sessions: Sessions, what: &str) -> String {
    let (open, limit) = (number(sessions.open), number(sessions.limit));
    format!("{open} of {limit} {what}")
}

/// What, since when, whom, next.
pub(super) fn told(status: &Status, problem: &Problem, look: Look) -> String {
    let ink = match problem.severity.grade() {
        Grade::Bad => Ink::Bad,
        Grade::Doubtful => Ink::Warn,
        Grade::Wanted => Ink::Wanted,
    };
    let mut lines = vec![harmless(&problem.what)];
    if let Some(since) = problem.since {
        lines.push(format!(
            "since {} UTC ({})",
            since.clock_face(status.now),
            span(status.now.since(since))
        ));
    }
    lines.extend(problem.whom.clone());
    lines.extend(problem.next.as_ref().map(|next| format!("next: {next}")));
    let mut page = String::new();
    for (i, line) in lines.iter().enumerate() {
        let label = if i == 0 { problem.label } else { "" };
        let gap = INDENT.saturating_sub(label.chars().count());
        page += &look.ink(ink, label);
        page += &" ".repeat(gap);
        page += &wrap(line, look.width, INDENT);
        page.push('\n');
    }
    page
}

fn pool_table(status: &Status, pool: &PoolStatus, look: Look) -> String {
    let ink = match pool.condition {
        Condition::Serving => Ink::Good,
        Condition::Degraded => Ink::Warn,
        Condition::Lost => Ink::Bad,
    };
    let place = match &pool.site {
        Some(site) => format!("{}, {site}", pool.role),
        None => pool.role.clone(),
    };
    let elsewhere = if pool.fronted {
        ""
    } else {
        "; not fronted here"
    };
    let users = users_elsewhere(status, pool);
    let line = format!(
        "{} ({place}) {} for {}: {} of {} present, {} needed{elsewhere}{users}",
        pool.name,
        condition_word(pool.condition),
        span(status.now.since(pool.since)),
        pool.present,
        pool.of_first,
        pool.need,
    );
    let mut page = format!("{}\n", look.ink(ink, &wrap(&line, look.width, 2)));
    page += &service_table(pool, look);
    page += &member_table(pool, look);
    page
}

/// Where the users of a pool are sent while that is not their home.
fn users_elsewhere(status: &Status, pool: &PoolStatus) -> String {
    match status.home(&pool.name) {
        Some((_, home)) if home.phase != HomePhase::Home => format!("; {}", whereabouts(home)),
        Some((_, home)) if home.spilling => format!("; spilling to {}", home.twin),
        _ => String::new(),
    }
}

/// A pair: its rules in a line, and how many sessions of each home pool's users stand where.
fn pair_table(status: &Status, pair: &PairStatus, look: Look) -> String {
    let all_home = pair.pools.iter().all(|home| home.phase == HomePhase::Home);
    let ink = match (pair.halt, all_home) {
        (Some(Halt::Damaged | Halt::Alarm), _) => Ink::Bad,
        (None, true) => Ink::Good,
        _ => Ink::Warn,
    };
    let halt = pair.halt.map(|halt| format!("; {}", halt_text(halt)));
    let halt = halt.unwrap_or_default();
    let line = format!(
        "pair {}: failover {}, failback {}, generation {}{halt}",
        pair.name,
        automation_word(pair.failover),
        automation_word(pair.failback),
        number(pair.generation),
    );
    let mut page = format!("{}\n", look.ink(ink, &wrap(&line, look.width, 2)));
    let mut table = Table::new(&[
        "USERS OF",
        "PHASE",
        "SERVED BY",
        "SINCE",
        ">AT HOME",
        ">AT TWIN",
        ">TO MOVE",
    ]);
    for home in &pair.pools {
        table.row(vec![
            home.pool.clone(),
            phase_text(home),
            served_by(home),
            home.since.clock_face(status.now),
            number(home.sessions_at_home),
            number(home.sessions_at_twin),
            number(home.to_move),
        ]);
    }
    page += &table.lay_out(look, 2);
    page
}

/// The word for who begins something.
pub(super) fn automation_word(automation: Automation) -> &'static str {
    match automation {
        Automation::Manual => "manual",
        Automation::Automatic => "automatic",
    }
}

fn service_table(pool: &PoolStatus, look: Look) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        ">USABLE",
        ">OPEN",
        ">ACCEPTED",
        ">REFUSED",
        "LISTENS ON",
    ]);
    let (shown, checked_only): (Vec<_>, Vec<_>) = pool
        .services
        .iter()
        .partition(|service| service.primary || service.lost || !service.listen.is_empty());
    for service in &shown {
        let listens: Vec<String> = service.listen.iter().map(ToString::to_string).collect();
        let mut name = match (service.primary, service.protocol) {
            (true, Protocol::Tcp) => format!("{} (primary)", service.name),
            (true, Protocol::Udp) => format!("{} (primary, udp)", service.name),
            (false, Protocol::Tcp) => service.name.clone(),
            (false, Protocol::Udp) => format!("{} (udp)", service.name),
        };
        if let Some(first) = &service.first {
            name += &format!(", first: {first}");
        }
        table.row(vec![
            name,
            format!("{} of {}", service.usable, pool.members.len()),
            number(service.open),
            number(service.totals.accepted),
            number(service.totals.refused()),
            match listens.as_slice() {
                [] => "nothing: checked only".to_owned(),
                all => all.join(" "),
            },
        ]);
    }
    let mut page = table.lay_out(look, 2);
    page += &datagram_table(&shown, look);
    if !checked_only.is_empty() {
        let names: Vec<&str> = checked_only.iter().map(|s| s.name.as_str()).collect();
        let line = format!("also checked, not fronted: {}", names.join(", "));
        page += &format!("  {}\n", look.ink(Ink::Faint, &wrap(&line, look.width, 2)));
    }
    page
}

/// What services over UDP carried and did not; nothing where there are none.
fn datagram_table(services: &[&ServiceStatus], look: Look) -> String {
    let mut table = Table::new(&[
        "OVER UDP",
        ">DATAGRAMS IN",
        ">OUT",
        ">DROPPED",
        ">FLOWS EVICTED",
        ">MOVED",
        ">ICMP ERRORS",
    ]);
    let mut is_empty = true;
    for service in services {
        let Some(udp) = &service.totals.udp else {
            continue;
        };
        is_empty = false;
        table.row(vec![
            service.name.clone(),
            number(udp.datagrams_in),
            number(udp.datagrams_out),
            number(udp.dropped()),
            number(udp.evicted),
            number(udp.moved),
            number(udp.icmp_errors),
        ]);
    }
    match is_empty {
        true => String::new(),
        false => table.lay_out(look, 2),
    }
}

fn member_table(pool: &PoolStatus, look: Look) -> String {
    let mut table = Table::new(&["MEMBER", "MODE", ">SESSIONS", "VERDICTS"]);
    for member in &pool.members {
        let sessions = match member.max_connections {
            Some(most) => format!("{} of {}", number(member.load), number(most.into())),
            None => number(member.load),
        };
        let mode = match (member.mode, member.backup) {
            (Mode::Ready, true) => "backup",
            (mode, _) => mode_word(mode),
        };
        table.row(vec![
            member.name.clone(),
            mode.to_owned(),
            sessions,
            verdicts(member),
        ]);
    }
    table.lay_out(look, 2)
}

/// `up`, or what is not: `down: sip; busy: rpc; up: 3 others`.
fn verdicts(member: &MemberStatus) -> String {
    let names = |verdict| -> Vec<String> {
        let of = member.services.iter().filter(|t| t.verdict == verdict);
        of.map(|target| format!("{}{}", target.service, doubt(target)))
            .collect()
    };
    let up = names(Verdict::Up);
    let mut parts: Vec<String> = Vec::new();
    for (verdict, word) in [
        (Verdict::Down, "down"),
        (Verdict::Busy, "busy"),
        (Verdict::Unknown, "unknown"),
    ] {
        let of = names(verdict);
        if of.len() == member.services.len() {
            return match of.as_slice() {
                [_] => word.to_owned(),
                _ => format!("{word} for all {} services", of.len()),
            };
        }
        if !of.is_empty() {
            parts.push(format!("{word}: {}", of.join(", ")));
        }
    }
    let doubtful: Vec<String> = up
        .iter()
        .filter(|name| name.contains('('))
        .cloned()
        .collect();
    match (parts.is_empty(), doubtful.is_empty()) {
        (true, true) => "up".to_owned(),
        (true, false) => format!("up; in doubt: {}", doubtful.join(", ")),
        (false, _) => {
            parts.push(format!("up: {}", up.join(", ")));
            if up.is_empty() {
                parts.pop();
            }
            parts.join("; ")
        }
    }
}

/// ` (1 of 3 failures)` while failures are being counted against a target that is up.
fn doubt(target: &TargetStatus) -> String {
    let progress = target.progress;
    match (target.verdict, progress.failures) {
        (Verdict::Up, 1..) => format!(" ({} of {} failures)", progress.failures, progress.fall),
        _ => String::new(),
    }
}

fn lately(status: &Status, look: Look) -> String {
    if status.recent.is_empty() {
        return String::new();
    }
    let mut page = format!("\n{}\n", look.ink(Ink::Faint, "LATELY"));
    for event in status.recent.iter().rev() {
        let line = format!(
            "  {}  {}",
            event.at.clock_face(status.now),
            harmless(&event.text)
        );
        page += &cut(&line, look.width);
        page.push('\n');
    }
    page
}
