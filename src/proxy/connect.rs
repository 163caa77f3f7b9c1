//! The connect phase: from a client to a member that accepted, within one budget.
//!
//! Attempts go one after the other; a member that does not answer within the hedge delay gets one
//! other tried beside it, and the first to accept serves. Nothing has been sent on the loser, so it
//! is simply closed. What is learnt about members here, and nowhere else, goes to the control
//! thread as evidence; faults of our own side are counted and told, and are evidence of nothing.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::queue;
use super::session::Refused;
use super::worker::{Front, Worker};
use super::{FromWorker, sockets};
use crate::balance::Tried;
use crate::clock;
use crate::dispatch::{Attempt, NoMember};
use crate::health::{Answer, Failure, OwnFault, connect_failure};
use crate::time::Time;

/// Connects a client of `front` to a member; `source` is where it comes from, which a PROXY header
/// may have told.
pub(super) async fn connect(
    worker: &Worker,
    front: &Front,
    client: &TcpStream,
    source: IpAddr,
) -> Result<(TcpStream, Attempt), Refused> {
    let mut phase = Phase::new(worker, front, source, clock::now());
    if worker.is_queueing(front.service.pool) {
        // Nobody overtakes those who wait.
        let attempt = queue::wait(worker, front, client, source, &phase.tried).await?;
        phase.restart(clock::now());
        phase.dial(attempt);
    }
    let mut timer = pin!(sleep_until(Instant::now() + front.connect.hedge));
    loop {
        while phase.first.is_none() {
            match phase.next_attempt() {
                Ok(attempt) => phase.dial(attempt),
                Err(NoMember::AllFull) => {
                    let attempt = queue::wait(worker, front, client, source, &phase.tried).await?;
                    phase.restart(clock::now());
                    phase.dial(attempt);
                }
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
            Step::Connected(stream, attempt) => return Ok((stream, attempt)),
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
    client: IpAddr,
    started: Time,
    tried: Tried,
    made: u32,
    /// The attempt that has been under way for longest.
    first: Option<Dialing>,
    /// The hedge beside it.
    second: Option<Dialing>,
    hedged: bool,
    own_fault: Option<OwnFault>,
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
    fn new(worker: &'a Worker, front: &'a Front, client: IpAddr, now: Time) -> Phase<'a> {
        Phase {
            worker,
            front,
            client,
            started: now,
            tried: Tried::default(),
            made: 0,
            first: None,
            second: None,
            hedged: false,
            own_fault: None,
        }
    }

    /// The budget is for connecting; a wait in the queue has a limit of its own.
    fn restart(&mut self, now: Time) {
        self.started = now;
    }

    /// The next member to try; once all have been tried, those who failed are tried again.
    fn next_attempt(&mut self) -> Result<Attempt, NoMember> {
        if self.made >= self.front.connect.attempts.get() {
            return Err(NoMember::AllTried);
        }
        match self.pick() {
            Err(NoMember::AllTried) if !self.tried.is_empty() => {
                self.tried.clear();
                self.pick()
            }
            other => other,
        }
    }

    fn pick(&self) -> Result<Attempt, NoMember> {
        let (service, lane) = (self.front.service, &self.front.lane);
        let now = clock::now();
        self.worker
            .snapshot()
            .pick(service, self.client, &self.tried, lane, now)
    }

    /// Begins an attempt; it becomes the first, or the hedge beside one.
    fn dial(&mut self, attempt: Attempt) {
        let counters = self.front.counters(self.worker);
        let now = clock::now();
        self.made += 1;
        if self.first.is_some() {
            counters.hedged.add(1);
        } else {
            self.front.hedges.attempt(now);
            if self.made > 1 {
                counters.retried.add(1);
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
                // The verdict may have fallen since the choice: sessions that stood then have
                // been ended, and this one would be forgotten. No byte has passed: try another.
                Ok(()) if self.worker.snapshot().is_down(done.attempt.target()) => {}
                Ok(()) => return Poll::Ready(Step::Connected(done.stream, done.attempt)),
                Err(error) => self.failed(&done.attempt, &error),
            }
            self.close_ranks();
            return Poll::Ready(Step::Failed);
        }
        Poll::Pending
    }

    /// When something is due without news from a socket.
    fn next_alarm(&self) -> Instant {
        let now = clock::now();
        let mut due = self.started + self.front.connect.budget;
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
        let limit = self.attempt_limit();
        let hedge = self.front.connect.hedge;
        let Some(first) = &mut self.first else {
            return !spent;
        };
        let waited = now.since(first.started);
        if waited >= hedge && !first.told {
            first.told = true;
            let target = first.attempt.target();
            self.worker
                .tell(FromWorker::ConnectFailed(target, Failure::ConnectTimeout));
        }
        if spent {
            let open = [self.first.take(), self.second.take()];
            for slow in open.into_iter().flatten() {
                // One begun just before the end of the budget had no time to answer: nothing is
                // proven against its member.
                if now.since(slow.started) >= hedge {
                    self.timed_out(&slow);
                }
            }
            return false;
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

    /// Tries another member beside the slow one, where the service's share of hedges allows it and
    /// there is another.
    fn hedge(&mut self, now: Time) {
        let front = self.front;
        if self.made >= front.connect.attempts.get() || self.worker.is_queueing(front.service.pool)
        {
            return;
        }
        let Ok(attempt) = self.pick() else { return };
        if front.hedges.hedge(now) {
            self.dial(attempt);
        } else {
            front.counters(self.worker).hedges_withheld.add(1);
        }
    }

    /// No attempt alone may spend the whole budget.
    fn attempt_limit(&self) -> Duration {
        let rules = &self.front.connect;
        (rules.budget / rules.attempts.get()).max(rules.hedge)
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
            self.worker
                .tell(FromWorker::ConnectFailed(target, Failure::ConnectTimeout));
        }
        tracing::debug!(address = %slow.attempt.address(), "attempt timed out");
    }

    fn refusal(&self) -> Refused {
        match (self.made, self.own_fault) {
            (0, _) => Refused::NoMember,
            (_, Some(fault)) => Refused::OwnFault(fault),
            (_, None) => Refused::Attempts,
        }
    }
}

impl Dialing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.poll_write_ready(cx))?;
        Poll::Ready(match self.stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        })
    }
}
