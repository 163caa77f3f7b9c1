//! Thousands of sessions at once: those that are told to end do, the others are left alone, and
//! neither costs memory that grows.

use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::crowd::{all_served, answering, ended};
use crate::harness::*;
use crate::process::{Process, can_hold};

const MANY: usize = 4_000;
/// What the allocator may keep for itself, or find new places for.
const SLACK: u64 = 2 << 20;

#[tokio::test]
async fn ending_a_members_sessions_touches_no_others_and_costs_no_memory() {
    if !can_hold(2 * MANY as u64 + 500) {
        return;
    }
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a, &b])
        .key("drain_deadline = \"300ms\"")
        .service("balance = \"round-robin\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let process = Process::of(&daemon);
    let mut clients = all_served(daemon.address().await, MANY).await;
    let on_a = daemon.member("a").await.load as usize;
    let before = process.resident();
    daemon.done(&["maintenance", "p/a"]).await;
    eventually("all of a's sessions to end", async || {
        (ended(&clients) == on_a).then_some(())
    })
    .await;
    let grown = process.resident().saturating_sub(before);
    assert!(grown <= SLACK, "{grown} bytes");
    let totals = daemon.totals().await;
    assert_eq!(totals.ended_by_us as usize, on_a);
    assert_eq!(totals.ended as usize, on_a);
    let mut left = without_ended(&mut clients);
    assert_eq!(answering(&mut left).await, MANY - on_a);
    assert_eq!(daemon.totals().await.ended as usize, on_a);
}

#[tokio::test]
async fn idle_sessions_wake_nobody_until_their_time_is_over() {
    const WATCHED: Duration = Duration::from_millis(1_500);
    if !can_hold(2 * MANY as u64 + 500) {
        return;
    }
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).check(RARE).service("idle_timeout = \"10s\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let process = Process::of(&daemon);
    let address = daemon.address().await;
    let mut idle = all_served(address, MANY).await;
    // Sessions have their first full round of sweeps behind them.
    sleep(WATCHED).await;
    let (waits, memory) = (process.waits("worker-"), process.resident());
    sleep(WATCHED).await;
    let waits = process.waits("worker-") - waits;
    assert!(waits < 40, "{waits} waits: more than a few for each sweep");
    let grown = process.resident().saturating_sub(memory);
    assert!(grown <= SLACK, "{grown} bytes");
    let mut busy = idle.split_off(MANY - 100);
    eventually_within(
        Duration::from_secs(20),
        "the idle ones to end",
        async || {
            assert_eq!(answering(&mut busy).await, 100);
            (ended(&idle) == MANY - 100).then_some(())
        },
    )
    .await;
    assert_eq!(daemon.totals().await.ended_idle as usize, MANY - 100);
    let grown = process.resident().saturating_sub(memory);
    assert!(grown <= SLACK, "{grown} bytes");
}

#[tokio::test]
async fn a_stop_keeps_thousands_of_sessions_and_ends_with_the_last() {
    if !can_hold(2 * MANY as u64 + 500) {
        return;
    }
    let a = Member::start("a").await;
    let mut daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let process = Process::of(&daemon);
    let mut clients = all_served(daemon.address().await, MANY).await;
    let (memory, descriptors) = (process.resident(), process.descriptors());
    daemon.signal(Signal::TERM);
    eventually("a closed listener", async || {
        (process.descriptors() < descriptors).then_some(())
    })
    .await;
    assert_eq!(answering(&mut clients).await, MANY);
    let grown = process.resident().saturating_sub(memory);
    assert!(grown <= SLACK, "{grown} bytes");
    drop(clients);
    assert!(daemon.exited().await.success());
}

#[tokio::test]
async fn eight_thousand_sessions_stand_at_once() {
    const MANY: usize = 8_000;
    // Both ends of each session live in this process, apart from the daemon's two.
    if !can_hold(2 * MANY as u64 + 500) {
        return;
    }
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let daemon = Daemon::start(Setup::of(&Pool::of([&a, &b])).workers(2)).await;
    let process = Process::of(&daemon);
    let sessions = daemon.status().await.sessions;
    assert!(sessions.limit >= MANY as u64, "{sessions:?}");
    let mut clients = all_served(daemon.address().await, MANY).await;
    let open = daemon.status().await.sessions.open;
    assert_eq!(open as usize, MANY);
    assert!(process.descriptors() >= 2 * MANY);
    assert_eq!(answering(&mut clients).await, MANY);
    let totals = daemon.totals().await;
    assert_eq!((totals.shed, totals.refused()), (0, 0), "{totals:?}");
    drop(clients);
    daemon.counted("all gone", |t| t.accepted == t.ended).await;
    eventually("their descriptors to be free", async || {
        (process.descriptors() < 200).then_some(())
    })
    .await;
}

fn without_ended(clients: &mut Vec<TcpStream>) -> Vec<TcpStream> {
    let left = clients.extract_if(.., |c| ended(std::slice::from_ref(c)) == 0);
    left.collect()
}

async fn eventually_within(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<()>) {
    let look = async {
        while look().await.is_none() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let seen = tokio::time::timeout(limit, look).await;
    assert!(seen.is_ok(), "{what}: not within {limit:?}");
}
