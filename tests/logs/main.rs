//! What twinpool writes down, from outside: the form of its log, its level, its access log.
//!
//! The same harness as for pools: the real binary, real members, real clients, all on loopback.

mod access;
#[allow(dead_code, unused_imports, reason = "each program uses a part of it")]
#[path = "../udp/caller.rs"]
mod caller;
#[allow(dead_code, unused_imports, reason = "each program uses a part of it")]
#[path = "../udp/echo.rs"]
mod echo;
mod forms;
#[allow(dead_code, unused_imports, reason = "each program uses a part of it")]
#[path = "../pools/harness/mod.rs"]
mod harness;
mod levels;
#[allow(dead_code, reason = "each program uses a part of it")]
#[path = "../support/stun.rs"]
mod stun;
