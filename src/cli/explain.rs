//! The page of `twinpool why`: the rule that decides, how far its counts have come, the last
//! exchanges, and what comes next.

use super::paint::{Ink, Look, harmless, wrap};
use crate::health::Verdict;
use crate::health::readiness::{Mode, Takes};
use crate::observe::events::{condition_word, mode_word};
use crate::observe::problems::{moment, number, shortage_text, what_next};
use crate::observe::stamp::span;
use crate::observe::status::{MemberStatus, PoolStatus, ServiceStatus, TargetStatus};
use crate::observe::why::{ExchangeWhy, HomeWhy, PairWhy, PoolWhy, TargetWhy, Why};
use crate::pairing::pair::Fitness;
use crate::topology::Protocol;

/// How many exchanges of each target are shown for a pool; for a member all that are kept.
const SHOWN_FOR_POOL: usize = 1;

/// The whole explanation.
pub fn explanation(why: &Why, look: Look) -> String {
    match why {
        Why::Pool(why) => of_pool_or_member(why, look),
        Why::Pair(why) => of_pair(why, look),
    }
}

fn of_pool_or_member(why: &PoolWhy, look: Look) -> String {
    let mut page = String::new();
    if let Some(isolated) = &why.isolated {
        let line = format!(
            "This instance is isolated since {} UTC: {}. Verdicts are held.",
            isolated.since.clock_face(why.now),
            isolated.cause
        );
        page += &format!("{}\n\n", look.ink(Ink::Bad, &wrap(&line, look.width, 0)));
    }
    match why.member.as_deref().and_then(|name| why.pool.member(name)) {
        Some(member) => page += &of_member(why, member, look),
        None => page += &of_pool(why, look),
    }
    page
}

fn of_pool(why: &PoolWhy, look: Look) -> String {
    let pool = &why.pool;
    let headline = format!(
        "{} is {} since {} UTC ({}): {} of the first {} members present, {} needed",
        pool.name,
        condition_word(pool.condition),
        pool.since.clock_face(why.now),
        span(why.now.since(pool.since)),
        pool.present,
        pool.of_first,
        pool.need
    );
    let mut page = format!(
        "{}\n",
        look.ink(Ink::Title, &wrap(&headline, look.width, 0))
    );
    page += &line("users", &pool.health.why, look);
    page += &line("rule", &why.rule, look);
    if let Some(redirect) = &why.redirect {
        page += &line("pair", &redirect.pair, look);
        page += &of_home(redirect, "redirect", look);
    }
    for service in &pool.services {
        if let Some(told) = datagrams(service) {
            page += &line("over udp", &told, look);
        }
    }
    let short = pool.services.iter().flat_map(|service| {
        let lately = service.lately.iter();
        lately.map(|lately| format!("{}: {}", service.name, shortage_text(lately, why.now)))
    });
    for (i, told) in short.enumerate() {
        page += &line(if i == 0 { "short" } else { "" }, &told, look);
    }
    for target in &why.targets {
        let mode = why
            .pool
            .member(&target.member)
            .map_or(Mode::Ready, |m| m.mode);
        let ordered = match mode {
            Mode::Ready => String::new(),
            mode => format!(", in {}", mode_word(mode)),
        };
        let title = format!("{} {}{ordered}", target.member, target.status.service);
        page.push('\n');
        page += &of_target(why, target, &title, SHOWN_FOR_POOL, look);
    }
    page
}

