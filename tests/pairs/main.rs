//! Pairs from outside: the real binary in front of two sites, real members, real clients, all on
//! loopback.
//!
//! A test starts [`korea::Korea`]: pools in Seoul with twins in Busan, whose members live in the
//! test. It looks at them as people and clients do, as the tests of pools do, with the same
//! harness. Nothing sleeps and hopes: what is awaited is asked for again and again, to a deadline;
//! what must not happen is watched for several times as long as it would take.

mod automatic;
mod clients;
mod events;
#[allow(dead_code, unused_imports, reason = "each program uses a part of it")]
#[path = "../pools/harness/mod.rs"]
mod harness;
mod korea;
mod operators;
mod record;
mod sites;
mod spill;
mod watching;
