//! The hub: the control thread's state, and the one place where decisions become deeds.
//!
//! Everything here runs on one thread, so state is in cells and nothing waits for a lock. Whatever
//! comes in goes to the decider with the moment it came; [`Hub::turn`] then takes every output,
//! publishes one snapshot if routing changed, and only then has sessions ended, so that nobody who
//! reconnects meets the old routes.

mod names;
mod room;
mod start;
mod telling;
mod workers;

pub(super) use room::{flows_wanted, room};
pub(super) use start::Beginning;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, RwLock, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::era::Era;
use super::handover::{Estate, Led, Standing};
use super::journal::Journal;
use super::keeper::Keeper;
use super::logs::Logs;
use super::memory::Remembered;
use super::pairs::Pairs;
use super::records::Stored;
use super::reload::Prepared;
use super::resolver::{Resolved, Resolver};
use super::service_manager::ServiceManager;
use super::strays::Strays;
use crate::clock;
use crate::control::socket::Claim;
use crate::dispatch::addresses::AddressBook;
use crate::health::runner::Runner;
use crate::health::{Answer, Evidence, Failure, OwnFault, ProbeOutcome, Severity};
use crate::log;
use crate::observe::counters::OwnFaultCounters;
use crate::observe::events::Events;
use crate::observe::measures::Transitions;
use crate::observe::onset::Onsets;
use crate::observe::reloads::Reloads;
use crate::observe::serve::ServerCounters;
use crate::observe::shortage::Shortages;
use crate::observe::stamp::Clock;
use crate::observe::view::RunState;
use crate::pairing::{Decider, Order, Output, Refusal};
use crate::proxy::{FromWorker, ToWorker, Which};
use crate::time::Time;
use crate::topology::{TargetId, Topology};
use workers::Worker;

/// How often an idle loop looks after workers that did not take a message.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// More endings at one moment are told as one: a worker looks at all of its sessions for each.
const MANY_ENDINGS: usize = 16;
/// How often a draining instance looks whether its sessions are gone.
const LOOK_EMPTY: Duration = Duration::from_millis(50);

/// The control thread's state.
pub(super) struct Hub {
    era: RefCell<Rc<Era>>,
    pub(super) decider: RefCell<Decider>,
    pub(super) book: RefCell<AddressBook>,
    pub(super) runner: Runner,
    pub(super) events: RefCell<Events>,
    pub(super) keeper: Keeper,
    pub(super) journal: Journal,
    pub(super) logs: Logs,
    pub(super) pairs: Pairs,
    pub(super) state: Cell<RunState>,
    pub(super) started: Time,
    /// Faults of our own that probes met; what workers met, they count.
    pub(super) own_faults: OwnFaultCounters,
    pub(super) shortages: RefCell<Shortages>,
    pub(super) transitions: RefCell<Transitions>,
    pub(super) onsets: RefCell<Onsets>,
    pub(super) observe_counters: Rc<ServerCounters>,
    pub(super) control_counters: Rc<ServerCounters>,
    pub(super) manager: ServiceManager,
    observe_address: Option<SocketAddr>,
    /// What came in last, until it is dealt with.
    held: RefCell<Option<Input>>,
    /// Rounds of the control loop.
    rounds: Cell<u64>,
    workers: RefCell<Vec<Worker>>,
    /// Something was decided outside the loop: its timer must be set anew.
    nudge: Notify,
    /// Addresses whose routes are watched.
    watched: watch::Sender<Vec<IpAddr>>,
    faults_told: RefCell<Vec<(OwnFault, Time)>>,
    /// Held by whoever names things by ids across an `await`; a reload waits for all of them.
    pub(super) commands: RwLock<()>,
    pub(super) prepared: mpsc::Sender<Box<Prepared>>,
    pub(super) reloads: RefCell<Reloads>,
    pub(super) strays: RefCell<Strays>,
    /// The control socket that the command line gave, where it did.
    pub(super) socket_by_hand: Option<PathBuf>,
    /// Whether nothing is decided, because another process is about to serve, or does.
    still: watch::Sender<bool>,
    pub(super) estate: Estate,
    /// The file of the control socket.
    pub(super) claim: Rc<Claim>,
    /// The HTTP server and that of the control socket.
    pub(super) servers: RefCell<Vec<AbortHandle>>,
    /// Earlier processes that drain by what this one decides.
    pub(super) led: Led,
}

