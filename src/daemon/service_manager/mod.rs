//! systemd, as the one who started this process and watches over it: what it is told, and what it
//! keeps for us.
//!
//! ```text
//! from_environment ─► keep(listeners) ─► ready ─► beats and a status line ─► stopping
//!                                          ▲ │
//!                                reloaded  │ ▼  reloading          or hands_over_to(successor)
//! ```
//!
//! Without `NOTIFY_SOCKET` nobody is told anything. With it, messages go through a thread of their
//! own: their socket blocks once systemd's queue is full, and a systemd that hangs must not stop
//! the control loop, least of all on every host at once. What does not fit into the queue to that
//! thread is dropped and told; a missed beat is then a missed beat.
//!
//! Listeners are left in systemd's descriptor store, so that after a crash the next process gets
//! them back ([`sockets_given`]) and no client is refused meanwhile. An orderly stop takes them out
//! again: a port that nobody will serve has to refuse at once.

mod company;
mod line;
mod pulse;

pub(super) use company::accompany;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::proxy::listen::{Given, Listener};
use crate::topology::Protocol;

/// Messages that may wait for the thread that sends them, beside those in systemd's own queue: a
/// status line a second and some beats leave room for ten seconds of a systemd that is busy.
const WAITING: usize = 32;
/// Descriptors that one message may carry (`SCM_MAX_FD` in the kernel).
const MOST_AT_ONCE: usize = 253;
/// How long a stopping process waits for its last message to be sent.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long systemd may take to know its new main process.
const HAND_OVER: Duration = Duration::from_secs(5);
/// How long systemd is asked to wait at a time for one that drains. It is asked every second, so
/// one that hangs meanwhile is not waited for to the end.
const DRAINS_ON: Duration = Duration::from_secs(15);
/// More than this of what a reload said is cut from the status line.
const MOST_OF_A_RESULT: usize = 200;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct ServiceManager {
    line: Option<Line>,
    /// How often it has to hear a beat, where it wants any.
    watchdog: Option<Duration>,
    /// How many descriptors it keeps, where it says so.
    room: Option<usize>,
    /// What it is to keep as soon as it listens to us.
    to_keep: RefCell<Vec<Datagram>>,
    /// What it keeps, by name.
    kept: RefCell<Vec<String>>,
    /// Whether it was told that we serve; before that it may listen to somebody else.
    is_heard: Cell<bool>,
    /// What the last reload said.
    result: RefCell<String>,
}

/// The way to the thread that sends.
#[derive(Debug)]
struct Line {
    outbox: Option<SyncSender<Batch>>,
    /// Ends with the thread.
    over: Receiver<()>,
    /// Whether the queue was full when something was to be sent last.
    is_full: Cell<bool>,
}

/// Messages that are sent one after the other.
#[derive(Debug)]
struct Batch {
    datagrams: Vec<Datagram>,
    /// Told whether all of them were sent. Where somebody waits for that, those after one that was
    /// not are dropped.
    sent: Option<oneshot::Sender<io::Result<()>>>,
}

/// One message.
#[derive(Debug)]
struct Datagram {
    text: String,
    descriptors: Vec<OwnedFd>,
}

/// Why systemd may not know its new main process.
#[derive(Debug)]
pub enum HandOverError {
    /// The message could not be sent.
    Send(io::Error),
    /// systemd did not take it in time.
    Late,
}

impl std::fmt::Display for HandOverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HandOverError::Send(error) => {
                write!(f, "cannot tell systemd its new main process: {error}")
            }
            HandOverError::Late => write!(
                f,
                "systemd did not take its new main process within {HAND_OVER:?}"
            ),
        }
    }
}

impl std::error::Error for HandOverError {}

/// The listeners that systemd gave to this process: those of a socket unit, and those that an
/// earlier process left in the descriptor store. To be called once, before there is any other
/// thread: it takes what it reads out of the environment.
pub fn sockets_given() -> Given {
    let mut given = ListenFd::from_env();
    let mut sockets: Vec<OwnedFd> = Vec::new();
    for index in 0..given.len() {
        if let Ok(Some(listener)) = given.take_tcp_listener(index) {
            sockets.push(listener.into());
        } else if let Ok(Some(socket)) = given.take_udp_socket(index) {
            sockets.push(socket.into());
        } else {
            tracing::warn!(
                "descriptor {index} of those that systemd gave is left alone: it is no socket \
                 over TCP or UDP"
            );
        }
    }
    Given::new(sockets)
}

