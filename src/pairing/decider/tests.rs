use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

mod pairs;
mod taking_over;

use super::*;
use crate::health::Failure;
use crate::health::readiness::Takes;
use crate::pairing::isolation::{INQUIRY_MARGIN, LEAD};
use crate::topology::{
    Automation, BelowQuorum, Check, CheckKind, ConnectRules, Endpoint, Host, Pair, PairId,
    PairRules, Policy, Quorum, QuorumNeed, Service, Site, SiteId, Verify,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How a member is, as a probe would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Well,
    Killed,
    Cut,
    Hung,
    Sick,
    /// Our own side refuses.
    OwnFault(OwnFault),
}

/// A pool: its size, and its services with what they require and how they are balanced.
pub(in crate::pairing) type Plan<'a> = (u16, &'a [(&'a [u16], Policy)]);

pub(in crate::pairing) const PLAIN: &[(&[u16], Policy)] = &[(&[], Policy::LeastConnections)];
const WITH_WEB: &[(&[u16], Policy)] = &[
    (&[], Policy::LeastConnections),
    (&[0], Policy::LeastConnections),
];
const FIRST: &[(&[u16], Policy)] = &[(&[], Policy::First)];

pub(in crate::pairing) fn topology(plans: &[Plan<'_>]) -> Topology {
    let count = |n| NonZeroU32::new(n).expect("not zero");
    let pools = plans.iter().enumerate().map(|(nth, &(size, services))| {
        let id = PoolId(nth as u16);
        let need = QuorumNeed {
            members: size.div_ceil(2),
            of_first: size,
        };
        let endpoint = Endpoint {
            host: Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: 1,
        };
        Pool {
            id,
            name: format!("pool{nth}"),
            role: "role".to_owned(),
            site: None,
            quorum: Quorum {
                to_start: need,
                to_stay: need,
            },
            below_quorum: BelowQuorum::Serve,
            drain_deadline: Duration::from_secs(600),
            queue_limit: 1024,
            queue_timeout: Duration::from_secs(5),
            members: (0..size)
                .map(|n| Member {
                    id: id.member(n),
                    name: format!("m{n}"),
                    weight: count(1),
                    max_connections: None,
                    backup: false,
                    endpoints: vec![endpoint.clone(); services.len()],
                })
                .collect(),
            services: (0u16..)
                .zip(services)
                .map(|(n, (requires, balance))| Service {
                    id: id.service(n),
                    name: format!("s{n}"),
                    listen: Vec::new(),
                    listen_at_twin: Vec::new(),
                    check: Check {
                        kind: CheckKind::Tcp,
                        tls: false,
                        verify: Verify::No,
                        server_name: None,
                        port: None,
                        interval: ms(1000),
                        in_doubt: ms(250),
                        jitter: 0.1,
                        timeout: ms(500),
                        fall: count(3),
                        rise: count(2),
                        flap: count(5),
                    },
                    requires: requires.iter().map(|&r| id.service(r)).collect(),
                    balance: *balance,
                    idle_timeout: Duration::from_secs(1800),
                    protocol: crate::topology::Protocol::Tcp,
                    peer_timeout: Duration::from_secs(30),
                    connect: ConnectRules {
                        hedge: ms(250),
                        budget: Duration::from_secs(2),
                        attempts: count(4),
                    },
                    send_proxy: false,
                    accept_proxy: Vec::new(),
                    slow_start: Duration::from_secs(30),
                })
                .collect(),
            primary: id.service(0),
            after_pools: Vec::new(),
        }
    });
    Topology {
        sites: Vec::new(),
        pairs: Vec::new(),
        pools: pools.collect(),
    }
}

/// Makes each pool with an even id and the next one a pair: the first stands in one site, the
/// second in another.
pub(in crate::pairing) fn pair_up(topology: &mut Topology, rules: &PairRules) {
    topology.sites = ["here", "there"]
        .map(|name| Site {
            name: name.to_owned(),
            region: None,
        })
        .to_vec();
    for pool in &mut topology.pools {
        pool.site = Some(SiteId(pool.id.0 % 2));
    }
    let rate = NonZeroU32::new(100).expect("not zero");
    let pairs = (0..topology.pools.len() as u16 / 2).map(|n| Pair {
        id: PairId(n),
        name: format!("pair{n}"),
        pools: [PoolId(n * 2), PoolId(n * 2 + 1)],
        rules: rules.clone(),
        spill: false,
        exclusive: false,
        move_rate: rate,
        arrivals: rate,
    });
    topology.pairs = pairs.collect();
}

/// Everything by itself, by the defaults.
pub(in crate::pairing) fn automatic() -> PairRules {
    PairRules {
        failover: Automation::Automatic,
        after: Duration::from_secs(10),
        failback: Automation::Automatic,
        hold: Duration::from_secs(300),
        longest_hold: Duration::from_secs(3600),
        ramp: Duration::from_secs(60),
    }
}

pub(in crate::pairing) fn member(pool: u16, n: u16) -> MemberId {
    PoolId(pool).member(n)
}

fn target(pool: u16, n: u16, service: u16) -> TargetId {
    member(pool, n).target(PoolId(pool).service(service))
}

/// What becomes of a record that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Works,
    /// Says nothing.
    Stalls,
    Fails(&'static str),
}

/// A decider, a disk, and a network that answers its probes.
struct Rig {
    decider: Decider,
    now: Time,
    truth: BTreeMap<TargetId, Truth>,
    uplink: bool,
    out: BTreeMap<(Time, TargetId), Answer>,
    asked: BTreeMap<TargetId, u64>,
    events: Vec<(Time, Event)>,
    ends: Vec<(MemberId, Option<ServiceId>)>,
    remembered: u32,
    disk: Disk,
    stored: Vec<(PairId, Record)>,
    cleared: Vec<(PoolId, Option<PoolId>, Time)>,
    published: u32,
    /// A client meets each unreachable member so often.
    clients: Option<Duration>,
    next_client: Time,
}

impl Rig {
    /// A fleet whose members have all been found well.
    fn new(plans: &[Plan<'_>]) -> Rig {
        let mut rig = Rig::starting(plans, Standing::default());
        rig.run(ms(3000));
        assert!(rig.decider.settled());
        rig.events.clear();
        rig
    }

    /// The same with each two pools a pair.
    fn paired(plans: &[Plan<'_>], rules: &PairRules) -> Rig {
        let mut topology = topology(plans);
        pair_up(&mut topology, rules);
        let mut rig = Rig::with(topology, Standing::default(), Vec::new());
        rig.run(ms(3000));
        assert!(rig.decider.settled());
        rig.events.clear();
        rig
    }

    fn starting(plans: &[Plan<'_>], standing: Standing) -> Rig {
        Rig::with(topology(plans), standing, Vec::new())
    }

    fn with(topology: Topology, standing: Standing, records: Vec<(Record, bool)>) -> Rig {
        let topology = Arc::new(topology);
        let now = Time::from_millis(10_000);
        let truth = topology.targets().map(|target| (target, Truth::Well));
        Rig {
            truth: truth.collect(),
            decider: Decider::new(topology, standing, records, 7, now),
            now,
            uplink: true,
            out: BTreeMap::new(),
            asked: BTreeMap::new(),
            events: Vec::new(),
            ends: Vec::new(),
            remembered: 0,
            disk: Disk::Works,
            stored: Vec::new(),
            cleared: Vec::new(),
            published: 0,
            clients: None,
            next_client: now,
        }
    }

    fn set(&mut self, member: MemberId, truth: Truth) {
        for (target, now) in &mut self.truth {
            if target.member() == member {
                *now = truth;
            }
        }
    }

    fn set_pool(&mut self, pool: u16, truth: Truth) {
        for (target, now) in &mut self.truth {
            if target.pool == PoolId(pool) {
                *now = truth;
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.drain();
        loop {
            let due = self.decider.poll_timeout().map_or(Time::FAR, |(at, _)| at);
            let back = self.out.keys().next().map_or(Time::FAR, |(at, _)| *at);
            let client = self.clients.map_or(Time::FAR, |_| self.next_client);
            let next = due.min(back).min(client).max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            if back <= next {
                let ((_, target), answer) = self.out.pop_first().expect("one is back");
                self.bring(target, answer);
            } else if client <= next {
                self.next_client = self.now + self.clients.unwrap_or_default();
                self.meet_clients();
            } else {
                self.decider.handle_timeout(next);
            }
            self.drain();
        }
        self.now = end;
    }

    /// Runs until `done` holds; gives back how long that took.
    fn until(&mut self, most: Duration, done: impl Fn(&Decider) -> bool) -> Duration {
        let start = self.now;
        while !done(&self.decider) {
            assert!(self.now.since(start) <= most, "not within {most:?}");
            self.run(ms(1));
        }
        self.now.since(start)
    }

    fn bring(&mut self, target: TargetId, answer: Answer) {
        let outcome = ProbeOutcome {
            answer,
            took: Duration::ZERO,
            transcript: String::new(),
        };
        self.decider.handle_probe(target, &outcome, self.now);
    }

    fn meet_clients(&mut self) {
        for (&target, &truth) in &self.truth {
            let cut = truth == Truth::Cut || !self.uplink;
            if cut && self.decider.readiness(target).takes != Takes::No {
                let evidence = Evidence::Failed(Failure::ConnectTimeout);
                self.decider.handle_evidence(target, evidence, self.now);
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.decider.poll_output() {
            match output {
                Output::Probe(target) => {
                    *self.asked.entry(target).or_default() += 1;
                    let (took, answer) = match (self.uplink, self.truth[&target]) {
                        (_, Truth::OwnFault(fault)) => (ms(0), Answer::OwnFault(fault)),
                        (false, _) | (_, Truth::Cut) => {
                            (ms(500), Answer::Bad(Failure::ConnectTimeout))
                        }
                        (true, Truth::Well) => (ms(2), Answer::Good),
                        (true, Truth::Killed) => (ms(1), Answer::Bad(Failure::Refused)),
                        (true, Truth::Hung) => (ms(500), Answer::Bad(Failure::NoAnswer)),
                        (true, Truth::Sick) => (ms(2), Answer::Bad(Failure::Unavailable)),
                    };
                    self.out.insert((self.now + took, target), answer);
                }
                Output::End {
                    member, service, ..
                } => self.ends.push((member, service)),
                Output::Tell(event) => self.events.push((self.now, event)),
                Output::Remember => self.remembered += 1,
                Output::Publish => self.published += 1,
                Output::Store(pair, record) => {
                    let generation = record.generation;
                    self.stored.push((pair, record));
                    let stored = match self.disk {
                        Disk::Works => Ok(()),
                        Disk::Fails(why) => Err(why.to_owned()),
                        Disk::Stalls => continue,
                    };
                    self.decider
                        .handle_stored(pair, generation, stored, self.now);
                }
                Output::Clear { home, off, from } => self.cleared.push((home, off, from)),
            }
        }
    }

    fn order(&mut self, member: MemberId, mode: Mode) -> Result<(), Refusal> {
        self.command(member, mode, None, false)
    }

    fn command(
        &mut self,
        member: MemberId,
        mode: Mode,
        span: Option<Duration>,
        force: bool,
    ) -> Result<(), Refusal> {
        let order = Order {
            member,
            mode,
            by: "ann".to_owned(),
            reason: Some("a reason".to_owned()),
            until: span.map(|span| self.now + span),
            force,
        };
        let done = self.decider.handle_order(order, self.now);
        self.drain();
        done
    }

    /// Whether a probe of this target is out.
    fn is_out(&self, target: TargetId) -> bool {
        self.out.keys().any(|(_, asked)| *asked == target)
    }

    fn verdict(&self, target: TargetId) -> Verdict {
        self.decider.verdict(target).0
    }

    fn condition(&self, pool: u16) -> Condition {
        self.decider.condition(PoolId(pool)).0
    }

    fn is_told(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(_, event)| wanted(event))
    }

    fn verdicts_told(&self) -> usize {
        let verdicts = self.events.iter();
        verdicts
            .filter(|(_, event)| matches!(event, Event::Verdict { .. }))
            .count()
    }
}

fn is_down(target: TargetId) -> impl Fn(&Decider) -> bool {
    move |decider| decider.verdict(target).0 == Verdict::Down
}

// Deaths.

#[test]
fn a_killed_member_is_out_and_its_sessions_end_with_those_of_services_that_require_it() {
    let mut rig = Rig::new(&[(3, WITH_WEB), (3, PLAIN)]);
    rig.truth.insert(target(0, 1, 0), Truth::Killed);
    rig.until(ms(1100 + 3 * 275), is_down(target(0, 1, 0)));
    let pool = PoolId(0);
    let ended = [
        (member(0, 1), Some(pool.service(0))),
        (member(0, 1), Some(pool.service(1))),
    ];
    assert_eq!(rig.ends, ended);
    let (verdict, reason, _) = rig.decider.verdict(target(0, 1, 1));
    assert_eq!(
        (verdict, reason),
        (Verdict::Down, Reason::Requires(pool.service(0)))
    );
    assert_eq!(rig.decider.explain(target(0, 1, 1)).own, Verdict::Up);
    assert_eq!(rig.condition(0), Condition::Degraded);
    assert_eq!(rig.verdicts_told(), 2);
}

#[test]
fn the_death_of_a_service_that_nobody_requires_ends_its_own_sessions_alone() {
    let mut rig = Rig::new(&[(3, WITH_WEB)]);
    rig.truth.insert(target(0, 1, 1), Truth::Killed);
    rig.until(ms(2000), is_down(target(0, 1, 1)));
    assert_eq!(rig.ends, [(member(0, 1), Some(PoolId(0).service(1)))]);
    assert_eq!(rig.condition(0), Condition::Serving);
}

#[test]
fn a_member_that_was_cut_off_is_out_in_time_with_and_without_clients() {
    for (clients, bound) in [(None, 1100 + 3 * 500 + 50), (Some(ms(5)), 600)] {
        let mut rig = Rig::new(&[(3, PLAIN), (3, PLAIN)]);
        rig.clients = clients;
        rig.next_client = rig.now;
        rig.set(member(0, 0), Truth::Cut);
        rig.until(ms(bound), is_down(target(0, 0, 0)));
        assert_eq!(rig.ends.len(), 1);
        assert_eq!(rig.decider.isolated(), None);
    }
}

#[test]
fn a_hung_member_is_out_in_time() {
    let mut rig = Rig::new(&[(3, PLAIN), (3, PLAIN)]);
    rig.set(member(0, 0), Truth::Hung);
    rig.until(ms(1100 + 3 * 500 + 100), is_down(target(0, 0, 0)));
    assert_eq!(
        rig.decider.verdict(target(0, 0, 0)).1,
        Reason::Failed(Failure::NoAnswer)
    );
}

#[test]
fn a_whole_pool_that_was_cut_off_is_lost_while_another_answers() {
    let mut rig = Rig::new(&[(3, PLAIN), (1, PLAIN)]);
    rig.set_pool(0, Truth::Cut);
    rig.until(ms(1100 + 3 * 500 + 600), |decider| {
        decider.condition(PoolId(0)).0 == Condition::Lost
    });
    assert_eq!(rig.decider.isolated(), None);
    assert_eq!(rig.condition(1), Condition::Serving);
}

#[test]
fn what_was_slow_while_somebody_else_answered_is_asked_at_once_and_once() {
    let mut rig = Rig::new(&[(3, PLAIN), (3, PLAIN)]);
    while !rig.out.is_empty() {
        rig.run(ms(1));
    }
    rig.set_pool(0, Truth::Cut);
    let began = rig.now;
    rig.run(ms(250));
    let asked = |rig: &Rig| (0..3).filter(|n| rig.is_out(target(0, *n, 0))).count();
    // Those whose turn it was to be asked meanwhile are asked once more after that.
    let early = asked(&rig);
    for n in 0..3 {
        for _ in 0..2 {
            let slow = Evidence::Slow(began + ms(n));
            rig.decider
                .handle_evidence(target(0, n as u16, 0), slow, rig.now);
        }
        rig.run(ms(1));
    }
    rig.run(ms(130));
    assert_eq!(asked(&rig), 3);
    rig.run(ms(500 + 10));
    let down = |n: &u16| rig.verdict(target(0, *n, 0)) == Verdict::Down;
    assert!((0..3).filter(down).count() >= 3 - early);
    rig.until(ms(500), |decider| {
        decider.condition(PoolId(0)).0 == Condition::Lost
    });
}

#[test]
fn a_sick_member_is_busy_and_keeps_its_sessions() {
    let mut rig = Rig::new(&[(2, PLAIN)]);
    rig.set(member(0, 0), Truth::Sick);
    rig.run(ms(3000));
    assert_eq!(rig.verdict(target(0, 0, 0)), Verdict::Busy);
    let readiness = rig.decider.readiness(target(0, 0, 0));
    assert_eq!(
        (readiness.takes, readiness.keeps),
        (Takes::LastResort, true)
    );
    assert_eq!((rig.condition(0), rig.ends.len()), (Condition::Degraded, 0));
}

#[test]
fn a_flapping_member_is_busy_until_it_has_been_well_for_long() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    let flapping = target(0, 0, 0);
    let mut failures = 0;
    while rig.verdict(flapping) == Verdict::Up {
        let before = rig.asked[&flapping];
        rig.set(member(0, 0), Truth::Killed);
        while rig.asked[&flapping] == before {
            rig.run(ms(1));
        }
        rig.set(member(0, 0), Truth::Well);
        rig.run(ms(300));
        failures += 1;
    }
    assert_eq!(failures, 5);
    assert_eq!(rig.decider.verdict(flapping).1, Reason::Flapping);
    let took = rig.until(ms(3000), move |decider| {
        decider.verdict(flapping).0 == Verdict::Up
    });
    assert!(took >= ms(3 * 225), "{took:?}");
    assert!(rig.ends.is_empty());
}

#[test]
fn all_return_at_once_and_each_knows_since_when() {
    let mut rig = Rig::new(&[(4, PLAIN), (1, PLAIN)]);
    assert_eq!(rig.decider.returned(target(0, 0, 0)), None);
    rig.set_pool(0, Truth::Killed);
    rig.run(ms(3000));
    assert_eq!(rig.condition(0), Condition::Lost);
    let back = rig.now;
    rig.set_pool(0, Truth::Well);
    rig.run(ms(1100 + 275 + 10));
    for n in 0..4 {
        assert_eq!(rig.verdict(target(0, n, 0)), Verdict::Up);
        assert!(
            rig.decider
                .returned(target(0, n, 0))
                .is_some_and(|at| at > back)
        );
    }
    assert_eq!(rig.condition(0), Condition::Serving);
}

// Evidence.

#[test]
fn evidence_alone_never_takes_a_member_out_and_is_no_lever_to_hammer_it() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    let before = rig.asked.clone();
    for _ in 0..1000 {
        rig.run(ms(5));
        let evidence = Evidence::Failed(Failure::ConnectTimeout);
        rig.decider
            .handle_evidence(target(0, 0, 0), evidence, rig.now);
        rig.drain();
    }
    assert_eq!((rig.verdicts_told(), rig.ends.len()), (0, 0));
    // Five seconds at one probe in 125 ms at most, for it and for those who bear witness.
    for (asked, count) in &rig.asked {
        let more = count - before[asked];
        assert!(more <= 41, "{asked:?} was asked {more} times");
    }
}

#[test]
fn a_client_that_is_answered_clears_no_doubt() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    rig.set(member(0, 0), Truth::Hung);
    for _ in 0..600 {
        rig.run(ms(5));
        rig.decider
            .handle_evidence(target(0, 0, 0), Evidence::Answered, rig.now);
        rig.drain();
    }
    assert_eq!(rig.verdict(target(0, 0, 0)), Verdict::Down);
}

#[test]
fn faults_of_our_own_change_nothing_and_are_shown() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    for n in 0..2 {
        rig.set_pool(n, Truth::OwnFault(OwnFault::Descriptors));
    }
    rig.run(ms(20_000));
    assert!(rig.events.is_empty() && rig.ends.is_empty());
    let shown = rig.decider.explain(target(0, 0, 0)).own_fault;
    assert_eq!(shown, Some(OwnFault::Descriptors));
    rig.set_pool(0, Truth::Well);
    rig.run(ms(600));
    assert_eq!(rig.decider.explain(target(0, 0, 0)).own_fault, None);
}

// Isolation.

#[test]
fn an_outage_of_our_own_uplink_changes_no_verdict_and_ends_no_session() {
    for lasts in (100..4000).step_by(50).chain([10_000]) {
        let mut rig = Rig::new(&[(3, WITH_WEB), (3, PLAIN)]);
        rig.clients = Some(ms(5));
        rig.next_client = rig.now;
        rig.run(ms(lasts % 1000));
        rig.uplink = false;
        rig.run(ms(lasts));
        rig.uplink = true;
        rig.run(ms(5000));
        assert_eq!(
            (rig.verdicts_told(), rig.ends.len()),
            (0, 0),
            "after {lasts} ms"
        );
        assert_eq!(rig.decider.isolated(), None);
        if lasts >= 2500 {
            let many = |event: &Event| {
                let silent = IsolationCause::ManySilent {
                    pools: 2,
                    members: 6,
                };
                matches!(event, Event::Isolation { cause: Some(cause) } if *cause == silent)
                    || matches!(event, Event::Isolation { cause: Some(_) })
            };
            assert!(rig.is_told(many), "after {lasts} ms");
            assert!(rig.is_told(|event| *event == Event::Isolation { cause: None }));
        }
    }
}

#[test]
fn large_pools_are_isolated_without_asking_everyone() {
    let mut rig = Rig::new(&[(100, PLAIN), (100, PLAIN), (3, PLAIN)]);
    rig.uplink = false;
    rig.until(ms(1100 + 1500 + 600), |decider| {
        decider.isolated().is_some()
    });
    rig.run(ms(5000));
    assert_eq!((rig.verdicts_told(), rig.ends.len()), (0, 0));
    rig.uplink = true;
    rig.run(ms(5000));
    assert_eq!((rig.verdicts_told(), rig.ends.len()), (0, 0));
    assert_eq!(rig.decider.isolated(), None);
}

#[test]
fn with_one_pool_there_is_nobody_to_compare_with() {
    let mut rig = Rig::new(&[(3, PLAIN)]);
    rig.uplink = false;
    rig.run(ms(1100 + 3 * 500 + 10));
    assert_eq!(rig.condition(0), Condition::Lost);
    assert_eq!(rig.decider.isolated(), None);
}

#[test]
fn when_everyone_really_died_it_holds_until_one_answers_and_judges_the_others_then() {
    let mut rig = Rig::new(&[(3, PLAIN), (3, PLAIN)]);
    rig.set_pool(0, Truth::Cut);
    rig.set_pool(1, Truth::Cut);
    rig.run(ms(10_000));
    assert!(rig.decider.isolated().is_some());
    assert!(rig.ends.is_empty());
    assert!(rig.decider.explain(target(0, 0, 0)).held);
    rig.set(member(1, 0), Truth::Well);
    rig.run(ms(1100 + 2));
    assert_eq!(rig.decider.isolated(), None);
    rig.run(ms(1100 + 3 * 500 + 500));
    assert_eq!(rig.ends.len(), 5);
    assert_eq!(rig.verdict(target(1, 0, 0)), Verdict::Up);
    assert_eq!(rig.condition(0), Condition::Lost);
}

#[test]
fn an_outage_of_our_own_silences_both_pools_of_a_pair() {
    let mut rig = Rig::paired(&[(3, PLAIN), (3, PLAIN)], &automatic());
    rig.uplink = false;
    rig.run(ms(10_000));
    assert!(rig.decider.isolated().is_some());
    assert_eq!((rig.verdicts_told(), rig.ends.len()), (0, 0));
}

#[test]
fn silence_that_spares_every_twin_is_not_our_own() {
    for (pairs, isolated) in [(false, true), (true, false)] {
        let plans = [(3, PLAIN); 4];
        let mut rig = match pairs {
            true => Rig::paired(&plans, &automatic()),
            false => Rig::new(&plans),
        };
        // Nothing can be heard of the other site, neither good nor bad.
        for (pool, truth) in [
            (0, Truth::Cut),
            (1, Truth::OwnFault(OwnFault::Descriptors)),
            (2, Truth::Cut),
            (3, Truth::OwnFault(OwnFault::Descriptors)),
        ] {
            rig.set_pool(pool, truth);
        }
        rig.run(ms(10_000));
        assert_eq!(rig.decider.isolated().is_some(), isolated, "{pairs}");
        let lost = [0, 2].map(|pool| rig.condition(pool) == Condition::Lost);
        assert_eq!(lost, [!isolated; 2]);
    }
}

#[test]
fn a_twin_that_was_given_up_long_ago_does_not_speak_against_our_own_fault() {
    let mut rig = Rig::paired(&[(3, PLAIN); 4], &automatic());
    rig.set_pool(1, Truth::Cut);
    rig.set_pool(3, Truth::Cut);
    rig.run(ms(60_000));
    assert_eq!(
        (rig.condition(1), rig.condition(3)),
        (Condition::Lost, Condition::Lost)
    );
    let told = rig.verdicts_told();
    rig.uplink = false;
    rig.run(ms(10_000));
    assert!(rig.decider.isolated().is_some());
    assert_eq!(rig.verdicts_told(), told);
}

#[test]
fn in_a_large_fleet_of_pairs_an_outage_of_our_own_is_known_for_one() {
    let plans: Vec<Plan<'_>> = vec![(2, PLAIN); 60];
    for near in [true, false] {
        let mut topology = topology(&plans);
        pair_up(&mut topology, &automatic());
        for (nth, pair) in topology.pairs.iter_mut().enumerate() {
            if !near {
                pair.pools = [PoolId(nth as u16), PoolId(nth as u16 + 30)];
            }
        }
        for lead in [0, 200, 400, 600, 800] {
            let mut rig = Rig::with(topology.clone(), Standing::default(), Vec::new());
            rig.run(ms(3000 + lead));
            rig.events.clear();
            rig.uplink = false;
            rig.run(ms(10_000));
            assert!(rig.decider.isolated().is_some());
            assert_eq!(
                (rig.verdicts_told(), rig.ends.len()),
                (0, 0),
                "{near} {lead}"
            );
        }
    }
}

#[test]
fn refusals_prove_the_network_and_isolate_nobody() {
    let mut rig = Rig::new(&[(3, PLAIN), (3, PLAIN)]);
    rig.set_pool(0, Truth::Killed);
    rig.set_pool(1, Truth::Killed);
    rig.run(ms(1100 + 3 * 275 + 10));
    assert_eq!(rig.ends.len(), 6);
    assert!(!rig.is_told(|event| matches!(event, Event::Isolation { .. })));
}

#[test]
fn a_pool_that_was_given_up_long_ago_is_no_witness() {
    let mut rig = Rig::new(&[(3, PLAIN), (2, PLAIN)]);
    rig.set_pool(1, Truth::Cut);
    rig.run(ms(20_000));
    assert_eq!(rig.condition(1), Condition::Lost);
    rig.set_pool(0, Truth::Cut);
    let most = ms(1100 + 4 * 500 + 2 * 500) + INQUIRY_MARGIN + LEAD * 4;
    rig.until(most, |decider| {
        decider.condition(PoolId(0)).0 == Condition::Lost
    });
    assert_eq!(rig.decider.isolated(), None);
}

#[test]
fn a_link_that_vanishes_isolates_at_once_until_somebody_behind_it_answers() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    for pool in 0..2 {
        rig.set_pool(pool, Truth::OwnFault(OwnFault::Route));
    }
    let all: Vec<MemberId> = (0..4).map(|n| member(n / 2, n % 2)).collect();
    rig.decider.handle_paths(&all, rig.now);
    rig.drain();
    let cause = rig.decider.isolated().map(|(cause, _)| cause);
    assert_eq!(cause, Some(IsolationCause::PathVanished));
    rig.run(ms(30_000));
    assert!(rig.decider.isolated().is_some());
    for pool in 0..2 {
        rig.set_pool(pool, Truth::Well);
    }
    rig.decider.handle_paths(&[], rig.now);
    rig.run(ms(300));
    assert_eq!(rig.decider.isolated(), None);
    rig.run(ms(5000));
    assert_eq!((rig.verdicts_told(), rig.ends.len()), (0, 0));
}

#[test]
fn a_probe_that_finds_no_route_to_a_member_that_was_up_isolates() {
    let mut rig = Rig::new(&[(2, PLAIN)]);
    rig.set(member(0, 0), Truth::OwnFault(OwnFault::Route));
    rig.run(ms(1110));
    assert!(rig.decider.isolated().is_some());
    rig.set(member(0, 1), Truth::Killed);
    rig.run(ms(5000));
    assert!(rig.ends.is_empty(), "held");
    rig.set(member(0, 0), Truth::Well);
    rig.run(ms(600));
    assert_eq!(rig.decider.isolated(), None);
    rig.run(ms(2000));
    assert_eq!(rig.verdict(target(0, 1, 0)), Verdict::Down);
}

#[test]
fn taking_those_without_a_path_into_maintenance_ends_the_isolation() {
    let mut rig = Rig::new(&[(3, PLAIN)]);
    rig.decider.handle_paths(&[member(0, 2)], rig.now);
    assert!(rig.decider.isolated().is_some());
    rig.order(member(0, 2), Mode::Maintenance).unwrap();
    assert_eq!(rig.decider.isolated(), None);
    rig.decider.handle_paths(&[], rig.now);
    rig.decider.handle_paths(&[member(0, 2)], rig.now);
    assert_eq!(rig.decider.isolated(), None);
}

#[test]
fn members_that_never_answered_have_no_path_to_lose() {
    let mut rig = Rig::starting(&[(2, PLAIN)], Standing::default());
    rig.decider.handle_paths(&[member(0, 0)], rig.now);
    assert_eq!(rig.decider.isolated(), None);
}

// Operators.

#[test]
fn a_drained_member_keeps_its_sessions_to_the_deadline_and_counts() {
    let mut rig = Rig::new(&[(2, PLAIN)]);
    rig.order(member(0, 0), Mode::Drain).unwrap();
    let readiness = rig.decider.readiness(target(0, 0, 0));
    assert_eq!((readiness.takes, readiness.keeps), (Takes::No, true));
    assert_eq!(rig.decider.condition(PoolId(0)).2, 2);
    rig.run(Duration::from_secs(599));
    assert!(rig.ends.is_empty());
    rig.run(Duration::from_secs(2));
    assert_eq!(rig.ends, [(member(0, 0), None)]);
    rig.run(Duration::from_secs(1000));
    assert_eq!(rig.ends.len(), 1);
}

#[test]
fn maintenance_that_would_lose_the_pool_is_refused_without_force() {
    let mut rig = Rig::new(&[(2, PLAIN)]);
    rig.order(member(0, 0), Mode::Maintenance).unwrap();
    let refusal = Refusal::WouldLosePool {
        pool: PoolId(0),
        remain: 0,
        need: 1,
    };
    assert_eq!(rig.order(member(0, 1), Mode::Maintenance), Err(refusal));
    assert_eq!(rig.decider.operator(member(0, 1)), None);
    assert_eq!(rig.order(member(0, 1), Mode::Drain), Ok(()));
    let done = rig.command(member(0, 1), Mode::Maintenance, None, true);
    assert_eq!((done, rig.condition(0)), (Ok(()), Condition::Lost));
    assert_eq!(
        rig.order(member(0, 1), Mode::Maintenance),
        Ok(()),
        "lost already"
    );
}

#[test]
fn an_order_lapses_and_the_member_returns() {
    let mut rig = Rig::new(&[(2, PLAIN)]);
    rig.command(member(0, 0), Mode::Drain, Some(ms(5000)), false)
        .unwrap();
    rig.run(ms(4990));
    assert!(rig.decider.operator(member(0, 0)).is_some());
    rig.run(ms(20));
    assert_eq!(rig.decider.operator(member(0, 0)), None);
    assert!(rig.decider.returned(target(0, 0, 0)).is_some());
    let by_itself = |event: &Event| {
        matches!(event, Event::Operator { state, .. }
            if state.mode == Mode::Ready && state.by == "twinpool")
    };
    assert!(rig.is_told(by_itself));
    rig.run(Duration::from_secs(1000));
    assert!(rig.ends.is_empty(), "the deadline went with the order");
}

#[test]
fn an_order_that_is_repeated_keeps_the_earlier_deadline() {
    let mut rig = Rig::new(&[(2, PLAIN)]);
    rig.order(member(0, 0), Mode::Drain).unwrap();
    let first = rig.decider.operator(member(0, 0)).unwrap().clone();
    rig.run(ms(10_000));
    rig.command(member(0, 0), Mode::Drain, Some(ms(100)), false)
        .unwrap();
    let second = rig.decider.operator(member(0, 0)).unwrap().clone();
    assert_eq!(
        (second.deadline, second.since),
        (first.deadline, first.since)
    );
    assert_eq!(second.until, Some(rig.now + ms(100)));
    rig.order(member(0, 0), Mode::Maintenance).unwrap();
    let third = rig.decider.operator(member(0, 0)).unwrap().clone();
    assert_eq!((third.deadline, third.until), (first.deadline, None));
    assert_eq!(third.since, rig.now);
    rig.run(ms(200));
    assert!(
        rig.decider.operator(member(0, 0)).is_some(),
        "the old span went"
    );
}

#[test]
fn ready_ends_what_was_ordered_and_says_nothing_when_nothing_was() {
    let mut rig = Rig::new(&[(2, PLAIN)]);
    rig.order(member(0, 0), Mode::Ready).unwrap();
    assert!(rig.events.is_empty() && rig.decider.standing().operators.is_empty());
    rig.order(member(0, 0), Mode::Drain).unwrap();
    let before = rig.remembered;
    rig.order(member(0, 0), Mode::Ready).unwrap();
    assert_eq!(rig.remembered, before + 1);
    assert_eq!(rig.decider.readiness(target(0, 0, 0)).takes, Takes::New);
}

#[test]
fn deadlines_are_held_while_isolated_and_met_afterwards() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    rig.order(member(0, 0), Mode::Drain).unwrap();
    rig.run(Duration::from_secs(595));
    rig.uplink = false;
    rig.run(Duration::from_secs(10));
    assert!(rig.decider.isolated().is_some() && rig.ends.is_empty());
    rig.uplink = true;
    rig.run(ms(2000));
    assert_eq!(rig.ends, [(member(0, 0), None)]);
}

#[test]
fn an_outage_during_which_this_instance_stood_still_condemns_nobody() {
    for begins in (0..2000).step_by(20) {
        for stands in [300, 1000, 2500, 10_000] {
            let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN), (2, PLAIN)]);
            rig.uplink = false;
            rig.clients = Some(ms(20));
            rig.run(ms(begins));
            // Timers come first, then what came back meanwhile.
            rig.now += ms(stands);
            rig.decider.handle_timeout(rig.now);
            rig.run(ms(3000));
            rig.uplink = true;
            rig.run(ms(3000));
            assert!(rig.ends.is_empty(), "{stands} ms after {begins} ms");
            assert!(rig.decider.isolated().is_none());
        }
    }
}

