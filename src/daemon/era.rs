//! What holds from one reload to the next.

use std::sync::Arc;

use crate::config::Config;
use crate::dispatch::Handles;
use crate::observe::counters::WorkerCounters;
use crate::observe::view::Room;
use crate::topology::Topology;

/// One configuration in force, and what stands by its ids. It is replaced as a whole; nobody may
/// keep an id of it across an `await` unless reloads wait meanwhile.
pub(super) struct Era {
    /// Counts the eras of this process, from 0.
    pub(super) epoch: u32,
    /// As it was read.
    pub(super) config: Config,
    /// The same with free ports resolved.
    pub(super) topology: Arc<Topology>,
    pub(super) handles: Handles,
    /// By worker.
    pub(super) counters: Vec<Arc<WorkerCounters>>,
    pub(super) room: Room,
}
