//! The access log: one line a session.

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::Value;
use twinpool::health::Verdict;

use crate::caller::Caller;
use crate::echo::{Echo, pool_of};
use crate::harness::*;

const TO_FILE: &str = "[log]\naccess = \"{DIR}/access.jsonl\"";

fn setup(pool: &Pool) -> Setup {
    Setup::of(pool).text(TO_FILE)
}

/// The lines that have been written, once there are so many.
async fn lines(daemon: &Daemon, count: usize) -> Vec<Value> {
    let path = daemon.file("access.jsonl");
    eventually(&format!("{count} lines"), async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let whole = text.ends_with('\n') || text.is_empty();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect(line));
        let lines: Vec<Value> = if whole { lines.collect() } else { Vec::new() };
        assert!(lines.len() <= count, "{lines:?}");
        (lines.len() == count).then_some(lines)
    })
    .await
}

async fn line(daemon: &Daemon) -> Value {
    lines(daemon, 1).await.remove(0)
}

/// Checks some values of a line.
#[track_caller]
fn says(line: &Value, values: &[(&str, Value)]) {
    for (key, value) in values {
        assert_eq!(line[key], *value, "{key} in {line}");
    }
}

#[tokio::test]
async fn a_session_that_ended_well_is_told_in_full() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(setup(&Pool::of([&a]))).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    let local = client.local();
    assert_eq!(client.ask("hello").await, "a:hello");
    client.finish().await;
    assert_eq!(client.ended().await, Ended::Orderly);
    let line = line(&daemon).await;
    says(
        &line,
        &[
            ("instance", "test".into()),
            ("pool", "p".into()),
            ("service", "line".into()),
            ("protocol", "tcp".into()),
            ("client", local.to_string().into()),
            ("listener", address.to_string().into()),
            ("member", "p/a".into()),
            ("address", a.address().to_string().into()),
            ("serving", "p".into()),
            ("way", "home".into()),
            ("ended", "client".into()),
            ("orderly", true.into()),
            ("phase", "relay".into()),
            ("retries", 0.into()),
            ("hedges", 0.into()),
            ("bytes_in", "hello\n".len().into()),
            ("bytes_out", "a:hello\n".len().into()),
            ("queue", 0.0.into()),
            ("reason", Value::Null),
            ("generation", Value::Null),
        ],
    );
    let time = line["time"].as_str().expect("a time");
    assert!(time.parse::<Timestamp>().is_ok(), "{time}");
    let seconds = |key: &str| line[key].as_f64().expect("seconds");
    assert!(
        seconds("connect") > 0.0 && seconds("connect") <= seconds("total"),
        "{line}"
    );
}

#[tokio::test]
async fn a_member_that_ends_a_session_first_is_said_to() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(setup(&Pool::of([&a]))).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.ask("end").await, "bye");
    assert_eq!(client.ended().await, Ended::Orderly);
    drop(client);
    let line = line(&daemon).await;
    says(
        &line,
        &[("ended", "member".into()), ("orderly", true.into())],
    );
}

#[tokio::test]
async fn bulk_bytes_are_counted_both_ways() {
    const LENGTH: usize = 3 << 20;
    let a = Member::start_as("a", Speaks::Raw).await;
    let daemon = Daemon::start(setup(&Pool::of([&a]))).await;
    let client = Client::connect(daemon.address().await).await;
    assert_eq!(client.send_and_receive_pattern(LENGTH).await, LENGTH);
    let line = line(&daemon).await;
    let both = [("bytes_in", LENGTH.into()), ("bytes_out", LENGTH.into())];
    says(&line, &both);
}

#[tokio::test]
async fn a_reset_is_told_with_whose_it_was() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(setup(&Pool::of([&a]))).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    client.reset();
    let first = line(&daemon).await;
    let reset = |by: &'static str| [("ended", by.into()), ("orderly", false.into())];
    says(&first, &reset("client"));
    assert!(first["detail"].is_string(), "{first}");
    let mut client = Client::connect(address).await;
    client.send(b"cut 10\n").await;
    assert_eq!(client.ended().await, Ended::Reset);
    let second = lines(&daemon, 2).await.remove(1);
    says(&second, &reset("member"));
    says(&second, &[("phase", "relay".into())]);
}

