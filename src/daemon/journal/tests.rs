use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;

use tokio::task::LocalSet;

use super::super::rig::Scratch;
use super::file::{LARGEST, NAME, OLDER};
use super::*;
use crate::observe::events::{Events, KEPT};
use crate::observe::sample::ago;

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

async fn open(scratch: &Scratch) -> (Journal, Events, Option<String>) {
    let (journal, past) = Journal::open(Some(&scratch.file("state"))).await;
    (journal, Events::after(past.events), past.told)
}

fn tell(journal: &Journal, events: &mut Events, text: &str) {
    journal.keep(events.tell_instance(text.to_owned(), ago(0)));
}

fn texts(events: &Events) -> Vec<(u64, String)> {
    let all = events.since(0).into_iter();
    all.map(|event| (event.seq, event.text)).collect()
}

#[test]
fn events_outlive_a_restart_and_their_numbers_go_on() {
    local(async {
        let scratch = Scratch::new();
        let (journal, mut events, told) = open(&scratch).await;
        assert_eq!((texts(&events), told), (vec![], None));
        tell(&journal, &mut events, "one");
        tell(&journal, &mut events, "two");
        journal.flushed().await.expect("written");
        let (journal, mut events, told) = open(&scratch).await;
        assert_eq!(told, None);
        tell(&journal, &mut events, "three");
        journal.flushed().await.expect("written");
        let (journal, events, _) = open(&scratch).await;
        let expected = [(1, "one"), (2, "two"), (3, "three")];
        let expected = expected.map(|(seq, text)| (seq, text.to_owned()));
        assert_eq!(texts(&events), expected);
        assert_eq!(
            journal.state(),
            EventLog {
                is_kept: true,
                ..EventLog::default()
            }
        );
    });
}

#[test]
fn damaged_and_torn_lines_are_skipped_counted_and_told() {
    local(async {
        let scratch = Scratch::new();
        let (journal, mut events, _) = open(&scratch).await;
        for text in ["one", "two", "three"] {
            tell(&journal, &mut events, text);
        }
        journal.flushed().await.expect("written");
        let file = format!("state/{NAME}");
        let whole = scratch.text(&file);
        let lines: Vec<&str> = whole.lines().collect();
        let torn = &lines[2][..lines[2].len() / 2];
        let damaged = format!("{}\n{{\"seq\":\u{7}\n{}\n{torn}", lines[0], lines[1]);
        fs::write(scratch.file(&file), damaged).expect("written");

        let (journal, mut events, told) = open(&scratch).await;
        let told = told.expect("told");
        assert!(told.contains("2 lines"), "{told}");
        assert_eq!(journal.state().unreadable, 2);
        // What is told from now on does not join the half line.
        tell(&journal, &mut events, "four");
        journal.flushed().await.expect("written");
        let (_, events, _) = open(&scratch).await;
        let expected = [(1, "one"), (2, "two"), (3, "four")];
        let expected = expected.map(|(seq, text)| (seq, text.to_owned()));
        assert_eq!(texts(&events), expected);
    });
}

#[test]
fn numbers_only_rise_whatever_is_read() {
    local(async {
        let scratch = Scratch::new();
        let (journal, mut events, _) = open(&scratch).await;
        tell(&journal, &mut events, "old one");
        tell(&journal, &mut events, "old two");
        // Another one, as while an instance takes over from this.
        let mut other = Events::new();
        tell(&journal, &mut other, "new one");
        journal.flushed().await.expect("written");
        let (_, events, _) = open(&scratch).await;
        let numbers: Vec<u64> = texts(&events).into_iter().map(|(seq, _)| seq).collect();
        assert_eq!(numbers, [1, 2, 3]);
    });
}

#[test]
fn two_files_of_bounded_size_hold_more_than_memory_does() {
    local(async {
        let scratch = Scratch::new();
        let (journal, mut events, _) = open(&scratch).await;
        let text = "x".repeat(1_500);
        for n in 0..LARGEST * 3 / 1_500 {
            tell(&journal, &mut events, &text);
            if n % 1_000 == 999 {
                journal.flushed().await.expect("written");
            }
        }
        journal.flushed().await.expect("written");
        let size = |name: &str| {
            let file = scratch.file(&format!("state/{name}"));
            fs::metadata(file).expect("a file").len()
        };
        assert!(size(NAME) <= LARGEST && size(OLDER) <= LARGEST);
        assert!(size(NAME) + size(OLDER) >= LARGEST);
        let (_, again, told) = open(&scratch).await;
        assert_eq!(told, None);
        let (last, kept) = (again.since(0), events.since(0));
        assert!(last.len() <= KEPT);
        assert_eq!(last.last(), kept.last());
    });
}

