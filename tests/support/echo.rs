//! Members in numbers: echo servers in one process, which tell again and again how many sessions
//! each of them holds and has been given.
//!
//! A session says with its first byte what it is; one that says nothing, as a check does not, is
//! not counted.

use std::cell::Cell;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval};

use super::child::{Child, bound_to_us};
use super::clock::{now, wait_for};
use super::{Result, inside};

/// How often they tell.
pub(crate) const SAMPLE: Duration = Duration::from_millis(100);
/// The first byte of a long session.
pub(crate) const LONG: u8 = b'L';
/// The first byte of a connection that comes for one answer.
pub(crate) const SHORT: u8 = b'S';
/// How long they may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Members that run.
#[derive(Debug)]
pub(crate) struct Echoes {
    /// Where each of them listens.
    pub(crate) addresses: Vec<SocketAddr>,
    told: PathBuf,
    child: Child,
}

/// What they told at one moment, by member.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// When, on the clock of [`now`].
    pub(crate) at: u64,
    /// Long sessions that it holds.
    pub(crate) held: Vec<u64>,
    /// Long sessions that it was given since the start.
    pub(crate) long: Vec<u64>,
    /// Short connections that it was given since the start.
    pub(crate) short: Vec<u64>,
}

impl Echoes {
    /// Starts so many of them.
    pub(crate) fn start(dir: &Path, members: usize) -> Result<Echoes> {
        let mut command = inside::call("echo")?;
        command.push(members.to_string());
        let told = dir.join("members.log");
        let mut child = Child::start("members", &bound_to_us(&command)?, &told)?;
        let addresses = wait_for("listening members", START_LIMIT, || {
            child.must_live(&told)?;
            let text = std::fs::read_to_string(&told)?;
            let Some((first, _)) = text.split_once('\n') else {
                return Ok(None);
            };
            let addresses: std::result::Result<_, _> =
                first.split(' ').map(str::parse::<SocketAddr>).collect();
            Ok(Some(addresses?))
        })?;
        Ok(Echoes {
            addresses,
            told,
            child,
        })
    }

    /// What they have told so far.
    pub(crate) fn samples(&mut self) -> Result<Vec<Sample>> {
        self.child.must_live(&self.told)?;
        let text = std::fs::read_to_string(&self.told)?;
        // The last line may still be under way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().skip(1).map(Sample::parse).collect()
    }
}

impl Sample {
    fn parse(line: &str) -> Result<Sample> {
        let numbers: std::result::Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let numbers = numbers.map_err(|e| format!("{e} in what members told: {line}"))?;
        let (at, counts) = numbers.split_first().ok_or("an empty sample")?;
        let every_third = |from: usize| counts.iter().skip(from).step_by(3).copied().collect();
        Ok(Sample {
            at: *at,
            held: every_third(0),
            long: every_third(1),
            short: every_third(2),
        })
    }
}

/// What a member counts.
#[derive(Debug, Default)]
struct Counts {
    held: Cell<u64>,
    long: Cell<u64>,
    short: Cell<u64>,
}

/// The part that plays: how many. Prints where they listen, then samples.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [members] = args else {
        return Err("a number of members is needed".into());
    };
    let members: usize = members.parse()?;
    twinpool::proxy::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, serve(members))
}

async fn serve(members: usize) -> Result<()> {
    let mut addresses = Vec::new();
    let mut counted = Vec::new();
    for _ in 0..members {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        addresses.push(listener.local_addr()?.to_string());
        let counts = Rc::new(Counts::default());
        counted.push(counts.clone());
        spawn_local(async move {
            if let Err(e) = accept(listener, &counts).await {
                eprintln!("a member accepts no more: {e}");
            }
        });
    }
    let mut out = std::io::stdout();
    writeln!(out, "{}", addresses.join(" "))?;
    let mut ticks = interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let mut line = now().to_string();
        for counts in &counted {
            for count in [&counts.held, &counts.long, &counts.short] {
                line += &format!(" {}", count.get());
            }
        }
        writeln!(out, "{line}")?;
        out.flush()?;
    }
}

async fn accept(listener: TcpListener, counts: &Rc<Counts>) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let counts = counts.clone();
        spawn_local(async move {
            let mut kind = None;
            // However it ends, it ends nobody else's session.
            if let Err(e) = converse(stream, &mut kind, &counts).await
                && e.kind() != std::io::ErrorKind::ConnectionReset
            {
                eprintln!("a session ended: {e}");
            }
            if kind == Some(LONG) {
                counts.held.set(counts.held.get() - 1);
            }
        });
    }
}

async fn converse(
    mut stream: TcpStream,
    kind: &mut Option<u8>,
    counts: &Counts,
) -> std::io::Result<()> {
    let mut bytes = [0; 16];
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        if kind.is_none() {
            *kind = Some(bytes[0]);
            let given = match bytes[0] {
                LONG => {
                    counts.held.set(counts.held.get() + 1);
                    &counts.long
                }
                _ => &counts.short,
            };
            given.set(given.get() + 1);
        }
        stream.write_all(&bytes[..read]).await?;
    }
}
