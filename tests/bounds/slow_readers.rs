//! Clients that read nothing while their member sends as much as it can.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::harness::*;
use crate::process::{Process, can_hold};

/// Slow readers: more than there are pipes.
const MANY: usize = 300;
/// Pipes of a worker at most.
const PIPES: usize = 128;
/// What one holds in this process at most: one scratch buffer of 16 KiB and its session.
const EACH: u64 = (16 + 4) << 10;
/// What the allocator may keep for itself.
const SLACK: u64 = 4 << 20;
/// As on a network: with the loopback's 64 KiB the kernel lets each connection hold megabytes, and
/// this machine has other work.
const SEGMENT: u32 = 1_400;

#[tokio::test]
async fn slow_readers_hold_bounded_memory_and_others_go_on() {
    if !can_hold(2 * MANY as u64 + 500) {
        return;
    }
    let (spout, fast) = (Spout::start().await, Member::start("fast").await);
    let slow_pool = Pool::of([])
        .named("slow")
        .member_named("spout", spout.address, "");
    let setup = Setup::of(&slow_pool).pool(&Pool::of([&fast]));
    let daemon = Daemon::start(setup).await;
    let process = Process::of(&daemon);
    let address = daemon.address().await;
    let (memory, descriptors) = (process.resident(), process.descriptors());
    let mut slow = Vec::new();
    for _ in 0..MANY {
        slow.push(deaf(daemon.address_of("slow", "line").await).await);
    }
    let held = |process: Process| process.resident().saturating_sub(memory);
    let mut before = 0;
    eventually("all of them to stand still", async || {
        sleep(Duration::from_millis(200)).await;
        let sent = spout.sent.load(Ordering::Relaxed);
        (sent > 0 && sent == std::mem::replace(&mut before, sent)).then_some(())
    })
    .await;
    let pipes = process.pipes();
    let all = process.descriptors() - descriptors;
    eprintln!(
        "{MANY} slow readers: {} KiB of memory, {pipes} pipes, {all} descriptors, {} MiB sent",
        held(process) >> 10,
        before >> 20
    );
    assert!(
        held(process) <= MANY as u64 * EACH + SLACK,
        "{} bytes",
        held(process)
    );
    assert!((1..=PIPES).contains(&pipes), "{pipes} pipes");
    assert!(all <= 2 * MANY + 2 * PIPES + 16, "{all} descriptors");

    let mut small = Client::connect(address).await;
    for _ in 0..50 {
        assert_eq!(small.member().await, "fast");
    }
    let mut bulk = Client::connect(address).await;
    bulk.send(b"send 33554432\n").await;
    bulk.receive_pattern(32 << 20).await;

    drop(slow);
    eventually("their pipes to be closed", async || {
        (process.pipes() <= PIPES / 4).then_some(())
    })
    .await;
    assert!(
        held(process) <= MANY as u64 * EACH + SLACK,
        "{} bytes",
        held(process)
    );
}

/// One that reads nothing.
async fn deaf(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    SockRef::from(&socket)
        .set_tcp_mss(SEGMENT)
        .expect("short segments");
    let stream = within("connecting", socket.connect(to)).await;
    stream.expect("a connection")
}

/// A member that sends to whoever connects, for as long as its kernel takes it.
struct Spout {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
}

impl Spout {
    async fn start() -> Spout {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None);
        let socket = socket.expect("a socket");
        socket.set_tcp_mss(SEGMENT).expect("short segments");
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .expect("a port");
        socket.listen(1024).expect("a listener");
        let listener = TcpListener::from_std(socket.into()).expect("a listener");
        let address = listener.local_addr().expect("its number");
        let sent = Arc::new(AtomicU64::new(0));
        tokio::spawn(accept(listener, sent.clone()));
        Spout { address, sent }
    }
}

async fn accept(listener: TcpListener, sent: Arc<AtomicU64>) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let sent = sent.clone();
        tokio::spawn(async move {
            let bytes = [7; 64 << 10];
            // Until the other side is gone.
            while let Ok(n) = stream.write(&bytes).await {
                sent.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
    }
}
