//! Topologies that come one after the other, under flows.

use super::super::super::tests::stage::{Stage, parse, pool, pool_with};
use super::*;

/// Members of a pool, in turn.
fn over_udp(name: &str, members: &[&str]) -> String {
    let service = "listen = \"127.0.0.1:0\"\nbalance = \"round-robin\"";
    pool_with(name, members, service, "")
}

/// What all but `other` serve is over UDP.
fn over(text: &str) -> Topology {
    let mut topology = parse(text);
    for pool in topology
        .pools
        .iter_mut()
        .filter(|pool| pool.name != "other")
    {
        pool.services[0].protocol = Protocol::Udp;
    }
    topology
}

fn two() -> Topology {
    over(&over_udp("a", &["m1", "m2"]))
}

fn turned() -> Topology {
    over(&(pool("other", &["o8", "o9"]) + &over_udp("a", &["m2", "m1"])))
}

impl Stage {
    /// Has the worker go on under this topology, and waits until it does.
    fn go_on(&mut self, topology: Topology) {
        let done = self.send(topology);
        done.blocking_recv().expect("adopted");
    }

    fn caller(&self, pool: &str) -> Party {
        Party::of(self.control.address(pool))
    }
}

/// A client whose flow one of these members has answered, which is said.
fn known(client: Party, members: &[&Party]) -> (Party, usize, SocketAddr) {
    client.send(b"hello");
    let (at, heard, flow) = either(members);
    assert_eq!(heard, b"hello");
    members[at].answer(b"hello you", flow);
    client.hears(b"hello you");
    (client, at, flow)
}

#[test]
fn flows_live_on_wherever_their_members_are_listed_and_end_with_their_own() {
    let (m1, m2) = (Party::new(), Party::new());
    let both = [&m1, &m2];
    let mut stage = Stage::new(two(), &[("m1", m1.address()), ("m2", m2.address())]);
    let one = known(stage.caller("a"), &both);
    let other = known(stage.caller("a"), &both);
    assert_ne!(one.1, other.1);
    for topology in [turned(), two(), turned()] {
        stage.go_on(topology);
        for (client, at, flow) in [&one, &other] {
            client.send(b"more");
            assert_eq!(both[*at].hears(b"more"), *flow, "the same flow");
            both[*at].answer(b"and more", *flow);
            client.hears(b"and more");
        }
    }
    let service = stage.control.service("a").clone();
    assert_eq!((service.accepted.get(), service.ended.get()), (2, 0));
    stage.end(["m1", "m2"][one.1]);
    counted(&service.ended, 1);
    other.0.send(b"still here");
    assert_eq!(both[other.1].hears(b"still here"), other.2);
    stage.join();
    assert_eq!(service.ended.get(), 2);
    assert_eq!(stage.control.load("m1") + stage.control.load("m2"), 0);
}

/// Two flows that are known, each with its own of two members; the one with the first member comes
/// first.
fn one_each(stage: &Stage, both: &[&Party; 2]) -> [(Party, usize, SocketAddr); 2] {
    let mut flows = [
        known(stage.caller("a"), both),
        known(stage.caller("a"), both),
    ];
    flows.sort_by_key(|flow| flow.1);
    assert_eq!([0, 1], [flows[0].1, flows[1].1]);
    flows
}

#[test]
fn a_flow_whose_member_is_removed_goes_to_another_once_the_deadline_is_past() {
    let (m1, m2) = (Party::new(), Party::new());
    let both = [&m1, &m2];
    let mut with = two();
    with.pools[0].drain_deadline = Duration::from_secs(1);
    let mut stage = Stage::new(with, &[("m1", m1.address()), ("m2", m2.address())]);
    let [gone, stays] = one_each(&stage, &both);
    stage.go_on(over(&(pool("other", &["o8"]) + &over_udp("a", &["m2"]))));
    gone.0.send(b"still there?");
    assert_eq!(m1.hears(b"still there?"), gone.2);
    m1.answer(b"for a second", gone.2);
    gone.0.hears(b"for a second");
    let service = stage.control.service("a").clone();
    assert_eq!(service.ended.get(), 0);
    counted(&service.ended, 1);
    gone.0.send(b"again");
    let flow = m2.hears(b"again");
    m2.answer(b"welcome", flow);
    gone.0.hears(b"welcome");
    stays.0.send(b"as ever");
    assert_eq!(m2.hears(b"as ever"), stays.2);
    counted(&service.udp.moved, 1);
    assert_eq!(service.accepted.get(), 3);
    assert_eq!(stage.control.load("m2"), 2);
}

