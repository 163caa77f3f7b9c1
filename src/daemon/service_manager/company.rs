//! What the service manager hears while the instance runs: beats, and the status line.
//!
//! A task of the control thread. It looks at the counts and never waits for those whom it watches,
//! so it tells of a worker, or of a control loop, that is stuck; when the control thread itself is,
//! it is silent with it.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::line::{Glance, Moved, PoolGlance};
use super::pulse::Pulse;
use crate::daemon::era::Era;
use crate::daemon::hub::Hub;
use crate::observe::view::RunState;
use crate::pairing::record::Phase;
use crate::topology::Protocol;

/// The status line is told at most so often, and so often at least the time to drain is extended.
const STATUS: Duration = Duration::from_secs(1);
/// Looks in the time within which a beat has to come: those that move slowly still make it.
const LOOKS: u32 = 4;
/// As often as anybody could want.
const SOONEST: Duration = Duration::from_millis(10);

/// Keeps the service manager company for as long as the instance runs. Ends at once where there is
/// none.
pub(in crate::daemon) async fn accompany(hub: Rc<Hub>) {
    let manager = &hub.manager;
    if manager.line.is_none() {
        return;
    }
    let watchdog = manager.watchdog;
    let every = watchdog.map_or(STATUS, |within| (within / LOOKS).clamp(SOONEST, STATUS));
    let mut looks = interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pulse = Pulse::default();
    let mut beat = Instant::now();
    let mut told_stuck = false;
    let mut told: Option<Instant> = None;
    let mut last = String::new();
    loop {
        let now = looks.tick().await;
        if !manager.listens() {
            continue;
        }
        if let Some(within) = watchdog {
            let counts = hub.rounds();
            if pulse.is_due(&counts) {
                manager.beat();
                beat = now;
                told_stuck = false;
            } else if !told_stuck && now.duration_since(beat) > within / 2 {
                told_stuck = true;
                tell_stuck(&pulse, &counts, now.duration_since(beat));
            }
            // An idle loop has nothing to do for longer than the watchdog may wait.
            hub.go_round();
        }
        if told.is_some_and(|told| now.duration_since(told) < STATUS) {
            continue;
        }
        told = Some(now);
        if hub.state.get() == RunState::Draining {
            manager.drains_on();
        }
        let line = glance(&hub, &hub.era(), &manager.result.borrow()).to_string();
        if line != last {
            manager.status(&line);
            last = line;
        }
    }
}

/// Says who is stuck, before the watchdog ends all.
fn tell_stuck(pulse: &Pulse, counts: &[u64], since: Duration) {
    for index in pulse.still(counts) {
        match index.checked_sub(1) {
            None => tracing::error!("the control loop has not moved for {since:?}"),
            Some(worker) => tracing::error!("worker {worker} has not moved for {since:?}"),
        }
    }
}

fn glance<'a>(hub: &Hub, era: &'a Era, reload: &'a str) -> Glance<'a> {
    let decider = hub.decider.borrow();
    let topology = &*era.topology;
    let open = |protocol| {
        let workers = era.counters.iter();
        workers.map(|w| w.open_over(protocol)).sum()
    };
    let site = era.config.instance.site;
    let fronted = topology.pools.iter();
    let fronted = fronted.filter(|pool| site.is_none() || pool.site == site);
    Glance {
        state: hub.state.get(),
        is_isolated: decider.isolated().is_some(),
        is_paused: decider.pause().is_some(),
        pools: fronted
            .map(|pool| {
                let (condition, _, present) = decider.condition(pool.id);
                PoolGlance {
                    name: &pool.name,
                    condition,
                    present,
                    of: pool.quorum.to_stay.of_first,
                }
            })
            .collect(),
        sessions: open(Protocol::Tcp),
        flows: era.room.flows.map(|_| open(Protocol::Udp)),
        earlier: hub
            .led
            .draining()
            .iter()
            .map(|(_, sessions)| sessions)
            .sum(),
        moved: topology
            .pools
            .iter()
            .filter_map(|pool| {
                let twin = topology.twin(pool.id)?;
                let phase = decider.phase(pool.id);
                (phase != Phase::Home).then(|| Moved {
                    home: &pool.name,
                    twin: &topology.pool(twin).name,
                    phase,
                })
            })
            .collect(),
        reload,
    }
}
