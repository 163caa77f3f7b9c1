//! Bounds: places at members, the queue, sessions, descriptors.

use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use twinpool::health::Verdict;
use twinpool::observe::shortage::Shortage;

use crate::harness::*;

#[tokio::test]
async fn who_finds_every_member_full_waits_and_gets_the_place() {
    let a = Member::start("a").await;
    let pool = Pool::of([]).member(&a, "max_connections = 1");
    let daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let address = daemon.address().await;
    let mut first = Client::connect(address).await;
    assert_eq!(first.member().await, "a");
    let mut second = Client::connect(address).await;
    daemon.counted("one in the queue", |t| t.queued == 1).await;
    assert_eq!(daemon.totals().await.established, 1);
    assert_eq!(first.member().await, "a");
    drop(first);
    assert_eq!(second.member().await, "a");
    assert_eq!(daemon.totals().await.refused(), 0);
    assert_eq!(daemon.member("a").await.load, 1);
}

#[tokio::test]
async fn those_who_wait_are_served_in_the_order_they_came() {
    let a = Member::start("a").await;
    let pool = Pool::of([]).member(&a, "max_connections = 1");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut served = Client::connect(address).await;
    assert_eq!(served.member().await, "a");
    let mut waiting = Vec::new();
    for number in 1..=4 {
        waiting.push(Client::connect(address).await);
        daemon
            .counted("one more in the queue", |t| t.queued == number)
            .await;
    }
    for (number, mut next) in waiting.into_iter().enumerate() {
        assert_eq!(daemon.totals().await.established, number as u64 + 1);
        drop(served);
        assert_eq!(next.member().await, "a");
        served = next;
    }
}

#[tokio::test]
async fn who_finds_the_queue_full_is_refused_at_once() {
    let a = Member::start("a").await;
    let pool = Pool::of([])
        .member(&a, "max_connections = 1")
        .key("queue = { limit = 1, timeout = \"60s\" }");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut served = Client::connect(address).await;
    assert_eq!(served.member().await, "a");
    let mut waiting = Client::connect(address).await;
    daemon.counted("one in the queue", |t| t.queued == 1).await;
    assert_eq!(turned_away(address).await, Ended::Reset);
    daemon
        .counted("a refusal", |t| t.refused_queue_full == 1)
        .await;
    drop(served);
    assert_eq!(waiting.member().await, "a");
}

#[tokio::test]
async fn who_breaks_off_while_waiting_leaves_the_queue() {
    let a = Member::start("a").await;
    let pool = Pool::of([])
        .member(&a, "max_connections = 1")
        .key("queue = { limit = 1, timeout = \"60s\" }");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut served = Client::connect(address).await;
    assert_eq!(served.member().await, "a");
    let waiting = Client::connect(address).await;
    daemon.counted("one in the queue", |t| t.queued == 1).await;
    waiting.reset();
    daemon
        .counted("one gone", |t| t.ended == 1 && t.left_queue == 1)
        .await;
    let mut waiting = Client::connect(address).await;
    daemon
        .counted("another in the queue", |t| t.queued == 2)
        .await;
    drop(served);
    assert_eq!(waiting.member().await, "a");
}

#[tokio::test]
async fn who_finished_sending_goes_on_waiting() {
    let a = Member::start("a").await;
    let pool = Pool::of([]).member(&a, "max_connections = 1");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut served = Client::connect(address).await;
    assert_eq!(served.member().await, "a");
    let mut waiting = Client::connect(address).await;
    waiting.send(b"one\ntwo\n").await;
    waiting.finish().await;
    daemon.counted("one in the queue", |t| t.queued == 1).await;
    assert_eq!(served.member().await, "a");
    drop(served);
    for answer in ["a:one", "a:two"] {
        assert_eq!(waiting.line().await.expect("an answer"), answer);
    }
    assert_eq!(waiting.ended().await, Ended::Orderly);
}

