//! Pairs, sites and the pause, as plain data: only what is in force, never what is being written.
//!
//! The record of a pair that the decider calls in force is on disk already, so no generation that is
//! told here is newer than the disk's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observe::counters::HomeCounters;
use crate::observe::events::redirect_cause_text;
use crate::observe::stamp::Stamp;
use crate::observe::view::View;
use crate::pairing::pair::{Act, Fitness, Halt, Prospect};
use crate::pairing::record::{By, Cause, Phase};
use crate::time::Time;
use crate::topology::{Automation, Pair, PoolId, Side, Topology};

/// A pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairStatus {
    /// Its name.
    pub name: String,
    /// The generation that is in force.
    pub generation: u64,
    /// Who sends the users of a lost pool to its twin.
    pub failover: Automation,
    /// Who sends them home.
    pub failback: Automation,
    /// Why automation decides nothing, while it does not.
    pub halt: Option<Halt>,
    /// Since when, where that is an alarm or a damaged record and was not so at the start.
    pub halt_since: Option<Stamp>,
    /// Automatic failbacks that were begun since the pair was last calm; each doubles the hold.
    pub rounds: u32,
    /// How long a pool is lost before automation sends its users away.
    #[serde(rename = "after_seconds", with = "seconds")]
    pub after: Duration,
    /// How long a recovered pool has to stay well before automation brings its users home, grown
    /// by the rounds.
    #[serde(rename = "hold_seconds", with = "seconds")]
    pub hold: Duration,
    /// How long the share that goes home rises to all.
    #[serde(rename = "ramp_seconds", with = "seconds")]
    pub ramp: Duration,
    /// Whether a session that no home member took may go to the twin.
    pub spill: bool,
    /// What was wrong with the record when it was read, until the next good write or until a person
    /// resumes.
    pub record_problem: Option<String>,
    /// Since when, unless it was so at the start.
    pub record_problem_since: Option<Stamp>,
    /// Why the last record could not be written, while that is so: what it wanted is not in force.
    pub unwritten: Option<String>,
    /// Since when.
    pub unwritten_since: Option<Stamp>,
    /// Whether a record is being written; nothing else is decided meanwhile.
    pub writing: bool,
    /// The two home pools, in file order.
    pub pools: [HomeStatus; 2],
}

/// The users of one home pool of a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HomeStatus {
    /// The home pool.
    pub pool: String,
    /// Its twin.
    pub twin: String,
    /// The home pool's site.
    pub site: Option<String>,
    /// Where its users are sent.
    pub phase: HomePhase,
    /// Of its clients, how many in a hundred go home.
    pub share: u8,
    /// The pools that serve them: the home pool, its twin, or both while they return.
    pub serving: Vec<String>,
    /// Why.
    pub cause: Cause,
    /// The same in words.
    pub cause_text: String,
    /// Who decided: an operator's name, or `twinpool`.
    pub by: String,
    /// Whether that was a person.
    pub ordered: bool,
    /// Why, in the words of a person who decided.
    pub reason: Option<String>,
    /// Since when; while they return, since the return began.
    pub since: Stamp,
    /// Whether sessions that no home member took went to the twin one by one lately.
    pub spilling: bool,
    /// Since when.
    pub spilling_since: Option<Stamp>,
    /// Whether the home pool can be sent users.
    pub fitness: Fitness,
    /// Since when it has been seen so without a break.
    pub fitness_since: Stamp,
    /// Its users' sessions on its own members now.
    pub sessions_at_home: u64,
    /// Its users' sessions on the twin's members now.
    pub sessions_at_twin: u64,
    /// Sessions that are still to be ended because these users move.
    pub to_move: u64,
    /// When those begin to be ended, while they are let drain.
    pub drains_until: Option<Stamp>,
    /// Sessions that were ended because these users moved, since the start.
    pub moved: u64,
    /// Sessions that no home member took and that went to the twin, since the start.
    pub spilled: u64,
    /// Times that a member was passed over because it had taken all the arrivals that it may, since
    /// the start.
    pub arrivals_held: u64,
    /// What automation does next about them, if things stay as they are.
    pub next: Option<NextMove>,
}

