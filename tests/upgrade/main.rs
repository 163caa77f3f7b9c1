//! Upgrades from outside: the real binary starts its successor, which takes over from it, with real
//! members and real clients on loopback.

#[allow(dead_code, unused_imports, reason = "each program uses a part of it")]
#[path = "../pools/harness/mod.rs"]
mod harness;
mod led;
mod line;
mod refused;
mod served;
mod stopped;

/// The program.
const BINARY: &str = env!("CARGO_BIN_EXE_twinpool");
