//! What a flow carries, and what comes of it: datagrams to its member, answers to its client, and
//! errors from the network between.

use std::io::IoSlice;

use rustix::io::Errno;

use super::super::FromWorker;
use super::super::front::Front;
use super::super::worker::Worker;
use super::flow::{Ending, Flows, give_back, own_fault};
use super::runs::{Parcel, Run, takes_no_runs};
use super::search::{Reached, Refused, Search};
use super::sockets::{self, Undelivered};
use super::table::{FlowId, Origin};

/// ICMP errors that are taken from a flow's socket at once. What a forger adds beyond them waits
/// for another turn, and beyond the socket's buffer for none.
const ERRORS: usize = 4;
/// How often a datagram is tried while errors of earlier ones come in its way: for each member that
/// a flow may be moved on to, and one more.
const TRIES: usize = 5;

/// What a flow's socket had to tell of datagrams that did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// Only of some that never left.
    Local,
    /// ICMP errors.
    Icmp,
}

impl Flows {
    /// Sends a run of a flow's datagrams to its member, at once or, where that is not possible, one
    /// by one.
    pub(super) fn pass_in(&mut self, worker: &Worker, front: &Front, id: FlowId, run: &Run<'_>) {
        let whole = run.whole();
        if whole.datagrams > 1 {
            if self.push(worker, front, id, &whole) {
                return;
            }
            if let Some(flow) = self.table.get_mut(id) {
                flow.runs_in = false;
            }
        }
        for datagram in run.singles() {
            self.push(worker, front, id, &Parcel::single(&datagram));
        }
    }

    /// Sends one parcel to a flow's member, and to the next where it refuses; false when it has to
    /// be taken apart.
    fn push(&mut self, worker: &Worker, front: &Front, id: FlowId, parcel: &Parcel<'_>) -> bool {
        let counters = front.counters();
        for _ in 0..TRIES {
            let Some(flow) = self.table.get_mut(id) else {
                counters.udp.dropped_no_member.add(parcel.datagrams);
                return true;
            };
            if parcel.datagrams > 1 && !flow.runs_in {
                return false;
            }
            let errno = match parcel.send(&flow.socket) {
                Ok(()) => {
                    counters.udp.datagrams_in.add(parcel.datagrams);
                    counters.bytes_in.add(parcel.bytes);
                    if let Some(tally) = flow.log.up() {
                        tally.add(parcel.bytes);
                    }
                    flow.serving.bytes_in.add(parcel.bytes);
                    return true;
                }
                Err(errno) => errno,
            };
            if is_full(errno) {
                break;
            }
            // An error of an earlier datagram is told here, and this one was not sent.
            // Where a flood of them has filled the socket's buffer, the refusal alone is told.
            if self.hear_errors(worker, front, id) != Heard::Icmp && errno != Errno::CONNREFUSED {
                if parcel.datagrams > 1 && takes_no_runs(errno) {
                    return false;
                }
                tracing::debug!(%errno, "a datagram was not sent to its member");
                break;
            }
        }
        counters.udp.dropped_unsent.add(parcel.datagrams);
        true
    }

    /// Keeps the first datagram of a flow that just began, as its member may yet refuse it.
    pub(super) fn keep_first(&mut self, worker: &Worker, id: FlowId, datagram: &[u8]) {
        if let Some(flow) = self.table.get_mut(id) {
            flow.first = Some(self.firsts.keep(id, datagram, worker.tick()));
        }
    }

