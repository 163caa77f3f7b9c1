//! In which form the log is written.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use serde_json::Value;
use twinpool::health::Verdict;

use crate::harness::*;

/// Says that the daemon's stderr is the journal.
const UNDER_JOURNAL: &str = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2);";

/// The log of a daemon one of whose members died.
async fn told(setup: impl FnOnce(Setup) -> Setup) -> (Daemon, String) {
    let mut a = Member::start("a").await;
    let daemon = Daemon::start(setup(Setup::of(&Pool::of([&a])))).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    let log = daemon.log();
    (daemon, log)
}

fn has_time(line: &str) -> bool {
    let words = line.split(' ');
    words
        .into_iter()
        .any(|word| word.parse::<Timestamp>().is_ok())
}

#[tokio::test]
async fn plain_lines_have_one_timestamp_each_and_no_colour() {
    let (_daemon, log) = told(|setup| setup).await;
    let down = log
        .lines()
        .find(|line| line.contains("p/a line: up → down"));
    assert!(down.is_some_and(has_time), "{log}");
    assert!(!log.contains('\x1b'), "{log}");
    for line in log.lines() {
        assert_eq!(line.matches("Z ").count(), 1, "{line}");
    }
}

#[tokio::test]
async fn lines_for_the_journal_have_a_priority_and_no_time_of_their_own() {
    let text = "[log]\nformat = \"text\"";
    let (_daemon, log) = told(|setup| setup.before(UNDER_JOURNAL).text(text)).await;
    let down = log
        .lines()
        .find(|line| line.contains("p/a line: up → down"));
    let down = down.expect("the verdict");
    assert!(down.starts_with("<6>twinpool::events: p/a line"), "{down}");
    for line in log.lines() {
        assert!(!has_time(line), "{line}");
    }
}

#[tokio::test]
async fn a_variable_that_names_another_file_means_nothing() {
    let other = "export JOURNAL_STREAM=8:1;";
    let (_daemon, log) = told(|setup| setup.before(other)).await;
    assert!(log.lines().all(has_time), "{log}");
}

#[tokio::test]
async fn json_lines_parse_and_hold_the_names() {
    let (_daemon, log) = told(|setup| setup.text("[log]\nformat = \"json\"")).await;
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let down = lines.iter().find(|line| {
        let text = line["message"].as_str().unwrap_or_default();
        text.contains("p/a line: up → down")
    });
    let down = down.unwrap_or_else(|| panic!("{log}"));
    assert_eq!(down["level"], "INFO");
    assert_eq!(down["target"], "twinpool::events");
    for (key, value) in [("kind", "verdict"), ("pool", "p"), ("member", "a")] {
        assert_eq!(down[key], value, "{down}");
    }
    let time = down["timestamp"].as_str().expect("a time");
    assert!(time.parse::<Timestamp>().is_ok(), "{time}");
}

fn may_unshare() -> bool {
    let mut tried = Command::new("unshare");
    let tried = tried.args(["-rm", "mount", "-t", "tmpfs", "none", "/run"]);
    let tried = tried.stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Entries of the journal that the test itself is.
struct Journal {
    socket: UnixDatagram,
    _dir: Scratch,
    path: String,
}

impl Journal {
    fn new() -> Journal {
        let dir = Scratch::new();
        let path = dir.path().join("journal");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        let path = path.to_str().expect("a path in UTF-8").to_owned();
        Journal {
            socket,
            _dir: dir,
            path,
        }
    }

    /// Puts it in the place of the machine's, for the daemon alone, and says that stderr is it.
    fn script(&self) -> String {
        let path = &self.path;
        let inside = format!(
            "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
             ln -s {path} /run/systemd/journal/socket && exec \"$0\" \"$@\""
        );
        format!("{UNDER_JOURNAL} exec unshare -rm sh -c '{inside}' \"$0\" \"$@\";")
    }

    /// The next entry that holds this text.
    async fn entry(&self, text: &str) -> String {
        let mut bytes = vec![0; 1 << 16];
        eventually(text, async || {
            let length = self.socket.recv(&mut bytes).ok()?;
            let entry = String::from_utf8_lossy(&bytes[..length]).into_owned();
            entry.contains(text).then_some(entry)
        })
        .await
    }
}

#[tokio::test]
async fn the_journal_gets_entries_with_fields_and_stderr_nothing() {
    if !may_unshare() {
        eprintln!("skipped here: no journal of one's own without a mount namespace");
        return;
    }
    let journal = Journal::new();
    let access = "[log]\naccess = \"journal\"";
    let (daemon, log) = told(|setup| setup.before(&journal.script()).text(access)).await;
    let entry = journal.entry("p/a line: up → down").await;
    for field in [
        "PRIORITY=6\n",
        "SYSLOG_IDENTIFIER=twinpool\n",
        "TARGET=twinpool::events\n",
        "TWINPOOL_KIND=verdict\n",
        "TWINPOOL_POOL=p\n",
        "TWINPOOL_MEMBER=a\n",
    ] {
        assert!(entry.contains(field), "{field} in {entry:?}");
    }
    assert_eq!(turned_away(daemon.address().await).await, Ended::Reset);
    let entry = journal.entry("twinpool::access").await;
    assert!(entry.contains("TWINPOOL_ENDED=refused\n"), "{entry}");
    assert!(entry.contains("MESSAGE={\"time\":"), "{entry}");
    assert_eq!(log, "");
}

#[tokio::test]
async fn a_journal_that_hangs_holds_nobody_up_and_is_told_what_it_missed() {
    if !may_unshare() {
        eprintln!("skipped here: no journal of one's own without a mount namespace");
        return;
    }
    // More than any kernel keeps for one who does not read.
    const MANY: u64 = 900;
    let journal = Journal::new();
    let mut a = Member::start("a").await;
    let setup = Setup::of(&Pool::of([&a])).text("[log]\nlevel = \"debug\"");
    let daemon = Daemon::start(setup.before(&journal.script())).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    let address = daemon.address().await;
    for _ in 0..MANY {
        assert_eq!(turned_away(address).await, Ended::Reset);
    }
    daemon.counted("all of them", |t| t.refused() == MANY).await;
    assert!(daemon.done(&["status"]).await.contains("p/a"));
    let mut seen = 0;
    while journal.socket.recv(&mut [0; 1 << 12]).is_ok() {
        seen += 1;
    }
    assert!(seen < MANY, "it kept {seen} entries: nothing was lost");
    daemon.done(&["drain", "p/a"]).await;
    journal.entry("were lost: the journal took none").await;
}
