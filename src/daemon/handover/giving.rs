//! The predecessor's side: it starts its successor, and gives it everything, step by step. Whatever
//! fails on the way ends the successor, and this process goes on.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::MOST_BEFORE;
use super::following::Following;
use super::wire::{self, MOST_DESCRIPTORS};
use super::words::{FORMAT, FromSuccessor, Hello, Outline, Process, ToSuccessor};
use crate::clock;
use crate::daemon::hub::Hub;
use crate::daemon::reload::{COMMANDS, settle};
use crate::daemon::service_manager;
use crate::observe::desk::Refused;
use crate::observe::stamp::span;
use crate::observe::view::RunState;

/// How long a successor may take to read its configuration, and to bind what is new.
const LOADING: Duration = Duration::from_secs(6);
/// How long it may take to get ready, while this process stands still.
const GETTING_READY: Duration = Duration::from_secs(10);
/// How long it may take to serve, once it may.
const BEGINNING: Duration = Duration::from_secs(10);
/// How long it may take to read what it is told.
const HEARING: Duration = Duration::from_secs(10);
/// How long disks and workers may take to do what is to be done before.
const BEFORE: Duration = Duration::from_secs(5);
/// How long answers that are under way may take until this process is gone.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How often it is seen whether they are given.
const LOOK: Duration = Duration::from_millis(5);

const ENDED: &str = "the new process ended before it served";
const SILENT: &str = "the new process did not answer in time";
/// Digits that the id of a process has at most, and the end of its line.
const LONGEST_ID: u64 = 21;

/// What an instance keeps in order to hand over one day.
#[derive(Debug)]
pub(in crate::daemon) struct Estate {
    /// The program that is started as successor.
    executable: Option<PathBuf>,
    /// The control socket and the read-only HTTP listener once more, until they are another
    /// process's alone.
    servers: RefCell<Vec<OwnedFd>>,
    under_way: Cell<bool>,
    is_over: Cell<bool>,
    /// Told when another process serves.
    handed_over: RefCell<Option<oneshot::Sender<Following>>>,
}

impl Estate {
    /// Whether another process serves.
    pub(in crate::daemon) fn is_handed_over(&self) -> bool {
        self.is_over.get()
    }

    /// What can be handed over, and how it is heard that another process serves.
    pub(in crate::daemon) fn new(
        executable: Option<PathBuf>,
        servers: Vec<OwnedFd>,
    ) -> (Estate, oneshot::Receiver<Following>) {
        let (tell, told) = oneshot::channel();
        let estate = Estate {
            executable,
            servers: RefCell::new(servers),
            under_way: Cell::new(false),
            is_over: Cell::new(false),
            handed_over: RefCell::new(Some(tell)),
        };
        (estate, told)
    }
}

/// A process that was started to be the successor.
struct Successor {
    pid: u32,
    handle: OwnedFd,
    stream: Arc<UnixStream>,
}

/// Has the program as it is on disk now, with the configuration as it is now, take over; what came
/// of it, a line each.
pub(in crate::daemon) async fn upgrade(hub: Rc<Hub>, by: &str) -> Result<String, Refused> {
    if hub.estate.under_way.replace(true) {
        return Err(Refused::Failed("another upgrade is under way".to_owned()));
    }
    let result = attempt(&hub, by).await;
    hub.estate.under_way.set(false);
    result.map_err(|why| {
        let first = why.lines().next().unwrap_or_default();
        hub.tell_instance(
            format!("the upgrade by {by} failed, and nothing changed: {first}"),
            clock::now(),
        );
        for line in why.lines() {
            tracing::error!("{line}");
        }
        Refused::Failed(why)
    })
}

