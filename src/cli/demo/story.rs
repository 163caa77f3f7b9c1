//! The story that `--once` plays: acts, each with a deed, what twinpool must notice or do about it,
//! and some time for clients to feel it.
//!
//! A story is a list of [`Act`]s; another one is another list. What clients saw is reckoned up after
//! the last act ([`super::reckoning`]), because only then has every request come to its end, and a
//! member that hung has read what it was sent.

use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::{sleep, sleep_until};

use super::ledger::{self, Seen, took};
use super::load::{Clients, RESIDENTS};
use super::members::Member;
use super::reckoning::{reckon, settled};
use super::stage::{HOLD, RAMP, SITES, Site, Stage, StageError, verdict};
use crate::cli::paint::wrap;
use crate::health::Verdict;
use crate::observe::stamp::Stamp;
use crate::observe::status::{HomePhase, Status};

/// How long clients go on in an act after twinpool noticed what happened in it.
const SETTLE: Duration = Duration::from_secs(3);
/// How long twinpool may take to notice. Its default checks take about three seconds at worst.
const NOTICE: Duration = Duration::from_secs(6);
/// How long long sessions may take to be where they belong after their users have come home: the
/// rest of them is ended at a bounded rate.
const FOLLOW: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile. When it noticed is taken from its own record.
const LOOK: Duration = Duration::from_millis(50);
/// How long a member that hung may take to read what it was sent meanwhile, after the last act.
const CATCH_UP: Duration = Duration::from_millis(200);
/// Columns of the text between the acts.
const WIDTH: usize = 80;

/// One act.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    pub(super) title: &'static str,
    telling: &'static str,
    pub(super) deed: Deed,
}

/// What happens in an act. Sites by their place in [`SITES`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    Nothing,
    Dies(&'static str),
    Hangs(&'static str),
    Returns(&'static str),
    /// Every member of a site is cut off.
    SiteDies(usize),
    SiteReturns(usize),
    /// Nothing but what twinpool does by itself: the users of a site come home.
    UsersComeHome(usize),
}

const SEOUL: usize = 0;

const STORY: [Act; 8] = [
    Act {
        title: "all is well",
        telling: "Two sites back each other up. 200 new connections a second with one request \
                  each, and 60 long sessions with a request every 200 ms; two of three clients \
                  are users of Seoul, the others of Busan. Nothing should fail.",
        deed: Deed::Nothing,
    },
    Act {
        title: "seoul2 dies",
        telling: "Its port is closed and every connection it had is reset, as when a process is \
                  killed. Its long sessions should be on other members of Seoul within \
                  milliseconds, and no new connection should fail but one that it had already \
                  taken.",
        deed: Deed::Dies("seoul2"),
    },
    Act {
        title: "seoul2 returns",
        telling: "It should be trusted again after two good checks and be given its share slowly. \
                  Nothing should fail.",
        deed: Deed::Returns("seoul2"),
    },
    Act {
        title: "seoul3 hangs",
        telling: "Its port stays open and it says nothing, as when a process is stopped. What it \
                  was sent waits until checks prove that it hangs; then its sessions should be \
                  reset, so that their clients go elsewhere instead of waiting.",
        deed: Deed::Hangs("seoul3"),
    },
    Act {
        title: "seoul3 returns",
        telling: "As before. Nothing should fail.",
        deed: Deed::Returns("seoul3"),
    },
    Act {
        title: "seoul dies",
        telling: "Its power fails: all three members are silent, nothing is reset, nothing can be \
                  connected. New connections should go to Busan one by one, a little later than \
                  usual, until checks prove that Seoul is lost; then its long sessions should be \
                  reset and find Busan too. After a second without Seoul its users are sent to \
                  Busan for good. Busan's own users should notice nothing.",
        deed: Deed::SiteDies(SEOUL),
    },
    Act {
        title: "seoul returns",
        telling: "It should be found well and nobody should be sent there yet: it has to stay well \
                  for 5 s first. Nothing should fail.",
        deed: Deed::SiteReturns(SEOUL),
    },
    Act {
        title: "users come home",
        telling: "Within 5 s a rising share of Seoul's clients should be sent home, by their \
                  addresses, so that each moves once. Then the long sessions that are still in \
                  Busan should be ended one after the other, once each. Nothing else should fail.",
        deed: Deed::UsersComeHome(SEOUL),
    },
];

impl Deed {
    /// Whose service it is about: one member's, or a whole site's.
    fn members(self) -> &'static [&'static str] {
        let of = |site: usize| &SITES[site].members[..];
        match self {
            Deed::Nothing | Deed::UsersComeHome(_) => &[],
            Deed::Dies(name) | Deed::Hangs(name) | Deed::Returns(name) => SITES
                .iter()
                .flat_map(|site| &site.members)
                .find(|member| **member == name)
                .map_or(&[], std::slice::from_ref),
            Deed::SiteDies(site) | Deed::SiteReturns(site) => of(site),
        }
    }

    /// The members that fall.
    pub(super) fn falls(self) -> &'static [&'static str] {
        match self {
            Deed::Dies(_) | Deed::Hangs(_) | Deed::SiteDies(_) => self.members(),
            Deed::Nothing | Deed::Returns(_) | Deed::SiteReturns(_) | Deed::UsersComeHome(_) => &[],
        }
    }

    /// What twinpool must notice or do, in words.
    pub(super) fn awaited(self) -> Option<String> {
        let name = |site: usize| SITES[site].name;
        match self {
            Deed::Nothing => None,
            Deed::Dies(member) | Deed::Hangs(member) => Some(format!("{member} is down")),
            Deed::Returns(member) => Some(format!("{member} is up")),
            Deed::SiteDies(site) => Some(format!("{}'s users are away", name(site))),
            Deed::SiteReturns(site) => Some(format!("{} is up", name(site))),
            Deed::UsersComeHome(site) => Some(format!("{}'s users are home", name(site))),
        }
    }

    /// How long that may take.
    fn patience(self) -> Duration {
        match self {
            Deed::UsersComeHome(_) => HOLD + RAMP + NOTICE,
            _ => NOTICE,
        }
    }

    /// When what is awaited came to be, if it has since `since`.
    fn is_done(self, status: &Status, since: Stamp) -> Option<Stamp> {
        let phase = |site: usize, phase: HomePhase| {
            let mut homes = status.pairs.iter().flat_map(|pair| &pair.pools);
            let home = homes.find(|home| home.pool == SITES[site].pool)?;
            (home.phase == phase).then_some(home.since)
        };
        let at = match self {
            Deed::Nothing => None,
            Deed::Dies(_) | Deed::Hangs(_) => all(self.members(), status, Verdict::Down),
            Deed::Returns(_) | Deed::SiteReturns(_) => all(self.members(), status, Verdict::Up),
            Deed::SiteDies(site) => phase(site, HomePhase::Away),
            Deed::UsersComeHome(site) => phase(site, HomePhase::Home),
        };
        at.filter(|at| *at >= since)
    }
}