fn of_pair(why: &PairWhy, look: Look) -> String {
    let mut page = String::new();
    if let Some(isolated) = &why.isolated {
        let line = format!(
            "This instance is isolated since {} UTC: {}. Nothing is decided.",
            isolated.since.clock_face(why.now),
            isolated.cause
        );
        page += &format!("{}\n\n", look.ink(Ink::Bad, &wrap(&line, look.width, 0)));
    }
    let [first, second] = &why.pair.pools;
    let headline = format!(
        "pair {}: {} and {}, generation {}",
        why.name, first.pool, second.pool, why.pair.generation
    );
    page += &format!(
        "{}\n",
        look.ink(Ink::Title, &wrap(&headline, look.width, 0))
    );
    for (i, rule) in why.rules.iter().enumerate() {
        page += &line(if i == 0 { "rules" } else { "" }, rule, look);
    }
    if let Some(halted) = &why.halted {
        page += &line("halted", &harmless(halted), look);
    }
    if let Some(record) = &why.record {
        page += &line("record", &harmless(record), look);
    }
    for (home, status) in why.homes.iter().zip(&why.pair.pools) {
        let ink = match status.fitness {
            Fitness::Well => Ink::Good,
            Fitness::Unknown | Fitness::Low => Ink::Warn,
            Fitness::Lost => Ink::Bad,
        };
        page += &format!("\n{}\n", look.ink(ink, &home.pool));
        page += &of_home(home, "users", look);
    }
    for (i, event) in why.events.iter().rev().enumerate() {
        let told = format!("{}  {}", event.at.clock_face(why.now), event.text);
        if i == 0 {
            page.push('\n');
        }
        page += &line(if i == 0 { "lately" } else { "" }, &harmless(&told), look);
    }
    page
}

/// Where the users of a home pool are; `label` stands before that.
fn of_home(home: &HomeWhy, label: &str, look: Look) -> String {
    [
        (label, &home.users),
        ("pool", &home.fitness),
        ("sessions", &home.sessions),
        ("next", &home.next),
    ]
    .map(|(label, text)| line(label, &harmless(text), look))
    .concat()
}

fn of_member(why: &PoolWhy, member: &MemberStatus, look: Look) -> String {
    let takes = |wanted: Takes| -> Vec<&str> {
        let services = member.services.iter();
        services
            .filter(|target| target.takes == wanted)
            .map(|target| target.service.as_str())
            .collect()
    };
    let no = takes(Takes::No);
    let last = takes(Takes::LastResort);
    let verdict = match (no.len(), last.len()) {
        (0, 0) => "takes new sessions for every service".to_owned(),
        (n, _) if n == member.services.len() => "takes no new sessions".to_owned(),
        (0, _) => format!("is a last resort for {}", last.join(", ")),
        (_, 0) => format!("takes no new sessions for {}", no.join(", ")),
        _ => format!(
            "takes no new sessions for {}, and is a last resort for {}",
            no.join(", "),
            last.join(", ")
        ),
    };
    let headline = format!("{} {verdict}", why.name);
    let mut page = format!(
        "{}\n",
        look.ink(Ink::Title, &wrap(&headline, look.width, 0))
    );
    page += &line("operator", &operator(why, member), look);
    page += &line(
        "sessions",
        &format!(
            "{} now, {} since the start; {}",
            number(member.load),
            number(member.sessions),
            failed_attempts(&why.pool, member)
        ),
        look,
    );
    for target in &why.targets {
        page.push('\n');
        let service = &target.status.service;
        let title = match why.pool.service(service).map(|s| s.protocol) {
            Some(Protocol::Udp) => format!("{service} (udp)"),
            Some(Protocol::Tcp) | None => service.clone(),
        };
        page += &of_target(why, target, &title, usize::MAX, look);
    }
    page
}

/// What came of attempts to reach a member that failed: connects, and flows, which have none.
fn failed_attempts(pool: &PoolStatus, member: &MemberStatus) -> String {
    let has = |protocol| pool.services.iter().any(|s| s.protocol == protocol);
    let refused = number(member.connect_failed);
    let silent = number(member.connect_timeout);
    match (has(Protocol::Tcp), has(Protocol::Udp)) {
        (false, true) => format!("flows refused by ICMP {refused}"),
        (_, false) => format!("connects refused {refused}, not answered {silent}"),
        (true, true) => format!(
            "connects refused, and flows by ICMP, {refused}, connects not answered {silent}"
        ),
    }
}

