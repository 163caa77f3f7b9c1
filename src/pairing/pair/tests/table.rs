//! The transition table: what automation does in every situation, what becomes of every order in
//! every situation, and stories, a row for each rule that takes more than one moment. All are
//! printed (`cargo test --lib pairing::pair::tests::table -- --no-capture`), and compared with the
//! rules, which are stated here once more, as sentences that begin with "where".

use std::collections::BTreeMap;

use super::*;

const FITNESS: [Fitness; 4] = [Fitness::Unknown, Fitness::Lost, Fitness::Low, Fitness::Well];

/// What keeps automation from beginning anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bar {
    Nothing,
    Paused,
    Alarm,
    Damaged,
    Isolated,
}

const BARS: [Bar; 5] = [
    Bar::Nothing,
    Bar::Paused,
    Bar::Alarm,
    Bar::Damaged,
    Bar::Isolated,
];

/// A pair at one moment, at which both pools have just become as they are.
#[derive(Clone, Debug)]
struct Situation {
    failover: Automation,
    failback: Automation,
    phases: [Phase; 2],
    /// Who decided about those who are not at home.
    by: By,
    fitness: [Fitness; 2],
    bar: Bar,
}

/// What follows if nothing else happens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    after: Duration,
    phases: [Phase; 2],
}

impl Situation {
    fn lost(&self, side: Side) -> bool {
        self.fitness[side.index()] == Fitness::Lost
    }

    fn serves(&self, side: Side) -> bool {
        matches!(self.fitness[side.index()], Fitness::Low | Fitness::Well)
    }

    /// Whether automation may begin something that is automatic in this pair.
    fn may(&self, automation: Automation) -> bool {
        automation == Automation::Automatic && self.bar == Bar::Nothing
    }

    fn machine(&self, now: Time) -> PairMachine {
        let rules = PairRules {
            failover: self.failover,
            failback: self.failback,
            ..automatic()
        };
        let mut record = Record::home(7, now);
        for side in Side::BOTH {
            let entry = &mut record.entries[side.index()];
            entry.phase = self.phases[side.index()];
            if entry.phase != Phase::Home {
                entry.by = self.by.clone();
            }
        }
        if self.bar == Bar::Alarm {
            record.alarm = true;
            record.rounds = 1;
        }
        let mut machine = PairMachine::new(rules, record, self.bar == Bar::Damaged, now);
        machine.handle_paused(self.bar == Bar::Paused, now);
        machine.handle_isolated(self.bar == Bar::Isolated, now);
        for side in Side::BOTH {
            machine.handle_pool(side, self.fitness[side.index()], now);
        }
        machine
    }

    /// What the machine does.
    fn next(&self) -> Option<Next> {
        let began = Time::from_millis(1_000_000);
        let mut machine = self.machine(began);
        let mut now = began;
        loop {
            match machine.poll_output() {
                Some(PairOutput::Store(record)) => {
                    return Some(Next {
                        after: now.since(began),
                        phases: [record.phase(A), record.phase(B)],
                    });
                }
                Some(output) => panic!("{output:?}"),
                None => {
                    now = machine.poll_timeout()?.0;
                    machine.handle_timeout(now);
                }
            }
        }
    }
}

/// What a rule says of a situation, for the users of one side.
type Says = fn(&Situation, Side) -> Option<Next>;

fn next(after: Duration, side: Side, phase: Phase, twin: Phase) -> Option<Next> {
    let phases = match side {
        A => [phase, twin],
        B => [twin, phase],
    };
    Some(Next { after, phases })
}

