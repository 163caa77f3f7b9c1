//! Listeners over TCP: who comes in by each, and in front of which service it stands at the moment.
//!
//! A listener is bound once and stays as it is, whatever topologies come: only the front that its
//! next client finds is another one. When it is closed, all who have come by then are let in first.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::access::SessionLog;
use super::front::Front;
use super::listen::Listener;
use super::session::serve;
use super::sockets::{BACKLOG, reset_on_close, watch_peer};
use super::worker::Worker;
use crate::health::{Answer, connect_failure};

/// How long a listener rests after an accept that failed for want of something of our own: long
/// enough not to spin, short enough that nobody notices once there is room again.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// A listener, and the task that accepts who comes.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) address: SocketAddr,
    inside: Rc<RefCell<Inside>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Inside {
    /// None once it is closed.
    listener: Option<TcpListener>,
    front: Rc<Front>,
}

/// A client, where it comes from, and the front that it finds.
type Came = (TcpStream, SocketAddr, Rc<Front>);

impl Door {
    /// Lets clients in, in front of this service.
    pub(super) fn open(
        worker: &Rc<Worker>,
        front: Rc<Front>,
        listener: Listener,
    ) -> io::Result<Door> {
        let address = listener.address;
        let listener = TcpListener::from_std(listener.socket.into())?;
        let inside = Rc::new(RefCell::new(Inside {
            listener: Some(listener),
            front,
        }));
        let task = spawn_local(accept_all(worker.clone(), inside.clone()));
        Ok(Door {
            address,
            inside,
            task,
        })
    }

    /// The front that its next client finds.
    pub(super) fn front(&self) -> Rc<Front> {
        self.inside.borrow().front.clone()
    }

    /// Has the next client find another front.
    pub(super) fn turn_to(&self, front: Rc<Front>) {
        let mut inside = self.inside.borrow_mut();
        // What its clients' sockets inherit.
        if front.peer_timeout != inside.front.peer_timeout
            && let Some(listener) = &inside.listener
            && let Err(error) = watch_peer(listener, front.peer_timeout)
        {
            tracing::warn!(address = %self.address, %error, "a listener keeps its peer timeout");
        }
        inside.front = front;
    }

    /// Its listener once more; none where it is closed.
    pub(super) fn shared(&self) -> Option<io::Result<OwnedFd>> {
        let inside = self.inside.borrow();
        Some(inside.listener.as_ref()?.as_fd().try_clone_to_owned())
    }

    /// Lets those in who wait to be accepted, and nobody after them.
    pub(super) fn close(self, worker: &Rc<Worker>) {
        let (listener, front) = {
            let mut inside = self.inside.borrow_mut();
            (inside.listener.take(), inside.front.clone())
        };
        self.task.abort();
        let Some(listener) = listener else { return };
        if let Err(error) = accept_waiting(worker, &front, listener) {
            tracing::warn!(address = %self.address, %error, "not all who waited were accepted");
        }
    }

    /// Lets nobody in any more.
    pub(super) fn shut(self) {
        self.inside.borrow_mut().listener = None;
        self.task.abort();
    }
}

/// Accepts who has come until nobody waits. More than fit the backlog came while it did so.
fn accept_waiting(worker: &Rc<Worker>, front: &Rc<Front>, listener: TcpListener) -> io::Result<()> {
    let listener = listener.into_std()?;
    for _ in 0..BACKLOG {
        let accepted = listener.accept().and_then(|(client, peer)| {
            client.set_nonblocking(true)?;
            Ok((TcpStream::from_std(client)?, peer))
        });
        match accepted {
            Ok((client, peer)) => worker.admit(front.clone(), client, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                if let Answer::OwnFault(fault) = connect_failure(&error) {
                    worker.own_fault(fault);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Accepts until it is closed. What the kernel lacks for a moment costs a rest, never the listener.
async fn accept_all(worker: Rc<Worker>, inside: Rc<RefCell<Inside>>) {
    loop {
        match poll_fn(|cx| inside.borrow().poll_accept(cx)).await {
            None => return,
            Some(Ok((client, peer, front))) => worker.admit(front, client, peer),
            Some(Err(error)) => {
                if !is_gone(&error)
                    && let Answer::OwnFault(fault) = connect_failure(&error)
                {
                    worker.own_fault(fault);
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    }
}

/// Whether the client was gone before it was accepted (accept(2), "Error handling").
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted
        || !matches!(connect_failure(error), Answer::OwnFault(_))
}

impl Inside {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Came>>> {
        let Some(listener) = &self.listener else {
            return Poll::Ready(None);
        };
        let accepted = ready!(listener.poll_accept(cx));
        Poll::Ready(Some(
            accepted.map(|(client, peer)| (client, peer, self.front.clone())),
        ))
    }
}

impl Worker {
    /// Serves a client, unless there are as many as there may be.
    fn admit(self: &Rc<Self>, front: Rc<Front>, client: TcpStream, peer: SocketAddr) {
        let counters = front.counters();
        counters.accepted.add(1);
        if !self.open_one() {
            counters.shed.add(1);
            counters.ended.add(1);
            let listener = || client.local_addr().ok();
            SessionLog::begin(self, front.service, peer, listener).shed();
            reset_on_close(&client);
            return;
        }
        spawn_local(serve(self.clone(), front, client, peer));
    }
}
