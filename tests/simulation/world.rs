//! The world around the decider: members that die, hang and return, a network with an uplink that
//! fails, clients, operators. It answers probes as such a network would, in steps, so that an
//! outage can begin or end at any moment of one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use twinpool::health::readiness::{Mode, Takes};
use twinpool::health::{Answer, Evidence, Failure, OwnFault, ProbeOutcome};
use twinpool::pairing::{Decider, Order, Output};
use twinpool::time::Time;
use twinpool::topology::{MemberId, TargetId, Topology};

use crate::checks::Checks;
use crate::fleet::{Rng, fleet};

/// How a target really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Well,
    /// The process died: its host refuses.
    Dead,
    /// The host vanished.
    Cut,
    /// It accepts and says nothing.
    Hung,
    /// It says 503.
    Sick,
    /// It fails now and then, in whatever way.
    Flaky,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uplink {
    Works,
    /// Somewhere beyond our own link every packet is dropped.
    Drops,
    /// Our own link is down, and the kernel says so.
    Unplugged,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The connection request of a probe arrives.
    Arrive(TargetId, u64),
    /// The answer is sent.
    Reply(TargetId, u64),
    /// The prober gives up.
    GiveUp(TargetId, u64),
    /// A connect of a client is slow or refused.
    Slow(TargetId),
    Refused(TargetId),
    Client,
    Change,
    Recover(MemberId),
    UplinkFails,
    UplinkReturns,
    PathsNoticed,
    Operator,
    Flood(TargetId, u32),
    Restart,
}

/// One run.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) topology: std::sync::Arc<Topology>,
    pub(crate) decider: Decider,
    pub(crate) truth: BTreeMap<TargetId, Truth>,
    pub(crate) uplink: Uplink,
    pub(crate) checks: Checks,
    pub(crate) log: Vec<String>,
    steps: BinaryHeap<Reverse<(Time, u64, Step)>>,
    counter: u64,
    /// Probes that are out: their number, start, and whether the connection stands.
    out: BTreeMap<TargetId, (u64, Time, bool)>,
    rng: Rng,
    /// Which misfortunes this seed knows.
    outages: bool,
    floods: bool,
    seed: u64,
    telling: Telling,
}

/// What becomes of the story of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    Nothing,
    Kept,
    Aloud,
}

/// How long a run lasts.
const LENGTH: Duration = Duration::from_secs(45);
/// Nothing new happens in the last part, so that the end can be judged.
const CALM: Duration = Duration::from_secs(15);

pub(crate) fn run(seed: u64, telling: Telling) -> World {
    let mut world = World::new(seed, telling);
    world.drain();
    let end = world.now + LENGTH;
    loop {
        let step = world.steps.peek().map(|Reverse((at, ..))| *at);
        let due = world.decider.poll_timeout().map(|(at, _)| at);
        let next = step.unwrap_or(Time::FAR).min(due.unwrap_or(Time::FAR));
        if next > end {
            break;
        }
        assert!(
            next >= world.now,
            "time runs backwards: {next:?} at {:?}",
            world.now
        );
        world.now = next;
        if step == Some(next) {
            let Reverse((_, _, step)) = world.steps.pop().unwrap();
            world.take(step);
        } else {
            world.decider.handle_timeout(next);
            let due = world.decider.poll_timeout();
            assert!(due.is_none_or(|(at, _)| at > next), "still due: {due:?}");
        }
        world.drain();
    }
    world
}

impl World {
    fn new(seed: u64, telling: Telling) -> World {
        let mut rng = Rng(seed);
        let topology = std::sync::Arc::new(fleet(&mut rng));
        let now = Time::from_millis(5000);
        let decider = Decider::new(topology.clone(), Default::default(), Vec::new(), seed, now);
        let truth = topology.targets().map(|target| (target, Truth::Well));
        let mut world = World {
            now,
            truth: truth.collect(),
            uplink: Uplink::Works,
            checks: Checks::new(&topology, now),
            log: Vec::new(),
            steps: BinaryHeap::new(),
            counter: 0,
            out: BTreeMap::new(),
            outages: rng.chance(70),
            floods: rng.chance(30),
            rng,
            decider,
            topology,
            seed,
            telling,
        };
        if world.rng.chance(10) {
            world.uplink = Uplink::Drops;
            world.after(Duration::from_millis(3000), Step::UplinkReturns);
        }
        world.after(Duration::from_millis(10), Step::Client);
        for step in [
            Step::Change,
            Step::UplinkFails,
            Step::Operator,
            Step::Restart,
        ] {
            let at = world.rng.millis(100, 15_000);
            world.after(at, step);
        }
        world
    }

