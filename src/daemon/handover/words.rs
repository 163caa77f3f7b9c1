//! What two processes tell each other, in the order of the [room's docs](super).
//!
//! Both may be of different versions. What changes between versions is [`FORMAT`]; a successor that
//! speaks another one says so, and nothing has happened.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{self, Config};
use crate::pairing::legacy::Legacy;
use crate::proxy::FlowGiven;
use crate::time::Time;
use crate::topology::{MemberId, PoolId, ServiceId, Succession, TargetId, Topology};

/// Rises whenever a message here, or anything inside of one, comes to mean something else.
pub(super) const FORMAT: u32 = 3;

/// What a process tells its successor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToSuccessor {
    /// The first message: whom it follows.
    Hello(Box<Hello>),
    /// Descriptors that were announced; as many of these as it takes.
    Descriptors,
    /// From here on the predecessor stands still: what it knows, in the ids of its topology.
    Stands(Box<Standing>),
    /// Flows over UDP, each with a descriptor: its socket towards its member.
    Flows(Vec<FlowTold>),
    /// It is yours; begin.
    Yours,
}

/// What a process knows as it stands still.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::daemon) struct Standing {
    pub(in crate::daemon) legacy: Legacy,
    /// Pools whose users are on the move, and until when at least.
    pub(in crate::daemon) moving: Vec<(PoolId, Time)>,
}

/// What a successor tells the process that started it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromSuccessor {
    /// It could take over: its configuration is valid, and differs so.
    Loaded {
        /// Its version.
        version: String,
        /// What it changes, and warnings, a line each.
        told: String,
    },
    /// It could not, and ends.
    Refuses {
        /// Why, and what to do, a line each.
        why: String,
    },
    /// Everything is ready that does not disturb the predecessor.
    Prepared,
    /// It serves.
    Serves,
}

/// What a successor tells its predecessors for as long as they drain, in their ids.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum News {
    /// What is known now.
    Stands(Box<Legacy>),
    /// A member's sessions are to be ended.
    End {
        member: MemberId,
        /// For this one service, or all of them.
        service: Option<ServiceId>,
    },
    /// So are those of everybody who is down, as told before.
    EndDown,
    /// The users of a pool are to leave the members of another, or no longer.
    Clear {
        home: PoolId,
        off: Option<PoolId>,
        from: Time,
    },
    /// The successor stops, and so does all that came before it.
    Stop,
}

/// Who hands over, and what comes along.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// See [`FORMAT`]. A process that reads more than this and [`Hello::version`] knows the rest.
    pub(super) format: u32,
    pub(super) version: String,
    pub(super) process: Process,
    /// Who wants it.
    pub(super) by: String,
    /// How many listeners come, over TCP or UDP. After them comes the control socket.
    pub(super) listeners: usize,
    /// Whom the control socket answers for, by its file (device and inode).
    pub(super) control: (u64, u64),
    /// Who hands over to us indirectly, and drains still: after the control socket comes a stream
    /// to each.
    pub(super) before: Vec<Process>,
}

/// A flow over UDP, but for its socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FlowTold {
    listener: u64,
    client: SocketAddr,
    local: Option<IpAddr>,
    target: TargetId,
    member: SocketAddr,
    is_answered: bool,
    is_proven: bool,
    reads_runs: bool,
    runs_in: bool,
    runs_out: bool,
}

/// A process and the configuration that its ids are of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::daemon) struct Process {
    pub(super) pid: u32,
    pub(super) path: PathBuf,
    /// The text of that file as it was read.
    pub(super) text: String,
    pub(super) outline: Outline,
}

