//! The predecessor's side: it starts its successor, and gives it everything, step by step. Whatever
//! fails on the way ends the successor, and this process goes on.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::MOST_BEFORE;
use super::following::Following;
use super::successor::{Successor, out_of_turn};
use super::words::{FORMAT, FromSuccessor, Hello, Outline, Process, ToSuccessor};
use crate::clock;
use crate::daemon::hub::Hub;
use crate::daemon::reload::{COMMANDS, gist, settle};
use crate::observe::desk::Refused;
use crate::observe::stamp::span;
use crate::observe::view::RunState;

/// How long a successor may take to read its configuration, and to bind what is new.
const LOADING: Duration = Duration::from_secs(6);
/// How long it may take to get ready, while this process stands still and decides nothing.
const GETTING_READY: Duration = Duration::from_secs(4);
/// How long what was decided may take to be on disk, while it stands still.
const WRITING: Duration = Duration::from_secs(2);
/// How long workers may take to share what they listen at, and to close it.
const SHARING: Duration = Duration::from_secs(5);
/// How long whoever wants the upgrade waits for systemd to know its new main process.
const KNOWN: Duration = Duration::from_secs(5);
/// From one try to tell systemd its new main process to the next.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// How long answers that are under way may take until this process is gone.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How often it is seen whether they are given.
const LOOK: Duration = Duration::from_millis(5);

const STOPPING: &str = "the instance is stopping";

/// What an instance keeps in order to hand over one day.
#[derive(Debug)]
pub(in crate::daemon) struct Estate {
    /// The program that is started as successor.
    executable: Option<PathBuf>,
    /// The control socket and the read-only HTTP listener once more, until they are another
    /// process's alone.
    servers: RefCell<Vec<OwnedFd>>,
    under_way: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    is_over: Cell<bool>,
    /// Told when another process serves.
    handed_over: RefCell<Option<oneshot::Sender<Following>>>,
}

impl Estate {
    /// Whether another process serves.
    pub(in crate::daemon) fn is_handed_over(&self) -> bool {
        self.is_over.get()
    }

    /// The instance is told to stop: an upgrade that is under way is given up, or, where another
    /// process may serve by now, brought to its end. Resolves once either is done.
    pub(in crate::daemon) async fn stop(&self) {
        self.stopping.send_replace(true);
        let mut under_way = self.under_way.subscribe();
        // Its sender is in here.
        drop(under_way.wait_for(|under_way| !under_way).await);
    }

    /// Whether the instance was told to stop before another process served.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    async fn told_to_stop(&self) {
        let mut stopping = self.stopping.subscribe();
        drop(stopping.wait_for(|stopping| *stopping).await);
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
            under_way: watch::channel(false).0,
            stopping: watch::channel(false).0,
            is_over: Cell::new(false),
            handed_over: RefCell::new(Some(tell)),
        };
        (estate, told)
    }
}

