//! A worker that goes from one topology to the next, as the control thread has it go. Topologies
//! are written as a user writes them; where members are really found is said by their names.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::config;
use crate::dispatch::fixture::{bring_down, start as beginning};
use crate::dispatch::{Handles, Snapshot};
use crate::observe::counters::{Lasting, ServiceCounters, WorkerCounters};
use crate::pairing::record::{Cause, Phase, Record};
use crate::pairing::{Decider, Standing};
use crate::proxy::listen::{self, Listener};
use crate::proxy::{AccessLog, Adoption, FromWorker, Plan, ToWorker, Which, WorkerHandle, start};
use crate::topology::{
    MemberId, PoolId, Protocol, ServiceId, Side, Succession, TargetId, Topology,
};

/// What one worker is told, and all that the control thread keeps for it.
pub(in crate::proxy) struct Control {
    pub(in crate::proxy) topology: Arc<Topology>,
    pub(in crate::proxy) handles: Handles,
    pub(in crate::proxy) counters: Arc<WorkerCounters>,
    epoch: u32,
    members: HashMap<String, SocketAddr>,
    /// Where each listener is really bound, by its service's path and its number there.
    bound: HashMap<String, Vec<SocketAddr>>,
    /// Where the users of each pair's first pool are.
    pub(in crate::proxy) phase: Phase,
    pub(in crate::proxy) down: HashSet<String>,
    pub(in crate::proxy) sessions: usize,
    pub(in crate::proxy) flows: usize,
    pub(in crate::proxy) access: Option<AccessLog>,
}

/// A pool of one service `s`, which listens anywhere on the loopback. Members are at hosts of their
/// own by their names' last digit.
pub(in crate::proxy) fn pool(name: &str, members: &[&str]) -> String {
    pool_with(name, members, "listen = \"127.0.0.1:0\"", "")
}

pub(in crate::proxy) fn pool_with(
    name: &str,
    members: &[&str],
    service: &str,
    settings: &str,
) -> String {
    let host = |member: &&str| format!("{member} = \"192.0.2.{}\"", &member[member.len() - 1..]);
    let members: Vec<String> = members.iter().map(host).collect();
    format!(
        "[sites.at-{name}]\nregion = \"of-{name}\"\n\
         [pools.{name}]\nrole = \"web\"\nsite = \"at-{name}\"\nquorum = \"any\"\n{settings}\n\
         members = {{ {} }}\n[pools.{name}.services.s]\n{service}\n",
        members.join(", ")
    )
}

/// Written behind all pools.
pub(in crate::proxy) const ROLE: &str =
    "[roles.web]\nprimary = \"s\"\nservices.s = { port = 1, check = { kind = \"tcp\" } }\n";