#[tokio::test]
async fn sessions_of_a_member_that_died_say_so() {
    let mut a = Member::start("a").await;
    let daemon = Daemon::start(setup(&Pool::of([&a]).check(FAST))).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.member().await, "a");
    // Its connections stand, as those of a host that vanished do.
    a.stop_listening().await;
    assert_eq!(client.ended().await, Ended::Reset);
    let line = line(&daemon).await;
    let down = [("ended", "member_down".into()), ("member", "p/a".into())];
    says(&line, &down);
}

#[tokio::test]
async fn a_drained_members_sessions_say_so_at_the_deadline() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).key("drain_deadline = \"100ms\"");
    let daemon = Daemon::start(setup(&pool)).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.member().await, "a");
    daemon.done(&["drain", "p/a"]).await;
    assert_eq!(client.ended().await, Ended::Reset);
    says(&line(&daemon).await, &[("ended", "drained".into())]);
}

#[tokio::test]
async fn an_idle_session_and_one_that_was_cut_by_the_end_say_so() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).service("idle_timeout = \"1s\"");
    let setup = setup(&pool).instance("stop_deadline = \"100ms\"");
    let mut daemon = Daemon::start(setup).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.member().await, "a");
    assert_eq!(client.ended().await, Ended::Reset);
    let first = line(&daemon).await;
    says(
        &first,
        &[("ended", "idle".into()), ("phase", "relay".into())],
    );
    assert!(first["total"].as_f64().expect("seconds") >= 0.9, "{first}");
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.member().await, "a");
    daemon.signal(Signal::TERM);
    daemon.exited().await;
    let second = lines(&daemon, 2).await.remove(1);
    let stopped = [("ended", "stopped".into()), ("member", "p/a".into())];
    says(&second, &stopped);
}

#[tokio::test]
async fn a_refused_client_is_told_with_the_reason_and_the_phase() {
    let mut a = Member::start("a").await;
    let daemon = Daemon::start(setup(&Pool::of([&a]))).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(turned_away(daemon.address().await).await, Ended::Reset);
    let line = line(&daemon).await;
    says(
        &line,
        &[
            ("ended", "refused".into()),
            ("reason", "no_member".into()),
            ("phase", "connect".into()),
            ("member", Value::Null),
            ("bytes_in", 0.into()),
        ],
    );
}

#[tokio::test]
async fn attempts_beyond_the_first_are_told() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let pool = Pool::of([&a]).member(&b, "backup = true").check(RARE);
    let daemon = Daemon::start(setup(&pool)).await;
    a.die().await;
    assert_eq!(served_by(daemon.address().await).await, "b");
    let line = line(&daemon).await;
    says(&line, &[("member", "p/b".into()), ("retries", 1.into())]);
}

#[tokio::test]
async fn who_waited_in_the_queue_is_told_for_how_long() {
    let a = Member::start("a").await;
    let pool = Pool::of([])
        .member(&a, "max_connections = 1")
        .key("queue = { limit = 8, timeout = \"300ms\" }");
    let daemon = Daemon::start(setup(&pool)).await;
    let address = daemon.address().await;
    let mut first = Client::connect(address).await;
    assert_eq!(first.member().await, "a");
    assert_eq!(turned_away(address).await, Ended::Reset);
    let line = line(&daemon).await;
    let timeout = [
        ("reason", "queue_timeout".into()),
        ("phase", "queue".into()),
    ];
    says(&line, &timeout);
    assert!(line["queue"].as_f64().expect("seconds") >= 0.3, "{line}");
    let mut second = Client::connect(address).await;
    daemon.counted("it waits", |t| t.queued == 2).await;
    drop(first);
    assert_eq!(second.member().await, "a");
    drop(second);
    let served = lines(&daemon, 3).await.remove(2);
    says(&served, &[("member", "p/a".into())]);
    assert!(served["queue"].as_f64().expect("seconds") > 0.0, "{served}");
}

