//! twinpool carries every client connection to a healthy member of the pool that it asked for, or
//! of that pool's twin when the redirect table says so.
//!
//! # How data flows
//!
//! ```text
//! client ─► listener ─► service ─► redirect table ─► balancer ─► attempt(s) ─► relay until one side ends
//!                                  (which pool?)    (which member?)  hedged, within one budget
//!
//! probe ──► verdict ─► condition ─► pair ─► persisted record ─► one new snapshot, swapped in
//! traffic ─┘ (evidence)              ▲
//!                                operator
//! ```
//!
//! # Rooms
//!
//! | Room | Is for | Imports |
//! |---|---|---|
//! | [`time`] | the clock value that deciding code is given | nothing |
//! | [`clock`] | the one place where the clock is read | time |
//! | [`topology`] | sites, pools, members, services, pairs and their ids; look-up only | nothing |
//! | [`log`] | the log of this process: where it goes, what is told, storms; the access log's writer | clock |
//! | [`config`] | TOML to `Config`, or every mistake in it at once | topology, log |
//! | [`health`] | verdict machine (pure); probes and the runner that asks them | topology |
//! | [`pairing`] | quorum, condition, isolation, the pair machine, and the decider that holds every machine (pure); where records are kept | health |
//! | [`balance`] | choosing a member (pure), load accounting | topology |
//! | [`dispatch`] | the snapshot with its redirects, and the one way to get a member from it | balance, pairing |
//! | [`proxy`] | workers, listeners, relay, session registry | dispatch, log |
//! | [`observe`] | HTTP endpoints, metrics, status, events | pairing |
//! | [`control`] | the control socket and its commands | observe |
//! | [`daemon`] | wiring: workers, snapshot, reloads, upgrades, signals, systemd | all of the above |
//! | [`cli`] | commands and what they print | all of the above |
//!
//! # Invariants
//!
//! 1. A session only ever reaches a member of the role it asked for.
//! 2. `health`, `balance` and `pairing` decide and do nothing else: no tokio, sockets, clock or
//!    randomness inside; their runners stand beside them in files of their own.
//! 3. An attempt reads the current snapshot; an established session holds only its member's
//!    handle. The transitions of one moment are published as one snapshot.
//! 4. Once a byte has passed, a session is never retried elsewhere. An abnormal end is a reset.
//! 5. A configuration that does not validate never runs.
//! 6. No transition sends users to a lost pool. A pair has at most one pool away: no chains, no
//!    cycles.
//! 7. A generation only rises. A record is on disk before it is in force, and never older there
//!    than anything that was answered or served.
//! 8. Automation never undoes what an operator did, except in an automatic pair, to leave a pool
//!    that is lost for one that serves.
//! 9. An isolated instance holds: it ends nothing, decides nothing, and says so.
//! 10. Every queue, retry and buffer has a named bound, and an overflow is counted. Every
//!     transition has a reason that `why` can tell.

#![forbid(unsafe_code)]

pub mod balance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dispatch;
pub mod health;
pub mod log;
pub mod observe;
pub mod pairing;
pub mod proxy;
pub mod time;
pub mod topology;
