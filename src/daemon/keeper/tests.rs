use std::fs;
use std::os::unix::fs::symlink;

use tokio::task::LocalSet;
use tokio::time::timeout;

use super::super::rig::Scratch;
use super::*;

const FILE: &str = "state/standing.json";

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

async fn open(scratch: &Scratch) -> (Keeper, Kept) {
    Keeper::open(Some(&scratch.file("state"))).await
}

#[test]
fn what_is_kept_is_found_again() {
    local(async {
        let scratch = Scratch::new();
        let (keeper, kept) = open(&scratch).await;
        assert!(kept.unusable.is_none() && keeper.problem().is_none());
        keeper.keep(Remembered::default());
        keeper.kept().await.expect("kept");
        let (_, kept) = open(&scratch).await;
        assert_eq!(kept.remembered, Remembered::default());
    });
}

#[test]
fn without_a_directory_it_says_so_and_serves() {
    local(async {
        let (keeper, kept) = Keeper::open(None).await;
        assert!(kept.unusable.is_none());
        keeper.keep(Remembered::default());
        assert_eq!(keeper.kept().await, Err(NOWHERE.to_owned()));
        assert_eq!(keeper.problem().as_deref(), Some(NOWHERE));
    });
}

#[test]
fn what_a_newer_version_wrote_keeps_nobody_from_serving_and_is_set_aside() {
    local(async {
        let scratch = Scratch::new();
        fs::create_dir(scratch.file("state")).expect("made");
        let own = crc32fast::hash(b"standing 2 0 0");
        let newer = format!(
            "{{\"kind\":\"standing\",\"version\":2,\"length\":0,\"crc32\":0,\"header_crc32\":{own}}}\n"
        );
        fs::write(scratch.file(FILE), &newer).expect("written");
        let (keeper, kept) = open(&scratch).await;
        let why = kept.unusable.expect("unusable");
        assert!(why.contains("another version"), "{why}");
        let problem = keeper.problem().expect("told");
        assert!(problem.contains("every member is ready"), "{problem}");
        assert_eq!(scratch.text(FILE), newer);
        keeper.keep(Remembered::default());
        keeper.kept().await.expect("kept");
        assert_eq!(scratch.text("state/standing.json.set-aside"), newer);
        assert_eq!(keeper.problem(), None);
    });
}

#[test]
fn what_could_not_be_written_is_tried_again_without_being_told_to() {
    local(async {
        let scratch = Scratch::new();
        symlink("/proc", scratch.file("state")).expect("a link");
        let (keeper, _) = open(&scratch).await;
        keeper.keep(Remembered::default());
        let error = keeper.kept().await.expect_err("nothing is written there");
        assert!(error.contains("cannot save"), "{error}");
        assert!(keeper.problem().is_some());
        fs::remove_file(scratch.file("state")).expect("removed");
        let mut written = keeper.0.written.subscribe();
        let is_written = written.wait_for(|(_, result)| result.is_ok());
        let waited = timeout(RETRY * 3, is_written).await;
        assert!(waited.is_ok_and(|written| written.is_ok()));
        assert_eq!(keeper.problem(), None);
        assert!(scratch.has(FILE));
    });
}

#[test]
fn what_could_not_be_written_is_not_tried_again_once_another_process_writes() {
    local(async {
        let scratch = Scratch::new();
        symlink("/proc", scratch.file("state")).expect("a link");
        let (keeper, _) = open(&scratch).await;
        keeper.keep(Remembered::default());
        keeper.kept().await.expect_err("nothing is written there");
        fs::remove_file(scratch.file("state")).expect("removed");
        keeper.close();
        keeper.keep(Remembered::default());
        sleep(RETRY + RETRY / 2).await;
        assert!(!scratch.file("state").exists(), "it wrote");
    });
}
