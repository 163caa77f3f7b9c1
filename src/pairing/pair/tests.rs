//! Scenarios: one for each rule and each known failure. The transition table stands in `table`.

use super::*;

mod table;

const A: Side = Side::First;
const B: Side = Side::Second;

const AFTER: Duration = Duration::from_secs(10);
const HOLD: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(1);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Everything by itself; the hold grows 60, 120, 240 s; a return takes 19 s.
fn automatic() -> PairRules {
    PairRules {
        failover: Automation::Automatic,
        after: AFTER,
        failback: Automation::Automatic,
        hold: HOLD,
        longest_hold: HOLD * 4,
        ramp: STEP * 19,
    }
}

fn by_hand() -> PairRules {
    PairRules {
        failover: Automation::Manual,
        failback: Automation::Manual,
        ..automatic()
    }
}

fn failover(side: Side) -> Move {
    Move {
        side,
        to: Destination::Twin,
        by: "ann".to_owned(),
        reason: Some("a test".to_owned()),
        now: false,
        force: false,
    }
}

fn failback(side: Side) -> Move {
    Move {
        to: Destination::Home,
        ..failover(side)
    }
}

fn now(order: Move) -> Move {
    Move { now: true, ..order }
}

fn force(order: Move) -> Move {
    Move {
        force: true,
        ..order
    }
}

/// A machine, and a disk that does as it is told.
struct Rig {
    machine: PairMachine,
    now: Time,
    disk: Disk,
    /// What was asked to be written, since when it was looked at last.
    asked: Vec<(Time, Record)>,
    /// Whether what came into force drains.
    drains: Vec<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Works,
    /// Answers nothing until it is told to do otherwise.
    Stalls,
    Fails,
}

impl Rig {
    fn new(rules: PairRules) -> Rig {
        let now = Time::from_millis(1_000_000);
        Rig::with(
            PairMachine::new(rules, Record::home(7, now), false, now),
            now,
        )
    }

    fn with(machine: PairMachine, now: Time) -> Rig {
        Rig {
            machine,
            now,
            disk: Disk::Works,
            asked: Vec::new(),
            drains: Vec::new(),
        }
    }

    /// Both pools well.
    fn well(rules: PairRules) -> Rig {
        let mut rig = Rig::new(rules);
        rig.see(A, Fitness::Well);
        rig.see(B, Fitness::Well);
        rig
    }

    /// Both pools well, and the users of one away: sent by automation, or by a person.
    fn away(rules: PairRules, side: Side, by: By) -> Rig {
        let mut rig = Rig::well(rules);
        match by {
            By::Operator(_) => rig.order(&failover(side)).unwrap(),
            By::Twinpool => {
                rig.see(side, Fitness::Lost);
                rig.pass(AFTER);
                rig.see(side, Fitness::Well);
            }
        }
        assert_eq!(rig.phase(side), Phase::Away);
        rig.asked.clear();
        rig
    }

    fn see(&mut self, side: Side, fitness: Fitness) {
        self.machine.handle_pool(side, fitness, self.now);
        self.drain();
    }

    fn order(&mut self, order: &Move) -> Result<(), MoveRefusal> {
        let done = self.machine.handle_move(order, self.now);
        self.drain();
        done
    }

    fn isolate(&mut self, isolated: bool) {
        self.machine.handle_isolated(isolated, self.now);
        self.drain();
    }

    fn pause(&mut self, paused: bool) {
        self.machine.handle_paused(paused, self.now);
        self.drain();
    }

    fn resume(&mut self) {
        assert!(self.machine.handle_resume());
        self.drain();
    }

