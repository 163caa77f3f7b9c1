//! What the decider makes of its pairs: from probes to records, and from records to what is said.

use super::*;
use crate::pairing::pair::{Destination, Fitness, Halt, Move, MoveRefusal};
use crate::pairing::record::{By, Cause, Phase, Share};
use crate::topology::Side;

const HERE: PoolId = PoolId(0);
const THERE: PoolId = PoolId(1);
const PAIR: PairId = PairId(0);

/// From a kill to lost at the latest: one interval, `fall` probes in doubt.
const DETECTED: Duration = Duration::from_millis(1100 + 3 * 275);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn pair() -> Rig {
    Rig::paired(&[(3, WITH_WEB), (3, WITH_WEB)], &automatic())
}

fn order(pool: PoolId, to: Destination) -> Move {
    Move {
        side: if pool == HERE {
            Side::First
        } else {
            Side::Second
        },
        to,
        by: "ann".to_owned(),
        reason: Some("works on the power".to_owned()),
        now: false,
        force: false,
    }
}

impl Rig {
    fn phases(&self) -> [Phase; 2] {
        [HERE, THERE].map(|pool| self.decider.phase(pool))
    }

    fn moves(&mut self, pool: PoolId, to: Destination) -> Result<u64, MoveRefusal> {
        let done = self.decider.handle_move(PAIR, &order(pool, to), self.now);
        self.drain();
        done
    }

    fn fitness(&self, side: Side) -> Fitness {
        self.decider.pair(PAIR).fitness(side).0
    }

    /// What is said at this moment, and nothing done about it.
    fn said(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.decider.poll_output()).collect()
    }

    fn redirects(&self) -> Vec<(PoolId, Phase, Phase, Cause)> {
        let redirects = self.events.iter().filter_map(|(_, event)| match event {
            Event::Redirect {
                pool,
                from,
                to,
                cause,
                ..
            } => Some((*pool, *from, *to, *cause)),
            _ => None,
        });
        redirects.collect()
    }

    /// The same fleet, begun anew with what was to be remembered.
    fn restarted(&self) -> Rig {
        let topology = Topology::clone(self.decider.topology());
        let records = topology.pairs.iter().map(|pair| {
            let record = self.decider.pair(pair.id).record().clone();
            (record, false)
        });
        let mut again = Rig::with(topology.clone(), self.decider.standing(), records.collect());
        again.truth = self.truth.clone();
        again
    }
}

#[test]
fn a_lost_quorum_is_written_then_in_force_and_then_told_cleared_and_published() {
    let mut rig = pair();
    rig.disk = Disk::Stalls;
    rig.set_pool(0, Truth::Killed);
    rig.until(DETECTED, |decider| {
        decider.condition(HERE).0 == Condition::Lost
    });
    rig.run(s(10) - ms(1));
    assert!(rig.stored.is_empty());
    rig.run(ms(1));
    let [(PAIR, wanted)] = rig.stored.as_slice() else {
        panic!("{:?}", rig.stored);
    };
    assert_eq!(wanted.phase(Side::First), Phase::Away);
    assert_eq!(rig.phases(), [Phase::Home; 2], "not before it is written");
    assert!(rig.redirects().is_empty() && rig.cleared.is_empty());
    let generation = wanted.generation;
    rig.decider.handle_stored(PAIR, generation, Ok(()), rig.now);
    let redirect = Event::Redirect {
        pool: HERE,
        from: Phase::Home,
        to: Phase::Away,
        cause: Cause::Lost,
        by: By::Twinpool,
        reason: None,
        generation,
    };
    let clear = Output::Clear {
        home: HERE,
        off: Some(HERE),
        from: rig.now,
    };
    assert_eq!(rig.said(), [Output::Tell(redirect), clear, Output::Publish]);
    assert_eq!(rig.phases(), [Phase::Away, Phase::Home]);
}

