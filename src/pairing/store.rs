//! Where decisions that must outlive a restart are kept: one file a record, written whole.
//!
//! A [`Store`] holds one named record in the state directory. [`Store::save`] returns once the
//! record is on disk, so what depends on it may be in force afterwards and never before.
//! [`Store::load`] gives back the latest record that is whole, and says where it came from. The
//! store knows nothing of what it keeps, never waits for anything but the disk, and never
//! overwrites what a newer twinpool wrote: [`Store::save_aside`] first gives that another name.
//!
//! # Files
//!
//! | File | Is |
//! |---|---|
//! | `NAME.json` | the record |
//! | `NAME.json.prev` | the one before it |
//! | `NAME.json.tmp`, `NAME.json.prev.tmp` | what a crash left of a save; of no use, never read |
//! | `NAME.json.set-aside`, `NAME.json.prev.set-aside`, …`.2` | what could not be used, kept for a person to look at; never read |
//!
//! Each is one line of header and then the record as JSON, so that a person can read it:
//!
//! ```text
//! {"kind":"decisions","version":1,"length":17,"crc32":1234567,"header_crc32":7654321}
//! {"operators":[]}
//! ```
//!
//! The header stays as it is in every version, so that any twinpool can tell a damaged file from a
//! newer one.
//!
//! # A save
//!
//! ```text
//! 1 write NAME.json.tmp, fsync      2 link NAME.json (if whole) to NAME.json.prev.tmp
//! 3 rename that to NAME.json.prev   4 rename NAME.json.tmp to NAME.json, fsync the directory
//! ```
//!
//! At every moment between, `NAME.json` is the old record or the new one.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the format that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// The longest record, in bytes. The largest there is names every member of every pool with a
/// reason: far less. It bounds the memory that a broken file can cost.
pub const MAX_RECORD: usize = 16 * 1024 * 1024;

/// The longest header, in bytes, line end included.
const MAX_HEADER: usize = 1024;

/// Records name operators and their reasons: for the daemon's user alone.
const FILE_MODE: u32 = 0o600;

/// Files of one record that are set aside, at most: a person is to look before there are so many.
const MOST_ASIDE: u32 = 99;

/// The same for a state directory that is made here; systemd makes its own.
const DIRECTORY_MODE: u32 = 0o700;

/// One named record on disk.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    name: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// Nothing was ever kept here.
    Fresh,
    /// The record.
    Current(T),
    /// The record before it, and why not the latest.
    Previous(T, String),
    /// Neither is whole, and why. What was decided is lost.
    Damaged(String),
}

/// Why a record could not be loaded or saved. What is on disk is as it was.
#[derive(Debug)]
pub enum StoreError {
    /// A name that is no plain file name.
    Name(String),
    /// The directory cannot be made, or is none.
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is there and cannot be read.
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A step of saving failed.
    Write {
        /// What was to be done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was written by another version of twinpool, and is left alone.
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Too many files have been set aside already.
    Aside {
        /// What was to be set aside.
        path: PathBuf,
    },
    /// The record is longer than [`MAX_RECORD`].
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The record cannot be written as JSON.
    Encode(serde_json::Error),
}

/// The first line of a file. Its fields, their order and their writing are fixed for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kind: String,
    version: u32,
    /// Of the body, in bytes.
    length: u64,
    /// Of the body.
    crc32: u32,
    /// Of what precedes, so that a damaged header is not taken for a newer version's.
    header_crc32: u32,
}

/// What is in a file.
enum Content<T> {
    Missing,
    Whole(T),
    Damaged(String),
}

