//! The sessions of one worker: who they stand with, when they last carried a byte, and the way to
//! end them.
//!
//! A session writes its own entry when it moves bytes. Ending sets a fate and wakes the task,
//! which then ends itself; nobody else touches its sockets.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::task::Waker;

use slab::Slab;

use super::Which;
use crate::topology::TargetId;

/// A session's place in its worker's registry.
pub(super) type Key = usize;

/// A count of sweeps, [`super::worker::TICK`] apart.
pub(super) type Tick = u32;

/// Sessions on one worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: RefCell<Slab<Entry>>,
    /// Where the next sweep goes on.
    cursor: Cell<Key>,
}

#[derive(Debug)]
struct Entry {
    target: TargetId,
    address: IpAddr,
    entered: Tick,
    /// When a byte last moved.
    moved: Cell<Tick>,
    /// Idle for so long, it ends.
    idle_ticks: Tick,
    fate: Cell<Fate>,
    waker: Waker,
}

/// What a session is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Go on, and ask again once it has lived for a while.
    Young,
    /// Give the kernel its orders for a session that lives on, then go on.
    Settle,
    /// Go on.
    Settled,
    /// End: its member is down or was told to let go, or the instance stops.
    End,
    /// End: it was idle for too long.
    Idle,
}

impl Registry {
    /// Registers a session that has been established.
    pub(super) fn enter(
        &self,
        target: TargetId,
        address: IpAddr,
        idle_ticks: Tick,
        now: Tick,
        waker: Waker,
    ) -> Key {
        self.entries.borrow_mut().insert(Entry {
            target,
            address,
            entered: now,
            moved: Cell::new(now),
            idle_ticks,
            fate: Cell::new(Fate::Young),
            waker,
        })
    }

    /// Forgets a session that is over.
    pub(super) fn leave(&self, key: Key) {
        self.entries.borrow_mut().remove(key);
    }

    /// Notes that the session moved a byte.
    pub(super) fn moved(&self, key: Key, now: Tick) {
        self.entries.borrow()[key].moved.set(now);
    }

    /// What the session is to do. `Settle` is told once.
    pub(super) fn fate(&self, key: Key) -> Fate {
        let entries = self.entries.borrow();
        let fate = &entries[key].fate;
        if fate.get() == Fate::Settle {
            fate.replace(Fate::Settled);
            return Fate::Settle;
        }
        fate.get()
    }

    /// Ends those that `which` names; says how many.
    pub(super) fn end(&self, which: &Which) -> usize {
        let entries = self.entries.borrow();
        let hit = |entry: &&Entry| match which {
            Which::Member { member, service } => {
                entry.target.member() == *member
                    && service.is_none_or(|service| entry.target.service() == service)
            }
            Which::Strays { target, keep } => {
                entry.target == *target && !keep.contains(&entry.address)
            }
            Which::Moved { .. } => false,
            Which::All => true,
        };
        entries
            .iter()
            .map(|(_, entry)| entry)
            .filter(hit)
            .map(|entry| entry.doom(Fate::End))
            .count()
    }

    /// Looks at one in `parts` of all sessions: those idle for too long end, and those that have
    /// outlived their first full round are told to settle.
    pub(super) fn sweep(&self, parts: usize, now: Tick) {
        let entries = self.entries.borrow();
        let end = entries.capacity();
        let from = if self.cursor.get() < end {
            self.cursor.get()
        } else {
            0
        };
        let to = (from + end.div_ceil(parts)).min(end);
        for entry in (from..to).filter_map(|key| entries.get(key)) {
            if now.wrapping_sub(entry.moved.get()) >= entry.idle_ticks {
                entry.doom(Fate::Idle);
            } else if entry.fate.get() == Fate::Young
                && now.wrapping_sub(entry.entered) >= parts as Tick
            {
                entry.doom(Fate::Settle);
            }
        }
        self.cursor.set(to);
    }
}

impl Entry {
    fn doom(&self, fate: Fate) {
        if !matches!(self.fate.get(), Fate::End | Fate::Idle) {
            self.fate.set(fate);
            self.waker.wake_by_ref();
        }
    }
}
