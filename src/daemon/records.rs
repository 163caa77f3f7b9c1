//! The pairs' records on disk: one file each, `pair-NAME`, read at the start and written off the
//! control thread, before what they say is in force.
//!
//! ```text
//! start:    file ─► Written ─► Record (and whether it is damaged) ─► Decider
//! decision: Output::Store ─► Records::write ─► disk ─► Stored ─► Decider::handle_stored
//! ```
//!
//! Nothing that is found keeps an instance from serving:
//!
//! | Found | In force | Automation |
//! |---|---|---|
//! | nothing | everybody at home, generation 0 | goes on |
//! | a record | it | goes on |
//! | the copy before it | it, under a generation well above, written back at once | goes on |
//! | damaged, another version's, about other pools, unreadable | everybody at home, under a generation that no count reaches | waits for `resume` |
//!
//! The last is left as it is until something is written, and then set aside. What is wrong is told
//! until the next good write.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::disk::{Found, LOAD_PATIENCE, Place, SLOW_WRITE};
use super::memory::time;
use crate::observe::stamp::{Clock, Stamp, span};
use crate::pairing::record::{By, Cause, Entry, Phase, Record, Share};
use crate::time::Time;
use crate::topology::{Pair, PairId, Side, Succession, Topology};

/// No count of changes reaches this: a generation beyond it is damage that no checksum noticed.
const LAST_GENERATION: u64 = u64::MAX / 2;

/// By so much the copy before the latest is raised: above the latest, and above what failed to be
/// written after the copy, which may have reached the disk all the same. A try a second for twelve
/// days is less.
const RAISED: u64 = 1 << 20;
/// Records that are written at one moment: each takes a thread of those that also look up names, and
/// a disk is no faster for more.
const WRITERS: usize = 8;

/// How the writing of a record went: whose, under which generation.
pub(super) type Stored = (PairId, u64, Result<(), String>);

/// The records of every pair.
pub(super) struct Records {
    files: Vec<File>,
    stored: mpsc::Sender<Stored>,
    writers: Rc<Semaphore>,
}

/// The record of one pair.
struct File {
    pair: String,
    pools: [String; 2],
    place: Place,
    state: Rc<State>,
}

struct State {
    /// What was found could not be used and still stands there.
    aside: Cell<bool>,
    /// What was wrong with what was found, until the next good write.
    found: RefCell<Option<String>>,
    /// Since when a write has been under way.
    writing: Cell<Option<Time>>,
}

/// Records of pairs that come to a running instance.
pub(super) struct Newcomers(Vec<(PairId, File, (Record, bool))>);

impl Newcomers {
    /// None.
    pub(super) fn none() -> Newcomers {
        Newcomers(Vec::new())
    }

    /// What a pair begins with.
    pub(super) fn begin(&self, pair: PairId) -> Option<(Record, bool)> {
        let newcomer = self.0.iter().find(|(id, ..)| *id == pair)?;
        Some(newcomer.2.clone())
    }

    /// What was wrong with what was found, by the pair's name.
    pub(super) fn found(&self) -> Vec<(String, String)> {
        let found = |(_, file, _): &(PairId, File, (Record, bool))| {
            Some((file.pair.clone(), file.state.found.borrow().clone()?))
        };
        self.0.iter().filter_map(found).collect()
    }
}

/// What the decider begins with, by pair: its record, and whether it was damaged.
pub(super) type Begin = Vec<(Record, bool)>;

impl Records {
    /// Reads the record of every pair in `dir`, for no longer than [`LOAD_PATIENCE`]. How writes
    /// go comes out of the channel.
    pub(super) async fn open(
        dir: &Path,
        topology: &Topology,
        clock: Clock,
    ) -> (Records, Begin, mpsc::Receiver<Stored>) {
        Records::open_within(LOAD_PATIENCE, dir, topology, clock).await
    }

    async fn open_within(
        patience: Duration,
        dir: &Path,
        topology: &Topology,
        clock: Clock,
    ) -> (Records, Begin, mpsc::Receiver<Stored>) {
        // Each has at most one write under way.
        let (stored, results) = mpsc::channel(topology.pairs.len().max(1));
        let begun = topology.pairs.iter().map(|pair| {
            let (dir, pools) = (dir.to_owned(), names(topology, pair));
            let name = pair.name.clone();
            spawn_local(async move { File::open(name, pools, &dir, clock, patience).await })
        });
        let (mut files, mut begin) = (Vec::new(), Vec::new());
        for file in begun.collect::<Vec<_>>() {
            let (file, record) = file.await.expect("reading a record never panics");
            files.push(file);
            begin.push(record);
        }
        (Records::new(files, stored), begin, results)
    }

    /// For a topology without pairs.
    pub(super) fn none() -> (Records, Begin, mpsc::Receiver<Stored>) {
        let (stored, results) = mpsc::channel(1);
        (Records::new(Vec::new(), stored), Vec::new(), results)
    }

