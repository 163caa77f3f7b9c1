//! `twinpool demo`: see a server die, and a site, and nobody notice, in one process.
//!
//! Real sockets on loopback, real daemon code, default check settings:
//!
//! ```text
//! clients ─► twinpool, on threads of its own ─► members of two sites
//!   (load)      ▲ (stage)                      (members)
//!               └── status, over the control socket, as the commands ask it
//! ```
//!
//! `--once` plays a [`story`] and reckons up ([`ledger`]) whether clients lost anything that they
//! need not have lost. Without it a [`live`] view is shown until the demo is interrupted, and
//! members fall at a typed word.
//!
//! Nothing here is used by the daemon, and nothing outside loopback and one temporary directory is
//! touched.

mod ledger;
mod live;
mod load;
mod members;
mod reckoning;
mod screen;
mod stage;
mod story;
mod wire;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use super::{EXIT_REFUSED, failed};
use live::LiveError;
use stage::{Stage, StageError};
use story::StoryError;

/// Setting the stage and playing the story take no longer, whatever happens; what is left of two
/// minutes is for striking the stage. Where all goes well it is about one.
const ONCE: Duration = Duration::from_secs(114);

/// Runs the demo: the story once, or until it is interrupted.
///
/// The exit code is 0 when nothing went wrong: for `once`, when nothing was lost beyond what was in
/// a member's hands when it fell, and everybody was where he should be. Otherwise it is 1.
pub fn run(once: bool) -> ExitCode {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let played = match runtime {
        Ok(runtime) => runtime.block_on(play(once)),
        Err(error) => Err(DemoError::Runtime(error)),
    };
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_REFUSED),
        // Whoever read our output has seen enough.
        Err(
            DemoError::Story(StoryError::Print(error)) | DemoError::Live(LiveError::Print(error)),
        ) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(EXIT_REFUSED),
        Err(error) => failed(EXIT_REFUSED, &error.to_string()),
    }
}

/// Why the demo came to no end.
#[derive(Debug)]
enum DemoError {
    Runtime(io::Error),
    Stage(StageError),
    Story(StoryError),
    Live(LiveError),
    Interrupted,
    TooLong,
}

impl From<StageError> for DemoError {
    fn from(error: StageError) -> DemoError {
        DemoError::Stage(error)
    }
}

impl std::fmt::Display for DemoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DemoError::Runtime(error) => write!(f, "cannot start: {error}"),
            DemoError::Stage(error) => error.fmt(f),
            DemoError::Story(error) => error.fmt(f),
            DemoError::Live(error) => error.fmt(f),
            DemoError::Interrupted => {
                f.write_str("interrupted: the story was not played to its end")
            }
            DemoError::TooLong => write!(
                f,
                "the story did not come to its end in {} s",
                ONCE.as_secs()
            ),
        }
    }
}

async fn play(once: bool) -> Result<bool, DemoError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DemoError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DemoError::Runtime)?;
    let told = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let mut told = std::pin::pin!(told);
    let by = Instant::now() + ONCE;
    let stage = tokio::select! {
        stage = Stage::set() => stage?,
        () = &mut told => return Err(DemoError::Interrupted),
    };
    let mut out = io::stdout();
    let played = if once {
        tokio::select! {
            played = timeout_at(by, story::play(&stage, &mut out)) => match played {
                Ok(played) => played.map_err(DemoError::Story),
                Err(_) => Err(DemoError::TooLong),
            },
            () = &mut told => Err(DemoError::Interrupted),
        }
    } else {
        live::show(&stage, told)
            .await
            .map(|()| true)
            .map_err(DemoError::Live)
    };
    let struck = stage.strike().await;
    let played = played?;
    struck?;
    Ok(played)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_of_it_takes_less_than_two_minutes() {
        assert!(ONCE + stage::STOP < Duration::from_secs(120));
    }
}
