//! The walk of one session from member to member, until one takes it: where it is sent, which
//! members it has tried there, how many attempts it has left, and when it may turn to the other
//! pool of a pair. What a session over TCP and a flow over UDP have in common; how long an attempt
//! may take, and what becomes of one, is not decided here.

use std::cell::Cell;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::{Attempt, NoMember, Request, Snapshot};
use crate::balance::{Lane, Tried};
use crate::time::Time;
use crate::topology::{ServiceId, TargetId};

/// Where a session is on its way to a member.
#[derive(Debug)]
pub struct Walk {
    /// The service that the client asked for.
    service: ServiceId,
    client: IpAddr,
    /// The one that serves this client, by the snapshot.
    serving: ServiceId,
    /// The one whose members are tried: `serving`, or the other pool's.
    on: ServiceId,
    leg: Leg,
    /// Members of `on`.
    tried: Tried,
    /// Attempts that each pool has.
    attempts: NonZeroU32,
    /// Of those, how many are left at `on`.
    left: u32,
    /// Whether there was any attempt, anywhere.
    made: bool,
    /// Whether a member was passed over because many of a moving pool's users came to it.
    held: bool,
}

/// How a walk came to be where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// The redirect table sends it there.
    Sent,
    /// It was accepted there a moment ago, and not where it is sent.
    Remembered,
    /// The other pool took it nowhere.
    Turned,
}

impl Walk {
    /// Begins where the snapshot sends this client.
    pub fn new(
        snapshot: &Snapshot,
        service: ServiceId,
        client: IpAddr,
        attempts: NonZeroU32,
    ) -> Walk {
        let serving = snapshot.serving(service, client);
        Walk {
            service,
            client,
            serving,
            on: serving,
            leg: Leg::Sent,
            tried: Tried::default(),
            attempts,
            left: attempts.get(),
            made: false,
            held: false,
        }
    }

    /// Begins at the other pool, which accepted this client a moment ago.
    pub fn begin_at(&mut self, other: ServiceId) {
        self.begin(other, Leg::Remembered);
    }

    /// Notes that the session was with this member before the walk began, and is no more.
    pub fn leave(&mut self, snapshot: &Snapshot, first: TargetId) {
        // It had turned to the other pool already, or is sent elsewhere since.
        if first.service() != self.on
            && self.leg == Leg::Sent
            && self.other(snapshot) == Some(first.service())
        {
            self.begin(first.service(), Leg::Turned);
        }
        if first.service() == self.on {
            self.attempt(first);
        }
        self.made = true;
    }

    /// The client.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// The service whose members are tried.
    pub fn on(&self) -> ServiceId {
        self.on
    }

    /// How the walk came there.
    pub fn leg(&self) -> Leg {
        self.leg
    }

    /// Whether it is elsewhere than where the snapshot sends this client.
    pub fn is_astray(&self) -> bool {
        self.on != self.serving
    }

    /// Whether there was any attempt, anywhere.
    pub fn has_tried(&self) -> bool {
        self.made
    }

    /// Whether no attempt is left where it is.
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Whether a member was ever passed over because many of a moving pool's users came to it.
    pub fn was_held(&self) -> bool {
        self.held
    }

    /// Begins anew where the snapshot sends this client now, if that is elsewhere; says so.
    pub fn follow(&mut self, snapshot: &Snapshot) -> bool {
        let serving = snapshot.serving(self.service, self.client);
        let is_sent_elsewhere = serving != self.serving;
        if is_sent_elsewhere {
            self.serving = serving;
            self.begin(serving, Leg::Sent);
        }
        is_sent_elsewhere
    }

    /// Goes on under another topology, in which the service that the client asked for has this id and
    /// members this many attempts. All may be tried anew. Where it was sent home it stays at home
    /// and where it was sent to the twin there, if the snapshot still says so, and where it was not
    /// sent it stays if it still may go there; else it begins anew, and says so.
    pub fn renew(&mut self, snapshot: &Snapshot, service: ServiceId, attempts: NonZeroU32) -> bool {
        let was_home = self.serving.pool == self.service.pool;
        let was_astray = self.is_astray();
        self.service = service;
        self.attempts = attempts;
        self.serving = snapshot.serving(service, self.client);
        let is_home = self.serving.pool == service.pool;
        let on = match (was_home == is_home, was_astray) {
            (true, false) => Some(self.serving),
            (true, true) => snapshot.spill(service, self.serving),
            (false, _) => None,
        };
        match on {
            Some(on) => self.begin(on, self.leg),
            None => self.begin(self.serving, Leg::Sent),
        }
        on.is_none()
    }