    /// Reads the records of those pairs of the next topology that this one does not have, for no
    /// longer than [`LOAD_PATIENCE`].
    pub(super) async fn open_new(
        dir: &Path,
        new: &Topology,
        is_new: impl Fn(PairId) -> bool,
        clock: Clock,
    ) -> Newcomers {
        let pairs = new.pairs.iter().filter(|pair| is_new(pair.id));
        let opened = pairs.map(|pair| {
            let (dir, pools) = (dir.to_owned(), names(new, pair));
            let (id, name) = (pair.id, pair.name.clone());
            spawn_local(async move {
                let (file, begin) = File::open(name, pools, &dir, clock, LOAD_PATIENCE).await;
                (id, file, begin)
            })
        });
        let mut newcomers = Vec::new();
        for opened in opened.collect::<Vec<_>>() {
            newcomers.push(opened.await.expect("reading a record never panics"));
        }
        Newcomers(newcomers)
    }

    /// The records of the next topology's pairs: those that are still there, and the newcomers.
    pub(super) fn succeed(&mut self, count: usize, succession: &Succession, new: Newcomers) {
        let mut files: Vec<Option<File>> = std::iter::repeat_with(|| None).take(count).collect();
        for (pair, file) in (0..).map(PairId).zip(self.files.drain(..)) {
            if let Some(now) = succession.pair(pair) {
                files[now.index()] = Some(file);
            }
        }
        for (pair, file, _) in new.0 {
            files[pair.index()] = Some(file);
        }
        self.files = files.into_iter().flatten().collect();
        debug_assert_eq!(self.files.len(), count);
    }

    fn new(files: Vec<File>, stored: mpsc::Sender<Stored>) -> Records {
        Records {
            files,
            stored,
            writers: Rc::new(Semaphore::new(WRITERS)),
        }
    }

    /// Has a record written; how that went comes out of the channel, once.
    pub(super) fn write(&self, pair: PairId, record: &Record, clock: Clock) {
        let file = &self.files[pair.index()];
        let (place, state) = (file.place.clone(), file.state.clone());
        let written = Written::new(record, &file.pools, clock);
        let (generation, stored) = (record.generation, self.stored.clone());
        state.writing.set(Some(clock.now));
        let writers = self.writers.clone();
        spawn_local(async move {
            let _one = writers.acquire().await.expect("it is never closed");
            let result = place.save(written, state.aside.get()).await;
            state.writing.set(None);
            if result.is_ok() {
                state.aside.set(false);
                state.found.replace(None);
            }
            if stored.send((pair, generation, result)).await.is_err() {
                tracing::debug!(
                    generation,
                    "a record was written when nobody listened any more"
                );
            }
        });
    }

    /// A person has seen what was found: where it was made good, it is no longer told. Gives back
    /// the pairs.
    pub(super) fn acknowledge(&self) -> Vec<String> {
        let good = self.files.iter().filter(|file| !file.state.aside.get());
        let seen = good.filter(|file| file.state.found.take().is_some());
        seen.map(|file| file.pair.clone()).collect()
    }

    /// What is wrong with the record of a pair on disk: what was found at the start, until the next
    /// good write, or a disk that does not answer.
    pub(super) fn problem(&self, pair: PairId, now: Time) -> Option<String> {
        let found = || self.files.get(pair.index())?.state.found.borrow().clone();
        self.hangs(pair, now).or_else(found)
    }

    /// That the disk does not answer, while it does not.
    pub(super) fn hangs(&self, pair: PairId, now: Time) -> Option<String> {
        let since = self.files.get(pair.index())?.state.writing.get()?;
        let for_long = now.since(since);
        (for_long > SLOW_WRITE).then(|| {
            format!(
                "the disk has not answered for {}; what is to be written is not in force",
                span(for_long)
            )
        })
    }

    /// What was wrong with what was found, by the pair's name.
    pub(super) fn found(&self) -> Vec<(String, String)> {
        let found = |file: &File| Some((file.pair.clone(), file.state.found.borrow().clone()?));
        self.files.iter().filter_map(found).collect()
    }
}

impl File {
    async fn open(
        pair: String,
        pools: [String; 2],
        dir: &Path,
        clock: Clock,
        patience: Duration,
    ) -> (File, (Record, bool)) {
        let place = Place::new(dir, format!("pair-{pair}"));
        let found: Found<Written> = place.load(patience).await;
        let (mut record, mut damaged, mut problem) = (Record::home(0, clock.now), false, None);
        let mut unusable = |why: &str| {
            damaged = true;
            problem = Some(format!(
                "the record cannot be used ({why}): everybody is sent home, and automation waits \
                 for `twinpool resume`. The file is left as it is, and set aside by the next write"
            ));
            Record::home(beyond_all_counts(clock.wall), clock.now)
        };
        match found {
            Found::Fresh => {}
            Found::Unusable(why) => record = unusable(&why),
            Found::Current(written) => match written.record(&pools, clock) {
                Ok(current) => record = current,
                Err(why) => record = unusable(&format!("it {why}")),
            },
            Found::Previous(written, why) => match written.record(&pools, clock) {
                Ok(previous) => {
                    record = previous;
                    let restored = restore(&place, &mut record, &pools, &why, clock);
                    problem = Some(restored.await);
                }
                Err(also) => record = unusable(&format!("{why}; the copy before it {also}")),
            },
        }
        if let Some(problem) = &problem {
            tracing::error!(%pair, "{problem}");
        }
        let state = State {
            aside: Cell::new(damaged),
            found: RefCell::new(problem),
            writing: Cell::new(None),
        };
        let file = File {
            pair,
            pools,
            place,
            state: Rc::new(state),
        };
        (file, (record, damaged))
    }
}

