//! Cost as open connections grow: the same columns beside so many that are open and idle.

use crate::Args;
use crate::rounds::{Figure, Rounds, order};
use crate::stage::{CONNECTIONS, SLOW, Stage, hold, rest};
use crate::support::Result;
use crate::support::proxies::Proxy;
use crate::support::proxies::peers::Peer;

/// What is measured at each count.
const UNITS: [&str; 2] = ["µs per request", "µs per connection"];

/// Measures and prints.
pub(crate) fn compare(args: &Args, peers: &[Peer]) -> Result<()> {
    // The load's connections come on top, and some are closing while others open.
    let most = CONNECTIONS as usize - 4 * args.clients as usize;
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    let fits = |open: &usize| *open <= most && 2 * (*open as u64) + 2_000 <= descriptors;
    let (counts, left): (Vec<usize>, Vec<usize>) = args.open.iter().partition(|open| fits(open));
    for open in left {
        println!(
            "left out: {open} open connections are more than {descriptors} descriptors, or the \
             {most} that proxies are set up for, allow"
        );
    }
    if counts.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
    let ours = peers.iter().position(|p| p.proxy == Proxy::Twinpool);
    let steps: Vec<String> = counts.iter().map(|n| format!("{n} open")).collect();
    let figures = steps
        .iter()
        .flat_map(|step| UNITS.map(|unit| Figure::new(&format!("{unit}, {step}"), 2)))
        .collect();
    let mut rounds = Rounds::new(figures, names, ours);

    let stage = Stage::new(1, false)?;
    for round in 0..args.rounds as usize {
        for n in order(peers.len(), round) {
            // Each count within one process, one after the other: what grows shows as growth.
            let fronts = stage.pool()?;
            let mut running = stage.start(&peers[n], &fronts, 1, args.every(SLOW))?;
            rest();
            running.serves()?;
            for (step, &open) in counts.iter().enumerate() {
                let held = hold(running.door, open)?;
                let done = stage.both(args, &mut running)?;
                drop(held);
                println!(
                    "round {}, {}, {open} open: {:.2} µs per request, {:.2} µs per connection",
                    round + 1,
                    peers[n].name,
                    done[0].micros(),
                    done[1].micros()
                );
                for (unit, done) in done.iter().enumerate() {
                    rounds.put(step * UNITS.len() + unit, n, round, done.micros());
                }
                // The end of so many is not the next count's work.
                rest();
            }
        }
    }

    println!(
        "\n{} rounds, phases of {} s, {} active connections; in brackets, paired, against {}.",
        args.rounds, args.seconds, args.clients, steps[0]
    );
    args.caveat();
    rounds.print_growth(&UNITS, &steps);
    rounds.print_ratios();
    Ok(())
}
