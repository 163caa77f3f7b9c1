//! Who used how much processor: everything that one core did, or a proxy's own threads.

use std::time::{Duration, Instant};

use crate::support::Result;
use crate::support::child::run;

/// What a proxy is charged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// Everything that its core did, the kernel's work for it too: nothing else runs there.
    Core,
    /// The time of its own threads, where it shares its cores with others.
    Own,
}

/// Reads processor time.
#[derive(Debug)]
pub(crate) struct Meter {
    charge: Charge,
    core: u32,
    ticks: f64,
}

impl Meter {
    /// One that charges so, for a proxy on this core.
    pub(crate) fn new(charge: Charge, core: u32) -> Result<Meter> {
        Ok(Meter {
            charge,
            core,
            ticks: run(&["getconf", "CLK_TCK"])?.trim().parse()?,
        })
    }

    /// Does something; its result, and the seconds that these processes are charged with for it.
    pub(crate) fn charged<T>(
        &self,
        processes: &[u32],
        act: impl FnOnce() -> Result<T>,
    ) -> Result<(T, f64)> {
        match self.charge {
            Charge::Core => self.busy(act),
            Charge::Own => {
                let before = self.own(processes)?;
                let result = act()?;
                Ok((result, self.own(processes)? - before))
            }
        }
    }

    /// Does something; its result, and the seconds that the core was busy meanwhile: all the time
    /// but what it idled and what the hypervisor took. Idling is timed by the kernel, while the
    /// rest of `/proc/stat` is guessed from what each timer tick interrupts.
    pub(crate) fn busy<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let (start, before) = (Instant::now(), self.rest()?);
        let result = act()?;
        let (span, after) = (start.elapsed(), self.rest()?);
        let stolen = after.stolen - before.stolen;
        if stolen > 0.02 * span.as_secs_f64() + 0.02 {
            println!(
                "note: the hypervisor took {stolen:.2} s of {:.1} s from core {}",
                span.as_secs_f64(),
                self.core
            );
        }
        let busy = span.as_secs_f64() - (after.idle - before.idle) - stolen;
        Ok((result, busy.max(0.0)))
    }

    /// Seconds of processor time that the threads of these processes have used.
    pub(crate) fn own(&self, processes: &[u32]) -> Result<f64> {
        let mut sum = 0.0;
        for process in processes {
            for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
                sum += self.task(&task?.path())?;
            }
        }
        Ok(sum)
    }

    /// The share of a second that each of these groups of processes uses over `span`, and that the
    /// core is busy.
    pub(crate) fn at_rest(&self, groups: &[Vec<u32>], span: Duration) -> Result<(Vec<f64>, f64)> {
        let each = || -> Result<Vec<f64>> { groups.iter().map(|group| self.own(group)).collect() };
        let before = each()?;
        let ((), busy) = self.busy(|| {
            std::thread::sleep(span);
            Ok(())
        })?;
        let after = each()?;
        let share = |(after, before): (f64, f64)| (after - before) / span.as_secs_f64();
        let shares = after.into_iter().zip(before).map(share).collect();
        Ok((shares, busy / span.as_secs_f64()))
    }

    /// Seconds that a thread has run: to the nanosecond where the kernel tells, else in ticks.
    fn task(&self, task: &std::path::Path) -> Result<f64> {
        if let Ok(text) = std::fs::read_to_string(task.join("schedstat")) {
            let nanos = text.split(' ').next().unwrap_or_default();
            return Ok(nanos.parse::<f64>()? / 1e9);
        }
        let text = std::fs::read_to_string(task.join("stat"))?;
        // After the name in parentheses, which may hold anything: utime and stime are 12th and 13th.
        let (_, after) = text.rsplit_once(')').ok_or("a task's stat has no name")?;
        let mut ticks = after.split_whitespace().skip(11);
        let mut next = || -> Result<f64> {
            let word = ticks.next().ok_or("a task's stat is too short")?;
            Ok(word.parse::<f64>()?)
        };
        Ok((next()? + next()?) / self.ticks)
    }

    fn rest(&self) -> Result<Rest> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cpu{} ", self.core)))
            .ok_or("no such core in /proc/stat")?;
        let ticks = line
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<Vec<f64>, _>>()?;
        let [
            _user,
            _nice,
            _system,
            idle,
            iowait,
            _irq,
            _softirq,
            stolen,
            ..,
        ] = ticks[..]
        else {
            return Err("/proc/stat has too few numbers".into());
        };
        Ok(Rest {
            idle: (idle + iowait) / self.ticks,
            stolen: stolen / self.ticks,
        })
    }
}

/// When the core did not work, in seconds since boot.
#[derive(Debug)]
struct Rest {
    idle: f64,
    stolen: f64,
}
