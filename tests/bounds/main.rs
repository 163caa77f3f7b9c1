//! The byte path's bounds from outside: the real binary, floods of real clients, all on loopback.
//!
//! A test starts the daemon in front of members that live in the test, as the tests of pools do,
//! with the same harness, and looks at its process as the kernel sees it: descriptors, memory,
//! processor time. Nothing measures how long something took: fairness is counted in bytes that
//! others moved meanwhile.
//!
//! Tests with thousands of connections raise their own soft limit on descriptors, and are skipped
//! with a message where the hard limit is too low.

mod crowd;
mod ending;
mod fairness;
#[allow(dead_code, unused_imports, reason = "each program uses a part of it")]
#[path = "../pools/harness/mod.rs"]
mod harness;
mod process;
mod shedding;
mod slow_readers;
mod workers;
