//! The reckoning: whose fault each failure was, the table, and whether anything was lost.
//!
//! A client may lose what was in a member's hands when that member fell, and nothing else. Pure
//! functions of what clients saw and of what members heard; the story collects both.
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
    pub(super) losses: Losses,
}

/// A change of a member's that twinpool must notice.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) member: String,
    /// Up, as against down.
    pub(super) up: bool,
    /// How long it took; none when it never was.
    pub(super) noticed: Option<Duration>,
    /// Visitors and residents that the member answered in this act.
    pub(super) answers: u64,
}

/// A failure of a client's.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) who: Who,
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

/// The failures of an act, sorted by whose they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) visitors_excused: u64,
    pub(super) residents_excused: u64,
    pub(super) visitors_lost: u64,
    pub(super) residents_lost: u64,
    /// What was lost, in words.
    pub(super) told: Vec<String>,
}

/// Sorts the failures of an act, in which `fallen` fell.
pub(super) fn sort(troubles: &[Trouble], fallen: Option<Fallen<'_>>) -> Losses {
    let mut losses = Losses::default();
    let mut unheard = fallen.map_or(0, |fallen| fallen.unheard);
    for trouble in troubles {
        let excused = match (fallen, &trouble.with) {
            _ if trouble.how != Failure::Reset => false,
            (None, _) => false,
            (Some(fallen), Some(with)) => fallen.member == with,
            (Some(_), None) => {
                let left = unheard > 0;
                unheard = unheard.saturating_sub(1);
                left
            }
        };
        let count = match (trouble.who, excused) {
            (Who::Visitor, true) => &mut losses.visitors_excused,
            (Who::Visitor, false) => &mut losses.visitors_lost,
            (Who::Resident, true) => &mut losses.residents_excused,
            (Who::Resident, false) => &mut losses.residents_lost,
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
            Who::Resident => "a long session",
        };
        match &self.with {
            Some(member) => format!("{what} to {member}: {}", self.how),
            None => format!("{what} that no member heard of: {}", self.how),
        }
    }
}

/// At most so many losses of an act are told one by one.
const TOLD: usize = 5;

/// Everything that went wrong beyond what was in a fallen member's hands, in words. Nothing: it is
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
            let state = if change.up { "up" } else { "down" };
            if change.noticed.is_none() {
                say(format!(
                    "twinpool did not notice that {} is {state}",
                    change.member
                ));
            } else if change.up && change.answers == 0 {
                say(format!("{} was given nothing to do", change.member));
            }
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
        "act", "noticed", "new", "failed", "slowest", "cut", "out, p50", "max",
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
         noticed: until twinpool found out · new: connections opened for one request ·\n\
         failed: those without an answer · slowest: from connect to answer · cut: long\n\
         sessions that ended, of {residents} · out: how long they were without an answer\n"
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
        sorted(losses.residents_excused, losses.residents_lost),
        median(&act.outages).map_or(String::new(), took),
        act.outages
            .iter()
            .max()
            .copied()
            .map_or(String::new(), took),
    ]
}

fn sorted(excused: u64, lost: u64) -> String {
    match lost {
        0 => excused.to_string(),
        _ => format!("{}, {lost} lost", excused + lost),
    }
}

/// What fallen members had in their hands, in words.
pub(super) fn in_their_hands(acts: &[Seen]) -> String {
    let sum = |count: fn(&Losses) -> u64| acts.iter().map(|act| count(&act.losses)).sum::<u64>();
    let counted = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    format!(
        "{} and {}",
        counted(sum(|l| l.residents_excused), "long session"),
        counted(sum(|l| l.visitors_excused), "new connection")
    )
}

