//! [`Agenda`]: what is to be done when, each thing at most once.

use std::collections::{BTreeMap, BTreeSet};

use super::words::Wake;
use crate::time::Time;
use crate::topology::{MemberId, PairId};

/// Something to be done at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// Ask the target at this place.
    Probe(usize),
    /// Let an operator's decision lapse.
    Lapse(MemberId),
    /// End what a member still holds.
    Deadline(MemberId),
    /// Close the inquiry.
    Inquiry,
    /// Take a pair's next step.
    Pair(PairId),
}

/// In order of time; everything costs the logarithm of its length.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    due: BTreeSet<(Time, Item)>,
    at: BTreeMap<Item, Time>,
}

impl Agenda {
    /// Has `item` done at this moment instead of any other, or not at all.
    pub(super) fn set(&mut self, item: Item, at: Option<Time>) {
        let before = match at {
            Some(at) => self.at.insert(item, at),
            None => self.at.remove(&item),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, item));
        }
        if let Some(at) = at {
            self.due.insert((at, item));
        }
    }

    /// Takes the next thing that is due.
    pub(super) fn pop(&mut self, now: Time) -> Option<Item> {
        let &(at, item) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.remove(&(at, item));
        self.at.remove(&item);
        Some(item)
    }

    /// When something is due next, and what.
    pub(super) fn next(&self) -> Option<(Time, Wake)> {
        self.due.first().map(|&(at, item)| {
            let wake = match item {
                Item::Probe(_) => Wake::Probe,
                Item::Lapse(_) => Wake::Lapse,
                Item::Deadline(_) => Wake::Deadline,
                Item::Inquiry => Wake::Isolation,
                Item::Pair(_) => Wake::Pair,
            };
            (at, wake)
        })
    }
}
