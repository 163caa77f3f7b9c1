//! Random fleets: a few pools with a few members and services each.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use twinpool::topology::{
    BelowQuorum, Check, CheckKind, ConnectRules, Endpoint, Host, Member, Policy, Pool, PoolId,
    Quorum, QuorumNeed, Service, Topology, Verify,
};

/// Vigna's SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.within(low, high))
    }
}

pub(crate) fn fleet(rng: &mut Rng) -> Topology {
    let pools = rng.within(1, 4);
    Topology {
        sites: Vec::new(),
        pairs: Vec::new(),
        pools: (0..pools).map(|n| pool(PoolId(n as u16), rng)).collect(),
    }
}

fn pool(id: PoolId, rng: &mut Rng) -> Pool {
    let size = rng.within(1, 5) as u16;
    let services = rng.within(1, 3) as u16;
    let members = (0..size).map(|n| Member {
        id: id.member(n),
        name: format!("m{n}"),
        weight: NonZeroU32::MIN,
        max_connections: None,
        backup: size > 1 && n == size - 1 && rng.chance(20),
        endpoints: (0..services)
            .map(|service| Endpoint {
                host: Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                port: 1 + service,
            })
            .collect(),
    });
    let members: Vec<Member> = members.collect();
    let of_first = rng.within(1, u64::from(size)) as u16;
    let need = QuorumNeed {
        members: rng.within(1, u64::from(of_first)) as u16,
        of_first,
    };
    Pool {
        id,
        name: format!("p{}", id.0),
        role: format!("role{}", id.0),
        site: None,
        quorum: Quorum {
            to_start: need,
            to_stay: need,
        },
        below_quorum: BelowQuorum::Serve,
        drain_deadline: rng.millis(500, 8000),
        queue_limit: 16,
        queue_timeout: Duration::from_secs(5),
        members,
        services: (0..services).map(|n| service(id, n, rng)).collect(),
        primary: id.service(0),
        after_pools: Vec::new(),
    }
}

fn service(pool: PoolId, n: u16, rng: &mut Rng) -> Service {
    let most = |rng: &mut Rng, high| NonZeroU32::new(rng.within(1, high) as u32);
    Service {
        id: pool.service(n),
        name: format!("s{n}"),
        listen: Vec::new(),
        listen_at_twin: Vec::new(),
        check: Check {
            kind: CheckKind::Tcp,
            tls: false,
            verify: Verify::No,
            server_name: None,
            port: None,
            interval: rng.pick(&[500, 1000, 1000, 2000].map(Duration::from_millis)),
            in_doubt: Duration::from_millis(250),
            jitter: rng.pick(&[0.0, 0.1, 0.1, 0.5]),
            timeout: rng.pick(&[200, 500, 500, 900].map(Duration::from_millis)),
            fall: most(rng, 4).unwrap(),
            rise: most(rng, 3).unwrap(),
            flap: NonZeroU32::new(rng.within(3, 10) as u32).unwrap(),
        },
        requires: if n > 0 && rng.chance(60) {
            vec![pool.service(0)]
        } else {
            Vec::new()
        },
        balance: rng.pick(&[Policy::LeastConnections, Policy::First]),
        idle_timeout: Duration::from_secs(1800),
        peer_timeout: Duration::from_secs(30),
        connect: ConnectRules {
            hedge: Duration::from_millis(250),
            budget: Duration::from_secs(2),
            attempts: NonZeroU32::new(4).unwrap(),
        },
        send_proxy: false,
        accept_proxy: Vec::new(),
        slow_start: Duration::ZERO,
    }
}
