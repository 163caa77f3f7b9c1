//! The demo without `--once`: serves until it is interrupted, shows what happens, and lets members
//! and sites fall at a typed word.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::load::{Book, Clients, RESIDENTS};
use super::members::Mood;
use super::screen::{Feeling, ROWS, Scene, line, screen};
use super::stage::{SITES, Site, Stage};
use crate::cli::paint::Look;
use crate::observe::status::Status;

/// How often the screen is drawn again.
const DRAW: Duration = Duration::from_millis(500);
/// How often a line is printed where there is no terminal.
const PRINT: Duration = Duration::from_secs(5);
/// The span of what clients are said to see now.
const LATELY: Duration = Duration::from_secs(5);
/// Typed lines that may wait; whoever types more waits with them.
const TYPED: usize = 4;
/// Columns that every terminal has.
const WIDTH: usize = 80;
/// The longest line that is read.
const LONGEST_LINE: u64 = 256;

/// Why the view ended early.
#[derive(Debug)]
pub(super) enum LiveError {
    /// Nothing more could be printed.
    Print(io::Error),
}

impl fmt::Display for LiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LiveError::Print(error) => write!(f, "cannot print: {error}"),
        }
    }
}

impl From<io::Error> for LiveError {
    fn from(error: io::Error) -> LiveError {
        LiveError::Print(error)
    }
}

/// Shows the stage until `told` resolves or someone types `quit`.
pub(super) async fn show(stage: &Stage, told: impl Future<Output = ()>) -> Result<(), LiveError> {
    let mut told = std::pin::pin!(told);
    let mut out = io::stdout();
    let terminal = out.is_terminal();
    let clients = Clients::start(stage.fronts);
    let mut typed = typed_lines();
    let mut draw = interval(if terminal { DRAW } else { PRINT });
    draw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut live = Live {
        look_at: look_at(stage),
        said: "members and sites fall and return at your word; Ctrl-C ends the demo".to_owned(),
        prompt: true,
        before: None,
        rates: vec![0.0; stage.members.len()],
    };
    if terminal {
        write!(out, "\x1b[2J")?;
    } else {
        for row in &live.look_at {
            writeln!(out, "{row}")?;
        }
        writeln!(out, "type  {COMMANDS}")?;
        out.flush()?;
    }
    loop {
        tokio::select! {
            biased;
            () = &mut told => break,
            line = typed.recv(), if !typed.is_closed() || !typed.is_empty() => {
                match line.as_deref().map(Word::read) {
                    Some(Ok(Word::Quit)) => break,
                    Some(Ok(Word::Make(names, mood))) => {
                        live.said = carried_out(stage, &names, mood).await;
                    }
                    Some(Err(why)) => live.said = why,
                    None => continue,
                }
                if terminal {
                    live.prompt = true;
                    draw.reset_immediately();
                } else {
                    writeln!(out, "{}", live.said)?;
                    out.flush()?;
                }
            }
            _ = draw.tick() => live.draw(stage, &clients, terminal, &mut out).await?,
        }
    }
    if terminal {
        writeln!(out, "\x1b[{};1H\x1b[J", ROWS + 1)?;
    }
    let book = clients.book.borrow();
    writeln!(
        out,
        "{} requests failed and {} long sessions were cut while the demo ran.",
        book.failed, book.cut
    )?;
    out.flush()?;
    Ok(())
}

/// What can be typed.
const COMMANDS: &str = "kill seoul2 · hang seoul3 · cut seoul · heal seoul · quit";

/// A typed word.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    /// Makes these members so: one, or all of a site.
    Make(Vec<&'static str>, Mood),
    Quit,
}

impl Word {
    fn read(line: &str) -> Result<Word, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, name) = match words[..] {
            ["quit" | "exit" | "q"] => return Ok(Word::Quit),
            [verb, name] => (verb, name),
            _ => return Err(format!("type one of: {COMMANDS}")),
        };
        let mood = match verb {
            "kill" => Mood::Dead,
            "hang" => Mood::Hung,
            "cut" => Mood::Cut,
            "heal" => Mood::Well,
            _ => return Err(format!("no such command; type one of: {COMMANDS}")),
        };
        let named = |site: &&Site| site.name == name;
        let members: Vec<&str> = match SITES.iter().find(named) {
            Some(site) => site.members.into(),
            None => {
                let all = SITES.iter().flat_map(|site| site.members);
                all.filter(|member| *member == name).collect()
            }
        };
        if members.is_empty() {
            let known = |site: &Site| format!("{}, {}", site.name, site.members.join(", "));
            let known = SITES.each_ref().map(known).join(", ");
            return Err(format!("no such site or member; there are {known}"));
        }
        Ok(Word::Make(members, mood))
    }
}

