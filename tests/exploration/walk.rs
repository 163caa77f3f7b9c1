//! Walks at random where exploring everything would take too long: any rules, any spans of time,
//! every step of a return, and writes that fail and are on disk all the same. Under the same laws.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use twinpool::pairing::pair::{Destination, Fitness, Move};
use twinpool::pairing::record::{By, Cause, Phase};
use twinpool::time::Time;
use twinpool::topology::{Automation, PairRules, Side};

use crate::laws::{self, Wrong};
use crate::world::{Event, Trace, World, events, longest};

/// Events of one walk.
const STEPS: usize = 2000;

/// What was wanted, by cause and by whom; and what else is worth counting.
pub(crate) type Counts = BTreeMap<String, u64>;

/// One walk; with `aloud` it tells every step.
pub(crate) fn walk(seed: u64, aloud: bool, counts: &mut Counts) -> Result<(), Wrong> {
    let mut dice = StdRng::seed_from_u64(seed);
    let rules = rules(&mut dice);
    if aloud {
        println!("seed {seed}: {rules:?}");
    }
    let mut all = events();
    all.push(Event::FailedYetStored);
    all.retain(|event| !matches!(event, Event::Order(_)) || dice.random_bool(0.4));
    // Long runs of calm, and long runs of trouble.
    let mut calm = 0.5;
    let mut world = World::new(rules.clone(), Time::ZERO + longest(&rules));
    for step in 0..STEPS {
        if step % 100 == 0 {
            calm = match dice.random_bool(0.3) {
                true => 0.99,
                false => dice.random_range(0.3..0.9),
            };
        }
        let event = match dice.random_bool(calm) {
            // Returns take long: some are begun where they may come to their end.
            _ if step % 100 == 0 && calm > 0.9 => failback(&world),
            true if world.machine.wanted().is_some() => Event::Stored,
            true => wait(&world, &mut dice, &rules),
            false => loop {
                let event = &all[dice.random_range(0..all.len())];
                if dice.random_bool(weight(event)) {
                    break event.clone();
                }
            },
        };
        let Some((after, trace)) = world.after(&event, &rules) else {
            continue;
        };
        if aloud {
            println!("{:?} {event:?} {trace:?}", after.now);
        }
        laws::check(&rules, &world, &event, &after, &trace)?;
        laws::check_urgent(&rules, &after)?;
        count(&world, &after, &trace, counts);
        world = after;
    }
    laws::check_comes_to_rest(&rules, &world)
}

fn rules(dice: &mut StdRng) -> PairRules {
    let mut automation = || match dice.random_bool(0.7) {
        true => Automation::Automatic,
        false => Automation::Manual,
    };
    let (failover, failback) = (automation(), automation());
    let mut millis = |most| Duration::from_millis(dice.random_range(0..=most));
    let hold = millis(8000);
    PairRules {
        failover,
        after: millis(4000),
        failback,
        hold,
        longest_hold: hold + millis(16_000),
        ramp: match dice.random_bool(0.2) {
            true => Duration::ZERO,
            false => Duration::from_millis(dice.random_range(1..=10_000)),
        },
    }
}

/// A person brings home who is away.
fn failback(world: &World) -> Event {
    let away = |side: &Side| world.machine.record().phase(*side) == Phase::Away;
    let side = Side::BOTH.into_iter().find(away);
    Event::Order(Move {
        side: side.unwrap_or(Side::First),
        to: Destination::Home,
        by: String::new(),
        reason: None,
        now: false,
        force: false,
    })
}

/// How often something happens: what ends a stretch of trouble more often than what begins one.
fn weight(event: &Event) -> f64 {
    match event {
        Event::RestartDamaged => 0.02,
        Event::See(_, Fitness::Unknown)
        | Event::Order(_)
        | Event::Isolated(true)
        | Event::Paused(true)
        | Event::Restart
        | Event::RestartStored
        | Event::Suspend => 0.1,
        _ => 1.0,
    }
}

/// To the next timer, just short of it, or for any span.
fn wait(world: &World, dice: &mut StdRng, rules: &PairRules) -> Event {
    let any = Duration::from_millis(dice.random_range(0..=longest(rules).as_millis() as u64 + 1));
    let Some((at, _)) = world.machine.poll_timeout() else {
        return Event::Pass(any);
    };
    let left = world.now.until(at);
    match dice.random_range(0..10u8) {
        _ if left.is_zero() => Event::Timeout,
        0 => Event::Pass(any),
        1 => Event::Pass(left.saturating_sub(Duration::from_nanos(1))),
        _ => Event::Pass(left),
    }
}

fn count(before: &World, after: &World, trace: &Trace, counts: &mut Counts) {
    let mut count = |what: String| *counts.entry(what).or_default() += 1;
    for record in &trace.stores {
        let old = after.machine.record();
        for (from, to) in old.entries.iter().zip(&record.entries) {
            if from != to {
                let by = match to.by {
                    By::Twinpool => "twinpool",
                    By::Operator(_) => "a person",
                };
                let cause = match to.cause {
                    Cause::Held | Cause::Ordered if from.phase == to.phase => "a step".to_owned(),
                    cause => format!("{cause:?}"),
                };
                count(format!("{cause} by {by}"));
            }
        }
        if record.alarm && !old.alarm {
            count("alarm".to_owned());
        }
        if old.entries == record.entries {
            count("calm or resumed".to_owned());
        }
    }
    if let Some(refusal) = trace.refused {
        let said = format!("{refusal:?}");
        let name = said.split('(').next().unwrap_or_default();
        count(format!("refused: {name}"));
    }
    if before.sound && !after.sound {
        count("damaged".to_owned());
    }
}
