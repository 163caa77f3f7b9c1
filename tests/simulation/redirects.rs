//! What must hold of pairs at every moment of a run: the rules of the design for redirects, read
//! anew and kept beside the decider, fed by what it tells and asks to be written.

#[path = "redirects/automation.rs"]
mod automation;
#[path = "redirects/orders.rs"]
mod orders;

use std::sync::Arc;
use std::time::Duration;

use twinpool::pairing::pair::{Halt, Move, RETRY};
use twinpool::pairing::record::{By, Entry, Phase, Record, Share};
use twinpool::pairing::{Condition, Decider, Event};
use twinpool::time::Time;
use twinpool::topology::{Automation, Pair, PairId, PoolId, Side, SiteId, Topology};

use crate::counts::Counts;
use crate::disk::SLOWEST;
use crate::fitness::Pools;

/// How much later than its time a step may be in force: a write that is under way, its own, one
/// that could not be made just before, and again.
const LATE: Duration = Duration::from_millis(3 * SLOWEST + RETRY.as_millis() as u64);

/// Every pair, as it has to be.
pub(crate) struct Redirects {
    topology: Arc<Topology>,
    pub(crate) pools: Pools,
    pairs: Vec<Seen>,
    paused: bool,
    isolated: bool,
    sites: Vec<bool>,
    /// What is to be told in this moment, and has not been.
    expected: Vec<Event>,
    /// What is to be cleared: whose users, off whom, from when on.
    clears: Vec<(PoolId, Option<PoolId>, Time)>,
    unpublished: bool,
    pub(crate) counts: Counts,
}

/// One pair.
struct Seen {
    in_force: Record,
    since: Time,
    writing: Option<Writing>,
    /// Records that were asked to be written after the one in force, and may be found on disk.
    maybe: Vec<Record>,
    /// The highest generation that was given out in this life, or was ever in force.
    highest: u64,
    damaged: bool,
    unwritten: bool,
    /// What a person orders in this moment, until its record is asked to be written.
    order: Option<Asked>,
    /// By side: what was last said about sessions to be ended.
    clears: [Option<Option<PoolId>>; 2],
    /// By side: what automation has to do, and since when nothing stands in its way.
    duties: [Option<(Duty, Time)>; 2],
}

struct Writing {
    record: Record,
    drain: bool,
    resumes: bool,
}

enum Asked {
    Move(Move),
    Resume,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Duty {
    Leave,
    Relapse,
    Finish,
    Step(Share),
    Failback,
}

impl Redirects {
    pub(crate) fn new(topology: &Arc<Topology>, decider: &Decider, now: Time) -> Redirects {
        let seen = |pair: &Pair| Seen::new(Record::home(0, now), decider, pair.id, now);
        Redirects {
            pools: Pools::new(topology, decider, now),
            pairs: topology.pairs.iter().map(seen).collect(),
            paused: false,
            isolated: false,
            sites: vec![false; topology.sites.len()],
            expected: Vec::new(),
            clears: Vec::new(),
            unpublished: false,
            counts: Counts::default(),
            topology: topology.clone(),
        }
    }

    /// A new life begins with what was found on disk: for each pair its record, and whether some
    /// damage cost the latest.
    pub(crate) fn restarted(&mut self, found: &[(Record, bool)], decider: &Decider, now: Time) {
        self.pools = Pools::new(&self.topology, decider, now);
        self.paused = decider.pause().is_some();
        self.isolated = false;
        self.sites.fill(false);
        for (id, (record, damage)) in (0..).map(PairId).zip(found) {
            let before = &self.pairs[id.index()];
            let fresh = record.generation == 0 && before.in_force.generation == 0;
            let same = *record == before.in_force || fresh;
            if *damage {
                assert!(
                    same || record.generation > before.in_force.generation,
                    "{id:?}: back to {record:?} after {:?}",
                    before.in_force
                );
            } else {
                assert!(
                    same || before.maybe.contains(record),
                    "{id:?}: {record:?} was found, {:?} was in force",
                    before.in_force
                );
            }
            let halted = decider.pair(id).halt() == Some(Halt::Damaged);
            self.counts.one(match (*damage, same) {
                (true, _) if halted => "restarts with no whole record",
                (true, _) => "restarts with the record before",
                (_, true) if before.writing.is_some() => "restarts that lost what was in flight",
                (_, true) => "restarts with the same record",
                (_, false) => "restarts that found what was in flight",
            });
            let highest = before.in_force.generation.max(record.generation);
            self.pairs[id.index()] = Seen::new(record.clone(), decider, id, now);
            self.pairs[id.index()].highest = highest;
        }
    }

