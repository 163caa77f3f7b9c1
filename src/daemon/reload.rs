//! A configuration that is read anew while the instance runs.
//!
//! ```text
//! SIGHUP, `reload` ─► read ─► validates? ─► may it be put in force here? ─► bind what is new
//!                                                                              │
//!        workers adopt ◄─ one moment of the control loop: everything renumbered ┘
//! ```
//!
//! It is applied as a difference: whatever [`Succession`] finds again goes on untouched. It is put
//! in force as a whole or not at all; whoever asked, the log and the status are told which, and
//! why not. Until the last step nothing that runs has changed; the last step cannot fail.
//!
//! Commands wait while a reload is under way, because they name things by ids; a reload waits for
//! commands, and for records that are being written. Automation does not wait for anybody: what it
//! did meanwhile is looked at again in the last step.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::era::Era;
use super::hub::{Hub, Inputs, clock_at, flows_wanted, room};
use super::logs;
use super::records::{Newcomers, Records};
use super::{StartError, take_bound_addresses};
use crate::clock;
use crate::config::{self, Config, Loaded};
use crate::control::reload::{forgotten, overlapping, refusals, stranded};
use crate::health::probe::Prober;
use crate::health::runner;
use crate::observe::desk::Refused;
use crate::observe::reloads::Outcome;
use crate::observe::view::RunState;
use crate::pairing::Decider;
use crate::pairing::legacy::Question;
use crate::pairing::record::{Phase, Record};
use crate::proxy::listen::{self, Given, Listener};
use crate::proxy::{Adoption, Limits, source_ports};
use crate::time::Time;
use crate::topology::{PairId, PoolId, Protocol, ServiceId, Succession, TargetId, Topology};

/// How long a reload waits for commands that are under way: the slowest takes a few seconds.
pub(super) const COMMANDS: Duration = Duration::from_secs(20);
/// How long the file may take to be read, and the access log to be opened.
const READING: Duration = Duration::from_secs(5);
/// How long it waits for records that are being written.
const WRITES: Duration = Duration::from_secs(5);
/// How often it looks whether they are.
const LOOK: Duration = Duration::from_millis(20);
/// How long the workers may take to adopt it, each between two events of its loop.
const ADOPT: Duration = Duration::from_secs(5);

/// A configuration that may be put in force, with all that takes time or may fail done.
pub(super) struct Prepared {
    config: Config,
    /// With free ports resolved.
    topology: Arc<Topology>,
    succession: Arc<Succession>,
    prober: Prober,
    records: Newcomers,
    logs: logs::Change,
    limits: Limits,
    /// By worker: what is new.
    open: Vec<Vec<Listener>>,
    close: Vec<(Protocol, SocketAddr)>,
    /// What stands in front of another service from now on.
    pass: Vec<(Protocol, SocketAddr, ServiceId)>,
    /// Told when it is in force, or why it is not.
    tell: oneshot::Sender<Result<Adopting, String>>,
}

/// Workers that have been told, and tell when they have done it.
struct Adopting(Vec<oneshot::Receiver<()>>);

/// Reads the configuration again and puts it in force, or says why not.
pub(super) async fn reload(hub: Rc<Hub>, by: &str) -> Result<String, Refused> {
    hub.manager.reloading();
    let result = attempt(&hub).await;
    let now = clock::now();
    match result {
        Ok(told) => {
            let lines: Vec<&str> = told.lines().collect();
            let lines = lines.join("; ");
            hub.tell_instance(format!("{by} reloaded the configuration: {lines}"), now);
            hub.reloads.borrow_mut().note(Outcome::InForce, now);
            // Who moves files about may tell by a reload, as other daemons are told.
            hub.logs.reopen();
            hub.manager.reloaded("");
            Ok(told)
        }
        Err(why) => {
            let gist = gist(&why);
            hub.tell_instance(format!("the reload by {by} was refused: {gist}"), now);
            // As one: what is told line by line looks like a storm.
            tracing::error!("{why}");
            hub.manager
                .reloaded(&format!("the last reload was refused: {gist}"));
            let outcome = Outcome::Refused(gist);
            hub.reloads.borrow_mut().note(outcome, now);
            Err(Refused::Failed(why))
        }
    }
}

