//! A worker between clients and members on the loopback, told what the control thread would tell.

mod access;
mod ending;
mod fairness;
mod measuring;
mod reload;
pub(super) mod stage;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::dispatch::Handles;
use crate::dispatch::fixture::{HOME, TWIN, count, decider, topology};
use crate::log::access::Sink;
use crate::observe::counters::{Counter, HomeCounters, ServiceCounters, WorkerCounters};
use crate::pairing::record::{Cause, Phase, Share};
use crate::topology::{Policy, Topology};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(10);
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A member that says its name to whoever connects, and then what it hears.
struct Member {
    address: SocketAddr,
    task: Option<JoinHandle<()>>,
    /// What answers for it while it is away, or keeps its port.
    _socket: Option<TcpSocket>,
    _held: Vec<TcpStream>,
}

impl Member {
    fn at(address: SocketAddr) -> Member {
        Member {
            address,
            task: None,
            _socket: None,
            _held: Vec::new(),
        }
    }

    async fn named(name: &'static str) -> Member {
        let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
        Member::of(listener, name)
    }

    fn of(listener: TcpListener, name: &'static str) -> Member {
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = [0; 256];
                    let mut said = stream.write_all(name.as_bytes()).await;
                    while said.is_ok() {
                        said = match stream.read(&mut bytes).await {
                            Ok(0) | Err(_) => return,
                            Ok(n) => stream.write_all(&bytes[..n]).await,
                        };
                    }
                });
            }
        });
        Member {
            task: Some(task),
            ..Member::at(address)
        }
    }

    /// One whose host answers that nothing listens.
    fn refusing() -> Member {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(ANY_PORT).expect("bound");
        let address = socket.local_addr().expect("bound");
        Member {
            _socket: Some(socket),
            ..Member::at(address)
        }
    }

    /// One that answers nothing: its backlog is full.
    async fn silent() -> (Member, TcpListener) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(ANY_PORT).expect("bound");
        let listener = socket.listen(0).expect("listening");
        let address = listener.local_addr().expect("bound");
        let mut held = Vec::new();
        let short = Duration::from_millis(200);
        while let Ok(stream) = timeout(short, TcpStream::connect(address)).await {
            held.push(stream.expect("connected"));
        }
        let member = Member {
            _held: held,
            ..Member::at(address)
        };
        (member, listener)
    }

    /// From now on its host answers that nothing listens.
    async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            assert!(task.await.expect_err("aborted").is_cancelled());
        }
    }
}

/// A worker in front of the first service of `HOME`, whose twin lists it second.
struct Bench {
    topology: Arc<Topology>,
    handles: Handles,
    members: [Vec<SocketAddr>; 2],
    counters: Arc<WorkerCounters>,
    worker: Option<WorkerHandle>,
    /// The snapshot that the worker was told last.
    current: RefCell<Weak<Snapshot>>,
    address: SocketAddr,
    reports: RefCell<mpsc::Receiver<FromWorker>>,
}

impl Bench {
    fn new(home: &[&Member], twin: &[&Member], phase: Phase) -> Bench {
        Bench::with(home, twin, phase, |_| {})
    }

    fn with(
        home: &[&Member],
        twin: &[&Member],
        phase: Phase,
        change: impl FnOnce(&mut Topology),
    ) -> Bench {
        Bench::start(home, twin, phase, change, None)
    }

    /// One that tells its sessions there.
    fn told(home: &[&Member], sink: Sink) -> Bench {
        let instance = "here".into();
        let log = AccessLog { sink, instance };
        Bench::start(home, &[home[0]], Phase::Home, |_| {}, Some(log))
    }

