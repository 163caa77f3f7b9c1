//! What must hold of every event, and of what follows when nothing more happens. The rules of the
//! design, written again: nothing here looks into the machine.

use std::time::Duration;

use twinpool::pairing::pair::{Destination, Fitness, Halt, Move, RETRY};
use twinpool::pairing::record::{By, Phase, Record, Share};
use twinpool::time::Time;
use twinpool::topology::{Automation, PairRules, Side};

use crate::world::{Event, Trace, World, step};

/// What is wrong, in a sentence.
pub(crate) type Wrong = String;

/// Fails with a sentence unless it holds.
macro_rules! must {
    ($holds:expr, $($sentence:tt)+) => {
        if !$holds {
            return Err(format!($($sentence)+));
        }
    };
}

/// Moments within which a chain of steps comes to rest: a hold, a whole return, and as much again
/// for what had begun before.
const REST: usize = 4 * Share::STEPS as usize;

/// Safety: what may follow from one event.
pub(crate) fn check(
    rules: &PairRules,
    before: &World,
    event: &Event,
    after: &World,
    trace: &Trace,
) -> Result<(), Wrong> {
    check_writing(before, event, after, trace)?;
    check_state(rules, before, event, after)?;
    if trace.refused.is_some() {
        must!(
            before.machine == after.machine && trace.stores.is_empty(),
            "a refused order changed something"
        );
    }
    for record in &trace.stores {
        match event {
            Event::Resume => check_resume(after, record)?,
            Event::Order(order) => check_order(after, order, record)?,
            _ => check_automation(rules, after, record)?,
        }
    }
    Ok(())
}

/// One record in flight; in force only what is on disk; generations that only rise.
fn check_writing(before: &World, event: &Event, after: &World, trace: &Trace) -> Result<(), Wrong> {
    let is_answered = matches!(
        event,
        Event::Stored | Event::Failed | Event::FailedYetStored
    );
    let restarts = matches!(
        event,
        Event::Restart | Event::RestartStored | Event::RestartDamaged
    );
    must!(trace.stores.len() <= 1, "two records are written at once");
    let pending = before.machine.wanted();
    if let Some(record) = trace.stores.first() {
        must!(
            pending.is_none() || is_answered,
            "a record is written while another one is"
        );
        must!(!restarts, "a restart decides something");
        must!(
            record.generation > before.asked,
            "a generation is used again"
        );
        must!(
            after.machine.wanted() == Some(record),
            "what is written is not what is wanted"
        );
    } else if pending.is_some() {
        let waits = after.machine.wanted() == pending;
        must!(waits != (is_answered || restarts), "a write was forgotten");
    }
    let failed = matches!(event, Event::Failed | Event::FailedYetStored);
    must!(
        !failed || trace.stores.is_empty(),
        "tried again at the moment of the failure"
    );
    match (event, trace.in_force.as_slice()) {
        (Event::Stored, [(old, _)]) => {
            let new = after.machine.record();
            must!(Some(new) == pending, "another record came into force");
            must!(old == before.machine.record(), "another went out of force");
            must!(new.generation > old.generation, "a generation fell");
        }
        (Event::Stored, _) => return Err("what was stored is not in force".to_owned()),
        (_, []) if !restarts => must!(
            after.machine.record() == before.machine.record(),
            "what is in force changed by itself"
        ),
        (_, []) => {}
        _ => return Err("in force before it was stored".to_owned()),
    }
    if let Some(on_disk) = &after.disk.record {
        let in_force = after.machine.record();
        must!(
            on_disk.generation >= in_force.generation,
            "the disk is older than what is in force"
        );
    }
    Ok(())
}

/// What holds at every moment.
fn check_state(
    rules: &PairRules,
    before: &World,
    event: &Event,
    world: &World,
) -> Result<(), Wrong> {
    let machine = &world.machine;
    for record in [Some(machine.record()), machine.wanted()]
        .into_iter()
        .flatten()
    {
        let home = |side: &Side| record.phase(*side) == Phase::Home;
        must!(Side::BOTH.iter().any(home), "both are away from home");
    }
    let halt = match machine.record() {
        _ if !world.sound => Some(Halt::Damaged),
        record if record.alarm => Some(Halt::Alarm),
        _ => world.paused.then_some(Halt::Paused),
    };
    must!(machine.halt() == halt, "halted: {:?}", machine.halt());
    for side in Side::BOTH {
        let (fitness, _) = machine.fitness(side);
        must!(fitness == world.fitness(side), "it knows better");
    }
    // Late is who has been called by nobody since: time passed, or a person was told no.
    if !matches!(event, Event::Pass(_)) && *machine != before.machine {
        let next = machine.poll_timeout();
        must!(
            next.is_none_or(|(at, _)| at > world.now),
            "to be called at once: {next:?}"
        );
        must!(
            next.is_none() || !(world.isolated || machine.wanted().is_some()),
            "to be called while nothing is decided"
        );
    }
    let rounds = machine.record().rounds;
    let cap = rules.longest_hold.max(rules.hold);
    let held = rules.hold.saturating_mul(2u32.saturating_pow(rounds));
    must!(machine.hold() == held.min(cap), "another hold");
    Ok(())
}

