//! The story that `--once` plays: acts, each with a deed, what twinpool must notice of it, and some
//! time for clients to feel it.
//!
//! A story is a list of [`Act`]s; another one, with other members or more sites, is another list.
//! What clients saw is reckoned up after the last act, because only then has every request come to
//! its end, and a member that hung has read what it was sent.

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::{sleep, sleep_until};

use super::ledger::{self, Change, Fallen, Seen, Trouble, took};
use super::load::{Book, Clients, Exchange, RESIDENTS, Who};
use super::members::Member;
use super::stage::{Stage, StageError};
use crate::cli::paint::wrap;
use crate::health::Verdict;
use crate::observe::stamp::Stamp;

/// How long clients go on in an act after twinpool noticed what happened in it.
const SETTLE: Duration = Duration::from_secs(3);
/// How long twinpool may take to notice. Its default checks take about three seconds at worst.
const NOTICE: Duration = Duration::from_secs(6);
/// How often it is asked meanwhile. When it noticed is taken from its own record.
const LOOK: Duration = Duration::from_millis(50);
/// How long a member that hung may take to read what it was sent meanwhile, after the last act.
const CATCH_UP: Duration = Duration::from_millis(200);
/// Columns of the text between the acts.
const WIDTH: usize = 80;

/// One act.
#[derive(Clone, Copy, Debug)]
struct Act {
    title: &'static str,
    telling: &'static str,
    deed: Deed,
}

/// What happens in an act.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Nothing,
    Dies(&'static str),
    Hangs(&'static str),
    Returns(&'static str),
}

const STORY: [Act; 5] = [
    Act {
        title: "all is well",
        telling: "200 new connections a second with one request each, and 60 long sessions with \
                  a request every 200 ms. Nothing should fail.",
        deed: Deed::Nothing,
    },
    Act {
        title: "web2 dies",
        telling: "Its port is closed and every connection it had is reset, as when a process is \
                  killed. Its long sessions should be on other members within milliseconds, and \
                  no new connection should fail but one that it had already taken.",
        deed: Deed::Dies("web2"),
    },
    Act {
        title: "web2 returns",
        telling: "It should be trusted again after two good checks and be given its share slowly. \
                  Nothing should fail.",
        deed: Deed::Returns("web2"),
    },
    Act {
        title: "web3 hangs",
        telling: "Its port stays open and it says nothing, as when a process is stopped. What it \
                  was sent waits until checks prove that it hangs; then its sessions should be \
                  reset, so that their clients go elsewhere instead of waiting.",
        deed: Deed::Hangs("web3"),
    },
    Act {
        title: "web3 returns",
        telling: "As before. Nothing should fail.",
        deed: Deed::Returns("web3"),
    },
];

impl Deed {
    /// The member it happens to, and whether it is then up.
    fn change(self) -> Option<(&'static str, bool)> {
        match self {
            Deed::Nothing => None,
            Deed::Dies(member) | Deed::Hangs(member) => Some((member, false)),
            Deed::Returns(member) => Some((member, true)),
        }
    }

    fn falls(self) -> Option<&'static str> {
        match self {
            Deed::Dies(member) | Deed::Hangs(member) => Some(member),
            Deed::Nothing | Deed::Returns(_) => None,
        }
    }
}

/// An act that was played, before it is reckoned up.
struct Played {
    act: Act,
    began: Instant,
    ended: Instant,
    noticed: Option<Duration>,
    still_out: usize,
    /// Of the fallen member: connections that had ended unheard before it fell.
    unheard_before: u64,
}

/// Why a story came to no end.
#[derive(Debug)]
pub(super) enum StoryError {
    /// The stage did not hold.
    Stage(StageError),
    /// A member could not return.
    Return(&'static str, io::Error),
    /// Nothing more could be printed.
    Print(io::Error),
}

impl From<StageError> for StoryError {
    fn from(error: StageError) -> StoryError {
        StoryError::Stage(error)
    }
}

impl From<io::Error> for StoryError {
    fn from(error: io::Error) -> StoryError {
        StoryError::Print(error)
    }
}

impl std::fmt::Display for StoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoryError::Stage(error) => error.fmt(f),
            StoryError::Return(member, error) => write!(f, "{member} cannot return: {error}"),
            StoryError::Print(error) => write!(f, "cannot print: {error}"),
        }
    }
}

