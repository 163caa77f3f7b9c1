//! People: what they order of members, of pairs and of sites.

use std::time::Duration;

use twinpool::health::readiness::Mode;
use twinpool::pairing::Order;
use twinpool::pairing::pair::{Destination, Move};
use twinpool::pairing::record::Phase;
use twinpool::topology::{MemberId, PairId, PoolId, Side, SiteId};

use crate::world::{Step, World};

impl World {
    pub(crate) fn operator(&mut self) {
        if self.calm() {
            for member in self.members() {
                self.order(member, Mode::Ready, false);
                self.drain();
            }
            return self.resume();
        }
        let again = self.rng.millis(500, 10_000);
        self.after(again, Step::Operator);
        if self.topology.pairs.is_empty() || self.rng.chance(40) {
            return self.order_any_member();
        }
        match self.rng.below(10) {
            0 => self.pause(),
            1 => self.resume(),
            2 => self.order_a_site(),
            _ => self.order_any_pair(),
        }
    }

    fn order_any_member(&mut self) {
        let member = self.rng.pick(&self.members());
        let mode = self
            .rng
            .pick(&[Mode::Drain, Mode::Maintenance, Mode::Ready]);
        let force = self.rng.chance(30);
        self.order(member, mode, force);
    }

    fn order(&mut self, member: MemberId, mode: Mode, force: bool) {
        let until = self
            .rng
            .chance(30)
            .then(|| self.now + self.rng.millis(100, 9000));
        let order = Order {
            member,
            mode,
            by: "ann".to_owned(),
            reason: None,
            until,
            force,
        };
        let done = self.decider.handle_order(order.clone(), self.now);
        self.note(|| format!("{mode:?} {member:?}, force {force}: {done:?}"));
        self.checks.ordered(&self.decider, &order, &done);
    }

    fn order_any_pair(&mut self) {
        let pair = PairId(self.rng.below(self.topology.pairs.len() as u64) as u16);
        let side = self.rng.pick(&Side::BOTH);
        // Mostly what makes sense.
        let to = match self.decider.pair(pair).record().phase(side) {
            Phase::Home => Destination::Twin,
            Phase::Away => Destination::Home,
            Phase::Returning(_) => self.rng.pick(&[Destination::Twin, Destination::Home]),
        };
        let to = match self.rng.chance(10) {
            true => self.rng.pick(&[Destination::Twin, Destination::Home]),
            false => to,
        };
        let (now, force) = (self.rng.chance(40), self.rng.chance(30));
        self.send(pair, side, to, now, force);
    }

    /// All pools of a site, in order, as far as it goes.
    fn order_a_site(&mut self) {
        let site = SiteId(self.rng.below(2) as u16);
        let to = self.rng.pick(&[Destination::Twin, Destination::Home]);
        let (now, force) = (self.rng.chance(40), self.rng.chance(30));
        let mut pools: Vec<PoolId> = Vec::new();
        for pool in &self.topology.pools {
            // Only pools with lower numbers come before another one.
            if pool.site == Some(site) && self.topology.twin(pool.id).is_some() {
                pools.push(pool.id);
            }
        }
        for pool in pools {
            let (pair, side) = self.topology.pair_of(pool).unwrap();
            if !self.send(pair.id, side, to, now, force) {
                break;
            }
            self.drain();
        }
    }

    fn send(&mut self, pair: PairId, side: Side, to: Destination, now: bool, force: bool) -> bool {
        let order = Move {
            side,
            to,
            by: "bob".to_owned(),
            reason: self.rng.chance(50).then(|| "work on the power".to_owned()),
            now,
            force,
        };
        let foreseen = self.decider.foresee(pair, &order, self.now);
        self.checks.redirects.orders(pair, &order);
        let done = self.decider.handle_move(pair, &order, self.now);
        self.note(|| format!("{pair:?} {order:?}: {done:?}"));
        let generation = foreseen.map(|record| record.generation);
        assert_eq!(generation, done, "foreseen otherwise");
        self.checks.redirects.ordered(pair, &order, &done);
        if self.decider.pair(pair).halt().is_some() && self.rng.chance(30) {
            self.after(Duration::ZERO, Step::Resume);
        }
        done.is_ok()
    }

    fn pause(&mut self) {
        self.note(|| "pause".to_owned());
        self.checks.redirects.counts.one("pauses");
        self.decider.handle_pause("eve".to_owned(), None, self.now);
        // Not for ever, or nothing else would happen.
        let resumes = self.rng.millis(500, 6000);
        self.after(resumes, Step::Resume);
    }

    pub(crate) fn resume(&mut self) {
        self.checks.redirects.resumes();
        let done = self.decider.handle_resume("eve".to_owned(), self.now);
        self.note(|| format!("resume: {done:?}"));
        self.checks.redirects.resumed(&done);
        if done.is_err() {
            let again = self.rng.millis(50, 500);
            self.after(again, Step::Resume);
        }
    }
}
