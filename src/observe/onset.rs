//! [`Onsets`]: since when what is wrong has been so, where nobody else keeps that. Pure.
//!
//! Whoever looks now and then brings what is so, and the moment. What was so at the first look began
//! before it, at a moment that nobody knows: then none is told.

use crate::time::Time;
use crate::topology::{PairId, PoolId, Succession, Topology};

/// What is wrong with a pair, each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairTroubles {
    /// Automation has ended with an alarm, or waits because the record was damaged.
    pub halted: bool,
    /// The record was not whole, or the disk does not answer.
    pub record: bool,
    /// The last record could not be written.
    pub unwritten: bool,
}

/// When the troubles of a pair began, of those that are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairOnsets {
    /// That of [`PairTroubles::halted`].
    pub halted: Option<Time>,
    /// That of [`PairTroubles::record`].
    pub record: Option<Time>,
    /// That of [`PairTroubles::unwritten`].
    pub unwritten: Option<Time>,
}

/// When what is wrong began.
#[derive(Debug)]
pub struct Onsets {
    store: Onset,
    event_log: Onset,
    /// By pair: halted, record, unwritten.
    pairs: Vec<[Onset; 3]>,
    /// By home pool: sessions go to the twin one by one.
    spilling: Vec<Onset>,
}

impl Onsets {
    /// Before the first look.
    pub fn new(topology: &Topology) -> Onsets {
        Onsets {
            store: Onset::NotLooked,
            event_log: Onset::NotLooked,
            pairs: vec![[Onset::NotLooked; 3]; topology.pairs.len()],
            // Nothing has spilled before the start.
            spilling: vec![Onset::Off; topology.pools.len()],
        }
    }

    /// The same for the next topology; nothing has been seen of what is new in it.
    #[must_use]
    pub fn succeed(&self, new: &Topology, succession: &Succession) -> Onsets {
        let mut next = Onsets::new(new);
        next.store = self.store;
        next.event_log = self.event_log;
        for (pair, onsets) in (0..).map(PairId).zip(&self.pairs) {
            if let Some(now) = succession.pair(pair) {
                next.pairs[now.index()] = *onsets;
            }
        }
        for (pool, onset) in (0..).map(PoolId).zip(&self.spilling) {
            if let Some(now) = succession.pool(pool) {
                next.spilling[now.index()] = *onset;
            }
        }
        next
    }

    /// Whether decisions might not outlive a restart.
    pub fn handle_store(&mut self, is_wrong: bool, now: Time) {
        self.store.handle(is_wrong, now);
    }

    /// Whether events are not on disk.
    pub fn handle_event_log(&mut self, is_wrong: bool, now: Time) {
        self.event_log.handle(is_wrong, now);
    }

    /// What is wrong with a pair.
    pub fn handle_pair(&mut self, pair: PairId, troubles: PairTroubles, now: Time) {
        let [halted, record, unwritten] = &mut self.pairs[pair.index()];
        halted.handle(troubles.halted, now);
        record.handle(troubles.record, now);
        unwritten.handle(troubles.unwritten, now);
    }

    /// Whether sessions of a home pool's users go to the twin one by one.
    pub fn handle_spilling(&mut self, home: PoolId, is_spilling: bool, now: Time) {
        self.spilling[home.index()].handle(is_spilling, now);
    }

    /// Since when decisions might not outlive a restart.
    pub fn store(&self) -> Option<Time> {
        self.store.since()
    }

    /// Since when events are not on disk.
    pub fn event_log(&self) -> Option<Time> {
        self.event_log.since()
    }

    /// Since when what is wrong with a pair has been so.
    pub fn pair(&self, pair: PairId) -> PairOnsets {
        let [halted, record, unwritten] = self.pairs[pair.index()].map(Onset::since);
        PairOnsets {
            halted,
            record,
            unwritten,
        }
    }

    /// Since when sessions of a home pool's users have gone to the twin one by one.
    pub fn spilling(&self, home: PoolId) -> Option<Time> {
        self.spilling[home.index()].since()
    }
}

#[derive(Clone, Copy, Debug)]
enum Onset {
    NotLooked,
    Off,
    /// On since before the first look.
    Before,
    Since(Time),
}

impl Onset {
    fn handle(&mut self, is_on: bool, now: Time) {
        *self = match (*self, is_on) {
            (_, false) => Onset::Off,
            (Onset::NotLooked, true) => Onset::Before,
            (Onset::Off, true) => Onset::Since(now),
            (on @ (Onset::Before | Onset::Since(_)), true) => on,
        };
    }

    fn since(self) -> Option<Time> {
        match self {
            Onset::Since(since) => Some(since),
            Onset::NotLooked | Onset::Off | Onset::Before => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::sample;

    #[test]
    fn what_begins_while_it_is_looked_at_has_a_moment_until_it_is_over() {
        let mut onsets = Onsets::new(&sample::pair_topology());
        let at = Time::from_millis;
        for (now, wrong, since) in [
            (1, false, None),
            (2, true, Some(2)),
            (3, true, Some(2)),
            (4, false, None),
            (5, true, Some(5)),
        ] {
            onsets.handle_store(wrong, at(now));
            assert_eq!(onsets.store(), since.map(at), "at {now}");
        }
    }

    #[test]
    fn what_was_so_at_the_first_look_has_none() {
        let mut onsets = Onsets::new(&sample::pair_topology());
        let at = Time::from_millis;
        let halted = PairTroubles {
            halted: true,
            ..PairTroubles::default()
        };
        onsets.handle_pair(PairId(0), halted, at(1));
        let both = PairTroubles {
            unwritten: true,
            ..halted
        };
        onsets.handle_pair(PairId(0), both, at(2));
        let told = onsets.pair(PairId(0));
        assert_eq!((told.halted, told.unwritten), (None, Some(at(2))));
        assert_eq!(onsets.pair(PairId(1)), PairOnsets::default());
        onsets.handle_spilling(PoolId(2), true, at(3));
        assert_eq!(onsets.spilling(PoolId(2)), Some(at(3)));
    }
}
