//! One session, from an accepted connection to its end.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::access::SessionLog;
use super::connect::{Connected, connect};
use super::front::{Account, Front};
use super::proxy_header::{self, HEADER_TIMEOUT, HeaderError};
use super::registry::{Arrival, Key, Left, Owner};
use super::relay::{Broken, Carried, Haste, relay, watch_member};
use super::sockets::reset_on_close;
use super::worker::Worker;
use crate::clock;
use crate::dispatch::Attempt;
use crate::health::OwnFault;
use crate::observe::counters::{Lasting, MemberCounters};
use crate::time::Time;
use crate::topology::PoolId;

/// Why a client got no session.
#[derive(Debug)]
pub(super) enum Refused {
    /// No member was usable.
    NoMember,
    /// Its service is gone: the topology in force has none of that name.
    NoService,
    /// Every attempt failed within the budget.
    Attempts,
    /// The queue was full.
    QueueFull,
    /// It waited in the queue for as long as it may.
    QueueTimeout,
    /// It broke off while it waited in the queue.
    LeftQueue,
    /// A fault of our own.
    OwnFault(OwnFault),
    /// Its source must send a PROXY header and did not send a good one.
    Header(HeaderError),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NoMember => f.write_str("no member is usable"),
            Refused::NoService => f.write_str("its service is gone"),
            Refused::Attempts => f.write_str("every attempt failed"),
            Refused::QueueFull => f.write_str("the queue is full"),
            Refused::QueueTimeout => f.write_str("waited in the queue for too long"),
            Refused::LeftQueue => f.write_str("broke off while it waited in the queue"),
            Refused::OwnFault(fault) => fault.fmt(f),
            Refused::Header(error) => write!(f, "PROXY header: {error}"),
        }
    }
}

/// Serves one client. Every way out but the orderly one resets what is open.
pub(super) async fn serve(
    worker: Rc<Worker>,
    front: Rc<Front>,
    client: TcpStream,
    peer: SocketAddr,
) {
    let account = front.account.clone();
    let _open = Open::new(&worker, &account);
    let mut sockets = Sockets::new(client);
    let counters = &account.counters;
    let came = clock::now();
    let listener = || sockets.client.local_addr().ok();
    let log = SessionLog::begin(&worker, front.service, peer, listener);
    // Boxed, so that a session which has been established no longer holds room for it.
    let client = &mut sockets.client;
    let established = establish(&worker, &account, front, client, peer, came, &log);
    match Box::pin(established).await {
        Ok(Established {
            member,
            attempt,
            entry,
            serving,
            peer_timeout,
            haste,
        }) => {
            let reached = clock::now();
            counters.established.add(1);
            counters.waits.observe(reached.since(came));
            serving.sessions.add(1);
            serving.connects.observe(reached.since(attempt.began()));
            let counted = Carried {
                service: counters,
                member: &serving,
                log: &log,
            };
            let member = sockets.member.insert(member);
            let settle = move |member: &TcpStream| watch_member(member, peer_timeout);
            let client = &mut sockets.client;
            match relay(&worker, counted, entry.key, client, member, haste, settle).await {
                Ok(()) => {
                    log.ended_well();
                    sockets.orderly = true;
                }
                Err(broken) => {
                    log.broke(&broken);
                    match &broken {
                        Broken::Client(_) => counters.reset_by_client.add(1),
                        Broken::Member(_) => counters.reset_by_member.add(1),
                        Broken::Idle => counters.ended_idle.add(1),
                        Broken::Told(_) => counters.ended_by_us.add(1),
                    }
                    tracing::debug!(%peer, address = %attempt.address(), %broken, "session ended");
                }
            }
            let lasted = clock::now().since(reached);
            counters.lasted.observe(lasted);
            serving.lasted.observe(lasted);
            let limited = attempt.is_limited();
            let pool = entry.leave();
            drop(attempt);
            if limited && let Some(pool) = pool {
                worker.room(pool);
            }
        }
        Err(refused) => {
            log.refused(&refused);
            match &refused {
                Refused::NoMember | Refused::NoService => counters.refused_no_member.add(1),
                Refused::Attempts => counters.refused_attempts.add(1),
                Refused::QueueFull => counters.refused_queue_full.add(1),
                Refused::QueueTimeout => counters.refused_queue_timeout.add(1),
                Refused::LeftQueue => counters.left_queue.add(1),
                Refused::OwnFault(_) => counters.refused_own_fault.add(1),
                Refused::Header(_) => counters.refused_proxy_header.add(1),
            }
            tracing::debug!(%peer, reason = %refused, "refused");
        }
    }
}

/// A session whose member has accepted.
struct Established<'a> {
    member: TcpStream,
    attempt: Attempt,
    entry: Entry<'a>,
    /// Its member's counters.
    serving: Lasting<MemberCounters>,
    peer_timeout: Duration,
    haste: Haste,
}

