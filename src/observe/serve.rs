//! Bounded HTTP/1.1 serving, for the read-only listener and for the control socket alike.
//!
//! Clients are taken to be slow and hostile. One connection carries one request: there is no idle
//! connection to keep, and one deadline covers all of it, from accepting to the last byte of the
//! answer; an answer that we take longer for than that has a deadline of its own. What is over a bound is closed and counted; nothing a client sends can stop the server,
//! and an error of accepting makes it wait, never spin or stop. Where all connections are taken, one
//! that waits for its client gives way to the next: first of the client that holds most of them,
//! so that whoever asks at once is answered at once beside any number of those who do not. When the process or the system has
//! no descriptor left, who looks after it must still be answered: each server keeps a few back, and
//! gives one up for each connection that finds none.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep, timeout_at};

/// Connections served at once; a scraper, a few load balancers and people need a handful.
pub const MOST_CONNECTIONS: usize = 64;
/// How long a client may take to send the head of its request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may live, from accepting it to the last byte of the answer.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long we may take to answer: what is ordered may wait for what was ordered before, for disks
/// and for another process.
pub const LONGEST_WORK: Duration = Duration::from_secs(60);
/// How often it is seen whether a late answer is there.
const LOOK: Duration = Duration::from_millis(250);
/// The largest head of a request, in bytes; also what is buffered of it (hyper's least).
pub const LARGEST_HEAD: usize = 8_192;
/// The most headers of a request.
pub const MOST_HEADERS: usize = 64;
/// Descriptors a server keeps back: a scraper, and people who ask meanwhile.
pub const RESERVE: usize = 4;
/// The first wait after an error of accepting, doubled with each in a row.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
/// The longest such wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// An answer, whole.
pub type Response = hyper::Response<Full<Bytes>>;
/// A request whose body has been read, or why not.
pub type Request = hyper::Request<Result<Bytes, BodyError>>;

/// Why the body of a request was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It is longer than it may be.
    TooLong,
    /// The connection broke.
    Broken(String),
}

/// What one server counted. Written and read by its own thread alone.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Connections open now.
    pub open: Cell<u64>,
    /// Connections accepted.
    pub accepted: Cell<u64>,
    /// Connections closed at once because [`MOST_CONNECTIONS`] were open, all at work.
    pub refused: Cell<u64>,
    /// Connections closed because they were not done in time, or before the next one had to wait.
    pub too_slow: Cell<u64>,
    /// Connections that broke, or carried something else than HTTP/1.
    pub broken: Cell<u64>,
    /// Errors of accepting.
    pub accept_errors: Cell<u64>,
}

/// Whether connections are let in: not while another process may be the one to ask.
#[derive(Clone, Debug)]
pub struct Gate(watch::Receiver<bool>);

impl Default for Gate {
    /// One that is always open.
    fn default() -> Gate {
        Gate(watch::channel(false).1)
    }
}

impl Gate {
    /// Closed for as long as `closed` says so. One whose sender is gone stays as it is.
    pub fn new(closed: watch::Receiver<bool>) -> Gate {
        Gate(closed)
    }

    /// Waits for what `accept` brings while it is open.
    pub async fn let_in<T>(&self, accept: impl AsyncFn() -> T) -> T {
        let mut closed = self.0.clone();
        loop {
            if closed.wait_for(|closed| !closed).await.is_err() {
                return accept().await;
            }
            tokio::select! {
                biased;
                Ok(_) = closed.wait_for(|closed| *closed) => {}
                accepted = accept() => return accepted,
            }
        }
    }
}

/// Serves until dropped: every connection ends with it. Must run inside a local runtime or a
/// `LocalSet`.
///
/// `accept` is called again and again; it hands over a connection and what is known of its caller.
/// A body is read up to `longest_body` bytes before `answer` is called.
pub async fn serve<Stream, Caller>(
    counters: Rc<ServerCounters>,
    longest_body: usize,
    accept: impl AsyncFn() -> io::Result<(Stream, Caller)>,
    answer: impl AsyncFn(Caller, Request) -> Response + 'static,
) where
    Stream: AsyncRead + AsyncWrite + Unpin + 'static,
    Caller: Clone + PartialEq + 'static,
{
    let answer = Rc::new(answer);
    let mut connections = JoinSet::new();
    // In the order in which they came.
    let mut held: Vec<Held<Caller>> = Vec::new();
    let reserve = Reserve::default();
    reserve.fill();
    let mut backoff = FIRST_BACKOFF;
    loop {
        tokio::select! {
            accepted = accept() => match accepted {
                Ok((stream, caller)) => {
                    backoff = FIRST_BACKOFF;
                    raise(&counters.accepted);
                    held.retain(|held| !held.task.is_finished());
                    if held.len() >= MOST_CONNECTIONS && !give_way(&mut held, &counters) {
                        raise(&counters.refused);
                        drop(stream);
                        continue;
                    }
                    let phase = Rc::new(Cell::new(Phase::Asking));
                    let exchange = Exchange {
                        open: Open::count(counters.clone()),
                        phase: phase.clone(),
                        longest_body,
                    };
                    let task = connections.spawn_local(connection(
                        stream,
                        caller.clone(),
                        exchange,
                        answer.clone(),
                    ));
                    held.push(Held { caller, phase, task });
                    if held.len() >= MOST_CONNECTIONS {
                        // It has a chance to be answered before the next one takes its place.
                        yield_now().await;
                    }
                }
                // Nothing is waited for between giving one up and accepting: hardly anybody can take
                // it meanwhile, and there are others.
                Err(error) if is_out_of_descriptors(&error) && reserve.give_one_up() => {
                    raise(&counters.accept_errors);
                }
                Err(error) => {
                    raise(&counters.accept_errors);
                    tracing::warn!(%error, "cannot accept; trying again in {backoff:?}");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(LONGEST_BACKOFF);
                }
            },
            Some(ended) = connections.join_next() => {
                reserve.fill();
                if let Err(error) = ended
                    && !error.is_cancelled()
                {
                    tracing::error!(%error, "a connection to our own HTTP server panicked");
                }
            }
        }
    }
}

