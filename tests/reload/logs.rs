//! `[log]` read anew.

use serde_json::Value;
use twinpool::health::Verdict;

use crate::harness::*;
use crate::{reload, write};

fn setup(pool: &Pool, keys: &str) -> Setup {
    Setup::of(pool).text(&format!("[log]\n{keys}"))
}

async fn level_is(daemon: &Daemon, level: &str) {
    assert_eq!(daemon.done(&["log-level"]).await, format!("{level}\n"));
}

/// The lines of a file of the access log, once there are so many.
async fn lines(daemon: &Daemon, name: &str, count: usize) -> Vec<Value> {
    let path = daemon.file(name);
    eventually(&format!("{count} lines in {name}"), async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        let lines: Vec<Value> = lines.collect::<Result<_, _>>().ok()?;
        assert!(lines.len() <= count, "{lines:?}");
        (lines.len() == count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn another_level_in_the_file_is_in_force_at_once() {
    let mut a = Member::start("a").await;
    let pool = Pool::of([&a]);
    let daemon = Daemon::start(setup(&pool, "level = \"info\"")).await;
    let told = reload(&daemon, &setup(&pool, "level = \"debug\"")).await;
    assert!(told.contains("~ [log]: level info -> debug"), "{told}");
    level_is(&daemon, "debug").await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(turned_away(daemon.address().await).await, Ended::Reset);
    eventually("what is told at debug", async || {
        let refused = "DEBUG twinpool::proxy::session: refused";
        daemon.log().contains(refused).then_some(())
    })
    .await;
    // What was set by hand stays where the file says nothing new.
    daemon.done(&["log-level", "error"]).await;
    let other = setup(
        &Pool::of([&a]).key("drain_deadline = \"7m\""),
        "level = \"debug\"",
    );
    reload(&daemon, &other).await;
    level_is(&daemon, "error").await;
}

#[tokio::test]
async fn a_level_for_a_while_goes_back_to_the_one_that_the_file_says_by_then() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]);
    let daemon = Daemon::start(setup(&pool, "level = \"info\"")).await;
    daemon.done(&["log-level", "debug", "--for", "3s"]).await;
    reload(&daemon, &setup(&pool, "level = \"warn\"")).await;
    let level = daemon.done(&["log-level"]).await;
    assert!(level.starts_with("debug; warn again in "), "{level}");
    eventually("the level of the file", async || {
        (daemon.done(&["log-level"]).await == "warn\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_level_that_the_environment_overrules_is_told_not_to_be_in_force() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]);
    let before = setup(&pool, "level = \"info\"");
    let daemon = Daemon::start(before.before("export RUST_LOG=warn;")).await;
    reload(&daemon, &setup(&pool, "level = \"debug\"")).await;
    level_is(&daemon, "warn").await;
    let told = "the `level` in [log] is not in force: RUST_LOG decides what is told";
    assert!(daemon.log().contains(told), "{}", daemon.log());
}

#[tokio::test]
async fn the_access_log_begins_moves_and_ends_with_the_file() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]);
    let to = |name: &str| setup(&pool, &format!("access = \"{{DIR}}/{name}\""));
    let none = setup(&pool, "");
    let daemon = Daemon::start(none.clone()).await;
    let address = daemon.address().await;
    let mut before = Client::connect(address).await;
    before.member().await;
    assert!(daemon.status().await.access.is_none());

    let told = reload(&daemon, &to("one.jsonl")).await;
    assert!(told.contains("~ [log]: access unset -> "), "{told}");
    assert_eq!(served_by(address).await, "a");
    let line = lines(&daemon, "one.jsonl", 1).await.remove(0);
    assert_eq!(
        (&line["pool"], &line["member"]),
        (&"p".into(), &"p/a".into())
    );

    let mut across = Client::connect(address).await;
    across.member().await;
    reload(&daemon, &to("two.jsonl")).await;
    assert_eq!(served_by(address).await, "a");
    lines(&daemon, "two.jsonl", 1).await;
    // Who came before is told where lines go when it ends.
    across.finish().await;
    across.ended().await;
    lines(&daemon, "two.jsonl", 2).await;
    let access = daemon.status().await.access.expect("an access log");
    assert_eq!((access.written, access.dropped, access.lost), (3, 0, 0));

    reload(&daemon, &none).await;
    assert!(daemon.status().await.access.is_none());
    assert_eq!(served_by(address).await, "a");
    before.finish().await;
    before.ended().await;
    // It counts on where it was.
    reload(&daemon, &to("two.jsonl")).await;
    assert_eq!(served_by(address).await, "a");
    lines(&daemon, "two.jsonl", 3).await;
    let access = daemon.status().await.access.expect("an access log");
    assert_eq!(access.written, 4);
    lines(&daemon, "one.jsonl", 1).await;
}

#[tokio::test]
async fn a_reload_opens_a_rotated_file_anew_as_sigusr1_does() {
    let a = Member::start("a").await;
    let setup = setup(&Pool::of([&a]), "access = \"{DIR}/access.jsonl\"");
    let daemon = Daemon::start(setup.clone()).await;
    assert_eq!(served_by(daemon.address().await).await, "a");
    lines(&daemon, "access.jsonl", 1).await;
    let (path, rotated) = (daemon.file("access.jsonl"), daemon.file("rotated"));
    std::fs::rename(&path, &rotated).expect("a file to rotate");
    reload(&daemon, &setup).await;
    eventually("a new file", async || path.exists().then_some(())).await;
    assert_eq!(served_by(daemon.address().await).await, "a");
    lines(&daemon, "access.jsonl", 1).await;
    lines(&daemon, "rotated", 1).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_and_another_format_are_refused() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]);
    let daemon = Daemon::start(setup(&pool, "level = \"info\"")).await;
    for (keys, why) in [
        (
            "level = \"debug\"\naccess = \"{DIR}/nowhere/access.jsonl\"",
            "cannot write the access log to ",
        ),
        (
            "level = \"debug\"\nformat = \"json\"",
            "a reload cannot change format in [log]; an upgrade can",
        ),
    ] {
        write(&daemon, &setup(&pool, keys));
        let refused = daemon.command(&["reload"]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
        level_is(&daemon, "info").await;
    }
    assert!(daemon.status().await.access.is_none());
    assert_eq!(served_by(daemon.address().await).await, "a");
}
