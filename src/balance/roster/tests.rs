use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SLOW: Duration = Duration::from_secs(30);

fn seat(member: u16, weight: u32) -> Seat {
    Seat::new(
        member,
        &format!("m{member}"),
        weight,
        None,
        None,
        false,
        false,
    )
}

fn full(member: u16) -> Seat {
    let limit = NonZeroU32::new(5);
    Seat::new(member, &format!("m{member}"), 1, limit, None, false, false)
}

fn returned(member: u16, seconds: u64) -> Seat {
    let when = Some(Time::from_millis(seconds * 1_000));
    Seat::new(member, &format!("m{member}"), 1, None, when, false, false)
}

fn at(seconds: u64) -> Time {
    Time::from_millis(seconds * 1_000)
}

/// Places sessions one by one, each held for ever, and tells how many each seat got.
fn place(roster: &Roster, sessions: u64, now: Time) -> Vec<u32> {
    let lane = Lane::new(7);
    let mut loads = vec![0; roster.len()];
    for client in 0..sessions {
        let tried = Tried::default();
        let choice = roster
            .choose(client, &tried, &lane, now, |seat| loads[seat])
            .unwrap();
        loads[choice.0] += 1;
    }
    loads
}

fn roster(seats: Vec<Seat>, policy: Policy) -> Roster {
    Roster::new(seats, policy, SLOW)
}

#[test]
fn an_empty_roster_has_nobody() {
    let lane = Lane::new(1);
    let none = roster(Vec::new(), Policy::Random).choose(0, &Tried::default(), &lane, at(0), |_| 0);
    assert_eq!(none, Err(NoSeat::Empty));
}

#[test]
fn least_connections_evens_out_by_weight() {
    let loads = place(
        &roster(
            vec![seat(0, 1), seat(1, 1), seat(2, 2)],
            Policy::LeastConnections,
        ),
        4_000,
        at(0),
    );
    for (load, share) in loads.iter().zip([1_000, 1_000, 2_000]) {
        assert!(load.abs_diff(share) < 60, "{loads:?}");
    }
}

/// How often the second of three members is chosen of a thousand times, at these loads.
fn second_chosen(loads: [u32; 3]) -> usize {
    let seats = vec![seat(0, 1), seat(1, 1), seat(2, 1)];
    let roster = roster(seats, Policy::LeastConnections);
    let lane = Lane::new(3);
    (0..1_000)
        .filter(|&client| {
            let choice = roster.choose(client, &Tried::default(), &lane, at(0), |s| loads[s]);
            choice == Ok(Choice(1))
        })
        .count()
}

#[test]
fn a_member_whose_load_only_grows_stops_being_chosen() {
    assert_eq!(second_chosen([20, 23, 20]), 0);
    assert_eq!(second_chosen([0, 3, 0]), 0);
}

#[test]
fn a_member_with_one_session_more_is_still_seen_to_live() {
    assert!(second_chosen([20, 21, 20]) > 200);
    assert!(second_chosen([1_000, 1_020, 1_000]) > 200);
}

#[test]
fn round_robin_takes_each_in_turn() {
    let roster = roster(vec![seat(0, 1), seat(1, 1), seat(2, 1)], Policy::RoundRobin);
    assert_eq!(place(&roster, 9, at(0)), [3, 3, 3]);
}

#[test]
fn round_robin_and_random_keep_to_the_weights() {
    for policy in [Policy::RoundRobin, Policy::Random] {
        let loads = place(
            &roster(vec![seat(0, 1), seat(1, 2), seat(2, 7)], policy),
            10_000,
            at(0),
        );
        for (load, share) in loads.iter().zip([1_000, 2_000, 7_000]) {
            assert!(load.abs_diff(share) < 150, "{policy:?} {loads:?}");
        }
    }
}

#[test]
fn backups_wait_until_the_others_are_gone_or_tried() {
    let backup = Seat::new(1, "m1", 1, None, None, true, false);
    let both = roster(vec![seat(0, 1), backup.clone()], Policy::LeastConnections);
    assert_eq!(place(&both, 100, at(0)), [100, 0]);
    assert_eq!(
        place(&roster(vec![backup], Policy::LeastConnections), 100, at(0)),
        [100]
    );
    let mut tried = Tried::default();
    tried.add(0);
    let lane = Lane::new(1);
    assert_eq!(both.choose(0, &tried, &lane, at(0), |_| 0), Ok(Choice(1)));
    tried.add(1);
    assert_eq!(
        both.choose(0, &tried, &lane, at(0), |_| 0),
        Err(NoSeat::Tried)
    );
}

#[test]
fn a_full_member_is_passed_over_and_full_ones_do_not_open_the_backups() {
    let backup = Seat::new(2, "m2", 1, None, None, true, false);
    for policy in [
        Policy::LeastConnections,
        Policy::RoundRobin,
        Policy::Random,
        Policy::Source,
    ] {
        let roster = roster(vec![full(0), full(1), backup.clone()], policy);
        let lane = Lane::new(1);
        let choose =
            |loads: [u32; 3]| roster.choose(9, &Tried::default(), &lane, at(0), |seat| loads[seat]);
        assert_eq!(choose([5, 4, 0]), Ok(Choice(1)), "{policy:?}");
        assert_eq!(choose([5, 5, 0]), Err(NoSeat::Full), "{policy:?}");
    }
}