    fn start(
        home: &[&Member],
        twin: &[&Member],
        phase: Phase,
        change: impl FnOnce(&mut Topology),
        access: Option<AccessLog>,
    ) -> Bench {
        let mut topology = topology([home.len() as u16, twin.len() as u16, 1]);
        topology.pools[HOME.index()].services[0].listen = vec![ANY_PORT];
        change(&mut topology);
        let topology = Arc::new(topology);
        let handles = Handles::new(&topology);
        let addresses = |members: &[&Member]| members.iter().map(|m| m.address).collect();
        let members = [addresses(home), addresses(twin)];
        let counters = Arc::new(WorkerCounters::new(&topology));
        let mut listeners =
            listen::bind(&topology, 1, &mut listen::Given::default()).expect("listeners");
        let (report, reports) = mpsc::channel(1024);
        let listeners = listeners.remove(0);
        let mut bench = Bench {
            address: listeners[0].address,
            topology: topology.clone(),
            handles,
            members,
            counters: counters.clone(),
            worker: None,
            current: RefCell::default(),
            reports: RefCell::new(reports),
        };
        let snapshot = Arc::new(bench.snapshot(phase));
        bench.current.replace(Arc::downgrade(&snapshot));
        let plan = Plan {
            index: 0,
            sessions: 1000,
            flows: 1000,
            flows_taken: Vec::new(),
            listeners,
            topology,
            snapshot,
            counters,
            access,
            reports: report,
            seed: 1,
        };
        bench.worker = Some(start(plan).expect("a worker").begin());
        bench
    }

    fn snapshot(&self, phase: Phase) -> Snapshot {
        let decider = decider(&self.topology, phase, Cause::Ordered);
        let address = |target: TargetId| {
            let members = self.members.get(target.pool.index())?;
            Some(members[target.member().index()])
        };
        let now = crate::clock::now();
        Snapshot::new(
            0,
            &decider,
            &self.handles,
            now,
            |pool| pool == HOME,
            address,
        )
    }

    fn tell(&self, message: ToWorker) {
        let worker = self.worker.as_ref().expect("a worker");
        assert!(worker.tell(message));
    }

    /// Has the worker follow a new snapshot, and waits until it does.
    async fn publish(&self, phase: Phase) {
        let snapshot = Arc::new(self.snapshot(phase));
        let before = self.current.replace(Arc::downgrade(&snapshot));
        self.tell(ToWorker::Publish(snapshot));
        let followed = async {
            while before.strong_count() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, followed).await.expect("in time");
    }

    fn end_moved(&self, off: PoolId, job: u64, most: u64) {
        let home = HOME;
        self.tell(ToWorker::End(Which::Moved {
            home,
            off,
            job,
            most,
        }));
    }

    fn home(&self) -> &HomeCounters {
        self.counters.home(HOME)
    }

    fn service(&self) -> &ServiceCounters {
        self.counters.service(HOME.service(0))
    }

    /// Waits until a counter stands at this.
    async fn counted(&self, counter: impl Fn(&Bench) -> &Counter, number: u64) {
        let count = async {
            while counter(self).get() != number {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, count).await.is_err() {
            panic!("{} instead of {number}", counter(self).get());
        }
    }

    async fn client(&self) -> TcpStream {
        let connect = timeout(PATIENCE, TcpStream::connect(self.address));
        connect.await.expect("in time").expect("accepted")
    }

    /// Whether a client hears nothing but a reset, which may come before it knows that it was
    /// accepted.
    async fn turns_away(&self) -> bool {
        match timeout(PATIENCE, TcpStream::connect(self.address)).await {
            Ok(Ok(mut client)) => said(&mut client).await.is_none(),
            Ok(Err(_)) => true,
            Err(_) => false,
        }
    }

    /// A client, and the name that it heard.
    async fn served(&self) -> (TcpStream, String) {
        let mut client = self.client().await;
        let name = said(&mut client).await.expect("a name");
        (client, name)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.join().expect("no panic");
        }
    }
}

/// What comes next; none at the end, or a reset.
async fn said(client: &mut TcpStream) -> Option<String> {
    let mut bytes = [0; 256];
    match timeout(PATIENCE, client.read(&mut bytes))
        .await
        .expect("in time")
    {
        Ok(0) | Err(_) => None,
        Ok(n) => Some(String::from_utf8_lossy(&bytes[..n]).into_owned()),
    }
}

/// Whether it still answers.
async fn lives(client: &mut TcpStream) -> bool {
    client.write_all(b"echo").await.is_ok() && said(client).await.as_deref() == Some("echo")
}

/// Short delays, so that silence costs a test little: the first of two pools has 200 ms.
fn quick(topology: &mut Topology) {
    for pool in &mut topology.pools {
        for service in &mut pool.services {
            service.connect.hedge = Duration::from_millis(50);
            service.connect.budget = Duration::from_millis(800);
        }
    }
}

