//! Clients that the other pool of a pair accepted after their own did not: for a while they go
//! there at once, instead of running into the same silence with every connection.
//!
//! A client is remembered once and for [`STAYS`], however often it comes meanwhile: then its own
//! pool is tried again. What the redirect table says anew of a pool's users ends it too: they go
//! where they are sent then.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::time::Time;
use crate::topology::PoolId;

/// How long a client is sent to where it was accepted: longer than it takes to tell a lost pool
/// from a slow one, so that a client pays once for what happens to its pool.
pub(super) const STAYS: Duration = Duration::from_secs(30);
/// Clients that one worker remembers. One that is not remembered finds its way again, by the same
/// detour.
pub(super) const MOST: usize = 4096;

/// The clients that one worker remembers.
#[derive(Debug, Default)]
pub(super) struct Spills(RefCell<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Where each was accepted, and when.
    clients: HashMap<Key, (PoolId, Time)>,
    /// In the order they came, which is that of their ends. One that was forgotten meanwhile may
    /// still stand here.
    line: VecDeque<(Key, Time)>,
}

/// A user of a home pool, by its address.
type Key = (PoolId, IpAddr);

impl Spills {
    /// Whether nobody is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().clients.is_empty()
    }

    /// Where this user of `home` was accepted a moment ago.
    pub(super) fn find(&self, home: PoolId, client: IpAddr, now: Time) -> Option<PoolId> {
        let mut table = self.0.borrow_mut();
        table.expire(now);
        table.clients.get(&(home, client)).map(|&(at, _)| at)
    }

    /// Remembers where it was accepted, unless too many are.
    pub(super) fn remember(&self, home: PoolId, client: IpAddr, at: PoolId, now: Time) {
        let mut table = self.0.borrow_mut();
        table.expire(now);
        if table.line.len() < MOST {
            table.clients.insert((home, client), (at, now));
            table.line.push_back(((home, client), now));
        }
    }

    /// Forgets it: nobody accepts it there either.
    pub(super) fn forget(&self, home: PoolId, client: IpAddr) {
        self.0.borrow_mut().clients.remove(&(home, client));
    }

    /// Forgets all users of a pool: they are sent elsewhere now.
    pub(super) fn forget_all(&self, home: PoolId) {
        let mut table = self.0.borrow_mut();
        table.clients.retain(|(of, _), _| *of != home);
        table.line.retain(|((of, _), _)| *of != home);
    }
}

impl Spills {
    /// Keeps those of whom `now` knows where they are found under another topology: the home pool
    /// and the one that accepted them. All others are forgotten.
    pub(super) fn adopt(&self, now: impl Fn(PoolId, PoolId) -> Option<(PoolId, PoolId)>) {
        let mut table = self.0.borrow_mut();
        let Table { clients, line } = std::mem::take(&mut *table);
        for (key @ (home, client), since) in line {
            // One that was forgotten and remembered again stands here twice.
            let Some(&(at, remembered)) = clients.get(&key) else {
                continue;
            };
            if let Some((home, at)) = now(home, at).filter(|_| remembered == since) {
                table.clients.insert((home, client), (at, since));
                table.line.push_back(((home, client), since));
            }
        }
    }
}

impl Table {
    fn expire(&mut self, now: Time) {
        while let Some(&(key, since)) = self.line.front() {
            if now.since(since) < STAYS {
                break;
            }
            self.line.pop_front();
            // It may have been forgotten and remembered again since.
            if self.clients.get(&key).is_some_and(|&(_, at)| at == since) {
                self.clients.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HOME: PoolId = PoolId(0);
    const TWIN: PoolId = PoolId(1);

    fn client(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_client_is_remembered_for_a_while_and_not_longer_for_coming_often() {
        let spills = Spills::default();
        assert!(spills.is_empty());
        spills.remember(HOME, client(1), TWIN, at(100));
        for seconds in 100..130 {
            assert_eq!(spills.find(HOME, client(1), at(seconds)), Some(TWIN));
        }
        assert_eq!(spills.find(HOME, client(2), at(100)), None);
        assert_eq!(spills.find(TWIN, client(1), at(100)), None);
        assert_eq!(spills.find(HOME, client(1), at(130)), None);
        assert!(spills.is_empty());
    }

    #[test]
    fn one_remembered_again_stays_for_its_whole_while() {
        let spills = Spills::default();
        spills.remember(HOME, client(1), TWIN, at(100));
        spills.forget(HOME, client(1));
        assert!(spills.is_empty());
        spills.remember(HOME, client(1), TWIN, at(120));
        assert_eq!(spills.find(HOME, client(1), at(149)), Some(TWIN));
        assert_eq!(spills.find(HOME, client(1), at(150)), None);
    }

    #[test]
    fn users_who_are_sent_elsewhere_are_forgotten_and_no_others() {
        let spills = Spills::default();
        spills.remember(HOME, client(1), TWIN, at(100));
        spills.remember(TWIN, client(1), HOME, at(100));
        spills.forget_all(HOME);
        assert_eq!(spills.find(HOME, client(1), at(101)), None);
        assert_eq!(spills.find(TWIN, client(1), at(101)), Some(HOME));
        spills.remember(HOME, client(1), TWIN, at(120));
        assert_eq!(spills.find(HOME, client(1), at(149)), Some(TWIN));
    }

    #[test]
    fn the_table_is_bounded_whatever_comes() {
        let spills = Spills::default();
        for n in 0..3 * MOST as u32 {
            spills.remember(HOME, client(n), TWIN, at(100));
            if n % 3 == 0 {
                spills.forget(HOME, client(n));
            }
        }
        assert_eq!(spills.0.borrow().line.len(), MOST);
        assert_eq!(spills.find(HOME, client(1), at(101)), Some(TWIN));
        assert_eq!(spills.find(HOME, client(2 * MOST as u32), at(101)), None);
        spills.remember(HOME, client(2 * MOST as u32), TWIN, at(130));
        assert_eq!(spills.0.borrow().line.len(), 1);
        assert_eq!(spills.0.borrow().clients.len(), 1);
    }
}
