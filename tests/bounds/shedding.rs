//! What happens when there is more than there may be: it is shed and counted, nothing spins or
//! stops, who stood goes on, and once there is room everybody is served again.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use twinpool::health::Verdict;
use twinpool::observe::Status;

use crate::crowd::{all_served, answering, come, reset, send_and_receive, served, silent};
use crate::harness::*;
use crate::process::{Process, can_hold};

/// A spinning thread would use all of what a look takes; a resting one next to nothing.
const LOOK: Duration = Duration::from_secs(2);
const MOST_BUSY: Duration = Duration::from_millis(400);
/// How long a page may take that is asked for in the middle of it.
const PAGE: Duration = Duration::from_secs(4);

#[tokio::test]
async fn beyond_max_sessions_all_are_shed_and_counted_and_those_that_stand_go_on() {
    if !can_hold(4_000) {
        return;
    }
    let a = Member::start("a").await;
    let observe = free_address();
    let setup = Setup::of(&Pool::of([&a]))
        .observe(observe)
        .instance("max_sessions = 100")
        .descriptors(2_048);
    let daemon = Daemon::start(setup).await;
    let address = daemon.address().await;
    let mut standing = all_served(address, 100).await;
    let came = served(come(address, 2_000, PATIENCE).await);
    assert_eq!(came.len(), 0, "served beyond the limit");
    let status = pages(&daemon, observe).await;
    assert_eq!(status.own_faults.descriptors, 0, "{:?}", status.own_faults);
    daemon.counted("all of them", |t| t.shed == 2_000).await;
    assert_eq!(answering(&mut standing).await, 100);
    let sessions = daemon.status().await.sessions;
    assert_eq!((sessions.open, sessions.limit), (100, 100));
    // Half of them leave, and half as many are served.
    standing.truncate(50);
    daemon
        .counted("fifty ends", |t| t.accepted - t.ended == 50)
        .await;
    let mut again = all_served(address, 50).await;
    assert_eq!(
        answering(&mut standing).await + answering(&mut again).await,
        100
    );
}

#[tokio::test]
async fn more_sessions_than_descriptors_leave_are_never_promised() {
    if !can_hold(4_000) {
        return;
    }
    let a = Member::start("a").await;
    let observe = free_address();
    let setup = Setup::of(&Pool::of([&a]))
        .observe(observe)
        .instance("max_sessions = 5_000")
        .descriptors(1_024);
    let daemon = Daemon::start(setup).await;
    let process = Process::of(&daemon);
    let address = daemon.address().await;
    let limit = daemon.status().await.sessions.limit as usize;
    assert!((50..512).contains(&limit), "{limit} sessions");
    let mut standing = served(come(address, 3_000, PATIENCE).await);
    assert_eq!(standing.len(), limit);
    let status = pages(&daemon, observe).await;
    assert_eq!(status.own_faults.descriptors, 0, "it met no limit");
    let totals = daemon.totals().await;
    assert_eq!(totals.shed as usize, 3_000 - limit, "{totals:?}");
    assert!(process.descriptors() < 900, "{}", process.descriptors());
    assert_eq!(answering(&mut standing).await, limit);
    drop(standing);
    daemon.counted("all gone", |t| t.accepted == t.ended).await;
    all_served(address, limit).await;
}

#[tokio::test]
async fn pipes_checks_and_floods_that_take_a_tiny_limit_leave_pages_to_be_read() {
    const TINY: u32 = 96;
    let a = Member::start_as("a", Speaks::Raw).await;
    let observe = free_address();
    let setup = Setup::of(&Pool::of([&a]))
        .observe(observe)
        .descriptors(TINY);
    let daemon = Daemon::start(setup).await;
    let address = daemon.address().await;
    let limit = daemon.status().await.sessions.limit as usize;
    assert!((4..TINY as usize / 2).contains(&limit), "{limit} sessions");
    let mut standing = all_served(address, limit).await;
    // Bulk in both directions of all of them: two pipes each, as far as there are descriptors.
    let mut bulk = JoinSet::new();
    for stream in standing.drain(..) {
        bulk.spawn(send_and_receive(stream, 4 << 20));
    }
    let came = served(come(address, 500, PATIENCE).await);
    pages(&daemon, observe).await;
    let carried = within("what was sent", bulk.join_all()).await;
    assert_eq!(carried, vec![4 << 20; limit]);
    drop(came);
    daemon.counted("all gone", |t| t.accepted == t.ended).await;
    all_served(address, limit).await;
}

