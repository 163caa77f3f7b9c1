//! Connections that no home member accepts, before the pool is known to be lost.

use std::time::{Duration, Instant};

use twinpool::observe::status::HomePhase;

use crate::harness::*;
use crate::korea::*;

/// Nothing is found out by checks while a test runs, and nothing is done by itself.
fn blind() -> Plan {
    Plan::manual().check(RARE).rule("spill", "true")
}

#[tokio::test]
async fn a_connection_that_no_home_member_accepts_is_served_by_the_twin() {
    let mut korea = blind().start().await;
    let address = korea.address(SEOUL).await;
    assert_eq!(site_at(address).await, "seoul");
    korea.kill(SEOUL).await;
    for _ in 0..10 {
        let began = Instant::now();
        assert_eq!(site_at(address).await, "busan");
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    let home = korea.until(SEOUL, "spilling", |home| home.spilling).await;
    assert_eq!((home.phase, home.spilled), (HomePhase::Home, 10));
    let page = korea.daemon.done(&["redirects"]).await;
    assert!(page.contains("spilling"), "{page}");
    let home = korea.home(BUSAN).await;
    assert_eq!((home.spilled, home.spilling), (0, false));
}

#[tokio::test]
async fn a_spilled_session_stays_when_the_pool_returns_and_new_ones_go_home_in_time() {
    let mut korea = blind().start().await;
    let address = korea.address(SEOUL).await;
    korea.kill(SEOUL).await;
    let mut spilled = sessions(address, 2, "busan").await;
    korea.revive(SEOUL).await;
    // Another client than the one that spilled finds the members at once.
    let mut other = Client::connect_from([127, 0, 0, 77].into(), address).await;
    assert_eq!(site_of(&other.member().await), "seoul");
    for client in &mut spilled {
        assert_eq!(site_of(&client.member().await), "busan");
    }
}

#[tokio::test]
async fn without_spill_such_a_connection_is_refused() {
    let mut korea = Plan::manual().check(RARE).start().await;
    let address = korea.address(SEOUL).await;
    korea.kill(SEOUL).await;
    assert_eq!(turned_away(address).await, Ended::Reset);
    assert_eq!(korea.home(SEOUL).await.spilled, 0);
}

#[tokio::test]
async fn full_members_spill_nothing() {
    let plan = blind().members(1).member("max_connections = 1");
    let mut korea = plan.start().await;
    let address = korea.address(SEOUL).await;
    let mut first = sessions(address, 1, "seoul").await;
    let mut waiting = Client::connect(address).await;
    waiting.send(b"who\n").await;
    eventually("a queue", async || {
        let status = korea.daemon.status().await;
        let pool = status.pool(SEOUL).expect("the pool");
        (pool.services[0].totals.queued == 1).then_some(())
    })
    .await;
    assert_eq!(korea.home(SEOUL).await.spilled, 0);
    assert_eq!(site_of(&first[0].member().await), "seoul");
    drop(first);
    assert_eq!(waiting.line().await.expect("an answer"), "s1:who");
    assert_eq!(korea.home(SEOUL).await.spilled, 0);
    // A full member that dies is another matter.
    korea.kill(SEOUL).await;
    assert_eq!(site_at(address).await, "busan");
}

#[tokio::test]
async fn a_connection_that_hangs_at_home_is_served_by_the_twin_within_the_budget() {
    let silent = Full::start().await;
    let b1 = Member::start("b1").await;
    let seoul = Pool::of([])
        .named(SEOUL)
        .member_named("s1", silent.address(), "")
        .check(RARE)
        .key("site = \"seoul\"")
        .service("connect = { budget = \"2s\" }");
    let busan = Pool::of([&b1])
        .named(BUSAN)
        .check(RARE)
        .key("site = \"busan\"");
    let setup = Setup::new()
        .text("[sites.seoul]\nregion = \"north\"\n[sites.busan]\nregion = \"south\"")
        .pool(&seoul)
        .pool(&busan)
        .text("[pairs.fe]\npools = [\"fe-seoul\", \"fe-busan\"]\nspill = true");
    let daemon = Daemon::start_unsettled(setup).await;
    let address = daemon.address_of(SEOUL, "line").await;
    let began = Instant::now();
    assert_eq!(served_by(address).await, "b1");
    assert!(began.elapsed() < Duration::from_secs(2));
    // The same client does not wait again.
    let began = Instant::now();
    assert_eq!(served_by(address).await, "b1");
    assert!(
        began.elapsed() < Duration::from_millis(400),
        "{:?}",
        began.elapsed()
    );
}
