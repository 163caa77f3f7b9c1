//! A worker between clients and members on the loopback, told what the control thread would tell.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt::UdpGroSegment};
use tokio::sync::mpsc;

use super::super::{FromWorker, Plan, ToWorker, Which, WorkerHandle, listen, start};
use crate::dispatch::fixture::{HOME, TWIN, bring_down, count, decider, topology};
use crate::dispatch::{Handles, Snapshot};
use crate::health::Failure;
use crate::observe::counters::{Counter, ServiceCounters, UdpCounters, WorkerCounters};
use crate::pairing::record::{Cause, Phase};
use crate::topology::{MemberId, Policy, PoolId, Protocol, TargetId, Topology};

mod ending;
mod handover;
mod reload;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(10);
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANY_PORT: SocketAddr = SocketAddr::new(LOCALHOST, 0);

/// A socket that waits for what it is to hear, but not for ever.
struct Party(UdpSocket);

impl Party {
    fn at(address: SocketAddr) -> Party {
        let socket = UdpSocket::bind(address).expect("bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        Party(socket)
    }

    fn new() -> Party {
        Party::at(ANY_PORT)
    }

    /// One that hears nothing but what comes from there.
    fn of(address: SocketAddr) -> Party {
        let any = match address {
            SocketAddr::V4(_) => ANY_PORT,
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        };
        let party = Party::at(any);
        party.0.connect(address).expect("connected");
        party
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }

    fn refuse(&self) {
        let nobody = SocketAddr::new(self.address().ip(), 9);
        self.0.connect(nobody).expect("connected");
    }

    fn send(&self, bytes: &[u8]) {
        assert_eq!(self.0.send(bytes).expect("sent"), bytes.len());
    }

    fn answer(&self, bytes: &[u8], to: SocketAddr) {
        assert_eq!(self.0.send_to(bytes, to).expect("sent"), bytes.len());
    }

    /// Several at one length, the last of which may be shorter, in one system call.
    fn send_run(&self, bytes: &[u8], segment: u16, to: Option<SocketAddr>) {
        let parts = [IoSlice::new(bytes)];
        let segment = [ControlMessage::UdpGsoSegments(&segment)];
        let fd = self.0.as_raw_fd();
        let flags = MsgFlags::empty();
        let sent = match to {
            None => sendmsg::<()>(fd, &parts, &segment, flags, None),
            Some(SocketAddr::V4(to)) => {
                let to = nix::sys::socket::SockaddrIn::from(to);
                sendmsg(fd, &parts, &segment, flags, Some(&to))
            }
            Some(SocketAddr::V6(_)) => unreachable!("not in these tests"),
        };
        assert_eq!(sent.expect("sent"), bytes.len());
    }

    fn hear(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 1 << 16];
        let (len, from) = self.0.recv_from(&mut bytes).expect("in time");
        bytes.truncate(len);
        (bytes, from)
    }

    fn hears(&self, expected: &[u8]) -> SocketAddr {
        let (bytes, from) = self.hear();
        assert_eq!(bytes, expected);
        from
    }