#[tokio::test]
async fn who_was_shed_and_who_broke_off_in_the_queue_are_told() {
    let a = Member::start("a").await;
    let pool = Pool::of([]).member(&a, "max_connections = 1");
    let setup = setup(&pool).instance("max_sessions = 2");
    let daemon = Daemon::start(setup).await;
    let address = daemon.address().await;
    let mut first = Client::connect(address).await;
    assert_eq!(first.member().await, "a");
    let second = Client::connect(address).await;
    daemon.counted("it waits", |t| t.queued == 1).await;
    assert_eq!(turned_away(address).await, Ended::Reset);
    let shed = line(&daemon).await;
    says(
        &shed,
        &[("ended", "shed".into()), ("phase", "accept".into())],
    );
    second.reset();
    let left = lines(&daemon, 2).await.remove(1);
    says(
        &left,
        &[
            ("ended", "client".into()),
            ("reason", "left_queue".into()),
            ("phase", "queue".into()),
        ],
    );
}

#[tokio::test]
async fn the_source_by_the_proxy_header_stands_beside_the_client() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).service("accept_proxy = [\"127.0.0.0/8\"]");
    let daemon = Daemon::start(setup(&pool)).await;
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend([192, 0, 2, 7, 198, 51, 100, 1]);
    header.extend([0xc3, 0x50, 0x01, 0xbb]);
    client.send(&header).await;
    assert_eq!(client.member().await, "a");
    drop(client);
    let good = line(&daemon).await;
    says(&good, &[("source", "192.0.2.7:50000".into())]);
    let mut client = Client::connect(address).await;
    client.send(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").await;
    assert_eq!(client.ended().await, Ended::Reset);
    let bad = lines(&daemon, 2).await.remove(1);
    let header = [
        ("reason", "proxy_header".into()),
        ("phase", "header".into()),
    ];
    says(&bad, &header);
}

/// Two pools that back each other up, of a member each.
fn pair(a: &Member, b: &Member) -> Setup {
    let pool = |name: &str, site: &str, member: &Member| {
        let pool = Pool::of([member]).named(name).check(RARE);
        pool.key(&format!("site = \"{site}\""))
    };
    Setup::new()
        .text(TO_FILE)
        .text("[sites.seoul]\nregion = \"north\"\n[sites.busan]\nregion = \"south\"")
        .pool(&pool("p", "seoul", a))
        .pool(&pool("q", "busan", b))
        .text("[pairs.both]\npools = [\"p\", \"q\"]\nspill = true")
}

#[tokio::test]
async fn who_is_served_by_the_twin_and_who_moves_are_told_with_the_generation() {
    let (a, b) = (Member::start("a").await, Member::start("b").await);
    let daemon = Daemon::start(pair(&a, &b)).await;
    let address = daemon.address().await;
    let mut moving = Client::connect(address).await;
    assert_eq!(moving.member().await, "a");
    daemon.done(&["failover", "p", "--now"]).await;
    assert_eq!(moving.ended().await, Ended::Reset);
    let moved = line(&daemon).await;
    let at_home = [("ended", "moved".into()), ("way", "home".into())];
    says(&moved, &at_home);
    assert_eq!(served_by(address).await, "b");
    let away = lines(&daemon, 2).await.remove(1);
    says(
        &away,
        &[
            ("pool", "p".into()),
            ("serving", "q".into()),
            ("member", "q/b".into()),
            ("way", "redirected".into()),
        ],
    );
    let generation = |line: &Value| line["generation"].as_u64().expect("a generation");
    assert_eq!(generation(&away), generation(&moved) + 1);
}

