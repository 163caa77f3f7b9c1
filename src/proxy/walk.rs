//! What a session's [`Walk`] from member to member means on its worker: what is remembered of it,
//! and what is counted.

use std::net::IpAddr;

use super::front::Front;
use super::worker::Worker;
use crate::clock;
use crate::dispatch::{Attempt, Leg, NoMember, Walk};
use crate::time::Time;
use crate::topology::TargetId;

/// Begins where this client of `front` is sent, or where it was accepted a moment ago.
pub(super) fn begin(worker: &Worker, front: &Front, client: IpAddr, now: Time) -> Walk {
    let (service, spills) = (front.service, worker.spills());
    let snapshot = worker.snapshot();
    let mut walk = Walk::new(&snapshot, service, client, front.connect.attempts);
    if !spills.is_empty()
        && let Some(other) = walk.other(&snapshot)
        && spills.find(service.pool, client, now) == Some(other.pool)
    {
        walk.begin_at(other);
    }
    walk
}

/// Chooses a member and takes a place at it.
pub(super) fn pick(
    worker: &Worker,
    front: &Front,
    walk: &mut Walk,
    now: Time,
) -> Result<(TargetId, Attempt), NoMember> {
    let account = &front.account;
    walk.pick(&worker.snapshot(), &account.lane, now, || {
        account.home.arrivals_held.add(1);
    })
}

/// Turns to the other pool, once; false where there is none to turn to. Nobody accepts it any more
/// where it was remembered.
pub(super) fn turn(worker: &Worker, front: &Front, walk: &mut Walk) -> bool {
    let Some(left) = walk.turn(&worker.snapshot()) else {
        return false;
    };
    if left == Leg::Remembered {
        worker.spills().forget(front.service.pool, walk.client());
    }
    true
}

/// A member accepted; one of the other pool's is worth counting, and remembering.
pub(super) fn arrived(worker: &Worker, front: &Front, walk: &Walk) {
    if !walk.is_astray() {
        return;
    }
    let home = front.service.pool;
    front.account.home.spilled.add(1);
    if walk.leg() == Leg::Turned {
        let (client, at) = (walk.client(), walk.on().pool);
        worker.spills().remember(home, client, at, clock::now());
    }
}
