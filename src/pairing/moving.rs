//! Sessions that stand on the wrong side after their users moved, and how fast they are ended.
//! Pure: the driver says how many there are, is told how many to end, and ends them.
//!
//! ```text
//! begin ──► wait until `from` ──► a slice every 100 ms ──► all told ──► SETTLING ──► over
//!                                 (at most `rate` a second)
//! ```
//!
//! A move ends those sessions that are there when its ending begins: those that come after it came
//! by the new routes. Only where the users left their home pool may none stay behind: a connect
//! that was under way can still arrive there, so once all are told it looks again, under another
//! number, until a look finds none.
//!
//! A pool is [moving](Moves::is_moving) for [`SETTLING`] after its transition, and while its
//! sessions are ended: for so long clients that reconnect are let in at a bounded rate. While
//! sessions are drained and nobody is ended, nobody comes in numbers either.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::time::Time;
use crate::topology::{PoolId, Succession};

/// From one slice to the next: short enough that a second's share does not come as one blow, long
/// enough to cost nothing.
pub const SLICE: Duration = Duration::from_millis(100);
/// Slices in a second.
const SLICES: u64 = 10;
/// How long after a transition a pool's users are taken to arrive in numbers: clients come back
/// within seconds, most of them at once.
pub const SETTLING: Duration = Duration::from_secs(30);
/// From the last slice to the look for stragglers: longer than a connect that was under way may
/// take.
pub const STRAGGLERS: Duration = Duration::from_secs(5);

/// The moves under way, one a home pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Moves {
    moves: BTreeMap<PoolId, Move>,
    /// Until when pools are moving at least.
    settling: BTreeMap<PoolId, Time>,
    /// Moves and looks that were begun.
    jobs: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Move {
    off: PoolId,
    rate: NonZeroU32,
    job: u64,
    /// When the next slice is due, or its ending begins.
    due: Time,
    /// What it found as its ending began, by worker, and what of it is told; none before.
    found: Option<Vec<Worker>>,
    /// Tenths of a session that the last slice left over.
    carry: u64,
    /// Whether all was told once: it waits for what was missed, and looks for stragglers.
    again: bool,
}

/// One worker's part of a move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Worker {
    there: u64,
    told: u64,
}

/// What is to be ended now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// Whose sessions.
    pub home: PoolId,
    /// On whose members.
    pub off: PoolId,
    /// Which move it is.
    pub job: u64,
    /// How many, by worker. The first slice of a move is for every worker, even where it is of
    /// none: what stands there then is what the move is about.
    pub most: Vec<u64>,
    /// Whether it is the move's first.
    pub first: bool,
}

impl Moves {
    /// Begins to end the sessions of `home`'s users on `off`'s members at `from`, `rate` a second.
    /// Replaces what was under way for the same users.
    pub fn begin(&mut self, home: PoolId, off: PoolId, from: Time, rate: NonZeroU32, now: Time) {
        self.settling.insert(home, now + SETTLING);
        let begun = Move {
            off,
            rate,
            job: self.next_job(),
            due: from,
            found: None,
            carry: 0,
            again: false,
        };
        self.moves.insert(home, begun);
    }

    /// Lets all sessions of these users be; their pool is moving all the same.
    pub fn cancel(&mut self, home: PoolId, now: Time) {
        self.moves.remove(&home);
        self.settling.insert(home, now + SETTLING);
    }

    /// A worker may have missed what it was told: whatever is still there is told anew.
    pub fn handle_missed(&mut self) {
        for moved in self.moves.values_mut() {
            moved.found = None;
        }
    }

    /// The same in the ids of the next topology, without the pools that are no longer in it.
    #[must_use]
    pub fn renumber(self, succession: &Succession) -> Moves {
        let moves = self.moves.into_iter().filter_map(|(home, moved)| {
            let off = succession.pool(moved.off)?;
            Some((succession.pool(home)?, Move { off, ..moved }))
        });
        let settling = self.settling.into_iter();
        let settling = settling.filter_map(|(home, until)| Some((succession.pool(home)?, until)));
        Moves {
            moves: moves.collect(),
            settling: settling.collect(),
            jobs: self.jobs,
        }
    }

    /// What is due. `left` says how many sessions of a home pool's users stand on a pool's members
    /// now, by worker, always in the same order.
    pub fn handle_timeout(
        &mut self,
        now: Time,
        left: impl Fn(PoolId, PoolId) -> Vec<u64>,
    ) -> Vec<Slice> {
        let mut slices = Vec::new();
        let due = self.moves.iter().filter(|(_, moved)| moved.due <= now);
        let due: Vec<PoolId> = due.map(|(home, _)| *home).collect();
        for home in due {
            let next = self.jobs + 1;
            let Some(moved) = self.moves.get_mut(&home) else {
                continue;
            };
            let left = left(home, moved.off);
            let first = moved.found.is_none();
            let most = moved.slice(&left);
            if first || most.iter().any(|&most| most > 0) {
                let (off, job) = (moved.off, moved.job);
                slices.push(Slice {
                    home,
                    off,
                    job,
                    most,
                    first,
                });
            }
            moved.due = now + SLICE;
            if moved.open(&left) > 0 {
                continue;
            }
            let nobody = moved.found.iter().flatten().all(|worker| worker.there == 0);
            if moved.again && (moved.off != home || nobody) {
                self.moves.remove(&home);
                continue;
            }
            moved.again = true;
            moved.due = now + STRAGGLERS;
            if moved.off == home {
                moved.found = None;
                moved.job = next;
                self.jobs = next;
            }
        }
        self.settling.retain(|_, until| *until > now);
        slices
    }

