//! Two sites with two pairs between them, decided for by a real decider: what tests of pairs look
//! at is what the daemon would show.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::health::{Answer, ProbeOutcome};
use crate::observe::counters::{OwnFaultCounters, WorkerCounters};
use crate::observe::onset::{Onsets, PairTroubles};
use crate::observe::shortage::Shortages;
use crate::observe::view::{Ceiling, EventLog, LimitedBy, Room, View};
use crate::observe::{status, why};
use crate::pairing::pair::{Destination, Halt, Move};
use crate::pairing::{Decider, Output, Record, Standing};

/// `fe-seoul` and `med-seoul` in seoul, `fe-busan` and `med-busan` in busan. The pair `korea` of the
/// front ends is automatic and spills, `media` of the others is manual and does not.
pub(crate) fn pair_topology() -> Topology {
    let front_end = |id, name| pool(id, name, "front-end", &["fe1", "fe2", "fe3"], &["sip"]);
    let mediation = |id, name| pool(id, name, "mediation", &["m1", "m2"], &["sip"]);
    let mut pools = vec![
        front_end(0, "fe-seoul"),
        mediation(1, "med-seoul"),
        front_end(2, "fe-busan"),
        mediation(3, "med-busan"),
    ];
    for pool in &mut pools[2..] {
        pool.site = Some(SiteId(1));
    }
    let site = |name: &str, region: &str| Site {
        name: name.to_owned(),
        region: Some(region.to_owned()),
    };
    let pair = |id, name: &str, pools, automation| Pair {
        id: PairId(id),
        name: name.to_owned(),
        pools,
        rules: PairRules {
            failover: automation,
            after: Duration::from_secs(10),
            failback: automation,
            hold: Duration::from_secs(300),
            longest_hold: Duration::from_secs(600),
            ramp: Duration::from_secs(95),
        },
        spill: automation == Automation::Automatic,
        exclusive: false,
        move_rate: NonZeroU32::MIN,
        arrivals: NonZeroU32::MIN,
    };
    Topology {
        sites: vec![site("seoul", "kr-north"), site("busan", "kr-south")],
        pools,
        pairs: vec![
            pair(0, "korea", [PoolId(0), PoolId(2)], Automation::Automatic),
            pair(1, "media", [PoolId(1), PoolId(3)], Automation::Manual),
        ],
    }
}

/// An instance for [`pair_topology`], with the world around it: members, a disk, time.
pub(crate) struct Plight {
    pub(crate) topology: Arc<Topology>,
    pub(crate) decider: Decider,
    pub(crate) now: Time,
    /// Members that refuse connections.
    pub(crate) down: BTreeSet<MemberId>,
    /// Why nothing can be written, while that is so.
    pub(crate) disk: Option<String>,
    /// Whether the disk is so slow that no record gets written.
    pub(crate) slow: bool,
    pub(crate) to_move: u64,
    pub(crate) drains_until: Option<Time>,
    /// Home pools that spill.
    pub(crate) spilling: Vec<PoolId>,
    pub(crate) record_problem: Option<String>,
    pub(crate) flows: Option<Ceiling>,
    pub(crate) onsets: Onsets,
    pub(crate) workers: Vec<Arc<WorkerCounters>>,
    pub(crate) events: Events,
    pub(crate) state: RunState,
}

impl Plight {
    /// Ten seconds after the start; everybody is well and at home.
    pub(crate) fn new() -> Plight {
        Plight::with(Vec::new())
    }

