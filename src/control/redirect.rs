//! Orders about pairs: from what was typed to whom it is about, and what is answered. Pure: what is
//! told is read from the decider, and nothing is decided or changed here.
//!
//! The same sentences tell what was done and, in a dry run, what would be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observe::desk::{Redirect, Redirection, Refused};
use crate::observe::names::{self, NoSuch};
use crate::observe::problems::number;
use crate::observe::stamp::span;
use crate::observe::status::cause_text;
use crate::pairing::Decider;
use crate::pairing::pair::{Destination, Fitness, Halt, Move, MoveRefusal};
use crate::pairing::record::{By, Phase, Record};
use crate::time::Time;
use crate::topology::{Pair, PairId, Pool, PoolId, Side, SiteId, Topology};

/// The body of `failover` and `failback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolBody {
    /// Whose users.
    pub pool: String,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Without drain or ramp.
    #[serde(default)]
    pub now: bool,
    /// Even against what is worth a refusal.
    #[serde(default)]
    pub force: bool,
    /// Only tell what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// The body of `evacuate` and `restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteBody {
    /// The users of whose pools.
    pub site: String,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Without drain or ramp.
    #[serde(default)]
    pub now: bool,
    /// Even against what is worth a refusal.
    #[serde(default)]
    pub force: bool,
    /// Only tell what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// The body of `pause` and `resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutomationBody {
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The users of a home pool, and the two pools that can serve them.
#[derive(Clone, Copy, Debug)]
pub struct Users<'a> {
    /// The pair.
    pub pair: &'a Pair,
    /// The home pool's side of it.
    pub side: Side,
    /// The home pool.
    pub home: &'a Pool,
    /// The other one.
    pub twin: &'a Pool,
}

impl<'a> Users<'a> {
    /// The users of the pool with this name, which must have a twin.
    pub fn named(topology: &'a Topology, name: &str) -> Result<Users<'a>, Refused> {
        let pool = names::find_pool(topology, name)?;
        Users::of(topology, pool.id).ok_or_else(|| {
            Refused::Harmful(format!(
                "{name} has no twin that could serve its users; write [pairs.NAME] with `pools = \
                 [\"{name}\", \"TWIN\"]` into the configuration"
            ))
        })
    }

    /// The users of this pool, if it has a twin.
    pub fn of(topology: &'a Topology, pool: PoolId) -> Option<Users<'a>> {
        let (pair, side) = topology.pair_of(pool)?;
        Some(Users {
            pair,
            side,
            home: topology.pool(pool),
            twin: topology.pool(pair.pool(side.other())),
        })
    }

    /// What the decider is told.
    pub fn order(&self, to: Destination, redirection: &Redirection) -> Move {
        Move {
            side: self.side,
            to,
            by: redirection.by.clone(),
            reason: redirection.reason.clone(),
            now: redirection.now,
            force: redirection.force,
        }
    }
}

/// The site with this name.
pub fn site(topology: &Topology, name: &str) -> Result<SiteId, NoSuch> {
    let found = topology.sites.iter().position(|site| site.name == name);
    let known = topology.sites.iter().map(|site| site.name.as_str());
    match found.and_then(|place| u16::try_from(place).ok()) {
        Some(id) => Ok(SiteId(id)),
        None => Err(NoSuch::new("site", name, known)),
    }
}

/// What a new record means for users.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// Whose home pool was named.
    pub users: Users<'a>,
    /// What was in force.
    pub before: &'a Record,
    /// What is, or would be.
    pub after: &'a Record,
    /// Whether those that stand on the home pool are kept to its drain deadline.
    pub drains: bool,
    /// Whether nothing is ended for now.
    pub isolated: bool,
    /// Sessions of a pool's users on its own members, and on the twin's.
    pub stand: &'a dyn Fn(PoolId) -> (u64, u64),
}

impl Change<'_> {
    /// `fe-seoul: home → away (generation 7), served by fe-busan; 120 sessions drain to 10 min, …`.
    pub fn text(&self) -> String {
        let users = self.users;
        let (from, to) = (self.before.phase(users.side), self.after.phase(users.side));
        let home = &users.home.name;
        let generation = self.after.generation;
        let where_to = match to {
            Phase::Away => format!(", served by {}", users.twin.name),
            Phase::Home | Phase::Returning(_) => String::new(),
        };
        let mut text = if from == to {
            format!("{home}: {from} already, and drained no longer (generation {generation}); ")
        } else {
            format!("{home}: {from} → {to} (generation {generation}){where_to}; ")
        };
        text += &self.sessions(users, to);
        let other = users.side.other();
        let theirs = (self.before.phase(other), self.after.phase(other));
        if theirs.0 != theirs.1 {
            let others = Users {
                side: other,
                home: users.twin,
                twin: users.home,
                ..users
            };
            let (name, (from, to)) = (&others.home.name, theirs);
            text += &format!("; in the same moment {name}: {from} → {to}; ");
            text += &self.sessions(others, to);
        }
        if self.isolated {
            text += "; nothing is ended while this instance is isolated";
        }
        text
    }

