//! Services over UDP: flows, and the path of their datagrams.
//!
//! ```text
//! listener ─► batch ─► flow of this client? ─► its member's socket ─► member
//!                       none: pick a member, room in the table?
//! member ─► its flow's socket ─► batch ─► listener ─► client
//! ```
//!
//! A client's address and port, at one listener, make a *flow*. It has one member, and a connected
//! socket of its own towards it: the member sees a port for each flow, the kernel looks its route
//! up once, takes nothing from anybody else, and tells of ICMP errors. Listeners are unconnected;
//! each is read in batches, and what follows each other in one flow at one length goes out in one
//! piece (`UDP_SEGMENT`) and comes in so (`UDP_GRO`).
//!
//! One task a worker moves all of them. Its sockets are in one epoll set of their own, level
//! triggered, whose events name the flow; a turn is bounded, so that neither a flood nor a single
//! flow starves the worker's sessions.
//!
//! What a flow is and when it ends is decided as for a session: it picks its member from the
//! snapshot, holds its place by an [`Attempt`](crate::dispatch::Attempt) and stands in the worker's
//! registry, which ends it with its member, when its users move, and when it is idle. To end a
//! flow is to forget it: the client's next datagram begins another one, on a member that lives.
//!
//! The table is bounded ([`table`]): a sender of forged addresses costs others nothing.

#[cfg_attr(not(test), expect(dead_code, reason = "its caller is being built"))]
mod table;
