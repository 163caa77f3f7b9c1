//! Members that die, hang, are busy and return.

use std::time::Duration;

use twinpool::health::Verdict;
use twinpool::pairing::Condition;

use crate::harness::*;

#[tokio::test]
async fn a_dead_members_sessions_are_reset_and_no_new_one_fails() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let daemon = Daemon::start(Setup::of(&Pool::of([&a, &b])).workers(2)).await;
    let address = daemon.address().await;
    let (mut on_a, mut on_b) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let mut client = Client::connect(address).await;
        match client.member().await.as_str() {
            "a" => on_a.push(client),
            _ => on_b.push(client),
        }
    }
    assert!(!on_a.is_empty() && !on_b.is_empty());
    a.die().await;
    for client in &mut on_a {
        assert_eq!(client.ended().await, Ended::Reset);
    }
    // From the first moment, through the verdict and after it.
    let mut served = 0;
    while daemon.member("a").await.services[0].verdict != Verdict::Down || served < 50 {
        assert_eq!(served_by(address).await, "b");
        served += 1;
    }
    for client in &mut on_b {
        assert_eq!(client.member().await, "b");
    }
    let totals = daemon.totals().await;
    assert_eq!(totals.refused(), 0);
}

#[tokio::test]
async fn a_refused_connect_is_retried_on_another_member_before_any_verdict() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a, &b])
        .check(RARE)
        .service("balance = \"round-robin\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    a.die().await;
    for _ in 0..4 {
        assert_eq!(served_by(address).await, "b");
    }
    let totals = daemon.totals().await;
    assert!(totals.retried >= 1, "{totals:?}");
    assert_eq!(totals.refused(), 0);
    let a = daemon.member("a").await;
    assert_eq!(a.services[0].verdict, Verdict::Up);
    assert!(a.connect_failed >= 1, "{a:?}");
}

#[tokio::test]
async fn clients_that_are_refused_bring_the_verdict_forward() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let check = r#"{ kind = "tcp", interval = "60s", timeout = "100ms", in_doubt = "50ms", fall = 3, rise = 2 }"#;
    let pool = Pool::of([&a, &b])
        .check(check)
        .service("balance = \"round-robin\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    assert_eq!(daemon.member("a").await.services[0].verdict, Verdict::Up);
    a.die().await;
    for _ in 0..2 {
        assert_eq!(served_by(address).await, "b");
    }
    daemon.verdict("a", Verdict::Down).await;
}

#[tokio::test]
async fn clients_that_reset_at_once_change_no_verdict() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let daemon = Daemon::start(Setup::of(&Pool::of([&a, &b])).workers(2)).await;
    let address = daemon.address().await;
    let since = daemon.member("a").await.services[0].since;
    for _ in 0..1_000 {
        Client::connect(address).await.reset();
    }
    daemon
        .counted("all of them", |t| t.accepted == 1_000 && t.ended == 1_000)
        .await;
    for name in ["a", "b"] {
        let member = daemon.member(name).await;
        assert_eq!((member.services[0].verdict, member.load), (Verdict::Up, 0));
        assert_eq!(member.connect_failed, 0);
    }
    let now = daemon.member("a").await.services[0].since;
    assert!(now.since(since) < Duration::from_millis(10));
    assert_eq!(daemon.totals().await.refused(), 0);
}

#[tokio::test]
async fn a_connect_that_nobody_answers_is_hedged_on_another_member() {
    let (silent, b) = (Full::start().await, Member::start("b").await);
    let pool = Pool::of([&b])
        .member_named("silent", silent.address(), "")
        .check(RARE)
        .service("balance = \"round-robin\"")
        .service("connect = { hedge = \"100ms\", budget = \"8s\" }");
    let daemon = Daemon::start_unsettled(Setup::of(&pool)).await;
    let address = daemon.address().await;
    for _ in 0..2 {
        assert_eq!(served_by(address).await, "b");
    }
    let totals = daemon.totals().await;
    assert_eq!((totals.hedged, totals.refused()), (1, 0), "{totals:?}");
}

#[tokio::test]
async fn sessions_that_a_dead_listener_left_standing_are_reset_by_its_verdict() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a]).member(&b, "backup = true");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.member().await, "a");
    a.stop_listening().await;
    assert_eq!(client.ended().await, Ended::Reset);
    daemon.counted("ended by us", |t| t.ended_by_us == 1).await;
    assert_eq!(daemon.member("a").await.services[0].verdict, Verdict::Down);
    assert_eq!(served_by(daemon.address().await).await, "b");
}

