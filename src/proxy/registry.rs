//! The sessions of one worker: who they stand with, when they last carried a byte, and the way to
//! end them.
//!
//! A session writes its own entry when it moves bytes. Ending sets a fate and wakes the task,
//! which then ends itself; nobody else touches its sockets. A flow over UDP has no task: it is
//! noted as doomed, and whoever holds the flows asks for those ([`Registry::take_doomed`]) after
//! everything here that ends.
//!
//! Of those who stand here, and only of them, it is known at any time where they stand under the
//! topology in force ([`Registry::adopt`]). Who stands with a member or came for a service that is
//! gone *leaves*: it is kept for a while and then ended by the sweep, unless both are there again
//! by then.
//!
//! Users who move are ended a few at a time ([`Which::Moved`]): the search for them goes on where
//! it ended, looks at [`SCAN`] sessions a time at most, and stops for good once a whole round has
//! found none.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;

use super::Which;
use super::worker::TICK;
use crate::topology::{
    FormerMember, FormerService, PoolId, ServiceId, Succession, TargetId, Topology,
};

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
    /// Flows that are to end and have not been asked for, by their numbers; each stands here once.
    doomed: RefCell<Vec<u64>>,
    /// What those who leave stood with; some of it may be nobody's any more.
    formers: RefCell<Vec<Rc<Former>>>,
}

/// Who ends when it is told to.
#[derive(Debug)]
pub(super) enum Owner {
    /// A session, by its task.
    Session(Waker),
    /// A flow over UDP, by the number that its table gave it.
    Flow(u64),
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
    stand: Stand,
    side: Side,
    address: IpAddr,
    entered: Tick,
    /// When a byte last moved.
    moved: Cell<Tick>,
    /// Idle for so long, it ends.
    idle_ticks: Cell<Tick>,
    fate: Cell<Fate>,
    owner: Owner,
}

/// Where a session stands under the topology in force.
#[derive(Clone, Debug)]
enum Stand {
    /// With a member.
    With {
        /// What the client asked for; its pool is the client's home, which may be another than the
        /// member's.
        asked: ServiceId,
        target: TargetId,
    },
    /// Its member or service is gone.
    Leaving {
        /// When it ends.
        until: Tick,
        was: Rc<Former>,
    },
}

/// What sessions that leave stood with.
#[derive(Debug)]
struct Former {
    asked: FormerService,
    member: FormerMember,
    service: FormerService,
    found: Cell<Found>,
}

/// What of it there is under the topology in force.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// All of it: the session need not leave.
    back: Option<(ServiceId, TargetId)>,
    /// The client's home pool.
    home: Option<PoolId>,
    /// The pool of its member.
    on: Option<PoolId>,
}

/// On which of the two pools of a pair a session was counted when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Its home pool had no twin.
    Neither,
    Home,
    Twin,
}

/// A session that has been established, under the topology in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// What its client asked for.
    pub(super) asked: ServiceId,
    /// With whom it stands.
    pub(super) target: TargetId,
    /// Where it is counted.
    pub(super) side: Side,
    /// Its member's address.
    pub(super) address: IpAddr,
    /// Idle for so long, it ends.
    pub(super) idle_ticks: Tick,
}

/// What is left to do for a session that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) side: Side,
    /// The pool at whose member a place is free now, if that pool is still there.
    pub(super) on: Option<PoolId>,
}

