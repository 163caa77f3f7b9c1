use std::fs;
use std::os::unix::fs::symlink;
use std::time::SystemTime;

use tokio::task::LocalSet;

use super::super::rig::{self, Scratch};
use super::*;
use crate::pairing::store::Store;

const KOREA: PairId = PairId(0);
const FILE: &str = "state/pair-korea.json";
const WALL: u64 = 1_795_000_000;

fn clock(seconds: u64) -> Clock {
    Clock {
        now: Time::from_millis(1_000_000 + seconds * 1_000),
        wall: UNIX_EPOCH + Duration::from_secs(WALL + seconds),
    }
}

fn topology(scratch: &Scratch) -> Topology {
    let nobody = "192.0.2.1:8080".parse().expect("an address");
    rig::config(scratch.path(), |_| nobody).topology
}

/// Runs `test` where tasks of this thread run.
fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, test)
}

struct Opened {
    records: Records,
    begin: Begin,
    stored: mpsc::Receiver<Stored>,
}

async fn open_at(scratch: &Scratch, clock: Clock) -> Opened {
    let (topology, dir) = (topology(scratch), scratch.file("state"));
    let (records, begin, stored) = Records::open(&dir, &topology, clock).await;
    Opened {
        records,
        begin,
        stored,
    }
}

async fn open(scratch: &Scratch) -> Opened {
    open_at(scratch, clock(0)).await
}

impl Opened {
    fn problem(&self) -> Option<String> {
        self.records.problem(KOREA, clock(0).now)
    }

    async fn write(&mut self, record: &Record) -> Result<(), String> {
        self.records.write(KOREA, record, clock(0));
        let (pair, generation, result) = self.stored.recv().await.expect("an answer");
        assert_eq!((pair, generation), (KOREA, record.generation));
        result
    }
}

/// `fe`'s users are away since ten seconds ago, by a person.
fn away(generation: u64) -> Record {
    let mut record = Record::home(generation, clock(0).now);
    record.entries[0] = Entry {
        phase: Phase::Away,
        cause: Cause::Ordered,
        by: By::Operator("twinpool".to_owned()),
        reason: Some("site \"works\"".to_owned()),
        since: Time::from_millis(990_000),
    };
    record.rounds = 3;
    record.alarm = true;
    record
}

fn in_the_header(kind: &str, version: u32, body: &str) -> String {
    let crc = crc32fast::hash(body.as_bytes());
    let length = body.len();
    let own = crc32fast::hash(format!("{kind} {version} {length} {crc}").as_bytes());
    format!(
        "{{\"kind\":\"{kind}\",\"version\":{version},\"length\":{length},\"crc32\":{crc},\
         \"header_crc32\":{own}}}\n{body}"
    )
}

#[test]
fn where_nothing_was_kept_everybody_is_at_home_and_nothing_is_wrong() {
    local(async {
        let scratch = Scratch::new();
        let opened = open(&scratch).await;
        let home = Record::home(0, clock(0).now);
        assert_eq!(opened.begin, [(home.clone(), false), (home, false)]);
        assert_eq!(opened.problem(), None);
        assert!(
            !scratch.has(FILE),
            "nothing is written before it is decided"
        );
    });
}

#[test]
fn a_record_outlives_a_restart_to_the_word() {
    local(async {
        let scratch = Scratch::new();
        let mut returning = away(9);
        returning.entries[0].phase = Phase::Returning(Share::of(7).expect("a share"));
        for record in [away(8), returning] {
            open(&scratch).await.write(&record).await.expect("written");
            let opened = open(&scratch).await;
            assert_eq!(opened.begin[0], (record, false));
            assert_eq!(opened.problem(), None);
        }
    });
}

#[test]
fn a_record_comes_back_on_the_clock_of_the_next_boot_and_never_from_the_future() {
    local(async {
        let scratch = Scratch::new();
        open(&scratch).await.write(&away(8)).await.expect("written");
        let rebooted = Clock {
            now: Time::from_millis(100_000),
            wall: clock(5).wall,
        };
        let opened = open_at(&scratch, rebooted).await;
        assert_eq!(
            opened.begin[0].0.entries[0].since,
            Time::from_millis(85_000)
        );
        let set_back = Clock {
            now: Time::from_millis(100_000),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(WALL - 86_400),
        };
        let opened = open_at(&scratch, set_back).await;
        assert_eq!(opened.begin[0].0.entries[0].since, set_back.now);
    });
}

#[test]
fn pools_are_found_by_name_whichever_side_they_stand_on_now() {
    local(async {
        let scratch = Scratch::new();
        open(&scratch).await.write(&away(8)).await.expect("written");
        let mut topology = topology(&scratch);
        topology.pairs[0].pools.reverse();
        let dir = scratch.file("state");
        let (_, begin, _) = Records::open(&dir, &topology, clock(0)).await;
        assert_eq!(begin[0].0.phase(Side::Second), Phase::Away);
        assert_eq!(begin[0].0.phase(Side::First), Phase::Home);
    });
}