    /// What it has heard and not asked for; it must be certain that more cannot come.
    fn has_nothing(&self) -> bool {
        self.0.set_nonblocking(true).expect("set");
        let mut bytes = [0; 16];
        let heard = self.0.recv_from(&mut bytes);
        self.0.set_nonblocking(false).expect("set");
        heard.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The next datagram that one of them hears: whose, from where.
fn either(parties: &[&Party]) -> (usize, Vec<u8>, SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    for party in parties {
        let short = Some(Duration::from_millis(2));
        party.0.set_read_timeout(short).expect("set");
    }
    let mut bytes = vec![0; 1 << 16];
    let heard = loop {
        assert!(Instant::now() < deadline, "nobody heard anything");
        let heard = parties.iter().enumerate().find_map(|(at, party)| {
            let (len, from) = party.0.recv_from(&mut bytes).ok()?;
            Some((at, len, from))
        });
        if let Some((at, len, from)) = heard {
            break (at, bytes[..len].to_vec(), from);
        }
    };
    for party in parties {
        party.0.set_read_timeout(Some(PATIENCE)).expect("set");
    }
    heard
}

/// One that refuses whatever comes, for as long as it lives: its socket takes only what comes from
/// somebody who sends nothing.
fn refusing() -> Party {
    let party = Party::new();
    party.refuse();
    party
}

/// A worker in front of the first service of `HOME`, whose twin lists it second.
struct Rig {
    topology: Arc<Topology>,
    handles: Handles,
    members: [Vec<SocketAddr>; 2],
    counters: Arc<WorkerCounters>,
    worker: Option<WorkerHandle>,
    current: Weak<Snapshot>,
    address: SocketAddr,
    reports: mpsc::Receiver<FromWorker>,
}

impl Rig {
    fn new(home: &[&Party]) -> Rig {
        Rig::with(home, &[], |_| {})
    }

    fn with(home: &[&Party], twin: &[&Party], change: impl FnOnce(&mut Topology)) -> Rig {
        Rig::sized(home, twin, 1000, change)
    }

    fn sized(
        home: &[&Party],
        twin: &[&Party],
        flows: usize,
        change: impl FnOnce(&mut Topology),
    ) -> Rig {
        let (mut rig, plan) = Rig::planned(home, twin, flows, change);
        rig.worker = Some(start(plan).expect("a worker").begin());
        rig
    }

    /// One whose worker has yet to be started.
    fn planned(
        home: &[&Party],
        twin: &[&Party],
        flows: usize,
        change: impl FnOnce(&mut Topology),
    ) -> (Rig, Plan) {
        let mut topology = topology([home.len() as u16, twin.len().max(1) as u16, 1]);
        for service in [HOME.service(0), TWIN.service(1)] {
            let service = &mut topology.pools[service.pool.index()].services[service.index()];
            service.protocol = Protocol::Udp;
            service.balance = Policy::First;
        }
        // In file order, so that it is known who is asked first.
        topology.pools[HOME.index()].services[0].balance = Policy::RoundRobin;
        topology.pools[HOME.index()].services[0].listen = vec![ANY_PORT];
        change(&mut topology);
        let topology = Arc::new(topology);
        let handles = Handles::new(&topology);
        let addresses = |members: &[&Party]| members.iter().map(|m| m.address()).collect();
        let counters = Arc::new(WorkerCounters::new(&topology));
        let mut listeners =
            listen::bind(&topology, 1, &mut listen::Given::default()).expect("listeners");
        let (report, reports) = mpsc::channel(1024);
        let listeners = listeners.remove(0);
        let mut rig = Rig {
            address: listeners[0].address,
            topology: topology.clone(),
            handles,
            members: [addresses(home), addresses(twin)],
            counters: counters.clone(),
            worker: None,
            current: Weak::new(),
            reports,
        };
        let snapshot = Arc::new(rig.snapshot(Phase::Home, &[]));
        rig.current = Arc::downgrade(&snapshot);
        let plan = Plan {
            index: 0,
            sessions: 1000,
            flows,
            flows_taken: Vec::new(),
            listeners,
            topology,
            snapshot,
            counters,
            access: None,
            reports: report,
            seed: 1,
        };
        (rig, plan)
    }

    /// A snapshot in which these members are down.
    fn snapshot(&self, phase: Phase, down: &[MemberId]) -> Snapshot {
        let mut decider = decider(&self.topology, phase, Cause::Ordered);
        for member in down {
            bring_down(&mut decider, *member);
        }
        let address = |target: TargetId| {
            let members = self.members.get(target.pool.index())?;
            members.get(target.member().index()).copied()
        };
        let now = crate::clock::now();
        Snapshot::new(0, &decider, &self.handles, now, |_| false, address)
    }

    fn tell(&self, message: ToWorker) {
        let worker = self.worker.as_ref().expect("a worker");
        assert!(worker.tell(message));
    }

    /// Has the worker follow a new snapshot, and waits until it does.
    fn publish(&mut self, phase: Phase, down: &[MemberId]) {
        let snapshot = Arc::new(self.snapshot(phase, down));
        let before = std::mem::replace(&mut self.current, Arc::downgrade(&snapshot));
        self.tell(ToWorker::Publish(snapshot));
        wait_until(|| before.strong_count() == 0);
    }

    fn service(&self) -> &ServiceCounters {
        self.counters.service(HOME.service(0))
    }

    fn udp(&self) -> &UdpCounters {
        &self.service().udp
    }

    fn client(&self) -> Party {
        Party::of(self.address)
    }

    /// How many places the pool's members have given away.
    fn load(&self, pool: PoolId) -> u32 {
        let members = &self.topology.pool(pool).members;
        let load = |member: &crate::topology::Member| self.handles.member(member.id).load();
        members.iter().map(load).sum()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.join().expect("no panic");
        }
        let service = self.service();
        assert_eq!(service.accepted.get(), service.ended.get(), "all are over");
        assert_eq!(self.load(HOME) + self.load(TWIN), 0, "places given back");
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
fn counted(counter: &Counter, number: u64) {
    let deadline = Instant::now() + PATIENCE;
    while counter.get() != number {
        let counted = counter.get();
        assert!(Instant::now() < deadline, "{counted} instead of {number}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_datagram_goes_to_a_member_and_its_answer_comes_back() {
    let member = Party::new();
    let rig = Rig::new(&[&member]);
    let client = rig.client();
    client.send(b"question");
    let flow = member.hears(b"question");
    member.answer(b"the answer", flow);
    assert_eq!(client.hears(b"the answer"), rig.address);
    client.send(b"more");
    assert_eq!(member.hears(b"more"), flow);
    counted(&rig.udp().datagrams_in, 2);
    counted(&rig.udp().datagrams_out, 1);
    assert_eq!(rig.service().bytes_in.get(), 12);
    assert_eq!(rig.service().bytes_out.get(), 10);
    assert_eq!(rig.service().accepted.get(), 1);
    assert_eq!(rig.service().established.get(), 1);
    assert_eq!(rig.service().ended.get(), 0);
    assert_eq!(rig.counters.member(HOME.member(0)).sessions.get(), 1);
    assert_eq!(rig.counters.home(HOME).open(), (1, 0));
    assert_eq!(rig.load(HOME), 1);
}

#[test]
fn datagrams_of_a_flow_stay_in_order_whatever_their_length() {
    let member = Party::new();
    let rig = Rig::new(&[&member]);
    let client = rig.client();
    let datagram = |n: usize| vec![n as u8; [10, 10, 10, 3, 900, 0, 900, 901][n % 8]];
    for round in 0..20 {
        for n in 0..50 {
            client.send(&datagram(round + n));
        }
        let mut flow = None;
        for n in 0..50 {
            let (bytes, from) = member.hear();
            assert_eq!(bytes, datagram(round + n), "{n} of {round}");
            flow = Some(from);
        }
        let flow = flow.expect("heard");
        for n in 0..50 {
            member.answer(&datagram(round + n), flow);
        }
        for n in 0..50 {
            assert_eq!(client.hear().0, datagram(round + n), "{n} of {round}");
        }
    }
    assert_eq!(rig.service().accepted.get(), 1);
    assert_eq!(rig.udp().dropped_unsent.get(), 0);
}

#[test]
fn each_client_has_a_flow_of_its_own_and_gets_its_own_answers() {
    let member = Party::new();
    let rig = Rig::new(&[&member]);
    let clients: Vec<Party> = (0..40).map(|_| rig.client()).collect();
    for round in 0..5u8 {
        for (n, client) in clients.iter().enumerate() {
            client.send(&[n as u8, round]);
        }
        let mut flows = Vec::new();
        for _ in 0..clients.len() {
            let (bytes, from) = member.hear();
            assert!(!flows.contains(&from), "one each");
            member.answer(&bytes, from);
            flows.push(from);
        }
        for (n, client) in clients.iter().enumerate() {
            client.hears(&[n as u8, round]);
        }
    }
    assert_eq!(rig.service().accepted.get(), 40);
    assert_eq!(rig.load(HOME), 40);
}

#[test]
fn runs_are_taken_apart_for_who_takes_single_datagrams() {
    let member = Party::new();
    let rig = Rig::new(&[&member]);
    let client = rig.client();
    let bytes: Vec<u8> = (0..1_037u32).map(|n| (n / 100) as u8).collect();
    for round in 0..10 {
        client.send_run(&bytes, 100, None);
        client.send(b"end");
        let mut flow = None;
        for part in bytes.chunks(100) {
            flow = Some(member.hears(part));
        }
        member.hears(b"end");
        member.send_run(&bytes, 100, flow);
        for (n, part) in bytes.chunks(100).enumerate() {
            assert_eq!(client.hear().0, part, "{n} of {round}");
        }
    }
    counted(&rig.udp().datagrams_in, 120);
    counted(&rig.udp().datagrams_out, 110);
    assert_eq!(rig.service().bytes_in.get(), 10_400);
    assert_eq!(rig.udp().dropped_unsent.get(), 0);
}

#[test]
fn runs_reach_who_takes_runs_as_they_were() {
    let member = Party::new();
    setsockopt(&member.0, UdpGroSegment, &true).expect("set");
    let rig = Rig::new(&[&member]);
    let client = rig.client();
    let bytes: Vec<u8> = (0..60_000u32).map(|n| (n / 1_000) as u8).collect();
    client.send_run(&bytes, 1_000, None);
    // One read brings all of it only where it came in one piece.
    let flow = member.hears(&bytes);
    member.answer(b"so be it", flow);
    client.hears(b"so be it");
    counted(&rig.udp().datagrams_in, 60);
}

#[test]
fn the_longest_datagram_there_is_passes_both_ways() {
    let member = Party::new();
    let rig = Rig::new(&[&member]);
    let client = rig.client();
    let long: Vec<u8> = (0..65_507u32).map(|n| n as u8).collect();
    client.send(&long);
    let flow = member.hears(&long);
    member.answer(&long, flow);
    client.hears(&long);
    member.answer(b"", flow);
    client.hears(b"");
}

#[test]
fn a_flow_that_a_member_refuses_reaches_the_next_with_the_datagram_in_hand() {
    let refusing = refusing();
    let member = Party::new();
    let mut rig = Rig::new(&[&refusing, &member]);
    let clients: Vec<Party> = (0..4).map(|_| rig.client()).collect();
    for client in &clients {
        client.send(b"anybody?");
        let flow = member.hears(b"anybody?");
        member.answer(b"me", flow);
        client.hears(b"me");
    }
    let service = rig.service();
    let refused = service.retried.get();
    assert!(refused > 0, "somebody asked the first one");
    assert_eq!(service.established.get(), 4);
    assert_eq!(service.ended.get(), 0);
    assert_eq!(rig.udp().icmp_errors.get(), refused);
    let failed = &rig.counters.member(HOME.member(0)).connect_failed;
    let told = failed.get();
    assert!((1..=refused).contains(&told), "once a tick at most");
    assert_eq!(rig.handles.member(HOME.member(0)).load(), 0);
    for _ in 0..told {
        let report = rig.reports.try_recv();
        let blamed = HOME.member(0).target(HOME.service(0));
        assert!(
            matches!(report, Ok(FromWorker::ConnectFailed { target: t, failure: Failure::Refused, .. }) if t == blamed),
            "{report:?}"
        );
    }
}

#[test]
fn a_flow_that_all_refuse_ends_and_the_next_datagram_begins_anew() {
    let (first, second) = (refusing(), refusing());
    let rig = Rig::new(&[&first, &second]);
    let client = rig.client();
    for round in 1..=3 {
        client.send(b"anybody?");
        counted(&rig.service().ended, round);
        assert_eq!(rig.service().accepted.get(), round);
        assert_eq!(rig.service().reset_by_member.get(), round);
        assert_eq!(rig.udp().icmp_errors.get(), 2 * round, "each was asked");
        assert_eq!(rig.load(HOME), 0);
    }
}

#[test]
fn an_answered_flow_stays_with_its_member_until_the_verdict() {
    let (first, second) = (Party::new(), Party::new());
    let mut rig = Rig::new(&[&first, &second]);
    let client = rig.client();
    client.send(b"one");
    let (at, _, flow) = either(&[&first, &second]);
    let [dead, other] = match at {
        0 => [first, second],
        _ => [second, first],
    };
    dead.answer(b"yes", flow);
    client.hears(b"yes");
    client.send(b"two");
    assert_eq!(dead.hears(b"two"), flow);
    dead.refuse();
    client.send(b"three");
    counted(&rig.udp().icmp_errors, 1);
    // The next one is sent in spite of the error that waits for it.
    client.send(b"four");
    counted(&rig.udp().datagrams_in, 4);
    assert_eq!(rig.service().ended.get(), 0);
    assert!(other.has_nothing());
    let report = rig.reports.try_recv();
    let blamed = HOME.member(at as u16);
    assert!(
        matches!(report, Ok(FromWorker::ConnectFailed { target: t, failure: Failure::Refused, .. }) if t.member() == blamed),
        "{report:?}"
    );
    rig.publish(Phase::Home, &[blamed]);
    rig.tell(ToWorker::End(Which::Down));
    counted(&rig.service().ended_by_us, 1);
    client.send(b"five");
    other.hears(b"five");
    assert_eq!(rig.udp().moved.get(), 1);
    assert_eq!(rig.service().accepted.get(), 2);
}

/// A flow stands with the first of two members and is told to end; where its next datagram goes is
/// known by then.
fn ended_by(which: impl Fn(SocketAddr) -> Which) {
    let (first, second) = (Party::new(), Party::new());
    let rig = Rig::new(&[&first, &second]);
    let client = rig.client();
    client.send(b"one");
    let (at, _, before) = either(&[&first, &second]);
    let member = [&first, &second][at];
    rig.tell(ToWorker::End(which(member.address())));
    counted(&rig.service().ended, 1);
    assert_eq!(rig.service().ended_by_us.get(), 1);
    assert_eq!(rig.load(HOME), 0);
    client.send(b"two");
    let (_, bytes, after) = either(&[&first, &second]);
    assert_eq!(bytes, b"two");
    assert_ne!(before, after, "another flow");
    // Answers to the old one reach nobody.
    member.answer(b"late", before);
    [&first, &second][at].answer(b"late again", before);
    client.send(b"three");
    let (other, _, flow) = either(&[&first, &second]);
    [&first, &second][other].answer(b"yes", flow);
    client.hears(b"yes");
}

#[test]
fn a_members_flows_end_with_it() {
    ended_by(|_| Which::All);
    for service in [None, Some(HOME.service(0))] {
        let (member, other) = (Party::new(), Party::new());
        let rig = Rig::new(&[&member, &other]);
        let clients: Vec<Party> = (0..10).map(|_| rig.client()).collect();
        for client in &clients {
            client.send(b"hello");
            either(&[&member, &other]);
        }
        let theirs = u64::from(rig.handles.member(HOME.member(1)).load());
        let member = HOME.member(1);
        rig.tell(ToWorker::End(Which::Member { member, service }));
        counted(&rig.service().ended_by_us, theirs);
        assert_eq!(rig.handles.member(member).load(), 0);
        assert_eq!(u64::from(rig.load(HOME)), 10 - theirs);
    }
}

#[test]
fn flows_on_an_address_that_is_no_longer_the_members_end() {
    ended_by(|_| Which::Strays {
        target: HOME.member(0).target(HOME.service(0)),
        keep: Arc::from([IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))]),
    });
}

#[test]
fn users_who_move_take_their_flows_with_them() {
    let (home, twin) = (Party::new(), Party::new());
    let mut rig = Rig::with(&[&home], &[&twin], |_| {});
    let clients: Vec<Party> = (0..6).map(|_| rig.client()).collect();
    for client in &clients {
        client.send(b"one");
        home.hears(b"one");
    }
    rig.publish(Phase::Away, &[]);
    clients[0].send(b"two");
    home.hears(b"two");
    rig.tell(ToWorker::End(Which::Moved {
        home: HOME,
        off: HOME,
        job: 1,
        most: 2,
    }));
    counted(&rig.service().ended_by_us, 2);
    rig.tell(ToWorker::End(Which::Moved {
        home: HOME,
        off: HOME,
        job: 1,
        most: 100,
    }));
    counted(&rig.service().ended_by_us, 6);
    assert_eq!(rig.counters.home(HOME).moved.get(), 6);
    for client in &clients {
        client.send(b"three");
        twin.hears(b"three");
    }
    counted(&rig.udp().datagrams_in, 13);
    assert_eq!(rig.counters.home(HOME).open(), (0, 6));
    assert_eq!(rig.udp().moved.get(), 0, "nobody died");
}

#[test]
fn a_flow_that_every_home_member_refuses_goes_to_the_twin() {
    let (first, second, twin) = (refusing(), refusing(), Party::new());
    let rig = Rig::with(&[&first, &second], &[&twin], |_| {});
    let client = rig.client();
    client.send(b"anybody?");
    let flow = twin.hears(b"anybody?");
    twin.answer(b"me", flow);
    client.hears(b"me");
    assert_eq!(rig.counters.home(HOME).spilled.get(), 1);
    assert_eq!(rig.counters.home(HOME).open(), (0, 1));
    let other = rig.client();
    other.send(b"me too");
    twin.hears(b"me too");
    assert_eq!(rig.counters.home(HOME).spilled.get(), 2);
    let failed = |nth| rig.counters.member(HOME.member(nth)).connect_failed.get();
    assert_eq!(failed(0) + failed(1), 2, "the second went there at once");
}

#[test]
fn without_a_member_a_datagram_is_dropped_and_counted() {
    let member = Party::new();
    let mut rig = Rig::with(&[&member], &[], |topology| {
        topology.pools[HOME.index()].members[0].max_connections = Some(count(1));
    });
    let (client, other) = (rig.client(), rig.client());
    client.send(b"one");
    let flow = member.hears(b"one");
    member.answer(b"yes", flow);
    client.hears(b"yes");
    client.send(b"two");
    member.hears(b"two");
    other.send(b"me");
    counted(&rig.udp().dropped_no_member, 1);
    assert_eq!(rig.service().refused_no_member.get(), 1);
    assert_eq!(rig.udp().evicted.get(), 0);
    rig.publish(Phase::Home, &[HOME.member(0)]);
    rig.tell(ToWorker::End(Which::Down));
    counted(&rig.service().ended, 2);
    other.send(b"three");
    counted(&rig.udp().dropped_no_member, 2);
    assert!(member.has_nothing());
}

#[test]
fn a_datagram_that_nobody_can_be_answered_for_makes_no_flow_and_is_counted() {
    let raw = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::RAW,
        Some(socket2::Protocol::UDP),
    );
    let Ok(raw) = raw else {
        eprintln!("skipped: sending from port 0 takes a raw socket, and those take CAP_NET_RAW");
        return;
    };
    let member = Party::new();
    let rig = Rig::new(&[&member]);
    let payload = b"whose?";
    // A header (RFC 768): from port 0, to the listener, its length, no checksum.
    let mut datagram = vec![0, 0];
    datagram.extend(rig.address.port().to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    for _ in 0..3 {
        let sent = raw.send_to(&datagram, &rig.address.into());
        assert_eq!(sent.expect("sent"), datagram.len());
    }
    counted(&rig.udp().dropped_no_port, 3);
    assert_eq!(rig.service().accepted.get(), 0);
    let client = rig.client();
    client.send(b"mine");
    member.hears(b"mine");
    assert_eq!(rig.service().accepted.get(), 1);
}

#[test]
fn forged_flows_do_not_keep_a_members_limited_places() {
    let member = Party::new();
    let rig = Rig::with(&[&member], &[], |topology| {
        topology.pools[HOME.index()].members[0].max_connections = Some(count(2));
    });
    let clients: Vec<Party> = (0..5).map(|_| rig.client()).collect();
    for client in &clients {
        client.send(b"hello");
        member.hears(b"hello");
    }
    assert_eq!(rig.udp().evicted.get(), 3);
    assert_eq!(rig.load(HOME), 2);
    assert_eq!(rig.udp().dropped_no_member.get(), 0);
}

#[test]
fn a_full_table_gives_up_the_oldest_that_was_never_proven() {
    let member = Party::new();
    let rig = Rig::sized(&[&member], &[], 3, |_| {});
    let proven = rig.client();
    proven.send(b"one");
    let flow = member.hears(b"one");
    member.answer(b"yes", flow);
    proven.hears(b"yes");
    proven.send(b"two");
    member.hears(b"two");
    let clients: Vec<Party> = (0..10).map(|_| rig.client()).collect();
    for client in &clients {
        client.send(b"hello");
        member.hears(b"hello");
    }
    assert_eq!(rig.udp().evicted.get(), 8);
    assert_eq!(rig.load(HOME), 3);
    proven.send(b"three");
    assert_eq!(member.hears(b"three"), flow);
    assert_eq!(rig.udp().dropped_table_full.get(), 0);
}

#[test]
fn a_table_full_of_proven_flows_takes_no_more() {
    let member = Party::new();
    let rig = Rig::sized(&[&member], &[], 1, |_| {});
    let proven = rig.client();
    proven.send(b"one");
    let flow = member.hears(b"one");
    member.answer(b"yes", flow);
    proven.hears(b"yes");
    proven.send(b"two");
    member.hears(b"two");
    rig.client().send(b"me");
    counted(&rig.udp().dropped_table_full, 1);
    assert_eq!(rig.udp().evicted.get(), 0);
    assert!(member.has_nothing());
}

#[test]
fn once_told_to_close_flows_go_on_and_no_new_ones_come() {
    let member = Party::new();
    let rig = Rig::new(&[&member]);
    let client = rig.client();
    client.send(b"one");
    let flow = member.hears(b"one");
    rig.tell(ToWorker::Close);
    let other = rig.client();
    wait_until(|| {
        other.send(b"me");
        rig.udp().dropped_no_member.get() > 0 || !member.has_nothing()
    });
    while !member.has_nothing() {}
    let dropped = rig.udp().dropped_no_member.get();
    other.send(b"me");
    wait_until(|| rig.udp().dropped_no_member.get() > dropped);
    client.send(b"two");
    assert_eq!(member.hears(b"two"), flow);
    member.answer(b"yes", flow);
    client.hears(b"yes");
    rig.tell(ToWorker::End(Which::All));
    counted(&rig.service().ended_by_us, rig.service().accepted.get());
    // Other workers' flows may yet depend on how many share the port.
    assert!(UdpSocket::bind(rig.address).is_err());
}

#[test]
fn a_flow_that_is_idle_ends() {
    let member = Party::new();
    let rig = Rig::with(&[&member], &[], |topology| {
        topology.pools[HOME.index()].services[0].idle_timeout = Duration::from_millis(500);
    });
    let client = rig.client();
    client.send(b"one");
    member.hears(b"one");
    counted(&rig.service().ended_idle, 1);
    assert_eq!(rig.service().ended.get(), 1);
    client.send(b"two");
    member.hears(b"two");
    assert_eq!(rig.service().accepted.get(), 2);
}

#[test]
fn a_listener_on_all_addresses_answers_from_the_one_that_was_asked() {
    let member = Party::new();
    for (any, asked) in [
        (
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5)),
        ),
        (
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ),
    ] {
        let rig = Rig::with(&[&member], &[], |topology| {
            let service = &mut topology.pools[HOME.index()].services[0];
            service.listen = vec![SocketAddr::new(any, 0)];
        });
        // It hears nobody else.
        let client = Party::of(SocketAddr::new(asked, rig.address.port()));
        client.send(b"one");
        let flow = member.hears(b"one");
        member.answer(b"yes", flow);
        client.hears(b"yes");
        member.send_run(&[7; 250], 100, Some(flow));
        for length in [100, 100, 50] {
            client.hears(&vec![7; length]);
        }
    }
}

#[test]
fn clients_and_members_may_be_on_ipv6() {
    let localhost = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let (gone, member) = (Party::at(localhost), Party::at(localhost));
    let rig = Rig::with(&[&gone, &member], &[], |topology| {
        topology.pools[HOME.index()].services[0].listen = vec![localhost];
    });
    gone.refuse();
    for _ in 0..3 {
        let client = rig.client();
        client.send(b"one");
        let flow = member.hears(b"one");
        member.answer(b"yes", flow);
        assert_eq!(client.hears(b"yes"), rig.address);
    }
    assert!(rig.udp().icmp_errors.get() > 0);
}

#[test]
fn a_port_that_somebody_else_has_is_not_shared() {
    let holder = Party::new();
    let mut topology = topology([1, 1, 1]);
    let service = &mut topology.pools[HOME.index()].services[0];
    service.protocol = Protocol::Udp;
    service.listen = vec![holder.address()];
    let errors = listen::bind(&topology, 2, &mut listen::Given::default()).expect_err("taken");
    let message = errors[0].to_string();
    assert!(message.contains("ss -lunp"), "{message}");
    drop(holder);
    let bound = listen::bind(&topology, 2, &mut listen::Given::default()).expect("free");
    // Another instance of the same user may not share it either.
    assert!(listen::bind(&topology, 2, &mut listen::Given::default()).is_err());
    drop(bound);
}

#[test]
fn workers_share_a_port_and_what_comes_through_it() {
    let member = Party::new();
    let mut topology = topology([1, 1, 1]);
    let service = &mut topology.pools[HOME.index()].services[0];
    service.protocol = Protocol::Udp;
    service.listen = vec![ANY_PORT];
    let bound = listen::bind(&topology, 3, &mut listen::Given::default()).expect("listeners");
    let address = bound[0][0].address;
    assert!(bound.iter().all(|of| of[0].address == address));
    let clients: Vec<Party> = (0..64).map(|_| Party::of(address)).collect();
    for client in &clients {
        client.send(b"one");
    }
    drop(member);
    let mut heard = Vec::new();
    for listeners in bound {
        let socket = UdpSocket::from(std::os::fd::OwnedFd::from(
            listeners.into_iter().next().expect("one").socket,
        ));
        let mut bytes = [0; 8];
        let mut mine = 0;
        while socket.recv(&mut bytes).is_ok() {
            mine += 1;
        }
        heard.push(mine);
    }
    assert_eq!(heard.iter().sum::<i32>(), 64, "{heard:?}");
    assert!(heard.iter().all(|mine| *mine > 0), "{heard:?}");
}
