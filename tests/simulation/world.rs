//! The world around the decider: members that die, hang and return, sites, a network with an uplink
//! that fails, clients, operators, a disk. It answers probes as such a network would, in steps, so
//! that an outage can begin or end at any moment of one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use twinpool::health::readiness::Takes;
use twinpool::health::{Answer, Evidence, Failure, OwnFault, ProbeOutcome};
use twinpool::pairing::{Decider, Output};
use twinpool::time::Time;
use twinpool::topology::{MemberId, PairId, SiteId, TargetId, Topology};

use crate::checks::Checks;
use crate::disk::File;
use crate::fleet::{Places, Rng, fleet};

/// How a target really is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
pub(crate) enum Step {
    /// The connection request of a probe arrives.
    Arrive(TargetId, u64),
    /// The answer is sent.
    Reply(TargetId, u64),
    /// The prober gives up.
    GiveUp(TargetId, u64),
    /// A connect of a client is slow, gets no answer, or is refused.
    Slow(TargetId, Time),
    TimesOut(TargetId),
    Refused(TargetId),
    Client,
    Change,
    Recover(MemberId),
    SiteFails,
    /// The other one, for so many milliseconds.
    SiteGoes(SiteId, u64),
    Struck(MemberId, Truth),
    UplinkFails,
    UplinkReturns,
    PathsNoticed,
    Operator,
    Resume,
    Flood(TargetId, u32),
    /// The machine that it runs on stands still.
    Suspend,
    Wake {
        /// Whether that was long enough to be noticed.
        gap: bool,
    },
    /// Perhaps.
    Restart,
    Crash,
    /// A write of this life ends.
    Stored(u64, PairId),
    DiskFills,
    DiskEmptied,
}

/// One run.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) topology: Arc<Topology>,
    pub(crate) decider: Decider,
    pub(crate) places: Places,
    pub(crate) targets: Vec<TargetId>,
    /// By target.
    pub(crate) truth: Vec<Truth>,
    pub(crate) uplink: Uplink,
    pub(crate) checks: Checks,
    pub(crate) log: Vec<String>,
    steps: BinaryHeap<Reverse<(Time, u64, Step)>>,
    pub(crate) counter: u64,
    /// By target: the probe that is out, its start, and whether the connection stands.
    pub(crate) out: Vec<Option<Out>>,
    /// By pair.
    pub(crate) files: Vec<File>,
    /// The disk is.
    pub(crate) full: bool,
    /// The instance is suspended, and has missed this.
    pub(crate) asleep: bool,
    pub(crate) missed: Vec<Step>,
    /// Counts the restarts.
    pub(crate) life: u64,
    pub(crate) rng: Rng,
    /// Which misfortunes this seed knows.
    pub(crate) outages: bool,
    pub(crate) floods: bool,
    pub(crate) suspends: bool,
    /// How long members are left in peace at most, and clients, in milliseconds.
    pub(crate) unrest: u64,
    pause: u64,
    pub(crate) seed: u64,
    telling: Telling,
}

/// A probe that is out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    number: u64,
    started: Time,
    stands: bool,
}

/// What becomes of the story of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    Nothing,
    Kept,
    Aloud,
}

/// When a run begins.
const START: Time = Time::from_millis(5000);
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
        let step = step.unwrap_or(Time::FAR);
        let due = world.decider.poll_timeout().map(|(at, _)| at);
        let due = due.filter(|_| !world.asleep).unwrap_or(Time::FAR);
        if step.min(due) > end {
            break;
        }
        // What became due during a suspend is done after it, in whatever order.
        let overdue = due < world.now && step == world.now && world.rng.chance(50);
        if step <= due || overdue {
            world.now = step;
            let Reverse((_, _, step)) = world.steps.pop().unwrap();
            if world.asleep && step.needs_instance() {
                world.missed.push(step);
                continue;
            }
            world.take(step);
        } else {
            world.now = due.max(world.now);
            world.decider.handle_timeout(world.now);
            let next = world.decider.poll_timeout();
            let still = next.is_some_and(|(at, _)| at <= world.now);
            assert!(!still, "still due: {next:?}");
        }
        if !world.asleep {
            world.drain();
        }
    }
    world
}

impl Step {
    /// Whether it happens within the instance, and not while that is suspended.
    fn needs_instance(&self) -> bool {
        match self {
            Step::Arrive(..)
            | Step::Reply(..)
            | Step::GiveUp(..)
            | Step::Slow(..)
            | Step::TimesOut(_)
            | Step::Refused(_)
            | Step::Client
            | Step::PathsNoticed
            | Step::Operator
            | Step::Resume
            | Step::Flood(..)
            | Step::Restart
            | Step::Crash
            | Step::Stored(..) => true,
            Step::Change
            | Step::Recover(_)
            | Step::SiteFails
            | Step::SiteGoes(..)
            | Step::Struck(..)
            | Step::UplinkFails
            | Step::UplinkReturns
            | Step::DiskFills
            | Step::DiskEmptied
            | Step::Suspend
            | Step::Wake { .. } => false,
        }
    }
}

