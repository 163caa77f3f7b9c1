//! Services over UDP from outside: the real binary, real members, real clients, all on loopback.
//!
//! A test starts a [`harness::Daemon`] in front of [`echo::Echo`]es that live in the test, and
//! looks at it with [`caller::Caller`]s, its command line and its control socket, as the tests of
//! pools do, with the same harness. A question is sent once and has to be answered: nothing here
//! sends again what was lost.

mod caller;
mod death;
mod echo;
mod flows;
#[allow(dead_code, unused_imports, reason = "each program uses a part of it")]
#[path = "../pools/harness/mod.rs"]
mod harness;
mod limits;
mod operators;
mod pairs;
mod stopping;
#[path = "../support/stun.rs"]
mod stun;
mod watching;
