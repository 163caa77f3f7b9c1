//! The parts that this program plays when it starts itself again.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Signal, set_parent_process_death_signal};

use super::{Result, crowd, datagrams, echo, hostile, http, lab, load, member};

/// The first argument of a program that plays a part.
const MARK: &str = "--play";

/// The command that makes this program play a part; the part's arguments follow.
pub(crate) fn call(part: &str) -> Result<Vec<String>> {
    let me = std::env::current_exe()?;
    let me = me.to_str().ok_or("this program's path is not UTF-8")?;
    Ok(vec![me.to_owned(), MARK.to_owned(), part.to_owned()])
}

/// Plays the part that the arguments name; none when they name none and the program is itself.
pub(crate) fn main() -> Option<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mark, part, rest @ ..] = args.as_slice() else {
        return None;
    };
    if mark != MARK {
        return None;
    }
    let played = match part.as_str() {
        "exec" => become_program(rest),
        "janitor" => lab::janitor(),
        "member" => member::main(rest),
        "load" => load::main(rest),
        "echo" => echo::main(rest),
        "crowd" => crowd::main(rest),
        "get" => http::main(rest),
        "hostile" => hostile::main(rest),
        "answer-datagrams" => datagrams::answer_main(rest),
        "ask-datagrams" => datagrams::ask_main(rest),
        other => Err(format!("no part is named {other}").into()),
    };
    Some(match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{part}: {e}");
            ExitCode::FAILURE
        }
    })
}

/// Becomes another program that dies with the process that started this one.
fn become_program(command: &[String]) -> Result<()> {
    let [program, args @ ..] = command else {
        return Err("no program to become".into());
    };
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let error = Command::new(program).args(args).exec();
    Err(format!("cannot become {program}: {error}").into())
}