    /// When to call [`Moves::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let due = self.moves.values().map(|moved| moved.due);
        due.chain(self.settling.values().copied()).min()
    }

    /// Sessions of these users that are to be ended, of as many as `left` says stand on `off`'s
    /// members.
    pub fn to_move(&self, home: PoolId, left: impl Fn(PoolId, PoolId) -> Vec<u64>) -> u64 {
        let Some(moved) = self.moves.get(&home).filter(|moved| !moved.again) else {
            return 0;
        };
        let left = left(home, moved.off);
        match moved.found {
            None => left.iter().sum(),
            Some(_) => moved.open(&left),
        }
    }

    /// When the ending of their sessions begins, while they are let drain.
    pub fn drains_until(&self, home: PoolId) -> Option<Time> {
        let moved = self.moves.get(&home)?;
        (!moved.again && moved.found.is_none()).then_some(moved.due)
    }

    /// Whether these users are on the move: clients of theirs arrive, or are about to.
    pub fn is_moving(&self, home: PoolId, now: Time) -> bool {
        let begun = |moved: &Move| moved.found.is_some() || moved.due <= now;
        let ending = self
            .moves
            .get(&home)
            .is_some_and(|moved| !moved.again && begun(moved));
        ending || self.settling.get(&home).is_some_and(|until| now < *until)
    }

    /// The pools that are moving, and until when at least, for another process to
    /// [settle](Moves::settle).
    pub fn moving(&self, now: Time) -> Vec<(PoolId, Time)> {
        let known = self.moves.keys().chain(self.settling.keys());
        let mut homes: Vec<PoolId> = known.copied().collect();
        homes.sort_unstable();
        homes.dedup();
        let until = |home| {
            let settling = self.settling.get(&home).copied();
            // Its sessions are ended still, by whoever has them.
            let ending = self.moves.contains_key(&home).then(|| now + SETTLING);
            settling.max(ending).unwrap_or(now)
        };
        let moving = homes.into_iter().filter(|home| self.is_moving(*home, now));
        moving.map(|home| (home, until(home))).collect()
    }

    /// A pool is moving until then at least.
    pub fn settle(&mut self, home: PoolId, until: Time) {
        let known = self.settling.entry(home).or_insert(until);
        *known = until.max(*known);
    }

    fn next_job(&mut self) -> u64 {
        self.jobs += 1;
        self.jobs
    }
}

impl Move {
    /// How many of `left` to end now, by worker; each is told in proportion to what is open there.
    fn slice(&mut self, left: &[u64]) -> Vec<u64> {
        let found = self.found.get_or_insert_with(|| {
            let there = |&there| Worker { there, told: 0 };
            left.iter().map(there).collect()
        });
        let open = open(found, left);
        let all: u64 = open.iter().sum();
        let grant = self.carry + u64::from(self.rate.get());
        let most = (grant / SLICES).min(all);
        self.carry = grant % SLICES;
        let shares = shares(most, &open);
        for (worker, share) in found.iter_mut().zip(&shares) {
            worker.told += share;
        }
        shares
    }

    /// What is still to be told.
    fn open(&self, left: &[u64]) -> u64 {
        self.found
            .as_deref()
            .map_or(0, |found| open(found, left).iter().sum())
    }
}

/// What is still to be told, by worker: of those found, who was not told and may still be there.
fn open(found: &[Worker], left: &[u64]) -> Vec<u64> {
    let open = |(worker, &left): (&Worker, &u64)| left.min(worker.there - worker.told);
    found.iter().zip(left).map(open).collect()
}

/// `most` in proportion to `open`, no more than that of each; what rounding leaves goes to whom it
/// took most from.
fn shares(most: u64, open: &[u64]) -> Vec<u64> {
    let all = open.iter().copied().map(u128::from).sum::<u128>().max(1);
    let exact = |&open: &u64| u128::from(most) * u128::from(open);
    let whole = |open| u64::try_from(exact(open) / all).unwrap_or(*open);
    let mut shares: Vec<u64> = open.iter().map(whole).collect();
    let rest = most - shares.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..open.len()).collect();
    order.sort_by_key(|&worker| std::cmp::Reverse(exact(&open[worker]) % all));
    for &worker in order.iter().take(usize::try_from(rest).unwrap_or(0)) {
        shares[worker] += 1;
    }
    shares
}

#[cfg(test)]
mod tests;