fn check_resume(world: &World, wanted: &Record) -> Result<(), Wrong> {
    let record = world.machine.record();
    must!(wanted.entries == record.entries, "a resume moves users");
    must!(
        !wanted.alarm && wanted.rounds == 0,
        "a resume leaves an alarm"
    );
    Ok(())
}

fn check_order(world: &World, order: &Move, wanted: &Record) -> Result<(), Wrong> {
    must!(
        !world.isolated || order.force,
        "moved while isolated, unforced"
    );
    let record = world.machine.record();
    for side in Side::BOTH {
        if wanted.entry(side) == record.entry(side) {
            continue;
        }
        let destination = destination(side, wanted.phase(side));
        let fitness = world.fitness(destination);
        must!(fitness != Fitness::Lost, "sent to a lost pool");
        must!(
            order.force || fitness != Fitness::Unknown,
            "sent to one that nobody knows, unforced"
        );
        must!(
            matches!(wanted.entry(side).by, By::Operator(_)),
            "a person's order under another name"
        );
        must!(
            side == order.side || order.force,
            "the other users moved too, unforced"
        );
    }
    let phase = wanted.phase(order.side);
    match order.to {
        Destination::Twin => must!(phase == Phase::Away, "a failover to {phase}"),
        Destination::Home => {
            must!(phase != Phase::Away, "a failback to {phase}");
            must!(
                order.force || world.fitness(order.side) == Fitness::Well,
                "home to a pool that cannot start, unforced"
            );
        }
    }
    check_damage(world, wanted)
}

/// Whatever is written after damage says so until a person resumes.
fn check_damage(world: &World, wanted: &Record) -> Result<(), Wrong> {
    must!(
        world.sound || (wanted.alarm && wanted.rounds == 0),
        "damage is forgotten"
    );
    Ok(())
}

fn check_automation(rules: &PairRules, world: &World, wanted: &Record) -> Result<(), Wrong> {
    must!(!world.isolated, "decided while isolated");
    let record = world.machine.record();
    let goes = world.machine.halt().is_none();
    let failover = goes && rules.failover == Automation::Automatic;
    let failback = goes && rules.failback == Automation::Automatic;
    let mut rounds = record.rounds;
    let mut left = false;
    let mut moved = 0;
    for side in Side::BOTH {
        let twin = side.other();
        let (from, to) = (record.entry(side), wanted.entry(side));
        if from == to {
            continue;
        }
        moved += 1;
        must!(
            world.serves(destination(side, to.phase)),
            "{side:?} is sent to a pool that does not serve"
        );
        let by_itself = to.by == By::Twinpool;
        match (from.phase, to.phase) {
            (Phase::Home, Phase::Away) => {
                must!(failover && by_itself, "a failover that is not automatic");
                must!(world.is_lost(side), "a failover from a pool not lost");
                must!(
                    world.both_lost[side.index()] || world.for_long(side) >= rules.after,
                    "a failover before its time"
                );
                left = true;
            }
            (Phase::Returning(_), Phase::Away) => {
                must!(by_itself && world.is_lost(side), "a relapse for nothing");
                left = true;
            }
            (Phase::Away, Phase::Home) if wanted.phase(twin) == Phase::Away => {
                // The twin's failover, which is looked at by itself, takes them along.
                must!(by_itself, "under another name");
            }
            (Phase::Away, to) => {
                must!(failback && by_itself, "a failback that is not automatic");
                must!(from.by == By::Twinpool, "a person's failover is undone");
                must!(
                    world.fitness(side) == Fitness::Well,
                    "home to a pool that cannot start"
                );
                must!(
                    world.for_long(side) >= hold(rules, record.rounds),
                    "a failback before its hold"
                );
                let at_once = rules.ramp.is_zero() || world.is_lost(twin);
                let first = if at_once {
                    Phase::Home
                } else {
                    Phase::Returning(Share::FIRST)
                };
                must!(to == first, "a failback begins with {to}");
                rounds += 1;
            }
            (Phase::Returning(_), Phase::Home) if world.is_lost(twin) => {}
            (Phase::Returning(share), to) => {
                let next = share.next().map_or(Phase::Home, Phase::Returning);
                must!(to == next, "from {share:?} to {to}");
                let waited = world.now.since(world.in_force);
                must!(waited >= step(rules), "a step before its time");
                let by_person = from.by != By::Twinpool;
                must!(goes || by_person, "a step while halted");
                must!(
                    wanted.entry(side).by == from.by,
                    "a step under another name"
                );
            }
            (Phase::Home, to) => return Err(format!("from home to {to}")),
        }
    }
    if moved == 0 {
        let well = |side| {
            world.fitness(side) == Fitness::Well
                && record.phase(side) == Phase::Home
                && world.for_long(side) >= hold(rules, record.rounds)
        };
        must!(
            record.rounds > 0
                && goes
                && Side::BOTH.into_iter().all(well)
                && world.now.since(world.in_force) >= hold(rules, record.rounds),
            "a record for nothing"
        );
        rounds = 0;
    }
    let cap = rules.longest_hold.max(rules.hold);
    let exhausted = record.rounds > 0 && hold(rules, record.rounds - 1) >= cap;
    if world.sound {
        must!(wanted.rounds == rounds, "other rounds");
        must!(
            wanted.alarm == (record.alarm || (left && exhausted)),
            "alarm: {}",
            wanted.alarm
        );
    }
    check_damage(world, wanted)
}

