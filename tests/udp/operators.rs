//! Drain, maintenance and ready.

use std::time::{Duration, Instant};

use crate::caller::*;
use crate::echo::*;
use crate::harness::*;

#[tokio::test]
async fn a_drained_member_keeps_its_flows_to_the_deadline_and_gets_no_new_ones() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let deadline = format!("drain_deadline = \"{}s\"", DEADLINE.as_secs());
    let pool = pool_of([&a, &b]).key(&deadline);
    let daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let service = daemon.address().await;
    let (mut on_a, mut on_b) = callers_of("a", service).await;
    let ordered = Instant::now();
    daemon.done(&["drain", "p/a"]).await;
    for source in sources(24) {
        let mut fresh = Caller::from(source, service).await;
        assert_eq!(fresh.ask().await.member, "b");
    }
    eventually("all its flows to move", async || {
        let mut moved = 0;
        for (caller, before) in &mut on_a {
            let answer = caller.ask_while_moved().await;
            if (answer.member.as_str(), answer.port) != ("a", before.port) {
                assert!(ordered.elapsed() >= DEADLINE, "{before:?}, then {answer:?}");
                assert_eq!(answer.member, "b");
                moved += 1;
            }
        }
        (moved == on_a.len()).then_some(())
    })
    .await;
    for (caller, before) in &mut on_b {
        assert_eq!(caller.ask().await.port, before.port);
    }
    assert_eq!(daemon.member("a").await.load, 0);
}

#[tokio::test]
async fn maintenance_moves_flows_at_the_deadline_and_ready_lets_new_ones_come() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let pool = pool_of([&a, &b]).key("drain_deadline = \"300ms\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let service = daemon.address().await;
    let (mut on_a, _) = callers_of("a", service).await;
    daemon.done(&["maintenance", "p/a"]).await;
    for (caller, _) in &mut on_a {
        eventually("another member", async || {
            (caller.ask_while_moved().await.member == "b").then_some(())
        })
        .await;
    }
    daemon.done(&["ready", "p/a"]).await;
    for (caller, _) in &mut on_a {
        assert_eq!(caller.ask().await.member, "b");
        let mut fresh = Caller::from(caller.source(), service).await;
        assert_eq!(fresh.ask().await.member, "a");
    }
}
