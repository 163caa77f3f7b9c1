//! The snapshot: for each service, who serves a client, who may be chosen and where each is found.

use std::cell::Cell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Attempt;
use super::redirect::Redirect;
use crate::balance::{Arrivals, Lane, Load, NoSeat, Pace, Roster, Seat, Tried, client_key};
use crate::health::readiness::Takes;
use crate::pairing::record::Phase;
use crate::pairing::{Condition, Decider};
use crate::time::Time;
use crate::topology::{
    BelowQuorum, FormerMember, Member, MemberId, Policy, Pool, PoolId, Service, ServiceId,
    Succession, TargetId, Topology,
};

/// Who may be chosen for every service, at one moment.
#[derive(Debug)]
pub struct Snapshot {
    epoch: u32,
    /// By pool, then by service.
    routes: Vec<Vec<Route>>,
    /// By pool: where its users are sent, where it has a twin.
    redirects: Vec<Option<Redirect>>,
    pools: Vec<Arc<PoolHandle>>,
}

/// Who asks for a member, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The service that the client asked for.
    pub service: ServiceId,
    /// The one that serves it: the same, or the twin's.
    pub serving: ServiceId,
    /// The client.
    pub client: IpAddr,
    /// Members of `serving` that have been tried for it.
    pub tried: &'a Tried,
    /// What choices carry from one to the next.
    pub lane: &'a Lane,
    /// Set when a member is passed over because it has taken as many of a moving pool's users as
    /// it may for now.
    pub held: &'a Cell<bool>,
}

/// Who may be chosen for one service.
#[derive(Debug)]
pub struct Route {
    roster: Roster,
    /// In the roster's order.
    places: Box<[Place]>,
    /// Members, by index, whose sessions have been ended.
    down: Box<[bool]>,
}

#[derive(Debug)]
struct Place {
    member: Arc<MemberHandle>,
    target: TargetId,
    address: SocketAddr,
}

/// What outlives snapshots, and topologies, of one member: its load, and how many of a moving
/// pool's users came.
#[derive(Debug)]
pub struct MemberHandle {
    pub(super) load: Load,
    arrivals: Arrivals,
    /// None when 0.
    limit: AtomicU32,
}

/// What outlives snapshots, and topologies, of one pool: how many wait in its queue.
#[derive(Debug)]
pub struct PoolHandle {
    waiting: AtomicU32,
    limit: AtomicU32,
}

/// Every handle of a topology.
#[derive(Clone, Debug)]
pub struct Handles {
    members: Vec<Vec<Arc<MemberHandle>>>,
    pools: Vec<Arc<PoolHandle>>,
    /// Of members that are gone and held sessions when it was last looked.
    former: Vec<(FormerMember, Arc<MemberHandle>)>,
}

/// Why there is no member for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMember {
    /// None is usable: refuse.
    NoneUsable,
    /// All are full, or have taken as many of a moving pool's users as they may for now: wait.
    AllFull,
    /// All have been tried for this session.
    AllTried,
}

impl fmt::Display for NoMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoMember::NoneUsable => "no member is usable",
            NoMember::AllFull => "every usable member is full for now",
            NoMember::AllTried => "every usable member has been tried",
        })
    }
}

impl Snapshot {
    /// What the decider's verdicts and records mean for every service. `epoch` counts the topologies
    /// of this process: ids mean something in one of them alone. `address` gives where a
    /// target is found, if that is known; `now` tells which operators' deadlines have passed;
    /// `moving` says whether a pool's users are on the move beyond what its phase tells: from a
    /// transition on, until it has settled.
    pub fn new(
        epoch: u32,
        decider: &Decider,
        handles: &Handles,
        now: Time,
        moving: impl Fn(PoolId) -> bool,
        address: impl Fn(TargetId) -> Option<SocketAddr>,
    ) -> Snapshot {
        let topology = decider.topology();
        let routes = topology.pools.iter().map(|pool| {
            let route = |service| Route::new(decider, handles, service, now, &address);
            pool.services.iter().map(route).collect()
        });
        let redirects = topology
            .pools
            .iter()
            .map(|pool| Redirect::new(decider, pool, moving(pool.id)));
        Snapshot {
            epoch,
            routes: routes.collect(),
            redirects: redirects.collect(),
            pools: handles.pools.clone(),
        }
    }

    /// Which topology its ids are of.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Who may be chosen for a service.
    pub fn route(&self, service: ServiceId) -> &Route {
        &self.routes[service.pool.index()][service.index()]
    }