impl Store {
    /// The record `name` in the directory `dir`, which is made if it is not there.
    pub fn open(dir: &Path, name: &str) -> Result<Store, StoreError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(StoreError::Name(name.to_owned()));
        }
        let failed = |source| StoreError::Directory {
            path: dir.to_owned(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(DIRECTORY_MODE);
        builder.create(dir).map_err(failed)?;
        if !fs::metadata(dir).map_err(failed)?.is_dir() {
            return Err(failed(ErrorKind::NotADirectory.into()));
        }
        Ok(Store {
            dir: dir.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The file of the record, for messages.
    pub fn path(&self) -> PathBuf {
        self.file("")
    }

    /// The latest record that is whole.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Loaded<T>, StoreError> {
        let (path, prev) = (self.file(""), self.file(".prev"));
        let why = match decoded(self.read(&path)?, &path) {
            Content::Whole(record) => return Ok(Loaded::Current(record)),
            Content::Damaged(why) => Some(why),
            Content::Missing => None,
        };
        Ok(match (decoded(self.read(&prev)?, &prev), why) {
            (Content::Whole(record), why) => {
                let missing = || format!("{} is missing", path.display());
                Loaded::Previous(record, why.unwrap_or_else(missing))
            }
            (Content::Missing, None) if self.was_set_aside() => Loaded::Damaged(format!(
                "{} was set aside, and nothing was saved since",
                path.display()
            )),
            (Content::Missing, None) => Loaded::Fresh,
            (Content::Missing, Some(why)) => {
                Loaded::Damaged(format!("{why}; there is no previous copy"))
            }
            (Content::Damaged(why), None) => Loaded::Damaged(why),
            (Content::Damaged(prev), Some(why)) => Loaded::Damaged(format!("{why}; {prev}")),
        })
    }

    /// Puts `record` on disk, and the present one in the place of the previous one if it is whole.
    /// Blocks until the disk has it. After an error the present one is still in force, unless the
    /// error is of the last step, the fsync of the directory: then either may be found.
    pub fn save<T: Serialize>(&self, record: &T) -> Result<(), StoreError> {
        self.save_through(record, create)
    }

    /// As [`save`](Self::save) where what is there must not be used and not be lost: another
    /// version's file, one that nobody can read, one about something else. It is given a name that
    /// says so, beside its place. A crash on the way leaves it where it was.
    pub fn save_aside<T: Serialize>(&self, record: &T) -> Result<(), StoreError> {
        let bytes = encode(&self.name, record)?;
        let tmp = self.file(".tmp");
        write_new(&tmp, &bytes, create)?;
        let (path, prev) = (self.file(""), self.file(".prev"));
        self.set_aside(&prev)?;
        self.set_aside(&path)?;
        self.sync()?;
        // The present one still stands, and is no more use than before.
        remove_leftover(&prev)?;
        fs::rename(&tmp, &path).map_err(step("rename", &tmp))?;
        self.sync()
    }

    /// As [`save`](Self::save), with what makes the new file passed in, for tests.
    fn save_through<T: Serialize>(
        &self,
        record: &T,
        create: impl FnOnce(&Path) -> io::Result<File>,
    ) -> Result<(), StoreError> {
        let path = self.file("");
        let keep = match self.read(&path)? {
            Content::Whole(_) => true,
            Content::Missing | Content::Damaged(_) => false,
        };
        // A previous one of another version is not to be lost either.
        self.read(&self.file(".prev"))?;

        let bytes = encode(&self.name, record)?;
        let tmp = self.file(".tmp");
        write_new(&tmp, &bytes, create)?;
        if keep {
            self.keep_present(&path)?;
        }
        fs::rename(&tmp, &path).map_err(step("rename", &tmp))?;
        self.sync()
    }

    /// Gives a file that is there a second name, one that nobody has.
    fn set_aside(&self, path: &Path) -> Result<(), StoreError> {
        let is = match fs::symlink_metadata(path) {
            Ok(is) => is,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(step("look at", path)(source)),
        };
        for n in 1..=MOST_ASIDE {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".set-aside");
            if n > 1 {
                aside.push(format!(".{n}"));
            }
            let aside = PathBuf::from(aside);
            match fs::symlink_metadata(&aside) {
                // By a save that failed later.
                Ok(other) if (other.dev(), other.ino()) == (is.dev(), is.ino()) => return Ok(()),
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(step("look at", &aside)(source)),
            }
            // Where there are no links the file goes; what takes its place is written already.
            return fs::hard_link(path, &aside)
                .or_else(|_| fs::rename(path, &aside))
                .map_err(step("set aside", path));
        }
        Err(StoreError::Aside {
            path: path.to_owned(),
        })
    }

    fn was_set_aside(&self) -> bool {
        let aside = [".set-aside", ".prev.set-aside"].map(|suffix| self.file(suffix));
        aside.iter().any(|file| fs::symlink_metadata(file).is_ok())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(step("sync", &self.dir))
    }

    /// Makes the present record the previous one too.
    fn keep_present(&self, path: &Path) -> Result<(), StoreError> {
        let prev_tmp = self.file(".prev.tmp");
        remove_leftover(&prev_tmp)?;
        if fs::hard_link(path, &prev_tmp).is_err() {
            // A file system without links.
            let copied = fs::copy(path, &prev_tmp).and_then(|_| File::open(&prev_tmp)?.sync_all());
            copied.map_err(step("copy", path))?;
        }
        fs::rename(&prev_tmp, self.file(".prev")).map_err(step("rename", &prev_tmp))?;
        // Renaming one link of a file over another of the same file does nothing, and leaves it.
        remove_leftover(&prev_tmp)
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.json{suffix}", self.name))
    }

    /// The body of a file. Another version's is an error.
    fn read(&self, path: &Path) -> Result<Content<Vec<u8>>, StoreError> {
        let failed = |source| StoreError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Content::Missing),
            Err(error) => return Err(failed(error)),
        };
        let limit = MAX_HEADER + MAX_RECORD;
        let mut bytes = Vec::new();
        file.take(limit as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let damaged = |why: &str| Content::Damaged(format!("{} {why}", path.display()));
        let Some((header, body)) = Header::split(&bytes) else {
            return Ok(damaged("has no valid header"));
        };
        if header.kind != self.name {
            return Ok(damaged(&format!("is a record of {:?}", header.kind)));
        }
        if header.version != VERSION {
            return Err(StoreError::Version {
                path: path.to_owned(),
                found: header.version,
            });
        }
        if header.length != body.len() as u64 {
            let (is, should) = (body.len(), header.length);
            return Ok(damaged(&format!("is cut: {is} bytes of {should}")));
        }
        if header.crc32 != crc32fast::hash(body) {
            return Ok(damaged("has a wrong checksum"));
        }
        Ok(Content::Whole(body.to_vec()))
    }
}

