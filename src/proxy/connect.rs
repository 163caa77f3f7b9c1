//! The connect phase: from a client to a member that accepted, within one budget.
//!
//! Attempts go one after the other; a member that does not answer within the hedge delay gets one
//! other tried beside it, and the first to accept serves. Nothing has been sent on the loser, so it
//! is simply closed. What is learnt about members here, and nowhere else, goes to the control
//! thread as evidence; faults of our own side are counted and told, and are evidence of nothing.
//!
//! Which pool's members are tried is asked of the snapshot before each choice, for the users of a
//! pool may be sent elsewhere meanwhile. Where the two pools of a pair stand in for each other
//! connection by connection (*spill*), the first of them has a share of the budget; when it has
//! accepted nowhere by then, or cannot, the other one has the rest. Members that are merely full,
//! and faults of our own, send nobody there.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::access::Account;
use super::queue;
use super::session::Refused;
use super::worker::{Front, Worker};
use super::{FromWorker, sockets};
use crate::balance::Tried;
use crate::clock;
use crate::dispatch::{Attempt, NoMember, Request};
use crate::health::{Answer, OwnFault, connect_failure};
use crate::time::Time;
use crate::topology::ServiceId;

/// Connects a client of `front` to a member; `source` is where it comes from, which a PROXY header
/// may have told.
pub(super) async fn connect(
    worker: &Worker,
    front: &Front,
    client: &TcpStream,
    source: IpAddr,
    account: &Account,
) -> Result<(TcpStream, Attempt), Refused> {
    let mut phase = Phase::new(worker, front, source, account, clock::now());
    if phase.is_queueing() {
        // Nobody overtakes those who wait.
        phase.queue(client).await?;
    }
    let mut timer = pin!(sleep_until(Instant::now() + front.connect.hedge));
    loop {
        while phase.first.is_none() {
            match phase.next_attempt() {
                Ok(attempt) => phase.dial(attempt),
                Err(NoMember::AllFull) => phase.queue(client).await?,
                Err(_) if phase.turn() => {}
                Err(_) => return Err(phase.refusal()),
            }
        }
        timer.as_mut().reset(phase.next_alarm());
        let event = poll_fn(|cx| {
            if let Poll::Ready(event) = phase.poll(cx) {
                return Poll::Ready(event);
            }
            timer.as_mut().poll(cx).map(|()| Step::Alarm)
        });
        match event.await {
            Step::Connected(stream, attempt) => {
                phase.accepted();
                return Ok((stream, attempt));
            }
            Step::Failed => {}
            Step::Alarm if phase.alarm(clock::now()) => {}
            Step::Alarm => return Err(phase.refusal()),
        }
    }
}

/// The connect phase of one session.
struct Phase<'a> {
    worker: &'a Worker,
    front: &'a Front,
    account: &'a Account,
    client: IpAddr,
    /// The service that serves this client, by the snapshot.
    serving: ServiceId,
    /// The one whose members are tried: `serving`, or the other pool's.
    on: ServiceId,
    leg: Leg,
    started: Time,
    /// When the other pool is tried, where there is one to try.
    turns: Time,
    /// Members of `on`.
    tried: Tried,
    /// Attempts left at `on`.
    left: u32,
    /// Whether there was any attempt, anywhere.
    made: bool,
    /// The attempt that has been under way for longest.
    first: Option<Dialing>,
    /// The hedge beside it.
    second: Option<Dialing>,
    hedged: bool,
    /// Whether a member was passed over because many of a moving pool's users came to it.
    held: bool,
    own_fault: Option<OwnFault>,
}

/// How it came to be tried where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    /// The redirect table sends it there.
    Sent,
    /// It was accepted there a moment ago, and not where it is sent.
    Remembered,
    /// The other pool accepted it nowhere.
    Turned,
}

struct Dialing {
    stream: TcpStream,
    attempt: Attempt,
    started: Time,
    /// Whether its slowness has been told already.
    told: bool,
}

enum Step {
    Connected(TcpStream, Attempt),
    Failed,
    Alarm,
}

