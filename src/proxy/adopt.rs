//! A worker goes on under another topology.
//!
//! All of it happens between two events of the worker's loop, and in one place: whoever stands in
//! the registry, in a queue, among the remembered or at a listener is found again here, or is not,
//! and no id of the old topology is kept but by connects that are under way. Those ask for their
//! service's front anew after everything that they wait for (`connect`'s `renew`).

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::access::{Access, AccessLog};
use super::door::Door;
use super::front::{Account, Front, Queue};
use super::udp::{Change, Udp};
use super::worker::Worker;
use super::{Adoption, listen::Listener};
use crate::dispatch::Snapshot;
use crate::observe::counters::WorkerCounters;
use crate::topology::{PoolId, Protocol, ServiceId, Succession, Topology};

/// Where clients come in.
#[derive(Debug)]
pub(super) struct Entrances {
    doors: Vec<Door>,
    udp: Udp,
    /// Whether nobody new is let in.
    closed: bool,
}

/// What a worker knows of one topology.
#[derive(Debug)]
pub(super) struct Era {
    pub(super) topology: Arc<Topology>,
    pub(super) counters: Arc<WorkerCounters>,
    /// Where sessions are told, with names of this topology.
    pub(super) access: Option<Rc<Access>>,
    /// By pool, then by service.
    fronts: Vec<Vec<Rc<Front>>>,
    /// By home pool; and its twin.
    queues: Vec<(Rc<Queue>, Option<PoolId>)>,
    /// How many services were ever new to this worker.
    services: u64,
    /// What their draws follow from.
    seed: u64,
}

impl Entrances {
    /// Lets clients in by these listeners, and `flows` over UDP.
    pub(super) fn open(worker: &Rc<Worker>, listeners: Vec<Listener>, flows: usize) -> Entrances {
        let mut entrances = Entrances {
            doors: Vec::new(),
            udp: Udp::new(flows),
            closed: false,
        };
        entrances.add(worker, listeners);
        entrances
    }

    /// How many listeners there are over TCP.
    #[cfg(test)]
    pub(super) fn doors(&self) -> usize {
        self.doors.len()
    }

    /// Over UDP, what there is beside the listeners.
    pub(super) fn udp(&self) -> &Udp {
        &self.udp
    }

    /// Lets nobody new in.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.udp.close();
        self.doors.drain(..).for_each(Door::shut);
    }

    /// Lets those in who wait to be accepted, and nobody after them.
    pub(super) fn leave(&mut self, worker: &Rc<Worker>) {
        self.closed = true;
        self.udp.close();
        self.doors.drain(..).for_each(|door| door.close(worker));
    }

    /// The listeners once more, by descriptors of their own.
    pub(super) fn shared(&self) -> io::Result<Vec<OwnedFd>> {
        let doors = self.doors.iter().filter_map(Door::shared);
        doors.chain(self.udp.shared()).collect()
    }

    /// Has the worker go on under another topology.
    pub(super) fn adopt(&mut self, worker: &Rc<Worker>, adoption: Adoption) {
        let Adoption {
            topology,
            succession,
            snapshot,
            counters,
            access,
            open,
            close,
            pass,
            sessions,
            flows,
            done,
        } = adoption;
        let epoch = snapshot.epoch();
        if epoch <= worker.epoch() {
            tracing::error!(epoch, "a topology that is not newer is not adopted");
            return;
        }
        let closes = |door: &mut Door| close.contains(&(Protocol::Tcp, door.address));
        for door in self.doors.extract_if(.., closes) {
            // They find out by themselves what became of their service.
            door.close(worker);
        }
        worker.succeed(&succession, topology, counters, access, snapshot, sessions);
        let turned = |door: &Door| {
            let to = passed(&pass, Protocol::Tcp, door);
            to.map_or_else(|| door.front().current(), |to| worker.front(to))
        };
        let mut doors = Vec::new();
        for door in self.doors.drain(..) {
            match turned(&door) {
                Some(front) => {
                    door.turn_to(front);
                    doors.push(door);
                }
                None => {
                    tracing::error!(address = %door.address, "a listener without a service closes");
                    door.close(worker);
                }
            }
        }
        self.doors = doors;
        let over_udp =
            |(protocol, address): &(Protocol, _)| (*protocol == Protocol::Udp).then_some(*address);
        let change = Change {
            close: close.iter().filter_map(over_udp).collect(),
            pass: pass
                .iter()
                .filter(|(protocol, ..)| *protocol == Protocol::Udp)
                .map(|(_, address, service)| (*address, *service))
                .collect(),
            most: flows,
        };
        self.udp.adopt(worker, &change);
        self.add(worker, open);
        worker.adopted.notify_waiters();
        if done.send(()).is_err() {
            tracing::debug!(epoch, "nobody waits to hear that the topology was adopted");
        }
    }

    /// Lets clients in by more listeners.
    fn add(&mut self, worker: &Rc<Worker>, listeners: Vec<Listener>) {
        let mut datagrams = Vec::new();
        for listener in listeners {
            let address = listener.address;
            let Some(front) = worker.front(listener.service).filter(|_| !self.closed) else {
                tracing::error!(%address, "a listener without a service is not used");
                continue;
            };
            match listener.protocol {
                Protocol::Udp => datagrams.push((front, listener)),
                Protocol::Tcp => match Door::open(worker, front, listener) {
                    Ok(door) => self.doors.push(door),
                    Err(error) => tracing::error!(%address, %error, "cannot poll a listener"),
                },
            }
        }
        self.udp.add(worker, datagrams);
    }
}

