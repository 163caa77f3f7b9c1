//! What a client sees of a flow.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;

use crate::caller::*;
use crate::echo::*;
use crate::harness::*;

/// What fits into one datagram over IPv4, beside the name and port that an echo puts in front.
const LARGEST: usize = 65_507 - 16;

/// A port that nobody has, on any address.
fn free_port(any: &str) -> u16 {
    let socket = std::net::UdpSocket::bind((any, 0)).expect("a port");
    socket.local_addr().expect("its number").port()
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + seed * 7) as u8).collect()
}

#[tokio::test]
async fn datagrams_of_every_length_are_answered_as_they_were_sent() {
    let a = Echo::start("a").await;
    let daemon = Daemon::start(Setup::of(&pool_of([&a]))).await;
    let caller = Caller::new(daemon.address().await).await;
    for length in [0, 1, 2, 64, 1_200, 1_472, 1_473, 9_000, 40_000, LARGEST] {
        let sent = pattern(length, length);
        caller.send(&sent).await;
        let answer = caller.hear(PATIENCE).await.expect("an answer");
        assert_eq!(answer.member, "a");
        assert!(answer.body == sent, "{length} bytes came back as others");
    }
    assert_eq!(a.peers(), 1);
}

#[tokio::test]
async fn datagrams_that_follow_each_other_stay_apart_whole_and_in_order() {
    // Kernels pass on in one piece what has one length: all equal, a shorter one behind, a longer
    // one behind, empty ones between.
    let lengths = [
        &[1_200; 20][..],
        &[1_200, 1_200, 1_200, 40],
        &[100, 100, 1_000, 1_000, 5, 5, 5],
        &[7, 0, 7, 7, 0, 0, 7],
        &[1_473, 1_473, 9_000, 1],
    ];
    let a = Echo::start("a").await;
    let daemon = Daemon::start(Setup::of(&pool_of([&a])).workers(2)).await;
    let caller = Caller::new(daemon.address().await).await;
    for (round, lengths) in lengths.iter().enumerate() {
        let sent: Vec<Vec<u8>> = (0..)
            .zip(*lengths)
            .map(|(n, length)| pattern(*length, round + n))
            .collect();
        for datagram in &sent {
            caller.send(datagram).await;
        }
        for (n, datagram) in sent.iter().enumerate() {
            let answer = caller.hear(PATIENCE).await.expect("an answer");
            assert!(answer.body == *datagram, "round {round}: datagram {n}");
        }
    }
}

#[tokio::test]
async fn many_answers_to_one_question_come_in_order() {
    let a = Echo::start("a").await;
    let daemon = Daemon::start(Setup::of(&pool_of([&a]))).await;
    let caller = Caller::new(daemon.address().await).await;
    caller.send(b"times 40 of one question").await;
    for n in 0..40 {
        let answer = caller.hear(PATIENCE).await.expect("an answer");
        let expected = format!("{n}:times 40 of one question");
        assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    }
}

#[tokio::test]
async fn clients_are_spread_over_members_and_each_address_keeps_its_own() {
    let members = [
        Echo::start("a").await,
        Echo::start("b").await,
        Echo::start("c").await,
    ];
    let daemon = Daemon::start(Setup::of(&pool_of(&members)).workers(2)).await;
    let service = daemon.address().await;
    let mut callers = callers(service, 60).await;
    let mut served: BTreeMap<String, u32> = BTreeMap::new();
    for (caller, first) in &mut callers {
        // The same flow, and another one from the same address.
        for _ in 0..3 {
            let again = caller.ask().await;
            assert_eq!((&again.member, again.port), (&first.member, first.port));
        }
        *served.entry(first.member.clone()).or_default() += 1;
    }
    for (source, (_, first)) in sources(60).zip(&callers) {
        let another = Caller::from(source, service).await.ask().await;
        assert_eq!(another.member, first.member);
        assert_ne!(another.port, first.port);
    }
    assert_eq!(served.len(), 3, "{served:?}");
    assert!(served.values().all(|n| *n >= 6), "{served:?}");
    let known: usize = members.iter().map(Echo::peers).sum();
    assert_eq!(known, 120);
}

