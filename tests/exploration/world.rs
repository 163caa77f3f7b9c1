//! The world around one pair machine: two pools, a disk, operators, and time. Whatever can happen
//! next is an [`Event`]; [`World::after`] is what it leads to.

use std::time::Duration;

use twinpool::pairing::pair::{
    Destination, Fitness, Move, MoveRefusal, PairMachine, PairOutput, RETRY,
};
use twinpool::pairing::record::{By, Cause, Entry, Phase, Record, Share};
use twinpool::time::Time;
use twinpool::topology::{PairRules, Side};

/// Everything there is, with what the laws have to remember beside the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) machine: PairMachine,
    pub(crate) now: Time,
    pub(crate) disk: Disk,
    pub(crate) paused: bool,
    pub(crate) isolated: bool,
    /// By side: since when the machine has been told, without a break or a gap, that it is so.
    pub(crate) seen: [(Fitness, Time); 2],
    /// By side: whether the twin was lost too since it was lost, without a gap.
    pub(crate) both_lost: [bool; 2],
    /// Since when what is in force has been, without a gap.
    pub(crate) in_force: Time,
    /// Whether a person has resumed since the record was damaged, if it ever was.
    pub(crate) sound: bool,
    /// The same, were the record that is being written in force.
    pub(crate) becomes_sound: bool,
    /// The highest generation that this run of twinpool has asked to be written, or began with.
    pub(crate) asked: u64,
}

/// What a restart finds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    /// None when neither copy is whole.
    pub(crate) record: Option<Record>,
    pub(crate) sound: bool,
}

/// Something that happens at one moment.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    See(Side, Fitness),
    Isolated(bool),
    Paused(bool),
    Resume,
    Order(Move),
    /// The record is written, and twinpool is told so.
    Stored,
    /// It is not written, and twinpool is told so.
    Failed,
    /// It is written, but twinpool is told that it is not.
    FailedYetStored,
    /// twinpool dies and begins anew with what is on disk.
    Restart,
    /// The same, where the record that was being written is on disk.
    RestartStored,
    /// The same, where both copies on disk are damaged.
    RestartDamaged,
    /// Time passes; who waits for a moment is not called yet.
    Pass(Duration),
    /// The machine is called as it asked to be.
    Timeout,
    /// The host is suspended: much time passes, and nobody watched.
    Suspend,
}

/// What the machine did about it.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) stores: Vec<Record>,
    /// What came out of force, and whether sessions are drained.
    pub(crate) in_force: Vec<(Record, bool)>,
    pub(crate) refused: Option<MoveRefusal>,
}

impl World {
    /// A first start with nothing on disk but that all are at home.
    pub(crate) fn new(rules: PairRules, now: Time) -> World {
        let record = Record::home(0, now);
        World {
            machine: PairMachine::new(rules, record.clone(), false, now),
            now,
            disk: Disk {
                record: Some(record),
                sound: true,
            },
            paused: false,
            isolated: false,
            seen: [(Fitness::Unknown, now); 2],
            both_lost: [false; 2],
            in_force: now,
            sound: true,
            becomes_sound: true,
            asked: 0,
        }
    }