async fn carried_out(stage: &Stage, names: &[&str], mood: Mood) -> String {
    let mut said = Vec::new();
    for name in names {
        let Some(member) = stage.member(name) else {
            continue;
        };
        let was = member.mood();
        let done = match mood {
            Mood::Dead => {
                member.kill().await;
                Ok(())
            }
            Mood::Hung => {
                member.hang();
                Ok(())
            }
            Mood::Cut => member.cut(),
            Mood::Well => member.heal().await,
        };
        said.push(match (was, member.mood()) {
            _ if let Err(error) = done => format!("{name}: {error}"),
            (was, is) if is != mood => format!("{name} is {was}; `heal {name}` first"),
            (was, is) if was == is => format!("{name} is {is} already"),
            (_, is) => format!("{name} is {is} now"),
        });
    }
    said.join(", ")
}

/// What is typed, line by line, from a thread of its own: a terminal cannot be read in passing.
/// The thread ends with the process, or with what it reads.
fn typed_lines() -> mpsc::Receiver<String> {
    let (tell, typed) = mpsc::channel(TYPED);
    let read = move || {
        let mut lines = io::stdin().lock();
        loop {
            let mut line = String::new();
            match io::Read::take(&mut lines, LONGEST_LINE).read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if tell.blocking_send(line).is_err() => return,
                Ok(_) => {}
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("typed".to_owned()).spawn(read) {
        tracing::warn!(%error, "nothing can be typed");
    }
    typed
}

/// What is kept from one drawing to the next.
struct Live {
    look_at: Vec<String>,
    said: String,
    /// Nothing is typed yet: the row for it is to be drawn too.
    prompt: bool,
    /// Sessions that each member had been given, and when that was counted.
    before: Option<(Instant, Vec<u64>)>,
    rates: Vec<f64>,
}

impl Live {
    async fn draw(
        &mut self,
        stage: &Stage,
        clients: &Clients,
        terminal: bool,
        out: &mut impl Write,
    ) -> Result<(), LiveError> {
        let status = stage.status().await;
        if let Ok(status) = &status {
            self.count(status);
        }
        let moods: Vec<(&str, Mood)> = stage
            .members
            .iter()
            .map(|member| (&**member.name(), member.mood()))
            .collect();
        let scene = Scene {
            status: status.as_ref().map_err(ToString::to_string),
            moods: &moods,
            rates: &self.rates,
            clients: feeling(&clients.book.borrow(), clients.out(), Instant::now()),
            look_at: &self.look_at,
            commands: COMMANDS,
            said: &self.said,
        };
        if terminal {
            // What is being typed below the view stays where it is.
            let view = screen(&scene, Look::of_stdout()).replace('\n', "\x1b[K\r\n");
            if std::mem::take(&mut self.prompt) {
                write!(out, "\x1b[H{view}\x1b[J> ")?;
            } else {
                write!(out, "\x1b7\x1b[H{view}\x1b8")?;
            }
        } else {
            writeln!(out, "{}", line(&scene))?;
        }
        out.flush()?;
        Ok(())
    }

    /// New sessions a second, from one count to the next.
    fn count(&mut self, status: &Status) {
        let now = Instant::now();
        let given = |name: &str| {
            let member = status.pools.iter().find_map(|pool| pool.member(name));
            member.map_or(0, |member| member.sessions)
        };
        let members = SITES.iter().flat_map(|site| site.members);
        let counted: Vec<u64> = members.map(given).collect();
        if let Some((then, before)) = &self.before {
            let passed = now.duration_since(*then).as_secs_f64().max(1e-3);
            let risen = counted.iter().zip(before);
            self.rates = risen
                .map(|(now, then)| now.saturating_sub(*then) as f64 / passed)
                .collect();
        }
        self.before = Some((now, counted));
    }
}

/// What clients saw in the last seconds before `now`.
fn feeling(book: &Book, out: usize, now: Instant) -> Feeling {
    let lately = book
        .exchanges
        .iter()
        .rev()
        .take_while(|exchange| now.duration_since(exchange.ended) < LATELY);
    let mut answers = Vec::new();
    let mut failed = 0;
    for exchange in lately {
        match exchange.outcome {
            Ok(_) => answers.push(exchange.took),
            Err(_) => failed += 1,
        }
    }
    answers.sort_unstable();
    let at = |share: f64| {
        let place = (answers.len() as f64 * share) as usize;
        answers.get(place).copied().unwrap_or_default()
    };
    Feeling {
        answers: answers.len() as f64 / LATELY.as_secs_f64(),
        failed,
        failed_ever: book.failed,
        residents: RESIDENTS,
        out,
        cut_ever: book.cut,
        median: at(0.5),
        p99: at(0.99),
    }
}

/// Where to look and what to try, in another terminal.
fn look_at(stage: &Stage) -> Vec<String> {
    let program = program();
    let command = |lead: &str, words: &str| {
        let (words, socket) = (format!("{program} {words}"), stage.socket.display());
        let row = format!("{lead}{words} --socket {socket}");
        if row.chars().count() <= WIDTH {
            return vec![row];
        }
        // Longer than a row: two of them, which a shell still takes as one.
        vec![
            format!("{lead}{words} \\"),
            format!("        --socket {socket}"),
        ]
    };
    let mut rows = Vec::new();
    if let Some(observe) = stage.observe {
        rows.push(format!(
            "look  http://{observe}/metrics  http://{observe}/v1/redirects"
        ));
    }
    let [first, _] = &SITES;
    rows.extend(command("try   ", &format!("evacuate {}", first.name)));
    rows
}

/// This program, as it can be called from here.
fn program() -> String {
    let Ok(path) = std::env::current_exe() else {
        return "twinpool".to_owned();
    };
    let here = std::env::current_dir().ok();
    let short = here
        .as_deref()
        .and_then(|here| path.strip_prefix(here).ok());
    short
        .map_or(path.as_path(), |short: &Path| short)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::super::load::{Exchange, Failure, Who};
    use super::*;

    #[test]
    fn typed_words_name_a_deed_and_a_member_or_a_site() {
        let make = |members: &[&'static str], mood| Ok(Word::Make(members.to_vec(), mood));
        assert_eq!(Word::read("kill seoul2\n"), make(&["seoul2"], Mood::Dead));
        assert_eq!(Word::read(" hang  busan3"), make(&["busan3"], Mood::Hung));
        assert_eq!(Word::read("heal seoul2"), make(&["seoul2"], Mood::Well));
        let busan = ["busan1", "busan2", "busan3"];
        assert_eq!(Word::read("cut busan"), make(&busan, Mood::Cut));
        assert_eq!(Word::read("quit"), Ok(Word::Quit));
    }

    #[test]
    fn what_is_mistyped_is_answered_with_what_can_be_typed() {
        for (line, part) in [
            ("", "kill seoul2"),
            ("kill", "kill seoul2"),
            ("murder seoul1", "kill seoul2"),
            (
                "kill seoul9",
                "seoul, seoul1, seoul2, seoul3, busan, busan1",
            ),
        ] {
            let told = Word::read(line).expect_err(line);
            assert!(told.contains(part), "{line:?}: {told}");
        }
    }

    #[test]
    fn only_the_last_seconds_are_felt_now() {
        let start = Instant::now();
        let mut book = Book {
            failed: 7,
            ..Book::default()
        };
        for (after, took, outcome) in [
            (0, 900, Ok("web1".into())),
            (6, 3, Ok("web1".into())),
            (7, 1, Ok("web2".into())),
            (8, 2, Ok("web2".into())),
            (9, 1, Err(Failure::Reset)),
        ] {
            book.exchanges.push_back(Exchange {
                number: after,
                who: Who::Visitor,
                home: 0,
                ended: start + Duration::from_secs(after),
                took: Duration::from_millis(took),
                outcome,
                with: None,
            });
        }
        let felt = feeling(&book, 2, start + Duration::from_secs(10));
        assert_eq!((felt.failed, felt.failed_ever, felt.out), (1, 7, 2));
        assert_eq!(felt.median, Duration::from_millis(2));
        assert_eq!(felt.p99, Duration::from_millis(3));
        assert!((felt.answers - 0.6).abs() < 1e-9);
    }
}
