//! System calls per request and per connection, counted by `strace` while a fixed number of them
//! goes through.
//!
//! `strace` joins when the proxy runs and serves, and leaves before it ends, so that its start is
//! not counted; checks are slow enough not to show. Its own weight makes the proxy slower, so that
//! more is ready at each turn of its loop: with one client (`--clients 1`) nothing is ever ready
//! at once, which is the most a request can take.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Args;
use crate::rounds::order;
use crate::stage::{Running, SLOW, Stage, ask, rest};
use crate::support::Result;
use crate::support::child::{Child, bound_to_us, on_path};
use crate::support::clock::wait_for;
use crate::support::proxies::peers::Peer;
use crate::support::stats::{Table, show};

/// Requests on kept connections.
const REQUESTS: u32 = 16_000;
/// Connections of one request.
const CONNECTIONS: u32 = 3_200;
/// Requests that go before, so that buffers and caches are there.
const WARM: u32 = 640;
/// Calls that are rarer than this per unit are not shown.
const RARE: f64 = 0.02;
/// How long `strace` may take to join and to leave.
const TRACE_LIMIT: Duration = Duration::from_secs(10);

/// Calls by name.
type Calls = BTreeMap<String, u64>;

/// Counts and prints.
pub(crate) fn compare(args: &Args, peers: &[Peer]) -> Result<()> {
    if !on_path("strace") {
        println!("skipped: strace is missing (Debian: strace)");
        return Ok(());
    }
    let stage = Stage::new(1, false)?;
    for (what, units, close) in [
        ("request", REQUESTS, false),
        ("connection", CONNECTIONS, true),
    ] {
        let mut counted: Vec<(usize, Calls)> = Vec::new();
        for n in order(peers.len(), 0) {
            let fronts = stage.pool()?;
            let mut running = stage.start(&peers[n], &fronts, 1, args.every(SLOW))?;
            rest();
            running.serves()?;
            drive(running.door, args.clients, WARM, close)?;
            let Some(trace) = Trace::join(&stage, &running)? else {
                println!("skipped: strace may not trace here (it needs ptrace, as root has)");
                return Ok(());
            };
            let start = Instant::now();
            drive(running.door, args.clients, units, close)?;
            counted.push((n, trace.leave()?));
            running.must_live()?;
            println!(
                "{}: {units} {what}s in {:.1} s",
                peers[n].name,
                start.elapsed().as_secs_f64()
            );
        }
        println!(
            "\nSystem calls per {what}, of {units} by {} client{}; those above {RARE} are shown.",
            args.clients,
            if args.clients == 1 { "" } else { "s" }
        );
        print(peers, &counted, units);
    }
    Ok(())
}

fn print(peers: &[Peer], counted: &[(usize, Calls)], units: u32) {
    let mut heads = vec!["call"];
    heads.extend(counted.iter().map(|(n, _)| peers[*n].name.as_str()));
    let mut table = Table::new(&heads);
    let per_unit = |calls: u64| calls as f64 / f64::from(units);
    let of = |calls: &Calls, name: &str| per_unit(calls.get(name).copied().unwrap_or(0));
    let mut names: Vec<&String> = counted.iter().flat_map(|(_, calls)| calls.keys()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| counted.iter().any(|(_, calls)| of(calls, name) > RARE));
    for name in names {
        let mut cells = vec![name.clone()];
        cells.extend(counted.iter().map(|(_, calls)| show(of(calls, name), 2)));
        table.row(cells);
    }
    let mut cells = vec!["all, the rare ones too".to_owned()];
    let sums = counted.iter().map(|(_, calls)| calls.values().sum());
    cells.extend(sums.map(|sum| show(per_unit(sum), 2)));
    table.row(cells);
    table.print();
}

/// A `strace` that counts.
#[derive(Debug)]
struct Trace {
    child: Child,
    file: std::path::PathBuf,
}

impl Trace {
    /// Joins all threads of a proxy; none when the system does not let it.
    fn join(stage: &Stage, running: &Running) -> Result<Option<Trace>> {
        let file = stage.dir().join("strace.out");
        let log = stage.dir().join("strace.log");
        let mut command: Vec<String> = ["strace", "-c", "-f", "-o"].map(str::to_owned).into();
        command.push(file.display().to_string());
        for process in running.processes() {
            command.extend(["-p".to_owned(), process.to_string()]);
        }
        let mut child = Child::start("strace", &bound_to_us(&command)?, &log)?;
        let joined = wait_for("strace: to join", TRACE_LIMIT, || {
            if child.ended()?.is_some() {
                return Ok(Some(false));
            }
            let mut all = true;
            for process in running.processes() {
                for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
                    all &= traced(&task?.path())?;
                }
            }
            Ok(all.then_some(true))
        })?;
        Ok(joined.then_some(Trace { child, file }))
    }

    /// Leaves the proxy; what was counted.
    fn leave(mut self) -> Result<Calls> {
        self.child.signal(Signal::INT)?;
        wait_for("strace: to leave", TRACE_LIMIT, || self.child.ended())?;
        parse(&std::fs::read_to_string(&self.file)?)
    }
}

fn traced(task: &Path) -> Result<bool> {
    let status = std::fs::read_to_string(task.join("status"))?;
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))
        .ok_or("a task's status names no tracer")?;
    Ok(tracer.trim() != "0")
}

/// Reads the table of `strace -c`: share, seconds, µs per call, calls, errors if any, name.
fn parse(text: &str) -> Result<Calls> {
    let mut calls = Calls::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [share, _, _, count, .., name] = words.as_slice() else {
            continue;
        };
        // Heads, rules and the sum are no calls.
        if share.parse::<f64>().is_err() || *name == "total" {
            continue;
        }
        calls.insert((*name).to_owned(), count.parse()?);
    }
    if calls.is_empty() {
        return Err(format!("strace counted nothing:\n{text}").into());
    }
    Ok(calls)
}

/// So many requests, by so many clients at once.
fn drive(door: SocketAddr, clients: u32, units: u32, close: bool) -> Result<()> {
    let each = units / clients;
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            // What does not divide goes to the first.
            let mine = each + if client == 0 { units % clients } else { 0 };
            std::thread::spawn(move || requests(door, mine, close).map_err(|e| e.to_string()))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a client panicked")??;
    }
    Ok(())
}

fn requests(door: SocketAddr, many: u32, close: bool) -> Result<()> {
    let mut kept: Option<TcpStream> = None;
    for _ in 0..many {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect(door)?,
        };
        ask(&mut stream, close)?;
        if !close {
            kept = Some(stream);
        }
    }
    Ok(())
}
