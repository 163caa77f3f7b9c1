//! What must hold at every moment of a run, whatever happens in it.

#[path = "checks/truth.rs"]
mod truth;

use std::sync::Arc;
use std::time::Duration;

use twinpool::health::Verdict;
use twinpool::health::readiness::{Mode, Takes, readiness};
use twinpool::pairing::decider::IsolationCause;
use twinpool::pairing::record::{Phase, Record};
use twinpool::pairing::{Condition, Decider, Event, Order, Output, Refusal, Standing};
use twinpool::time::Time;
use twinpool::topology::{MemberId, Policy, Pool, ServiceId, TargetId, Topology};

use crate::counts::Counts;
use crate::fleet::Places;
use crate::redirects::Redirects;
use crate::world::{Truth, Uplink};
use truth::{detection, is_hard, recovery};

/// In how many moments everything is looked at once, whatever came out.
const LOOK_EVERY: u64 = 40;

/// What the driver knows beside the decider.
pub(crate) struct Checks {
    /// What was last asked to be remembered.
    pub(crate) stored: Standing,
    pub(crate) redirects: Redirects,
    topology: Arc<Topology>,
    places: Places,
    /// By target.
    targets: Vec<Seen>,
    /// Last published: who takes what, who is chosen, and conditions.
    published: Published,
    /// By pool, as told.
    conditions: Vec<Option<Condition>>,
    /// Since when the uplink is what it is, and what that is.
    uplink: (Uplink, Time),
    /// When the last outage began that followed another one closely.
    flapped: Option<Time>,
    /// When the last suspend ended.
    woke: Option<Time>,
    /// When our own link was last unplugged.
    unplugged: Option<Time>,
    /// When the last isolation ended.
    isolation_ended: Time,
    isolated_since: Option<Time>,
    started: Time,
    /// The longest that anything takes until it is known.
    longest: Duration,
    /// Whether nothing but probes came out since the last look.
    quiet: bool,
    /// By pool: whether anything was told of it since the last look.
    touched: Vec<bool>,
    moments: u64,
    /// For a look at what the runs contain.
    pub(crate) counts: Counts,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Published {
    takes: Vec<(Takes, bool)>,
    first: Vec<Option<MemberId>>,
    conditions: Vec<Condition>,
    phases: Vec<Phase>,
}

#[derive(Clone, Debug)]
struct Seen {
    id: TargetId,
    truth: Truth,
    truth_since: Time,
    /// When it was last not answering, for whatever reason of its own.
    last_hard: Option<Time>,
    verdict: Verdict,
    /// It was given up though it was well, as nobody could have known.
    excused: bool,
    asked: Option<Time>,
    last_own_fault: Time,
    last_flood: Option<Time>,
    /// The longest from its first silence to `down`, and from its first good answer to `up`.
    detection: Duration,
    recovery: Duration,
}

impl Checks {
    pub(crate) fn new(topology: &Arc<Topology>, decider: &Decider, now: Time) -> Checks {
        let seen = |target| Seen {
            id: target,
            truth: Truth::Well,
            truth_since: now,
            last_hard: None,
            verdict: Verdict::Unknown,
            excused: false,
            asked: None,
            last_own_fault: Time::ZERO,
            last_flood: None,
            detection: detection(topology, target),
            recovery: recovery(topology, target),
        };
        let targets: Vec<Seen> = topology.targets().map(seen).collect();
        let longest = targets.iter().map(|seen| seen.detection.max(seen.recovery));
        Checks {
            stored: Standing::default(),
            redirects: Redirects::new(topology, decider, now),
            places: Places::new(topology),
            longest: longest.max().unwrap(),
            targets,
            topology: topology.clone(),
            published: Published::default(),
            conditions: vec![None; topology.pools.len()],
            uplink: (Uplink::Works, now),
            flapped: None,
            woke: None,
            unplugged: None,
            isolation_ended: now,
            isolated_since: None,
            started: now,
            quiet: false,
            touched: vec![true; topology.pools.len()],
            moments: 0,
            counts: Counts::default(),
        }
    }

