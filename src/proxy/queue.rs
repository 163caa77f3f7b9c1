//! Waiting for a member with room.
//!
//! A pool whose usable members are all full queues new sessions, bounded in number over the
//! instance and in time for each. On each worker they stand in lines, first come first served: one
//! for those whom the pool itself serves and, where it has a twin, one for those whom the twin
//! does, because there may be room at one and none at the other. The first in line looks for room
//! whenever a session on this worker gives a limited place back, and every [`LOOK`] for places
//! given back on other workers and for members that may take another of a moving pool's users. Who
//! breaks off meanwhile leaves the queue. Lines outlive topologies as their pools do, and all who
//! stand in them keep their places.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::Phase;
use super::session::Refused;
use crate::dispatch::{Attempt, NoMember, PoolHandle};
use crate::topology::TargetId;

/// How often the first in line looks for places that other workers' sessions gave back.
const LOOK: Duration = Duration::from_millis(10);

/// One line of a pool's queue on one worker.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: Cell<usize>,
    /// Held by the first in line; fair, so it is the line.
    turn: Mutex<()>,
    room: Notify,
}

impl Line {
    /// Whether somebody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    /// A limited place was given back.
    pub(super) fn room(&self) {
        if !self.is_empty() {
            self.room.notify_one();
        }
    }
}

/// What was found for one who waited.
pub(super) type Found = Result<(TargetId, Attempt), NoMember>;

/// Waits until there is a place for a client, or none to wait for.
pub(super) async fn wait(phase: &mut Phase<'_>, client: &TcpStream) -> Result<Found, Refused> {
    let deadline = Instant::now() + phase.front.queue_timeout;
    let wait = async {
        let mut is_new = true;
        loop {
            if let Some(found) = stand(phase, is_new).await? {
                return Ok(found);
            }
            is_new = false;
        }
    };
    tokio::select! {
        waited = timeout_at(deadline, wait) => waited.unwrap_or(Err(Refused::QueueTimeout)),
        () = broken(client) => Err(Refused::LeftQueue),
    }
}

/// Stands in a line until there is a place; none when another topology has come and the client
/// belongs in another line.
async fn stand(phase: &mut Phase<'_>, is_new: bool) -> Result<Option<Found>, Refused> {
    let worker = phase.worker;
    let line = phase.line().clone();
    let handle = worker.snapshot().queue(phase.front.service.pool).clone();
    let Some(_place) = Waiting::join(&handle, &line) else {
        return Err(Refused::QueueFull);
    };
    phase.front.counters().queued.add(u64::from(is_new));
    let mut turn = pin!(line.turn.lock());
    let _first = loop {
        tokio::select! {
            first = &mut turn => break first,
            () = worker.adopted.notified() => {
                if moves(phase, &line)? {
                    return Ok(None);
                }
            }
        }
    };
    loop {
        if moves(phase, &line)? {
            return Ok(None);
        }
        match phase.pick() {
            Err(NoMember::AllFull) => {}
            picked => return Ok(Some(picked)),
        }
        // Elapsed or notified: either way it looks again.
        if timeout(LOOK, line.room.notified()).await.is_err() {
            tracing::trace!("looking for room");
        }
    }
}

/// Whether another topology has come, and with it another line.
fn moves(phase: &mut Phase<'_>, line: &Rc<Line>) -> Result<bool, Refused> {
    Ok(phase.renew()? && !Rc::ptr_eq(phase.line(), line))
}

/// Resolves once the client's socket has failed: who broke off must not hold a place against
/// others. One that has merely finished sending goes on waiting.
async fn broken(client: &TcpStream) {
    match client.ready(Interest::ERROR).await {
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "cannot watch a waiting client"),
    }
}

/// A place in the queue, given back when dropped.
struct Waiting<'a> {
    pool: &'a PoolHandle,
    line: &'a Line,
}

impl<'a> Waiting<'a> {
    fn join(pool: &'a PoolHandle, line: &'a Line) -> Option<Waiting<'a>> {
        pool.join().then(|| {
            line.waiting.set(line.waiting.get() + 1);
            Waiting { pool, line }
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.line.waiting.set(self.line.waiting.get() - 1);
        self.pool.leave();
    }
}
