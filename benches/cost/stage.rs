//! Members, proxies and load: started, pinned, and ended with this program.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Args;
use crate::meter::{Charge, Meter};
use crate::support::child::{Child, bound_to_us, run};
use crate::support::clock::wait_for;
use crate::support::proxies::peers::{Peer, Setup, nginx_members};
use crate::support::proxies::{Front, Target};
use crate::support::{Result, http, inside};

/// How long a proxy is left alone before something is read of it, and after connections came.
pub(crate) const REST: Duration = Duration::from_secs(2);
/// From one check to the next where checks are not to be seen.
pub(crate) const SLOW: Duration = Duration::from_secs(3600);
/// Connections that proxies are set up for; what 20,000 descriptors allow a proxy with 1,000
/// checks of its own.
pub(crate) const CONNECTIONS: u32 = 9_000;
/// How long a proxy may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Connections that the members' one process can hold.
const MEMBER_CONNECTIONS: u32 = 19_000;
/// Members of the usual pool.
const MEMBERS: usize = 3;

/// What wrk prints at the end, for a program to read.
const WRK_REPORT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("REPORT %d %d %d %d %d\n", summary.requests, summary.bytes,
    summary.duration, latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// The members, ready, and where everything is. Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Stage {
    _members: Child,
    /// What reads processor time.
    pub(crate) meter: Meter,
    ports: [u16; MEMBERS],
    proxy_cores: String,
    load_cores: String,
    turns: std::cell::Cell<u32>,
    dir: Dir,
}

/// A temporary directory, gone when dropped, and also when this program is killed.
#[derive(Debug)]
struct Dir {
    path: PathBuf,
    /// Removes it when its input ends.
    janitor: std::process::Child,
}

impl Dir {
    fn new() -> Result<Dir> {
        let path = std::env::temp_dir().join(format!("twinpool-{}-cost", std::process::id()));
        let call = inside::call("janitor")?;
        // A group of its own, so that an interrupt from the terminal does not end it first.
        let mut janitor = Command::new(&call[0])
            .args(&call[1..])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let stdin = janitor.stdin.as_mut().ok_or("the janitor has no input")?;
        writeln!(stdin, "dir {}", path.display())?;
        std::fs::create_dir(&path)?;
        Ok(Dir { path, janitor })
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        if let Err(e) = self.janitor.wait() {
            eprintln!("{} may be left: {e}", self.path.display());
        }
    }
}

/// A proxy that runs; ended when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    children: Vec<Child>,
    log: PathBuf,
    name: String,
    /// Where clients of its first pool come.
    pub(crate) door: SocketAddr,
}

/// What wrk reports.
#[derive(Debug)]
pub(crate) struct Wrk {
    pub(crate) requests: f64,
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
    pub(crate) p99_millis: f64,
}

/// A load of wrk's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) clients: u32,
    pub(crate) path: &'static str,
    /// Whether each request has a connection of its own.
    pub(crate) close: bool,
    pub(crate) seconds: u64,
}

/// What a load did and what the proxy was charged with for it, in seconds.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) wrk: Wrk,
    pub(crate) charged: f64,
}

impl Done {
    /// Microseconds that each request was charged with.
    pub(crate) fn micros(&self) -> f64 {
        self.charged / self.wrk.requests * 1e6
    }
}

