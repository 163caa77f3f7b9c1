//! A siege: a proxy that serves ordinary clients, first in peace, then beside hostile ones.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::daemon::{Told, events, resident};
use super::load::{Report, Running};
use super::proxies::Proxy;
use super::scene::{CLIENT, Plan, Scene};
use super::{Result, hostile, load};

/// How long hostile clients are left to gather before ordinary ones are watched.
const GATHER: Duration = Duration::from_secs(4);
/// How often memory is read.
const SAMPLE: Duration = Duration::from_millis(250);
/// What memory may grow by, KiB for each connection that hostile clients hold open: eight times
/// what an idle connection is to cost, for buffers that are in use at the time.
const GROWTH_EACH: u64 = 16;

/// What was seen of a siege.
#[derive(Debug)]
pub(crate) struct Siege {
    /// What ordinary clients saw in peace.
    pub(crate) peace: Report,
    /// What ordinary clients saw beside hostile ones.
    pub(crate) siege: Report,
    /// What a twinpool told from the first hostile client on.
    pub(crate) told: Vec<Told>,
    /// Resident memory before the siege, KiB.
    pub(crate) memory_before: u64,
    /// The most that it was, KiB.
    pub(crate) memory_most: u64,
}

impl Siege {
    /// Lays one: ordinary clients alone for `peace`, then beside hostile ones for `span`.
    pub(crate) fn lay(proxy: Proxy, peace: Duration, span: Duration) -> Result<Siege> {
        let mut scene = Scene::new(Plan {
            proxy,
            pools: 1,
            paired: false,
            two_links: false,
            silent: false,
            work: Duration::ZERO,
        })?;
        let target = scene.fronts[0].listen;
        let clients = load::start(&scene.lab, CLIENT, load::usual(target, peace))?;
        let peace_report = clients.report()?;
        let before = told(&scene, proxy)?.len();
        let memory_before = resident(scene.proxy.id())?;
        let mut enemies = hostile::attack(&mut scene, GATHER + span)?;
        sleep(GATHER);
        let clients = load::start(&scene.lab, CLIENT, load::usual(target, span))?;
        let memory_most = watch(&mut scene, proxy, clients, span)?;
        for enemy in &mut enemies {
            if let Some(status) = enemy.ended()?.filter(|status| !status.success()) {
                return Err(format!("a hostile client failed: {status}").into());
            }
        }
        Ok(Siege {
            peace: peace_report,
            siege: memory_most.1,
            told: told(&scene, proxy)?.split_off(before),
            memory_before,
            memory_most: memory_most.0,
        })
    }

    /// What is wrong with it, whatever the time that anything took.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for event in &self.told {
            if event.kind == "verdict" || event.kind == "isolation" {
                faults.push(format!("a verdict changed: {}", event.text));
            }
        }
        for (when, report) in [("in peace", &self.peace), ("in the siege", &self.siege)] {
            if report.failed().next().is_some() {
                faults.push(format!(
                    "new connections failed {when}: {}",
                    report.failures()
                ));
            }
            if let Some(end) = report.ends.first() {
                let n = report.ends.len();
                faults.push(format!("{n} long sessions were ended {when}: {end:?}"));
            }
        }
        let limit = self.memory_before + Siege::growth_allowed();
        if self.memory_most > limit {
            faults.push(format!(
                "memory grew from {} to {} KiB, more than to {limit} KiB",
                self.memory_before, self.memory_most
            ));
        }
        faults
    }

    /// What memory may grow by, KiB.
    pub(crate) fn growth_allowed() -> u64 {
        u64::from(hostile::SILENT + hostile::SILENT_OBSERVE) * GROWTH_EACH
    }
}

/// What a twinpool has told; others tell nothing that could be read.
fn told(scene: &Scene, proxy: Proxy) -> Result<Vec<Told>> {
    match proxy {
        Proxy::Twinpool => events(&scene.lab),
        Proxy::Haproxy | Proxy::Nginx | Proxy::Envoy => Ok(Vec::new()),
    }
}

/// Reads memory until the clients are through; the most of it, and what the clients saw.
fn watch(
    scene: &mut Scene,
    proxy: Proxy,
    clients: Running,
    span: Duration,
) -> Result<(u64, Report)> {
    let log = scene.log(proxy);
    let end = Instant::now() + span;
    let mut most = 0;
    while Instant::now() < end {
        scene.proxy.must_live(&log)?;
        most = most.max(resident(scene.proxy.id())?);
        sleep(SAMPLE);
    }
    Ok((most, clients.report()?))
}