/// Plays the story, prints what the clients saw, and tells whether nothing was lost.
pub(super) async fn play(stage: &Stage, out: &mut impl Write) -> Result<bool, StoryError> {
    let clients = Clients::start(stage.front);
    let mut played = Vec::new();
    for (index, act) in STORY.into_iter().enumerate() {
        writeln!(out, "{}. {}.", index + 1, capital(act.title))?;
        writeln!(out, "   {}", wrap(act.telling, WIDTH, 3))?;
        out.flush()?;
        let done = perform(stage, &clients, act).await?;
        if let Some((member, up)) = act.deed.change() {
            let state = if up { "up" } else { "down" };
            match done.noticed {
                Some(noticed) => {
                    writeln!(
                        out,
                        "   → {member} was found {state} after {}",
                        took(noticed)
                    )?;
                }
                None => writeln!(out, "   → {member} was never found {state}")?,
            }
        }
        writeln!(out)?;
        played.push(done);
    }
    // What is under way at the end of the last act belongs to it.
    clients.stop().await;
    sleep(CATCH_UP).await;
    if let Some(last) = played.last_mut() {
        last.ended = Instant::now();
    }
    let book = clients.book.borrow();
    let seen: Vec<Seen> = played
        .iter()
        .map(|done| reckon(stage, &book, done))
        .collect();
    writeln!(out, "{}", ledger::table(&seen, RESIDENTS))?;
    let mut faults = ledger::faults(&seen);
    if book.forgotten + book.withheld > 0 {
        faults.push(format!(
            "this machine is too slow for the demo: {} clients did not come, {} records were lost",
            book.withheld, book.forgotten
        ));
    }
    if faults.is_empty() {
        let held = ledger::in_their_hands(&seen);
        let all_well =
            format!("Nothing was lost but what members had in their hands when they fell: {held}.");
        writeln!(out, "{}", wrap(&all_well, WIDTH, 0))?;
    } else {
        writeln!(out, "This should not have happened:")?;
        for fault in &faults {
            writeln!(out, "- {fault}")?;
        }
    }
    out.flush()?;
    Ok(faults.is_empty())
}

async fn perform(stage: &Stage, clients: &Clients, act: Act) -> Result<Played, StoryError> {
    let fallen = act.deed.falls().and_then(|name| stage.member(name));
    let unheard_before = fallen.map_or(0, Member::unheard);
    let (began, wall) = (Instant::now(), SystemTime::now());
    match act.deed {
        Deed::Nothing => {}
        Deed::Dies(name) => {
            if let Some(member) = stage.member(name) {
                member.kill().await;
            }
        }
        Deed::Hangs(name) => {
            if let Some(member) = stage.member(name) {
                member.hang();
            }
        }
        Deed::Returns(name) => {
            if let Some(member) = stage.member(name) {
                member
                    .heal()
                    .map_err(|error| StoryError::Return(name, error))?;
            }
        }
    }
    let noticed = match act.deed.change() {
        Some((member, up)) => noticed(stage, member, up, wall.into()).await?,
        None => None,
    };
    sleep(SETTLE).await;
    Ok(Played {
        act,
        began,
        ended: Instant::now(),
        noticed,
        still_out: clients.out(),
        unheard_before,
    })
}

/// Waits until twinpool has noticed that `member` changed at `since`; how long that took it.
async fn noticed(
    stage: &Stage,
    member: &str,
    up: bool,
    since: Stamp,
) -> Result<Option<Duration>, StageError> {
    let give_up = tokio::time::Instant::now() + NOTICE;
    loop {
        let status = stage.status().await?;
        let found = status.pools.iter().find_map(|pool| pool.member(member));
        if let Some(target) = found.and_then(|member| member.services.first())
            && (target.verdict == Verdict::Up) == up
            && (up || target.verdict == Verdict::Down)
            && target.since >= since
        {
            return Ok(Some(target.since.since(since)));
        }
        let next = tokio::time::Instant::now() + LOOK;
        if next > give_up {
            return Ok(None);
        }
        sleep_until(next).await;
    }
}

