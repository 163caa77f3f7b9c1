//! Why the users of a pair are sent where they are sent.

use serde::{Deserialize, Serialize};

use super::setting;
use crate::observe::events::{Event, is_of_pair};
use crate::observe::outlook::{decided, fitness_text, halt_text, outlook, whereabouts};
use crate::observe::problems::number;
use crate::observe::stamp::{Stamp, span};
use crate::observe::status::{HomeStatus, Isolated, PairStatus, isolated, pair_status};
use crate::observe::view::View;
use crate::pairing::pair::Halt;
use crate::pairing::record::Cause;
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
        events: view
            .events
            .last_of(TOLD, |event| is_of_pair(view.topology, pair, event)),
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
    let mut users = match home.cause {
        Cause::Start => format!("{}, as they always were", whereabouts(home)),
        _ => format!(
            "{} since {} UTC ({}), {}",
            whereabouts(home),
            home.since.clock_face(now),
            span(now.since(home.since)),
            decided(home),
        ),
    };
    if home.spilling {
        users += &format!(
            "; sessions that no member takes go to {} one by one",
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
        sessions: sessions(home, now),
        next: outlook(pair, home, view.decider.isolated().is_some(), now),
    }
}

fn sessions(home: &HomeStatus, now: Stamp) -> String {
    let mut told = format!(
        "{} on {}, {} on {}",
        number(home.sessions_at_home),
        home.pool,
        number(home.sessions_at_twin),
        home.twin
    );
    if home.to_move > 0 {
        told += &format!(", {} to move", number(home.to_move));
        if let Some(until) = home.drains_until {
            told += &format!(" (they drain for {} yet)", span(now.until(until)));
        }
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
        true => "a session that no home member takes goes to the twin at once (spill)",
        false => "no session goes to the twin before its pool has failed over (no spill)",
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
#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample::Plight;
    use crate::observe::why::{PoolWhy, Why};
    use crate::pairing::Record;
    use crate::pairing::pair::Destination;

    fn of(plight: &Plight, name: &str) -> PairWhy {
        match plight.why(name) {
            Why::Pair(why) => *why,
            Why::Pool(_) => panic!("{name} is a pool"),
        }
    }

    fn of_pool(plight: &Plight, name: &str) -> PoolWhy {
        match plight.why(name) {
            Why::Pool(why) => *why,
            Why::Pair(_) => panic!("{name} is a pair"),
        }
    }

    #[test]
    fn the_rules_in_force_are_told_in_words() {
        let plight = Plight::new();
        assert_eq!(
            of(&plight, "korea").rules,
            [
                "failover is automatic: the users of a pool that has been lost for 10 s go to its \
                 twin",
                "failback is automatic: they go home, a rising share of them over 1 min 35 s, \
                 once their pool has been well for 5 min",
                "a session that no home member takes goes to the twin at once (spill)",
                "what a person ordered stays, but for leaving a lost pool for one that serves",
            ]
        );
        assert_eq!(
            of(&plight, "media").rules,
            [
                "failover is manual: a lost pool's users go to its twin by `twinpool failover \
                 POOL`",
                "failback is manual: they go home, a rising share of them over 1 min 35 s, by \
                 `twinpool failback POOL`",
                "no session goes to the twin before its pool has failed over (no spill)",
            ]
        );
    }

    #[test]
    fn a_pair_tells_where_its_users_are_why_and_what_comes_next() {
        let mut plight = Plight::new();
        plight.lose(&["fe-seoul"]);
        plight.run(72_000);
        let id = plight.pool("fe-seoul");
        plight.workers[0].home(id).at_twin.add(1_812);
        let why = of(&plight, "korea");
        let [seoul, busan] = &why.homes;
        assert!(
            seoul
                .users
                .starts_with("its users are on fe-busan since 03:14:")
                && seoul.users.ends_with("by twinpool: the home pool was lost"),
            "{}",
            seoul.users
        );
        assert!(
            seoul.fitness.starts_with("lost for 1 min")
                && seoul
                    .fitness
                    .ends_with(": 0 of the first 3 members present, 2 needed to stay, 2 to start"),
            "{}",
            seoul.fitness
        );
        assert_eq!(seoul.sessions, "0 on fe-seoul, 1,812 on fe-busan");
        assert_eq!(
            seoul.next,
            "its users go home once it has been well for 5 min; it has to serve again before"
        );
        assert_eq!(busan.users, "its users are at home, as they always were");
        assert_eq!(
            busan.next,
            "it has nowhere to send its users: fe-seoul is lost"
        );
        let told: Vec<&str> = why.events.iter().map(|event| event.text.as_str()).collect();
        assert!(
            told[0].starts_with("fe-seoul: degraded → lost")
                || told[0].starts_with("fe-seoul: serving → "),
            "{told:?}"
        );
        assert!(
            told.last().unwrap().starts_with("fe-seoul: home → away"),
            "{told:?}"
        );
        assert_eq!((&why.halted, &why.record), (&None, &None));
    }

    #[test]
    fn events_of_other_pairs_are_left_out() {
        let mut plight = Plight::new();
        plight.order("med-seoul", Destination::Twin);
        assert!(of(&plight, "korea").events.is_empty());
        assert_eq!(of(&plight, "media").events.len(), 1);
    }

    #[test]
    fn a_hold_that_has_grown_is_told_with_its_limit() {
        let mut plight = Plight::new();
        plight.lose(&["fe-seoul"]);
        plight.run(12_000);
        plight.set("fe-seoul", false);
        plight.run(320_000);
        let rule = of(&plight, "korea").rules.remove(1);
        assert!(
            rule.ends_with(
                "well for 10 min (grown from 5 min by 1 automatic failback; a relapse at 10 min \
                 ends automation)"
            ),
            "{rule}"
        );
    }

    #[test]
    fn what_halts_automation_is_told_with_what_ends_that() {
        let mut plight = Plight::with(vec![(Record::home(4, crate::observe::sample::NOW), true)]);
        plight.record_problem = Some("korea.json: checksum differs".to_owned());
        let why = of(&plight, "korea");
        assert_eq!(
            why.halted.as_deref(),
            Some(
                "automation waits, because the record was damaged; `twinpool resume` lets it go on"
            )
        );
        assert!(why.record.unwrap().starts_with("korea.json: checksum"));
        let (now, reason) = (plight.now, Some("network work".to_owned()));
        plight.decider.handle_pause("bob".to_owned(), reason, now);
        let halted = of(&plight, "media").halted.unwrap();
        assert!(
            halted.starts_with("automation is paused since 03:14:17 UTC")
                && halted.ends_with("by bob: network work; `twinpool resume` lets it go on"),
            "{halted}"
        );
    }

    #[test]
    fn a_record_that_cannot_be_written_is_told_with_what_follows() {
        let mut plight = Plight::new();
        plight.disk = Some("read-only file system".to_owned());
        plight.order("fe-seoul", Destination::Twin);
        assert_eq!(
            of(&plight, "korea").record.as_deref(),
            Some(
                "cannot be written: read-only file system; what it wanted is not in force, and \
                 automation tries again every second"
            )
        );
    }

    #[test]
    fn a_pool_tells_its_pair_and_where_its_users_are() {
        let mut plight = Plight::new();
        plight.order("fe-seoul", Destination::Twin);
        let redirect = of_pool(&plight, "fe-seoul").redirect.unwrap();
        assert_eq!(redirect.pair, "korea");
        assert!(
            redirect.users.starts_with("its users are on fe-busan"),
            "{}",
            redirect.users
        );
        assert_eq!(of_pool(&plight, "fe-seoul/fe1").redirect, None);
    }

    #[test]
    fn either_explanation_survives_json() {
        let plight = Plight::new();
        for name in ["korea", "fe-seoul", "fe-seoul/fe1"] {
            let why = plight.why(name);
            let json = serde_json::to_string(&why).unwrap();
            assert_eq!(serde_json::from_str::<Why>(&json).unwrap(), why, "{name}");
        }
    }
}
