//! The writer of the access log: one thread that formats what workers hand it, and writes it.
//!
//! Workers never wait: an entry that finds the queue full is dropped, and whoever sent it counts
//! that ([`Sink::tell`]). The writer takes what has gathered and writes it at once. What cannot be
//! written is lost and counted; a disk that is full breaks no line but the one it broke.
//!
//! What an entry says is its own affair: it writes itself, as one JSON object, when it is the
//! writer's turn ([`Entry`]).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use rustix::fs::OFlags;

use super::journal::{self, Journal};

/// Entries that may wait. A worker that ends ten thousand sessions at once leaves room for more,
/// and a disk may hold its breath for a moment; some MiB when it is full.
const QUEUE: usize = 16_384;
/// Entries that are written at once.
const BATCH: usize = 256;
/// Who reads the log may be in a group of its own; nobody else may.
const MODE: u32 = 0o640;
/// What the entries are found by in the journal.
const TARGET: &str = "twinpool::access";

/// What is told of one session.
pub trait Entry: Send + fmt::Debug {
    /// Appends itself as one JSON object, without a line's end.
    fn write(&self, line: &mut String);
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To this file, at its end.
    File(PathBuf),
    /// To the journal, with fields.
    Journal,
    /// To stderr.
    Stderr,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::File(path) => path.display().fmt(f),
            Destination::Journal => f.write_str("journal"),
            Destination::Stderr => f.write_str("stderr"),
        }
    }
}

/// Where a worker puts its entries.
#[derive(Clone, Debug)]
pub struct Sink(SyncSender<Message>);

/// The thread that writes, as whoever started it holds it.
#[derive(Debug)]
pub struct Writer {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    ended: Receiver<()>,
}

/// A destination that can be written to.
#[derive(Debug)]
pub struct Opened(Out);

/// What became of entries that found room in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Written.
    pub written: u64,
    /// Lost, because they could not be.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Shared {
    reopen: AtomicBool,
    /// Where entries go once those that waited are written: a turn that found the queue full.
    turn: Mutex<Option<Out>>,
    written: AtomicU64,
    lost: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Entry(Box<dyn Entry>),
    /// Where entries go from now on.
    Turn(Box<Out>),
    /// Something in [`Shared`] is to be looked at.
    Look,
}

impl Sink {
    /// Hands an entry over, without waiting; false when there was no room for it, which is for the
    /// caller to count.
    #[must_use]
    pub fn tell(&self, entry: Box<dyn Entry>) -> bool {
        self.0.try_send(Message::Entry(entry)).is_ok()
    }
}

/// The other end of a [`Sink`] that nobody writes from.
#[cfg(test)]
pub(crate) struct Queue(Receiver<Message>);

#[cfg(test)]
impl Sink {
    /// One with room for `most`.
    pub(crate) fn of(most: usize) -> (Sink, Queue) {
        let (queue, messages) = sync_channel(most);
        (Sink(queue), Queue(messages))
    }
}

#[cfg(test)]
impl Queue {
    /// Takes what has come.
    pub(crate) fn lines(&self) -> Vec<String> {
        let write = |message| {
            let mut line = String::new();
            if let Message::Entry(entry) = message {
                entry.write(&mut line);
            }
            line
        };
        self.0.try_iter().map(write).collect()
    }
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn start(destination: Opened) -> io::Result<Writer> {
        Writer::with_queue(destination, QUEUE)
    }

    fn with_queue(Opened(out): Opened, most: usize) -> io::Result<Writer> {
        let (queue, messages) = sync_channel(most);
        let (end, ended) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let pen = Pen {
            out,
            batch: String::new(),
            entries: 0,
            shared: shared.clone(),
        };
        let write = move || {
            pen.run(&messages);
            // Nobody may wait any more.
            end.try_send(()).ok();
        };
        Builder::new().name("access-log".to_owned()).spawn(write)?;
        Ok(Writer {
            queue,
            shared,
            ended,
        })
    }

    /// Where workers put their entries.
    pub fn sink(&self) -> Sink {
        Sink(self.queue.clone())
    }