    /// Chooses a member that has not been tried, and takes a place at it. `held` is called when one
    /// is passed over for the first time because many of a moving pool's users came to it.
    ///
    /// # Errors
    /// When there is none.
    pub fn pick(
        &mut self,
        snapshot: &Snapshot,
        lane: &Lane,
        now: Time,
        held: impl FnOnce(),
    ) -> Result<(TargetId, Attempt), NoMember> {
        let is_held = Cell::new(false);
        let request = Request {
            service: self.service,
            serving: self.on,
            client: self.client,
            tried: &self.tried,
            lane,
            held: &is_held,
        };
        let picked = snapshot.pick(&request, now);
        if is_held.get() && !std::mem::replace(&mut self.held, true) {
            held();
        }
        picked
    }

    /// Notes an attempt; says whether there was one before.
    pub fn attempt(&mut self, target: TargetId) -> bool {
        self.left = self.left.saturating_sub(1);
        self.tried.add(target.member().index() as u16);
        std::mem::replace(&mut self.made, true)
    }

    /// Lets those that were tried here be tried again, as far as attempts are left; false where
    /// none was.
    pub fn try_again(&mut self) -> bool {
        let were_any = !self.tried.is_empty();
        self.tried.clear();
        were_any
    }

    /// The other pool's service, while a session that nobody takes here may turn to it.
    pub fn other(&self, snapshot: &Snapshot) -> Option<ServiceId> {
        match self.leg {
            Leg::Sent => snapshot.spill(self.service, self.serving),
            Leg::Remembered => Some(self.serving),
            Leg::Turned => None,
        }
    }

    /// Turns to the other pool, once; how it had come to the one that it leaves, or none where there
    /// is none to turn to.
    pub fn turn(&mut self, snapshot: &Snapshot) -> Option<Leg> {
        let other = self.other(snapshot)?;
        let left = self.leg;
        self.begin(other, Leg::Turned);
        Some(left)
    }