/// Since when all these members have had this verdict, if they have.
fn all(members: &[&str], status: &Status, wanted: Verdict) -> Option<Stamp> {
    let since = |name: &&str| {
        let member = status.pools.iter().find_map(|pool| pool.member(name))?;
        let target = member.services.first()?;
        (verdict(member) == wanted).then_some(target.since)
    };
    let since: Option<Vec<Stamp>> = members.iter().map(since).collect();
    since?.into_iter().max()
}

/// An act that was played, before it is reckoned up.
pub(super) struct Played {
    pub(super) act: Act,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) noticed: Option<Duration>,
    pub(super) still_out: usize,
    /// The member that had answered each resident last, when it began and when it ended.
    pub(super) with: [Vec<Option<Rc<str>>>; 2],
    /// Of each fallen member: connections that had ended unheard before it fell.
    pub(super) unheard_before: Vec<u64>,
}

/// Why a story came to no end.
#[derive(Debug)]
pub(super) enum StoryError {
    /// The stage did not hold.
    Stage(StageError),
    /// A member could not be made to fall or return.
    Member(&'static str, io::Error),
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
            StoryError::Member(member, error) => {
                write!(f, "{member} cannot be cut off or return: {error}")
            }
            StoryError::Print(error) => write!(f, "cannot print: {error}"),
        }
    }
}