/// The service that a door stands in front of from now on, if it is another one.
fn passed(
    pass: &[(Protocol, std::net::SocketAddr, ServiceId)],
    over: Protocol,
    door: &Door,
) -> Option<ServiceId> {
    let to =
        |(protocol, address, _): &&(Protocol, _, _)| *protocol == over && *address == door.address;
    pass.iter().find(to).map(|(.., service)| *service)
}

impl Worker {
    /// Everything but the entrances goes on under the topology that comes after the one in force.
    fn succeed(
        &self,
        succession: &Succession,
        topology: Arc<Topology>,
        counters: Arc<WorkerCounters>,
        access: Option<AccessLog>,
        snapshot: Arc<Snapshot>,
        sessions: usize,
    ) {
        let mut era = self.era.borrow_mut();
        let next = era.succeed(succession, topology, counters, access, snapshot.epoch());
        let idle = |service| next.front(service).map_or(0, |front| front.idle_ticks);
        let topologies = (&*era.topology, &*next.topology);
        self.registry()
            .adopt(topologies, succession, idle, self.tick());
        let before = self.snapshot.replace(snapshot);
        self.spills().adopt(|home, at| {
            let (now, at) = (succession.pool(home)?, succession.pool(at)?);
            // What the redirect table says anew of a pool's users holds for these, too.
            let is_same = self.snapshot().phase(now) == before.phase(home);
            is_same.then_some((now, at))
        });
        *era = next;
        self.most.set(sessions);
        self.epoch.set(self.snapshot().epoch());
    }

    /// How many services there are.
    #[cfg(test)]
    pub(super) fn fronts(&self) -> usize {
        self.era.borrow().fronts.iter().flatten().count()
    }

    /// The front in force of a service.
    pub(super) fn front(&self, service: ServiceId) -> Option<Rc<Front>> {
        self.era.borrow().front(service).cloned()
    }
}

impl Era {
    /// The first one of a worker.
    pub(super) fn first(
        topology: Arc<Topology>,
        counters: Arc<WorkerCounters>,
        access: Option<AccessLog>,
        epoch: u32,
        seed: u64,
    ) -> Era {
        let nothing = Era {
            topology: Arc::default(),
            counters: Arc::default(),
            access: None,
            fronts: Vec::new(),
            queues: Vec::new(),
            services: 0,
            seed,
        };
        nothing.succeed(&Succession::default(), topology, counters, access, epoch)
    }

    /// The one that comes after this. Fronts of services that are gone retire.
    fn succeed(
        &self,
        succession: &Succession,
        topology: Arc<Topology>,
        counters: Arc<WorkerCounters>,
        access: Option<AccessLog>,
        epoch: u32,
    ) -> Era {
        let pools = || topology.pools.iter();
        let mut queues: Vec<(Rc<Queue>, Option<PoolId>)> = pools()
            .map(|pool| (Rc::default(), topology.twin(pool.id)))
            .collect();
        for (id, (queue, _)) in (0..).map(PoolId).zip(&self.queues) {
            if let Some(now) = succession.pool(id) {
                queues[now.index()].0 = queue.clone();
            }
        }
        let mut accounts: Vec<Vec<Option<Rc<Account>>>> = pools()
            .map(|pool| vec![None; pool.services.len()])
            .collect();
        for front in self.fronts.iter().flatten() {
            match succession.service(front.service) {
                Some(now) => accounts[now.pool.index()][now.index()] = Some(front.account.clone()),
                None => front.retire(),
            }
        }
        let mut services = self.services;
        let mut account = |id: ServiceId| {
            let known = accounts[id.pool.index()][id.index()].take();
            known.unwrap_or_else(|| {
                let seed = self.seed.wrapping_add(services);
                services += 1;
                Account::new(&counters, id, seed)
            })
        };
        let mut front = |id: ServiceId| {
            let queue = queues[id.pool.index()].0.clone();
            let all = counters.clone();
            Front::new(epoch, &topology, id, account(id), queue, all)
        };
        let fronts = pools()
            .map(|pool| pool.services.iter().map(|s| front(s.id)).collect())
            .collect();
        let access = access.map(|log| Rc::new(Access::new(log, topology.clone(), &counters)));
        Era {
            fronts,
            queues,
            access,
            services,
            seed: self.seed,
            counters,
            topology,
        }
    }

    fn front(&self, service: ServiceId) -> Option<&Rc<Front>> {
        self.fronts.get(service.pool.index())?.get(service.index())
    }

    /// A limited place at one of a pool's members was given back.
    pub(super) fn room(&self, pool: PoolId) {
        let (queue, twin) = &self.queues[pool.index()];
        queue.at_home.room();
        if let Some(twin) = twin {
            self.queues[twin.index()].0.at_twin.room();
        }
    }
}
