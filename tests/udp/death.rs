//! Members that die, hang, refuse and return.

use std::time::Duration;

use twinpool::health::Verdict;

use crate::caller::*;
use crate::echo::*;
use crate::harness::*;
use crate::watching::udp_totals;

/// Waits until the workers have ended these flows, and no others: they hear of a verdict some moments
/// after it can be read. How many these are.
async fn all_ended(daemon: &Daemon, flows: &[(Caller, Answer)]) -> u64 {
    let count = flows.len() as u64;
    daemon
        .counted("the flows' ends", |t| t.ended_by_us == count)
        .await;
    count
}

#[tokio::test]
async fn a_dead_members_flows_move_at_once_and_each_clients_next_datagram_is_answered() {
    let (mut a, b) = (Echo::start("a").await, Echo::start("b").await);
    let daemon = Daemon::start(Setup::of(&pool_of([&a, &b])).workers(2)).await;
    let (mut on_a, mut on_b) = callers_of("a", daemon.address().await).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    let moved = all_ended(&daemon, &on_a).await;
    for (caller, _) in &mut on_a {
        assert_eq!(caller.ask().await.member, "b");
    }
    // Those of others are the same flows as before.
    for (caller, before) in &mut on_b {
        let after = caller.ask().await;
        assert_eq!((after.member.as_str(), after.port), ("b", before.port));
    }
    assert_eq!(daemon.totals().await.ended_by_us, moved, "and no others");
    assert_eq!(udp_totals(&daemon).await.moved, moved);
    assert_eq!(daemon.member("a").await.load, 0);
    a.resume().await;
    daemon.verdict("a", Verdict::Up).await;
    for (caller, _) in &mut on_a {
        assert_eq!(caller.ask().await.member, "b", "a flow stays where it is");
    }
}

#[tokio::test]
async fn hundreds_of_a_dead_members_flows_move_each_at_its_clients_next_datagram() {
    const MANY: usize = 600;
    let descriptors = twinpool::proxy::raise_descriptor_limit();
    if descriptors < 4 * MANY as u64 {
        eprintln!("skipped: the hard limit on descriptors is {descriptors} (`ulimit -Hn`)");
        return;
    }
    let mut members = [Echo::start("a").await, Echo::start("b").await];
    let daemon = Daemon::start(Setup::of(&pool_of(&members))).await;
    let service = daemon.address().await;
    // All come from one address, and so to one member.
    let mut callers = Vec::new();
    for _ in 0..MANY {
        let mut caller = Caller::new(service).await;
        let answer = caller.ask().await;
        callers.push((caller, answer));
    }
    let its = callers[0].1.member.clone();
    assert!(callers.iter().all(|(_, answer)| answer.member == its));
    let dying = members.iter_mut().find(|member| member.name() == its);
    dying.expect("the member that answered").die().await;
    daemon
        .counted("the first ends", |t| t.ended_by_us > 0)
        .await;
    // The last that came is the last to be ended.
    for (caller, _) in callers.iter_mut().rev() {
        assert_ne!(caller.ask().await.member, its);
    }
    let totals = daemon.totals().await;
    assert_eq!(totals.ended_by_us, MANY as u64, "{totals:?}");
    assert_eq!(udp_totals(&daemon).await.moved, MANY as u64);
    assert_eq!(daemon.member(&its).await.load, 0);
}

#[tokio::test]
async fn a_hung_member_is_found_by_stun_and_its_flows_move() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let daemon = Daemon::start(Setup::of(&pool_of([&a, &b]))).await;
    let (mut on_a, _on_b) = callers_of("a", daemon.address().await).await;
    a.hang(true);
    daemon.verdict("a", Verdict::Down).await;
    all_ended(&daemon, &on_a).await;
    for (caller, _) in &mut on_a {
        assert_eq!(caller.ask().await.member, "b");
    }
    a.hang(false);
    daemon.verdict("a", Verdict::Up).await;
    let service = daemon.address().await;
    for (caller, _) in &on_a {
        let mut fresh = Caller::from(caller.source(), service).await;
        assert_eq!(fresh.ask().await.member, "a");
    }
}

#[tokio::test]
async fn a_stun_check_asks_again_within_its_timeout_and_takes_a_refusal_for_life() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    a.lose_first_bindings();
    b.refuse_bindings();
    let check = r#"{ kind = "stun", interval = "400ms", timeout = "390ms", fall = 1, rise = 1 }"#;
    let daemon = Daemon::start(Setup::of(&pool_of([&a, &b]).check(check))).await;
    eventually("several checks of each", async || {
        (a.bindings() >= 8 && b.bindings() >= 4).then_some(())
    })
    .await;
    for name in ["a", "b"] {
        let member = daemon.member(name).await;
        assert_eq!(member.services[0].verdict, Verdict::Up, "{member:?}");
    }
}