/// Whatever took them: the whole system may have none left, and then no limit of our own helps.
#[tokio::test]
async fn without_any_descriptor_left_it_rests_answers_and_recovers() {
    if !can_hold(8_000) {
        return;
    }
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let observe = free_address();
    // Who finds no place waits, and holds a descriptor meanwhile: what is taken stays taken.
    let pool = Pool::of([])
        .member(&a, "max_connections = 25")
        .member(&b, "max_connections = 25")
        .key("queue = { limit = 1024, timeout = \"10m\" }")
        .check(RARE);
    let setup = Setup::of(&pool).observe(observe).workers(2);
    let daemon = Daemon::start(setup).await;
    let process = Process::of(&daemon);
    let address = daemon.address().await;
    let mut standing = all_served(address, 50).await;

    let full = limited(&daemon, Some(process.descriptors() as u64 + 100));
    // Thousands that the kernel accepts for it, up to what its backlog holds.
    let waiting = silent(address, 3_000).await;
    eventually("no descriptor to be left", async || {
        let status = daemon.try_status().await?;
        (status.own_faults.descriptors > 0).then_some(())
    })
    .await;
    let (before, faults) = (process.processor_time(), faults(&daemon).await);
    sleep(LOOK).await;
    let busy = process.processor_time() - before;
    assert!(busy < MOST_BUSY, "busy for {busy:?} of {LOOK:?}");
    let met = self::faults(&daemon).await - faults;
    assert!((1..400).contains(&met), "{met} times in {LOOK:?}");
    pages(&daemon, observe).await;
    assert_eq!(answering(&mut standing).await, 50);
    assert_eq!(daemon.totals().await.ended, 0, "nobody was turned away");

    limited(&daemon, full);
    reset(waiting);
    daemon
        .counted("all of them gone", |t| t.accepted - t.ended == 50)
        .await;
    assert_eq!(answering(&mut standing).await, 50);
    drop(standing);
    let mut new = all_served(address, 50).await;
    assert_eq!(answering(&mut new).await, 50);
    for name in ["a", "b"] {
        let target = &daemon.member(name).await.services[0];
        assert_eq!(target.verdict, Verdict::Up, "{name} was blamed");
    }
}

#[tokio::test]
async fn thousands_that_come_and_stay_silent_cost_bounded_memory() {
    const MANY: usize = 4_000;
    /// Come at once: below every backlog, twinpool's and the member's, however late they accept.
    const STEP: usize = 500;
    /// Measured: 6 KiB in a debug build.
    const EACH: u64 = 12 << 10;
    if !can_hold(2 * MANY as u64 + 500) {
        return;
    }
    let a = Member::start("a").await;
    // The member lives here: a check that it answers late would end what is counted.
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]).check(RARE))).await;
    let process = Process::of(&daemon);
    let address = daemon.address().await;
    drop(all_served(address, 100).await);
    daemon.counted("them gone", |t| t.accepted == t.ended).await;
    let mut most = 0;
    let before = process.resident();
    for _ in 0..2 {
        let mut all = Vec::with_capacity(MANY);
        let stood = daemon.totals().await.established;
        while all.len() < MANY {
            all.extend(silent(address, STEP).await);
            let count = all.len() as u64;
            daemon
                .counted("all of them at the member", |t| {
                    t.established - stood == count && t.accepted - t.ended == count
                })
                .await;
        }
        most = most.max(process.resident());
        drop(all);
        daemon.counted("all gone", |t| t.accepted == t.ended).await;
    }
    let each = most.saturating_sub(before) / MANY as u64;
    eprintln!("{each} bytes for each of {MANY} silent connections");
    assert!(each <= EACH, "{each} bytes for each");
}

/// What it says of itself, asked in every way that there is, in time.
async fn pages(daemon: &Daemon, observe: std::net::SocketAddr) -> Status {
    for path in ["/metrics", "/healthz", "/readyz", "/v1/status"] {
        let page = timeout(PAGE, http(observe, path)).await;
        let (code, body) = page.unwrap_or_else(|_| panic!("no {path} within {PAGE:?}"));
        assert_eq!(code, 200, "{path}: {body}");
    }
    let status = timeout(PAGE, daemon.try_status()).await;
    status
        .unwrap_or_else(|_| panic!("no status on the control socket within {PAGE:?}"))
        .expect("a status")
}

async fn faults(daemon: &Daemon) -> u64 {
    daemon.status().await.own_faults.descriptors
}

/// Limits the daemon's descriptors from outside; what was in force before.
fn limited(daemon: &Daemon, to: Option<u64>) -> Option<u64> {
    let own = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: to,
        // Who lowered it could not raise it again.
        maximum: own.maximum,
    };
    let before = prlimit(Some(daemon.pid()), Resource::Nofile, limit);
    before.expect("a limit").current
}
