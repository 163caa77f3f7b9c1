//! Isolation: whether the fault is our own.
//!
//! When our own uplink is cut, every member looks dead at once. Declaring them so would end every
//! session for nothing, so silence is believed only of some members, never of most of several
//! pools together. Two questions are answered here:
//!
//! - *Is somebody else there?* ([`Isolation::has_witness`]) A member is declared down for silence
//!   only if another one was heard while it was asked and did not answer.
//! - *Is it us?* ([`Isolation::judge`]) When most members of at least two pools have fallen silent
//!   and nobody was heard since, or a local link or route vanished, the instance is isolated until
//!   something answers.
//!
//! A refusal is an answer: it came over the network. A hang is neither: the answer to the connect
//! came, the protocol's did not.
//!
//! Members that were down already say nothing new and are left out, except that hearing them
//! proves the network. Every pool counts for itself; a pool's twin would have to be among those
//! that fell silent, and pools without one have nobody to ask for.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Time;
use crate::topology::{MemberId, PoolId};

/// Pools that must have fallen silent together.
const POOLS: usize = 2;

/// Why an instance thinks the fault is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IsolationCause {
    /// Most members of so many pools fell silent within one window.
    ManySilent {
        /// Pools.
        pools: u16,
        /// Members.
        members: u16,
    },
    /// A local link or route towards members that had answered vanished.
    PathVanished,
}

/// Who was heard, who is silent, and whether that means us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Isolation {
    /// Members that were well and are silent now, with when they were last asked in vain.
    silent: BTreeMap<MemberId, Time>,
    /// Members that no local route leads to.
    unrouted: BTreeSet<MemberId>,
    /// The member heard last, and when.
    last: Option<(MemberId, Time)>,
    /// The one heard last before it that is not the same.
    other: Option<(MemberId, Time)>,
    state: Option<(IsolationCause, Time)>,
}

/// What hearing somebody changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing.
    Noted,
    /// The isolation is over.
    Over,
}

impl Isolation {
    /// Why and since when this instance is isolated, if it is.
    pub fn state(&self) -> Option<(IsolationCause, Time)> {
        self.state
    }

    /// A member answered something.
    pub fn handle_answer(&mut self, member: MemberId, now: Time) -> Heard {
        let was_silent = self.silent.remove(&member).is_some();
        match &mut self.last {
            Some((last, at)) if *last == member => *at = now,
            last => self.other = last.replace((member, now)),
        }
        let over = match self.state {
            None => false,
            Some((IsolationCause::PathVanished, _)) => true,
            // Somebody who was heard all along proves nothing new.
            Some((IsolationCause::ManySilent { .. }, _)) => was_silent,
        };
        if over {
            self.state = None;
            self.silent.clear();
            return Heard::Over;
        }
        Heard::Noted
    }

    /// A member that is not down was asked at `asked` and was silent.
    pub fn handle_silence(&mut self, member: MemberId, asked: Time) {
        self.silent.insert(member, asked);
    }

    /// A member was declared down: its silence says nothing about us any more.
    pub fn handle_down(&mut self, member: MemberId) {
        self.silent.remove(&member);
    }

    /// These members have no local route now.
    pub fn handle_paths(&mut self, unrouted: &[MemberId]) {
        self.unrouted = unrouted.iter().copied().collect();
    }

    /// The route to a member that had answered vanished. Returns whether the instance became
    /// isolated by that.
    pub fn handle_vanished(&mut self, now: Time) -> bool {
        let isolates = self.state.is_none();
        if isolates {
            self.state = Some((IsolationCause::PathVanished, now));
        }
        isolates
    }

    /// Whether no local route leads to this member: then its silence is our fault.
    pub fn is_unrouted(&self, member: MemberId) -> bool {
        self.unrouted.contains(&member)
    }

    /// Whether another member was heard at `since` or later.
    pub fn has_witness(&self, member: MemberId, since: Time) -> bool {
        [self.last, self.other]
            .into_iter()
            .flatten()
            .any(|(heard, at)| heard != member && at >= since)
    }