    /// What follows; none where the event cannot happen.
    pub(crate) fn after(&self, event: &Event, rules: &PairRules) -> Option<(World, Trace)> {
        let mut world = self.clone();
        let mut trace = Trace::default();
        let now = world.now;
        let generation = self.machine.wanted().map(|record| record.generation);
        match event {
            Event::See(side, fitness) => {
                let (before, _) = self.seen[side.index()];
                if before == *fitness {
                    return None;
                }
                world.seen[side.index()] = (*fitness, now);
                world.remember_losses();
                world.machine.handle_pool(*side, *fitness, now);
            }
            Event::Isolated(isolated) => {
                if self.isolated == *isolated {
                    return None;
                }
                world.isolated = *isolated;
                world.forget();
                world.machine.handle_isolated(*isolated, now);
            }
            Event::Paused(paused) => {
                if self.paused == *paused {
                    return None;
                }
                world.paused = *paused;
                world.machine.handle_paused(*paused, now);
            }
            Event::Resume => {
                if !world.machine.handle_resume() {
                    return None;
                }
                world.becomes_sound = true;
            }
            Event::Order(order) => {
                trace.refused = world.machine.handle_move(order, now).err();
            }
            Event::Stored => {
                world.write();
                world.sound = world.becomes_sound;
                world.in_force = now;
                world.machine.handle_stored(generation?, true, now);
            }
            Event::Failed => {
                world.becomes_sound = world.sound;
                world.machine.handle_stored(generation?, false, now);
            }
            Event::FailedYetStored => {
                world.write();
                world.becomes_sound = world.sound;
                world.machine.handle_stored(generation?, false, now);
            }
            Event::Restart => world.restart(rules),
            Event::RestartStored => {
                generation?;
                world.write();
                world.restart(rules);
            }
            Event::RestartDamaged => {
                world.disk = Disk {
                    record: None,
                    sound: false,
                };
                world.restart(rules);
            }
            Event::Pass(span) => world.now += *span,
            Event::Timeout => {
                let (at, _) = self.machine.poll_timeout()?;
                if at > now {
                    return None;
                }
                world.machine.handle_timeout(now);
            }
            Event::Suspend => {
                world.now += longest(rules);
                world.forget();
                world.machine.handle_gap(world.now);
            }
        }
        world.drain(&mut trace);
        Some((world, trace))
    }

    fn drain(&mut self, trace: &mut Trace) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                PairOutput::Store(record) => {
                    self.asked = self.asked.max(record.generation);
                    trace.stores.push(record);
                }
                PairOutput::InForce { before, drain } => trace.in_force.push((before, drain)),
            }
        }
        if self.machine.wanted().is_none() {
            self.becomes_sound = self.sound;
        }
    }

    /// What is being written is on disk.
    fn write(&mut self) {
        self.disk = Disk {
            record: self.machine.wanted().cloned(),
            sound: self.becomes_sound,
        };
    }

    fn restart(&mut self, rules: &PairRules) {
        let (record, damaged) = match &self.disk.record {
            Some(record) => (record.clone(), false),
            None => (Record::home(0, self.now), true),
        };
        let paused = self.paused;
        *self = World {
            disk: self.disk.clone(),
            asked: record.generation,
            machine: PairMachine::new(rules.clone(), record, damaged, self.now),
            sound: self.disk.sound,
            ..World::new(rules.clone(), self.now)
        };
        if paused {
            self.paused = true;
            self.machine.handle_paused(true, self.now);
        }
    }

    fn remember_losses(&mut self) {
        let lost = self.seen.map(|(fitness, _)| fitness == Fitness::Lost);
        for (was, is) in self.both_lost.iter_mut().zip(lost) {
            *was = is && (*was || lost == [true; 2]);
        }
    }

    /// What was seen counts for nothing any more.
    fn forget(&mut self) {
        for seen in &mut self.seen {
            seen.1 = self.now;
        }
        self.in_force = self.now;
        self.both_lost = [false; 2];
        self.remember_losses();
    }

    // What the laws ask.

    pub(crate) fn fitness(&self, side: Side) -> Fitness {
        self.seen[side.index()].0
    }

    /// For how long it has been so.
    pub(crate) fn for_long(&self, side: Side) -> Duration {
        self.now.since(self.seen[side.index()].1)
    }

    pub(crate) fn is_lost(&self, side: Side) -> bool {
        self.fitness(side) == Fitness::Lost
    }

    pub(crate) fn serves(&self, side: Side) -> bool {
        matches!(self.fitness(side), Fitness::Low | Fitness::Well)
    }

    // For exploration.

    /// The one world that stands for all that differ from this one in nothing that decides.
    pub(crate) fn folded(&self, rules: &PairRules) -> World {
        let horizon = longest(rules);
        // What is written next is newer than all, however many failed before.
        let in_force = self.machine.record().generation;
        let wanted = self.machine.wanted().map(|record| record.generation);
        let generation = |of: u64| match of {
            of if of <= in_force => 1,
            of if Some(of) == wanted => 2,
            _ => 1 + u64::from(wanted.is_some()),
        };
        let record = |of: &Record| Record {
            generation: generation(of.generation),
            entries: of.entries.each_ref().map(fold_entry),
            rounds: of.rounds,
            alarm: of.alarm,
        };
        let moment = |at: Time| Time::ZERO + (horizon - self.now.since(at).min(horizon));
        let seen = |&(fitness, since): &(Fitness, Time)| match fitness {
            Fitness::Lost | Fitness::Well if !self.isolated => (fitness, moment(since)),
            _ => (fitness, Time::ZERO),
        };
        let returns = |entry: &Entry| matches!(entry.phase, Phase::Returning(_));
        let in_force = self.machine.record();
        let asked = in_force.rounds > 0 || in_force.entries.iter().any(returns);
        let asked = asked && !self.isolated;
        let both_lost = match self.isolated {
            true => [false; 2],
            false => self.both_lost,
        };
        World {
            machine: self.machine.folded(self.now, horizon, record, generation),
            now: Time::ZERO + horizon,
            disk: Disk {
                record: self.disk.record.as_ref().map(record),
                sound: self.disk.sound,
            },
            seen: self.seen.each_ref().map(seen),
            both_lost,
            in_force: match asked {
                true => moment(self.in_force),
                false => Time::ZERO,
            },
            asked: generation(self.asked),
            ..*self
        }
    }
}