#[tokio::test]
async fn users_who_are_away_reach_the_twins_members_and_are_counted_there() {
    let (home, twin) = (Member::named("home").await, Member::named("twin").await);
    let bench = Bench::new(&[&home], &[&twin], Phase::Away);
    let (client, name) = bench.served().await;
    assert_eq!(name, "twin");
    assert_eq!(bench.home().open(), (0, 1));
    drop(client);
    bench.counted(|b| &b.home().at_twin_ended, 1).await;
    assert_eq!(bench.home().open(), (0, 0));
    assert_eq!(bench.home().spilled.get(), 0);
    assert_eq!(bench.service().established.get(), 1);
}

#[tokio::test]
async fn a_move_takes_new_sessions_at_once_and_ends_old_ones_as_it_is_told() {
    let (home, twin) = (Member::named("home").await, Member::named("twin").await);
    let bench = Bench::new(&[&home], &[&twin], Phase::Home);
    let mut old = Vec::new();
    for _ in 0..6 {
        let (client, name) = bench.served().await;
        assert_eq!(name, "home");
        old.push(client);
    }
    bench.publish(Phase::Away).await;
    let (mut new, name) = bench.served().await;
    assert_eq!(name, "twin");
    assert_eq!(bench.home().open(), (6, 1));
    bench.end_moved(HOME, 1, 2);
    bench.counted(|b| &b.home().at_home_ended, 2).await;
    bench.end_moved(HOME, 1, 100);
    bench.counted(|b| &b.home().at_home_ended, 6).await;
    assert_eq!(bench.home().moved.get(), 6);
    assert_eq!(bench.service().ended_by_us.get(), 6);
    for client in &mut old {
        assert_eq!(said(client).await, None);
    }
    assert!(lives(&mut new).await);
}

#[tokio::test]
async fn a_connection_that_every_home_member_refuses_goes_to_the_twin() {
    let (a, b) = (Member::refusing(), Member::refusing());
    let twin = Member::named("twin").await;
    let bench = Bench::new(&[&a, &b], &[&twin], Phase::Home);
    let (_first, name) = bench.served().await;
    assert_eq!(name, "twin");
    assert_eq!(bench.home().spilled.get(), 1);
    let failed = |bench: &Bench| {
        let member = |nth| bench.counters.member(HOME.member(nth)).connect_failed.get();
        member(0) + member(1)
    };
    assert_eq!(failed(&bench), 2, "each member once");
    let (_second, name) = bench.served().await;
    assert_eq!(name, "twin");
    assert_eq!(bench.home().spilled.get(), 2);
    assert_eq!(failed(&bench), 2, "the second went there at once");
    assert_eq!(bench.home().open(), (0, 2));
    let mut blamed = 0;
    while let Ok(report) = bench.reports.borrow_mut().try_recv() {
        assert!(
            matches!(report, FromWorker::ConnectFailed { target: t, failure: Failure::Refused, .. } if t.pool == HOME)
        );
        blamed += 1;
    }
    assert_eq!(blamed, 2);
}

#[tokio::test]
async fn without_spill_it_is_refused() {
    let (home, twin) = (Member::refusing(), Member::named("twin").await);
    let bench = Bench::with(&[&home], &[&twin], Phase::Home, |t| {
        t.pairs[0].spill = false;
    });
    assert!(bench.turns_away().await);
    bench.counted(|b| &b.service().refused_attempts, 1).await;
    let failed = &bench.counters.member(HOME.member(0)).connect_failed;
    assert_eq!(failed.get(), 4, "as many attempts as it may make");
    assert_eq!(bench.home().spilled.get(), 0);
}

