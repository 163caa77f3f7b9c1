//! The pair machine as exploration sees it: a moment is how long ago it was, and what decides
//! nothing is left out. Whoever makes the machine ask for more than before has to keep it here.

use std::time::Duration;

use super::{Fitness, PairMachine, Phase, Pool, Wanted};
use crate::pairing::record::{Entry, Record};
use crate::time::Time;

impl PairMachine {
    /// The same machine as seen from `now`, for exploration: two that differ in nothing that
    /// decides become one. That moment becomes `horizon` after boot, and what is longer ago than
    /// `horizon`, which no rule asks for, becomes boot. `record` and `generation` are for the
    /// records in it, and the generations.
    pub fn folded(
        &self,
        now: Time,
        horizon: Duration,
        record: impl Fn(&Record) -> Record,
        generation: impl Fn(u64) -> u64,
    ) -> PairMachine {
        let moment = |at: Time| {
            let age = now.since(at).min(horizon);
            Time::ZERO + (horizon - age) + now.until(at)
        };
        // An isolation ends with a gap, and since when a pool is anything else is not asked.
        let pool = |pool: &Pool| match pool.fitness {
            Fitness::Lost | Fitness::Well if !self.isolated => Pool {
                since: moment(pool.since),
                ..*pool
            },
            fitness => Pool {
                fitness,
                since: Time::ZERO,
                both_lost: false,
            },
        };
        let returns = |entry: &Entry| matches!(entry.phase, Phase::Returning(_));
        let returns = self.record.entries.iter().any(returns);
        let ages = !self.isolated && (self.record.rounds > 0 || returns);
        PairMachine {
            rules: self.rules.clone(),
            record: record(&self.record),
            wanted: self.wanted.as_ref().map(|wanted| Wanted {
                record: record(&wanted.record),
                // Told, not asked.
                drain: false,
                ..*wanted
            }),
            issued: generation(self.issued),
            pools: self.pools.each_ref().map(pool),
            damaged: self.damaged,
            paused: self.paused,
            isolated: self.isolated,
            in_force: if ages {
                moment(self.in_force)
            } else {
                Time::ZERO
            },
            retry_at: moment(self.retry_at.max(now)),
            outputs: self.outputs.clone(),
        }
    }
}
