//! Who gets a session.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use twinpool::health::Verdict;

use crate::harness::*;

/// How many of `count` sessions, all open at once, each member got.
async fn spread(address: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    let mut clients = Vec::new();
    let mut got = BTreeMap::new();
    for _ in 0..count {
        let mut client = Client::connect(address).await;
        *got.entry(client.member().await).or_default() += 1;
        clients.push(client);
    }
    got
}

async fn three() -> [Member; 3] {
    [
        Member::start("a").await,
        Member::start("b").await,
        Member::start("c").await,
    ]
}

#[tokio::test]
async fn sessions_spread_over_the_members() {
    let members = three().await;
    let daemon = Daemon::start(Setup::of(&Pool::of(&members)).workers(2)).await;
    let got = spread(daemon.address().await, 90).await;
    assert_eq!(got.len(), 3, "{got:?}");
    // By two random choices the loads stay close to each other.
    assert!(got.values().all(|n| (24..=36).contains(n)), "{got:?}");
}

#[tokio::test]
async fn round_robin_takes_each_in_turn() {
    let members = three().await;
    let pool = Pool::of(&members).service("balance = \"round-robin\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let got = spread(daemon.address().await, 30).await;
    assert_eq!(got.values().collect::<Vec<_>>(), [&10, &10, &10]);
}

#[tokio::test]
async fn a_heavier_member_gets_its_share() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a])
        .member(&b, "weight = 3")
        .service("balance = \"round-robin\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let got = spread(daemon.address().await, 80).await;
    assert!((17..=23).contains(&got["a"]), "{got:?}");
}

fn sources() -> impl Iterator<Item = IpAddr> {
    (2..42).map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n)))
}

async fn homes(address: SocketAddr) -> BTreeMap<IpAddr, String> {
    let mut homes = BTreeMap::new();
    for source in sources() {
        let mut client = Client::connect_from(source, address).await;
        homes.insert(source, client.member().await);
    }
    homes
}

#[tokio::test]
async fn source_keeps_a_client_on_its_member_and_moves_only_a_failed_ones() {
    let mut members = three().await;
    let pool = Pool::of(&members).service("balance = \"source\"");
    let daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let address = daemon.address().await;
    let before = homes(address).await;
    assert_eq!(homes(address).await, before);
    let used = |name: &str| before.values().filter(|home| *home == name).count();
    assert!(
        ["a", "b", "c"].iter().all(|name| used(name) > 3),
        "{before:?}"
    );

    members[0].die().await;
    daemon.verdict("a", Verdict::Down).await;
    for (source, home) in homes(address).await {
        match before[&source].as_str() {
            "a" => assert_ne!(home, "a"),
            other => assert_eq!(home, other, "{source} moved"),
        }
    }
    members[0].resume().await;
    daemon.verdict("a", Verdict::Up).await;
    assert_eq!(homes(address).await, before);
}

#[tokio::test]
async fn source_is_the_same_after_a_restart() {
    let members = three().await;
    let pool = Pool::of(&members).service("balance = \"source\"");
    let mut daemon = Daemon::start(Setup::of(&pool)).await;
    let before = homes(daemon.address().await).await;
    daemon.kill().await;
    daemon.start_again().await;
    assert_eq!(homes(daemon.address().await).await, before);
}

#[tokio::test]
async fn first_uses_one_member_and_does_not_return_by_itself() {
    let mut members = three().await;
    let pool = Pool::of(&members).service("balance = \"first\"");
    let mut daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let address = daemon.address().await;
    assert_eq!(
        spread(address, 10).await,
        BTreeMap::from([("a".into(), 10)])
    );
    let mut on_a = Client::connect(address).await;
    assert_eq!(on_a.member().await, "a");

    members[0].die().await;
    assert_eq!(on_a.ended().await, Ended::Reset);
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(
        spread(address, 10).await,
        BTreeMap::from([("b".into(), 10)])
    );

    members[0].resume().await;
    daemon.verdict("a", Verdict::Up).await;
    assert_eq!(
        spread(address, 10).await,
        BTreeMap::from([("b".into(), 10)])
    );

    daemon.kill().await;
    daemon.start_again().await;
    daemon.verdict("a", Verdict::Up).await;
    let address = daemon.address().await;
    assert_eq!(
        spread(address, 10).await,
        BTreeMap::from([("b".into(), 10)])
    );
    let status = daemon.status().await;
    let service = &status.pool("p").expect("the pool").services[0];
    assert_eq!(service.first.as_deref(), Some("b"));

    members[1].die().await;
    daemon.verdict("b", Verdict::Down).await;
    let got = spread(address, 10).await;
    assert!(got.len() == 1 && !got.contains_key("b"), "{got:?}");
}

#[tokio::test]
async fn a_backup_is_used_only_while_the_others_are_gone() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let spare = Member::start("spare").await;
    let pool = Pool::of([&a, &b]).member(&spare, "backup = true");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut b = b;
    assert!(!spread(address, 30).await.contains_key("spare"));
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(
        spread(address, 10).await,
        BTreeMap::from([("b".into(), 10)])
    );
    b.die().await;
    daemon.verdict("b", Verdict::Down).await;
    assert_eq!(
        spread(address, 10).await,
        BTreeMap::from([("spare".into(), 10)])
    );
    a.resume().await;
    daemon.verdict("a", Verdict::Up).await;
    assert_eq!(
        spread(address, 10).await,
        BTreeMap::from([("a".into(), 10)])
    );
}
