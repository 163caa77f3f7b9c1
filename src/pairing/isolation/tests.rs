use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::health::machine::{Machine, Rules};
use crate::pairing::decider::tests::{PLAIN, automatic, member, pair_up, topology};

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// Two pools of two: places 0 and 1 are the first, 2 and 3 the second.
fn isolation() -> Isolation {
    let topology = topology(&[(2, PLAIN), (2, PLAIN)]);
    Isolation::new(&topology, &Places::new(&topology))
}

fn of(place: usize) -> MemberId {
    member(place as u16 / 2, place as u16 % 2)
}

impl Isolation {
    fn probe(&mut self, place: usize, heard: Heard, started: u64, ended: u64) {
        self.handle_probe(place, of(place), heard, at(started), at(ended));
    }
}

#[test]
fn silence_is_condemned_with_a_witness_on_both_sides_and_not_with_one() {
    for (before, after) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut isolation = isolation();
        isolation.handle_ask(0);
        isolation.probe(0, Heard::Silence, 1000, 1500);
        if before {
            isolation.probe(2, Heard::Answer, 1400, 1402);
        }
        isolation.handle_ask(0);
        if after {
            isolation.probe(3, Heard::Answer, 1600, 1602);
        }
        isolation.probe(0, Heard::Silence, 1500, 2000);
        assert_eq!(isolation.condemns(0), before && after, "{before} {after}");
        assert_eq!(isolation.lacks_witness_now(0), !after);
        assert_eq!(isolation.is_doubtful(0), !before && !after);
    }
}

#[test]
fn an_answer_to_a_probe_from_before_the_silence_is_no_witness() {
    let mut isolation = isolation();
    isolation.probe(0, Heard::Silence, 1000, 1500);
    isolation.probe(2, Heard::Answer, 999, 1501);
    isolation.handle_ask(0);
    isolation.probe(0, Heard::Silence, 1502, 2002);
    assert!(!isolation.condemns(0) && isolation.is_doubtful(0));
}

#[test]
fn a_target_that_answers_is_condemned_for_whatever_else_it_did() {
    let mut isolation = isolation();
    isolation.probe(0, Heard::Silence, 1000, 1500);
    isolation.probe(0, Heard::Answer, 1500, 1501);
    assert!(isolation.condemns(0));
}

#[test]
fn a_hang_is_doubted_from_its_end_and_a_sign_of_life_from_its_start() {
    let mut isolation = isolation();
    isolation.probe(0, Heard::Hang, 1000, 1500);
    isolation.probe(2, Heard::Answer, 1400, 1402);
    assert!(isolation.is_doubtful(0));
    isolation.probe(1, Heard::Silence, 900, 1400);
    assert!(!isolation.is_doubtful(1), "its connection stood after that");
}

#[test]
fn clients_alone_condemn_nobody() {
    let mut isolation = isolation();
    assert!(isolation.handle_evidence(0, at(1000), at(1000)));
    assert!(!isolation.handle_evidence(0, at(1001), at(1001)));
    isolation.probe(2, Heard::Answer, 1002, 1003);
    assert!(!isolation.condemns(0));
}

#[test]
fn who_was_heard_after_a_client_asked_in_vain_vouches_for_its_silence() {
    for (witness, vouches) in [(1100, true), (900, false)] {
        let mut isolation = isolation();
        isolation.probe(2, Heard::Answer, witness, witness + 2);
        assert!(isolation.handle_evidence(0, at(1000), at(1250)));
        assert_eq!(isolation.is_doubtful(0), !vouches);
    }
}

#[test]
fn who_has_answered_since_a_client_asked_is_silent_from_now_on_at_most() {
    let mut isolation = isolation();
    isolation.probe(0, Heard::Answer, 1050, 1052);
    isolation.probe(2, Heard::Answer, 1100, 1102);
    assert!(isolation.handle_evidence(0, at(1000), at(1250)));
    assert!(isolation.is_doubtful(0));
}

#[test]
fn the_twins_of_silent_pools_are_asked_first() {
    let mut topology = topology(&[(2, PLAIN); 60]);
    pair_up(&mut topology, &automatic());
    let places = Places::new(&topology);
    let machines: Vec<Machine> = topology
        .targets()
        .map(|target| {
            let check = &topology.service(target.service()).check;
            Machine::new(Rules::from(check), at(0), at(0))
        })
        .collect();
    for silent in [0u16, 31, 58] {
        let mut isolation = Isolation::new(&topology, &places);
        let place = places.target(member(silent, 0).target(PoolId(silent).service(0)));
        isolation.handle_probe(place, member(silent, 0), Heard::Silence, at(1000), at(1500));
        let asked = isolation.inquire(&machines, at(1500), 60);
        let first = places.target_at(asked[0]).pool;
        assert_eq!((first, asked.len()), (PoolId(silent ^ 1), WITNESSES));
    }
}

/// What a probe of a member that is well meets in an outage.
fn in_outage(started: u64, answer: u64, outage: (u64, u64)) -> Heard {
    let within = |t: u64| (outage.0..outage.1).contains(&t);
    if within(started) {
        Heard::Silence
    } else if within(answer) || (started < outage.0 && answer >= outage.0) {
        Heard::Hang
    } else {
        Heard::Answer
    }
}

proptest! {
    /// The rule's claim: one outage, wherever it begins and ends, condemns nobody who is well.
    #[test]
    fn one_outage_condemns_nobody(
        gaps in prop::collection::vec((0..4usize, 1..700u64, 1..300u64), 20..80),
        begins in 500..3000u64,
        lasts in 1..4000u64,
    ) {
        let timeout = 500;
        let outage = (begins, begins + lasts);
        let mut isolation = isolation();
        // By moment: who is asked, and who comes back with what.
        let mut asks: BTreeMap<(u64, usize), u64> = BTreeMap::new();
        let mut free = [0u64; 4];
        for (place, gap, think) in gaps {
            let start = free[place] + gap;
            let heard = in_outage(start, start + think, outage);
            let end = if heard == Heard::Answer { start + think } else { start + timeout };
            asks.insert((start, place), think);
            free[place] = end;
        }
        let mut back: BTreeMap<(u64, usize), (u64, Heard)> = BTreeMap::new();
        loop {
            let ask = asks.first_key_value().map(|(&key, _)| key);
            let done = back.first_key_value().map(|(&key, _)| key);
            match (ask, done) {
                (None, None) => break,
                (ask, Some(done)) if ask.is_none_or(|ask| done.0 <= ask.0) => {
                    let (started, heard) = back.remove(&done).unwrap();
                    isolation.probe(done.1, heard, started, done.0);
                    for place in 0..4 {
                        let silent = isolation.is_silent(place);
                        prop_assert!(!silent || !isolation.condemns(place), "{place} at {done:?}");
                    }
                }
                (Some((start, place)), _) => {
                    let think = asks.remove(&(start, place)).unwrap();
                    isolation.handle_ask(place);
                    let heard = in_outage(start, start + think, outage);
                    let took = if heard == Heard::Answer { think } else { timeout };
                    back.insert((start + took, place), (start, heard));
                }
                (None, Some(_)) => unreachable!("taken above"),
            }
        }
    }
}