impl ServiceManager {
    /// The one that the environment names. To be called once, before this process changes its
    /// environment.
    pub fn from_environment() -> ServiceManager {
        let mut manager = ServiceManager::default();
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return manager;
        }
        match Line::open(Datagram::send) {
            Ok(line) => {
                manager.line = Some(line);
                manager.watchdog = sd_notify::watchdog_enabled();
                let room = std::env::var("FDSTORE").ok();
                manager.room = room.and_then(|room| room.parse().ok());
            }
            Err(error) => tracing::error!("cannot tell systemd anything: {error}"),
        }
        manager
    }

    /// Has it keep listeners, so that whoever follows after a crash gets them. Those of one protocol
    /// and address go together. It is told with [`ServiceManager::ready`], or at once after that.
    pub fn keep<S: AsFd>(&self, sockets: impl IntoIterator<Item = (Protocol, SocketAddr, S)>) {
        if self.line.is_none() {
            return;
        }
        let mut named: Vec<(String, Vec<OwnedFd>)> = Vec::new();
        for (protocol, address, socket) in sockets {
            let name = store_name(protocol, address);
            let own = match socket.as_fd().try_clone_to_owned() {
                Ok(own) => own,
                Err(error) => {
                    tracing::warn!("systemd cannot keep {name}: {error}");
                    continue;
                }
            };
            match named.iter_mut().find(|(known, _)| *known == name) {
                Some((_, all)) => all.push(own),
                None => named.push((name, vec![own])),
            }
        }
        let mut datagrams = Vec::new();
        for (name, mut sockets) in named {
            while !sockets.is_empty() {
                let rest = sockets.split_off(sockets.len().min(MOST_AT_ONCE));
                let states = [
                    NotifyState::FdStore,
                    NotifyState::FdName(&name),
                    // A listener that is in trouble is still ours.
                    NotifyState::Custom("FDPOLL=0"),
                ];
                datagrams.push(Datagram::new(
                    &states,
                    std::mem::replace(&mut sockets, rest),
                ));
            }
            let mut kept = self.kept.borrow_mut();
            if !kept.contains(&name) {
                kept.push(name);
            }
        }
        if self.is_heard.get() {
            self.send(datagrams);
        } else {
            self.to_keep.borrow_mut().extend(datagrams);
        }
    }

    /// The same for listeners as they were bound.
    pub fn keep_listeners<'a>(&self, listeners: impl IntoIterator<Item = &'a Listener>) {
        let all = listeners.into_iter();
        self.keep(all.map(|l| (l.protocol, l.address, l)));
    }

    /// Has it let go of all listeners of an address, which are closed for good. It is told at once,
    /// or with [`ServiceManager::ready`].
    pub fn forget(&self, protocol: Protocol, address: SocketAddr) {
        if self.line.is_none() {
            return;
        }
        let name = store_name(protocol, address);
        self.kept.borrow_mut().retain(|kept| *kept != name);
        let line = NotifyState::FdName(&name).to_string();
        let mut to_keep = self.to_keep.borrow_mut();
        to_keep.retain(|datagram| !datagram.text.lines().any(|told| told == line));
        match self.is_heard.get() {
            true => drop(self.send(vec![forgetting(&name)])),
            false => to_keep.push(forgetting(&name)),
        }
    }

    /// The instance serves: its listeners are bound and its workers run. From here on the service
    /// manager listens to this process.
    pub fn ready(&self) {
        self.is_heard.set(true);
        let to_keep = self.to_keep.take();
        let sockets: usize = to_keep.iter().map(|one| one.descriptors.len()).sum();
        if self.room.is_some_and(|room| room < sockets) {
            tracing::warn!(
                "systemd keeps fewer than the {sockets} listeners over a crash; raise \
                 FileDescriptorStoreMax= in the unit of twinpool"
            );
        }
        self.send(to_keep);
        self.say(&[NotifyState::Ready]);
    }

    /// A reload begins.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(since) => self.say(&[NotifyState::Reloading, since]),
            Err(error) => tracing::error!("systemd is not told of the reload: {error}"),
        }
    }

    /// The reload that was begun is over, well or not. `result` stands at the end of the status line
    /// until the next one; an empty one says nothing.
    pub fn reloaded(&self, result: &str) {
        let first_line = result.lines().next().unwrap_or_default();
        *self.result.borrow_mut() = first_line.chars().take(MOST_OF_A_RESULT).collect();
        self.say(&[NotifyState::Ready]);
    }

    /// The instance stops, and what it had kept is let go of.
    pub fn stopping(&self) {
        self.say(&[NotifyState::Stopping]);
        let kept = self.kept.take();
        self.send(kept.iter().map(|name| forgetting(name)).collect());
        self.drains_on();
    }

    /// It still stops, and is not to be killed for it. To be said every second.
    fn drains_on(&self) {
        let more = u32::try_from(DRAINS_ON.as_micros()).unwrap_or(u32::MAX);
        self.say(&[NotifyState::ExtendTimeoutUsec(more)]);
    }

    /// Another process is the main one from now on: returns once the service manager knows, and
    /// from there on this one tells it nothing more, and its successor may. Where nobody watches,
    /// there is nothing to do.
    ///
    /// # Errors
    /// When it may not know; then this process goes on as the one that it listens to.
    pub async fn hands_over_to(&self, pid: u32) -> Result<(), HandOverError> {
        if self.line.is_none() || !self.is_heard.get() {
            return Ok(());
        }
        let told = Datagram::new(&[NotifyState::MainPid(pid)], Vec::new());
        self.sees(Some(told)).await?;
        self.is_heard.set(false);
        Ok(())
    }

    /// Whether it takes messages now, so that it can be told its next main process. Where nobody
    /// watches, there is nobody to ask.
    ///
    /// # Errors
    /// When it does not.
    pub async fn takes_messages(&self) -> Result<(), HandOverError> {
        match self.listens() {
            true => self.sees(None).await,
            false => Ok(()),
        }
    }

    /// Tells it something, and returns once it has read it, and everything before.
    async fn sees(&self, told: Option<Datagram>) -> Result<(), HandOverError> {
        // Its end of this pipe is closed once systemd has read everything before it.
        let (mut taken, barrier) = std::io::pipe()
            .and_then(|(read, write)| {
                let read = pipe::Receiver::from_owned_fd(read.into())?;
                Ok((read, OwnedFd::from(write)))
            })
            .map_err(HandOverError::Send)?;
        let barrier = Datagram::new(&[NotifyState::Custom("BARRIER=1")], vec![barrier]);
        let (tell, sent) = oneshot::channel();
        let batch = Batch {
            datagrams: told.into_iter().chain([barrier]).collect(),
            sent: Some(tell),
        };
        if !self.line.as_ref().is_some_and(|line| line.send(batch)) {
            return Err(HandOverError::Send(io::ErrorKind::WouldBlock.into()));
        }
        let read = async {
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            sent.await.map_err(gone)??;
            let mut nothing = [0; 1];
            taken.read(&mut nothing).await
        };
        match timeout(HAND_OVER, read).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(HandOverError::Send(error)),
            Err(_) => Err(HandOverError::Late),
        }
    }

    /// Whether there is a service manager.
    pub fn is_there(&self) -> bool {
        self.line.is_some()
    }

    /// Whether it listens to this process, or there is none.
    pub fn knows_us(&self) -> bool {
        self.line.is_none() || self.is_heard.get()
    }

    fn beat(&self) {
        self.say(&[NotifyState::Watchdog]);
    }

    fn status(&self, line: &str) {
        self.say(&[NotifyState::Status(line)]);
    }

    /// Whether there is somebody to tell something now.
    fn listens(&self) -> bool {
        self.line.is_some() && self.is_heard.get()
    }

    fn say(&self, states: &[NotifyState<'_>]) {
        self.send(vec![Datagram::new(states, Vec::new())]);
    }

    /// Sends, or says why not; true when there is nobody to send to.
    fn send(&self, datagrams: Vec<Datagram>) -> bool {
        match &self.line {
            Some(line) if self.is_heard.get() && !datagrams.is_empty() => line.send(Batch {
                datagrams,
                sent: None,
            }),
            _ => true,
        }
    }
}

