//! [`Format`]: in which form the log is written, and how plain lines look.

use std::fmt;
use std::io::{self, IsTerminal};

use jiff::{Timestamp, Zoned};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::EVENTS;
use super::journal::priority;

/// How systemd says that stderr is the journal: by the device and inode of its socket.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// In which form the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// What suits stderr: the journal, a terminal, or lines for whatever else.
    #[default]
    Auto,
    /// Lines, in colour on a terminal.
    Text,
    /// A JSON object a line.
    Json,
    /// The journal, wherever stderr goes.
    Journal,
}

/// What stderr is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stderr {
    Journal,
    Terminal,
    Other,
}

/// Where events go, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// To the journal's socket, with their fields.
    Journal,
    /// To the journal's end of stderr, as lines that it knows the priority of.
    JournalLines,
    /// To a person, in colour with a short local time.
    Terminal,
    /// As lines with a full timestamp.
    Lines,
    /// As JSON.
    Json,
}

impl Format {
    /// What this means where stderr is that.
    pub(super) fn output(self, stderr: Stderr) -> Output {
        match (self, stderr) {
            (Format::Journal, _) | (Format::Auto, Stderr::Journal) => Output::Journal,
            (Format::Json, _) => Output::Json,
            (Format::Auto | Format::Text, Stderr::Terminal) => Output::Terminal,
            (Format::Text, Stderr::Journal) => Output::JournalLines,
            (Format::Auto | Format::Text, Stderr::Other) => Output::Lines,
        }
    }
}

impl Stderr {
    /// What it is in this process.
    pub(super) fn look() -> Stderr {
        let stream = std::env::var(JOURNAL_STREAM).ok();
        let file = rustix::fs::fstat(io::stderr()).ok();
        let file = file.map(|stat| (stat.st_dev, stat.st_ino));
        match stream.zip(file) {
            Some((stream, file)) if names(&stream, file) => Stderr::Journal,
            _ if io::stderr().is_terminal() => Stderr::Terminal,
            _ => Stderr::Other,
        }
    }
}

/// Whether `DEVICE:INODE` names this file. What is started by a unit inherits the variable, and may
/// have a stderr of its own.
fn names(stream: &str, (device, inode): (u64, u64)) -> bool {
    let Some((of, number)) = stream.split_once(':') else {
        return false;
    };
    of.parse() == Ok(device) && number.parse() == Ok(inode)
}

/// Plain lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    time: When,
    /// Whether a line begins with the priority, as the journal reads it from a stderr.
    priority: bool,
}

#[derive(Clone, Copy, Debug)]
enum When {
    /// Whoever reads the lines knows.
    Never,
    /// Of the day, where this machine stands.
    Local,
    /// In full, in UTC.
    Full,
}

impl Text {
    pub(super) const FOR_TERMINAL: Text = Text {
        time: When::Local,
        priority: false,
    };
    pub(super) const PLAIN: Text = Text {
        time: When::Full,
        priority: false,
    };
    pub(super) const FOR_JOURNAL: Text = Text {
        time: When::Never,
        priority: true,
    };
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let level = *metadata.level();
        let ansi = writer.has_ansi_escapes();
        let (dim, plain) = if ansi {
            ("\x1b[2m", "\x1b[0m")
        } else {
            ("", "")
        };
        if self.priority {
            write!(writer, "<{}>", priority(level))?;
        }
        match self.time {
            When::Never => {}
            When::Local => {
                let time = Zoned::now().strftime("%H:%M:%S%.3f").to_string();
                write!(writer, "{dim}{time}{plain} ")?;
            }
            When::Full => write!(writer, "{:.6} ", Timestamp::now())?,
        }
        if !self.priority {
            let colour = if ansi { colour(level) } else { "" };
            write!(writer, "{colour}{level:>5}{plain} ")?;
        }
        write!(writer, "{dim}{}:{plain} ", metadata.target())?;
        if metadata.target() == EVENTS {
            // The sentence says all that the fields do.
            let mut message = Message(writer.by_ref(), Ok(()));
            event.record(&mut message);
            message.1?;
        } else {
            ctx.format_fields(writer.by_ref(), event)?;
        }
        writeln!(writer)
    }
}

/// Writes the message alone.
struct Message<'a>(Writer<'a>, fmt::Result);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" && self.1.is_ok() {
            self.1 = write!(self.0, "{value:?}");
        }
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing::subscriber::with_default;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn the_form_follows_what_stderr_is_unless_it_is_told() {
        use Output as O;
        let all = [Stderr::Journal, Stderr::Terminal, Stderr::Other];
        let outputs = |format: Format| all.map(|stderr| format.output(stderr));
        assert_eq!(outputs(Format::Auto), [O::Journal, O::Terminal, O::Lines]);
        assert_eq!(
            outputs(Format::Text),
            [O::JournalLines, O::Terminal, O::Lines]
        );
        assert_eq!(outputs(Format::Json), [O::Json; 3]);
        assert_eq!(outputs(Format::Journal), [O::Journal; 3]);
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(names("9:1234", (9, 1234)));
        for other in [
            "9:1235", "8:1234", "9", "", ":", "9:1234:", "x:1234", "-9:1234",
        ] {
            assert!(!names(other, (9, 1234)), "{other}");
        }
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(text: Text, ansi: bool, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = tracing_subscriber::fmt::layer()
            .event_format(text)
            .with_ansi(ansi)
            .with_writer(move || writer.clone());
        with_default(tracing_subscriber::registry().with(lines), log);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn one_of_each() {
        tracing::warn!(target: "twinpool::x", count = 3, "told");
        tracing::info!(target: EVENTS, pool = "fe", "fe: serving → lost");
    }

    #[test]
    fn lines_for_the_journal_have_a_priority_and_no_time() {
        let lines = written(Text::FOR_JOURNAL, false, one_of_each);
        let expected = "<4>twinpool::x: told count=3\n\
                        <6>twinpool::events: fe: serving → lost\n";
        assert_eq!(lines, expected);
    }

    #[test]
    fn plain_lines_have_a_full_time_and_no_colour() {
        let lines = written(Text::PLAIN, false, one_of_each);
        let (time, rest) = lines.split_once(' ').unwrap();
        assert!(
            time.parse::<Timestamp>().is_ok() && time.len() == 27,
            "{time}"
        );
        assert!(
            rest.starts_with(" WARN twinpool::x: told count=3\n"),
            "{rest}"
        );
        assert!(!lines.contains('\x1b'));
    }

    #[test]
    fn a_terminal_sees_colour_and_a_short_time() {
        let lines = written(Text::FOR_TERMINAL, true, one_of_each);
        let begin = lines.strip_prefix("\x1b[2m").unwrap();
        let time = begin.split('\x1b').next().unwrap();
        assert_eq!(time.len(), "06:45:12.123".len(), "{time}");
        assert!(lines.contains("\x1b[33m WARN\x1b[0m"), "{lines:?}");
    }
}
