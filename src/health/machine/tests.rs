use proptest::prelude::*;

use super::*;
use Verdict::{Busy, Down, Unknown, Up};

const GOOD: Answer = Answer::Good;
const HARD: Answer = Answer::Bad(Failure::Refused);
const SOFT: Answer = Answer::Bad(Failure::Unavailable);
const OWN: Answer = Answer::OwnFault(OwnFault::Descriptors);

fn rules() -> Rules {
    Rules {
        interval: Duration::from_millis(1000),
        in_doubt: Duration::from_millis(250),
        jitter: 0.1,
        fall: 3,
        rise: 2,
        flap: 5,
    }
}

/// A machine and a clock that moves to each probe and lets it take 10 ms.
struct Asked {
    machine: Machine,
    now: Time,
}

impl Asked {
    fn new() -> Asked {
        let now = Time::from_millis(1000);
        Asked {
            machine: Machine::new(rules(), now, now),
            now,
        }
    }

    /// Answers one probe and makes the turn that follows.
    fn answer(&mut self, answer: Answer) -> Option<Turn> {
        self.now = self.machine.next_probe().expect("no probe is out");
        self.machine.handle_ask(self.now);
        self.now += Duration::from_millis(10);
        self.machine.handle_answer(answer, self.now, 1.0);
        self.machine.turn(self.now)
    }

    fn answers(&mut self, answers: &[Answer]) -> Verdict {
        for &answer in answers {
            self.answer(answer);
        }
        self.verdict()
    }

    fn evidence(&mut self) -> Option<Turn> {
        self.machine
            .handle_evidence(Failure::ConnectTimeout, self.now);
        self.machine.turn(self.now)
    }

    fn verdict(&self) -> Verdict {
        self.machine.verdict().0
    }

    fn gap(&self) -> Duration {
        let next = self.machine.next_probe().expect("no probe is out");
        (self.now - 10).until(next)
    }
}

impl std::ops::Sub<u64> for Time {
    type Output = Time;

    fn sub(self, millis: u64) -> Time {
        Time::from_nanos(self.as_nanos() - millis * 1_000_000)
    }
}

fn after(answers: &[Answer]) -> Asked {
    let mut asked = Asked::new();
    asked.answers(answers);
    asked
}

fn up() -> Asked {
    after(&[GOOD])
}

fn busy() -> Asked {
    after(&[GOOD, SOFT, SOFT, SOFT])
}

fn flapping() -> Asked {
    after(&[GOOD, SOFT, GOOD, SOFT, GOOD, SOFT, GOOD, SOFT, GOOD, SOFT])
}

fn down() -> Asked {
    after(&[GOOD, HARD, HARD, HARD])
}

