//! The roster of one service, and the choice from it.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use super::hash::{name_key, score};
use crate::time::Time;
use crate::topology::Policy;

/// Draws that land on a member that has been tried, is full or is still starting slowly, before a
/// scan settles it: enough that with one usable member in two a scan is one in 64.
const REDRAWS: usize = 6;

/// Loads that differ by one session and by less than one in so many are alike.
const SLACK: f64 = 32.0;

/// The least share of its weight that a member starting slowly gets, so that it gets anything.
const FLOOR: f64 = 1.0 / 32.0;

/// Who may be chosen for one service, in which order of preference.
#[derive(Debug, Default)]
pub struct Roster {
    seats: Box<[Seat]>,
    tiers: Vec<Tier>,
    policy: Policy,
    slow_start: Duration,
}

/// A member as the balancer sees it.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its place in its pool's members, which is the same in every roster.
    pub member: u16,
    /// Its share of new sessions relative to the others'.
    pub weight: u32,
    /// How many sessions it may hold.
    pub limit: Option<NonZeroU32>,
    /// When it came back, where slow start may still lower its share.
    pub returned: Option<Time>,
    key: u64,
    tier: u8,
}

/// A run of seats that are preferred alike.
#[derive(Debug)]
struct Tier {
    seats: Range<usize>,
    /// Running sums of the weights, where they differ.
    sums: Option<Box<[u64]>>,
    /// The earliest return of those in it: `None` when one needs no slow start.
    eldest: Option<Time>,
}

/// A seat, by its place in the list that the roster was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice(pub usize);

/// Why there is no choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeat {
    /// No member is usable.
    Empty,
    /// Members are usable, and all that have not been tried are full.
    Full,
    /// Every member has been tried.
    Tried,
}

/// The members that a session has tried, bounded by the most attempts there can be.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    members: [u16; Tried::MOST],
    len: usize,
}

/// What choices of one service carry from one to the next, on one worker.
#[derive(Debug)]
pub struct Lane {
    state: Cell<u64>,
    turn: Cell<u64>,
}

impl Seat {
    /// A member named `name`, of the tier that `backup` and `last_resort` put it in.
    pub fn new(
        member: u16,
        name: &str,
        weight: u32,
        limit: Option<NonZeroU32>,
        returned: Option<Time>,
        backup: bool,
        last_resort: bool,
    ) -> Seat {
        Seat {
            member,
            weight,
            limit,
            returned,
            key: name_key(name),
            tier: match (last_resort, backup) {
                (false, false) => 0,
                (false, true) => 1,
                (true, _) => 2,
            },
        }
    }

    /// Seats sort by tier; a roster wants them sorted.
    pub fn tier(&self) -> u8 {
        self.tier
    }
}

impl Roster {
    /// A roster of `seats`, sorted by [`Seat::tier`].
    pub fn new(seats: Vec<Seat>, policy: Policy, slow_start: Duration) -> Roster {
        debug_assert!(seats.is_sorted_by_key(Seat::tier));
        let mut tiers = Vec::new();
        for run in seats.chunk_by(|a, b| a.tier == b.tier) {
            let start = tiers.last().map_or(0, |tier: &Tier| tier.seats.end);
            tiers.push(Tier::new(start, run));
        }
        Roster {
            seats: seats.into_boxed_slice(),
            tiers,
            policy,
            // Shares are parts of it; with none they are full at once.
            slow_start: slow_start.max(Duration::from_nanos(1)),
        }
    }

    /// Whether nobody is usable.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// How many are usable, in whichever tier.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Chooses for the client with this key; `load` tells a seat's load.
    pub fn choose(
        &self,
        client: u64,
        tried: &Tried,
        lane: &Lane,
        now: Time,
        load: impl Fn(usize) -> u32,
    ) -> Result<Choice, NoSeat> {
        self.choose_open(client, tried, lane, now, load, |_| true)
    }

    /// [`Roster::choose`], where a seat that is not `open` is as if it were full.
    pub fn choose_open(
        &self,
        client: u64,
        tried: &Tried,
        lane: &Lane,
        now: Time,
        load: impl Fn(usize) -> u32,
        open: impl Fn(usize) -> bool,
    ) -> Result<Choice, NoSeat> {
        if self.is_empty() {
            return Err(NoSeat::Empty);
        }
        let has_room = |seat: usize| {
            !tried.contains(self.seats[seat].member)
                && self.seats[seat].limit.is_none_or(|l| load(seat) < l.get())
        };
        let free = |seat: usize| has_room(seat) && open(seat);
        for tier in &self.tiers {
            if tier
                .seats
                .clone()
                .all(|seat| tried.contains(self.seats[seat].member))
            {
                continue;
            }
            let chosen = match self.policy {
                Policy::LeastConnections => self.less_loaded(tier, lane, now, &free, &load),
                Policy::Random => self.draw(tier, lane, now, &free),
                Policy::RoundRobin => self.in_turn(tier, lane, now, &free),
                Policy::Source => {
                    // Who is due at a member that takes nobody now waits for it: two members for
                    // one client are worse than a moment's wait.
                    let own = self.by_hash(tier, client, &has_room);
                    own.filter(|&seat| open(seat))
                }
                Policy::First => tier.seats.clone().find(|&seat| free(seat)),
            };
            return chosen.map(Choice).ok_or(NoSeat::Full);
        }
        Err(NoSeat::Tried)
    }

