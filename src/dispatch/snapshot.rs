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
use crate::pairing::{Condition, Decider};
use crate::time::Time;
use crate::topology::{
    BelowQuorum, MemberId, Policy, PoolId, Service, ServiceId, TargetId, Topology,
};

/// Who may be chosen for every service, at one moment.
#[derive(Debug)]
pub struct Snapshot {
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

/// What outlives snapshots of one member: its load, and how many of a moving pool's users came.
#[derive(Debug)]
pub struct MemberHandle {
    pub(super) load: Load,
    arrivals: Arrivals,
    limit: Option<NonZeroU32>,
}

/// What outlives snapshots of one pool: how many wait in its queue.
#[derive(Debug)]
pub struct PoolHandle {
    waiting: AtomicU32,
    limit: u32,
}

/// Every handle of a topology.
#[derive(Clone, Debug)]
pub struct Handles {
    members: Vec<Vec<Arc<MemberHandle>>>,
    pools: Vec<Arc<PoolHandle>>,
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
    /// What the decider's verdicts and records mean for every service. `address` gives where a
    /// target is found, if that is known; `now` tells which operators' deadlines have passed;
    /// `moving` says whether a pool's users are on the move beyond what its phase tells: from a
    /// transition on, until it has settled.
    pub fn new(
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
            routes: routes.collect(),
            redirects: redirects.collect(),
            pools: handles.pools.clone(),
        }
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

    /// Home pools whose users are sent elsewhere than `before` sent them.
    pub fn redirected_since(&self, before: &Snapshot) -> impl Iterator<Item = PoolId> {
        let phase = |redirect: &Option<Redirect>| redirect.as_ref().map(Redirect::phase);
        let both = self.redirects.iter().zip(&before.redirects);
        let both = (0..).map(PoolId).zip(both);
        both.filter(move |(_, (now, then))| phase(now) != phase(then))
            .map(|(pool, _)| pool)
    }

    /// The other pool's service, where a client may go that `serving` accepted nowhere; none where
    /// it may not.
    pub fn spill(&self, service: ServiceId, serving: ServiceId) -> Option<ServiceId> {
        let redirect = self.redirects[service.pool.index()].as_ref()?;
        redirect.spill(service, serving)
    }

    /// Chooses a member and takes a place at it.
    pub fn pick(&self, request: &Request<'_>, now: Time) -> Result<Attempt, NoMember> {
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
    ) -> Result<Attempt, NoMember> {
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
                let member = place.member.clone();
                return Ok(Attempt::new(member, place.target, place.address));
            }
        }
    }
}

impl Handles {
    /// Fresh handles for every pool and member.
    pub fn new(topology: &Topology) -> Handles {
        let member = |member: &crate::topology::Member| {
            Arc::new(MemberHandle {
                load: Load::default(),
                arrivals: Arrivals::default(),
                limit: member.max_connections,
            })
        };
        let pool = |pool: &crate::topology::Pool| {
            Arc::new(PoolHandle {
                waiting: AtomicU32::new(0),
                limit: pool.queue_limit,
            })
        };
        Handles {
            members: topology
                .pools
                .iter()
                .map(|pool| pool.members.iter().map(member).collect())
                .collect(),
            pools: topology.pools.iter().map(pool).collect(),
        }
    }

    /// A member's handle.
    pub fn member(&self, id: MemberId) -> &Arc<MemberHandle> {
        &self.members[id.pool.index()][id.index()]
    }
}

impl MemberHandle {
    /// Sessions and attempts that it holds.
    pub fn load(&self) -> u32 {
        self.load.get()
    }

    /// Takes a place, and the arrival of one more where those are limited; both or none.
    fn take(&self, pace: Option<Pace>, now: Time) -> bool {
        let place = self.load.take(self.limit);
        if place && !pace.is_none_or(|pace| self.arrivals.take(pace, now)) {
            self.load.release();
            return false;
        }
        place
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }
}

impl PoolHandle {
    /// Joins the pool's queue, unless it is full; leave it with [`PoolHandle::leave`].
    #[must_use]
    pub fn join(&self) -> bool {
        let room = self.waiting.fetch_add(1, Ordering::Relaxed) < self.limit;
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
