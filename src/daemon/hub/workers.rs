//! What the hub tells its workers.
//!
//! Nobody waits for a worker: one that takes no message is brought up to date once it does, with how
//! things stand by then.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Hub;
use crate::clock;
use crate::dispatch::Snapshot;
use crate::observe::view::RunState;
use crate::proxy::{Adoption, HandFlows, ToWorker, Which, WorkerHandle};
use crate::time::Time;

/// A worker, and whether it missed a message and must be brought up to date.
pub(super) struct Worker {
    handle: WorkerHandle,
    behind: bool,
}

impl Hub {
    /// Whether every worker takes another configuration now.
    pub(in crate::daemon) fn can_adopt(&self) -> bool {
        let workers = self.workers.borrow();
        workers.iter().all(|worker| worker.handle.has_room())
    }

    /// Has a worker go on under another configuration; it has room for that.
    pub(in crate::daemon) fn have_adopted(&self, worker: usize, adoption: Adoption) {
        if let Some(worker) = self.workers.borrow_mut().get_mut(worker)
            && worker.handle.adopt(adoption).is_err()
        {
            tracing::error!("a worker takes no configuration; is it stuck?");
        }
    }

    /// Every worker's listeners once more, worker by worker.
    pub(in crate::daemon) fn share_listeners(
        &self,
    ) -> Vec<oneshot::Receiver<std::io::Result<Vec<OwnedFd>>>> {
        let workers = self.workers.borrow();
        let shared = workers.iter().map(|worker| worker.handle.share_listeners());
        shared.collect()
    }

    /// Has a worker prepare its flows over UDP for another process.
    ///
    /// # Errors
    /// When it takes no messages.
    pub(in crate::daemon) fn hand_flows(
        &self,
        worker: usize,
        order: HandFlows,
    ) -> Result<(), String> {
        let workers = self.workers.borrow();
        let told = workers
            .get(worker)
            .map(|worker| worker.handle.hand_flows(order));
        match told {
            Some(true) => Ok(()),
            _ => Err(format!("worker {worker} takes no messages; is it stuck?")),
        }
    }

    /// Closes the listeners, which live on in another process; resolves once every worker has.
    pub(in crate::daemon) fn leave(&self) -> impl Future<Output = ()> + use<> {
        self.tell_workers(&ToWorker::Leave);
        // A worker answers in order: what it shares now is nothing, and it has left.
        let left = self.share_listeners();
        async move {
            for left in left {
                drop(left.await);
            }
        }
    }

    /// Ends the workers, with what sessions they have left.
    pub(in crate::daemon) fn end(&self) {
        let open = self.open();
        if open > 0 {
            tracing::warn!(sessions = open, "the rest is reset");
        }
        for worker in self.workers.take() {
            if worker.handle.join().is_err() {
                tracing::error!("a worker panicked; this is a bug in twinpool");
            }
        }
    }

    /// Sessions open on all workers.
    pub(in crate::daemon) fn open(&self) -> u64 {
        self.era().counters.iter().map(|worker| worker.open()).sum()
    }

    pub(in crate::daemon) fn publish(&self) {
        let snapshot = self.snapshot(clock::now());
        self.tell_workers(&ToWorker::Publish(Arc::new(snapshot)));
    }

    /// Who may be chosen, as things stand.
    pub(in crate::daemon) fn snapshot(&self, now: Time) -> Snapshot {
        let era = self.era();
        let decider = self.decider.borrow();
        let book = self.book.borrow();
        let moving = |pool| self.is_moving(pool, now);
        let address = |target| book.current(target);
        let snapshot = Snapshot::new(era.epoch, &decider, &era.handles, now, moving, address);
        self.note_moving(now);
        snapshot
    }

    pub(in crate::daemon) fn tell_workers(&self, message: &ToWorker) {
        for worker in self.workers.borrow_mut().iter_mut() {
            worker.tell(message.clone());
        }
    }

    pub(in crate::daemon) fn tell_worker(&self, index: usize, message: ToWorker) {
        if let Some(worker) = self.workers.borrow_mut().get_mut(index) {
            worker.tell(message);
        }
    }

    /// A worker that missed a message gets what stands now: routes, endings of all who are down,
    /// and that the instance stops.
    pub(super) fn bring_up_to_date(&self) {
        if self.workers.borrow().iter().all(|worker| !worker.behind) {
            return;
        }
        for worker in self.workers.borrow_mut().iter_mut() {
            worker.behind = false;
        }
        if self.state.get() == RunState::Draining {
            self.tell_workers(&ToWorker::Close);
        }
        self.publish();
        self.tell_workers(&ToWorker::End(Which::Down));
        self.move_anew();
    }
}

impl Worker {
    pub(super) fn new(handle: WorkerHandle) -> Worker {
        Worker {
            handle,
            behind: false,
        }
    }

    fn tell(&mut self, message: ToWorker) {
        if !self.handle.tell(message) && !self.behind {
            self.behind = true;
            tracing::error!("a worker takes no messages; is it stuck?");
        }
    }
}