    /// Pools that are left by automation because they are lost, for the truth to be asked.
    pub(crate) fn store(&mut self, id: PairId, wanted: &Record, now: Time) -> Vec<PoolId> {
        let seen = &mut self.pairs[id.index()];
        assert!(seen.writing.is_none(), "{id:?}: two writes at once");
        assert!(
            wanted.generation > seen.highest,
            "{id:?}: generation {} after {}",
            wanted.generation,
            seen.highest
        );
        seen.highest = wanted.generation;
        let order = seen.order.take();
        let away = |entry: &&Entry| entry.phase != Phase::Home;
        assert!(wanted.entries.iter().filter(away).count() < 2, "{wanted:?}");
        let (mut drain, mut left) = (false, Vec::new());
        match &order {
            Some(Asked::Move(order)) => {
                self.is_what_was_ordered(id, order, wanted, now);
                let home = self.topology.pair(id).pool(order.side);
                drain = !order.now && !self.pools.is_lost(home);
            }
            Some(Asked::Resume) => {
                let seen = &self.pairs[id.index()];
                assert_eq!(seen.in_force.entries, wanted.entries);
                assert!(!wanted.alarm && wanted.rounds == 0);
                self.counts.one("resumes of a pair");
            }
            None => left = self.automation_may(id, wanted, now),
        }
        let seen = &mut self.pairs[id.index()];
        seen.writing = Some(Writing {
            record: wanted.clone(),
            drain,
            resumes: matches!(order, Some(Asked::Resume)),
        });
        seen.maybe.push(wanted.clone());
        left
    }

    /// How a write went, before the decider hears of it.
    pub(crate) fn stored(&mut self, id: PairId, error: Option<&str>, now: Time) {
        let seen = &mut self.pairs[id.index()];
        let writing = seen.writing.take().expect("a record is being written");
        if seen.unwritten != error.is_some() {
            seen.unwritten = error.is_some();
            let error = error.map(str::to_owned);
            self.expected.push(Event::Unwritten { pair: id, error });
        }
        if error.is_some() {
            seen.duties = [None; 2];
            self.counts.one("writes that failed");
            return;
        }
        self.counts.one("records in force");
        let before = std::mem::replace(&mut seen.in_force, writing.record.clone());
        seen.since = now;
        seen.damaged &= !writing.resumes;
        seen.maybe.clear();
        self.unpublished = true;
        // One without rounds stands for damage.
        let alarmed = |record: &Record| record.alarm && record.rounds > 0;
        let on = alarmed(&writing.record);
        if alarmed(&before) != on {
            self.expected.push(Event::Alarm { pair: id, on });
            if on {
                self.counts.one("alarms");
            }
        }
        for side in Side::BOTH {
            self.expect_redirect(id, side, &before, &writing, now);
        }
    }

    fn expect_redirect(
        &mut self,
        id: PairId,
        side: Side,
        before: &Record,
        writing: &Writing,
        now: Time,
    ) {
        let pair = self.topology.pair(id);
        let (home, twin) = (pair.pool(side), pair.pool(side.other()));
        let (from, entry) = (before.phase(side), writing.record.entry(side).clone());
        let is_step = matches!(
            (from, entry.phase),
            (Phase::Returning(_), Phase::Returning(_))
        );
        if (from, entry.phase) == (Phase::Away, Phase::Away) && *before.entry(side) != entry {
            // Ordered once more: what was drained is ended now.
            self.clears.push((home, Some(home), now));
        }
        if from == entry.phase || is_step {
            return;
        }
        let drained = now + self.topology.pool(home).drain_deadline;
        let clear = match entry.phase {
            Phase::Away if writing.drain => (home, Some(home), drained),
            Phase::Away => (home, Some(home), now),
            Phase::Returning(_) => (home, None, now),
            Phase::Home => (home, Some(twin), now),
        };
        if clear.2 > now {
            self.counts.one("drains");
        }
        self.clears.push(clear);
        self.expected.push(Event::Redirect {
            pool: home,
            from,
            to: entry.phase,
            cause: entry.cause,
            by: entry.by,
            reason: entry.reason,
            generation: writing.record.generation,
        });
    }