    /// The power of two choices (Mitzenmacher 2001): two members drawn at random by weight, the
    /// one with the smaller load for its weight taken. Two *distinct* members: a hung one, whose
    /// load only grows, then loses every comparison.
    ///
    /// A difference within [`SLACK`] decides nothing. Without it a member that happens to hold one
    /// session more than the others may get no connect for seconds, and a death that no client
    /// runs into is seen by probes alone, later.
    fn less_loaded(
        &self,
        tier: &Tier,
        lane: &Lane,
        now: Time,
        free: &impl Fn(usize) -> bool,
        load: &impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let one = self.draw(tier, lane, now, free)?;
        let Some(other) = self.draw(tier, lane, now, &|seat| seat != one && free(seat)) else {
            return Some(one);
        };
        let share = |seat| self.ramp(tier, seat, now) * f64::from(self.seats[seat].weight);
        let cost = |seat| f64::from(load(seat) + 1) / share(seat);
        let (ours, slack) = (cost(one), 1.0 / share(one));
        let better = cost(other) + slack + ours / SLACK < ours;
        Some(if better { other } else { one })
    }

    /// One member at random by weight and slow start, among those that are `free`.
    fn draw(
        &self,
        tier: &Tier,
        lane: &Lane,
        now: Time,
        free: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        for _ in 0..REDRAWS {
            let seat = tier.at(lane.draw());
            if free(seat) && self.ramp(tier, seat, now) >= lane.fraction() {
                return Some(seat);
            }
        }
        let start = tier.at(lane.draw());
        tier.from(start).find(|&seat| free(seat))
    }

    /// Each in turn. Unequal weights follow a golden-ratio sequence over the running sums, which
    /// spreads a heavy member's turns evenly among the others'.
    fn in_turn(
        &self,
        tier: &Tier,
        lane: &Lane,
        now: Time,
        free: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        /// 2^64 divided by the golden ratio.
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..tier.seats.len().min(REDRAWS) {
            let turn = lane.turn.replace(lane.turn.get().wrapping_add(1));
            let seat = match &tier.sums {
                None => tier.seats.start + (turn % tier.seats.len() as u64) as usize,
                Some(_) => tier.at(turn.wrapping_mul(GOLDEN)),
            };
            if free(seat) && self.ramp(tier, seat, now) >= lane.fraction() {
                return Some(seat);
            }
        }
        let start = tier.at(lane.draw());
        tier.from(start).find(|&seat| free(seat))
    }

    /// The best score for this client among those that are `free`. Slow start does not apply: a
    /// client has a right to its member.
    fn by_hash(&self, tier: &Tier, client: u64, free: &impl Fn(usize) -> bool) -> Option<usize> {
        let of = |seat: usize| score(client, self.seats[seat].key, self.seats[seat].weight);
        tier.seats
            .clone()
            .filter(|&seat| free(seat))
            .max_by(|&a, &b| of(a).total_cmp(&of(b)))
    }

    /// How much of its weight a seat has by slow start, relative to the seat that has most.
    fn ramp(&self, tier: &Tier, seat: usize, now: Time) -> f64 {
        let Some(returned) = self.seats[seat].returned else {
            return 1.0;
        };
        let grown = |since: Time| {
            let share = now.since(since).as_secs_f64() / self.slow_start.as_secs_f64();
            share.clamp(FLOOR, 1.0)
        };
        grown(returned) / tier.eldest.map_or(1.0, grown)
    }
}

impl Tier {
    fn new(start: usize, seats: &[Seat]) -> Tier {
        let even = seats.iter().all(|seat| seat.weight == seats[0].weight);
        let mut sum = 0u64;
        Tier {
            seats: start..start + seats.len(),
            sums: (!even).then(|| {
                seats
                    .iter()
                    .map(|seat| {
                        sum += u64::from(seat.weight);
                        sum
                    })
                    .collect()
            }),
            eldest: seats.iter().map(|seat| seat.returned).min().flatten(),
        }
    }

    /// The seat that a uniform draw from all of `u64` falls on, by weight.
    fn at(&self, draw: u64) -> usize {
        let scale = |bound: u64| ((u128::from(draw) * u128::from(bound)) >> 64) as u64;
        self.seats.start
            + match &self.sums {
                None => scale(self.seats.len() as u64) as usize,
                Some(sums) => {
                    let point = scale(sums[sums.len() - 1]);
                    sums.partition_point(|&sum| sum <= point)
                }
            }
    }

    /// All seats, from `start` on and around.
    fn from(&self, start: usize) -> impl Iterator<Item = usize> + use<> {
        (start..self.seats.end).chain(self.seats.start..start)
    }
}

impl Tried {
    /// The most attempts that a session may make.
    pub const MOST: usize = 16;

    /// Adds a member; beyond [`Tried::MOST`] the oldest is forgotten.
    pub fn add(&mut self, member: u16) {
        self.members[self.len % Tried::MOST] = member;
        self.len += 1;
    }

    /// Whether none was tried.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    fn contains(&self, member: u16) -> bool {
        self.members[..self.len.min(Tried::MOST)].contains(&member)
    }
}

impl Lane {
    /// A lane whose draws follow from `seed`.
    pub fn new(seed: u64) -> Lane {
        Lane {
            state: Cell::new(seed),
            turn: Cell::new(seed >> 32),
        }
    }

    /// The next draw (splitmix64).
    fn draw(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A draw from [0, 1).
    fn fraction(&self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
