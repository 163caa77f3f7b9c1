//! What the access log tells of a session or flow: who came, who served, who ended it and in
//! which phase, what it cost.
//!
//! Where the access log is off a [`SessionLog`] is empty, and each word to it one branch. Where it is
//! on, it is a box of plain numbers that the worker's own thread writes; when it is
//! dropped, however the session was left, what it says is handed to the writer's queue, and looked
//! up, formatted and written there. A full queue costs the line, and is counted.

mod line;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use line::{By, End, Line, Phase, Reached, Way, canonical};

use super::front::Front;
use super::relay::Broken;
use super::session::Refused;
use super::udp;
use super::worker::Worker;
use crate::clock;
use crate::dispatch::Attempt;
use crate::log::access::Sink;
use crate::observe::counters::{Counter, Lasting, WorkerCounters};
use crate::time::Time;
use crate::topology::{ServiceId, TargetId, Topology};

/// What a worker is given for its access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Where lines go.
    pub sink: Sink,
    /// The name of this instance.
    pub instance: Arc<str>,
}

/// Where the sessions of one worker are told.
#[derive(Debug)]
pub(super) struct Access {
    log: AccessLog,
    topology: Arc<Topology>,
    dropped: Lasting<Counter>,
}

/// What is told of a session, while it lives; empty where the access log is off.
#[derive(Debug, Default)]
pub(super) struct SessionLog(Option<Box<Open>>);

/// What one direction carried.
#[derive(Debug, Default)]
pub(super) struct Tally {
    bytes: Cell<u64>,
    /// Its source ended before the other one's did.
    first: Cell<bool>,
}

#[derive(Debug)]
struct Open {
    access: Rc<Access>,
    service: ServiceId,
    client: SocketAddr,
    listener: Option<SocketAddr>,
    wall: SystemTime,
    began: Time,
    source: Cell<Option<SocketAddr>>,
    phase: Cell<Phase>,
    /// When a member was first sought.
    sought: Cell<Option<Time>>,
    /// Since when it waits in the queue.
    queued: Cell<Time>,
    queue: Cell<Duration>,
    reached: RefCell<Option<Reached>>,
    retries: Cell<u32>,
    hedges: Cell<u32>,
    /// From the client, and from the member.
    up: Tally,
    down: Tally,
    end: RefCell<Option<End>>,
}

impl Access {
    /// Names are looked up in `topology`; what finds no room is counted.
    pub(super) fn new(
        log: AccessLog,
        topology: Arc<Topology>,
        counters: &WorkerCounters,
    ) -> Access {
        Access {
            log,
            topology,
            dropped: counters.access_dropped.clone(),
        }
    }
}

impl SessionLog {
    /// That of a client which just came. `listener` is asked only where there is a log.
    pub(super) fn begin(
        worker: &Worker,
        service: ServiceId,
        client: SocketAddr,
        listener: impl FnOnce() -> Option<SocketAddr>,
    ) -> SessionLog {
        let open = worker.access().map(|access| {
            Box::new(Open {
                access,
                service,
                client: canonical(client),
                listener: listener().map(canonical),
                wall: clock::wall(),
                began: clock::now(),
                source: Cell::new(None),
                phase: Cell::new(Phase::Accept),
                sought: Cell::new(None),
                queued: Cell::new(Time::ZERO),
                queue: Cell::new(Duration::ZERO),
                reached: RefCell::new(None),
                retries: Cell::new(0),
                hedges: Cell::new(0),
                up: Tally::default(),
                down: Tally::default(),
                end: RefCell::new(None),
            })
        });
        SessionLog(open)
    }

    /// Whether there is a log.
    pub(super) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Its PROXY header is awaited.
    pub(super) fn awaits_header(&self) {
        if let Some(open) = &self.0 {
            open.phase.set(Phase::Header);
        }
    }

    /// The PROXY header says that it comes from there.
    pub(super) fn comes_from(&self, source: SocketAddr) {
        if let Some(open) = &self.0 {
            open.source.set(Some(source));
        }
    }

    /// A member is sought now.
    pub(super) fn seeks(&self) {
        if let Some(open) = &self.0 {
            open.phase.set(Phase::Connect);
            open.sought.set(Some(clock::now()));
        }
    }

    /// It waits for a member with room.
    pub(super) fn queues(&self) {
        if let Some(open) = &self.0 {
            open.phase.set(Phase::Queue);
            open.queued.set(clock::now());
        }
    }

    /// It waits no longer, and goes on.
    pub(super) fn has_queued(&self) {
        if let Some(open) = &self.0 {
            open.add_wait(clock::now());
            open.phase.set(Phase::Connect);
        }
    }

    /// One more attempt is made.
    pub(super) fn retries(&self) {
        if let Some(open) = &self.0 {
            open.retries.set(open.retries.get() + 1);
        }
    }

    /// An attempt is made beside one that is slow.
    pub(super) fn hedges(&self) {
        if let Some(open) = &self.0 {
            open.hedges.set(open.hedges.get() + 1);
        }
    }

