//! The record on disk: over a restart, where it cannot be written, and damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use twinpool::observe::status::HomePhase;
use twinpool::pairing::Condition;
use twinpool::pairing::pair::Halt;

use crate::harness::*;
use crate::korea::*;

#[tokio::test]
async fn users_that_are_away_are_still_away_after_kill_9() {
    let mut korea = Plan::manual().start().await;
    korea
        .daemon
        .done(&["failover", SEOUL, "--reason", "power work"])
        .await;
    let (before, generation) = (korea.home(SEOUL).await, korea.generation().await);
    korea.daemon.kill().await;
    korea.daemon.start_again().await;
    let after = korea.home(SEOUL).await;
    assert_eq!(after.phase, HomePhase::Away);
    assert_eq!(korea.generation().await, generation);
    assert_eq!((after.by, after.reason), (before.by, before.reason));
    let drift = after
        .since
        .since(before.since)
        .max(before.since.since(after.since));
    assert!(drift.as_secs() < 1, "{drift:?}");
    assert_eq!(site_at(korea.address(SEOUL).await).await, "busan");
    assert_eq!(site_at(korea.address(BUSAN).await).await, "busan");
    korea.stays(SEOUL, HomePhase::Away).await;
}

#[tokio::test]
async fn a_failback_that_was_under_way_goes_on_after_a_restart() {
    let mut korea = Plan::manual().rule("ramp", "\"4s\"").start().await;
    korea.daemon.done(&["failover", SEOUL]).await;
    korea.daemon.done(&["failback", SEOUL]).await;
    let before = korea
        .until(SEOUL, "some way home", |home| home.share >= 15)
        .await;
    korea.daemon.kill().await;
    korea.daemon.start_again().await;
    let after = korea.home(SEOUL).await;
    assert!(after.share >= before.share, "{after:?}");
    korea.phase(SEOUL, HomePhase::Home).await;
}

#[tokio::test]
async fn what_cannot_be_written_is_not_in_force_and_the_traffic_goes_on() {
    let mut korea = Plan::automatic().rule("spill", "true").start().await;
    let dir = Unwritable::make(&korea.daemon.state_dir());
    refuses_to_write_and_spills(&mut korea).await;
    dir.mend();
    goes_over(&korea).await;
}

#[tokio::test]
async fn a_disk_that_is_well_again_is_seen_without_another_order() {
    let korea = Plan::manual().start().await;
    let dir = Unwritable::make(&korea.daemon.state_dir());
    korea.refused(&["failover", SEOUL]).await;
    assert!(korea.pair().await.unwritten.is_some());
    dir.mend();
    let well = async || korea.pair().await.unwritten.is_none().then_some(());
    eventually("a disk that is well", well).await;
    korea.stays(SEOUL, HomePhase::Home).await;
}

#[tokio::test]
async fn a_full_disk_stops_no_traffic_and_what_it_refused_comes_when_there_is_room() {
    let mut korea = Plan::automatic().rule("spill", "true").start().await;
    let Some(disk) = SmallDisk::mount(&korea.daemon.state_dir()) else {
        eprintln!("skipped: a small disk cannot be mounted here");
        return;
    };
    disk.fill();
    refuses_to_write_and_spills(&mut korea).await;
    let error = korea.pair().await.unwritten.expect("an error");
    assert!(error.to_lowercase().contains("no space"), "{error}");
    disk.make_room();
    goes_over(&korea).await;
}