/// Plays the story, prints what the clients saw, and tells whether nothing was lost.
pub(super) async fn play(stage: &Stage, out: &mut impl Write) -> Result<bool, StoryError> {
    let clients = Clients::start(stage.fronts);
    let mut played = Vec::new();
    for (index, act) in STORY.into_iter().enumerate() {
        writeln!(out, "{}. {}.", index + 1, capital(act.title))?;
        writeln!(out, "   {}", wrap(act.telling, WIDTH, 3))?;
        out.flush()?;
        let done = perform(stage, &clients, act).await?;
        if let Some(awaited) = act.deed.awaited() {
            match done.noticed {
                Some(noticed) => writeln!(out, "   → after {}: {awaited}", took(noticed))?,
                None => writeln!(out, "   → never: {awaited}")?,
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
        let all_well = ledger::success(&seen);
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
    let unheard = |name: &&str| stage.member(name).map_or(0, Member::unheard);
    let unheard_before = act.deed.falls().iter().map(unheard).collect();
    let before = clients.with();
    let (began, wall) = (Instant::now(), SystemTime::now());
    for name in act.deed.members() {
        let Some(member) = stage.member(name) else {
            continue;
        };
        let done = match act.deed {
            Deed::Dies(_) => {
                member.kill().await;
                Ok(())
            }
            Deed::Hangs(_) => {
                member.hang();
                Ok(())
            }
            Deed::SiteDies(_) => member.cut(),
            Deed::Returns(_) | Deed::SiteReturns(_) => member.heal().await,
            Deed::Nothing | Deed::UsersComeHome(_) => Ok(()),
        };
        done.map_err(|error| StoryError::Member(name, error))?;
    }
    let noticed = match act.deed {
        Deed::Nothing => None,
        deed => noticed(stage, deed, wall.into()).await?,
    };
    if let Deed::UsersComeHome(site) = act.deed {
        follow(clients, &SITES[site]).await;
    }
    sleep(SETTLE).await;
    Ok(Played {
        act,
        began,
        ended: Instant::now(),
        noticed,
        still_out: clients.out(),
        with: [before, clients.with()],
        unheard_before,
    })
}

/// Waits until twinpool has noticed or done what a deed at `since` demands; how long that took it.
async fn noticed(stage: &Stage, deed: Deed, since: Stamp) -> Result<Option<Duration>, StageError> {
    let give_up = tokio::time::Instant::now() + deed.patience();
    loop {
        if let Some(at) = deed.is_done(&stage.status().await?, since) {
            return Ok(Some(at.since(since)));
        }
        let next = tokio::time::Instant::now() + LOOK;
        if next > give_up {
            return Ok(None);
        }
        sleep_until(next).await;
    }
}

/// Waits until the long sessions of a site's users are with its own members; not for ever.
async fn follow(clients: &Clients, site: &Site) {
    let give_up = tokio::time::Instant::now() + FOLLOW;
    while settled(&clients.with(), site, site).there < settled(&clients.with(), site, site).all
        && tokio::time::Instant::now() < give_up
    {
        sleep(LOOK).await;
    }
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
    use super::super::stage::START;
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_story_ends_as_it_began() {
        let mut moods = BTreeMap::new();
        let mut away = [false; 2];
        for act in STORY {
            let mood = match act.deed {
                Deed::Dies(_) => Mood::Dead,
                Deed::Hangs(_) => Mood::Hung,
                Deed::SiteDies(site) => {
                    away[site] = true;
                    Mood::Cut
                }
                Deed::UsersComeHome(site) => {
                    away[site] = false;
                    continue;
                }
                Deed::Nothing | Deed::Returns(_) | Deed::SiteReturns(_) => Mood::Well,
            };
            moods.extend(act.deed.members().iter().map(|member| (*member, mood)));
        }
        assert!(!moods.is_empty() && moods.values().all(|mood| *mood == Mood::Well));
        assert_eq!(away, [false; 2]);
    }

    #[test]
    fn every_deed_is_about_members_of_the_stage() {
        for act in STORY {
            let nobody = matches!(act.deed, Deed::Nothing | Deed::UsersComeHome(_));
            assert_eq!(act.deed.members().is_empty(), nobody, "{}", act.title);
        }
    }

    #[test]
    fn the_story_comes_to_its_end_within_its_time() {
        let acts = u32::try_from(STORY.len()).expect("a few");
        let awaited = STORY.iter().filter(|act| act.deed.awaited().is_some());
        let patience: Duration = awaited.map(|act| act.deed.patience()).sum();
        let longest = START + SETTLE * acts + patience + FOLLOW + PATIENCE + CATCH_UP;
        assert!(longest <= super::super::ONCE, "{longest:?}");
    }

    #[test]
    fn titles_begin_sentences() {
        assert_eq!(capital("seoul2 dies"), "Seoul2 dies");
        assert_eq!(capital(""), "");
    }
}
