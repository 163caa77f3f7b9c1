//! A crowd: thousands of long sessions from as many client addresses, which come back at once when
//! they are ended, and some short connections beside them.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::child::{Child, bound_to_us};
use super::clock::wait_for;
use super::echo::{LONG, SHORT};
use super::{Result, inside};

/// How long a client waits for its answer, connecting included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Long sessions that begin each second: with the short connections beside them fewer than three
/// members take of users who have just been moved.
const OPENED: u32 = 400;
/// One that could not connect tries again after this, not in a busy loop.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// Addresses that short connections come from in turn.
const SHORT_ADDRESSES: u32 = 5_000;

/// A crowd that runs.
#[derive(Debug)]
pub(crate) struct Crowd {
    child: Child,
    told: PathBuf,
}

/// What it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Saw {
    /// Long sessions that were alive in the end.
    pub(crate) alive: u64,
    /// Ends of long sessions that were followed by a new one.
    pub(crate) returned: u64,
    /// Connects of long sessions that failed, or got no answer in [`PATIENCE`].
    pub(crate) failed: u64,
    /// From the end of a session to the answer in the next one, microseconds: half of them took no
    /// longer.
    pub(crate) median_micros: u64,
    /// Of a hundred 99 took no longer.
    pub(crate) p99_micros: u64,
    /// The slowest.
    pub(crate) worst_micros: u64,
    /// Short connections that were answered.
    pub(crate) short: u64,
    /// Those that were not.
    pub(crate) short_failed: u64,
    /// The slowest answer to one.
    pub(crate) short_worst_micros: u64,
}

impl Crowd {
    /// Starts one: so many long sessions, and so many short connections a second.
    pub(crate) fn start(dir: &Path, target: SocketAddr, sessions: u32, rate: u32) -> Result<Crowd> {
        let mut command = inside::call("crowd")?;
        command.extend([target.to_string(), sessions.to_string(), rate.to_string()]);
        let told = dir.join("crowd.log");
        let child = Child::start("crowd", &bound_to_us(&command)?, &told)?;
        Ok(Crowd { child, told })
    }

    /// Fails when it has ended.
    pub(crate) fn must_live(&mut self) -> Result<()> {
        self.child.must_live(&self.told)
    }

    /// Has it ask once more on every session, and end; what it saw.
    pub(crate) fn end(mut self) -> Result<Saw> {
        self.child.signal(Signal::TERM)?;
        let limit = PATIENCE * 2;
        wait_for("the crowd's end", limit, || self.child.ended())?;
        let told = std::fs::read_to_string(&self.told)?;
        let last = told.lines().last().unwrap_or_default();
        let numbers: Vec<u64> = last.split(' ').map_while(|n| n.parse().ok()).collect();
        let Ok(numbers) = <[u64; 9]>::try_from(numbers) else {
            return Err(format!("the crowd did not say what it saw:\n{told}").into());
        };
        let [
            alive,
            returned,
            failed,
            median_micros,
            p99_micros,
            worst_micros,
            short,
            short_failed,
            short_worst_micros,
        ] = numbers;
        Ok(Saw {
            alive,
            returned,
            failed,
            median_micros,
            p99_micros,
            worst_micros,
            short,
            short_failed,
            short_worst_micros,
        })
    }
}

/// What is counted.
#[derive(Debug, Default)]
struct Counts {
    alive: Cell<u64>,
    failed: Cell<u64>,
    returns: RefCell<Vec<u64>>,
    short: Cell<u64>,
    short_failed: Cell<u64>,
    short_worst: Cell<u64>,
}

/// The part that plays: target, long sessions, short connections a second. Ends at SIGTERM, and
/// prints one line.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [target, sessions, rate] = args else {
        return Err("a target, a number of sessions and a rate are needed".into());
    };
    let (target, sessions, rate) = (target.parse()?, sessions.parse()?, rate.parse()?);
    twinpool::proxy::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let line = LocalSet::new().block_on(&runtime, gather(target, sessions, rate))?;
    println!("{line}");
    Ok(())
}

