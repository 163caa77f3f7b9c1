//! Clients that read nothing while their member sends as much as it can.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::*;
use crate::process::{Process, can_hold};

/// Slow readers: more than there are pipes.
const MANY: usize = 300;
/// Pipes of a worker at most.
const PIPES: usize = 128;
/// What one holds in this process at most: one scratch buffer of 16 KiB and its session.
const EACH: u64 = (16 + 8) << 10;
/// What the allocator may keep for itself.
const SLACK: u64 = 4 << 20;

#[tokio::test]
async fn slow_readers_hold_bounded_memory_and_others_go_on() {
    if !can_hold(2 * MANY as u64 + 500) {
        return;
    }
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let process = Process::of(&daemon);
    let address = daemon.address().await;
    let (memory, descriptors) = (process.resident(), process.descriptors());
    let mut slow = Vec::new();
    for _ in 0..MANY {
        slow.push(greedy(address).await);
    }
    daemon
        .counted("all of them", |t| t.established as usize == MANY)
        .await;
    // Until the members' kernels take no more of it.
    let mut before = 0;
    eventually("all of them to stand still", async || {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let sent = a.sent();
        let still = sent == std::mem::replace(&mut before, sent);
        still.then_some(())
    })
    .await;
    let held = process.resident().saturating_sub(memory);
    let pipes = process.pipes();
    let all = process.descriptors() - descriptors;
    eprintln!(
        "{MANY} slow readers: {} KiB of memory, {pipes} pipes, {all} descriptors, {} MiB sent",
        held >> 10,
        a.sent() >> 20
    );
    assert!(held <= MANY as u64 * EACH + SLACK, "{held} bytes");
    assert!((1..=PIPES).contains(&pipes), "{pipes} pipes");
    assert!(all <= 2 * MANY + 2 * PIPES + 16, "{all} descriptors");

    let mut small = Client::connect(address).await;
    for _ in 0..50 {
        assert_eq!(small.member().await, "a");
    }
    let mut bulk = Client::connect(address).await;
    bulk.send(b"send 67108864\n").await;
    bulk.receive_pattern(64 << 20).await;

    drop(slow);
    daemon.counted("all gone", |t| t.ended as usize == MANY).await;
    eventually("their pipes to be closed", async || {
        (process.pipes() < PIPES / 2).then_some(())
    })
    .await;
    let held = process.resident().saturating_sub(memory);
    assert!(held <= MANY as u64 * EACH + SLACK, "{held} bytes");
}

/// One that asks for more than anybody holds, and reads nothing.
async fn greedy(to: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = within("connecting", socket.connect(to)).await.expect("a connection");
    let asked = stream.write_all(b"send 1000000000\n").await;
    asked.expect("room for a line");
    stream
}
