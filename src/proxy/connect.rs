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
//!
//! Another topology may come into force while anything is waited for. Its rules and ids hold from
//! then on ([`Phase::renew`]): members that are still there, and may still be chosen, go on being
//! tried, and others are tried in the stead of those that may not.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::access::SessionLog;
use super::front::Front;
use super::queue::{self, Line};
use super::session::Refused;
use super::worker::Worker;
use super::{FromWorker, sockets, walk};
use crate::clock;
use crate::dispatch::{Attempt, NoMember, Walk};
use crate::health::{Answer, OwnFault, connect_failure};
use crate::time::Time;
use crate::topology::{ServiceId, TargetId};

/// A member that accepted.
pub(super) struct Connected {
    pub(super) stream: TcpStream,
    pub(super) target: TargetId,
    pub(super) attempt: Attempt,
}

/// Connects a client of `front` to a member; `source` is where it comes from, which a PROXY header
/// may have told, `now` when it came to be looked for a member. At the end `front` is the one in
/// force, whose ids name the member.
pub(super) async fn connect(
    worker: &Worker,
    front: &mut Rc<Front>,
    client: &TcpStream,
    source: IpAddr,
    now: Time,
    log: &SessionLog,
) -> Result<Connected, Refused> {
    let hedge = front.connect.hedge;
    let mut phase = Phase::new(worker, front, source, now, log);
    if phase.is_queueing() {
        // Nobody overtakes those who wait.
        phase.queue(client).await?;
    }
    let mut timer = pin!(sleep_until(phase.instant(now + hedge)));
    loop {
        while phase.first.is_none() {
            match phase.next_attempt() {
                Ok((target, attempt)) => phase.dial(target, attempt),
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
            timer.as_mut().poll(cx).map(|()| Ok(Step::Alarm))
        });
        match event.await? {
            Step::Connected(connected) => {
                walk::arrived(worker, phase.front, &phase.walk);
                return Ok(connected);
            }
            Step::Failed | Step::Renewed => {}
            Step::Alarm if phase.alarm(clock::now()) => {}
            Step::Alarm => return Err(phase.refusal()),
        }
    }
}

/// The connect phase of one session. Its ids are those of its front.
pub(super) struct Phase<'a> {
    pub(super) worker: &'a Worker,
    pub(super) front: &'a mut Rc<Front>,
    log: &'a SessionLog,
    walk: Walk,
    started: Time,
    /// When it began, by the clock that decides and by the timer's.
    origin: (Time, Instant),
    /// When it began, until somebody is chosen or waited for: the first choice reads no clock.
    fresh: Option<Time>,
    /// When the other pool is tried, where there is one to try.
    turns: Time,
    /// The attempt that has been under way for longest.
    first: Option<Dialing>,
    /// The hedge beside it.
    second: Option<Dialing>,
    /// Whether it was tried, where the walk is.
    hedged: bool,
    own_fault: Option<OwnFault>,
}

struct Dialing {
    stream: TcpStream,
    target: TargetId,
    attempt: Attempt,
    started: Time,
    /// Whether its slowness has been told already.
    told: bool,
}

enum Step {
    Connected(Connected),
    Failed,
    /// Another topology is in force.
    Renewed,
    Alarm,
}