/// Where the users of a home pool are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HomePhase {
    /// To their home pool.
    Home,
    /// To its twin.
    Away,
    /// A rising share of them home, the others to the twin.
    Returning,
}

/// What automation does next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextMove {
    /// What.
    pub act: Act,
    /// When.
    pub at: Stamp,
    /// What, in words: `its users go to fe-busan`.
    pub text: String,
}

/// Who paused all automation of pairs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseStatus {
    /// Who.
    pub by: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Since when.
    pub since: Stamp,
}

/// A site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub name: String,
    /// The area that it stands in.
    pub region: Option<String>,
    /// Whether every pool in it is lost.
    pub lost: bool,
    /// The names of its pools, in file order.
    pub pools: Vec<String>,
}

/// A row of the redirect table: what `/v1/redirects` lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectRow {
    /// The home pool.
    pub pool: String,
    /// Its pair.
    pub pair: String,
    /// The pair's generation.
    pub generation: u64,
    /// Where the pool's users are sent.
    pub phase: HomePhase,
    /// Of its clients, how many in a hundred go home.
    pub share: u8,
    /// The pools that serve them.
    pub serving: Vec<String>,
    /// Why.
    pub cause: Cause,
    /// Who decided: an operator's name, or `twinpool`.
    pub by: String,
    /// Why, in the words of a person who decided.
    pub reason: Option<String>,
    /// Since when.
    pub since: Stamp,
}

impl PairStatus {
    /// Its rows of the redirect table.
    pub fn rows(&self) -> impl Iterator<Item = RedirectRow> {
        self.pools.iter().map(|home| RedirectRow {
            pool: home.pool.clone(),
            pair: self.name.clone(),
            generation: self.generation,
            phase: home.phase,
            share: home.share,
            serving: home.serving.clone(),
            cause: home.cause,
            by: home.by.clone(),
            reason: home.reason.clone(),
            since: home.since,
        })
    }

    /// Whether both pools are lost.
    pub fn is_lost(&self) -> bool {
        let mut pools = self.pools.iter();
        pools.all(|home| home.fitness == Fitness::Lost)
    }

    /// The twin of one of its home pools, by that one's place.
    pub fn twin_of(&self, home: &HomeStatus) -> &HomeStatus {
        match self.pools[0].pool == home.pool {
            true => &self.pools[1],
            false => &self.pools[0],
        }
    }
}

impl HomePhase {
    /// Its word, `home`, `away` or `returning`.
    pub fn word(self) -> &'static str {
        match self {
            HomePhase::Home => "home",
            HomePhase::Away => "away",
            HomePhase::Returning => "returning",
        }
    }
}

pub(super) fn pairs(view: &View<'_>) -> Vec<PairStatus> {
    let pairs = view.topology.pairs.iter();
    pairs.map(|pair| pair_status(view, pair)).collect()
}

pub(super) fn pause(view: &View<'_>) -> Option<PauseStatus> {
    let pause = view.decider.pause()?;
    Some(PauseStatus {
        by: pause.by.clone(),
        reason: pause.reason.clone(),
        since: view.clock().stamp(pause.since),
    })
}

pub(super) fn sites(view: &View<'_>) -> Vec<SiteStatus> {
    let ids = (0..).map(crate::topology::SiteId);
    ids.zip(&view.topology.sites)
        .map(|(id, site)| SiteStatus {
            name: site.name.clone(),
            region: site.region.clone(),
            lost: view.decider.is_site_lost(id),
            pools: view
                .topology
                .pools
                .iter()
                .filter(|pool| pool.site == Some(id))
                .map(|pool| pool.name.clone())
                .collect(),
        })
        .collect()
}

pub(in crate::observe) fn pair_status(view: &View<'_>, pair: &Pair) -> PairStatus {
    let machine = view.decider.pair(pair.id);
    let record = machine.record();
    let onsets = view.onsets.pair(pair.id);
    let stamp = |at: Option<Time>| at.map(|at| view.clock().stamp(at));
    PairStatus {
        name: pair.name.clone(),
        generation: record.generation,
        failover: pair.rules.failover,
        failback: pair.rules.failback,
        halt: machine.halt(),
        halt_since: stamp(onsets.halted),
        rounds: record.rounds,
        after: pair.rules.after,
        hold: machine.hold(),
        ramp: pair.rules.ramp,
        spill: pair.spill,
        record_problem: (view.record_problem)(pair.id),
        record_problem_since: stamp(onsets.record),
        unwritten: view.decider.unwritten(pair.id).map(str::to_owned),
        unwritten_since: stamp(onsets.unwritten),
        writing: machine.wanted().is_some(),
        pools: Side::BOTH.map(|side| home_status(view, pair, side)),
    }
}