#[test]
fn a_flow_whose_member_is_removed_goes_to_another_where_that_refuses() {
    let (m1, m2) = (Party::new(), Party::new());
    let both = [&m1, &m2];
    let mut stage = Stage::new(two(), &[("m1", m1.address()), ("m2", m2.address())]);
    let [gone, _stays] = one_each(&stage, &both);
    stage.go_on(over(&(pool("other", &["o8"]) + &over_udp("a", &["m2"]))));
    m1.refuse();
    gone.0.send(b"lost");
    let service = stage.control.service("a").clone();
    counted(&service.udp.icmp_errors, 1);
    wait_until(|| stage.control.load("m2") == 2);
    gone.0.send(b"again");
    let flow = m2.hears(b"again");
    m2.answer(b"welcome", flow);
    gone.0.hears(b"welcome");
    assert_eq!(service.ended.get(), 0, "the same flow");
}

#[test]
fn a_flow_that_was_never_answered_goes_to_another_at_once_with_its_first_datagram() {
    let (m1, m2) = (Party::new(), Party::new());
    let members = [("m1", m1.address()), ("m2", m2.address())];
    let mut stage = Stage::new(over(&over_udp("a", &["m1"])), &members);
    let client = stage.caller("a");
    client.send(b"anybody?");
    m1.hears(b"anybody?");
    stage.go_on(over(&over_udp("a", &["m2"])));
    let flow = m2.hears(b"anybody?");
    m2.answer(b"me", flow);
    client.hears(b"me");
    assert_eq!(stage.control.service("a").ended.get(), 0, "the same flow");
}

#[test]
fn a_member_that_refuses_after_a_reload_is_told_of_by_its_new_id() {
    let (m1, m2) = (Party::new(), Party::new());
    let both = [&m1, &m2];
    let mut stage = Stage::new(two(), &[("m1", m1.address()), ("m2", m2.address())]);
    let (client, at, _) = known(stage.caller("a"), &both);
    stage.go_on(turned());
    both[at].refuse();
    client.send(b"one");
    let service = stage.control.service("a").clone();
    counted(&service.udp.icmp_errors, 1);
    let blamed = stage.control.member(["m1", "m2"][at]);
    wait_until(|| stage.control.counters.member(blamed).connect_failed.get() == 1);
    let report = stage.reports.blocking_recv();
    assert!(
        matches!(
            report,
            Some(FromWorker::ConnectFailed { epoch: 1, target, failure: Failure::Refused })
                if target.member() == blamed
        ),
        "{report:?}"
    );
}

#[test]
fn listeners_come_and_go_and_flows_of_those_that_go_end() {
    let (m1, m2) = (Party::new(), Party::new());
    let members = [("m1", m1.address()), ("m2", m2.address())];
    let (a, b) = (over_udp("a", &["m1"]), over_udp("b", &["m2"]));
    // The first service over UDP comes with a reload.
    let mut stage = Stage::new(over(&pool("other", &["o8"])), &members);
    stage.go_on(over(&a));
    let (client, _, flow) = known(stage.caller("a"), &[&m1]);
    stage.go_on(over(&format!("{b}{a}")));
    let (at_b, ..) = known(stage.caller("b"), &[&m2]);
    client.send(b"more");
    assert_eq!(m1.hears(b"more"), flow);
    let gone = stage.control.service("b").clone();
    stage.go_on(over(&a));
    counted(&gone.ended, 1);
    // Nobody listens there: that is told to whoever sends.
    wait_until(|| at_b.0.send(b"anybody?").is_err());
    // Its place is another's now, and nothing is taken for anything else.
    stage.go_on(over(&format!("{a}{b}")));
    let (at_b, ..) = known(stage.caller("b"), &[&m2]);
    client.send(b"yet more");
    assert_eq!(m1.hears(b"yet more"), flow);
    at_b.send(b"fine");
    m2.hears(b"fine");
    assert_eq!(stage.control.service("a").accepted.get(), 1);
    assert_eq!(
        stage.control.service("b").accepted.get(),
        1,
        "it began anew"
    );
}