    /// Has the file opened anew, for it was moved away. When it cannot be, the old one is kept.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.look();
    }

    /// Has what comes from now on written there, and what waits where it goes now.
    pub fn turn_to(&self, Opened(out): Opened) {
        self.turn(out);
    }

    /// Lets go of the destination; what comes from sessions that were told before goes nowhere, and
    /// is not counted.
    pub fn rest(&self) {
        self.turn(Out::Nowhere);
    }

    fn turn(&self, out: Out) {
        let waiting = self.shared.turn.lock();
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        if waiting.is_some() {
            *waiting = Some(out);
            return;
        }
        let turn = Message::Turn(Box::new(out));
        if let Err(TrySendError::Full(Message::Turn(out))) = self.queue.try_send(turn) {
            *waiting = Some(*out);
        }
    }

    fn look(&self) {
        // Where the queue is full, the thread is awake and looks by itself.
        self.queue.try_send(Message::Look).ok();
    }

    /// What became of the entries so far.
    pub fn counts(&self) -> Counts {
        Counts {
            written: self.shared.written.load(Ordering::Relaxed),
            lost: self.shared.lost.load(Ordering::Relaxed),
        }
    }

    /// Waits until everything is written, for so long at most; to be called once nobody holds a
    /// [`Sink`] any more. False when it was not.
    pub fn finish(self, patience: Duration) -> bool {
        drop(self.queue);
        let waited = self.ended.recv_timeout(patience);
        waited != Err(RecvTimeoutError::Timeout)
    }
}

/// The thread's own.
struct Pen {
    out: Out,
    batch: String,
    /// In the batch.
    entries: u64,
    shared: Arc<Shared>,
}

impl Pen {
    /// Writes until nobody holds the other end.
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            self.take(first);
            for next in messages.try_iter().take(BATCH - 1) {
                self.take(next);
            }
            self.flush();
            let turn = self.shared.turn.lock();
            let turn = turn.unwrap_or_else(PoisonError::into_inner).take();
            if let Some(out) = turn {
                for next in messages.try_iter().take(QUEUE) {
                    self.take(next);
                }
                self.flush();
                self.out = out;
            }
            if self.shared.reopen.swap(false, Ordering::Acquire) {
                self.out.reopen();
            }
        }
    }

    fn take(&mut self, message: Message) {
        let entry = match message {
            Message::Entry(entry) => entry,
            Message::Turn(out) => {
                self.flush();
                self.out = *out;
                return;
            }
            Message::Look => return,
        };
        if let Out::Nowhere = self.out {
            return;
        }
        entry.write(&mut self.batch);
        self.batch.push('\n');
        self.entries += 1;
        // Each is an entry of its own in the journal.
        if matches!(self.out, Out::Journal(_)) || self.entries >= BATCH as u64 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.entries == 0 {
            return;
        }
        let count = match self.out.write(&self.batch) {
            Ok(()) => &self.shared.written,
            Err(error) => {
                tracing::error!(%error, "cannot write to the access log; entries are lost");
                &self.shared.lost
            }
        };
        count.fetch_add(self.entries, Ordering::Relaxed);
        self.batch.clear();
        self.entries = 0;
    }
}

/// Where it goes, opened.
#[derive(Debug)]
enum Out {
    File {
        path: PathBuf,
        file: File,
        /// A write failed, perhaps in the middle of a line.
        broken: bool,
    },
    Journal(Journal),
    Stderr,
    Nowhere,
}

impl Opened {
    /// Opens a destination.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn open(destination: Destination) -> io::Result<Opened> {
        Ok(Opened(match destination {
            Destination::File(path) => Out::File {
                file: open(&path)?,
                path,
                broken: false,
            },
            Destination::Journal => Out::Journal(Journal::open()?),
            Destination::Stderr => Out::Stderr,
        }))
    }
}

impl Out {
    fn reopen(&mut self) {
        let Out::File { path, file, broken } = self else {
            return;
        };
        match open(path) {
            Ok(anew) => {
                *file = anew;
                *broken = false;
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot open the access log anew; the old file goes on");
            }
        }
    }

    fn write(&mut self, lines: &str) -> io::Result<()> {
        match self {
            Out::File { file, broken, .. } => {
                if *broken {
                    file.write_all(b"\n")?;
                    *broken = false;
                }
                let written = file.write_all(lines.as_bytes());
                *broken = written.is_err();
                written
            }
            Out::Journal(journal) => journal.send(&journal_entry(lines.trim_end())),
            Out::Stderr => io::stderr().lock().write_all(lines.as_bytes()),
            Out::Nowhere => Ok(()),
        }
    }
}

