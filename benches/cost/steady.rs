//! A load below what the machine can do: clients that ask at fixed times, and how long each
//! answer took.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::support::Result;
use crate::support::stats::quantile;

/// Kept connections.
const KEPT: u32 = 64;
/// From one request to the next on each of them: 6,400 a second together.
const PERIOD: Duration = Duration::from_millis(10);
/// New connections a second, of one request each.
const NEW: u32 = 400;
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(3);
/// The end of every answer.
const END: &[u8] = b"nineteen bytes here";

/// What the clients saw, in milliseconds.
#[derive(Debug)]
pub(crate) struct Seen {
    /// p99 of requests on kept connections.
    pub(crate) request_p99: f64,
    /// p99 of new connections, from the connect to the answer's end.
    pub(crate) connection_p99: f64,
}

/// Seconds that requests took.
type Took = Rc<RefCell<Vec<f64>>>;

/// Runs the load from this thread.
pub(crate) fn run(door: SocketAddr, span: Duration) -> Result<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, drive(door, span))
}

async fn drive(door: SocketAddr, span: Duration) -> Result<Seen> {
    let (requests, connections) = (Took::default(), Took::default());
    let (start, end) = (Instant::now(), Instant::now() + span);
    let mut clients = Vec::new();
    for client in 0..KEPT {
        // Spread over one period, so that requests do not come in bursts.
        let first = start + PERIOD * client / KEPT;
        let took = requests.clone();
        clients.push(tokio::task::spawn_local(kept(door, first, end, took)));
    }
    let mut ticks = interval_at(start, Duration::from_secs(1) / NEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while ticks.tick().await < end {
        let took = connections.clone();
        clients.push(tokio::task::spawn_local(async move {
            let began = Instant::now();
            let mut stream = TcpStream::connect(door).await?;
            ask(&mut stream).await?;
            took.borrow_mut().push(began.elapsed().as_secs_f64());
            Ok(())
        }));
    }
    for client in clients {
        client
            .await?
            .map_err(|e: std::io::Error| format!("a client failed: {e}"))?;
    }
    let p99 = |took: &Took| quantile(&took.borrow(), 0.99) * 1e3;
    Ok(Seen {
        request_p99: p99(&requests),
        connection_p99: p99(&connections),
    })
}

async fn kept(door: SocketAddr, first: Instant, end: Instant, took: Took) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(door).await?;
    stream.set_nodelay(true)?;
    let mut ticks = interval_at(first, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while ticks.tick().await < end {
        let sent = Instant::now();
        ask(&mut stream).await?;
        took.borrow_mut().push(sent.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    let whole = async {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            .await?;
        let mut answer = Vec::with_capacity(512);
        while !answer.ends_with(END) {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    };
    timeout(LIMIT, whole).await?
}