// Start and restart.

#[test]
fn at_the_start_everything_is_unknown_and_may_be_tried() {
    let rig = Rig::starting(&[(2, WITH_WEB)], Standing::default());
    assert_eq!(rig.verdict(target(0, 0, 0)), Verdict::Unknown);
    assert_eq!(rig.decider.readiness(target(0, 0, 1)).takes, Takes::New);
    assert_eq!(rig.condition(0), Condition::Serving);
    assert!(!rig.decider.settled());
}

#[test]
fn first_probes_are_spread_over_a_second_at_most() {
    let plans: Vec<Plan<'_>> = vec![(100, PLAIN); 10];
    let mut rig = Rig::starting(&plans, Standing::default());
    rig.run(ms(100));
    let asked = rig.asked.len();
    assert!(
        (60..140).contains(&asked),
        "{asked} of 1,000 in a tenth of a second"
    );
    rig.run(ms(901));
    assert_eq!(rig.asked.len(), 1000);
}

#[test]
fn a_pool_is_not_called_lost_before_its_first_probes_are_in() {
    let drained = OperatorState {
        mode: Mode::Maintenance,
        by: "ann".to_owned(),
        reason: None,
        since: Time::ZERO,
        until: None,
        deadline: None,
    };
    let standing = Standing {
        operators: vec![(member(0, 0), drained.clone()), (member(0, 1), drained)],
        first: Vec::new(),
        pause: None,
    };
    let mut rig = Rig::starting(&[(2, PLAIN)], standing);
    assert_eq!(rig.condition(0), Condition::Degraded);
    rig.run(ms(1100));
    assert_eq!(rig.condition(0), Condition::Lost);
}

