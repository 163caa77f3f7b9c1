//! The reckoning: whose fault each failure was, the table, and whether anything was lost.
//!
//! A client may lose what was in a member's hands when that member fell, and a long session once
//! when its user is brought home; nothing else. Pure functions of what clients saw and of what
//! members heard; the story collects both.
//!
//! What counts as in its hands: a request that the fallen member had heard, or one on a session
//! whose last answer came from it, and of those that no member heard as many as there were
//! connections on which the fallen member had heard nothing yet. And it must have ended with a
//! reset: a client that waits in vain, or is told that all is over in good order, was let down by
//! twinpool.

use std::time::Duration;

use super::load::{Failure, Who};

/// One act, as the clients saw it.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) title: String,
    /// What twinpool had to notice, and how long it took.
    pub(super) change: Option<Change>,
    /// Visitors whose request was over in this act, answered or not.
    pub(super) visitors: u64,
    /// The slowest answer to a visitor, from its connect.
    pub(super) slowest: Duration,
    /// Answers to residents.
    pub(super) resident_answers: u64,
    /// How long residents were without a session.
    pub(super) outages: Vec<Duration>,
    /// Residents without a session when the act was over.
    pub(super) still_out: usize,
    /// Residents that the other site answered when it was over than when it began.
    pub(super) moved: usize,
    /// What was to move.
    pub(super) moves: Option<Moves>,
    pub(super) losses: Losses,
}

/// A change that twinpool must notice, or bring about.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// As in "web2 is down".
    pub(super) what: String,
    /// How long it took; none when it never was.
    pub(super) noticed: Option<Duration>,
    /// Visitors and residents that were answered in this act by those who should be given
    /// something to do after it, if anybody should.
    pub(super) answers: Option<u64>,
}

/// Residents who are to be with one site when an act is over.
#[derive(Clone, Debug)]
pub(super) struct Moves {
    /// Whose users they are.
    pub(super) of: &'static str,
    /// The site that is to answer them.
    pub(super) to: &'static str,
    /// How many.
    pub(super) all: usize,
    /// How many it answers.
    pub(super) there: usize,
}

/// A failure of a client's.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) who: Who,
    /// The site whose user it is.
    pub(super) home: usize,
    pub(super) how: Failure,
    /// The member that its session was with, as its last answer told, or else the one that heard
    /// its request.
    pub(super) with: Option<String>,
}

/// A member that fell in an act.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fallen<'a> {
    pub(super) member: &'a str,
    /// Connections on which it had heard no request when it fell.
    pub(super) unheard: u64,
}

/// Users who are brought home in an act: their long sessions are ended, once each, so that they
/// connect again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Return<'a> {
    /// The site whose users they are.
    pub(super) home: usize,
    /// The members that serve them until then.
    pub(super) off: &'a [&'a str],
}

/// The failures of an act, sorted by whose they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) visitors_excused: u64,
    pub(super) residents_excused: u64,
    pub(super) residents_brought: u64,
    pub(super) visitors_lost: u64,
    pub(super) residents_lost: u64,
    /// What was lost, in words.
    pub(super) told: Vec<String>,
}

