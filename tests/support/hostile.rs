//! Hostile clients: a port scanner, half-open connections, connections that say nothing, and ones
//! that reset at once. Each kind is a process of its own on a host of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at};

use super::child::Child;
use super::scene::{OBSERVE, OUTSIDE, PROXY, PROXY_IP, Scene};
use super::{Result, inside};

/// Their host.
const HOST: &str = "hostile";
/// Their host's address.
const HOST_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 66);
/// Where half-open connections claim to come from: what is sent there reaches nobody.
const NOWHERE: &str = "10.88.0.0/16";
/// The gateway to nowhere: a hardware address that no host has.
const NOWHERE_GATEWAY: &str = "10.77.0.99";

/// Half-open connections at a time.
pub(crate) const HALF_OPEN: u32 = 10_000;
/// Silent connections at a time to the service.
pub(crate) const SILENT: u32 = 4_000;
/// Silent connections at a time to the read-only HTTP.
pub(crate) const SILENT_OBSERVE: u32 = 200;
/// Connections a second that reset at once.
const RESETS: u32 = 500;
/// Ports a second that the scanner tries, over and over.
const SCANNED: u32 = 1_000;
/// New half-open or silent connections a second until all are there: their own number matters, not
/// how fast they come.
const OPENED: u32 = 4_000;
/// How long the scanner waits for one port.
const SCAN_LIMIT: Duration = Duration::from_millis(300);
/// A silent client that was turned away comes back after this.
const COME_BACK: Duration = Duration::from_millis(500);

/// What a scanner says to an open port.
const GREETINGS: [&[u8]; 4] = [
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-scanner\r\n",
    b"GET /\xff\xfe HTTP/9.9\r\n\r\n",
];

/// Lets all kinds loose on a scene's first pool, for a span; they end with what is returned.
pub(crate) fn attack(scene: &mut Scene, span: Duration) -> Result<Vec<Child>> {
    scene.lab.add_host(HOST, OUTSIDE, HOST_IP)?;
    let lab = &scene.lab;
    lab.ip(HOST, &format!("route add local {NOWHERE} dev lo"))?;
    lab.ip(
        PROXY,
        &format!("neigh add {NOWHERE_GATEWAY} lladdr 02:00:00:00:00:99 nud permanent dev eth0"),
    )?;
    lab.ip(PROXY, &format!("route add {NOWHERE} via {NOWHERE_GATEWAY}"))?;
    let door = scene.fronts[0].listen;
    let kinds = [
        ("scan", SocketAddr::from((PROXY_IP, 0)), SCANNED),
        ("half-open", door, HALF_OPEN),
        ("silent", door, SILENT),
        ("silent", OBSERVE, SILENT_OBSERVE),
        ("reset", door, RESETS),
    ];
    let mut children = Vec::new();
    for (n, (kind, target, number)) in kinds.into_iter().enumerate() {
        let mut command = inside::call("hostile")?;
        command.extend([
            kind.to_owned(),
            target.to_string(),
            number.to_string(),
            span.as_millis().to_string(),
        ]);
        children.push(lab.start(HOST, &format!("hostile{n}"), &command)?);
    }
    Ok(children)
}

/// The part that plays on their host: kind, target, number and milliseconds.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [kind, target, number, millis] = args else {
        return Err("a kind, a target, a number and milliseconds are needed".into());
    };
    let target: SocketAddr = target.parse()?;
    let number: u32 = number.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let end = Instant::now() + Duration::from_millis(millis.parse()?);
        match kind.as_str() {
            "scan" => scan(target, number, end).await,
            "half-open" => half_open(target, number, end).await,
            "silent" => silent(target, number, end).await,
            "reset" => reset(target, number, end).await,
            other => Err(format!("no kind of hostile client is named {other}").into()),
        }
    })
}

async fn scan(target: SocketAddr, rate: u32, end: Instant) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    let mut tries = JoinSet::new();
    for n in 0_usize.. {
        if Instant::now() >= end {
            break;
        }
        ticks.tick().await;
        while tries.try_join_next().is_some() {}
        // Ports from 1 to 16384, where everything of ours listens.
        let port = u16::try_from(n % 16_384 + 1)?;
        let greeting = GREETINGS[n % GREETINGS.len()];
        let target = SocketAddr::new(target.ip(), port);
        tries.spawn_local(timeout(SCAN_LIMIT, async move {
            // A closed port is what most of them are.
            let Ok(mut stream) = TcpStream::connect(target).await else {
                return;
            };
            if stream.write_all(greeting).await.is_ok() {
                sleep(SCAN_LIMIT).await;
            }
        }));
    }
    Ok(())
}

/// Sends connection requests from addresses that answers never reach; the kernel repeats them.
async fn half_open(target: SocketAddr, number: u32, end: Instant) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / OPENED);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut held = Vec::new();
    for n in 0..number {
        ticks.tick().await;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 88, 1, 0)) + n);
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        match socket.connect(&target.into()) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(e) => return Err(format!("half-open connection {n}: {e}").into()),
            Ok(()) => return Err("a half-open connection was completed".into()),
        }
        held.push(socket);
    }
    sleep_until(end).await;
    Ok(())
}

async fn silent(target: SocketAddr, number: u32, end: Instant) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / OPENED);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut clients = JoinSet::new();
    for _ in 0..number {
        ticks.tick().await;
        clients.spawn_local(timeout_at(end, async move {
            loop {
                if let Ok(stream) = TcpStream::connect(target).await {
                    // Until the other side has enough of it.
                    while stream.readable().await.is_ok() {
                        match stream.try_read(&mut [0; 512]) {
                            Ok(0) => break,
                            Ok(_) => {}
                            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                            Err(_) => break,
                        }
                    }
                }
                sleep(COME_BACK).await;
            }
        }));
    }
    sleep_until(end).await;
    Ok(())
}

async fn reset(target: SocketAddr, rate: u32, end: Instant) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    let mut clients = JoinSet::new();
    while Instant::now() < end {
        ticks.tick().await;
        while clients.try_join_next().is_some() {}
        clients.spawn_local(timeout(SCAN_LIMIT, async move {
            let socket = TcpSocket::new_v4()?;
            // Closed with a reset, whatever was sent.
            socket.set_zero_linger()?;
            socket.connect(target).await.map(drop)
        }));
    }
    Ok(())
}
