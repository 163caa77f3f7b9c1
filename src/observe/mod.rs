//! What is seen from outside: status, events, metrics, and the read-only HTTP that serves them.
//!
//! ```text
//! daemon ─ lends ─► View ─► status() ─► Status ─┬─► /v1/status, /v1/pools      (http)
//!                     │                         ├─► /v1/pairs, /v1/redirects    (http)
//!                     │                         ├─► /metrics                    (metrics)
//!                     │                         └─► the page of `twinpool status` (cli)
//!                     └───► why()    ─► Why    ───► /v1/why on the control socket
//! pairing::Event ─► Events ─► log, /v1/events, the page's last lines
//! ```
//!
//! Nothing here decides or changes anything. A client of the read-only listener can cost this
//! thread no more than [`serve`]'s named bounds.

pub mod counters;
pub mod desk;
pub mod events;
pub mod histogram;
pub mod http;
pub mod measures;
pub mod metrics;
pub mod names;
pub mod onset;
pub mod outlook;
pub mod problems;
pub mod reloads;
#[cfg(test)]
pub(crate) mod sample;
pub mod serve;
pub mod shortage;
pub mod stamp;
pub mod status;
pub mod view;
pub mod why;

pub use desk::{Command, Desk, LocalFuture, Refused};
pub use events::Events;
pub use histogram::{Distribution, Histogram};
pub use measures::Measures;
pub use onset::Onsets;
pub use shortage::Shortages;
pub use stamp::Stamp;
pub use status::{PoolHealth, Status};
pub use view::{Ceiling, CheckTotals, Exchange, LimitedBy, Room, RunState, View};
pub use why::{PairWhy, PoolWhy, Why};