#[tokio::test]
async fn answers_come_from_the_address_that_was_asked_at_a_listener_for_all() {
    let (a, port) = (Echo::start("a").await, free_port("0.0.0.0"));
    let pool = pool_of([&a]).listen(&format!("\"0.0.0.0:{port}\""));
    let _daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    // One socket that asks at several addresses: each is answered by the one it asked.
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let doors = [1, 7, 200].map(|n| SocketAddr::from((Ipv4Addr::new(127, 0, 3, n), port)));
    let mut ports = Vec::new();
    for round in 0..3 {
        for door in doors {
            let question = format!("{round} at {door}");
            let sent = socket.send_to(question.as_bytes(), door).await;
            sent.expect("a question sent");
            let mut bytes = [0; 256];
            let (length, from) = within("an answer", socket.recv_from(&mut bytes))
                .await
                .expect("an answer");
            assert_eq!(from, door);
            let answer = Answer::parse(&bytes[..length]).expect("a member's answer");
            assert_eq!(answer.body, question.as_bytes());
            ports.push(answer.port);
        }
    }
    assert_eq!(ports[..3], ports[3..6]);
    assert_eq!(a.peers(), 3);
}

#[tokio::test]
async fn clients_over_ipv6_reach_members_over_ipv4() {
    let (a, port) = (Echo::start("a").await, free_port("::"));
    let pool = pool_of([&a]).listen(&format!("[\"[::1]:0\", \"[::]:{port}\"]"));
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let status = daemon.status().await;
    let listen = &status.pool("p").expect("the pool").services[0].listen;
    for door in listen.clone() {
        let door = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), door.port());
        let mut caller = Caller::new(door).await;
        assert_eq!(caller.ask().await.member, "a");
    }
}

#[tokio::test]
async fn an_idle_flow_ends_and_its_clients_next_datagram_begins_another() {
    let a = Echo::start("a").await;
    let pool = pool_of([&a]).service("idle_timeout = \"1s\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let mut caller = Caller::new(daemon.address().await).await;
    let first = caller.ask().await;
    assert_eq!(caller.ask().await.port, first.port);
    assert_eq!(daemon.member("a").await.load, 1);
    daemon
        .counted("ended idle", |t| t.ended_idle == 1 && t.ended == 1)
        .await;
    assert_eq!(daemon.member("a").await.load, 0);
    assert_ne!(caller.ask().await.port, first.port);
}

#[tokio::test]
async fn a_flow_that_moves_in_one_direction_only_is_not_idle() {
    let a = Echo::start("a").await;
    let pool = pool_of([&a]).service("idle_timeout = \"1s\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let mut caller = Caller::new(daemon.address().await).await;
    let first = caller.ask().await;
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(2_500) {
        caller.send(b"quiet").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(caller.ask().await.port, first.port);
    assert_eq!(daemon.totals().await.ended, 0);
}

#[tokio::test]
async fn a_service_over_udp_may_share_its_port_with_one_over_tcp() {
    let (lines, echo) = {
        let lines = Member::start("a").await;
        let echo = Echo::start_at("a", lines.address()).await;
        (lines, echo)
    };
    let door = free_address();
    let member = format!(
        "{{ address = \"{}\", ports = {{ line = {port}, media = {port} }} }}",
        echo.address().ip(),
        port = lines.address().port()
    );
    let setup = Setup::new().text(&format!(
        r#"
[pools.p]
role = "lines"
quorum = "any"
members.a = {member}
[pools.p.services.line]
listen = "{door}"
check = {FAST}
[pools.p.services.media]
protocol = "udp"
port = 9
listen = "{door}"
check = {STUN}
"#
    ));
    let daemon = Daemon::start(setup).await;
    assert_eq!(daemon.address_of("p", "line").await, door);
    assert_eq!(daemon.address_of("p", "media").await, door);
    assert_eq!(served_by(door).await, "a");
    assert_eq!(Caller::new(door).await.ask().await.member, "a");
}