/// What a refusal says, in one line: its first reason, where that is in the file, and how many more
/// there are. A warning is no reason.
pub(super) fn gist(why: &str) -> String {
    let mut lines = why.lines().filter(|line| !line.trim().is_empty());
    let of_file = |line: &str| line.strip_prefix("error: ").map(str::to_owned);
    let reasons = why.lines().filter_map(of_file).count();
    let (told, more) = if reasons > 0 {
        let mut from = lines.skip_while(|line| of_file(line).is_none());
        let reason = from.next().and_then(of_file).unwrap_or_default();
        let place = from.next().and_then(|line| line.split_once("--> "));
        match place {
            Some((_, place)) => (format!("{reason} ({})", place.trim()), reasons - 1),
            None => (reason, reasons - 1),
        }
    } else {
        let first = lines.next().unwrap_or_default().to_owned();
        (first, lines.count())
    };
    match more {
        0 => told,
        n => format!("{told}; and {n} more"),
    }
}

async fn attempt(hub: &Rc<Hub>) -> Result<String, String> {
    let alone = timeout(COMMANDS, hub.commands.write()).await;
    let _alone = alone.map_err(|_| {
        format!("commands have been under way for {COMMANDS:?}; try again when they are done")
    })?;
    if hub.state.get() == RunState::Draining {
        return Err("the instance is stopping".to_owned());
    }
    let loaded = read(hub).await?;
    let warnings = loaded.warnings.render(false);
    let era = hub.era();
    let mut told = config::difference::between(&era.config, &loaded.config).to_string();
    let (prepared, adopting) = prepare(hub, &era, loaded.config).await?;
    let forgotten = forgotten(&era.topology, &prepared.succession, |member| {
        let decider = hub.decider.borrow();
        let state = decider.operator(member)?;
        Some((state.mode, state.by.clone()))
    });
    for forgotten in forgotten {
        told += &format!("\n{forgotten}");
    }
    settle(hub).await?;
    let stopping = "the instance is stopping".to_owned();
    let sent = hub.prepared.send(Box::new(prepared)).await;
    sent.map_err(|_| stopping.clone())?;
    let adopting = adopting.await.map_err(|_| stopping)??;
    let adopted = async {
        for worker in adopting.0 {
            if worker.await.is_err() {
                tracing::error!("a worker ended while it adopted a configuration");
            }
        }
    };
    if timeout(ADOPT, adopted).await.is_err() {
        tracing::error!("a worker has not adopted the configuration after {ADOPT:?}; is it stuck?");
    }
    Ok(match warnings.is_empty() {
        true => told,
        false => format!("{told}\n{warnings}"),
    })
}

async fn read(hub: &Hub) -> Result<Loaded, String> {
    let era = hub.era();
    let Some(source) = &era.config.source else {
        return Err("this instance was not started from a file".to_owned());
    };
    let path = source.path.clone();
    let reading = tokio::task::spawn_blocking(move || config::load(&path));
    // Others would wait for this one to let go.
    let loaded = timeout(READING, reading).await.map_err(|_| {
        format!(
            "{} has not been read after {READING:?}; look at the disk",
            source.path.display()
        )
    })?;
    let loaded = loaded.map_err(|error| format!("the file was not read: {error}"))?;
    let mut loaded = loaded.map_err(|errors| errors.render(false))?;
    // The command line has the last word on it, as it had at the start.
    if let Some(socket) = &hub.socket_by_hand {
        loaded.config.control.socket.clone_from(socket);
    }
    Ok(loaded)
}

