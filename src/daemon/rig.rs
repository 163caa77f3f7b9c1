//! What the tests of this room are made of: a configuration with a pair, and a directory of their
//! own.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::config::{self, Config};
use crate::topology::{Automation, Pair, PairId, PairRules};

/// A directory of a test's own, gone with it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("twinpool-daemon-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory");
        Scratch(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.file(name).symlink_metadata().is_ok()
    }

    pub(super) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).expect("a file")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What an instance writes last may come while this goes on.
        let mut tries = 0;
        while let Err(error) = std::fs::remove_dir_all(&self.0) {
            tries += 1;
            assert!(tries < 100, "{} stays: {error}", self.0.display());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// The site seoul with the pools `fe`, `edge` and `web`, of which `web` has no twin, and the site
/// busan with the twins `fe-b` and `edge-b`: the pairs `korea` and `rim`. `edge` moves after `fe`.
/// Each pool has one member, at the address that `member` gives for the pool's place.
pub(super) fn config(dir: &Path, member: impl Fn(usize) -> SocketAddr) -> Config {
    let mut text = format!(
        r#"
[instance]
name = "test"
state_dir = "{dir}/state"
workers = 1
[observe]
listen = false
[control]
socket = "{dir}/control.sock"
[sites.seoul]
region = "kr-north"
[sites.busan]
region = "kr-south"
[roles.web]
primary = "http"
services.http = {{ port = 8080, check = {{ kind = "tcp", interval = "50ms", timeout = "50ms", in_doubt = "20ms", fall = 2, rise = 1, flap = 100 }} }}
"#,
        dir = dir.display()
    );
    let pools = ["edge", "fe", "web", "fe-b", "edge-b"];
    for (place, pool) in pools.into_iter().enumerate() {
        let site = if pool.ends_with("-b") {
            "busan"
        } else {
            "seoul"
        };
        let (ip, port) = (member(place).ip(), member(place).port());
        text += &format!(
            r#"
[pools.{pool}]
role = "web"
site = "{site}"
quorum = 1
drain_deadline = "10m"
members.m = {{ address = "{ip}", ports = {{ http = {port} }} }}
services.http = {{ listen = "127.0.0.1:0" }}
"#
        );
    }
    let mut config = config::parse(&text, "test.toml")
        .expect("a configuration")
        .config;
    let topology = &mut config.topology;
    let id = |name: &str| topology.pool_named(name).expect("a pool").id;
    let few = NonZeroU32::new(50).expect("not zero");
    let pair = |place, name: &str, pools: [&str; 2]| Pair {
        id: PairId(place),
        name: name.to_owned(),
        pools: pools.map(id),
        rules: PairRules {
            failover: Automation::Manual,
            after: Duration::from_secs(10),
            failback: Automation::Manual,
            hold: Duration::from_secs(300),
            longest_hold: Duration::from_secs(3_600),
            ramp: Duration::from_secs(60),
        },
        spill: false,
        exclusive: false,
        move_rate: few,
        arrivals: few,
    };
    let pairs = vec![
        pair(0, "korea", ["fe", "fe-b"]),
        pair(1, "rim", ["edge", "edge-b"]),
    ];
    let (edge, fe) = (id("edge"), id("fe"));
    topology.pairs = pairs;
    topology.pools[edge.index()].after_pools = vec![fe];
    config
}
