//! The twinpool daemon and its commands. The phases of a run: arguments, configuration, the log,
//! then the daemon, which binds, serves and drains.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use twinpool::cli::{self, Task};
use twinpool::config::{self, Errors};
use twinpool::daemon::{self, Signals};
use twinpool::log;

fn main() -> ExitCode {
    let line = cli::command_line();
    match line.task {
        Task::Run { config } => run(&config, line.socket.as_deref()),
        Task::Validate { config } => {
            log::start(&log::Settings::default());
            validate(&config)
        }
        Task::Demo { once } => {
            // It tells by itself what happens; its screen and its table are no place for a log.
            if std::env::var_os("RUST_LOG").is_some() {
                log::start(&log::Settings::default());
            }
            cli::demo::run(once)
        }
        Task::Ask(ask) => {
            log::start(&log::Settings::default());
            cli::ask(line.socket.as_deref(), ask)
        }
    }
}

fn run(path: &Path, socket: Option<&Path>) -> ExitCode {
    let mut config = match config::load(path) {
        Ok(loaded) => {
            if !loaded.warnings.is_empty() {
                eprint!("{}", loaded.warnings.render(io::stderr().is_terminal()));
            }
            loaded.config
        }
        Err(errors) => return wrong(&errors),
    };
    if let Some(socket) = socket {
        config.control.socket = socket.to_owned();
    }
    log::start(&config.log.settings);
    match daemon::run(config, Signals::default(), |_| ()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::failed(cli::EXIT_REFUSED, &error.to_string()),
    }
}

fn validate(path: &Path) -> ExitCode {
    match config::load(path) {
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
