//! Members that answer, die, hang, vanish and return at a word.
//!
//! A member is an HTTP server on a free loopback port. To twinpool its death looks as the death of
//! a process does: the listener is gone and every connection it had is reset, also those it had not
//! accepted yet. A hung one looks as a stopped process does: the kernel still accepts for it, it
//! reads and answers nothing, and what it was sent it reads when it goes on. One that is cut off
//! looks as a host that lost its power: connects to it are met with silence, because its kernel
//! drops what comes while its queue is full, and what it had says nothing any more; when it
//! returns it knows nothing of that.
//!
//! A member remembers the numbers of the requests that reached it. What clients lost is held
//! against that afterwards: only a request that was in a fallen member's hands may be lost.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_local;

use super::wire::{self, LONGEST, Request};

/// Connections that a member holds at once, far more than the demo's clients make; beyond that
/// they wait in the kernel's queue.
const MOST_CONNECTIONS: u32 = 4096;
/// Connections that the kernel keeps for a member that does not accept: a hung one is to look hung,
/// not full.
const BACKLOG: i32 = 1024;
/// Connections that the kernel keeps for a member that is cut off; with one more it is full.
const CUT_BACKLOG: i32 = 1;
/// Connections of our own that fill it, with some to spare.
const PLUGS: usize = 4;
/// What they say, so that they are not taken for clients whose request never came.
const PLUG: &[u8] = b"GET /plug HTTP/1.1\r\n\r\n";
/// Numbers of requests that a member remembers: a story of a minute has some thousands.
const MOST_REMEMBERED: usize = 32 * 1024;
/// How long accepting rests after it failed, for want of descriptors for instance.
const REST: Duration = Duration::from_millis(20);

/// What a member is made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// It answers.
    Well,
    /// It neither accepts nor reads nor answers.
    Hung,
    /// Its host is silent: nothing can even be connected.
    Cut,
    /// It is gone, and so is all it held.
    Dead,
}

impl fmt::Display for Mood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mood::Well => "well",
            Mood::Hung => "hung",
            Mood::Cut => "cut",
            Mood::Dead => "dead",
        })
    }
}

/// One server.
pub(super) struct Member {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    inner: Rc<Inner>,
    /// The listener's, while there is one.
    door: RefCell<Option<Socket>>,
    /// What fills the queue while it is cut off.
    plugs: RefCell<Vec<Socket>>,
    /// Bound and never listening: keeps the port while the member is dead, so that no client of
    /// this machine gets it as a source port meanwhile.
    _place: Socket,
}

struct Inner {
    name: Rc<str>,
    /// One permit for the listener and for each connection: all are free when it is gone.
    alive: Arc<Semaphore>,
    heard: RefCell<Heard>,
    unheard: Cell<u64>,
}

impl Member {
    /// Starts a member on a free loopback port.
    pub(super) fn start(name: &str) -> io::Result<Member> {
        let place = bound(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
        let address = place
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("a TCP socket without an address"))?;
        let member = Member {
            address,
            mood: watch::Sender::new(Mood::Dead),
            inner: Rc::new(Inner {
                name: name.into(),
                alive: Arc::new(Semaphore::new(MOST_CONNECTIONS as usize)),
                heard: RefCell::default(),
                unheard: Cell::new(0),
            }),
            door: RefCell::default(),
            plugs: RefCell::default(),
            _place: place,
        };
        member.begin()?;
        Ok(member)
    }