/// Why a session or flow is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Its member is down.
    Down,
    /// Its member met an operator's deadline.
    Drained,
    /// Its member, service or listener is no longer in the configuration.
    Removed,
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
    pub(super) fn enter(&self, arrival: Arrival, now: Tick, owner: Owner) -> Key {
        let Arrival {
            asked,
            target,
            side,
            address,
            idle_ticks,
        } = arrival;
        self.entries.borrow_mut().insert(Entry {
            stand: Stand::With { asked, target },
            side,
            address,
            entered: now,
            moved: Cell::new(now),
            idle_ticks: Cell::new(idle_ticks),
            fate: Cell::new(Fate::Young),
            owner,
        })
    }

    /// Forgets a session that is over.
    pub(super) fn leave(&self, key: Key) -> Left {
        let entry = self.entries.borrow_mut().remove(key);
        Left {
            side: entry.side,
            on: entry.stand.on(),
        }
    }

    /// With whom a session stands; none when its member or service is gone.
    pub(super) fn target(&self, key: Key) -> Option<TargetId> {
        self.entries.borrow()[key].stand.target()
    }

    /// Has everybody stand where they are found under the topology `new` that comes after `old`;
    /// `idle` says how long sessions for one of its services may be idle. Whose member or service is
    /// gone is kept as those of a drained member are.
    pub(super) fn adopt(
        &self,
        (old, new): (&Topology, &Topology),
        succession: &Succession,
        idle: impl Fn(ServiceId) -> Tick,
        now: Tick,
    ) {
        let mut formers = self.formers.borrow_mut();
        formers.retain(|former| Rc::strong_count(former) > 1);
        for former in formers.iter() {
            former.found.set(former.find(new));
        }
        let mut gone: HashMap<(ServiceId, TargetId), Rc<Former>> = HashMap::new();
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            entry.stand = match &entry.stand {
                Stand::With { asked, target } => {
                    match (succession.service(*asked), succession.target(*target)) {
                        (Some(asked), Some(target)) => Stand::With { asked, target },
                        _ => {
                            let deadline = old.pool(target.pool).drain_deadline;
                            let was = gone.entry((*asked, *target));
                            let was = was.or_insert_with(|| Former::of(old, new, *asked, *target));
                            Stand::Leaving {
                                until: now.wrapping_add(ticks(deadline)),
                                was: was.clone(),
                            }
                        }
                    }
                }
                Stand::Leaving { until, was } => match was.found.get().back {
                    Some((asked, target)) => Stand::With { asked, target },
                    None => Stand::Leaving {
                        until: *until,
                        was: was.clone(),
                    },
                },
            };
            if let (Stand::With { asked, .. }, Owner::Session(_)) = (&entry.stand, &entry.owner) {
                entry.idle_ticks.set(idle(*asked));
            }
        }
        formers.extend(gone.into_values());
        self.moves.borrow_mut().retain_mut(|this| {
            match (succession.pool(this.home), succession.pool(this.off)) {
                (Some(home), Some(off)) => {
                    (this.home, this.off) = (home, off);
                    true
                }
                // Whoever is left of those leaves anyway.
                _ => false,
            }
        });
    }

    /// Notes that the session moved a byte; what it was told to do, which is as it was.
    pub(super) fn moved(&self, key: Key, now: Tick) -> Fate {
        let entry = &self.entries.borrow()[key];
        entry.moved.set(now);
        entry.fate.get()
    }

    /// Has the session end when it has been idle for so long.
    pub(super) fn set_idle(&self, key: Key, idle_ticks: Tick) {
        self.entries.borrow()[key].idle_ticks.set(idle_ticks);
    }

    /// How many it has room for.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.entries.borrow().capacity()
    }

    /// Ends one.
    pub(super) fn end_one(&self, key: Key) {
        self.entries.borrow()[key].doom(Fate::End(Told::Removed), &self.doomed);
    }

    /// Adds the numbers of the flows that are to end to `taken`; their fates tell why.
    pub(super) fn take_doomed(&self, taken: &mut VecDeque<u64>) {
        taken.extend(self.doomed.borrow_mut().drain(..));
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
            Which::Member { member, service } => entry.stand.target().is_some_and(|target| {
                target.member() == *member
                    && service.is_none_or(|service| target.service() == service)
            }),
            Which::Strays { target, keep } => {
                entry.stand.target() == Some(*target) && !keep.contains(&entry.address)
            }
            Which::Moved { .. } => false,
            Which::Down => entry.stand.target().is_some_and(&is_down),
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

    /// Looks at one in `parts` of all sessions: those idle for too long end, those who leave do when
    /// their time has come, and those that have outlived their first full round are told to settle.
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
            } else if entry.stand.is_over(now) {
                entry.doom(Fate::End(Told::Removed), &self.doomed);
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
    fn end(&mut self, entries: &Slab<Entry>, doomed: &RefCell<Vec<u64>>, now: Tick) -> usize {
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
                entry.stand.home() == Some(self.home)
                    && entry.stand.on() == Some(self.off)
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

impl Stand {
    fn target(&self) -> Option<TargetId> {
        match self {
            Stand::With { target, .. } => Some(*target),
            Stand::Leaving { .. } => None,
        }
    }

    fn home(&self) -> Option<PoolId> {
        match self {
            Stand::With { asked, .. } => Some(asked.pool),
            Stand::Leaving { was, .. } => was.found.get().home,
        }
    }

    fn on(&self) -> Option<PoolId> {
        match self {
            Stand::With { target, .. } => Some(target.pool),
            Stand::Leaving { was, .. } => was.found.get().on,
        }
    }

    /// Whether it is time to go for one who leaves.
    fn is_over(&self, now: Tick) -> bool {
        matches!(self, Stand::Leaving { until, .. } if !is_after(*until, now))
    }
}

impl Former {
    fn of(old: &Topology, new: &Topology, asked: ServiceId, target: TargetId) -> Rc<Former> {
        let mut former = Former {
            asked: FormerService::of(old, asked),
            member: FormerMember::of(old, target.member()),
            service: FormerService::of(old, target.service()),
            found: Cell::new(Found::default()),
        };
        former.found = Cell::new(former.find(new));
        Rc::new(former)
    }

    fn find(&self, topology: &Topology) -> Found {
        let pool = |service: &FormerService| topology.pool_named(service.pool()).map(|p| p.id);
        let target = || {
            let service = self.service.found(topology)?;
            Some(self.member.found(topology)?.target(service))
        };
        Found {
            back: self.asked.found(topology).zip(target()),
            home: pool(&self.asked),
            on: pool(&self.service),
        }
    }
}

/// After how many ticks a time is over for certain; no more than [`is_after`] can tell.
fn ticks(time: Duration) -> Tick {
    // The tick that it begins in may be nearly over.
    let ticks = time.as_nanos().div_ceil(TICK.as_nanos()) + 1;
    Tick::try_from(ticks).map_or(LONGEST, |ticks| ticks.min(LONGEST))
}

impl Entry {
    fn doom(&self, fate: Fate, doomed: &RefCell<Vec<u64>>) {
        if self.is_doomed() {
            return;
        }
        self.fate.set(fate);
        match &self.owner {
            Owner::Session(waker) => waker.wake_by_ref(),
            Owner::Flow(flow) => doomed.borrow_mut().push(*flow),
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

/// Beyond so many ticks, one that lies after another is taken for one before it: 17 years.
const LONGEST: Tick = Tick::MAX / 2 - 1;

/// Whether one tick lies after another; the count may have begun anew between them.
fn is_after(tick: Tick, other: Tick) -> bool {
    tick != other && tick.wrapping_sub(other) <= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HOME: PoolId = PoolId(0);
    const TWIN: PoolId = PoolId(1);

    fn arrival(asked: ServiceId, target: TargetId, idle_ticks: Tick) -> Arrival {
        Arrival {
            asked,
            target,
            side: Side::Neither,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            idle_ticks,
        }
    }

    fn enter(registry: &Registry, home: PoolId, on: PoolId, now: Tick) -> Key {
        let target = on.member(0).target(on.service(0));
        let waker = Waker::noop().clone();
        let arrival = arrival(home.service(0), target, Tick::MAX);
        registry.enter(arrival, now, Owner::Session(waker))
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
        let arrival = arrival(HOME.service(0), target, idle_ticks);
        registry.enter(arrival, now, Owner::Flow(flow))
    }

    fn doomed(registry: &Registry) -> VecDeque<u64> {
        let mut doomed = VecDeque::new();
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
        assert_eq!(doomed(&registry), [7, 8]);
        registry.sweep(1, Tick::MAX);
        assert!(doomed(&registry).is_empty());
    }

    #[test]
    fn a_flow_is_idle_by_the_time_that_was_set_last_and_never_settles() {
        let registry = Registry::default();
        let key = enter_flow(&registry, 7, 4, 0);
        registry.sweep(1, 3);
        assert!(doomed(&registry).is_empty());
        assert_eq!(registry.fate(key), Fate::Settled);
        registry.set_idle(key, 10);
        registry.sweep(1, 9);
        assert_eq!(registry.moved(key, 9), Fate::Settled);
        registry.sweep(1, 18);
        assert!(doomed(&registry).is_empty());
        registry.sweep(1, 19);
        assert_eq!(doomed(&registry), [7]);
        assert_eq!(registry.fate(key), Fate::Idle);
        assert_eq!(registry.moved(key, 19), Fate::Idle, "it is too late");
    }

    /// A topology of a pool with this member, whose sessions are kept for so long.
    fn topology(member: &str, drain: Duration) -> Topology {
        let text = format!(
            "[pools.a]\nrole = \"mediation\"\nquorum = \"any\"\nmembers.{member} = \"192.0.2.1\"\n\
             [pools.a.services.sip]\nlisten = \"127.0.0.1:0\"\n"
        );
        let loaded = crate::config::parse(&text, "f").expect("valid");
        let mut topology = loaded.config.topology;
        topology.pools[0].drain_deadline = drain;
        topology
    }

    fn adopt(registry: &Registry, old: &Topology, new: &Topology, now: Tick) {
        let succession = Succession::between(old, new);
        registry.adopt((old, new), &succession, |_| Tick::MAX, now);
    }

    #[test]
    fn who_leaves_ends_at_the_deadline_of_its_old_pool_and_not_before() {
        let registry = Registry::default();
        let key = enter(&registry, HOME, HOME, 5);
        let drain = |ticks| TICK * ticks;
        let (old, new) = (topology("m", drain(40)), topology("n", drain(0)));
        adopt(&registry, &old, &new, 10);
        assert_eq!(registry.target(key), None);
        // What comes later changes nothing about it.
        adopt(&registry, &new, &topology("o", drain(0)), 20);
        adopt(&registry, &new, &new, 30);
        for now in 11..=50 {
            registry.sweep(1, now);
            assert!(!matches!(registry.fate(key), Fate::End(_)), "at {now}");
        }
        registry.sweep(1, 51);
        assert_eq!(registry.fate(key), Fate::End(Told::Removed));
        assert_eq!(registry.leave(key).on, Some(HOME));
    }

    #[test]
    fn who_leaves_stays_where_what_it_stood_with_is_there_again() {
        let registry = Registry::default();
        let keys = [(); 3].map(|()| enter(&registry, HOME, HOME, 5));
        let (with, without) = (topology("m", TICK * 40), topology("n", TICK * 40));
        let nothing = Topology::default();
        adopt(&registry, &with, &without, 10);
        assert_eq!(
            registry.formers.borrow().len(),
            1,
            "all stood with the same"
        );
        // Its pool, too.
        adopt(&registry, &without, &nothing, 20);
        assert_eq!(registry.leave(keys[1]).on, None);
        adopt(&registry, &nothing, &with, 30);
        let target = HOME.member(0).target(HOME.service(0));
        assert_eq!(registry.target(keys[0]), Some(target));
        registry.sweep(1, 1_000);
        assert!(!matches!(registry.fate(keys[0]), Fate::End(_)));
        // It may leave once more, with a deadline of its own.
        adopt(&registry, &with, &without, 1_000);
        assert_eq!(
            registry.formers.borrow().len(),
            1,
            "nothing is kept for nobody"
        );
        registry.sweep(1, 1_040);
        assert!(!matches!(registry.fate(keys[2]), Fate::End(_)));
        registry.sweep(1, 1_041);
        assert_eq!(registry.fate(keys[2]), Fate::End(Told::Removed));
    }

    #[test]
    fn the_idle_timeout_in_force_holds_for_sessions_that_are_there() {
        let registry = Registry::default();
        let key = enter(&registry, HOME, HOME, 0);
        let same = topology("m", Duration::ZERO);
        let succession = Succession::between(&same, &same);
        registry.adopt((&same, &same), &succession, |_| 8, 2);
        assert!(registry.target(key).is_some());
        registry.sweep(1, 7);
        assert_ne!(registry.fate(key), Fate::Idle);
        registry.sweep(1, 8);
        assert_eq!(registry.fate(key), Fate::Idle);
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
