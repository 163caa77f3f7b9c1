//! The page of `twinpool redirects`: where the users of each home pool are sent, since when, and
//! who decided that; below it what is under way and what stands in the way.
//!
//! A pure function of a [`Status`]. It tells of pairs alone; how their pools do is on the status
//! page.

use super::page;
use super::paint::{Ink, Look, Table, harmless, wrap};
use crate::observe::outlook::{decided, fitness_text, outlook};
use crate::observe::problems::{Problem, Severity, number, of_pairs};
use crate::observe::status::{HomePhase, HomeStatus, PairStatus, Status};
use crate::pairing::pair::Fitness;
use crate::pairing::record::Cause;

/// How far the later lines of a note stand in.
const INDENT: usize = 2;

/// The whole page.
pub fn page(status: &Status, look: Look) -> String {
    let problems = of_pairs(status);
    let (ink, verdict) = headline(status, &problems);
    let left = format!("twinpool {}: {verdict}", status.instance);
    let mut page = page::with_moment(status, ink, &left, look);
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
    for problem in &problems {
        page.push('\n');
        page += &page::told(status, problem, look);
    }
    page
}

/// Where the users of a home pool are sent, as one word or with the share that is home:
/// `returning 35 %`.
pub(super) fn phase_text(home: &HomeStatus) -> String {
    match home.phase {
        HomePhase::Home | HomePhase::Away => home.phase.word().to_owned(),
        HomePhase::Returning => format!("returning {} %", home.share),
    }
}

/// The pool that serves them, or `both`.
pub(super) fn served_by(home: &HomeStatus) -> String {
    match home.serving.as_slice() {
        [one] => one.clone(),
        _ => "both".to_owned(),
    }
}

/// Who is not at home, by name, and what is wrong besides.
fn headline(status: &Status, problems: &[Problem]) -> (Ink, String) {
    if status.pairs.is_empty() {
        return (Ink::Title, "no pairs".to_owned());
    }
    let names = |those: &dyn Fn(&PairStatus, &HomeStatus) -> bool| {
        let those = homes(status).filter(|(pair, home)| those(pair, home));
        let names: Vec<&str> = those.map(|(_, home)| home.pool.as_str()).collect();
        names.join(", ")
    };
    let lost = names(&|pair, home| waits(pair, home));
    let away = names(&|_, home| home.phase == HomePhase::Away);
    let returning = names(&|_, home| home.phase == HomePhase::Returning);
    let named = |severity| {
        matches!(
            severity,
            Severity::Away | Severity::Sent | Severity::Returning
        )
    };
    let besides = problems.iter().filter(|problem| !named(problem.severity));
    let besides: Vec<Problem> = besides.cloned().collect();
    let bad = !lost.is_empty() || besides.iter().any(|problem| problem.severity.is_fault());
    let nobody = away.is_empty() && returning.is_empty();
    let mut told: Vec<String> = [("lost", lost), ("away", away), ("coming home", returning)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {names}"))
        .collect();
    if nobody {
        let all = match bad {
            true => "no users are away",
            false => "all users are home",
        };
        told.push(all.to_owned());
    }
    if !besides.is_empty() {
        told.push(page::counted(&besides));
    }
    let ink = match (bad, nobody) {
        (true, _) => Ink::Bad,
        (false, true) => Ink::Good,
        (false, false) => Ink::Warn,
    };
    (ink, told.join("; "))
}

fn table(status: &Status, look: Look) -> String {
    let mut table = Table::new(&["HOME POOL", "PHASE", "SERVED BY", "SINCE", ">GEN", "WHY"]);
    for pair in &status.pairs {
        for home in &pair.pools {
            table.row(vec![
                home.pool.clone(),
                phase_text(home),
                served_by(home),
                home.since.clock_face(status.now),
                number(pair.generation),
                match home.cause {
                    // Nobody has ever decided anything.
                    Cause::Start => home.cause_text.clone(),
                    _ => harmless(&decided(home)),
                },
            ]);
        }
    }
    table.lay_out(look, 0)
}

/// What the table does not show and no problem of the pairs tells.
fn notes(status: &Status) -> Vec<(Ink, String)> {
    let at_home = homes(status).filter(|(_, home)| home.phase == HomePhase::Home);
    let notes = at_home.flat_map(|(pair, home)| [waiting(status, pair, home), leaving(home)]);
    notes.flatten().collect()
}

fn homes(status: &Status) -> impl Iterator<Item = (&PairStatus, &HomeStatus)> {
    let pairs = status.pairs.iter();
    pairs.flat_map(|pair| pair.pools.iter().map(move |home| (pair, home)))
}

/// Whether a pool is lost, its twin is not, and its users are not there yet.
fn waits(pair: &PairStatus, home: &HomeStatus) -> bool {
    home.phase == HomePhase::Home && home.fitness == Fitness::Lost && !pair.is_lost()
}

/// What a lost pool waits for whose users could be on the twin.
fn waiting(status: &Status, pair: &PairStatus, home: &HomeStatus) -> Option<(Ink, String)> {
    waits(pair, home).then(|| {
        let note = format!(
            "{}: {}; {}",
            home.pool,
            fitness_text(home, status.now),
            outlook(pair, home, status.isolated.is_some(), status.now)
        );
        (Ink::Bad, note)
    })
}

/// Sessions that still stand on the twin although their users are home.
fn leaving(home: &HomeStatus) -> Option<(Ink, String)> {
    let note = match home.to_move {
        0 => return None,
        1 => format!("{}: 1 session is still to move home", home.pool),
        n => format!(
            "{}: {} sessions are still to move home",
            home.pool,
            number(n)
        ),
    };
    Some((Ink::Wanted, note))
}
