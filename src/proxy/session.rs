//! One session, from an accepted connection to its end.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::Poll;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::access::Account;
use super::connect::connect;
use super::proxy_header::{self, HEADER_TIMEOUT, HeaderError};
use super::registry::{Key, Owner};
use super::relay::{Broken, Haste, relay, watch_member};
use super::sockets::reset_on_close;
use super::worker::{Front, Worker};
use crate::dispatch::Attempt;
use crate::health::OwnFault;
use crate::topology::PoolId;

/// Why a client got no session.
#[derive(Debug)]
pub(super) enum Refused {
    /// No member was usable.
    NoMember,
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
    let _open = Open::new(&worker, &front);
    let mut sockets = Sockets::new(client);
    let counters = front.counters(&worker);
    let listener = || sockets.client.local_addr().ok();
    let account = Account::begin(&worker, front.service, peer, listener);
    // Boxed, so that a session which has been established no longer holds room for it.
    let established = Box::pin(establish(
        &worker,
        &front,
        &mut sockets.client,
        peer,
        &account,
    ))
    .await;
    match established {
        Ok((member, attempt)) => {
            counters.established.add(1);
            worker
                .counters()
                .member(attempt.target().member())
                .sessions
                .add(1);
            account.reached(&worker, &front, &attempt);
            let member = sockets.member.insert(member);
            let client = &mut sockets.client;
            match carry(&worker, &front, client, member, &attempt, &account).await {
                Ok(()) => {
                    account.ended_well();
                    sockets.orderly = true;
                }
                Err(broken) => {
                    account.broke(&broken);
                    match &broken {
                        Broken::Client(_) => counters.reset_by_client.add(1),
                        Broken::Member(_) => counters.reset_by_member.add(1),
                        Broken::Idle => counters.ended_idle.add(1),
                        Broken::Told(_) => counters.ended_by_us.add(1),
                    }
                    tracing::debug!(%peer, address = %attempt.address(), %broken, "session ended");
                }
            }
            let (limited, pool) = (attempt.is_limited(), attempt.target().pool);
            drop(attempt);
            if limited {
                worker.room(pool);
            }
        }
        Err(refused) => {
            account.refused(&refused);
            match &refused {
                Refused::NoMember => counters.refused_no_member.add(1),
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

/// Everything before the first byte: who the client is, and a member that accepted.
async fn establish(
    worker: &Worker,
    front: &Front,
    client: &mut TcpStream,
    peer: SocketAddr,
    account: &Account,
) -> Result<(TcpStream, Attempt), Refused> {
    let mut source = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut destination = None;
    if front.expects_header_from(source.ip()) {
        account.awaits_header();
        let header = timeout(HEADER_TIMEOUT, proxy_header::read(client))
            .await
            .unwrap_or(Err(HeaderError::Late))
            .map_err(Refused::Header)?;
        if let Some((from, to)) = header {
            source = from;
            account.comes_from(from);
            destination = Some(to);
        }
    }
    account.seeks();
    let (mut member, attempt) = connect(worker, front, client, source.ip(), account).await?;
    if front.sends_header_to(attempt.target().pool) {
        send_header(client, &mut member, source, destination)
            .await
            .map_err(|error| {
                tracing::debug!(%error, "member did not take the PROXY header");
                Refused::Attempts
            })?;
    }
    Ok((member, attempt))
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

/// The relay, with the session in the worker's registry meanwhile.
async fn carry(
    worker: &Worker,
    front: &Front,
    client: &mut TcpStream,
    member: &mut TcpStream,
    attempt: &Attempt,
    account: &Account,
) -> Result<(), Broken> {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let key = worker.registry().enter(
        front.service.pool,
        attempt.target(),
        attempt.address().ip(),
        front.idle_ticks,
        worker.tick(),
        Owner::Session(waker),
    );
    let _entry = Entry::new(worker, front, key, attempt.target().pool);
    let settle = |member: &TcpStream| watch_member(member, front.peer_timeout);
    let haste = match front.sends_header_to(attempt.target().pool) {
        true => Haste::Begun,
        false => Haste::Fresh,
    };
    let counters = front.counters(worker);
    let both = (client, member);
    relay(worker, counters, key, both, haste, account, settle).await
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
    front: &'a Front,
}

impl<'a> Open<'a> {
    fn new(worker: &'a Worker, front: &'a Front) -> Open<'a> {
        Open { worker, front }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.worker.closed_one();
        self.front.counters(self.worker).ended.add(1);
    }
}

/// A session's place in the registry, given back when dropped; counted where it serves the users
/// of a pool with a twin.
struct Entry<'a> {
    worker: &'a Worker,
    front: &'a Front,
    key: Key,
}

impl<'a> Entry<'a> {
    fn new(worker: &'a Worker, front: &'a Front, key: Key, serving: PoolId) -> Entry<'a> {
        front.count_begun(worker, serving);
        Entry { worker, front, key }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let target = self.worker.registry().leave(self.key);
        self.front.count_over(self.worker, target.pool);
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
