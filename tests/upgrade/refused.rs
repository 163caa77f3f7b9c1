//! Upgrades that come to nothing: the process that serves goes on, and says why.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;

use crate::BINARY;
use crate::harness::*;
use crate::line::Line;

/// Puts a program in the place of another one, as a package does it.
pub(crate) fn put(program: &Path, text: &str) {
    let new = program.with_extension("new");
    std::fs::write(&new, text).expect("a program");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&new, all).expect("permissions");
    std::fs::rename(&new, program).expect("in its place");
}

#[tokio::test]
async fn a_program_that_does_not_take_over_leaves_everything_as_it_was() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let dir = Scratch::new();
    let program = dir.path().join("twinpool");
    std::fs::copy(BINARY, &program).expect("a copy");
    let pool = Pool::of([&a, &b]);
    let mut line = Line::start(Setup::of(&pool).program(&program)).await;
    let address = line.daemon.address().await;
    let mut client = Client::connect(address).await;
    let member = client.member().await;
    let before = line.serving();
    for (text, why) in [
        ("#!/bin/sh\nexit 7\n", "ended before it served"),
        ("#!/bin/sh\nexec sleep 60\n", "did not answer in time"),
        ("not a program", "cannot start"),
    ] {
        put(&program, text);
        let refused = line.daemon.command(&["upgrade"]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(why), "{text}: {refused:?}");
        assert_eq!(served_by(address).await.len(), 1);
        assert_eq!(client.member().await, member);
    }
    assert_eq!(line.serving(), before);
    let told = line.daemon.done(&["events"]).await;
    let failed = told.lines().filter(|told| told.contains("the upgrade by"));
    assert_eq!(failed.count(), 3, "{told}");
    // Commands work, and so does the next upgrade.
    line.daemon.done(&["drain", "p/a"]).await;
    std::fs::remove_file(&program).expect("removed");
    std::fs::copy(BINARY, &program).expect("a copy");
    line.upgrade().await;
    assert_eq!(client.member().await, member);
    assert_eq!(served_by(address).await, "b");
}

#[tokio::test]
async fn a_file_that_is_wrong_is_refused_with_the_place_of_the_mistake() {
    let a = Member::start("a").await;
    let mut line = Line::start(Setup::of(&Pool::of([&a]))).await;
    let address = line.daemon.address().await;
    let good = std::fs::read_to_string(line.daemon.config()).expect("the file");
    let bad = good.replace("quorum =", "quorun =");
    std::fs::write(line.daemon.config(), bad).expect("the file");
    let refused = line.daemon.command(&["upgrade"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("quorun"), "{refused:?}");
    assert!(refused.stderr.contains("write `quorum`"), "{refused:?}");
    assert_eq!(served_by(address).await, "a");
    let state_dir = good.replace("/state\"", "/other\"");
    std::fs::write(line.daemon.config(), state_dir).expect("the file");
    let refused = line.daemon.command(&["upgrade"]).await;
    assert!(
        refused.stderr.contains("state_dir in [instance]"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("a restart can"), "{refused:?}");
    std::fs::write(line.daemon.config(), good).expect("the file");
    line.upgrade().await;
    assert_eq!(served_by(address).await, "a");
}

#[tokio::test]
async fn one_upgrade_at_a_time_and_none_of_an_instance_that_stops() {
    let a = Member::start("a").await;
    let dir = Scratch::new();
    let program = dir.path().join("twinpool");
    std::fs::copy(BINARY, &program).expect("a copy");
    let line = Line::start(Setup::of(&Pool::of([&a])).program(&program)).await;
    put(&program, "#!/bin/sh\nexec sleep 60\n");
    let (one, other) = tokio::join!(
        line.daemon.command(&["upgrade"]),
        line.daemon.command(&["upgrade"])
    );
    let told =
        [&one, &other].map(|refused| refused.stderr.contains("another upgrade is under way"));
    assert!(told[0] != told[1], "{one:?} {other:?}");
    let events = line.daemon.done(&["events"]).await;
    assert!(
        events.contains("was refused: another upgrade is under way"),
        "{events}"
    );
    let mut client = Client::connect(line.daemon.address().await).await;
    client.member().await;
    line.signal(Signal::TERM);
    eventually("a refusal", async || {
        let refused = line.daemon.command(&["upgrade"]).await;
        refused.stderr.contains("is stopping").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_for_twinpool_itself_says_so_to_people() {
    let dir = Scratch::new();
    let config = dir.write("twinpool.toml", "");
    let finished = twinpool(&["run", config.to_str().expect("a path"), "--successor"]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(
        finished.stderr.contains("`twinpool upgrade`"),
        "{finished:?}"
    );
}
