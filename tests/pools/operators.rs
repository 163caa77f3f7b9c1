//! Drain, maintenance and ready.

use std::time::{Duration, Instant};

use twinpool::health::readiness::Mode;

use crate::harness::*;

#[tokio::test]
async fn a_drained_member_keeps_its_sessions_and_gets_no_new_ones() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a]).member(&b, "backup = true");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    daemon
        .done(&["drain", "p/a", "--reason", "new kernel"])
        .await;
    for _ in 0..5 {
        assert_eq!(served_by(address).await, "b");
    }
    assert_eq!(client.member().await, "a");
    let member = daemon.member("a").await;
    assert_eq!(member.mode, Mode::Drain);
    let operator = member.operator.expect("an operator");
    assert_eq!(operator.reason.as_deref(), Some("new kernel"));
    let page = daemon.done(&["status"]).await;
    assert!(page.contains("new kernel"), "{page}");
}

#[tokio::test]
async fn a_drained_members_sessions_are_reset_at_the_deadline_and_not_before() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a])
        .member(&b, "backup = true")
        .key("drain_deadline = \"1s\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.member().await, "a");
    let began = Instant::now();
    daemon.done(&["drain", "p/a"]).await;
    assert_eq!(client.ended().await, Ended::Reset);
    assert!(began.elapsed() >= Duration::from_secs(1));
    daemon.counted("ended by us", |t| t.ended_by_us == 1).await;
}

#[tokio::test]
async fn ready_brings_a_drained_member_back() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a])
        .member(&b, "backup = true")
        .key("drain_deadline = \"500ms\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    daemon.done(&["drain", "p/a"]).await;
    assert_eq!(served_by(address).await, "b");
    daemon.done(&["ready", "p/a"]).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    assert_eq!(daemon.member("a").await.mode, Mode::Ready);
    // The deadline of a drain that is over ends nothing.
    let until = Instant::now() + Duration::from_millis(800);
    while Instant::now() < until {
        assert_eq!(client.member().await, "a");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn maintenance_that_would_lose_the_pool_is_refused_without_force() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a, &b]).quorum("2");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let refused = daemon.command(&["maintenance", "p/a"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for word in ["p/a", "lose p", "--force"] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
    assert_eq!(daemon.member("a").await.mode, Mode::Ready);
    daemon.done(&["maintenance", "p/a", "--force"]).await;
    assert_eq!(daemon.member("a").await.mode, Mode::Maintenance);
}

#[tokio::test]
async fn maintenance_within_quorum_ends_sessions_at_the_deadline() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a])
        .member(&b, "backup = true")
        .key("drain_deadline = \"300ms\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.member().await, "a");
    daemon.done(&["maintenance", "p/a"]).await;
    assert_eq!(client.ended().await, Ended::Reset);
    assert_eq!(served_by(daemon.address().await).await, "b");
}

#[tokio::test]
async fn a_drain_and_its_reason_survive_kill_9() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a]).member(&b, "backup = true");
    let mut daemon = Daemon::start(Setup::of(&pool)).await;
    daemon
        .done(&["drain", "p/a", "--reason", "new kernel", "--for", "2h"])
        .await;
    let before = daemon.member("a").await.operator.expect("an operator");
    daemon.kill().await;
    daemon.start_again().await;
    let member = daemon.member("a").await;
    let after = member.operator.expect("an operator");
    assert_eq!(member.mode, Mode::Drain);
    assert_eq!(after.reason.as_deref(), Some("new kernel"));
    assert_eq!(after.by, before.by);
    let drift = |one: Option<twinpool::observe::Stamp>, other: Option<_>| {
        let (one, other) = (one.expect("a moment"), other.expect("a moment"));
        one.since(other).max(other.since(one))
    };
    assert!(drift(before.until, after.until) < Duration::from_secs(1));
    assert!(drift(before.deadline, after.deadline) < Duration::from_secs(1));
    assert!(drift(Some(before.since), Some(after.since)) < Duration::from_secs(1));
    assert_eq!(served_by(daemon.address().await).await, "b");
}

#[tokio::test]
async fn a_drain_for_a_while_lapses() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a]).member(&b, "backup = true");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    daemon.done(&["drain", "p/a", "--for", "2s"]).await;
    assert_eq!(served_by(address).await, "b");
    eventually("the drain to lapse", async || {
        (daemon.member("a").await.mode == Mode::Ready).then_some(())
    })
    .await;
    assert_eq!(served_by(address).await, "a");
}

#[tokio::test]
async fn commands_about_nobody_are_refused_with_what_there_is() {
    let a = Member::start("alpha").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let unknown = daemon.command(&["drain", "p/alhpa"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("alpha"), "{unknown:?}");
    let unitless = daemon.command(&["drain", "p/alpha", "--for", "5"]).await;
    assert_eq!(unitless.code, Some(2), "{unitless:?}");
    assert_eq!(daemon.member("alpha").await.mode, Mode::Ready);
}