/// How far an exchange has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client has yet to send all of its request.
    Asking,
    /// We have yet to answer.
    Working,
    /// The client has yet to take all of the answer.
    Taking,
}

/// A connection, as who accepts sees it.
struct Held<Caller> {
    caller: Caller,
    phase: Rc<Cell<Phase>>,
    task: AbortHandle,
}

/// Closes a connection that waits for its client: of the client that has most of those, one that
/// has not asked rather than one that has not taken its answer, the oldest. False when there is
/// none.
fn give_way<Caller: PartialEq>(held: &mut Vec<Held<Caller>>, counters: &ServerCounters) -> bool {
    let waits = |held: &&Held<Caller>| held.phase.get() != Phase::Working;
    let of = |caller: &Caller| {
        let waiting = held.iter().filter(waits);
        waiting.filter(|held| held.caller == *caller).count()
    };
    let place = held
        .iter()
        .enumerate()
        .filter(|(_, held)| waits(held))
        .max_by_key(|(place, held)| {
            let has_not_asked = held.phase.get() == Phase::Asking;
            (of(&held.caller), has_not_asked, Reverse(*place))
        })
        .map(|(place, _)| place);
    let Some(place) = place else {
        return false;
    };
    held.remove(place).task.abort();
    raise(&counters.too_slow);
    true
}

/// What a connection carries along.
struct Exchange {
    open: Open,
    phase: Rc<Cell<Phase>>,
    longest_body: usize,
}

/// One connection, one exchange, one deadline.
async fn connection<Stream, Caller>(
    stream: Stream,
    caller: Caller,
    exchange: Exchange,
    answer: Rc<impl AsyncFn(Caller, Request) -> Response>,
) where
    Stream: AsyncRead + AsyncWrite + Unpin + 'static,
    Caller: Clone + 'static,
{
    let counters = &exchange.open.0;
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (answer, caller, phase) = (answer.clone(), caller.clone(), exchange.phase.clone());
        let longest = exchange.longest_body;
        async move {
            let (head, body) = request.into_parts();
            let request = hyper::Request::from_parts(head, read(body, longest).await);
            phase.set(Phase::Working);
            let response = answer(caller, request).await;
            phase.set(Phase::Taking);
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match within_bounds(served, &exchange.phase).await {
        Some(Ok(())) => {}
        Some(Err(error)) if error.is_timeout() => raise(&counters.too_slow),
        Some(Err(error)) => {
            raise(&counters.broken);
            tracing::debug!(%error, "a connection to our own HTTP server broke");
        }
        None => raise(&counters.too_slow),
    }
}

/// An exchange that is over in [`EXCHANGE_TIMEOUT`]. Where that ends while we have yet to answer,
/// it goes on to [`LONGEST_WORK`], and the client has as long as ever to take the answer.
async fn within_bounds<T>(exchange: impl Future<Output = T>, phase: &Cell<Phase>) -> Option<T> {
    let mut exchange = pin!(exchange);
    let began = Instant::now();
    let mut until = began + EXCHANGE_TIMEOUT;
    let mut is_late = false;
    loop {
        if let Ok(over) = timeout_at(until, &mut exchange).await {
            return Some(over);
        }
        let now = Instant::now();
        match phase.get() {
            Phase::Working if now < began + LONGEST_WORK => {
                is_late = true;
                until = now + LOOK;
            }
            Phase::Taking if is_late => {
                is_late = false;
                until = now + EXCHANGE_TIMEOUT;
            }
            Phase::Asking | Phase::Working | Phase::Taking => return None,
        }
    }
}

/// A body of at most `longest` bytes.
async fn read(body: Incoming, longest: usize) -> Result<Bytes, BodyError> {
    let size = body.size_hint();
    if size.lower() > longest as u64 || (longest == 0 && size.upper() != Some(0)) {
        return Err(BodyError::TooLong);
    }
    match Limited::new(body, longest).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLong),
        Err(error) => Err(BodyError::Broken(error.to_string())),
    }
}

/// Descriptors that stand for nothing, so that there are some when there are none.
#[derive(Default)]
struct Reserve(RefCell<Vec<OwnedFd>>);

impl Reserve {
    /// Takes back what was given up, as far as there are descriptors now.
    fn fill(&self) {
        let mut kept = self.0.borrow_mut();
        while kept.len() < RESERVE {
            match eventfd(0, EventfdFlags::CLOEXEC) {
                Ok(spare) => kept.push(spare),
                Err(error) => {
                    tracing::debug!(%error, "a descriptor cannot be kept back for now");
                    return;
                }
            }
        }
    }

    /// Frees a descriptor; false when none is kept.
    fn give_one_up(&self) -> bool {
        self.0.borrow_mut().pop().is_some()
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    matches!(error, Some(Errno::MFILE | Errno::NFILE))
}

/// Counts a connection as open while it lives.
struct Open(Rc<ServerCounters>);

impl Open {
    fn count(counters: Rc<ServerCounters>) -> Open {
        raise(&counters.open);
        Open(counters)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

fn raise(count: &Cell<u64>) {
    count.set(count.get().wrapping_add(1));
}

#[cfg(test)]
mod tests;