    /// It stands with this member now. `front` is where it came.
    pub(super) fn reached(
        &self,
        worker: &Worker,
        front: &Front,
        target: TargetId,
        attempt: &Attempt,
    ) {
        let Some(open) = &self.0 else { return };
        let home = front.service;
        let snapshot = worker.snapshot();
        let sent_to = snapshot.serving(home, open.source().ip());
        let way = match (target.pool == home.pool, target.service() == sent_to) {
            (_, false) => Way::Spilled,
            (false, true) => Way::Redirected,
            (true, true) => Way::Home,
        };
        open.phase.set(Phase::Relay);
        open.reached.replace(Some(Reached {
            topology: worker.topology(),
            target,
            address: attempt.address(),
            way,
            generation: snapshot.generation(home.pool),
            at: clock::now(),
        }));
    }

    /// Where to count what comes from the client.
    pub(super) fn up(&self) -> Option<&Tally> {
        self.0.as_ref().map(|open| &open.up)
    }

    /// Where to count what comes from the member.
    pub(super) fn down(&self) -> Option<&Tally> {
        self.0.as_ref().map(|open| &open.down)
    }

    /// Both sides ended it in good order.
    pub(super) fn ended_well(&self) {
        self.ends(|open| End {
            by: match open.down.first.get() {
                true => By::Member,
                false => By::Client,
            },
            orderly: true,
            reason: None,
            detail: None,
        });
    }

    /// It broke.
    pub(super) fn broke(&self, broken: &Broken) {
        self.ends(|_| match broken {
            Broken::Client(error) => End::because(By::Client, error),
            Broken::Member(error) => End::because(By::Member, error),
            Broken::Idle => End::by(By::Idle),
            Broken::Told(told) => End::by(By::of(*told)),
        });
    }

    /// It got no member.
    pub(super) fn refused(&self, refused: &Refused) {
        let end = || match refused {
            Refused::NoMember => End::refused("no_member"),
            Refused::NoService => End::refused("no_service"),
            Refused::Attempts => End::refused("attempts"),
            Refused::QueueFull => End::refused("queue_full"),
            Refused::QueueTimeout => End::refused("queue_timeout"),
            Refused::LeftQueue => End {
                by: By::Client,
                ..End::refused("left_queue")
            },
            Refused::OwnFault(fault) => End {
                detail: Some(fault.to_string()),
                ..End::refused("own_fault")
            },
            Refused::Header(error) => End {
                detail: Some(error.to_string()),
                ..End::refused("proxy_header")
            },
        };
        self.ends(|_| end());
    }

    /// The worker holds as many as it may.
    pub(super) fn shed(&self) {
        self.ends(|_| End::by(By::Shed));
    }

    /// No member took a flow.
    pub(super) fn flow_refused(&self, refused: udp::Refused) {
        self.ends(|_| match refused {
            udp::Refused::NoMember | udp::Refused::Full => End::refused("no_member"),
            udp::Refused::Attempts => End::refused("attempts"),
            udp::Refused::OwnFault(fault) => End {
                detail: Some(fault.to_string()),
                ..End::refused("own_fault")
            },
        });
    }

    /// A flow ended.
    pub(super) fn flow_ended(&self, why: udp::Ending) {
        self.ends(|_| match why {
            udp::Ending::Told(told) => End::by(By::of(told)),
            udp::Ending::Idle => End::by(By::Idle),
            udp::Ending::Evicted => End::by(By::Evicted),
            udp::Ending::Refused => End {
                reason: Some("attempts"),
                ..End::by(By::Member)
            },
            udp::Ending::OwnFault => End::by(By::OwnFault),
        });
    }

    fn ends(&self, how: impl FnOnce(&Open) -> End) {
        if let Some(open) = &self.0 {
            *open.end.borrow_mut() = Some(how(open));
        }
    }
}

impl Tally {
    /// So many bytes went through.
    pub(super) fn add(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// Its source has ended, and the other one has not.
    pub(super) fn ended_first(&self) {
        self.first.set(true);
    }
}

impl Open {
    fn source(&self) -> SocketAddr {
        self.source.get().unwrap_or(self.client)
    }

    fn add_wait(&self, now: Time) {
        self.queue
            .set(self.queue.get() + now.since(self.queued.get()));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let now = clock::now();
        if self.phase.get() == Phase::Queue {
            self.add_wait(now);
        }
        let reached = self.reached.take();
        let connect = self.sought.get().map(|sought| {
            let until = reached.as_ref().map_or(now, |reached| reached.at);
            until.since(sought).saturating_sub(self.queue.get())
        });
        // Nobody said how where its task was dropped with the runtime.
        let end = self.end.take().unwrap_or(End::by(By::Stopped));
        let line = Line {
            instance: self.access.log.instance.clone(),
            topology: self.access.topology.clone(),
            service: self.service,
            client: self.client,
            source: self.source.get().filter(|source| *source != self.client),
            listener: self.listener,
            began: self.wall,
            phase: self.phase.get(),
            reached,
            end,
            retries: self.retries.get(),
            hedges: self.hedges.get(),
            bytes_in: self.up.bytes.get(),
            bytes_out: self.down.bytes.get(),
            queue: self.queue.get(),
            connect: connect.unwrap_or_default(),
            total: now.since(self.began),
        };
        if !self.access.log.sink.tell(Box::new(line)) {
            self.access.dropped.add(1);
        }
    }
}
