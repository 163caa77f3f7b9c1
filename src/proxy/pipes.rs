//! Pipes for bulk data: pooled, and taken only while a direction is bulk.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};

/// Pipes a worker may have at once. A direction that finds none copies through the scratch buffer
/// instead: slower, never wrong.
pub(super) const MOST: usize = 128;
/// Pipes kept for the next taker; more than these are closed.
const KEPT: usize = 32;

/// An empty pipe, or one that a relay holds bytes in.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

/// A worker's pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes(RefCell<Pool>);

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Pipe>,
    out: usize,
}

impl Pipe {
    /// The most that one splice is asked to move: whatever the pipe takes. Pipes keep the kernel's
    /// default size, 64 KiB: what a slow reader makes the kernel hold is little, and small pieces
    /// stay in the processor's cache (with pipes of 1 MiB a GiB cost a tenth more).
    pub(super) const CHUNK: usize = 1 << 30;
}

impl Pipes {
    /// Takes an empty pipe; give it back with [`Pipes::give`] or [`Pipes::lose`].
    pub(super) fn take(&self) -> Option<Pipe> {
        let mut pool = self.0.borrow_mut();
        if pool.out >= MOST {
            return None;
        }
        let pipe = match pool.idle.pop() {
            Some(pipe) => pipe,
            None => open()?,
        };
        pool.out += 1;
        Some(pipe)
    }

    /// Gives an empty pipe back.
    pub(super) fn give(&self, pipe: Pipe) {
        let mut pool = self.0.borrow_mut();
        pool.out -= 1;
        if pool.idle.len() < KEPT {
            pool.idle.push(pipe);
        }
    }

    /// Closes a pipe that still holds bytes nobody wants.
    pub(super) fn lose(&self, pipe: Pipe) {
        drop(pipe);
        self.0.borrow_mut().out -= 1;
    }
}

fn open() -> Option<Pipe> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    Some(Pipe { read, write })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_the_bound() {
        let pipes = Pipes::default();
        let taken: Vec<_> = std::iter::from_fn(|| pipes.take()).take(MOST + 1).collect();
        assert_eq!(taken.len(), MOST);
        for pipe in taken {
            pipes.give(pipe);
        }
        assert_eq!(pipes.0.borrow().idle.len(), KEPT);
        assert!(pipes.take().is_some());
    }
}
