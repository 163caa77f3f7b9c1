//! What the proxy's core did.

use crate::support::Result;
use crate::support::child::run;

/// The proxy's core.
pub(crate) const PROXY_CORE: u32 = 0;

/// What can be read of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Core {
    ticks_per_second: f64,
}

/// What it did since boot, seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worked {
    /// All but idling and what the hypervisor took.
    pub(crate) busy: f64,
    /// What the hypervisor took.
    pub(crate) stolen: f64,
}

impl Core {
    /// The proxy's.
    pub(crate) fn find() -> Result<Core> {
        Ok(Core {
            ticks_per_second: run(&["getconf", "CLK_TCK"])?.trim().parse()?,
        })
    }

    /// What it did until now.
    pub(crate) fn read(self) -> Result<Worked> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cpu{PROXY_CORE} ")))
            .ok_or("no such core in /proc/stat")?;
        let ticks = line
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<Vec<f64>, _>>()?;
        let [user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = ticks[..] else {
            return Err("/proc/stat has too few numbers".into());
        };
        Ok(Worked {
            busy: (user + nice + system + irq + softirq) / self.ticks_per_second,
            stolen: stolen / self.ticks_per_second,
        })
    }

    /// Seconds of processor time that a process has had, all its threads together.
    pub(crate) fn had_by(self, pid: u32) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Its name is in parentheses, and may hold anything; `utime` and `stime` are 12 and 13 words
        // after it.
        let (_, words) = stat.rsplit_once(')').ok_or("no name in a process's stat")?;
        let mut words = words.split_whitespace().skip(11);
        let mut ticks = || -> Result<f64> { Ok(words.next().ok_or("a short stat")?.parse()?) };
        Ok((ticks()? + ticks()?) / self.ticks_per_second)
    }
}

/// Datagrams that this host had no room for in a receive buffer, since boot.
pub(crate) fn overflowed() -> Result<u64> {
    let table = std::fs::read_to_string("/proc/net/snmp")?;
    let mut udp = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (udp.next().unwrap_or(""), udp.next().unwrap_or(""));
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both
        .find(|(name, _)| *name == "RcvbufErrors")
        .ok_or("no RcvbufErrors in /proc/net/snmp")?;
    Ok(value.parse()?)
}
