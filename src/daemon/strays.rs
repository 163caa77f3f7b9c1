//! Addresses that were a target's and are no more: for how long sessions there are kept, as those of
//! a drained member are. Pure.

use std::net::IpAddr;

use crate::time::Time;
use crate::topology::{Succession, TargetId};

/// Some for each target of a large instance. Where more go than that, the first end early.
const MOST: usize = 4_096;

/// Each with the time at which its sessions end.
#[derive(Debug, Default)]
pub(super) struct Strays(Vec<Stray>);

#[derive(Debug)]
struct Stray {
    until: Time,
    target: TargetId,
    host: IpAddr,
}

impl Strays {
    /// This address is no longer the target's; it counts from now, even if it was gone before.
    pub(super) fn add(&mut self, target: TargetId, host: IpAddr, until: Time, now: Time) {
        self.0
            .retain(|stray| (stray.target, stray.host) != (target, host));
        let over = (self.0.len() + 1).saturating_sub(MOST);
        for stray in self.0.iter_mut().take(over) {
            stray.until = now;
        }
        self.0.push(Stray {
            until,
            target,
            host,
        });
    }

    /// When the next ones end.
    pub(super) fn next(&self) -> Option<Time> {
        self.0.iter().map(|stray| stray.until).min()
    }

    /// Whose sessions end now: those on any address but these, of which the target has others of its
    /// own. Told once.
    pub(super) fn take_due(&mut self, now: Time) -> Vec<(TargetId, Vec<IpAddr>)> {
        let due: Vec<Stray> = self.0.extract_if(.., |stray| stray.until <= now).collect();
        let mut told: Vec<(TargetId, Vec<IpAddr>)> = Vec::new();
        for Stray { target, .. } in due {
            if told.iter().any(|(known, _)| *known == target) {
                continue;
            }
            let others = self.0.iter().filter(|stray| stray.target == target);
            told.push((target, others.map(|stray| stray.host).collect()));
        }
        told
    }

    /// The same under the topology that comes next. Sessions of a target that is gone have a
    /// deadline of their own.
    pub(super) fn succeed(&mut self, succession: &Succession) {
        self.0
            .retain_mut(|stray| match succession.target(stray.target) {
                Some(target) => {
                    stray.target = target;
                    true
                }
                None => false,
            });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::topology::PoolId;

    fn target(pool: u16) -> TargetId {
        PoolId(pool).member(0).target(PoolId(pool).service(0))
    }

    fn host(last: usize) -> IpAddr {
        IpAddr::from([192, 0, (last / 256) as u8, (last % 256) as u8])
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn each_address_has_its_own_time_from_when_it_went_last() {
        let mut strays = Strays::default();
        assert_eq!(strays.next(), None);
        strays.add(target(0), host(1), at(10), at(0));
        strays.add(target(0), host(2), at(15), at(5));
        strays.add(target(1), host(1), at(15), at(5));
        assert_eq!(strays.next(), Some(at(10)));
        assert!(strays.take_due(at(9)).is_empty());
        assert_eq!(strays.take_due(at(10)), [(target(0), vec![host(2)])]);
        assert!(strays.take_due(at(10)).is_empty(), "told once");
        // It was the target's again, and went again.
        strays.add(target(0), host(2), at(30), at(20));
        assert_eq!(strays.take_due(at(20)), [(target(1), vec![])]);
        assert_eq!(strays.take_due(at(30)), [(target(0), vec![])]);
        assert_eq!(strays.next(), None);
    }

    #[test]
    fn of_too_many_the_first_end_early() {
        let mut strays = Strays::default();
        for nth in 0..MOST + 2 {
            strays.add(target(0), host(nth), at(9_000), at(nth as u64));
        }
        let due = strays.take_due(at(5_000));
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].1.len(), MOST);
        assert!(!due[0].1.contains(&host(0)) && !due[0].1.contains(&host(1)));
    }
}
