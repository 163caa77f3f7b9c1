//! Flows over UDP go over with their sockets, slice by slice: both processes need few descriptors
//! more than they have.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::wire;
use super::words::{FlowTold, ToSuccessor};
use crate::daemon::hub::Hub;
use crate::dispatch::Handles;
use crate::proxy::listen::Listener;
use crate::proxy::{FlowGiven, FlowTaken, HandFlows};
use crate::time::Time;

/// Flows that go over in one message, each with its descriptor.
const SLICE: usize = 250;
/// How long a worker may take for one of its steps.
const STEP: Duration = Duration::from_secs(2);
/// How long the successor may take to read a slice.
const HEARING: Duration = Duration::from_secs(10);

impl Hub {
    /// Pauses all flows and gives them to the successor.
    pub(super) async fn give_flows(&self, stream: &Arc<UnixStream>) -> Result<(), String> {
        let workers = self.era().counters.len();
        for worker in 0..workers {
            let (tell, paused) = oneshot::channel();
            self.hand_flows(worker, HandFlows::Pause(tell))?;
            let flows = heard(worker, paused).await?;
            for from in (0..flows).step_by(SLICE) {
                let (tell, given) = oneshot::channel();
                let most = SLICE;
                self.hand_flows(worker, HandFlows::Give { from, most, tell })?;
                let slice = heard(worker, given).await?;
                let stream = stream.clone();
                let sent = spawn_blocking(move || send(&stream, slice)).await;
                let sent = sent.map_err(|error| error.to_string())?;
                sent.map_err(|error| format!("flows cannot be handed over: {error}"))?;
            }
        }
        Ok(())
    }

    /// All flows are the successor's.
    pub(super) fn drop_flows(&self) {
        self.hand_all(|| HandFlows::Leave);
    }

    /// All flows stay here.
    pub(super) fn resume_flows(&self) {
        self.hand_all(|| HandFlows::Resume);
    }

    fn hand_all(&self, order: impl Fn() -> HandFlows) {
        for worker in 0..self.era().counters.len() {
            if let Err(error) = self.hand_flows(worker, order()) {
                tracing::error!("flows are in doubt: {error}");
            }
        }
    }
}

async fn heard<T>(worker: usize, answer: oneshot::Receiver<T>) -> Result<T, String> {
    let stuck = || format!("worker {worker} does not hand its flows over; is it stuck?");
    let answer = timeout(STEP, answer).await.map_err(|_| stuck())?;
    answer.map_err(|_| stuck())
}

fn send(stream: &UnixStream, slice: Vec<FlowGiven>) -> io::Result<()> {
    let (told, sockets): (Vec<FlowTold>, Vec<OwnedFd>) =
        slice.into_iter().map(FlowTold::of).unzip();
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    wire::send(stream, &ToSuccessor::Flows(told), &sockets, HEARING)
}

/// Gives each worker the flows that came by its listeners, each with its place at its member.
pub(in crate::daemon) fn taken_flows(
    flows: Vec<FlowGiven>,
    listeners: &[Vec<Listener>],
    handles: &Handles,
    now: Time,
) -> Vec<Vec<FlowTaken>> {
    let mut worker_of: HashMap<u64, usize> = HashMap::new();
    for (worker, listeners) in listeners.iter().enumerate() {
        let known = listeners
            .iter()
            .filter_map(|listener| listener.inode().ok());
        worker_of.extend(known.map(|inode| (inode, worker)));
    }
    let mut by_worker: Vec<Vec<FlowTaken>> = listeners.iter().map(|_| Vec::new()).collect();
    for given in flows {
        // One whose listener is gone has nobody to be answered by.
        if let Some(&worker) = worker_of.get(&given.listener) {
            let attempt = handles.stands(given.target.member(), given.member, now);
            by_worker[worker].push(FlowTaken { given, attempt });
        }
    }
    by_worker
}
