//! Reloads from outside: the real binary, its file edited under it, real members and real clients
//! on loopback.
//!
//! What a change does not concern must not notice it; so each test holds sessions that the change
//! concerns beside some that it does not.

mod applied;
#[allow(dead_code, unused_imports, reason = "each program uses a part of it")]
#[path = "../pools/harness/mod.rs"]
mod harness;
mod logs;
mod often;
#[allow(dead_code, reason = "each program uses a part of it")]
#[path = "../bounds/process.rs"]
mod process;
mod refused;

use harness::{Daemon, Setup};

/// Edits the daemon's file.
fn write(daemon: &Daemon, setup: &Setup) {
    let path = daemon.config();
    let dir = path.parent().expect("a directory");
    std::fs::write(&path, setup.toml(dir)).expect("the file");
}

/// Edits the daemon's file and has it reload; what it said.
async fn reload(daemon: &Daemon, setup: &Setup) -> String {
    write(daemon, setup);
    daemon.done(&["reload"]).await
}
