//! What is wrong, worst first: for the status page and for `/readyz`.
//!
//! A pure reading of a [`Status`]. Each [`Problem`] says what is wrong, since when, whom it
//! affects, and what happens next and when. One dead server is one problem, however many services
//! it took with it, and so is one dead site, however many pools.

mod own;
mod pairs;
mod pools;

pub use own::shortage_text;
pub use pools::what_next;

use super::stamp::{Stamp, span};
use super::status::Status;

/// How many reasons, pools or members are told one by one.
const TOLD: usize = 3;

/// Something that is not as it should be, or not as it usually is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad; problems are listed by it.
    pub severity: Severity,
    /// One word in capitals: `LOST`, `DOWN`, `DRAIN`.
    pub label: &'static str,
    /// What it is about, each once: members as `POOL/MEMBER`, pools, pairs or sites by name. Empty
    /// where it is about one thing that `what` names.
    pub about: Vec<String>,
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
    /// Both pools of a pair are lost: nobody can serve the users of either.
    PairLost,
    /// The instance does not know what is true any more.
    Isolated,
    /// Every pool of a site is lost.
    SiteLost,
    /// Users of a pool are not served.
    PoolLost,
    /// Users of one service are not served.
    ServiceLost,
    /// Automation does not protect a pair until a person has looked.
    Halted,
    /// Automation sent a pool's users to its twin, and nobody backs that one up.
    Away,
    /// Clients are turned away for want of something.
    Short,
    /// A member does not answer.
    MemberDown,
    /// The instance itself lacks something.
    Own,
    /// Sessions go to the twin one by one.
    Spilling,
    /// A member answers badly.
    MemberBusy,
    /// A member cannot be asked.
    NotAsked,
    /// Fewer members than there should be.
    Degraded,
    /// A pool's users come home.
    Returning,
    /// Somebody paused all automation of pairs.
    Paused,
    /// Somebody sent a pool's users to its twin.
    Sent,
    /// Somebody wants it so.
    Operator,
}

/// How a problem is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Users are not served, or nearly so.
    Bad,
    /// Somebody should look.
    Doubtful,
    /// Somebody wants it so, or it mends itself.
    Wanted,
}

impl Severity {
    /// All of them, worst first.
    pub const ALL: [Severity; 18] = [
        Severity::PairLost,
        Severity::Isolated,
        Severity::SiteLost,
        Severity::PoolLost,
        Severity::ServiceLost,
        Severity::Halted,
        Severity::Away,
        Severity::Short,
        Severity::MemberDown,
        Severity::Own,
        Severity::Spilling,
        Severity::MemberBusy,
        Severity::NotAsked,
        Severity::Degraded,
        Severity::Returning,
        Severity::Paused,
        Severity::Sent,
        Severity::Operator,
    ];

    /// Whether it is a fault, and not what somebody ordered or what mends itself.
    pub fn is_fault(self) -> bool {
        self.grade() != Grade::Wanted
    }

    /// How it is to look.
    pub fn grade(self) -> Grade {
        match self {
            Severity::PairLost
            | Severity::Isolated
            | Severity::SiteLost
            | Severity::PoolLost
            | Severity::ServiceLost
            | Severity::Short
            | Severity::MemberDown => Grade::Bad,
            Severity::Halted
            | Severity::Away
            | Severity::Own
            | Severity::Spilling
            | Severity::MemberBusy
            | Severity::NotAsked
            | Severity::Degraded => Grade::Doubtful,
            Severity::Returning | Severity::Paused | Severity::Sent | Severity::Operator => {
                Grade::Wanted
            }
        }
    }

    /// So many of them in a few words: `3 members down`.
    pub fn counted(self, n: usize) -> String {
        let (one, many) = match self {
            Severity::PairLost => ("1 pair lost", "pairs lost"),
            Severity::Isolated => return "isolated, verdicts are held".to_owned(),
            Severity::SiteLost => ("1 site lost", "sites lost"),
            Severity::PoolLost => ("1 pool lost", "pools lost"),
            Severity::ServiceLost => ("1 service lost", "services lost"),
            Severity::Halted => ("1 pair without automation", "pairs without automation"),
            Severity::Away => ("1 pool's users away", "pools' users away"),
            Severity::Short => ("something has run out", "things have run out"),
            Severity::MemberDown => ("1 member down", "members down"),
            Severity::Own => ("this instance needs help", "things this instance needs"),
            Severity::Spilling => ("1 pool spilling", "pools spilling"),
            Severity::MemberBusy => ("1 member busy", "members busy"),
            Severity::NotAsked => ("1 member cannot be asked", "members cannot be asked"),
            Severity::Degraded => ("1 pool degraded", "pools degraded"),
            Severity::Returning => ("1 pool's users come home", "pools' users come home"),
            Severity::Paused => return "automation is paused".to_owned(),
            Severity::Sent => (
                "1 pool's users are away by order",
                "pools' users are away by order",
            ),
            Severity::Operator => ("one member is out by order", "members are out by order"),
        };
        match n {
            1 => one.to_owned(),
            n => format!("{n} {many}"),
        }
    }
}

/// What is wrong, worst first; in file order where equally bad.
pub fn problems(status: &Status) -> Vec<Problem> {
    let mut found: Vec<Problem> = isolation(status).into_iter().collect();
    found.extend(own::problems(status));
    found.extend(pools::unaskable(status));
    let outage = pairs::Outage::of(status);
    for pool in &status.pools {
        found.extend(match outage.includes(&pool.name) {
            true => pools::of_members(status, pool),
            false => pools::of_pool(status, pool),
        });
    }
    found.extend(pairs::problems(status, &outage));
    found.sort_by_key(|problem| problem.severity);
    found
}

/// Those of them that are about pairs and sites as such, not about one pool or member.
pub fn of_pairs(status: &Status) -> Vec<Problem> {
    let mut found = pairs::problems(status, &pairs::Outage::of(status));
    found.sort_by_key(|problem| problem.severity);
    found
}

fn isolation(status: &Status) -> Option<Problem> {
    let isolated = status.isolated.as_ref()?;
    Some(Problem {
        severity: Severity::Isolated,
        label: "ISOLATED",
        about: vec![],
        what: format!(
            "this instance thinks that the fault is its own: {}",
            isolated.cause
        ),
        since: Some(isolated.since),
        whom: Some(format!(
            "{} sessions are kept, and new ones are tried as before",
            number(status.open())
        )),
        next: Some(
            "verdicts are held until something answers again; look at this host's own network"
                .to_owned(),
        ),
    })
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

/// The first [`TOLD`], and how many more there are.
fn few(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = all.collect();
    if all.len() > TOLD {
        let more = all.len() - TOLD;
        all.truncate(TOLD);
        all.push(format!("and {more} more"));
    }
    all
}

#[cfg(test)]
mod tests;
