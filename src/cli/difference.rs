//! `validate --diff`: what a reload would change in the daemon that runs.
//!
//! The daemon gives the text that it runs by and says whose users are away; what follows from
//! both is worked out here, by the rules that the daemon goes by itself.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use super::client::{AskError, Client};
use super::{DEFAULT_SOCKET, EXIT_REFUSED, failed};
use crate::config::{self, Config, Loaded, difference};
use crate::control::reload::{forgotten, overlapping, refusals};
use crate::observe::status::{HomePhase, Status};
use crate::topology::{MemberId, Succession};

/// Prints what the daemon on this socket would change if this were its file; fails where it would
/// refuse.
pub fn tell(socket: Option<&Path>, loaded: &Loaded) -> ExitCode {
    if !loaded.warnings.is_empty() {
        eprint!("{}", loaded.warnings.render(io::stderr().is_terminal()));
    }
    let client = Client::new(socket.unwrap_or(Path::new(DEFAULT_SOCKET)));
    let (text, status) = match asked(&client) {
        Ok(answers) => answers,
        Err(Asked::Runtime(error)) => {
            return failed(EXIT_REFUSED, &format!("cannot start: {error}"));
        }
        Err(Asked::Daemon(error)) => return failed(error.exit_code(), &error.to_string()),
    };
    let Ok(running) = config::parse(&text, "what runs") else {
        let why = "what runs was read by another version, which this one does not understand";
        return failed(EXIT_REFUSED, why);
    };
    let mut running = running.config;
    // The command line of the daemon may have named another socket: a reload would keep it.
    running
        .control
        .socket
        .clone_from(&loaded.config.control.socket);
    let (told, refusals) = foretold(&running, &loaded.config, &status);
    println!("{told}");
    match refusals.as_slice() {
        [] => ExitCode::SUCCESS,
        refusals => failed(
            EXIT_REFUSED,
            &format!("a reload would be refused: {}", refusals.join("\n")),
        ),
    }
}

/// What a reload would change, and why it would be refused.
fn foretold(running: &Config, new: &Config, status: &Status) -> (String, Vec<String>) {
    let succession = Succession::between(&running.topology, &new.topology);
    let rows: Vec<_> = status.pairs.iter().flat_map(|pair| pair.rows()).collect();
    let is_away = |pool| {
        let name = &running.topology.pool(pool).name;
        let away = |phase| phase != HomePhase::Home;
        rows.iter().any(|row| row.pool == *name && away(row.phase))
    };
    let mut refusals = refusals(running, new, &succession, is_away);
    refusals.extend(overlapping(&running.topology, &new.topology));
    let operator = |member: MemberId| {
        let (pool, member) = (
            &running.topology.pool(member.pool).name,
            &running.topology.member(member).name,
        );
        let pool = status.pools.iter().find(|row| row.name == *pool)?;
        let row = pool.members.iter().find(|row| row.name == *member)?;
        Some((row.mode, row.operator.as_ref()?.by.clone()))
    };
    let mut told = difference::between(running, new).to_string();
    for forgotten in forgotten(&running.topology, &succession, operator) {
        told += &format!("\n{forgotten}");
    }
    (told, refusals)
}

enum Asked {
    Runtime(io::Error),
    Daemon(AskError),
}

fn asked(client: &Client) -> Result<(String, Status), Asked> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Asked::Runtime)?;
    runtime.block_on(async {
        let text = client.configuration().await.map_err(Asked::Daemon)?;
        let status = client.status().await.map_err(Asked::Daemon)?;
        Ok((text, status))
    })
}
