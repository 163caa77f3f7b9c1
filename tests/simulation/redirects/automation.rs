//! What automation decides of pairs: whether the rules let it, and whether all of it follows.

use twinpool::pairing::Condition;
use twinpool::pairing::record::{By, Cause, Entry, Phase, Record, Share};
use twinpool::time::Time;
use twinpool::topology::{Automation, Pair, PairId, PoolId, Side};

use super::{Redirects, hold, step};

/// What automation did to the users of one side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Done {
    Nothing,
    Failover,
    Relapse,
    /// Home, because the twin is lost, which its own users leave too.
    Swap,
    Finish,
    Failback,
    Step,
    LastStep,
}

impl Redirects {
    /// Whether automation may do this, by every rule; gives back the pools that are left because
    /// they are lost.
    pub(super) fn automation_may(&mut self, id: PairId, wanted: &Record, now: Time) -> Vec<PoolId> {
        assert!(!self.isolated, "{id:?}: decided while isolated");
        let topology = self.topology.clone();
        let pair = topology.pair(id);
        let before = self.pairs[id.index()].in_force.clone();
        let halted = self.is_halted(id);
        let exhausted =
            before.rounds > 0 && hold(pair, before.rounds - 1) >= pair.rules.longest_hold;
        let done = Side::BOTH.map(|side| done(&before, wanted, side));
        let (mut rounds, mut alarm, mut left) = (before.rounds, before.alarm, Vec::new());
        for side in Side::BOTH {
            let (home, twin) = (pair.pool(side), pair.pool(side.other()));
            let (was, entry) = (before.entry(side), wanted.entry(side));
            let deed = done[side.index()];
            let cause = match deed {
                Done::Nothing => {
                    assert_eq!(was, entry);
                    continue;
                }
                Done::Failover => {
                    self.may_fail_over(pair, side, halted, now);
                    alarm |= exhausted;
                    left.push(home);
                    match self.pools.beside_lost(home) {
                        true => Cause::FirstToReturn,
                        false => Cause::Lost,
                    }
                }
                Done::Relapse => {
                    assert!(self.pools.is_lost(home) && self.pools.serves(twin));
                    alarm |= exhausted;
                    left.push(home);
                    Cause::Relapsed
                }
                Done::Swap => {
                    assert!(self.pools.is_lost(twin) && self.pools.serves(home));
                    match self.pools.beside_lost(twin) {
                        true => Cause::FirstToReturn,
                        false => Cause::LeftLost,
                    }
                }
                Done::Finish => {
                    assert!(self.pools.is_lost(twin) && self.pools.serves(home));
                    Cause::LeftLost
                }
                Done::Failback => {
                    let rules = &pair.rules;
                    assert_eq!(rules.failback, Automation::Automatic);
                    assert!(!halted, "{id:?}: failback though halted");
                    assert_eq!(was.by, By::Twinpool, "a person sent them away");
                    assert!(self.pools.is_well(home));
                    let well = now.since(self.pools.since(home));
                    let hold = hold(pair, before.rounds);
                    assert!(well >= hold, "{id:?}: failback after {well:?} of {hold:?}");
                    let at_once = rules.ramp.is_zero() || self.pools.is_lost(twin);
                    assert_eq!(entry.phase == Phase::Home, at_once);
                    rounds += 1;
                    Cause::Held
                }
                Done::Step | Done::LastStep => {
                    assert!(!halted || was.by != By::Twinpool);
                    assert!(self.pools.serves(home) && !self.pools.is_lost(twin));
                    let pause = now.since(self.pairs[id.index()].since);
                    assert!(pause >= step(pair), "{id:?}: a step after {pause:?}");
                    assert_eq!(was.by, entry.by);
                    if deed == Done::Step {
                        assert_eq!((was.cause, was.since), (entry.cause, entry.since));
                        continue;
                    }
                    assert_eq!((entry.cause, entry.since), (Cause::Returned, now));
                    self.counts.one("returns ended");
                    continue;
                }
            };
            self.counts.one(match deed {
                Done::Failover if cause == Cause::Lost => "failovers",
                Done::Failover => "failovers to the first to return",
                Done::Relapse => "relapses",
                Done::Swap => "swaps",
                Done::Finish => "finishes",
                _ => "failbacks",
            });
            if was.by != By::Twinpool {
                self.counts.one("a person's entry changed by automation");
            }
            let expected = Entry {
                phase: entry.phase,
                cause,
                by: By::Twinpool,
                reason: None,
                since: now,
            };
            assert_eq!(*entry, expected, "{id:?}");
        }
        if done == [Done::Nothing; 2] {
            self.may_forget(pair, &before, halted, now);
            rounds = 0;
            self.counts.one("rounds forgotten");
        }
        if self.pairs[id.index()].damaged {
            (rounds, alarm) = (0, true);
        }
        assert_eq!((wanted.rounds, wanted.alarm), (rounds, alarm), "{id:?}");
        left
    }

    fn may_fail_over(&self, pair: &Pair, side: Side, halted: bool, now: Time) {
        let (home, twin) = (pair.pool(side), pair.pool(side.other()));
        assert_eq!(pair.rules.failover, Automation::Automatic);
        assert!(!halted, "{:?}: failover though halted", pair.id);
        assert!(self.pools.is_lost(home) && self.pools.serves(twin));
        assert_eq!(self.pools.condition(home), Condition::Lost);
        let lost = now.since(self.pools.since(home));
        assert!(
            lost >= pair.rules.after || self.pools.beside_lost(home),
            "{:?}: failover after {lost:?}",
            pair.id
        );
    }

    fn may_forget(&self, pair: &Pair, before: &Record, halted: bool, now: Time) {
        assert!(!halted && before.rounds > 0);
        let mut since = self.pairs[pair.id.index()].since;
        for side in Side::BOTH {
            assert_eq!(before.phase(side), Phase::Home);
            assert!(self.pools.is_well(pair.pool(side)));
            since = since.max(self.pools.since(pair.pool(side)));
        }
        assert!(now.since(since) >= hold(pair, before.rounds));
    }
}

/// What became of the users of one side.
fn done(before: &Record, wanted: &Record, side: Side) -> Done {
    let other = side.other();
    let swapped = before.phase(other) == Phase::Home && wanted.phase(other) == Phase::Away;
    let cause = wanted.entry(side).cause;
    match (before.phase(side), wanted.phase(side)) {
        (Phase::Home, Phase::Away) => Done::Failover,
        (Phase::Returning(_), Phase::Away) => Done::Relapse,
        (Phase::Away | Phase::Returning(_), Phase::Home) if swapped => Done::Swap,
        (Phase::Away, Phase::Returning(Share::FIRST) | Phase::Home) => Done::Failback,
        (Phase::Returning(_), Phase::Home) if cause == Cause::LeftLost => Done::Finish,
        (Phase::Returning(from), Phase::Returning(to)) if from.next() == Some(to) => Done::Step,
        (Phase::Returning(from), Phase::Home) if from.next().is_none() => Done::LastStep,
        (from, to) if from == to => Done::Nothing,
        (from, to) => panic!("{side:?}: from {from:?} to {to:?}"),
    }
}
