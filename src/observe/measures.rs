//! [`Measures`]: what is measured of an instance and only metrics show, beside a
//! [`Status`](super::status::Status): histograms, and what else nobody reads as a number.
//!
//! ```text
//! workers' counters ─┐
//! control thread's  ─┴─► measures(view, sources) ─► Measures ─► /metrics
//! ```
//!
//! Everything is summed over workers here, when it is asked for; nothing is kept.

use std::collections::HashMap;

use super::counters::{Counter, MemberCounters};
use super::histogram::{ConnectTimes, Distribution, LagTimes, SessionTimes};
use super::reloads::{Outcome, Reloads};
use super::stamp::Stamp;
use super::view::View;
use crate::pairing::Event;
use crate::topology::{Member, Pool, PoolId, Service, TargetId};

/// The revision that was built, where the build was told it.
pub const REVISION: Option<&str> = option_env!("TWINPOOL_REVISION");

/// What the daemon lends beside its [`View`].
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// What became of reloads.
    pub reloads: &'a Reloads,
    /// What was decided.
    pub transitions: &'a Transitions,
    /// How many wait in a home pool's queue now.
    pub queue: &'a dyn Fn(PoolId) -> u64,
    /// How long probes of a target took, by what came of them.
    pub checks: &'a dyn Fn(TargetId) -> Vec<(&'static str, Distribution)>,
    /// Probes that wait for others to come back.
    pub probes_waiting: u64,
}

/// What is measured of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Measures {
    /// The version that runs.
    pub version: &'static str,
    /// The revision that was built; empty when the build was not told.
    pub revision: &'static str,
    /// What became of reloads.
    pub reloads: Reloaded,
    /// Probes that wait for others to come back.
    pub probes_waiting: u64,
    /// Transitions by kind.
    pub transitions: Vec<(&'static str, u64)>,
    /// How late each worker's ticks came.
    pub lag: Vec<Distribution>,
    /// In file order.
    pub pools: Vec<PoolMeasures>,
}

/// What became of reloads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reloaded {
    /// Those that are in force.
    pub applied: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Whether the last one was applied; the start counts as one.
    pub last_applied: bool,
    /// When that was.
    pub last: Stamp,
    /// Configurations that were in force since the start.
    pub generation: u64,
}

/// What is measured of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolMeasures {
    /// Its name.
    pub name: String,
    /// How many wait in its queue now.
    pub queue: u64,
    /// How often its condition changed.
    pub conditions: u64,
    /// In file order.
    pub services: Vec<ServiceMeasures>,
    /// In file order.
    pub members: Vec<MemberMeasures>,
}

/// What is measured of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceMeasures {
    /// Its name.
    pub name: String,
    /// How long clients waited for a member.
    pub waits: Distribution,
    /// How long sessions lasted.
    pub lasted: Distribution,
}

/// What is measured of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberMeasures {
    /// Its name.
    pub name: String,
    /// Bytes that it was sent.
    pub bytes_in: u64,
    /// Bytes that it sent.
    pub bytes_out: u64,
    /// How long it took to accept.
    pub connects: Distribution,
    /// How long its sessions lasted.
    pub lasted: Distribution,
    /// One for each service of its pool, in file order.
    pub targets: Vec<TargetMeasures>,
}

/// What is measured of a member for a service.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetMeasures {
    /// The service's name.
    pub service: String,
    /// How often the verdict changed.
    pub verdicts: u64,
    /// How long probes took, by what came of them.
    pub checks: Vec<(&'static str, Distribution)>,
}

/// How often what was decided, counted on the control thread.
#[derive(Debug, Default)]
pub struct Transitions {
    kinds: [Counter; KINDS.len()],
    verdicts: HashMap<TargetId, u64>,
    conditions: HashMap<PoolId, u64>,
}

/// The words of [`kind`], all of them shown from the start.
const KINDS: [&str; 13] = [
    "verdict",
    "condition",
    "service",
    "operator",
    "deadline",
    "first",
    "isolation",
    "redirect",
    "alarm",
    "store",
    "pause",
    "site",
    "spill",
];

