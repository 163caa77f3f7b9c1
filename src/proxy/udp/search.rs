//! Finding a member for a flow. There is no connect phase: a member is taken at its word until it
//! is heard of. Which pool's members are tried, and when the other pool's are, is as for a session
//! ([`Walk`]).

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::super::access::SessionLog;
use super::super::front::Front;
use super::super::worker::Worker;
use super::super::{FromWorker, walk};
use super::sockets;
use crate::clock;
use crate::dispatch::{Attempt, NoMember, Walk};
use crate::health::{Answer, OwnFault, connect_failure};
use crate::topology::TargetId;

/// The search for a flow's member; it goes on where it was when the one that it found refuses.
#[derive(Debug)]
pub(super) struct Search(Walk);

/// A member for a flow, and a socket towards it.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) target: TargetId,
    pub(super) attempt: Attempt,
    pub(super) socket: OwnedFd,
}

/// Why there is no member for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Refused {
    /// None is usable.
    NoMember,
    /// All are full.
    Full,
    /// All that were tried refused.
    Attempts,
    /// A fault of our own.
    OwnFault(OwnFault),
}

impl Refused {
    /// Whether it may be otherwise once another flow has given its place, its socket and its port
    /// back.
    pub(super) fn is_for_want_of_room(self) -> bool {
        match self {
            Refused::Full => true,
            Refused::OwnFault(fault) => matches!(
                fault,
                OwnFault::SourcePorts | OwnFault::Descriptors | OwnFault::Memory
            ),
            Refused::NoMember | Refused::Attempts => false,
        }
    }
}

impl Search {
    pub(super) fn new(worker: &Worker, front: &Front, client: IpAddr) -> Search {
        Search(walk::begin(worker, front, client, clock::now()))
    }

    /// That of a flow whose first member, this one, refused; none where it is gone.
    pub(super) fn after(
        worker: &Worker,
        front: &Front,
        client: IpAddr,
        first: Option<TargetId>,
    ) -> Search {
        let mut search = Search::new(worker, front, client);
        if let Some(first) = first {
            search.0.leave(&worker.snapshot(), first);
        }
        search
    }

    /// The next member, and a socket towards it.
    pub(super) fn reach(
        &mut self,
        worker: &Worker,
        front: &Front,
        log: &SessionLog,
    ) -> Result<Reached, Refused> {
        loop {
            let (target, attempt) =
                self.next(worker, front)
                    .map_err(|why| match (why, self.0.has_tried()) {
                        // Nobody's end makes room where arrivals are spread over time.
                        (NoMember::AllFull, _) if !self.0.was_held() => Refused::Full,
                        (_, false) => Refused::NoMember,
                        (_, true) => Refused::Attempts,
                    })?;
            if self.0.attempt(target) {
                front.counters().retried.add(1);
                log.retries();
            }
            let error = match sockets::towards(attempt.address()) {
                Ok(socket) => {
                    walk::arrived(worker, front, &self.0);
                    return Ok(Reached {
                        target,
                        attempt,
                        socket,
                    });
                }
                Err(error) => error,
            };
            tracing::debug!(address = %attempt.address(), %error, "no socket towards a member");
            match connect_failure(&error) {
                Answer::Bad(failure) => {
                    front.member(target.member()).connect_failed.add(1);
                    worker.tell(FromWorker::ConnectFailed {
                        epoch: front.epoch,
                        target,
                        failure,
                    });
                }
                Answer::OwnFault(fault) => {
                    worker.own_fault(fault);
                    return Err(Refused::OwnFault(fault));
                }
                Answer::Good => {}
            }
        }
    }

    fn next(&mut self, worker: &Worker, front: &Front) -> Result<(TargetId, Attempt), NoMember> {
        loop {
            self.0.follow(&worker.snapshot());
            let picked = match self.0.is_spent() {
                true => Err(NoMember::AllTried),
                false => walk::pick(worker, front, &mut self.0, clock::now()),
            };
            match picked {
                Ok(picked) => return Ok(picked),
                // Members that are merely full send nobody to the other pool.
                Err(NoMember::AllFull) => return Err(NoMember::AllFull),
                Err(why) => {
                    if !walk::turn(worker, front, &mut self.0) {
                        return Err(why);
                    }
                }
            }
        }
    }
}
