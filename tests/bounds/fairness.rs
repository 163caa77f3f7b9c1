//! Sessions that flood, beside small requests and new connections on the one worker.
//!
//! How long somebody waits is counted in bytes that the floods moved meanwhile. What the tests'
//! own threads are late adds to it, so it is the median that is held against a bound here; the
//! worst is held against one where nothing adds to it, in the unit tests of `proxy`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::sleep;

use crate::harness::*;

/// Sessions that flood, each in one direction.
const FLOODS: u64 = 4;
/// What a session moves in one turn, at most: twice `TURN` of the relay.
const TURN: u64 = 2 << 20;
/// How often a request or its answer waits for a round of turns: the worker hears of each once.
const WAITS: u64 = 2;
/// How often a new connection does: accepted, begun, connected to a member, and its request.
const WAITS_TO_CONNECT: u64 = 6;
const TIMES: usize = 60;

#[tokio::test]
async fn small_requests_and_new_connections_wait_for_a_few_turns_of_those_who_flood() {
    let a = Member::start("a").await;
    let flood = Flood::listen();
    let flooded = Pool::of([])
        .named("flooded")
        .member_named("m", flood.member, "");
    let setup = Setup::of(&flooded).pool(&Pool::of([&a]).check(RARE));
    let daemon = Daemon::start(setup).await;
    flood.begin(daemon.address_of("flooded", "line").await);
    let address = daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");

    let mut requests = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..TIMES {
        flood.in_full_swing().await;
        let before = flood.moved();
        assert_eq!(client.member().await, "a");
        requests.push(flood.moved() - before);
        flood.in_full_swing().await;
        let before = flood.moved();
        assert_eq!(served_by(address).await, "a");
        connections.push(flood.moved() - before);
    }
    for (what, all, waits) in [
        ("requests", &mut requests, WAITS),
        ("connections", &mut connections, WAITS_TO_CONNECT),
    ] {
        all.sort_unstable();
        let [median, worst] = [all[TIMES / 2], all[TIMES - 1]];
        let bound = waits * FLOODS * TURN;
        let told = format!(
            "{what}: the floods moved {} KiB meanwhile in the median, {} at worst; bound {}",
            median >> 10,
            worst >> 10,
            bound >> 10
        );
        eprintln!("{told}");
        assert!(median <= bound, "{told}");
    }
}

/// Sessions that move as much as they can; their peers have threads of their own.
struct Flood {
    listener: TcpListener,
    member: SocketAddr,
    moved: Arc<AtomicU64>,
}

impl Flood {
    fn listen() -> Flood {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Flood {
            member: listener.local_addr().expect("its number"),
            listener,
            moved: Arc::default(),
        }
    }

    /// Half of them send to the member, half are sent to.
    fn begin(&self, service: SocketAddr) {
        for nth in 0..FLOODS {
            let mut client = TcpStream::connect(service).expect("a connection");
            client.write_all(b"!").expect("room");
            let member = self.next_session();
            let (source, sink) = match nth % 2 {
                0 => (client, member),
                _ => (member, client),
            };
            let moved = self.moved.clone();
            thread::spawn(move || pour(source));
            thread::spawn(move || drain(sink, &moved));
        }
    }

    /// The member's side of a session: who ends at once is a check.
    fn next_session(&self) -> TcpStream {
        loop {
            let (mut member, _) = self.listener.accept().expect("a connection");
            if matches!(member.read(&mut [0]), Ok(1)) {
                return member;
            }
        }
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    async fn in_full_swing(&self) {
        let from = self.moved();
        eventually("floods that move", async || {
            sleep(Duration::from_millis(1)).await;
            (self.moved() > from + FLOODS * TURN).then_some(())
        })
        .await;
    }
}

fn pour(mut source: TcpStream) {
    let bytes = vec![7; 256 << 10];
    // Until the daemon is gone.
    while source.write_all(&bytes).is_ok() {}
}

fn drain(mut sink: TcpStream, moved: &AtomicU64) {
    let mut bytes = vec![0; 1 << 20];
    while let Ok(n @ 1..) = sink.read(&mut bytes) {
        moved.fetch_add(n as u64, Ordering::Relaxed);
    }
}
