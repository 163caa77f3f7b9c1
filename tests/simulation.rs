//! A seeded simulation of fleets: members die, hang, flap and return, the instance's own uplink
//! fails, operators command, the instance restarts. The invariants of `checks.rs` hold at every
//! moment of every run.
//!
//! A failure prints its seed; `TWINPOOL_SEED=n cargo test --test simulation` replays it with its
//! log. `TWINPOOL_SEEDS=n` runs so many seeds in each of the four shards.

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/fleet.rs"]
mod fleet;
#[path = "simulation/world.rs"]
mod world;

use std::panic::catch_unwind;

use world::Telling;

/// Seeds of one shard unless `TWINPOOL_SEEDS` says otherwise; shards run beside each other.
const SHARD: u64 = 125;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")),
    )
}

fn shard(nth: u64) {
    if let Some(seed) = number("TWINPOOL_SEED") {
        if nth == 0 {
            replay(seed);
        }
        return;
    }
    let seeds = number("TWINPOOL_SEEDS").unwrap_or(SHARD);
    let mut counts = checks::Counts::default();
    for seed in nth * seeds..(nth + 1) * seeds {
        let Ok(world) = catch_unwind(|| world::run(seed, Telling::Nothing)) else {
            panic!("seed {seed} fails; TWINPOOL_SEED={seed} cargo test --test simulation");
        };
        counts.add(&world.checks.counts);
    }
    println!("{counts:?}");
    // A simulation in which nothing happens proves nothing.
    assert!(counts.ended > seeds && counts.isolations > seeds / 4 && counts.downs > seeds);
    let each = [counts.deadlines, counts.refusals, counts.lost];
    assert!(each.iter().all(|&n| n > seeds / 20), "{counts:?}");
}

fn replay(seed: u64) {
    println!("seed {seed}");
    world::run(seed, Telling::Aloud);
}

#[test]
fn invariants_hold_in_the_first_quarter_of_seeds() {
    shard(0);
}

#[test]
fn invariants_hold_in_the_second_quarter_of_seeds() {
    shard(1);
}

#[test]
fn invariants_hold_in_the_third_quarter_of_seeds() {
    shard(2);
}

#[test]
fn invariants_hold_in_the_last_quarter_of_seeds() {
    shard(3);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2, 3, 17, 99] {
        let (one, two) = (
            world::run(seed, Telling::Kept),
            world::run(seed, Telling::Kept),
        );
        assert!(!one.log.is_empty());
        assert_eq!(one.log, two.log, "seed {seed}");
    }
}
