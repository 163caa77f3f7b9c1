//! A typed reader over spanned TOML that notes every mistake and goes on.
//!
//! A table knows which of its keys were asked for; what is left over when it is dropped was
//! misspelt or does not exist, and is told with the nearest key that does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::duration;

/// The diagnostics of one reading.
#[derive(Debug, Default)]
pub(super) struct Notes {
    noted: RefCell<Vec<Diagnostic>>,
    /// Keys that were asked for, by kind of table, for [`known_keys`].
    asked: RefCell<BTreeSet<(&'static str, &'static str)>>,
}

/// A table, or an absent one that has no keys.
pub(super) struct Table<'a> {
    notes: &'a Notes,
    /// What kind of table it is, as messages name it.
    kind: &'static str,
    span: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
    asked: RefCell<Vec<&'static str>>,
    /// Its keys are names, or nobody looks at them.
    open: Cell<bool>,
    /// Something else than a table stands there, and that was told.
    is_misread: bool,
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub(super) key: String,
    pub(super) span: Range<usize>,
    pub(super) raw: &'a DeValue<'a>,
}

impl Notes {
    pub(super) fn note(&self, diagnostic: Diagnostic) {
        self.noted.borrow_mut().push(diagnostic);
    }

    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.noted.into_inner()
    }
}

impl<'a> Table<'a> {
    pub(super) fn new(
        notes: &'a Notes,
        kind: &'static str,
        span: Range<usize>,
        entries: Option<&'a DeTable<'a>>,
    ) -> Table<'a> {
        Table {
            notes,
            kind,
            span,
            entries,
            asked: RefCell::default(),
            open: Cell::new(false),
            is_misread: false,
        }
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(super) fn note(&self, diagnostic: Diagnostic) {
        self.notes.note(diagnostic);
    }

    /// Whether something else than a table stood there, so that what lacks in it says nothing.
    pub(super) fn is_misread(&self) -> bool {
        self.is_misread
    }

    /// Leaves its keys unread: what is above them is wrong already.
    pub(super) fn ignore(&self) {
        self.open.set(true);
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().push(key);
        self.notes.asked.borrow_mut().insert((self.kind, key));
        let (_, value) = self.entries?.iter().find(|(k, _)| k.get_ref() == key)?;
        Some(Value {
            key: key.to_owned(),
            span: value.span(),
            raw: value.get_ref(),
        })
    }

    /// The keys are names, not fixed ones: each with its place, in file order.
    pub(super) fn named(&self) -> Vec<(String, Range<usize>, Value<'a>)> {
        self.open.set(true);
        let mut all: Vec<_> = self
            .entries
            .into_iter()
            .flat_map(|entries| entries.iter())
            .map(|(key, value)| {
                let name = key.get_ref().to_string();
                let value = Value {
                    key: name.clone(),
                    span: value.span(),
                    raw: value.get_ref(),
                };
                (name, key.span(), value)
            })
            .collect();
        all.sort_by_key(|(_, place, _)| place.start);
        all
    }

