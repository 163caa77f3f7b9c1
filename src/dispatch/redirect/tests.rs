use super::*;
use crate::balance::{Lane, Tried};
use crate::dispatch::fixture::{
    ALONE, HOME, TWIN, count, decider, lose, snapshot, start, topology,
};
use crate::dispatch::{Attempt, NoMember, Request, Snapshot};
use crate::time::Time;
use crate::topology::{TargetId, Topology};
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

const CLIENTS: u32 = 4_000;

fn client(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
}

fn returning(steps: u8) -> Phase {
    Phase::Returning(Share::of(steps).expect("a step"))
}

fn pair() -> Arc<Topology> {
    Arc::new(topology([2, 2, 2]))
}

/// A snapshot with `HOME`'s users in this phase.
fn with(phase: Phase) -> Snapshot {
    snapshot(&decider(&pair(), phase, Cause::Ordered), false)
}

/// Which clients are at home.
fn at_home(snapshot: &Snapshot) -> Vec<bool> {
    let service = HOME.service(0);
    (0..CLIENTS)
        .map(|n| snapshot.serving(service, client(n)) == service)
        .collect()
}

fn pick(
    snapshot: &Snapshot,
    service: ServiceId,
    serving: ServiceId,
    now: Time,
) -> (Result<(TargetId, Attempt), NoMember>, bool) {
    let (lane, tried, held) = (Lane::new(1), Tried::default(), Cell::new(false));
    let request = Request {
        service,
        serving,
        client: client(1),
        tried: &tried,
        lane: &lane,
        held: &held,
    };
    (snapshot.pick(&request, now), held.get())
}

/// How many of `HOME`'s users are taken by `serving` at once.
fn taken(snapshot: &Snapshot, serving: ServiceId, now: Time) -> usize {
    (0..1_000)
        .filter(|_| pick(snapshot, HOME.service(0), serving, now).0.is_ok())
        .count()
}

#[test]
fn users_at_home_are_served_by_the_service_they_asked_for() {
    let snapshot = with(Phase::Home);
    for pool in [HOME, TWIN, ALONE] {
        for service in [0, 1].map(|nth| pool.service(nth)) {
            assert_eq!(snapshot.serving(service, client(1)), service);
        }
    }
}

#[test]
fn users_who_are_away_are_served_by_the_twins_service_of_the_same_name() {
    let snapshot = with(Phase::Away);
    assert_eq!(
        snapshot.serving(HOME.service(0), client(1)),
        TWIN.service(1)
    );
    assert_eq!(
        snapshot.serving(HOME.service(1), client(1)),
        TWIN.service(0)
    );
    for service in [TWIN.service(0), TWIN.service(1), ALONE.service(0)] {
        assert_eq!(snapshot.serving(service, client(1)), service);
    }
    let (attempt, held) = pick(&snapshot, HOME.service(0), TWIN.service(1), start());
    assert_eq!(attempt.expect("a member").0.pool, TWIN);
    assert!(!held);
}

#[test]
fn a_service_that_the_twin_has_not_stays_at_home() {
    let mut topology = topology([2, 2, 2]);
    topology.pools[TWIN.index()].services[0].name = "other".to_owned();
    let snapshot = snapshot(
        &decider(&Arc::new(topology), Phase::Away, Cause::Ordered),
        false,
    );
    let (s, w) = (HOME.service(0), HOME.service(1));
    assert_eq!(snapshot.serving(s, client(1)), TWIN.service(1));
    assert_eq!(snapshot.serving(w, client(1)), w);
    assert_eq!(snapshot.spill(w, w), None);
}

#[test]
fn while_users_return_each_client_moves_once() {
    let mut before = at_home(&with(Phase::Away));
    assert!(before.iter().all(|home| !home));
    for steps in 1..Share::STEPS {
        let now = at_home(&with(returning(steps)));
        let moved = now
            .iter()
            .zip(&before)
            .filter(|(now, before)| now != before);
        assert!(before.iter().zip(&now).all(|(before, now)| *now || !before));
        let share = CLIENTS / u32::from(Share::STEPS);
        assert!((moved.count() as u32).abs_diff(share) < share / 3);
        before = now;
    }
    let last = before.iter().filter(|home| !**home).count() as u32;
    assert!(last > 0 && last < CLIENTS / 10, "{last} for the last step");
    assert!(at_home(&with(Phase::Home)).iter().all(|home| *home));
}

/// Where `HOME`'s users may go from home and from the twin.
fn spills(topology: &Arc<Topology>, phase: Phase, lost: Option<PoolId>) -> [Option<PoolId>; 2] {
    let mut decider = decider(topology, phase, Cause::Ordered);
    if let Some(lost) = lost {
        lose(&mut decider, lost);
    }
    let snapshot = snapshot(&decider, false);
    let spill = |serving| snapshot.spill(HOME.service(0), serving);
    [HOME.service(0), TWIN.service(1)].map(|serving| spill(serving).map(|other| other.pool))
}