async fn refuses_to_write_and_spills(korea: &mut Korea) {
    let address = korea.address(SEOUL).await;
    let before = korea.generation().await;
    let mut open = sessions(address, 2, "seoul").await;
    let refused = korea.refused(&["failover", SEOUL]).await;
    for word in [SEOUL, "not carried out", "the record", "nothing changed"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    assert_eq!(korea.home(SEOUL).await.phase, HomePhase::Home);
    for client in &mut open {
        assert_eq!(site_of(&client.member().await), "seoul");
    }
    drop(open);
    korea.lose(SEOUL).await;
    eventually("an error of writing", async || korea.pair().await.unwritten).await;
    for _ in 0..10 {
        assert_eq!(site_at(address).await, "busan");
    }
    let home = korea.home(SEOUL).await;
    assert_eq!(home.phase, HomePhase::Home);
    assert!(home.spilled >= 10, "{home:?}");
    assert_eq!(korea.generation().await, before);
    for page in ["status", "redirects"] {
        let page = korea.daemon.done(&[page]).await;
        assert!(page.contains("cannot be written"), "{page}");
    }
}

async fn goes_over(korea: &Korea) {
    korea.phase(SEOUL, HomePhase::Away).await;
    assert_eq!(korea.pair().await.unwritten, None);
    assert_eq!(site_at(korea.address(SEOUL).await).await, "busan");
}

#[tokio::test]
async fn with_a_damaged_record_it_serves_and_automation_waits_for_resume() {
    let mut korea = Plan::automatic().start().await;
    korea.daemon.done(&["failover", SEOUL]).await;
    korea.daemon.done(&["failback", SEOUL, "--now"]).await;
    let before = korea.generation().await;
    korea.daemon.kill().await;
    for suffix in ["", ".prev"] {
        damage(&record(&korea, suffix));
    }
    korea.daemon.start_again().await;
    let address = korea.address(SEOUL).await;
    assert_eq!(site_at(address).await, "seoul");
    let pair = korea.pair().await;
    assert_eq!(pair.halt, Some(Halt::Damaged));
    assert!(pair.record_problem.is_some());
    assert!(pair.generation > before);
    for page in ["status", "redirects"] {
        let page = korea.daemon.done(&[page]).await;
        assert!(page.contains("resume"), "{page}");
    }
    korea.lose(SEOUL).await;
    korea.stays(SEOUL, HomePhase::Home).await;
    korea.daemon.done(&["resume"]).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    let pair = korea.pair().await;
    assert_eq!((pair.halt, pair.record_problem), (None, None));
    assert_eq!(site_at(address).await, "busan");
}

#[tokio::test]
async fn a_damaged_record_falls_back_to_the_copy_before_it() {
    let mut korea = Plan::automatic()
        .rule("failback", "\"manual\"")
        .start()
        .await;
    korea.lose(SEOUL).await;
    korea.phase(SEOUL, HomePhase::Away).await;
    korea.revive(SEOUL).await;
    korea.condition(SEOUL, Condition::Serving).await;
    korea.daemon.done(&["failback", SEOUL, "--now"]).await;
    let before = korea.generation().await;
    korea.daemon.kill().await;
    damage(&record(&korea, ""));
    korea.daemon.start_again().await;
    // The one before: away. Under a newer generation than any that was told.
    let pair = korea.pair().await;
    assert_eq!(pair.pools[0].phase, HomePhase::Away);
    assert!(pair.generation >= before, "{pair:?}");
    assert_eq!(pair.halt, None);
    assert_eq!(site_at(korea.address(SEOUL).await).await, "busan");
    // It is told until somebody says that it is right.
    assert!(pair.record_problem.is_some(), "{pair:?}");
    let told = korea.daemon.done(&["resume"]).await;
    assert!(told.contains("taken as it stands"), "{told}");
    assert_eq!(korea.pair().await.record_problem, None);
}

fn record(korea: &Korea, suffix: &str) -> PathBuf {
    korea
        .daemon
        .state_dir()
        .join(format!("pair-{PAIR}.json{suffix}"))
}

/// Changes a byte in the middle.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("a record");
    let middle = bytes.len() * 2 / 3;
    bytes[middle] ^= 0x15;
    fs::write(path, bytes).expect("a damaged record");
}

/// A directory in whose place stands something else: nothing can be written in it, by root neither.
struct Unwritable {
    path: PathBuf,
    aside: PathBuf,
}

impl Unwritable {
    fn make(path: &Path) -> Unwritable {
        let aside = path.with_extension("aside");
        fs::rename(path, &aside).expect("a directory to rename");
        fs::write(path, "in the way").expect("a file in its place");
        Unwritable {
            path: path.to_owned(),
            aside,
        }
    }

    fn mend(self) {
        fs::remove_file(&self.path).expect("a file to remove");
        fs::rename(&self.aside, &self.path).expect("a directory to rename back");
    }
}

/// A disk of two pages, mounted over a directory until dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount.
    fn mount(path: &Path) -> Option<SmallDisk> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8k,mode=700", "twinpool-test"])
            .arg(path)
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        mounted.then(|| SmallDisk(path.to_owned()))
    }

    fn fill(&self) {
        let full = fs::write(self.0.join("filler"), vec![0; 16 << 10]);
        assert!(full.is_err(), "a disk of two pages took four");
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("a file to remove");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon may have it open.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}
