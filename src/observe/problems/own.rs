//! What the instance itself lacks, and what there was too little of lately: sessions, flows, room in
//! queues, descriptors, ports. Each names what to raise.

use super::{Problem, Severity, number};
use crate::observe::shortage::{Lately, Shortage};
use crate::observe::stamp::{Stamp, span};
use crate::observe::status::{Sessions, Status, WorkerStatus};
use crate::observe::view::LimitedBy;

/// All of them.
pub(super) fn problems(status: &Status) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(store(status));
    found.extend(reload(status));
    found.extend(event_log(status));
    found.extend(sessions(status));
    found.extend(flows(status));
    found.extend(evicted(status));
    found.extend(unsent(status));
    found.extend(queues(status));
    found.extend(status.lately.iter().map(|lately| own_fault(status, lately)));
    found
}

fn store(status: &Status) -> Option<Problem> {
    let problem = status.store_problem.as_ref()?;
    Some(Problem {
        severity: Severity::Own,
        label: "STORE",
        about: vec![],
        what: format!("decisions are not stored: {problem}"),
        since: status.store_problem_since,
        whom: Some("drains and maintenance would be forgotten at a restart".to_owned()),
        next: Some("stored again as soon as it can be; see state_dir in [instance]".to_owned()),
    })
}

/// The file that lies there is not what runs.
fn reload(status: &Status) -> Option<Problem> {
    let why = status.reload_refused.as_ref()?;
    Some(Problem {
        severity: Severity::Own,
        label: "RELOAD",
        about: vec![],
        what: format!("the last reload was refused: {why}"),
        since: status.reload_refused_since,
        whom: Some("nobody: what was in force before still is".to_owned()),
        next: Some("mend that; then `twinpool reload`, which tells all that is wrong".to_owned()),
    })
}

/// Events are not on disk.
fn event_log(status: &Status) -> Option<Problem> {
    let log = &status.event_log;
    let problem = log.problem.as_ref()?;
    let lost = match log.lost {
        0 => "those since then wait in memory, and would be forgotten at a restart".to_owned(),
        n => format!(
            "{} lost from the log, others wait in memory",
            counted(n, "event is", "events are")
        ),
    };
    Some(Problem {
        severity: Severity::Own,
        label: "EVENT LOG",
        about: vec![],
        what: format!("events are not stored: {problem}"),
        since: status.event_log_since,
        whom: Some(lost),
        next: Some("tried again every few seconds; see state_dir in [instance]".to_owned()),
    })
}

/// Connections were reset because there was no room for their sessions, or the next ones will be.
fn sessions(status: &Status) -> Option<Problem> {
    let room = |worker: &WorkerStatus| worker.sessions;
    let full = fullness(status, status.sessions, room, "sessions");
    let next = match status.sessions.limited_by {
        LimitedBy::Setting => "raise max_sessions in [instance]".to_owned(),
        LimitedBy::Descriptors | LimitedBy::SourcePorts => more_descriptors(status),
    };
    match Met::of(status, Shortage::Sessions) {
        Some(met) => Some(Problem {
            severity: Severity::Short,
            label: "FULL",
            about: vec![],
            what: format!(
                "{} reset at once, as there was no room for their sessions",
                counted(met.count, "connection was", "connections were")
            ),
            since: Some(met.since),
            whom: Some(format!("{}; {full}", met.whom(status.now))),
            next: Some(next),
        }),
        None => is_full(status, status.sessions, room).then(|| Problem {
            severity: Severity::Own,
            label: "FULL",
            about: vec![],
            what: format!("no room for more sessions: {full}"),
            since: None,
            whom: Some("new connections are reset at once".to_owned()),
            next: Some(next),
        }),
    }
}

/// Datagrams of new flows were dropped because there was no room for them.
fn flows(status: &Status) -> Option<Problem> {
    let met = Met::of(status, Shortage::Flows)?;
    Some(Problem {
        severity: Severity::Short,
        label: "FULL",
        about: vec![],
        what: format!(
            "{} dropped, as there was no room for their flows and none could be given up",
            counted(
                met.count,
                "datagram of a new client was",
                "datagrams of new clients were"
            )
        ),
        since: Some(met.since),
        whom: Some(format!("{}; {}", met.whom(status.now), flow_room(status))),
        next: Some(more_flows(status)),
    })
}

/// Flows were given up for new ones.
fn evicted(status: &Status) -> Option<Problem> {
    let met = Met::of(status, Shortage::FlowsEvicted)?;
    Some(Problem {
        severity: Severity::Own,
        label: "FLOWS",
        about: vec![],
        what: format!(
            "{} given up for new ones: first those whose client never sent again after an answer, \
             then idle ones",
            counted(met.count, "flow was", "flows were")
        ),
        since: Some(met.since),
        whom: Some(format!("{}; {}", met.whom(status.now), flow_room(status))),
        next: Some(format!(
            "if these are real clients and no flood of forged addresses, {}",
            more_flows(status)
        )),
    })
}

