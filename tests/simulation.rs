//! A seeded simulation of fleets: members die, hang, flap and return, so do whole sites, the
//! instance's own uplink fails, operators command members and pairs, the disk is full or damaged,
//! the instance restarts. The invariants of `checks.rs` and `redirects.rs` hold at every moment of
//! every run.
//!
//! A failure prints its seed; `TWINPOOL_SEED=n cargo test --test simulation` replays it with its
//! log. `TWINPOOL_SEEDS=n` runs so many seeds, shared by as many threads as there are cores.

#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/counts.rs"]
mod counts;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/fitness.rs"]
mod fitness;
#[path = "simulation/fleet.rs"]
mod fleet;
#[path = "simulation/misfortune.rs"]
mod misfortune;
#[path = "simulation/people.rs"]
mod people;
#[path = "simulation/redirects.rs"]
mod redirects;
#[path = "simulation/world.rs"]
mod world;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use counts::Counts;
use world::Telling;

/// Seeds that are run unless `TWINPOOL_SEEDS` says otherwise; `tests/run` runs more.
const SEEDS: u64 = 1000;

/// What has to happen in every hundred seeds at least once, or the simulation proves nothing about
/// it.
const OFTEN: [&str; 10] = [
    "ends of sessions",
    "members down",
    "pools lost",
    "isolations",
    "deadlines",
    "refused: would lose the pool",
    "failovers",
    "failbacks",
    "records in force",
    "sites lost",
];

/// What has to happen in every thousand.
const SOMETIMES: [&str; 35] = [
    "a person's entry changed by automation",
    "alarms",
    "both pools lost",
    "disks that were told to be well",
    "drains",
    "drains cut",
    "failbacks forced",
    "failbacks ordered",
    "failovers forced",
    "failovers ordered",
    "failovers to the first to return",
    "finishes",
    "pauses",
    "refused: isolated",
    "refused: lost",
    "refused: low",
    "refused: there already",
    "refused: twin away",
    "refused: unknown",
    "refused: writing",
    "relapses",
    "restarts that found what was in flight",
    "restarts that lost what was in flight",
    "restarts with no whole record",
    "restarts with the record before",
    "restarts with the same record",
    "resumes of a pair",
    "resumes to be repeated",
    "returns ended",
    "rounds forgotten",
    "sites back",
    "suspends",
    "suspends too short to matter",
    "swaps",
    "writes that failed",
];

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not {value:?}")),
    )
}

#[test]
fn invariants_hold_whatever_happens() {
    if let Some(seed) = number("TWINPOOL_SEED") {
        println!("seed {seed}");
        world::run(seed, Telling::Aloud);
        return;
    }
    let seeds = number("TWINPOOL_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| some_of(&next, seeds)))
            .collect();
        let mut counts = Counts::default();
        for thread in threads {
            match thread.join().expect("a failing seed is caught") {
                Ok(some) => counts.add(&some),
                Err(seed) => {
                    panic!("seed {seed} fails; TWINPOOL_SEED={seed} cargo test --test simulation")
                }
            }
        }
        counts
    });
    println!("in {seeds} seeds:\n{counts}");
    for (what, in_every) in [(&OFTEN[..], 100), (&SOMETIMES[..], 1000)] {
        for what in what {
            let happened = counts.of(what);
            assert!(happened >= seeds / in_every, "{what}: {happened} times");
        }
    }
}

/// Runs seeds until all are taken; gives back the first that fails.
fn some_of(next: &AtomicU64, seeds: u64) -> Result<Counts, u64> {
    let mut counts = Counts::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds {
            return Ok(counts);
        }
        match catch_unwind(|| world::run(seed, Telling::Nothing)) {
            Ok(world) => {
                counts.add(&world.checks.counts);
                counts.add(&world.checks.redirects.counts);
            }
            Err(_) => {
                // The others stop too.
                next.store(seeds, Ordering::Relaxed);
                return Err(seed);
            }
        }
    }
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