/// Has the program as it is on disk now, with the configuration as it is now, take over; what came
/// of it, a line each.
pub(in crate::daemon) async fn upgrade(hub: Rc<Hub>, by: &str) -> Result<String, Refused> {
    if hub.estate.under_way.send_replace(true) {
        let why = "another upgrade is under way";
        let told = format!("the upgrade by {by} was refused: {why}");
        hub.tell_instance(told, clock::now());
        return Err(Refused::Failed(format!("{why}; try again when it is done")));
    }
    let result = attempt(&hub, by).await;
    hub.estate.under_way.send_replace(false);
    result.map_err(|why| {
        let gist = gist(&why);
        hub.tell_instance(
            format!("the upgrade by {by} failed, and nothing changed: {gist}"),
            clock::now(),
        );
        tracing::error!("{why}");
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
    let (path, text) = file(hub)?;
    let Some(executable) = hub.estate.executable.clone() else {
        return Err("this instance was not started by its own program".to_owned());
    };
    let listeners = descriptors(hub).await?;
    let successor = Successor::start(&executable, &path, hub.socket_by_hand.as_deref()).await?;
    let standstill = Standstill(hub.clone());
    let prepared = tokio::select! {
        biased;
        () = hub.estate.told_to_stop() => Err(STOPPING.to_owned()),
        prepared = prepare(hub, &successor, (path, text), by, listeners) => prepared,
    };
    // From here on it cannot be taken back: the new process may have clients.
    let served = match prepared {
        Ok(told) => successor.begin().await.map(|()| told),
        Err(why) => Err(why),
    };
    match served {
        Ok((version, told)) => {
            let pid = successor.pid;
            let (ours, is_known) = leave(hub, successor, standstill);
            let told_by = format!("upgraded: process {pid} (version {version}) serves; {ours}");
            tracing::info!("{by}: {told_by}");
            // Whoever asks systemd for its main process next is to find it.
            if timeout(KNOWN, is_known).await.is_err() {
                tracing::warn!("systemd has yet to take process {pid} for its main one");
            }
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
    if hub.state.get() == RunState::Draining || hub.estate.is_stopping() {
        return Err(STOPPING.to_owned());
    }
    if !hub.manager.knows_us() {
        return Err(
            "systemd has yet to hear that this process is its main one; try again".to_owned(),
        );
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
             end one with its sessions (twice `kill PID`, of {})",
            ids.join(", ")
        ));
    }
    Ok(())
}

/// The file that the instance was started from, and its text as it was read.
fn file(hub: &Hub) -> Result<(PathBuf, String), String> {
    match &hub.era().config.source {
        Some(source) => Ok((source.path.clone(), source.text.to_string())),
        None => Err("this instance was not started from a file".to_owned()),
    }
}

/// What this process listens at: listeners worker by worker, the HTTP listener, the control socket.
async fn descriptors(hub: &Hub) -> Result<Vec<OwnedFd>, String> {
    let mut all = Vec::new();
    for shared in hub.share_listeners() {
        let shared = timeout(SHARING, shared).await;
        let shared = shared.ok().and_then(Result::ok);
        let shared = shared.ok_or("a worker does not hand its listeners over; is it stuck?")?;
        all.extend(shared.map_err(none_left)?);
    }
    // The control socket is the last of them: there always is one.
    for own in hub.estate.servers.borrow().iter().rev() {
        all.push(own.try_clone().map_err(none_left)?);
    }
    Ok(all)
}

fn none_left(error: io::Error) -> String {
    format!("a listener cannot be handed over: {error}; try again later")
}

/// The first message, and everything that goes over with it: `listeners`, and the streams to those
/// that drain.
fn hello(
    hub: &Hub,
    (path, text): (PathBuf, String),
    by: &str,
    listeners: Vec<OwnedFd>,
) -> Result<(Hello, Vec<OwnedFd>), String> {
    let (before, streams) = hub.led.handed_on();
    let hello = Hello {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: Process {
            pid: std::process::id(),
            path,
            text,
            outline: Outline::of(&hub.era().topology),
        },
        by: by.to_owned(),
        listeners: listeners.len() - 1,
        control: hub.claim.identity(),
        before,
    };
    let mut all = listeners;
    for stream in streams {
        all.push(stream.as_fd().try_clone_to_owned().map_err(none_left)?);
    }
    Ok((hello, all))
}

/// Everything up to the moment from which it cannot be taken back: the successor's version, and
/// what it changes.
async fn prepare(
    hub: &Rc<Hub>,
    successor: &Successor,
    file: (PathBuf, String),
    by: &str,
    listeners: Vec<OwnedFd>,
) -> Result<(String, String), String> {
    let (hello, descriptors) = hello(hub, file, by, listeners)?;
    successor.greet(hello, descriptors).await?;
    let (version, told) = match successor.hear(LOADING).await? {
        FromSuccessor::Loaded { version, told } => (version, told),
        other => return Err(out_of_turn(other)),
    };
    // Later it must not fail: who ends without it ends its new main process with it.
    let listens = hub.manager.takes_messages().await;
    listens.map_err(|error| error.to_string())?;
    settle(hub).await?;
    hub.stand_still();
    if hub.decider.borrow().legacy().writing().next().is_some() {
        return Err("where users are sent is being written; try again".to_owned());
    }
    // What a disk did not take is told by those who write; it only must not hang.
    let written = async { tokio::join!(hub.kept(), hub.journal.flushed()) };
    if timeout(WRITING, written).await.is_err() {
        return Err(format!("the disk has not answered for {}", span(WRITING)));
    }
    hub.led.flushed().await.map_err(|pid| {
        format!(
            "process {pid}, which drains, does not read what it is told; end it and its sessions \
             (`kill -9 {pid}`) and try again"
        )
    })?;
    successor.say(ToSuccessor::Stands(hub.standing())).await?;
    match successor.hear(GETTING_READY).await? {
        FromSuccessor::Prepared => {}
        other => return Err(out_of_turn(other)),
    }
    hub.give_flows(&successor.stream).await?;
    Ok((version, told))
}

/// Another process serves: this one closes what it listens at, and drains. Says so in words, and
/// when systemd knows.
fn leave(
    hub: &Rc<Hub>,
    successor: Successor,
    standstill: Standstill,
) -> (String, oneshot::Receiver<()>) {
    let open = hub.open();
    let pid = std::process::id();
    hub.state.set(RunState::Draining);
    hub.drop_flows();
    let left = hub.leave();
    hub.led.leave();
    hub.claim.give_up();
    hub.journal.close();
    hub.keeper.close();
    hub.estate.is_over.set(true);
    // While anybody has one of them, it listens: nobody could tell that its process is gone.
    hub.estate.servers.take();
    let deadline = hub.era().config.instance.upgrade_deadline;
    let serving = successor.pid;
    let (tell, is_known) = oneshot::channel();
    let known = spawn_local({
        let hub = hub.clone();
        async move {
            if timeout(SHARING, left).await.is_err() {
                tracing::error!("a worker does not close its listeners; is it stuck?");
            }
            tell_service_manager(&hub, serving).await;
            if tell.send(()).is_err() {
                tracing::debug!("nobody waits for systemd to know any more");
            }
        }
    });
    let following = Following::begin(successor, deadline, known);
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
    let mut told = match open {
        0 => format!("process {pid} has no sessions left"),
        1 => format!(
            "process {pid} drains 1 session, for {} at most",
            span(deadline)
        ),
        n => format!(
            "process {pid} drains {n} sessions, for {} at most",
            span(deadline)
        ),
    };
    if !hub.manager.is_there() {
        told += &format!(
            "\nno service manager was told (NOTIFY_SOCKET is not set): whatever started process \
             {pid} sees it end, and has to watch process {serving} instead"
        );
    }
    (told, is_known)
}

/// Tells systemd its new main process, again until it knows: it would take the end of this one for
/// that of the service.
async fn tell_service_manager(hub: &Hub, pid: u32) {
    let mut told = false;
    while let Err(error) = hub.manager.hands_over_to(pid).await {
        if !told {
            tracing::error!("{error}; trying again until it knows that process {pid} serves");
        }
        told = true;
        sleep(TELL_AGAIN).await;
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