/// The rules of automation. Of several, the one that comes soonest is followed.
const RULES: [(&str, Says); 6] = [
    (
        "where users come home to a pool that is lost and the twin serves, all go away at once",
        |at, side| {
            let relapses = matches!(at.phases[side.index()], Phase::Returning(_))
                && at.lost(side)
                && at.serves(side.other());
            relapses.then(|| next(Duration::ZERO, side, Phase::Away, Phase::Home))?
        },
    ),
    (
        "where users come home to a pool that serves and the twin is lost, all are home at once",
        |at, side| {
            let finishes = matches!(at.phases[side.index()], Phase::Returning(_))
                && at.serves(side)
                && at.lost(side.other());
            finishes.then(|| next(Duration::ZERO, side, Phase::Home, Phase::Home))?
        },
    ),
    (
        "where users come home to a pool that serves, the next share follows after a step, unless \
         automation began it and is barred",
        |at, side| {
            let Phase::Returning(share) = at.phases[side.index()] else {
                return None;
            };
            let goes_on = at.serves(side)
                && !at.lost(side.other())
                && (at.bar == Bar::Nothing || at.by != By::Twinpool);
            let to = share.next().map_or(Phase::Home, Phase::Returning);
            goes_on.then(|| next(STEP, side, to, Phase::Home))?
        },
    ),
    (
        "where failover is automatic and not barred, the users at home of a pool that is lost for \
         `after` go to a twin that serves, and the twin's own go home to it",
        |at, side| {
            let fails_over = at.phases[side.index()] == Phase::Home
                && at.lost(side)
                && at.serves(side.other())
                && at.may(at.failover);
            fails_over.then(|| next(AFTER, side, Phase::Away, Phase::Home))?
        },
    ),
    (
        "where failback is automatic and not barred, the users whom automation sent away begin to \
         come home to a pool that was well for `hold`; all at once where the twin is lost",
        |at, side| {
            let fails_back = at.phases[side.index()] == Phase::Away
                && at.by == By::Twinpool
                && at.fitness[side.index()] == Fitness::Well
                && at.may(at.failback);
            let to = match at.lost(side.other()) {
                true => Phase::Home,
                false => returning(1),
            };
            fails_back.then(|| next(HOLD, side, to, Phase::Home))?
        },
    ),
    ("where the instance is isolated, nothing happens", |_, _| {
        None
    }),
];

fn wanted(at: &Situation) -> Option<(usize, Next)> {
    if at.bar == Bar::Isolated {
        return None;
    }
    let of = |side| {
        let rules = RULES.iter().enumerate();
        rules.filter_map(move |(nth, (_, says))| Some((nth, says(at, side)?)))
    };
    let all = Side::BOTH.into_iter().flat_map(of);
    all.min_by_key(|(_, next)| next.after)
}