/// Everything that takes time or may fail.
async fn prepare(
    hub: &Hub,
    era: &Era,
    config: Config,
) -> Result<(Prepared, oneshot::Receiver<Result<Adopting, String>>), String> {
    let mut topology = config.topology.clone();
    take_known_ports(&era.config.topology, &era.topology, &mut topology);
    let succession = Succession::between(&era.topology, &topology);
    let away = |pool| hub.is_away(pool);
    let mut refusals = refusals(&era.config, &config, &succession, away);
    refusals.extend(overlapping(&era.topology, &topology));
    if !refusals.is_empty() {
        return Err(refusals.join("\n"));
    }
    let (had, wants) = (listened(&era.topology), listened(&topology));
    let close = had.keys().filter(|at| !wants.contains_key(*at)).copied();
    let close = close.collect();
    let pass = wants.iter().filter_map(|(at, service)| {
        let before = had.get(at)?;
        let stays = succession.service(*before) == Some(*service);
        (!stays).then_some((at.0, at.1, *service))
    });
    let pass = pass.collect();
    let stays: Vec<_> = had.keys().copied().collect();
    let workers = era.counters.len();
    let open = listen::bind_new(&topology, workers, &mut Given::default(), &stays);
    let open = open.map_err(|errors| StartError::Bind(errors).to_string())?;
    take_bound_addresses(&mut topology, &open);
    // It reads what certificates are to be signed by.
    let to_probe = topology.clone();
    let prober = tokio::task::spawn_blocking(move || Prober::new(&to_probe));
    let prober = timeout(READING, prober).await.map_err(|_| {
        format!(
            "what a check has to `verify` by has not been read after {READING:?}; look at the disk"
        )
    })?;
    let prober = prober.map_err(|error| format!("the checks were not made: {error}"))?;
    let prober = prober.map_err(|error| StartError::Probes(error).to_string())?;
    let is_new = |pair| {
        !(0..era.topology.pairs.len()).any(|old| succession.pair(PairId(old as u16)) == Some(pair))
    };
    let newcomers = topology.pairs.iter().any(|pair| is_new(pair.id));
    let records = match &config.instance.state_dir {
        _ if !newcomers => Newcomers::none(),
        Some(dir) => Records::open_new(dir, &topology, is_new, clock_at(clock::now())).await,
        None => {
            let first = topology.pairs.first().map(|pair| pair.name.clone());
            return Err(StartError::NoStateDir(first.unwrap_or_default()).to_string());
        }
    };
    let logs = timeout(READING, hub.logs.prepare(&era.config.log, &config.log)).await;
    let logs = logs.map_err(|_| {
        format!("the access log has not been opened after {READING:?}; look at the disk")
    })?;
    let logs = logs.map_err(|error| error.to_string())?;
    let limits = Limits::new(
        era.room.descriptors,
        workers,
        wants.len(),
        runner::MAX_AT_ONCE.min(topology.targets().count()),
        config.instance.max_sessions,
        flows_wanted(&config),
        source_ports(),
    );
    let (tell, told) = oneshot::channel();
    let prepared = Prepared {
        config,
        topology: Arc::new(topology),
        succession: Arc::new(succession),
        prober,
        records,
        logs,
        limits,
        open,
        close,
        pass,
        tell,
    };
    Ok((prepared, told))
}

/// The service behind each listener.
fn listened(topology: &Topology) -> BTreeMap<(Protocol, SocketAddr), ServiceId> {
    let services = topology.pools.iter().flat_map(|pool| &pool.services);
    let listeners = services.flat_map(|service| {
        let all = service.listen.iter().chain(&service.listen_at_twin);
        all.map(|address| ((service.protocol, *address), service.id))
    });
    listeners.collect()
}