    pub(crate) fn restarted(&mut self, found: &[(Record, bool)], decider: &Decider, now: Time) {
        for seen in &mut self.targets {
            seen.verdict = Verdict::Unknown;
            seen.asked = None;
        }
        self.conditions.fill(None);
        self.isolated_since = None;
        self.isolation_ended = now;
        self.started = now;
        self.redirects.restarted(found, decider, now);
    }

    fn seen(&self, target: TargetId) -> &Seen {
        &self.targets[self.places.of(target)]
    }

    fn seen_mut(&mut self, target: TargetId) -> &mut Seen {
        &mut self.targets[self.places.of(target)]
    }

    pub(crate) fn own_fault(&mut self, target: TargetId, now: Time) {
        self.seen_mut(target).last_own_fault = now;
    }

    pub(crate) fn flooded(&mut self, target: TargetId, now: Time) {
        self.seen_mut(target).last_flood = Some(now);
    }

    /// A probe of a target comes back.
    pub(crate) fn answered(&mut self, target: TargetId, now: Time) {
        self.quiet &= !self.redirects.pools.answered(target, now);
    }

    /// A suspend is over: to this instance it was as if its uplink had been away.
    pub(crate) fn woke(&mut self, uplink: Uplink, gap: bool, now: Time) {
        self.uplink = (uplink, now);
        self.unplugged = Some(now);
        self.woke = Some(now);
        self.redirects.woke(gap, now);
    }

    /// A target is something else from now on.
    pub(crate) fn changes(&mut self, target: TargetId, truth: Truth, now: Time) {
        let seen = self.seen_mut(target);
        if is_hard(seen.truth) {
            seen.last_hard = Some(now);
        }
        if truth != seen.truth {
            seen.truth = truth;
            seen.truth_since = now;
        }
    }

    /// One output, before the next.
    pub(crate) fn see(&mut self, output: &Output, decider: &Decider, now: Time) {
        self.quiet &= matches!(output, Output::Probe(_));
        match output {
            Output::Probe(target) => self.asks(*target, now),
            Output::End {
                member,
                service,
                event,
            } => self.ends(*member, *service, event, now),
            Output::Tell(event) => self.tells(event, now),
            Output::Publish => {
                self.published = self.current(decider);
                self.redirects.published();
            }
            Output::Remember => self.stored = decider.standing(),
            Output::Store(pair, record) => {
                for left in self.redirects.store(*pair, record, now) {
                    self.is_truly_lost(decider, left, now);
                }
            }
            Output::Clear { home, off, from } => self.redirects.cleared((*home, *off, *from)),
        }
    }

    fn asks(&mut self, target: TargetId, now: Time) {
        let in_doubt = self.topology.service(target.service()).check.in_doubt;
        if let Some(before) = self.seen_mut(target).asked.replace(now) {
            let gap = now.since(before);
            assert!(gap >= in_doubt / 2, "{target:?} asked again after {gap:?}");
        }
    }

    fn ends(&mut self, member: MemberId, service: Option<ServiceId>, event: &Event, now: Time) {
        self.counts.one("ends of sessions");
        assert!(
            self.isolated_since.is_none(),
            "sessions ended while isolated"
        );
        let Some(service) = service else {
            assert_eq!(*event, Event::Deadline { member });
            return;
        };
        let target = member.target(service);
        assert!(
            self.is_guilty(target, now) || self.is_excused(target, now),
            "sessions of {target:?} ended, which was well"
        );
    }

