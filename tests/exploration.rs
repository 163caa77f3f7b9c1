//! Every way in which the users of two pools can be sent to and fro: the pair machine with two
//! pools that are lost and return in any order, operators, isolation, pauses, a disk that fails, a
//! damaged record, restarts, a suspended host, and time.
//!
//! After each event the laws of `exploration/laws.rs` hold, which state the design's rules again:
//! at most one population is away; nobody is sent to a lost pool; generations rise, and the disk is
//! never older than what is in force; nothing is decided while isolated; automation does not undo
//! what a person did, but to leave a lost pool for one that serves; nothing begins before its time.
//! And from each state, if from then on only time passes and writes succeed, the users of a lost
//! pool are on a twin that serves within `after` (at once, and in one transition, where both were
//! lost), and the machine comes to rest where every failover and failback that should happen has.
//!
//! # What is gone through
//!
//! At each moment any of 31 events: either pool becomes unknown, lost, low or well; isolation and
//! pause begin or end; a person resumes, or orders a failover or failback of either pool, with or
//! without `--force`, a failback with or without `--now`; the record that is being written is
//! stored, or fails; twinpool restarts, with that record on disk or not, or with a damaged one; the
//! host is suspended; one second passes; the machine is called as it asked to be, or is not.
//!
//! Bounds: `after` 2 s, `hold` 1 s growing to 2 s, a second each step of a return, where there is a
//! ramp. Moments count as their distance from now, up to the longest span that a rule asks for;
//! generations count by their order; the 2nd to 19th step of a return count as one, since each is
//! decided like the next. What decides nothing is left out: reasons, causes, since when an entry
//! is as it is, who sent home those who are at home, whether sessions are drained.
//!
//! | failover | failback | ramp | states | transitions |
//! |---|---|---|---|---|
//! | automatic | automatic | yes | 178,050 | 4,736,012 |
//! | automatic | automatic | no | 62,418 | 1,650,124 |
//! | automatic | manual | yes | 58,726 | 1,562,878 |
//! | manual | automatic | no | 9,700 | 256,076 |
//! | manual | manual | yes | 55,764 | 1,482,796 |
//!
//! A write that fails and is on disk all the same is not among the events, for it leads nowhere
//! else: until a restart the machine does what it does after any failed write, and after it what
//! it does when it dies while writing. It is among those of the random walks, which have no bounds
//! but their length: any rules, any spans, every step of a return.
//!
//! The search is our own, a breadth-first one of a hundred lines: a model checker's crate would
//! bring a web server's worth of others.
//!
//! A walk that fails prints its seed; `TWINPOOL_SEED=n cargo test --test exploration` replays it.
//! `TWINPOOL_WALKS=n` takes so many walks.

#[path = "exploration/explorer.rs"]
mod explorer;
#[path = "exploration/laws.rs"]
mod laws;
#[path = "exploration/walk.rs"]
mod walk;
#[path = "exploration/world.rs"]
mod world;

use std::panic::catch_unwind;
use std::time::Duration;

use twinpool::pairing::record::Share;
use twinpool::topology::Automation::{self, Automatic, Manual};
use twinpool::topology::PairRules;

/// Time passes in such steps: every span of the rules is a multiple.
const TICK: Duration = Duration::from_secs(1);

/// Walks, unless `TWINPOOL_WALKS` says otherwise.
const WALKS: u64 = 500;

/// Fewer states than that are not everything.
const FEWEST: usize = 5_000;

fn explore(failover: Automation, failback: Automation, ramp: bool, hold: u32) {
    let rules = PairRules {
        failover,
        after: TICK * 2,
        failback,
        hold: TICK * hold,
        longest_hold: TICK * hold * 2,
        ramp: match ramp {
            true => TICK * u32::from(Share::STEPS - 1),
            false => Duration::ZERO,
        },
    };
    let report = explorer::explore(&rules, TICK);
    let ramp = if ramp { "yes" } else { "no" };
    println!("failover {failover:?}, failback {failback:?}, ramp {ramp}: {report}");
    println!("{rules:?}");
    assert!(report.states > FEWEST, "{} states", report.states);
}

#[test]
fn the_laws_hold_wherever_a_pair_that_moves_by_itself_can_come() {
    explore(Automatic, Automatic, true, 1);
}

#[test]
fn the_laws_hold_wherever_it_can_come_without_a_ramp() {
    explore(Automatic, Automatic, false, 1);
}

#[test]
fn the_laws_hold_wherever_a_pair_whose_users_a_person_brings_home_can_come() {
    explore(Automatic, Manual, true, 1);
}

#[test]
fn the_laws_hold_wherever_a_pair_whose_users_a_person_sends_away_can_come() {
    explore(Manual, Automatic, false, 1);
}

#[test]
fn the_laws_hold_wherever_a_pair_that_is_moved_by_hand_can_come() {
    explore(Manual, Manual, true, 1);
}

/// Every kind of rules, and a hold of 2 s that grows to 4.
#[test]
#[ignore = "takes about ten minutes: cargo test --test exploration -- --ignored --nocapture"]
fn the_laws_hold_wherever_any_pair_can_come_with_a_longer_hold() {
    for failover in [Automatic, Manual] {
        for failback in [Automatic, Manual] {
            for ramp in [true, false] {
                explore(failover, failback, ramp, 2);
            }
        }
    }
}

#[test]
fn the_laws_hold_on_random_walks() {
    let number = |name| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a seed is a number"))
    };
    let mut counts = walk::Counts::new();
    if let Some(seed) = number("TWINPOOL_SEED") {
        let done = walk::walk(seed, true, &mut counts);
        assert_eq!(done, Ok(()));
        return;
    }
    for seed in 0..number("TWINPOOL_WALKS").unwrap_or(WALKS) {
        let step = catch_unwind(|| {
            let mut counts = walk::Counts::new();
            (walk::walk(seed, false, &mut counts), counts)
        });
        let Ok((Ok(()), more)) = step else {
            panic!(
                "seed {seed} fails: TWINPOOL_SEED={seed} cargo test --test exploration: {step:?}"
            );
        };
        for (what, times) in more {
            *counts.entry(what).or_default() += times;
        }
    }
    println!("{counts:#?}");
    // Walks on which nothing happens prove nothing.
    for what in [
        "Lost by twinpool",
        "LeftLost by twinpool",
        "FirstToReturn by twinpool",
        "Relapsed by twinpool",
        "Held by twinpool",
        "Returned by twinpool",
        "Returned by a person",
        "Ordered by a person",
        "alarm",
        "damaged",
        "refused: Lost",
        "refused: Unknown",
        "refused: Low",
        "refused: TwinAway",
        "refused: Isolated",
        "refused: Writing",
    ] {
        let times = counts.get(what).copied().unwrap_or_default();
        assert!(times >= 10, "{what}: {times}");
    }
}