#[tokio::test]
async fn a_connection_that_meets_silence_at_home_goes_to_the_twin_within_its_share() {
    let (a, _a) = Member::silent().await;
    let (b, _b) = Member::silent().await;
    let (c, _c) = Member::silent().await;
    let twin = Member::named("twin").await;
    let bench = Bench::with(&[&a, &b, &c], &[&twin], Phase::Home, quick);
    let (_client, name) = bench.served().await;
    assert_eq!(name, "twin");
    assert_eq!(bench.home().spilled.get(), 1);
    let timed_out = |nth| {
        bench
            .counters
            .member(HOME.member(nth))
            .connect_timeout
            .get()
    };
    let tried = (0..3).map(timed_out).sum::<u64>();
    assert!((1..=2).contains(&tried), "{tried} of three tried");
    let report = bench.reports.borrow_mut().try_recv();
    let expected =
        |report| matches!(report, FromWorker::ConnectSlow { target: t, .. } if t.pool == HOME);
    assert!(report.is_ok_and(expected));
}

#[tokio::test]
async fn one_silent_member_sends_nobody_to_the_twin() {
    let (silent, _held) = Member::silent().await;
    let (home, twin) = (Member::named("home").await, Member::named("twin").await);
    let bench = Bench::with(&[&silent, &home], &[&twin], Phase::Home, |topology| {
        quick(topology);
        topology.pools[HOME.index()].services[0].balance = Policy::RoundRobin;
    });
    for _ in 0..12 {
        assert_eq!(bench.served().await.1, "home");
    }
    let service = bench.service();
    assert!(service.hedges_withheld.get() > 0, "some without a hedge");
    assert_eq!(bench.home().spilled.get(), 0);
}

#[tokio::test]
async fn members_that_are_full_send_nobody_to_the_twin() {
    let (home, twin) = (Member::named("home").await, Member::named("twin").await);
    let bench = Bench::with(&[&home], &[&twin], Phase::Home, |topology| {
        topology.pools[HOME.index()].members[0].max_connections = Some(count(1));
    });
    let (first, name) = bench.served().await;
    assert_eq!(name, "home");
    let mut second = bench.client().await;
    bench.counted(|b| &b.service().queued, 1).await;
    drop(first);
    assert_eq!(said(&mut second).await.as_deref(), Some("home"));
    assert_eq!(bench.home().spilled.get(), 0);
}

#[tokio::test]
async fn a_fault_of_our_own_sends_nobody_to_the_twin() {
    // No TCP connection can be made to a broadcast address: the kernel has no route for it.
    let home = Member::at(SocketAddr::from((Ipv4Addr::BROADCAST, 9)));
    let twin = Member::named("twin").await;
    let bench = Bench::new(&[&home], &[&twin], Phase::Home);
    assert!(bench.turns_away().await);
    bench.counted(|b| &b.service().refused_own_fault, 1).await;
    assert_eq!(bench.home().spilled.get(), 0);
}

#[tokio::test]
async fn a_remembered_client_whom_the_twin_fails_comes_home_and_is_forgotten() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(ANY_PORT).expect("bound");
    let home = Member::at(socket.local_addr().expect("bound"));
    let mut twin = Member::named("twin").await;
    let bench = Bench::new(&[&home], &[&twin], Phase::Home);
    assert_eq!(bench.served().await.1, "twin");
    twin.kill().await;
    let listener = socket.listen(16).expect("listening");
    let _home = Member::of(listener, "home");
    for _ in 0..2 {
        assert_eq!(bench.served().await.1, "home");
    }
    let failed = &bench.counters.member(TWIN.member(0)).connect_failed;
    assert_eq!(failed.get(), 1, "asked once, and not again");
    assert_eq!(bench.home().spilled.get(), 1);
    assert_eq!(bench.home().at_home.get(), 2);
}

#[tokio::test]
async fn once_users_are_away_nobody_turns_back_home() {
    let (home, twin) = (Member::named("home").await, Member::refusing());
    let bench = Bench::new(&[&home], &[&twin], Phase::Away);
    assert!(bench.turns_away().await);
    bench.counted(|b| &b.service().refused_attempts, 1).await;
    assert_eq!(bench.home().at_home.get(), 0);
}

#[tokio::test]
async fn while_users_return_each_pool_stands_in_for_the_other() {
    let (home, twin) = (Member::refusing(), Member::named("twin").await);
    let last = Phase::Returning(Share::of(Share::STEPS - 1).expect("a step"));
    let bench = Bench::new(&[&home], &[&twin], last);
    assert_eq!(bench.served().await.1, "twin");
    let (home, twin) = (Member::named("home").await, Member::refusing());
    let bench = Bench::new(&[&home], &[&twin], Phase::Returning(Share::FIRST));
    assert_eq!(bench.served().await.1, "home");
}

