//! twinpool under a service manager, from outside: the real binary, and a test in systemd's place
//! that owns `NOTIFY_SOCKET`, keeps descriptors and gives them back.
//!
//! What only systemd itself can prove, `tests/systemd/run` proves.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

const BINARY: &str = env!("CARGO_BIN_EXE_twinpool");
/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Listeners of an address: as many as workers.
const WORKERS: usize = 2;

/// A service manager: what it is told, and what it keeps.
struct Manager {
    socket: UnixDatagram,
    dir: PathBuf,
}

/// One message.
#[derive(Debug)]
struct Told {
    lines: Vec<String>,
    descriptors: Vec<OwnedFd>,
}

/// A daemon that it started; killed when dropped.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Told {
    fn says(&self, line: &str) -> bool {
        self.lines.iter().any(|said| said == line)
    }

    fn value(&self, key: &str) -> Option<&str> {
        let mut lines = self.lines.iter();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }
}

impl Manager {
    fn new() -> Manager {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("twinpool-sm-{}-{n}", std::process::id()));
        fs::create_dir(&dir).expect("a directory");
        let socket = UnixDatagram::bind(dir.join("notify")).expect("a socket");
        Manager { socket, dir }
    }

    /// The next message; none when none comes in time.
    fn heard(&self, within: Duration) -> Option<Told> {
        self.socket
            .set_read_timeout(Some(within.max(Duration::from_millis(1))))
            .expect("a timeout");
        let mut bytes = [0; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let heard = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let heard = match heard {
            Ok(heard) => heard,
            Err(rustix::io::Errno::AGAIN) => return None,
            Err(error) => panic!("the notify socket: {error}"),
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let text = String::from_utf8(bytes[..heard.bytes].to_vec()).expect("text");
        if text.trim_end() == "BARRIER=1" {
            // Whoever sent it goes on when it is closed here.
            descriptors.clear();
        }
        Some(Told {
            lines: text.lines().map(str::to_owned).collect(),
            descriptors,
        })
    }

    /// Everything up to the first message that is `so`, that one included.
    fn until(&self, what: &str, so: impl Fn(&Told) -> bool) -> Vec<Told> {
        let end = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        loop {
            match self.heard(end.saturating_duration_since(Instant::now())) {
                Some(told) => {
                    let found = so(&told);
                    all.push(told);
                    if found {
                        return all;
                    }
                }
                None => panic!("{what}: not told; told was {all:?}"),
            }
        }
    }

    fn config(&self, listen: SocketAddr) -> PathBuf {
        self.config_at(&[listen])
    }

    fn config_at(&self, listen: &[SocketAddr]) -> PathBuf {
        let listen: Vec<String> = listen.iter().map(|at| format!("\"{at}\"")).collect();
        let listen = listen.join(", ");
        let path = self.dir.join("twinpool.toml");
        let text = format!(
            "[instance]\nworkers = {WORKERS}\nstop_deadline = \"20s\"\n\
             [observe]\nlisten = false\n\
             [control]\nsocket = \"{}\"\n\
             [roles.web]\nprimary = \"http\"\nservices.http = {{ port = 80, check = \"tcp\" }}\n\
             [pools.web]\nrole = \"web\"\nservices.http.listen = [{listen}]\n\
             [pools.web.members]\nm = {{ address = \"127.0.0.1\", ports = {{ http = {} }} }}\n",
            self.dir.join("control.sock").display(),
            self.member().port(),
        );
        fs::write(&path, text).expect("a configuration");
        path
    }

    /// Where a member answers until this program ends: it sends what it is sent.
    fn member(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a member");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut back = client.try_clone().expect("a handle");
                    // Checks and clients come and go as they like.
                    if std::io::copy(&mut &client, &mut back).is_ok() {
                        back.shutdown(Shutdown::Both).unwrap_or_default();
                    }
                });
            }
        });
        address
    }

    /// Runs the daemon with up to two sockets, as systemd gives them: from descriptor 3 on, with a
    /// count and for this process.
    fn run(&self, config: &Path, sockets: Vec<OwnedFd>, watchdog: Option<Duration>) -> Daemon {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = self.dir.join(format!("log-{n}"));
        let count = sockets.len();
        let mut sockets = sockets.into_iter();
        let stdio = |socket: Option<OwnedFd>| socket.map_or_else(Stdio::null, Stdio::from);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(
                "exec 3<&0 4>&1 </dev/null >/dev/null\n\
                 if [ $SOCKETS -gt 0 ]; then export LISTEN_PID=$$ LISTEN_FDS=$SOCKETS; fi\n\
                 if [ -n \"$WATCHDOG_USEC\" ]; then export WATCHDOG_PID=$$; fi\n\
                 exec \"$@\"",
            )
            .args(["sh", BINARY, "run"])
            .arg(config)
            .env("SOCKETS", count.to_string())
            .env("NOTIFY_SOCKET", self.dir.join("notify"))
            .stdin(stdio(sockets.next()))
            .stdout(stdio(sockets.next()))
            .stderr(File::create(&log).expect("a log"));
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        let child = command.spawn().expect("the binary");
        Daemon { child, log }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("{} is left: {error}", self.dir.display());
        }
    }
}

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn says(&self, what: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.said().contains(what) {
            assert!(Instant::now() < end, "{what}: not in {}", self.said());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("a daemon is left: {error}");
        }
    }
}

fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn is_ready(told: &Told) -> bool {
    told.says("READY=1")
}

fn is_beat(told: &Told) -> bool {
    told.says("WATCHDOG=1")
}

/// Sends a word through the daemon and waits until it comes back.
fn is_served(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"word").expect("sent");
    let mut back = [0; 4];
    stream.read_exact(&mut back).expect("an answer");
    assert_eq!(&back, b"word");
}

#[test]
fn readiness_state_beats_and_the_stop_are_told_in_order() {
    let manager = Manager::new();
    let watchdog = Duration::from_secs(2);
    let daemon = manager.run(&manager.config(free()), Vec::new(), Some(watchdog));
    let before = manager.until("readiness", is_ready);
    assert!(!before.iter().any(is_beat), "{before:?}");
    manager.until("state", |told| {
        let status = told.value("STATUS");
        status.is_some_and(|status| status == "1 pool serving, 0 sessions")
    });
    manager.until("a beat", is_beat);
    manager.until("another beat", is_beat);
    daemon.signal(Signal::TERM);
    let last = manager.until("the stop", |told| told.says("STOPPING=1"));
    assert!(!last.iter().any(is_ready), "{last:?}");
    manager.until("time to drain", |told| {
        told.value("EXTEND_TIMEOUT_USEC").is_some()
    });
}

