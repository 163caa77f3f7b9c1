//! A daemon and the processes that followed it, each ended with the test.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::harness::*;

/// The processes of one line, the first of which the harness started.
pub(crate) struct Line {
    pub(crate) daemon: Daemon,
    successors: Vec<Successor>,
}

/// A process that took over; killed when dropped.
pub(crate) struct Successor {
    pid: u32,
    handle: OwnedFd,
}

impl Line {
    pub(crate) async fn start(setup: Setup) -> Line {
        Line {
            daemon: Daemon::start(setup).await,
            successors: Vec::new(),
        }
    }

    /// Upgrades; what was said.
    pub(crate) async fn upgrade(&mut self) -> String {
        let said = self.daemon.done(&["upgrade"]).await;
        self.has_followed(&said);
        said
    }

    /// Takes note of a process that serves by now.
    pub(crate) fn has_followed(&mut self, said: &str) {
        let pid = said
            .split_once("process ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        self.successors.push(Successor::of(pid.expect(said)));
    }

    /// The process that serves.
    pub(crate) fn serving(&self) -> u32 {
        match self.successors.last() {
            Some(last) => last.pid,
            None => self.daemon.pid().as_raw_nonzero().get() as u32,
        }
    }

    /// Sends a signal to the process that serves.
    pub(crate) fn signal(&self, signal: Signal) {
        match self.successors.last() {
            Some(last) => last.signal(signal),
            None => self.daemon.signal(signal),
        }
    }

    /// Waits until every process but the one that serves is gone.
    pub(crate) async fn drained(&mut self) {
        self.daemon.exited().await;
        let earlier = self.successors.len().saturating_sub(1);
        for successor in &self.successors[..earlier] {
            successor.gone().await;
        }
    }

    /// Waits until the one that serves is gone.
    pub(crate) async fn gone(&mut self) {
        match self.successors.last() {
            Some(last) => last.gone().await,
            None => drop(self.daemon.exited().await),
        }
    }
}

impl Successor {
    fn of(pid: u32) -> Successor {
        let id = Pid::from_raw(pid as i32).expect("a process id");
        Successor {
            pid,
            handle: pidfd_open(id, PidfdFlags::empty()).expect("a process that lives"),
        }
    }

    fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.handle, signal).expect("a process to signal");
    }

    async fn gone(&self) {
        eventually(&format!("the end of process {}", self.pid), async || {
            let mut look = [rustix::event::PollFd::new(
                &self.handle,
                rustix::event::PollFlags::IN,
            )];
            let now = rustix::event::Timespec::default();
            (rustix::event::poll(&mut look, Some(&now)).expect("a look") > 0).then_some(())
        })
        .await;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // It may be gone by itself.
        if pidfd_send_signal(&self.handle, Signal::KILL).is_ok() {
            let mut look = [rustix::event::PollFd::new(
                &self.handle,
                rustix::event::PollFlags::IN,
            )];
            let patience = rustix::event::Timespec::try_from(Duration::from_secs(5));
            let patience = patience.expect("a short time");
            if !matches!(rustix::event::poll(&mut look, Some(&patience)), Ok(1)) {
                eprintln!("process {} does not die", self.pid);
            }
        }
    }
}
