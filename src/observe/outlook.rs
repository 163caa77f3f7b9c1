//! Where the users of a home pool are, and what comes next for them, in words.
//!
//! One wording for problems, `why` and everything else that tells of a pair. A pure reading of a
//! [`PairStatus`]: what is planned comes from the machine that decides, what it would take for more
//! follows from the pair's rules.

use super::stamp::{Stamp, span};
use super::status::{HomePhase, HomeStatus, NextMove, PairStatus};
use crate::pairing::pair::{Act, Fitness, Halt};
use crate::pairing::record::{Cause, Share};
use crate::topology::Automation;

/// Where they are, without since when and why: `its users are on fe-busan`.
pub fn whereabouts(home: &HomeStatus) -> String {
    match home.phase {
        HomePhase::Home => "its users are at home".to_owned(),
        HomePhase::Away => format!("its users are on {}", home.twin),
        HomePhase::Returning => format!(
            "{} % of its clients are home, the others on {}",
            home.share, home.twin
        ),
    }
}

/// Who decided, and why: `by alice: kernel update`, `by twinpool: the home pool was lost`.
pub fn decided(home: &HomeStatus) -> String {
    let done = match home.cause {
        Cause::Returned => format!("{}, ", home.cause_text),
        _ => String::new(),
    };
    match (&home.reason, home.ordered) {
        (Some(reason), true) => format!("{done}by {}: {reason}", home.by),
        (None, true) => format!("{done}by {}", home.by),
        (_, false) => format!("by twinpool: {}", home.cause_text),
    }
}

/// Why automation decides nothing.
pub fn halt_text(halt: Halt) -> &'static str {
    match halt {
        Halt::Damaged => "automation waits, because the record was damaged",
        Halt::Alarm => "automation has ended with an alarm",
        Halt::Paused => "automation is paused",
    }
}

/// How a home pool does, since when.
pub fn fitness_text(home: &HomeStatus, now: Stamp) -> String {
    let lasts = span(now.since(home.fitness_since));
    match home.fitness {
        Fitness::Unknown => "not known: its first probes are not in".to_owned(),
        Fitness::Lost => format!("lost for {lasts}"),
        Fitness::Low => format!("serves for {lasts}, with fewer members than it needs to start"),
        Fitness::Well => format!("well for {lasts}"),
    }
}

/// What comes next for its users and when, or what it would take.
pub fn outlook(pair: &PairStatus, home: &HomeStatus, isolated: bool, now: Stamp) -> String {
    if pair.is_lost() {
        return both_lost(pair);
    }
    let planned = home.next.as_ref().filter(|next| next.act != Act::Calm);
    if let Some(next) = planned {
        return plan(pair, home, next, now);
    }
    if pair.writing {
        return "the next step is being written to disk".to_owned();
    }
    if isolated {
        return "nothing by itself while this instance is isolated".to_owned();
    }
    match home.phase {
        HomePhase::Home => from_home(pair, home),
        HomePhase::Away => from_away(pair, home, now),
        HomePhase::Returning => from_returning(pair, home),
    }
}

/// What happens next while both pools are lost, to the users of both.
pub fn both_lost(pair: &PairStatus) -> String {
    if pair.failover == Automation::Automatic && pair.halt.is_none() {
        return "the first of the two pools to serve again takes the users of both".to_owned();
    }
    let halted = pair.halt.map(|halt| format!("{}: ", halt_text(halt)));
    format!(
        "{}waits for a pool to serve again; then `twinpool failover` of the other one sends that \
         one's users there too",
        halted.unwrap_or_default()
    )
}

/// `in 7 s`, or `now`.
pub fn in_words(now: Stamp, at: Stamp) -> String {
    match now.until(at) {
        left if left.is_zero() => "now".to_owned(),
        left => format!("in {}", span(left)),
    }
}

fn plan(pair: &PairStatus, home: &HomeStatus, next: &NextMove, now: Stamp) -> String {
    let when = in_words(now, next.at);
    let told = format!("{} {when}", next.text);
    match next.act {
        Act::Failover => format!("{told}, unless it serves again before"),
        Act::Failback => format!("{told}, if it stays well"),
        Act::Step => {
            let done = u32::from(home.share) * u32::from(Share::STEPS) / 100;
            let after_next = u32::from(Share::STEPS).saturating_sub(done + 1);
            match after_next {
                0 => told,
                steps => {
                    let each = pair.ramp / u32::from(Share::STEPS - 1);
                    let left = now.until(next.at) + each * steps;
                    format!("{told}, all of them in {}", span(left))
                }
            }
        }
        Act::Relapse | Act::Finish | Act::Calm => told,
    }
}

fn from_home(pair: &PairStatus, home: &HomeStatus) -> String {
    let (pool, twin) = (&home.pool, &home.twin);
    let failover = format!("`twinpool failover {pool}`");
    let by_itself = pair.failover == Automation::Automatic && pair.halt.is_none();
    let halted = pair.halt.map(|halt| format!("{}: ", halt_text(halt)));
    let halted = halted.unwrap_or_default();
    match (home.fitness, pair.twin_of(home).fitness, by_itself) {
        (Fitness::Lost, _, true) => {
            format!("its users go to {twin} as soon as that is known to serve")
        }
        (Fitness::Lost, _, false) => format!("{halted}waits for {failover}"),
        (_, Fitness::Lost, _) => format!("it has nowhere to send its users: {twin} is lost"),
        (_, _, true) => match pair.after.is_zero() {
            true => format!("its users go to {twin} when it is lost"),
            false => format!(
                "its users go to {twin} when it has been lost for {}",
                span(pair.after)
            ),
        },
        (_, _, false) => format!("{halted}its users go to {twin} by {failover}"),
    }
}

fn from_away(pair: &PairStatus, home: &HomeStatus, now: Stamp) -> String {
    let mut failback = format!("`twinpool failback {}", home.pool);
    if home.fitness == Fitness::Low {
        failback += " --force";
    }
    failback += "`";
    let first = match home.fitness {
        Fitness::Unknown => "; its first probes have to be in before".to_owned(),
        Fitness::Lost => "; it has to serve again before".to_owned(),
        Fitness::Low => "; it has fewer members than it needs to start".to_owned(),
        Fitness::Well => format!(
            "; it has been well for {}",
            span(now.since(home.fitness_since))
        ),
    };
    match (home.ordered, pair.halt, pair.failback) {
        (true, ..) => format!("stays so until {failback}{first}"),
        (_, Some(halt), _) => format!("{}: waits for {failback}{first}", halt_text(halt)),
        (_, None, Automation::Manual) => format!("waits for {failback}{first}"),
        (_, None, Automation::Automatic) => {
            let first = match home.fitness {
                Fitness::Well => "",
                _ => &first,
            };
            let hold = span(pair.hold);
            format!("its users go home once it has been well for {hold}{first}")
        }
    }
}

fn from_returning(pair: &PairStatus, home: &HomeStatus) -> String {
    match (home.fitness, pair.halt) {
        (Fitness::Lost, _) => {
            format!(
                "its users go back to {} once that is known to serve",
                home.twin
            )
        }
        (Fitness::Unknown, _) => "goes on once its first probes are in".to_owned(),
        (_, Some(halt)) => format!(
            "{}: the share stands still; `twinpool failback {pool} --now` brings all home, \
             `twinpool failover {pool}` sends all back to {}",
            halt_text(halt),
            home.twin,
            pool = home.pool,
        ),
        (_, None) => "the next share of its clients goes home".to_owned(),
    }
}
