//! The daemon, run as people run it.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use twinpool::health::Verdict;
use twinpool::observe::status::{MemberStatus, ServiceTotals};
use twinpool::observe::{RunState, Status};

use super::{PATIENCE, Scratch, Setup, eventually, within};

const BINARY: &str = env!("CARGO_BIN_EXE_twinpool");

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Killed,
    setup: Setup,
    dir: Scratch,
}

/// A command that ran to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `twinpool` with these arguments to its end.
pub(crate) async fn twinpool(arguments: &[&str]) -> Finished {
    let dir = Scratch::new();
    let file = |name: &str| File::create(dir.path().join(name)).expect("a file");
    let child = Command::new(BINARY)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn();
    let mut child = Killed(child.expect("the binary"));
    let status = child
        .ended(&format!("the end of twinpool {arguments:?}"))
        .await;
    let text = |name: &str| {
        let bytes = std::fs::read(dir.path().join(name)).expect("the file");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Finished {
        code: status.code(),
        stdout: text("stdout"),
        stderr: text("stderr"),
    }
}

/// The code and the body of what a GET of `path` is answered with over TCP.
pub(crate) async fn http(server: SocketAddr, path: &str) -> (u16, String) {
    let stream = within("connecting", TcpStream::connect(server)).await;
    exchange(stream.expect("a connection"), path)
        .await
        .expect("an answer")
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: twinpool\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await.ok()?;
        stream.read_to_string(&mut answer).await.ok()
    };
    within("an answer", exchange).await?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((code, body.to_owned()))
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Killed {
    fn has_ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child to ask")
    }

    async fn ended(&mut self, what: &str) -> ExitStatus {
        eventually(what, async || self.has_ended()).await
    }
}

impl Drop for Killed {
    /// Waits for its end, but not for ever: a test that fails must end, whatever became of the child.
    fn drop(&mut self) {
        if let Err(error) = self.0.kill() {
            eprintln!("the child cannot be killed: {error}");
        }
        let began = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if began.elapsed() > PATIENCE {
                eprintln!("the child {} does not die", self.0.id());
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Daemon {
    /// Starts one and waits until every member has been asked once.
    pub(crate) async fn start(setup: Setup) -> Daemon {
        let mut daemon = Daemon::start_unsettled(setup).await;
        daemon.settled().await;
        daemon
    }

    /// Starts one and waits until it answers.
    pub(crate) async fn start_unsettled(setup: Setup) -> Daemon {
        let dir = Scratch::new();
        dir.write("twinpool.toml", &setup.toml(dir.path()));
        let child = spawn(&setup, dir.path());
        let mut daemon = Daemon { child, setup, dir };
        daemon.answering().await;
        daemon
    }

    /// Starts it again where it was.
    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(&self.setup, self.dir.path());
        self.settled().await;
    }

    /// Starts it again where it was, and waits no longer than until it answers.
    pub(crate) async fn start_again_unsettled(&mut self) {
        self.child = spawn(&self.setup, self.dir.path());
        self.answering().await;
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.exited().await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a process to signal");
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child.0)
    }

    /// Waits for its end.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        self.child.ended("the daemon's end").await
    }

    /// Everything that it says of itself.
    pub(crate) async fn status(&self) -> Status {
        self.try_status().await.expect("a status")
    }

    /// The same, unless it does not answer.
    pub(crate) async fn try_status(&self) -> Option<Status> {
        let body = self.get("/v1/status").await?;
        Some(serde_json::from_str(&body).expect("a status in JSON"))
    }

    /// The body of what it answers to a GET on its control socket.
    pub(crate) async fn get(&self, path: &str) -> Option<String> {
        let stream = UnixStream::connect(self.socket()).await.ok()?;
        let (code, body) = exchange(stream, path).await?;
        (code == 200).then_some(body)
    }

    /// Where clients of the service `p/line` connect.
    pub(crate) async fn address(&self) -> SocketAddr {
        self.address_of("p", "line").await
    }

    pub(crate) async fn address_of(&self, pool: &str, service: &str) -> SocketAddr {
        let status = self.status().await;
        let pool = status.pool(pool).expect("the pool");
        let service = pool.services.iter().find(|s| s.name == service);
        service.expect("the service").listen[0]
    }

    /// A member of the pool `p`.
    pub(crate) async fn member(&self, name: &str) -> MemberStatus {
        let status = self.status().await;
        let member = status.pool("p").expect("the pool").member(name);
        member.expect("the member").clone()
    }

    /// What was counted of the service `p/line`.
    pub(crate) async fn totals(&self) -> ServiceTotals {
        self.status().await.pool("p").expect("the pool").services[0].totals
    }

    /// Waits until the counters look so.
    pub(crate) async fn counted(&self, what: &str, so: impl Fn(&ServiceTotals) -> bool) {
        eventually(what, async || so(&self.totals().await).then_some(())).await;
    }

    /// Waits until a member of the pool `p` has this verdict for the primary service.
    pub(crate) async fn verdict(&self, member: &str, verdict: Verdict) {
        eventually(&format!("{member} to be {verdict:?}"), async || {
            (self.member(member).await.services[0].verdict == verdict).then_some(())
        })
        .await;
    }

    /// Runs a command against it.
    pub(crate) async fn command(&self, arguments: &[&str]) -> Finished {
        let socket = self.socket();
        let socket = socket.to_str().expect("a path in UTF-8");
        twinpool(&[arguments, &["--socket", socket]].concat()).await
    }

    /// Runs a command that is to be carried out, and returns what it said.
    pub(crate) async fn done(&self, arguments: &[&str]) -> String {
        let finished = self.command(arguments).await;
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.stdout
    }

    /// Where its file and its state are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A file of its directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("twinpool.toml")
    }

    /// What it wrote so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    async fn answering(&mut self) {
        eventually("the daemon to answer", async || {
            if let Some(status) = self.child.has_ended() {
                panic!("it ended with {status}");
            }
            self.try_status().await.map(drop)
        })
        .await;
    }

    async fn settled(&mut self) {
        self.answering().await;
        eventually("every member to be asked", async || {
            let state = self.status().await.state;
            (state == RunState::Serving).then_some(())
        })
        .await;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}---", self.log());
        }
    }
}

fn spawn(setup: &Setup, dir: &Path) -> Killed {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("a log");
    let program = setup.program.as_deref().unwrap_or(Path::new(BINARY));
    let mut command = match (setup.descriptors, setup.cores, &*setup.before) {
        (None, None, "") => Command::new(program),
        (limit, cores, before) => {
            let limit = limit.map_or(String::new(), |limit| format!("ulimit -n {limit}; "));
            let pin = cores.map_or(String::new(), |cores| format!("taskset -c {cores} "));
            let script = format!("{before}{limit}exec {pin}\"$0\" \"$@\"");
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).arg(program);
            shell
        }
    };
    let child = command
        .arg("run")
        .arg(dir.join("twinpool.toml"))
        .env("DIR", dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn();
    Killed(child.expect("the binary"))
}
