//! `[log]`: what is told, in which form, and where sessions are.

use std::path::PathBuf;

use super::Log;
use super::diagnostic::Diagnostic;
use super::reader::{Table, nearest};
use crate::log::access::Destination;
use crate::log::{Format, Level, Settings};

const FORMATS: [(&str, Format); 4] = [
    ("auto", Format::Auto),
    ("text", Format::Text),
    ("json", Format::Json),
    ("journal", Format::Journal),
];
const ACCESS: &str = "/var/log/twinpool/access.jsonl";

/// How a form is written.
pub(super) fn word(format: Format) -> &'static str {
    let is_it = |(_, form): &&(&'static str, Format)| *form == format;
    FORMATS.iter().find(is_it).map_or("auto", |(word, _)| word)
}

/// Reads the section.
pub(super) fn read(table: &Table<'_>) -> Log {
    Log {
        settings: Settings {
            format: table.word("format", &FORMATS).unwrap_or_default(),
            level: level(table).unwrap_or_default(),
        },
        access: access(table),
    }
}

fn level(table: &Table<'_>) -> Option<Level> {
    let (text, place) = table.string("level")?;
    match Level::parse(&text) {
        Ok(level) => Some(level),
        Err(wrong) => {
            table.note(Diagnostic::new(wrong.message, place).help(wrong.help));
            None
        }
    }
}

fn access(table: &Table<'_>) -> Option<Destination> {
    let (text, place) = table.string("access")?;
    let wrong = |message: String, help: String| {
        table.note(Diagnostic::new(message, place.clone()).help(help));
        None
    };
    match text.as_str() {
        "journal" => Some(Destination::Journal),
        "stderr" => Some(Destination::Stderr),
        path if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => {
            Some(Destination::File(PathBuf::from(path)))
        }
        path if path.starts_with('/') => wrong(
            "`access` is not the path of a file".to_owned(),
            format!("write `access = \"{ACCESS}\"`"),
        ),
        other => {
            let message = format!(
                "`access` is no absolute path, and not `journal` or `stderr`: `{}`",
                other.chars().take(64).collect::<String>().escape_debug()
            );
            let help = match nearest(other, ["journal", "stderr"].into_iter()) {
                Some(near) => format!("write `{near}`"),
                None => format!("write `access = \"{ACCESS}\"`, or leave it out for none"),
            };
            wrong(message, help)
        }
    }
}