impl World {
    fn new(seed: u64, telling: Telling) -> World {
        let mut rng = Rng(seed);
        let topology = Arc::new(fleet(&mut rng));
        let now = START;
        let decider = Decider::new(topology.clone(), Default::default(), Vec::new(), seed, now);
        let targets: Vec<TargetId> = topology.targets().collect();
        let mut world = World {
            now,
            places: Places::new(&topology),
            truth: vec![Truth::Well; targets.len()],
            out: vec![None; targets.len()],
            files: vec![File::default(); topology.pairs.len()],
            full: false,
            asleep: false,
            missed: Vec::new(),
            life: 0,
            uplink: Uplink::Works,
            checks: Checks::new(&topology, &decider, now),
            log: Vec::new(),
            steps: BinaryHeap::new(),
            counter: 0,
            outages: rng.chance(70),
            floods: rng.chance(30),
            suspends: rng.chance(20),
            unrest: rng.pick(&[8000, 8000, 20_000, 60_000]),
            pause: rng.pick(&[50, 150, 400]),
            rng,
            decider,
            topology,
            targets,
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
            Step::SiteFails,
            Step::DiskFills,
            Step::Suspend,
        ] {
            let at = world.rng.millis(100, 15_000);
            world.after(at, step);
        }
        world
    }

    pub(crate) fn calm(&self) -> bool {
        self.now.since(START) > LENGTH - CALM
    }

    pub(crate) fn after(&mut self, span: Duration, step: Step) {
        self.counter += 1;
        self.steps
            .push(Reverse((self.now + span, self.counter, step)));
    }

    pub(crate) fn note(&mut self, what: impl Fn() -> String) {
        if self.telling != Telling::Nothing {
            let line = format!("{:?} {}", self.now, what());
            if self.telling == Telling::Aloud {
                println!("{line}");
            }
            self.log.push(line);
        }
    }

    /// Takes every output and lets the checks see the moment.
    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.decider.poll_output() {
            if !matches!(output, Output::Probe(_)) {
                self.note(|| format!("{output:?}"));
            }
            if let Output::Store(pair, record) = &output {
                self.store(*pair, record);
            }
            if let Output::Probe(target) = output {
                self.counter += 1;
                let probe = self.counter;
                self.out[self.places.of(target)] = Some(Out {
                    number: probe,
                    started: self.now,
                    stands: false,
                });
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
        if self.checks.moment(&self.decider, self.uplink, self.now) {
            self.disk_is_not_behind();
        }
    }

    fn truth(&self, target: TargetId) -> Truth {
        self.truth[self.places.of(target)]
    }

    fn is_reachable(&self, target: TargetId) -> bool {
        self.uplink == Uplink::Works && self.truth(target) != Truth::Cut
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Arrive(target, probe) => self.arrive(target, probe),
            Step::Reply(target, probe) => self.reply(target, probe),
            Step::GiveUp(target, probe) => self.give_up(target, probe),
            Step::Slow(target, began) => {
                let evidence = Evidence::Slow(began);
                self.decider.handle_evidence(target, evidence, self.now);
            }
            Step::TimesOut(target) => {
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
            Step::UplinkReturns => self.uplink_returns(),
            Step::PathsNoticed => self.paths_noticed(),
            Step::SiteFails => self.site_fails(),
            Step::SiteGoes(site, millis) => self.lose(site, Duration::from_millis(millis)),
            Step::Struck(member, truth) => self.struck(member, truth),
            Step::Operator => self.operator(),
            Step::Resume => self.resume(),
            Step::Flood(target, left) => {
                self.checks.flooded(target, self.now);
                self.take(Step::TimesOut(target));
                if left > 0 {
                    self.after(Duration::from_millis(15), Step::Flood(target, left - 1));
                }
            }
            Step::Suspend => self.suspend(),
            Step::Wake { gap } => self.wake(gap),
            Step::Restart => self.restart(),
            Step::Crash => self.crash(),
            Step::Stored(life, pair) => self.stored(life, pair),
            Step::DiskFills => self.disk_fills(),
            Step::DiskEmptied => self.disk_emptied(),
        }
    }

    // Probes.

    fn awaited(&self, target: TargetId, probe: u64) -> bool {
        self.out[self.places.of(target)].is_some_and(|out| out.number == probe)
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
        if let Some(out) = &mut self.out[self.places.of(target)] {
            out.stands = true;
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
        let stands = self.out[self.places.of(target)].is_some_and(|out| out.stands);
        let answer = match self.uplink {
            Uplink::Unplugged if !stands => Answer::OwnFault(OwnFault::Route),
            _ if stands => Answer::Bad(Failure::NoAnswer),
            _ => Answer::Bad(Failure::ConnectTimeout),
        };
        self.answer(target, answer);
    }

    fn answer(&mut self, target: TargetId, answer: Answer) {
        let Some(Out { started, .. }) = self.out[self.places.of(target)].take() else {
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
        self.checks.answered(target, self.now);
        self.decider.handle_probe(target, &outcome, self.now);
    }

    // Clients.

    fn client(&mut self) {
        let every = self.rng.millis(self.pause / 8, self.pause);
        self.after(every, Step::Client);
        let target = self.rng.pick(&self.targets);
        if self.decider.readiness(target).takes == Takes::No {
            return;
        }
        if !self.is_reachable(target) {
            self.after(Duration::from_millis(250), Step::Slow(target, self.now));
            self.after(Duration::from_secs(1), Step::TimesOut(target));
        } else if self.truth(target) == Truth::Dead {
            self.after(Duration::from_millis(2), Step::Refused(target));
        }
    }

    pub(crate) fn members(&self) -> Vec<MemberId> {
        let pools = self.topology.pools.iter();
        pools
            .flat_map(|pool| pool.members.iter().map(|member| member.id))
            .collect()
    }
}
