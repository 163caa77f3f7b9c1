//! Random fleets: a few pools with a few members and services each, in pairs over two sites or
//! without a twin.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use twinpool::topology::{
    Automation, BelowQuorum, Check, CheckKind, ConnectRules, Endpoint, Host, Member, Pair, PairId,
    PairRules, Policy, Pool, PoolId, Protocol, Quorum, QuorumNeed, Service, Site, SiteId, TargetId,
    Topology, Verify,
};

/// Of a hundred seeds, those in which pools have twins.
const PAIRED: u64 = 70;

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

/// Where each target stands in a flat list.
#[derive(Clone, Debug)]
pub(crate) struct Places(Vec<(usize, usize)>);

impl Places {
    pub(crate) fn new(topology: &Topology) -> Places {
        let mut next = 0;
        let starts = topology.pools.iter().map(|pool| {
            let start = (next, pool.services.len());
            next += pool.members.len() * pool.services.len();
            start
        });
        Places(starts.collect())
    }

    pub(crate) fn of(&self, target: TargetId) -> usize {
        let (start, services) = self.0[target.pool.index()];
        start + target.member().index() * services + target.service().index()
    }
}

pub(crate) fn fleet(rng: &mut Rng) -> Topology {
    if !rng.chance(PAIRED) {
        let pools = rng.within(1, 4) as u16;
        return Topology {
            sites: Vec::new(),
            pairs: Vec::new(),
            pools: (0..pools).map(|n| pool(PoolId(n), 5, None, rng)).collect(),
        };
    }
    let site = |name: &str| Site {
        name: name.to_owned(),
        region: Some(format!("{name}-region")),
    };
    let mut topology = Topology {
        sites: vec![site("east"), site("west")],
        ..Topology::default()
    };
    for n in 0..rng.pick(&[1, 1, 2, 3]) {
        let services = rng.pick(&[1, 1, 2]);
        // In file order either site may come first.
        let first = rng.below(2) as u16;
        let pools = [0, 1].map(|side| {
            let id = PoolId(topology.pools.len() as u16);
            let mut pool = pool(id, 3, Some(services), rng);
            pool.site = Some(SiteId((first + side) % 2));
            pool.role = format!("role{n}");
            topology.pools.push(pool);
            id
        });
        for (side, &id) in pools.iter().enumerate() {
            if n > 0 && rng.chance(30) {
                let before = topology.pairs[n as usize - 1].pools;
                let site = topology.pools[id.index()].site;
                let same = before
                    .into_iter()
                    .find(|other| topology.pool(*other).site == site);
                topology.pools[pools[side].index()].after_pools = same.into_iter().collect();
            }
        }
        topology.pairs.push(Pair {
            id: PairId(n),
            name: format!("pair{n}"),
            pools,
            rules: rules(rng),
            spill: false,
            exclusive: false,
            move_rate: NonZeroU32::new(100).unwrap(),
            arrivals: NonZeroU32::new(100).unwrap(),
        });
    }
    if rng.chance(30) {
        let id = PoolId(topology.pools.len() as u16);
        let mut alone = pool(id, 3, None, rng);
        alone.site = rng.pick(&[None, Some(SiteId(0)), Some(SiteId(1))]);
        topology.pools.push(alone);
    }
    topology
}

/// Short enough that everything happens within one run.
fn rules(rng: &mut Rng) -> PairRules {
    let who = |percent, rng: &mut Rng| match rng.chance(percent) {
        true => Automation::Automatic,
        false => Automation::Manual,
    };
    let hold = rng.pick(&[0, 500, 1000, 2000, 4000].map(Duration::from_millis));
    PairRules {
        failover: who(80, rng),
        after: rng.pick(&[0, 300, 1000, 1000, 3000].map(Duration::from_millis)),
        failback: who(70, rng),
        hold,
        longest_hold: hold * rng.pick(&[1, 2, 3, 4, 16]),
        ramp: rng.pick(&[0, 300, 1000, 3000].map(Duration::from_millis)),
    }
}

fn pool(id: PoolId, most: u64, services: Option<u16>, rng: &mut Rng) -> Pool {
    let size = rng.within(1, most) as u16;
    let services = services.unwrap_or_else(|| rng.within(1, 3) as u16);
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
    let to_stay = QuorumNeed {
        members: rng.within(1, u64::from(of_first)) as u16,
        of_first,
    };
    let to_start = QuorumNeed {
        members: rng.within(u64::from(to_stay.members), u64::from(size)) as u16,
        of_first: size,
    };
    Pool {
        id,
        name: format!("p{}", id.0),
        role: format!("role-of-p{}", id.0),
        site: None,
        quorum: Quorum { to_start, to_stay },
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
        protocol: Protocol::Tcp,
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
