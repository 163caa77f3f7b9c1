//! What befalls members, sites and the uplink.

use std::time::Duration;

use twinpool::topology::{MemberId, PoolId, SiteId};

use crate::world::{Step, Truth, Uplink, World};

impl World {
    // Members.

    pub(crate) fn change(&mut self) {
        if self.calm() {
            return;
        }
        let again = self.rng.millis(self.unrest / 40, self.unrest);
        self.after(again, Step::Change);
        let members = self.members();
        let everyone = self.rng.chance(5);
        let one = self.rng.pick(&members);
        let whole_pool = self.rng.chance(10);
        for member in members {
            if everyone || member == one || (whole_pool && member.pool == one.pool) {
                self.strike(member);
            }
        }
    }

    fn strike(&mut self, member: MemberId) {
        let truth = self.rng.pick(&[
            Truth::Dead,
            Truth::Cut,
            Truth::Cut,
            Truth::Hung,
            Truth::Sick,
            Truth::Flaky,
        ]);
        let only = self.rng.chance(25);
        self.note(|| format!("{member:?} is {truth:?}, one service alone: {only}"));
        self.becomes(member, truth, only);
        let back = self.rng.millis(300, 12_000);
        self.after(back, Step::Recover(member));
        if self.floods && self.rng.chance(50) {
            let target = self.rng.pick(&self.targets);
            self.after(Duration::ZERO, Step::Flood(target, 200));
        }
    }

    pub(crate) fn recover(&mut self, member: MemberId) {
        self.note(|| format!("{member:?} is well"));
        self.becomes(member, Truth::Well, false);
    }

    fn becomes(&mut self, member: MemberId, truth: Truth, only_primary: bool) {
        let topology = self.topology.clone();
        for service in &topology.pool(member.pool).services {
            let target = member.target(service.id);
            self.truth[self.places.of(target)] = truth;
            self.checks.changes(target, truth, self.now);
            if only_primary {
                break;
            }
        }
    }

    // Sites.

    /// A site goes, sometimes the other one with it or soon after, and comes back.
    pub(crate) fn site_fails(&mut self) {
        if self.calm() || self.topology.sites.is_empty() {
            return;
        }
        let lasts = self.rng.millis(2000, 14_000);
        let rest = self.rng.millis(1000, 12_000);
        self.after(lasts + rest, Step::SiteFails);
        let site = SiteId(self.rng.below(2) as u16);
        self.lose(site, lasts);
        if self.rng.chance(25) {
            let other = SiteId(1 - site.0);
            let later = self.rng.pick(&[0, 0, 500, 2000, 6000]);
            let lasts = self.rng.millis(1000, 8000);
            self.after(
                Duration::from_millis(later),
                Step::SiteGoes(other, lasts.as_millis() as u64),
            );
        }
    }

    pub(crate) fn lose(&mut self, site: SiteId, lasts: Duration) {
        let truth = self
            .rng
            .pick(&[Truth::Cut, Truth::Cut, Truth::Dead, Truth::Hung]);
        let at_once = self.rng.chance(70);
        let together = self.rng.chance(50);
        self.note(|| format!("{site:?} is {truth:?} for {lasts:?}"));
        for pool in self.pools_of(site) {
            for member in self.members_of(pool) {
                let after = match at_once {
                    true => Duration::ZERO,
                    false => self.rng.millis(0, 600),
                };
                let back = match together {
                    true => Duration::ZERO,
                    false => self.rng.millis(0, 3000),
                };
                self.after(after, Step::Struck(member, truth));
                self.after(after + lasts + back, Step::Recover(member));
            }
        }
    }

    pub(crate) fn struck(&mut self, member: MemberId, truth: Truth) {
        self.note(|| format!("{member:?} is {truth:?}"));
        self.becomes(member, truth, false);
    }

    fn pools_of(&self, site: SiteId) -> Vec<PoolId> {
        let pools = self.topology.pools.iter();
        let there = pools.filter(|pool| pool.site == Some(site));
        there.map(|pool| pool.id).collect()
    }

    fn members_of(&self, pool: PoolId) -> Vec<MemberId> {
        let members = self.topology.pool(pool).members.iter();
        members.map(|member| member.id).collect()
    }

    // The machine that it runs on.

    pub(crate) fn suspend(&mut self) {
        if self.calm() || !self.suspends {
            return;
        }
        // One in between may pass for either.
        let gap = self.rng.chance(70);
        let lasts = match gap {
            true => self.rng.millis(9000, 15_000),
            false => self.rng.millis(100, 3000),
        };
        self.note(|| format!("suspended for {lasts:?}"));
        self.asleep = true;
        self.after(lasts, Step::Wake { gap });
        let rest = self.rng.millis(5000, 30_000);
        self.after(lasts + rest, Step::Suspend);
    }

    pub(crate) fn wake(&mut self, gap: bool) {
        self.note(|| "awake".to_owned());
        self.asleep = false;
        for step in std::mem::take(&mut self.missed) {
            self.after(Duration::ZERO, step);
        }
        self.checks.woke(self.uplink, gap, self.now);
    }

    // The uplink.

    pub(crate) fn uplink_fails(&mut self) {
        if self.calm() || !self.outages {
            return;
        }
        let lasts = self.rng.millis(20, 10_000);
        let flaps = self.rng.chance(20);
        let rest = match flaps {
            true => self.rng.millis(10, 1000),
            false => self.rng.millis(4000, 15_000),
        };
        self.after(lasts + rest, Step::UplinkFails);
        if self.uplink != Uplink::Works {
            return;
        }
        self.uplink = self
            .rng
            .pick(&[Uplink::Drops, Uplink::Drops, Uplink::Unplugged]);
        let uplink = self.uplink;
        self.note(|| format!("uplink: {uplink:?}"));
        self.after(lasts, Step::UplinkReturns);
        if self.uplink == Uplink::Unplugged {
            let noticed = self.rng.millis(0, 100);
            self.after(noticed, Step::PathsNoticed);
        }
    }

    pub(crate) fn uplink_returns(&mut self) {
        self.note(|| "uplink returns".to_owned());
        self.uplink = Uplink::Works;
        self.after(Duration::from_millis(20), Step::PathsNoticed);
    }

    pub(crate) fn paths_noticed(&mut self) {
        let unrouted = match self.uplink {
            Uplink::Unplugged => self.members(),
            Uplink::Works | Uplink::Drops => Vec::new(),
        };
        self.decider.handle_paths(&unrouted, self.now);
    }
}