/// What is measured, at the moment of the view.
pub fn measures(view: &View<'_>, sources: &Sources<'_>) -> Measures {
    let reloads = sources.reloads;
    let (last_applied, last) = match &reloads.last {
        None => (true, view.started),
        Some((outcome, at)) => (*outcome == Outcome::InForce, *at),
    };
    let pools = view.topology.pools.iter();
    Measures {
        version: env!("CARGO_PKG_VERSION"),
        revision: REVISION.unwrap_or_default(),
        reloads: Reloaded {
            applied: reloads.in_force,
            refused: reloads.refused,
            last_applied,
            last: view.clock().stamp(last),
            generation: reloads.in_force + 1,
        },
        probes_waiting: sources.probes_waiting,
        transitions: sources.transitions.by_kind(),
        lag: view
            .workers
            .iter()
            .map(|worker| LagTimes::total([&**worker.lag].into_iter()))
            .collect(),
        pools: pools.map(|pool| of_pool(view, sources, pool)).collect(),
    }
}

fn of_pool(view: &View<'_>, sources: &Sources<'_>, pool: &Pool) -> PoolMeasures {
    let services = pool.services.iter();
    let members = pool.members.iter();
    PoolMeasures {
        name: pool.name.clone(),
        queue: (sources.queue)(pool.id),
        conditions: sources.transitions.conditions(pool.id),
        services: services.map(|service| of_service(view, service)).collect(),
        members: members
            .map(|member| of_member(view, sources, pool, member))
            .collect(),
    }
}

fn of_service(view: &View<'_>, service: &Service) -> ServiceMeasures {
    let each = || view.workers.iter().map(|w| w.service(service.id));
    ServiceMeasures {
        name: service.name.clone(),
        waits: ConnectTimes::total(each().map(|c| &c.waits)),
        lasted: SessionTimes::total(each().map(|c| &c.lasted)),
    }
}

fn of_member(
    view: &View<'_>,
    sources: &Sources<'_>,
    pool: &Pool,
    member: &Member,
) -> MemberMeasures {
    let each = || view.workers.iter().map(|w| w.member(member.id));
    let sum = |read: fn(&MemberCounters) -> u64| each().map(|c| read(c)).sum();
    let targets = pool.services.iter().map(|service| {
        let target = member.id.target(service.id);
        TargetMeasures {
            service: service.name.clone(),
            verdicts: sources.transitions.verdicts(target),
            checks: (sources.checks)(target),
        }
    });
    MemberMeasures {
        name: member.name.clone(),
        bytes_in: sum(|c| c.bytes_in.get()),
        bytes_out: sum(|c| c.bytes_out.get()),
        connects: ConnectTimes::total(each().map(|c| &c.connects)),
        lasted: SessionTimes::total(each().map(|c| &c.lasted)),
        targets: targets.collect(),
    }
}

impl Transitions {
    /// Counts one.
    pub fn count(&mut self, event: &Event) {
        let kind = kind(event);
        let at = KINDS.iter().position(|known| *known == kind);
        if let Some(counter) = at.and_then(|at| self.kinds.get(at)) {
            counter.add(1);
        }
        match event {
            Event::Verdict { target, .. } => *self.verdicts.entry(*target).or_default() += 1,
            Event::Condition { pool, .. } => *self.conditions.entry(*pool).or_default() += 1,
            _ => {}
        }
    }

    /// Goes on under another topology: `target` and `pool` tell the new id of what is still there.
    pub fn succeed(
        &mut self,
        target: impl Fn(TargetId) -> Option<TargetId>,
        pool: impl Fn(PoolId) -> Option<PoolId>,
    ) {
        let verdicts = self.verdicts.drain();
        self.verdicts = verdicts
            .filter_map(|(id, count)| Some((target(id)?, count)))
            .collect();
        let conditions = self.conditions.drain();
        self.conditions = conditions
            .filter_map(|(id, count)| Some((pool(id)?, count)))
            .collect();
    }

