use std::num::NonZeroU32;
use std::sync::Arc;

use super::*;
use crate::config;
use crate::health::{Answer, Failure, ProbeOutcome};
use crate::pairing::record::{Cause, Entry, Share};
use crate::pairing::{Output, Standing};
use crate::topology::{Automation, PairRules};

const NOW: Time = Time::from_millis(10_000_000);

/// `fe` and `fe-b` are the pair `korea`; `web` has no twin.
fn topology() -> Topology {
    let mut text = r#"
[sites.seoul]
region = "kr-north"
[sites.busan]
region = "kr-south"
[roles.web]
primary = "http"
services.http = { port = 8080 }
"#
    .to_owned();
    for (name, site) in [("fe", "seoul"), ("web", "seoul"), ("fe-b", "busan")] {
        text += &format!(
            "[pools.{name}]\nrole = \"web\"\nsite = \"{site}\"\nquorum = 1\n\
             members = {{ a = \"192.0.2.1\", b = \"192.0.2.2\" }}\n\
             services.http = {{ listen = \"127.0.0.1:0\" }}\n"
        );
    }
    let parsed = config::parse(&text, "test.toml").expect("a configuration");
    let mut topology = parsed.config.topology;
    let id = |name: &str| topology.pool_named(name).expect("a pool").id;
    let few = NonZeroU32::new(50).expect("not zero");
    topology.pairs = vec![Pair {
        id: PairId(0),
        name: "korea".to_owned(),
        pools: [id("fe"), id("fe-b")],
        rules: PairRules {
            failover: Automation::Manual,
            after: Duration::from_secs(10),
            failback: Automation::Manual,
            hold: Duration::from_secs(300),
            longest_hold: Duration::from_secs(3_600),
            ramp: Duration::from_secs(60),
        },
        spill: false,
        exclusive: false,
        move_rate: few,
        arrivals: few,
    }];
    topology
}

fn record(generation: u64, phases: [Phase; 2]) -> Record {
    let mut record = Record::home(generation, NOW);
    for (entry, phase) in record.entries.iter_mut().zip(phases) {
        *entry = Entry {
            phase,
            cause: Cause::Ordered,
            by: By::Operator("alice".to_owned()),
            reason: None,
            since: Time::from_millis(NOW.as_nanos() / 1_000_000 - 240_000),
        };
    }
    record
}

fn decider(record: Record, damaged: bool) -> Decider {
    let records = vec![(record, damaged)];
    Decider::new(Arc::new(topology()), Standing::default(), records, 1, NOW)
}

const AWAY_HERE: [Phase; 2] = [Phase::Away, Phase::Home];
const HOME: [Phase; 2] = [Phase::Home, Phase::Home];

/// What a change from `before` to `after` is told as, with these sessions of `fe`'s users at home
/// and at the twin, and none of `fe-b`'s.
fn told(before: [Phase; 2], after: [Phase; 2], stand: (u64, u64), drains: bool) -> String {
    let topology = topology();
    let (before, after) = (record(6, before), record(7, after));
    let fe = topology.pools[0].id;
    let change = Change {
        users: Users::named(&topology, "fe").expect("a pair"),
        before: &before,
        after: &after,
        drains,
        isolated: false,
        stand: &move |pool| if pool == fe { stand } else { (9, 1) },
    };
    change.text()
}

