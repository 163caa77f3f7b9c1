//! What the data plane costs: twinpool beside HAProxy and nginx, all on one core.
//!
//! See `benches/README.md` for the method. Needs two cores, `taskset`, `wrk` and nginx.

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;

use support::child::{Child, bound_to_us, on_path, run};
use support::clock::wait_for;
use support::daemon::resident;
use support::proxies::{self, Front, Proxy, Settings, Target};
use support::stats::{Table, median, show};
use support::{Result, http, inside};

/// The proxy's core.
const PROXY_CORE: &str = "0";
/// Everything else's core.
const LOAD_CORE: &str = "1";
/// Connections of the request and connection columns.
const CLIENTS: u32 = 64;
/// Connections of the bulk column.
const BULK_CLIENTS: u32 = 16;
/// Idle connections of the memory column.
const IDLE: usize = 2_000;
/// The shortest phase: `/proc/stat` counts in steps of 10 ms, of which 5 s hold 500.
const LEAST_SECONDS: u64 = 5;
/// How long a proxy is left alone before its memory is read, and after connections came.
const REST: Duration = Duration::from_secs(2);
/// How long a proxy may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What wrk prints at the end, for a program to read.
const WRK_REPORT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("REPORT %d %d %d %d %d\n", summary.requests, summary.bytes,
    summary.duration, latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// What the data plane costs.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench cost --")]
struct Args {
    /// Rounds; in each, every proxy takes its turn.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each phase; figures of less than 5 are worth nothing.
    #[arg(long, default_value_t = LEAST_SECONDS)]
    seconds: u64,
    /// Columns: request, connection, bulk, idle.
    #[arg(long, value_delimiter = ',', default_value = "request,connection,bulk,idle", value_parser = Column::parse)]
    columns: Vec<Column>,
    /// Proxies: twinpool, haproxy, nginx.
    #[arg(long, value_delimiter = ',', default_value = "twinpool,haproxy,nginx", value_parser = Proxy::parse)]
    proxies: Vec<Proxy>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    /// Requests on kept connections.
    Request,
    /// Connections of one request.
    Connection,
    /// Answers of 1 MiB.
    Bulk,
    /// Idle connections.
    Idle,
}

/// The figures of one proxy in one round; NaN where a column was not asked for.
#[derive(Clone, Copy, Debug)]
struct Figures {
    request_micros: f64,
    request_p99_millis: f64,
    connection_micros: f64,
    connections_per_second: f64,
    connection_p99_millis: f64,
    seconds_per_gib: f64,
    gigabits: f64,
    idle_kib: f64,
}

/// A figure: its name, how to read it, its decimals, and whether less is better.
type Figure = (&'static str, fn(&Figures) -> f64, usize, bool);

const FIGURES: [Figure; 8] = [
    ("µs per request", |f| f.request_micros, 1, true),
    ("p99, ms", |f| f.request_p99_millis, 2, true),
    ("µs per connection", |f| f.connection_micros, 1, true),
    ("connections/s", |f| f.connections_per_second, 0, false),
    ("p99, ms", |f| f.connection_p99_millis, 2, true),
    ("s per GiB", |f| f.seconds_per_gib, 3, true),
    ("Gbit/s", |f| f.gigabits, 1, false),
    ("KiB per idle connection", |f| f.idle_kib, 1, true),
];

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

fn compare(args: &Args) -> Result<()> {
    let mut proxies = args.proxies.clone();
    proxies.retain(|proxy| match proxy.obstacle() {
        Some(why) => {
            println!("left out: {why}");
            false
        }
        None => true,
    });
    let me = std::process::id().to_string();
    run(&["taskset", "-cp", LOAD_CORE, &me])?;
    let bench = Bench::new()?;
    let mut rounds: Vec<(Proxy, Figures)> = Vec::new();
    for round in 1..=args.rounds {
        for &proxy in &proxies {
            let figures = bench.measure(args, proxy)?;
            println!("round {round}, {}: {figures:?}", proxy.name());
            rounds.push((proxy, figures));
        }
    }
    println!(
        "\nMedians of {} rounds, phases of {} s; in brackets twinpool ÷ the best peer.",
        args.rounds, args.seconds
    );
    if args.seconds < LEAST_SECONDS {
        println!("Phases of less than {LEAST_SECONDS} s: these figures are worth nothing.");
    }
    table(&proxies, &rounds).print();
    Ok(())
}

fn table(proxies: &[Proxy], rounds: &[(Proxy, Figures)]) -> Table {
    let heads: Vec<&str> = std::iter::once("proxy")
        .chain(FIGURES.iter().map(|(name, ..)| *name))
        .collect();
    let mut table = Table::new(&heads);
    let middle = |proxy: Proxy, read: fn(&Figures) -> f64| {
        let of: Vec<f64> = rounds
            .iter()
            .filter(|(p, _)| *p == proxy)
            .map(|(_, figures)| read(figures))
            .collect();
        median(&of)
    };
    for &proxy in proxies {
        let mut cells = vec![proxy.name().to_owned()];
        for (_, read, decimals, less) in FIGURES {
            let value = middle(proxy, read);
            let peers = proxies.iter().filter(|p| **p != Proxy::Twinpool);
            let best = peers.map(|peer| middle(*peer, read)).reduce(if less {
                f64::min
            } else {
                f64::max
            });
            let mut cell = show(value, decimals);
            if let Some(best) = best.filter(|b| proxy == Proxy::Twinpool && b.is_finite()) {
                cell.push_str(&format!(" ({} ×)", show(value / best, 2)));
            }
            cells.push(cell);
        }
        table.row(cells);
    }
    table
}

/// The members, ready, and where everything is. Fields are dropped in this order.
#[derive(Debug)]
struct Bench {
    _members: Child,
    targets: Vec<Target>,
    ticks: f64,
    dir: Dir,
}

/// A temporary directory, gone when dropped.
#[derive(Debug)]
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {e}", self.0.display());
        }
    }
}