    /// Sends a run of answers to a flow's client.
    pub(super) fn pass_out(&mut self, front: &Front, id: FlowId, origin: &Origin, run: &Run<'_>) {
        let counters = front.counters();
        let listener = self.listeners.get(usize::from(origin.listener));
        let Some(listener) = listener.and_then(|listener| listener.socket.as_ref()) else {
            return;
        };
        let Some(flow) = self.table.get_mut(id) else {
            return;
        };
        let (serving, runs_out) = (&flow.serving, &mut flow.runs_out);
        let tally = flow.log.down();
        let send = |parcel: &Parcel<'_>, may_split: bool| {
            let (datagrams, bytes) = (parcel.datagrams, parcel.bytes);
            match parcel.send_to(listener, origin.client, origin.local) {
                Ok(()) => {
                    counters.udp.datagrams_out.add(datagrams);
                    counters.bytes_out.add(bytes);
                    serving.bytes_out.add(bytes);
                    if let Some(tally) = tally {
                        tally.add(bytes);
                    }
                }
                Err(errno) if may_split && takes_no_runs(errno) => return false,
                Err(errno) => {
                    tracing::debug!(%errno, "a datagram was not sent to its client");
                    counters.udp.dropped_unsent.add(datagrams);
                }
            }
            true
        };
        let whole = run.whole();
        if whole.datagrams > 1 && *runs_out {
            if send(&whole, true) {
                return;
            }
            *runs_out = false;
        }
        for datagram in run.singles() {
            send(&Parcel::single(&datagram), false);
        }
    }

    /// Takes what a flow's socket tells of datagrams that did not arrive. ICMP errors may be
    /// evidence against the member; then a flow that it never answered goes to another one at once,
    /// and so does one whose member is gone.
    pub(super) fn hear_errors(&mut self, worker: &Worker, front: &Front, id: FlowId) -> Heard {
        let Some(flow) = self.table.get_mut(id) else {
            return Heard::Nothing;
        };
        let mut said = Heard::Nothing;
        let mut heard = 0;
        let mut evidence = None;
        for _ in 0..ERRORS {
            match sockets::undelivered(&flow.socket) {
                Some(Undelivered::Icmp(failure)) => {
                    heard += 1;
                    evidence = evidence.or(failure);
                }
                Some(Undelivered::Local) => said = Heard::Local,
                None => break,
            }
        }
        if heard == 0 {
            return said;
        }
        front.counters().udp.icmp_errors.add(heard);
        if let Some(failure) = evidence {
            let now = worker.tick();
            let target = worker.registry().target(flow.key);
            if let Some(target) = target
                && self.blamed.insert(target, now) != Some(now)
            {
                front.member(target.member()).connect_failed.add(1);
                worker.tell(FromWorker::ConnectFailed {
                    epoch: front.epoch,
                    target,
                    failure,
                });
            }
            // No verdict is to be waited for of a member that is gone.
            if !self.table.is_answered(id) || target.is_none() {
                self.move_on(worker, front, id);
            }
        }
        Heard::Icmp
    }

    /// Moves a flow whose member refused it to another one, with its first datagram; ends it when
    /// there is none.
    pub(super) fn move_on(&mut self, worker: &Worker, front: &Front, id: FlowId) {
        let Some(&origin) = self.table.origin(id) else {
            return;
        };
        let Some(flow) = self.table.get_mut(id) else {
            return;
        };
        let mut search = match flow.search.take() {
            Some(search) => search,
            None => {
                let first = worker.registry().target(flow.key);
                Box::new(Search::after(worker, front, origin.client.ip(), first))
            }
        };
        let Reached {
            target,
            attempt,
            socket,
        } = match search.reach(worker, front, &flow.log) {
            Ok(reached) => reached,
            Err(refused) => {
                let why = match refused {
                    Refused::OwnFault(_) => Ending::OwnFault,
                    Refused::NoMember | Refused::Full | Refused::Attempts => Ending::Refused,
                };
                self.end(worker, id, why);
                return;
            }
        };
        let left = worker.registry().leave(flow.key);
        front.account.count_over(left.side);
        let attempt = std::mem::replace(&mut flow.attempt, attempt);
        flow.log.reached(worker, front, target, &flow.attempt);
        flow.socket = socket;
        flow.search = Some(search);
        flow.slots = 1;
        flow.reads_runs = false;
        flow.runs_in = true;
        let first = flow.first;
        give_back(worker, attempt, left);
        self.stand(worker, front, id, target);
        if let Err(errno) = self.watch(id) {
            worker.own_fault(own_fault(errno));
            self.end(worker, id, Ending::OwnFault);
            return;
        }
        let first = first.and_then(|place| self.firsts.get(place, id, worker.tick()));
        if let (Some(first), Some(flow)) = (first, self.table.get(id)) {
            let first = IoSlice::new(first);
            if let Err(errno) = Parcel::single(&first).send(&flow.socket) {
                tracing::debug!(%errno, "a first datagram was not sent again");
                front.counters().udp.dropped_unsent.add(1);
            }
        }
    }
}

/// Whether there was no room for a datagram on its way out.
fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM)
}