/// Everything before the first byte: who the client is, a member that accepted, and a place in the
/// registry, which keeps where it stands from then on.
async fn establish<'a>(
    worker: &'a Worker,
    account: &'a Account,
    mut front: Rc<Front>,
    client: &mut TcpStream,
    peer: SocketAddr,
    mut now: Time,
    log: &SessionLog,
) -> Result<Established<'a>, Refused> {
    worker.renew(&mut front)?;
    let mut source = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut destination = None;
    if front.expects_header_from(source.ip()) {
        log.awaits_header();
        let header = timeout(HEADER_TIMEOUT, proxy_header::read(client))
            .await
            .unwrap_or(Err(HeaderError::Late))
            .map_err(Refused::Header)?;
        now = clock::now();
        if let Some((from, to)) = header {
            source = from;
            log.comes_from(from);
            destination = Some(to);
        }
        worker.renew(&mut front)?;
    }
    log.seeks();
    let (haste, connected) = loop {
        let mut connected = connect(worker, &mut front, client, source.ip(), now, log).await?;
        if !front.sends_header_to(connected.target.pool) {
            break (Haste::Fresh, connected);
        }
        send_header(client, &mut connected.stream, source, destination)
            .await
            .map_err(|error| {
                tracing::debug!(%error, "member did not take the PROXY header");
                Refused::Attempts
            })?;
        if !worker.renew(&mut front)? {
            break (Haste::Begun, connected);
        }
        if let Some(target) = worker.find(&front, source.ip(), &connected.attempt) {
            connected.target = target;
            break (Haste::Begun, connected);
        }
        // Nothing of the client's has passed: it goes where it is sent now.
        now = clock::now();
    };
    let Connected {
        stream,
        target,
        attempt,
    } = connected;
    log.reached(worker, &front, target, &attempt);
    let arrival = Arrival {
        asked: front.service,
        target,
        side: front.side(target.pool),
        address: attempt.address().ip(),
        idle_ticks: front.idle_ticks,
    };
    let entry = poll_fn(|cx| {
        let owner = Owner::Session(cx.waker().clone());
        Poll::Ready(Entry::new(worker, account, arrival, owner))
    });
    Ok(Established {
        member: stream,
        attempt,
        entry: entry.await,
        serving: front.member(target.member()).clone(),
        peer_timeout: front.peer_timeout,
        haste,
    })
}

/// A fresh socket always has room for the header.
async fn send_header(
    client: &TcpStream,
    member: &mut TcpStream,
    source: SocketAddr,
    destination: Option<SocketAddr>,
) -> io::Result<()> {
    let destination = match destination {
        Some(destination) => destination,
        None => client.local_addr()?,
    };
    member
        .write_all(&proxy_header::encode(source, destination))
        .await
}

/// A session's sockets. However the session is left, they close with a reset unless it ended in
/// good order: a cut transfer must not look complete.
struct Sockets {
    client: TcpStream,
    member: Option<TcpStream>,
    orderly: bool,
}

impl Sockets {
    fn new(client: TcpStream) -> Sockets {
        Sockets {
            client,
            member: None,
            orderly: false,
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if !self.orderly {
            reset_on_close(&self.client);
            if let Some(member) = &self.member {
                reset_on_close(member);
            }
        }
    }
}

/// Counts a session as open, and as ended when dropped.
struct Open<'a> {
    worker: &'a Worker,
    account: &'a Account,
}

impl<'a> Open<'a> {
    fn new(worker: &'a Worker, account: &'a Account) -> Open<'a> {
        Open { worker, account }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.worker.closed_one();
        self.account.counters.ended.add(1);
    }
}

/// A session's place in the registry, given back when dropped; counted where it serves the users
/// of a pool with a twin.
struct Entry<'a> {
    worker: &'a Worker,
    account: &'a Account,
    key: Key,
}

impl<'a> Entry<'a> {
    fn new(worker: &'a Worker, account: &'a Account, arrival: Arrival, owner: Owner) -> Entry<'a> {
        account.count_begun(arrival.side);
        Entry {
            worker,
            account,
            key: worker.registry().enter(arrival, worker.tick(), owner),
        }
    }

    /// Gives the place back; says in which pool a member has one more, where that is still there.
    fn leave(self) -> Option<PoolId> {
        let entry = ManuallyDrop::new(self);
        entry.forget().on
    }

    fn forget(&self) -> Left {
        let left = self.worker.registry().leave(self.key);
        self.account.count_over(left.side);
        left
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Whether a client's address lies in one of the nets.
pub(super) fn lies_in(nets: &[ipnet::IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F: Future>(_: impl FnOnce(Rc<Worker>, Rc<Front>, TcpStream, SocketAddr) -> F) -> usize {
        size_of::<F>()
    }

    /// It is most of what an idle session costs.
    #[test]
    fn the_task_of_a_session_takes_less_than_three_quarters_of_a_kib() {
        let size = size(serve);
        assert!(size < 768, "{size}");
    }
}
