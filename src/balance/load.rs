//! Load accounting: one padded counter a member.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

/// Sessions and attempts that a member holds over all workers, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load(AtomicU32);

impl Load {
    /// How many.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes one place, unless `limit` are taken.
    #[must_use]
    pub fn take(&self, limit: Option<NonZeroU32>) -> bool {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let room = limit.is_none_or(|limit| before < limit.get());
        if !room {
            self.release();
        }
        room
    }

    /// Somebody else who counted so many places counts so many now, whatever the limit.
    pub fn recount(&self, before: u32, now: u32) {
        self.0
            .fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Gives one place back.
    pub fn release(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_member_gives_no_place_and_keeps_its_count() {
        let load = Load::default();
        let limit = NonZeroU32::new(2);
        assert!(load.take(limit));
        assert!(load.take(limit));
        assert!(!load.take(limit));
        assert_eq!(load.get(), 2);
        load.release();
        assert!(load.take(limit));
    }
}
