//! Waiting for a member with room.
//!
//! A pool whose usable members are all full queues new sessions, bounded in number over the
//! instance and in time for each. On each worker they stand in lines, first come first served: one
//! for those whom the pool itself serves and, where it has a twin, one for those whom the twin
//! does, because there may be room at one and none at the other. The first in line looks for room
//! whenever a session on this worker gives a limited place back, and every [`LOOK`] for places
//! given back on other workers and for members that may take another of a moving pool's users. Who
//! breaks off meanwhile leaves the queue.

use std::cell::Cell;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout, timeout_at};

use super::session::Refused;
use super::worker::{Front, Worker};
use crate::dispatch::{Attempt, NoMember, PoolHandle};

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

/// Waits until `pick` finds a place, or none to wait for.
pub(super) async fn wait(
    worker: &Worker,
    front: &Front,
    line: &Line,
    client: &TcpStream,
    mut pick: impl FnMut() -> Result<Attempt, NoMember>,
) -> Result<Result<Attempt, NoMember>, Refused> {
    let handle = worker.snapshot().queue(front.service.pool).clone();
    let Some(_place) = Waiting::join(&handle, line) else {
        return Err(Refused::QueueFull);
    };
    front.counters(worker).queued.add(1);
    let deadline = Instant::now() + front.queue_timeout;
    let wait = async {
        let _first = line.turn.lock().await;
        loop {
            match pick() {
                Err(NoMember::AllFull) => {}
                picked => return Ok(picked),
            }
            // Elapsed or notified: either way it looks again.
            if timeout(LOOK, line.room.notified()).await.is_err() {
                tracing::trace!("looking for room");
            }
        }
    };
    tokio::select! {
        waited = timeout_at(deadline, wait) => waited.unwrap_or(Err(Refused::QueueTimeout)),
        () = broken(client) => Err(Refused::LeftQueue),
    }
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