#[test]
fn the_loss_of_another_service_than_the_primary_moves_nobody() {
    let mut rig = pair();
    for n in 0..3 {
        rig.truth.insert(target(0, n, 1), Truth::Killed);
    }
    rig.run(s(60));
    assert!(rig.is_told(|event| matches!(event, Event::Service { lost: true, .. })));
    assert!(rig.stored.is_empty());
}

#[test]
fn an_operators_maintenance_that_loses_a_pool_sends_its_users_away_too() {
    let mut rig = pair();
    for n in 0..2 {
        rig.command(member(0, n), Mode::Maintenance, None, true)
            .unwrap();
    }
    rig.run(s(10));
    assert_eq!(rig.phases(), [Phase::Away, Phase::Home]);
}

#[test]
fn a_site_whose_pools_are_all_lost_is_one_event_and_so_is_its_return() {
    let mut rig = Rig::paired(&[(3, PLAIN); 4], &automatic());
    for pool in [0, 2] {
        rig.set_pool(pool, Truth::Killed);
        rig.run(s(30));
    }
    rig.set(member(0, 0), Truth::Well);
    rig.run(s(30));
    assert_eq!(rig.condition(0), Condition::Lost);
    rig.set_pool(0, Truth::Well);
    rig.set_pool(2, Truth::Well);
    rig.run(s(30));
    let sites = rig.events.iter().filter_map(|(_, event)| match event {
        Event::Site { site, lost } => Some((*site, *lost)),
        _ => None,
    });
    assert_eq!(
        sites.collect::<Vec<_>>(),
        [(SiteId(0), true), (SiteId(0), false)]
    );
}

#[test]
fn a_planned_failover_drains_and_the_failback_lets_be_then_clears_the_twin() {
    let mut rig = pair();
    let began = rig.now;
    let generation = rig.moves(HERE, Destination::Twin).unwrap();
    assert_eq!(rig.stored[0].1.generation, generation);
    let drained = began + rig.decider.topology().pool(HERE).drain_deadline;
    assert_eq!(rig.cleared, [(HERE, Some(HERE), drained)]);
    rig.cleared.clear();
    rig.moves(HERE, Destination::Home).unwrap();
    assert_eq!(rig.cleared, [(HERE, None, rig.now)]);
    rig.cleared.clear();
    rig.run(s(61));
    assert_eq!(rig.phases(), [Phase::Home; 2]);
    let [(HERE, Some(THERE), from)] = rig.cleared.as_slice() else {
        panic!("{:?}", rig.cleared);
    };
    let ramp = from.since(began);
    assert!(ramp > s(59) && ramp < s(61), "{ramp:?}");
    let first = Phase::Returning(Share::FIRST);
    let last = Phase::Returning(Share::of(Share::STEPS - 1).unwrap());
    let told = [
        (HERE, Phase::Home, Phase::Away, Cause::Ordered),
        (HERE, Phase::Away, first, Cause::Ordered),
        (HERE, last, Phase::Home, Cause::Returned),
    ];
    assert_eq!(rig.redirects(), told, "steps are not told one by one");
    assert!(rig.published >= 20, "but each is published");
}

#[test]
fn both_lost_and_the_first_to_return_is_one_transition_for_both_populations() {
    let mut rig = pair();
    rig.moves(HERE, Destination::Twin).unwrap();
    rig.run(ms(300));
    rig.set_pool(1, Truth::Killed);
    rig.set_pool(0, Truth::Killed);
    rig.run(s(30));
    rig.stored.clear();
    rig.events.clear();
    rig.set_pool(0, Truth::Well);
    rig.run(s(3));
    assert_eq!(rig.stored.len(), 1);
    let told = [
        (HERE, Phase::Away, Phase::Home, Cause::FirstToReturn),
        (THERE, Phase::Home, Phase::Away, Cause::FirstToReturn),
    ];
    assert_eq!(rig.redirects(), told);
}

