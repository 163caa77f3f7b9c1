//! Waiting for a member with room.
//!
//! A pool whose usable members are all full queues new sessions, first come first served on each
//! worker, bounded in number over the instance and in time for each. The first in line looks for
//! room whenever a session on this worker gives a limited place back, and every [`LOOK`] for places
//! given back on other workers. Who breaks off meanwhile leaves the queue.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
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
    client: &TcpStream,
    source: IpAddr,
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
            match snapshot.pick(front.service, source, tried, &front.lane, clock::now()) {
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
