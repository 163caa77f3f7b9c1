//! Starting on an address that is taken, and stopping.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use twinpool::observe::RunState;

use crate::caller::*;
use crate::echo::*;
use crate::harness::*;

async fn draining(daemon: &Daemon) {
    eventually("the drain", async || {
        (daemon.status().await.state == RunState::Draining).then_some(())
    })
    .await;
}

#[tokio::test]
async fn told_to_stop_it_keeps_its_flows_begins_none_and_exits_when_they_end() {
    let a = Echo::start("a").await;
    // Long enough that no stall of the machine makes a flow idle that is asked all the time.
    let pool = pool_of([&a]).service("idle_timeout = \"4s\"");
    let mut daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let service = daemon.address().await;
    let mut callers = callers(service, 12).await;
    daemon.signal(Signal::TERM);
    draining(&daemon).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        for (caller, before) in &mut callers {
            assert_eq!(caller.ask().await.port, before.port);
        }
    }
    let mut fresh = Caller::new(service).await;
    assert_eq!(fresh.try_ask(MOMENT).await, None);
    assert_eq!(daemon.exited().await.code(), Some(0), "{}", daemon.log());
    assert!(began.elapsed() >= Duration::from_secs(4));
}

#[tokio::test]
async fn a_worker_without_flows_left_takes_none_from_another_that_drains() {
    // The kernel spreads clients over the workers' sockets by their number: one socket less, and
    // each client may come to another worker. Of four workers one at least has none of three flows.
    let a = Echo::start("a").await;
    let daemon = Daemon::start(Setup::of(&pool_of([&a])).workers(4)).await;
    let service = daemon.address().await;
    let mut callers = callers(service, 3).await;
    daemon.signal(Signal::TERM);
    draining(&daemon).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        for (caller, before) in &mut callers {
            assert_eq!(caller.ask().await.port, before.port);
        }
    }
}

#[tokio::test]
async fn told_to_stop_it_forgets_what_is_left_at_the_deadline() {
    let a = Echo::start("a").await;
    let setup = Setup::of(&pool_of([&a])).instance("stop_deadline = \"3s\"");
    let mut daemon = Daemon::start(setup).await;
    let mut caller = Caller::new(daemon.address().await).await;
    caller.ask().await;
    let told = Instant::now();
    daemon.signal(Signal::TERM);
    draining(&daemon).await;
    assert_eq!(caller.ask().await.member, "a");
    assert_eq!(daemon.exited().await.code(), Some(0), "{}", daemon.log());
    assert!(told.elapsed() >= Duration::from_secs(3));
    assert_eq!(caller.try_ask(MOMENT).await, None);
}

#[tokio::test]
async fn ports_in_use_are_refused_by_name_and_not_shared_with_another_daemon() {
    let a = Echo::start("a").await;
    let holder = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("its number");
    let daemon = Daemon::start(Setup::of(&pool_of([&a])).workers(2)).await;
    for taken in [taken, daemon.address().await] {
        let pool = pool_of([&a]).listen(&format!("\"{taken}\""));
        let dir = Scratch::new();
        let config = dir.write("twinpool.toml", &Setup::of(&pool).toml(dir.path()));
        let finished = twinpool(&["run", config.to_str().expect("a path in UTF-8")]).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        for told in [taken.to_string(), "p/line".to_owned()] {
            assert!(finished.stderr.contains(&told), "{told}: {finished:?}");
        }
    }
    for _ in 0..10 {
        let mut caller = Caller::new(daemon.address().await).await;
        assert_eq!(caller.ask().await.member, "a");
    }
}

#[tokio::test]
async fn after_kill_9_flows_begin_anew_on_the_same_port() {
    let a = Echo::start("a").await;
    let pool = pool_of([&a]).listen(&format!("\"{}\"", free_address()));
    let mut daemon = Daemon::start(Setup::of(&pool).workers(2)).await;
    let mut caller = Caller::new(daemon.address().await).await;
    caller.ask().await;
    daemon.kill().await;
    assert_eq!(caller.try_ask(MOMENT).await, None);
    daemon.start_again().await;
    assert_eq!(caller.ask().await.member, "a");
}