pub(in crate::proxy) fn parse(text: &str) -> Topology {
    let text = format!("{text}{ROLE}");
    match config::parse(&text, "f") {
        Ok(loaded) => loaded.config.topology,
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

impl Control {
    /// With the plan of a worker that stands in front of everything which listens.
    pub(in crate::proxy) fn new(
        topology: Topology,
        members: &[(&str, SocketAddr)],
    ) -> (Control, Plan, mpsc::Receiver<FromWorker>) {
        let topology = Arc::new(topology);
        let mut control = Control {
            handles: Handles::new(&topology),
            counters: Arc::new(WorkerCounters::new(&topology)),
            epoch: 0,
            members: members
                .iter()
                .map(|(name, at)| (name.to_string(), *at))
                .collect(),
            bound: HashMap::new(),
            phase: Phase::Home,
            down: HashSet::new(),
            sessions: 1000,
            flows: 1000,
            topology,
            access: None,
        };
        let all = |_: ServiceId| true;
        let listeners = control.bind(all);
        let (report, reports) = mpsc::channel(1024);
        let plan = Plan {
            index: 0,
            sessions: control.sessions,
            flows: control.flows,
            flows_taken: Vec::new(),
            access: control.access.clone(),
            listeners,
            topology: control.topology.clone(),
            snapshot: Arc::new(control.snapshot()),
            counters: control.counters.clone(),
            reports: report,
            seed: 1,
        };
        (control, plan, reports)
    }

    /// Binds what listens in front of these services.
    fn bind(&mut self, of: impl Fn(ServiceId) -> bool) -> Vec<Listener> {
        let mut some = (*self.topology).clone();
        for service in some.pools.iter_mut().flat_map(|pool| &mut pool.services) {
            if !of(service.id) {
                service.listen.clear();
            }
        }
        let listeners = listen::bind(&some, 1, &mut listen::Given::default())
            .expect("listeners")
            .remove(0);
        for listener in &listeners {
            let path = self.topology.service_path(listener.service);
            self.bound.entry(path).or_default().push(listener.address);
        }
        listeners
    }

    /// What makes a worker go on under this topology: services that are new, or listen for the
    /// first time, are listened for, and those that do no more are not.
    pub(in crate::proxy) fn adoption(
        &mut self,
        topology: Topology,
    ) -> (Adoption, oneshot::Receiver<()>) {
        let topology = Arc::new(topology);
        let succession = Arc::new(Succession::between(&self.topology, &topology));
        let listens = |topology: &Topology, path: &str| {
            let mut services = topology.pools.iter().flat_map(|pool| &pool.services);
            services.any(|s| topology.service_path(s.id) == path && !s.listen.is_empty())
        };
        let protocols: HashMap<String, Protocol> = self
            .topology
            .pools
            .iter()
            .flat_map(|pool| &pool.services)
            .map(|s| (self.topology.service_path(s.id), s.protocol))
            .collect();
        let mut close = Vec::new();
        self.bound.retain(|path, addresses| {
            let stays = listens(&topology, path);
            if !stays {
                close.extend(addresses.iter().map(|address| (protocols[path], *address)));
            }
            stays
        });
        self.handles = self.handles.succeed(&self.topology, &succession, &topology);
        self.counters = Arc::new(self.counters.succeed(&succession, &topology));
        self.epoch += 1;
        self.topology = topology;
        let known: HashSet<String> = self.bound.keys().cloned().collect();
        let (topology, new) = (self.topology.clone(), |path: &str| !known.contains(path));
        let open = self.bind(|service| new(&topology.service_path(service)));
        let (done, heard) = oneshot::channel();
        let adoption = Adoption {
            topology: self.topology.clone(),
            succession,
            snapshot: Arc::new(self.snapshot()),
            counters: self.counters.clone(),
            access: self.access.clone(),
            open,
            close,
            pass: Vec::new(),
            sessions: self.sessions,
            flows: self.flows,
            done,
        };
        (adoption, heard)
    }

    pub(in crate::proxy) fn snapshot(&self) -> Snapshot {
        let now = beginning();
        let records = self.topology.pairs.iter().map(|_| {
            let mut record = Record::home(1, now);
            let entry = &mut record.entries[Side::First.index()];
            (entry.phase, entry.cause) = (self.phase, Cause::Ordered);
            (record, false)
        });
        let records = records.collect();
        let mut decider = Decider::new(self.topology.clone(), Standing::default(), records, 1, now);
        for name in &self.down {
            bring_down(&mut decider, self.member(name));
        }
        let address = |target: TargetId| {
            let name = &self.topology.member(target.member()).name;
            self.members.get(name).copied()
        };
        let now = crate::clock::now();
        Snapshot::new(self.epoch, &decider, &self.handles, now, |_| false, address)
    }

    pub(in crate::proxy) fn member(&self, name: &str) -> MemberId {
        let member = self
            .topology
            .pools
            .iter()
            .find_map(|pool| pool.member_named(name));
        member.expect("a member").id
    }

    pub(in crate::proxy) fn pool(&self, name: &str) -> PoolId {
        self.topology.pool_named(name).expect("a pool").id
    }

    pub(in crate::proxy) fn service(&self, pool: &str) -> &Lasting<ServiceCounters> {
        self.counters.service(self.pool(pool).service(0))
    }

    /// Where a pool's service really listens.
    pub(in crate::proxy) fn address(&self, pool: &str) -> SocketAddr {
        self.bound[&format!("{pool}/s")][0]
    }

    /// How many places a member has given away.
    pub(in crate::proxy) fn load(&self, member: &str) -> u32 {
        self.handles.member(self.member(member)).load()
    }
}

/// A worker on a thread of its own, and its control.
pub(in crate::proxy) struct Stage {
    pub(in crate::proxy) control: Control,
    pub(in crate::proxy) reports: mpsc::Receiver<FromWorker>,
    worker: Option<WorkerHandle>,
}

impl Stage {
    pub(in crate::proxy) fn new(topology: Topology, members: &[(&str, SocketAddr)]) -> Stage {
        let (control, plan, reports) = Control::new(topology, members);
        Stage {
            control,
            reports,
            worker: Some(start(plan).expect("a worker").begin()),
        }
    }

    /// Has the worker go on under this topology; what it says when it does.
    pub(in crate::proxy) fn send(&mut self, topology: Topology) -> oneshot::Receiver<()> {
        let (adoption, done) = self.control.adoption(topology);
        self.send_adoption(adoption);
        done
    }

    pub(in crate::proxy) fn send_adoption(&mut self, adoption: Adoption) {
        let worker = self.worker.as_ref().expect("a worker");
        assert!(worker.has_room());
        assert!(worker.adopt(adoption).is_ok());
    }

    pub(in crate::proxy) fn tell(&self, message: ToWorker) {
        let worker = self.worker.as_ref().expect("a worker");
        assert!(worker.tell(message));
    }

    /// Ends a member's sessions.
    pub(in crate::proxy) fn end(&self, member: &str) {
        let member = self.control.member(member);
        self.tell(ToWorker::End(Which::Member {
            member,
            service: None,
        }));
    }

    /// Ends it, with what sessions it has left.
    pub(in crate::proxy) fn join(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.join().expect("no panic");
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.join();
    }
}
