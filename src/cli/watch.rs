//! `twinpool status --watch`: the status page, drawn again and again in its place.
//!
//! On a terminal it has a screen of its own, which it gives back however it ends; elsewhere one page
//! follows the other. A daemon that does not answer is waited for: the page says since when, above
//! what was known last. What does not fit is left out from the end, where the least urgent stands.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::client::{AskError, Client};
use super::paint::{Ink, Look, harmless, lines_of_stdout, wrap};
use super::{Failed, page};
use crate::clock;
use crate::config::duration;
use crate::observe::stamp::{Stamp, span};
use crate::observe::status::Status;

/// The shortest pause between two drawings: nobody reads faster.
const LEAST: Duration = Duration::from_millis(100);
/// The longest.
const MOST: Duration = Duration::from_secs(3_600);

/// Another screen, without a cursor, and lines that are cut and not broken.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
/// The screen as it was.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Draws until interrupted.
pub(super) async fn watch(
    client: &Client,
    every: Duration,
    out: &mut impl Write,
) -> Result<(), Failed> {
    let mut interrupted = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ];
    let is_terminal = io::stdout().is_terminal();
    if is_terminal {
        write!(out, "{ENTER}")?;
    }
    let drawn = tokio::select! {
        drawn = draw(client, every, is_terminal, out) => drawn,
        () = any(&mut interrupted) => Ok(()),
    };
    if is_terminal {
        write!(io::stdout(), "{LEAVE}")?;
        io::stdout().flush()?;
    }
    drawn
}

async fn any([a, b, c]: &mut [Signal; 3]) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
        _ = c.recv() => {}
    }
}

async fn draw(
    client: &Client,
    every: Duration,
    is_terminal: bool,
    out: &mut impl Write,
) -> Result<(), Failed> {
    let mut watched = Watched::default();
    loop {
        watched.take(client.status().await, clock::wall().into());
        let page = watched.page(Look::of_stdout(), clock::wall().into());
        match lines_of_stdout().filter(|_| is_terminal) {
            Some(lines) => write!(out, "{}", redrawn(&page, lines))?,
            None => writeln!(out, "{page}")?,
        }
        out.flush()?;
        sleep(every).await;
    }
}

/// What is known of the daemon.
#[derive(Default)]
struct Watched {
    status: Option<Status>,
    /// Since when it does not answer, and how that showed last.
    gone: Option<(Stamp, String)>,
}

impl Watched {
    fn take(&mut self, answer: Result<Status, AskError>, now: Stamp) {
        match answer {
            Ok(status) => {
                self.status = Some(status);
                self.gone = None;
            }
            Err(error) => {
                let since = self.gone.take().map_or(now, |(since, _)| since);
                self.gone = Some((since, error.to_string()));
            }
        }
    }

    fn page(&self, look: Look, now: Stamp) -> String {
        let known = self.status.as_ref();
        let Some((since, error)) = &self.gone else {
            return known.map_or_else(String::new, |status| page::page(status, look));
        };
        let told = format!(
            "no answer since {} UTC ({}): {}",
            since.clock_face(now),
            span(now.since(*since)),
            harmless(error)
        );
        let mut told = format!("{}\n", look.ink(Ink::Bad, &wrap(&told, look.width, 0)));
        if let Some(status) = known {
            let before = format!("\nas it was at {}:\n", status.now.in_full());
            told += &look.ink(Ink::Faint, &before);
            told += &page::page(status, look);
        }
        told
    }
}

/// From the top left corner: each line cleared to its end, and everything below cleared. What has no
/// room is counted in the last line.
fn redrawn(page: &str, lines: usize) -> String {
    let all: Vec<&str> = page.lines().collect();
    let room = lines.saturating_sub(1).max(1);
    let mut shown: Vec<String> = all
        .iter()
        .take(room)
        .map(|line| (*line).to_owned())
        .collect();
    if all.len() > room {
        let more = all.len() - room + 1;
        shown.pop();
        shown.push(format!("… {more} more lines: `twinpool status` has them"));
    }
    format!("\x1b[H{}\x1b[K\n\x1b[J", shown.join("\x1b[K\n"))
}

/// How often, as it is typed.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let every = duration::parse(text)?;
    match (LEAST..=MOST).contains(&every) {
        true => Ok(every),
        false => Err("write a span from 100ms to 1h, like \"1s\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::observe::sample;

    const LOOK: Look = Look {
        width: 80,
        colour: false,
    };

    #[test]
    fn it_is_drawn_from_the_corner_over_what_was_there() {
        assert_eq!(
            redrawn("a\nb\nc\n", 24),
            "\x1b[Ha\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[J"
        );
    }

    #[test]
    fn what_does_not_fit_is_left_out_from_the_end_and_counted() {
        let drawn = redrawn("a\nb\nc\nd\n", 4);
        assert_eq!(
            drawn,
            "\x1b[Ha\x1b[K\nb\x1b[K\n… 2 more lines: `twinpool status` has them\x1b[K\n\x1b[J"
        );
        let page = page::page(&sample::pool_lost(), LOOK);
        for lines in [1, 2, 5, 10, 24, 200] {
            let drawn = redrawn(&page, lines);
            assert!(drawn.matches('\n').count() < lines.max(2), "{lines}");
        }
        // What is wrong comes first.
        assert!(redrawn(&page, 10).contains("LOST"));
    }

    #[test]
    fn a_daemon_that_is_gone_is_told_with_since_when_above_what_was_known() {
        let gone = || {
            Err(AskError::NoDaemon {
                socket: PathBuf::from("/run/twinpool/control.sock"),
                error: io::ErrorKind::ConnectionRefused.into(),
            })
        };
        let mut watched = Watched::default();
        watched.take(gone(), sample::ago(20));
        let page = watched.page(LOOK, sample::ago(12));
        let since = "no answer since 03:13:47 UTC (8 s): no twinpool answers";
        assert!(page.starts_with(since), "{page}");

        watched.take(Ok(sample::well()), sample::ago(11));
        let page = watched.page(LOOK, sample::ago(10));
        assert!(page.starts_with("twinpool seoul-1: all is well"), "{page}");

        watched.take(gone(), sample::ago(9));
        watched.take(gone(), sample::ago(4));
        let page = watched.page(LOOK, sample::ago(3));
        let since = "no answer since 03:13:58 UTC (6 s)";
        assert!(page.starts_with(since), "{page}");
        assert!(
            page.contains("as it was at 2026-11-22 03:14:07 UTC:\ntwinpool seoul-1"),
            "{page}"
        );
    }

    #[test]
    fn nobody_draws_too_often_or_hardly_ever() {
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(interval("100ms"), Ok(LEAST));
        for wrong in ["0s", "99ms", "2h", "2", ""] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