#[test]
fn a_damaged_record_falls_back_to_the_one_before_it_under_a_generation_of_its_own() {
    local(async {
        let scratch = Scratch::new();
        let mut opened = open(&scratch).await;
        opened.write(&away(7)).await.expect("written");
        opened
            .write(&Record::home(8, clock(0).now))
            .await
            .expect("written");
        fs::write(scratch.file(FILE), "cut").expect("damaged");
        let mut opened = open(&scratch).await;
        let raised = 7 + RAISED;
        assert_eq!(opened.begin[0], (away(raised), false));
        let problem = opened.problem().expect("told");
        let told = format!("generation 7, is in force as generation {raised}");
        assert!(problem.contains(&told), "{problem}");
        assert_eq!(opened.records.found(), [("korea".to_owned(), problem)]);
        let again = open(&scratch).await;
        assert_eq!(
            again.begin[0],
            (away(raised), false),
            "on disk before it is in force"
        );
        opened.write(&away(raised + 1)).await.expect("written");
        assert_eq!(opened.problem(), None);
    });
}

/// What can be found that is of no use, and what is told of it.
fn unusable() -> Vec<(&'static str, String, &'static str)> {
    let foreign = |a: &str, b: &str| {
        let home = |pool: &str| {
            format!(
                "{{\"pool\":\"{pool}\",\"phase\":\"home\",\"cause\":\"start\",\"operator\":null,\
                 \"reason\":null,\"since\":\"2026-11-23T03:34:07Z\"}}"
            )
        };
        format!(
            "{{\"generation\":5,\"rounds\":0,\"alarm\":false,\"homes\":[{},{}]}}",
            home(a),
            home(b)
        )
    };
    let ours = foreign("fe", "fe-b");
    let whole = |body: &str| in_the_header("pair-korea", 1, body);
    vec![
        ("rubbish", "rubbish".to_owned(), "has no valid header"),
        (
            "another version's",
            in_the_header("pair-korea", 2, "whatever"),
            "another version",
        ),
        (
            "about other pools",
            whole(&foreign("fe", "fe-jeju")),
            "it is about fe and fe-jeju, and the pair is of fe and fe-b now",
        ),
        (
            "about one pool twice",
            whole(&foreign("fe", "fe")),
            "it is about fe and fe,",
        ),
        (
            "another pair's",
            in_the_header("pair-rim", 1, &ours),
            "is a record of \"pair-rim\"",
        ),
        (
            "both away",
            whole(&ours.replace("\"home\"", "\"away\"")),
            "sends the users of both pools away",
        ),
        (
            "more than all",
            whole(&ours.replacen("\"home\"", "\"returning\",\"share\":20", 1)),
            "share of 20 in 20",
        ),
        (
            "a return of nobody knows how many",
            whole(&ours.replacen("\"home\"", "\"returning\"", 1)),
            "a return without one",
        ),
        (
            "beyond all counts",
            whole(&ours.replacen(":5,", ":18446744073709551615,", 1)),
            "generation 18446744073709551615",
        ),
        (
            "with more than we know",
            whole(&ours.replacen("\"rounds\"", "\"epoch\":1,\"rounds\"", 1)),
            "something else than expected",
        ),
    ]
}

#[test]
fn what_cannot_be_used_is_left_alone_until_something_is_written_and_set_aside_then() {
    for (what, content, told) in unusable() {
        local(async {
            let scratch = Scratch::new();
            fs::create_dir(scratch.file("state")).expect("made");
            fs::write(scratch.file(FILE), &content).expect("written");
            let mut opened = open(&scratch).await;
            let home = Record::home(WALL, clock(0).now);
            assert_eq!(opened.begin[0], (home, true), "{what}");
            assert_eq!(opened.begin[1], (Record::home(0, clock(0).now), false));
            let problem = opened.problem().expect(what);
            assert!(problem.contains(told), "{what}: {problem}");
            assert!(problem.contains("twinpool resume"), "{what}: {problem}");
            assert_eq!(scratch.text(FILE), content, "{what}");
            opened.write(&away(WALL + 1)).await.expect(what);
            assert_eq!(opened.problem(), None);
            assert_eq!(scratch.text("state/pair-korea.json.set-aside"), content);
            let opened = open(&scratch).await;
            assert_eq!(opened.begin[0], (away(WALL + 1), false), "{what}");
        });
    }
}

