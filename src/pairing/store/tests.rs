use super::*;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("twinpool-store-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory");
        Dir(path)
    }

    fn store(&self) -> Store {
        Store::open(&self.0, "things").expect("a store")
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.0.join(file), bytes).expect("a file");
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.0.join(file)).expect("a file")
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("removed");
    }
}

const CURRENT: &str = "things.json";
const PREV: &str = "things.json.prev";
const TMP: &str = "things.json.tmp";
const PREV_TMP: &str = "things.json.prev.tmp";

type Record = Vec<String>;

/// When a crash came, what files it left with what in them, and what is to be loaded.
type Crash = (
    &'static str,
    &'static [(&'static str, &'static str)],
    Loaded<Record>,
);

fn record(text: &str) -> Record {
    vec![text.to_owned(), "beside".to_owned()]
}

fn bytes(text: &str) -> Vec<u8> {
    encode("things", &record(text)).expect("encodes")
}

fn load(dir: &Dir) -> Loaded<Record> {
    dir.store().load().expect("loads")
}

#[test]
fn nothing_is_found_where_nothing_was_kept() {
    let dir = Dir::new();
    assert_eq!(load(&dir), Loaded::Fresh);
}

#[test]
fn what_was_saved_is_found_and_the_one_before_it_kept() {
    let dir = Dir::new();
    for text in ["one", "two", "three"] {
        dir.store().save(&record(text)).expect("saves");
        assert_eq!(load(&dir), Loaded::Current(record(text)));
    }
    assert_eq!(dir.read(PREV), bytes("two"));
    assert!(!dir.has(TMP) && !dir.has(PREV_TMP));
}

#[test]
fn files_are_for_the_daemons_user_alone() {
    let dir = Dir::new();
    dir.store().save(&record("one")).expect("saves");
    dir.store().save(&record("two")).expect("saves");
    for file in [CURRENT, PREV] {
        let mode = fs::metadata(dir.0.join(file))
            .expect("a file")
            .permissions();
        assert_eq!(mode.mode() & 0o777, FILE_MODE);
    }
}

#[test]
fn a_state_directory_is_made_where_there_is_none() {
    let dir = Dir::new();
    let deeper = dir.0.join("a/b");
    let store = Store::open(&deeper, "things").expect("a store");
    store.save(&record("one")).expect("saves");
    let mode = fs::metadata(&deeper).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, DIRECTORY_MODE);
}

#[test]
fn a_record_cut_anywhere_is_never_taken_for_whole() {
    let dir = Dir::new();
    let whole = bytes("one");
    dir.write(PREV, &bytes("before"));
    for length in 0..whole.len() {
        dir.write(CURRENT, &whole[..length]);
        let loaded = load(&dir);
        assert!(
            matches!(&loaded, Loaded::Previous(r, _) if *r == record("before")),
            "{length}: {loaded:?}"
        );
    }
}

#[test]
fn a_flip_of_any_bit_is_noticed() {
    let dir = Dir::new();
    let whole = bytes("one");
    dir.write(PREV, &bytes("before"));
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        dir.write(CURRENT, &flipped);
        let loaded = load(&dir);
        assert!(
            matches!(&loaded, Loaded::Previous(r, _) if *r == record("before")),
            "{bit}: {loaded:?}"
        );
    }
}

#[test]
fn bytes_after_a_record_are_noticed() {
    let dir = Dir::new();
    let mut longer = bytes("one");
    longer.push(b' ');
    dir.write(CURRENT, &longer);
    let loaded = load(&dir);
    assert!(
        matches!(&loaded, Loaded::Damaged(why) if why.contains("bytes of")),
        "{loaded:?}"
    );
}

#[test]
fn with_no_whole_copy_all_reasons_are_told() {
    let dir = Dir::new();
    dir.write(CURRENT, b"");
    dir.write(PREV, b"rubbish\n");
    let Loaded::Damaged(why) = load(&dir) else {
        panic!("not damaged");
    };
    assert!(
        why.contains("things.json has") && why.contains("things.json.prev has"),
        "{why}"
    );
}

#[test]
fn a_damaged_record_never_replaces_the_previous_one() {
    let dir = Dir::new();
    dir.write(CURRENT, b"rubbish");
    dir.write(PREV, &bytes("before"));
    dir.store().save(&record("new")).expect("saves");
    assert_eq!(load(&dir), Loaded::Current(record("new")));
    assert_eq!(dir.read(PREV), bytes("before"));
}

#[test]
fn a_record_of_another_kind_or_shape_is_damaged() {
    let dir = Dir::new();
    dir.write(CURRENT, &encode("others", &record("one")).expect("encodes"));
    assert!(matches!(load(&dir), Loaded::Damaged(why) if why.contains("\"others\"")));
    dir.write(CURRENT, &encode("things", &42).expect("encodes"));
    assert!(matches!(load(&dir), Loaded::Damaged(why) if why.contains("than expected")));
}

