//! The twinpool daemon and its commands. The phases of a run: arguments, configuration, the log,
//! then the daemon, which binds, serves and drains.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use twinpool::cli::{self, Task};
use twinpool::config::{self, Errors};
use twinpool::daemon::{self, Heir, Starter, UnixSignals};
use twinpool::log;

fn main() -> ExitCode {
    let line = cli::command_line();
    if !tells_by_itself(&line.task) {
        log::start(&log::Settings::default());
    }
    match line.task {
        Task::Run {
            successor: true,
            detached: false,
            ..
        } => match Heir::start_detached("--detached") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => cli::failed(cli::EXIT_REFUSED, &error.to_string()),
        },
        Task::Run {
            config, successor, ..
        } => run(&config, line.socket, successor),
        Task::Validate { config, diff } => validate(&config, diff, line.socket.as_deref()),
        Task::Demo { once } => cli::demo::run(once),
        Task::Generate { what, to } => match cli::generate::generate(what, to.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => cli::failed(cli::EXIT_REFUSED, &format!("cannot write: {error}")),
        },
        Task::Ask(ask) => cli::ask(line.socket.as_deref(), ask),
    }
}

/// The daemon's log is as its configuration says; and the demo's screen and table are no place for
/// one, unless somebody wants it.
fn tells_by_itself(task: &Task) -> bool {
    match task {
        Task::Run { .. } => true,
        Task::Demo { .. } => std::env::var_os("RUST_LOG").is_none(),
        _ => false,
    }
}

fn run(path: &Path, socket: Option<PathBuf>, successor: bool) -> ExitCode {
    let mut starter = Starter::systemd();
    if successor {
        match Heir::from_stdin() {
            Ok(heir) => starter.heir = Some(heir),
            Err(error) => return cli::failed(cli::EXIT_REFUSED, &error.to_string()),
        }
    }
    let mut config = match config::load(path) {
        Ok(loaded) => {
            if !loaded.warnings.is_empty() {
                eprint!("{}", loaded.warnings.render(io::stderr().is_terminal()));
            }
            loaded.config
        }
        Err(errors) => {
            return match &starter.heir {
                // It tells whoever wants it, and the log.
                Some(heir) => {
                    heir.refuse(&errors.render(false));
                    ExitCode::from(cli::EXIT_CONFIG)
                }
                None => wrong(&errors),
            };
        }
    };
    if let Some(socket) = &socket {
        config.control.socket.clone_from(socket);
    }
    starter.socket = socket;
    log::start(&config.log.settings);
    match daemon::run(config, starter, UnixSignals::default(), |_| ()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::failed(cli::EXIT_REFUSED, &error.to_string()),
    }
}

fn validate(path: &Path, diff: bool, socket: Option<&Path>) -> ExitCode {
    match config::load(path) {
        Ok(loaded) if diff => cli::difference::tell(socket, &loaded),
        Ok(loaded) => {
            print!("{}", cli::validate::report(&loaded));
            ExitCode::SUCCESS
        }
        Err(errors) => wrong(&errors),
    }
}

fn wrong(errors: &Errors) -> ExitCode {
    eprint!("{}", errors.render(io::stderr().is_terminal()));
    ExitCode::from(cli::EXIT_CONFIG)
}