#[test]
fn a_copy_of_no_use_behind_a_damaged_record_is_no_way_out() {
    local(async {
        let scratch = Scratch::new();
        let (_, foreign, _) = &unusable()[2];
        fs::create_dir(scratch.file("state")).expect("made");
        fs::write(scratch.file(FILE), "rubbish").expect("written");
        fs::write(scratch.file("state/pair-korea.json.prev"), foreign).expect("written");
        let opened = open(&scratch).await;
        assert!(opened.begin[0].1);
        let problem = opened.problem().expect("told");
        assert!(
            problem.contains("no valid header") && problem.contains("fe-jeju"),
            "{problem}"
        );
    });
}

#[test]
fn a_directory_that_is_none_keeps_nobody_from_serving_and_is_used_once_it_is_one() {
    local(async {
        let scratch = Scratch::new();
        fs::write(scratch.file("state"), "a file").expect("written");
        let mut opened = open(&scratch).await;
        assert!(opened.begin.iter().all(|(_, damaged)| *damaged));
        let error = opened
            .write(&away(WALL + 1))
            .await
            .expect_err("no directory");
        assert!(error.contains("cannot use"), "{error}");
        assert!(opened.problem().is_some());
        fs::remove_file(scratch.file("state")).expect("removed");
        // What was there all the time, out of reach, is not lost either.
        fs::create_dir(scratch.file("state")).expect("made");
        let store = Store::open(&scratch.file("state"), "pair-korea").expect("a store");
        let [a, b] = ["fe", "fe-b"].map(str::to_owned);
        let old = Written::new(&away(4), &[a, b], clock(0));
        store.save(&old).expect("saved");
        opened.write(&away(WALL + 2)).await.expect("written");
        assert_eq!(opened.problem(), None);
        assert!(scratch.has("state/pair-korea.json.set-aside"));
    });
}

#[test]
fn a_directory_that_takes_nothing_changes_nothing_and_takes_up_again_later() {
    local(async {
        let scratch = Scratch::new();
        fs::create_dir(scratch.file("good")).expect("made");
        symlink(scratch.file("good"), scratch.file("state")).expect("a link");
        let mut opened = open(&scratch).await;
        opened.write(&away(1)).await.expect("written");
        // Not even root can make a file there.
        fs::remove_file(scratch.file("state")).expect("removed");
        symlink("/proc", scratch.file("state")).expect("a link");
        let error = opened.write(&away(2)).await.expect_err("read-only");
        assert!(error.contains("cannot save: write"), "{error}");
        fs::remove_file(scratch.file("state")).expect("removed");
        symlink(scratch.file("good"), scratch.file("state")).expect("a link");
        assert_eq!(open(&scratch).await.begin[0].0.generation, 1);
        opened.write(&away(3)).await.expect("written");
        assert_eq!(open(&scratch).await.begin[0].0.generation, 3);
    });
}

/// A file that neither reads nor fails: as a disk that hangs.
fn hang(scratch: &Scratch) {
    let made = std::process::Command::new("mkfifo")
        .arg(scratch.file(FILE))
        .status()
        .expect("mkfifo");
    assert!(made.success());
}

/// Lets go of all who hang: each opened it to read.
fn let_go(scratch: &Scratch) {
    let opened = fs::OpenOptions::new().write(true).open(scratch.file(FILE));
    drop(opened.expect("somebody hangs there"));
}

#[test]
fn a_disk_that_hangs_holds_up_neither_the_start_nor_the_traffic_and_is_told() {
    let scratch = Scratch::new();
    local(async {
        fs::create_dir(scratch.file("state")).expect("made");
        hang(&scratch);
        let (topology, dir) = (topology(&scratch), scratch.file("state"));
        let patience = Duration::from_millis(100);
        let (records, begin, mut stored) =
            Records::open_within(patience, &dir, &topology, clock(0)).await;
        assert!(begin[0].1 && !begin[1].1);
        let problem = records.problem(KOREA, clock(0).now).expect("told");
        assert!(
            problem.contains("does not answer within 100ms"),
            "{problem}"
        );
        let_go(&scratch);

        fs::remove_file(scratch.file(FILE)).expect("removed");
        let (records, _, mut stored_again) = Records::open(&dir, &topology, clock(0)).await;
        hang(&scratch);
        records.write(KOREA, &away(1), clock(0));
        let written = tokio::time::timeout(Duration::from_millis(200), stored_again.recv());
        assert!(written.await.is_err(), "it hangs");
        assert_eq!(records.problem(KOREA, clock(2).now), None);
        let problem = records.problem(KOREA, clock(3).now).expect("told");
        assert!(problem.contains("has not answered for 3 s"), "{problem}");
        let_go(&scratch);
        let (_, generation, result) = stored_again.recv().await.expect("an answer");
        assert_eq!((generation, result), (1, Ok(())));
        assert_eq!(records.problem(KOREA, clock(4).now), None);
        assert!(stored.try_recv().is_err());
    });
}
