//! Why the users of a pair are sent where they are sent.

use serde::{Deserialize, Serialize};

use super::setting;
use crate::observe::events::{Event, Kind};
use crate::observe::outlook::{decided, fitness_text, halt_text, outlook, whereabouts};
use crate::observe::problems::number;
use crate::observe::stamp::{Stamp, span};
use crate::observe::status::{HomeStatus, Isolated, PairStatus, isolated, pair_status};
use crate::observe::view::View;
use crate::topology::{Automation, Pair, Pool};

/// How many of the last events of a pair an explanation carries: a failover and a failback, with
/// the conditions before them.
const TOLD: usize = 12;

/// An explanation of a pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairWhy {
    /// The pair's name.
    pub name: String,
    /// The moment.
    pub now: Stamp,
    /// While the instance decides nothing.
    pub isolated: Option<Isolated>,
    /// The pair.
    pub pair: PairStatus,
    /// Its rules in force, a sentence each.
    pub rules: Vec<String>,
    /// Why automation decides nothing, since when and by whom, and what ends that.
    pub halted: Option<String>,
    /// What is wrong with its record, and what mends that.
    pub record: Option<String>,
    /// Its two home pools, in file order.
    pub homes: [HomeWhy; 2],
    /// What happened to it lately, oldest first.
    pub events: Vec<Event>,
}

/// Why the users of one home pool are sent where they are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeWhy {
    /// The home pool.
    pub pool: String,
    /// Its pair.
    pub pair: String,
    /// Where its users are, since when, by whom and why.
    pub users: String,
    /// How the home pool does, since when.
    pub fitness: String,
    /// Their sessions, by where they stand.
    pub sessions: String,
    /// What comes next and when, or what it would take.
    pub next: String,
}

pub(super) fn why(view: &View<'_>, pair: &Pair) -> PairWhy {
    let status = pair_status(view, pair);
    let now = view.clock().stamp(view.now);
    PairWhy {
        name: pair.name.clone(),
        now,
        isolated: isolated(view),
        rules: rules(pair, &status),
        halted: halted(view, &status, now),
        record: record(&status),
        homes: [0, 1].map(|i| home(view, &status, &status.pools[i], now)),
        events: view.events.last_of(TOLD, |event| is_of(view, pair, event)),
        pair: status,
    }
}

/// Where a pool's users are sent, if it has a twin.
pub(super) fn of_pool(view: &View<'_>, pool: &Pool) -> Option<HomeWhy> {
    let (pair, side) = view.topology.pair_of(pool.id)?;
    let status = pair_status(view, pair);
    let now = view.clock().stamp(view.now);
    Some(home(view, &status, &status.pools[side.index()], now))
}

fn home(view: &View<'_>, pair: &PairStatus, home: &HomeStatus, now: Stamp) -> HomeWhy {
    let mut users = format!(
        "{} since {} UTC ({}), {}",
        whereabouts(home),
        home.since.clock_face(now),
        span(now.since(home.since)),
        decided(home),
    );
    if home.spilling {
        users += &format!(
            "; connections that no member accepts go to {} one by one",
            home.twin
        );
    }
    let mut fitness = fitness_text(home, now);
    if let Some(pool) = view.topology.pool_named(&home.pool) {
        let (_, _, present) = view.decider.condition(pool.id);
        let need = pool.quorum;
        fitness += &format!(
            ": {present} of the first {} members present, {} needed to stay, {} to start",
            need.to_stay.of_first, need.to_stay.members, need.to_start.members
        );
    }
    HomeWhy {
        pool: home.pool.clone(),
        pair: pair.name.clone(),
        users,
        fitness,
        sessions: sessions(home),
        next: outlook(pair, home, view.decider.isolated().is_some(), now),
    }
}

fn sessions(home: &HomeStatus) -> String {
    let mut told = format!(
        "{} on {}, {} on {}",
        number(home.sessions_at_home),
        home.pool,
        number(home.sessions_at_twin),
        home.twin
    );
    if home.to_move > 0 {
        told += &format!(", {} to move", number(home.to_move));
    }
    if home.moved > 0 {
        told += &format!(", {} moved since the start", number(home.moved));
    }
    if home.spilled > 0 {
        told += &format!(", {} spilled since the start", number(home.spilled));
    }
    told
}

