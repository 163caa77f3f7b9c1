//! The first datagrams of young flows, for the case that their member refuses.
//!
//! A refusal comes back after the datagram has left. A client that gets no answer sends again, but
//! only after half a second or more (RFC 8489, 6.2.1); from here the next member gets it at once.

use std::time::Duration;

use super::super::registry::Tick;
use super::super::worker::TICK;
use super::table::FlowId;

/// Flows whose first datagram is kept: as many as begin within a few milliseconds at ten thousand
/// a second, which is how long a refusal takes at most within a site.
const MOST: usize = 64;
/// What may be kept of each: whatever fits an Ethernet frame. A longer one is not kept.
const LENGTH: usize = 1_472;
/// Beyond this age none is sent again: its client has sent another one since, or has given up.
const OLDEST: Tick = (Duration::from_secs(1).as_millis() / TICK.as_millis()) as Tick;

/// The last few first datagrams, the oldest of which gives its place to the next.
#[derive(Debug)]
pub(super) struct Firsts {
    kept: Box<[Kept]>,
    next: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    flow: Option<FlowId>,
    at: Tick,
    length: usize,
    bytes: [u8; LENGTH],
}

impl Firsts {
    pub(super) fn new() -> Firsts {
        let empty = Kept {
            flow: None,
            at: 0,
            length: 0,
            bytes: [0; LENGTH],
        };
        Firsts {
            kept: vec![empty; MOST].into_boxed_slice(),
            next: 0,
        }
    }

    /// Keeps a flow's first datagram; says where.
    pub(super) fn keep(&mut self, flow: FlowId, datagram: &[u8], now: Tick) -> usize {
        let place = self.next;
        if let Some(bytes) = self.kept[place].bytes.get_mut(..datagram.len()) {
            bytes.copy_from_slice(datagram);
            self.kept[place].flow = Some(flow);
            self.kept[place].at = now;
            self.kept[place].length = datagram.len();
            self.next = (place + 1) % MOST;
        }
        place
    }

    /// The first datagram of a flow that was kept there, unless others came since or it is
    /// old.
    pub(super) fn get(&self, place: usize, flow: FlowId, now: Tick) -> Option<&[u8]> {
        let kept = self.kept.get(place)?;
        if kept.flow != Some(flow) || now.wrapping_sub(kept.at) > OLDEST {
            return None;
        }
        Some(&kept.bytes[..kept.length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(number: u64) -> FlowId {
        FlowId::from(number)
    }

    #[test]
    fn a_first_datagram_is_there_until_many_others_came() {
        let mut firsts = Firsts::new();
        let place = firsts.keep(flow(7), b"hello", 1);
        assert_eq!(firsts.get(place, flow(7), 1), Some(&b"hello"[..]));
        assert_eq!(firsts.get(place, flow(8), 1), None);
        for other in 0..MOST as u64 {
            assert_eq!(firsts.get(place, flow(7), 1), Some(&b"hello"[..]));
            firsts.keep(flow(100 + other), b"other", 1);
        }
        assert_eq!(firsts.get(place, flow(7), 1), None);
    }

    #[test]
    fn one_that_is_old_is_not_sent_again() {
        let mut firsts = Firsts::new();
        let began = Tick::MAX;
        let place = firsts.keep(flow(1), b"hello", began);
        let later = began.wrapping_add(OLDEST);
        assert_eq!(firsts.get(place, flow(1), later), Some(&b"hello"[..]));
        assert_eq!(firsts.get(place, flow(1), later + 1), None);
    }

    #[test]
    fn one_that_is_too_long_takes_nobodys_place() {
        let mut firsts = Firsts::new();
        let long = vec![1; LENGTH + 1];
        let place = firsts.keep(flow(1), &long, 1);
        assert_eq!(firsts.get(place, flow(1), 1), None);
        assert_eq!(firsts.keep(flow(2), b"", 1), place);
        assert_eq!(firsts.get(place, flow(2), 1), Some(&b""[..]));
    }
}
