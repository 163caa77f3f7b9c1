//! The one way to get a member: a [`Snapshot`] of who may be chosen, and [`Snapshot::pick`].
//!
//! The control thread builds one immutable snapshot from what the decider says and sends it to
//! every worker; a worker that picks reads its own copy and shares nothing but the member's load
//! counter. A pick gives an [`Attempt`], which holds the member's place until it is dropped: an
//! attempt that fails, is outrun by a hedge or is forgotten in any other way gives the place back.
//!
//! An established session keeps its attempt and with it only the member's handle, so snapshots
//! come and go without touching it.
//!
//! Where a pool has a twin, the snapshot also says which of the two serves a client, and where a
//! connection may go that was accepted nowhere ([`Snapshot::serving`], [`Snapshot::spill`]). While
//! users move, each member takes so many of them a second; the others wait as if it were full.
//!
//! From one member that refuses to the next, and to the other pool, a session goes by its [`Walk`].
//!
//! Hedging stays within a share of a service's attempts ([`HedgeBudget`]), so that a slow member
//! cannot double the load of the others.

pub mod addresses;
mod attempt;
#[cfg(test)]
pub(crate) mod fixture;
mod hedge;
mod redirect;
mod snapshot;
mod walk;

pub use attempt::Attempt;
pub use hedge::HedgeBudget;
pub use snapshot::{Handles, MemberHandle, NoMember, PoolHandle, Request, Route, Snapshot};
pub use walk::{Leg, Walk};
