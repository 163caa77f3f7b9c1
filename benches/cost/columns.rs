//! The columns: what a request, a connection and a GiB cost, and what an idle connection holds.
//!
//! In each round every proxy is started anew, and all run while one of them is measured: so those
//! that are compared follow each other by seconds. What they cost each other at rest is measured
//! and told.

use std::time::Duration;

use crate::Args;
use crate::rounds::{Figure, Rounds, Target, order};
use crate::stage::{Load, Running, Stage, hold, rest};
use crate::support::Result;
use crate::support::daemon::resident;
use crate::support::proxies::Proxy;
use crate::support::proxies::peers::Peer;
use crate::support::stats::{Table, median, show};

/// Connections of the bulk column.
const BULK_CLIENTS: u32 = 16;
/// Idle connections of the memory column.
const IDLE: usize = 2_000;
/// From one check to the next.
const EVERY: Duration = Duration::from_secs(1);
/// How long proxies at rest are watched in each round.
const WATCHED: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Requests on kept connections.
    Request,
    /// Connections of one request.
    Connection,
    /// Answers of 1 MiB.
    Bulk,
    /// Idle connections.
    Idle,
}

impl Column {
    /// By its name in arguments.
    pub(crate) fn parse(name: &str) -> std::result::Result<Column, String> {
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

    /// Its figures: what is charged first. Shared cores leave nothing else to be told.
    fn figures(self, shared: bool) -> Vec<Figure> {
        let mut figures = match self {
            Column::Request => vec![
                Figure::new("µs per request", 2).asked(Target::Ratio(1.0)),
                Figure::new("p99 of requests, ms", 2).asked(Target::Ratio(1.0)),
            ],
            Column::Connection => vec![
                Figure::new("µs per connection", 1).asked(Target::Ratio(0.95)),
                Figure::new("p99 of connections, ms", 2).asked(Target::Ratio(0.95)),
                Figure::new("connections/s", 0).more(),
            ],
            Column::Bulk => vec![
                Figure::new("s per GiB", 3).asked(Target::Ratio(0.95)),
                Figure::new("Gbit/s", 1).more(),
            ],
            Column::Idle => {
                vec![Figure::new("KiB per idle connection", 2).asked(Target::Most(2.0))]
            }
        };
        if shared {
            figures.truncate(1);
        }
        figures
    }

    /// Measures it; its figures in their order.
    fn measure(self, args: &Args, stage: &Stage, running: &mut Running) -> Result<Vec<f64>> {
        let (clients, path) = match self {
            Column::Bulk => (BULK_CLIENTS, "/big"),
            _ => (args.clients, "/"),
        };
        let load = Load {
            clients,
            path,
            close: self == Column::Connection,
            seconds: args.seconds,
        };
        match self {
            Column::Idle => Ok(vec![idle(running)?]),
            Column::Request => {
                let done = stage.load(running, load)?;
                Ok(vec![done.micros(), done.wrk.p99_millis])
            }
            Column::Connection => {
                let done = stage.load(running, load)?;
                let rate = done.wrk.requests / done.wrk.seconds;
                Ok(vec![done.micros(), done.wrk.p99_millis, rate])
            }
            Column::Bulk => {
                let done = stage.load(running, load)?;
                let gib = done.wrk.bytes / f64::from(1 << 30);
                let rate = done.wrk.bytes * 8.0 / done.wrk.seconds / 1e9;
                Ok(vec![done.charged / gib, rate])
            }
        }
    }
}

/// KiB that each idle connection adds to a proxy's memory, after it has carried one request.
fn idle(running: &Running) -> Result<f64> {
    let memory = || -> Result<f64> {
        let each = running.processes().into_iter().map(resident);
        Ok(each.sum::<Result<u64>>()? as f64)
    };
    let before = memory()?;
    let held = hold(running.door, IDLE)?;
    rest();
    let grown = memory()? - before;
    drop(held);
    Ok(grown / IDLE as f64)
}

/// Measures the columns and prints them.
pub(crate) fn compare(args: &Args, peers: &[Peer]) -> Result<()> {
    let shared = args.workers > 1;
    // Idle connections first: they are to be the first that a proxy carries.
    let all = [
        Column::Idle,
        Column::Request,
        Column::Connection,
        Column::Bulk,
    ];
    let wanted =
        |column: &Column| args.columns.contains(column) && !(shared && *column == Column::Idle);
    let columns: Vec<Column> = all.into_iter().filter(wanted).collect();
    let figures: Vec<Figure> = columns.iter().flat_map(|c| c.figures(shared)).collect();
    let names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
    let ours = peers.iter().position(|p| p.proxy == Proxy::Twinpool);
    let mut rounds = Rounds::new(figures, names, ours);
    let mut rested = Rested::new(peers.len());

    let stage = Stage::new(args.workers, false)?;
    for round in 0..args.rounds as usize {
        let order = order(peers.len(), round);
        let every = args.every(EVERY);
        let mut running = Vec::new();
        for &n in &order {
            let fronts = stage.pool()?;
            running.push((n, stage.start(&peers[n], &fronts, args.workers, every)?));
        }
        rest();
        rested.watch(&stage, &running)?;
        let mut figure = 0;
        for column in &columns {
            for (n, proxy) in &mut running {
                if *column != Column::Idle {
                    // Members are checked by now: every proxy serves.
                    proxy.serves()?;
                }
                let mut values = column.measure(args, &stage, proxy)?;
                values.truncate(column.figures(shared).len());
                println!(
                    "round {}, {column:?}, {}: {}",
                    round + 1,
                    peers[*n].name,
                    told(&values)
                );
                for (offset, value) in values.into_iter().enumerate() {
                    rounds.put(figure + offset, *n, round, value);
                }
            }
            figure += column.figures(shared).len();
        }
    }

    println!(
        "\n{} rounds, phases of {} s, {} connections, {} worker{} each.",
        args.rounds,
        args.seconds,
        args.clients,
        args.workers,
        if shared { "s" } else { "" }
    );
    if shared {
        println!(
            "Cores are shared: each proxy is charged with the time of its own threads, in which \
             the kernel's work in interrupts is not told apart."
        );
    }
    args.caveat();
    rested.print(peers);
    rounds.print_medians();
    rounds.print_ratios();
    Ok(())
}

fn told(values: &[f64]) -> String {
    let values: Vec<String> = values.iter().map(|value| show(*value, 3)).collect();
    values.join(" ")
}

/// What the proxies cost while nobody asks anything of them.
#[derive(Debug)]
struct Rested {
    each: Vec<Vec<f64>>,
    core: Vec<f64>,
}

impl Rested {
    fn new(proxies: usize) -> Rested {
        Rested {
            each: vec![Vec::new(); proxies],
            core: Vec::new(),
        }
    }

    fn watch(&mut self, stage: &Stage, running: &[(usize, Running)]) -> Result<()> {
        let groups: Vec<Vec<u32>> = running.iter().map(|(_, r)| r.processes()).collect();
        let (shares, core) = stage.meter.at_rest(&groups, WATCHED)?;
        for ((n, _), share) in running.iter().zip(shares) {
            self.each[*n].push(share);
        }
        if core > 0.03 {
            println!("note: core 0 is busy for {core:.2} of each second while all are idle");
        }
        self.core.push(core);
        Ok(())
    }

    fn print(&self, peers: &[Peer]) {
        let mut table = Table::new(&["at rest", "% of a core"]);
        for (peer, shares) in peers.iter().zip(&self.each) {
            table.row([peer.name.clone(), show(median(shares) * 100.0, 2)]);
        }
        let core = median(&self.core) * 100.0;
        table.row(["core 0, all of them and all else".into(), show(core, 2)]);
        table.print();
    }
}