    /// Whether the target's sessions have been ended, so that it must not be given another.
    pub fn is_down(&self, target: TargetId) -> bool {
        self.route(target.service()).down[target.member().index()]
    }

    /// A pool's queue.
    pub fn queue(&self, pool: PoolId) -> &Arc<PoolHandle> {
        &self.pools[pool.index()]
    }

    /// The service that serves a client who asked for this one: the same, or the twin's.
    pub fn serving(&self, service: ServiceId, client: IpAddr) -> ServiceId {
        match &self.redirects[service.pool.index()] {
            None => service,
            Some(redirect) => redirect.serving(service, client),
        }
    }

    /// The generation of the record that says where a pool's users are sent, where it has a twin.
    pub fn generation(&self, pool: PoolId) -> Option<u64> {
        self.redirects[pool.index()]
            .as_ref()
            .map(Redirect::generation)
    }

    /// Home pools whose users are sent elsewhere than `before`, of the same topology, sent them.
    pub fn redirected_since(&self, before: &Snapshot) -> impl Iterator<Item = PoolId> {
        let both = (0..).map(PoolId).take(self.redirects.len());
        both.filter(|pool| self.phase(*pool) != before.phase(*pool))
    }

    /// Where a pool's users are in moving between it and its twin, where it has one.
    pub fn phase(&self, home: PoolId) -> Option<Phase> {
        self.redirects[home.index()].as_ref().map(Redirect::phase)
    }

    /// The other pool's service, where a client may go that `serving` accepted nowhere; none where
    /// it may not.
    pub fn spill(&self, service: ServiceId, serving: ServiceId) -> Option<ServiceId> {
        let redirect = self.redirects[service.pool.index()].as_ref()?;
        redirect.spill(service, serving)
    }

    /// Who of those that may be chosen for a service is tried by this attempt, whatever topology it
    /// was made in; none when its member is found elsewhere now, or must not be chosen any more.
    pub fn find(&self, service: ServiceId, attempt: &Attempt) -> Option<TargetId> {
        let places = &self.route(service).places;
        let is = |place: &&Place| {
            Arc::ptr_eq(&place.member, &attempt.member) && place.address == attempt.address()
        };
        Some(places.iter().find(is)?.target)
    }

    /// Chooses a member and takes a place at it; says which it is.
    pub fn pick(&self, request: &Request<'_>, now: Time) -> Result<(TargetId, Attempt), NoMember> {
        let redirect = self.redirects[request.service.pool.index()].as_ref();
        let pace = redirect.and_then(|r| r.pace(request.service, request.serving));
        self.route(request.serving).pick(request, pace, now)
    }
}

impl Route {
    fn new(
        decider: &Decider,
        handles: &Handles,
        service: &Service,
        now: Time,
        address: &impl Fn(TargetId) -> Option<SocketAddr>,
    ) -> Route {
        let topology = decider.topology();
        let pool = topology.pool(service.id.pool);
        let met_deadline = |member: MemberId| {
            let deadline = decider.operator(member).and_then(|state| state.deadline);
            deadline.is_some_and(|deadline| deadline <= now)
        };
        let keeps = |member: MemberId| {
            decider.readiness(member.target(service.id)).keeps && !met_deadline(member)
        };
        let down = pool
            .members
            .iter()
            .map(|member| !keeps(member.id))
            .collect();
        let (condition, ..) = decider.condition(pool.id);
        if condition == Condition::Lost && pool.below_quorum == BelowQuorum::Refuse {
            return Route {
                roster: Roster::default(),
                places: Box::default(),
                down,
            };
        }
        let only = match service.balance {
            Policy::First => Some(decider.first(service.id)),
            _ => None,
        };
        let mut seated: Vec<(Seat, Place)> = pool
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| only.is_none_or(|only| only == Some(member.id)))
            .filter_map(|(index, member)| {
                let target = member.id.target(service.id);
                let takes = decider.readiness(target).takes;
                let last_resort = match takes {
                    Takes::No => return None,
                    Takes::LastResort => true,
                    Takes::New => false,
                };
                let place = Place {
                    member: handles.member(member.id).clone(),
                    target,
                    address: address(target)?,
                };
                let seat = Seat::new(
                    index as u16,
                    &member.name,
                    member.weight.get(),
                    member.max_connections,
                    decider
                        .returned(target)
                        .filter(|_| !service.slow_start.is_zero()),
                    member.backup,
                    last_resort,
                );
                Some((seat, place))
            })
            .collect();
        seated.sort_by_key(|(seat, _)| seat.tier());
        let (seats, places): (Vec<_>, Vec<_>) = seated.into_iter().unzip();
        Route {
            roster: Roster::new(seats, service.balance, service.slow_start),
            places: places.into_boxed_slice(),
            down,
        }
    }

    fn pick(
        &self,
        request: &Request<'_>,
        pace: Option<Pace>,
        now: Time,
    ) -> Result<(TargetId, Attempt), NoMember> {
        let Request { tried, lane, .. } = *request;
        let key = client_key(request.client);
        let load = |seat: usize| self.places[seat].member.load.get();
        loop {
            let choice = match pace {
                None => self.roster.choose(key, tried, lane, now, load),
                Some(pace) => self
                    .roster
                    .choose_open(key, tried, lane, now, load, |seat| {
                        let open = self.places[seat].member.arrivals.has_room(pace, now);
                        request.held.set(request.held.get() || !open);
                        open
                    }),
            };
            let place = &self.places[match choice {
                Ok(choice) => choice.0,
                Err(NoSeat::Empty) => return Err(NoMember::NoneUsable),
                Err(NoSeat::Full) => return Err(NoMember::AllFull),
                Err(NoSeat::Tried) => return Err(NoMember::AllTried),
            }];
            // Another worker may take the last place between the choice and here; then the member
            // is full and the next choice leaves it out.
            if place.member.take(pace, now) {
                let attempt = Attempt::new(place.member.clone(), place.address, now);
                return Ok((place.target, attempt));
            }
        }
    }
}

