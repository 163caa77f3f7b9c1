//! A process that was started to be the successor, as its predecessor sees it: started, talked to,
//! and ended where nothing comes of it.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::wire::{self, MOST_DESCRIPTORS};
use super::words::{FromSuccessor, Hello, ToSuccessor};
use crate::daemon::service_manager;

/// How long it may take to say who it is.
const STARTING: Duration = Duration::from_secs(6);
/// How long it may take to serve, once it may.
const BEGINNING: Duration = Duration::from_secs(10);
/// How long it may take to read what it is told.
const HEARING: Duration = Duration::from_secs(10);
/// How long it may take to end by itself, and how long once it is killed.
const ENDING: Duration = Duration::from_millis(500);
const DYING: Duration = Duration::from_secs(5);
/// How often it is seen whether the process that starts it has ended.
const LOOK: Duration = Duration::from_millis(5);

const ENDED: &str = "the new process ended before it served";
const SILENT: &str = "the new process did not answer in time";
/// Digits that the id of a process has at most, and the end of its line.
const LONGEST_ID: u64 = 21;

/// A process that was started to be the successor.
#[derive(Debug)]
pub(super) struct Successor {
    pub(super) pid: u32,
    handle: OwnedFd,
    pub(super) stream: Arc<UnixStream>,
}

/// Why it does not go on, where it said something else than was expected.
pub(super) fn out_of_turn(said: FromSuccessor) -> String {
    match said {
        FromSuccessor::Refuses { why } => why,
        _ => "the new process answered out of turn".to_owned(),
    }
}

impl Successor {
    /// Starts one, by way of a process that starts it and ends: so it is nobody's child but the
    /// service manager's, which hears at once when it ends, whatever becomes of this process.
    pub(super) async fn start(
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
        let said = timeout(STARTING, said).await;
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

    /// Says who hands over, and gives it what goes with it.
    pub(super) async fn greet(
        &self,
        hello: Hello,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        self.talk(move |stream| give(stream, hello, descriptors))
            .await
    }

    /// Has it serve; returns once it does.
    pub(super) async fn begin(&self) -> Result<(), String> {
        self.say(ToSuccessor::Yours).await?;
        match self.hear(BEGINNING).await? {
            FromSuccessor::Serves => Ok(()),
            other => Err(out_of_turn(other)),
        }
    }

    /// Has it stop, as this process was told to.
    pub(super) fn stop(&self) {
        tracing::info!("told to stop: stopping process {} too", self.pid);
        match pidfd_send_signal(&self.handle, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::error!("cannot stop process {}: {error}", self.pid),
        }
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

    pub(super) async fn say(&self, message: ToSuccessor) -> Result<(), String> {
        self.talk(move |stream| wire::send(stream, &message, &[], HEARING))
            .await
    }

    pub(super) async fn hear(&self, patience: Duration) -> Result<FromSuccessor, String> {
        self.talk(move |stream| Ok(wire::receive(stream, patience)?.0))
            .await
    }

    /// Ends it, if it has not ended.
    pub(super) async fn end(self) {
        // One that has just said why ends by itself.
        let Successor { pid, handle, .. } = self;
        let ended = spawn_blocking(move || {
            is_over(&handle, ENDING)?;
            match pidfd_send_signal(&handle, Signal::KILL) {
                Ok(()) => is_over(&handle, DYING),
                Err(Errno::SRCH) => Ok(true),
                Err(error) => Err(error),
            }
        });
        if !matches!(ended.await, Ok(Ok(true))) {
            tracing::error!("process {pid}, which did not take over, may live still");
        }
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
    if let Ok(status) = timeout(ENDING, by_itself).await {
        return status;
    }
    let ended = spawn_blocking(move || starter.kill().and_then(|()| starter.wait())).await;
    if !matches!(ended, Ok(Ok(_))) {
        tracing::error!("the process that was to start the new one may live still: {ended:?}");
    }
    None
}