#[test]
fn a_returning_member_is_eased_in() {
    let seats = || vec![seat(0, 1), seat(1, 1), returned(2, 100)];
    let share = |seconds| {
        let roster = roster(seats(), Policy::Random);
        f64::from(place(&roster, 9_000, at(seconds))[2]) / 9_000.0
    };
    assert!(share(101) < 0.04);
    let half = share(115);
    assert!((0.15..0.25).contains(&half), "{half}");
    let whole = share(131);
    assert!((0.31..0.36).contains(&whole), "{whole}");
}

#[test]
fn an_idle_returning_member_is_not_stampeded_by_least_connections() {
    let roster = roster(
        vec![seat(0, 1), seat(1, 1), returned(2, 100)],
        Policy::LeastConnections,
    );
    let lane = Lane::new(5);
    let chosen = (0..3_000)
        .filter(|&client| {
            let load = |seat| if seat == 2 { 0 } else { 500 };
            roster.choose(client, &Tried::default(), &lane, at(101), load) == Ok(Choice(2))
        })
        .count();
    assert!(chosen < 300, "{chosen} of 3,000");
}

#[test]
fn when_all_return_at_once_none_is_held_back() {
    let seats = vec![returned(0, 100), returned(1, 100), returned(2, 100)];
    let loads = place(&roster(seats, Policy::Random), 9_000, at(101));
    assert!(
        loads.iter().all(|load| load.abs_diff(3_000) < 200),
        "{loads:?}"
    );
}

#[test]
fn a_clients_retry_goes_to_the_next_in_hash_order() {
    let all = roster(vec![seat(0, 1), seat(1, 1), seat(2, 1)], Policy::Source);
    let lane = Lane::new(1);
    for client in 0..200 {
        let mut tried = Tried::default();
        let first = all.choose(client, &tried, &lane, at(0), |_| 0).unwrap();
        tried.add(first.0 as u16);
        let second = all.choose(client, &tried, &lane, at(0), |_| 0).unwrap();
        let rest: Vec<u16> = (0..3).filter(|&m| usize::from(m) != first.0).collect();
        let without = roster(rest.iter().map(|&m| seat(m, 1)).collect(), Policy::Source);
        let heir = without
            .choose(client, &Tried::default(), &lane, at(0), |_| 0)
            .unwrap();
        assert_eq!(usize::from(rest[heir.0]), second.0);
    }
}

fn any_seat() -> impl Strategy<Value = (u32, Option<u32>, Option<u64>, bool, bool)> {
    (
        1..=256u32,
        prop::option::of(1..4u32),
        prop::option::of(0..200u64),
        any::<bool>(),
        any::<bool>(),
    )
}

proptest! {
    #[test]
    fn a_choice_is_always_free_untried_and_of_the_best_open_tier(
        seats in prop::collection::vec(any_seat(), 0..12),
        loads in prop::collection::vec(0..5u32, 12),
        tried_members in prop::collection::vec(0..12u16, 0..6),
        policy in prop::sample::select(vec![
            Policy::LeastConnections, Policy::RoundRobin, Policy::Random, Policy::Source,
            Policy::First,
        ]),
        client: u64,
        seed: u64,
    ) {
        let mut seats: Vec<Seat> = seats
            .into_iter()
            .enumerate()
            .map(|(index, (weight, limit, returned, backup, last))| {
                let limit = limit.and_then(NonZeroU32::new);
                Seat::new(index as u16, "m", weight, limit, returned.map(at), backup, last)
            })
            .collect();
        seats.sort_by_key(Seat::tier);
        let mut tried = Tried::default();
        tried_members.iter().for_each(|&member| tried.add(member));
        let untried = |seat: &&Seat| !tried_members.contains(&seat.member);
        let best = seats.iter().filter(untried).map(Seat::tier).min();
        let free = |index: usize| {
            untried(&&seats[index])
                && seats[index].limit.is_none_or(|limit| loads[index] < limit.get())
        };
        let roster = Roster::new(seats.clone(), policy, SLOW);
        let lane = Lane::new(seed);
        match roster.choose(client, &tried, &lane, at(100), |seat| loads[seat]) {
            Ok(choice) => {
                prop_assert!(free(choice.0));
                prop_assert_eq!(Some(seats[choice.0].tier()), best);
            }
            Err(NoSeat::Empty) => prop_assert!(seats.is_empty()),
            Err(NoSeat::Tried) => prop_assert!(best.is_none()),
            Err(NoSeat::Full) => {
                let open = (0..seats.len()).any(|i| free(i) && Some(seats[i].tier()) == best);
                prop_assert!(!open);
            }
        }
    }
}