#[test]
fn what_was_in_force_is_in_force_after_a_restart() {
    let mut rig = Rig::new(&[(3, FIRST)]);
    rig.order(member(0, 0), Mode::Drain).unwrap();
    rig.command(member(0, 2), Mode::Maintenance, Some(ms(60_000)), false)
        .unwrap();
    assert_eq!(rig.decider.first(PoolId(0).service(0)), Some(member(0, 1)));
    let standing = rig.decider.standing();
    let mut again = Rig::starting(&[(3, FIRST)], standing.clone());
    assert_eq!(again.decider.standing(), standing);
    assert_eq!(again.remembered, 0);
    assert_eq!(again.decider.readiness(target(0, 0, 0)).takes, Takes::No);
    again.order(member(0, 0), Mode::Ready).unwrap();
    again.run(ms(3000));
    let first = again.decider.first(PoolId(0).service(0));
    assert_eq!(
        first,
        Some(member(0, 1)),
        "no automatic return, not even by a restart"
    );
}

#[test]
fn what_names_nobody_any_more_or_has_lapsed_is_not_taken_back() {
    let state = |until| OperatorState {
        mode: Mode::Drain,
        by: "ann".to_owned(),
        reason: None,
        since: Time::ZERO,
        until,
        deadline: Some(Time::from_millis(1)),
    };
    let standing = Standing {
        operators: vec![
            (member(0, 9), state(None)),
            (member(7, 0), state(None)),
            (member(0, 1), state(Some(Time::from_millis(2)))),
            (member(0, 0), state(None)),
        ],
        pause: None,
        first: vec![
            (PoolId(0).service(9), member(0, 0)),
            (PoolId(0).service(0), member(0, 9)),
        ],
    };
    let mut rig = Rig::starting(&[(2, FIRST)], standing);
    let members: Vec<MemberId> = rig
        .decider
        .standing()
        .operators
        .iter()
        .map(|o| o.0)
        .collect();
    assert_eq!(members, [member(0, 0)]);
    assert_eq!(rig.decider.first(PoolId(0).service(0)), Some(member(0, 1)));
    rig.run(ms(2000));
    assert!(rig.ends.is_empty(), "no session outlived the restart");
}