    fn calm(&self) -> bool {
        self.now.since(Time::from_millis(5000)) > LENGTH - CALM
    }

    fn after(&mut self, span: Duration, step: Step) {
        self.counter += 1;
        self.steps
            .push(Reverse((self.now + span, self.counter, step)));
    }

    fn note(&mut self, what: impl Fn() -> String) {
        if self.telling != Telling::Nothing {
            let line = format!("{:?} {}", self.now, what());
            if self.telling == Telling::Aloud {
                println!("{line}");
            }
            self.log.push(line);
        }
    }

    /// Takes every output and lets the checks see the moment.
    fn drain(&mut self) {
        while let Some(output) = self.decider.poll_output() {
            if !matches!(output, Output::Probe(_)) {
                self.note(|| format!("{output:?}"));
            }
            if let Output::Probe(target) = output {
                self.counter += 1;
                let probe = self.counter;
                self.out.insert(target, (probe, self.now, false));
                if self.uplink == Uplink::Unplugged {
                    self.after(Duration::ZERO, Step::GiveUp(target, probe));
                } else {
                    let delay = self.rng.millis(0, 3);
                    self.after(delay, Step::Arrive(target, probe));
                    let timeout = self.topology.service(target.service()).check.timeout;
                    self.after(timeout, Step::GiveUp(target, probe));
                }
            }
            self.checks.see(&output, &self.decider, self.now);
        }
        self.checks.moment(&self.decider, self.uplink, self.now);
    }

    fn truth(&self, target: TargetId) -> Truth {
        self.truth[&target]
    }

