//! The command line: what can be asked for, and what is printed.
//!
//! Exit codes: 0 done; 1 refused or failed, with the reason; 2 usage; 69 no daemon answers;
//! 78 configuration error.

pub mod client;
pub mod demo;
pub mod difference;
pub mod explain;
pub mod generate;
pub mod happened;
pub mod moves;
pub mod page;
pub mod paint;
pub mod redirects;
pub mod validate;
mod watch;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::control::order::parse_span;
use crate::control::server::{CommandBody, LevelBody};
use crate::health::readiness::Mode;
use crate::log::Level;
use client::{AskError, Client};
use happened::EventsAsked;
use moves::{Because, MovePool, MoveSite, give};
use paint::{Look, harmless};

/// Refused or failed.
pub const EXIT_REFUSED: u8 = 1;
/// No daemon answers (`EX_UNAVAILABLE`).
pub const EXIT_NO_DAEMON: u8 = 69;
/// Configuration error (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// Where the configuration is, unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/twinpool/twinpool.toml";
/// Where the control socket is, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/twinpool/control.sock";

/// How often followed events are asked for.
const WATCH: Duration = Duration::from_secs(1);

/// Carries every client connection to a healthy member of the pool that it asked for.
#[derive(Debug, Parser)]
#[command(name = "twinpool", version, disable_help_subcommand = true)]
pub struct CommandLine {
    /// The daemon's control socket [default: /run/twinpool/control.sock, for `run` the
    /// configuration's]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Run the daemon
    Run {
        /// The configuration
        #[arg(default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Take over from the process that started this one, as it does by itself to be upgraded
        #[arg(long, hide = true)]
        successor: bool,
        /// Do so as this very process, not as a child of it
        #[arg(long, hide = true, requires = "successor")]
        detached: bool,
    },
    /// Check a configuration, and say what it means
    Validate {
        /// Say what a reload would change in the daemon that runs, or why it would be refused
        #[arg(long)]
        diff: bool,
        /// The configuration
        #[arg(default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// See a server die and nobody notice: members, twinpool and clients in one process
    Demo {
        /// Play the story once, print what the clients saw, and exit
        #[arg(long)]
        once: bool,
    },
    /// Make the manual or shell completions, for a package
    #[command(hide = true)]
    Generate {
        /// What to make
        what: generate::What,
        /// Write files to this directory, not to standard output
        #[arg(long, value_name = "DIRECTORY")]
        to: Option<PathBuf>,
    },
    /// Ask or command the daemon that runs.
    #[command(flatten)]
    Ask(Ask),
}

/// What the daemon can be asked.
#[derive(Debug, Subcommand)]
pub enum Ask {
    /// What is wrong, since when, whom it affects, what happens next
    Status {
        /// Everything, as JSON
        #[arg(long, conflicts_with = "watch")]
        json: bool,
        /// Draw it again and again, in its place, until interrupted
        #[arg(long)]
        watch: bool,
        /// How often, as 500ms or 5s
        #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = watch::interval,
              requires = "watch")]
        interval: Duration,
    },
    /// Why a pool, a member or a pair is in the state it is in
    Why {
        /// POOL, POOL/MEMBER or PAIR
        name: String,
        /// Everything, as JSON
        #[arg(long)]
        json: bool,
    },
    /// What happened: verdicts, conditions, where users were sent, and what people ordered
    Events(EventsAsked),
    /// Give a member no new sessions; those it has end at the pool's deadline
    Drain(Order),
    /// Take a member out: as drain, and it counts as absent
    Maintenance(Order),
    /// Put a member back into service
    Ready(Back),
    /// Where the users of each pool that has a twin are sent, since when, who decided and why
    Redirects {
        /// The table, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Send a pool's users to its twin; one that serves is drained, to its deadline
    Failover(MovePool),
    /// Bring a pool's users home, share by share over the pair's ramp
    Failback(MovePool),
    /// Failover of every pool of a site, in order, up to the first that fails
    Evacuate(MoveSite),
    /// Failback of every pool of a site, in order, up to the first that fails
    Restore(MoveSite),
    /// Stop all automation of pairs until `resume`; commands still work
    Pause(Because),
    /// Read the configuration again and put it in force: all of it or, with the reason, nothing
    Reload,
    /// Have the program that is on disk now take over, with its configuration: no connection is
    /// refused, and sessions go on where they are
    Upgrade,
    /// Let automation go on; ends alarms, and the wait after a damaged record
    Resume(Because),
    /// How much the daemon's log tells; with LEVEL, change it
    LogLevel(LogLevel),
}

/// What the log is to tell.
#[derive(Debug, Args)]
pub struct LogLevel {
    /// off, error, warn, info, debug or trace; with more or less for parts of the program,
    /// `info,twinpool::proxy=debug`
    #[arg(value_parser = level_as_typed)]
    pub level: Option<String>,
    /// For how long, as 90s, 30m or 2h; then it tells what it told before
    #[arg(long = "for", value_name = "SPAN", value_parser = span_as_typed, requires = "level")]
    pub lasting: Option<String>,
}

/// A member, and what goes with an order about it.
#[derive(Debug, Args)]
pub struct Order {
    /// The member
    #[arg(value_name = "POOL/MEMBER")]
    pub member: String,
    /// Why, for those who look at the status
    #[arg(long)]
    pub reason: Option<String>,
    /// For how long, as 90s, 30m or 2h; then it is ready again
    #[arg(long = "for", value_name = "SPAN", value_parser = span_as_typed)]
    pub lasting: Option<String>,
    /// Even where it loses the pool
    #[arg(long)]
    pub force: bool,
}

