//! What a worker knows of a service: what holds under the topology in force ([`Front`]), and what
//! outlives topologies ([`Account`]).
//!
//! Fronts never change: a new topology has new ones. Whoever waited for anything asks again which
//! front is in force ([`Front::current`]) before it uses an id, for ids mean something under one
//! topology alone. An established session holds no front, only its service's account.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::queue::Line;
use super::registry::{Side, Tick};
use super::session::lies_in;
use super::worker::TICK;
use crate::balance::Lane;
use crate::dispatch::HedgeBudget;
use crate::observe::counters::{
    HomeCounters, Lasting, MemberCounters, ServiceCounters, WorkerCounters,
};
use crate::topology::{ConnectRules, MemberId, PoolId, ServiceId, Topology};

/// What a worker knows of a service under one topology.
#[derive(Debug)]
pub(super) struct Front {
    /// Which topology its ids are of.
    pub(super) epoch: u32,
    pub(super) service: ServiceId,
    pub(super) account: Rc<Account>,
    pub(super) connect: ConnectRules,
    pub(super) queue_timeout: Duration,
    pub(super) idle_ticks: Tick,
    pub(super) peer_timeout: Duration,
    /// Whether the pool has a twin.
    has_twin: bool,
    /// Whether members are sent a PROXY header: the pool's own, and the twin's.
    send_proxy: [bool; 2],
    accept_proxy: Vec<IpNet>,
    queue: Rc<Queue>,
    all: Arc<WorkerCounters>,
}

/// What a worker keeps of a service for as long as it is there, or anybody came for it.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) counters: Lasting<ServiceCounters>,
    /// Those of its pool's users.
    pub(super) home: Lasting<HomeCounters>,
    pub(super) lane: Lane,
    pub(super) hedges: HedgeBudget,
    /// The front in force; none once the service is gone.
    front: RefCell<Weak<Front>>,
}

/// The queue of one home pool.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those whom the pool itself serves.
    pub(super) at_home: Rc<Line>,
    /// Those whom the twin serves.
    pub(super) at_twin: Rc<Line>,
}

impl Front {
    /// The front of a service from now on.
    pub(super) fn new(
        epoch: u32,
        topology: &Topology,
        id: ServiceId,
        account: Rc<Account>,
        queue: Rc<Queue>,
        all: Arc<WorkerCounters>,
    ) -> Rc<Front> {
        let service = topology.service(id);
        let ticks = service.idle_timeout.as_nanos().div_ceil(TICK.as_nanos());
        let front = Rc::new(Front {
            epoch,
            service: id,
            account,
            connect: service.connect.clone(),
            queue_timeout: topology.pool(id.pool).queue_timeout,
            idle_ticks: Tick::try_from(ticks).unwrap_or(Tick::MAX),
            peer_timeout: service.peer_timeout,
            has_twin: topology.twin(id.pool).is_some(),
            send_proxy: [
                service.send_proxy,
                topology
                    .twin_service(id)
                    .is_some_and(|twin| topology.service(twin).send_proxy),
            ],
            accept_proxy: service.accept_proxy.clone(),
            queue,
            all,
        });
        front.account.front.replace(Rc::downgrade(&front));
        front
    }

    /// The service is gone: there is no front of it any more.
    pub(super) fn retire(&self) {
        self.account.front.replace(Weak::new());
    }

    /// The front in force of the same service, if that is still there.
    pub(super) fn current(&self) -> Option<Rc<Front>> {
        self.account.front.borrow().upgrade()
    }

    /// This service's counters on this worker.
    pub(super) fn counters(&self) -> &ServiceCounters {
        &self.account.counters
    }

    /// A member's counters on this worker; of its own pool, or of the twin.
    pub(super) fn member(&self, id: MemberId) -> &Lasting<MemberCounters> {
        self.all.member(id)
    }

    /// Where users wait for members of the pool that serves them.
    pub(super) fn line(&self, serving: PoolId) -> &Rc<Line> {
        match serving == self.service.pool {
            true => &self.queue.at_home,
            false => &self.queue.at_twin,
        }
    }

    /// Where a session of this service that stands with a member of this pool, the front's own or
    /// its twin, is counted.
    pub(super) fn side(&self, serving: PoolId) -> Side {
        match (self.has_twin, serving == self.service.pool) {
            (false, _) => Side::Neither,
            (true, true) => Side::Home,
            (true, false) => Side::Twin,
        }
    }

    /// Whether a member of this pool, the front's own or its twin, is sent a PROXY header.
    pub(super) fn sends_header_to(&self, pool: PoolId) -> bool {
        self.send_proxy[usize::from(pool != self.service.pool)]
    }

    /// Whether a client at this address must begin with a PROXY header.
    pub(super) fn expects_header_from(&self, address: IpAddr) -> bool {
        lies_in(&self.accept_proxy, address)
    }
}

impl Account {
    /// That of a service which is new to this worker.
    pub(super) fn new(counters: &WorkerCounters, service: ServiceId, seed: u64) -> Rc<Account> {
        Rc::new(Account {
            counters: counters.service(service).clone(),
            home: counters.home(service.pool).clone(),
            lane: Lane::new(seed),
            hedges: HedgeBudget::default(),
            front: RefCell::default(),
        })
    }

    /// A session of this service has begun.
    pub(super) fn count_begun(&self, side: Side) {
        match side {
            Side::Neither => {}
            Side::Home => self.home.at_home.add(1),
            Side::Twin => self.home.at_twin.add(1),
        }
    }

    /// One that was counted there is over.
    pub(super) fn count_over(&self, side: Side) {
        match side {
            Side::Neither => {}
            Side::Home => self.home.at_home_ended.add(1),
            Side::Twin => self.home.at_twin_ended.add(1),
        }
    }
}
