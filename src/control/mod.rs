//! The control socket: everything that the read-only listener tells, and the commands.
//!
//! ```text
//! twinpool drain …    ─► Unix socket ─► server ─► Command ─► Desk (the daemon) ─► order() ─► Decider
//! twinpool failover …                         ─► Redirection ─► Desk ─► redirect ─► Decider, disk
//! ```
//!
//! The permissions of the socket decide who may command; who it was is taken from the connection's
//! credentials, never from what the caller says. The same bounds hold as on the read-only
//! listener. Nothing here decides.

pub mod order;
pub mod redirect;
pub mod reload;
pub mod server;
pub mod socket;

pub use crate::observe::desk::{Command, Desk, LocalFuture, Refused};
