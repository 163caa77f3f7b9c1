//! Bounded HTTP/1.1 serving, for the read-only listener and for the control socket alike.
//!
//! Clients are taken to be slow and hostile. One connection carries one request: there is no idle
//! connection to keep, and one deadline covers all of it, from accepting to the last byte of the
//! answer. What is over a bound is closed and counted; nothing a client sends can stop the server,
//! and an error of accepting makes it wait, never spin or stop. When the process or the system has
//! no descriptor left, who looks after it must still be answered: each server keeps a few back, and
//! gives one up for each connection that finds none.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections served at once; a scraper, a few load balancers and people need a handful.
pub const MOST_CONNECTIONS: usize = 64;
/// How long a client may take to send the head of its request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may live, from accepting it to the last byte of the answer.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
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
/// A request whose body has not been read.
pub type Request = hyper::Request<Incoming>;

/// What one server counted. Written and read by its own thread alone.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Connections open now.
    pub open: Cell<u64>,
    /// Connections accepted.
    pub accepted: Cell<u64>,
    /// Connections closed at once because [`MOST_CONNECTIONS`] were open.
    pub refused: Cell<u64>,
    /// Connections closed because they were not done in time.
    pub too_slow: Cell<u64>,
    /// Connections that broke, or carried something else than HTTP/1.
    pub broken: Cell<u64>,
    /// Errors of accepting.
    pub accept_errors: Cell<u64>,
}

/// Serves until dropped: every connection ends with it. Must run inside a local runtime or a
/// `LocalSet`.
///
/// `accept` is called again and again; it hands over a connection and what is known of its caller.
/// `answer` must bound what it reads of a body.
pub async fn serve<Stream, Caller>(
    counters: Rc<ServerCounters>,
    accept: impl AsyncFn() -> io::Result<(Stream, Caller)>,
    answer: impl AsyncFn(Caller, Request) -> Response + 'static,
) where
    Stream: AsyncRead + AsyncWrite + Unpin + 'static,
    Caller: Clone + 'static,
{
    let answer = Rc::new(answer);
    let mut connections = JoinSet::new();
    let reserve = Reserve::default();
    reserve.fill();
    let mut backoff = FIRST_BACKOFF;
    loop {
        tokio::select! {
            accepted = accept() => match accepted {
                Ok((stream, caller)) => {
                    backoff = FIRST_BACKOFF;
                    raise(&counters.accepted);
                    if counters.open.get() >= MOST_CONNECTIONS as u64 {
                        raise(&counters.refused);
                        drop(stream);
                    } else {
                        let open = Open::count(counters.clone());
                        connections.spawn_local(connection(stream, caller, open, answer.clone()));
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
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection to our own HTTP server panicked");
                }
            }
        }
    }
}

/// One connection, one exchange, one deadline.
async fn connection<Stream, Caller>(
    stream: Stream,
    caller: Caller,
    open: Open,
    answer: Rc<impl AsyncFn(Caller, Request) -> Response>,
) where
    Stream: AsyncRead + AsyncWrite + Unpin + 'static,
    Caller: Clone + 'static,
{
    let counters = &open.0;
    let service = service_fn(|request| {
        let (answer, caller) = (answer.clone(), caller.clone());
        async move { Ok::<_, Infallible>(answer(caller, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(EXCHANGE_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.is_timeout() => raise(&counters.too_slow),
        Ok(Err(error)) => {
            raise(&counters.broken);
            tracing::debug!(%error, "a connection to our own HTTP server broke");
        }
        Err(_) => raise(&counters.too_slow),
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
