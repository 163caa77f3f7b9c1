//! What a reload changes, and what it leaves alone.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use twinpool::health::Verdict;
use twinpool::health::readiness::Mode;

use crate::harness::*;
use crate::{reload, write};

#[tokio::test]
async fn sessions_go_on_wherever_their_member_stands_in_the_file() {
    let [a, b, c] = [
        Member::start("a").await,
        Member::start("b").await,
        Member::start("c").await,
    ];
    let other = Pool::of([&c]).named("other").listen("[]");
    let two = Pool::of([&a, &b]).service("balance = \"round-robin\"");
    let daemon = Daemon::start(Setup::of(&two)).await;
    let address = daemon.address().await;
    let mut clients = [
        Client::connect(address).await,
        Client::connect(address).await,
    ];
    let mut served = Vec::new();
    for client in &mut clients {
        served.push(client.member().await);
    }
    // Another pool before it, the members in another order, one of another weight.
    let turned = Pool::of([&b])
        .member(&a, "weight = 2")
        .service("balance = \"round-robin\"");
    let told = reload(&daemon, &Setup::of(&other).pool(&turned)).await;
    assert!(told.contains("+ pool other"), "{told}");
    assert!(told.contains("~ member p/a: weight 1 -> 2"), "{told}");
    for (client, served) in clients.iter_mut().zip(&served) {
        assert_eq!(client.member().await, *served);
    }
    assert_eq!(daemon.address().await, address);
    let totals = daemon.totals().await;
    assert_eq!((totals.accepted, totals.ended), (2, 0), "counters go on");
    assert_eq!(daemon.member("a").await.load, 1);
    assert_eq!(daemon.member("b").await.load, 1);
    // By their new ids they end when their member dies.
    let of_a = served
        .iter()
        .position(|name| name == "a")
        .expect("one of a's");
    let mut a = a;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(clients[of_a].ended().await, Ended::Reset);
    assert_eq!(clients[1 - of_a].member().await, "b");
}

#[tokio::test]
async fn a_new_member_gets_sessions_and_one_that_is_gone_keeps_its_own_to_the_deadline() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let old = Pool::of([&a]).key("drain_deadline = \"1s\"");
    let daemon = Daemon::start(Setup::of(&old)).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    let began = Instant::now();
    let new = Pool::of([&b]).key("drain_deadline = \"1s\"");
    let told = reload(&daemon, &Setup::of(&new)).await;
    assert!(
        told.contains("- member p/a: takes no new sessions"),
        "{told}"
    );
    for _ in 0..3 {
        assert_eq!(served_by(address).await, "b");
    }
    assert_eq!(client.member().await, "a");
    assert_eq!(client.ended().await, Ended::Reset);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(served_by(address).await, "b");
}

#[tokio::test]
async fn a_member_that_is_taken_out_by_mistake_is_put_back_with_all_its_sessions() {
    let [mut a, b] = [Member::start("a").await, Member::start("b").await];
    let pool = |members: &[&Member]| {
        let pool = Pool::of(members.iter().copied());
        Setup::of(&pool.key("drain_deadline = \"1s\""))
    };
    let daemon = Daemon::start(pool(&[&a])).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    reload(&daemon, &pool(&[&b])).await;
    let told = reload(&daemon, &pool(&[&a, &b])).await;
    assert!(told.contains("+ member p/a"), "{told}");
    assert_eq!(daemon.member("a").await.load, 1);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(client.member().await, "a", "the deadline is past");
    // It stands with the member as before: it ends when that dies.
    daemon.verdict("a", Verdict::Up).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(client.ended().await, Ended::Reset);
}

#[tokio::test]
async fn listeners_come_and_go_and_who_came_by_one_stays() {
    let a = Member::start("a").await;
    let (one, two) = (free_address(), free_address());
    let at = |address: &str| Setup::of(&Pool::of([&a]).listen(address));
    let daemon = Daemon::start(at(&format!("\"{one}\""))).await;
    let mut client = Client::connect(one).await;
    assert_eq!(client.member().await, "a");
    reload(&daemon, &at(&format!("[\"{one}\", \"{two}\"]"))).await;
    assert_eq!(served_by(one).await, "a");
    assert_eq!(served_by(two).await, "a");
    reload(&daemon, &at(&format!("\"{two}\""))).await;
    assert_eq!(served_by(two).await, "a");
    assert!(Client::try_connect(one).await.is_err());
    assert_eq!(client.member().await, "a");
    // The address is free for others, and for the next reload.
    reload(&daemon, &at(&format!("[\"{one}\", \"{two}\"]"))).await;
    assert_eq!(served_by(one).await, "a");
}