/// What the clients saw in an act.
fn reckon(stage: &Stage, book: &Book, done: &Played) -> Seen {
    let within = |at: Instant| done.began <= at && at < done.ended;
    let exchanges = || book.exchanges.iter().filter(|e| within(e.ended));
    let visitors = || exchanges().filter(|e| e.who == Who::Visitor);
    let failed = exchanges().filter_map(|exchange| {
        let with = exchange.with.as_deref();
        Some(Trouble {
            who: exchange.who,
            how: *exchange.outcome.as_ref().err()?,
            with: with
                .or_else(|| heard_by(stage, exchange))
                .map(str::to_owned),
        })
    });
    let cut = book.cuts.iter().filter(|cut| within(cut.at));
    let cut = cut.map(|cut| Trouble {
        who: Who::Resident,
        how: cut.how,
        with: Some(cut.with.to_string()),
    });
    let troubles: Vec<Trouble> = failed.chain(cut).collect();
    let fallen = done.act.deed.falls();
    let fallen = fallen
        .and_then(|name| stage.member(name))
        .map(|member| Fallen {
            member: member.name(),
            unheard: member.unheard().saturating_sub(done.unheard_before),
        });
    let change = done.act.deed.change().map(|(member, up)| Change {
        member: member.to_owned(),
        up,
        noticed: done.noticed,
        answers: exchanges()
            .filter(|e| e.outcome.as_deref().is_ok_and(|by| by == member))
            .count() as u64,
    });
    let answered = visitors().filter(|e| e.outcome.is_ok());
    let outages = book.outages.iter().filter(|o| within(o.noticed));
    Seen {
        title: done.act.title.to_owned(),
        change,
        visitors: visitors().count() as u64,
        slowest: answered.map(|e| e.took).max().unwrap_or_default(),
        resident_answers: exchanges()
            .filter(|e| e.who == Who::Resident && e.outcome.is_ok())
            .count() as u64,
        outages: outages.map(|o| o.lasted).collect(),
        still_out: done.still_out,
        losses: ledger::sort(&troubles, fallen),
    }
}

fn heard_by<'a>(stage: &'a Stage, exchange: &Exchange) -> Option<&'a str> {
    let mut members = stage.members.iter();
    let member = members.find(|member| member.heard(exchange.number))?;
    Some(member.name())
}

/// The sentence's first letter as a capital.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::super::load::PATIENCE;
    use super::super::members::Mood;
    use super::super::stage::{MEMBERS, START};
    use super::*;

    #[test]
    fn the_story_ends_as_it_began() {
        let mut moods: Vec<(&str, Mood)> = MEMBERS.iter().map(|m| (*m, Mood::Well)).collect();
        for act in STORY {
            let Some((name, _)) = act.deed.change() else {
                continue;
            };
            let member = moods.iter_mut().find(|(m, _)| *m == name);
            let (_, mood) = member.expect("a member of the stage");
            *mood = match act.deed {
                Deed::Dies(_) => Mood::Dead,
                Deed::Hangs(_) => Mood::Hung,
                Deed::Nothing | Deed::Returns(_) => Mood::Well,
            };
        }
        assert!(moods.iter().all(|(_, mood)| *mood == Mood::Well));
    }

    #[test]
    fn the_story_comes_to_its_end_within_its_time() {
        let acts = u32::try_from(STORY.len()).expect("a few");
        let changes = STORY.iter().filter(|act| act.deed.change().is_some());
        let changes = u32::try_from(changes.count()).expect("a few");
        let longest = START + SETTLE * acts + NOTICE * changes + PATIENCE;
        assert!(longest <= super::super::ONCE, "{longest:?}");
    }

    #[test]
    fn titles_begin_sentences() {
        assert_eq!(capital("web2 dies"), "Web2 dies");
        assert_eq!(capital(""), "");
    }
}