#[tokio::test]
async fn who_waited_for_too_long_is_refused() {
    let a = Member::start("a").await;
    let pool = Pool::of([])
        .member(&a, "max_connections = 1")
        .key("queue = { timeout = \"500ms\" }");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut served = Client::connect(address).await;
    assert_eq!(served.member().await, "a");
    let began = Instant::now();
    assert_eq!(turned_away(address).await, Ended::Reset);
    assert!(began.elapsed() >= Duration::from_millis(500));
    daemon
        .counted("a refusal", |t| t.refused_queue_timeout == 1)
        .await;
    assert_eq!(served.member().await, "a");
}

#[tokio::test]
async fn who_waits_when_the_last_member_dies_is_refused() {
    let mut a = Member::start("a").await;
    let pool = Pool::of([])
        .member(&a, "max_connections = 1")
        .key("queue = { timeout = \"60s\" }");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut served = Client::connect(address).await;
    assert_eq!(served.member().await, "a");
    let mut waiting = Client::connect(address).await;
    daemon.counted("one in the queue", |t| t.queued == 1).await;
    a.die().await;
    assert_eq!(served.ended().await, Ended::Reset);
    assert_eq!(waiting.ended().await, Ended::Reset);
}

#[tokio::test]
async fn sessions_beyond_the_limit_are_reset_and_counted() {
    let a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).instance("max_sessions = 3");
    let daemon = Daemon::start(setup).await;
    let address = daemon.address().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(address).await;
        assert_eq!(client.member().await, "a");
        held.push(client);
    }
    assert_eq!(turned_away(address).await, Ended::Reset);
    daemon.counted("one shed", |t| t.shed == 1).await;
    let sessions = daemon.status().await.sessions;
    assert_eq!((sessions.open, sessions.limit), (3, 3));
    for client in &mut held {
        assert_eq!(client.member().await, "a");
    }
    held.pop();
    daemon
        .counted("one ended", |t| t.accepted - t.ended == 2)
        .await;
    assert_eq!(served_by(address).await, "a");
}

#[tokio::test]
async fn a_full_instance_says_on_every_page_whom_it_turned_away_and_what_to_raise() {
    let a = Member::start("a").await;
    let observe = free_address();
    let setup = Setup::of(&Pool::of([&a])).observe(observe);
    for (setup, raise) in [
        (setup.clone().instance("max_sessions = 2"), "max_sessions"),
        (setup.descriptors(96), "LimitNOFILE="),
    ] {
        let daemon = Daemon::start(setup).await;
        let address = daemon.address().await;
        let limit = daemon.status().await.sessions.limit;
        let mut held = Vec::new();
        for _ in 0..limit {
            let mut client = Client::connect(address).await;
            assert_eq!(client.member().await, "a");
            held.push(client);
        }
        let page = daemon.done(&["status"]).await;
        assert!(page.contains("no room for more sessions"), "{page}");
        assert_eq!(turned_away(address).await, Ended::Reset);
        daemon.counted("one shed", |t| t.shed == 1).await;
        let page = daemon.done(&["status"]).await;
        for told in ["1 connection was reset", "clients of p/line", raise] {
            assert!(page.contains(told), "{told}: {page}");
        }
        let why = daemon.done(&["why", "p"]).await;
        assert!(why.contains("line: 1 connection was reset since"), "{why}");
        eventually("that in /readyz", async || {
            let (code, body) = http(observe, "/readyz").await;
            assert_eq!(code, 200);
            body.contains("FULL: 1 connection was reset").then_some(())
        })
        .await;
        let status = daemon.status().await;
        let [lately] = status.pool("p").expect("the pool").services[0].lately[..] else {
            panic!("{status:?}");
        };
        assert_eq!((lately.what, lately.count), (Shortage::Sessions, 1));
        assert!(status.by_worker[0].sessions.is_full(), "{status:?}");
    }
}