#[tokio::test]
async fn verdicts_and_what_operators_decided_stay_as_they_are() {
    let [mut a, b, c] = [
        Member::start("a").await,
        Member::start("b").await,
        Member::start("c").await,
    ];
    let daemon = Daemon::start(Setup::of(&Pool::of([&a, &b, &c]))).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    daemon
        .done(&["drain", "p/b", "--reason", "new kernel"])
        .await;
    let since = daemon.member("a").await.services[0].since;
    let events = daemon.get("/v1/events").await;
    let turned = Pool::of([&c, &b, &a]).key("drain_deadline = \"9m\"");
    reload(&daemon, &Setup::of(&turned)).await;
    let member = daemon.member("a").await;
    assert_eq!(member.services[0].verdict, Verdict::Down);
    assert_eq!(member.services[0].since, since);
    let member = daemon.member("b").await;
    assert_eq!(member.mode, Mode::Drain);
    assert_eq!(
        member.operator.expect("an operator").reason.as_deref(),
        Some("new kernel")
    );
    let told = |events: Option<String>| events.map(|text| text.matches("\"verdict\"").count());
    assert_eq!(told(events), told(daemon.get("/v1/events").await));
    assert_eq!(served_by(daemon.address().await).await, "c");
}

#[tokio::test]
async fn sighup_reloads_too_and_the_events_tell_of_it() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    write(&daemon, &Setup::of(&Pool::of([&b])));
    daemon.signal(Signal::HUP);
    let address = daemon.address().await;
    eventually("b to serve", async || {
        (served_by(address).await == "b").then_some(())
    })
    .await;
    let events = daemon.done(&["events"]).await;
    assert!(
        events.contains("SIGHUP reloaded the configuration"),
        "{events}"
    );
}

#[tokio::test]
async fn what_a_reload_would_do_is_told_before() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let path = daemon.config();
    let path = path.to_str().expect("a path");
    let told = daemon.done(&["validate", "--diff", path]).await;
    assert_eq!(told.trim(), "nothing has changed");
    write(&daemon, &Setup::of(&Pool::of([&a, &b])));
    let told = daemon.done(&["validate", "--diff", path]).await;
    assert!(told.contains("+ member p/b"), "{told}");
    assert_eq!(served_by(daemon.address().await).await, "a");
    let told = daemon.done(&["reload"]).await;
    assert!(told.contains("+ member p/b"), "{told}");
}

#[tokio::test]
async fn another_check_is_asked_at_once_and_nobody_is_turned_away_meanwhile() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]).check(RARE))).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    reload(&daemon, &Setup::of(&Pool::of([&a]).check(HTTP))).await;
    assert_eq!(daemon.member("a").await.services[0].verdict, Verdict::Up);
    assert_eq!(client.member().await, "a");
    eventually("the new question to be asked", async || {
        let why = daemon.get("/v1/why/p/a").await?;
        why.contains("/health").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_was_decided_of_a_member_that_goes_is_told_to_be_forgotten() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let daemon = Daemon::start(Setup::of(&Pool::of([&a, &b]))).await;
    daemon.done(&["drain", "p/b"]).await;
    write(&daemon, &Setup::of(&Pool::of([&a])));
    let path = daemon.config();
    let path = path.to_str().expect("a path");
    for command in [&["validate", "--diff", path][..], &["reload"]] {
        let told = daemon.done(command).await;
        let forgotten = told.lines().filter(|line| line.contains("is forgotten"));
        let forgotten: Vec<&str> = forgotten.collect();
        assert!(
            matches!(forgotten[..], [line] if line.contains("p/b is in drain by ")),
            "{told}"
        );
    }
}