#[test]
fn a_listener_that_is_passed_to_another_service_takes_no_flow_along() {
    let (m1, m2) = (Party::new(), Party::new());
    let members = [("m1", m1.address()), ("m2", m2.address())];
    let both = || over(&(over_udp("a", &["m1"]) + &over_udp("b", &["m2"])));
    let mut stage = Stage::new(both(), &members);
    let (client, ..) = known(stage.caller("a"), &[&m1]);
    let address = stage.control.address("a");
    let (mut adoption, done) = stage.control.adoption(both());
    let to = stage.control.pool("b").service(0);
    adoption.pass.push((Protocol::Udp, address, to));
    stage.send_adoption(adoption);
    done.blocking_recv().expect("adopted");
    counted(&stage.control.service("a").ended, 1);
    client.send(b"again");
    let flow = m2.hears(b"again");
    m2.answer(b"here", flow);
    client.hears(b"here");
    assert_eq!(stage.control.service("a").accepted.get(), 1);
    assert_eq!(stage.control.service("b").accepted.get(), 1);
}

#[test]
fn many_flows_of_a_listener_that_goes_end_though_its_place_is_wanted() {
    const MANY: usize = 300;
    let m1 = Party::new();
    let (a, b) = (over_udp("a", &["m1"]), over_udp("b", &["m1"]));
    let mut stage = Stage::new(over(&a), &[("m1", m1.address())]);
    let clients: Vec<Party> = (0..MANY).map(|_| stage.caller("a")).collect();
    for client in &clients {
        client.send(b"hello");
        m1.hears(b"hello");
    }
    let gone = stage.control.service("a").clone();
    stage.go_on(over(&b));
    let (client, _, flow) = known(stage.caller("b"), &[&m1]);
    counted(&gone.ended, MANY as u64);
    assert_eq!(gone.ended_by_us.get(), MANY as u64);
    for _ in 0..3 {
        stage.go_on(over(&b));
    }
    client.send(b"mine");
    assert_eq!(m1.hears(b"mine"), flow);
    assert_eq!(stage.control.load("m1"), 1);
}

#[test]
fn as_many_flows_as_the_topology_in_force_allows_may_be_open() {
    let m1 = Party::new();
    let topology = || over(&over_udp("a", &["m1"]));
    let mut stage = Stage::new(topology(), &[("m1", m1.address())]);
    let clients: Vec<Party> = (0..4).map(|_| stage.caller("a")).collect();
    for client in &clients {
        client.send(b"hello");
        m1.hears(b"hello");
    }
    stage.control.flows = 2;
    stage.go_on(topology());
    let late = stage.caller("a");
    late.send(b"me too");
    m1.hears(b"me too");
    let service = stage.control.service("a").clone();
    counted(&service.udp.evicted, 1);
    assert_eq!(service.open(), 4, "one for one");
    stage.control.flows = 5;
    stage.go_on(topology());
    let later = stage.caller("a");
    later.send(b"and me");
    m1.hears(b"and me");
    assert_eq!((service.udp.evicted.get(), service.open()), (1, 5));
}

#[test]
fn thousands_of_reloads_leave_flows_and_listeners_as_they_were() {
    let (m1, m2) = (Party::new(), Party::new());
    let both = [&m1, &m2];
    let mut stage = Stage::new(two(), &[("m1", m1.address()), ("m2", m2.address())]);
    let (client, at, flow) = known(stage.caller("a"), &both);
    let (a, b) = (over_udp("a", &["m2", "m1"]), over_udp("b", &["m2"]));
    let places = || std::fs::read_dir("/proc/self/fd").expect("a list").count();
    let mut steady = None;
    for nth in 0..1_000 {
        stage.go_on(over(&format!("{b}{a}")));
        if nth % 100 == 0 {
            // A listener that comes and goes is the place of the last one, never one more.
            let (_, _, flow) = known(stage.caller("b"), &[&m2]);
            m2.answer(b"late", flow);
        }
        stage.go_on(two());
        // Other tests of this process may open some meanwhile.
        let now = places();
        let least = steady.get_or_insert(now);
        *least = now.min(*least);
    }
    let least = steady.expect("some");
    assert!(places() < least + 100, "{} and {least}", places());
    client.send(b"as ever");
    assert_eq!(both[at].hears(b"as ever"), flow);
    assert_eq!(stage.control.service("a").accepted.get(), 1);
}
