//! Configurations, and the directories they stand in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Member;

/// A check that finds out fast.
pub(crate) const FAST: &str = r#"{ kind = "tcp", interval = "100ms", timeout = "100ms", in_doubt = "50ms", fall = 3, rise = 2 }"#;
/// A check of the protocol, which the test itself must answer in time.
pub(crate) const HTTP: &str = r#"{ kind = "http", path = "/health", interval = "300ms", timeout = "300ms", in_doubt = "50ms", fall = 3, rise = 2 }"#;
/// A check that finds out nothing while a test runs.
pub(crate) const RARE: &str =
    r#"{ kind = "tcp", interval = "60s", timeout = "1s", in_doubt = "60s", fall = 20, rise = 2 }"#;

/// A directory of a test's own, gone with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("twinpool-test-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(path.join("state")).expect("a directory of one's own");
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes `text` under `name`.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file in it");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

/// A configuration in the making: an instance with a role `lines`, the same over UDP as
/// `datagrams`, and what a test adds.
#[derive(Clone)]
pub(crate) struct Setup {
    instance: String,
    /// As many as the daemon likes, when none.
    workers: Option<usize>,
    observe: Option<SocketAddr>,
    /// The daemon's limit on descriptors.
    pub(crate) descriptors: Option<u32>,
    /// The cores that it may run on, as `taskset` lists them.
    pub(crate) cores: Option<&'static str>,
    /// The program, where it is not the one that was built.
    pub(crate) program: Option<PathBuf>,
    /// What the shell that starts the daemon does before; the scratch directory is `$DIR`.
    pub(crate) before: String,
    rest: String,
}

impl Setup {
    pub(crate) fn new() -> Setup {
        Setup {
            instance: String::new(),
            workers: Some(1),
            observe: None,
            descriptors: None,
            cores: None,
            program: None,
            before: String::new(),
            rest: String::new(),
        }
    }

    /// One pool and nothing else.
    pub(crate) fn of(pool: &Pool) -> Setup {
        Setup::new().pool(pool)
    }

    pub(crate) fn pool(self, pool: &Pool) -> Setup {
        self.text(&pool.toml())
    }

    /// A line of `[instance]`.
    pub(crate) fn instance(mut self, line: &str) -> Setup {
        self.instance += line;
        self.instance.push('\n');
        self
    }

    pub(crate) fn workers(mut self, workers: usize) -> Setup {
        self.workers = Some(workers);
        self
    }

    /// As many workers as the daemon chooses by itself.
    pub(crate) fn default_workers(mut self) -> Setup {
        self.workers = None;
        self
    }

    /// Runs it on these cores alone.
    pub(crate) fn on_cores(mut self, cores: &'static str) -> Setup {
        self.cores = Some(cores);
        self
    }

    /// Runs this copy of the program.
    pub(crate) fn program(mut self, path: &Path) -> Setup {
        self.program = Some(path.to_owned());
        self
    }

    /// Has the shell that starts it do this before; the scratch directory is `$DIR`.
    pub(crate) fn before(mut self, script: &str) -> Setup {
        self.before += script;
        self.before.push('\n');
        self
    }

    /// Listens for HTTP.
    pub(crate) fn observe(mut self, address: SocketAddr) -> Setup {
        self.observe = Some(address);
        self
    }

    pub(crate) fn descriptors(mut self, limit: u32) -> Setup {
        self.descriptors = Some(limit);
        self
    }

    /// Whole tables, as they are.
    pub(crate) fn text(mut self, tables: &str) -> Setup {
        self.rest += tables;
        self.rest.push('\n');
        self
    }

    pub(crate) fn toml(&self, dir: &Path) -> String {
        let Setup {
            instance,
            workers,
            rest,
            ..
        } = self;
        let observe = match self.observe {
            Some(address) => format!("\"{address}\""),
            None => "false".to_owned(),
        };
        let workers = workers.map_or(String::new(), |n| format!("workers = {n}"));
        let dir = dir.display();
        let rest = rest.replace("{DIR}", &dir.to_string());
        format!(
            r#"
[instance]
name = "test"
state_dir = "{dir}/state"
{workers}
{instance}
[observe]
listen = {observe}

[control]
socket = "{dir}/control.sock"

[roles.lines]
primary = "line"
services.line = {{ port = 7, check = {{ kind = "tcp" }} }}
[roles.datagrams]
primary = "line"
services.line = {{ port = 7, protocol = "udp", check = {{ kind = "tcp" }} }}

{rest}"#
        )
    }
}

/// A pool `p` of the role `lines` in the making, with one service, `line`.
pub(crate) struct Pool {
    name: String,
    role: &'static str,
    quorum: String,
    listen: String,
    check: String,
    keys: String,
    service: String,
    members: String,
}

impl Pool {
    pub(crate) fn of<'a>(members: impl IntoIterator<Item = &'a Member>) -> Pool {
        let pool = Pool {
            name: "p".to_owned(),
            role: "lines",
            quorum: "\"any\"".to_owned(),
            listen: "\"127.0.0.1:0\"".to_owned(),
            check: FAST.to_owned(),
            keys: String::new(),
            service: String::new(),
            members: String::new(),
        };
        members
            .into_iter()
            .fold(pool, |pool, member| pool.member(member, ""))
    }

    /// One more member, with keys of its own.
    pub(crate) fn member(self, member: &Member, keys: &str) -> Pool {
        self.member_named(member.name(), member.address(), keys)
    }

    /// One more member, which is no [`Member`].
    pub(crate) fn member_named(self, name: &str, address: SocketAddr, keys: &str) -> Pool {
        self.line(name, &address.ip().to_string(), address.port(), keys)
    }

    /// One more member, found by this host name or address.
    pub(crate) fn member_at(self, member: &Member, host: &str, keys: &str) -> Pool {
        self.line(member.name(), host, member.address().port(), keys)
    }

    fn line(mut self, name: &str, host: &str, port: u16, keys: &str) -> Pool {
        let comma = if keys.is_empty() { "" } else { ", " };
        self.members += &format!(
            "{name} = {{ address = \"{host}\", ports = {{ line = {port} }}{comma}{keys} }}\n"
        );
        self
    }

    /// Another name than `p`.
    pub(crate) fn named(mut self, name: &str) -> Pool {
        self.name = name.to_owned();
        self
    }

    /// Of the role `datagrams`.
    pub(crate) fn over_udp(mut self) -> Pool {
        self.role = "datagrams";
        self
    }

    pub(crate) fn quorum(mut self, value: &str) -> Pool {
        self.quorum = value.to_owned();
        self
    }

    pub(crate) fn listen(mut self, value: &str) -> Pool {
        self.listen = value.to_owned();
        self
    }

    pub(crate) fn check(mut self, value: &str) -> Pool {
        self.check = value.to_owned();
        self
    }

    /// A line of the pool's table.
    pub(crate) fn key(mut self, line: &str) -> Pool {
        self.keys += line;
        self.keys.push('\n');
        self
    }

    /// A line of the service's table.
    pub(crate) fn service(mut self, line: &str) -> Pool {
        self.service += line;
        self.service.push('\n');
        self
    }

    fn toml(&self) -> String {
        let Pool {
            name,
            role,
            quorum,
            listen,
            check,
            keys,
            service,
            members,
        } = self;
        format!(
            r#"
[pools.{name}]
role = "{role}"
quorum = {quorum}
{keys}
[pools.{name}.members]
{members}
[pools.{name}.services.line]
listen = {listen}
slow_start = "1ms"
check = {check}
{service}"#
        )
    }
}