impl Handles {
    /// Fresh handles for every pool and member.
    pub fn new(topology: &Topology) -> Handles {
        let member = |member: &Member| {
            Arc::new(MemberHandle {
                load: Load::default(),
                arrivals: Arrivals::default(),
                limit: AtomicU32::new(limit_of(member)),
            })
        };
        let pool = |pool: &Pool| {
            Arc::new(PoolHandle {
                waiting: AtomicU32::new(0),
                limit: AtomicU32::new(pool.queue_limit),
            })
        };
        Handles {
            members: topology
                .pools
                .iter()
                .map(|pool| pool.members.iter().map(member).collect())
                .collect(),
            pools: topology.pools.iter().map(pool).collect(),
            former: Vec::new(),
        }
    }

    /// Those of the topology that comes after `old`, the one of these: who is still there keeps its
    /// handle and all that it holds, and so does who comes back while it holds anything. Limits are
    /// those of the new topology, at once and for all who share the handle.
    pub fn succeed(&self, old: &Topology, succession: &Succession, topology: &Topology) -> Handles {
        let mut next = Handles::new(topology);
        let holds = |(_, handle): &&(_, Arc<MemberHandle>)| handle.load() > 0;
        for (who, handle) in self.former.iter().filter(holds) {
            match who.found(topology) {
                Some(now) => next.take(now, handle.clone(), topology),
                None => next.former.push((who.clone(), handle.clone())),
            }
        }
        for (id, (pool, members)) in (0..).map(PoolId).zip(self.pools.iter().zip(&self.members)) {
            if let Some(now) = succession.pool(id) {
                let limit = topology.pool(now).queue_limit;
                pool.limit.store(limit, Ordering::Relaxed);
                next.pools[now.index()] = pool.clone();
            }
            for (nth, member) in (0..).zip(members) {
                let id = id.member(nth);
                match succession.member(id) {
                    Some(now) => next.take(now, member.clone(), topology),
                    None if member.load() > 0 => {
                        let who = FormerMember::of(old, id);
                        next.former.push((who, member.clone()));
                    }
                    None => {}
                }
            }
        }
        next
    }

    /// Has a member have this handle.
    fn take(&mut self, id: MemberId, handle: Arc<MemberHandle>, topology: &Topology) {
        let limit = limit_of(topology.member(id));
        handle.limit.store(limit, Ordering::Relaxed);
        self.members[id.pool.index()][id.index()] = handle;
    }

    /// A place for a session that stands with a member already, however many it has.
    pub fn stands(&self, id: MemberId, address: SocketAddr, now: Time) -> Attempt {
        let member = self.member(id).clone();
        member.take_anyway();
        Attempt::new(member, address, now)
    }

    /// A pool's queue.
    pub fn queue(&self, id: PoolId) -> &Arc<PoolHandle> {
        &self.pools[id.index()]
    }

    /// A member's handle.
    pub fn member(&self, id: MemberId) -> &Arc<MemberHandle> {
        &self.members[id.pool.index()][id.index()]
    }
}

