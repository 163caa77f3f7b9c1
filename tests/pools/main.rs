//! Pools from outside: the real binary, real members, real clients, all on loopback.
//!
//! A test starts a [`harness::Daemon`] in front of [`harness::Member`]s that live in the test, and
//! looks at it as people and clients do: through its listeners, its command line and its control
//! socket. Nothing sleeps and hopes: what is awaited is asked for again and again, to a deadline.

mod balancing;
mod death;
#[allow(dead_code, reason = "each program uses a part of it")]
mod harness;
mod lifecycle;
mod limits;
mod names_and_addresses;
mod operators;
mod proxy_headers;
mod quorum;
mod sessions;
mod watching;