/// The rules of a pair in words.
pub(in crate::observe) fn rules(pair: &Pair, status: &PairStatus) -> Vec<String> {
    let rules = &pair.rules;
    let failover = match (rules.failover, rules.after.is_zero()) {
        (Automation::Automatic, true) => {
            "failover is automatic: a lost pool's users go to its twin at once".to_owned()
        }
        (Automation::Automatic, false) => format!(
            "failover is automatic: the users of a pool that has been lost for {} go to its twin",
            setting(rules.after)
        ),
        (Automation::Manual, _) => {
            "failover is manual: a lost pool's users go to its twin by `twinpool failover POOL`"
                .to_owned()
        }
    };
    let over = match rules.ramp.is_zero() {
        true => "all at once".to_owned(),
        false => format!("a rising share of them over {}", setting(rules.ramp)),
    };
    let failback = match rules.failback {
        Automation::Automatic => format!(
            "failback is automatic: they go home, {over}, once their pool has been well for {}{}",
            setting(status.hold),
            grown(pair, status)
        ),
        Automation::Manual => {
            format!("failback is manual: they go home, {over}, by `twinpool failback POOL`")
        }
    };
    let spill = match pair.spill {
        true => "a connection that no home member accepts goes to the twin at once (spill)",
        false => "no connection goes to the twin before its pool has failed over (no spill)",
    };
    let ordered = "what a person ordered stays, but for leaving a lost pool for one that serves";
    let mut told = vec![failover, failback, spill.to_owned()];
    if rules.failover == Automation::Automatic || rules.failback == Automation::Automatic {
        told.push(ordered.to_owned());
    }
    told
}

/// How far the hold has grown, where it has.
fn grown(pair: &Pair, status: &PairStatus) -> String {
    let rounds = match status.rounds {
        0 => return String::new(),
        1 => "1 automatic failback".to_owned(),
        n => format!("{n} automatic failbacks"),
    };
    format!(
        " (grown from {} by {rounds}; a relapse at {} ends automation)",
        setting(pair.rules.hold),
        setting(pair.rules.longest_hold.max(pair.rules.hold)),
    )
}

fn halted(view: &View<'_>, status: &PairStatus, now: Stamp) -> Option<String> {
    use crate::pairing::pair::Halt;
    let halt = status.halt?;
    let why = match (halt, view.decider.pause()) {
        (Halt::Paused, Some(pause)) => {
            let since = view.clock().stamp(pause.since);
            let reason = pause.reason.as_ref().map(|reason| format!(": {reason}"));
            format!(
                " since {} UTC ({}) by {}{}",
                since.clock_face(now),
                span(now.since(since)),
                pause.by,
                reason.unwrap_or_default()
            )
        }
        (Halt::Alarm, _) => ": it failed over and back too often".to_owned(),
        _ => String::new(),
    };
    let text = halt_text(halt);
    Some(format!("{text}{why}; `twinpool resume` lets it go on"))
}

/// What is wrong with a pair's record, and what mends that.
pub(in crate::observe) fn record(status: &PairStatus) -> Option<String> {
    let read = status.record_problem.as_ref().map(|problem| {
        format!("{problem}; compare it with where the users are, then `twinpool resume`")
    });
    let written = status.unwritten.as_ref().map(|error| {
        format!(
            "cannot be written: {error}; what it wanted is not in force, and automation tries \
             again every second"
        )
    });
    match (read, written) {
        (Some(read), Some(written)) => Some(format!("{read}; {written}")),
        (read, written) => read.or(written),
    }
}

/// Whether an event tells something of this pair.
fn is_of(view: &View<'_>, pair: &Pair, event: &Event) -> bool {
    let pools = pair.pools.map(|pool| view.topology.pool(pool));
    let of_pool = || pools.iter().any(|p| Some(&p.name) == event.pool.as_ref());
    let of_site = || {
        let sites = pools.iter().filter_map(|pool| pool.site);
        let names = sites.map(|site| &view.topology.sites[site.index()].name);
        names
            .into_iter()
            .any(|name| Some(name) == event.site.as_ref())
    };
    match event.kind {
        Kind::Redirect | Kind::Alarm | Kind::Store | Kind::Spill => {
            event.pair.as_ref() == Some(&pair.name)
        }
        Kind::Condition => of_pool(),
        Kind::Site => of_site(),
        Kind::Pause | Kind::Isolation => true,
        Kind::Verdict
        | Kind::Service
        | Kind::Operator
        | Kind::Deadline
        | Kind::First
        | Kind::Instance => false,
    }
}
