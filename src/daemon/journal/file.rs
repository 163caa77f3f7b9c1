//! The event log on disk: one event a line as JSON, in two files of bounded size.
//!
//! Lines are appended to `events.jsonl`; once that is full it becomes `events.1.jsonl`, in the place
//! of the one before. The file is opened anew for every write, so that whoever moves or removes it
//! is not in the way. Every call here blocks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::observe::events::{Event, KEPT};

/// The file that is written.
pub(super) const NAME: &str = "events.jsonl";
/// The one before it.
pub(super) const OLDER: &str = "events.1.jsonl";
/// How long a file gets, in bytes: some 15,000 events, more than are kept in memory.
pub(super) const LARGEST: u64 = 4 * 1024 * 1024;
/// No event is as long, in bytes; what is longer is not read.
const LONGEST_LINE: usize = 64 * 1024;
/// Owner and group may read what operators did and why.
const MODE: u32 = 0o640;
/// A state directory that is made here is the daemon's own; systemd makes its own.
const DIRECTORY_MODE: u32 = 0o700;

/// What is in the files.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// As they were written, oldest first; no more than are kept in memory.
    pub(super) events: Vec<Event>,
    /// Lines that are no events.
    pub(super) unreadable: u64,
}

/// An event as it stands in the file.
pub(super) fn line(event: &Event) -> String {
    let mut line = serde_json::to_string(event).expect("plain data with string keys is JSON");
    line.push('\n');
    line
}

/// What both files hold, as far as it can be read.
pub(super) fn read(dir: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    for name in [OLDER, NAME] {
        let bytes = tail(&dir.join(name))?;
        for line in bytes.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let event = match line.len() {
                ..=LONGEST_LINE => serde_json::from_slice(line).ok(),
                _ => None,
            };
            match event {
                Some(event) => found.events.push(event),
                None => found.unreadable += 1,
            }
        }
    }
    let over = found.events.len().saturating_sub(KEPT);
    found.events.drain(..over);
    Ok(found)
}

/// Adds whole lines, and returns once they are on disk. After an error none of them is there, as
/// far as that can be seen to.
pub(super) fn append(dir: &Path, lines: &str) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE);
    builder.create(dir)?;
    let path = dir.join(NAME);
    let (mut file, mut length) = open(&path)?;
    if length > 0 && length + lines.len() as u64 > LARGEST {
        fs::rename(&path, dir.join(OLDER))?;
        (file, length) = open(&path)?;
    }
    let written = complete(&mut file, length)
        .and_then(|()| file.write_all(lines.as_bytes()))
        .and_then(|()| file.sync_data());
    if let Err(error) = written {
        // Half a line is worse than none. Where not even this can be done, the next write ends it.
        if let Err(error) = file.set_len(length) {
            tracing::debug!(%error, "half a line may be left in the event log");
        }
        return Err(error);
    }
    Ok(())
}

/// Opens the file to append, and gives its length.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(no_waiting())
        .open(path)?;
    let length = regular(&file)?;
    Ok((file, length))
}

/// Ends a line that was cut off, so that the next one stands by itself.
fn complete(file: &mut File, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(length - 1))?;
    file.read_exact(&mut last)?;
    match last {
        [b'\n'] => Ok(()),
        _ => file.write_all(b"\n"),
    }
}

/// The end of a file, from the start of a line on: all of it unless something else than this has
/// written it. Nothing where there is none.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(no_waiting())
        .open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = regular(&file)?;
    // One batch may go beyond the bound.
    let most = LARGEST * 2;
    let skipped = length.saturating_sub(most);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    if skipped > 0 {
        let first = bytes.iter().position(|byte| *byte == b'\n');
        bytes.drain(..first.map_or(bytes.len(), |at| at + 1));
    }
    Ok(bytes)
}

/// A pipe that stands in the place of the file is not waited for.
fn no_waiting() -> i32 {
    OFlags::NONBLOCK.bits().cast_signed()
}

fn regular(file: &File) -> io::Result<u64> {
    let found = file.metadata()?;
    match found.is_file() {
        true => Ok(found.len()),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "the event log is not a plain file",
        )),
    }
}
