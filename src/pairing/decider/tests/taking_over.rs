//! What goes on when a decider takes over from another one.

use super::*;
use crate::pairing::legacy::{Legacy, Question};
use crate::pairing::record::Phase;
use crate::topology::Succession;

impl Rig {
    /// Another decider takes over for this topology; probes that are out come back to it.
    fn reload(&mut self, next: Topology) {
        let old = self.decider.topology().clone();
        let succession = Succession::between(&old, &next);
        let question = |before: TargetId, after: TargetId| {
            let check = |topology: &Topology, target: TargetId| {
                topology.service(target.service()).check.kind.clone()
            };
            match check(&old, before) == check(&next, after) {
                true => Question::Same,
                false => Question::Other,
            }
        };
        let legacy = self.decider.legacy().renumber(&succession, question);
        let fresh = Record::home(0, self.now);
        let out = std::mem::take(&mut self.out).into_iter();
        let out = out.filter_map(|((at, target), answer)| {
            let now = succession.target(target)?;
            (question(target, now) == Question::Same).then_some(((at, now), answer))
        });
        self.out = out.collect();
        let truth = std::mem::take(&mut self.truth).into_iter();
        let known: BTreeMap<_, _> = truth
            .filter_map(|(target, truth)| Some((succession.target(target)?, truth)))
            .collect();
        let truth = |target| (target, *known.get(&target).unwrap_or(&Truth::Well));
        self.truth = next.targets().map(truth).collect();
        let records = |_| (fresh.clone(), false);
        self.decider = Decider::after(Arc::new(next), legacy, records, 7, self.now);
        self.drain();
    }

    /// Another process takes over: it is told everything in words, and probes that are out never
    /// come back.
    fn upgrade(&mut self) {
        let topology = self.decider.topology().clone();
        let told = serde_json::to_vec(&self.decider.legacy()).expect("words");
        let legacy: Legacy = serde_json::from_slice(&told).expect("the same in words");
        let ids = Succession::between(&topology, &topology);
        let legacy = legacy.renumber(&ids, |_, _| Question::Same);
        let fresh = Record::home(0, self.now);
        self.out.clear();
        let records = |_| (fresh.clone(), false);
        let legacy = legacy.without_probes();
        self.decider = Decider::after(topology, legacy, records, 7, self.now);
        self.drain();
    }

    /// The same topology, as if the file had been read again.
    fn reload_same(&mut self) {
        self.reload((**self.decider.topology()).clone());
    }
}

/// Members of a pool in the opposite order, with ids to match.
fn reverse(topology: &mut Topology, pool: usize) {
    let pool = &mut topology.pools[pool];
    pool.members.reverse();
    for (n, member) in (0..).zip(&mut pool.members) {
        member.id = pool.id.member(n);
    }
}

fn without(topology: &Topology, pool: usize, name: &str) -> Topology {
    let mut next = topology.clone();
    let pool = &mut next.pools[pool];
    pool.members.retain(|member| member.name != name);
    for (n, member) in (0..).zip(&mut pool.members) {
        member.id = pool.id.member(n);
    }
    next
}

#[test]
fn a_file_that_is_read_again_and_again_changes_nothing_and_delays_no_death() {
    for truth in [Truth::Killed, Truth::Cut, Truth::Hung] {
        let mut rig = Rig::new(&[(3, WITH_WEB), (3, PLAIN)]);
        rig.set(member(0, 1), truth);
        let dead = is_down(target(0, 1, 0));
        let died = rig.now;
        while !dead(&rig.decider) {
            rig.run(ms(30));
            rig.reload_same();
            assert!(
                rig.now.since(died) <= ms(1100 + 500 * 3 + 275 * 2),
                "{truth:?}"
            );
        }
        let dead = [target(0, 1, 0), target(0, 1, 1)];
        rig.run(ms(3000));
        for told in &rig.events {
            let Event::Verdict { target, .. } = told.1 else {
                continue;
            };
            assert!(dead.contains(&target), "{told:?}");
        }
        assert_eq!(rig.verdicts_told(), 2, "{truth:?}: {:?}", rig.events);
    }
}

#[test]
fn a_process_that_takes_over_at_any_moment_changes_nothing_and_delays_no_death_by_much() {
    for truth in [Truth::Killed, Truth::Cut, Truth::Hung] {
        for after in (0..2_000).step_by(70) {
            let mut rig = Rig::new(&[(3, WITH_WEB), (3, PLAIN)]);
            rig.order(member(1, 2), Mode::Drain).expect("a drain");
            rig.events.clear();
            rig.set(member(0, 1), truth);
            let died = rig.now;
            rig.run(ms(after));
            rig.upgrade();
            rig.until(ms(4_000), is_down(target(0, 1, 0)));
            let took = rig.now.since(died);
            // One probe more than without it: the one that was out.
            let most = ms(1_100 + 500 * 4 + 275 * 3);
            assert!(
                took <= most,
                "{truth:?}, taken over after {after} ms: {took:?}"
            );
            rig.run(ms(3_000));
            let dead = [target(0, 1, 0), target(0, 1, 1)];
            for told in &rig.events {
                let Event::Verdict { target, .. } = told.1 else {
                    continue;
                };
                assert!(
                    dead.contains(&target),
                    "{truth:?}, after {after} ms: {told:?}"
                );
            }
            let drained = rig.decider.operator(member(1, 2)).map(|state| state.mode);
            assert_eq!(drained, Some(Mode::Drain));
        }
    }
}

