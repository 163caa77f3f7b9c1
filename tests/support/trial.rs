//! Runs trials under `cargo test` and `cargo nextest` in a program that has its own `main`.
//!
//! A trial has a name that is a sentence and a function that fails with words. One that cannot run
//! here says so and passes; with `--obstacle` the program prints why none can, and runs none.

use std::process::ExitCode;

use super::Result;

/// One test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    /// A sentence of behaviour.
    pub(crate) name: &'static str,
    /// Fails with what is wrong.
    pub(crate) run: fn() -> Result<()>,
}

/// What the arguments of a test runner ask for.
#[derive(Debug, Default)]
struct Request {
    list: bool,
    obstacle: bool,
    ignored: bool,
    exact: bool,
    filters: Vec<String>,
    skips: Vec<String>,
}

/// Does what the arguments ask for; `obstacle` is why no trial can run here, if so.
pub(crate) fn main(trials: &[Trial], obstacle: impl Fn() -> Option<String>) -> ExitCode {
    let request = Request::parse(std::env::args().skip(1));
    if request.obstacle {
        if let Some(why) = obstacle() {
            println!("{why}");
        }
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&Trial> = trials.iter().filter(|t| request.wants(t.name)).collect();
    if request.list {
        for trial in &chosen {
            println!("{}: test", trial.name);
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let obstacle = if chosen.is_empty() { None } else { obstacle() };
    let mut failed = 0;
    for trial in &chosen {
        if let Some(why) = &obstacle {
            println!("test {} ... ok (skipped: {why})", trial.name);
            continue;
        }
        match (trial.run)() {
            Ok(()) => println!("test {} ... ok", trial.name),
            Err(e) => {
                failed += 1;
                println!("test {} ... FAILED\n{e}\n", trial.name);
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {failed} failed\n",
        chosen.len() - failed
    );
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(101),
    }
}

impl Request {
    fn parse(mut args: impl Iterator<Item = String>) -> Request {
        let mut request = Request::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => request.list = true,
                "--obstacle" => request.obstacle = true,
                "--ignored" => request.ignored = true,
                "--exact" => request.exact = true,
                "--skip" => request.skips.extend(args.next()),
                // Those of libtest's options that take a value: trials run one at a time anyhow.
                "--format" | "--test-threads" | "--color" | "--logfile" | "-Z" => {
                    args.next();
                }
                flag if flag.starts_with('-') => {}
                filter => request.filters.push(filter.to_owned()),
            }
        }
        request
    }

    /// No trial is an ignored one.
    fn wants(&self, name: &str) -> bool {
        let matches = |filter: &String| match self.exact {
            true => name == filter,
            false => name.contains(filter.as_str()),
        };
        !self.ignored
            && !self.skips.iter().any(matches)
            && (self.filters.is_empty() || self.filters.iter().any(matches))
    }
}