    /// What becomes of sessions that stand where their users leave.
    fn sessions(&self, users: Users<'_>, to: Phase) -> String {
        let (at_home, at_twin) = (self.stand)(users.home.id);
        let (count, off) = match to {
            Phase::Away => (at_home, users.home),
            Phase::Home | Phase::Returning(_) => (at_twin, users.twin),
        };
        let rate = users.pair.move_rate.get();
        let those = match count {
            0 => format!("no sessions on {}", off.name),
            1 => format!("1 session on {}", off.name),
            n => format!("{} sessions on {}", number(n), off.name),
        };
        match to {
            Phase::Returning(_) => {
                let ramp = span(users.pair.rules.ramp);
                format!(
                    "new sessions come home over {ramp}, then what is left of {those} ends at {rate} a second"
                )
            }
            _ if count == 0 => those,
            Phase::Away if self.drains => {
                let deadline = span(users.home.drain_deadline);
                let verb = if count == 1 { "drains" } else { "drain" };
                format!("{those} {verb} to {deadline}, the rest ends at {rate} a second")
            }
            Phase::Away | Phase::Home => {
                let verb = if count == 1 { "ends" } else { "end" };
                let lasting = span(Duration::from_secs(count.div_ceil(u64::from(rate))));
                format!("{those} {verb} at {rate} a second, within {lasting}")
            }
        }
    }
}

/// Whether a failover lets the sessions on the home pool drain, as the machine does it: it is not to
/// be now, and the pool is not lost.
pub fn drains(decider: &Decider, users: Users<'_>, order: &Move) -> bool {
    let (fitness, _) = decider.pair(users.pair.id).fitness(users.side);
    order.to == Destination::Twin && !order.now && fitness != Fitness::Lost
}

/// `fe-seoul: away already, for 4 min by alice (generation 7)`.
pub fn already(decider: &Decider, users: Users<'_>, now: Time) -> String {
    let record = decider.pair(users.pair.id).record();
    let entry = record.entry(users.side);
    let by = match &entry.by {
        By::Twinpool => String::new(),
        By::Operator(name) => format!(" by {name}"),
    };
    format!(
        "{}: {} already, for {}{by} (generation {})",
        users.home.name,
        entry.phase,
        span(now.since(entry.since)),
        record.generation
    )
}

/// What is to be done where users are there already.
pub fn instead(users: Users<'_>, to: Destination, phase: Phase) -> String {
    let home = &users.home.name;
    match (to, phase) {
        (Destination::Twin, _) => format!(
            "--now ends at once what still drains, `twinpool failback {home}` brings its users home"
        ),
        (Destination::Home, Phase::Returning(_)) => "--now brings the rest home at once".to_owned(),
        (Destination::Home, _) => format!("`twinpool failover {home}` sends its users away"),
    }
}

