use std::cell::RefCell;
use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const HOME: PoolId = PoolId(0);
const TWIN: PoolId = PoolId(1);
const BEGIN: Time = Time::from_millis(1_000_000);

fn rate(rate: u32) -> NonZeroU32 {
    NonZeroU32::new(rate).expect("not zero")
}

fn after(millis: u64) -> Time {
    BEGIN + Duration::from_millis(millis)
}

/// Workers with sessions of HOME's users on one pool's members: those from before the move, and
/// newer ones, which must be let be.
#[derive(Clone, Debug)]
struct Rig {
    moves: Moves,
    now: Time,
    old: RefCell<Vec<u64>>,
    new: Vec<u64>,
    /// Told, and not over yet: by worker, when they will be.
    ending: RefCell<Vec<VecDeque<(Time, u64)>>>,
    /// How long a told session takes to be over.
    lag: Duration,
    told: Vec<(Time, u64)>,
    job: Option<u64>,
}

impl Rig {
    fn new(old: &[u64]) -> Rig {
        Rig {
            moves: Moves::default(),
            now: BEGIN,
            old: RefCell::new(old.to_vec()),
            new: vec![0; old.len()],
            ending: RefCell::new(vec![VecDeque::new(); old.len()]),
            lag: Duration::ZERO,
            told: Vec::new(),
            job: None,
        }
    }

    fn left(&self) -> Vec<u64> {
        let mut ending = self.ending.borrow_mut();
        let mut old = self.old.borrow_mut();
        for (worker, queue) in ending.iter_mut().enumerate() {
            while queue.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, n) = queue.pop_front().expect("it was there");
                old[worker] -= n;
            }
        }
        old.iter()
            .zip(&self.new)
            .map(|(old, new)| old + new)
            .collect()
    }

    /// Does what is due at `now`.
    fn step(&mut self) {
        let left = self.left();
        let slices = self.moves.handle_timeout(self.now, |_, _| left.clone());
        for slice in slices {
            // A new number is about all that stand there now.
            if self
                .job
                .replace(slice.job)
                .is_some_and(|job| job != slice.job)
            {
                for (old, new) in self.old.borrow_mut().iter_mut().zip(&mut self.new) {
                    *old += std::mem::take(new);
                }
            }
            let mut sum = 0;
            for (worker, &most) in slice.most.iter().enumerate() {
                let queue = &mut self.ending.borrow_mut()[worker];
                let doomed: u64 = queue.iter().map(|(_, n)| n).sum();
                let ended = most.min(self.old.borrow()[worker] - doomed);
                queue.push_back((self.now + self.lag, ended));
                sum += most;
            }
            self.told.push((self.now, sum));
        }
    }

    /// Goes on until nothing is due any more, each time later than it should be by `late`.
    fn run(&mut self, late: impl Fn(usize) -> Duration) {
        for turn in 0..100_000 {
            let Some(due) = self.moves.poll_timeout() else {
                return;
            };
            self.now = self.now.max(due) + late(turn);
            self.step();
        }
        panic!("it never ends: {:?}", self.moves);
    }

    fn total(&self) -> u64 {
        self.told.iter().map(|(_, n)| n).sum()
    }

    /// The most that was told within any second.
    fn fastest(&self) -> u64 {
        let second = |from: Time| {
            let within = self.told.iter().filter(|(at, _)| *at >= from);
            let within = within.filter(|(at, _)| *at < from + Duration::from_secs(1));
            within.map(|(_, n)| n).sum()
        };
        self.told
            .iter()
            .map(|(at, _)| second(*at))
            .max()
            .unwrap_or(0)
    }
}

fn at_once(_: usize) -> Duration {
    Duration::ZERO
}

#[test]
fn sessions_are_ended_at_the_rate_from_the_moment_on_that_was_given() {
    let mut rig = Rig::new(&[40, 10]);
    rig.moves.begin(HOME, TWIN, after(60_000), rate(20), BEGIN);
    rig.run(at_once);
    let slices: Vec<(Time, u64)> = rig.told.iter().copied().filter(|(_, n)| *n > 0).collect();
    assert_eq!(slices.len(), 25);
    assert_eq!(slices[0], (after(60_000), 2));
    assert_eq!(slices[24], (after(62_400), 2));
    assert_eq!(rig.left(), [0, 0]);
}

#[test]
fn each_worker_ends_in_proportion_to_what_it_holds() {
    let mut rig = Rig::new(&[300, 100, 0]);
    rig.moves.begin(HOME, TWIN, BEGIN, rate(400), BEGIN);
    rig.step();
    assert_eq!(rig.moves.to_move(HOME, |_, _| rig.left()), 360);
    rig.now = after(500);
    assert_eq!(rig.left(), [270, 90, 0]);
}

#[test]
fn a_slow_rate_is_kept_by_slices_of_none() {
    let mut rig = Rig::new(&[3]);
    rig.moves.begin(HOME, TWIN, BEGIN, rate(1), BEGIN);
    rig.run(at_once);
    let ended: Vec<Time> = rig
        .told
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(ended, [after(900), after(1_900), after(2_900)]);
}

#[test]
fn the_first_slice_is_for_every_worker_even_where_it_is_of_none() {
    let mut moves = Moves::default();
    moves.begin(HOME, HOME, BEGIN, rate(10), BEGIN);
    let slices = moves.handle_timeout(BEGIN, |_, _| vec![0, 0, 0]);
    assert_eq!(slices.len(), 1);
    assert!(slices[0].first);
    assert_eq!(slices[0].most, [0, 0, 0]);
}

