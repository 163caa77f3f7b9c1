//! What is wrong with a configuration, where, and what to write instead.

use std::fmt;
use std::io;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// One mistake, or one thing that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// Where, in bytes of the file.
    pub place: Option<Range<usize>>,
    /// What stands there, in a few words.
    pub label: String,
    /// Another place that it has to do with.
    pub also: Option<(Range<usize>, String)>,
    /// What to write instead.
    pub help: Option<String>,
    /// Whether it does not keep the configuration from running.
    pub is_warning: bool,
}

/// Everything that is wrong with one file.
#[derive(Clone)]
pub struct Errors {
    file: String,
    text: String,
    diagnostics: Vec<Diagnostic>,
}

impl Diagnostic {
    /// An error at a place.
    pub(super) fn new(message: impl Into<String>, place: Range<usize>) -> Diagnostic {
        Diagnostic {
            message: message.into(),
            place: Some(place),
            label: String::new(),
            also: None,
            help: None,
            is_warning: false,
        }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = label.into();
        self
    }

    pub(super) fn also(mut self, place: Range<usize>, label: impl Into<String>) -> Diagnostic {
        self.also = Some((place, label.into()));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    pub(super) fn warning(mut self) -> Diagnostic {
        self.is_warning = true;
        self
    }
}

impl Errors {
    pub(super) fn new(file: &str, text: &str, mut diagnostics: Vec<Diagnostic>) -> Errors {
        diagnostics.sort_by_key(|diagnostic| diagnostic.place.as_ref().map(|place| place.start));
        diagnostics.dedup();
        Errors {
            file: file.to_owned(),
            text: text.to_owned(),
            diagnostics,
        }
    }

    pub(super) fn unreadable(file: &str, error: &io::Error) -> Errors {
        let help = match error.kind() {
            io::ErrorKind::NotFound => {
                "name the file: `twinpool run CONFIG`; without it \
                 /etc/twinpool/twinpool.toml is read"
            }
            io::ErrorKind::PermissionDenied => "let this user read it, or run as one who may",
            io::ErrorKind::InvalidData => "write it in UTF-8",
            _ => "name a plain file",
        };
        Errors {
            file: file.to_owned(),
            text: String::new(),
            diagnostics: vec![Diagnostic {
                message: format!("cannot read {file}: {error}"),
                place: None,
                label: String::new(),
                also: None,
                help: Some(help.to_owned()),
                is_warning: false,
            }],
        }
    }

    /// Each of them, in the file's order.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// All of them as a person reads them, each with its line and a caret.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut page = String::new();
        for diagnostic in &self.diagnostics {
            page.push_str(&renderer.render(&self.report(diagnostic)));
            page.push_str("\n\n");
        }
        let errors = self.diagnostics.iter().filter(|d| !d.is_warning).count();
        match errors {
            0 => {}
            1 => page.push_str("1 error; nothing was started or changed\n"),
            n => page.push_str(&format!("{n} errors; nothing was started or changed\n")),
        }
        page
    }

    fn report<'a>(&'a self, diagnostic: &'a Diagnostic) -> Vec<Group<'a>> {
        let level = if diagnostic.is_warning {
            Level::WARNING
        } else {
            Level::ERROR
        };
        let title = level.primary_title(diagnostic.message.as_str());
        let mut group = match &diagnostic.place {
            None => Group::with_title(title),
            Some(place) => {
                let primary = AnnotationKind::Primary.span(self.within(place));
                let mut snippet = Snippet::source(self.text.as_str())
                    .path(self.file.as_str())
                    .annotation(primary.label(diagnostic.label.as_str()));
                if let Some((place, label)) = &diagnostic.also {
                    let context = AnnotationKind::Context.span(self.within(place));
                    snippet = snippet.annotation(context.label(label.as_str()));
                }
                title.element(snippet)
            }
        };
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        vec![group]
    }

    /// A place that lies within the text, on its first line alone: a table's caret should not
    /// underline a page.
    fn within(&self, place: &Range<usize>) -> Range<usize> {
        let start = floor(&self.text, place.start);
        let end = floor(&self.text, place.end).max(start);
        let line = self.text[start..end]
            .find('\n')
            .map_or(end, |at| start + at);
        start..line
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errors {}