    fn tells(&mut self, event: &Event, now: Time) {
        match event {
            Event::Verdict { target, .. } => self.touched[target.pool.index()] = true,
            Event::Operator { member, .. } => self.touched[member.pool.index()] = true,
            Event::First { service, .. } => self.touched[service.pool.index()] = true,
            Event::Condition { pool, .. } => self.touched[pool.index()] = true,
            _ => {}
        }
        match event {
            Event::Verdict {
                target, from, to, ..
            } => {
                assert!(
                    self.isolated_since.is_none(),
                    "a verdict changed while isolated"
                );
                let excused = *to == Verdict::Down && self.is_excused(*target, now);
                let seen = self.seen_mut(*target);
                seen.excused = excused;
                assert_eq!(seen.verdict, *from);
                assert_ne!(from, to);
                seen.verdict = *to;
                if *to == Verdict::Down {
                    self.counts.one("members down");
                }
            }
            Event::Condition { pool, from, to, .. } => {
                if let Some(before) = self.conditions[pool.index()].replace(*to) {
                    assert_eq!(before, *from);
                }
                if *to == Condition::Lost {
                    self.counts.one("pools lost");
                    let primary = self.topology.pool(*pool).primary;
                    for member in &self.topology.pool(*pool).members {
                        let asked = self.seen(member.id.target(primary)).asked;
                        assert!(asked.is_some(), "{pool:?} lost before everyone was asked");
                    }
                }
            }
            Event::Isolation { cause: Some(cause) } => {
                self.counts.one("isolations");
                match cause {
                    IsolationCause::ManySilent { pools, members } => {
                        assert!(*pools >= 2 && *members >= 2);
                        self.nobody_was_heard(now);
                    }
                    IsolationCause::PathVanished => {
                        let at = self.unplugged.expect("a link was unplugged");
                        let since = now.since(at);
                        assert!(since <= Duration::from_secs(1), "unplugged {since:?} ago");
                    }
                }
                self.isolated_since.get_or_insert(now);
            }
            Event::Isolation { cause: None } => {
                assert!(self.isolated_since.take().is_some());
                self.isolation_ended = now;
            }
            Event::Deadline { .. } => self.counts.one("deadlines"),
            _ => {}
        }
        self.redirects.told(event, now);
    }

    pub(crate) fn ordered(&mut self, decider: &Decider, order: &Order, done: &Result<(), Refusal>) {
        let pool = self.topology.pool(order.member.pool);
        let present = present(decider, pool);
        match done {
            Ok(()) if order.mode == Mode::Maintenance && !order.force => {
                let need = pool.quorum.to_stay.members;
                let was_lost = self.conditions[pool.id.index()] == Some(Condition::Lost);
                assert!(present >= need || was_lost || decider.condition(pool.id).2 == present);
            }
            Ok(()) => {}
            Err(Refusal::WouldLosePool { remain, need, .. }) => {
                self.counts.one("refused: would lose the pool");
                assert!(order.mode == Mode::Maintenance && !order.force);
                assert!(remain < need && present >= *need && *remain + 1 == present);
            }
        }
    }

    /// A moment, once its outputs are drained.
    /// True when everything was looked at.
    pub(crate) fn moment(&mut self, decider: &Decider, uplink: Uplink, now: Time) -> bool {
        if self.uplink.0 != uplink {
            if uplink != Uplink::Works && now.since(self.uplink.1) <= self.longest {
                self.flapped = Some(now);
            }
            self.uplink = (uplink, now);
        }
        if uplink == Uplink::Unplugged {
            self.unplugged = Some(now);
        }
        // What is derived changes with what is told, and otherwise not; still look now and then.
        self.moments += 1;
        let periodic = self.moments.is_multiple_of(LOOK_EVERY);
        if self.quiet && !periodic {
            return false;
        }
        self.quiet = true;
        self.redirects.moment(decider, now);
        assert_eq!(decider.isolated().is_some(), self.isolated_since.is_some());
        assert_eq!(self.published, self.current(decider), "not published");
        assert_eq!(self.stored, decider.standing(), "not remembered");
        for (pool, touched) in self.topology.pools.iter().zip(&self.touched) {
            if *touched || periodic {
                self.pool_is_consistent(decider, pool);
            }
        }
        self.touched.fill(false);
        self.redirects.look(decider);
        if periodic {
            self.operators_are_obeyed(decider, now);
            for seen in &self.targets {
                self.target_is_judged_in_time(decider, seen, now);
            }
            self.isolation_is_justified(now);
        }
        true
    }