    /// A table below this one, or an absent one.
    pub(super) fn table(&self, key: &'static str, kind: &'static str) -> Table<'a> {
        match self.get(key) {
            Some(value) => self.as_table(&value, kind),
            None => Table::new(self.notes, kind, self.span(), None),
        }
    }

    /// A value as a table.
    pub(super) fn as_table(&self, value: &Value<'a>, kind: &'static str) -> Table<'a> {
        let entries = value.raw.as_table();
        if entries.is_none() {
            let example = match kind {
                "members" => "{ fe1 = \"10.1.0.11\" }",
                "services" => "{ sip = { listen = \"10.1.0.10:5061\" } }",
                "service" => "{ listen = \"10.1.0.10:5061\" }",
                "check" => "{ kind = \"tcp\" }",
                "connect" => "{ budget = \"2s\" }",
                "pair" => "{ pools = [\"fe-seoul\", \"fe-busan\"] }",
                _ => "{ … }",
            };
            self.wrong_type(value, "a table", example);
        }
        let mut table = Table::new(self.notes, kind, value.span.clone(), entries);
        table.is_misread = entries.is_none();
        table
    }

    pub(super) fn string(&self, key: &'static str) -> Option<(String, Range<usize>)> {
        let value = self.get(key)?;
        self.as_string(&value).map(|text| (text, value.span))
    }

    pub(super) fn as_string(&self, value: &Value<'a>) -> Option<String> {
        match value.raw.as_str() {
            Some(text) => Some(text.to_owned()),
            None => {
                self.wrong_type(value, "a string", "\"…\"");
                None
            }
        }
    }

    pub(super) fn bool(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        match value.raw.as_bool() {
            Some(yes) => Some(yes),
            None => {
                self.wrong_type(&value, "true or false", "true");
                None
            }
        }
    }

    pub(super) fn integer(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.get(key)?;
        self.as_integer(&value, range)
    }

    pub(super) fn as_integer(&self, value: &Value<'a>, range: RangeInclusive<u32>) -> Option<u32> {
        let (least, most) = (range.start(), range.end());
        let Some(number) = value.raw.as_integer() else {
            self.wrong_type(value, "a whole number", &least.max(&1).to_string());
            return None;
        };
        let number = i64::from_str_radix(number.as_str(), number.radix());
        match number.ok().and_then(|n| u32::try_from(n).ok()) {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                let message = format!("`{}` is out of range", value.key);
                let help = format!("write a number from {least} to {most}");
                self.note(Diagnostic::new(message, value.span.clone()).help(help));
                None
            }
        }
    }

    /// A duration of at least a millisecond.
    pub(super) fn duration(&self, key: &'static str) -> Option<Duration> {
        self.duration_from(key, Duration::from_millis(1))
    }

    /// A duration, `0s` to turn off what it times.
    pub(super) fn duration_or_none(&self, key: &'static str) -> Option<Duration> {
        self.duration_from(key, Duration::ZERO)
    }

    fn duration_from(&self, key: &'static str, least: Duration) -> Option<Duration> {
        let value = self.get(key)?;
        let refuse = |help: String| {
            let message = format!("`{key}` is not a duration");
            self.note(Diagnostic::new(message, value.span.clone()).help(help));
            None
        };
        let text = match value.raw {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.as_str().to_owned(),
            other => return refuse(format!("write \"5s\" instead of {}", a(other.type_str()))),
        };
        match duration::parse(&text) {
            Ok(duration) if duration < least => {
                refuse("nothing is too short; write at least \"1ms\"".to_owned())
            }
            Ok(duration) => Some(duration),
            Err(help) => refuse(help),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let value = self.get(key)?;
        let Some(text) = value.raw.as_str() else {
            let example = words.first().map_or("…", |(word, _)| word);
            self.wrong_type(&value, "a word", &format!("\"{example}\""));
            return None;
        };
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let known = words.iter().map(|(word, _)| *word);
            self.note(unknown(&format!("`{key}`"), text, value.span, known));
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// A list of names, each with its place; whatever else stands in it is told.
    pub(super) fn names(
        &self,
        key: &'static str,
        example: &str,
    ) -> Option<Vec<(String, Range<usize>)>> {
        let value = self.get(key)?;
        if value.raw.as_array().is_none() {
            self.wrong_type(&value, "a list of names", example);
            return None;
        }
        Some(self.listed_names(&value, example))
    }

    /// A name, or a list of names; none is an empty list.
    pub(super) fn name_or_names(
        &self,
        key: &'static str,
        example: &str,
    ) -> Vec<(String, Range<usize>)> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        if let Some(name) = value.raw.as_str() {
            return vec![(name.to_owned(), value.span)];
        }
        if value.raw.as_array().is_none() {
            self.wrong_type(&value, "a name or a list of names", example);
        }
        self.listed_names(&value, example)
    }

    fn listed_names(&self, value: &Value<'a>, example: &str) -> Vec<(String, Range<usize>)> {
        let mut names = Vec::new();
        let key = &value.key;
        for entry in value
            .raw
            .as_array()
            .into_iter()
            .flat_map(|list| list.iter())
        {
            match entry.get_ref().as_str() {
                Some(name) => names.push((name.to_owned(), entry.span())),
                None => {
                    let message = format!("`{key}` holds something else than a name");
                    let label = format!("this is {}", a(entry.get_ref().type_str()));
                    let help = format!("write names in quotes, `{key} = {example}`");
                    let diagnostic = Diagnostic::new(message, entry.span());
                    self.note(diagnostic.label(label).help(help));
                }
            }
        }
        names
    }

    pub(super) fn wrong_type(&self, value: &Value<'a>, wanted: &str, example: &str) {
        let message = format!("`{}` must be {wanted}", value.key);
        let found = format!("this is {}", a(value.raw.type_str()));
        let help = format!("write `{} = {example}`", value.key);
        self.note(
            Diagnostic::new(message, value.span.clone())
                .label(found)
                .help(help),
        );
    }
}

impl Drop for Table<'_> {
    /// Whatever was not asked for is not a key of this kind of table.
    fn drop(&mut self) {
        if self.open.get() {
            return;
        }
        let asked = self.asked.borrow();
        for (key, _) in self.entries.into_iter().flat_map(|entries| entries.iter()) {
            let name = key.get_ref();
            if !asked.iter().any(|known| *known == name.as_ref()) {
                let known = asked.iter().copied();
                let what = format!("key in {}", self.kind);
                self.note(unknown(&what, name, key.span(), known));
            }
        }
    }
}

/// Something that does not exist, with the nearest that does, or all that do.
pub(super) fn unknown<'k>(
    what: &str,
    name: &str,
    place: Range<usize>,
    known: impl Iterator<Item = &'k str>,
) -> Diagnostic {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    known.dedup();
    let help = match nearest(name, known.iter().copied()) {
        Some(near) => format!("write `{near}`"),
        None if known.is_empty() => "leave it out".to_owned(),
        None => format!("there are: {}", known.join(", ")),
    };
    let shown: String = name.chars().take(64).collect();
    Diagnostic::new(format!("unknown {what}: `{}`", shown.escape_debug()), place).help(help)
}

/// What was probably meant.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .map(|(_, known)| known)
}

/// Every key that reading `text` asked for, with the kind of its table: what the reference has to
/// mention.
pub fn known_keys(text: &str) -> Vec<(&'static str, &'static str)> {
    let notes = Notes::default();
    super::resolve::read(text, &notes);
    notes.asked.into_inner().into_iter().collect()
}

fn a(kind: &str) -> String {
    match kind.chars().next() {
        Some('a' | 'e' | 'i' | 'o') => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}
