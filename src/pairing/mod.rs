//! What the verdicts of many members mean together: quorum and condition, isolation, and the
//! [`Decider`] that holds every machine and speaks with one voice. All of it pure.
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
pub use pair::PairMachine;
pub use record::Record;
pub use words::{
    Event, Explanation, IsolationCause, Order, Output, Pause, Refusal, Standing, Wake,
};
