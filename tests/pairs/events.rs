//! Events over restarts, asked for and followed with the real binary.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use twinpool::observe::events::{Event, Kind};

use crate::harness::*;
use crate::korea::*;

/// `twinpool events --follow`, and what it wrote.
struct Follower {
    child: Child,
    dir: std::path::PathBuf,
}

impl Follower {
    fn start(korea: &Korea, arguments: &[&str]) -> Follower {
        let dir = korea.daemon.state_dir();
        let file = |name: &str| File::create(dir.join(name)).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_twinpool"))
            .args(["events", "--follow", "--json", "--socket"])
            .arg(korea.daemon.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file("followed"))
            .stderr(file("notes"))
            .spawn();
        let child = child.expect("the binary");
        Follower { child, dir }
    }

    fn told(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(self.dir.join("followed")).expect("a file");
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("an event"))
            .collect()
    }

    fn notes(&self) -> String {
        std::fs::read_to_string(self.dir.join("notes")).expect("a file")
    }

    async fn until(&self, what: &str, so: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        eventually(what, async || {
            let told = self.told();
            so(&told).then_some(told)
        })
        .await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().expect("a child to kill");
        self.child.wait().expect("a child to wait for");
    }
}

#[tokio::test]
async fn events_are_followed_over_a_restart_and_none_is_missed_or_told_twice() {
    let mut korea = Plan::manual().start().await;
    let follower = Follower::start(&korea, &[]);
    korea
        .daemon
        .done(&["failover", SEOUL, "--reason", "power work"])
        .await;
    let ordered = |event: &Event| event.kind == Kind::Command && event.text.contains("power work");
    follower
        .until("the command to be told", |told| told.iter().any(ordered))
        .await;
    korea.daemon.signal(Signal::TERM);
    korea.daemon.exited().await;
    eventually("the follower to say that nobody answers", async || {
        follower.notes().contains("waiting for it").then_some(())
    })
    .await;
    korea.daemon.start_again().await;
    korea.daemon.done(&["failback", SEOUL, "--now"]).await;
    let is_home = |event: &Event| event.kind == Kind::Command && event.text.contains("failback");
    let told = follower
        .until("what came after it", |told| told.iter().any(is_home))
        .await;
    for pair in told.windows(2) {
        assert_eq!(pair[0].seq + 1, pair[1].seq, "{pair:?}");
    }
    let count = |text: &str| {
        told.iter()
            .filter(|event| event.text.starts_with(text))
            .count()
    };
    assert_eq!((count("started: "), count("stopped")), (2, 1), "{told:?}");
    let notes = follower.notes();
    assert!(notes.contains("going on after event "), "{notes}");
}

#[tokio::test]
async fn what_was_ordered_is_known_after_a_restart_by_name_and_kind() {
    let mut korea = Plan::manual().start().await;
    korea
        .daemon
        .done(&["failover", SEOUL, "--reason", "power work"])
        .await;
    let file = korea.daemon.state_dir().join("events.jsonl");
    eventually("the command to be on disk", async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let mut lines = text.lines();
        let kind = "\"kind\":\"command\"";
        lines.any(|line| line.contains(kind)).then_some(())
    })
    .await;
    korea.daemon.kill().await;
    korea.daemon.start_again().await;
    let me = nix_name();
    let commands = korea.daemon.done(&["events", "--kind", "command"]).await;
    let expected = format!("{me}: failover {SEOUL} (power work): done: ");
    assert!(commands.contains(&expected), "{commands}");
    let of_pool = korea.daemon.done(&["events", SEOUL, "--since", "1h"]).await;
    assert!(of_pool.contains("home → away"), "{of_pool}");
    let of_other = korea.daemon.done(&["events", BUSAN]).await;
    assert!(!of_other.contains("home → away"), "{of_other}");
    for site in ["seoul", "busan"] {
        let of_site = korea.daemon.done(&["events", site]).await;
        assert_eq!(of_site.contains("power work"), site == "seoul", "{of_site}");
    }
    let wrong = korea.daemon.command(&["events", "fe-soul"]).await;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("did you mean"), "{wrong:?}");
}

#[tokio::test]
async fn the_last_session_that_moves_is_told() {
    let korea = Plan::manual().start().await;
    let mut client = Client::connect(korea.address(SEOUL).await).await;
    client.member().await;
    korea.daemon.done(&["failover", SEOUL, "--now"]).await;
    let told = eventually("the move to be over", async || {
        let moved = korea
            .daemon
            .done(&["events", SEOUL, "--kind", "moved"])
            .await;
        (!moved.is_empty()).then_some(moved)
    })
    .await;
    let moved = "fe-seoul: all moved: no session of its users is left on fe-seoul";
    assert!(told.contains(moved), "{told}");
}

/// Who runs this, as the kernel and the host know them.
fn nix_name() -> String {
    let id = Command::new("id").arg("-un").output().expect("id");
    String::from_utf8(id.stdout)
        .expect("UTF-8")
        .trim()
        .to_owned()
}