/// Why an entry is as it is, since when, and by whom where all are at home, decides nothing; and
/// each step of a return after the first is like the last but one.
fn fold_entry(entry: &Entry) -> Entry {
    let last = Share::STEPS - 1;
    let phase = match entry.phase {
        Phase::Returning(share) if share.steps() > 1 => {
            Share::of(last).map_or(entry.phase, Phase::Returning)
        }
        phase => phase,
    };
    Entry {
        phase,
        cause: Cause::Start,
        by: match phase {
            Phase::Home => By::Twinpool,
            _ => entry.by.clone(),
        },
        reason: None,
        since: Time::ZERO,
    }
}

/// The longest span that any rule asks for.
pub(crate) fn longest(rules: &PairRules) -> Duration {
    let spans = [
        rules.after,
        rules.hold,
        rules.longest_hold,
        step(rules),
        RETRY,
    ];
    spans.into_iter().max().unwrap_or_default()
}

/// From one share of a return to the next.
pub(crate) fn step(rules: &PairRules) -> Duration {
    rules.ramp / u32::from(Share::STEPS - 1)
}

/// Every order that a person can give. (With `now`, a failover differs in what becomes of sessions,
/// not of users: here it is left out.)
pub(crate) fn orders() -> Vec<Move> {
    let mut orders = Vec::new();
    for side in Side::BOTH {
        for to in [Destination::Twin, Destination::Home] {
            for (now, force) in [(false, false), (true, false), (false, true), (true, true)] {
                if now && to == Destination::Twin {
                    continue;
                }
                orders.push(Move {
                    side,
                    to,
                    by: String::new(),
                    reason: None,
                    now,
                    force,
                });
            }
        }
    }
    orders
}

/// Everything that can happen at one moment, but for time.
pub(crate) fn events() -> Vec<Event> {
    let fitness = [Fitness::Unknown, Fitness::Lost, Fitness::Low, Fitness::Well];
    let see = |side| fitness.map(|fitness| Event::See(side, fitness));
    let mut events: Vec<Event> = Side::BOTH.into_iter().flat_map(see).collect();
    events.extend(orders().into_iter().map(Event::Order));
    events.extend([true, false].map(Event::Isolated));
    events.extend([true, false].map(Event::Paused));
    events.extend([
        Event::Resume,
        Event::Stored,
        Event::Failed,
        Event::Restart,
        Event::RestartStored,
        Event::RestartDamaged,
        Event::Timeout,
        Event::Suspend,
    ]);
    events
}