async fn gather(target: SocketAddr, sessions: u32, rate: u32) -> Result<String> {
    let mut told = signal(SignalKind::terminate())?;
    let counts = Rc::new(Counts::default());
    let (stop, stopping) = watch::channel(false);
    let mut longs = Vec::new();
    let mut opening = interval(Duration::from_secs(1) / OPENED);
    opening.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let shorts = spawn_local(short(target, rate, counts.clone(), stopping.clone()));
    for n in 0..sessions {
        tokio::select! {
            _ = opening.tick() => {}
            _ = told.recv() => return Err("told to end before every session had begun".into()),
        }
        let session = long(address(1, n), target, counts.clone(), stopping.clone());
        longs.push(spawn_local(session));
    }
    told.recv().await;
    stop.send_replace(true);
    for long in longs {
        long.await?;
    }
    shorts.await?;
    Ok(counts.line())
}

/// The `n`th address of a block of 127.0.0.0/8.
fn address(block: u8, n: u32) -> Ipv4Addr {
    let (third, fourth) = (n / 250, n % 250);
    Ipv4Addr::new(127, block, third as u8, fourth as u8 + 1)
}

/// A long session, and another one whenever it is ended, until told to stop.
async fn long(
    from: Ipv4Addr,
    target: SocketAddr,
    counts: Rc<Counts>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut ended: Option<Instant> = None;
    while !*stopping.borrow() {
        let Ok(mut stream) = ask(from, target, LONG).await else {
            bump(&counts.failed);
            sleep(TRY_AGAIN).await;
            continue;
        };
        if let Some(ended) = ended {
            let micros = ended.elapsed().as_micros();
            counts.returns.borrow_mut().push(micros as u64);
        }
        let over = tokio::select! {
            biased;
            stop = stopping.wait_for(|stop| *stop) => stop.is_err(),
            // Nothing is asked: whatever comes is its end.
            _ = stream.read_u8() => true,
        };
        if !over {
            let echo = timeout(PATIENCE, echoed(&mut stream, LONG)).await;
            if matches!(echo, Ok(Ok(()))) {
                bump(&counts.alive);
            }
            return;
        }
        ended = Some(Instant::now());
    }
}

/// Short connections, until told to stop.
async fn short(
    target: SocketAddr,
    rate: u32,
    counts: Rc<Counts>,
    mut stopping: watch::Receiver<bool>,
) {
    if rate == 0 {
        return;
    }
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut all = Vec::new();
    let mut n = 0;
    loop {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => break,
            _ = ticks.tick() => {}
        }
        let (from, counts) = (address(2, n % SHORT_ADDRESSES), counts.clone());
        n += 1;
        all.retain(|one: &tokio::task::JoinHandle<()>| !one.is_finished());
        all.push(spawn_local(async move {
            let began = Instant::now();
            match ask(from, target, SHORT).await {
                Ok(_) => {
                    bump(&counts.short);
                    let took = began.elapsed().as_micros() as u64;
                    counts.short_worst.set(counts.short_worst.get().max(took));
                }
                Err(_) => bump(&counts.short_failed),
            }
        }));
    }
    for one in all {
        // It counts how it ended; each ends within its patience.
        if let Err(e) = one.await {
            eprintln!("a client failed: {e}");
        }
    }
}

/// Connects, says what it is and waits for the echo.
async fn ask(from: Ipv4Addr, target: SocketAddr, kind: u8) -> std::io::Result<TcpStream> {
    let asked = timeout(PATIENCE, async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let mut stream = socket.connect(target).await?;
        stream.set_nodelay(true)?;
        echoed(&mut stream, kind).await?;
        Ok(stream)
    });
    asked
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

async fn echoed(stream: &mut TcpStream, kind: u8) -> std::io::Result<()> {
    stream.write_all(&[kind]).await?;
    match stream.read_u8().await? {
        echo if echo == kind => Ok(()),
        _ => Err(std::io::Error::other("an echo of something else")),
    }
}

fn bump(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

impl Counts {
    /// As [`Crowd::end`] reads it.
    fn line(&self) -> String {
        let mut returns = self.returns.borrow().clone();
        returns.sort_unstable();
        let at = |share: f64| {
            let last = returns.len().saturating_sub(1);
            let rank = (share * last as f64).round() as usize;
            returns.get(rank).copied().unwrap_or(0)
        };
        let mut line = String::new();
        for number in [
            self.alive.get(),
            returns.len() as u64,
            self.failed.get(),
            at(0.5),
            at(0.99),
            at(1.0),
            self.short.get(),
            self.short_failed.get(),
        ] {
            write!(line, "{number} ").expect("a String takes everything");
        }
        line + &self.short_worst.get().to_string()
    }
}
