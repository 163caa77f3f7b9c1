//! Waiting for a member with room.
//!
//! A pool whose usable members are all full queues new sessions, first come first served on each
//! worker, bounded in number over the instance and in time for each. The first in line looks for
//! room whenever a session on this worker gives a limited place back, and every [`LOOK`] for places
//! given back on other workers.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout, timeout_at};

use super::session::Refused;
use super::worker::{Front, Worker};
use crate::balance::Tried;
use crate::clock;
use crate::dispatch::{Attempt, NoMember, PoolHandle};

/// How often the first in line looks for places that other workers' sessions gave back.
const LOOK: Duration = Duration::from_millis(10);

/// One pool's queue on one worker.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Cell<usize>,
    /// Held by the first in line; fair, so it is the line.
    line: Mutex<()>,
    room: Notify,
}

impl Queue {
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

/// Waits for a place at a member that has not been tried.
pub(super) async fn wait(
    worker: &Worker,
    front: &Front,
    client: IpAddr,
    tried: &Tried,
) -> Result<Attempt, Refused> {
    let pool = front.service.pool;
    let handle = worker.snapshot().queue(pool).clone();
    let queue = worker.queue(pool);
    let Some(_place) = Waiting::join(&handle, queue) else {
        return Err(Refused::QueueFull);
    };
    front.counters(worker).queued.add(1);
    let deadline = Instant::now() + front.queue_timeout;
    let wait = async {
        let _first = queue.line.lock().await;
        loop {
            let snapshot = worker.snapshot().clone();
            match snapshot.pick(front.service, client, tried, &front.lane, clock::now()) {
                Ok(attempt) => return Ok(attempt),
                Err(NoMember::AllFull) => {}
                Err(NoMember::NoneUsable) => return Err(Refused::NoMember),
                Err(NoMember::AllTried) => return Err(Refused::Attempts),
            }
            // Elapsed or notified: either way it looks again.
            if timeout(LOOK, queue.room.notified()).await.is_err() {
                tracing::trace!("looking for room");
            }
        }
    };
    timeout_at(deadline, wait)
        .await
        .unwrap_or(Err(Refused::QueueTimeout))
}

/// A place in the queue, given back when dropped.
struct Waiting<'a> {
    pool: &'a PoolHandle,
    queue: &'a Queue,
}

impl<'a> Waiting<'a> {
    fn join(pool: &'a PoolHandle, queue: &'a Queue) -> Option<Waiting<'a>> {
        pool.join().then(|| {
            queue.waiting.set(queue.waiting.get() + 1);
            Waiting { pool, queue }
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queue.waiting.set(self.queue.waiting.get() - 1);
        self.pool.leave();
    }
}