async fn attempt(hub: &Rc<Hub>, by: &str) -> Result<String, String> {
    may_upgrade(hub)?;
    let alone = timeout(COMMANDS, hub.commands.write()).await;
    let _alone = alone.map_err(|_| {
        format!(
            "commands have been under way for {}; try again when they are done",
            span(COMMANDS)
        )
    })?;
    // Somebody may have stopped it meanwhile.
    may_upgrade(hub)?;
    let hello = hello(hub, by)?;
    let (path, executable) = match &hub.estate.executable {
        Some(executable) => (hello.process.path.clone(), executable.clone()),
        None => return Err("this instance was not started by its own program".to_owned()),
    };
    let descriptors = descriptors(hub).await?;
    let hello = Hello {
        listeners: descriptors.len() - 1 - hello.before.len(),
        ..hello
    };
    let successor = Successor::start(&executable, &path, hub.socket_by_hand.as_deref()).await?;
    let standstill = Standstill(hub.clone());
    match hand_over(hub, &successor, hello, descriptors).await {
        Ok((version, told)) => {
            let pid = successor.pid;
            let ours = leave(hub, successor, standstill);
            let told_by = format!("upgraded: process {pid} (version {version}) serves; {ours}");
            tracing::info!("{by}: {told_by}");
            Ok(format!("{told_by}\n{told}"))
        }
        Err(why) => {
            successor.end().await;
            hub.resume_flows();
            drop(standstill);
            Err(why)
        }
    }
}

fn may_upgrade(hub: &Hub) -> Result<(), String> {
    if hub.state.get() == RunState::Draining {
        return Err("the instance is stopping".to_owned());
    }
    if std::process::id() == 1 {
        return Err(
            "twinpool is process 1 here: where it ends, everything does. Start another container \
             beside this one, and stop this one then"
                .to_owned(),
        );
    }
    let draining = hub.led.draining();
    if draining.len() >= MOST_BEFORE {
        let ids: Vec<String> = draining.iter().map(|(pid, _)| pid.to_string()).collect();
        return Err(format!(
            "{MOST_BEFORE} earlier processes drain still, and no more may; wait until one has, or \
             end one with its sessions (`kill PID`, of {})",
            ids.join(", ")
        ));
    }
    Ok(())
}

fn hello(hub: &Hub, by: &str) -> Result<Hello, String> {
    let era = hub.era();
    let Some(source) = &era.config.source else {
        return Err("this instance was not started from a file".to_owned());
    };
    Ok(Hello {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: Process {
            pid: std::process::id(),
            path: source.path.clone(),
            text: source.text.to_string(),
            outline: Outline::of(&era.topology),
        },
        by: by.to_owned(),
        listeners: 0,
        control: hub.claim.identity(),
        before: hub.led.handed_on().0,
    })
}

/// Everything that goes over: listeners worker by worker, the HTTP listener, the control socket, the
/// streams to those that drain.
async fn descriptors(hub: &Hub) -> Result<Vec<OwnedFd>, String> {
    let none_left =
        |error: io::Error| format!("a listener cannot be handed over: {error}; try again later");
    let mut all = Vec::new();
    for shared in hub.share_listeners() {
        let shared = timeout(BEFORE, shared).await;
        let shared = shared.ok().and_then(Result::ok);
        let shared = shared.ok_or("a worker does not hand its listeners over; is it stuck?")?;
        all.extend(shared.map_err(none_left)?);
    }
    // The control socket is the last of them: there always is one.
    for own in hub.estate.servers.borrow().iter().rev() {
        all.push(own.try_clone().map_err(none_left)?);
    }
    for stream in hub.led.handed_on().1 {
        all.push(stream.as_fd().try_clone_to_owned().map_err(none_left)?);
    }
    Ok(all)
}