#[test]
fn one_that_drains_is_given_time_for_as_long_as_it_has_sessions() {
    let manager = Manager::new();
    let socket = TcpListener::bind(free()).expect("a socket");
    let at = socket.local_addr().expect("an address");
    let daemon = manager.run(&manager.config(at), vec![socket.into()], None);
    manager.until("readiness", is_ready);
    let mut session = TcpStream::connect(at).expect("a connection");
    is_served(&mut session);
    daemon.signal(Signal::TERM);
    manager.until("the stop", |told| told.says("STOPPING=1"));
    manager.until("state", |told| {
        told.value("STATUS") == Some("stopping, no new sessions; 1 session")
    });
    for _ in 0..2 {
        manager.until("more time", |told| {
            told.value("EXTEND_TIMEOUT_USEC").is_some()
        });
    }
    is_served(&mut session);
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_hears_nothing() {
    let manager = Manager::new();
    let config = manager.config(free());
    let log = manager.dir.join("log");
    let child = Command::new(BINARY)
        .arg("run")
        .arg(config)
        .env("NOTIFY_SOCKET", manager.dir.join("notify"))
        .env("WATCHDOG_USEC", "100000")
        .env("WATCHDOG_PID", "1")
        .stderr(File::create(&log).expect("a log"))
        .spawn()
        .expect("the binary");
    let daemon = Daemon { child, log };
    manager.until("readiness", is_ready);
    manager.until("state", |told| told.value("STATUS").is_some());
    daemon.signal(Signal::TERM);
    let all = manager.until("the stop", |told| told.says("STOPPING=1"));
    assert!(!all.iter().any(is_beat), "{all:?}");
}

/// The threads of a process that have this name.
fn threads(process: u32, name: &str) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("threads");
    let ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let is_named = |id: &i32| {
        let comm = fs::read_to_string(format!("/proc/{process}/task/{id}/comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    };
    ids.filter(is_named).collect()
}

#[test]
fn a_worker_that_does_not_move_is_a_missed_beat() {
    let manager = Manager::new();
    let watchdog = Duration::from_secs(2);
    let daemon = manager.run(&manager.config(free()), Vec::new(), Some(watchdog));
    manager.until("readiness", is_ready);
    manager.until("a beat", is_beat);
    manager.until("another beat", is_beat);
    let [worker] = threads(daemon.child.id(), "worker-1")[..] else {
        panic!("not one worker of that name");
    };
    // A tracer stops this one thread, and no other.
    let worker = nix::unistd::Pid::from_raw(worker);
    match ptrace::seize(worker, ptrace::Options::empty()) {
        Ok(()) => {}
        Err(Errno::EPERM | Errno::ENOSYS) => {
            eprintln!("skipped: threads cannot be traced here");
            return;
        }
        Err(error) => panic!("cannot trace a thread: {error}"),
    }
    ptrace::interrupt(worker).expect("interrupted");
    daemon.says("worker 1 has not moved");
    // What was under way has come by now: from here on, silence for longer than is allowed.
    while let Some(told) = manager.heard(Duration::from_millis(1)) {
        drop(told);
    }
    let end = Instant::now() + 2 * watchdog;
    while let Some(told) = manager.heard(end.saturating_duration_since(Instant::now())) {
        assert!(!is_beat(&told), "a beat while a worker is stuck");
        assert!(!told.says("STOPPING=1"));
        if Instant::now() >= end {
            break;
        }
    }
    ptrace::detach(worker, None).expect("let go");
    manager.until("a beat once it moves", is_beat);
}

#[test]
fn listeners_outlive_a_crash_and_nobody_is_refused() {
    let manager = Manager::new();
    let socket = TcpListener::bind(free()).expect("a socket");
    let at = socket.local_addr().expect("an address");
    let config = manager.config(at);
    let mut daemon = manager.run(&config, vec![socket.into()], None);
    let told = manager.until("readiness", is_ready);
    let name = format!("tcp-127.0.0.1-{}", at.port());
    let mut kept: Vec<OwnedFd> = Vec::new();
    for told in told {
        if told.says("FDSTORE=1") {
            assert_eq!(told.value("FDNAME"), Some(&*name));
            assert!(told.says("FDPOLL=0"), "{told:?}");
            kept.extend(told.descriptors);
        }
    }
    assert_eq!(kept.len(), WORKERS);

    daemon.signal(Signal::KILL);
    daemon.child.wait().expect("its end");
    // More than one: the kernel spreads them over both listeners.
    let waiting: Vec<TcpStream> = (0..16)
        .map(|_| TcpStream::connect(at).expect("not refused"))
        .collect();
    let again = kept
        .iter()
        .map(|socket| socket.as_fd().try_clone_to_owned().expect("a copy"))
        .collect();
    let daemon = manager.run(&config, again, None);
    manager.until("readiness again", is_ready);
    for mut client in waiting {
        is_served(&mut client);
    }

    daemon.signal(Signal::TERM);
    let removal = manager.until("its removal", |told| told.says("FDSTOREREMOVE=1"));
    let removal = removal.last().expect("the removal");
    assert_eq!(removal.value("FDNAME"), Some(&*name));
}

/// Takes the place of an upgraded daemon's child; killed when dropped.
struct Heir(OwnedFd);

impl Heir {
    fn of(pid: &str) -> Heir {
        let pid = Pid::from_raw(pid.parse().expect("a process id")).expect("a process id");
        Heir(pidfd_open(pid, PidfdFlags::empty()).expect("a process that lives"))
    }

    fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.0, signal).expect("a signal");
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if let Err(error) = pidfd_send_signal(&self.0, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            eprintln!("a daemon is left: {error}");
        }
    }
}

#[test]
fn an_upgrade_is_told_once_it_serves_and_what_it_drops_is_let_go_of() {
    let manager = Manager::new();
    let [stays, goes] = [(); 2].map(|()| TcpListener::bind(free()).expect("a socket"));
    let at = stays.local_addr().expect("an address");
    let gone = goes.local_addr().expect("an address");
    let config = manager.config_at(&[at, gone]);
    let mut daemon = manager.run(&config, vec![stays.into(), goes.into()], None);
    let mut kept: Vec<Told> = manager.until("readiness", is_ready);
    kept.retain(|told| told.says("FDSTORE=1"));
    manager.config(at);
    let upgrade = thread::spawn({
        let socket = manager.dir.join("control.sock");
        move || {
            let mut command = Command::new(BINARY);
            command.arg("--socket").arg(socket).arg("upgrade").output()
        }
    });
    let told = manager.until("the new main process", |told| {
        told.value("MAINPID").is_some()
    });
    assert!(!told.iter().any(is_ready), "{told:?}");
    let heir = Heir::of(
        told.last()
            .and_then(|told| told.value("MAINPID"))
            .expect("it"),
    );
    is_served(&mut TcpStream::connect(at).expect("a connection"));
    let told = manager.until("its readiness", is_ready);
    let said = upgrade.join().expect("no panic").expect("a command");
    assert!(said.status.success(), "{said:?}");
    let name = |at: SocketAddr| format!("tcp-127.0.0.1-{}", at.port());
    let forgotten = told.iter().filter(|told| told.says("FDSTOREREMOVE=1"));
    let forgotten: Vec<_> = forgotten.filter_map(|told| told.value("FDNAME")).collect();
    assert_eq!(forgotten, [name(gone)]);
    kept.retain(|told| told.value("FDNAME") != Some(&name(gone)));
    TcpStream::connect(gone).expect_err("nobody listens there any more");
    is_served(&mut TcpStream::connect(at).expect("a connection"));
    daemon.child.wait().expect("its end");
    heir.signal(Signal::TERM);
    manager.until("the stop", |told| told.says("STOPPING=1"));
}

#[test]
fn a_successor_that_never_serves_is_never_the_main_process() {
    let manager = Manager::new();
    let daemon = manager.run(&manager.config(free()), Vec::new(), None);
    manager.until("readiness", is_ready);
    let wrong = fs::read_to_string(manager.dir.join("twinpool.toml")).expect("the file");
    let wrong = wrong.replace("workers", "wokers");
    fs::write(manager.dir.join("twinpool.toml"), wrong).expect("a file");
    daemon.signal(Signal::USR2);
    daemon.says("write `workers`");
    daemon.signal(Signal::TERM);
    let told = manager.until("the stop", |told| told.says("STOPPING=1"));
    assert!(!told.iter().any(|told| told.value("MAINPID").is_some()));
}

#[test]
fn a_socket_that_nothing_wants_is_closed_with_its_address() {
    let manager = Manager::new();
    let wanted = TcpListener::bind(free()).expect("a socket");
    let at = wanted.local_addr().expect("an address");
    let other = TcpListener::bind(free()).expect("a socket");
    let unwanted = other.local_addr().expect("an address");
    let config = manager.config(at);
    let daemon = manager.run(&config, vec![other.into(), wanted.into()], None);
    manager.until("readiness", is_ready);
    daemon.says(&format!("closing TCP {unwanted}"));
    TcpStream::connect(unwanted).expect_err("nobody listens");
    is_served(&mut TcpStream::connect(at).expect("a connection"));
}

#[test]
fn a_service_manager_that_hangs_stops_nothing() {
    let manager = Manager::new();
    let socket = TcpListener::bind(free()).expect("a socket");
    let at = socket.local_addr().expect("an address");
    // Beats so often that a queue which nobody reads is full at once.
    let watchdog = Duration::from_millis(40);
    let mut daemon = manager.run(&manager.config(at), vec![socket.into()], Some(watchdog));
    daemon.says("systemd takes no messages");
    is_served(&mut TcpStream::connect(at).expect("a connection"));
    daemon.signal(Signal::TERM);
    let end = Instant::now() + PATIENCE;
    while daemon.child.try_wait().expect("a child to ask").is_none() {
        assert!(Instant::now() < end, "it does not end: {}", daemon.said());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_unit_is_well_formed_and_leaves_little_open() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/twinpool.service");
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).arg(&unit).output()
    };
    let output = match analyze(&["security", "--offline=true", "--threshold=20"]) {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: no systemd-analyze here ({error})");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if errors.contains("unrecognized option") {
        eprintln!("skipped: this systemd-analyze is too old");
        return;
    }
    assert!(said.contains("Overall exposure level"), "{said}\n{errors}");
    // A threshold of 20 is 2.0.
    assert!(output.status.success(), "{said}\n{errors}");
    // A key that it does not know would be a wall that is not there.
    assert!(!errors.contains("Unknown key"), "{errors}");
    assert!(!errors.contains("Failed to parse"), "{errors}");
}