#[tokio::test]
async fn a_member_that_returns_is_used_again() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a, &b]).service("balance = \"round-robin\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(served_by(address).await, "b");
    a.resume().await;
    daemon.verdict("a", Verdict::Up).await;
    eventually("a session on a", async || {
        (served_by(address).await == "a").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_hung_member_is_found_and_its_sessions_are_reset() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a]).member(&b, "backup = true").check(HTTP);
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    a.hang();
    assert_eq!(client.ended().await, Ended::Reset);
    assert_eq!(served_by(address).await, "b");
    assert_eq!(daemon.member("a").await.services[0].verdict, Verdict::Down);
    a.be_well();
    daemon.verdict("a", Verdict::Up).await;
    assert_eq!(served_by(address).await, "a");
}

#[tokio::test]
async fn a_busy_member_keeps_its_sessions_and_gets_new_ones_only_when_nobody_is_left() {
    let (a, mut b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a]).member(&b, "backup = true").check(HTTP);
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    a.be_busy();
    daemon.verdict("a", Verdict::Busy).await;
    for _ in 0..5 {
        assert_eq!(served_by(address).await, "b");
    }
    assert_eq!(client.member().await, "a");
    b.die().await;
    daemon.verdict("b", Verdict::Down).await;
    assert_eq!(served_by(address).await, "a");
    assert_eq!(client.member().await, "a");
    assert_eq!(daemon.totals().await.ended_by_us, 0);
}

#[tokio::test]
async fn web_traffic_leaves_a_member_whose_required_service_died() {
    // Each member is two servers, at one address.
    let mut a_sip = Member::start("a").await;
    let a_web = Member::start_at("a", a_sip.address().ip(), Speaks::Lines).await;
    let b_sip = Member::start("b").await;
    let b_web = Member::start_at("b", b_sip.address().ip(), Speaks::Lines).await;
    let member = |sip: &Member, web: &Member| {
        let (address, sip, web) = (
            sip.address().ip(),
            sip.address().port(),
            web.address().port(),
        );
        format!(r#"{{ address = "{address}", ports = {{ sip = {sip}, web = {web} }} }}"#)
    };
    let (a, b) = (member(&a_sip, &a_web), member(&b_sip, &b_web));
    let setup = Setup::new().text(&format!(
        r#"
[roles.calls]
primary = "sip"
services.sip = {{ port = 5060, check = {{ kind = "tcp" }} }}
services.web = {{ port = 80, check = {{ kind = "tcp" }} }}
[pools.p]
role = "calls"
quorum = "any"
[pools.p.members]
a = {a}
b = {b}
[pools.p.services.sip]
listen = "127.0.0.1:0"
check = {FAST}
[pools.p.services.web]
listen = "127.0.0.1:0"
requires = ["sip"]
balance = "round-robin"
check = {FAST}
"#
    ));
    let daemon = Daemon::start(setup).await;
    let web = daemon.address_of("p", "web").await;
    let (mut on_a, mut on_b) = (Client::connect(web).await, Client::connect(web).await);
    if on_a.member().await == "b" {
        std::mem::swap(&mut on_a, &mut on_b);
    }
    assert_eq!(
        (on_a.member().await, on_b.member().await),
        ("a".into(), "b".into())
    );
    a_sip.die().await;
    assert_eq!(on_a.ended().await, Ended::Reset);
    for _ in 0..4 {
        assert_eq!(served_by(web).await, "b");
    }
    assert_eq!(on_b.member().await, "b");
    let status = daemon.status().await;
    let pool = status.pool("p").expect("the pool");
    let target = &pool.member("a").expect("the member").services[1];
    assert_eq!(target.requires.as_deref(), Some("sip"));
    assert_eq!(
        (target.verdict, target.own_verdict),
        (Verdict::Down, Verdict::Up)
    );
}

#[tokio::test]
async fn a_lost_pool_refuses_promptly_and_serves_again_when_it_can() {
    let (mut a, mut b) = (Member::start("a").await, Member::start("b").await);
    let daemon = Daemon::start(Setup::of(&Pool::of([&a, &b]))).await;
    let address = daemon.address().await;
    a.die().await;
    b.die().await;
    daemon.verdict("a", Verdict::Down).await;
    daemon.verdict("b", Verdict::Down).await;
    let status = daemon.status().await;
    let pool = status.pool("p").expect("the pool");
    assert_eq!(pool.condition, Condition::Lost);
    assert!(!pool.health.ok && pool.services[0].lost);
    let began = std::time::Instant::now();
    assert_eq!(turned_away(address).await, Ended::Reset);
    // The connect budget is two seconds: it was not spent on waiting.
    assert!(began.elapsed().as_millis() < 1_000);
    daemon
        .counted("a refusal", |t| t.refused_no_member == 1)
        .await;
    b.resume().await;
    daemon.verdict("b", Verdict::Up).await;
    assert_eq!(served_by(address).await, "b");
}