fn of_version(version: u32) -> Vec<u8> {
    let body = b"whatever a newer one writes";
    let mut bytes = Header::new("things", version, body).line();
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn another_versions_record_is_an_error_and_is_never_overwritten() {
    for file in [CURRENT, PREV] {
        let dir = Dir::new();
        dir.write(file, &of_version(7));
        let loaded = dir.store().load::<Record>().expect_err("another version");
        let saved = dir
            .store()
            .save(&record("new"))
            .expect_err("another version");
        for error in [loaded, saved] {
            assert!(
                matches!(error, StoreError::Version { found: 7, .. }),
                "{error}"
            );
            assert!(error.to_string().contains("move the file away"));
        }
        assert_eq!(dir.read(file), of_version(7));
    }
}

#[test]
fn a_crash_between_any_two_steps_leaves_the_old_record_or_the_new() {
    let old = Loaded::Current(record("old"));
    let states: [Crash; 7] = [
        ("first save, cut in step 1", &[(TMP, "cut")], Loaded::Fresh),
        ("first save, after step 1", &[(TMP, "new")], Loaded::Fresh),
        (
            "in step 1",
            &[(CURRENT, "old"), (PREV, "older"), (TMP, "cut")],
            old.clone(),
        ),
        (
            "after step 1",
            &[(CURRENT, "old"), (PREV, "older"), (TMP, "new")],
            old.clone(),
        ),
        (
            "after step 2",
            &[
                (CURRENT, "old"),
                (PREV, "older"),
                (PREV_TMP, "old"),
                (TMP, "new"),
            ],
            old.clone(),
        ),
        (
            "after step 3",
            &[(CURRENT, "old"), (PREV, "old"), (TMP, "new")],
            old,
        ),
        (
            "after step 4",
            &[(CURRENT, "new"), (PREV, "old")],
            Loaded::Current(record("new")),
        ),
    ];
    for (when, files, expected) in states {
        let dir = Dir::new();
        for (file, text) in files {
            let mut content = bytes(text);
            if *text == "cut" {
                content.truncate(content.len() / 2);
            }
            dir.write(file, &content);
        }
        assert_eq!(load(&dir), expected, "{when}");
        dir.store().save(&record("next")).expect(when);
        assert_eq!(load(&dir), Loaded::Current(record("next")), "{when}");
        assert!(!dir.has(TMP) && !dir.has(PREV_TMP), "{when}");
    }
}

#[test]
fn a_crash_with_both_names_on_one_file_does_not_stop_the_next_save() {
    let dir = Dir::new();
    dir.write(CURRENT, &bytes("old"));
    fs::hard_link(dir.0.join(CURRENT), dir.0.join(PREV)).expect("a link");
    fs::hard_link(dir.0.join(CURRENT), dir.0.join(PREV_TMP)).expect("a link");
    dir.store().save(&record("new")).expect("saves");
    assert_eq!(load(&dir), Loaded::Current(record("new")));
    assert_eq!(dir.read(PREV), bytes("old"));
    assert!(!dir.has(PREV_TMP));
}

#[test]
fn the_previous_record_is_found_when_the_present_one_is_missing() {
    let dir = Dir::new();
    dir.write(PREV, &bytes("before"));
    let loaded = load(&dir);
    assert!(
        matches!(&loaded, Loaded::Previous(r, why) if *r == record("before") && why.contains("missing")),
        "{loaded:?}"
    );
}

#[test]
fn on_a_full_disk_the_old_record_survives() {
    let dir = Dir::new();
    dir.store().save(&record("old")).expect("saves");
    let full = |_: &Path| OpenOptions::new().write(true).open("/dev/full");
    let error = dir
        .store()
        .save_through(&record("new"), full)
        .expect_err("full");
    assert!(error.to_string().contains("No space left"), "{error}");
    assert_eq!(load(&dir), Loaded::Current(record("old")));
    assert!(!dir.has(TMP));
}

#[test]
fn a_directory_that_cannot_be_written_is_said_to_be() {
    // Not even root can make a file here.
    let store = Store {
        dir: "/proc".into(),
        name: "things".to_owned(),
    };
    let error = store.save(&record("new")).expect_err("read-only");
    assert!(
        error
            .to_string()
            .starts_with("cannot save: write /proc/things.json.tmp"),
        "{error}"
    );
    let error = Store::open(Path::new("/proc/nowhere"), "things").expect_err("no directory");
    assert!(matches!(error, StoreError::Directory { .. }), "{error}");
    let error = Store::open(Path::new("/dev/null"), "things").expect_err("no directory");
    assert!(matches!(error, StoreError::Directory { .. }), "{error}");
}

#[test]
fn a_record_beyond_all_bounds_is_refused_and_never_read_whole() {
    let dir = Dir::new();
    let huge = "x".repeat(MAX_RECORD);
    let error = dir.store().save(&vec![huge]).expect_err("too long");
    assert!(matches!(error, StoreError::TooLong { .. }), "{error}");
    let file = File::create(dir.0.join(CURRENT)).expect("a file");
    file.set_len(1 << 40).expect("a hole");
    assert!(matches!(load(&dir), Loaded::Damaged(_)));
}

#[test]
fn a_name_with_a_path_in_it_is_refused() {
    let dir = Dir::new();
    for name in ["", "../things", "a/b", ".", "..", ".a"] {
        let error = Store::open(&dir.0, name).expect_err(name);
        assert!(matches!(error, StoreError::Name(_)), "{error}");
    }
}

#[test]
fn what_cannot_be_used_is_set_aside_and_never_lost() {
    let foreign = of_version(7);
    for (current, prev) in [
        (Some(&foreign[..]), None),
        (Some(&foreign[..]), Some(&foreign[..])),
        (Some(b"rubbish"), Some(b"more rubbish")),
        (None, Some(&foreign[..])),
        (Some(&bytes("one")), Some(&foreign[..])),
    ] as [(Option<&[u8]>, Option<&[u8]>); 5]
    {
        let dir = Dir::new();
        let files = [(CURRENT, current), (PREV, prev)];
        for (file, content) in files {
            if let Some(content) = content {
                dir.write(file, content);
            }
        }
        dir.store().save_aside(&record("new")).expect("saves");
        assert_eq!(load(&dir), Loaded::Current(record("new")));
        for (file, content) in files {
            let aside = format!("{file}.set-aside");
            match content {
                Some(content) => assert_eq!(dir.read(&aside), content),
                None => assert!(!dir.has(&aside)),
            }
        }
        assert!(!dir.has(PREV) && !dir.has(TMP));
        dir.store().save(&record("next")).expect("saves");
        assert_eq!(dir.read(PREV), bytes("new"));
    }
}

#[test]
fn what_is_set_aside_never_replaces_what_was_before() {
    let dir = Dir::new();
    for n in 1..=3 {
        dir.write(CURRENT, format!("rubbish {n}").as_bytes());
        dir.store().save_aside(&record("new")).expect("saves");
    }
    assert_eq!(dir.read("things.json.set-aside"), b"rubbish 1");
    assert_eq!(dir.read("things.json.set-aside.2"), b"rubbish 2");
    assert_eq!(dir.read("things.json.set-aside.3"), b"rubbish 3");
}

#[test]
fn a_file_is_set_aside_once_however_often_the_save_fails_after_that() {
    let dir = Dir::new();
    dir.write(CURRENT, &of_version(7));
    dir.store().set_aside(&dir.0.join(CURRENT)).expect("a link");
    assert!(
        dir.store().load::<Record>().is_err(),
        "it is still not of use"
    );
    dir.store().save_aside(&record("new")).expect("saves");
    assert!(!dir.has("things.json.set-aside.2"));
}

#[test]
fn beyond_a_bound_nothing_more_is_set_aside() {
    let dir = Dir::new();
    dir.write("things.json.set-aside", b"");
    for n in 2..=MOST_ASIDE {
        dir.write(&format!("things.json.set-aside.{n}"), b"");
    }
    dir.write(CURRENT, b"rubbish");
    let error = dir.store().save_aside(&record("new")).expect_err("full");
    assert!(error.to_string().contains("look at them"), "{error}");
    assert_eq!(dir.read(CURRENT), b"rubbish");
}

#[test]
fn a_directory_in_the_place_of_a_record_is_set_aside_too() {
    let dir = Dir::new();
    fs::create_dir(dir.0.join(CURRENT)).expect("a directory");
    assert!(dir.store().load::<Record>().is_err());
    dir.store().save_aside(&record("new")).expect("saves");
    assert!(dir.0.join("things.json.set-aside").is_dir());
    assert_eq!(load(&dir), Loaded::Current(record("new")));
}

#[test]
fn what_was_set_aside_with_nothing_in_its_place_is_not_forgotten() {
    for file in ["things.json.set-aside", "things.json.prev.set-aside"] {
        let dir = Dir::new();
        dir.write(file, &of_version(7));
        let loaded = load(&dir);
        assert!(
            matches!(&loaded, Loaded::Damaged(why) if why.contains("set aside")),
            "{loaded:?}"
        );
    }
}
