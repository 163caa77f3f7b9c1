//! A failback of thousands of sessions: how fast they come home, and what each member carries
//! meanwhile.
//!
//! See `benches/README.md` for the method. Needs no root: members, clients and twinpool are three
//! processes on loopback, and this one looks on.

#[path = "failback/course.rs"]
mod course;
#[path = "failback/plot.rs"]
mod plot;
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::Value;

use course::{Course, Moment};
use support::child::{Child, bound_to_us, run};
use support::clock::{now, wait_for};
use support::crowd::{Crowd, Saw};
use support::echo::{Echoes, SAMPLE};
use support::stats::{Table, show};
use support::{Result, http, inside};

/// Members of each pool.
const MEMBERS: usize = 3;
/// The pool whose users come home, and its twin.
const HOME: &str = "home";
const TWIN: &str = "twin";
/// How long a process may take until it serves, and a pool until it does.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long all long sessions may take to begin.
const GATHER_LIMIT: Duration = Duration::from_secs(40);
/// How long members are watched before the order and after the last session came home.
const MARGIN: Duration = Duration::from_secs(2);

/// A failback of thousands of sessions.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench failback --")]
struct Args {
    /// Long sessions.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=9_000))]
    sessions: u32,
    /// Short connections a second beside them, whose way shows the ramp.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds over which the share that goes home rises.
    #[arg(long, default_value_t = 15)]
    ramp: u64,
    /// Seconds until all must be home.
    #[arg(long, default_value_t = 75)]
    limit: u64,
    /// Where failback.csv and failback.svg are written.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches"))]
    out: PathBuf,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if let Some(played) = inside::main() {
        return played;
    }
    let args = Args::parse();
    let dir = std::env::temp_dir().join(format!("twinpool-failback-{}", std::process::id()));
    let watched = std::fs::create_dir(&dir)
        .map_err(Into::into)
        .and_then(|()| watch(&args, &dir));
    if let Err(e) = std::fs::remove_dir_all(&dir) {
        eprintln!("cannot remove {}: {e}", dir.display());
    }
    match watched.and_then(|(course, saw)| report(&args, &course, saw)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// twinpool in front of the members.
struct Daemon {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
}

/// Gathers the sessions at the twin, orders them home, and watches until they are.
fn watch(args: &Args, dir: &Path) -> Result<(Course, Saw)> {
    let mut echoes = Echoes::start(dir, 2 * MEMBERS)?;
    let mut daemon = Daemon::start(dir, &echoes.addresses, args.ramp)?;
    daemon.order(&["failover", HOME, "--now"])?;
    wait_for("the users away", START_LIMIT, || {
        Ok((daemon.home()?["phase"] == "away").then_some(()))
    })?;
    let mut crowd = Crowd::start(dir, daemon.front()?, args.sessions, args.rate)?;
    let sessions = u64::from(args.sessions);
    wait_for("every session at the twin", GATHER_LIMIT, || {
        crowd.must_live()?;
        let held = echoes.samples()?.pop().map(|sample| sample.held);
        let at_twin: u64 = held.map_or(0, |held| held[MEMBERS..].iter().sum());
        Ok((at_twin == sessions).then_some(()))
    })?;
    println!("{sessions} sessions are with the twin; failback");
    sleep(MARGIN);
    let ordered = now();
    daemon.order(&["failback", HOME])?;
    let end = Instant::now() + Duration::from_secs(args.limit);
    let mut shares = Vec::new();
    loop {
        daemon.child.must_live(&daemon.log)?;
        crowd.must_live()?;
        let home = daemon.home()?;
        let share = home["share"].as_u64().ok_or("no share in the status")?;
        shares.push((now(), share));
        let last = echoes.samples()?.pop().ok_or("no sample of the members")?;
        let at_home: u64 = last.held[..MEMBERS].iter().sum();
        if home["phase"] == "home" && at_home == sessions {
            break;
        }
        if Instant::now() >= end {
            return Err(format!(
                "{at_home} of {sessions} sessions are home after {} s: {home}",
                args.limit
            )
            .into());
        }
        sleep(SAMPLE);
    }
    sleep(MARGIN);
    // Before the crowd goes.
    let samples = echoes.samples()?;
    let saw = crowd.end()?;
    daemon.child.must_live(&daemon.log)?;
    Ok((Course::of(&samples, &shares, ordered, MEMBERS), saw))
}

impl Daemon {
    fn start(dir: &Path, members: &[SocketAddr], ramp: u64) -> Result<Daemon> {
        let socket = dir.join("control.sock");
        let mut text = format!(
            "[instance]\nstate_dir = {:?}\n[control]\nsocket = {socket:?}\n\
             [observe]\nlisten = false\n\
             [sites.one]\nregion = \"one\"\n[sites.two]\nregion = \"two\"\n\
             [roles.echo]\nprimary = \"echo\"\n\
             services.echo = {{ port = 7, check = {{ kind = \"tcp\" }} }}\n\
             [pairs.both]\npools = [\"{HOME}\", \"{TWIN}\"]\nramp = \"{ramp}s\"\n",
            dir.join("state"),
        );
        let pools = [(HOME, "one"), (TWIN, "two")];
        for ((pool, site), members) in pools.iter().zip(members.chunks(MEMBERS)) {
            text += &format!(
                "[pools.{pool}]\nrole = \"echo\"\nsite = \"{site}\"\nquorum = \"any\"\n\
                 services.echo.listen = \"127.0.0.1:0\"\n[pools.{pool}.members]\n"
            );
            for (n, member) in (1..).zip(members) {
                text += &format!(
                    "{pool}{n} = {{ address = \"{}\", ports = {{ echo = {} }} }}\n",
                    member.ip(),
                    member.port()
                );
            }
        }
        let file = dir.join("twinpool.toml");
        std::fs::write(&file, text)?;
        let command = [TWINPOOL, "run", &file.display().to_string()].map(str::to_owned);
        let log = dir.join("twinpool.log");
        let mut daemon = Daemon {
            child: Child::start("twinpool", &bound_to_us(&command)?, &log)?,
            log,
            socket,
        };
        wait_for("twinpool", START_LIMIT, || {
            daemon.child.must_live(&daemon.log)?;
            let (status, _) = http::get_on(&daemon.socket, "/readyz")?;
            Ok((status == 200).then_some(()))
        })?;
        Ok(daemon)
    }

    /// Gives an order as a person would.
    fn order(&self, words: &[&str]) -> Result<()> {
        let socket = self.socket.display().to_string();
        let mut command = vec![TWINPOOL];
        command.extend(words);
        command.extend(["--socket", &socket]);
        print!("{}", run(&command)?);
        Ok(())
    }

    /// Where the home pool's users come.
    fn front(&self) -> Result<SocketAddr> {
        let front = &self.status()?["pools"][0]["services"][0]["listen"][0];
        Ok(front.as_str().ok_or("no listener in the status")?.parse()?)
    }

    /// What it says of the home pool's users.
    fn home(&self) -> Result<Value> {
        Ok(self.status()?["pairs"][0]["pools"][0].take())
    }

    fn status(&self) -> Result<Value> {
        let (status, body) = http::get_on(&self.socket, "/v1/status")?;
        if status != 200 {
            return Err(format!("/v1/status answered {status}: {body}").into());
        }
        Ok(serde_json::from_str(&body)?)
    }
}

/// The program that is measured.
const TWINPOOL: &str = env!("CARGO_BIN_EXE_twinpool");

/// Writes what was seen, and prints what matters of it.
fn report(args: &Args, course: &Course, saw: Saw) -> Result<()> {
    let names: Vec<String> = [HOME, TWIN]
        .iter()
        .flat_map(|pool| (1..=MEMBERS).map(move |n| format!("{pool}{n}")))
        .collect();
    let csv = args.out.join("failback.csv");
    std::fs::write(&csv, course.csv(&names))?;
    let svg = args.out.join("failback.svg");
    std::fs::write(&svg, plot::svg(course, &names))?;
    println!("written: {}, {}", csv.display(), svg.display());
    let mut table = Table::new(&["figure", "measured"]);
    let mut row = |figure: &str, value: String| table.row([figure.to_owned(), value]);
    let most = |of: fn(&Moment) -> f64| show(course.most(of), 0);
    let millis = |micros: u64| format!("{:.1} ms", micros as f64 / 1e3);
    row("sessions", args.sessions.to_string());
    row(
        "from the order until all were home",
        format!("{} s", show(course.took(), 1)),
    );
    row(
        "of that, from the first session that moved to the last",
        format!("{} s", show(course.moving(), 1)),
    );
    row(
        "sessions moved in a second, at most",
        most(|moment| moment.rate),
    );
    row(
        "arrivals at one member in a second, at most",
        most(|moment| moment.arrivals),
    );
    row(
        "sessions ended, each once if as many",
        saw.returned.to_string(),
    );
    row("reconnects that failed", saw.failed.to_string());
    row(
        "from a session's end to the next answer: median / p99 / worst",
        [saw.median_micros, saw.p99_micros, saw.worst_micros]
            .map(millis)
            .join(" / "),
    );
    row("sessions alive in the end", saw.alive.to_string());
    row(
        "short connections answered (failed), the slowest",
        format!(
            "{} ({}), {}",
            saw.short,
            saw.short_failed,
            millis(saw.short_worst_micros)
        ),
    );
    table.print();
    let lost = saw.failed + saw.short_failed + u64::from(args.sessions).saturating_sub(saw.alive);
    match lost {
        0 => Ok(()),
        n => Err(format!("{n} sessions or connections were lost").into()),
    }
}