#[test]
fn verdicts_and_decisions_stay_with_their_members_wherever_those_stand_now() {
    let mut rig = Rig::new(&[(3, PLAIN), (2, PLAIN)]);
    rig.set(member(0, 0), Truth::Killed);
    rig.until(ms(3000), is_down(target(0, 0, 0)));
    rig.order(member(0, 1), Mode::Drain).unwrap();
    let since = rig.decider.verdict(target(0, 0, 0));
    rig.events.clear();
    let mut next = (**rig.decider.topology()).clone();
    reverse(&mut next, 0);
    rig.reload(next);
    assert_eq!(rig.decider.verdict(target(0, 2, 0)), since);
    assert_eq!(rig.verdict(target(0, 0, 0)), Verdict::Up);
    let mode = |n| rig.decider.operator(member(0, n)).map(|state| state.mode);
    assert_eq!([mode(0), mode(1), mode(2)], [None, Some(Mode::Drain), None]);
    assert!(rig.events.is_empty(), "{:?}", rig.events);
    rig.run(ms(700_000));
    let deadline = |event: &Event| {
        *event
            == Event::Deadline {
                member: member(0, 1),
            }
    };
    assert!(rig.is_told(deadline));
    assert!(!rig.is_told(|event| matches!(event, Event::Verdict { .. })));
}

#[test]
fn a_member_that_is_gone_is_asked_no_more_and_its_pool_is_judged_without_it() {
    let mut rig = Rig::new(&[(3, PLAIN), (2, PLAIN)]);
    rig.set(member(0, 2), Truth::Killed);
    rig.until(ms(3000), is_down(target(0, 2, 0)));
    assert_eq!(rig.condition(0), Condition::Degraded);
    let next = without(rig.decider.topology(), 0, "m2");
    rig.reload(next);
    assert_eq!(rig.condition(0), Condition::Serving);
    let healed =
        |event: &Event| matches!(event, Event::Condition { to, .. } if *to == Condition::Serving);
    assert!(rig.is_told(healed));
    rig.asked.clear();
    rig.run(ms(5000));
    assert_eq!(rig.asked.len(), 4);
}

#[test]
fn a_new_member_begins_unknown_and_takes_traffic_and_the_others_stay_as_they_were() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    let (old, mut next) = (
        topology(&[(2, PLAIN), (2, PLAIN)]),
        topology(&[(3, PLAIN), (2, PLAIN)]),
    );
    next.pools[0].quorum = old.pools[0].quorum;
    rig.reload(next);
    assert_eq!(rig.verdict(target(0, 2, 0)), Verdict::Unknown);
    assert_ne!(rig.decider.readiness(target(0, 2, 0)).takes, Takes::No);
    assert_eq!(rig.verdict(target(0, 0, 0)), Verdict::Up);
    assert!(!rig.decider.settled());
    rig.run(ms(1500));
    assert_eq!(rig.verdict(target(0, 2, 0)), Verdict::Up);
    assert!(rig.decider.settled());
}

#[test]
fn who_is_asked_something_else_keeps_its_verdict_and_is_asked_at_once() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    let mut next = (**rig.decider.topology()).clone();
    next.pools[0].services[0].check.kind = CheckKind::Tls;
    rig.asked.clear();
    rig.reload(next);
    assert_eq!(rig.verdict(target(0, 0, 0)), Verdict::Up);
    rig.run(ms(260));
    assert!(rig.asked[&target(0, 0, 0)] >= 1 && rig.asked[&target(0, 1, 0)] >= 1);
    rig.set(member(0, 0), Truth::Killed);
    rig.until(ms(3000), is_down(target(0, 0, 0)));
}

#[test]
fn isolation_outlives_it_and_ends_with_the_first_answer() {
    let mut rig = Rig::new(&[(3, PLAIN), (3, PLAIN)]);
    rig.uplink = false;
    rig.until(ms(6000), |decider| decider.isolated().is_some());
    let since = rig.decider.isolated();
    let mut next = (**rig.decider.topology()).clone();
    reverse(&mut next, 0);
    rig.reload(next);
    assert_eq!(rig.decider.isolated(), since);
    rig.run(ms(20_000));
    assert_eq!(rig.verdicts_told(), 0);
    rig.uplink = true;
    rig.until(ms(3000), |decider| decider.isolated().is_none());
    rig.run(ms(3000));
    assert_eq!(rig.verdicts_told(), 0);
}

#[test]
fn users_who_are_away_stay_there_and_the_clock_of_their_return_goes_on() {
    let mut rig = Rig::paired(&[(2, PLAIN), (2, PLAIN)], &automatic());
    rig.set_pool(0, Truth::Killed);
    rig.until(ms(15_000), |decider| {
        decider.phase(PoolId(0)) == Phase::Away
    });
    rig.set_pool(0, Truth::Well);
    rig.run(ms(200_000));
    rig.reload_same();
    assert_eq!(rig.decider.phase(PoolId(0)), Phase::Away);
    rig.run(ms(90_000));
    assert_eq!(rig.decider.phase(PoolId(0)), Phase::Away);
    rig.until(ms(20_000), |decider| {
        decider.phase(PoolId(0)) != Phase::Away
    });
    rig.run(ms(90_000));
    assert_eq!(rig.decider.phase(PoolId(0)), Phase::Home);
    let generations: Vec<u64> = rig
        .stored
        .iter()
        .map(|(_, record)| record.generation)
        .collect();
    assert!(generations.is_sorted_by(|a, b| a < b), "{generations:?}");
}

#[test]
fn a_pair_that_comes_to_the_file_begins_with_its_record() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    let mut next = (**rig.decider.topology()).clone();
    pair_up(&mut next, &automatic());
    rig.reload(next);
    rig.set_pool(0, Truth::Killed);
    rig.until(ms(15_000), |decider| {
        decider.phase(PoolId(0)) == Phase::Away
    });
}