    pub(super) fn name(&self) -> &Rc<str> {
        &self.inner.name
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn mood(&self) -> Mood {
        *self.mood.borrow()
    }

    /// It dies; returns when nothing is left of it.
    pub(super) async fn kill(&self) {
        self.plugs.take();
        self.door.take();
        self.mood.send_replace(Mood::Dead);
        // The semaphore is never closed; if it were, nothing would be left to wait for.
        drop(self.inner.alive.acquire_many(MOST_CONNECTIONS).await);
    }

    /// It hangs. One that is dead or cut off stays so.
    pub(super) fn hang(&self) {
        if self.mood() == Mood::Well {
            self.mood.send_replace(Mood::Hung);
        }
    }

    /// It is cut off. A dead one stays dead.
    pub(super) fn cut(&self) -> io::Result<()> {
        let door = self.door.borrow();
        let Some(door) = door.as_ref().filter(|_| self.mood() != Mood::Cut) else {
            return Ok(());
        };
        self.mood.send_replace(Mood::Cut);
        door.listen(CUT_BACKLOG)?;
        for _ in 0..PLUGS {
            let mut plug = bound(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
            // Those for which there is no room any more are under way for good, and say nothing.
            match plug.connect(&self.address.into()) {
                Err(error) if !is_under_way(&error) => return Err(error),
                _ => {}
            }
            match plug.write(PLUG) {
                Err(error) if !is_under_way(&error) => return Err(error),
                _ => {}
            }
            self.plugs.borrow_mut().push(plug);
        }
        Ok(())
    }

    /// One that is dead or cut off starts anew on its port, a hung one goes on where it stopped.
    pub(super) async fn heal(&self) -> io::Result<()> {
        if self.mood() == Mood::Cut {
            self.kill().await;
        }
        self.begin()
    }

    fn begin(&self) -> io::Result<()> {
        if self.mood() == Mood::Dead {
            let socket = bound(self.address)?;
            socket.listen(BACKLOG)?;
            self.door.replace(Some(socket.try_clone()?));
            let listener = TcpListener::from_std(socket.into())?;
            let permit = Arc::clone(&self.inner.alive)
                .try_acquire_owned()
                .map_err(io::Error::other)?;
            self.mood.send_replace(Mood::Well);
            let mood = self.mood.subscribe();
            spawn_local(serve(self.inner.clone(), listener, mood, permit));
        }
        self.mood.send_replace(Mood::Well);
        Ok(())
    }

    /// Whether request `number` reached it.
    pub(super) fn heard(&self, number: u64) -> bool {
        self.inner.heard.borrow().numbers.contains(&number)
    }

    /// Connections that ended before a request of theirs reached it.
    pub(super) fn unheard(&self) -> u64 {
        self.inner.unheard.get()
    }
}

/// The last requests that reached a member.
#[derive(Default)]
struct Heard {
    order: VecDeque<u64>,
    numbers: HashSet<u64>,
}

impl Heard {
    fn note(&mut self, number: u64) {
        if !self.numbers.insert(number) {
            return;
        }
        self.order.push_back(number);
        if self.order.len() > MOST_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.numbers.remove(&oldest);
        }
    }
}

/// A socket bound to `address`, beside others that are bound to it and do not listen.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether a socket that must not wait only says that it is not connected yet.
fn is_under_way(error: &io::Error) -> bool {
    let in_progress = rustix::io::Errno::INPROGRESS.raw_os_error();
    let kind = error.kind();
    error.raw_os_error() == Some(in_progress)
        || matches!(kind, ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// Accepts until the member dies; then whatever the kernel had accepted for it dies too.
async fn serve(
    inner: Rc<Inner>,
    listener: TcpListener,
    mut mood: watch::Receiver<Mood>,
    _permit: OwnedSemaphorePermit,
) {
    loop {
        let now = *mood.borrow_and_update();
        let next = async {
            match now {
                Mood::Well => accept(&inner, &listener).await,
                Mood::Hung | Mood::Cut | Mood::Dead => std::future::pending().await,
            }
        };
        if now == Mood::Dead {
            break;
        }
        tokio::select! {
            biased;
            changed = mood.changed() => if changed.is_err() { return },
            (permit, stream) = next => {
                let connection = Connection { inner: inner.clone(), bytes: Vec::new(), heard: false };
                spawn_local(connection.serve(stream, mood.clone(), permit));
            }
        }
    }
    let Ok(listener) = listener.into_std() else {
        return;
    };
    while let Ok((stream, _)) = listener.accept() {
        let connection = Connection {
            inner: inner.clone(),
            bytes: Vec::new(),
            heard: false,
        };
        if stream.set_nonblocking(true).is_ok() {
            connection.die(stream);
        }
    }
}

async fn accept(inner: &Inner, listener: &TcpListener) -> (OwnedSemaphorePermit, TcpStream) {
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&inner.alive).acquire_owned().await else {
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, _)) => return (permit, stream),
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

/// One connection of a member.
struct Connection {
    inner: Rc<Inner>,
    bytes: Vec<u8>,
    /// Whether a request ever came on it.
    heard: bool,
}

impl Connection {
    async fn serve(
        mut self,
        mut stream: TcpStream,
        mut mood: watch::Receiver<Mood>,
        _permit: OwnedSemaphorePermit,
    ) {
        loop {
            let now = *mood.borrow_and_update();
            if now == Mood::Dead {
                if let Ok(stream) = stream.into_std() {
                    self.die(stream);
                }
                return;
            }
            if now == Mood::Hung || now == Mood::Cut {
                if mood.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if let Some(request) = self.next_request() {
                let answer = wire::answer(&self.inner.name, request.keep_alive);
                if stream.write_all(&answer).await.is_err() || !request.keep_alive {
                    return;
                }
                continue;
            }
            if self.bytes.len() > LONGEST {
                return;
            }
            tokio::select! {
                biased;
                changed = mood.changed() => if changed.is_err() { return },
                read = stream.read_buf(&mut self.bytes) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                },
            }
        }
    }

    /// Ends as the connection of a process that dies: with a reset. What had reached it by then is
    /// noted first.
    fn die(mut self, mut stream: std::net::TcpStream) {
        let mut some = [0; LONGEST];
        if let Ok(read) = stream.read(&mut some) {
            self.bytes.extend_from_slice(&some[..read]);
        }
        while self.next_request().is_some() {}
        if let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection of a member ends without a reset");
        }
    }

    fn next_request(&mut self) -> Option<Request> {
        let request = wire::take_request(&mut self.bytes)?;
        self.heard = true;
        if let Some(number) = request.number {
            self.inner.heard.borrow_mut().note(number);
        }
        Some(request)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.heard {
            self.inner.unheard.set(self.inner.unheard.get() + 1);
        }
    }
}

#[cfg(test)]
mod tests;