#[test]
fn what_a_move_means_is_told_with_how_many_and_how() {
    let returning = [Phase::Returning(Share::FIRST), Phase::Home];
    let at_twin = [Phase::Home, Phase::Away];
    let told = [
        told(HOME, AWAY_HERE, (1_200, 0), true),
        told(HOME, AWAY_HERE, (1, 0), true),
        told(HOME, AWAY_HERE, (1_201, 0), false),
        told(HOME, AWAY_HERE, (0, 5), false),
        told(AWAY_HERE, returning, (0, 1_200), false),
        told(AWAY_HERE, HOME, (0, 30), false),
        told(returning, AWAY_HERE, (7, 30), true),
        told(at_twin, AWAY_HERE, (120, 0), true),
    ];
    let expected = [
        "fe: home → away (generation 7), served by fe-b; 1,200 sessions on fe drain to 10 min, the \
         rest ends at 50 a second",
        "fe: home → away (generation 7), served by fe-b; 1 session on fe drains to 10 min, the \
         rest ends at 50 a second",
        "fe: home → away (generation 7), served by fe-b; 1,201 sessions on fe end at 50 a second, \
         within 25 s",
        "fe: home → away (generation 7), served by fe-b; no sessions on fe",
        "fe: away → returning (5 %) (generation 7); new sessions come home over 1 min, then \
         what is left of 1,200 sessions on fe-b ends at 50 a second",
        "fe: away → home (generation 7); 30 sessions on fe-b end at 50 a second, within 1 s",
        "fe: returning (5 %) → away (generation 7), served by fe-b; 7 sessions on fe drain to \
         10 min, the rest ends at 50 a second",
        "fe: home → away (generation 7), served by fe-b; 120 sessions on fe drain to 10 min, the \
         rest ends at 50 a second; in the same moment fe-b: away → home; 1 session on fe ends at \
         50 a second, within 1 s",
    ];
    for (told, expected) in told.iter().zip(expected) {
        assert_eq!(told, expected);
    }
}

#[test]
fn every_refusal_says_what_overrides_it_or_what_to_do_instead() {
    let decider = decider(record(6, AWAY_HERE), false);
    let topology = decider.topology().clone();
    let users = Users::named(&topology, "fe").expect("a pair");
    let told = |refusal, to| refused(refusal, users, to, &decider, NOW);
    let cases = [
        (
            MoveRefusal::Already(Phase::Away),
            Destination::Twin,
            "fe: away already, for 4 min by alice (generation 6); --now ends at once what still drains",
        ),
        (
            MoveRefusal::Already(Phase::Returning(Share::FIRST)),
            Destination::Home,
            "--now brings the rest home at once",
        ),
        (
            MoveRefusal::Already(Phase::Home),
            Destination::Home,
            "`twinpool failover fe`",
        ),
        (
            MoveRefusal::Lost,
            Destination::Twin,
            "fe-b, which would serve them, is lost, and nothing overrides that; bring members of \
             it back first, `twinpool why fe-b`",
        ),
        (MoveRefusal::Lost, Destination::Home, "`twinpool why fe` "),
        (
            MoveRefusal::Unknown,
            Destination::Twin,
            "the first checks of fe-b are not in",
        ),
        (
            MoveRefusal::Low,
            Destination::Home,
            "fe has fewer members present than it needs to start (2 present, 1 needed)",
        ),
        (
            MoveRefusal::TwinAway,
            Destination::Twin,
            "the users of fe-b are served here, by fe, and would have to leave too; `twinpool \
             failback fe-b` first",
        ),
        (
            MoveRefusal::Isolated,
            Destination::Twin,
            "this instance thinks that the fault is its own",
        ),
        (MoveRefusal::Writing, Destination::Twin, "try again"),
    ];
    for (refusal, to, part) in cases {
        let told = told(refusal, to);
        assert!(told.contains(part), "{told}");
        assert_eq!(
            told.contains("repeat with --force"),
            can_be_forced(refusal),
            "{told}"
        );
    }
}

#[test]
fn a_name_is_looked_up_with_what_was_probably_meant() {
    let topology = topology();
    let told = |name| Users::named(&topology, name).expect_err("refused");
    assert_eq!(
        told("fe-bb").to_string(),
        "no pool is named \"fe-bb\"; did you mean \"fe-b\"?"
    );
    let Refused::Harmful(told) = told("web") else {
        panic!("not refused");
    };
    assert!(told.contains("web has no twin") && told.contains("[pairs.NAME]"));
    let error = site(&topology, "seul").expect_err("refused");
    assert_eq!(
        error.to_string(),
        "no site is named \"seul\"; did you mean \"seoul\"?"
    );
    assert_eq!(site(&topology, "busan"), Ok(SiteId(1)));
}