/// Where `runs` of the same answer lead from each state: the whole transition table.
#[test]
fn every_state_meets_every_run_of_answers() {
    use Answer as A;
    type Row = (&'static str, fn() -> Asked, A, [Verdict; 6]);
    let table: [Row; 20] = [
        ("unknown", Asked::new, GOOD, [Up, Up, Up, Up, Up, Up]),
        (
            "unknown",
            Asked::new,
            HARD,
            [Unknown, Unknown, Down, Down, Down, Down],
        ),
        (
            "unknown",
            Asked::new,
            SOFT,
            [Unknown, Unknown, Busy, Busy, Busy, Busy],
        ),
        ("unknown", Asked::new, OWN, [Unknown; 6]),
        ("up", up, GOOD, [Up; 6]),
        ("up", up, HARD, [Up, Up, Down, Down, Down, Down]),
        ("up", up, SOFT, [Up, Up, Busy, Busy, Busy, Busy]),
        ("up", up, OWN, [Up; 6]),
        ("busy", busy, GOOD, [Busy, Up, Up, Up, Up, Up]),
        ("busy", busy, HARD, [Busy, Busy, Down, Down, Down, Down]),
        ("busy", busy, SOFT, [Busy; 6]),
        ("busy", busy, OWN, [Busy; 6]),
        ("flapping", flapping, GOOD, [Busy, Busy, Busy, Busy, Up, Up]),
        (
            "flapping",
            flapping,
            HARD,
            [Busy, Busy, Down, Down, Down, Down],
        ),
        ("flapping", flapping, SOFT, [Busy; 6]),
        ("flapping", flapping, OWN, [Busy; 6]),
        ("down", down, GOOD, [Down, Up, Up, Up, Up, Up]),
        ("down", down, HARD, [Down; 6]),
        ("down", down, SOFT, [Down, Down, Busy, Busy, Busy, Busy]),
        ("down", down, OWN, [Down; 6]),
    ];
    for (name, start, answer, expected) in table {
        let mut asked = start();
        let met: Vec<Verdict> = (0..6).map(|_| asked.answers(&[answer])).collect();
        assert_eq!(met, expected, "{name} × {answer:?}");
    }
}

#[test]
fn every_turn_says_why() {
    let failed = Reason::Failed;
    let mut asked = Asked::new();
    let first = asked.answer(GOOD).unwrap();
    assert_eq!(
        (first.from, first.to, first.reason),
        (Unknown, Up, Reason::Answered)
    );
    asked.answers(&[HARD, HARD]);
    let fell = asked.answer(Answer::Bad(Failure::NoAnswer)).unwrap();
    assert_eq!(
        (fell.from, fell.to, fell.reason),
        (Up, Down, failed(Failure::NoAnswer))
    );
    asked.answers(&[SOFT, SOFT]);
    let eased = asked.answer(Answer::Bad(Failure::Status(500))).unwrap();
    assert_eq!(
        (eased.to, eased.reason),
        (Busy, failed(Failure::Status(500)))
    );
    assert_eq!(flapping().machine.verdict().1, Reason::Flapping);
}

#[test]
fn a_soft_failure_clears_the_hard_ones_before_it() {
    let mut asked = up();
    assert_eq!(asked.answers(&[HARD, HARD, SOFT]), Busy);
    assert_eq!(asked.answers(&[HARD, HARD]), Busy);
    assert_eq!(asked.answers(&[HARD]), Down);
}

#[test]
fn a_hard_failure_clears_the_soft_ones_that_bring_a_dead_member_back() {
    let mut asked = down();
    assert_eq!(asked.answers(&[SOFT, SOFT, HARD, SOFT, SOFT]), Down);
    assert_eq!(asked.answers(&[SOFT]), Busy);
}

#[test]
fn a_success_clears_every_failure() {
    let mut asked = up();
    assert_eq!(asked.answers(&[HARD, HARD, GOOD, HARD, HARD]), Up);
    assert_eq!(asked.machine.failures().count, 2);
}

#[test]
fn a_failure_clears_every_success() {
    assert_eq!(down().answers(&[GOOD, HARD, GOOD]), Down);
    assert_eq!(
        flapping().answers(&[GOOD, GOOD, GOOD, GOOD, SOFT, GOOD]),
        Busy
    );
}

#[test]
fn only_a_run_of_successes_clears_the_count_of_flaps() {
    let mut asked = up();
    asked.answers(&[SOFT, GOOD, SOFT, GOOD, GOOD, GOOD, GOOD]);
    assert_eq!(asked.machine.flaps(), 2);
    asked.answers(&[GOOD]);
    assert_eq!(asked.machine.flaps(), 0);
}

#[test]
fn a_death_is_not_flapping() {
    let mut asked = down();
    assert_eq!(asked.machine.flaps(), 0);
    assert_eq!(asked.answers(&[GOOD, GOOD]), Up);
    assert_eq!(asked.answers(&[HARD, HARD, HARD, GOOD, GOOD]), Up);
}

#[test]
fn a_member_that_has_flapped_starts_from_nought_when_it_is_up_again() {
    let mut asked = flapping();
    assert_eq!(asked.answers(&[GOOD; 5]), Up);
    assert_eq!(asked.machine.flaps(), 0);
    assert_eq!(asked.answers(&[SOFT]), Up);
}

#[test]
fn evidence_supplies_all_but_one_and_a_probe_confirms() {
    let mut asked = up();
    for _ in 0..1000 {
        assert_eq!(asked.evidence(), None);
    }
    let run = asked.machine.failures();
    assert_eq!((run.count, run.from_evidence), (2, 2));
    assert_eq!(asked.answer(HARD).map(|turn| turn.to), Some(Down));
}

#[test]
fn evidence_after_a_failed_probe_completes_the_run() {
    let mut asked = up();
    asked.answer(HARD);
    assert_eq!(asked.evidence(), None);
    assert_eq!(asked.evidence().map(|turn| turn.to), Some(Down));
}

#[test]
fn evidence_supplies_nothing_where_one_failure_is_enough() {
    let mut asked = up();
    asked.machine.rules.fall = 1;
    assert_eq!(asked.evidence(), None);
    assert_eq!(asked.machine.failures(), Run::default());
}

#[test]
fn evidence_is_hard_but_never_flapping() {
    let mut asked = up();
    for _ in 0..20 {
        asked.evidence();
        asked.answer(GOOD);
    }
    assert_eq!((asked.verdict(), asked.machine.flaps()), (Up, 0));
    asked.evidence();
    asked.evidence();
    assert_eq!(asked.answer(SOFT).map(|turn| turn.to), Some(Busy));
}

#[test]
fn evidence_about_a_dead_member_is_ignored() {
    let mut asked = down();
    let (before, next) = (asked.machine.failures(), asked.machine.next_probe());
    asked.evidence();
    assert_eq!(asked.machine.failures(), before);
    assert_eq!(asked.machine.next_probe(), next);
}

#[test]
fn it_is_asked_an_interval_after_the_last_start_and_sooner_in_doubt() {
    let (calm, doubt) = (Duration::from_millis(1000), Duration::from_millis(250));
    assert_eq!(up().gap(), calm);
    assert_eq!(after(&[GOOD, HARD]).gap(), doubt);
    assert_eq!(after(&[HARD]).gap(), doubt, "unknown");
    assert_eq!(after(&[OWN]).gap(), doubt, "own fault");
    assert_eq!(
        after(&[GOOD, OWN]).gap(),
        doubt,
        "own fault of one that is up"
    );
    assert_eq!(down().gap(), calm);
    assert_eq!(
        after(&[GOOD, HARD, HARD, HARD, GOOD]).gap(),
        doubt,
        "rising"
    );
    assert_eq!(
        after(&[GOOD, HARD, HARD, HARD, SOFT]).gap(),
        doubt,
        "easing"
    );
    assert_eq!(busy().gap(), calm);
    assert_eq!(
        after(&[GOOD, SOFT, SOFT, SOFT, HARD]).gap(),
        doubt,
        "sinking"
    );
    let mut flapped = flapping();
    flapped.answer(GOOD);
    assert_eq!(flapped.gap(), doubt);
}

#[test]
fn the_swing_stretches_the_interval() {
    let mut asked = up();
    asked.now = asked.machine.next_probe().unwrap();
    asked.machine.handle_ask(asked.now);
    let start = asked.now;
    asked.machine.handle_answer(GOOD, start, 1.1);
    assert_eq!(
        asked.machine.next_probe(),
        Some(start + Duration::from_millis(1100))
    );
}

#[test]
fn it_is_never_asked_before_the_last_probe_came_back() {
    let mut asked = up();
    asked.now = asked.machine.next_probe().unwrap();
    asked.machine.handle_ask(asked.now);
    assert_eq!(asked.machine.next_probe(), None);
    asked.now += Duration::from_millis(500);
    asked.machine.handle_answer(HARD, asked.now, 1.0);
    assert_eq!(asked.machine.next_probe(), Some(asked.now));
}

#[test]
fn evidence_pulls_the_next_probe_but_not_without_limit() {
    let mut asked = up();
    let started = asked.now - 10;
    asked.evidence();
    assert_eq!(
        asked.machine.next_probe(),
        Some(started + Duration::from_millis(125))
    );
    let mut later = up();
    later.now += Duration::from_millis(600);
    later.evidence();
    assert!(later.machine.next_probe() <= Some(later.now));
}

#[test]
fn news_while_a_probe_is_out_pulls_another_though_the_first_was_answered() {
    let mut asked = up();
    asked.now = asked.machine.next_probe().unwrap();
    asked.machine.handle_ask(asked.now);
    let started = asked.now;
    asked.evidence();
    asked.now += Duration::from_millis(200);
    asked.machine.handle_answer(GOOD, asked.now, 1.0);
    assert_eq!(asked.machine.failures(), Run::default());
    assert!(asked.now.since(started) > Duration::from_millis(125));
    assert_eq!(asked.machine.next_probe(), Some(asked.now));
}

#[test]
fn an_answer_that_nobody_asked_for_changes_nothing() {
    let mut asked = up();
    asked.machine.handle_answer(HARD, asked.now, 1.0);
    assert_eq!(asked.machine.failures(), Run::default());
}

#[test]
fn a_turn_that_is_held_back_stays_due_until_an_answer_clears_it() {
    let mut asked = up();
    for _ in 0..4 {
        asked.now = asked.machine.next_probe().unwrap();
        asked.machine.handle_ask(asked.now);
        asked.machine.handle_answer(HARD, asked.now, 1.0);
    }
    assert_eq!(asked.machine.due().map(|turn| turn.to), Some(Down));
    assert_eq!(asked.answer(GOOD), None);
    assert_eq!(asked.machine.due(), None);
}

#[test]
fn forgiving_leaves_no_doubt() {
    let mut asked = up();
    asked.answers(&[HARD, HARD]);
    asked.machine.forgive();
    assert!(!asked.machine.in_doubt());
    assert_eq!(asked.answers(&[HARD, HARD]), Up);
}

#[test]
fn what_comes_next_is_told_with_its_earliest_moment() {
    let mut asked = up();
    assert_eq!(asked.machine.next_turn(), None);
    asked.answer(HARD);
    let next = asked.machine.next_probe().unwrap();
    assert_eq!(
        asked.machine.next_turn(),
        Some((Down, next + Duration::from_millis(250)))
    );
    asked.answer(SOFT);
    let next = asked.machine.next_probe().unwrap();
    assert_eq!(asked.machine.next_turn(), Some((Busy, next)));
    let down = down();
    let next = down.machine.next_probe().unwrap();
    assert_eq!(
        down.machine.next_turn(),
        Some((Up, next + Duration::from_millis(250)))
    );
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Answer(Answer),
    Evidence(Failure),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Answer(GOOD)),
        3 => Just(Op::Answer(HARD)),
        2 => Just(Op::Answer(SOFT)),
        1 => Just(Op::Answer(OWN)),
        2 => Just(Op::Evidence(Failure::ConnectTimeout)),
        1 => Just(Op::Evidence(Failure::Refused)),
        1 => (0..400u64).prop_map(Op::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold(
        ops in prop::collection::vec(op(), 1..200),
        fall in 1..5u32,
        rise in 1..4u32,
        flap in 1..8u32,
    ) {
        let mut now = Time::from_millis(1000);
        let mut machine = Machine::new(Rules { fall, rise, flap, ..rules() }, now, now);
        // A second account of the same, kept by listing what was met since the last good answer.
        let (mut probes, mut goods) = (Vec::<Severity>::new(), 0u32);
        let mut last_start: Option<Time> = None;
        for op in ops {
            let before = machine.verdict().0;
            match op {
                Op::Wait(millis) => now += Duration::from_millis(millis),
                Op::Evidence(failure) => {
                    machine.handle_evidence(failure, now);
                    if let (Some(start), Some(next)) = (last_start, machine.next_probe()) {
                        prop_assert!(next >= start + rules().in_doubt / 2);
                        prop_assert!(next <= (start + rules().interval).max(now));
                    }
                    if before != Down && fall > 1 {
                        goods = 0;
                    }
                }
                Op::Answer(answer) => {
                    now = now.max(machine.next_probe().unwrap());
                    last_start = Some(now);
                    machine.handle_ask(now);
                    machine.handle_answer(answer, now, 1.0);
                    match answer {
                        Answer::Good => {
                            probes.clear();
                            goods += 1;
                        }
                        Answer::Bad(failure) => {
                            probes.push(failure.severity());
                            goods = 0;
                        }
                        Answer::OwnFault(_) => {}
                    }
                }
            }
            let run = machine.failures();
            prop_assert!(run.from_evidence < fall);
            prop_assert!(run.count <= run.from_evidence + probes.len() as u32);
            if let Some(turn) = machine.turn(now) {
                prop_assert_eq!(turn.from, before);
                prop_assert_ne!(turn.from, turn.to);
                match turn.to {
                    Unknown => prop_assert!(false, "nothing becomes unknown"),
                    Up => prop_assert!(goods >= 1 && probes.is_empty()),
                    // No verdict falls by evidence alone.
                    Down => {
                        prop_assert!(probes.contains(&Severity::Hard));
                    }
                    Busy => prop_assert!(!probes.is_empty()),
                }
                if turn.to == Up && turn.from != Unknown {
                    prop_assert!(goods >= rise.min(flap));
                }
            }
            prop_assert_eq!(machine.due(), None, "one input, one turn");
        }
    }
}
