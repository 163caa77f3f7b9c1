//! The bounded table of flows.

use crate::caller::*;
use crate::echo::*;
use crate::harness::*;
use crate::watching::udp_totals;

#[tokio::test]
async fn a_flood_of_new_clients_takes_no_place_of_a_flow_that_was_proven() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let setup = Setup::of(&pool_of([&a, &b])).instance("max_flows = 16");
    let daemon = Daemon::start(setup).await;
    let service = daemon.address().await;
    let mut proven = callers(service, 8).await;
    // Each is answered, and none sends again.
    for _ in 0..200 {
        Caller::new(service).await.ask().await;
    }
    for (caller, before) in &mut proven {
        assert_eq!(caller.ask().await, before_asked(before, 3));
    }
    assert_eq!(udp_totals(&daemon).await.evicted, 200 - 8);
    assert_eq!(udp_totals(&daemon).await.dropped_table_full, 0);
    let open: u64 = [daemon.member("a").await.load, daemon.member("b").await.load]
        .iter()
        .sum();
    assert_eq!(open, 16);
}

#[tokio::test]
async fn a_table_full_of_flows_that_move_takes_no_new_one_and_says_so() {
    let a = Echo::start("a").await;
    let setup = Setup::of(&pool_of([&a])).instance("max_flows = 8");
    let daemon = Daemon::start(setup).await;
    let service = daemon.address().await;
    let mut proven = callers(service, 8).await;
    let mut late = Caller::new(service).await;
    assert_eq!(late.try_ask(MOMENT).await, None);
    assert_eq!(udp_totals(&daemon).await.dropped_table_full, 1);
    assert_eq!(udp_totals(&daemon).await.evicted, 0);
    for (caller, before) in &mut proven {
        assert_eq!(caller.ask().await, before_asked(before, 3));
    }
    eventually("a page that says so", async || {
        let page = daemon.done(&["status"]).await;
        page.contains("max_flows").then_some(())
    })
    .await;
}

#[tokio::test]
async fn more_clients_than_descriptors_leave_room_for_harm_nobody() {
    let a = Echo::start("a").await;
    let setup = Setup::of(&pool_of([&a])).workers(2).descriptors(256);
    let daemon = Daemon::start(setup).await;
    let service = daemon.address().await;
    let mut proven = callers(service, 4).await;
    for _ in 0..600 {
        Caller::new(service).await.ask().await;
    }
    for (caller, before) in &mut proven {
        assert_eq!(caller.ask().await, before_asked(before, 3));
    }
    assert_eq!(daemon.status().await.own_faults.descriptors, 0);
    assert!(udp_totals(&daemon).await.evicted > 0);
}

/// The answer to a client's n-th question in the same flow as before.
fn before_asked(before: &Answer, n: u32) -> Answer {
    Answer {
        body: format!("question {n}").into_bytes(),
        ..before.clone()
    }
}