    /// The same, with these records as they were read from the disk.
    pub(crate) fn with(records: Vec<(Record, bool)>) -> Plight {
        let topology = Arc::new(pair_topology());
        let workers = (0..2).map(|_| Arc::new(WorkerCounters::new(&topology)));
        let mut plight = Plight {
            decider: Decider::new(topology.clone(), Standing::default(), records, 7, NOW),
            workers: workers.collect(),
            topology,
            now: NOW,
            down: BTreeSet::new(),
            disk: None,
            slow: false,
            to_move: 0,
            drains_until: None,
            spilling: Vec::new(),
            record_problem: None,
            flows: None,
            onsets: Onsets::new(&pair_topology()),
            events: Events::new(),
            state: RunState::Serving,
        };
        plight.run(10_000);
        plight
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        self.drain();
        self.note_onsets();
        while let Some((due, _)) = self.decider.poll_timeout()
            && due <= end
        {
            self.now = self.now.max(due);
            self.decider.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
        self.note_onsets();
    }

    /// What the daemon does once a second.
    fn note_onsets(&mut self) {
        for pair in &self.topology.pairs {
            let halt = self.decider.pair(pair.id).halt();
            let troubles = PairTroubles {
                halted: matches!(halt, Some(Halt::Alarm | Halt::Damaged)),
                record: self.record_problem.is_some() && pair.id == PairId(0),
                unwritten: self.decider.unwritten(pair.id).is_some(),
            };
            self.onsets.handle_pair(pair.id, troubles, self.now);
        }
        for pool in &self.topology.pools {
            let is_spilling = self.spilling.contains(&pool.id);
            self.onsets.handle_spilling(pool.id, is_spilling, self.now);
        }
    }

    pub(crate) fn pool(&self, name: &str) -> PoolId {
        self.topology.pool_named(name).unwrap().id
    }

    /// Has all members of a pool refuse, or answer again.
    pub(crate) fn set(&mut self, pool: &str, down: bool) {
        let members = self.topology.pool_named(pool).unwrap().members.clone();
        for member in members {
            match down {
                true => self.down.insert(member.id),
                false => self.down.remove(&member.id),
            };
        }
    }

    /// Takes a pool down, and waits until it is lost.
    pub(crate) fn lose(&mut self, pools: &[&str]) {
        for pool in pools {
            self.set(pool, true);
        }
        for _ in 0..100 {
            let lost = |pool: &&str| self.decider.condition(self.pool(pool)).0 == Condition::Lost;
            if pools.iter().all(lost) {
                return;
            }
            self.run(100);
        }
        panic!("{pools:?} were not lost");
    }

    /// `alice` orders it.
    pub(crate) fn order(&mut self, pool: &str, to: Destination) {
        let (pair, side) = self.topology.pair_of(self.pool(pool)).unwrap();
        let order = Move {
            side,
            to,
            by: "alice".to_owned(),
            reason: Some("kernel update".to_owned()),
            now: false,
            force: false,
        };
        self.decider.handle_move(pair.id, &order, self.now).unwrap();
        self.drain();
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&View<'_>) -> T) -> T {
        let started = clock();
        look(&View {
            name: "seoul-1",
            site: None,
            state: self.state,
            started: NOW,
            room: Room {
                descriptors: 65_536,
                sessions: Ceiling {
                    most: 20_000,
                    each: 10_000,
                    by: LimitedBy::Descriptors,
                },
                flows: self.flows,
            },
            store_problem: None,
            reload_refused: None,
            event_log: &EventLog::default(),
            earlier: &[],
            decider: &self.decider,
            topology: &self.topology,
            workers: &self.workers,
            own_faults: &OwnFaultCounters::default(),
            load: &|_| 0,
            address: &|_| None,
            checks: &|_| CheckTotals::default(),
            exchanges: &|_| vec![],
            onsets: &self.onsets,
            shortages: &Shortages::new(&self.topology),
            to_move: &|_| self.to_move,
            drains_until: &|_| self.drains_until,
            spilling: &|pool| self.spilling.contains(&pool),
            record_problem: &|pair| self.record_problem.clone().filter(|_| pair == PairId(0)),
            events: &self.events,
            access: None,
            servers: &[],
            now: self.now,
            wall: started.wall + started.now.until(self.now),
        })
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            version: "0.1.0".to_owned(),
            ..self.look(status::status)
        }
    }

    pub(crate) fn why(&self, name: &str) -> Why {
        self.look(|view| why::why(view, name)).unwrap()
    }

    /// What was told of redirects, alarms, sites and the like, oldest first.
    pub(crate) fn story(&self) -> Vec<String> {
        use crate::observe::events::Kind;
        let events = self.events.since(0).into_iter();
        let told = events.filter(|event| {
            !matches!(
                event.kind,
                Kind::Verdict | Kind::Condition | Kind::Service | Kind::First
            )
        });
        told.map(|event| event.text).collect()
    }

    fn drain(&mut self) {
        while let Some(output) = self.decider.poll_output() {
            match output {
                Output::Probe(target) => {
                    let answer = match self.down.contains(&target.member()) {
                        true => Answer::Bad(Failure::Refused),
                        false => Answer::Good,
                    };
                    let outcome = ProbeOutcome {
                        answer,
                        took: Duration::ZERO,
                        transcript: String::new(),
                    };
                    self.decider.handle_probe(target, &outcome, self.now);
                }
                Output::Store(_, _) if self.slow => {}
                Output::Store(pair, record) => {
                    let stored = self.disk.clone().map_or(Ok(()), Err);
                    self.decider
                        .handle_stored(pair, record.generation, stored, self.now);
                }
                Output::Tell(event) => {
                    let at = clock().stamp(self.now);
                    self.events.tell(&self.topology, &event, self.now, at);
                }
                Output::End { .. } | Output::Publish | Output::Remember | Output::Clear { .. } => {}
            }
        }
    }
}
