//! A seeded simulation of fleets: members die, hang, flap and return, the instance's own uplink
//! fails, operators command, the instance restarts. The invariants of `checks.rs` hold at every
//! moment of every run.
//!
//! A failure prints its seed; `TWINPOOL_SEED=n cargo test --test simulation` replays it with its
//! log.

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/fleet.rs"]
mod fleet;
#[path = "simulation/world.rs"]
mod world;

use std::panic::catch_unwind;

/// Seeds of one shard; shards run beside each other.
const SHARD: u64 = 125;

fn shard(first: u64) {
    if let Ok(seed) = std::env::var("TWINPOOL_SEED") {
        let seed: u64 = seed.parse().expect("TWINPOOL_SEED is a number");
        if (first..first + SHARD).contains(&seed) || (first == 0 && seed >= 4 * SHARD) {
            replay(seed);
        }
        return;
    }
    let mut counts = checks::Counts::default();
    for seed in first..first + SHARD {
        let Ok(world) = catch_unwind(|| world::run(seed, false)) else {
            panic!("seed {seed} fails; TWINPOOL_SEED={seed} cargo test --test simulation");
        };
        let found = world.checks.counts;
        counts.ended += found.ended;
        counts.isolations += found.isolations;
        counts.downs += found.downs;
        counts.deadlines += found.deadlines;
        counts.refusals += found.refusals;
        counts.lost += found.lost;
    }
    // A simulation in which nothing happens proves nothing.
    println!("{counts:?}");
    assert!(counts.ended > SHARD && counts.isolations > SHARD / 4 && counts.downs > SHARD);
    assert!(counts.deadlines > 10 && counts.refusals > 10 && counts.lost > 10);
}

fn replay(seed: u64) {
    println!("seed {seed}");
    world::run(seed, true);
}

#[test]
fn invariants_hold_in_the_first_quarter_of_seeds() {
    shard(0);
}

#[test]
fn invariants_hold_in_the_second_quarter_of_seeds() {
    shard(SHARD);
}

#[test]
fn invariants_hold_in_the_third_quarter_of_seeds() {
    shard(2 * SHARD);
}

#[test]
fn invariants_hold_in_the_last_quarter_of_seeds() {
    shard(3 * SHARD);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2, 3, 17, 99] {
        let (one, two) = (world::run(seed, false), world::run(seed, false));
        assert!(!one.log.is_empty());
        assert_eq!(one.log, two.log, "seed {seed}");
    }
}
