//! Cost as members and pools grow: the same columns on one pool of many.

use crate::Args;
use crate::rounds::{Figure, Rounds, order};
use crate::stage::{SLOW, Stage, rest};
use crate::support::Result;
use crate::support::proxies::Proxy;
use crate::support::proxies::peers::Peer;

/// What is measured at each shape.
const UNITS: [&str; 2] = ["µs per request", "µs per connection"];

/// So many members in so many pools.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) members: usize,
    pub(crate) pools: usize,
}

impl Shape {
    /// By what is written in arguments, as `1000x200`.
    pub(crate) fn parse(text: &str) -> std::result::Result<Shape, String> {
        let wrong = || format!("{text} is no shape: write MEMBERSxPOOLS, as 1000x200");
        let (members, pools) = text.split_once('x').ok_or_else(wrong)?;
        let shape = Shape {
            members: members.parse().map_err(|_| wrong())?,
            pools: pools.parse().map_err(|_| wrong())?,
        };
        if shape.pools == 0 || shape.members < shape.pools || shape.members > 1_000 {
            return Err(format!(
                "{text}: write at least one pool, as many members, and at most 1000 members"
            ));
        }
        Ok(shape)
    }
}

/// Measures and prints.
pub(crate) fn compare(args: &Args, peers: &[Peer]) -> Result<()> {
    let names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
    let ours = peers.iter().position(|p| p.proxy == Proxy::Twinpool);
    let steps: Vec<String> = args
        .shape
        .iter()
        .map(|shape| format!("{} in {}", shape.members, shape.pools))
        .collect();
    let figures = steps
        .iter()
        .flat_map(|step| UNITS.map(|unit| Figure::new(&format!("{unit}, {step}"), 2)))
        .collect();
    let mut rounds = Rounds::new(figures, names, ours);

    let stage = Stage::new(1, true)?;
    let every = args.every(SLOW);
    for round in 0..args.rounds as usize {
        for n in order(peers.len(), round) {
            for (step, shape) in args.shape.iter().enumerate() {
                let fronts = stage.pools(shape.members, shape.pools)?;
                let mut running = stage.start(&peers[n], &fronts, 1, every)?;
                rest();
                running.serves()?;
                let done = stage.both(args, &mut running)?;
                println!(
                    "round {}, {}, {}: {:.2} µs per request, {:.2} µs per connection",
                    round + 1,
                    peers[n].name,
                    steps[step],
                    done[0].micros(),
                    done[1].micros()
                );
                for (unit, done) in done.iter().enumerate() {
                    rounds.put(step * UNITS.len() + unit, n, round, done.micros());
                }
            }
        }
    }

    println!(
        "\nMembers in pools, all load on the first pool, checks every {} s; {} rounds, phases of \
         {} s; in brackets, paired, against {}.",
        every.as_secs(),
        args.rounds,
        args.seconds,
        steps[0]
    );
    args.caveat();
    rounds.print_growth(&UNITS, &steps);
    rounds.print_ratios();
    Ok(())
}
