//! An upgrade of the binary without a refused connection: the running process starts its successor
//! and hands everything over to it.
//!
//! ```text
//! predecessor                                    successor
//!   starts it ─── Hello, the listeners ─────────► reads its configuration, compares
//!             ◄─────────────────── Loaded or Refuses ───
//!   stands still: commands wait, records are on disk, no turn is taken
//!             ─── Stands: what it knows ────────► builds all but its workers
//!             ◄───────────────── Prepared or Refuses ───
//!   flows stop
//!             ─── flows, Yours ─────────────────► its workers begin, on the same listeners
//!             ◄──────────────────────────── Serves ─────
//!   closes its descriptors of the listeners, keeps its sessions
//!   systemd learns its new main process
//!             ─── reports: sessions left, Main ─► tells systemd that it is ready
//!             ◄─── News: verdicts, endings, moves ──────
//! ```
//!
//! Listeners are never closed on the way: both hold descriptors of the very same sockets. Until
//! `Serves` the predecessor accepts, and can go on as if nothing had been: whatever fails before
//! ends the successor, never a session. From `Yours` on the predecessor decides nothing and writes
//! nothing. It drains to `upgrade_deadline`, and does to its sessions what the successor tells:
//! they end with their member, and leave with their pool's users.
//!
//! systemd hears of its new main process only once that serves, for it takes the end of its main
//! process for that of the service; and it listens to its main process alone, so the successor waits
//! to be told before it says that it is ready. Whoever stops the predecessor before `Yours` ends
//! the upgrade, and after it stops both.
//!
//! A successor knows all that drain before it, [`MOST_BEFORE`] at most, and hands them on with the
//! rest: there is one line of processes, and its last one decides for all.
//!
//! Those that drain report what they hold of each member ([`elsewhere`]): it counts in the load by
//! which the successor balances. Metrics are each process's own.
//!
//! [`wire`] carries messages and descriptors, [`words`] are what they mean; [`giving`] is the
//! predecessor's side, with the [`successor`] as it sees it, and [`taking`] the successor's; [`following`] is how one drains under the
//! other's verdicts, and [`leading`] how the other gives them.

mod elsewhere;
mod flows;
mod following;
mod giving;
mod leading;
mod successor;
mod taking;
mod wire;
mod words;

pub(super) use flows::taken_flows;
pub(super) use following::{Following, follow};
pub(super) use giving::{Estate, upgrade};
pub(super) use leading::Led;
pub(super) use taking::Inheritance;
pub use taking::{Heir, TakeOverError};
pub(super) use words::Standing;

/// Earlier processes that may drain at once; each holds some MiB beside its sessions.
pub(super) const MOST_BEFORE: usize = 8;
