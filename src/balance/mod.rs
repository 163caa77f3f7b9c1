//! Choosing a member for a new session. Pure: loads, the moment and random draws are passed in.
//!
//! A [`Roster`] is computed once a snapshot from the readiness of a service's members; a choice
//! from it takes no lock and allocates nothing. Its [`Seat`]s are grouped in tiers:
//!
//! 1. members that take new sessions,
//! 2. backup members that do,
//! 3. those that take them only while nobody else does (`busy`).
//!
//! A choice is made in the first tier. A later tier is used only when there is none before it, or
//! when every member of those before it has been tried for this session and failed: a member that
//! died a moment ago, before its verdict, must not cost a client its session. Members that are
//! merely full do not open the next tier: the session waits.
//!
//! Slow start lowers the share of a member that has returned, *relative to the others*: when all
//! return together, none is held back.
//!
//! While the users of a pool move, each member takes so many of them a second and no more
//! ([`Arrivals`]); the others are as if it were full.

mod arrivals;
mod hash;
mod load;
mod roster;

pub use arrivals::{Arrivals, Pace};
pub use hash::{client_key, client_part};
pub use load::Load;
pub use roster::{Choice, Lane, NoSeat, Roster, Seat, Tried};