#[test]
fn those_that_come_after_the_ending_began_are_let_be() {
    let mut rig = Rig::new(&[10]);
    rig.moves.begin(HOME, TWIN, BEGIN, rate(20), BEGIN);
    rig.step();
    rig.new = vec![50];
    rig.run(at_once);
    assert_eq!(rig.total(), 10);
    assert_eq!(rig.left(), [50]);
}

#[test]
fn who_arrives_late_at_the_pool_that_users_left_is_found_and_ended() {
    let mut rig = Rig::new(&[10]);
    rig.moves.begin(HOME, HOME, BEGIN, rate(100), BEGIN);
    rig.step();
    rig.new = vec![3];
    rig.run(at_once);
    assert_eq!(rig.left(), [0]);
    assert!(rig.now >= after(100 + 2 * 5_000));
}

#[test]
fn what_a_worker_missed_is_told_again() {
    let mut rig = Rig::new(&[10]);
    rig.moves.begin(HOME, TWIN, BEGIN, rate(100), BEGIN);
    // Told into the void.
    let told = rig.moves.handle_timeout(BEGIN, |_, _| vec![10]);
    assert_eq!(told[0].most, [10]);
    rig.moves.handle_missed();
    rig.run(at_once);
    assert_eq!(rig.left(), [0]);
}

#[test]
fn a_pool_moves_until_its_sessions_are_ended_and_at_least_while_it_settles() {
    let mut moves = Moves::default();
    assert!(!moves.is_moving(HOME, BEGIN));
    moves.begin(HOME, HOME, after(60_000), rate(10), BEGIN);
    assert!(moves.is_moving(HOME, after(29_999)));
    assert!(!moves.is_moving(HOME, after(59_999)), "they drain");
    assert_eq!(moves.drains_until(HOME), Some(after(60_000)));
    assert!(moves.is_moving(HOME, after(60_000)));
    assert_eq!(moves.to_move(HOME, |_, _| vec![2, 3]), 5);
    let nobody = |_, _| vec![0, 0];
    assert_eq!(moves.to_move(TWIN, nobody), 0);
    moves.handle_timeout(after(60_000), nobody);
    assert!(!moves.is_moving(HOME, after(60_000)));
    moves.begin(HOME, TWIN, BEGIN, rate(10), BEGIN);
    moves.handle_timeout(BEGIN, nobody);
    assert!(moves.is_moving(HOME, after(29_999)));
    assert_eq!(
        moves.poll_timeout(),
        Some(BEGIN + STRAGGLERS),
        "to learn of what was missed"
    );
    moves.handle_timeout(BEGIN + STRAGGLERS, nobody);
    assert_eq!(moves.poll_timeout(), Some(BEGIN + SETTLING));
    moves.handle_timeout(BEGIN + SETTLING, nobody);
    assert!(!moves.is_moving(HOME, after(30_000)));
    assert_eq!(moves.poll_timeout(), None);
}

#[test]
fn a_move_replaces_the_one_before_it() {
    let mut moves = Moves::default();
    moves.begin(HOME, HOME, after(600_000), rate(10), BEGIN);
    moves.begin(HOME, TWIN, BEGIN, rate(10), BEGIN);
    let slices = moves.handle_timeout(BEGIN, |_, off| vec![u64::from(off == TWIN) * 5]);
    assert_eq!(slices.len(), 1);
    assert_eq!((slices[0].off, slices[0].job), (TWIN, 2));
}

proptest! {
    #[test]
    fn the_rate_is_never_exceeded_and_all_are_ended(
        there in prop::collection::vec(0..300u64, 1..5),
        per_second in 1..500u32,
        lag in 0..3_000u64,
        late in prop::collection::vec(0..300u64, 1..20),
        new in 0..50u64,
        leaves in any::<bool>(),
    ) {
        let mut rig = Rig::new(&there);
        rig.lag = Duration::from_millis(lag);
        let off = if leaves { HOME } else { TWIN };
        rig.moves.begin(HOME, off, after(500), rate(per_second), BEGIN);
        rig.now = after(500);
        rig.step();
        rig.new[0] = new;
        rig.run(|turn| Duration::from_millis(late[turn % late.len()]));
        prop_assert!(rig.fastest() <= u64::from(per_second), "{} a second", rig.fastest());
        prop_assert!(rig.told[0].0 >= after(500));
        rig.now += Duration::from_secs(10);
        let stays = if leaves { 0 } else { new };
        prop_assert_eq!(rig.left().iter().sum::<u64>(), stays);
    }

    #[test]
    fn a_move_that_is_cancelled_ends_nothing_more(
        there in prop::collection::vec(0..300u64, 1..5),
        per_second in 1..500u32,
        slices in 0..30u64,
    ) {
        let mut rig = Rig::new(&there);
        rig.moves.begin(HOME, HOME, BEGIN, rate(per_second), BEGIN);
        for slice in 0..slices {
            rig.now = after(slice * 100);
            rig.step();
        }
        let before = rig.total();
        rig.moves.cancel(HOME, rig.now);
        rig.run(at_once);
        prop_assert_eq!(rig.total(), before);
        prop_assert_eq!(rig.moves.to_move(HOME, |_, _| rig.left()), 0);
    }

    #[test]
    fn a_share_is_in_proportion_and_never_more_than_there_is(
        open in prop::collection::vec(0..1_000u64, 1..9),
        part in 0..=100u64,
    ) {
        let all: u64 = open.iter().sum();
        let most = all * part / 100;
        let shares = shares(most, &open);
        prop_assert_eq!(shares.iter().sum::<u64>(), most);
        for (share, open) in shares.iter().zip(&open) {
            prop_assert!(share <= open);
            prop_assert!((share * all).abs_diff(most * open) < all.max(1), "{shares:?} of {open}");
        }
    }
}