/// What wrk reports.
#[derive(Debug)]
struct Wrk {
    requests: f64,
    bytes: f64,
    seconds: f64,
    p99_millis: f64,
}

impl Bench {
    /// Starts the members.
    fn new() -> Result<Bench> {
        let dir = std::env::temp_dir().join(format!("twinpool-{}-cost", std::process::id()));
        std::fs::create_dir(&dir)?;
        let dir = Dir(dir);
        std::fs::write(dir.0.join("report.lua"), WRK_REPORT)?;
        let ports = [free_port()?, free_port()?, free_port()?];
        let command = proxies::nginx_members(&dir.0, ports)?;
        let log = dir.0.join("members.log");
        let members = pinned(LOAD_CORE, "members", &command, &log)?;
        let targets = (1..)
            .zip(ports)
            .map(|(n, port)| Target::new(&format!("m{n}"), (Ipv4Addr::LOCALHOST, port)))
            .collect();
        Ok(Bench {
            _members: members,
            targets,
            ticks: run(&["getconf", "CLK_TCK"])?.trim().parse()?,
            dir,
        })
    }

    /// One proxy's turn.
    fn measure(&self, args: &Args, proxy: Proxy) -> Result<Figures> {
        let dir = self.dir.0.as_path();
        let front = Front {
            pool: "p1".into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
            members: self.targets.clone(),
        };
        let command = match proxy {
            Proxy::Twinpool => proxies::twinpool(
                dir,
                std::slice::from_ref(&front),
                Settings {
                    observe: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
                    workers: Some(1),
                    check: "/",
                    paired: false,
                },
            )?,
            Proxy::Haproxy => proxies::haproxy_cost(dir, &front)?,
            Proxy::Nginx => proxies::nginx_cost(dir, &front)?,
        };
        let log = dir.join(format!("{}.log", proxy.name()));
        let mut child = pinned(PROXY_CORE, proxy.name(), &command, &log)?;
        wait_for(proxy.name(), START_LIMIT, || {
            child.must_live(&log)?;
            // Not a connection of the service: the first that it carries are to be the idle ones.
            Ok(listens(front.listen.port())?.then_some(()))
        })?;
        sleep(REST);
        let noise = self.busy(|| {
            sleep(Duration::from_secs(1));
            Ok(())
        })?;
        if noise.1 > 0.03 {
            println!(
                "note: core {PROXY_CORE} is busy for {:.2} s of an idle second",
                noise.1
            );
        }
        let wants = |column| args.columns.contains(&column);
        let mut figures = Figures {
            request_micros: f64::NAN,
            request_p99_millis: f64::NAN,
            connection_micros: f64::NAN,
            connections_per_second: f64::NAN,
            connection_p99_millis: f64::NAN,
            seconds_per_gib: f64::NAN,
            gigabits: f64::NAN,
            idle_kib: f64::NAN,
        };
        if wants(Column::Idle) {
            figures.idle_kib = idle(child.id(), front.listen)?;
        }
        // Members checked by now: every proxy serves.
        wait_for(proxy.name(), START_LIMIT, || {
            Ok((http::get_here(front.listen, "/")?.0 == 200).then_some(()))
        })?;
        if wants(Column::Request) {
            let (wrk, busy) = self.load(args, &front, CLIENTS, "/", &[])?;
            figures.request_micros = busy / wrk.requests * 1e6;
            figures.request_p99_millis = wrk.p99_millis;
        }
        if wants(Column::Connection) {
            let close = ["-H", "Connection: close"];
            let (wrk, busy) = self.load(args, &front, CLIENTS, "/", &close)?;
            figures.connection_micros = busy / wrk.requests * 1e6;
            figures.connections_per_second = wrk.requests / wrk.seconds;
            figures.connection_p99_millis = wrk.p99_millis;
        }
        if wants(Column::Bulk) {
            let (wrk, busy) = self.load(args, &front, BULK_CLIENTS, "/big", &[])?;
            figures.seconds_per_gib = busy / (wrk.bytes / f64::from(1 << 30));
            figures.gigabits = wrk.bytes * 8.0 / wrk.seconds / 1e9;
        }
        child.must_live(&log)?;
        Ok(figures)
    }