    /// The disk answers.
    fn answer(&mut self, stored: bool) {
        let generation = self.machine.wanted().expect("a write is out").generation;
        self.machine.handle_stored(generation, stored, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                PairOutput::Store(record) => {
                    self.asked.push((self.now, record.clone()));
                    if self.disk != Disk::Stalls {
                        let stored = self.disk == Disk::Works;
                        self.machine
                            .handle_stored(record.generation, stored, self.now);
                    }
                }
                PairOutput::InForce { drain, .. } => self.drains.push(drain),
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some((at, _)) = self.machine.poll_timeout()
            && at <= end
        {
            assert!(at > self.now, "a timer in the past: {at:?}");
            self.now = at;
            self.machine.handle_timeout(at);
            self.drain();
        }
        self.now = end;
    }

    /// What a new run of twinpool begins with.
    fn restart(&mut self) {
        let record = self.machine.record().clone();
        let rules = self.machine.rules.clone();
        self.machine = PairMachine::new(rules, record, false, self.now);
    }

    fn phase(&self, side: Side) -> Phase {
        self.machine.record().phase(side)
    }

    fn phases(&self) -> [Phase; 2] {
        [self.phase(A), self.phase(B)]
    }

    fn entry(&self, side: Side) -> (Phase, Cause, By) {
        let entry = self.machine.record().entry(side);
        (entry.phase, entry.cause, entry.by.clone())
    }

    /// How many records were asked to be written since this was called last.
    fn writes(&mut self) -> usize {
        std::mem::take(&mut self.asked).len()
    }
}

fn ann() -> By {
    By::Operator("ann".to_owned())
}

const HOME: [Phase; 2] = [Phase::Home, Phase::Home];
const A_AWAY: [Phase; 2] = [Phase::Away, Phase::Home];
const B_AWAY: [Phase; 2] = [Phase::Home, Phase::Away];

fn returning(steps: u8) -> Phase {
    Phase::Returning(Share::of(steps).unwrap())
}

// Failover.

#[test]
fn the_users_of_a_lost_pool_are_on_the_twin_after_as_long_as_the_rules_say() {
    let mut rig = Rig::well(automatic());
    rig.see(A, Fitness::Lost);
    rig.pass(AFTER - Duration::from_nanos(1));
    assert_eq!((rig.phases(), rig.writes()), (HOME, 0));
    rig.pass(Duration::from_nanos(1));
    assert_eq!(rig.phases(), A_AWAY);
    assert_eq!(rig.entry(A), (Phase::Away, Cause::Lost, By::Twinpool));
    assert_eq!((rig.writes(), rig.drains), (1, vec![false]));
}

#[test]
fn a_pool_that_returns_in_time_keeps_its_users_and_the_next_loss_counts_from_zero() {
    let mut rig = Rig::well(automatic());
    for fitness in [Fitness::Low, Fitness::Well, Fitness::Unknown] {
        rig.see(A, Fitness::Lost);
        rig.pass(s(9));
        rig.see(A, fitness);
        rig.pass(s(1));
    }
    assert_eq!((rig.phases(), rig.writes()), (HOME, 0));
}

#[test]
fn where_failover_is_manual_nobody_is_sent_away_by_automation() {
    let mut rig = Rig::well(by_hand());
    rig.see(A, Fitness::Lost);
    rig.pass(s(100_000));
    assert_eq!((rig.phases(), rig.writes()), (HOME, 0));
}

#[test]
fn nobody_is_sent_to_a_twin_that_is_lost_or_not_known() {
    for fitness in [Fitness::Lost, Fitness::Unknown] {
        let mut rig = Rig::new(automatic());
        rig.see(B, fitness);
        rig.see(A, Fitness::Lost);
        rig.pass(s(100_000));
        assert_eq!((rig.phases(), rig.writes()), (HOME, 0));
    }
}

#[test]
fn a_pool_with_too_few_members_to_start_still_takes_the_users_of_a_lost_twin() {
    let mut rig = Rig::well(automatic());
    rig.see(B, Fitness::Low);
    rig.see(A, Fitness::Lost);
    rig.pass(AFTER);
    assert_eq!(rig.phases(), A_AWAY);
}

#[test]
fn when_the_pool_that_serves_both_populations_is_lost_one_transition_moves_both() {
    for by in [By::Twinpool, ann()] {
        let mut rules = automatic();
        rules.failback = Automation::Manual;
        let mut rig = Rig::away(rules, A, by);
        rig.see(B, Fitness::Lost);
        rig.pass(AFTER);
        assert_eq!((rig.phases(), rig.writes()), (B_AWAY, 1));
        assert_eq!(rig.entry(A), (Phase::Home, Cause::LeftLost, By::Twinpool));
        assert_eq!(rig.entry(B), (Phase::Away, Cause::Lost, By::Twinpool));
    }
}

// Both lost.

#[test]
fn the_first_of_two_lost_pools_to_return_takes_both_populations_in_one_transition() {
    let phases = |rig: &Rig| rig.phases();
    for first in Side::BOTH {
        for failback in [Automation::Manual, Automation::Automatic] {
            for by in [By::Twinpool, ann()] {
                let mut rules = automatic();
                rules.failback = failback;
                let mut rig = Rig::away(rules, A, by);
                rig.see(A, Fitness::Lost);
                rig.see(B, Fitness::Lost);
                rig.pass(s(3600));
                assert_eq!((phases(&rig), rig.writes()), (A_AWAY, 0));
                rig.see(first, Fitness::Low);
                match first {
                    A => {
                        assert_eq!((phases(&rig), rig.writes()), (B_AWAY, 1));
                        assert_eq!(rig.entry(A).1, Cause::FirstToReturn);
                        assert_eq!(rig.entry(B).1, Cause::FirstToReturn);
                    }
                    B => assert_eq!((phases(&rig), rig.writes()), (A_AWAY, 0), "there already"),
                }
            }
        }
    }
}

#[test]
fn it_does_so_too_when_all_were_at_home_or_were_coming_home() {
    for first in Side::BOTH {
        let mut rig = Rig::well(automatic());
        rig.see(A, Fitness::Lost);
        rig.see(B, Fitness::Lost);
        rig.see(first, Fitness::Well);
        let to = [B_AWAY, A_AWAY][first.index()];
        assert_eq!((rig.phases(), rig.writes()), (to, 1));

        let mut rig = Rig::away(automatic(), A, ann());
        rig.order(&failback(A)).unwrap();
        rig.pass(STEP * 3);
        assert_eq!(rig.phase(A), returning(4));
        rig.disk = Disk::Stalls;
        rig.see(A, Fitness::Lost);
        rig.see(B, Fitness::Lost);
        rig.answer(false);
        rig.pass(RETRY);
        rig.disk = Disk::Works;
        rig.writes();
        rig.see(first, Fitness::Well);
        assert_eq!((rig.phases(), rig.writes()), (to, 1));
    }
}

#[test]
fn both_count_as_lost_together_though_one_of_them_was_only_for_a_moment() {
    let mut rig = Rig::well(automatic());
    rig.see(A, Fitness::Lost);
    rig.pass(s(2));
    rig.see(B, Fitness::Lost);
    rig.see(B, Fitness::Unknown);
    rig.pass(s(1));
    rig.see(B, Fitness::Low);
    assert_eq!(
        rig.phases(),
        A_AWAY,
        "without waiting for the rest of `after`"
    );
}

#[test]
fn in_a_pair_moved_by_hand_the_first_to_return_takes_nobody() {
    let mut rig = Rig::away(by_hand(), A, ann());
    rig.see(A, Fitness::Lost);
    rig.see(B, Fitness::Lost);
    rig.see(A, Fitness::Well);
    rig.pass(s(100_000));
    assert_eq!((rig.phases(), rig.writes()), (A_AWAY, 0));
}

// Failback.

#[test]
fn an_automatic_failback_waits_until_the_pool_was_well_without_a_break_for_hold() {
    let mut rig = Rig::away(automatic(), A, By::Twinpool);
    rig.pass(s(59));
    rig.see(A, Fitness::Low);
    rig.pass(s(100));
    rig.see(A, Fitness::Well);
    rig.pass(HOLD - Duration::from_nanos(1));
    assert_eq!((rig.phases(), rig.writes()), (A_AWAY, 0));
    rig.pass(Duration::from_nanos(1));
    assert_eq!(rig.entry(A), (returning(1), Cause::Held, By::Twinpool));
    assert_eq!(rig.machine.record().rounds, 1);
}

#[test]
fn a_return_takes_as_long_as_the_ramp_and_each_step_is_written() {
    let mut rig = Rig::away(automatic(), A, By::Twinpool);
    rig.pass(HOLD);
    let began = rig.machine.record().entry(A).since;
    for steps in 1..Share::STEPS {
        assert_eq!(rig.phase(A), returning(steps));
        assert_eq!(rig.machine.record().entry(A).since, began);
        rig.pass(STEP);
    }
    assert_eq!(rig.entry(A), (Phase::Home, Cause::Returned, By::Twinpool));
    assert_eq!(rig.writes(), usize::from(Share::STEPS));
}

#[test]
fn without_a_ramp_all_come_home_at_once() {
    let mut rules = automatic();
    rules.ramp = Duration::ZERO;
    let mut rig = Rig::away(rules.clone(), A, By::Twinpool);
    rig.pass(HOLD);
    assert_eq!((rig.phases(), rig.writes()), (HOME, 1));
    let mut rig = Rig::away(rules, A, ann());
    rig.order(&failback(A)).unwrap();
    assert_eq!((rig.phases(), rig.writes()), (HOME, 1));
}

#[test]
fn a_failback_from_a_lost_twin_brings_all_home_at_once_under_the_name_of_who_ordered_it() {
    let mut rig = Rig::away(by_hand(), A, ann());
    rig.see(B, Fitness::Lost);
    rig.order(&failback(A)).unwrap();
    assert_eq!(rig.entry(A), (Phase::Home, Cause::Ordered, ann()));
    assert_eq!(rig.writes(), 1);
}

#[test]
fn a_return_is_finished_at_once_when_the_twin_is_lost() {
    for rules in [automatic(), by_hand()] {
        let mut rig = Rig::away(rules, A, ann());
        rig.order(&failback(A)).unwrap();
        rig.pass(STEP * 2);
        rig.see(B, Fitness::Lost);
        assert_eq!(rig.entry(A), (Phase::Home, Cause::LeftLost, By::Twinpool));
    }
}

#[test]
fn a_return_waits_while_the_home_pool_is_not_known() {
    let mut rig = Rig::away(automatic(), A, ann());
    rig.order(&failback(A)).unwrap();
    rig.restart();
    rig.writes();
    rig.see(B, Fitness::Well);
    rig.pass(s(1000));
    assert_eq!((rig.phase(A), rig.writes()), (returning(1), 0));
    rig.see(A, Fitness::Low);
    assert_eq!(rig.phase(A), returning(2));
}

#[test]
fn where_failback_is_manual_nobody_comes_home_by_automation() {
    let mut rules = automatic();
    rules.failback = Automation::Manual;
    let mut rig = Rig::away(rules, A, By::Twinpool);
    rig.pass(s(100_000));
    assert_eq!((rig.phases(), rig.writes()), (A_AWAY, 0));
}

// Relapses, and the alarm.

#[test]
fn a_relapse_goes_away_at_once_whoever_began_the_return() {
    for rules in [automatic(), by_hand()] {
        let mut rig = Rig::away(rules, A, ann());
        rig.order(&failback(A)).unwrap();
        rig.pass(STEP * 3);
        rig.see(A, Fitness::Lost);
        assert_eq!(rig.entry(A), (Phase::Away, Cause::Relapsed, By::Twinpool));
        assert!(!rig.machine.record().alarm);
    }
}

#[test]
fn each_round_doubles_the_hold_to_its_cap_and_a_relapse_after_that_ends_automation() {
    let mut rig = Rig::away(automatic(), A, By::Twinpool);
    for (round, hold) in (1..).zip([HOLD, HOLD * 2, HOLD * 4]) {
        assert_eq!(rig.machine.hold(), hold);
        rig.pass(hold - Duration::from_nanos(1));
        assert_eq!(rig.phase(A), Phase::Away);
        rig.pass(Duration::from_nanos(1));
        assert_eq!(rig.phase(A), returning(1));
        assert_eq!(rig.machine.record().rounds, round);
        assert_eq!(rig.machine.halt(), None);
        rig.see(A, Fitness::Lost);
        rig.see(A, Fitness::Well);
        assert_eq!(rig.phase(A), Phase::Away);
    }
    assert_eq!(rig.machine.halt(), Some(Halt::Alarm));
    rig.writes();
    rig.pass(s(100_000));
    assert_eq!((rig.phase(A), rig.writes()), (Phase::Away, 0));
    rig.see(A, Fitness::Low);
    rig.resume();
    assert_eq!((rig.machine.halt(), rig.machine.hold()), (None, HOLD));
}

#[test]
fn a_pool_that_is_lost_again_after_its_last_return_is_left_and_raises_the_alarm() {
    let mut rules = automatic();
    rules.longest_hold = HOLD;
    rules.ramp = Duration::ZERO;
    let mut rig = Rig::away(rules, A, By::Twinpool);
    rig.pass(HOLD);
    assert_eq!(rig.phases(), HOME);
    rig.see(A, Fitness::Lost);
    rig.pass(AFTER);
    assert_eq!(
        (rig.phases(), rig.machine.halt()),
        (A_AWAY, Some(Halt::Alarm))
    );
}

#[test]
fn a_pair_that_stays_well_for_the_grown_hold_forgets_its_rounds() {
    let mut rig = Rig::away(automatic(), A, By::Twinpool);
    rig.pass(HOLD + STEP * 19);
    assert_eq!((rig.phases(), rig.machine.hold()), (HOME, HOLD * 2));
    rig.pass(HOLD);
    rig.see(B, Fitness::Low);
    rig.see(B, Fitness::Well);
    rig.pass(HOLD * 2 - Duration::from_nanos(1));
    assert_eq!(rig.machine.record().rounds, 1);
    rig.pass(Duration::from_nanos(1));
    assert_eq!(rig.machine.record().rounds, 0);
    assert_eq!(rig.machine.poll_timeout(), None);
}

#[test]
fn rounds_are_not_forgotten_while_automation_is_halted() {
    let mut rig = Rig::away(automatic(), A, By::Twinpool);
    rig.pass(HOLD + STEP * 19);
    rig.pause(true);
    rig.writes();
    rig.pass(HOLD * 10);
    assert_eq!((rig.machine.record().rounds, rig.writes()), (1, 0));
}

#[test]
fn a_persons_failback_begins_the_rounds_anew() {
    let mut rig = Rig::away(automatic(), A, By::Twinpool);
    rig.pass(HOLD);
    rig.see(A, Fitness::Lost);
    rig.see(A, Fitness::Well);
    assert_eq!(rig.machine.hold(), HOLD * 2);
    rig.order(&failback(A)).unwrap();
    assert_eq!(rig.machine.hold(), HOLD);
}

// Operators.

#[test]
fn a_persons_failover_is_not_undone_by_automation_while_the_twin_serves() {
    let mut rig = Rig::away(automatic(), A, ann());
    for fitness in [Fitness::Low, Fitness::Well] {
        rig.see(B, fitness);
        rig.pass(s(100_000));
        rig.see(A, Fitness::Lost);
        rig.pass(s(100));
        rig.see(A, Fitness::Well);
    }
    assert_eq!(rig.entry(A), (Phase::Away, Cause::Ordered, ann()));
    assert_eq!(rig.writes(), 0);
}

#[test]
fn in_a_pair_moved_by_hand_it_stands_even_on_a_lost_twin() {
    let mut rig = Rig::away(by_hand(), A, ann());
    rig.see(B, Fitness::Lost);
    rig.pass(s(100_000));
    assert_eq!((rig.phases(), rig.writes()), (A_AWAY, 0));
}

#[test]
fn a_failover_by_command_drains_a_pool_that_may_serve_and_cuts_one_that_is_lost() {
    let drains = |fitness, order: Move| {
        let mut rig = Rig::well(by_hand());
        rig.see(A, fitness);
        rig.order(&order).unwrap();
        rig.drains
    };
    for fitness in [Fitness::Unknown, Fitness::Low, Fitness::Well] {
        assert_eq!(drains(fitness, failover(A)), [true], "{fitness:?}");
        assert_eq!(drains(fitness, now(failover(A))), [false], "{fitness:?}");
    }
    assert_eq!(drains(Fitness::Lost, failover(A)), [false]);
}

#[test]
fn a_failover_to_a_pool_whose_users_are_away_here_is_refused_and_forced_in_one_transition() {
    let mut rig = Rig::away(by_hand(), B, ann());
    assert_eq!(rig.order(&failover(A)), Err(MoveRefusal::TwinAway));
    rig.order(&force(failover(A))).unwrap();
    assert_eq!((rig.phases(), rig.writes()), (A_AWAY, 1));
    assert_eq!(rig.entry(B), (Phase::Home, Cause::Ordered, ann()));
}

#[test]
fn a_return_can_be_hastened_or_turned_round_but_not_begun_twice() {
    let mut rig = Rig::away(by_hand(), A, ann());
    rig.order(&failback(A)).unwrap();
    let already = Err(MoveRefusal::Already(returning(1)));
    assert_eq!(rig.order(&failback(A)), already);
    rig.order(&failover(A)).unwrap();
    assert_eq!(rig.phase(A), Phase::Away);
    rig.order(&failback(A)).unwrap();
    rig.order(&now(failback(A))).unwrap();
    assert_eq!(rig.phase(A), Phase::Home);
    let already = Err(MoveRefusal::Already(Phase::Home));
    assert_eq!(rig.order(&now(failback(A))), already);
}

#[test]
fn nothing_is_ordered_while_a_change_is_being_written() {
    let mut rig = Rig::well(by_hand());
    rig.disk = Disk::Stalls;
    rig.order(&failover(A)).unwrap();
    assert_eq!(rig.order(&failover(B)), Err(MoveRefusal::Writing));
    assert_eq!(rig.order(&force(failback(A))), Err(MoveRefusal::Writing));
    assert!(!rig.machine.handle_resume());
    rig.answer(true);
    assert_eq!((rig.phases(), rig.writes()), (A_AWAY, 1));
}

// Pause, damage, isolation.

#[test]
fn while_paused_automation_begins_nothing_and_catches_up_afterwards() {
    let mut rig = Rig::well(automatic());
    rig.pause(true);
    rig.see(A, Fitness::Lost);
    rig.pass(s(1000));
    assert_eq!((rig.phases(), rig.writes()), (HOME, 0));
    rig.order(&failover(B)).unwrap_err();
    rig.pause(false);
    assert_eq!(rig.phases(), A_AWAY, "it was lost for longer than `after`");
}

#[test]
fn a_pause_holds_a_return_of_automations_own_where_it_is_and_lets_a_persons_go_on() {
    let mut rig = Rig::away(automatic(), A, By::Twinpool);
    rig.pass(HOLD + STEP);
    rig.pause(true);
    rig.pass(s(1000));
    assert_eq!(rig.phase(A), returning(2));
    rig.see(A, Fitness::Lost);
    assert_eq!(rig.phase(A), Phase::Away, "but not on a pool that is lost");

    let mut rig = Rig::away(automatic(), A, ann());
    rig.pause(true);
    rig.order(&failback(A)).unwrap();
    rig.pass(STEP * 19);
    assert_eq!(rig.entry(A), (Phase::Home, Cause::Returned, ann()));
}

#[test]
fn resume_ends_an_alarm_only_once_it_is_written() {
    let mut rules = automatic();
    rules.longest_hold = HOLD;
    let mut rig = Rig::away(rules, A, By::Twinpool);
    rig.pass(HOLD);
    rig.see(A, Fitness::Lost);
    rig.see(A, Fitness::Well);
    assert_eq!(rig.machine.halt(), Some(Halt::Alarm));
    rig.disk = Disk::Stalls;
    rig.resume();
    assert_eq!(rig.machine.halt(), Some(Halt::Alarm));
    rig.answer(false);
    assert_eq!(rig.machine.halt(), Some(Halt::Alarm));
    rig.pass(s(1000));
    rig.resume();
    rig.answer(true);
    assert_eq!(
        (rig.machine.halt(), rig.machine.record().alarm),
        (None, false)
    );
}

#[test]
fn after_a_damaged_record_automation_waits_until_a_resume_is_written() {
    let mut rig = Rig::new(automatic());
    rig.machine = PairMachine::new(automatic(), Record::home(0, rig.now), true, rig.now);
    rig.see(A, Fitness::Lost);
    rig.see(B, Fitness::Well);
    rig.pass(s(1000));
    assert_eq!((rig.machine.halt(), rig.writes()), (Some(Halt::Damaged), 0));
    rig.disk = Disk::Fails;
    rig.resume();
    assert_eq!(rig.machine.halt(), Some(Halt::Damaged));
    rig.disk = Disk::Works;
    rig.resume();
    assert_eq!((rig.machine.halt(), rig.phases()), (None, HOME));
    rig.pass(RETRY);
    assert_eq!(rig.phases(), A_AWAY);
}

#[test]
fn what_a_person_moves_after_damage_does_not_pass_for_a_resume_not_even_by_a_restart() {
    let mut rig = Rig::new(automatic());
    rig.machine = PairMachine::new(automatic(), Record::home(0, rig.now), true, rig.now);
    rig.see(A, Fitness::Well);
    rig.see(B, Fitness::Well);
    rig.order(&failover(A)).unwrap();
    rig.order(&now(failback(A))).unwrap();
    for _ in 0..2 {
        assert_eq!(rig.machine.halt(), Some(Halt::Damaged));
        rig.writes();
        rig.see(A, Fitness::Lost);
        rig.see(B, Fitness::Well);
        rig.pass(s(1000));
        assert_eq!((rig.phases(), rig.writes()), (HOME, 0));
        rig.restart();
    }
    rig.resume();
    assert_eq!(
        (rig.machine.halt(), rig.machine.record().alarm),
        (None, false)
    );
    rig.restart();
    assert_eq!(rig.machine.halt(), None);
}

#[test]
fn an_isolated_instance_moves_nobody_and_begins_anew_when_it_is_no_longer() {
    let mut rig = Rig::well(automatic());
    rig.see(A, Fitness::Lost);
    rig.pass(s(9));
    rig.isolate(true);
    rig.pass(s(1000));
    assert_eq!(rig.order(&failover(A)), Err(MoveRefusal::Isolated));
    rig.isolate(false);
    rig.pass(s(9));
    assert_eq!((rig.phases(), rig.writes()), (HOME, 0));
    rig.pass(s(1));
    assert_eq!(rig.phases(), A_AWAY);
}

#[test]
fn an_order_that_is_forced_is_carried_out_while_isolated() {
    let mut rig = Rig::well(by_hand());
    rig.isolate(true);
    rig.order(&force(failover(A))).unwrap();
    assert_eq!(rig.phases(), A_AWAY);
}

#[test]
fn that_both_were_lost_before_an_isolation_counts_for_nothing_after_it() {
    let mut rig = Rig::well(automatic());
    rig.see(A, Fitness::Lost);
    rig.see(B, Fitness::Lost);
    rig.isolate(true);
    rig.see(B, Fitness::Well);
    rig.isolate(false);
    assert_eq!(rig.writes(), 0, "A is on its way back too, as like as not");
    rig.pass(AFTER);
    assert_eq!(rig.phases(), A_AWAY);
    rig.see(A, Fitness::Lost);
    rig.see(B, Fitness::Lost);
    rig.isolate(true);
    rig.isolate(false);
    rig.see(A, Fitness::Well);
    assert_eq!(
        rig.phases(),
        B_AWAY,
        "they were seen lost together afterwards"
    );
}

#[test]
fn what_nobody_watched_counts_neither_as_lost_nor_as_well() {
    let mut rig = Rig::well(automatic());
    rig.see(A, Fitness::Lost);
    rig.pass(s(1));
    rig.now += s(3600);
    rig.machine.handle_gap(rig.now);
    rig.drain();
    assert_eq!(rig.writes(), 0);
    rig.pass(AFTER);
    rig.see(A, Fitness::Well);
    rig.pass(s(1));
    rig.now += s(3600);
    rig.machine.handle_gap(rig.now);
    rig.drain();
    rig.pass(HOLD - Duration::from_nanos(1));
    assert_eq!(rig.phase(A), Phase::Away);
    rig.pass(Duration::from_nanos(1));
    assert_eq!(rig.phase(A), returning(1));
}

#[test]
fn the_next_share_of_a_return_waits_for_a_whole_step_after_a_gap() {
    let mut rig = Rig::away(by_hand(), A, ann());
    rig.order(&failback(A)).unwrap();
    rig.now += s(3600);
    rig.machine.handle_gap(rig.now);
    rig.drain();
    rig.pass(STEP - Duration::from_nanos(1));
    assert_eq!(rig.phase(A), returning(1));
    rig.pass(Duration::from_nanos(1));
    assert_eq!(rig.phase(A), returning(2));
}

// Writing.

#[test]
fn a_record_is_in_force_when_it_is_written_and_not_before() {
    let mut rig = Rig::well(automatic());
    rig.disk = Disk::Stalls;
    rig.see(A, Fitness::Lost);
    rig.pass(s(1000));
    assert_eq!((rig.phases(), rig.writes()), (HOME, 1));
    assert_eq!(rig.machine.poll_timeout(), None);
    rig.answer(true);
    assert_eq!((rig.phases(), rig.writes()), (A_AWAY, 0));
}

#[test]
fn a_failed_write_is_never_in_force_and_its_generation_is_never_used_again() {
    let mut rig = Rig::well(automatic());
    rig.disk = Disk::Fails;
    rig.see(A, Fitness::Lost);
    rig.pass(AFTER + RETRY * 3);
    let asked = std::mem::take(&mut rig.asked);
    let generations: Vec<u64> = asked.iter().map(|(_, record)| record.generation).collect();
    assert_eq!(generations, [8, 9, 10, 11], "one each {RETRY:?}");
    assert_eq!((rig.phases(), rig.machine.record().generation), (HOME, 7));
    assert!(rig.drains.is_empty());
    rig.disk = Disk::Works;
    rig.pass(RETRY);
    assert_eq!(
        (rig.phases(), rig.machine.record().generation),
        (A_AWAY, 12)
    );
}

#[test]
fn what_no_longer_holds_is_not_tried_again() {
    let mut rig = Rig::well(automatic());
    rig.disk = Disk::Fails;
    rig.see(A, Fitness::Lost);
    rig.pass(AFTER);
    assert_eq!(rig.writes(), 1);
    rig.see(A, Fitness::Low);
    rig.pass(s(1000));
    assert_eq!(rig.writes(), 0);
}

#[test]
fn a_person_need_not_wait_for_the_retry() {
    let mut rig = Rig::well(by_hand());
    rig.disk = Disk::Fails;
    rig.order(&failover(A)).unwrap();
    rig.disk = Disk::Works;
    rig.order(&failover(A)).unwrap();
    assert_eq!(rig.phases(), A_AWAY);
}

#[test]
fn an_answer_about_another_generation_changes_nothing() {
    let mut rig = Rig::well(by_hand());
    rig.disk = Disk::Stalls;
    rig.order(&failover(A)).unwrap();
    for generation in [7, 9] {
        rig.machine.handle_stored(generation, true, rig.now);
        rig.machine.handle_stored(generation, false, rig.now);
    }
    assert!(rig.machine.wanted().is_some());
    rig.answer(true);
    assert_eq!(rig.phases(), A_AWAY);
    rig.machine.handle_stored(8, true, rig.now);
    assert_eq!((rig.machine.poll_output(), rig.writes()), (None, 1));
}

#[test]
fn what_changed_while_a_record_was_written_is_acted_upon_then() {
    let mut rig = Rig::well(automatic());
    rig.disk = Disk::Stalls;
    rig.see(A, Fitness::Lost);
    rig.pass(AFTER);
    rig.see(B, Fitness::Lost);
    rig.see(A, Fitness::Well);
    rig.disk = Disk::Works;
    rig.answer(true);
    assert_eq!(rig.phases(), B_AWAY, "both were lost, and this one is back");
}

// Start.

#[test]
fn until_the_first_probes_are_in_automation_decides_nothing() {
    for entry in [Phase::Home, Phase::Away, returning(3)] {
        let mut rig = Rig::new(automatic());
        let mut record = Record::home(3, rig.now);
        record.entries[0].phase = entry;
        record.rounds = 1;
        rig.machine = PairMachine::new(automatic(), record, false, rig.now);
        rig.pass(s(100_000));
        rig.see(A, Fitness::Unknown);
        assert_eq!((rig.phase(A), rig.writes()), (entry, 0));
    }
}

#[test]
fn after_and_hold_begin_from_zero_with_a_restart() {
    let mut rig = Rig::well(automatic());
    rig.see(A, Fitness::Lost);
    rig.pass(s(9));
    rig.restart();
    rig.see(B, Fitness::Well);
    rig.see(A, Fitness::Lost);
    rig.pass(s(9));
    assert_eq!(rig.phases(), HOME);
    rig.pass(s(1));
    assert_eq!(rig.phases(), A_AWAY);
    rig.see(A, Fitness::Well);
    rig.pass(s(59));
    rig.restart();
    rig.see(A, Fitness::Well);
    rig.see(B, Fitness::Well);
    rig.pass(s(59));
    assert_eq!(rig.phases(), A_AWAY);
    rig.pass(s(1));
    assert_eq!(rig.phase(A), returning(1));
}

#[test]
fn an_order_to_where_nobody_has_been_asked_yet_is_refused_without_force() {
    let mut rig = Rig::new(by_hand());
    assert_eq!(rig.order(&failover(A)), Err(MoveRefusal::Unknown));
    rig.order(&force(failover(A))).unwrap();
    assert_eq!(rig.order(&failback(A)), Err(MoveRefusal::Unknown));
    rig.order(&force(failback(A))).unwrap();
    assert_eq!(rig.phase(A), returning(1));
}