/// Takes from a successor's environment what is about this process alone. `NOTIFY_SOCKET` and
/// `WATCHDOG_USEC` stay: it takes this one's place.
pub fn not_for_a_successor(command: &mut Command) {
    for name in [
        "WATCHDOG_PID",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
    ] {
        command.env_remove(name);
    }
}

/// What an address is called in the descriptor store: without a colon, which divides names there.
fn store_name(protocol: Protocol, address: SocketAddr) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let ip = address.ip().to_string().replace(':', "-");
    format!("{protocol}-{ip}-{}", address.port())
}

fn forgetting(name: &str) -> Datagram {
    let states = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
    Datagram::new(&states, Vec::new())
}

impl Datagram {
    fn new(states: &[NotifyState<'_>], descriptors: Vec<OwnedFd>) -> Datagram {
        let lines: Vec<String> = states.iter().map(NotifyState::to_string).collect();
        Datagram {
            text: lines.join("\n"),
            descriptors,
        }
    }

    fn send(&self) -> io::Result<()> {
        let states = [NotifyState::Custom(&self.text)];
        if self.descriptors.is_empty() {
            return sd_notify::notify(&states);
        }
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        sd_notify::notify_with_fds(&states, &descriptors)
    }
}

impl Line {
    /// Has a thread send what comes, each by `send`.
    fn open(send: impl Fn(&Datagram) -> io::Result<()> + Send + 'static) -> io::Result<Line> {
        let (outbox, inbox) = sync_channel::<Batch>(WAITING);
        let (ends_with_it, over) = sync_channel(0);
        Builder::new()
            .name("service-manager".to_owned())
            .spawn(move || {
                let _ends_with_it: SyncSender<()> = ends_with_it;
                let mut failed = false;
                for Batch { datagrams, sent } in inbox {
                    let mut all = Ok(());
                    for datagram in datagrams {
                        match send(&datagram) {
                            Ok(()) => failed = false,
                            Err(error) => {
                                if !failed {
                                    tracing::error!(
                                        "cannot tell systemd {:?}: {error}",
                                        datagram.text
                                    );
                                }
                                failed = true;
                                all = Err(error);
                            }
                        }
                        if sent.is_some() && all.is_err() {
                            break;
                        }
                    }
                    // Who waits no more has told why.
                    sent.map(|sent| sent.send(all));
                }
            })?;
        Ok(Line {
            outbox: Some(outbox),
            over,
            is_full: Cell::new(false),
        })
    }