    pub(crate) fn cleared(&mut self, clear: (PoolId, Option<PoolId>, Time)) {
        let at = self.clears.iter().position(|wanted| *wanted == clear);
        self.clears
            .remove(at.unwrap_or_else(|| panic!("{clear:?} was not to be, {:?} was", self.clears)));
        let (pair, side) = self.topology.pair_of(clear.0).unwrap();
        self.pairs[pair.id.index()].clears[side.index()] = Some(clear.1);
    }

    pub(crate) fn told(&mut self, event: &Event, now: Time) {
        self.pools.told(event, now);
        match event {
            Event::Isolation { cause } => self.isolated = cause.is_some(),
            Event::Pause { pause, .. } => self.paused = pause.is_some(),
            Event::Site { site, lost } => {
                assert_ne!(self.sites[site.index()], *lost);
                self.sites[site.index()] = *lost;
                self.counts
                    .one(if *lost { "sites lost" } else { "sites back" });
            }
            Event::Condition {
                pool,
                to: Condition::Lost,
                ..
            } if self.pools.beside_lost(*pool) => self.counts.one("both pools lost"),
            _ => {}
        }
        if matches!(
            event,
            Event::Redirect { .. } | Event::Alarm { .. } | Event::Unwritten { .. }
        ) {
            let at = self.expected.iter().position(|wanted| wanted == event);
            let at = at.unwrap_or_else(|| panic!("{event:?} was told, not {:?}", self.expected));
            self.expected.remove(at);
        }
    }

    /// The disk takes what is written again, before the decider hears of it.
    pub(crate) fn writable(&mut self) {
        for (pair, seen) in (0..).map(PairId).zip(&mut self.pairs) {
            if seen.writing.is_none() && std::mem::take(&mut seen.unwritten) {
                self.expected.push(Event::Unwritten { pair, error: None });
                self.counts.one("disks that were told to be well");
            }
        }
    }

    /// A suspend is over; after a long one everything begins anew.
    pub(crate) fn woke(&mut self, gap: bool, now: Time) {
        for seen in &mut self.pairs {
            seen.duties = [None; 2];
        }
        if gap {
            self.pools.gap(now);
        }
        self.counts.one(match gap {
            true => "suspends",
            false => "suspends too short to matter",
        });
    }

    pub(crate) fn published(&mut self) {
        self.unpublished = false;
    }

    // At every moment.

    /// A moment, once its outputs are drained.
    pub(crate) fn moment(&mut self, decider: &Decider, now: Time) {
        assert!(self.expected.is_empty(), "not told: {:?}", self.expected);
        assert!(self.clears.is_empty(), "not cleared: {:?}", self.clears);
        assert!(!self.unpublished, "in force and not published");
        for index in 0..self.pairs.len() {
            let id = PairId(index as u16);
            let (machine, seen) = (decider.pair(id), &self.pairs[index]);
            assert!(seen.order.is_none(), "{id:?}: ordered and not written");
            assert_eq!(machine.record().generation, seen.in_force.generation);
            let writing = seen.writing.as_ref().map(|w| w.record.generation);
            assert_eq!(machine.wanted().map(|record| record.generation), writing);
            for side in Side::BOTH {
                self.duty_is_done(id, side, now);
            }
        }
    }

