//! What must hold of pairs at every moment of a run: the rules of the design for redirects, read
//! anew and kept beside the decider, fed by what it tells and asks to be written.

use std::sync::Arc;
use std::time::Duration;

use twinpool::pairing::pair::{Destination, Fitness, Move, MoveRefusal, RETRY};
use twinpool::pairing::record::{By, Cause, Entry, Phase, Record, Share};
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

/// What automation did to the users of one side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Done {
    Nothing,
    Failover,
    Relapse,
    /// Home, because the twin is lost, which its own users leave too.
    Swap,
    Finish,
    Failback,
    Step,
    LastStep,
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
            self.counts.one(match (*damage, same) {
                (true, _) => "restarts with a damaged record",
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
        let on = writing.record.alarm;
        if before.alarm != on {
            self.expected.push(Event::Alarm { pair: id, on });
            if on && !self.pairs[id.index()].damaged {
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

    pub(crate) fn published(&mut self) {
        self.unpublished = false;
    }

    // What people order.

    /// A person orders a move, before the decider hears of it.
    pub(crate) fn orders(&mut self, id: PairId, order: &Move) {
        self.pairs[id.index()].order = Some(Asked::Move(order.clone()));
    }

    /// What the decider says to it.
    pub(crate) fn ordered(&mut self, id: PairId, order: &Move, done: &Result<u64, MoveRefusal>) {
        let pair = self.topology.pair(id);
        let there = match order.to {
            Destination::Twin => pair.pool(order.side.other()),
            Destination::Home => pair.pool(order.side),
        };
        let fitness = self.pools.fitness(there);
        let (isolated, seen) = (self.isolated, &mut self.pairs[id.index()]);
        let phase = seen.in_force.phase(order.side);
        let there_already = match order.to {
            Destination::Twin => phase == Phase::Away,
            Destination::Home => match phase {
                Phase::Home => true,
                Phase::Returning(_) => !order.now,
                Phase::Away => false,
            },
        };
        let twin_away =
            order.to == Destination::Twin && seen.in_force.phase(order.side.other()) != Phase::Home;
        let low = order.to == Destination::Home && fitness == Fitness::Low;
        let Err(refusal) = done else {
            assert!(seen.writing.is_none() && !there_already);
            assert_ne!(fitness, Fitness::Lost, "ordered to a lost pool: {order:?}");
            let worth_force = twin_away || low || fitness == Fitness::Unknown || isolated;
            assert!(order.force || !worth_force, "{order:?} without force");
            self.counts
                .one(match (order.to, order.force && worth_force) {
                    (Destination::Twin, false) => "failovers ordered",
                    (Destination::Twin, true) => "failovers forced",
                    (Destination::Home, false) => "failbacks ordered",
                    (Destination::Home, true) => "failbacks forced",
                });
            return;
        };
        seen.order = None;
        let forced = order.force;
        let (holds, what) = match refusal {
            MoveRefusal::Already(at) => (*at == phase && there_already, "refused: there already"),
            MoveRefusal::Lost => (fitness == Fitness::Lost, "refused: lost"),
            MoveRefusal::Unknown => (fitness == Fitness::Unknown && !forced, "refused: unknown"),
            MoveRefusal::Low => (low && !forced, "refused: low"),
            MoveRefusal::TwinAway => (twin_away && !forced, "refused: twin away"),
            MoveRefusal::Isolated => (isolated && !forced, "refused: isolated"),
            MoveRefusal::Writing => (seen.writing.is_some(), "refused: writing"),
        };
        assert!(holds, "{refusal:?} is no reason to refuse {order:?}");
        self.counts.one(what);
    }

    /// A person resumes, before the decider hears of it.
    pub(crate) fn resumes(&mut self) {
        let halted = |seen: &&mut Seen| seen.damaged || seen.in_force.alarm;
        for seen in self.pairs.iter_mut().filter(halted) {
            seen.order = Some(Asked::Resume);
        }
    }

    /// What the decider says to it.
    pub(crate) fn resumed(&mut self, done: &Result<Vec<(PairId, u64)>, PairId>) {
        if let Err(busy) = done {
            assert!(self.pairs[busy.index()].writing.is_some());
            self.counts.one("resumes to be repeated");
            for seen in &mut self.pairs {
                seen.order = None;
            }
        }
    }

    fn is_what_was_ordered(&mut self, id: PairId, order: &Move, wanted: &Record, now: Time) {
        let pair = self.topology.pair(id);
        let seen = &self.pairs[id.index()];
        let (side, twin) = (order.side, order.side.other());
        let twin_is_lost = self.pools.is_lost(pair.pool(twin));
        let entry = |phase| Entry {
            phase,
            cause: Cause::Ordered,
            by: By::Operator(order.by.clone()),
            reason: order.reason.clone(),
            since: now,
        };
        let mut expected = seen.in_force.clone();
        expected.generation = wanted.generation;
        match order.to {
            Destination::Twin => {
                if expected.phase(twin) != Phase::Home {
                    expected.entries[twin.index()] = entry(Phase::Home);
                }
                expected.entries[side.index()] = entry(Phase::Away);
            }
            Destination::Home => {
                let at_once = order.now || pair.rules.ramp.is_zero() || twin_is_lost;
                let phase = match at_once {
                    true => Phase::Home,
                    false => Phase::Returning(Share::FIRST),
                };
                expected.entries[side.index()] = entry(phase);
                if !expected.alarm {
                    expected.rounds = 0;
                }
            }
        }
        if seen.damaged {
            (expected.alarm, expected.rounds) = (true, 0);
        }
        assert_eq!(*wanted, expected, "{order:?}");
    }

    // What automation does.

    /// Whether automation may do this, by every rule; gives back the pools that are left because
    /// they are lost.
    fn automation_may(&mut self, id: PairId, wanted: &Record, now: Time) -> Vec<PoolId> {
        assert!(!self.isolated, "{id:?}: decided while isolated");
        let topology = self.topology.clone();
        let pair = topology.pair(id);
        let before = self.pairs[id.index()].in_force.clone();
        let halted = self.is_halted(id);
        let exhausted =
            before.rounds > 0 && hold(pair, before.rounds - 1) >= pair.rules.longest_hold;
        let done = Side::BOTH.map(|side| done(&before, wanted, side));
        let (mut rounds, mut alarm, mut left) = (before.rounds, before.alarm, Vec::new());
        for side in Side::BOTH {
            let (home, twin) = (pair.pool(side), pair.pool(side.other()));
            let (was, entry) = (before.entry(side), wanted.entry(side));
            let deed = done[side.index()];
            let cause = match deed {
                Done::Nothing => {
                    assert_eq!(was, entry);
                    continue;
                }
                Done::Failover => {
                    self.may_fail_over(pair, side, halted, now);
                    alarm |= exhausted;
                    left.push(home);
                    match self.pools.beside_lost(home) {
                        true => Cause::FirstToReturn,
                        false => Cause::Lost,
                    }
                }
                Done::Relapse => {
                    assert!(self.pools.is_lost(home) && self.pools.serves(twin));
                    alarm |= exhausted;
                    left.push(home);
                    Cause::Relapsed
                }
                Done::Swap => {
                    assert!(self.pools.is_lost(twin) && self.pools.serves(home));
                    match self.pools.beside_lost(twin) {
                        true => Cause::FirstToReturn,
                        false => Cause::LeftLost,
                    }
                }
                Done::Finish => {
                    assert!(self.pools.is_lost(twin) && self.pools.serves(home));
                    Cause::LeftLost
                }
                Done::Failback => {
                    let rules = &pair.rules;
                    assert_eq!(rules.failback, Automation::Automatic);
                    assert!(!halted, "{id:?}: failback though halted");
                    assert_eq!(was.by, By::Twinpool, "a person sent them away");
                    assert!(self.pools.is_well(home));
                    let well = now.since(self.pools.since(home));
                    let hold = hold(pair, before.rounds);
                    assert!(well >= hold, "{id:?}: failback after {well:?} of {hold:?}");
                    let at_once = rules.ramp.is_zero() || self.pools.is_lost(twin);
                    assert_eq!(entry.phase == Phase::Home, at_once);
                    rounds += 1;
                    Cause::Held
                }
                Done::Step | Done::LastStep => {
                    assert!(!halted || was.by != By::Twinpool);
                    assert!(self.pools.serves(home) && !self.pools.is_lost(twin));
                    let pause = now.since(self.pairs[id.index()].since);
                    assert!(pause >= step(pair), "{id:?}: a step after {pause:?}");
                    assert_eq!(was.by, entry.by);
                    if deed == Done::Step {
                        assert_eq!((was.cause, was.since), (entry.cause, entry.since));
                        continue;
                    }
                    assert_eq!((entry.cause, entry.since), (Cause::Returned, now));
                    self.counts.one("returns ended");
                    continue;
                }
            };
            self.counts.one(match deed {
                Done::Failover if cause == Cause::Lost => "failovers",
                Done::Failover => "failovers to the first to return",
                Done::Relapse => "relapses",
                Done::Swap => "swaps",
                Done::Finish => "finishes",
                _ => "failbacks",
            });
            if was.by != By::Twinpool {
                self.counts.one("a person's entry changed by automation");
            }
            let expected = Entry {
                phase: entry.phase,
                cause,
                by: By::Twinpool,
                reason: None,
                since: now,
            };
            assert_eq!(*entry, expected, "{id:?}");
        }
        if done == [Done::Nothing; 2] {
            self.may_forget(pair, &before, halted, now);
            rounds = 0;
            self.counts.one("rounds forgotten");
        }
        if self.pairs[id.index()].damaged {
            (rounds, alarm) = (0, true);
        }
        assert_eq!((wanted.rounds, wanted.alarm), (rounds, alarm), "{id:?}");
        left
    }

    fn may_fail_over(&self, pair: &Pair, side: Side, halted: bool, now: Time) {
        let (home, twin) = (pair.pool(side), pair.pool(side.other()));
        assert_eq!(pair.rules.failover, Automation::Automatic);
        assert!(!halted, "{:?}: failover though halted", pair.id);
        assert!(self.pools.is_lost(home) && self.pools.serves(twin));
        assert_eq!(self.pools.condition(home), Condition::Lost);
        let lost = now.since(self.pools.since(home));
        assert!(
            lost >= pair.rules.after || self.pools.beside_lost(home),
            "{:?}: failover after {lost:?}",
            pair.id
        );
    }

    fn may_forget(&self, pair: &Pair, before: &Record, halted: bool, now: Time) {
        assert!(!halted && before.rounds > 0);
        let mut since = self.pairs[pair.id.index()].since;
        for side in Side::BOTH {
            assert_eq!(before.phase(side), Phase::Home);
            assert!(self.pools.is_well(pair.pool(side)));
            since = since.max(self.pools.since(pair.pool(side)));
        }
        assert!(now.since(since) >= hold(pair, before.rounds));
    }

    fn is_halted(&self, id: PairId) -> bool {
        let seen = &self.pairs[id.index()];
        self.paused || seen.damaged || seen.in_force.alarm
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
        use twinpool::pairing::pair::Halt;
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

/// What became of the users of one side.
fn done(before: &Record, wanted: &Record, side: Side) -> Done {
    let other = side.other();
    let swapped = before.phase(other) == Phase::Home && wanted.phase(other) == Phase::Away;
    let cause = wanted.entry(side).cause;
    match (before.phase(side), wanted.phase(side)) {
        (Phase::Home, Phase::Away) => Done::Failover,
        (Phase::Returning(_), Phase::Away) => Done::Relapse,
        (Phase::Away | Phase::Returning(_), Phase::Home) if swapped => Done::Swap,
        (Phase::Away, Phase::Returning(Share::FIRST) | Phase::Home) => Done::Failback,
        (Phase::Returning(_), Phase::Home) if cause == Cause::LeftLost => Done::Finish,
        (Phase::Returning(from), Phase::Returning(to)) if from.next() == Some(to) => Done::Step,
        (Phase::Returning(from), Phase::Home) if from.next().is_none() => Done::LastStep,
        (from, to) if from == to => Done::Nothing,
        (from, to) => panic!("{side:?}: from {from:?} to {to:?}"),
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