    /// Whether most members of at least two pools are silent, and nobody was heard since each was
    /// last asked. `well` tells for each pool how many of its members are
    /// not down, the silent ones included. Returns whether the instance became isolated.
    pub fn judge(&mut self, well: impl Fn(PoolId) -> usize, now: Time) -> bool {
        if self.state.is_some() {
            return false;
        }
        let heard = self.last.map_or(Time::ZERO, |(_, at)| at);
        let mut by_pool: BTreeMap<PoolId, u16> = BTreeMap::new();
        for (member, _) in self.silent.iter().filter(|(_, since)| **since >= heard) {
            *by_pool.entry(member.pool).or_default() += 1;
        }
        by_pool.retain(|pool, silent| usize::from(*silent) * 2 > well(*pool));
        if by_pool.len() < POOLS {
            return false;
        }
        let cause = IsolationCause::ManySilent {
            pools: by_pool.len() as u16,
            members: by_pool.values().sum(),
        };
        self.state = Some((cause, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PoolId = PoolId(0);
    const B: PoolId = PoolId(1);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn silence(isolation: &mut Isolation, pool: PoolId, members: std::ops::Range<u16>, when: Time) {
        for index in members {
            isolation.handle_silence(pool.member(index), when);
        }
    }

    #[test]
    fn most_of_two_pools_silent_is_us() {
        let mut isolation = Isolation::default();
        silence(&mut isolation, A, 0..2, at(10));
        silence(&mut isolation, B, 0..1, at(11));
        assert!(!isolation.judge(|_| 3, at(20)));
        silence(&mut isolation, B, 1..2, at(12));
        assert!(isolation.judge(|_| 3, at(20)));
        let cause = IsolationCause::ManySilent {
            pools: 2,
            members: 4,
        };
        assert_eq!(isolation.state(), Some((cause, at(20))));
    }

    #[test]
    fn a_whole_pool_alone_is_not_us() {
        let mut isolation = Isolation::default();
        silence(&mut isolation, A, 0..3, at(10));
        assert!(!isolation.judge(|_| 3, at(20)));
    }

    #[test]
    fn silence_from_before_somebody_was_heard_does_not_count() {
        let mut isolation = Isolation::default();
        silence(&mut isolation, A, 0..3, at(10));
        isolation.handle_answer(B.member(0), at(15));
        silence(&mut isolation, B, 1..3, at(16));
        assert!(!isolation.judge(|_| 3, at(20)));
    }

    #[test]
    fn it_ends_when_somebody_who_was_silent_answers() {
        let mut isolation = Isolation::default();
        silence(&mut isolation, A, 0..2, at(10));
        silence(&mut isolation, B, 0..2, at(10));
        assert!(isolation.judge(|_| 3, at(20)));
        assert_eq!(isolation.handle_answer(A.member(2), at(30)), Heard::Noted);
        assert_eq!(isolation.handle_answer(A.member(1), at(31)), Heard::Over);
        assert_eq!(isolation.state(), None);
        assert!(!isolation.judge(|_| 3, at(32)), "old silence is forgotten");
    }

    #[test]
    fn a_vanished_path_is_us_until_anybody_answers() {
        let mut isolation = Isolation::default();
        isolation.handle_paths(&[A.member(0), A.member(1)]);
        assert!(isolation.handle_vanished(at(2)));
        assert!(!isolation.handle_vanished(at(3)));
        assert!(isolation.is_unrouted(A.member(1)));
        assert_eq!(isolation.handle_answer(B.member(0), at(4)), Heard::Over);
        assert!(
            isolation.is_unrouted(A.member(1)),
            "its silence is still our fault"
        );
    }

    #[test]
    fn a_witness_is_somebody_else_heard_since() {
        let mut isolation = Isolation::default();
        let (one, two) = (A.member(0), A.member(1));
        assert!(!isolation.has_witness(one, at(0)));
        isolation.handle_answer(one, at(10));
        assert!(!isolation.has_witness(one, at(5)));
        assert!(isolation.has_witness(two, at(10)));
        isolation.handle_answer(two, at(20));
        isolation.handle_answer(one, at(30));
        assert!(isolation.has_witness(one, at(20)));
        assert!(!isolation.has_witness(one, at(21)));
    }
}
