//! The sessions of one worker: who they stand with, when they last carried a byte, and the way to
//! end them.
//!
//! A session writes its own entry when it moves bytes. Ending sets a fate and wakes the task,
//! which then ends itself; nobody else touches its sockets. A flow over UDP has no task: it is
//! noted as doomed, and whoever holds the flows asks for those ([`Registry::take_doomed`]) after
//! everything here that ends.
//!
//! Users who move are ended a few at a time ([`Which::Moved`]): the search for them goes on where
//! it ended, looks at [`SCAN`] sessions a time at most, and stops for good once a whole round has
//! found none.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::task::Waker;

use slab::Slab;

use super::Which;
use crate::topology::{PoolId, TargetId};

/// A session's place in its worker's registry.
pub(super) type Key = usize;

/// A count of sweeps, [`super::worker::TICK`] apart.
pub(super) type Tick = u32;

/// Sessions looked at for one [`Which::Moved`]: a few hundred microseconds of the worker's time.
const SCAN: usize = 1 << 15;

/// Sessions on one worker.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: RefCell<Slab<Entry>>,
    /// Where the next sweep goes on.
    cursor: Cell<Key>,
    /// The latest move of each home pool whose users were ever moved.
    moves: RefCell<Vec<Move>>,
    /// Flows that are to end and have not been asked for; each stands here once.
    doomed: RefCell<Vec<Doomed>>,
}

/// Who ends when it is told to.
#[derive(Debug)]
pub(super) enum Owner {
    /// A session, by its task.
    Session(Waker),
    /// A flow over UDP, by the number that its table gave it.
    Flow(u64),
}

/// A flow that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doomed {
    /// The number that its table gave it.
    pub(super) flow: u64,
    /// Why, unless it was idle for too long.
    pub(super) told: Option<Told>,
}

/// The search for sessions of users who move.
#[derive(Clone, Copy, Debug)]
struct Move {
    home: PoolId,
    /// On whose members.
    off: PoolId,
    job: u64,
    /// How many are to be ended that it has not found yet.
    owed: u64,
    /// When it was first heard of: who came later has come to stay.
    since: Tick,
    /// Where the search goes on.
    cursor: Key,
    /// Places looked at since the last session was found.
    barren: usize,
    /// Nobody is left whom it could find.
    done: bool,
}

#[derive(Debug)]
struct Entry {
    target: TargetId,
    /// The pool that the client belongs to, which may be another than the member's.
    home: PoolId,
    address: IpAddr,
    entered: Tick,
    /// When a byte last moved.
    moved: Cell<Tick>,
    /// Idle for so long, it ends.
    idle_ticks: Cell<Tick>,
    fate: Cell<Fate>,
    owner: Owner,
}

/// Why a session or flow is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Its member is down.
    Down,
    /// Its member met an operator's deadline.
    Drained,
    /// Its address is no longer its member's.
    Readdressed,
    /// Its client's pool is served elsewhere.
    Moved,
    /// The instance stops.
    Stopped,
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
    /// End, for this reason.
    End(Told),
    /// End: it was idle for too long.
    Idle,
}

impl Registry {
    /// Registers a session that has been established.
    pub(super) fn enter(
        &self,
        home: PoolId,
        target: TargetId,
        address: IpAddr,
        idle_ticks: Tick,
        now: Tick,
        owner: Owner,
    ) -> Key {
        self.entries.borrow_mut().insert(Entry {
            target,
            home,
            address,
            entered: now,
            moved: Cell::new(now),
            idle_ticks: Cell::new(idle_ticks),
            fate: Cell::new(Fate::Young),
            owner,
        })
    }

    /// Forgets a session that is over; says whom it stood with.
    pub(super) fn leave(&self, key: Key) -> TargetId {
        self.entries.borrow_mut().remove(key).target
    }

    /// Notes that the session moved a byte.
    pub(super) fn moved(&self, key: Key, now: Tick) {
        self.entries.borrow()[key].moved.set(now);
    }

    /// Has the session end when it has been idle for so long.
    pub(super) fn set_idle(&self, key: Key, idle_ticks: Tick) {
        self.entries.borrow()[key].idle_ticks.set(idle_ticks);
    }

    /// Moves the flows that are to end into `taken`.
    pub(super) fn take_doomed(&self, taken: &mut Vec<Doomed>) {
        taken.append(&mut self.doomed.borrow_mut());
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
    pub(super) fn end(
        &self,
        which: &Which,
        is_down: impl Fn(TargetId) -> bool,
        now: Tick,
    ) -> usize {
        if let Which::Moved {
            home,
            off,
            job,
            most,
        } = *which
        {
            return self.end_moved(home, off, job, most, now);
        }
        let told = match which {
            // Verdicts are of a service; an operator's deadline is of all.
            Which::Member { service, .. } if service.is_none() => Told::Drained,
            Which::Member { .. } | Which::Down => Told::Down,
            Which::Strays { .. } => Told::Readdressed,
            Which::Moved { .. } => Told::Moved,
            Which::All => Told::Stopped,
        };
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
            Which::Down => is_down(entry.target),
            Which::All => true,
        };
        entries
            .iter()
            .map(|(_, entry)| entry)
            .filter(hit)
            .map(|entry| entry.doom(Fate::End(told), &self.doomed))
            .count()
    }

