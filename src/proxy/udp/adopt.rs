//! Flows and their listeners go on under another topology.
//!
//! Where a flow stands is known to the registry alone, so there is little to do: what names members
//! by id is forgotten, listeners have the fronts in force, and flows that came by one which is
//! closed end, a few at a time where they are many. Until then it keeps its place among the
//! listeners, so that nobody else's flows are taken for its own. A flow whose member is gone is
//! kept as a session is, unless it was never answered: that one goes to another member.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::event::epoll;
use slab::Slab;

use super::super::front::Front;
use super::super::worker::Worker;
use super::flow::{Flows, Listening};
use super::table::{IDLE, Proof};
use super::{Change, FEWEST_SLOTS};

impl Flows {
    /// Has flows come through another listener.
    pub(super) fn listen(&mut self, front: Rc<Front>, address: SocketAddr, socket: OwnedFd) {
        self.remove_closed();
        let place = self.listeners.vacant_entry();
        // Events of flows bear higher numbers.
        let data = epoll::EventData::new_u64(place.key() as u64);
        if u16::try_from(place.key()).is_err() {
            tracing::error!(%address, "too many listeners over UDP: this one is not used");
            return;
        }
        if let Err(error) = epoll::add(&*self.epoll, &socket, data, epoll::EventFlags::IN) {
            tracing::error!(%address, %error, "cannot poll a listener");
            return;
        }
        place.insert(Listening {
            address,
            socket: Some(socket),
            front,
            slots: FEWEST_SLOTS,
        });
    }

    /// Everything goes on under the topology that is in force.
    pub(super) fn adopt(&mut self, worker: &Worker, change: &Change) {
        self.table.set_most(change.most);
        self.bereft.clear();
        self.blamed.clear();
        let mut passed = Vec::new();
        for (_, listener) in &mut self.listeners {
            let Some(socket) = &listener.socket else {
                continue;
            };
            let address = listener.address;
            let to = change.pass.iter().find(|(at, _)| *at == address);
            let front = match to {
                _ if change.close.contains(&address) => None,
                Some((_, service)) => worker.front(*service),
                None => listener.front.current(),
            };
            match front {
                Some(front) if to.is_none() => listener.front = front,
                front => {
                    // Whoever else has a hand on the socket must not have its events told here.
                    if let Err(error) = epoll::delete(&*self.epoll, socket) {
                        tracing::error!(%address, %error, "cannot stop to poll a listener");
                    }
                    let socket = listener.socket.take();
                    passed.extend(
                        front
                            .zip(socket)
                            .map(|(front, socket)| (front, address, socket)),
                    );
                }
            }
        }
        let registry = worker.registry();
        for (origin, proof, flow) in self.table.each() {
            flow.search = None;
            let listener = &self.listeners[usize::from(origin.listener)];
            let has_nobody = proof == Proof::None && registry.target(flow.key).is_none();
            if listener.socket.is_none() || has_nobody {
                registry.end_one(flow.key);
                continue;
            }
            let idle = match proof {
                Proof::Proven => listener.front.idle_ticks,
                Proof::Answered | Proof::None => listener.front.idle_ticks.min(IDLE),
            };
            registry.set_idle(flow.key, idle);
        }
        self.end_doomed(worker);
        for (front, address, socket) in passed {
            self.listen(front, address, socket);
        }
        self.remove_closed();
    }

    /// Forgets closed listeners whose flows have all ended.
    fn remove_closed(&mut self) {
        let closed = |listeners: &Slab<Listening>| {
            listeners
                .iter()
                .any(|(_, listener)| listener.socket.is_none())
        };
        if !closed(&self.listeners) {
            return;
        }
        let mut has_flows = vec![false; self.listeners.capacity()];
        for (origin, ..) in self.table.each() {
            has_flows[usize::from(origin.listener)] = true;
        }
        self.listeners
            .retain(|at, listener| listener.socket.is_some() || has_flows[at]);
    }
}