#[test]
fn who_is_accepted_nowhere_may_go_to_the_other_pool_by_phase_and_condition() {
    let (to_twin, to_home) = (Some(TWIN), Some(HOME));
    let table = [
        (Phase::Home, None, [to_twin, None]),
        (Phase::Home, Some(HOME), [to_twin, None]),
        (Phase::Home, Some(TWIN), [None, None]),
        (Phase::Away, None, [None, None]),
        (Phase::Away, Some(HOME), [None, None]),
        (returning(7), None, [to_twin, to_home]),
        (returning(7), Some(ALONE), [to_twin, to_home]),
        (returning(7), Some(HOME), [to_twin, None]),
        (returning(7), Some(TWIN), [None, to_home]),
    ];
    for (phase, lost, expected) in table {
        let found = spills(&pair(), phase, lost);
        assert_eq!(found, expected, "{phase}, {lost:?} lost");
    }
}

#[test]
fn nobody_spills_where_the_pair_does_not_or_is_exclusive() {
    for (spill, exclusive) in [(false, false), (true, true)] {
        let mut topology = topology([2, 2, 2]);
        topology.pairs[0].spill = spill;
        topology.pairs[0].exclusive = exclusive;
        let topology = Arc::new(topology);
        for phase in [Phase::Home, returning(7)] {
            assert_eq!(spills(&topology, phase, None), [None, None]);
        }
    }
}

#[test]
fn nobody_spills_from_a_pool_without_a_twin() {
    let service = ALONE.service(0);
    assert_eq!(with(Phase::Home).spill(service, service), None);
}

#[test]
fn while_users_move_away_each_member_of_the_twin_takes_so_many_a_second() {
    let decider = decider(&pair(), Phase::Away, Cause::Lost);
    let snapshot = snapshot(&decider, true);
    let twin = TWIN.service(1);
    // Two members, 100 a second, of which a tenth may come at once.
    assert_eq!(taken(&snapshot, twin, start()), 20);
    let (none, held) = pick(&snapshot, HOME.service(0), twin, start());
    assert_eq!(none.err(), Some(NoMember::AllFull));
    assert!(held);
    let later = start() + Duration::from_millis(50);
    assert_eq!(taken(&snapshot, twin, later), 10);
    let (own, held) = pick(&snapshot, twin, twin, later);
    assert!(own.is_ok() && !held, "the twin's own users are not limited");
}

#[test]
fn one_that_is_passed_over_leaves_no_trace_at_the_member() {
    let topology = pair();
    let decider = decider(&topology, Phase::Away, Cause::Lost);
    let handles = crate::dispatch::Handles::new(&topology);
    let address = |_| Some((Ipv4Addr::LOCALHOST, 1).into());
    let snapshot = Snapshot::new(0, &decider, &handles, start(), |_| true, address);
    let pick = || pick(&snapshot, HOME.service(0), TWIN.service(1), start()).0;
    let attempts: Vec<_> = (0..1_000).filter_map(|_| pick().ok()).collect();
    let load = || {
        (0..2)
            .map(|nth| handles.member(TWIN.member(nth)).load())
            .sum::<u32>()
    };
    assert_eq!((attempts.len(), load()), (20, 20));
    drop(attempts);
    assert_eq!(load(), 0);
}

#[test]
fn arrivals_count_only_where_users_arrive() {
    let (home, twin) = (HOME.service(0), TWIN.service(1));
    let table = [
        // What moves, and where its users arrive.
        (Phase::Away, Cause::Lost, true, Some(twin)),
        (Phase::Away, Cause::Lost, false, None),
        (returning(3), Cause::Held, true, Some(home)),
        (returning(3), Cause::Held, false, Some(home)),
        (Phase::Home, Cause::Returned, true, None),
        (Phase::Home, Cause::Start, true, None),
        (Phase::Home, Cause::LeftLost, true, Some(home)),
        (Phase::Home, Cause::LeftLost, false, None),
    ];
    for (phase, cause, moving, limited) in table {
        // Who belongs home and comes to the twin has spilled.
        let spills = phase == Phase::Home;
        let decider = decider(&pair(), phase, cause);
        let snapshot = snapshot(&decider, moving);
        for serving in [home, twin] {
            let is_limited = limited == Some(serving) || (spills && serving == twin);
            let expected = if is_limited { 20 } else { 1_000 };
            let taken = taken(&snapshot, serving, start());
            assert_eq!(taken, expected, "{phase}, {cause:?}, {moving}: {serving:?}");
        }
    }
}

#[test]
fn a_pace_of_one_a_second_is_kept_as_well() {
    let mut topology = topology([2, 2, 2]);
    topology.pairs[0].arrivals = count(1);
    let decider = decider(&Arc::new(topology), Phase::Away, Cause::Lost);
    let snapshot = snapshot(&decider, true);
    for seconds in 0..3 {
        let now = start() + Duration::from_secs(seconds);
        assert_eq!(taken(&snapshot, TWIN.service(1), now), 2);
    }
}
