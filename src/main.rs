//! The twinpool daemon and its commands. The phases of a run: arguments, logging, configuration,
//! then the daemon, which binds, serves and drains.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use twinpool::cli::{self, Task};

fn main() -> ExitCode {
    let line = cli::command_line();
    // The demo tells by itself what happens; its screen and its table are no place for a log.
    if !matches!(line.task, Task::Demo { .. }) || std::env::var_os("RUST_LOG").is_some() {
        log_to_stderr();
    }
    match line.task {
        Task::Run { config } => run(&config, line.socket.as_deref()),
        Task::Validate { config } => validate(&config),
        Task::Demo { once } => cli::demo::run(once),
        Task::Ask(ask) => cli::ask(line.socket.as_deref(), ask),
    }
}

/// `RUST_LOG` decides what is told; state changes and worse without it.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

fn run(config: &Path, _socket: Option<&Path>) -> ExitCode {
    unwired("run", config)
}

fn validate(config: &Path) -> ExitCode {
    unwired("validate", config)
}

fn unwired(task: &str, config: &Path) -> ExitCode {
    let why = format!("{task} {} is not part of this build", config.display());
    cli::failed(cli::EXIT_CONFIG, &why)
}