fn unsent(status: &Status) -> Option<Problem> {
    let met = Met::of(status, Shortage::Sending)?;
    Some(Problem {
        severity: Severity::Own,
        label: "UNSENT",
        about: vec![],
        what: format!(
            "{} dropped, as our own kernel had no room for them on their way out, or would not \
             send them",
            counted(met.count, "datagram was", "datagrams were")
        ),
        since: Some(met.since),
        whom: Some(met.whom(status.now)),
        next: Some(
            "see whether a link of this host is at its limit, a firewall here refuses them, or \
             something else has run out"
                .to_owned(),
        ),
    })
}

/// Clients of a pool found all members full, and no room to wait, or waited for too long.
fn queues(status: &Status) -> impl Iterator<Item = Problem> {
    status.pools.iter().filter_map(|pool| {
        let here = |what| {
            let services = pool.services.iter();
            let lately = services.flat_map(move |service| {
                let met = service.lately.iter().filter(move |met| met.what == what);
                met.map(|met| (format!("{}/{}", pool.name, service.name), met))
            });
            Met::sum(lately)
        };
        let (no_room, too_long) = (here(Shortage::QueueRoom), here(Shortage::QueueTime));
        let both = [&no_room, &too_long].into_iter().flatten();
        let met = both.cloned().reduce(Met::and)?;
        let told = |met: &Option<Met>, how: &str| {
            let met = met.as_ref()?;
            Some(format!("{} {how}", number(met.count)))
        };
        let how = [
            told(&no_room, "found the queue full"),
            told(&too_long, "waited in it for as long as they may"),
        ];
        let how: Vec<String> = how.into_iter().flatten().collect();
        Some(Problem {
            severity: Severity::Short,
            label: "QUEUE",
            about: vec![],
            what: format!(
                "pool {}: {} refused while all members were full: {}",
                pool.name,
                counted(met.count, "connection was", "connections were"),
                how.join(", ")
            ),
            since: Some(met.since),
            whom: Some(met.whom(status.now)),
            next: Some(format!(
                "add members, or raise their max_connections; [pools.{}.queue] says how many wait, \
                 and for how long",
                pool.name
            )),
        })
    })
}

/// Something of our own side ran out, or stood in the way.
fn own_fault(status: &Status, lately: &Lately) -> Problem {
    let (severity, label, what, next) = match lately.what {
        Shortage::Descriptors => (
            Severity::Short,
            "DESCRIPTORS",
            "no file descriptor was left",
            format!(
                "{}; where that is not reached, fs.file-max of this host",
                more_descriptors(status)
            ),
        ),
        Shortage::SourcePorts => (
            Severity::Short,
            "PORTS",
            "no source port was left towards a member",
            "widen net.ipv4.ip_local_port_range, or give members more addresses: each session \
             takes a port towards its member's address and port; a flow over UDP takes one for \
             itself: for those, widen it or lower max_flows in [instance]"
                .to_owned(),
        ),
        Shortage::Memory => (
            Severity::Short,
            "MEMORY",
            "the kernel had no memory left for a socket",
            "raise net.ipv4.tcp_mem and udp_mem, or MemoryMax= in the unit of twinpool".to_owned(),
        ),
        Shortage::Route => (
            Severity::Own,
            "ROUTE",
            "there was no route to a member",
            "look at this host's links and routes: `ip route get` a member's address".to_owned(),
        ),
        _ => (
            Severity::Own,
            "REFUSED",
            "our own kernel refused a socket or a connection",
            "see whether a firewall or a security module of this host is in the way; the log at \
             level debug has each error"
                .to_owned(),
        ),
    };
    Problem {
        severity,
        label,
        about: vec![],
        what: format!("{what}: met {}", times(lately.count)),
        since: Some(lately.since),
        whom: Some(match Met::of(status, Shortage::OwnSide) {
            Some(met) => format!(
                "{}{}; {}; no member is blamed",
                counted(met.count, "session was refused", "sessions were refused"),
                match status.lately.len() {
                    1 => "",
                    _ => " for this or another fault of our own",
                },
                met.whom(status.now)
            ),
            None => format!(
                "what met it waits, or failed, and no member is blamed; the last time {}",
                ago(status.now, lately.last)
            ),
        }),
        next: Some(next),
    }
}