impl Stage {
    /// Starts the members, on 127.0.0.1 or on every loopback address (`wide`), for proxies of so
    /// many workers. One worker has core 0 for itself; with more, proxies and load share cores
    /// where there are none to spare, and proxies are charged with their own time.
    pub(crate) fn new(workers: u32, wide: bool) -> Result<Stage> {
        let cores = std::thread::available_parallelism()?.get() as u32;
        if workers > cores {
            return Err(format!("{workers} workers are more than the {cores} cores here").into());
        }
        let range = |from: u32, to: u32| format!("{from}-{}", to - 1);
        let proxy_cores = range(0, workers);
        let load_cores = match workers {
            1 => "1".to_owned(),
            _ if workers < cores => range(workers, cores),
            _ => range(0, cores),
        };
        let charge = if workers == 1 {
            Charge::Core
        } else {
            Charge::Own
        };
        let me = std::process::id().to_string();
        run(&["taskset", "-cp", &load_cores, &me])?;
        let dir = Dir::new()?;
        std::fs::write(dir.path.join("report.lua"), WRK_REPORT)?;
        let ports = [free_port()?, free_port()?, free_port()?];
        let command = nginx_members(&dir.path, ports, wide, MEMBER_CONNECTIONS)?;
        let log = dir.path.join("members.log");
        let mut members = pinned(&load_cores, "members", &command, &log)?;
        wait_for("members", START_LIMIT, || {
            members.must_live(&log)?;
            let last = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[MEMBERS - 1]));
            Ok((http::get_here(last, "/")?.0 == 200).then_some(()))
        })?;
        Ok(Stage {
            _members: members,
            meter: Meter::new(charge, 0)?,
            ports,
            proxy_cores,
            load_cores,
            turns: std::cell::Cell::new(0),
            dir,
        })
    }

    /// The usual pool: three members.
    pub(crate) fn pool(&self) -> Result<Vec<Front>> {
        self.pools(MEMBERS, 1)
    }

    /// Pools on free ports, with so many members among them: the three ports of 127.0.0.1, then
    /// those of further loopback addresses.
    pub(crate) fn pools(&self, members: usize, pools: usize) -> Result<Vec<Front>> {
        let each = members / pools;
        // All taken before the first is given back: else one could come twice.
        let doors = (0..pools)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<std::io::Result<Vec<TcpListener>>>()?;
        doors
            .iter()
            .enumerate()
            .map(|(pool, door)| {
                let members = (pool * each..(pool + 1) * each)
                    .map(|n| {
                        let (host, port) = (n / MEMBERS, self.ports[n % MEMBERS]);
                        let [_, _, high, low] = (host as u32 + 1).to_be_bytes();
                        let address = Ipv4Addr::new(127, 0, high, low);
                        Target::new(&format!("m{n}"), (address, port))
                    })
                    .collect();
                Ok(Front {
                    pool: format!("p{}", pool + 1),
                    listen: door.local_addr()?,
                    members,
                })
            })
            .collect()
    }

    /// Starts a proxy in front of these pools. It listens when this returns, and may not have
    /// carried or checked anything.
    pub(crate) fn start(
        &self,
        peer: &Peer,
        fronts: &[Front],
        workers: u32,
        every: Duration,
    ) -> Result<Running> {
        let turn = self.turns.get() + 1;
        self.turns.set(turn);
        let dir = self.dir.path.join(format!("turn{turn}"));
        std::fs::create_dir(&dir)?;
        // The pools' ports are not taken yet.
        let observe = loop {
            let port = free_port()?;
            if fronts.iter().all(|front| front.listen.port() != port) {
                break SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            }
        };
        let setup = Setup {
            fronts,
            workers,
            connections: CONNECTIONS,
            every,
            observe,
        };
        let log = dir.join("log");
        let children = peer
            .commands(&dir, &setup)?
            .iter()
            .enumerate()
            .map(|(n, command)| {
                let log = log.with_extension(n.to_string());
                pinned(&self.proxy_cores, &peer.name, command, &log)
            })
            .collect::<Result<Vec<Child>>>()?;
        let mut running = Running {
            children,
            log,
            name: peer.name.clone(),
            door: fronts[0].listen,
        };
        let last = fronts[fronts.len() - 1].listen;
        wait_for(&peer.name, START_LIMIT, || {
            running.must_live()?;
            // Not a connection of the service: the first that it carries are to be the idle ones.
            Ok((listeners(last.port())? >= running.children.len()).then_some(()))
        })?;
        Ok(running)
    }

    /// Runs wrk against a proxy.
    pub(crate) fn load(&self, running: &mut Running, load: Load) -> Result<Done> {
        let script = self.dir.path.join("report.lua").display().to_string();
        let url = format!("http://{}{}", running.door, load.path);
        let clients = format!("-c{}", load.clients);
        let span = format!("-d{}s", load.seconds);
        let mut command = vec!["taskset", "-c", &self.load_cores, "wrk", "-t1"];
        command.extend([clients.as_str(), &span, "-s", &script]);
        if load.close {
            command.extend(["-H", "Connection: close"]);
        }
        command.push(&url);
        let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
        let limit = Duration::from_secs(load.seconds + 20);
        let processes = running.processes();
        let turn = || {
            self.meter.charged(&processes, || {
                let wrk = Child::start_read("wrk", &bound_to_us(&command)?)?;
                Wrk::parse(&wrk.read_to_end(limit)?)
            })
        };
        let done = turn();
        let (wrk, charged) = match done {
            Ok(done) => done,
            // Once in a while, on a machine that is too busy: not worth a whole run.
            Err(e) => {
                println!("note: once more, as this failed: {e}");
                running.must_live()?;
                turn()?
            }
        };
        running.must_live()?;
        Ok(Done { wrk, charged })
    }

    /// The request and the connection column beside whatever else goes on.
    pub(crate) fn both(&self, args: &Args, running: &mut Running) -> Result<[Done; 2]> {
        let mut load = |close| {
            let load = Load {
                clients: args.clients,
                path: "/",
                close,
                seconds: args.seconds,
            };
            self.load(running, load)
        };
        Ok([load(false)?, load(true)?])
    }

    /// Where files of this run may lie; gone with it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir.path
    }
}