fn median(spans: &[Duration]) -> Option<Duration> {
    let mut spans = spans.to_vec();
    spans.sort_unstable();
    spans.get(spans.len() / 2).copied()
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
mod tests {
    use super::*;

    const WEB2: Fallen<'static> = Fallen {
        member: "web2",
        unheard: 0,
    };

    fn trouble(who: Who, how: Failure, with: Option<&str>) -> Trouble {
        Trouble {
            who,
            how,
            with: with.map(str::to_owned),
        }
    }

    fn lost(troubles: &[Trouble], fallen: Option<Fallen<'_>>) -> usize {
        sort(troubles, fallen).told.len()
    }

    fn good(title: &str) -> Seen {
        Seen {
            title: title.to_owned(),
            visitors: 10,
            resident_answers: 10,
            ..Seen::default()
        }
    }

    #[test]
    fn what_was_with_the_fallen_member_is_excused() {
        let troubles = [
            trouble(Who::Visitor, Failure::Reset, Some("web2")),
            trouble(Who::Resident, Failure::Reset, Some("web2")),
            trouble(Who::Resident, Failure::Reset, Some("web2")),
        ];
        let losses = sort(&troubles, Some(WEB2));
        assert_eq!(losses.told, Vec::<String>::new());
        assert_eq!((losses.visitors_excused, losses.residents_excused), (1, 2));
    }

    #[test]
    fn what_was_with_another_member_is_lost() {
        let other = [trouble(Who::Resident, Failure::Reset, Some("web1"))];
        assert_eq!(lost(&other, Some(WEB2)), 1);
    }

    #[test]
    fn while_nobody_fell_every_failure_is_a_loss() {
        let troubles = [
            trouble(Who::Visitor, Failure::Reset, None),
            trouble(Who::Resident, Failure::Reset, Some("web2")),
        ];
        assert_eq!(lost(&troubles, None), 2);
    }

    #[test]
    fn of_what_nobody_heard_only_as_much_is_excused_as_the_fallen_member_held_unheard() {
        let unheard = vec![trouble(Who::Visitor, Failure::Reset, None); 3];
        let fallen = Fallen { unheard: 2, ..WEB2 };
        let losses = sort(&unheard, Some(fallen));
        assert_eq!((losses.visitors_excused, losses.visitors_lost), (2, 1));
    }

    #[test]
    fn only_a_reset_is_an_honest_end() {
        for how in [
            Failure::Refused,
            Failure::Closed,
            Failure::Silence,
            Failure::Strange,
        ] {
            let with_it = [trouble(Who::Visitor, how, Some("web2"))];
            assert_eq!(lost(&with_it, Some(WEB2)), 1, "{how}");
        }
    }

    #[test]
    fn a_story_without_losses_is_a_success() {
        let mut fall = good("web2 dies");
        fall.change = Some(Change {
            member: "web2".to_owned(),
            up: false,
            noticed: Some(Duration::from_millis(600)),
            answers: 0,
        });
        fall.losses.residents_excused = 15;
        assert_eq!(faults(&[good("all is well"), fall]), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_fault_is_told() {
        let change = |up, noticed| {
            Some(Change {
                member: "web2".to_owned(),
                up,
                noticed,
                answers: 0,
            })
        };
        let lossy = Seen {
            losses: sort(&[trouble(Who::Visitor, Failure::Refused, None)], None),
            ..good("a")
        };
        let cases = [
            (
                lossy,
                "a: lost a new connection that no member heard of: refused",
            ),
            (
                Seen {
                    visitors: 0,
                    ..good("b")
                },
                "b: no new connection was answered",
            ),
            (
                Seen {
                    resident_answers: 0,
                    ..good("c")
                },
                "c: no request of a long session was answered",
            ),
            (
                Seen {
                    still_out: 3,
                    ..good("d")
                },
                "d: 3 long sessions had not found another member when it was over",
            ),
            (
                Seen {
                    change: change(false, None),
                    ..good("e")
                },
                "e: twinpool did not notice that web2 is down",
            ),
            (
                Seen {
                    change: change(true, Some(Duration::ZERO)),
                    ..good("f")
                },
                "f: web2 was given nothing to do",
            ),
        ];
        for (act, told) in cases {
            assert_eq!(faults(&[act]), [told]);
        }
        assert_eq!(faults(&[]), ["nothing was played"]);
    }

    #[test]
    fn many_losses_are_counted_instead_of_told() {
        let act = Seen {
            losses: sort(&vec![trouble(Who::Visitor, Failure::Reset, None); 8], None),
            ..good("a")
        };
        let told = faults(&[act]);
        assert_eq!(told.len(), TOLD + 1);
        assert_eq!(told[TOLD], "a: and 3 more lost");
    }

    #[test]
    fn the_table_is_markdown_that_lines_up() {
        let mut fall = good("web2 dies");
        fall.slowest = Duration::from_micros(2_340);
        fall.outages = [1, 30, 2].map(Duration::from_millis).to_vec();
        fall.losses.residents_excused = 3;
        let table = table(&[good("all is well"), fall], 60);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[..4].iter().all(|line| line.len() == lines[0].len()));
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
        assert!(lines[3].contains(" 2.3 ms |   3 |"), "{}", lines[3]);
        assert!(lines[3].ends_with(" 2.0 ms | 30 ms |"), "{}", lines[3]);
    }

    #[test]
    fn a_loss_is_seen_in_the_table() {
        assert_eq!(sorted(0, 0), "0");
        assert_eq!(sorted(3, 0), "3");
        assert_eq!(sorted(3, 1), "4, 1 lost");
    }

    #[test]
    fn what_was_in_their_hands_is_summed_over_all_acts() {
        let mut fall = good("a");
        fall.losses.residents_excused = 15;
        fall.losses.visitors_excused = 1;
        assert_eq!(
            in_their_hands(&[fall.clone(), good("b"), fall.clone()]),
            "30 long sessions and 2 new connections"
        );
        assert_eq!(
            in_their_hands(&[good("b")]),
            "0 long sessions and 0 new connections"
        );
        assert_eq!(
            in_their_hands(&[fall]),
            "15 long sessions and 1 new connection"
        );
    }
}