/// How long a pool has to stay well after so many rounds.
fn hold(rules: &PairRules, rounds: u32) -> Duration {
    let grown = rules.hold.saturating_mul(2u32.saturating_pow(rounds));
    grown.min(rules.longest_hold.max(rules.hold))
}

/// Which pool takes more users of this side.
fn destination(side: Side, phase: Phase) -> Side {
    match phase {
        Phase::Away => side.other(),
        Phase::Home | Phase::Returning(_) => side,
    }
}

// Liveness.

/// What happens next if nothing does but time passing and writes succeeding; none at rest. With
/// the moment it happens at.
pub(crate) fn calm(rules: &PairRules, world: &World) -> Option<(World, Trace, Time)> {
    if world.machine.wanted().is_some() {
        let (next, trace) = world.after(&Event::Stored, rules)?;
        return Some((next, trace, world.now));
    }
    let (at, _) = world.machine.poll_timeout()?;
    let (waited, _) = world.after(&Event::Pass(world.now.until(at)), rules)?;
    let (next, trace) = waited.after(&Event::Timeout, rules)?;
    Some((next, trace, waited.now))
}

/// The users of a lost pool are on a twin that serves in time, where automation may send them.
pub(crate) fn check_urgent(rules: &PairRules, world: &World) -> Result<(), Wrong> {
    let may = !world.isolated
        && world.machine.halt().is_none()
        && rules.failover == Automation::Automatic;
    let left = |side: &Side| may && world.is_lost(*side) && world.serves(side.other());
    let Some(lost) = Side::BOTH.into_iter().find(left) else {
        return Ok(());
    };
    let arrived = |world: &World| {
        let record = world.machine.record();
        record.phase(lost) == Phase::Away && record.phase(lost.other()) == Phase::Home
    };
    let together = world.both_lost[lost.index()];
    let bound = RETRY
        + match together {
            true => Duration::ZERO,
            false => rules.after,
        };
    let mut at = world.clone();
    let mut written = 0;
    while !arrived(&at) {
        let Some((next, trace, _)) = calm(rules, &at) else {
            return Err(format!("the users of {lost:?} are left on a lost pool"));
        };
        written += trace.stores.len();
        must!(
            next.now.since(world.now) <= bound,
            "the users of {lost:?} are moved later than {bound:?}"
        );
        if next.machine.halt().is_some() {
            // What was being written ended automation.
            return Ok(());
        }
        at = next;
    }
    must!(
        !together || written <= 1,
        "the first to return takes both in {written} transitions"
    );
    Ok(())
}

/// What must have been done when there is nothing left to wait for.
pub(crate) fn check_rest(rules: &PairRules, world: &World) -> Result<(), Wrong> {
    if world.isolated {
        return Ok(());
    }
    let record = world.machine.record();
    let goes = world.machine.halt().is_none();
    for side in Side::BOTH {
        let entry = record.entry(side);
        let lost_and_left = world.is_lost(side) && world.serves(side.other());
        match entry.phase {
            Phase::Returning(_) => {
                must!(!lost_and_left, "a return rests on a lost pool");
                let held = !goes && entry.by == By::Twinpool && !world.is_lost(side.other());
                must!(!world.serves(side) || held, "a return rests");
            }
            Phase::Home => must!(
                !(lost_and_left && goes && rules.failover == Automation::Automatic),
                "a failover never happens"
            ),
            Phase::Away => must!(
                !(goes
                    && rules.failback == Automation::Automatic
                    && entry.by == By::Twinpool
                    && world.fitness(side) == Fitness::Well),
                "a failback never happens"
            ),
        }
    }
    let calm =
        |side: Side| world.fitness(side) == Fitness::Well && record.phase(side) == Phase::Home;
    must!(
        !goes || record.rounds == 0 || !Side::BOTH.into_iter().all(calm),
        "rounds are never forgotten"
    );
    Ok(())
}

/// Left alone, it comes to rest, and rests rightly.
pub(crate) fn check_comes_to_rest(rules: &PairRules, world: &World) -> Result<(), Wrong> {
    let mut at = world.clone();
    for _ in 0..REST {
        match calm(rules, &at) {
            Some((next, ..)) => at = next,
            None => return check_rest(rules, &at),
        }
    }
    Err("it never comes to rest".to_owned())
}