/// Sorts the failures of an act in which `fallen` fell and `back` was brought home.
pub(super) fn sort(
    troubles: &[Trouble],
    fallen: &[Fallen<'_>],
    back: Option<Return<'_>>,
) -> Losses {
    let mut losses = Losses::default();
    let mut unheard: u64 = fallen.iter().map(|fallen| fallen.unheard).sum();
    let mut brought: Vec<Who> = Vec::new();
    for trouble in troubles {
        let with = trouble.with.as_deref();
        let was_reset = trouble.how == Failure::Reset;
        let in_their_hands = match with {
            _ if !was_reset => false,
            Some(with) => fallen.iter().any(|fallen| fallen.member == with),
            None => {
                let left = unheard > 0;
                unheard = unheard.saturating_sub(1);
                left
            }
        };
        let brought_home = back.is_some_and(|back| {
            was_reset
                && trouble.who.is_resident()
                && trouble.home == back.home
                && with.is_some_and(|with| back.off.contains(&with))
                && !brought.contains(&trouble.who)
        });
        if brought_home {
            brought.push(trouble.who);
        }
        let excused = in_their_hands || brought_home;
        let count = match (trouble.who, excused) {
            (Who::Visitor, true) => &mut losses.visitors_excused,
            (Who::Visitor, false) => &mut losses.visitors_lost,
            (Who::Resident(_), true) if brought_home => &mut losses.residents_brought,
            (Who::Resident(_), true) => &mut losses.residents_excused,
            (Who::Resident(_), false) => &mut losses.residents_lost,
        };
        *count += 1;
        if !excused {
            losses.told.push(trouble.in_words());
        }
    }
    losses
}

impl Trouble {
    fn in_words(&self) -> String {
        let what = match self.who {
            Who::Visitor => "a new connection",
            Who::Resident(_) => "a long session",
        };
        match &self.with {
            Some(member) => format!("{what} to {member}: {}", self.how),
            None => format!("{what} that no member heard of: {}", self.how),
        }
    }
}

/// At most so many losses of an act are told one by one.
const TOLD: usize = 5;

/// Everything that went wrong beyond what was in a fallen member's hands or had to move, in words. Nothing: it is
/// a success. An act in which nobody came or nobody was answered proves nothing, and is a failure.
pub(super) fn faults(acts: &[Seen]) -> Vec<String> {
    let mut faults = Vec::new();
    for act in acts {
        let mut say = |what: String| faults.push(format!("{}: {what}", act.title));
        for told in act.losses.told.iter().take(TOLD) {
            say(format!("lost {told}"));
        }
        if act.losses.told.len() > TOLD {
            say(format!("and {} more lost", act.losses.told.len() - TOLD));
        }
        if act.visitors == act.losses.visitors_lost + act.losses.visitors_excused {
            say("no new connection was answered".to_owned());
        }
        if act.resident_answers == 0 {
            say("no request of a long session was answered".to_owned());
        }
        if act.still_out > 0 {
            say(format!(
                "{} long sessions had not found another member when it was over",
                act.still_out
            ));
        }
        if let Some(change) = &act.change {
            if change.noticed.is_none() {
                say(format!("twinpool did not find that {}", change.what));
            } else if change.answers == Some(0) {
                say(format!("{} and was given nothing to do", change.what));
            }
        }
        match &act.moves {
            Some(moves) if moves.there < moves.all => say(format!(
                "{} of the {} long sessions of {}'s users were not with {} when it was over",
                moves.all - moves.there,
                moves.all,
                moves.of,
                moves.to
            )),
            None if act.moved > 0 => say(format!(
                "{} long sessions went to another site without need",
                act.moved
            )),
            _ => {}
        }
    }
    if acts.is_empty() {
        faults.push("nothing was played".to_owned());
    }
    faults
}

/// What the clients saw, as a table in Markdown, padded so that it can be read as it stands, with
/// what its columns mean below it. Fits 80 columns while nothing is lost.
pub(super) fn table(acts: &[Seen], residents: usize) -> String {
    let titles = [
        "act", "noticed", "new", "failed", "slowest", "cut", "out", "moved",
    ]
    .map(str::to_owned);
    let rows: Vec<[String; 8]> = acts.iter().map(row).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(titles[column].len())
    };
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |cells: &[String; 8]| {
        let mut line = String::from("|");
        for (column, cell) in cells.iter().enumerate() {
            let width = widths[column];
            line += &match column {
                0 => format!(" {cell:<width$} |"),
                _ => format!(" {cell:>width$} |"),
            };
        }
        line + "\n"
    };
    let mut table = line(&titles);
    table.push('|');
    for (column, width) in widths.iter().enumerate() {
        let end = if column == 0 { '-' } else { ':' };
        table += &format!("{}{end}|", "-".repeat(width + 1));
    }
    table.push('\n');
    for row in &rows {
        table += &line(row);
    }
    format!(
        "{table}\n\
         noticed: until twinpool found out, or had done it · new: connections opened for\n\
         one request · failed: those without an answer · slowest: from connect to answer\n\
         cut: long sessions that ended, of {residents} · out: the longest that one was without\n\
         an answer · moved: long sessions that another site answers now\n"
    )
}

fn row(act: &Seen) -> [String; 8] {
    let losses = &act.losses;
    let noticed = match &act.change {
        None => String::new(),
        Some(change) => change.noticed.map_or("never".to_owned(), took),
    };
    [
        act.title.clone(),
        noticed,
        act.visitors.to_string(),
        sorted(losses.visitors_excused, losses.visitors_lost),
        took(act.slowest),
        sorted(
            losses.residents_excused + losses.residents_brought,
            losses.residents_lost,
        ),
        act.outages
            .iter()
            .max()
            .copied()
            .map_or(String::new(), took),
        act.moved.to_string(),
    ]
}

fn sorted(excused: u64, lost: u64) -> String {
    match lost {
        0 => excused.to_string(),
        _ => format!("{}, {lost} lost", excused + lost),
    }
}

/// That nothing was lost, with what fallen members had in their hands and what was brought home.
pub(super) fn success(acts: &[Seen]) -> String {
    let sum = |count: fn(&Losses) -> u64| acts.iter().map(|act| count(&act.losses)).sum::<u64>();
    let counted = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let held = format!(
        "Nothing was lost but what members had in their hands when they fell: {} and {}.",
        counted(sum(|l| l.residents_excused), "long session"),
        counted(sum(|l| l.visitors_excused), "new connection")
    );
    match sum(|l| l.residents_brought) {
        0 => held,
        n => format!("{held} {n} more were ended once each to bring their users home."),
    }
}

/// A span as the demo writes it: milliseconds below a second.
pub(super) fn took(span: Duration) -> String {
    let millis = span.as_secs_f64() * 1e3;
    match millis {
        ..9.95 => format!("{millis:.1} ms"),
        ..999.5 => format!("{millis:.0} ms"),
        _ => format!("{:.2} s", millis / 1e3),
    }
}

#[cfg(test)]
mod tests;