/// What the control loop waits for.
pub(super) struct Inputs {
    pub(super) answers: mpsc::Receiver<(TargetId, ProbeOutcome)>,
    reports: mpsc::Receiver<FromWorker>,
    pub(super) names: mpsc::Receiver<Resolved>,
    paths: mpsc::Receiver<Vec<IpAddr>>,
    pub(super) stored: mpsc::Receiver<Stored>,
    /// Configurations that are to be put in force.
    prepared: mpsc::Receiver<Box<Prepared>>,
    pub(super) resolver: Resolver,
    /// What it looks up.
    pub(super) resolved: Vec<String>,
}

enum Input {
    Answer(TargetId, ProbeOutcome),
    Report(FromWorker),
    Name(Resolved),
    Paths(Vec<IpAddr>),
    Stored(Stored),
    Prepared(Box<Prepared>),
    Due,
}

impl Hub {
    /// What is in force until the next reload.
    pub(super) fn era(&self) -> Rc<Era> {
        self.era.borrow().clone()
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        self.era.borrow().topology.clone()
    }

    pub(super) fn observe_address(&self) -> Option<SocketAddr> {
        self.observe_address
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.era().config.control.socket.clone()
    }

    /// The control loop: one input, one moment, one turn. Never ends; may be dropped and called
    /// again.
    pub(super) async fn run(self: &Rc<Self>, inputs: &mut Inputs) {
        self.turn(clock::now());
        loop {
            let held = self.held.take();
            let input = match held {
                Some(input) => input,
                None => self.next_input(inputs).await,
            };
            // Whoever drops this while it stands still must not lose what came in.
            self.held.replace(Some(input));
            self.goes_on().await;
            let Some(input) = self.held.take() else {
                continue;
            };
            let now = clock::now();
            match input {
                Input::Prepared(prepared) => self.switch(*prepared, inputs, now),
                input => self.handle(input, now),
            }
            // Pairs move together when a site is lost: one snapshot for what is in force by now.
            while let Ok(stored) = inputs.stored.try_recv() {
                self.stored(stored, now);
            }
            self.turn(now);
            self.check_disk(now);
            self.count_round();
        }
    }

    /// How often the control loop has gone round, then each worker.
    pub(super) fn rounds(&self) -> Vec<u64> {
        let era = self.era();
        let workers = era.counters.iter().map(|worker| worker.rounds.get());
        std::iter::once(self.rounds.get()).chain(workers).collect()
    }

    /// Has the control loop go round, whatever there is to do.
    pub(super) fn go_round(&self) {
        self.nudge.notify_one();
    }