fn home_status(view: &View<'_>, pair: &Pair, side: Side) -> HomeStatus {
    let clock = view.clock();
    let machine = view.decider.pair(pair.id);
    let entry = machine.record().entry(side);
    let (fitness, fitness_since) = machine.fitness(side);
    let home = view.topology.pool(pair.pool(side));
    let twin = view.topology.pool(pair.pool(side.other()));
    let (phase, share) = match entry.phase {
        Phase::Home => (HomePhase::Home, 100),
        Phase::Away => (HomePhase::Away, 0),
        Phase::Returning(share) => (HomePhase::Returning, share.percent()),
    };
    let serving = match phase {
        HomePhase::Home => vec![home.name.clone()],
        HomePhase::Away => vec![twin.name.clone()],
        HomePhase::Returning => vec![home.name.clone(), twin.name.clone()],
    };
    let counted = Counted::sum(view, home.id);
    let next = machine.prospects().find(|prospect| prospect.side == side);
    HomeStatus {
        pool: home.name.clone(),
        twin: twin.name.clone(),
        site: home
            .site
            .map(|site| view.topology.sites[site.index()].name.clone()),
        phase,
        share,
        serving,
        cause: entry.cause,
        cause_text: redirect_cause_text(entry.cause).to_owned(),
        by: match &entry.by {
            By::Twinpool => "twinpool".to_owned(),
            By::Operator(name) => name.clone(),
        },
        ordered: entry.by != By::Twinpool,
        reason: entry.reason.clone(),
        since: clock.stamp(entry.since),
        spilling: (view.spilling)(home.id),
        spilling_since: view.onsets.spilling(home.id).map(|at| clock.stamp(at)),
        fitness,
        fitness_since: clock.stamp(fitness_since),
        sessions_at_home: counted.at_home,
        sessions_at_twin: counted.at_twin,
        to_move: (view.to_move)(home.id),
        drains_until: (view.drains_until)(home.id).map(|until| clock.stamp(until)),
        moved: counted.moved,
        spilled: counted.spilled,
        arrivals_held: counted.arrivals_held,
        next: next.map(|prospect| NextMove {
            act: prospect.act,
            at: clock.stamp(prospect.at.max(view.now)),
            text: act_text(view.topology, pair, &prospect, entry.phase),
        }),
    }
}

/// What a prospect does, in words.
fn act_text(topology: &Topology, pair: &Pair, prospect: &Prospect, phase: Phase) -> String {
    let twin = &topology.pool(pair.pool(prospect.side.other())).name;
    match (prospect.act, phase) {
        (Act::Relapse, _) => format!("its users go back to {twin}"),
        (Act::Finish, _) => "all its users go home at once".to_owned(),
        (Act::Failover, _) => format!("its users go to {twin}"),
        (Act::Failback, _) => "its users begin to go home".to_owned(),
        (Act::Step, Phase::Returning(share)) => match share.next() {
            Some(next) => format!("{} % of its clients go home", next.percent()),
            None => "all its clients are home".to_owned(),
        },
        (Act::Step, _) => "the next of its clients go home".to_owned(),
        (Act::Calm, _) => "the rounds of the past are forgotten".to_owned(),
    }
}

/// [`HomeCounters`] of all workers, summed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    at_home: u64,
    at_twin: u64,
    spilled: u64,
    moved: u64,
    arrivals_held: u64,
}

impl Counted {
    fn sum(view: &View<'_>, home: PoolId) -> Counted {
        let mut sum = Counted::default();
        for worker in view.workers {
            sum.add(worker.home(home));
        }
        sum
    }

    fn add(&mut self, c: &HomeCounters) {
        let (at_home, at_twin) = c.open();
        self.at_home += at_home;
        self.at_twin += at_twin;
        self.spilled += c.spilled.get();
        self.moved += c.moved.get();
        self.arrivals_held += c.arrivals_held.get();
    }
}