    fn is_reachable(&self, target: TargetId) -> bool {
        self.uplink == Uplink::Works && self.truth(target) != Truth::Cut
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Arrive(target, probe) => self.arrive(target, probe),
            Step::Reply(target, probe) => self.reply(target, probe),
            Step::GiveUp(target, probe) => self.give_up(target, probe),
            Step::Slow(target) => {
                let evidence = Evidence::Failed(Failure::ConnectTimeout);
                self.decider.handle_evidence(target, evidence, self.now);
            }
            Step::Refused(target) => {
                let evidence = Evidence::Failed(Failure::Refused);
                self.decider.handle_evidence(target, evidence, self.now);
            }
            Step::Client => self.client(),
            Step::Change => self.change(),
            Step::Recover(member) => self.recover(member),
            Step::UplinkFails => self.uplink_fails(),
            Step::UplinkReturns => {
                self.note(|| "uplink returns".to_owned());
                self.uplink = Uplink::Works;
                self.after(Duration::from_millis(20), Step::PathsNoticed);
            }
            Step::PathsNoticed => self.paths_noticed(),
            Step::Operator => self.operator(),
            Step::Flood(target, left) => {
                self.checks.flooded(target, self.now);
                self.take(Step::Slow(target));
                if left > 0 {
                    self.after(Duration::from_millis(5), Step::Flood(target, left - 1));
                }
            }
            Step::Restart => self.restart(),
        }
    }

    // Probes.

    fn awaited(&self, target: TargetId, probe: u64) -> bool {
        self.out.get(&target).is_some_and(|out| out.0 == probe)
    }

    fn arrive(&mut self, target: TargetId, probe: u64) {
        if !self.awaited(target, probe) || !self.is_reachable(target) {
            return;
        }
        match self.truth(target) {
            Truth::Dead => self.answer(target, Answer::Bad(Failure::Refused)),
            Truth::Cut => {}
            Truth::Hung => self.stands(target),
            Truth::Well | Truth::Sick | Truth::Flaky => {
                self.stands(target);
                let think = self.rng.millis(0, 40);
                self.after(think, Step::Reply(target, probe));
            }
        }
    }

    fn stands(&mut self, target: TargetId) {
        if let Some(out) = self.out.get_mut(&target) {
            out.2 = true;
        }
    }

    fn reply(&mut self, target: TargetId, probe: u64) {
        if !self.awaited(target, probe) || !self.is_reachable(target) {
            return;
        }
        if self.rng.below(400) == 0 {
            self.checks.own_fault(target, self.now);
            return self.answer(target, Answer::OwnFault(OwnFault::Descriptors));
        }
        let answer = match self.truth(target) {
            Truth::Well => Answer::Good,
            Truth::Sick => Answer::Bad(Failure::Unavailable),
            Truth::Dead => Answer::Bad(Failure::Closed),
            Truth::Flaky => self.rng.pick(&[
                Answer::Good,
                Answer::Good,
                Answer::Bad(Failure::Closed),
                Answer::Bad(Failure::Refused),
            ]),
            Truth::Cut | Truth::Hung => return,
        };
        self.answer(target, answer);
    }

    fn give_up(&mut self, target: TargetId, probe: u64) {
        if !self.awaited(target, probe) {
            return;
        }
        let stands = self.out[&target].2;
        let answer = match self.uplink {
            Uplink::Unplugged if !stands => Answer::OwnFault(OwnFault::Route),
            _ if stands => Answer::Bad(Failure::NoAnswer),
            _ => Answer::Bad(Failure::ConnectTimeout),
        };
        self.answer(target, answer);
    }

    fn answer(&mut self, target: TargetId, answer: Answer) {
        let Some((_, started, _)) = self.out.remove(&target) else {
            return;
        };
        if answer != Answer::Good {
            self.note(|| format!("{target:?} asked {started:?}: {answer:?}"));
        }
        let outcome = ProbeOutcome {
            answer,
            took: self.now.since(started),
            transcript: String::new(),
        };
        self.decider.handle_probe(target, &outcome, self.now);
    }

    // Clients.

    fn client(&mut self) {
        let every = self.rng.millis(5, 40);
        self.after(every, Step::Client);
        let targets: Vec<TargetId> = self.truth.keys().copied().collect();
        let target = self.rng.pick(&targets);
        if self.decider.readiness(target).takes == Takes::No {
            return;
        }
        if !self.is_reachable(target) {
            self.after(Duration::from_millis(250), Step::Slow(target));
        } else if self.truth(target) == Truth::Dead {
            self.after(Duration::from_millis(2), Step::Refused(target));
        }
    }

    // Misfortunes.

    fn change(&mut self) {
        if self.calm() {
            return;
        }
        let again = self.rng.millis(200, 8000);
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
        for service in &self.topology.pool(member.pool).services {
            let target = member.target(service.id);
            self.truth.insert(target, truth);
            self.checks.changes(target, truth, self.now);
            if only {
                break;
            }
        }
        let back = self.rng.millis(300, 12_000);
        self.after(back, Step::Recover(member));
        if self.floods && self.rng.chance(50) {
            let target = self
                .rng
                .pick(&self.truth.keys().copied().collect::<Vec<_>>());
            self.after(Duration::ZERO, Step::Flood(target, 600));
        }
    }

    fn recover(&mut self, member: MemberId) {
        self.note(|| format!("{member:?} is well"));
        for service in &self.topology.pool(member.pool).services {
            let target = member.target(service.id);
            self.truth.insert(target, Truth::Well);
            self.checks.changes(target, Truth::Well, self.now);
        }
    }

    fn uplink_fails(&mut self) {
        if self.calm() || !self.outages {
            return;
        }
        let lasts = self.rng.millis(20, 10_000);
        let rest = self.rng.millis(4000, 15_000);
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

    fn paths_noticed(&mut self) {
        let unrouted = match self.uplink {
            Uplink::Unplugged => self.members(),
            Uplink::Works | Uplink::Drops => Vec::new(),
        };
        self.decider.handle_paths(&unrouted, self.now);
    }

    // People.

    fn operator(&mut self) {
        if self.calm() {
            for member in self.members() {
                self.order(member, Mode::Ready, false);
            }
            return;
        }
        let again = self.rng.millis(500, 10_000);
        self.after(again, Step::Operator);
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

    fn restart(&mut self) {
        if self.calm() || self.rng.chance(50) {
            return;
        }
        self.note(|| "restart".to_owned());
        self.out.clear();
        let standing = self.checks.stored.clone();
        self.counter += 1;
        let seed = self.seed ^ self.counter;
        self.decider = Decider::new(self.topology.clone(), standing, Vec::new(), seed, self.now);
        self.checks.restarted(self.now);
        let again = self.rng.millis(5000, 20_000);
        self.after(again, Step::Restart);
    }

    fn members(&self) -> Vec<MemberId> {
        let pools = self.topology.pools.iter();
        pools
            .flat_map(|pool| pool.members.iter().map(|member| member.id))
            .collect()
    }
}