    fn send(&self, batch: Batch) -> bool {
        let Some(outbox) = &self.outbox else {
            return false;
        };
        match outbox.try_send(batch) {
            Ok(()) => {
                self.is_full.set(false);
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                if !self.is_full.replace(true) {
                    tracing::error!("systemd takes no messages; what it is not told is dropped");
                }
                false
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.outbox = None;
        // Nothing ever comes: it ends with the thread, or when that takes too long.
        if self.over.recv_timeout(LAST_WORDS) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("systemd does not take the last messages");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_store_have_no_colon_and_tell_addresses_apart() {
        let name = |protocol, address: &str| store_name(protocol, address.parse().unwrap());
        assert_eq!(name(Protocol::Tcp, "10.1.0.10:443"), "tcp-10.1.0.10-443");
        assert_eq!(
            name(Protocol::Udp, "[2001:db8::10]:443"),
            "udp-2001-db8--10-443"
        );
        assert_eq!(name(Protocol::Tcp, "[::]:443"), "tcp----443");
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert!(name(Protocol::Udp, longest).len() <= 255);
    }

    /// A service manager, and what it is told.
    fn listening() -> (ServiceManager, Receiver<Datagram>) {
        let (told, heard) = std::sync::mpsc::channel();
        let send = move |datagram: &Datagram| {
            let descriptors = datagram.descriptors.iter().map(OwnedFd::try_clone);
            let copy = Datagram {
                text: datagram.text.clone(),
                descriptors: descriptors.collect::<io::Result<_>>()?,
            };
            told.send(copy).map_err(io::Error::other)
        };
        let manager = ServiceManager {
            line: Some(Line::open(send).unwrap()),
            ..ServiceManager::default()
        };
        (manager, heard)
    }

    fn next(heard: &Receiver<Datagram>) -> Datagram {
        heard.recv_timeout(Duration::from_secs(30)).unwrap()
    }

    #[test]
    fn what_is_kept_is_told_with_readiness_and_all_sockets_of_an_address_at_once() {
        let (manager, heard) = listening();
        let listener = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at: SocketAddr = "10.1.0.10:443".parse().unwrap();
        let other: SocketAddr = "10.1.0.10:80".parse().unwrap();
        manager.keep([at, at, other].map(|at| (Protocol::Tcp, at, listener())));
        // Not heard yet: who speaks before its predecessor has handed over is not listened to.
        manager.reloaded("");
        manager.forget(Protocol::Tcp, other);
        assert!(heard.try_recv().is_err());
        manager.keep([(Protocol::Tcp, other, listener())]);
        manager.ready();
        let kept: Vec<(String, usize)> = (0..3)
            .map(|_| next(&heard))
            .map(|told| (told.text, told.descriptors.len()))
            .collect();
        let store = |name: &str| format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        assert_eq!(kept[0], (store("tcp-10.1.0.10-443"), 2));
        let forgotten = "FDSTOREREMOVE=1\nFDNAME=tcp-10.1.0.10-80".to_owned();
        assert_eq!(kept[1], (forgotten, 0));
        assert_eq!(kept[2], (store("tcp-10.1.0.10-80"), 1));
        assert_eq!(next(&heard).text, "READY=1");
        manager.stopping();
        assert_eq!(next(&heard).text, "STOPPING=1");
        assert_eq!(
            next(&heard).text,
            "FDSTOREREMOVE=1\nFDNAME=tcp-10.1.0.10-443"
        );
    }

    #[test]
    fn a_reload_begins_at_a_time_and_ends_ready() {
        let (manager, heard) = listening();
        manager.ready();
        manager.reloading();
        manager.reloaded("refused");
        assert_eq!(next(&heard).text, "READY=1");
        let begun = next(&heard).text;
        let usec = begun.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0, "{begun}");
        assert_eq!(next(&heard).text, "READY=1");
    }

    #[tokio::test]
    async fn one_that_handed_over_is_silent_once_the_service_manager_knows() {
        let (manager, heard) = listening();
        manager.ready();
        let systemd = std::thread::spawn(move || {
            let told = [next(&heard), next(&heard), next(&heard)].map(|told| told.text);
            // Whoever waits behind the barrier goes on: its descriptor is closed here.
            (told, heard)
        });
        manager.hands_over_to(4711).await.unwrap();
        manager.stopping();
        manager.beat();
        let (told, heard) = systemd.join().unwrap();
        assert_eq!(told, ["READY=1", "MAINPID=4711", "BARRIER=1"]);
        drop(manager);
        assert!(heard.recv().is_err(), "it spoke after it had handed over");
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_it_goes_on_as_the_main_process() {
        let (manager, heard) = listening();
        manager.ready();
        let late = manager.hands_over_to(4711).await;
        assert!(matches!(late, Err(HandOverError::Late)), "{late:?}");
        assert!(manager.listens());
        drop(heard);
    }

    #[test]
    fn without_a_service_manager_nothing_is_collected() {
        let manager = ServiceManager::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        manager.keep([(Protocol::Tcp, address, listener)]);
        assert!(manager.to_keep.borrow().is_empty());
        manager.ready();
        manager.stopping();
    }

    #[test]
    fn of_a_long_result_the_status_line_keeps_the_start_of_the_first_line() {
        let manager = ServiceManager::default();
        manager.reloaded(&format!("{}\nand more", "long ".repeat(100)));
        let result = manager.result.borrow();
        assert_eq!(result.len(), MOST_OF_A_RESULT);
        assert!(!result.contains('\n'));
    }

    #[test]
    fn a_successor_is_not_told_whom_systemd_meant() {
        let mut command = Command::new("true");
        command.env("WATCHDOG_PID", "1").env("WATCHDOG_USEC", "2");
        not_for_a_successor(&mut command);
        let set = |name: &str| {
            let mut all = command.get_envs();
            all.any(|(key, value)| key == name && value.is_some())
        };
        assert!(!set("WATCHDOG_PID"));
        assert!(set("WATCHDOG_USEC"));
    }
}