/// A member that is to come back.
#[derive(Debug, Args)]
pub struct Back {
    /// The member
    #[arg(value_name = "POOL/MEMBER")]
    pub member: String,
    /// Why, for those who look at the status
    #[arg(long)]
    pub reason: Option<String>,
}

/// The command line of this process; a wrong one ends it with code 2.
pub fn command_line() -> CommandLine {
    CommandLine::parse()
}

/// Asks the daemon, prints what it says, and returns the exit code.
pub fn ask(socket: Option<&Path>, ask: Ask) -> ExitCode {
    let client = Client::new(socket.unwrap_or(Path::new(DEFAULT_SOCKET)));
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(EXIT_REFUSED, &format!("cannot start: {error}")),
    };
    match runtime.block_on(answered(&client, ask, &mut io::stdout())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Ask(error)) => failed(error.exit_code(), &error.to_string()),
        // Whoever read our output has seen enough.
        Err(Failed::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failed::Print(error)) => failed(EXIT_REFUSED, &format!("cannot print: {error}")),
    }
}

/// Says why on standard error; the code to exit with.
pub fn failed(code: u8, why: &str) -> ExitCode {
    for line in why.lines() {
        eprintln!("twinpool: {}", harmless(line));
    }
    ExitCode::from(code)
}

/// Why a question was not answered on the page.
#[derive(Debug)]
pub enum Failed {
    /// The daemon did not answer well.
    Ask(AskError),
    /// The answer could not be printed.
    Print(io::Error),
}

impl From<AskError> for Failed {
    fn from(error: AskError) -> Failed {
        Failed::Ask(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Print(error)
    }
}

/// Asks the daemon and prints what it says to `out`.
pub async fn answered(client: &Client, ask: Ask, out: &mut impl Write) -> Result<(), Failed> {
    let look = Look::of_stdout();
    match ask {
        Ask::Status { json: true, .. } => print_json(out, &client.status().await?)?,
        Ask::Status {
            watch: true,
            interval,
            ..
        } => watch::watch(client, interval, out).await?,
        Ask::Status { .. } => write!(out, "{}", page::page(&client.status().await?, look))?,
        Ask::Why { name, json: true } => print_json(out, &client.why(&name).await?)?,
        Ask::Why { name, .. } => {
            write!(
                out,
                "{}",
                explain::explanation(&client.why(&name).await?, look)
            )?;
        }
        Ask::Events(asked) => happened::events(client, asked, out, &mut io::stderr()).await?,
        Ask::Drain(order) => command(client, Mode::Drain, order, out).await?,
        Ask::Maintenance(order) => command(client, Mode::Maintenance, order, out).await?,
        Ask::Ready(back) => {
            let order = Order {
                member: back.member,
                reason: back.reason,
                lasting: None,
                force: false,
            };
            command(client, Mode::Ready, order, out).await?;
        }
        Ask::Redirects { json: true } => {
            let status = client.status().await?;
            let rows: Vec<_> = status.pairs.iter().flat_map(|pair| pair.rows()).collect();
            print_json(out, &rows)?;
        }
        Ask::Redirects { .. } => {
            write!(out, "{}", redirects::page(&client.status().await?, look))?;
        }
        Ask::Reload => print_lines(out, &client.reload().await?)?,
        Ask::Upgrade => print_lines(out, &client.upgrade().await?)?,
        Ask::Failover(order) => give(client, moves::Order::Failover(order), out).await?,
        Ask::Failback(order) => give(client, moves::Order::Failback(order), out).await?,
        Ask::Evacuate(order) => give(client, moves::Order::Evacuate(order), out).await?,
        Ask::Restore(order) => give(client, moves::Order::Restore(order), out).await?,
        Ask::Pause(because) => give(client, moves::Order::Pause(because), out).await?,
        Ask::LogLevel(LogLevel { level, lasting }) => {
            let told = match level {
                None => client.log_level().await?,
                Some(level) => client.set_log_level(&LevelBody { level, lasting }).await?,
            };
            writeln!(out, "{}", harmless(&told))?;
        }
        Ask::Resume(because) => give(client, moves::Order::Resume(because), out).await?,
    }
    out.flush()?;
    Ok(())
}

async fn command(
    client: &Client,
    mode: Mode,
    order: Order,
    out: &mut impl Write,
) -> Result<(), Failed> {
    let body = CommandBody {
        member: order.member,
        reason: order.reason,
        lasting: order.lasting,
        force: order.force,
    };
    let done = client.command(mode, &body).await?;
    writeln!(out, "{}", harmless(&done))?;
    Ok(())
}

fn print_lines(out: &mut impl Write, told: &str) -> io::Result<()> {
    for line in told.lines() {
        writeln!(out, "{}", harmless(line))?;
    }
    Ok(())
}

fn print_json(out: &mut impl Write, body: &impl serde::Serialize) -> Result<(), Failed> {
    let text = serde_json::to_string_pretty(body)
        .map_err(|error| AskError::Strange(format!("cannot write JSON: {error}")))?;
    writeln!(out, "{text}")?;
    Ok(())
}

/// A level that the daemon will understand, kept as it was typed.
fn level_as_typed(text: &str) -> Result<String, String> {
    match Level::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(wrong) => Err(format!("{wrong}; {}", wrong.help)),
    }
}

/// A span that the daemon will understand, kept as it was typed.
fn span_as_typed(text: &str) -> Result<String, String> {
    parse_span(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests;