    fn end_moved(&self, home: PoolId, off: PoolId, job: u64, most: u64, now: Tick) -> usize {
        let mut moves = self.moves.borrow_mut();
        let at = moves.iter().position(|known| known.home == home);
        let at = at.unwrap_or_else(|| {
            moves.push(Move::new(home, off, job, now));
            moves.len() - 1
        });
        let this = &mut moves[at];
        if job > this.job {
            *this = Move::new(home, off, job, now);
        }
        // A late word about a move that another one has replaced ends nobody.
        if job < this.job {
            return 0;
        }
        this.owed += most;
        this.end(&self.entries.borrow(), &self.doomed, now)
    }

    /// Goes on with what was told to be ended and is not yet found; `ended` takes whose users'
    /// sessions were, and how many.
    pub(super) fn go_on(&self, now: Tick, ended: impl Fn(PoolId, u64)) {
        let entries = self.entries.borrow();
        for this in self.moves.borrow_mut().iter_mut() {
            if this.owed > 0 && !this.done {
                ended(this.home, this.end(&entries, &self.doomed, now) as u64);
            }
        }
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
            if now.wrapping_sub(entry.moved.get()) >= entry.idle_ticks.get() {
                entry.doom(Fate::Idle, &self.doomed);
            } else if entry.fate.get() == Fate::Young
                && now.wrapping_sub(entry.entered) >= parts as Tick
            {
                entry.settle();
            }
        }
        self.cursor.set(to);
    }
}

impl Move {
    fn new(home: PoolId, off: PoolId, job: u64, now: Tick) -> Move {
        Move {
            home,
            off,
            job,
            since: now,
            owed: 0,
            cursor: 0,
            barren: 0,
            done: false,
        }
    }

    /// Ends as many as are owed, as far as one look finds them.
    fn end(&mut self, entries: &Slab<Entry>, doomed: &RefCell<Vec<Doomed>>, now: Tick) -> usize {
        if self.done {
            return 0;
        }
        let places = entries.capacity();
        let mut ended = 0;
        for _ in 0..places.min(SCAN) {
            if self.owed == 0 {
                break;
            }
            let key = if self.cursor < places { self.cursor } else { 0 };
            self.cursor = key + 1;
            let entry = entries.get(key);
            let hit = entry.filter(|entry| {
                entry.home == self.home
                    && entry.target.pool == self.off
                    && !entry.is_doomed()
                    && !is_after(entry.entered, self.since)
            });
            match hit {
                Some(entry) => {
                    entry.doom(Fate::End(Told::Moved), doomed);
                    self.owed -= 1;
                    ended += 1;
                    self.barren = 0;
                }
                None => self.barren += 1,
            }
            if self.barren >= places {
                // A whole round found nobody: they ended by themselves.
                self.owed = 0;
            }
        }
        // Ticks are coarse: who comes within the first one may still be meant.
        let barren = self.barren >= places;
        self.done = barren && is_after(now, self.since);
        if barren {
            self.barren = 0;
        }
        ended
    }
}

impl Entry {
    fn doom(&self, fate: Fate, doomed: &RefCell<Vec<Doomed>>) {
        if self.is_doomed() {
            return;
        }
        self.fate.set(fate);
        match &self.owner {
            Owner::Session(waker) => waker.wake_by_ref(),
            Owner::Flow(flow) => doomed.borrow_mut().push(Doomed {
                flow: *flow,
                told: match fate {
                    Fate::End(told) => Some(told),
                    _ => None,
                },
            }),
        }
    }

    /// Tells a session to settle. A flow's socket has no orders to give.
    fn settle(&self) {
        match &self.owner {
            Owner::Session(waker) => {
                self.fate.set(Fate::Settle);
                waker.wake_by_ref();
            }
            Owner::Flow(_) => self.fate.set(Fate::Settled),
        }
    }

    fn is_doomed(&self) -> bool {
        matches!(self.fate.get(), Fate::End(_) | Fate::Idle)
    }
}