    /// How many of each kind.
    pub fn by_kind(&self) -> Vec<(&'static str, u64)> {
        let counts = self.kinds.iter().map(Counter::get);
        KINDS.into_iter().zip(counts).collect()
    }

    fn verdicts(&self, target: TargetId) -> u64 {
        self.verdicts.get(&target).copied().unwrap_or_default()
    }

    fn conditions(&self, pool: PoolId) -> u64 {
        self.conditions.get(&pool).copied().unwrap_or_default()
    }
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Verdict { .. } => "verdict",
        Event::Condition { .. } => "condition",
        Event::Service { .. } => "service",
        Event::Operator { .. } => "operator",
        Event::Deadline { .. } => "deadline",
        Event::First { .. } => "first",
        Event::Isolation { .. } => "isolation",
        Event::Redirect { .. } => "redirect",
        Event::Alarm { .. } => "alarm",
        Event::Unwritten { .. } => "store",
        Event::Pause { .. } => "pause",
        Event::Site { .. } => "site",
        Event::Spill { .. } => "spill",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Reason, Verdict};
    use crate::observe::sample::{ago, measures};
    use crate::pairing::Condition;

    fn verdict(target: TargetId) -> Event {
        Event::Verdict {
            target,
            from: Verdict::Unknown,
            to: Verdict::Up,
            reason: Reason::Answered,
        }
    }

    fn target(member: u16) -> TargetId {
        PoolId(0).member(member).target(PoolId(0).service(0))
    }

    #[test]
    fn transitions_are_counted_by_kind_and_by_whose_they_are() {
        let mut transitions = Transitions::default();
        for member in [0, 0, 1] {
            transitions.count(&verdict(target(member)));
        }
        transitions.count(&Event::Condition {
            pool: PoolId(0),
            from: Condition::Serving,
            to: Condition::Lost,
            present: 0,
            need: 1,
        });
        transitions.count(&Event::Pause {
            pause: None,
            by: None,
        });
        let counted: Vec<_> = transitions.by_kind();
        let counted: Vec<_> = counted.into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [("verdict", 3), ("condition", 1), ("pause", 1)]);
        assert_eq!(transitions.verdicts(target(0)), 2);
        assert_eq!(transitions.conditions(PoolId(0)), 1);
        assert_eq!(transitions.conditions(PoolId(1)), 0);
    }

    #[test]
    fn who_is_still_there_after_a_reload_keeps_its_count_and_others_begin_anew() {
        let mut transitions = Transitions::default();
        transitions.count(&verdict(target(0)));
        transitions.count(&verdict(target(1)));
        // The first member is gone; the second one moved up to its place.
        let now = |old| (old == target(1)).then(|| target(0));
        transitions.succeed(now, |_| None);
        transitions.count(&verdict(target(0)));
        assert_eq!(transitions.verdicts(target(0)), 2);
        assert_eq!(transitions.verdicts(target(1)), 0);
        assert_eq!(transitions.by_kind()[0], ("verdict", 3));
    }

    #[test]
    fn a_refused_reload_is_told_and_leaves_the_generation() {
        let reloads = measures().reloads;
        assert_eq!((reloads.applied, reloads.refused), (1, 1));
        assert_eq!((reloads.last_applied, reloads.generation), (false, 2));
    }

    #[test]
    fn what_workers_measured_is_summed_and_lag_is_told_by_worker() {
        let measures = measures();
        let pool = &measures.pools[0];
        assert_eq!((pool.name.as_str(), pool.queue), ("fe-seoul", 3));
        assert_eq!(pool.services[0].waits.count(), 2);
        let member = &pool.members[0];
        assert_eq!((member.bytes_in, member.bytes_out), (800, 1_800));
        assert_eq!(member.lasted.sum, 80.0);
        assert_eq!(member.targets[0].verdicts, 1);
        assert_eq!(measures.lag.iter().map(Distribution::count).sum::<u64>(), 2);
        assert_eq!(measures.lag.len(), 2);
        assert_eq!(measures.reloads.last, ago(0));
    }
}