/// Why an order is not carried out, and what overrides it or is to be done instead.
pub fn refused(
    refusal: MoveRefusal,
    users: Users<'_>,
    to: Destination,
    decider: &Decider,
    now: Time,
) -> String {
    let (home, twin) = (&users.home.name, &users.twin.name);
    let there = match to {
        Destination::Twin => users.twin,
        Destination::Home => users.home,
    };
    let told = match refusal {
        MoveRefusal::Already(phase) => {
            let already = already(decider, users, now);
            return format!("{already}; {}", instead(users, to, phase));
        }
        MoveRefusal::Lost => format!(
            "{}, which would serve them, is lost, and nothing overrides that; bring members of it \
             back first, `twinpool why {0}` tells what is wrong",
            there.name
        ),
        MoveRefusal::Unknown => format!(
            "the first checks of {} are not in, so nobody knows whether it can serve them; try \
             again in a moment, or repeat with --force",
            there.name
        ),
        MoveRefusal::Low => {
            let (_, _, present) = decider.condition(there.id);
            let need = there.quorum.to_start.members;
            format!(
                "{} has fewer members present than it needs to start ({present} present, {need} \
                 needed); bring another member back first, or repeat with --force",
                there.name
            )
        }
        MoveRefusal::TwinAway => format!(
            "the users of {twin} are served here, by {home}, and would have to leave too; \
             `twinpool failback {twin}` first, or repeat with --force to send them home in the \
             same moment"
        ),
        MoveRefusal::Isolated => {
            let cause = decider.isolated().map(|(cause, _)| cause_text(cause));
            let cause = cause.unwrap_or_else(|| "it has just been".to_owned());
            format!(
                "this instance thinks that the fault is its own ({cause}), so what it sees of \
                 either pool may be wrong; look at this host's network first, or repeat with \
                 --force"
            )
        }
        MoveRefusal::Writing => "another change of the pair is being written; try again".to_owned(),
    };
    format!("{home}: not carried out: {told}")
}

/// Whether `force` overrides it.
pub fn can_be_forced(refusal: MoveRefusal) -> bool {
    match refusal {
        MoveRefusal::Unknown | MoveRefusal::Low | MoveRefusal::TwinAway | MoveRefusal::Isolated => {
            true
        }
        MoveRefusal::Already(_) | MoveRefusal::Lost | MoveRefusal::Writing => false,
    }
}

/// How an order for a site is given again, after it stopped.
pub fn again(redirection: &Redirection) -> String {
    let mut line = match &redirection.what {
        Redirect::Failover(pool) => format!("twinpool failover {pool}"),
        Redirect::Failback(pool) => format!("twinpool failback {pool}"),
        Redirect::Evacuate(site) => format!("twinpool evacuate {site}"),
        Redirect::Restore(site) => format!("twinpool restore {site}"),
        Redirect::Pause => "twinpool pause".to_owned(),
        Redirect::Resume => "twinpool resume".to_owned(),
    };
    for (given, flag) in [(redirection.now, " --now"), (redirection.force, " --force")] {
        if given {
            line += flag;
        }
    }
    line
}

/// The pools of a site that have no twin, and so stay as they are.
pub fn staying(topology: &Topology, site: SiteId) -> Option<String> {
    let stays = |pool: &&Pool| pool.site == Some(site) && topology.pair_of(pool.id).is_none();
    let pools: Vec<&str> = topology
        .pools
        .iter()
        .filter(stays)
        .map(|pool| pool.name.as_str())
        .collect();
    match pools.as_slice() {
        [] => None,
        [one] => Some(format!("{one} has no twin and stays as it is")),
        all => Some(format!(
            "{} have no twin and stay as they are",
            all.join(", ")
        )),
    }
}

/// What is answered to `pause`.
pub fn paused(decider: &Decider) -> String {
    let topology = decider.topology();
    let pools = topology.pools.iter();
    let away = pools.filter(|pool| decider.phase(pool.id) != Phase::Home);
    let away: Vec<&str> = away.map(|pool| pool.name.as_str()).collect();
    let stay = match away.as_slice() {
        [] => "all users are at home".to_owned(),
        [one] => format!("the users of {one} stay where they are"),
        all => format!("the users of {} stay where they are", all.join(", ")),
    };
    format!("all automation of pairs is paused until `twinpool resume`; {stay}")
}

/// What `resume` ends, as things stand: the pause, then pair by pair.
pub fn halts(decider: &Decider, now: Time) -> Vec<(Option<PairId>, String)> {
    let pause = decider.pause().map(|pause| {
        let since = span(now.since(pause.since));
        (None, format!("the pause by {}, of {since}", pause.by))
    });
    let pairs = decider.topology().pairs.iter().filter_map(|pair| {
        let ended = match decider.pair(pair.id).halt()? {
            Halt::Damaged => format!("the wait of {} after its record was damaged", pair.name),
            Halt::Alarm => format!("the alarm of {}", pair.name),
            Halt::Paused => return None,
        };
        Some((Some(pair.id), ended))
    });
    pause.into_iter().chain(pairs).collect()
}

#[cfg(test)]
mod tests;
