//! The disk that records are kept on: slow now and then, full for a while, and damaged by a crash.
//! And the restarts that begin with what is found there.

use twinpool::pairing::{Decider, Record};
use twinpool::topology::PairId;

use crate::world::{Step, World};

/// The longest that a write takes, in milliseconds.
pub(crate) const SLOWEST: u64 = 400;
/// What a generation is raised by where the record before the latest has to do: more than there
/// were writes of the latest that failed.
const RAISED: u64 = 1_000_000;

/// The file of one pair.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) current: Option<Record>,
    previous: Option<Record>,
    /// Nobody can read the current one.
    pub(crate) damaged: bool,
    writing: Option<Record>,
}

impl File {
    fn put(&mut self, record: Record) {
        if !std::mem::take(&mut self.damaged) {
            self.previous = self.current.take();
        }
        self.current = Some(record);
    }
}

impl World {
    pub(crate) fn store(&mut self, pair: PairId, record: &Record) {
        self.files[pair.index()].writing = Some(record.clone());
        let slow = self.rng.chance(10);
        let takes = match slow {
            true => self.rng.millis(30, SLOWEST),
            false => self.rng.millis(0, 30),
        };
        self.after(takes, Step::Stored(self.life, pair));
        if self.rng.chance(1) {
            let meanwhile = self.rng.millis(0, takes.as_millis() as u64);
            self.after(meanwhile, Step::Crash);
        }
    }

    /// A write ends, one way or the other.
    pub(crate) fn stored(&mut self, life: u64, pair: PairId) {
        if life != self.life {
            return;
        }
        let file = &mut self.files[pair.index()];
        let record = file.writing.take().expect("a record is being written");
        let generation = record.generation;
        let done = match self.full || self.rng.chance(2) {
            false => {
                file.put(record);
                Ok(())
            }
            true => {
                // Its last step alone failed: it may be found all the same.
                if self.rng.chance(10) {
                    file.put(record);
                }
                Err("no space left on device".to_owned())
            }
        };
        self.note(|| format!("generation {generation} of {pair:?} is written: {done:?}"));
        let error = done.as_ref().err().map(String::as_str);
        self.checks.redirects.stored(pair, error, self.now);
        self.decider.handle_stored(pair, generation, done, self.now);
    }

    pub(crate) fn disk_fills(&mut self) {
        if self.calm() {
            return;
        }
        self.note(|| "the disk is full".to_owned());
        self.full = true;
        let lasts = self.rng.millis(500, 4000);
        let rest = self.rng.millis(4000, 20_000);
        self.after(lasts, Step::DiskEmptied);
        self.after(lasts + rest, Step::DiskFills);
    }

    pub(crate) fn disk_emptied(&mut self) {
        self.note(|| "the disk has room".to_owned());
        self.full = false;
        if !self.asleep {
            self.checks.redirects.writable();
            self.decider.handle_writable();
        }
    }

    pub(crate) fn restart(&mut self) {
        if self.rng.chance(50) {
            let again = self.rng.millis(5000, 20_000);
            self.after(again, Step::Restart);
            self.crash();
        }
    }

    pub(crate) fn crash(&mut self) {
        if self.calm() {
            return;
        }
        self.life += 1;
        self.out.fill(None);
        let damages = self.rng.chance(30);
        let pairs = (0..self.files.len()).map(|n| PairId(n as u16));
        let found: Vec<Found> = pairs.map(|pair| self.find(pair, damages)).collect();
        self.note(|| format!("restart with {found:?}"));
        let standing = self.checks.stored.clone();
        self.counter += 1;
        let seed = self.seed ^ self.counter;
        let records = found.iter().map(|f| (f.record.clone(), f.damaged));
        let topology = self.topology.clone();
        self.decider = Decider::new(topology, standing, records.collect(), seed, self.now);
        let found = found.into_iter().map(|f| (f.record, f.older));
        let found: Vec<(Record, bool)> = found.collect();
        self.checks.restarted(&found, &self.decider, self.now);
    }

    /// What a restart finds of one pair.
    fn find(&mut self, pair: PairId, damages: bool) -> Found {
        let now = self.now;
        let highest = self.checks.redirects.in_force(pair).generation;
        let file = &mut self.files[pair.index()];
        let in_flight = file.writing.take();
        if let Some(record) = in_flight.filter(|_| self.rng.chance(50)) {
            file.put(record);
        }
        if damages && file.current.is_some() && self.rng.chance(50) {
            file.damaged = true;
            if self.rng.chance(40) {
                file.previous = None;
            }
        }
        if !file.damaged {
            let record = file.current.clone();
            return Found {
                record: record.unwrap_or(Record::home(0, now)),
                damaged: false,
                older: false,
            };
        }
        match file.previous.clone() {
            Some(mut record) => {
                record.generation += RAISED;
                if !self.full {
                    file.put(record.clone());
                }
                Found {
                    record,
                    damaged: false,
                    older: true,
                }
            }
            None => Found {
                record: Record::home(highest + RAISED, now),
                damaged: true,
                older: true,
            },
        }
    }

    /// What is in force is on disk.
    pub(crate) fn disk_is_not_behind(&self) {
        for (n, file) in self.files.iter().enumerate() {
            let in_force = self.checks.redirects.in_force(PairId(n as u16));
            if file.damaged || in_force.generation == 0 {
                continue;
            }
            let on_disk = file.current.as_ref().expect("a record is on disk");
            assert!(
                on_disk.generation > in_force.generation || on_disk == in_force,
                "{on_disk:?} is on disk, {in_force:?} in force"
            );
        }
    }
}

/// What a restart begins with.
#[derive(Debug)]
struct Found {
    record: Record,
    /// Neither copy was whole.
    damaged: bool,
    /// It is not the latest.
    older: bool,
}