impl Running {
    /// The ids of its processes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// Fails when it has ended.
    pub(crate) fn must_live(&mut self) -> Result<()> {
        for (n, child) in self.children.iter_mut().enumerate() {
            child.must_live(&self.log.with_extension(n.to_string()))?;
        }
        Ok(())
    }

    /// Waits until it carries a request to a member and back.
    pub(crate) fn serves(&mut self) -> Result<()> {
        let (door, name) = (self.door, self.name.clone());
        wait_for(&format!("{name}: an answer"), START_LIMIT, || {
            self.must_live()?;
            Ok((http::get_here(door, "/")?.0 == 200).then_some(()))
        })
    }
}

impl Wrk {
    fn parse(text: &str) -> Result<Wrk> {
        let numbers = text
            .lines()
            .find_map(|line| line.strip_prefix("REPORT "))
            .ok_or_else(|| format!("wrk printed no report:\n{text}"))?
            .split(' ')
            .map(str::parse)
            .collect::<std::result::Result<Vec<f64>, _>>()?;
        let [requests, bytes, micros, p99_micros, errors] = numbers[..] else {
            return Err("wrk's report has another length".into());
        };
        if requests == 0.0 {
            return Err(format!("wrk got no answer:\n{text}").into());
        }
        if errors > 0.0 {
            println!("note: {errors} errors among {requests} requests");
        }
        Ok(Wrk {
            requests,
            bytes,
            seconds: micros / 1e6,
            p99_millis: p99_micros / 1e3,
        })
    }
}

/// Opens so many connections, each of which carries one request and then nothing.
pub(crate) fn hold(door: SocketAddr, many: usize) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(many);
    for n in 0..many {
        let mut stream = TcpStream::connect(door)
            .map_err(|e| format!("idle connection {} of {many}: {e}", n + 1))?;
        ask(&mut stream, false).map_err(|e| format!("idle connection {} of {many}: {e}", n + 1))?;
        held.push(stream);
    }
    Ok(held)
}

/// One request on a connection, answered to its end; to the connection's end when `close`.
pub(crate) fn ask(stream: &mut TcpStream, close: bool) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(match close {
        true => b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n",
        false => b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n",
    })?;
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let n = match stream.read(&mut part) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        answer.extend_from_slice(&part[..n]);
        let whole = answer.ends_with(b"nineteen bytes here");
        if whole && (!close || n == 0) {
            return Ok(());
        }
        if n == 0 || Instant::now() > end {
            return Err("a request was not answered".into());
        }
    }
}

/// Leaves everything alone for a moment.
pub(crate) fn rest() {
    sleep(REST);
}

fn pinned(cores: &str, what: &str, command: &[String], log: &Path) -> Result<Child> {
    let mut full: Vec<String> = ["taskset", "-c", cores].map(str::to_owned).into();
    full.extend_from_slice(command);
    Child::start(what, &bound_to_us(&full)?, log)
}

/// A port of this host's that nobody has now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// How many sockets listen on this port of 127.0.0.1.
fn listeners(port: u16) -> Result<usize> {
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let local = format!("0100007F:{port:04X}");
    let listens = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&local) && words.nth(1) == Some("0A")
    };
    Ok(table.lines().filter(listens).count())
}