impl<'a> Phase<'a> {
    fn new(
        worker: &'a Worker,
        front: &'a Front,
        client: IpAddr,
        account: &'a Account,
        now: Time,
    ) -> Phase<'a> {
        let service = front.service;
        let snapshot = worker.snapshot();
        let serving = snapshot.serving(service, client);
        let spills = worker.spills();
        let remembered = match spills.is_empty() {
            true => None,
            false => snapshot
                .spill(service, serving)
                .filter(|other| spills.find(service.pool, client, now) == Some(other.pool)),
        };
        Phase {
            worker,
            front,
            account,
            client,
            serving,
            on: remembered.unwrap_or(serving),
            leg: remembered.map_or(Leg::Sent, |_| Leg::Remembered),
            started: now,
            turns: now + front.connect.first_share(),
            tried: Tried::default(),
            left: front.connect.attempts.get(),
            made: false,
            first: None,
            second: None,
            hedged: false,
            held: false,
            own_fault: None,
        }
    }

    fn is_queueing(&self) -> bool {
        !self
            .worker
            .line(self.front.service.pool, self.on.pool)
            .is_empty()
    }

    /// Waits for a place and takes it, or turns to the other pool where there is none to wait for.
    async fn queue(&mut self, client: &TcpStream) -> Result<(), Refused> {
        let (worker, front) = (self.worker, self.front);
        let line = worker.line(front.service.pool, self.on.pool);
        self.account.queues();
        let waited = queue::wait(worker, front, line, client, || self.pick()).await?;
        self.account.has_queued();
        // The budget is for connecting; a wait in the queue has a limit of its own.
        self.started = clock::now();
        self.turns = self.started + front.connect.first_share();
        match waited {
            Ok(attempt) => self.dial(attempt),
            Err(_) if self.turn() => {}
            Err(NoMember::NoneUsable) => return Err(Refused::NoMember),
            Err(_) => return Err(Refused::Attempts),
        }
        Ok(())
    }

    /// The next member to try; once all have been tried, those who failed are tried again, unless
    /// there is another pool.
    fn next_attempt(&mut self) -> Result<Attempt, NoMember> {
        self.follow();
        if self.left == 0 {
            return Err(NoMember::AllTried);
        }
        match self.pick() {
            Err(NoMember::AllTried) if !self.tried.is_empty() && self.other().is_none() => {
                self.tried.clear();
                self.pick()
            }
            other => other,
        }
    }

    fn pick(&mut self) -> Result<Attempt, NoMember> {
        self.follow();
        let held = Cell::new(false);
        let request = Request {
            service: self.front.service,
            serving: self.on,
            client: self.client,
            tried: &self.tried,
            lane: &self.front.lane,
            held: &held,
        };
        let picked = self.worker.snapshot().pick(&request, clock::now());
        if held.get() && !std::mem::replace(&mut self.held, true) {
            let home = self.front.service.pool;
            self.worker.counters().home(home).arrivals_held.add(1);
        }
        picked
    }

    /// Begins anew where the snapshot sends this client now, if that is elsewhere.
    fn follow(&mut self) {
        let serving = self
            .worker
            .snapshot()
            .serving(self.front.service, self.client);
        if serving != self.serving {
            self.serving = serving;
            self.begin(serving, Leg::Sent);
            self.turns = clock::now() + self.front.connect.first_share();
        }
    }

    fn begin(&mut self, on: ServiceId, leg: Leg) {
        self.on = on;
        self.leg = leg;
        self.tried.clear();
        self.left = self.front.connect.attempts.get();
        self.hedged = false;
    }

    /// The other pool's service, while a connection that is accepted nowhere here may turn to it.
    fn other(&self) -> Option<ServiceId> {
        if self.own_fault.is_some() {
            return None;
        }
        match self.leg {
            Leg::Sent => self
                .worker
                .snapshot()
                .spill(self.front.service, self.serving),
            Leg::Remembered => Some(self.serving),
            Leg::Turned => None,
        }
    }

    /// Turns to the other pool, once; false where there is none to turn to.
    fn turn(&mut self) -> bool {
        let Some(other) = self.other() else {
            return false;
        };
        if self.leg == Leg::Remembered {
            let home = self.front.service.pool;
            self.worker.spills().forget(home, self.client);
        }
        self.begin(other, Leg::Turned);
        true
    }

    /// A member accepted; one of the other pool's is worth counting, and remembering.
    fn accepted(&self) {
        if self.on == self.serving {
            return;
        }
        let home = self.front.service.pool;
        self.worker.counters().home(home).spilled.add(1);
        if self.leg == Leg::Turned {
            let (spills, now) = (self.worker.spills(), clock::now());
            spills.remember(home, self.client, self.on.pool, now);
        }
    }

    /// Begins an attempt; it becomes the first, or the hedge beside one.
    fn dial(&mut self, attempt: Attempt) {
        let counters = self.front.counters(self.worker);
        let now = clock::now();
        self.left = self.left.saturating_sub(1);
        let again = std::mem::replace(&mut self.made, true);
        if self.first.is_some() {
            counters.hedged.add(1);
            self.account.hedges();
        } else {
            self.front.hedges.attempt(now);
            if again {
                counters.retried.add(1);
                self.account.retries();
            }
        }
        self.tried.add(attempt.target().member().index() as u16);
        match sockets::dial(attempt.address()) {
            Ok(stream) => {
                let dialing = Dialing {
                    stream,
                    attempt,
                    started: now,
                    told: false,
                };
                let slot = if self.first.is_none() {
                    &mut self.first
                } else {
                    &mut self.second
                };
                *slot = Some(dialing);
            }
            Err(error) => self.failed(&attempt, &error),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        for hedge in [false, true] {
            let slot = if hedge {
                &mut self.second
            } else {
                &mut self.first
            };
            let Some(dialing) = slot else { continue };
            let Poll::Ready(result) = dialing.poll(cx) else {
                continue;
            };
            let Some(done) = slot.take() else { continue };
            match result {
                Ok(()) if !self.fits(&done.attempt) => {}
                Ok(()) => return Poll::Ready(Step::Connected(done.stream, done.attempt)),
                Err(error) => self.failed(&done.attempt, &error),
            }
            self.close_ranks();
            return Poll::Ready(Step::Failed);
        }
        Poll::Pending
    }

    /// The verdict may have fallen since the choice, or this client may be sent elsewhere: sessions
    /// that stood then have been ended, and this one would be forgotten. No byte has passed: it
    /// tries another.
    fn fits(&mut self, attempt: &Attempt) -> bool {
        self.follow();
        let target = attempt.target();
        target.pool == self.on.pool && !self.worker.snapshot().is_down(target)
    }

    /// When something is due without news from a socket.
    fn next_alarm(&self) -> Instant {
        let now = clock::now();
        let mut due = self.started + self.front.connect.budget;
        if self.other().is_some() {
            due = due.min(self.turns);
        }
        if let Some(first) = &self.first {
            due = due.min(first.started + self.attempt_limit());
            if !self.hedged {
                due = due.min(first.started + self.front.connect.hedge);
            }
        }
        Instant::now() + now.until(due)
    }

    /// Does what is due; false when the budget is spent.
    fn alarm(&mut self, now: Time) -> bool {
        let spent = now >= self.started + self.front.connect.budget;
        let other = self.other().is_some();
        let limit = self.attempt_limit();
        let hedge = self.front.connect.hedge;
        let Some(first) = &mut self.first else {
            return !spent;
        };
        let waited = now.since(first.started);
        if waited >= hedge && !first.told {
            first.told = true;
            let slow = FromWorker::ConnectSlow(first.attempt.target(), first.overdue(hedge));
            self.worker.tell(slow);
        }
        if spent || other && now >= self.turns {
            self.close_open(now);
            return !spent && self.turn();
        }
        if waited >= limit {
            if let Some(slow) = self.first.take() {
                self.timed_out(&slow);
            }
            self.close_ranks();
        } else if waited >= hedge && !self.hedged {
            self.hedged = true;
            self.hedge(now);
        }
        true
    }

    /// Gives up what is under way.
    fn close_open(&mut self, now: Time) {
        let open = [self.first.take(), self.second.take()];
        for slow in open.into_iter().flatten() {
            // One begun just before had no time to answer: nothing is proven against its member.
            if now.since(slow.started) >= self.front.connect.hedge {
                self.timed_out(&slow);
            }
        }
    }

    /// Tries another member beside the slow one, where the service's share of hedges allows it and
    /// there is another; instead of it, where a client would be sent to another pool for want of
    /// time.
    fn hedge(&mut self, now: Time) {
        let front = self.front;
        if self.left == 0 || self.is_queueing() {
            return;
        }
        let Ok(attempt) = self.pick() else { return };
        if front.hedges.hedge(now) {
            self.dial(attempt);
            return;
        }
        front.counters(self.worker).hedges_withheld.add(1);
        if self.other().is_some() {
            if let Some(slow) = self.first.take() {
                self.timed_out(&slow);
            }
            self.dial(attempt);
        }
    }

    /// No attempt alone may spend the whole budget, where there is no other pool to turn to.
    fn attempt_limit(&self) -> Duration {
        let rules = &self.front.connect;
        let most = match self.other() {
            None => rules.budget / rules.attempts.get(),
            Some(_) => rules.first_share(),
        };
        most.max(rules.hedge)
    }

    fn close_ranks(&mut self) {
        if self.first.is_none() {
            self.first = self.second.take();
        }
    }

    fn failed(&mut self, attempt: &Attempt, error: &io::Error) {
        let target = attempt.target();
        match connect_failure(error) {
            Answer::Bad(failure) => {
                self.worker
                    .counters()
                    .member(target.member())
                    .connect_failed
                    .add(1);
                self.worker.tell(FromWorker::ConnectFailed(target, failure));
            }
            Answer::OwnFault(fault) => {
                self.own_fault = Some(fault);
                self.worker.own_fault(fault);
            }
            Answer::Good => {}
        }
        tracing::debug!(address = %attempt.address(), %error, "attempt failed");
    }

    fn timed_out(&self, slow: &Dialing) {
        let target = slow.attempt.target();
        self.worker
            .counters()
            .member(target.member())
            .connect_timeout
            .add(1);
        if !slow.told {
            let overdue = slow.overdue(self.front.connect.hedge);
            self.worker.tell(FromWorker::ConnectSlow(target, overdue));
        }
        tracing::debug!(address = %slow.attempt.address(), "attempt timed out");
    }

    fn refusal(&self) -> Refused {
        match (self.made, self.own_fault) {
            (false, _) => Refused::NoMember,
            (_, Some(fault)) => Refused::OwnFault(fault),
            (_, None) => Refused::Attempts,
        }
    }
}

impl Dialing {
    /// When it should have been answered: well before another member is tried. An answer that was
    /// lost on the way may have been due until then.
    fn overdue(&self, hedge: Duration) -> Time {
        self.started + hedge / 2
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.poll_write_ready(cx))?;
        Poll::Ready(match self.stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        })
    }
}
