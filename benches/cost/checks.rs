//! What health checks cost: the share of a core that they take, and what traffic notices.

use std::time::Duration;

use crate::Args;
use crate::rounds::{Figure, Rounds, order};
use crate::stage::{Load, SLOW, Stage, rest};
use crate::steady;
use crate::support::Result;
use crate::support::proxies::Proxy;
use crate::support::proxies::peers::Peer;
use crate::support::stats::{Table, median, quantile, show};

/// Members that are checked, and the pools they are in.
const MEMBERS: usize = 1_000;
const POOLS: usize = 200;
/// From one check of a member to the next.
const EVERY: Duration = Duration::from_secs(1);
/// Until every member has been asked twice.
const SETTLE: Duration = Duration::from_secs(3);
/// Figures of one run of a proxy.
const FIGURES: [(&str, usize); 5] = [
    ("% of core 0 at rest", 2),
    ("% of a core, its own threads", 2),
    ("p99 of requests at a steady rate, ms", 3),
    ("p99 of connections at a steady rate, ms", 3),
    ("p99 of requests flat out, ms", 2),
];

/// Measures and prints.
pub(crate) fn compare(args: &Args, peers: &[Peer]) -> Result<()> {
    let peers: Vec<&Peer> = peers
        .iter()
        .filter(|peer| matches!(peer.proxy, Proxy::Twinpool | Proxy::Haproxy))
        .collect();
    let every = args.every(EVERY);
    // Each proxy once with checks and once, but for those of its start, without.
    let runs: Vec<(&Peer, Duration)> = peers
        .iter()
        .flat_map(|peer| [(*peer, every), (*peer, SLOW)])
        .collect();
    let names = runs
        .iter()
        .map(|(peer, every)| match *every == SLOW {
            true => format!("{} without", peer.name),
            false => format!("{} with checks", peer.name),
        })
        .collect();
    let figures = FIGURES.map(|(name, decimals)| Figure::new(name, decimals));
    let mut rounds = Rounds::new(figures.into(), names, None);

    let stage = Stage::new(1, true)?;
    for round in 0..args.rounds as usize {
        // The two of a proxy follow each other, so that they can be paired.
        for proxy in order(peers.len(), round) {
            for with in order(2, round) {
                let n = proxy * 2 + with;
                let values = measure(args, &stage, runs[n].0, runs[n].1)?;
                println!(
                    "round {}, {}, checks every {} s: {values:.3?}",
                    round + 1,
                    runs[n].0.name,
                    runs[n].1.as_secs()
                );
                for (figure, value) in values.into_iter().enumerate() {
                    rounds.put(figure, n, round, value);
                }
            }
        }
    }

    println!(
        "\n{MEMBERS} members in {POOLS} pools, an HTTP check of each every {} s; {} rounds, \
         phases of {} s.",
        every.as_secs(),
        args.rounds,
        args.seconds
    );
    args.caveat();
    rounds.print_medians();
    let mut table = Table::new(&[
        "proxy",
        "% of core 0 that checks take",
        "of which its own threads",
        "µs of core 0 per check",
        "p99 of requests, with ÷ without: median, middle half",
        "p99 of connections, with ÷ without",
        "p99 of requests flat out, with ÷ without",
    ]);
    for (n, peer) in peers.iter().enumerate() {
        let (with, without) = (2 * n, 2 * n + 1);
        let taken = |figure| rounds.median(figure, with) - rounds.median(figure, without);
        let share = taken(0);
        let mut cells = vec![
            peer.name.clone(),
            show(share, 2),
            show(taken(1), 2),
            show(share * 1e4 * every.as_secs_f64() / MEMBERS as f64, 1),
        ];
        for figure in 2..FIGURES.len() {
            let ratios = rounds.ratios((figure, with), (figure, without));
            let (from, to) = (quantile(&ratios, 0.25), quantile(&ratios, 0.75));
            let middle = show(median(&ratios), 2);
            cells.push(format!("{middle}, {}–{}", show(from, 2), show(to, 2)));
        }
        table.row(cells);
    }
    table.print();
    Ok(())
}

fn measure(
    args: &Args,
    stage: &Stage,
    peer: &Peer,
    every: Duration,
) -> Result<[f64; FIGURES.len()]> {
    let fronts = stage.pools(MEMBERS, POOLS)?;
    let mut running = stage.start(peer, &fronts, 1, every)?;
    rest();
    std::thread::sleep(SETTLE);
    running.serves()?;
    let group = [running.processes()];
    let (own, core) = stage.meter.at_rest(&group, args.phase())?;
    let seen = steady::run(running.door, args.phase())?;
    let flat_out = Load {
        clients: args.clients,
        path: "/",
        close: false,
        seconds: args.seconds,
    };
    let done = stage.load(&mut running, flat_out)?;
    Ok([
        core * 100.0,
        own[0] * 100.0,
        seen.request_p99,
        seen.connection_p99,
        done.wrk.p99_millis,
    ])
}
