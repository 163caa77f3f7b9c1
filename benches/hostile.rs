//! Hostile clients beside ordinary ones for a minute: what the ordinary ones notice, and what it
//! costs in memory.
//!
//! See `benches/README.md` for the method.

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use support::clock::seconds;
use support::load::Report;
use support::proxies::Proxy;
use support::siege::Siege;
use support::stats::{Table, median, quantile, show, worst};
use support::{Result, inside, lab};

/// What p99 may be in a siege, as a multiple of what it is in peace.
const P99_TARGET: f64 = 1.5;

/// Hostile clients beside ordinary ones.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench hostile --")]
struct Args {
    /// Seconds of siege.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds of peace before it.
    #[arg(long, default_value_t = 20)]
    peace: u64,
    /// Which proxy: twinpool, or haproxy to see what the machine allows.
    #[arg(long, default_value = "twinpool", value_parser = Proxy::parse)]
    proxy: Proxy,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if let Some(played) = inside::main() {
        return played;
    }
    let args = Args::parse();
    if let Some(why) = lab::obstacle() {
        println!("skipped: {why}");
        return ExitCode::SUCCESS;
    }
    match besiege(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn besiege(args: &Args) -> Result<()> {
    let siege = Siege::lay(
        args.proxy,
        Duration::from_secs(args.peace),
        Duration::from_secs(args.seconds),
    )?;
    let mut seen = Table::new(&[
        "ordinary clients",
        "new connections",
        "failed",
        "median, ms",
        "p99, ms",
        "worst, ms",
        "p99 of long sessions' requests, ms",
    ]);
    for (when, report) in [("in peace", &siege.peace), ("in the siege", &siege.siege)] {
        let took = new_millis(report);
        seen.row([
            when.to_owned(),
            report.news.len().to_string(),
            report.failed().count().to_string(),
            show(median(&took), 2),
            show(quantile(&took, 0.99), 2),
            show(worst(&took), 2),
            show(quantile(&long_millis(report), 0.99), 2),
        ]);
    }
    seen.print();
    let p99 = |report: &Report| quantile(&new_millis(report), 0.99);
    let ratio = p99(&siege.siege) / p99(&siege.peace);
    let verdicts = siege.told.iter().filter(|e| e.kind == "verdict").count();
    let result = |met: bool| if met { "met" } else { "**missed**" }.to_owned();
    let mut targets = Table::new(&["figure", "target", "measured", "result"]);
    targets.row([
        "p99 of new connections, siege ÷ peace".into(),
        show(P99_TARGET, 1),
        show(ratio, 2),
        result(ratio <= P99_TARGET),
    ]);
    targets.row([
        "verdicts changed".into(),
        "0".into(),
        verdicts.to_string(),
        result(verdicts == 0),
    ]);
    let growth = siege.memory_most.saturating_sub(siege.memory_before);
    targets.row([
        format!("growth of memory from {} KiB, KiB", siege.memory_before),
        Siege::growth_allowed().to_string(),
        growth.to_string(),
        result(growth <= Siege::growth_allowed()),
    ]);
    targets.print();
    let faults = siege.faults();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("\n").into()),
    }
}

fn new_millis(report: &Report) -> Vec<f64> {
    let took = report.took(0, u64::MAX);
    took.into_iter().map(|seconds| seconds * 1e3).collect()
}

fn long_millis(report: &Report) -> Vec<f64> {
    let took = |a: &support::load::Answer| seconds(a.sent, a.came) * 1e3;
    report.answers.iter().map(took).collect()
}
