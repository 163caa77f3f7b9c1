//! Flows go over to another process, with their sockets and the listeners that they came by.
//!
//! First they are paused: nothing is read any more, and what comes waits in the kernel. Then they
//! are given slice by slice, so that few descriptors are needed, and at last forgotten, or gone on
//! with where the other process did not take them. Neither client nor member notices: each flow's
//! socket, and so its port towards its member, stays the same.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll;

use super::super::access::SessionLog;
use super::super::worker::Worker;
use super::super::{FlowGiven, FlowTaken};
use super::flow::{Flow, Flows, give_back};
use super::table::{FlowId, Origin, Room};

impl Flows {
    /// Reads nothing any more; how many flows there are.
    pub(super) fn pause(&mut self) -> usize {
        self.paused = Some(self.table.iter().map(|(id, _)| id).collect());
        self.table.len()
    }

    /// At most so many of those that there were when they were paused, from there on.
    pub(super) fn give(&self, worker: &Worker, from: usize, most: usize) -> Vec<FlowGiven> {
        let paused = self.paused.iter().flatten();
        let given = paused.skip(from).take(most).filter_map(|id| {
            let flow = self.table.get(*id)?;
            let origin = self.table.origin(*id)?;
            let listener = &self.listeners.get(usize::from(origin.listener))?.socket;
            Some(FlowGiven {
                listener: inode(listener.as_ref()?).ok()?,
                client: origin.client,
                local: origin.local,
                target: worker.registry().target(flow.key)?,
                member: flow.attempt.address(),
                is_answered: self.table.is_answered(*id),
                is_proven: self.table.is_proven(*id),
                reads_runs: flow.reads_runs,
                runs_in: flow.runs_in,
                runs_out: flow.runs_out,
                socket: flow.socket.try_clone().ok()?,
            })
        });
        given.collect()
    }

    /// Goes on as if nothing had been.
    pub(super) fn resume(&mut self) {
        if self.paused.take().is_none() {
            return;
        }
        // What came meanwhile was told, and not heard: only a socket that is new is told of again.
        let again = |socket: &OwnedFd, number: u64| {
            unwatch(&self.epoll, socket);
            let data = epoll::EventData::new_u64(number);
            if let Err(error) = epoll::add(&*self.epoll, socket, data, epoll::EventFlags::IN) {
                tracing::error!(%error, "cannot poll a socket again");
            }
        };
        for (at, listener) in &self.listeners {
            if let Some(socket) = &listener.socket {
                again(socket, at as u64);
            }
        }
        for (id, flow) in self.table.iter() {
            again(&flow.socket, id.into());
        }
    }

    /// Forgets all flows and listeners: they are another process's.
    pub(super) fn leave(&mut self, worker: &Worker) {
        self.closing = true;
        let all: Vec<FlowId> = self.table.iter().map(|(id, _)| id).collect();
        for id in all {
            let Some(front) = self.front_of(id) else {
                continue;
            };
            // They live on there, and must not have their events told here.
            if let Some(flow) = self.table.get(id) {
                unwatch(&self.epoll, &flow.socket);
            }
            if let Some((flow, left)) = self.forget(worker, &front, id) {
                front.counters().ended.add(1);
                give_back(worker, flow.attempt, left);
            }
        }
        for (_, listener) in &mut self.listeners {
            if let Some(socket) = listener.socket.take() {
                unwatch(&self.epoll, &socket);
            }
        }
    }

    /// Goes on with flows of another process; one that finds no room ends: its client's next
    /// datagram begins another.
    pub(super) fn take(&mut self, worker: &Worker, flows: Vec<FlowTaken>) {
        let mut at: HashMap<u64, u16> = HashMap::new();
        for (place, listener) in &self.listeners {
            let known = listener.socket.as_ref().map(inode);
            if let (Some(Ok(inode)), Ok(place)) = (known, u16::try_from(place)) {
                at.insert(inode, place);
            }
        }
        let now = worker.tick();
        let mut ended = 0_u64;
        for FlowTaken { given, attempt } in flows {
            let listener = at.get(&given.listener).copied();
            let is_down = worker.snapshot().is_down(given.target);
            let (Some(listener), false, Room::Free) = (listener, is_down, self.table.room(now))
            else {
                ended += 1;
                continue;
            };
            let origin = Origin {
                listener,
                client: given.client,
                local: given.local,
            };
            if self.table.find(&origin).is_some() {
                ended += 1;
                continue;
            }
            let front = self.listeners[usize::from(listener)].front.clone();
            let member = front.member(given.target.member()).clone();
            let flow = Flow {
                runs_in: given.runs_in,
                runs_out: given.runs_out,
                reads_runs: given.reads_runs,
                ..Flow::new(given.socket, attempt, member, now)
            };
            let counters = front.counters();
            counters.accepted.add(1);
            counters.established.add(1);
            let log = SessionLog::begin(worker, front.service, given.client, || {
                Some(self.asked_at(&origin))
            });
            let id = self.table.insert(origin, flow, now);
            self.stand(worker, &front, id, given.target);
            self.keep_log(worker, &front, id, log);
            if given.is_answered {
                self.heard_member(worker, id);
            }
            if given.is_proven {
                self.heard_client(worker, &front, id);
            }
            if let Err(error) = self.watch(id) {
                tracing::warn!(%error, "a flow of the process before is not gone on with");
                self.end(worker, id, super::flow::Ending::OwnFault);
            }
        }
        if ended > 0 {
            tracing::info!(
                "{ended} flows of the process before begin anew: no room, or a member that is down"
            );
        }
    }
}

fn unwatch(epoll: &OwnedFd, socket: &OwnedFd) {
    if let Err(error) = epoll::delete(epoll, socket) {
        tracing::error!(%error, "cannot stop to poll a socket");
    }
}

/// What tells a socket from any other, whatever descriptors it has.
pub(in crate::proxy) fn inode(socket: &impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}