    fn begin(&mut self, on: ServiceId, leg: Leg) {
        self.on = on;
        self.leg = leg;
        self.tried.clear();
        self.left = self.attempts.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::fixture::{HOME, TWIN, count, decider, snapshot, start, topology};
    use crate::pairing::record::{Cause, Phase};
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn service() -> ServiceId {
        HOME.service(0)
    }

    /// The twin lists its services the other way round.
    fn twin_service() -> ServiceId {
        TWIN.service(1)
    }

    /// Two members a pool, whose home users are in this phase.
    fn look(phase: Phase, spill: bool) -> Snapshot {
        let mut topology = topology([2, 2, 1]);
        topology.pairs[0].spill = spill;
        let decider = decider(&Arc::new(topology), phase, Cause::Ordered);
        snapshot(&decider, false)
    }

    fn walk(snapshot: &Snapshot) -> Walk {
        Walk::new(snapshot, service(), CLIENT, count(3))
    }

    fn pick(walk: &mut Walk, snapshot: &Snapshot) -> Result<TargetId, NoMember> {
        let never = || panic!("nobody moves");
        let picked = walk.pick(snapshot, &Lane::new(1), start(), never);
        picked.map(|(target, _)| target)
    }

    /// Tries all that there are where it is; whom.
    fn try_all(walk: &mut Walk, snapshot: &Snapshot) -> Vec<TargetId> {
        let mut all = Vec::new();
        loop {
            match pick(walk, snapshot) {
                Ok(target) => {
                    let was_any = walk.has_tried();
                    assert_eq!(walk.attempt(target), was_any);
                    all.push(target);
                }
                Err(why) => {
                    assert_eq!(why, NoMember::AllTried);
                    return all;
                }
            }
        }
    }

    #[test]
    fn each_member_is_tried_once_and_again_when_told_so_as_far_as_attempts_last() {
        let snapshot = look(Phase::Home, false);
        let mut walk = walk(&snapshot);
        assert!(!walk.has_tried());
        assert!(!walk.try_again(), "nobody was tried");
        let mut tried = Vec::new();
        for again in [false, true] {
            let target = pick(&mut walk, &snapshot).expect("a member");
            assert_eq!(walk.attempt(target), again);
            assert_eq!(target.service(), service());
            assert!(!tried.contains(&target));
            tried.push(target);
        }
        assert_eq!(pick(&mut walk, &snapshot), Err(NoMember::AllTried));
        assert_eq!(walk.turn(&snapshot), None, "nobody stands in");
        assert!(walk.try_again());
        assert!(!walk.is_spent());
        let target = pick(&mut walk, &snapshot).expect("a member");
        assert!(walk.attempt(target));
        assert!(walk.is_spent());
        assert!(walk.attempt(target), "a hedge may be one more");
        assert!(walk.is_spent());
    }

    #[test]
    fn it_turns_to_the_other_pool_once_with_attempts_of_its_own() {
        let snapshot = look(Phase::Home, true);
        let mut walk = walk(&snapshot);
        assert_eq!(try_all(&mut walk, &snapshot).len(), 2);
        assert!(!walk.is_astray());
        assert_eq!(walk.other(&snapshot), Some(twin_service()));
        assert_eq!(walk.turn(&snapshot), Some(Leg::Sent));
        assert!(walk.is_astray() && !walk.is_spent());
        assert_eq!((walk.on(), walk.leg()), (twin_service(), Leg::Turned));
        let there = try_all(&mut walk, &snapshot);
        assert_eq!(there.len(), 2);
        assert!(there.iter().all(|target| target.pool == TWIN));
        assert_eq!(walk.other(&snapshot), None);
        assert_eq!(walk.turn(&snapshot), None);
    }

    #[test]
    fn who_is_remembered_at_the_other_pool_begins_there_and_turns_back_to_where_it_is_sent() {
        let snapshot = look(Phase::Home, true);
        let mut walk = walk(&snapshot);
        walk.begin_at(twin_service());
        assert_eq!((walk.on(), walk.leg()), (twin_service(), Leg::Remembered));
        assert!(walk.is_astray());
        assert_eq!(walk.turn(&snapshot), Some(Leg::Remembered));
        assert_eq!((walk.on(), walk.leg()), (service(), Leg::Turned));
        assert!(!walk.is_astray());
        assert_eq!(walk.turn(&snapshot), None);
    }

    #[test]
    fn it_follows_its_client_and_begins_anew_there() {
        let (home, away) = (look(Phase::Home, true), look(Phase::Away, true));
        let mut walk = walk(&home);
        try_all(&mut walk, &home);
        walk.turn(&home);
        assert_eq!(try_all(&mut walk, &home).len(), 2);
        assert!(!walk.follow(&home));
        assert!(walk.follow(&away));
        assert_eq!((walk.on(), walk.leg()), (twin_service(), Leg::Sent));
        assert!(!walk.is_astray());
        assert_eq!(try_all(&mut walk, &away).len(), 2, "all may be tried again");
        assert!(!walk.follow(&away));
    }

    #[test]
    fn whoever_leaves_a_member_does_not_try_it_again() {
        let snapshot = look(Phase::Home, true);
        let first = HOME.member(0).target(service());
        let mut walk = walk(&snapshot);
        walk.leave(&snapshot, first);
        assert!(walk.has_tried());
        assert_eq!(
            try_all(&mut walk, &snapshot),
            [HOME.member(1).target(service())]
        );
        assert_eq!(walk.turn(&snapshot), Some(Leg::Sent));
    }

    #[test]
    fn whoever_leaves_a_member_of_the_other_pool_had_turned_there() {
        let snapshot = look(Phase::Home, true);
        let first = TWIN.member(1).target(twin_service());
        let mut walk = walk(&snapshot);
        walk.leave(&snapshot, first);
        assert_eq!((walk.on(), walk.leg()), (twin_service(), Leg::Turned));
        assert_eq!(
            try_all(&mut walk, &snapshot),
            [TWIN.member(0).target(twin_service())]
        );
        assert_eq!(walk.turn(&snapshot), None);
    }

    #[test]
    fn whoever_leaves_a_member_where_it_is_sent_no_more_begins_where_it_is_sent() {
        let snapshot = look(Phase::Home, false);
        let first = TWIN.member(1).target(twin_service());
        let mut walk = walk(&snapshot);
        walk.leave(&snapshot, first);
        assert!(walk.has_tried());
        assert_eq!((walk.on(), walk.leg()), (service(), Leg::Sent));
        assert_eq!(try_all(&mut walk, &snapshot).len(), 2);
    }
}
