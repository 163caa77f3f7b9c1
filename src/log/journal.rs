//! Entries of the journal, by its native protocol: a datagram of fields for each.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. The layer never waits: a journal that takes
//! nothing, because it hangs or is gone, must not hold up those who decide and carry. What it did
//! not take is counted, and told as soon as it takes something again.

use std::fmt::{self, Write};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal takes entries.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Who wrote an entry.
const IDENTIFIER: &str = "twinpool";
/// What names of our own fields begin with.
const PREFIX: &str = "TWINPOOL_";
/// The longest value, in bytes. A dozen of these fit into a datagram.
const LONGEST: usize = 8 << 10;

/// An entry in the making.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry(Vec<u8>);

impl Entry {
    /// One of this level, from this part of the program.
    pub(super) fn new(level: Level, target: &str) -> Entry {
        let mut entry = Entry(Vec::with_capacity(512));
        entry.put("", "PRIORITY", &priority(level).to_string());
        entry.put("", "SYSLOG_IDENTIFIER", IDENTIFIER);
        entry.put("", "TARGET", target);
        entry
    }

    /// What it says.
    pub(super) fn message(&mut self, text: &str) {
        self.put("", "MESSAGE", text);
    }

    /// A field of our own: letters, digits and `_`, in capitals in the journal.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        self.put(PREFIX, name, value);
    }

    fn put(&mut self, prefix: &str, name: &str, value: &str) {
        let mut end = value.len().min(LONGEST);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value.as_bytes()[..end];
        let name = name.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => byte.to_ascii_uppercase(),
            _ => b'_',
        });
        self.0.extend_from_slice(prefix.as_bytes());
        self.0.extend(name);
        if value.contains(&b'\n') {
            // With its length: a line's end does not end it.
            self.0.push(b'\n');
            self.0
                .extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }
}

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// Finds it.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(super) fn open() -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        // An empty entry is thrown away there.
        socket.send_to(&[], SOCKET)?;
        Ok(Journal(socket))
    }

    /// Hands an entry over. By its path, so that another journal in its place is found.
    pub(super) fn send(&self, entry: &Entry) -> io::Result<()> {
        self.0.send_to(&entry.0, SOCKET).map(drop)
    }
}

/// Writes events to the journal, with their fields.
#[derive(Debug)]
pub(super) struct ToJournal {
    journal: Journal,
    /// Entries that it did not take.
    lost: AtomicU64,
}

impl ToJournal {
    /// See [`Journal::open`].
    pub(super) fn open() -> io::Result<ToJournal> {
        let journal = Journal::open()?;
        journal.0.set_nonblocking(true)?;
        Ok(ToJournal {
            journal,
            lost: AtomicU64::new(0),
        })
    }

    fn tell(&self, entry: &Entry) {
        if self.journal.send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost == 0 {
            return;
        }
        let mut told = Entry::new(Level::WARN, module_path!());
        told.message(&format!(
            "{lost} entries before this were lost: the journal took none"
        ));
        if self.journal.send(&told).is_err() {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

impl<S: Subscriber> Layer<S> for ToJournal {
    fn on_event(&self, event: &Event<'_>, _ctx: Context<'_, S>) {
        let metadata = event.metadata();
        let mut entry = Entry::new(*metadata.level(), metadata.target());
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            entry.put("", "CODE_FILE", file);
            entry.put("", "CODE_LINE", &line.to_string());
        }
        event.record(&mut Fields(&mut entry));
        self.tell(&entry);
    }
}

struct Fields<'a>(&'a mut Entry);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        write!(text, "{value:?}").expect("writing to a string does not fail");
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.0.message(value),
            name => self.0.field(name, value),
        }
    }
}

/// As `syslog.h` has it.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(build: impl FnOnce(&mut Entry)) -> Vec<u8> {
        let mut entry = Entry(Vec::new());
        build(&mut entry);
        entry.0
    }

    #[test]
    fn an_entry_begins_with_who_wrote_it_and_how_bad_it_is() {
        let entry = Entry::new(Level::WARN, "twinpool::x");
        let expected = "PRIORITY=4\nSYSLOG_IDENTIFIER=twinpool\nTARGET=twinpool::x\n";
        assert_eq!(entry.0, expected.as_bytes());
    }

    #[test]
    fn a_value_of_several_lines_cannot_forge_a_field() {
        let entry = written(|entry| entry.message("first\nPRIORITY=0"));
        let mut expected = b"MESSAGE\n".to_vec();
        expected.extend(16_u64.to_le_bytes());
        expected.extend(b"first\nPRIORITY=0\n");
        assert_eq!(entry, expected);
    }

    #[test]
    fn names_are_such_as_the_journal_takes() {
        let entry = written(|entry| entry.field("bytes-in.é", "7"));
        assert_eq!(entry, b"TWINPOOL_BYTES_IN___=7\n");
    }

    #[test]
    fn a_long_value_is_cut_where_a_character_ends() {
        let entry = written(|entry| entry.message(&"é".repeat(LONGEST)));
        let text = String::from_utf8(entry).unwrap();
        assert!(text.len() <= LONGEST + "MESSAGE=\n".len());
    }
}