impl Header {
    fn new(kind: &str, version: u32, body: &[u8]) -> Header {
        let mut header = Header {
            kind: kind.to_owned(),
            version,
            length: body.len() as u64,
            crc32: crc32fast::hash(body),
            header_crc32: 0,
        };
        header.header_crc32 = header.own_crc32();
        header
    }

    /// Over all other fields.
    fn own_crc32(&self) -> u32 {
        let Header {
            kind,
            version,
            length,
            crc32,
            header_crc32: _,
        } = self;
        crc32fast::hash(format!("{kind} {version} {length} {crc32}").as_bytes())
    }

    fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("strings and numbers are always JSON");
        line.push(b'\n');
        line
    }

    /// The header and what follows it. None unless it is whole to the last byte, so written as we
    /// write it.
    fn split(bytes: &[u8]) -> Option<(Header, &[u8])> {
        let end = bytes.iter().take(MAX_HEADER).position(|&b| b == b'\n')? + 1;
        let (line, body) = bytes.split_at(end);
        let header: Header = serde_json::from_slice(line).ok()?;
        let whole = header.own_crc32() == header.header_crc32 && header.line() == line;
        whole.then_some((header, body))
    }
}

fn encode<T: Serialize>(kind: &str, record: &T) -> Result<Vec<u8>, StoreError> {
    let mut body = serde_json::to_vec_pretty(record).map_err(StoreError::Encode)?;
    body.push(b'\n');
    if body.len() > MAX_RECORD {
        return Err(StoreError::TooLong { length: body.len() });
    }
    let mut bytes = Header::new(kind, VERSION, &body).line();
    bytes.append(&mut body);
    Ok(bytes)
}

fn decoded<T: DeserializeOwned>(content: Content<Vec<u8>>, path: &Path) -> Content<T> {
    match content {
        Content::Missing => Content::Missing,
        Content::Damaged(why) => Content::Damaged(why),
        Content::Whole(body) => match serde_json::from_slice(&body) {
            Ok(record) => Content::Whole(record),
            Err(error) => {
                let path = path.display();
                Content::Damaged(format!(
                    "{path} holds something else than expected: {error}"
                ))
            }
        },
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    options.open(path)
}

/// Puts `bytes` on disk under a name where nothing is of use; what fails leaves nothing there.
fn write_new(
    path: &Path,
    bytes: &[u8],
    create: impl FnOnce(&Path) -> io::Result<File>,
) -> Result<(), StoreError> {
    remove_leftover(path)?;
    let written = create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| {
        if let Err(second) = remove_leftover(path) {
            tracing::warn!(error = %second, "what is left of a failed save stays");
        }
        step("write", path)(source)
    })
}

fn remove_leftover(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(step("remove", path)(error)),
        _ => Ok(()),
    }
}

fn step(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Write { step, path, source }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Name(name) => write!(
                f,
                "{name:?} cannot name a record; use letters, digits, '-', '_' and '.', no '.' first"
            ),
            StoreError::Directory { path, source } => write!(
                f,
                "cannot use {} as the state directory: {source}",
                path.display()
            ),
            StoreError::Read { path, source } => {
                write!(f, "cannot read {}: {source}", path.display())
            }
            StoreError::Write { step, path, source } => write!(
                f,
                "cannot save: {step} {}: {source}; what was saved before is kept",
                path.display()
            ),
            StoreError::Version { path, found } => write!(
                f,
                "{} was written by another version of twinpool (format {found}, this one knows \
                 {VERSION}) and is left alone; run that version, or move the file away",
                path.display()
            ),
            StoreError::Aside { path } => write!(
                f,
                "cannot save: {} cannot be used, and {MOST_ASIDE} like it have been set aside \
                 already; look at them and remove them",
                path.display()
            ),
            StoreError::TooLong { length } => write!(
                f,
                "cannot save: the record has {length} bytes, {MAX_RECORD} are allowed"
            ),
            StoreError::Encode(error) => write!(f, "cannot save: {error}"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Directory { source, .. }
            | StoreError::Read { source, .. }
            | StoreError::Write { source, .. } => Some(source),
            StoreError::Encode(error) => Some(error),
            StoreError::Name(_)
            | StoreError::Version { .. }
            | StoreError::Aside { .. }
            | StoreError::TooLong { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
