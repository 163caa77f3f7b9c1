//! The page of `twinpool redirects`: where the users of each home pool are sent, since when, and
//! who decided that; below it what is under way and what stands in the way.
//!
//! A pure function of a [`Status`]. It tells of pairs alone; how their pools do is on the status
//! page.

use super::paint::{Ink, Look, Table, harmless, wrap};
use crate::observe::problems::{moment, number};
use crate::observe::stamp::span;
use crate::observe::status::{HomePhase, HomeStatus, PairStatus, Status};
use crate::pairing::pair::Halt;
use crate::pairing::record::Cause;

/// Where the text of a note begins.
const INDENT: usize = 2;

/// The whole page.
pub fn page(status: &Status, look: Look) -> String {
    let (ink, verdict) = headline(status);
    let left = format!("twinpool {}: {verdict}", status.instance);
    let mut page = super::page::with_moment(status, ink, &left, look);
    if status.pairs.is_empty() {
        let line = "No pool here has a twin; [pairs.NAME] with pools = [\"ONE\", \"OTHER\"] makes \
                    a pair.";
        page += &format!("{}\n", wrap(line, look.width, 0));
        return page;
    }
    page.push('\n');
    page += &table(status, look);
    let notes = notes(status);
    if !notes.is_empty() {
        page.push('\n');
    }
    for (ink, note) in notes {
        let wrapped = wrap(&harmless(&note), look.width, INDENT);
        page += &format!("{}\n", look.ink(ink, &wrapped));
    }
    page
}

/// Where the users of a home pool are sent, as one word or with the share that is home:
/// `returning 35 %`.
pub fn phase_text(home: &HomeStatus) -> String {
    match home.phase {
        HomePhase::Home | HomePhase::Away => home.phase.word().to_owned(),
        HomePhase::Returning => format!("returning {} %", home.share),
    }
}

/// What automation does next about the users of a pool, and when.
pub fn next_text(status: &Status, home: &HomeStatus) -> Option<String> {
    let next = home.next.as_ref()?;
    Some(match next.at > status.now {
        true => format!("{} {}", next.text, moment(status.now, next.at)),
        false => format!("{} now", next.text),
    })
}

/// Who decided, and why: `alice: power work`, `twinpool: the home pool was lost`.
fn why(home: &HomeStatus) -> String {
    let cause = match (home.cause, &home.reason) {
        // Nobody has ever decided anything.
        (Cause::Start, _) => return home.cause_text.clone(),
        (Cause::Ordered, Some(reason)) => reason.clone(),
        (_, Some(reason)) => format!("{} ({reason})", home.cause_text),
        (_, None) => home.cause_text.clone(),
    };
    harmless(&format!("{}: {cause}", home.by))
}

fn headline(status: &Status) -> (Ink, String) {
    let pools = |phase| {
        let homes = status.pairs.iter().flat_map(|pair| &pair.pools);
        let those = homes.filter(|home| home.phase == phase);
        let names: Vec<&str> = those.map(|home| home.pool.as_str()).collect();
        names.join(", ")
    };
    let (away, returning) = (pools(HomePhase::Away), pools(HomePhase::Returning));
    let mut told = Vec::new();
    if !away.is_empty() {
        told.push(format!("away: the users of {away}"));
    }
    if !returning.is_empty() {
        told.push(format!("coming home: the users of {returning}"));
    }
    match (status.pairs.is_empty(), told.is_empty()) {
        (true, _) => (Ink::Title, "no pairs".to_owned()),
        (false, true) => (Ink::Good, "all users are home".to_owned()),
        (false, false) => (Ink::Warn, told.join("; ")),
    }
}

fn table(status: &Status, look: Look) -> String {
    let mut table = Table::new(&["HOME POOL", "PHASE", "SERVED BY", "SINCE", ">GEN", "WHY"]);
    for pair in &status.pairs {
        for home in &pair.pools {
            table.row(vec![
                home.pool.clone(),
                phase_text(home),
                home.serving.join(" + "),
                home.since.clock_face(status.now),
                number(pair.generation),
                why(home),
            ]);
        }
    }
    table.lay_out(look, 0)
}

/// What is under way and what stands in the way, of all pairs and then of each.
fn notes(status: &Status) -> Vec<(Ink, String)> {
    let mut notes = Vec::new();
    if let Some(pause) = &status.pause {
        let reason = pause.reason.as_ref().map(|reason| format!(": {reason}"));
        notes.push((
            Ink::Wanted,
            format!(
                "automation is paused by {} since {} UTC ({}){}; it goes on with `twinpool resume`",
                pause.by,
                pause.since.clock_face(status.now),
                span(status.now.since(pause.since)),
                reason.unwrap_or_default()
            ),
        ));
    }
    for pair in &status.pairs {
        notes.extend(troubles(pair).map(|trouble| (Ink::Bad, trouble)));
        if pair.writing {
            let note = format!("{}: a change is being written", pair.name);
            notes.push((Ink::Faint, note));
        }
        for home in &pair.pools {
            notes.extend(movements(status, home));
        }
    }
    notes
}

/// Why automation ended, or what is decided does not come in force.
fn troubles(pair: &PairStatus) -> impl Iterator<Item = String> {
    let name = &pair.name;
    let record = pair.record_problem.as_ref().map(|problem| {
        let consequence = match pair.halt {
            Some(Halt::Damaged) => {
                "automation waits until a person has looked at the table above \
                                    and says `twinpool resume`"
            }
            _ => "the table above is what could be read",
        };
        format!("{name}: the record: {problem}; {consequence}")
    });
    let unwritten = pair.unwritten.as_ref().map(|error| {
        format!(
            "{name}: the record cannot be written, and what it wanted is not in force: {error}; \
             see state_dir in [instance]"
        )
    });
    let alarm = (pair.halt == Some(Halt::Alarm)).then(|| {
        format!(
            "{name}: automation ended: it failed over and back too often; `twinpool resume` lets \
             it go on"
        )
    });
    [record, unwritten, alarm].into_iter().flatten()
}

/// What goes on with the users of one home pool.
fn movements(status: &Status, home: &HomeStatus) -> Vec<(Ink, String)> {
    let mut notes = Vec::new();
    if home.spilling {
        notes.push((
            Ink::Warn,
            format!(
                "{}: spilling: connections that no member accepted go to {}, {} so far",
                home.pool,
                home.twin,
                number(home.spilled)
            ),
        ));
    }
    let sessions = |n| match n {
        1 => "1 session".to_owned(),
        n => format!("{} sessions", number(n)),
    };
    if home.to_move > 0 {
        let here = sessions(home.to_move);
        let verb = if home.to_move == 1 { "is" } else { "are" };
        notes.push((
            Ink::Warn,
            format!("{}: {here} {verb} still to be ended", home.pool),
        ));
    }
    if let Some(next) = next_text(status, home) {
        notes.push((Ink::Faint, format!("{}: next: {next}", home.pool)));
    }
    notes
}