#[tokio::test]
async fn who_connects_while_users_are_sent_away_is_not_left_behind() {
    let (home, _held) = Member::silent().await;
    let twin = Member::named("twin").await;
    let bench = Bench::with(&[&home], &[&twin], Phase::Home, |topology| {
        let connect = &mut topology.pools[HOME.index()].services[0].connect;
        connect.hedge = Duration::from_millis(500);
        connect.budget = Duration::from_secs(8);
    });
    let mut client = bench.client().await;
    bench.counted(|b| &b.service().accepted, 1).await;
    bench.publish(Phase::Away).await;
    assert_eq!(said(&mut client).await.as_deref(), Some("twin"));
    assert_eq!(bench.home().open(), (0, 1));
    assert_eq!(bench.home().spilled.get(), 0, "it was sent there");
}

#[tokio::test]
async fn a_home_member_that_accepts_too_late_serves_nobody_who_is_away() {
    let (home, late) = Member::silent().await;
    let twin = Member::named("twin").await;
    let bench = Bench::with(&[&home], &[&twin], Phase::Home, |topology| {
        let connect = &mut topology.pools[HOME.index()].services[0].connect;
        connect.hedge = Duration::from_secs(7);
        connect.budget = Duration::from_secs(16);
    });
    let mut client = bench.client().await;
    bench.counted(|b| &b.service().accepted, 1).await;
    bench.publish(Phase::Away).await;
    // Its kernel accepts when the connection request is repeated.
    let _home = Member::of(late, "home");
    assert_eq!(said(&mut client).await.as_deref(), Some("twin"));
    assert_eq!(bench.home().open(), (0, 1));
    assert_eq!(bench.home().at_home.get(), 0);
    assert_eq!(bench.service().retried.get(), 1);
}

#[tokio::test]
async fn arrivals_beyond_what_a_member_takes_wait_in_the_queue() {
    let (home, twin) = (Member::named("home").await, Member::named("twin").await);
    let bench = Bench::with(&[&home], &[&twin], Phase::Away, |topology| {
        topology.pairs[0].arrivals = count(2);
    });
    let clients = tokio::join!(bench.served(), bench.served(), bench.served());
    for (_, name) in [clients.0, clients.1, clients.2] {
        assert_eq!(name, "twin");
    }
    assert!(bench.home().arrivals_held.get() > 0);
    assert!(bench.service().queued.get() > 0);
    assert_eq!(bench.service().refused_queue_timeout.get(), 0);
}

#[tokio::test]
async fn a_place_given_back_at_the_twin_goes_to_a_user_who_is_away() {
    let (home, twin) = (Member::named("home").await, Member::named("twin").await);
    let bench = Bench::with(&[&home], &[&twin], Phase::Away, |topology| {
        topology.pools[TWIN.index()].members[0].max_connections = Some(count(1));
        topology.pairs[0].arrivals = count(1000);
    });
    let (first, _) = bench.served().await;
    let mut second = bench.client().await;
    bench.counted(|b| &b.service().queued, 1).await;
    drop(first);
    assert_eq!(said(&mut second).await.as_deref(), Some("twin"));
}

#[tokio::test]
async fn a_pool_whose_members_want_a_proxy_header_gets_it_and_its_twin_does_not() {
    let (home, twin) = (Member::named("home").await, Member::named("twin").await);
    let bench = Bench::with(&[&home], &[&twin], Phase::Home, |topology| {
        topology.pools[TWIN.index()].services[1].send_proxy = true;
    });
    let (_client, name) = bench.served().await;
    assert_eq!(name, "home");
    bench.publish(Phase::Away).await;
    let (mut client, mut heard) = bench.served().await;
    while !heard.contains("QUIT") {
        heard += &said(&mut client).await.expect("the header, echoed");
    }
    assert!(heard.starts_with("twin\r\n\r\n\0\r\nQUIT\n"), "{heard:?}");
}

/// What this comes to; the test fails when that takes too long.
async fn bounded<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}