/// Everything up to `Serves`: the successor's version, and what it changes.
async fn hand_over(
    hub: &Rc<Hub>,
    successor: &Successor,
    hello: Hello,
    descriptors: Vec<OwnedFd>,
) -> Result<(String, String), String> {
    successor
        .talk(move |stream| give(stream, hello, descriptors))
        .await?;
    let (version, told) = match successor.hear(LOADING).await? {
        FromSuccessor::Loaded { version, told } => (version, told),
        other => return Err(out_of_turn(other)),
    };
    settle(hub).await?;
    hub.stand_still();
    if hub.decider.borrow().legacy().writing().next().is_some() {
        return Err("where users are sent is being written; try again".to_owned());
    }
    // What a disk did not take is told by those who write; it only must not hang.
    let written = async { tokio::join!(hub.kept(), hub.journal.flushed(), hub.led.flushed()) };
    if timeout(BEFORE, written).await.is_err() {
        return Err(format!("the disk has not answered for {}", span(BEFORE)));
    }
    let legacy = Box::new(hub.decider.borrow().legacy().without_probes());
    successor.say(ToSuccessor::Stands(legacy)).await?;
    match successor.hear(GETTING_READY).await? {
        FromSuccessor::Prepared => {}
        other => return Err(out_of_turn(other)),
    }
    let pid = successor.pid;
    let known = hub.manager.hands_over_to(pid).await;
    known.map_err(|error| error.to_string())?;
    hub.give_flows(&successor.stream).await?;
    successor.say(ToSuccessor::Yours).await?;
    match successor.hear(BEGINNING).await? {
        FromSuccessor::Serves => Ok((version, told)),
        other => Err(out_of_turn(other)),
    }
}

fn give(stream: &UnixStream, hello: Hello, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let hello = ToSuccessor::Hello(Box::new(hello));
    wire::send(stream, &hello, &[], HEARING)?;
    for some in descriptors.chunks(MOST_DESCRIPTORS) {
        let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
        wire::send(stream, &ToSuccessor::Descriptors, &some, HEARING)?;
    }
    Ok(())
}

fn out_of_turn(said: FromSuccessor) -> String {
    match said {
        FromSuccessor::Refuses { why } => why,
        _ => "the new process answered out of turn".to_owned(),
    }
}

/// Another process serves: this one closes what it listens at, and drains. Says so in words.
fn leave(hub: &Rc<Hub>, successor: Successor, standstill: Standstill) -> String {
    let open = hub.open();
    hub.state.set(RunState::Draining);
    hub.drop_flows();
    hub.leave();
    hub.led.leave();
    hub.claim.give_up();
    hub.journal.close();
    hub.estate.is_over.set(true);
    // While anybody has one of them, it listens: nobody could tell that its process is gone.
    hub.estate.servers.take();
    let (pid, deadline) = (
        std::process::id(),
        hub.era().config.instance.upgrade_deadline,
    );
    let following = Following::begin(successor.pid, successor.stream, deadline);
    match hub
        .estate
        .handed_over
        .take()
        .map(|tell| tell.send(following))
    {
        Some(Ok(())) => {}
        _ => tracing::error!("nobody waits to hear that another process serves"),
    }
    // It stands still for good.
    std::mem::forget(standstill);
    match open {
        0 => format!("process {pid} has no sessions left"),
        1 => format!(
            "process {pid} drains 1 session, for {} at most",
            span(deadline)
        ),
        n => format!(
            "process {pid} drains {n} sessions, for {} at most",
            span(deadline)
        ),
    }
}

/// Answers what is asked already, and nothing more; then the servers are closed.
pub(super) async fn last_answers(hub: &Hub) {
    let answered = async {
        while hub.observe_counters.open.get() + hub.control_counters.open.get() > 0 {
            sleep(LOOK).await;
        }
    };
    if timeout(LAST_ANSWERS, answered).await.is_err() {
        tracing::info!("somebody who asked has not taken the answer, and is not waited for");
    }
    for server in hub.servers.take() {
        server.abort();
    }
}

/// While it lives nothing is decided here.
struct Standstill(Rc<Hub>);