/// The copy before the latest goes on under a generation of its own, which is on disk before it is
/// in force if the disk allows: the latest may have been told to somebody.
async fn restore(
    place: &Place,
    record: &mut Record,
    pools: &[String; 2],
    why: &str,
    clock: Clock,
) -> String {
    let copy = record.generation;
    record.generation += RAISED;
    let generation = record.generation;
    let told = format!(
        "the record was damaged ({why}); the copy before it, generation {copy}, is in force as \
         generation {generation}"
    );
    let written = place.save(Written::new(record, pools, clock), false);
    match timeout(SLOW_WRITE, written).await {
        Ok(Ok(())) => told,
        Ok(Err(error)) => format!("{told}, and cannot be written: {error}"),
        Err(_) => format!("{told}, and is not written within {SLOW_WRITE:?}"),
    }
}

/// Above any generation that changes alone could have reached: not even one a second since 1970.
fn beyond_all_counts(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn names(topology: &Topology, pair: &Pair) -> [String; 2] {
    pair.pools.map(|pool| topology.pool(pool).name.clone())
}

/// A [`Record`] as it is stored: by names and the wall clock, because ids and boot time do not
/// outlive a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    generation: u64,
    rounds: u32,
    alarm: bool,
    homes: Vec<Home>,
}

/// Where the users of one home pool are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Home {
    pool: String,
    phase: Word,
    /// While returning, in steps of one in [`Share::STEPS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    share: Option<u8>,
    cause: Cause,
    /// The person who decided; none when automation did.
    operator: Option<String>,
    reason: Option<String>,
    since: Stamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Home,
    Away,
    Returning,
}

impl Written {
    fn new(record: &Record, pools: &[String; 2], clock: Clock) -> Written {
        let homes =
            Side::BOTH.map(|side| Home::new(record.entry(side), &pools[side.index()], clock));
        Written {
            generation: record.generation,
            rounds: record.rounds,
            alarm: record.alarm,
            homes: homes.into(),
        }
    }

    /// The same for these pools, or why it cannot be.
    fn record(&self, pools: &[String; 2], clock: Clock) -> Result<Record, String> {
        let [one, other] = self.homes.as_slice() else {
            return Err("is not about two pools".to_owned());
        };
        let homes = match (&one.pool, &other.pool) {
            (a, b) if [a, b] == [&pools[0], &pools[1]] => [one, other],
            (a, b) if [b, a] == [&pools[0], &pools[1]] => [other, one],
            (a, b) => {
                let [x, y] = pools;
                return Err(format!(
                    "is about {a} and {b}, and the pair is of {x} and {y} now"
                ));
            }
        };
        let [first, second] = homes.map(|home| home.entry(clock));
        let entries = [first?, second?];
        if entries.iter().all(|entry| entry.phase != Phase::Home) {
            return Err("sends the users of both pools away".to_owned());
        }
        if self.generation > LAST_GENERATION {
            return Err(format!("has the generation {}", self.generation));
        }
        Ok(Record {
            generation: self.generation,
            entries,
            rounds: self.rounds,
            alarm: self.alarm,
        })
    }
}

impl Home {
    fn new(entry: &Entry, pool: &str, clock: Clock) -> Home {
        let (phase, share) = match entry.phase {
            Phase::Home => (Word::Home, None),
            Phase::Away => (Word::Away, None),
            Phase::Returning(share) => (Word::Returning, Some(share.steps())),
        };
        Home {
            pool: pool.to_owned(),
            phase,
            share,
            cause: entry.cause,
            operator: match &entry.by {
                By::Twinpool => None,
                By::Operator(name) => Some(name.clone()),
            },
            reason: entry.reason.clone(),
            since: clock.stamp(entry.since),
        }
    }

    fn entry(&self, clock: Clock) -> Result<Entry, String> {
        let phase = match (self.phase, self.share) {
            (Word::Home, None) => Phase::Home,
            (Word::Away, None) => Phase::Away,
            (Word::Returning, Some(steps)) => match Share::of(steps) {
                Some(share) => Phase::Returning(share),
                None => return Err(format!("has a share of {steps} in {}", Share::STEPS)),
            },
            _ => return Err("has a share without a return, or a return without one".to_owned()),
        };
        Ok(Entry {
            phase,
            cause: self.cause,
            by: self.operator.clone().map_or(By::Twinpool, By::Operator),
            reason: self.reason.clone(),
            // A wall clock that was set back must not make it begin in the future.
            since: time(clock, self.since).min(clock.now),
        })
    }
}

#[cfg(test)]
mod tests;