/// Waits until no record is being written.
pub(super) async fn settle(hub: &Hub) -> Result<(), String> {
    let settled = async {
        while hub.decider.borrow().legacy().writing().next().is_some() {
            sleep(LOOK).await;
        }
    };
    let late =
        |_| format!("where users are sent has been being written for {WRITES:?}; look at the disk");
    timeout(WRITES, settled).await.map_err(late)
}

/// Where the file asks for any free port, and did before, the one that was found stays.
pub(super) fn take_known_ports(declared: &Topology, bound: &Topology, new: &mut Topology) {
    for pool in &mut new.pools {
        let Some(before) = declared.pool_named(&pool.name) else {
            continue;
        };
        for service in &mut pool.services {
            let Some(said) = before.service_named(&service.name) else {
                continue;
            };
            if said.protocol != service.protocol {
                continue;
            }
            let found = bound.service(said.id);
            for (new, (said, found)) in [
                (&mut service.listen, (&said.listen, &found.listen)),
                (
                    &mut service.listen_at_twin,
                    (&said.listen_at_twin, &found.listen_at_twin),
                ),
            ] {
                for (new, (said, found)) in new.iter_mut().zip(said.iter().zip(found)) {
                    if new.port() == 0 && new == said {
                        *new = *found;
                    }
                }
            }
        }
    }
}

impl Hub {
    /// The last step: puts a prepared configuration in force between two inputs of the loop.
    pub(super) fn switch(self: &Rc<Self>, prepared: Prepared, inputs: &mut Inputs, now: Time) {
        self.take_what_waits(inputs, now);
        self.turn(now);
        let era = self.era();
        // What automation did since it was prepared.
        let changed = match self.decider.borrow().legacy().writing().next() {
            Some(_) => Err("where users are sent is being written; try again".to_owned()),
            None => {
                let away = |pool| self.is_away(pool);
                let stranded = stranded(&era.config, &prepared.succession, away);
                match stranded.is_empty() {
                    true => Ok(()),
                    false => Err(stranded.join("\n")),
                }
            }
        };
        let ready = changed.and_then(|()| match self.can_adopt() {
            true => Ok(()),
            false => Err("a worker takes no messages; is it stuck?".to_owned()),
        });
        let tell = match ready {
            Ok(()) => Ok(self.put_in_force(&era, prepared, inputs, now)),
            Err(why) => Err((prepared.tell, why)),
        };
        match tell {
            Ok((tell, adopting)) => {
                if tell.send(Ok(adopting)).is_err() {
                    tracing::debug!("nobody waits for the reload any more");
                }
                self.turn(now);
            }
            Err((tell, why)) => {
                if tell.send(Err(why)).is_err() {
                    tracing::debug!("nobody waits for the reload any more");
                }
            }
        }
    }

    /// Whether a pool's users are sent to its twin, all or a share of them.
    fn is_away(&self, pool: PoolId) -> bool {
        self.decider.borrow().phase(pool) != Phase::Home
    }

    /// What came under the old ids is taken under the old ids.
    fn take_what_waits(self: &Rc<Self>, inputs: &mut Inputs, now: Time) {
        for _ in 0..inputs.answers.len() {
            let Ok((target, outcome)) = inputs.answers.try_recv() else {
                break;
            };
            self.answered(target, &outcome, now);
        }
        while let Ok(stored) = inputs.stored.try_recv() {
            self.stored(stored, now);
        }
    }

