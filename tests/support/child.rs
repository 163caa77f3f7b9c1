//! Processes that this program started, ended by their ids.

use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::clock::wait_for;
use super::{Result, inside};

/// A process of ours; killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    child: std::process::Child,
    what: String,
}

impl Child {
    /// Starts `command` so that it dies with this process; what it prints goes to the file `log`.
    ///
    /// Must be called on the main thread: the kernel ties the parent-death signal to the thread.
    pub(crate) fn start(what: &str, command: &[String], log: &Path) -> Result<Child> {
        let file = std::fs::File::create(log)?;
        Child::spawn(
            what,
            command,
            Stdio::from(file.try_clone()?),
            Stdio::from(file),
        )
    }

    /// Starts `command` so that it dies with this process, its output to be read with
    /// [`Child::read_to_end`], its errors shown.
    pub(crate) fn start_read(what: &str, command: &[String]) -> Result<Child> {
        Child::spawn(what, command, Stdio::piped(), Stdio::inherit())
    }

    fn spawn(what: &str, command: &[String], out: Stdio, err: Stdio) -> Result<Child> {
        let child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|e| format!("{what}: cannot start {}: {e}", command[0]))?;
        Ok(Child {
            child,
            what: what.to_owned(),
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|e| format!("{}: cannot signal it: {e}", self.what).into())
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it is dead: its sockets are closed then. What is left of it goes with `self`.
    pub(crate) fn is_dead(&self, limit: Duration) -> Result<()> {
        let pid = WaitId::Pid(Pid::from_child(&self.child));
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        wait_for(&format!("{}: its death", self.what), limit, || {
            Ok(waitid(pid.clone(), look)?.map(drop))
        })
    }

    /// Fails when it has ended: what should still run does not.
    pub(crate) fn must_live(&mut self, log: &Path) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                Err(format!("{} ended ({status}):\n{said}", self.what).into())
            }
        }
    }

    /// All that it prints until it ends, for as long as `limit`.
    pub(crate) fn read_to_end(mut self, limit: Duration) -> Result<String> {
        let mut pipe = self.child.stdout.take().ok_or("its output is not piped")?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        let what = self.what.clone();
        wait_for(&format!("{what}: its end"), limit, || {
            Ok(reader.is_finished().then_some(()))
        })?;
        let status = wait_for(&what, limit, || self.ended())?;
        let text = reader.join().map_err(|_| "the reader panicked")??;
        if !status.success() {
            return Err(format!("{what}: {status}\n{text}").into());
        }
        Ok(text)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after the wait.
        if let Err(e) = self.child.kill() {
            eprintln!("{}: cannot end it: {e}", self.what);
        }
        if let Err(e) = self.child.wait() {
            eprintln!("{}: cannot wait for it: {e}", self.what);
        }
    }
}

/// A command that dies with its parent: this program again, which sets that up and becomes it.
pub(crate) fn bound_to_us(command: &[String]) -> Result<Vec<String>> {
    let mut bound = inside::call("exec")?;
    bound.extend_from_slice(command);
    Ok(bound)
}

/// Runs a short command and returns what it printed.
pub(crate) fn run(command: &[&str]) -> Result<String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run {}: {e}", command[0]))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{}` failed: {}", command.join(" "), said.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program of this name can be found.
pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|dir| dir.join(program).is_file())
    })
}
