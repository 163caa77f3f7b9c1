//! Flows go over from one worker to another, as between two processes that have the same sockets.

use tokio::sync::oneshot;

use super::*;
use crate::proxy::{FlowGiven, FlowTaken, HandFlows};

/// Flows that go over in one slice.
const SLICE: usize = 250;

/// Everything that the worker of one rig hands over.
fn given(rig: &Rig) -> Vec<FlowGiven> {
    let worker = rig.worker.as_ref().expect("a worker");
    let (tell, paused) = oneshot::channel();
    assert!(worker.hand_flows(HandFlows::Pause(tell)));
    let flows = paused.blocking_recv().expect("an answer");
    let slices = (0..flows).step_by(SLICE).flat_map(|from| {
        let (tell, slice) = oneshot::channel();
        let order = HandFlows::Give {
            from,
            most: SLICE,
            tell,
        };
        assert!(worker.hand_flows(order));
        let slice = slice.blocking_recv().expect("an answer");
        assert!(slice.len() <= SLICE);
        slice
    });
    slices.collect()
}

fn order(rig: &Rig, order: HandFlows) {
    assert!(rig.worker.as_ref().expect("a worker").hand_flows(order));
}

/// A rig that takes over from another one: its listener, and these flows.
fn taking(before: &Rig, home: &[&Party], most: usize, flows: Vec<FlowGiven>) -> Rig {
    let worker = before.worker.as_ref().expect("a worker");
    let shared = worker.share_listeners().blocking_recv();
    let shared = shared.expect("an answer").expect("descriptors");
    let (mut rig, mut plan) = Rig::planned(home, &[], most, |_| {});
    let mut topology = (*rig.topology).clone();
    topology.pools[HOME.index()].services[0].listen = vec![before.address];
    let mut given = listen::Given::new(shared);
    let mut listeners = listen::bind(&topology, 1, &mut given).expect("listeners");
    plan.listeners = listeners.remove(0);
    let inode = plan.listeners[0].inode().expect("an inode");
    rig.address = before.address;
    let now = crate::clock::now();
    let taken = flows.into_iter().map(|given| {
        assert_eq!(given.listener, inode);
        let attempt = rig.handles.stands(given.target.member(), given.member, now);
        FlowTaken { given, attempt }
    });
    plan.flows_taken = taken.collect();
    rig.worker = Some(start(plan).expect("a worker").begin());
    rig
}

#[test]
fn a_flow_goes_on_with_the_same_member_from_the_same_port() {
    let member = Party::new();
    let before = Rig::new(&[&member]);
    let client = before.client();
    client.send(b"one");
    let flow = member.hears(b"one");
    member.answer(b"first", flow);
    client.hears(b"first");
    let flows = given(&before);
    // What comes while nobody reads waits, in both directions.
    client.send(b"two");
    member.answer(b"second", flow);
    let after = taking(&before, &[&member], 1000, flows);
    order(&before, HandFlows::Leave);
    assert_eq!(member.hears(b"two"), flow);
    assert_eq!(client.hears(b"second"), before.address);
    client.send(b"three");
    assert_eq!(member.hears(b"three"), flow);
    member.answer(b"third", flow);
    client.hears(b"third");
    assert_eq!(after.service().accepted.get(), 1);
    assert_eq!(after.load(HOME), 1);
    counted(&before.service().ended, 1);
    assert_eq!(before.load(HOME), 0);
    assert_eq!(before.udp().datagrams_in.get(), 1);
}

#[test]
fn flows_that_were_not_taken_go_on_where_they_were() {
    let member = Party::new();
    let rig = Rig::new(&[&member]);
    let client = rig.client();
    client.send(b"one");
    let flow = member.hears(b"one");
    let flows = given(&rig);
    assert_eq!(flows.len(), 1);
    client.send(b"two");
    member.answer(b"answer", flow);
    drop(flows);
    order(&rig, HandFlows::Resume);
    assert_eq!(member.hears(b"two"), flow);
    client.hears(b"answer");
    assert_eq!(rig.service().accepted.get(), 1);
}

#[test]
fn thousands_of_flows_go_over_in_slices_and_none_is_lost() {
    let member = Party::new();
    let before = Rig::sized(&[&member], &[], 2000, |_| {});
    let clients: Vec<Party> = (0..600).map(|_| before.client()).collect();
    let ports: Vec<SocketAddr> = clients
        .iter()
        .map(|client| {
            client.send(b"begin");
            member.hears(b"begin")
        })
        .collect();
    let flows = given(&before);
    assert_eq!(flows.len(), clients.len());
    let after = taking(&before, &[&member], 2000, flows);
    order(&before, HandFlows::Leave);
    for (client, port) in clients.iter().zip(&ports) {
        client.send(b"on");
        assert_eq!(member.hears(b"on"), *port);
    }
    assert_eq!(after.service().accepted.get(), 600);
}

#[test]
fn flows_beyond_the_bound_and_at_a_dead_member_begin_anew() {
    let (dead, member) = (Party::new(), Party::new());
    let before = Rig::new(&[&dead, &member]);
    let clients = [before.client(), before.client(), before.client()];
    // One after the other, as they are asked in turn.
    for (client, member) in clients.iter().zip([&dead, &member, &dead]) {
        client.send(b"begin");
        member.hears(b"begin");
    }
    let flows = given(&before);
    let after = taking(&before, &[&dead, &member], 1, flows);
    order(&before, HandFlows::Leave);
    counted(&after.service().accepted, 1);
    // The newcomer takes the place of the one that has not been proven.
    clients[1].send(b"anew");
    let (at, bytes, _) = either(&[&dead, &member]);
    assert_eq!((bytes.as_slice(), at < 2), (&b"anew"[..], true));
    counted(&after.service().accepted, 2);
}

#[test]
fn a_flow_that_was_taken_ends_with_its_member() {
    let (one, other) = (Party::new(), Party::new());
    let before = Rig::new(&[&one, &other]);
    let client = before.client();
    client.send(b"begin");
    let (at, _, port) = either(&[&one, &other]);
    let (mine, theirs) = if at == 0 {
        (&one, &other)
    } else {
        (&other, &one)
    };
    mine.answer(b"answer", port);
    client.hears(b"answer");
    let flows = given(&before);
    let mut after = taking(&before, &[&one, &other], 1000, flows);
    order(&before, HandFlows::Leave);
    client.send(b"on");
    mine.hears(b"on");
    let down = HOME.member(at as u16);
    after.publish(Phase::Home, &[down]);
    after.tell(ToWorker::End(Which::Member {
        member: down,
        service: None,
    }));
    counted(&after.service().ended, 1);
    client.send(b"elsewhere");
    theirs.hears(b"elsewhere");
}
