//! The control socket: everything that the read-only listener tells, and the commands.
//!
//! ```text
//! twinpool drain …    ─► Unix socket ─► server ─► Command ─► Desk (the daemon) ─► order() ─► Decider
//! twinpool failover …                         ─► Redirection ─► Desk ─► redirect ─► Decider, disk
//! ```
//!
//! The permissions of the socket decide who may command; who it was is taken from the connection's
//! credentials, as the kernel gives them, never from what the caller says. Each command is kept among
//! the events with who gave it and what came of it. The same bounds hold as on the read-only
//! listener. Nothing here decides.

mod caller;
pub mod order;
mod record;
pub mod redirect;
pub mod reload;
pub mod server;
pub mod socket;

pub use crate::observe::desk::{Command, Desk, LocalFuture, Refused};