/// What a service was short of, how often, since when, and whether it goes on.
pub fn shortage_text(lately: &Lately, now: Stamp) -> String {
    let (one, many, why) = match lately.what {
        Shortage::Sessions => (
            "connection was reset",
            "connections were reset",
            "no room for more sessions",
        ),
        Shortage::QueueRoom => (
            "connection was refused",
            "connections were refused",
            "all members were full, and the queue too",
        ),
        Shortage::QueueTime => (
            "connection was refused",
            "connections were refused",
            "all members were full for as long as it may wait",
        ),
        Shortage::OwnSide => (
            "session was refused",
            "sessions were refused",
            "a fault of our own side, which `twinpool status` tells",
        ),
        Shortage::Flows => (
            "datagram was dropped",
            "datagrams were dropped",
            "no room for more flows",
        ),
        Shortage::FlowsEvicted => (
            "flow was given up for a new one",
            "flows were given up for new ones",
            "no room for more flows",
        ),
        Shortage::Sending => (
            "datagram was dropped",
            "datagrams were dropped",
            "our own kernel did not send them",
        ),
        Shortage::Descriptors => ("fault", "faults", "no file descriptor was left"),
        Shortage::SourcePorts => ("fault", "faults", "no source port was left"),
        Shortage::Memory => ("fault", "faults", "no memory was left for a socket"),
        Shortage::Route => ("fault", "faults", "there was no route"),
        Shortage::Other => ("fault", "faults", "our own kernel refused"),
    };
    format!(
        "{} since {} UTC: {why}; last {}",
        counted(lately.count, one, many),
        lately.since.clock_face(now),
        ago(now, lately.last)
    )
}

/// A shortage that services met, all of them together.
#[derive(Clone, Debug)]
struct Met {
    count: u64,
    since: Stamp,
    last: Stamp,
    /// `POOL/SERVICE`.
    services: Vec<String>,
}

impl Met {
    fn of(status: &Status, what: Shortage) -> Option<Met> {
        let services = status.pools.iter().flat_map(|pool| {
            let services = pool.services.iter();
            services.map(move |service| (pool, service))
        });
        Met::sum(services.flat_map(|(pool, service)| {
            let met = service.lately.iter().filter(|met| met.what == what);
            met.map(|met| (format!("{}/{}", pool.name, service.name), met))
        }))
    }

    fn sum<'a>(lately: impl Iterator<Item = (String, &'a Lately)>) -> Option<Met> {
        let each = lately.map(|(service, lately)| Met {
            count: lately.count,
            since: lately.since,
            last: lately.last,
            services: vec![service],
        });
        each.reduce(Met::and)
    }

    fn and(mut self, other: Met) -> Met {
        self.count += other.count;
        self.since = self.since.min(other.since);
        self.last = self.last.max(other.last);
        for service in other.services {
            if !self.services.contains(&service) {
                self.services.push(service);
            }
        }
        self
    }

    /// Whose they were, and whether it goes on.
    fn whom(&self, now: Stamp) -> String {
        let last = match self.count {
            1 => "that was",
            _ => "the last one",
        };
        let services = super::few(self.services.iter().cloned()).join(", ");
        format!("clients of {services}; {last} {}", ago(now, self.last))
    }
}

/// `just now`, or `12 s ago`.
fn ago(now: Stamp, last: Stamp) -> String {
    let passed = now.since(last);
    match passed.as_secs() {
        0 | 1 => "just now".to_owned(),
        _ => format!("{} ago", span(passed)),
    }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        n => format!("{} times", number(n)),
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// How much there is of how much; where one worker alone is full, that too.
fn fullness(
    status: &Status,
    all: Sessions,
    of: impl Fn(&WorkerStatus) -> Sessions,
    what: &str,
) -> String {
    let told = |held: Sessions| format!("{} of {}", number(held.open), number(held.limit));
    let mut full = (0..).zip(&status.by_worker);
    let full = full.find(|(_, worker)| of(worker).is_full());
    match full {
        Some((index, worker)) if !all.is_full() && status.by_worker.len() > 1 => {
            format!(
                "worker {index} holds {} {what}, all workers {}",
                told(of(worker)),
                told(all)
            )
        }
        _ => format!("this instance holds {} {what}", told(all)),
    }
}

fn is_full(status: &Status, all: Sessions, of: impl Fn(&WorkerStatus) -> Sessions) -> bool {
    all.is_full() || status.by_worker.iter().any(|worker| of(worker).is_full())
}

fn flow_room(status: &Status) -> String {
    let Some(all) = status.flows else {
        return String::new();
    };
    let room = |worker: &WorkerStatus| worker.flows.unwrap_or(all);
    fullness(status, all, room, "flows")
}

fn more_flows(status: &Status) -> String {
    match status.flows.map(|flows| flows.limited_by) {
        Some(LimitedBy::Setting) => "raise max_flows in [instance]".to_owned(),
        Some(LimitedBy::SourcePorts) => {
            "widen net.ipv4.ip_local_port_range, of which flows may take half, and start twinpool \
             again"
                .to_owned()
        }
        _ => format!(
            "set max_flows in [instance], which may take half of the descriptors, or {}",
            more_descriptors(status)
        ),
    }
}

fn more_descriptors(status: &Status) -> String {
    format!(
        "raise the limit of open descriptors, {} now: LimitNOFILE= in the unit of twinpool",
        number(status.descriptor_limit)
    )
}