    async fn next_input(&self, inputs: &mut Inputs) -> Input {
        let due = self.decider.borrow().poll_timeout().map(|(due, _)| due);
        let strays = self.strays.borrow().next();
        let due = due.into_iter().chain(self.next_slice()).chain(strays);
        let due = due.chain(self.led.due()).min();
        let wait = due.map_or(LOOK_AFTER, |due| clock::now().until(due).min(LOOK_AFTER));
        let timer = sleep_until(Instant::now() + wait);
        tokio::select! {
            Some((target, outcome)) = inputs.answers.recv() => Input::Answer(target, outcome),
            Some(report) = inputs.reports.recv() => Input::Report(report),
            Some(resolved) = inputs.names.recv() => Input::Name(resolved),
            Some(unrouted) = inputs.paths.recv() => Input::Paths(unrouted),
            Some(stored) = inputs.stored.recv() => Input::Stored(stored),
            Some(prepared) = inputs.prepared.recv() => Input::Prepared(prepared),
            () = self.nudge.notified() => Input::Due,
            () = timer => Input::Due,
        }
    }
    fn handle(self: &Rc<Self>, input: Input, now: Time) {
        match input {
            Input::Answer(target, outcome) => self.answered(target, &outcome, now),
            // What a worker saw under an earlier topology names others by now.
            Input::Report(
                FromWorker::ConnectFailed { epoch, .. } | FromWorker::ConnectSlow { epoch, .. },
            ) if epoch != self.era().epoch => {}
            Input::Report(FromWorker::ConnectFailed {
                target, failure, ..
            }) => {
                let evidence = Evidence::Failed(failure);
                self.decider
                    .borrow_mut()
                    .handle_evidence(target, evidence, now);
            }
            Input::Report(FromWorker::ConnectSlow { target, since, .. }) => {
                self.decider
                    .borrow_mut()
                    .handle_evidence(target, Evidence::Slow(since), now);
            }
            Input::Report(FromWorker::OwnFault(fault)) => self.tell_fault(fault, now),
            Input::Name((name, answer)) => self.resolved(&name, answer),
            Input::Paths(unrouted) => {
                let members = self.book.borrow().members_only_at(&unrouted);
                self.decider.borrow_mut().handle_paths(&members, now);
            }
            Input::Stored(stored) => self.stored(stored, now),
            Input::Due => self.decider.borrow_mut().handle_timeout(now),
            // Taken by the loop itself.
            Input::Prepared(_) => {}
        }
    }

    /// A probe came back. One that found nobody may have asked the wrong one of several addresses.
    pub(super) fn answered(&self, target: TargetId, outcome: &ProbeOutcome, now: Time) {
        self.decider.borrow_mut().handle_probe(target, outcome, now);
        if let Answer::OwnFault(fault) = outcome.answer {
            // A name without an address is no lack of ours; it is told of the member.
            if fault != OwnFault::Name {
                self.own_faults.of(fault).add(1);
            }
            self.tell_fault(fault, now);
        }
        let nobody = |failure: Failure| failure.severity() == Severity::Hard;
        if matches!(outcome.answer, Answer::Bad(failure) if nobody(failure))
            && self.book.borrow_mut().rotate(target).is_some()
        {
            self.readdress();
        }
    }

    /// What holds from now on.
    pub(super) fn begin_era(&self, era: Rc<Era>) {
        self.era.replace(era);
    }

    /// Takes every output of the decider: deeds in order, one snapshot, then endings.
    pub(super) fn turn(&self, now: Time) {
        let mut endings = Vec::new();
        let mut publish = false;
        while let Some(output) = self.next_output() {
            match output {
                Output::Probe(target) => {
                    self.runner.ask(target, self.book.borrow().current(target));
                }
                Output::End {
                    member, service, ..
                } => {
                    // Who is ended must not be given another by a connect that is under way.
                    publish = true;
                    endings.push((member, service));
                }
                Output::Tell(event) => self.tell(&event, now),
                Output::Publish => publish = true,
                Output::Remember => self.keeper.keep(self.remembered(now)),
                Output::Store(pair, record) => self.store(pair, &record, now),
                Output::Clear { home, off, from } => {
                    self.clear(home, off, from, now);
                    self.led.clear(home, off, from);
                }
            }
        }
        if publish {
            self.publish();
        }
        let all_down = endings.len() > MANY_ENDINGS;
        if all_down {
            self.tell_workers(&ToWorker::End(Which::Down));
        } else {
            for &(member, service) in &endings {
                self.tell_workers(&ToWorker::End(Which::Member { member, service }));
            }
        }
        let legacy = || self.decider.borrow().legacy();
        self.led.tell(publish, &endings, all_down, now, legacy);
        self.move_on(now);
        self.end_strays(now);
        self.bring_up_to_date();
        self.look(now);
        log::tell_storms(now);
        if self.state.get() == RunState::Starting && self.decider.borrow().settled() {
            self.state.set(RunState::Serving);
        }
    }