/// Spans as seconds, whole or with a fraction.
mod seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(span.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample::Plight;
    use crate::observe::status::Status;
    use crate::pairing::pair::Destination;
    use crate::topology::PairId;

    #[test]
    fn a_pair_shows_what_is_in_force_and_not_what_is_being_written() {
        let mut plight = Plight::new();
        plight.slow = true;
        plight.order("fe-seoul", Destination::Twin);
        let writing = plight.status().pairs.remove(0);
        assert!(writing.writing);
        assert_eq!(writing.generation, 0);
        assert_eq!(writing.pools[0].phase, HomePhase::Home);
        let (pair, now) = (PairId(0), plight.now);
        plight.decider.handle_stored(pair, 1, Ok(()), now);
        let written = plight.status().pairs.remove(0);
        assert_eq!((written.writing, written.generation), (false, 1));
        let [seoul, busan] = &written.pools;
        assert_eq!((seoul.phase, seoul.share), (HomePhase::Away, 0));
        assert_eq!(seoul.serving, ["fe-busan"]);
        assert_eq!((seoul.by.as_str(), seoul.ordered), ("alice", true));
        assert_eq!(seoul.reason.as_deref(), Some("kernel update"));
        assert_eq!((busan.phase, busan.share), (HomePhase::Home, 100));
        assert_eq!(busan.twin, "fe-seoul");
        assert_eq!(written.twin_of(seoul), busan);
    }

    #[test]
    fn the_next_move_is_told_with_its_moment() {
        let mut plight = Plight::new();
        plight.lose(&["fe-seoul"]);
        let status = plight.status();
        let next = status.pairs[0].pools[0].next.clone().unwrap();
        assert_eq!(next.act, Act::Failover);
        assert_eq!(next.text, "its users go to fe-busan");
        let lost_at = status.pairs[0].pools[0].fitness_since;
        assert_eq!(lost_at.until(next.at), Duration::from_secs(10));
        assert_eq!(status.pairs[1].pools[0].next, None, "that one is well");
    }

    #[test]
    fn sessions_of_all_workers_are_summed_by_where_they_stand() {
        let plight = Plight::new();
        let id = plight.pool("fe-busan");
        for worker in &plight.workers {
            let home = worker.home(id);
            home.at_home.add(7);
            home.at_home_ended.add(2);
            home.at_twin.add(4);
            home.spilled.add(3);
        }
        let busan = plight.status().pairs[0].pools[1].clone();
        assert_eq!((busan.sessions_at_home, busan.sessions_at_twin), (10, 8));
        assert_eq!((busan.spilled, busan.moved), (6, 0));
        assert_eq!(plight.status().pairs[0].pools[0].sessions_at_home, 0);
    }

    #[test]
    fn a_pair_survives_json_and_its_spans_are_seconds() {
        let mut plight = Plight::new();
        plight.lose(&["fe-seoul"]);
        let status = plight.status();
        let json = serde_json::to_string(&status).unwrap();
        assert!(json.contains("\"after_seconds\":10.0"), "{json}");
        assert!(json.contains("\"failover\":\"automatic\""), "{json}");
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
        let hostile = json.replace("\"after_seconds\":10.0", "\"after_seconds\":-1");
        assert!(serde_json::from_str::<Status>(&hostile).is_err());
    }

    #[test]
    fn a_site_knows_its_pools_and_a_pause_its_author() {
        let mut plight = Plight::new();
        plight.lose(&["fe-busan", "med-busan"]);
        let now = plight.now;
        plight.decider.handle_pause("bob".to_owned(), None, now);
        let status = plight.status();
        let busan = &status.sites[1];
        assert_eq!((busan.name.as_str(), busan.lost), ("busan", true));
        assert_eq!(busan.pools, ["fe-busan", "med-busan"]);
        assert_eq!(busan.region.as_deref(), Some("kr-south"));
        assert!(!status.sites[0].lost);
        assert_eq!(status.pause.map(|pause| pause.by).as_deref(), Some("bob"));
        assert_eq!(status.pairs[0].halt, Some(Halt::Paused));
    }
}
