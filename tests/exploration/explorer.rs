//! Goes through every world that can be reached, breadth first, and then looks for circles among
//! the steps that are taken when nothing happens but time passing and writes succeeding.
//!
//! Of each world only a fingerprint is kept, with how it was first reached: so the way to one that
//! breaks a law can be told.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

use twinpool::time::Time;
use twinpool::topology::PairRules;

use crate::laws::{self, Wrong};
use crate::world::{Event, World, events, longest};

/// What was gone through.
pub(crate) struct Report {
    pub(crate) states: usize,
    pub(crate) transitions: usize,
    pub(crate) depth: usize,
    pub(crate) took: Duration,
}

/// How a world was first reached, and what follows when nothing more happens.
struct Known {
    from: u64,
    event: u8,
    calm: Option<u64>,
    /// Whether it has been shown to come to rest.
    rests: bool,
}

type Seen = HashMap<u64, Known, BuildHasherDefault<Ready>>;

/// Goes through all worlds that follow from a first start; panics with the way to the first that
/// breaks a law.
pub(crate) fn explore(rules: &PairRules, tick: Duration) -> Report {
    let began = Instant::now();
    let mut events = events();
    events.push(Event::Pass(tick));
    let first = World::new(rules.clone(), Time::ZERO + longest(rules)).folded(rules);
    let mut seen = Seen::default();
    let mut transitions = 0;
    let mut depth = 0;
    let start = fingerprint(&first);
    seen.insert(
        start,
        Known {
            from: start,
            event: 0,
            calm: None,
            rests: false,
        },
    );
    let mut level = vec![(start, first.clone())];
    while !level.is_empty() {
        depth += 1;
        let mut next_level = Vec::new();
        for (id, world) in level {
            let broken = |what: Wrong, last: Option<&Event>| -> ! {
                tell(rules, &events, &seen, &first, id, last);
                panic!("{what}");
            };
            if let Err(what) = laws::check_urgent(rules, &world) {
                broken(what, None);
            }
            let calm = match laws::calm(rules, &world) {
                Some((next, ..)) => Some(fingerprint(&next.folded(rules))),
                None => {
                    if let Err(what) = laws::check_rest(rules, &world) {
                        broken(what, None);
                    }
                    None
                }
            };
            let mut found = Vec::new();
            for (nth, event) in events.iter().enumerate() {
                let Some((after, trace)) = world.after(event, rules) else {
                    continue;
                };
                transitions += 1;
                if let Err(what) = laws::check(rules, &world, event, &after, &trace) {
                    broken(what, Some(event));
                }
                if trace.refused.is_some() {
                    continue;
                }
                let folded = after.folded(rules);
                let reached = fingerprint(&folded);
                found.push((reached, nth as u8, folded));
            }
            for (reached, event, folded) in found {
                seen.entry(reached).or_insert_with(|| {
                    next_level.push((reached, folded));
                    Known {
                        from: id,
                        event,
                        calm: None,
                        rests: false,
                    }
                });
            }
            if let Some(known) = seen.get_mut(&id) {
                known.calm = calm;
                known.rests = calm.is_none();
            }
        }
        level = next_level;
    }
    if let Some(circle) = find_circle(&mut seen) {
        tell(rules, &events, &seen, &first, circle, None);
        panic!("left alone, it goes round in a circle from here");
    }
    Report {
        states: seen.len(),
        transitions,
        depth,
        took: began.elapsed(),
    }
}

/// A world from which, left alone, no rest is reached.
fn find_circle(seen: &mut Seen) -> Option<u64> {
    let all: Vec<u64> = seen.keys().copied().collect();
    for from in all {
        let mut way = Vec::new();
        let mut at = from;
        while !seen[&at].rests {
            way.push(at);
            if way.len() > seen.len() {
                return Some(at);
            }
            at = seen[&at].calm.expect("what does not rest goes on");
        }
        for world in way {
            if let Some(known) = seen.get_mut(&world) {
                known.rests = true;
            }
        }
    }
    None
}

/// Prints the way to a world, and the event that broke a law there.
fn tell(
    rules: &PairRules,
    events: &[Event],
    seen: &Seen,
    first: &World,
    to: u64,
    last: Option<&Event>,
) {
    let mut way = Vec::new();
    let mut at = to;
    while seen[&at].from != at {
        way.push(&events[usize::from(seen[&at].event)]);
        at = seen[&at].from;
    }
    way.reverse();
    println!("{rules:?}");
    let mut world = first.clone();
    for event in way.into_iter().chain(last) {
        println!("{event:?}");
        if let Some((after, trace)) = world.after(event, rules) {
            for record in &trace.stores {
                println!("    writes {}", said(record));
            }
            world = after.folded(rules);
        }
        println!("    in force {}", said(world.machine.record()));
    }
    println!("{world:#?}");
}

fn said(record: &twinpool::pairing::Record) -> String {
    let [first, second] = record
        .entries
        .each_ref()
        .map(|entry| format!("{} by {:?} ({:?})", entry.phase, entry.by, entry.cause));
    let (generation, rounds) = (record.generation, record.rounds);
    let alarm = if record.alarm { ", alarm" } else { "" };
    format!("{generation}: {first}; {second}; {rounds} rounds{alarm}")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            states,
            transitions,
            depth,
            took,
        } = self;
        write!(
            f,
            "{states} states, {transitions} transitions, {depth} deep, in {:.1} s",
            took.as_secs_f64()
        )
    }
}

/// Stands for a world. That two of a million share one has a chance of one in thirty million.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = Mixer(0x243f_6a88_85a3_08d3);
    world.hash(&mut hasher);
    hasher.finish()
}

/// A quick hash of good spread: multiply to twice the width, and fold.
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, word: u64) {
        let wide = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (wide as u64 ^ (wide >> 64) as u64).wrapping_add(0x1319_8a2e_0370_7344);
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }
}

/// A fingerprint is hash enough.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are keys");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}
