//! A process as the kernel sees it.

use std::fs;
use std::time::Duration;

use rustix::process::Pid;

use crate::harness::Daemon;

/// In what the kernel tells processor time: USER_HZ.
const TICKS_PER_SECOND: u64 = 100;

/// A running daemon's process.
#[derive(Clone, Copy)]
pub(crate) struct Process(Pid);

impl Process {
    pub(crate) fn of(daemon: &Daemon) -> Process {
        Process(daemon.pid())
    }

    /// Descriptors that it has open.
    pub(crate) fn descriptors(self) -> usize {
        let list = fs::read_dir(self.path("fd")).expect("its descriptors");
        list.count()
    }

    /// Pipes that it has open.
    pub(crate) fn pipes(self) -> usize {
        let list = fs::read_dir(self.path("fd")).expect("its descriptors");
        // A descriptor may be closed between the list and the look at it.
        let ends = list
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("pipe:"));
        ends.count() / 2
    }

    /// What it holds in memory, in bytes.
    pub(crate) fn resident(self) -> u64 {
        let status = fs::read_to_string(self.path("status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = number.and_then(|n| n.parse().ok()).expect("a number");
        kib << 10
    }

    /// Time that processors spent on it, its own and the kernel's for it.
    pub(crate) fn processor_time(self) -> Duration {
        let stat = fs::read_to_string(self.path("stat")).expect("its numbers");
        // The name may hold spaces; what follows it does not.
        let (_, rest) = stat.rsplit_once(')').expect("a name");
        let field = |nth: usize| -> u64 {
            let field = rest.split_whitespace().nth(nth - 3);
            field.and_then(|f| f.parse().ok()).expect("a number")
        };
        // proc_pid_stat(5): utime is the 14th field, stime the 15th.
        let ticks = field(14) + field(15);
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    /// How often its threads named so have let go of the processor to wait.
    pub(crate) fn waits(self, thread: &str) -> u64 {
        let tasks = fs::read_dir(self.path("task")).expect("its threads");
        let of = |task: std::path::PathBuf| -> Option<u64> {
            let name = fs::read_to_string(task.join("comm")).ok()?;
            if !name.starts_with(thread) {
                return Some(0);
            }
            let status = fs::read_to_string(task.join("status")).ok()?;
            let found = |line: &str| {
                line.strip_prefix("voluntary_ctxt_switches:")?
                    .trim()
                    .parse()
                    .ok()
            };
            status.lines().find_map(found)
        };
        let waits = tasks.filter_map(|task| of(task.ok()?.path()));
        waits.sum()
    }

    /// Threads whose names begin so.
    pub(crate) fn threads(self, name: &str) -> usize {
        let tasks = fs::read_dir(self.path("task")).expect("its threads");
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|found| found.starts_with(name)).count()
    }

    fn path(self, file: &str) -> String {
        format!("/proc/{}/{file}", self.0.as_raw_nonzero())
    }
}

/// Raises this process's own limit on descriptors; false, with a message, where it cannot have so
/// many.
pub(crate) fn can_hold(descriptors: u64) -> bool {
    let has = twinpool::proxy::raise_descriptor_limit();
    if has < descriptors {
        eprintln!(
            "skipped: it needs {descriptors} descriptors, and the hard limit is {has} \
             (`ulimit -Hn`)"
        );
    }
    has >= descriptors
}