#[tokio::test]
async fn who_spilled_to_the_twin_is_told_to_have() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let daemon = Daemon::start(pair(&a, &b)).await;
    a.die().await;
    assert_eq!(served_by(daemon.address().await).await, "b");
    let line = line(&daemon).await;
    says(&line, &[("way", "spilled".into()), ("serving", "q".into())]);
}

#[tokio::test]
async fn flows_are_told_as_sessions_are() {
    let a = Echo::start("a").await;
    let pool = pool_of([&a]).service("idle_timeout = \"1s\"");
    let daemon = Daemon::start(setup(&pool)).await;
    let address = daemon.address().await;
    let mut caller = Caller::from("127.0.0.77".parse().expect("an address"), address).await;
    caller.ask().await;
    caller.ask().await;
    let line = line(&daemon).await;
    says(
        &line,
        &[
            ("protocol", "udp".into()),
            ("listener", address.to_string().into()),
            ("member", "p/a".into()),
            ("ended", "idle".into()),
        ],
    );
    let client = line["client"].as_str().expect("a client");
    assert!(client.starts_with("127.0.0.77:"), "{line}");
    let bytes = |key: &str| line[key].as_u64().expect("bytes");
    assert!(
        bytes("bytes_in") > 0 && bytes("bytes_out") > bytes("bytes_in"),
        "{line}"
    );
    let totals = daemon.totals().await;
    assert_eq!(totals.bytes_in, bytes("bytes_in"));
    assert_eq!(totals.bytes_out, bytes("bytes_out"));
}

#[tokio::test]
async fn a_rotated_file_is_opened_anew_on_sigusr1() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(setup(&Pool::of([&a]))).await;
    served_by(daemon.address().await).await;
    line(&daemon).await;
    let (path, rotated) = (daemon.file("access.jsonl"), daemon.file("access.jsonl.1"));
    std::fs::rename(&path, &rotated).expect("a file to rotate");
    daemon.signal(Signal::USR1);
    eventually("a new file", async || path.exists().then_some(())).await;
    served_by(daemon.address().await).await;
    line(&daemon).await;
    let old = std::fs::read_to_string(&rotated).expect("the old file");
    assert_eq!(old.lines().count(), 1);
}

#[tokio::test]
async fn a_full_queue_costs_lines_and_never_a_session() {
    // A pipe that nobody reads takes some lines, and then no more.
    let fifo = "mkfifo \"$DIR/pipe\"; exec 9<>\"$DIR/pipe\";";
    let a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).text("[log]\naccess = \"{DIR}/pipe\"");
    let daemon = Daemon::start(setup.before(fifo)).await;
    let address = daemon.address().await;
    let mut sessions = 0;
    eventually("lines that are lost", async || {
        for _ in 0..50 {
            assert_eq!(served_by(address).await, "a");
            sessions += 1;
        }
        let access = daemon.status().await.access.expect("an access log");
        (access.lost > 0).then_some(())
    })
    .await;
    eventually("every line to be counted", async || {
        let access = daemon.status().await.access.expect("an access log");
        (access.written + access.lost + access.dropped == sessions).then_some(())
    })
    .await;
    assert_eq!(daemon.totals().await.refused(), 0);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_keeps_it_from_starting_and_says_so() {
    let a = Member::start("a").await;
    let text = "[log]\naccess = \"/nonexistent/access.jsonl\"";
    let dir = Scratch::new();
    let toml = Setup::of(&Pool::of([&a])).text(text).toml(dir.path());
    let config = dir.write("twinpool.toml", &toml);
    let run = twinpool(&["run", config.to_str().expect("a path in UTF-8")]).await;
    assert_eq!(run.code, Some(1), "{run:?}");
    for words in ["/nonexistent/access.jsonl", "`access` in [log]"] {
        assert!(run.stderr.contains(words), "{run:?}");
    }
}

#[tokio::test]
async fn without_an_access_log_there_is_nothing_of_it() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    served_by(daemon.address().await).await;
    daemon.counted("it is over", |t| t.ended == 1).await;
    assert!(daemon.status().await.access.is_none());
    assert!(!daemon.log().contains("access"));
}