#[test]
fn pools_without_a_twin_are_told_to_stay() {
    let topology = topology();
    assert_eq!(
        staying(&topology, SiteId(0)).as_deref(),
        Some("web has no twin and stays as it is")
    );
    assert_eq!(staying(&topology, SiteId(1)), None);
}

#[test]
fn a_pause_says_who_stays_where_he_is_and_a_resume_what_it_ends() {
    let mut away = record(6, AWAY_HERE);
    away.alarm = true;
    away.rounds = 3;
    let mut decider = decider(away.clone(), false);
    assert_eq!(
        paused(&decider),
        "all automation of pairs is paused until `twinpool resume`; the users of fe stay where \
         they are"
    );
    let since = Time::from_millis(NOW.as_nanos() / 1_000_000 + 60_000);
    decider.handle_pause("bob".to_owned(), None, NOW);
    let ended = halts(&decider, since);
    assert_eq!(
        ended,
        [
            (None, "the pause by bob, of 1 min".to_owned()),
            (Some(PairId(0)), "the alarm of korea".to_owned()),
        ]
    );
    let damaged = super::tests::decider(away, true);
    assert_eq!(
        halts(&damaged, NOW),
        [(
            Some(PairId(0)),
            "the wait of korea after its record was damaged".to_owned()
        )]
    );
}

#[test]
fn an_order_is_given_again_as_it_was() {
    let order = Redirection {
        what: Redirect::Evacuate("seoul".to_owned()),
        by: "alice".to_owned(),
        reason: None,
        now: true,
        force: false,
        dry_run: false,
    };
    assert_eq!(again(&order), "twinpool evacuate seoul --now");
}

/// Whether sessions drain is the machine's to decide: what is told is what it does.
#[test]
fn what_is_told_of_a_drain_is_what_the_decider_does() {
    for (answer, now) in [
        (Some(Answer::Good), false),
        (Some(Answer::Good), true),
        (Some(Answer::Bad(Failure::Refused)), false),
        (None, false),
    ] {
        let mut decider = decider(Record::home(0, NOW), false);
        let topology = decider.topology().clone();
        let fe = topology.pools[0].id;
        let mut at = NOW;
        for _ in 0..100 {
            at += Duration::from_millis(100);
            decider.handle_timeout(at);
            while let Some(output) = decider.poll_output() {
                let Output::Probe(target) = output else {
                    continue;
                };
                let answer = match target.pool == fe {
                    true => answer,
                    false => Some(Answer::Good),
                };
                if let Some(answer) = answer {
                    let outcome = ProbeOutcome {
                        answer,
                        took: Duration::ZERO,
                        transcript: String::new(),
                    };
                    decider.handle_probe(target, &outcome, at);
                }
            }
        }
        let users = Users::named(&topology, "fe").expect("a pair");
        let order = Move {
            side: users.side,
            to: Destination::Twin,
            by: "alice".to_owned(),
            reason: None,
            now,
            force: false,
        };
        let told = drains(&decider, users, &order);
        let ordered = decider.handle_move(PairId(0), &order, at);
        decider.handle_stored(PairId(0), ordered.expect("carried out"), Ok(()), at);
        let mut from = None;
        while let Some(output) = decider.poll_output() {
            if let Output::Clear { from: when, .. } = output {
                from = Some(when);
            }
        }
        let drained = from.expect("a move") > at;
        assert_eq!(told, drained, "{answer:?}, now: {now}");
        let lost = answer == Some(Answer::Bad(Failure::Refused));
        assert_eq!(drained, !now && !lost, "{answer:?}, now: {now}");
    }
}
