//! Finding a member for a flow. There is no connect phase: a member is taken at its word until it
//! is heard of. Which pool's members are tried, and when the other pool's are, is as for a session
//! (see [`crate::proxy`]'s `connect`).

use std::cell::Cell;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::super::FromWorker;
use super::super::access::Account;
use super::super::worker::{Front, Worker};
use super::sockets;
use crate::balance::Tried;
use crate::clock;
use crate::dispatch::{Attempt, NoMember, Request};
use crate::health::{Answer, OwnFault, connect_failure};
use crate::topology::{ServiceId, TargetId};

/// The search for a flow's member; it goes on where it was when the one that it found refuses.
#[derive(Debug)]
pub(super) struct Search {
    client: IpAddr,
    /// The service that serves this client, by the snapshot.
    serving: ServiceId,
    /// The one whose members are tried: `serving`, or the other pool's.
    on: ServiceId,
    leg: Leg,
    /// Members of `on`.
    tried: Tried,
    /// Attempts left at `on`.
    left: u32,
    /// Whether there was any attempt, anywhere.
    made: bool,
    /// Whether a member was passed over because many of a moving pool's users came to it.
    held: bool,
}

/// How it came to be tried where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    /// The redirect table sends it there.
    Sent,
    /// It was accepted there a moment ago, and not where it is sent.
    Remembered,
    /// The other pool took it nowhere.
    Turned,
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
        let service = front.service;
        let snapshot = worker.snapshot();
        let serving = snapshot.serving(service, client);
        let spills = worker.spills();
        let remembered = match spills.is_empty() {
            true => None,
            false => snapshot.spill(service, serving).filter(|other| {
                spills.find(service.pool, client, clock::now()) == Some(other.pool)
            }),
        };
        Search {
            client,
            serving,
            on: remembered.unwrap_or(serving),
            leg: remembered.map_or(Leg::Sent, |_| Leg::Remembered),
            tried: Tried::default(),
            left: front.connect.attempts.get(),
            made: false,
            held: false,
        }
    }

    /// That of a flow whose first member, this one, refused.
    pub(super) fn after(worker: &Worker, front: &Front, client: IpAddr, first: TargetId) -> Search {
        let mut search = Search::new(worker, front, client);
        if first.service() != search.on {
            // It had turned to the other pool already, or is sent elsewhere since.
            let turned = worker.snapshot().spill(front.service, search.serving);
            if turned == Some(first.service()) {
                search.begin(front, first.service(), Leg::Turned);
            }
        }
        if first.service() == search.on {
            search.tried.add(first.member().index() as u16);
            search.left -= 1;
        }
        search.made = true;
        search
    }

    /// The next member, and a socket towards it.
    pub(super) fn reach(
        &mut self,
        worker: &Worker,
        front: &Front,
        account: &Account,
    ) -> Result<(Attempt, OwnedFd), Refused> {
        loop {
            let attempt = self
                .next(worker, front)
                .map_err(|why| match (why, self.made) {
                    // Nobody's end makes room where arrivals are spread over time.
                    (NoMember::AllFull, _) if !self.held => Refused::Full,
                    (_, false) => Refused::NoMember,
                    (_, true) => Refused::Attempts,
                })?;
            if std::mem::replace(&mut self.made, true) {
                front.counters(worker).retried.add(1);
                account.retries();
            }
            self.left -= 1;
            self.tried.add(attempt.target().member().index() as u16);
            let error = match sockets::towards(attempt.address()) {
                Ok(socket) => {
                    self.found(worker, front);
                    return Ok((attempt, socket));
                }
                Err(error) => error,
            };
            tracing::debug!(address = %attempt.address(), %error, "no socket towards a member");
            match connect_failure(&error) {
                Answer::Bad(failure) => {
                    let target = attempt.target();
                    let counters = worker.counters().member(target.member());
                    counters.connect_failed.add(1);
                    worker.tell(FromWorker::ConnectFailed(target, failure));
                }
                Answer::OwnFault(fault) => {
                    worker.own_fault(fault);
                    return Err(Refused::OwnFault(fault));
                }
                Answer::Good => {}
            }
        }
    }

    fn next(&mut self, worker: &Worker, front: &Front) -> Result<Attempt, NoMember> {
        loop {
            self.follow(worker, front);
            match self.pick(worker, front) {
                Ok(attempt) => return Ok(attempt),
                // Members that are merely full send nobody to the other pool.
                Err(NoMember::AllFull) => return Err(NoMember::AllFull),
                Err(why) => {
                    if !self.turn(worker, front) {
                        return Err(why);
                    }
                }
            }
        }
    }

    fn pick(&mut self, worker: &Worker, front: &Front) -> Result<Attempt, NoMember> {
        if self.left == 0 {
            return Err(NoMember::AllTried);
        }
        let held = Cell::new(false);
        let request = Request {
            service: front.service,
            serving: self.on,
            client: self.client,
            tried: &self.tried,
            lane: &front.lane,
            held: &held,
        };
        let picked = worker.snapshot().pick(&request, clock::now());
        if held.get() && !std::mem::replace(&mut self.held, true) {
            let home = worker.counters().home(front.service.pool);
            home.arrivals_held.add(1);
        }
        picked
    }

    /// Begins anew where the snapshot sends this client now, if that is elsewhere.
    fn follow(&mut self, worker: &Worker, front: &Front) {
        let serving = worker.snapshot().serving(front.service, self.client);
        if serving != self.serving {
            self.serving = serving;
            self.begin(front, serving, Leg::Sent);
        }
    }

    fn begin(&mut self, front: &Front, on: ServiceId, leg: Leg) {
        self.on = on;
        self.leg = leg;
        self.tried.clear();
        self.left = front.connect.attempts.get();
    }

    /// Turns to the other pool, once; false where there is none to turn to.
    fn turn(&mut self, worker: &Worker, front: &Front) -> bool {
        let service = front.service;
        let other = match self.leg {
            Leg::Sent => worker.snapshot().spill(service, self.serving),
            Leg::Remembered => Some(self.serving),
            Leg::Turned => None,
        };
        let Some(other) = other else { return false };
        if self.leg == Leg::Remembered {
            worker.spills().forget(service.pool, self.client);
        }
        self.begin(front, other, Leg::Turned);
        true
    }

    /// A member of the other pool is worth counting, and remembering.
    fn found(&self, worker: &Worker, front: &Front) {
        if self.on == self.serving {
            return;
        }
        let home = front.service.pool;
        worker.counters().home(home).spilled.add(1);
        if self.leg == Leg::Turned {
            let (spills, now) = (worker.spills(), clock::now());
            spills.remember(home, self.client, self.on.pool, now);
        }
    }
}