/// At its end. Not waiting keeps a pipe that nobody reads from holding the instance up.
fn open(path: &Path) -> io::Result<File> {
    let not_waiting = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(not_waiting)
        .open(path)
}

/// The line as the message, and each of its values as a field.
fn journal_entry(line: &str) -> journal::Entry {
    let mut entry = journal::Entry::new(tracing::Level::INFO, TARGET);
    entry.message(line);
    let values: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(line).unwrap_or_default();
    for (name, value) in values {
        match value {
            serde_json::Value::Null => {}
            serde_json::Value::String(text) => entry.field(&name, &text),
            other => entry.field(&name, &other.to_string()),
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// How long anything may take before a test fails.
    const PATIENCE: Duration = Duration::from_secs(10);

    #[derive(Debug)]
    struct Line(u32);

    impl Entry for Line {
        fn write(&self, line: &mut String) {
            *line += &format!("{{\"n\":{}}}", self.0);
        }
    }

    /// One that keeps the writer busy until it is told to go on.
    #[derive(Debug)]
    struct Slow(mpsc::Sender<()>, std::sync::Mutex<mpsc::Receiver<()>>);

    impl Entry for Slow {
        fn write(&self, line: &mut String) {
            self.0.send(()).unwrap();
            self.1.lock().unwrap().recv().unwrap();
            line.push_str("{}");
        }
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Scratch {
            let name = format!("twinpool-access-{:016x}", rand::random::<u64>());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.file(name)).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn eventually(so: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !so() {
            assert!(began.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn started(destination: Destination) -> Writer {
        Writer::start(Opened::open(destination).unwrap()).unwrap()
    }

    #[test]
    fn every_entry_is_a_line_and_the_last_are_written_at_the_end() {
        let scratch = Scratch::new();
        let path = scratch.file("log");
        std::fs::write(&path, "before\n").unwrap();
        let writer = started(Destination::File(path));
        let sink = writer.sink();
        for n in 0..1_000 {
            assert!(sink.tell(Box::new(Line(n))));
        }
        drop(sink);
        assert!(writer.finish(PATIENCE));
        let lines: Vec<String> = (0..1_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        assert_eq!(scratch.read("log"), format!("before\n{}", lines.concat()));
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew_when_told() {
        let scratch = Scratch::new();
        let writer = started(Destination::File(scratch.file("log")));
        let sink = writer.sink();
        assert!(sink.tell(Box::new(Line(1))));
        eventually(|| writer.counts().written == 1);
        std::fs::rename(scratch.file("log"), scratch.file("log.1")).unwrap();
        writer.reopen();
        eventually(|| scratch.file("log").exists());
        assert!(sink.tell(Box::new(Line(2))));
        eventually(|| writer.counts().written == 2);
        assert_eq!(scratch.read("log.1"), "{\"n\":1}\n");
        assert_eq!(scratch.read("log"), "{\"n\":2}\n");
    }

    #[test]
    fn another_destination_takes_what_comes_from_then_on_and_none_takes_nothing() {
        let scratch = Scratch::new();
        let to = |name| Destination::File(scratch.file(name));
        let writer = started(to("one"));
        let sink = writer.sink();
        assert!(sink.tell(Box::new(Line(1))));
        eventually(|| writer.counts().written == 1);
        writer.turn_to(Opened::open(to("two")).unwrap());
        assert!(sink.tell(Box::new(Line(2))));
        eventually(|| writer.counts().written == 2);
        writer.rest();
        assert!(sink.tell(Box::new(Line(3))));
        drop(sink);
        let shared = writer.shared.clone();
        assert!(writer.finish(PATIENCE));
        assert_eq!(shared.written.load(Ordering::Relaxed), 2);
        assert_eq!(scratch.read("one"), "{\"n\":1}\n");
        assert_eq!(scratch.read("two"), "{\"n\":2}\n");
    }

    #[test]
    fn what_waits_at_a_turn_is_written_where_it_was_to_go_even_where_the_queue_is_full() {
        for waiting in [2, 4] {
            let scratch = Scratch::new();
            let to = |name| Opened::open(Destination::File(scratch.file(name))).unwrap();
            let writer = Writer::with_queue(to("one"), 4).unwrap();
            let sink = writer.sink();
            let (begun, has_begun) = mpsc::channel();
            let (go_on, wait) = mpsc::channel();
            assert!(sink.tell(Box::new(Slow(begun, wait.into()))));
            has_begun.recv_timeout(PATIENCE).unwrap();
            let taken = (0..waiting)
                .filter(|&n| sink.tell(Box::new(Line(n))))
                .count();
            assert_eq!(taken, waiting as usize);
            writer.turn_to(to("two"));
            writer.rest();
            go_on.send(()).unwrap();
            eventually(|| writer.counts().written == waiting as u64 + 1);
            drop(sink);
            assert!(writer.finish(PATIENCE));
            let one = scratch.read("one");
            for n in 0..waiting {
                assert!(one.contains(&format!("{{\"n\":{n}}}\n")), "{one}");
            }
            assert_eq!(scratch.read("two"), "");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_goes_on_where_it_was() {
        let scratch = Scratch::new();
        let dir = scratch.file("logs");
        std::fs::create_dir(&dir).unwrap();
        let writer = started(Destination::File(dir.join("log")));
        std::fs::rename(&dir, scratch.file("moved")).unwrap();
        writer.reopen();
        assert!(writer.sink().tell(Box::new(Line(3))));
        assert!(writer.finish(PATIENCE));
        assert_eq!(scratch.read("moved/log"), "{\"n\":3}\n");
    }

    #[test]
    fn an_entry_that_finds_the_queue_full_is_refused_without_waiting() {
        let scratch = Scratch::new();
        let destination = Destination::File(scratch.file("log"));
        let writer = Writer::with_queue(Opened::open(destination).unwrap(), 4).unwrap();
        let sink = writer.sink();
        let (begun, has_begun) = mpsc::channel();
        let (go_on, wait) = mpsc::channel();
        assert!(sink.tell(Box::new(Slow(begun, wait.into()))));
        has_begun.recv_timeout(PATIENCE).unwrap();
        let taken = (0..10).filter(|&n| sink.tell(Box::new(Line(n)))).count();
        assert_eq!(taken, 4);
        // A word to the writer gets through all the same.
        writer.reopen();
        std::fs::remove_file(scratch.file("log")).unwrap();
        go_on.send(()).unwrap();
        eventually(|| scratch.file("log").exists());
        drop(sink);
        assert!(writer.finish(PATIENCE));
    }

    #[test]
    fn what_cannot_be_written_is_counted_as_lost() {
        let writer = started(Destination::File(PathBuf::from("/dev/full")));
        assert!(writer.sink().tell(Box::new(Line(1))));
        eventually(|| writer.counts().lost == 1);
        assert_eq!(writer.counts().written, 0);
    }

    #[test]
    fn a_line_after_a_broken_one_stands_on_its_own() {
        let scratch = Scratch::new();
        let path = scratch.file("log");
        std::fs::write(&path, "{\"half\":").unwrap();
        let file = open(&path).unwrap();
        let broken = true;
        let mut out = Out::File { path, file, broken };
        out.write("{}\n").unwrap();
        out.write("{}\n").unwrap();
        assert_eq!(scratch.read("log"), "{\"half\":\n{}\n{}\n");
    }

    #[test]
    fn a_path_that_cannot_be_written_is_told_at_once() {
        let nowhere = Destination::File(PathBuf::from("/nonexistent/access.jsonl"));
        let error = Opened::open(nowhere).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_pipe_that_nobody_reads_does_not_hold_the_instance_up() {
        let scratch = Scratch::new();
        let path = scratch.file("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        assert!(Opened::open(Destination::File(path)).is_err());
    }

    #[test]
    fn an_entry_of_the_journal_has_a_field_for_each_value() {
        let line = r#"{"pool":"fe","bytes_in":7,"none":null}"#;
        let mut expected = journal::Entry::new(tracing::Level::INFO, TARGET);
        expected.message(line);
        expected.field("BYTES_IN", "7");
        expected.field("POOL", "fe");
        let entry = journal_entry(line);
        assert_eq!(entry, expected);
    }
}
