//! What tests and benches from outside share: hosts in network namespaces, the members and clients
//! that run on them, and the proxies between.
//!
//! A program that uses this starts itself again inside namespaces: its `main` hands over to
//! [`inside::main`] first, which does the work of a member, a client or a janitor when the first
//! argument says so. Every process is started with a parent-death signal and ended by its id;
//! every namespace carries the program's own prefix, and a janitor deletes them even when the
//! program is killed. Nothing outside those namespaces and one temporary directory is touched.
//!
//! ```text
//!  client ──┐              ┌── member host m1
//!           ├── switch ────┼── m2            switch: a bridge in a namespace of its own;
//!  proxy ───┘  (bridge)    └── m3 …          a host is cut there: carrier stays, packets vanish
//! ```

pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod crowd;
pub(crate) mod daemon;
pub(crate) mod datagrams;
pub(crate) mod echo;
pub(crate) mod hostile;
pub(crate) mod http;
pub(crate) mod inside;
pub(crate) mod lab;
pub(crate) mod load;
pub(crate) mod member;
pub(crate) mod proxies;
pub(crate) mod scene;
pub(crate) mod siege;
pub(crate) mod stats;
pub(crate) mod stun;
pub(crate) mod trial;

/// What went wrong, in words: nobody handles these but the person who reads them.
pub(crate) type Error = Box<dyn std::error::Error>;
/// See [`Error`].
pub(crate) type Result<T> = std::result::Result<T, Error>;