#[test]
fn a_disk_that_takes_nothing_costs_nobody_but_the_log_and_is_told() {
    local(async {
        let scratch = Scratch::new();
        symlink("/proc", scratch.file("state")).expect("a link");
        let (journal, mut events, told) = open(&scratch).await;
        assert_eq!(told, None);
        for n in 0..WAITING + 600 {
            tell(&journal, &mut events, &format!("event {n}"));
        }
        assert_eq!(journal.state().lost, 600);
        journal
            .flushed()
            .await
            .expect_err("nothing is written there");
        assert!(journal.state().problem.is_some());
        assert_eq!(texts(&events).len(), WAITING + 600);

        // It is mended, and what waited is written.
        fs::remove_file(scratch.file("state")).expect("removed");
        let mut written = journal.0.written.subscribe();
        let is_written =
            written.wait_for(|(number, why)| *number >= WAITING as u64 && why.is_none());
        let waited = timeout(RETRY * 3, is_written).await;
        assert!(waited.is_ok_and(|written| written.is_ok()));
        assert_eq!(journal.state().problem, None);
        let (_, again, _) = open(&scratch).await;
        assert_eq!(texts(&again).len(), WAITING);
    });
}

#[test]
fn what_could_not_be_written_is_not_tried_again_once_another_process_writes() {
    local(async {
        let scratch = Scratch::new();
        symlink("/proc", scratch.file("state")).expect("a link");
        let (journal, mut events, _) = open(&scratch).await;
        tell(&journal, &mut events, "before");
        journal
            .flushed()
            .await
            .expect_err("nothing is written there");
        journal.close();
        fs::remove_file(scratch.file("state")).expect("removed");
        tell(&journal, &mut events, "after");
        let lost = async {
            while journal.state().lost == 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(RETRY * 3, lost).await.expect("it gives up");
        assert!(!scratch.file("state").exists(), "it wrote");
    });
}

#[test]
fn what_stands_in_the_place_of_the_log_keeps_nobody_from_serving() {
    local(async {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.file(&format!("state/{NAME}"))).expect("made");
        let (journal, mut events, told) = open(&scratch).await;
        let told = told.expect("told");
        assert!(told.contains("could not be read"), "{told}");
        tell(&journal, &mut events, "one");
        journal.flushed().await.expect_err("it is a directory");
        assert!(journal.state().problem.is_some());
    });
}

#[test]
fn a_file_that_somebody_moves_away_is_begun_anew() {
    local(async {
        let scratch = Scratch::new();
        let (journal, mut events, _) = open(&scratch).await;
        tell(&journal, &mut events, "one");
        journal.flushed().await.expect("written");
        let file = scratch.file(&format!("state/{NAME}"));
        fs::rename(&file, scratch.file("state/elsewhere")).expect("moved");
        tell(&journal, &mut events, "two");
        journal.flushed().await.expect("written");
        let (_, events, _) = open(&scratch).await;
        assert_eq!(texts(&events), [(2, "two".to_owned())]);
    });
}

#[test]
fn a_file_far_too_long_is_read_from_its_end() {
    local(async {
        let scratch = Scratch::new();
        fs::create_dir(scratch.file("state")).expect("made");
        let file = scratch.file(&format!("state/{NAME}"));
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)
            .expect("made");
        file.set_len(LARGEST * 40).expect("a sparse file");
        let mut events = Events::new();
        let event = events.tell_instance("one".to_owned(), ago(0)).clone();
        write!(file, "\n{}", super::file::line(&event)).expect("written");
        let (_, events, told) = open(&scratch).await;
        assert_eq!(texts(&events), [(1, "one".to_owned())]);
        assert_eq!(told, None);
    });
}

#[test]
fn without_a_directory_events_are_in_memory_alone() {
    local(async {
        let (journal, past) = Journal::open(None).await;
        assert!(past.events.is_empty() && past.told.is_none());
        let mut events = Events::new();
        tell(&journal, &mut events, "one");
        assert_eq!(journal.flushed().await, Ok(()));
        assert_eq!(journal.state(), EventLog::default());
    });
}