// First, services.

#[test]
fn first_moves_when_its_member_is_lost_and_does_not_return() {
    let mut rig = Rig::new(&[(3, FIRST), (1, PLAIN)]);
    let service = PoolId(0).service(0);
    assert_eq!(rig.decider.first(service), Some(member(0, 0)));
    rig.set(member(0, 0), Truth::Sick);
    rig.run(ms(3000));
    assert_eq!(
        rig.decider.first(service),
        Some(member(0, 0)),
        "busy is not lost"
    );
    rig.set(member(0, 0), Truth::Killed);
    rig.run(ms(3000));
    assert_eq!(rig.decider.first(service), Some(member(0, 1)));
    rig.set(member(0, 0), Truth::Well);
    rig.run(ms(3000));
    assert_eq!(rig.decider.first(service), Some(member(0, 1)));
    rig.order(member(0, 1), Mode::Drain).unwrap();
    assert_eq!(rig.decider.first(service), Some(member(0, 0)));
    rig.set_pool(0, Truth::Killed);
    rig.run(ms(3000));
    let last = rig.decider.first(service);
    assert!(last.is_some());
    rig.run(ms(10_000));
    assert_eq!(rig.decider.first(service), last, "nobody to move to");
}

#[test]
fn a_service_without_a_usable_member_is_lost_on_its_own() {
    let mut rig = Rig::new(&[(2, WITH_WEB)]);
    let web = PoolId(0).service(1);
    for n in 0..2 {
        rig.truth.insert(target(0, n, 1), Truth::Killed);
    }
    rig.run(ms(3000));
    let lost = |lost| move |event: &Event| *event == Event::Service { service: web, lost };
    assert!(rig.is_told(lost(true)));
    assert_eq!(rig.condition(0), Condition::Serving);
    rig.truth.insert(target(0, 0, 1), Truth::Well);
    rig.run(ms(3000));
    assert!(rig.is_told(lost(false)));
}

#[test]
fn an_explanation_shows_how_far_the_counts_have_come() {
    let mut rig = Rig::new(&[(2, PLAIN), (2, PLAIN)]);
    let seen = target(0, 0, 0);
    let evidence = Evidence::Failed(Failure::Refused);
    rig.decider.handle_evidence(seen, evidence, rig.now);
    let behind = rig.decider.explain(seen);
    assert_eq!(
        (behind.failures, behind.from_evidence, behind.fall),
        (1, 1, 3)
    );
    assert_eq!(behind.last_failure, Some(Failure::Refused));
    assert_eq!(behind.next.map(|(verdict, _)| verdict), Some(Verdict::Down));
    assert_eq!(
        (behind.own, behind.effective, behind.held),
        (Verdict::Up, Verdict::Up, false)
    );
    assert_eq!((behind.rise, behind.flap, behind.flaps), (2, 5, 0));
}