/// The order of names behind ids, and where free ports were found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outline {
    pools: Vec<PoolOutline>,
    pairs: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PoolOutline {
    name: String,
    members: Vec<String>,
    services: Vec<ServiceOutline>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ServiceOutline {
    name: String,
    listen: Vec<SocketAddr>,
    listen_at_twin: Vec<SocketAddr>,
}

impl FlowTold {
    /// What is told of a flow, and its socket.
    pub(super) fn of(flow: FlowGiven) -> (FlowTold, OwnedFd) {
        let told = FlowTold {
            listener: flow.listener,
            client: flow.client,
            local: flow.local,
            target: flow.target,
            member: flow.member,
            is_answered: flow.is_answered,
            is_proven: flow.is_proven,
            reads_runs: flow.reads_runs,
            runs_in: flow.runs_in,
            runs_out: flow.runs_out,
        };
        (told, flow.socket)
    }

    /// The flow again, where its member and service are found in the topology from now on.
    pub(super) fn with(self, socket: OwnedFd, succession: &Succession) -> Option<FlowGiven> {
        Some(FlowGiven {
            listener: self.listener,
            client: self.client,
            local: self.local,
            target: succession.target(self.target)?,
            member: self.member,
            is_answered: self.is_answered,
            is_proven: self.is_proven,
            reads_runs: self.reads_runs,
            runs_in: self.runs_in,
            runs_out: self.runs_out,
            socket,
        })
    }
}

impl Process {
    /// This one, by the text of its configuration.
    #[cfg(test)]
    pub(super) fn of(text: &str, topology: &Topology) -> Process {
        Process {
            pid: std::process::id(),
            path: "f".into(),
            text: text.to_owned(),
            outline: Outline::of(topology),
        }
    }

    /// Its configuration, and its topology with free ports resolved.
    ///
    /// # Errors
    /// When this version reads that configuration in another way.
    pub(super) fn understood(&self) -> Result<(Config, Topology), String> {
        let restart = "restart instead (`systemctl restart twinpool`)";
        let file = self.path.display().to_string();
        let loaded = config::parse(&self.text, &file).map_err(|errors| {
            let errors = errors.render(false);
            format!(
                "the configuration that is in force is not valid in this version; {restart}:\n{errors}"
            )
        })?;
        let mut topology = loaded.config.topology.clone();
        match self.outline.apply(&mut topology) {
            true => Ok((loaded.config, topology)),
            false => Err(format!(
                "the configuration that is in force means something else in this version; {restart}"
            )),
        }
    }
}

impl Outline {
    pub(super) fn of(topology: &Topology) -> Outline {
        let pools = topology.pools.iter().map(|pool| PoolOutline {
            name: pool.name.clone(),
            members: pool.members.iter().map(|m| m.name.clone()).collect(),
            services: pool
                .services
                .iter()
                .map(|service| ServiceOutline {
                    name: service.name.clone(),
                    listen: service.listen.clone(),
                    listen_at_twin: service.listen_at_twin.clone(),
                })
                .collect(),
        });
        Outline {
            pools: pools.collect(),
            pairs: topology.pairs.iter().map(|p| p.name.clone()).collect(),
        }
    }

    /// Puts the ports that were found into a topology of the same names; false where it has others.
    fn apply(&self, topology: &mut Topology) -> bool {
        for (pool, told) in topology.pools.iter_mut().zip(&self.pools) {
            for (service, told) in pool.services.iter_mut().zip(&told.services) {
                take_ports(&mut service.listen, &told.listen);
                take_ports(&mut service.listen_at_twin, &told.listen_at_twin);
            }
        }
        Outline::of(topology) == *self
    }
}

fn take_ports(declared: &mut [SocketAddr], found: &[SocketAddr]) {
    for (declared, found) in declared.iter_mut().zip(found) {
        if declared.port() == 0 && declared.ip() == found.ip() {
            *declared = *found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[roles.web]
primary = "http"
services.http = { port = 80, check = { kind = "tcp" } }
[pools.a]
role = "web"
members.m = "192.0.2.1"
services.http.listen = ["127.0.0.1:0", "127.0.0.1:81"]
"#;

    fn process(text: &str) -> Process {
        let mut topology = config::parse(text, "f").unwrap().config.topology;
        topology.pools[0].services[0].listen[0].set_port(4711);
        Process {
            pid: 1,
            path: "f".into(),
            text: text.to_owned(),
            outline: Outline::of(&topology),
        }
    }

    #[test]
    fn a_process_is_understood_with_the_ports_that_it_found() {
        let (declared, topology) = process(TEXT).understood().unwrap();
        assert_eq!(declared.topology.pools[0].services[0].listen[0].port(), 0);
        let ports: Vec<u16> = topology.pools[0].services[0]
            .listen
            .iter()
            .map(SocketAddr::port)
            .collect();
        assert_eq!(ports, [4711, 81]);
    }

    #[test]
    fn a_process_whose_names_are_in_another_order_is_not_understood() {
        let mut other = process(TEXT);
        other.outline.pools[0].members[0] = "n".to_owned();
        let told = other.understood().unwrap_err();
        assert!(told.contains("means something else"), "{told}");
    }

    #[test]
    fn a_process_whose_file_is_no_longer_valid_is_not_understood() {
        let mut other = process(TEXT);
        other.text = TEXT.replace("primary", "prime");
        let told = other.understood().unwrap_err();
        assert!(told.contains("restart instead"), "{told}");
        assert!(told.contains("prime"), "{told}");
    }
}
