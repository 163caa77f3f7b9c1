//! Hostile clients beside ordinary ones, for a few seconds: nothing that twinpool thinks changes,
//! nobody else notices, memory is bounded. `cargo bench --bench hostile` is the long form, and the
//! one that times. Needs root and `ip`; says so and passes where they are missing.

#[allow(dead_code, reason = "each program uses a part of it")]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use support::proxies::Proxy;
use support::siege::Siege;
use support::trial::{Trial, main as run_trials};
use support::{Result, inside, lab};

const TRIALS: &[Trial] = &[Trial {
    name: "hostile_clients_change_no_verdict_and_cost_nobody_else_a_session",
    run: a_short_siege,
}];

fn main() -> ExitCode {
    inside::main().unwrap_or_else(|| run_trials(TRIALS, lab::obstacle))
}

fn a_short_siege() -> Result<()> {
    let siege = Siege::lay(
        Proxy::Twinpool,
        Duration::from_secs(2),
        Duration::from_secs(8),
    )?;
    let faults = siege.faults();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("\n").into()),
    }
}
