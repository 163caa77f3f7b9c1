//! What tests of this room and of those above it stand on: pools built in code, and a decider that
//! is told how they do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{Handles, Snapshot};
use crate::health::{Answer, Failure, ProbeOutcome};
use crate::pairing::record::{Cause, Phase, Record};
use crate::pairing::{Condition, Decider, Output, Standing};
use crate::time::Time;
use crate::topology::{
    Automation, BelowQuorum, Check, CheckKind, ConnectRules, Endpoint, Host, Member, Pair, PairId,
    PairRules, Policy, Pool, PoolId, Quorum, QuorumNeed, Service, Side, Topology, Verify,
};

/// The first pool of the pair, whose users the tests send about.
pub(crate) const HOME: PoolId = PoolId(0);
/// Its twin.
pub(crate) const TWIN: PoolId = PoolId(1);
/// A pool without one.
pub(crate) const ALONE: PoolId = PoolId(2);

pub(crate) fn count(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

/// A pair with `spill` and a pool of its own, each with these members; services `s` and `w`, which
/// the twin lists the other way round.
pub(crate) fn topology(members: [u16; 3]) -> Topology {
    let pool = |(id, members): (PoolId, u16)| Pool {
        id,
        name: format!("pool{}", id.0),
        role: "web".to_owned(),
        site: None,
        quorum: Quorum {
            to_start: need(),
            to_stay: need(),
        },
        below_quorum: BelowQuorum::Serve,
        drain_deadline: Duration::from_secs(600),
        queue_limit: 1024,
        queue_timeout: Duration::from_secs(10),
        members: (0..members).map(|nth| member(id, nth)).collect(),
        services: match id {
            TWIN => vec![service(id, 0, "w"), service(id, 1, "s")],
            _ => vec![service(id, 0, "s"), service(id, 1, "w")],
        },
        primary: id.service(0),
        after_pools: Vec::new(),
    };
    Topology {
        sites: Vec::new(),
        pools: [HOME, TWIN, ALONE]
            .into_iter()
            .zip(members)
            .map(pool)
            .collect(),
        pairs: vec![Pair {
            id: PairId(0),
            name: "pair".to_owned(),
            pools: [HOME, TWIN],
            rules: PairRules {
                failover: Automation::Manual,
                after: Duration::from_secs(10),
                failback: Automation::Manual,
                hold: Duration::from_secs(300),
                longest_hold: Duration::from_secs(3600),
                ramp: Duration::from_secs(60),
            },
            spill: true,
            exclusive: false,
            move_rate: count(100),
            arrivals: count(100),
        }],
    }
}

fn need() -> QuorumNeed {
    QuorumNeed {
        members: 1,
        of_first: 16,
    }
}

fn member(pool: PoolId, nth: u16) -> Member {
    let endpoint = Endpoint {
        host: Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: 1,
    };
    Member {
        id: pool.member(nth),
        name: format!("m{nth}"),
        weight: count(1),
        max_connections: None,
        backup: false,
        endpoints: vec![endpoint; 2],
    }
}

fn service(pool: PoolId, nth: u16, name: &str) -> Service {
    Service {
        id: pool.service(nth),
        name: name.to_owned(),
        listen: Vec::new(),
        listen_at_twin: Vec::new(),
        check: Check {
            kind: CheckKind::Tcp,
            tls: false,
            verify: Verify::No,
            server_name: None,
            port: None,
            interval: Duration::from_secs(1),
            in_doubt: Duration::from_millis(250),
            jitter: 0.1,
            timeout: Duration::from_millis(500),
            fall: count(3),
            rise: count(2),
            flap: count(5),
        },
        requires: Vec::new(),
        balance: Policy::LeastConnections,
        idle_timeout: Duration::from_secs(1800),
        protocol: crate::topology::Protocol::Tcp,
        peer_timeout: Duration::from_secs(30),
        connect: ConnectRules {
            hedge: Duration::from_millis(250),
            budget: Duration::from_secs(2),
            attempts: count(4),
        },
        send_proxy: false,
        accept_proxy: Vec::new(),
        slow_start: Duration::ZERO,
    }
}

/// A decider whose record of the pair says that `HOME`'s users are in this phase.
pub(crate) fn decider(topology: &Arc<Topology>, phase: Phase, cause: Cause) -> Decider {
    let now = start();
    let mut record = Record::home(1, now);
    let entry = &mut record.entries[Side::First.index()];
    entry.phase = phase;
    entry.cause = cause;
    let records = vec![(record, false)];
    Decider::new(topology.clone(), Standing::default(), records, 1, now)
}

/// When these deciders begin.
pub(crate) fn start() -> Time {
    Time::from_millis(60_000)
}

/// Lets a pool's members refuse every probe until it is lost.
pub(crate) fn lose(decider: &mut Decider, pool: PoolId) {
    let outcome = |answer| ProbeOutcome {
        answer,
        took: Duration::from_millis(1),
        transcript: String::new(),
    };
    while decider.condition(pool).0 != Condition::Lost {
        let (now, _) = decider.poll_timeout().expect("probes to come");
        assert!(now < start() + Duration::from_secs(60), "never lost");
        decider.handle_timeout(now);
        while let Some(output) = decider.poll_output() {
            if let Output::Probe(target) = output {
                let answer = match target.pool == pool {
                    true => Answer::Bad(Failure::Refused),
                    false => Answer::Good,
                };
                decider.handle_probe(target, &outcome(answer), now);
            }
        }
    }
}

/// A snapshot of the decider; every target has an address that nobody connects to.
pub(crate) fn snapshot(decider: &Decider, moving: bool) -> Snapshot {
    let handles = Handles::new(decider.topology());
    let address = |_| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    Snapshot::new(0, decider, &handles, start(), |_| moving, address)
}