fn situations() -> Vec<Situation> {
    let mut all = Vec::new();
    for (failover, failback) in [
        (Automation::Automatic, Automation::Automatic),
        (Automation::Automatic, Automation::Manual),
        (Automation::Manual, Automation::Automatic),
        (Automation::Manual, Automation::Manual),
    ] {
        for phases in phases() {
            let twice = phases != HOME;
            for by in [By::Twinpool, ann()]
                .into_iter()
                .take(1 + usize::from(twice))
            {
                for bar in BARS {
                    for first in FITNESS {
                        for second in FITNESS {
                            all.push(Situation {
                                failover,
                                failback,
                                phases,
                                by: by.clone(),
                                fitness: [first, second],
                                bar,
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

/// Wherever the users of a pair can be.
fn phases() -> Vec<[Phase; 2]> {
    let mut all = vec![HOME, A_AWAY, B_AWAY];
    for steps in [1, 10, Share::STEPS - 1] {
        all.push([returning(steps), Phase::Home]);
        all.push([Phase::Home, returning(steps)]);
    }
    all
}

fn pair_of<T: std::fmt::Display>([first, second]: &[T; 2]) -> String {
    format!("{first}/{second}")
}

fn told(fitness: [Fitness; 2]) -> String {
    format!("{:?}/{:?}", fitness[0], fitness[1]).to_lowercase()
}

/// One line for all fitnesses: what follows, and from which.
fn line(groups: &BTreeMap<String, Vec<String>>) -> String {
    let of = |(what, from): (&String, &Vec<String>)| format!("{what} ({})", from.join(" "));
    let all: Vec<String> = groups.iter().map(of).collect();
    match all.is_empty() {
        true => "-".to_owned(),
        false => all.join("; "),
    }
}

#[test]
fn automation_does_in_every_situation_what_the_rules_say() {
    let mut followed = [0; RULES.len()];
    let mut rows: Vec<(String, BTreeMap<String, Vec<String>>)> = Vec::new();
    let all = situations();
    for at in &all {
        let wanted = wanted(at);
        let next = wanted.as_ref().map(|(_, next)| next.clone());
        assert_eq!(at.next(), next, "{at:?}");
        let by = match (&at.by, at.phases == HOME) {
            (_, true) => "",
            (By::Twinpool, _) => " by twinpool",
            (By::Operator(_), _) => " by a person",
        };
        let row = format!(
            "failover {:9} failback {:9} {:29} {:8}",
            format!("{:?}", at.failover).to_lowercase(),
            format!("{:?}", at.failback).to_lowercase(),
            format!("{}{by}", pair_of(&at.phases)),
            format!("{:?}", at.bar).to_lowercase(),
        );
        if rows.last().is_none_or(|(last, _)| *last != row) {
            rows.push((row, BTreeMap::new()));
        }
        if let (Some((rule, next)), Some((_, groups))) = (wanted, rows.last_mut()) {
            followed[rule] += 1;
            let when = match next.after.is_zero() {
                true => "at once".to_owned(),
                false => format!("after {:?}", next.after),
            };
            let what = format!("{} {when}", pair_of(&next.phases));
            groups.entry(what).or_default().push(told(at.fitness));
        }
    }
    for (row, groups) in &rows {
        println!("{row} -> {}", line(groups));
    }
    println!("{} situations", all.len());
    for ((rule, _), times) in RULES.iter().zip(followed) {
        println!("{times:5} {rule}");
    }
    let silent = followed.iter().filter(|&&times| times == 0).count();
    assert_eq!(silent, 1, "only isolation does nothing");
}

// Orders.

/// What becomes of an order, by the rules, as sentences.
fn answer(at: &Situation, order: &Move) -> Result<[Phase; 2], MoveRefusal> {
    let (side, twin) = (order.side, order.side.other());
    let phase = at.phases[side.index()];
    let to = match order.to {
        Destination::Twin => twin,
        Destination::Home => side,
    };
    let there = match (order.to, phase) {
        (Destination::Home, Phase::Home) => true,
        // What drains can be cut, what comes home can be hastened.
        (Destination::Twin, Phase::Away) | (Destination::Home, Phase::Returning(_)) => !order.now,
        _ => false,
    };
    // Where they are there already or on the way, there is nothing to do.
    if there {
        return Err(MoveRefusal::Already(phase));
    }
    // Where the pool that would serve them is lost, nothing helps.
    if at.lost(to) {
        return Err(MoveRefusal::Lost);
    }
    // Where there is a doubt, it takes force: whose users would go home beside, what nobody knows
    // yet, what is too small to start (which is asked of a failback alone), and who is isolated.
    if !order.force {
        let fitness = at.fitness[to.index()];
        if order.to == Destination::Twin && at.phases[twin.index()] != Phase::Home {
            return Err(MoveRefusal::TwinAway);
        }
        if fitness == Fitness::Unknown {
            return Err(MoveRefusal::Unknown);
        }
        if order.to == Destination::Home && fitness == Fitness::Low {
            return Err(MoveRefusal::Low);
        }
        if at.bar == Bar::Isolated {
            return Err(MoveRefusal::Isolated);
        }
    }
    // A failback takes the ramp, unless it is to be now, or the twin is lost.
    let phase = match order.to {
        Destination::Twin => Phase::Away,
        Destination::Home if order.now || at.lost(twin) => Phase::Home,
        Destination::Home => returning(1),
    };
    Ok(match side {
        A => [phase, Phase::Home],
        B => [Phase::Home, phase],
    })
}

#[test]
fn every_order_is_answered_in_every_situation_as_the_rules_say() {
    let mut count = 0;
    let mut rows: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for at in situations() {
        for side in Side::BOTH {
            for order in [failover(side), failback(side)] {
                for (now, force) in [(false, false), (true, false), (false, true), (true, true)] {
                    let order = Move {
                        now,
                        force,
                        ..order.clone()
                    };
                    let began = Time::from_millis(1_000_000);
                    let mut machine = at.machine(began);
                    let writing = machine.poll_output().is_some();
                    let before = machine.clone();
                    let answered = machine.handle_move(&order, began);
                    let wanted = match writing {
                        true => Err(MoveRefusal::Writing),
                        false => answer(&at, &order),
                    };
                    count += 1;
                    let context = || format!("{at:?} {order:?}");
                    match &answered {
                        Err(_) => assert_eq!(machine, before, "{}", context()),
                        Ok(()) => {
                            let Some(PairOutput::Store(record)) = machine.poll_output() else {
                                panic!("{}", context());
                            };
                            let entry = record.entry(side);
                            let said = (&entry.by, &entry.reason, entry.cause);
                            assert_eq!(said, (&ann(), &order.reason, Cause::Ordered));
                            assert_eq!(machine.poll_output(), None);
                        }
                    }
                    let done = answered.map(|()| {
                        let record = machine.wanted().expect("it is being written");
                        [record.phase(A), record.phase(B)]
                    });
                    assert_eq!(done, wanted, "{}", context());
                    // Only what answers depend upon makes a row.
                    let all = at.failover == Automation::Automatic
                        && at.failback == Automation::Automatic
                        && at.by == By::Twinpool
                        && side == A
                        && matches!(at.bar, Bar::Nothing | Bar::Isolated);
                    if !all || writing {
                        continue;
                    }
                    let row = format!(
                        "{:8} of the first{}{} {:20} {:8}",
                        match order.to {
                            Destination::Twin => "failover",
                            Destination::Home => "failback",
                        },
                        if now { " --now  " } else { "        " },
                        if force { "--force" } else { "       " },
                        pair_of(&at.phases),
                        if at.bar == Bar::Isolated {
                            "isolated"
                        } else {
                            ""
                        },
                    );
                    let what = match done {
                        Ok(phases) => pair_of(&phases),
                        Err(refusal) => format!("{refusal:?}").to_lowercase(),
                    };
                    let groups = rows.entry(row).or_default();
                    groups.entry(what).or_default().push(told(at.fitness));
                }
            }
        }
    }
    for (row, groups) in &rows {
        println!("{row} -> {}", line(groups));
    }
    println!("{count} orders");
}

// Stories.

/// Something that happens in a story.
#[derive(Clone, Debug)]
enum Do {
    See(Side, Fitness),
    Wait(u64),
    Failover(Side),
    Failback(Side),
    Pause,
    Go,
    Resume,
    Isolated,
    Heard,
    DiskFails,
    DiskWorks,
    Restart,
    Damaged,
}

/// How a story ends: where users are, what halts automation, rounds, writes that were asked for
/// since the last thing that happened began, and generations that came into force in the whole.
type End = ([Phase; 2], Option<Halt>, u32, usize, u64);

#[test]
fn every_rule_that_takes_more_than_a_moment_is_a_story() {
    use Do::*;
    use Fitness::*;
    let (auto, hand) = (automatic(), by_hand());
    let stay = PairRules {
        failback: Automation::Manual,
        ..automatic()
    };
    let a_back = [returning(1), Phase::Home];
    let lost = |side| See(side, Lost);
    let well = |side| See(side, Well);
    // Each begins with both pools well and all at home.
    let stories: Vec<(&str, &PairRules, Vec<Do>, End)> = vec![
        (
            "a failover takes `after`",
            &auto,
            vec![lost(A), Wait(9)],
            (HOME, None, 0, 0, 0),
        ),
        (
            "and no longer",
            &auto,
            vec![lost(A), Wait(10)],
            (A_AWAY, None, 0, 1, 1),
        ),
        (
            "a loss that ends in time is none",
            &auto,
            vec![lost(A), Wait(9), well(A), lost(A), Wait(9)],
            (HOME, None, 0, 0, 0),
        ),
        (
            "nobody is sent anywhere while both are lost",
            &auto,
            vec![lost(A), lost(B), Wait(10_000)],
            (HOME, None, 0, 0, 0),
        ),
        (
            "the first to return takes both at once",
            &stay,
            vec![lost(A), lost(B), Wait(1), See(A, Low)],
            (B_AWAY, None, 0, 1, 1),
        ),
        (
            "also those whom a person sent away",
            &stay,
            vec![Failover(A), lost(A), lost(B), well(A)],
            (B_AWAY, None, 0, 1, 2),
        ),
        (
            "but not in a pair that is moved by hand",
            &hand,
            vec![Failover(A), lost(A), lost(B), well(A), Wait(10_000)],
            (A_AWAY, None, 0, 0, 1),
        ),
        (
            "a person's failover stays",
            &auto,
            vec![Failover(A), Wait(10_000)],
            (A_AWAY, None, 0, 0, 1),
        ),
        (
            "but not on a lost pool",
            &auto,
            vec![Failover(A), lost(B), Wait(10)],
            (B_AWAY, None, 0, 1, 2),
        ),
        (
            "a failback takes `hold`",
            &auto,
            vec![lost(A), Wait(10), well(A), Wait(59)],
            (A_AWAY, None, 0, 0, 1),
        ),
        (
            "and no longer",
            &auto,
            vec![lost(A), Wait(10), well(A), Wait(60)],
            (a_back, None, 1, 1, 2),
        ),
        (
            "without a break",
            &auto,
            vec![
                lost(A),
                Wait(10),
                well(A),
                Wait(59),
                See(A, Low),
                well(A),
                Wait(59),
            ],
            (A_AWAY, None, 0, 0, 1),
        ),
        (
            "a return takes the ramp",
            &auto,
            vec![lost(A), Wait(10), well(A), Wait(60), Wait(19)],
            (HOME, None, 1, 19, 21),
        ),
        (
            "a relapse goes away at once",
            &auto,
            vec![lost(A), Wait(10), well(A), Wait(70), lost(A)],
            (A_AWAY, None, 1, 1, 13),
        ),
        (
            "and doubles the hold",
            &auto,
            vec![
                lost(A),
                Wait(10),
                well(A),
                Wait(60),
                lost(A),
                well(A),
                Wait(119),
            ],
            (A_AWAY, None, 1, 0, 3),
        ),
        (
            "to its cap, after which a relapse ends automation",
            &auto,
            vec![
                lost(A),
                Wait(10),
                well(A),
                Wait(60),
                lost(A),
                well(A),
                Wait(120),
                lost(A),
                well(A),
                Wait(240),
                lost(A),
                well(A),
                Wait(10_000),
            ],
            (A_AWAY, Some(Halt::Alarm), 3, 0, 7),
        ),
        (
            "until a person resumes",
            &auto,
            vec![
                lost(A),
                Wait(10),
                well(A),
                Wait(60),
                lost(A),
                well(A),
                Wait(120),
                lost(A),
                well(A),
                Wait(240),
                lost(A),
                well(A),
                Resume,
                Wait(60),
            ],
            (a_back, None, 1, 1, 9),
        ),
        (
            "a pair that stays well for the grown hold is calm",
            &auto,
            vec![lost(A), Wait(10), well(A), Wait(79), Wait(120)],
            (HOME, None, 0, 1, 22),
        ),
        (
            "paused, automation begins nothing",
            &auto,
            vec![Pause, lost(A), Wait(10_000)],
            (HOME, Some(Halt::Paused), 0, 0, 0),
        ),
        (
            "also after a restart",
            &auto,
            vec![Pause, Restart, well(B), lost(A), Wait(10_000)],
            (HOME, Some(Halt::Paused), 0, 0, 0),
        ),
        (
            "and then what is due",
            &auto,
            vec![Pause, lost(A), Wait(10), Go],
            (A_AWAY, None, 0, 1, 1),
        ),
        (
            "isolated, it does nothing",
            &auto,
            vec![lost(A), Wait(9), Isolated, Wait(10_000)],
            (HOME, None, 0, 0, 0),
        ),
        (
            "and begins anew",
            &auto,
            vec![lost(A), Wait(9), Isolated, Wait(100), Heard, Wait(9)],
            (HOME, None, 0, 0, 0),
        ),
        (
            "damaged, it waits",
            &auto,
            vec![Damaged, well(B), lost(A), Wait(10_000)],
            (HOME, Some(Halt::Damaged), 0, 0, 0),
        ),
        (
            "also after a person's order and a restart",
            &auto,
            vec![
                Damaged,
                well(A),
                well(B),
                Failover(A),
                Restart,
                well(A),
                lost(B),
                Wait(10_000),
            ],
            (A_AWAY, Some(Halt::Damaged), 0, 0, 1),
        ),
        (
            "until a person resumes",
            &auto,
            vec![Damaged, well(B), lost(A), Resume],
            (HOME, None, 0, 1, 1),
        ),
        (
            "which has to be written",
            &auto,
            vec![Damaged, well(B), lost(A), DiskFails, Resume],
            (HOME, Some(Halt::Damaged), 0, 1, 0),
        ),
        (
            "at a start nothing is known",
            &auto,
            vec![lost(A), Wait(9), Restart, well(B), Wait(10_000)],
            (HOME, None, 0, 0, 0),
        ),
        (
            "and `after` begins from zero",
            &auto,
            vec![lost(A), Wait(9), Restart, well(B), lost(A), Wait(9)],
            (HOME, None, 0, 0, 0),
        ),
        (
            "what fails to be written is tried each second",
            &auto,
            vec![DiskFails, lost(A), Wait(20)],
            (HOME, None, 0, 11, 0),
        ),
        (
            "and is in force when it is",
            &auto,
            vec![DiskFails, lost(A), Wait(20), DiskWorks, Wait(1)],
            (A_AWAY, None, 0, 1, 12),
        ),
        (
            "unless it no longer holds",
            &auto,
            vec![
                DiskFails,
                lost(A),
                Wait(20),
                well(A),
                DiskWorks,
                Wait(10_000),
            ],
            (HOME, None, 0, 0, 0),
        ),
        (
            "a person's failover that fails is not tried again",
            &auto,
            vec![DiskFails, Failover(A), DiskWorks, Wait(10_000)],
            (HOME, None, 0, 0, 0),
        ),
        (
            "a person's failback goes on after a restart",
            &hand,
            vec![
                Failover(A),
                Failback(A),
                Wait(5),
                Restart,
                well(A),
                well(B),
                Wait(19),
            ],
            (HOME, None, 0, 14, 21),
        ),
    ];
    for (rule, rules, story, wanted) in stories {
        let mut rig = Rig::well(rules.clone());
        let mut first = rig.machine.record().generation;
        let mut paused = false;
        for event in &story {
            rig.writes();
            match *event {
                See(side, fitness) => rig.see(side, fitness),
                Wait(seconds) => rig.pass(s(seconds)),
                Failover(side) => rig.order(&failover(side)).unwrap(),
                Failback(side) => rig.order(&failback(side)).unwrap(),
                Pause | Go => {
                    paused = matches!(event, Pause);
                    rig.pause(paused);
                }
                Resume => rig.resume(),
                Isolated | Heard => rig.isolate(matches!(event, Isolated)),
                DiskFails => rig.disk = Disk::Fails,
                DiskWorks => rig.disk = Disk::Works,
                Restart => {
                    rig.restart();
                    rig.pause(paused);
                }
                Damaged => {
                    let record = Record::home(0, rig.now);
                    first = 0;
                    rig.machine = PairMachine::new(rules.clone(), record, true, rig.now);
                }
            }
        }
        let record = rig.machine.record();
        let risen = record.generation - first;
        let (halt, rounds) = (rig.machine.halt(), record.rounds);
        let end = (rig.phases(), halt, rounds, rig.writes(), risen);
        let halted = halt.map(|halt| format!(", {halt:?}").to_lowercase());
        println!(
            "{rule:52} {story:?} -> {}{}, {rounds} rounds, generation {risen}",
            pair_of(&end.0),
            halted.unwrap_or_default(),
        );
        assert_eq!(end, wanted, "{rule}: {story:?}");
    }
}