/// Whether one tick lies after another; the count may have begun anew between them.
fn is_after(tick: Tick, other: Tick) -> bool {
    tick != other && tick.wrapping_sub(other) < Tick::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HOME: PoolId = PoolId(0);
    const TWIN: PoolId = PoolId(1);

    fn enter(registry: &Registry, home: PoolId, on: PoolId, now: Tick) -> Key {
        let target = on.member(0).target(on.service(0));
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let waker = Waker::noop().clone();
        registry.enter(home, target, address, Tick::MAX, now, Owner::Session(waker))
    }

    fn end(registry: &Registry, job: u64, most: u64, now: Tick) -> usize {
        let (home, off) = (HOME, TWIN);
        let which = Which::Moved {
            home,
            off,
            job,
            most,
        };
        registry.end(&which, |_| false, now)
    }

    fn ended(registry: &Registry, keys: &[Key]) -> usize {
        let is = |&&key: &&Key| matches!(registry.fate(key), Fate::End(_));
        keys.iter().filter(is).count()
    }

    #[test]
    fn users_who_move_are_ended_a_few_at_a_time_and_no_others() {
        let registry = Registry::default();
        let mut moving = Vec::new();
        let mut others = Vec::new();
        for _ in 0..50 {
            moving.push(enter(&registry, HOME, TWIN, 5));
            others.push(enter(&registry, HOME, HOME, 5));
            others.push(enter(&registry, TWIN, TWIN, 5));
            others.push(enter(&registry, TWIN, HOME, 5));
        }
        for round in 1..=7 {
            assert_eq!(end(&registry, 1, 7, 9), 7);
            assert_eq!(ended(&registry, &moving), round * 7);
        }
        assert_eq!(end(&registry, 1, 7, 9), 1);
        assert_eq!(end(&registry, 1, 7, 9), 0);
        assert_eq!(ended(&registry, &moving), 50);
        assert_eq!(ended(&registry, &others), 0);
    }

    #[test]
    fn who_came_after_a_move_began_stays_until_the_next_one() {
        let registry = Registry::default();
        let before = enter(&registry, HOME, TWIN, 9);
        assert_eq!(end(&registry, 1, 0, 9), 0);
        let after = enter(&registry, HOME, TWIN, 10);
        assert_eq!(end(&registry, 1, 100, 10), 1);
        assert_eq!(ended(&registry, &[before]), 1);
        assert_eq!(end(&registry, 1, 100, 20), 0);
        assert_eq!(ended(&registry, &[after]), 0);
        assert_eq!(end(&registry, 2, 100, 20), 1);
        assert_eq!(ended(&registry, &[after]), 1);
    }

    #[test]
    fn a_late_word_about_a_move_that_was_replaced_ends_nobody() {
        let registry = Registry::default();
        assert_eq!(end(&registry, 2, 100, 3), 0);
        let key = enter(&registry, HOME, TWIN, 3);
        assert_eq!(end(&registry, 1, 100, 5), 0);
        assert_eq!(ended(&registry, &[key]), 0);
    }

    #[test]
    fn the_search_goes_on_where_it_ended_and_ends_when_nobody_is_left() {
        let registry = Registry::default();
        for _ in 0..2 * SCAN {
            enter(&registry, HOME, HOME, 0);
        }
        let last = enter(&registry, HOME, TWIN, 0);
        assert_eq!(end(&registry, 1, 10, 1), 0);
        assert_eq!(end(&registry, 1, 10, 1), 0);
        assert_eq!(end(&registry, 1, 10, 2), 1);
        assert_eq!(ended(&registry, &[last]), 1);
        while !registry.moves.borrow()[0].done {
            assert_eq!(end(&registry, 1, 10, 2), 0);
        }
    }

    fn enter_flow(registry: &Registry, flow: u64, idle_ticks: Tick, now: Tick) -> Key {
        let target = HOME.member(0).target(HOME.service(0));
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        registry.enter(HOME, target, address, idle_ticks, now, Owner::Flow(flow))
    }

    fn doomed(registry: &Registry) -> Vec<Doomed> {
        let mut doomed = Vec::new();
        registry.take_doomed(&mut doomed);
        doomed
    }

    #[test]
    fn a_flow_that_is_to_end_is_noted_once() {
        let registry = Registry::default();
        let session = enter(&registry, HOME, HOME, 0);
        enter_flow(&registry, 7, Tick::MAX, 0);
        enter_flow(&registry, 8, Tick::MAX, 0);
        for _ in 0..2 {
            registry.end(&Which::All, |_| false, 1);
        }
        assert_eq!(registry.fate(session), Fate::End(Told::Stopped));
        let told = Some(Told::Stopped);
        let flow = |flow| Doomed { flow, told };
        assert_eq!(doomed(&registry), [flow(7), flow(8)]);
        registry.sweep(1, Tick::MAX);
        assert_eq!(doomed(&registry), []);
    }

    #[test]
    fn a_flow_is_idle_by_the_time_that_was_set_last_and_never_settles() {
        let registry = Registry::default();
        let key = enter_flow(&registry, 7, 4, 0);
        registry.sweep(1, 3);
        assert_eq!(doomed(&registry), []);
        assert_eq!(registry.fate(key), Fate::Settled);
        registry.set_idle(key, 10);
        registry.sweep(1, 9);
        registry.moved(key, 9);
        registry.sweep(1, 18);
        assert_eq!(doomed(&registry), []);
        registry.sweep(1, 19);
        let idle = Doomed {
            flow: 7,
            told: None,
        };
        assert_eq!(doomed(&registry), [idle]);
    }

    #[test]
    fn ticks_may_begin_anew() {
        assert!(is_after(1, 0));
        assert!(!is_after(0, 0));
        assert!(!is_after(0, 1));
        assert!(is_after(2, Tick::MAX));
        assert!(!is_after(Tick::MAX, 2));
    }
}