#[tokio::test]
async fn a_flow_that_was_never_answered_moves_on_with_the_datagram_in_hand() {
    let (mut a, b) = (Echo::start("a").await, Echo::start("b").await);
    let pool = pool_of([&a, &b]).check(RARE_STUN);
    let daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let service = daemon.address().await;
    let (on_a, _) = callers_of("a", service).await;
    a.die().await;
    // Who is sent to `a` by its address sends one datagram, and that is answered.
    for (caller, _) in &on_a {
        let source = caller.source();
        let mut fresh = Caller::from(source, service).await;
        assert_eq!(fresh.ask().await.member, "b");
        assert_eq!(fresh.ask().await.member, "b");
    }
    let a = daemon.member("a").await;
    assert_eq!(a.services[0].verdict, Verdict::Up);
    // It is blamed once a tick, however many flows it refuses.
    assert!(a.connect_failed > 0, "{a:?}");
}

#[tokio::test]
async fn refusals_bring_the_verdict_forward_and_one_probe_confirms_it() {
    let (mut a, b) = (Echo::start("a").await, Echo::start("b").await);
    let check = r#"{ kind = "stun", interval = "60s", timeout = "300ms", in_doubt = "50ms", fall = 3, rise = 2 }"#;
    let daemon = Daemon::start(Setup::of(&pool_of([&a, &b]).check(check))).await;
    let (mut on_a, _) = callers_of("a", daemon.address().await).await;
    a.die().await;
    // Flows that were answered stay until the verdict; what they send is lost, and is evidence.
    eventually("the verdict", async || {
        for (caller, _) in &on_a {
            caller.send(b"quiet").await;
        }
        let member = daemon.member("a").await;
        (member.services[0].verdict == Verdict::Down).then_some(())
    })
    .await;
    all_ended(&daemon, &on_a).await;
    for (caller, _) in &mut on_a {
        assert_eq!(caller.ask().await.member, "b");
    }
}

#[tokio::test]
async fn a_flood_of_refusals_changes_no_verdict_while_probes_are_answered() {
    // The check asks elsewhere, and is answered there: all that is heard of the closed port comes
    // as anybody could have forged it.
    let (mut a, b) = (Echo::start("a").await, Echo::start("b").await);
    let well = Member::start_at("a", a.address().ip(), Speaks::Lines).await;
    let port = well.address().port();
    let beside = Member::start_on("b", (b.address().ip(), port).into()).await;
    let check = format!(
        r#"{{ kind = "tcp", port = {port}, interval = "100ms", timeout = "1s", in_doubt = "50ms", fall = 3, rise = 2 }}"#
    );
    let daemon = Daemon::start(Setup::of(&pool_of([&a, &b]).check(&check)).workers(2)).await;
    let service = daemon.address().await;
    let since = daemon.member("a").await.services[0].since;
    a.die().await;
    for _ in 0..20 {
        for source in sources(24) {
            let mut caller = Caller::from(source, service).await;
            assert_eq!(caller.ask().await.member, "b");
        }
    }
    let member = daemon.member("a").await;
    assert_eq!(member.services[0].verdict, Verdict::Up);
    assert!(member.services[0].since.since(since) < Duration::from_millis(10));
    assert!(member.connect_failed > 0, "{member:?}");
    drop(beside);
}

#[tokio::test]
async fn a_service_over_udp_may_be_checked_over_tcp_on_another_port() {
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let mut a_tcp = Member::start_at("a", a.address().ip(), Speaks::Lines).await;
    let port = a_tcp.address().port();
    let _b_tcp = Member::start_on("b", (b.address().ip(), port).into()).await;
    let check = format!(
        r#"{{ kind = "tcp", port = {port}, interval = "100ms", timeout = "100ms", in_doubt = "50ms", fall = 3, rise = 2 }}"#
    );
    let daemon = Daemon::start(Setup::of(&pool_of([&a, &b]).check(&check))).await;
    let (mut on_a, mut on_b) = callers_of("a", daemon.address().await).await;
    a_tcp.die().await;
    daemon.verdict("a", Verdict::Down).await;
    all_ended(&daemon, &on_a).await;
    for (caller, _) in on_a.iter_mut().chain(&mut on_b) {
        assert_eq!(caller.ask().await.member, "b");
    }
}

#[tokio::test]
async fn datagrams_that_no_member_takes_are_dropped_and_flows_begin_when_one_returns() {
    let mut a = Echo::start("a").await;
    let daemon = Daemon::start(Setup::of(&pool_of([&a]))).await;
    let mut caller = Caller::new(daemon.address().await).await;
    assert_eq!(caller.ask().await.member, "a");
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(caller.try_ask(MOMENT).await, None);
    daemon
        .counted("a refusal", |t| t.refused_no_member >= 1)
        .await;
    a.resume().await;
    daemon.verdict("a", Verdict::Up).await;
    assert_eq!(caller.ask().await.member, "a");
}
