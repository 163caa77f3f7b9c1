//! What is measured of [`topology`](super::topology).

use std::sync::Arc;
use std::time::Duration;

use super::{NOW, Plight, topology};
use crate::health::{Failure, Reason, Verdict};
use crate::observe::counters::WorkerCounters;
use crate::observe::histogram::CheckTimes;
use crate::observe::measures::{self, Measures, Sources, Transitions};
use crate::observe::reloads::{Outcome, Reloads};
use crate::pairing::Event;

/// Of `topology`'s pools, as two workers counted; fe1 of `fe-seoul` went down once.
pub(crate) fn measures() -> Measures {
    let mut plight = Plight::new();
    plight.topology = Arc::new(topology());
    plight.workers = (0..2)
        .map(|_| Arc::new(WorkerCounters::new(&plight.topology)))
        .collect();
    plight.measures()
}

impl Plight {
    /// What is measured, once each worker has counted a session with the first member of the first
    /// pool, which went down once.
    pub(crate) fn measures(&self) -> Measures {
        let pool = &self.topology.pools[0];
        for worker in &self.workers {
            let sip = worker.service(pool.primary);
            sip.waits.observe(Duration::from_micros(300));
            sip.lasted.observe(Duration::from_secs(40));
            let member = worker.member(pool.members[0].id);
            member.connects.observe(Duration::from_micros(200));
            member.lasted.observe(Duration::from_secs(40));
            member.bytes_in.add(400);
            member.bytes_out.add(900);
            worker.lag.observe(Duration::from_micros(700));
        }
        let mut transitions = Transitions::default();
        transitions.count(&Event::Verdict {
            target: pool.members[0].id.target(pool.primary),
            from: Verdict::Up,
            to: Verdict::Down,
            reason: Reason::Failed(Failure::Refused),
        });
        let (good, refused) = (CheckTimes::default(), CheckTimes::default());
        for _ in 0..5 {
            good.observe(Duration::from_micros(900));
        }
        refused.observe(Duration::from_micros(100));
        let mut reloads = Reloads::default();
        reloads.note(Outcome::InForce, NOW);
        reloads.note(Outcome::Refused("no such pool".to_owned()), NOW);
        let sources = Sources {
            reloads: &reloads,
            transitions: &transitions,
            queue: &|pool| u64::from(pool.index() == 0) * 3,
            checks: &|_| {
                let total = |times: &CheckTimes| CheckTimes::total([times].into_iter());
                vec![("good", total(&good)), ("refused", total(&refused))]
            },
            probes_waiting: 0,
        };
        self.look(|view| measures::measures(view, &sources))
    }
}