/// What a service over UDP carried, and did not.
fn datagrams(service: &ServiceStatus) -> Option<String> {
    let udp = service.totals.udp?;
    let dropped: Vec<String> = udp
        .drops()
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .map(|(reason, n)| {
            let reason = match reason {
                "no_member" => "no member took them",
                "table_full" => "no room for their flows",
                "no_port" => "sent from port 0, where nobody can be answered",
                _ => "not sent by our own kernel",
            };
            format!("{} ({reason})", number(n))
        })
        .collect();
    let dropped = match dropped.is_empty() {
        true => "none".to_owned(),
        false => dropped.join(", "),
    };
    Some(format!(
        "{}: {} flows now; datagrams since the start: {} in, {} out, dropped: {dropped}; flows \
         given up for new ones {}, moved from a dead member {}; ICMP errors {}",
        service.name,
        number(service.open),
        number(udp.datagrams_in),
        number(udp.datagrams_out),
        number(udp.evicted),
        number(udp.moved),
        number(udp.icmp_errors)
    ))
}

fn operator(why: &PoolWhy, member: &MemberStatus) -> String {
    let Some(state) = &member.operator else {
        return "ready: nobody ordered anything".to_owned();
    };
    let mut text = format!(
        "{} since {} UTC by {}",
        mode_word(member.mode),
        state.since.clock_face(why.now),
        state.by
    );
    if let Some(reason) = &state.reason {
        text += &format!(": {}", harmless(reason));
    }
    if let Some(deadline) = state.deadline {
        text += &format!("; remaining sessions end {}", moment(why.now, deadline));
    }
    match state.until {
        Some(until) => text += &format!("; lapses {}", moment(why.now, until)),
        None => text += "; until told otherwise",
    }
    text
}

fn of_target(why: &PoolWhy, target: &TargetWhy, title: &str, shown: usize, look: Look) -> String {
    let status = &target.status;
    let ink = match status.verdict {
        Verdict::Up => Ink::Good,
        Verdict::Unknown | Verdict::Busy => Ink::Warn,
        Verdict::Down => Ink::Bad,
    };
    let own = match status.requires {
        Some(_) => format!("; its own checks say {}", status.own_verdict),
        None => String::new(),
    };
    let mut page = format!(
        "{title}: {} since {} UTC ({}): {}{own}\n",
        look.ink(ink, &status.verdict.to_string()),
        status.since.clock_face(why.now),
        span(why.now.since(status.since)),
        status.reason,
    );
    page += &line("address", &address(status), look);
    page += &line("rule", &target.rule, look);
    page += &line("counted", &counted(status), look);
    if let Some(fault) = &status.own_fault {
        page += &line("own fault", fault, look);
    }
    page += &line("next", &what_next(why.now, status), look);
    for (i, exchange) in target.exchanges.iter().take(shown).enumerate() {
        page += &line(
            if i == 0 { "probes" } else { "" },
            &probe(why, exchange),
            look,
        );
    }
    page
}

fn address(status: &TargetStatus) -> String {
    match status.address {
        Some(address) if address.to_string() == status.endpoint => status.endpoint.clone(),
        Some(address) => format!("{}, now {address}", status.endpoint),
        None => format!("{}, not resolved", status.endpoint),
    }
}

fn counted(status: &TargetStatus) -> String {
    let progress = status.progress;
    let traffic = match progress.from_traffic {
        0 => String::new(),
        n => format!(" ({n} of them from traffic)"),
    };
    format!(
        "{} of {} failures in a row{traffic}, {} of {} good answers in a row, {} of {} towards \
         flapping",
        progress.failures,
        progress.fall,
        progress.successes,
        progress.rise,
        progress.flaps,
        progress.flap
    )
}

fn probe(why: &PoolWhy, exchange: &ExchangeWhy) -> String {
    let verdict = match exchange.good {
        Some(true) => "good",
        Some(false) => "bad",
        None => "own fault",
    };
    format!(
        "{verdict}, {} ago: {}",
        span(why.now.since(exchange.at)),
        harmless(&exchange.text)
    )
}

/// `  label     text`, wrapped.
fn line(label: &str, text: &str, look: Look) -> String {
    const INDENT: usize = 13;
    format!(
        "  {}{}{}\n",
        look.ink(Ink::Faint, label),
        " ".repeat(INDENT - 2 - label.len()),
        wrap(text, look.width, INDENT)
    )
}