    /// Runs wrk against a proxy; what it reports, and the seconds that the proxy's core was busy.
    fn load(
        &self,
        args: &Args,
        front: &Front,
        clients: u32,
        path: &str,
        more: &[&str],
    ) -> Result<(Wrk, f64)> {
        let script = self.dir.0.join("report.lua").display().to_string();
        let url = format!("http://{}{path}", front.listen);
        let (clients, span) = (format!("-c{clients}"), format!("-d{}s", args.seconds));
        let mut command = vec!["taskset", "-c", LOAD_CORE, "wrk", "-t1", &clients, &span];
        command.extend(["-s", &script]);
        command.extend(more);
        command.push(&url);
        let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
        let limit = Duration::from_secs(args.seconds + 20);
        self.busy(|| {
            let wrk = Child::start_read("wrk", &bound_to_us(&command)?)?;
            Wrk::parse(&wrk.read_to_end(limit)?)
        })
    }

    /// Does something; its result, and the seconds that the proxy's core was busy meanwhile.
    fn busy<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let before = Jiffies::read()?;
        let result = act()?;
        let after = Jiffies::read()?;
        let stolen = (after.stolen - before.stolen) / self.ticks;
        if stolen > 0.05 {
            println!("note: the hypervisor took {stolen:.2} s from core {PROXY_CORE}");
        }
        Ok((result, (after.busy - before.busy) / self.ticks))
    }
}

/// What the proxy's core did since boot, in clock ticks.
#[derive(Debug)]
struct Jiffies {
    busy: f64,
    stolen: f64,
}

impl Jiffies {
    fn read() -> Result<Jiffies> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cpu{PROXY_CORE} ")))
            .ok_or("no such core in /proc/stat")?;
        let ticks = line
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<Vec<f64>, _>>()?;
        let [user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = ticks[..] else {
            return Err("/proc/stat has too few numbers".into());
        };
        Ok(Jiffies {
            busy: user + nice + system + irq + softirq,
            stolen,
        })
    }
}

impl Wrk {
    fn parse(text: &str) -> Result<Wrk> {
        let numbers = text
            .lines()
            .find_map(|line| line.strip_prefix("REPORT "))
            .ok_or_else(|| format!("wrk printed no report:\n{text}"))?
            .split(' ')
            .map(str::parse)
            .collect::<std::result::Result<Vec<f64>, _>>()?;
        let [requests, bytes, micros, p99_micros, errors] = numbers[..] else {
            return Err("wrk's report has another length".into());
        };
        if requests == 0.0 {
            return Err(format!("wrk got no answer:\n{text}").into());
        }
        if errors > 0.0 {
            println!("note: {errors} errors among {requests} requests");
        }
        Ok(Wrk {
            requests,
            bytes,
            seconds: micros / 1e6,
            p99_millis: p99_micros / 1e3,
        })
    }
}

impl Column {
    fn parse(name: &str) -> std::result::Result<Column, String> {
        match name {
            "request" => Ok(Column::Request),
            "connection" => Ok(Column::Connection),
            "bulk" => Ok(Column::Bulk),
            "idle" => Ok(Column::Idle),
            other => Err(format!(
                "no column is named {other}: write request, connection, bulk or idle"
            )),
        }
    }
}

/// KiB that each idle connection adds to a proxy's memory, after it has carried one request.
fn idle(pid: u32, door: SocketAddr) -> Result<f64> {
    let before = resident(pid)?;
    let mut held = Vec::new();
    for _ in 0..IDLE {
        let mut stream = TcpStream::connect(door)?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        let mut answer = Vec::new();
        let end = Instant::now() + Duration::from_secs(5);
        while !answer.ends_with(b"nineteen bytes here") {
            let mut part = [0; 1024];
            let n = stream.read(&mut part)?;
            if n == 0 || Instant::now() > end {
                return Err("an idle connection was not answered".into());
            }
            answer.extend_from_slice(&part[..n]);
        }
        held.push(stream);
    }
    sleep(REST);
    let after = resident(pid)?;
    Ok((after as f64 - before as f64) / IDLE as f64)
}

fn pinned(core: &str, what: &str, command: &[String], log: &Path) -> Result<Child> {
    let mut full: Vec<String> = ["taskset", "-c", core].map(str::to_owned).into();
    full.extend_from_slice(command);
    Child::start(what, &bound_to_us(&full)?, log)
}

/// A port of this host's that nobody has now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Whether somebody listens on this port of 127.0.0.1.
fn listens(port: u16) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let local = format!("0100007F:{port:04X}");
    Ok(table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&local) && words.nth(1) == Some("0A")
    }))
}