    /// Everything, now and then.
    pub(crate) fn look(&self, decider: &Decider) {
        for (id, seen) in (0..).map(PairId).zip(&self.pairs) {
            let machine = decider.pair(id);
            assert_eq!(*machine.record(), seen.in_force);
            assert_eq!(machine.halt().is_some(), self.is_halted(id));
            for side in Side::BOTH {
                let pair = self.topology.pair(id);
                let (home, twin) = (pair.pool(side), pair.pool(side.other()));
                let phase = seen.in_force.phase(side);
                assert_eq!(decider.phase(home), phase);
                assert_eq!(machine.fitness(side).0, self.pools.fitness(home));
                let off = match phase {
                    Phase::Home => Some(twin),
                    Phase::Away => Some(home),
                    Phase::Returning(_) => None,
                };
                let last = seen.clears[side.index()];
                assert!(last.is_none_or(|last| last == off), "{phase:?}: {last:?}");
            }
        }
        for (site, &told) in (0..).map(SiteId).zip(&self.sites) {
            let mut pools = self.topology.pools.iter();
            let of = |site| move |pool: &Option<SiteId>| *pool == Some(site);
            let is_lost = |pool| self.pools.condition(pool) == Condition::Lost;
            let lost = pools.all(|pool| !of(site)(&pool.site) || is_lost(pool.id));
            assert_eq!((told, decider.is_site_lost(site)), (lost, lost), "{site:?}");
        }
    }

    /// What is in force, for the disk to be held against it.
    pub(crate) fn in_force(&self, id: PairId) -> &Record {
        &self.pairs[id.index()].in_force
    }

    fn is_halted(&self, id: PairId) -> bool {
        let seen = &self.pairs[id.index()];
        self.paused || seen.damaged || seen.in_force.alarm
    }

    /// What has to be done is in force in time, where nothing stands in its way.
    fn duty_is_done(&mut self, id: PairId, side: Side, now: Time) {
        let duty = self.duty(id, side);
        let seen = &mut self.pairs[id.index()];
        let Some((duty, within)) = duty else {
            seen.duties[side.index()] = None;
            return;
        };
        match seen.duties[side.index()] {
            Some((before, since)) if before == duty => {
                let passed = now.since(since);
                assert!(
                    passed <= within + LATE,
                    "{id:?}: {duty:?} of the {side:?} is due for {passed:?}"
                );
            }
            _ => seen.duties[side.index()] = Some((duty, now)),
        }
    }

    /// What automation has to do for one side as things stand, and within what time.
    fn duty(&self, id: PairId, side: Side) -> Option<(Duty, Duration)> {
        if self.isolated {
            return None;
        }
        let pair = self.topology.pair(id);
        let record = &self.pairs[id.index()].in_force;
        let (home, twin) = (pair.pool(side), pair.pool(side.other()));
        let leaves = self.pools.is_lost(home) && self.pools.serves(twin);
        let entry = record.entry(side);
        let free = !self.is_halted(id);
        let automatic = |who| free && who == Automation::Automatic;
        match entry.phase {
            Phase::Home if leaves && automatic(pair.rules.failover) => {
                let after = match self.pools.beside_lost(home) {
                    true => Duration::ZERO,
                    false => pair.rules.after,
                };
                Some((Duty::Leave, after))
            }
            Phase::Returning(_) if leaves => Some((Duty::Relapse, Duration::ZERO)),
            Phase::Returning(_) if !self.pools.serves(home) => None,
            Phase::Returning(_) if self.pools.is_lost(twin) => Some((Duty::Finish, Duration::ZERO)),
            Phase::Returning(share) if free || entry.by != By::Twinpool => {
                Some((Duty::Step(share), step(pair)))
            }
            Phase::Away
                if automatic(pair.rules.failback)
                    && entry.by == By::Twinpool
                    && self.pools.is_well(home) =>
            {
                Some((Duty::Failback, hold(pair, record.rounds)))
            }
            _ => None,
        }
    }
}

impl Seen {
    fn new(record: Record, decider: &Decider, id: PairId, now: Time) -> Seen {
        Seen {
            highest: record.generation,
            in_force: record,
            since: now,
            writing: None,
            maybe: Vec::new(),
            damaged: decider.pair(id).halt() == Some(Halt::Damaged),
            unwritten: false,
            order: None,
            clears: [None; 2],
            duties: [None; 2],
        }
    }
}

/// The hold after so many rounds: doubled by each, up to the longest.
fn hold(pair: &Pair, rounds: u32) -> Duration {
    let longest = pair.rules.longest_hold.max(pair.rules.hold);
    let mut hold = pair.rules.hold;
    for _ in 0..rounds.min(64) {
        hold = hold.saturating_mul(2).min(longest);
    }
    hold
}

/// From one step of a return to the next: the first is its beginning, the last its end.
fn step(pair: &Pair) -> Duration {
    pair.rules.ramp / u32::from(Share::STEPS - 1)
}