impl<'a> Phase<'a> {
    fn new(
        worker: &'a Worker,
        front: &'a mut Rc<Front>,
        client: IpAddr,
        now: Time,
        log: &'a SessionLog,
    ) -> Phase<'a> {
        Phase {
            worker,
            log,
            walk: walk::begin(worker, front, client, now),
            started: now,
            origin: (now, Instant::now()),
            fresh: Some(now),
            turns: now + front.connect.first_share(),
            front,
            first: None,
            second: None,
            hedged: false,
            own_fault: None,
        }
    }

    fn is_queueing(&self) -> bool {
        !self.line().is_empty()
    }

    /// Where it waits for members of the pool whose members are tried.
    pub(super) fn line(&self) -> &Rc<Line> {
        self.front.line(self.walk.on().pool)
    }

    /// Goes on under the topology in force; says whether it is another one than before. Members are
    /// tried anew, but for those that are being tried.
    ///
    /// # Errors
    /// When its service is gone.
    pub(super) fn renew(&mut self) -> Result<bool, Refused> {
        if !self.worker.renew(self.front)? {
            return Ok(false);
        }
        let snapshot = self.worker.snapshot();
        let rules = &self.front.connect;
        if self
            .walk
            .renew(&snapshot, self.front.service, rules.attempts)
        {
            self.turns = clock::now() + rules.first_share();
        }
        for slot in [&mut self.first, &mut self.second] {
            let Some(dialing) = slot else { continue };
            match snapshot.find(self.walk.on(), &dialing.attempt) {
                Some(target) => {
                    dialing.target = target;
                    self.walk.attempt(target);
                }
                None => *slot = None,
            }
        }
        drop(snapshot);
        self.close_ranks();
        self.hedged &= self.first.is_some();
        Ok(true)
    }

    /// Waits for a place and takes it, or turns to the other pool where there is none to wait for.
    async fn queue(&mut self, client: &TcpStream) -> Result<(), Refused> {
        self.fresh = None;
        self.log.queues();
        let waited = queue::wait(self, client).await?;
        self.log.has_queued();
        // The budget is for connecting; a wait in the queue has a limit of its own.
        self.started = clock::now();
        self.turns = self.started + self.front.connect.first_share();
        match waited {
            Ok((target, attempt)) => self.dial(target, attempt),
            Err(_) if self.turn() => {}
            Err(NoMember::NoneUsable) => return Err(Refused::NoMember),
            Err(_) => return Err(Refused::Attempts),
        }
        Ok(())
    }

    /// The next member to try; once all have been tried, those who failed are tried again, unless
    /// there is another pool.
    fn next_attempt(&mut self) -> Result<(TargetId, Attempt), NoMember> {
        self.follow();
        if self.walk.is_spent() {
            return Err(NoMember::AllTried);
        }
        match self.pick() {
            Err(NoMember::AllTried) if self.other().is_none() && self.walk.try_again() => {
                self.pick()
            }
            other => other,
        }
    }

    pub(super) fn pick(&mut self) -> Result<(TargetId, Attempt), NoMember> {
        self.follow();
        let now = self.fresh.take().unwrap_or_else(clock::now);
        walk::pick(self.worker, self.front, &mut self.walk, now)
    }

    /// Begins anew where the snapshot sends this client now, if that is elsewhere.
    fn follow(&mut self) {
        if self.walk.follow(&self.worker.snapshot()) {
            self.hedged = false;
            self.turns = clock::now() + self.front.connect.first_share();
        }
    }

    /// The other pool's service, while a connection that is accepted nowhere here may turn to it.
    fn other(&self) -> Option<ServiceId> {
        match self.own_fault {
            None => self.walk.other(&self.worker.snapshot()),
            Some(_) => None,
        }
    }

    /// Turns to the other pool, once; false where there is none to turn to.
    fn turn(&mut self) -> bool {
        let turns = self.own_fault.is_none() && walk::turn(self.worker, self.front, &mut self.walk);
        if turns {
            self.hedged = false;
        }
        turns
    }

    /// Begins an attempt; it becomes the first, or the hedge beside one.
    fn dial(&mut self, target: TargetId, attempt: Attempt) {
        let counters = self.front.counters();
        let now = attempt.began();
        let again = self.walk.attempt(target);
        if self.first.is_some() {
            counters.hedged.add(1);
            self.log.hedges();
        } else {
            self.front.account.hedges.attempt(now);
            if again {
                counters.retried.add(1);
                self.log.retries();
            }
        }
        match sockets::dial(attempt.address()) {
            Ok(stream) => {
                let dialing = Dialing {
                    stream,
                    target,
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
            Err(error) => self.failed(target, &attempt, &error),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, Refused>> {
        if self.renew()? {
            return Poll::Ready(Ok(Step::Renewed));
        }
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
                Ok(()) if !self.fits(done.target) => {}
                Ok(()) => return Poll::Ready(Ok(Step::Connected(done.into()))),
                Err(error) => self.failed(done.target, &done.attempt, &error),
            }
            self.close_ranks();
            return Poll::Ready(Ok(Step::Failed));
        }
        Poll::Pending
    }

    /// The verdict may have fallen since the choice, or this client may be sent elsewhere: sessions
    /// that stood then have been ended, and this one would be forgotten. No byte has passed: it
    /// tries another.
    fn fits(&mut self, target: TargetId) -> bool {
        self.follow();
        target.pool == self.walk.on().pool && !self.worker.snapshot().is_down(target)
    }

    /// When something is due without news from a socket.
    fn next_alarm(&self) -> Instant {
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
        self.instant(due)
    }

    /// A moment by the timer's clock. After a suspend, which that one sleeps through, it is late.
    fn instant(&self, at: Time) -> Instant {
        let (time, instant) = self.origin;
        instant + time.until(at)
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
            let slow = FromWorker::ConnectSlow {
                epoch: self.front.epoch,
                target: first.target,
                since: first.overdue(hedge),
            };
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
        if self.walk.is_spent() || self.is_queueing() {
            return;
        }
        let Ok((target, attempt)) = self.pick() else {
            return;
        };
        if self.front.account.hedges.hedge(now) {
            self.dial(target, attempt);
            return;
        }
        self.front.counters().hedges_withheld.add(1);
        if self.other().is_some() {
            if let Some(slow) = self.first.take() {
                self.timed_out(&slow);
            }
            self.dial(target, attempt);
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

    fn failed(&mut self, target: TargetId, attempt: &Attempt, error: &io::Error) {
        match connect_failure(error) {
            Answer::Bad(failure) => {
                self.front.member(target.member()).connect_failed.add(1);
                self.worker.tell(FromWorker::ConnectFailed {
                    epoch: self.front.epoch,
                    target,
                    failure,
                });
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
        let member = self.front.member(slow.target.member());
        member.connect_timeout.add(1);
        if !slow.told {
            self.worker.tell(FromWorker::ConnectSlow {
                epoch: self.front.epoch,
                target: slow.target,
                since: slow.overdue(self.front.connect.hedge),
            });
        }
        tracing::debug!(address = %slow.attempt.address(), "attempt timed out");
    }

    fn refusal(&self) -> Refused {
        match (self.walk.has_tried(), self.own_fault) {
            (false, _) => Refused::NoMember,
            (_, Some(fault)) => Refused::OwnFault(fault),
            (_, None) => Refused::Attempts,
        }
    }
}

impl From<Dialing> for Connected {
    fn from(done: Dialing) -> Connected {
        Connected {
            stream: done.stream,
            target: done.target,
            attempt: done.attempt,
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
