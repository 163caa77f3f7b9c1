//! Sessions that flood, beside others on their worker.
//!
//! The worker, the others' clients and their member run on one thread; only those who flood have
//! threads of their own. So what the floods moved while one of the others waited is what the
//! worker let them move, however busy the machine is: nothing here depends on time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{spawn_blocking, spawn_local, yield_now};

use super::{ANY_PORT, bounded};
use crate::dispatch::fixture::{HOME, decider, topology};
use crate::dispatch::{Handles, Snapshot};
use crate::observe::counters::WorkerCounters;
use crate::pairing::record::{Cause, Phase};
use crate::proxy::worker::{Inbox, Worker, runtime};
use crate::proxy::{Plan, listen};

/// Sessions that flood, each in one direction.
const FLOODS: u64 = 4;
/// What each moves in one turn, at most: the relay's `TURN`, and a chunk that was begun before.
const TURN: u64 = 2 << 20;
/// How often a request is waited for, there and back: by the worker, the member, the worker again
/// and the client.
const WAITS: u64 = 4;
/// How often a connection is: beside its request it is accepted, begun and connected to a member,
/// whom it reaches meanwhile.
const WAITS_TO_CONNECT: u64 = WAITS + 3;
const TIMES: usize = 30;

#[test]
fn others_wait_for_one_turn_of_each_who_floods_at_every_step() {
    let runtime = runtime().expect("a runtime");
    runtime.block_on(async {
        let scene = Scene::new().await;
        let mut client = scene.client().await;
        exchange(&mut client).await;
        let (mut requests, mut connections) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            scene.in_full_swing().await;
            let before = scene.moved();
            exchange(&mut client).await;
            requests.push(scene.moved() - before);
            scene.in_full_swing().await;
            let before = scene.moved();
            exchange(&mut scene.client().await).await;
            connections.push(scene.moved() - before);
        }
        for (what, all, waits) in [
            ("requests", requests, WAITS),
            ("connections", connections, WAITS_TO_CONNECT),
        ] {
            let worst = all.iter().max().expect("some") >> 10;
            let bound = (waits * FLOODS * TURN) >> 10;
            let told = format!("{what}: {worst} KiB moved meanwhile at worst; bound {bound}");
            eprintln!("{told}");
            assert!(worst <= bound, "{told}");
        }
    });
}

struct Scene {
    counters: Arc<WorkerCounters>,
    others: SocketAddr,
    _messages: mpsc::Sender<Inbox>,
}

impl Scene {
    async fn new() -> Scene {
        let mut topology = topology([1, 1, 1]);
        for service in &mut topology.pools[HOME.index()].services {
            service.listen = vec![ANY_PORT];
        }
        let topology = Arc::new(topology);
        let handles = Handles::new(&topology);
        let counters = Arc::new(WorkerCounters::new(&topology));
        let listeners = listen::bind(&topology, 1, &mut listen::Given::default())
            .expect("listeners")
            .remove(0);
        let address = |nth| {
            let of = |l: &&listen::Listener| l.service == HOME.service(nth);
            listeners.iter().find(of).expect("a listener").address
        };
        let (flooded, others) = (address(0), address(1));
        let flooding = StdListener::bind(ANY_PORT).expect("bound");
        let echo = TcpListener::bind(ANY_PORT).await.expect("bound");
        let members = [flooding.local_addr(), echo.local_addr()].map(|a| a.expect("bound"));
        let snapshot = Snapshot::new(
            0,
            &decider(&topology, Phase::Home, Cause::Ordered),
            &handles,
            crate::clock::now(),
            |_| false,
            |target| (target.pool == HOME).then(|| members[target.service().index()]),
        );
        let (messages, inbox) = mpsc::channel(16);
        let (reports, _) = mpsc::channel(16);
        let plan = Plan {
            index: 0,
            sessions: 1000,
            flows: 0,
            flows_taken: Vec::new(),
            listeners,
            topology: topology.clone(),
            snapshot: Arc::new(snapshot),
            counters: counters.clone(),
            access: None,
            reports,
            seed: 1,
        };
        spawn_local(Worker::run(plan, inbox));
        spawn_local(echo_all(echo));
        for nth in 0..FLOODS {
            let client = StdStream::connect(flooded).expect("connected");
            // Asked of another thread: the worker, on this one, makes the connection meanwhile.
            let accepting = flooding.try_clone().expect("a descriptor");
            let accepted = spawn_blocking(move || accepting.accept()).await;
            let (member, _) = accepted.expect("no panic").expect("accepted");
            let (source, sink) = match nth % 2 {
                0 => (client, member),
                _ => (member, client),
            };
            thread::spawn(move || pour(source));
            thread::spawn(move || drain(sink));
        }
        Scene {
            counters,
            others,
            _messages: messages,
        }
    }

    async fn client(&self) -> TcpStream {
        bounded(TcpStream::connect(self.others))
            .await
            .expect("connected")
    }

    fn moved(&self) -> u64 {
        let flooded = self.counters.service(HOME.service(0));
        flooded.bytes_in.get() + flooded.bytes_out.get()
    }

    async fn in_full_swing(&self) {
        let from = self.moved();
        while self.moved() < from + FLOODS * TURN {
            yield_now().await;
        }
    }
}

async fn exchange(client: &mut TcpStream) {
    let mut answer = [0; 4];
    client.write_all(b"ask\n").await.expect("room");
    bounded(client.read_exact(&mut answer))
        .await
        .expect("an answer");
}

async fn echo_all(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        spawn_local(async move {
            let mut bytes = [0; 64];
            while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                stream.write_all(&bytes[..n]).await.expect("room");
            }
        });
    }
}

fn pour(mut source: StdStream) {
    let bytes = vec![7; 256 << 10];
    while source.write_all(&bytes).is_ok() {}
}

fn drain(mut sink: StdStream) {
    let mut bytes = vec![0; 1 << 20];
    while let Ok(1..) = sink.read(&mut bytes) {}
}