    fn next_output(&self) -> Option<Output> {
        self.decider.borrow_mut().poll_output()
    }

    /// Carries out an operator's order and what follows from it.
    pub(super) fn order(&self, order: Order, now: Time) -> Result<(), Refusal> {
        self.decider.borrow_mut().handle_order(order, now)?;
        self.follow(now);
        Ok(())
    }

    /// Does what follows from something that was decided outside the loop.
    pub(super) fn follow(&self, now: Time) {
        if !*self.still.borrow() {
            self.turn(now);
        }
        self.nudge.notify_one();
    }

    // While another process takes over.

    /// Whether another process decides by now.
    pub(super) fn has_handed_over(&self) -> bool {
        self.estate.is_handed_over()
    }

    /// Has nothing decided until [`Hub::go_on`]: neither by the loop nor by commands, and nobody
    /// new is let in to ask for anything.
    pub(super) fn stand_still(&self) {
        self.still.send_replace(true);
    }

    pub(super) fn go_on(&self) {
        self.still.send_replace(false);
        self.nudge.notify_one();
    }

    async fn goes_on(&self) {
        let mut still = self.still.subscribe();
        loop {
            tokio::select! {
                biased;
                // Its sender is in here.
                _ = still.wait_for(|still| !still) => return,
                // It is not stuck: it stands still for as long as it may.
                () = self.nudge.notified() => self.count_round(),
            }
        }
    }

    fn count_round(&self) {
        self.rounds.set(self.rounds.get().wrapping_add(1));
    }

    /// What another process has to know to go on as this one would.
    pub(super) fn standing(&self) -> Box<Standing> {
        let now = clock::now();
        Box::new(Standing {
            legacy: self.decider.borrow().legacy().without_probes(),
            moving: self.moving(now),
        })
    }

    /// Takes what comes in for one that decides nothing: where names are found, and nothing else.
    pub(super) async fn idle(self: &Rc<Self>, inputs: &mut Inputs) {
        tokio::select! {
            Some((name, answer)) = inputs.names.recv() => self.resolved(&name, answer),
            Some(_) = inputs.answers.recv() => {}
            Some(_) = inputs.reports.recv() => {}
            Some(_) = inputs.paths.recv() => {}
            () = self.nudge.notified() => {}
        }
    }

    /// Does what goes on where nothing is decided any more: moves and endings that have begun.
    pub(super) fn carry_on(&self, now: Time) {
        self.count_round();
        self.move_on(now);
        self.end_strays(now);
        self.bring_up_to_date();
        log::tell_storms(now);
    }

    pub(super) fn stop_deadline(&self) -> Duration {
        self.era().config.instance.stop_deadline
    }

    /// Waits until what was ordered last is on disk.
    pub(super) async fn kept(&self) -> Result<(), String> {
        self.keeper.kept().await
    }

    /// Closes the listeners; sessions go on.
    pub(super) fn close(&self) {
        self.state.set(RunState::Draining);
        let open = self.open();
        self.tell_instance(
            format!("stopping: no new sessions, {open} left"),
            clock::now(),
        );
        self.manager.stopping();
        self.tell_workers(&ToWorker::Close);
        self.led.stop();
    }

    /// Resolves once no session is left, nor any process that drains before this one, or the stop
    /// deadline has passed.
    pub(super) async fn emptied(&self) {
        let deadline = Instant::now() + self.stop_deadline();
        let is_empty = || self.open() == 0 && self.led.draining().is_empty();
        while !is_empty() && Instant::now() < deadline {
            sleep(LOOK_EMPTY).await;
        }
    }

    /// Writes the last lines of the logs; after [`Hub::end`].
    pub(super) fn finish_logs(&self) {
        self.logs.finish();
    }

    pub(super) fn remembered(&self, now: Time) -> Remembered {
        let standing = self.decider.borrow().standing();
        Remembered::new(&standing, &self.topology(), clock_at(now))
    }
}

pub(super) fn clock_at(now: Time) -> Clock {
    Clock {
        now,
        wall: clock::wall(),
    }
}