    fn current(&self, decider: &Decider) -> Published {
        let takes = self.topology.targets().map(|target| {
            let readiness = decider.readiness(target);
            (readiness.takes, readiness.keeps)
        });
        let services = self.topology.pools.iter().flat_map(|pool| &pool.services);
        let pools = self.topology.pools.iter();
        Published {
            takes: takes.collect(),
            first: services.map(|service| decider.first(service.id)).collect(),
            conditions: pools
                .clone()
                .map(|pool| decider.condition(pool.id).0)
                .collect(),
            phases: pools.map(|pool| decider.phase(pool.id)).collect(),
        }
    }

    fn pool_is_consistent(&self, decider: &Decider, pool: &Pool) {
        let (condition, _, counted) = decider.condition(pool.id);
        let present = present(decider, pool);
        assert_eq!(counted, present);
        let primary = |member| decider.explain(TargetId::new(member, pool.primary)).own;
        let mode = |member| {
            decider
                .operator(member)
                .map_or(Mode::Ready, |state| state.mode)
        };
        let need = pool.quorum.to_stay.members;
        let well = pool
            .members
            .iter()
            .all(|member| primary(member.id) == Verdict::Up && mode(member.id) == Mode::Ready);
        match condition {
            Condition::Lost => assert!(present < need),
            Condition::Serving => assert!(present >= need),
            Condition::Degraded => assert!(!well || present < need),
        }
        if well && present >= need {
            assert_eq!(condition, Condition::Serving);
        }
        for service in &pool.services {
            let takes = |member: MemberId| decider.readiness(member.target(service.id)).takes;
            let usable = pool
                .members
                .iter()
                .any(|member| takes(member.id) != Takes::No);
            let first = decider.first(service.id);
            assert_eq!(
                first.is_some(),
                service.balance == Policy::First && (usable || first.is_some())
            );
            if let (true, Some(first)) = (usable, first) {
                assert_ne!(takes(first), Takes::No, "{:?} chose nobody", service.id);
            }
            for member in &pool.members {
                let target = member.id.target(service.id);
                let own = decider.explain(target).own;
                let required = service
                    .requires
                    .iter()
                    .map(|&other| decider.explain(member.id.target(other)).own);
                let order = |verdict: &Verdict| match verdict {
                    Verdict::Up => 0,
                    Verdict::Unknown => 1,
                    Verdict::Busy => 2,
                    Verdict::Down => 3,
                };
                let worst = required.chain([own]).max_by_key(order).unwrap();
                assert_eq!(decider.verdict(target).0, worst, "{target:?}");
                assert_eq!(decider.verdict(target).0, self.seen(target).verdict);
                assert_eq!(decider.readiness(target), readiness(worst, mode(member.id)));
            }
        }
    }

    fn operators_are_obeyed(&self, decider: &Decider, now: Time) {
        if decider.poll_timeout().is_some_and(|(at, _)| at < now) {
            // It was suspended, and is about to catch up.
            return;
        }
        for (member, state) in decider.standing().operators {
            assert_ne!(state.mode, Mode::Ready);
            assert!(
                state.until.is_none_or(|until| until >= now),
                "{member:?} has lapsed"
            );
        }
    }
}

fn present(decider: &Decider, pool: &Pool) -> u16 {
    let counted = pool
        .members
        .iter()
        .take(pool.quorum.to_stay.of_first.into());
    let present = counted.filter(|member| {
        let mode = decider
            .operator(member.id)
            .map_or(Mode::Ready, |state| state.mode);
        let own = decider.explain(TargetId::new(member.id, pool.primary)).own;
        mode != Mode::Maintenance && own != Verdict::Down
    });
    present.count() as u16
}
