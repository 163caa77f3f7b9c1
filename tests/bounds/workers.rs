//! How many workers there are, and what reaches the sessions of all of them.

use std::process::Command;
use std::thread::available_parallelism;

use twinpool::observe::Status;

use crate::crowd::{all_served, answering, ended};
use crate::harness::*;
use crate::process::Process;

/// Sessions, so many that none of two workers is left without: each falls to either by a hash of
/// its addresses.
const MANY: usize = 64;

#[tokio::test]
async fn there_is_a_worker_for_each_core_that_it_may_run_on() {
    if !has_taskset() {
        return;
    }
    let a = Member::start("a").await;
    let setup = || Setup::of(&Pool::of([&a])).default_workers();
    let cores = available_parallelism().expect("a number of cores").get();
    for (setup, workers) in [(setup(), cores), (setup().on_cores("0"), 1)] {
        let daemon = Daemon::start(setup).await;
        assert_eq!(daemon.status().await.workers, workers as u64);
        assert_eq!(Process::of(&daemon).threads("worker-"), workers);
    }
}

#[tokio::test]
async fn as_many_workers_as_were_asked_for_share_what_comes() {
    let a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).workers(2);
    let daemon = Daemon::start(setup).await;
    assert_eq!(daemon.status().await.workers, 2);
    let process = Process::of(&daemon);
    assert_eq!(process.threads("worker-"), 2);
    let before = [process.waits("worker-0"), process.waits("worker-1")];
    let mut clients = all_served(daemon.address().await, MANY).await;
    for _ in 0..4 {
        assert_eq!(answering(&mut clients).await, MANY);
    }
    for (name, before) in ["worker-0", "worker-1"].into_iter().zip(before) {
        // One wait or more for a request that came alone: an idle worker's few sweeps are fewer.
        let waited = process.waits(name) - before;
        assert!(
            waited > MANY as u64,
            "{name} carried next to nothing: {waited}"
        );
    }
}

#[tokio::test]
async fn an_operators_deadline_ends_the_sessions_of_every_worker() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a, &b])
        .key("drain_deadline = \"300ms\"")
        .service("balance = \"round-robin\"");
    let daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let clients = all_served(daemon.address().await, 2 * MANY).await;
    let on_a = daemon.member("a").await.load as usize;
    assert!((1..2 * MANY).contains(&on_a), "{on_a} on a");
    daemon.done(&["maintenance", "p/a"]).await;
    eventually("all of a's sessions to end", async || {
        (ended(&clients) == on_a).then_some(())
    })
    .await;
    assert_eq!(daemon.totals().await.ended_by_us as usize, on_a);
    let mut left: Vec<_> = clients
        .into_iter()
        .filter(|c| ended(std::slice::from_ref(c)) == 0)
        .collect();
    assert_eq!(answering(&mut left).await, 2 * MANY - on_a);
}

#[tokio::test]
async fn the_death_of_a_member_ends_its_sessions_on_every_worker() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a, &b]).service("balance = \"round-robin\"");
    let daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let clients = all_served(daemon.address().await, 2 * MANY).await;
    let on_a = daemon.member("a").await.load as usize;
    // Its connections stand: only the verdict ends them.
    a.stop_listening().await;
    eventually("all of a's sessions to end", async || {
        (ended(&clients) == on_a).then_some(())
    })
    .await;
    assert_eq!(daemon.totals().await.ended_by_us as usize, on_a);
}

#[tokio::test]
async fn a_failover_reaches_the_sessions_of_every_worker() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let setup = Setup::new()
        .workers(2)
        .text("[sites.seoul]\nregion = \"north\"\n[sites.busan]\nregion = \"south\"")
        .pool(&Pool::of([&a]).key("site = \"seoul\""))
        .pool(&Pool::of([&b]).named("q").key("site = \"busan\""))
        .text("[pairs.korea]\npools = [\"p\", \"q\"]\nmove_rate = 1000");
    let daemon = Daemon::start(setup).await;
    let address = daemon.address().await;
    let clients = all_served(address, MANY).await;
    daemon.done(&["failover", "p", "--now"]).await;
    eventually("all of them to be moved", async || {
        (ended(&clients) == MANY).then_some(())
    })
    .await;
    // A listener of each worker took some of these, and both follow the same table.
    let mut clients = all_served(address, MANY).await;
    assert_eq!(answering(&mut clients).await, MANY);
    assert_eq!(daemon.member("a").await.load, 0);
    let status = daemon.status().await;
    let at_twin = status
        .pool("q")
        .expect("the twin")
        .member("b")
        .expect("b")
        .load;
    assert_eq!(at_twin as usize, MANY);
}

#[tokio::test]
async fn a_stop_closes_the_listeners_of_every_worker_and_waits_for_sessions_of_all() {
    let a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).workers(2);
    let mut daemon = Daemon::start(setup).await;
    let address = daemon.address().await;
    let mut clients = all_served(address, MANY).await;
    daemon.signal(rustix::process::Signal::TERM);
    eventually("closed listeners", async || {
        // As many tries as leave no doubt that neither worker listens.
        for _ in 0..16 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert_eq!(answering(&mut clients).await, MANY);
    drop(clients);
    assert!(daemon.exited().await.success());
}

fn has_taskset() -> bool {
    let found = Command::new("taskset").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no `taskset` here");
    }
    found
}

/// The status is what people see of it.
#[tokio::test]
async fn the_number_of_workers_is_shown() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a])).workers(3)).await;
    let shown = daemon.done(&["status", "--json"]).await;
    let status: Status = serde_json::from_str(&shown).expect("a status");
    assert_eq!(status.workers, 3);
    let page = daemon.done(&["status"]).await;
    assert!(page.contains("3 workers"), "{page}");
}