/// How many sessions a member may hold; 0 when as many as come.
fn limit_of(member: &Member) -> u32 {
    member.max_connections.map_or(0, NonZeroU32::get)
}

impl MemberHandle {
    /// Sessions and attempts that it holds.
    pub fn load(&self) -> u32 {
        self.load.get()
    }

    /// Another process that held so many of its sessions holds so many now.
    pub fn hold_elsewhere(&self, before: u32, now: u32) {
        self.load.recount(before, now);
    }

    /// Takes a place, even beyond its limit.
    fn take_anyway(&self) {
        let taken = self.load.take(None);
        debug_assert!(taken, "without a limit there is always room");
    }

    /// Takes a place, and the arrival of one more where those are limited; both or none.
    fn take(&self, pace: Option<Pace>, now: Time) -> bool {
        let place = self.load.take(self.limit());
        if place && !pace.is_none_or(|pace| self.arrivals.take(pace, now)) {
            self.load.release();
            return false;
        }
        place
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limit().is_some()
    }

    fn limit(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.limit.load(Ordering::Relaxed))
    }
}

impl PoolHandle {
    /// How many wait now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Joins the pool's queue, unless it is full; leave it with [`PoolHandle::leave`].
    #[must_use]
    pub fn join(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let room = self.waiting.fetch_add(1, Ordering::Relaxed) < limit;
        if !room {
            self.leave();
        }
        room
    }

    /// Leaves the queue.
    pub fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::fixture::{ALONE, HOME, count, topology};

    #[test]
    fn who_is_still_there_keeps_its_handle_and_has_the_limits_of_now() {
        let mut old = topology([2, 1, 1]);
        old.pools[HOME.index()].queue_limit = 1;
        let mut new = old.clone();
        new.pools[HOME.index()].queue_limit = 2;
        new.pools[HOME.index()].members[0].max_connections = Some(count(2));
        new.pools[HOME.index()].members.truncate(1);
        let before = Handles::new(&old);
        let (now, first) = (crate::clock::now(), HOME.member(0));
        assert!(before.pools[HOME.index()].join());
        assert!(!before.pools[HOME.index()].join(), "one may wait");
        assert!(before.member(first).take(None, now));
        assert!(!before.member(first).is_limited());
        let after = before.succeed(&old, &Succession::between(&old, &new), &new);
        assert!(Arc::ptr_eq(before.member(first), after.member(first)));
        assert!(Arc::ptr_eq(
            before.member(ALONE.member(0)),
            after.member(ALONE.member(0))
        ));
        assert_eq!(after.members[HOME.index()].len(), 1);
        assert_eq!(after.member(first).load(), 1);
        assert!(after.member(first).is_limited());
        assert!(after.member(first).take(None, now));
        assert!(!after.member(first).take(None, now), "two it may hold");
        assert!(after.pools[HOME.index()].join(), "two may wait");
        assert!(!after.pools[HOME.index()].join());
        let last = after.succeed(&new, &Succession::between(&new, &old), &old);
        assert_eq!(last.member(HOME.member(1)).load(), 0, "one that is new");
        assert!(last.member(first).take(None, now), "as many as come");
    }

    #[test]
    fn who_comes_back_has_what_it_holds_still() {
        let with = topology([2, 1, 1]);
        let mut without = with.clone();
        without.pools[HOME.index()].members.truncate(1);
        let mut limited = with.clone();
        limited.pools[HOME.index()].members[1].max_connections = Some(count(2));
        let (now, second) = (crate::clock::now(), HOME.member(1));
        let go =
            |handles: &Handles, old, new| handles.succeed(old, &Succession::between(old, new), new);
        let first = Handles::new(&with);
        let handle = first.member(second).clone();
        assert!(handle.take(None, now));
        let gone = go(&first, &with, &without);
        assert_eq!(gone.former.len(), 1);
        let still = go(&gone, &without, &without);
        let back = go(&still, &without, &limited);
        assert!(Arc::ptr_eq(back.member(second), &handle));
        assert!(back.former.is_empty());
        assert!(back.member(second).take(None, now));
        assert!(!back.member(second).take(None, now), "two it may hold");

        let gone = go(&back, &limited, &without);
        handle.load.release();
        handle.load.release();
        let back = go(&gone, &without, &with);
        assert!(
            !Arc::ptr_eq(back.member(second), &handle),
            "it held nothing"
        );
        assert!(back.former.is_empty());
        assert!(go(&back, &with, &without).former.is_empty());
    }
}
