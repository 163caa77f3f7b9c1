//! How much the log tells, changed while it runs.

use std::time::Instant;

use rustix::process::Signal;
use twinpool::health::Verdict;
use twinpool::log::storm;

use crate::harness::*;

async fn daemon(a: &Member) -> Daemon {
    Daemon::start(Setup::of(&Pool::of([a]))).await
}

#[tokio::test]
async fn a_level_for_a_while_tells_more_and_goes_back_by_itself() {
    let mut a = Member::start("a").await;
    let daemon = daemon(&a).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(daemon.done(&["log-level"]).await, "info\n");
    let told = daemon.done(&["log-level", "debug", "--for", "4s"]).await;
    assert_eq!(told, "log level: info → debug; info again in 4 s\n");
    let now = daemon.done(&["log-level"]).await;
    assert!(now.starts_with("debug; info again in "), "{now}");
    assert_eq!(turned_away(daemon.address().await).await, Ended::Reset);
    eventually("what is told at debug", async || {
        daemon
            .log()
            .contains("DEBUG twinpool::proxy::session: refused")
            .then_some(())
    })
    .await;
    eventually("the level to go back", async || {
        (daemon.done(&["log-level"]).await == "info\n").then_some(())
    })
    .await;
    let before = daemon.log().matches("DEBUG").count();
    assert_eq!(turned_away(daemon.address().await).await, Ended::Reset);
    daemon.counted("it refused", |t| t.refused() == 2).await;
    assert_eq!(daemon.log().matches("DEBUG").count(), before);
}

#[tokio::test]
async fn a_change_of_level_is_an_event_with_who_made_it() {
    let a = Member::start("a").await;
    let daemon = daemon(&a).await;
    daemon
        .done(&["log-level", "warn,twinpool::proxy=trace"])
        .await;
    let now = daemon.done(&["log-level"]).await;
    assert_eq!(now, "warn,twinpool::proxy=trace\n");
    daemon.done(&["log-level", "error", "--for", "1h"]).await;
    // A second one for a while does not forget what was before the first.
    let told = daemon.done(&["log-level", "info", "--for", "200ms"]).await;
    assert!(
        told.contains("; warn,twinpool::proxy=trace again"),
        "{told}"
    );
    eventually("the first level", async || {
        let level = daemon.done(&["log-level"]).await;
        (level == "warn,twinpool::proxy=trace\n").then_some(())
    })
    .await;
    let events = daemon.done(&["events"]).await;
    let by = "log level: info → warn,twinpool::proxy=trace by ";
    assert!(events.contains(by), "{events}");
    assert!(events.contains("is over"), "{events}");
}

#[tokio::test]
async fn what_is_no_level_is_refused_with_what_to_write() {
    let a = Member::start("a").await;
    let daemon = daemon(&a).await;
    let wrong = daemon.command(&["log-level", "debgu"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("write `debug`"), "{wrong:?}");
    let alone = daemon.command(&["log-level", "--for", "10m"]).await;
    assert_eq!(alone.code, Some(2), "{alone:?}");
    assert_eq!(daemon.done(&["log-level"]).await, "info\n");
}

#[tokio::test]
async fn the_environment_decides_before_the_configuration_does() {
    let a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).text("[log]\nlevel = \"error\"");
    let daemon = Daemon::start(setup.clone()).await;
    assert_eq!(daemon.done(&["log-level"]).await, "error\n");
    let daemon = Daemon::start(setup.before("export RUST_LOG=warn;")).await;
    assert_eq!(daemon.done(&["log-level"]).await, "warn\n");
}

#[tokio::test]
async fn a_storm_is_told_by_its_beginning_and_a_count() {
    const ALL: u64 = 3_000;
    let mut a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).text("[log]\nlevel = \"debug\"");
    let mut daemon = Daemon::start(setup).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    let address = daemon.address().await;
    let began = Instant::now();
    for _ in 0..ALL {
        turned_away(address).await;
    }
    let is_one = began.elapsed() < storm::PERIOD;
    daemon.signal(Signal::TERM);
    daemon.exited().await;
    let log = daemon.log();
    let told = log.matches("session: refused peer=").count() as u64;
    let summaries = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("DEBUG twinpool::proxy::session: ")?;
        let (count, like) = rest.split_once(" more like this in ")?;
        assert!(like.contains(" s: refused peer="), "{line}");
        count.replace(',', "").parse::<u64>().ok()
    });
    let counted: u64 = summaries.sum();
    assert_eq!(told + counted, ALL);
    if is_one {
        assert!(told >= 1_000 && counted > 0, "{told} and {counted}");
    }
}
