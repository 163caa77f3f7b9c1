//! What was asked and what came, in one line that a tired person reads.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// The longest transcript, in bytes; five of them are kept for each target.
pub const MAX_TRANSCRIPT: usize = 512;

/// The longest piece of a peer's answer in it, in bytes before they are escaped. A status line
/// says what it has to say in less.
const MAX_QUOTE: usize = 80;

/// A line that grows: `connect 10.1.0.11:8443 in 0.4 ms; sent GET /health; got "HTTP/1.1 503
/// Service Unavailable" after 1.2 ms`. Never longer than [`MAX_TRANSCRIPT`], and free of control
/// characters whatever a peer sends.
#[derive(Debug)]
pub(super) struct Transcript {
    text: String,
    start: Instant,
    lap: Instant,
    took: Option<Duration>,
    heard: Vec<u8>,
}

impl Transcript {
    pub(super) fn new(start: Instant) -> Transcript {
        Transcript {
            text: String::new(),
            start,
            lap: start,
            took: None,
            heard: Vec::new(),
        }
    }

    /// Adds our own words.
    pub(super) fn say(&mut self, words: fmt::Arguments<'_>) {
        for c in words.to_string().chars() {
            match c.is_control() {
                true => self.text.extend(c.escape_default()),
                false => self.text.push(c),
            }
        }
    }

    /// Adds how long it took since the last lap: `" in 0.4 ms"`.
    pub(super) fn lap(&mut self, word: &str) {
        let now = Instant::now();
        let took = millis(now - self.lap);
        self.say(format_args!(" {word} {took}"));
        self.lap = now;
    }

    /// Remembers the answer as far as it has come, for [`heard_all`](Self::heard_all) and
    /// [`silence`](Self::silence).
    pub(super) fn hears(&mut self, answer: &[u8]) {
        self.heard.clear();
        self.heard
            .extend_from_slice(&answer[..answer.len().min(MAX_QUOTE + 1)]);
    }

    /// Adds the answer.
    pub(super) fn heard_all(&mut self, closed: bool) {
        match (self.heard.is_empty(), closed) {
            (true, true) => self.text.push_str("; closed without an answer"),
            (true, false) => {}
            (false, true) => {
                self.quote("; closed after only");
                return;
            }
            (false, false) => self.quote("; got"),
        }
        self.lap("after");
    }

    /// Adds that time was up, and what had come by then.
    pub(super) fn silence(&mut self, timeout: Duration) {
        match self.heard.is_empty() {
            true => self.text.push_str("; no answer"),
            false => self.quote("; got only"),
        }
        let timeout = millis(timeout);
        self.say(format_args!(" within {timeout}"));
        self.stop();
    }

    fn quote(&mut self, word: &str) {
        let shown = &self.heard[..self.heard.len().min(MAX_QUOTE)];
        let more = match self.heard.len() > MAX_QUOTE {
            true => "…",
            false => "",
        };
        let quoted = format!("{word} \"{}{more}\"", shown.escape_ascii());
        self.text.push_str(&quoted);
    }

    /// Stops the clock: what follows is not part of the answer.
    pub(super) fn stop(&mut self) {
        self.took.get_or_insert(self.start.elapsed());
    }

    /// How long it took, or has taken so far.
    pub(super) fn took(&self) -> Duration {
        self.took.unwrap_or_else(|| self.start.elapsed())
    }

    pub(super) fn finish(mut self) -> String {
        const ELLIPSIS: char = '…';
        if self.text.len() > MAX_TRANSCRIPT {
            let longest = MAX_TRANSCRIPT - ELLIPSIS.len_utf8();
            let fits = (0..=longest)
                .rev()
                .find(|&end| self.text.is_char_boundary(end));
            let end = fits.unwrap_or(0);
            self.text.truncate(end);
            self.text.push(ELLIPSIS);
        }
        self.text
    }
}

fn millis(span: Duration) -> String {
    let ms = span.as_secs_f64() * 1e3;
    match ms < 10.0 {
        true => format!("{ms:.1} ms"),
        false => format!("{ms:.0} ms"),
    }
}
