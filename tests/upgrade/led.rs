//! A process that drains does what its successor decides.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use twinpool::health::Verdict;

use crate::harness::*;
use crate::line::Line;

#[tokio::test]
async fn sessions_of_a_member_that_dies_after_the_upgrade_are_ended() {
    let [mut a, b] = [Member::start("a").await, Member::start("b").await];
    let pool = Pool::of([&a, &b]).service("balance = \"round-robin\"");
    let mut line = Line::start(Setup::of(&pool)).await;
    let address = line.daemon.address().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(address).await;
        let member = client.member().await;
        clients.push((client, member));
    }
    assert!(clients.iter().any(|(_, member)| member == "a"));
    line.upgrade().await;
    // It hangs: nothing but the verdict can end them.
    a.hang();
    a.stop_listening().await;
    line.daemon.verdict("a", Verdict::Down).await;
    for (client, member) in &mut clients {
        match member.as_str() {
            "a" => drop(client.ended().await),
            _ => assert_eq!(client.member().await, "b", "others stay"),
        }
    }
    for _ in 0..20 {
        assert_eq!(served_by(address).await, "b");
    }
}

#[tokio::test]
async fn a_member_that_is_drained_after_the_upgrade_loses_its_sessions_at_the_deadline() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let pool = Pool::of([&a, &b]).key("drain_deadline = \"300ms\"");
    let pool = pool.service("balance = \"round-robin\"");
    let mut line = Line::start(Setup::of(&pool)).await;
    let address = line.daemon.address().await;
    let mut clients = [
        Client::connect(address).await,
        Client::connect(address).await,
    ];
    let members = [clients[0].member().await, clients[1].member().await];
    assert!(members.iter().any(|member| member == "a"), "{members:?}");
    line.upgrade().await;
    line.upgrade().await;
    line.daemon.done(&["drain", "p/a"]).await;
    for (client, member) in clients.iter_mut().zip(&members) {
        match member.as_str() {
            "a" => drop(client.ended().await),
            _ => assert_eq!(client.member().await, "b", "others stay"),
        }
    }
}

#[tokio::test]
async fn users_whom_the_old_process_serves_move_with_their_pool() {
    let [s, b] = [Member::start("s").await, Member::start("b").await];
    let fe = Pool::of([&s]).named("fe-seoul").key("site = \"seoul\"");
    let other = Pool::of([&b]).named("fe-busan").key("site = \"busan\"");
    let setup = Setup::new()
        .text("[sites.seoul]\nregion = \"north\"\n[sites.busan]\nregion = \"south\"")
        .pool(&fe)
        .pool(&other)
        .text("[pairs.korea]\npools = [\"fe-seoul\", \"fe-busan\"]\nramp = \"100ms\"");
    let mut line = Line::start(setup).await;
    let address = line.daemon.address_of("fe-seoul", "line").await;
    let stays = line.daemon.address_of("fe-busan", "line").await;
    let (mut client, mut other) = (Client::connect(address).await, Client::connect(stays).await);
    assert_eq!(client.member().await, "s");
    assert_eq!(other.member().await, "b");
    line.upgrade().await;
    line.daemon.done(&["failover", "fe-seoul", "--now"]).await;
    client.ended().await;
    assert_eq!(other.member().await, "b");
    assert_eq!(served_by(address).await, "b");
}

#[tokio::test]
async fn what_is_left_at_the_upgrade_deadline_is_ended() {
    let a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).instance("upgrade_deadline = \"300ms\"");
    let mut line = Line::start(setup).await;
    let mut client = Client::connect(line.daemon.address().await).await;
    client.member().await;
    let began = Instant::now();
    line.upgrade().await;
    client.ended().await;
    assert!(began.elapsed() >= Duration::from_millis(250));
    line.drained().await;
}

#[tokio::test]
async fn whoever_stops_the_last_process_stops_all() {
    let a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).instance("stop_deadline = \"500ms\"");
    let mut line = Line::start(setup).await;
    let address = line.daemon.address().await;
    let mut client = Client::connect(address).await;
    client.member().await;
    line.upgrade().await;
    line.signal(Signal::TERM);
    // It is kept to the deadline, and nobody listens meanwhile.
    eventually("nobody to listen", async || {
        Client::try_connect(address).await.err().map(drop)
    })
    .await;
    assert_eq!(client.member().await, "a");
    client.ended().await;
    line.drained().await;
    line.gone().await;
}

#[tokio::test]
async fn a_process_drains_on_though_its_successor_is_killed() {
    let a = Member::start("a").await;
    let mut line = Line::start(Setup::of(&Pool::of([&a]))).await;
    let mut client = Client::connect(line.daemon.address().await).await;
    client.member().await;
    line.upgrade().await;
    line.signal(Signal::KILL);
    line.gone().await;
    assert_eq!(client.member().await, "a");
    drop(client);
    line.drained().await;
}

#[tokio::test]
async fn a_member_that_the_new_file_does_not_have_keeps_its_sessions_to_its_deadline() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let pool = |members: &[&Member]| {
        let pool = Pool::of(members.iter().copied());
        Setup::of(&pool.key("drain_deadline = \"500ms\""))
    };
    let mut line = Line::start(pool(&[&a])).await;
    let mut client = Client::connect(line.daemon.address().await).await;
    client.member().await;
    let without = pool(&[&b]).toml(line.daemon.dir());
    std::fs::write(line.daemon.config(), without).expect("the file");
    let began = Instant::now();
    line.upgrade().await;
    assert_eq!(client.member().await, "a");
    client.ended().await;
    assert!(began.elapsed() >= Duration::from_millis(450));
}

#[tokio::test]
async fn what_a_member_holds_in_earlier_processes_counts_in_its_load() {
    let a = Member::start("a").await;
    let pool = Pool::of([]).member(&a, "max_connections = 2");
    let mut line = Line::start(Setup::of(&pool).workers(2)).await;
    let address = line.daemon.address().await;
    let mut first = Client::connect(address).await;
    assert_eq!(first.member().await, "a");
    line.upgrade().await;
    let mut second = Client::connect(address).await;
    assert_eq!(second.member().await, "a");
    line.upgrade().await;
    let holds = async |load: u64| {
        eventually(&format!("a load of {load}"), async || {
            (line.daemon.member("a").await.load == load).then_some(())
        })
        .await;
    };
    holds(2).await;
    // There is no third place, in whichever processes the two are.
    let mut third = Client::connect(address).await;
    line.daemon
        .counted("one in the queue", |t| t.queued == 1)
        .await;
    assert_eq!(line.daemon.member("a").await.load, 2);
    drop(first);
    assert_eq!(third.member().await, "a");
    assert_eq!(line.daemon.member("a").await.load, 2);
    drop(third);
    holds(1).await;
    // A file that moves it elsewhere in the lists is in the same place for those that drain.
    let b = Member::start("b").await;
    let other = Pool::of([&b]).named("another");
    let moved = Pool::of([&b]).member(&a, "max_connections = 2");
    let setup = Setup::new().pool(&other).pool(&moved).workers(2);
    let text = setup.toml(line.daemon.dir());
    std::fs::write(line.daemon.config(), text).expect("the file");
    line.daemon.done(&["reload"]).await;
    assert_eq!(line.daemon.member("a").await.load, 1);
    drop(second);
    holds(0).await;
}
