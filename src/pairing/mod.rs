//! What the verdicts of many members mean together: quorum and condition, isolation, where the
//! users of paired pools are sent, and the [`Decider`] that holds every machine and speaks with one
//! voice. All of it pure but the [`store`], where records are kept.
//!
//! ```text
//! verdicts ─► condition ─► PairMachine ─► Store(record) ─► disk ─► handle_stored ─► in force
//!                 ▲            ▲                                                   │
//!             isolation     operator                  publish, end, tell ◄─────────┘
//! ```
//!
//! # Driver's contract
//!
//! Call one `handle_*` with the moment it happened, then take everything from
//! [`Decider::poll_output`] until it is empty, then wait until [`Decider::poll_timeout`] or the
//! next input. The outputs of one moment are published as one snapshot.

mod agenda;
pub mod condition;
pub mod decider;
mod dice;
pub mod isolation;
pub mod legacy;
pub mod moving;
mod operators;
pub mod pair;
mod places;
pub mod plan;
pub mod quorum;
pub mod record;
pub mod store;
mod words;

pub use condition::Condition;
pub use decider::Decider;
pub use legacy::Legacy;
pub use pair::PairMachine;
pub use record::Record;
pub use words::{
    Event, Explanation, IsolationCause, Order, Output, Pause, Refusal, Standing, Wake,
};