#[test]
fn that_a_record_cannot_be_written_is_told_once_with_its_latest_reason_kept() {
    let mut rig = pair();
    rig.disk = Disk::Fails("disk full");
    rig.set_pool(0, Truth::Killed);
    rig.run(s(15));
    assert_eq!(rig.decider.unwritten(PAIR), Some("disk full"));
    rig.disk = Disk::Fails("read-only");
    rig.run(s(5));
    assert_eq!(rig.decider.unwritten(PAIR), Some("read-only"));
    assert_eq!(rig.phases(), [Phase::Home; 2]);
    let tries = rig.stored.len();
    assert!((5..=12).contains(&tries), "{tries}");
    rig.disk = Disk::Works;
    rig.run(s(1));
    assert_eq!(rig.phases(), [Phase::Away, Phase::Home]);
    assert_eq!(rig.decider.unwritten(PAIR), None);
    let told = rig.events.iter().filter_map(|(_, event)| match event {
        Event::Unwritten { error, .. } => Some(error.clone()),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told, [Some("disk full".to_owned()), None]);
}

#[test]
fn a_pause_survives_a_restart_and_a_resume_ends_it() {
    let mut rig = pair();
    let reason = Some("a storm".to_owned());
    rig.decider
        .handle_pause("ann".to_owned(), reason.clone(), rig.now);
    rig.drain();
    assert_eq!(rig.remembered, 1);
    let pause = rig.decider.standing().pause.unwrap();
    assert_eq!((pause.by.as_str(), &pause.reason), ("ann", &reason));
    let mut again = rig.restarted();
    assert_eq!(again.decider.pause(), Some(&pause));
    again.set_pool(0, Truth::Killed);
    again.run(s(60));
    assert_eq!(again.decider.pair(PAIR).halt(), Some(Halt::Paused));
    assert!(again.stored.is_empty());
    let resumed = again.decider.handle_resume("bob".to_owned(), again.now);
    assert_eq!(resumed, Ok(Vec::new()), "nothing to wait for");
    again.drain();
    assert_eq!(again.phases(), [Phase::Away, Phase::Home]);
    assert_eq!(again.decider.standing().pause, None);
    let ended = |event: &Event| {
        let bob = Some("bob".to_owned());
        *event
            == Event::Pause {
                pause: None,
                by: bob,
            }
    };
    assert!(again.is_told(ended));
}

#[test]
fn a_resume_after_damage_is_written_and_refused_while_something_else_is() {
    let mut topology = topology(&[(3, PLAIN), (3, PLAIN)]);
    pair_up(&mut topology, &automatic());
    let record = Record::home(0, Time::ZERO);
    let mut rig = Rig::with(topology, Standing::default(), vec![(record, true)]);
    rig.run(s(3));
    rig.disk = Disk::Stalls;
    let generation = rig.moves(HERE, Destination::Twin).unwrap();
    let resumed = rig.decider.handle_resume("ann".to_owned(), rig.now);
    assert_eq!(resumed, Err(PAIR));
    rig.decider.handle_stored(PAIR, generation, Ok(()), rig.now);
    rig.drain();
    let alarm = |event: &Event| matches!(event, Event::Alarm { .. });
    assert!(!rig.is_told(alarm), "damage is not an alarm");
    let resumed = rig.decider.handle_resume("ann".to_owned(), rig.now);
    assert_eq!(resumed, Ok(vec![(PAIR, generation + 1)]));
    assert_eq!(rig.decider.pair(PAIR).halt(), Some(Halt::Damaged));
    rig.decider
        .handle_stored(PAIR, generation + 1, Ok(()), rig.now);
    rig.drain();
    assert_eq!(rig.decider.pair(PAIR).halt(), None);
    assert!(!rig.is_told(alarm));
}

#[test]
fn what_is_foreseen_is_what_is_done_and_changes_nothing() {
    let mut rig = pair();
    for to in [Destination::Twin, Destination::Home] {
        let order = order(HERE, to);
        let foreseen = rig.decider.foresee(PAIR, &order, rig.now).unwrap();
        assert!(rig.said().is_empty());
        let generation = rig.moves(HERE, to).unwrap();
        assert_eq!(rig.decider.pair(PAIR).record(), &foreseen);
        assert_eq!(foreseen.generation, generation);
        let refused = rig.decider.foresee(PAIR, &order, rig.now);
        assert_eq!(refused, rig.moves(HERE, to).map(|_| unreachable!()));
    }
}

#[test]
fn an_isolated_instance_moves_nobody() {
    let mut rig = pair();
    rig.uplink = false;
    rig.run(s(600));
    assert!(rig.decider.isolated().is_some());
    let refused = rig.moves(HERE, Destination::Twin);
    assert_eq!(refused, Err(MoveRefusal::Isolated));
    rig.uplink = true;
    rig.run(s(600));
    assert_eq!((rig.phases(), rig.stored.len()), ([Phase::Home; 2], 0));
}

#[test]
fn a_host_that_was_suspended_does_not_act_on_what_it_knew_before() {
    for (truth, sleep) in [(Truth::Killed, s(3600)), (Truth::Killed, GAP + s(2))] {
        let mut rig = pair();
        rig.set_pool(0, truth);
        rig.run(DETECTED + s(1));
        assert_eq!(rig.condition(0), Condition::Lost);
        // It wakes up to a pool that has long been well again.
        rig.now += sleep;
        rig.set_pool(0, Truth::Well);
        rig.run(s(60));
        assert!(rig.stored.is_empty(), "{:?}", rig.stored);
        assert_eq!(rig.condition(0), Condition::Serving);
    }
    let mut rig = pair();
    rig.set_pool(0, Truth::Killed);
    rig.run(s(20));
    rig.set_pool(0, Truth::Well);
    rig.run(s(20));
    assert_eq!(rig.phases(), [Phase::Away, Phase::Home]);
    rig.now += s(3600);
    let woke = rig.now;
    rig.until(s(400), |decider| decider.phase(HERE) != Phase::Away);
    let held = rig.now.since(woke);
    assert!(held >= s(300), "{held:?}");
}

#[test]
fn a_host_that_wakes_up_to_late_answers_alone_knows_it_too() {
    let mut rig = pair();
    rig.set_pool(0, Truth::Killed);
    rig.run(DETECTED + s(1));
    // Every probe is out when it falls asleep, so that nothing was due meanwhile.
    let mut out = Vec::new();
    while let Some((at, _)) = rig.decider.poll_timeout() {
        if at > rig.now + s(2) {
            break;
        }
        rig.now = rig.now.max(at);
        rig.decider.handle_timeout(rig.now);
        out.extend(rig.said());
    }
    rig.now += s(3600);
    let Some(Output::Probe(target)) = out.last() else {
        panic!("{out:?}");
    };
    rig.bring(*target, Answer::Bad(Failure::Refused));
    let decided = rig.said();
    let stores = |output: &Output| matches!(output, Output::Store(..));
    assert!(!decided.iter().any(stores), "{decided:?}");
}

#[test]
fn nothing_is_known_of_a_pool_that_needs_members_who_have_yet_to_answer() {
    let mut rig = pair();
    rig.moves(HERE, Destination::Twin).unwrap();
    rig.moves(HERE, Destination::Home).unwrap();
    rig.run(s(10));
    let returning = rig.decider.phase(HERE);
    assert!(matches!(returning, Phase::Returning(_)));
    // Both are dead when it begins anew, which three probes each have to show.
    rig.set_pool(0, Truth::Killed);
    rig.set_pool(1, Truth::Killed);
    let mut again = rig.restarted();
    let unknown = |rig: &Rig| Side::BOTH.map(|side| rig.fitness(side) == Fitness::Unknown);
    while unknown(&again) != [false; 2] {
        assert_ne!(again.fitness(Side::First), Fitness::Low);
        assert_ne!(again.fitness(Side::First), Fitness::Well);
        again.run(ms(1));
    }
    again.run(s(60));
    assert_eq!(again.decider.phase(HERE), returning);
    assert!(again.stored.is_empty(), "{:?}", again.stored);
    // One that lives is known by its first answer.
    let mut again = rig.restarted();
    for pool in 0..2 {
        again.set_pool(pool, Truth::Well);
    }
    again.run(s(2));
    assert_eq!(unknown(&again), [false; 2]);
}