    fn put_in_force(
        self: &Rc<Self>,
        era: &Era,
        prepared: Prepared,
        inputs: &mut Inputs,
        now: Time,
    ) -> (oneshot::Sender<Result<Adopting, String>>, Adopting) {
        let Prepared {
            config,
            topology,
            succession,
            prober,
            records,
            logs,
            limits,
            open,
            close,
            pass,
            tell,
        } = prepared;
        let question = |before: TargetId, after: TargetId| match is_same_question(
            &era.topology,
            before,
            &topology,
            after,
        ) {
            true => Question::Same,
            false => Question::Other,
        };
        self.runner.succeed(prober, |before| {
            let after = succession.target(before)?;
            (question(before, after) == Question::Same).then_some(after)
        });
        let legacy = self.decider.borrow().legacy();
        let legacy = legacy.renumber(&succession, question);
        let begin = |pair| records.begin(pair).unwrap_or((Record::home(0, now), false));
        let decider = Decider::after(topology.clone(), legacy, begin, rand::random(), now);
        self.decider.replace(decider);
        self.book
            .replace_with(|book| book.succeed(&topology, &succession));
        self.look_names_up(inputs);
        let found = records.found();
        self.pairs.succeed(&topology, &succession, records);
        self.shortages
            .replace_with(|shortages| shortages.succeed(&era.topology, &topology, &succession));
        self.transitions.borrow_mut().succeed(
            |target| succession.target(target),
            |pool| succession.pool(pool),
        );
        self.onsets
            .replace_with(|onsets| onsets.succeed(&topology, &succession));
        self.strays.borrow_mut().succeed(&succession);
        let counters = era.counters.iter();
        let counters: Vec<_> = counters
            .map(|counters| Arc::new(counters.succeed(&succession, &topology)))
            .collect();
        let share = |of: u32| (of as usize).div_ceil(counters.len().max(1));
        let (sessions, flows) = (share(limits.sessions), share(limits.flows));
        let next = Rc::new(Era {
            epoch: era.epoch.wrapping_add(1),
            room: room(&config, limits, (sessions, flows)),
            config,
            handles: era.handles.succeed(&era.topology, &succession, &topology),
            counters,
            topology,
        });
        self.logs.adopt(logs);
        self.begin_era(next.clone());
        let snapshot = Arc::new(self.snapshot(now));
        self.manager.keep_listeners(open.iter().flatten());
        let mut adopting = Vec::new();
        for (worker, (open, counters)) in open.into_iter().zip(&next.counters).enumerate() {
            let (done, adopted) = oneshot::channel();
            let adoption = Adoption {
                topology: next.topology.clone(),
                succession: succession.clone(),
                snapshot: snapshot.clone(),
                counters: counters.clone(),
                access: self.logs.of_worker(&next.config.instance.name),
                sessions,
                flows,
                open,
                close: close.clone(),
                pass: pass.clone(),
                done,
            };
            self.have_adopted(worker, adoption);
            adopting.push(adopted);
        }
        for (protocol, address) in close {
            self.manager.forget(protocol, address);
        }
        for (pair, problem) in found {
            self.tell_instance(format!("{pair}: {problem}"), now);
        }
        self.led.succeed(&next.topology, &next.handles, now);
        self.readdress();
        (tell, Adopting(adopting))
    }
}

/// Whether the same is asked of a target at the same place: what a verdict is about.
pub(super) fn is_same_question(
    old: &Topology,
    before: TargetId,
    new: &Topology,
    after: TargetId,
) -> bool {
    let (was, is) = (old.service(before.service()), new.service(after.service()));
    was.check.asks_as(&is.check) && old.endpoint(before) == new.endpoint(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gist_of_a_refusal_is_its_first_reason_and_not_a_warning() {
        assert_eq!(gist("one reason"), "one reason");
        assert_eq!(gist("one reason\nanother\n"), "one reason; and 1 more");
        let file = "warning: loose\n --> t.toml:2:1\n  |\n\nerror: unknown key `a`\n  --> t.toml:4:1\n   \
                    |\n4 | a = 1\n\nerror: unknown key `b`\n --> t.toml:5:1\n\n2 errors; nothing was \
                    started or changed\n";
        assert_eq!(gist(file), "unknown key `a` (t.toml:4:1); and 1 more");
        assert_eq!(
            gist("error: cannot read t.toml: gone"),
            "cannot read t.toml: gone"
        );
        assert_eq!(gist(""), "");
    }
}