impl Drop for Standstill {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

impl Successor {
    /// Starts one, by way of a process that starts it and ends: so it is nobody's child but the
    /// service manager's, which hears at once when it ends, whatever becomes of this process.
    async fn start(
        executable: &Path,
        configuration: &Path,
        socket: Option<&Path>,
    ) -> Result<Successor, String> {
        let failed = |error: io::Error| format!("cannot start {}: {error}", executable.display());
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(executable);
        command.arg("run").arg(configuration).arg("--successor");
        if let Some(socket) = socket {
            command.arg("--socket").arg(socket);
        }
        service_manager::not_for_a_successor(&mut command);
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        command.stdout(Stdio::piped());
        let mut starter = command.spawn().map_err(failed)?;
        // The command holds the successor's end of the stream.
        drop(command);
        let told = starter.stdout.take();
        let said = spawn_blocking(move || {
            let mut said = String::new();
            told.map(|told| told.take(LONGEST_ID).read_to_string(&mut said));
            said
        });
        let said = timeout(LOADING, said).await;
        let status = end(starter).await;
        let Ok(said) = said else {
            return Err(SILENT.to_owned());
        };
        let pid = said.ok().and_then(|said| said.trim().parse().ok());
        let Some(pid) = pid else {
            let status = status.map_or(String::new(), |status| format!(" ({status})"));
            return Err(format!("{ENDED}{status}"));
        };
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let handle = id.ok_or_else(|| ENDED.to_owned())?;
        let handle = pidfd_open(handle, PidfdFlags::empty()).map_err(|_| ENDED.to_owned())?;
        Ok(Successor {
            pid,
            handle,
            stream: Arc::new(ours),
        })
    }

    /// Talks to it off the control thread.
    async fn talk<T: Send + 'static>(
        &self,
        talk: impl FnOnce(&UnixStream) -> io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let stream = self.stream.clone();
        let said = spawn_blocking(move || talk(&stream)).await;
        let said = said.map_err(|error| error.to_string())?;
        said.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => SILENT.to_owned(),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => ENDED.to_owned(),
            _ => format!("the new process cannot be talked to: {error}"),
        })
    }

    async fn say(&self, message: ToSuccessor) -> Result<(), String> {
        self.talk(move |stream| wire::send(stream, &message, &[], HEARING))
            .await
    }

    async fn hear(&self, patience: Duration) -> Result<FromSuccessor, String> {
        self.talk(move |stream| Ok(wire::receive(stream, patience)?.0))
            .await
    }

    /// Ends it, if it has not ended.
    async fn end(self) {
        // One that has just said why ends by itself.
        let Successor { pid, handle, .. } = self;
        let ended = spawn_blocking(move || {
            is_over(&handle, BEFORE / 10)?;
            match pidfd_send_signal(&handle, Signal::KILL) {
                Ok(()) => is_over(&handle, BEFORE),
                Err(Errno::SRCH) => Ok(true),
                Err(error) => Err(error),
            }
        });
        if !matches!(ended.await, Ok(Ok(true))) {
            tracing::error!("process {pid}, which did not take over, may live still");
        }
    }
}

/// Waits for the end of a process.
fn is_over(handle: &OwnedFd, patience: Duration) -> Result<bool, Errno> {
    let mut look = [PollFd::new(handle, PollFlags::IN)];
    let patience = Timespec::try_from(patience).map_err(|_| Errno::INVAL)?;
    Ok(poll(&mut look, Some(&patience))? > 0)
}

/// Ends a process that only starts another one, if it has not ended; how it did, where it did so by
/// itself.
async fn end(mut starter: Child) -> Option<ExitStatus> {
    let by_itself = async {
        loop {
            match starter.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => sleep(LOOK).await,
                Err(_) => return None,
            }
        }
    };
    if let Ok(status) = timeout(BEFORE / 10, by_itself).await {
        return status;
    }
    let ended = spawn_blocking(move || starter.kill().and_then(|()| starter.wait())).await;
    if !matches!(ended, Ok(Ok(_))) {
        tracing::error!("the process that was to start the new one may live still: {ended:?}");
    }
    None
}