#[tokio::test]
async fn a_daemon_out_of_descriptors_blames_no_member_and_recovers() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let setup = Setup::of(&Pool::of([&a, &b])).descriptors(64);
    let daemon = Daemon::start(setup).await;
    let address = daemon.address().await;
    let since =
        [daemon.member("a").await, daemon.member("b").await].map(|member| member.services[0].since);
    let mut old = Client::connect(address).await;
    let home = old.member().await;

    // Silent connections to the control socket take what descriptors there are.
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(UnixStream::connect(daemon.socket()).await.expect("room"));
    }
    let mut flood = Vec::new();
    for _ in 0..64 {
        flood.push(Client::try_connect(address).await);
    }
    // It goes on for a while: rounds of checks meet no descriptor.
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        assert_eq!(old.member().await, home);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop((silent, flood));

    let status = eventually("an answer again", async || {
        let status = tokio::time::timeout(Duration::from_secs(2), daemon.try_status());
        status.await.ok().flatten()
    })
    .await;
    let faults = status.own_faults;
    let probes_met: u64 = ["a", "b"]
        .iter()
        .map(|name| {
            let member = status.pool("p").expect("the pool").member(name);
            member.expect("the member").services[0].checks.own_fault
        })
        .sum();
    let accepts_met: u64 = status.servers.iter().map(|s| s.accept_errors).sum();
    assert!(
        faults.descriptors + probes_met + accepts_met > 0,
        "the flood met no limit: {status:?}"
    );
    eventually("new sessions", async || {
        let mut client = Client::try_connect(address).await.ok()?;
        client.try_ask("who").await.ok()
    })
    .await;
    assert_eq!(old.member().await, home);
    for (name, since) in ["a", "b"].into_iter().zip(since) {
        let target = &daemon.member(name).await.services[0];
        assert_eq!(target.verdict, Verdict::Up);
        assert!(
            target.since.since(since) < Duration::from_millis(10),
            "{name} changed"
        );
    }
}

#[tokio::test]
async fn counters_add_up() {
    let mut a = Member::start("a").await;
    let pool = Pool::of([])
        .member(&a, "max_connections = 2")
        .key("queue = { limit = 1, timeout = \"100ms\" }");
    let setup = Setup::of(&pool).instance("max_sessions = 4");
    let daemon = Daemon::start(setup).await;
    let address = daemon.address().await;
    let mut clients = Vec::new();
    // Two served; one waits, and too long; one finds the queue full.
    for number in 1..=2 {
        let mut client = Client::connect(address).await;
        assert_eq!(client.member().await, "a");
        clients.push(client);
        daemon
            .counted("a session", |t| t.established == number)
            .await;
    }
    let mut late = Client::connect(address).await;
    daemon.counted("one in the queue", |t| t.queued == 1).await;
    assert_eq!(turned_away(address).await, Ended::Reset);
    assert_eq!(late.ended().await, Ended::Reset);
    // One ends well, one breaks; two find nobody.
    assert_eq!(clients[0].ask("end").await, "bye");
    assert_eq!(clients[0].ended().await, Ended::Orderly);
    clients.remove(0);
    daemon
        .counted("an end", |t| t.accepted - t.ended == 1)
        .await;
    a.die().await;
    assert_eq!(clients[0].ended().await, Ended::Reset);
    daemon.verdict("a", Verdict::Down).await;
    for _ in 0..2 {
        assert_eq!(turned_away(address).await, Ended::Reset);
    }
    daemon.counted("all of it", |t| t.ended == 6).await;

    let shown = daemon.done(&["status", "--json"]).await;
    let status: twinpool::observe::Status = serde_json::from_str(&shown).expect("a status");
    let t = status.pool("p").expect("the pool").services[0].totals;
    assert_eq!((t.accepted, t.established, t.ended), (6, 2, 6), "{t:?}");
    assert_eq!((t.refused_queue_full, t.refused_queue_timeout), (1, 1));
    assert_eq!(t.refused_no_member, 2);
    assert_eq!(t.reset_by_member, 1);
    assert_eq!(t.accepted, t.established + t.refused());
    assert_eq!(t.bytes_in, "who\nwho\nend\n".len() as u64);
    assert_eq!(t.bytes_out, "a:who\na:who\nbye\n".len() as u64);
    let member = &status.pool("p").expect("the pool").members[0];
    assert_eq!((member.sessions, member.load), (2, 0));
    assert_eq!(status.sessions.open, 0);
}
