//! Topologies that come one after the other, under sessions and connects.

use super::stage::{Control, Stage, parse, pool, pool_with};
use super::*;
use crate::proxy::worker::{Worker, runtime};

impl Stage {
    /// Has the worker go on under this topology, and waits until it does.
    pub(super) async fn adopt(&mut self, topology: Topology) {
        let done = self.send(topology);
        bounded(done).await.expect("adopted");
    }

    async fn client(&self, pool: &str) -> TcpStream {
        let connect = TcpStream::connect(self.control.address(pool));
        bounded(connect).await.expect("accepted")
    }

    /// A client, and the name that it heard.
    pub(super) async fn served(&self, pool: &str) -> (TcpStream, String) {
        let mut client = self.client(pool).await;
        let name = said(&mut client).await.expect("a name");
        (client, name)
    }

    pub(super) async fn counted(&self, counter: impl Fn(&Control) -> &Counter, number: u64) {
        let counter = counter(&self.control);
        let count = async {
            while counter.get() != number {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(PATIENCE, count).await.is_err() {
            panic!("{} instead of {number}", counter.get());
        }
    }
}

/// Two pools' worth of members that say their names.
pub(super) async fn named() -> [Member; 2] {
    [Member::named("m1").await, Member::named("m2").await]
}

const IN_TURN: &str = "listen = \"127.0.0.1:0\"\nbalance = \"round-robin\"";

/// `m1` and `m2`, chosen in turn.
pub(super) fn two() -> Topology {
    parse(&pool_with("a", &["m1", "m2"], IN_TURN, ""))
}

/// The same the other way round, behind a pool that is new.
pub(super) fn turned() -> Topology {
    let others = pool("other", &["o8", "o9"]);
    parse(&(others + &pool_with("a", &["m2", "m1"], IN_TURN, "")))
}

/// Without `m1`; its sessions are kept as long as the topology before said.
pub(super) fn without_m1() -> Topology {
    parse(&pool_with("a", &["m2"], IN_TURN, ""))
}

/// Another pool instead.
fn another() -> Topology {
    parse(&pool("other", &["o8", "o9"]))
}

fn silent_then(members: &[&str], service: &str) -> Topology {
    let listen = "listen = \"127.0.0.1:0\"\nbalance = \"first\"";
    parse(&pool_with(
        "a",
        members,
        &format!("{listen}\n{service}"),
        "",
    ))
}

#[tokio::test]
async fn sessions_live_on_wherever_their_members_are_listed_and_end_with_their_own() {
    let [m1, m2] = named().await;
    let mut stage = Stage::new(two(), &[("m1", m1.address), ("m2", m2.address)]);
    let (mut one, first) = stage.served("a").await;
    let (mut other, second) = stage.served("a").await;
    assert_ne!(first, second);
    for topology in [turned(), two(), turned()] {
        stage.adopt(topology).await;
        assert!(lives(&mut one).await && lives(&mut other).await);
    }
    assert_eq!(stage.control.service("a").open(), 2);
    stage.end(&first);
    assert_eq!(said(&mut one).await, None);
    assert!(lives(&mut other).await);
    stage.control.down.insert(second);
    let snapshot = Arc::new(stage.control.snapshot());
    stage.tell(ToWorker::Publish(snapshot));
    stage.tell(ToWorker::End(Which::Down));
    assert_eq!(said(&mut other).await, None);
    stage.counted(|c| &c.service("a").ended, 2).await;
    assert_eq!(stage.control.service("a").ended_by_us.get(), 2);
    assert_eq!((stage.control.load("m1"), stage.control.load("m2")), (0, 0));
}

#[tokio::test]
async fn sessions_of_a_removed_member_are_kept_and_no_more_come() {
    let [m1, m2] = named().await;
    let mut stage = Stage::new(two(), &[("m1", m1.address), ("m2", m2.address)]);
    let mut clients = [stage.served("a").await, stage.served("a").await];
    clients.sort_by(|a, b| a.1.cmp(&b.1));
    let [(mut one, _), (mut other, _)] = clients;
    stage.adopt(without_m1()).await;
    for _ in 0..4 {
        assert_eq!(stage.served("a").await.1, "m2");
    }
    // Whatever ends, it is not theirs.
    stage.end("m2");
    assert_eq!(said(&mut other).await, None);
    stage.tell(ToWorker::End(Which::Down));
    assert!(lives(&mut one).await);
    stage.adopt(another()).await;
    assert!(lives(&mut one).await);
    let all = stage.control.counters.open();
    assert!(all >= 1, "{all}: a service that is gone has sessions yet");
    stage.tell(ToWorker::End(Which::All));
    assert_eq!(said(&mut one).await, None);
}

#[tokio::test]
async fn sessions_of_a_removed_member_end_at_their_pools_deadline() {
    let [m1, m2] = named().await;
    let mut topology = two();
    topology.pools[0].drain_deadline = Duration::ZERO;
    let mut stage = Stage::new(topology, &[("m1", m1.address), ("m2", m2.address)]);
    let mut clients = [stage.served("a").await, stage.served("a").await];
    clients.sort_by(|a, b| a.1.cmp(&b.1));
    let [(mut one, _), (mut other, _)] = clients;
    stage.adopt(without_m1()).await;
    assert_eq!(said(&mut one).await, None);
    assert!(lives(&mut other).await);
    assert_eq!(stage.control.service("a").ended_by_us.get(), 1);
}

#[tokio::test]
async fn users_of_a_pair_are_counted_where_they_stand_across_reloads() {
    let [m1, m2] = named().await;
    let pair = "[pairs.p]\npools = [\"a\", \"b\"]\n";
    let (a, b) = (pool("a", &["m1"]), pool("b", &["m2"]));
    let paired = parse(&format!("{a}{b}{pair}"));
    let other_way = parse(&format!("{}{b}{a}{pair}", pool("other", &["o8"])));
    let alone = parse(&format!("{b}{a}"));
    let mut stage = Stage::new(paired, &[("m1", m1.address), ("m2", m2.address)]);
    stage.control.phase = Phase::Away;
    let snapshot = Arc::new(stage.control.snapshot());
    stage.tell(ToWorker::Publish(snapshot));
    let (client, name) = stage.served("a").await;
    assert_eq!(name, "m2");
    let home = |stage: &Stage| {
        let home = stage.control.counters.home(stage.control.pool("a"));
        home.open()
    };
    assert_eq!(home(&stage), (0, 1));
    stage.adopt(other_way).await;
    assert_eq!(home(&stage), (0, 1));
    stage.control.phase = Phase::Home;
    stage.adopt(alone).await;
    let (late, name) = stage.served("a").await;
    assert_eq!(name, "m1");
    assert_eq!(home(&stage), (0, 1), "who has no twin is not counted");
    drop((client, late));
    stage.counted(|c| &c.service("a").ended, 2).await;
    assert_eq!(home(&stage), (0, 0));
    assert_eq!(
        stage
            .control
            .counters
            .home(stage.control.pool("a"))
            .at_home_ended
            .get(),
        0
    );
}

#[tokio::test]
async fn users_who_move_are_ended_under_their_new_ids_those_who_leave_too() {
    let [m1, m2] = named().await;
    let pair = "[pairs.p]\npools = [\"a\", \"b\"]\n";
    let (a, b) = (pool("a", &["m1", "m3"]), pool("b", &["m2"]));
    let paired = parse(&format!("{a}{b}{pair}"));
    let a = pool("a", &["m3"]);
    let later = parse(&format!("{}{b}{a}{pair}", pool("other", &["o8"])));
    let mut stage = Stage::new(paired, &[("m1", m1.address), ("m2", m2.address)]);
    let (mut at_home, name) = stage.served("a").await;
    assert_eq!(name, "m1");
    let (mut others, _) = stage.served("b").await;
    stage.adopt(later).await;
    assert!(lives(&mut at_home).await);
    let home = stage.control.pool("a");
    stage.tell(ToWorker::End(Which::Moved {
        home,
        off: home,
        job: 1,
        most: 10,
    }));
    assert_eq!(said(&mut at_home).await, None);
    assert!(lives(&mut others).await);
    stage
        .counted(|c| &c.counters.home(c.pool("a")).moved, 1)
        .await;
}

#[tokio::test]
async fn a_connect_that_is_under_way_goes_on_whatever_the_ids_of_its_member() {
    let (home, late) = Member::silent().await;
    let patient = "connect = { hedge = \"9s\", budget = \"20s\" }";
    let topology = || silent_then(&["m1", "m2"], patient);
    let [_, m2] = named().await;
    let mut stage = Stage::new(topology(), &[("m1", home.address), ("m2", m2.address)]);
    let mut client = stage.client("a").await;
    let busy = async {
        while stage.control.load("m1") == 0 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    bounded(busy).await;
    for _ in 0..3 {
        let mut other = topology();
        other.pools[0].services[0].balance = Policy::RoundRobin;
        stage.adopt(other).await;
    }
    // Its kernel accepts when the connection request is repeated.
    let _m1 = Member::of(late, "m1");
    assert_eq!(said(&mut client).await.as_deref(), Some("m1"));
    let service = stage.control.service("a");
    assert_eq!((service.established.get(), service.retried.get()), (1, 0));
    assert_eq!(
        stage
            .control
            .counters
            .member(stage.control.member("m1"))
            .sessions
            .get(),
        1
    );
}

#[tokio::test]
async fn a_connect_whose_member_goes_meanwhile_tries_another() {
    let (silent, _held) = Member::silent().await;
    let [_, m2] = named().await;
    let quick = "connect = { hedge = \"300ms\", budget = \"8s\" }";
    let members = [("m1", silent.address), ("m2", m2.address)];
    for reloads in [1, 3] {
        let mut stage = Stage::new(silent_then(&["m1"], quick), &members);
        let mut client = stage.client("a").await;
        let busy = async {
            while stage.control.load("m1") == 0 {
                sleep(Duration::from_millis(2)).await;
            }
        };
        bounded(busy).await;
        for _ in 0..reloads {
            stage
                .adopt(parse(&(pool("other", &["o8"]) + &pool("a", &["m2"]))))
                .await;
        }
        assert_eq!(said(&mut client).await.as_deref(), Some("m2"));
        assert_eq!(stage.control.service("a").established.get(), 1);
        assert_eq!(stage.control.service("a").refused_attempts.get(), 0);
        while let Ok(report) = stage.reports.try_recv() {
            let FromWorker::ConnectSlow { epoch, .. } = report else {
                panic!("{report:?}");
            };
            assert_eq!(epoch, 0, "about the member that is gone");
        }
    }
}

#[tokio::test]
async fn a_connect_with_a_hedge_beside_it_goes_on_with_whichever_is_left() {
    let (one, _one) = Member::silent().await;
    let (two, late) = Member::silent().await;
    let patient = "connect = { hedge = \"50ms\", budget = \"20s\" }";
    let listen = "listen = \"127.0.0.1:0\"\nbalance = \"round-robin\"";
    let topology = |members: &[&str]| {
        parse(&pool_with(
            "a",
            members,
            &format!("{listen}\n{patient}"),
            "",
        ))
    };
    let members = [("m1", one.address), ("m2", two.address)];
    let mut stage = Stage::new(topology(&["m1", "m2"]), &members);
    let mut client = stage.client("a").await;
    stage.counted(|c| &c.service("a").hedged, 1).await;
    stage.adopt(topology(&["m2"])).await;
    let _m2 = Member::of(late, "m2");
    assert_eq!(said(&mut client).await.as_deref(), Some("m2"));
    assert_eq!(stage.control.service("a").refused_attempts.get(), 0);
    assert_eq!(stage.control.load("m2"), 1);
}

#[tokio::test]
async fn a_connect_whose_service_goes_is_refused() {
    let (silent, _held) = Member::silent().await;
    let quick = "connect = { hedge = \"50ms\", budget = \"20s\" }";
    let mut stage = Stage::new(silent_then(&["m1"], quick), &[("m1", silent.address)]);
    let mut client = stage.client("a").await;
    let gone = stage.control.service("a").clone();
    while stage.control.load("m1") == 0 {
        sleep(Duration::from_millis(2)).await;
    }
    stage.adopt(another()).await;
    assert_eq!(said(&mut client).await, None);
    let refused = async {
        while gone.refused_no_member.get() != 1 || gone.ended.get() != 1 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    bounded(refused).await;
    assert_eq!(stage.control.counters.open(), 0);
}

/// A PROXY header.
fn header() -> Vec<u8> {
    proxy_header::encode(ANY_PORT, ANY_PORT)
}

const EXPECTS: &str = "listen = \"127.0.0.1:0\"\naccept_proxy = [\"127.0.0.0/8\"]";

#[tokio::test]
async fn whoever_sends_its_header_after_a_reload_is_served_by_the_rules_that_hold_then() {
    let [m1, m2] = named().await;
    let before = parse(&pool_with("a", &["m1"], EXPECTS, ""));
    let after = parse(&(pool("other", &["o8"]) + &pool_with("a", &["m2"], EXPECTS, "")));
    let mut stage = Stage::new(before, &[("m1", m1.address), ("m2", m2.address)]);
    let mut client = stage.client("a").await;
    stage.counted(|c| &c.service("a").accepted, 1).await;
    stage.adopt(after).await;
    client.write_all(&header()).await.expect("sent");
    assert_eq!(said(&mut client).await.as_deref(), Some("m2"));
}

#[tokio::test]
async fn whoever_sends_its_header_after_its_service_went_is_refused() {
    let [m1, _] = named().await;
    let before = parse(&pool_with("a", &["m1"], EXPECTS, ""));
    let mut stage = Stage::new(before, &[("m1", m1.address)]);
    let mut client = stage.client("a").await;
    let gone = stage.control.service("a").clone();
    stage.counted(|c| &c.service("a").accepted, 1).await;
    stage.adopt(another()).await;
    client.write_all(&header()).await.expect("sent");
    assert_eq!(said(&mut client).await, None);
    while gone.ended.get() != 1 {
        sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(
        (gone.refused_no_member.get(), gone.established.get()),
        (1, 0)
    );
}

/// `m1` takes so many at once.
fn limited(most: u32, before: &str) -> Topology {
    let mut topology = parse(&(before.to_owned() + &pool("a", &["m1"])));
    let pool = topology.pools.last_mut().expect("one");
    pool.members[0].max_connections = Some(count(most));
    topology
}

#[tokio::test]
async fn who_waits_in_the_queue_keeps_its_place_there() {
    let [m1, _] = named().await;
    let mut stage = Stage::new(limited(1, ""), &[("m1", m1.address)]);
    let (first, _) = stage.served("a").await;
    let mut second = stage.client("a").await;
    stage.counted(|c| &c.service("a").queued, 1).await;
    let mut third = stage.client("a").await;
    stage.counted(|c| &c.service("a").queued, 2).await;
    stage.adopt(limited(1, &pool("other", &["o8"]))).await;
    stage.adopt(limited(1, "")).await;
    drop(first);
    assert_eq!(said(&mut second).await.as_deref(), Some("m1"));
    let nothing = timeout(Duration::from_millis(50), said(&mut third)).await;
    assert!(nothing.is_err(), "it is not its turn: {nothing:?}");
    drop(second);
    assert_eq!(said(&mut third).await.as_deref(), Some("m1"));
    assert_eq!(stage.control.service("a").queued.get(), 2, "each once");
}

#[tokio::test]
async fn who_waits_in_the_queue_is_let_through_where_a_reload_makes_room() {
    let [m1, _] = named().await;
    let mut stage = Stage::new(limited(1, ""), &[("m1", m1.address)]);
    let (_first, _) = stage.served("a").await;
    let mut second = stage.client("a").await;
    stage.counted(|c| &c.service("a").queued, 1).await;
    stage.adopt(limited(2, &pool("other", &["o8"]))).await;
    assert_eq!(said(&mut second).await.as_deref(), Some("m1"));
    let mut third = stage.client("a").await;
    stage.counted(|c| &c.service("a").queued, 2).await;
    stage.adopt(parse(&pool("a", &["m1"]))).await;
    assert_eq!(said(&mut third).await.as_deref(), Some("m1"));
}

#[tokio::test]
async fn who_waits_in_the_queue_of_a_service_that_goes_is_refused_at_once() {
    let [m1, _] = named().await;
    let mut stage = Stage::new(limited(1, ""), &[("m1", m1.address)]);
    let (mut first, _) = stage.served("a").await;
    let mut waiting = Vec::new();
    for queued in 1..=3 {
        waiting.push(stage.client("a").await);
        stage.counted(|c| &c.service("a").queued, queued).await;
    }
    stage.adopt(another()).await;
    for client in &mut waiting {
        assert_eq!(said(client).await, None);
    }
    assert!(lives(&mut first).await);
}

#[tokio::test]
async fn listeners_come_and_go_beside_those_that_stay() {
    let [m1, m2] = named().await;
    let members = [("m1", m1.address), ("m2", m2.address)];
    let (a, b) = (pool("a", &["m1"]), pool("b", &["m2"]));
    let mut stage = Stage::new(parse(&a), &members);
    let at = stage.control.address("a");
    stage.adopt(parse(&format!("{b}{a}"))).await;
    assert_eq!(stage.control.address("a"), at);
    assert_eq!(stage.served("b").await.1, "m2");
    assert_eq!(stage.served("a").await.1, "m1");
    let was = stage.control.address("b");
    stage.adopt(parse(&a)).await;
    let refused = bounded(TcpStream::connect(was)).await;
    assert!(refused.is_err(), "nobody listens there any more");
    assert_eq!(stage.served("a").await.1, "m1");
}

#[tokio::test]
async fn a_listener_may_be_passed_from_one_service_to_another() {
    let [m1, m2] = named().await;
    let members = [("m1", m1.address), ("m2", m2.address)];
    let both = || parse(&(pool("a", &["m1"]) + &pool("b", &["m2"])));
    let mut stage = Stage::new(both(), &members);
    let (mut client, name) = stage.served("a").await;
    assert_eq!(name, "m1");
    let address = stage.control.address("a");
    let (mut adoption, done) = stage.control.adoption(both());
    let to = stage.control.pool("b").service(0);
    adoption.pass.push((Protocol::Tcp, address, to));
    stage.send_adoption(adoption);
    bounded(done).await.expect("adopted");
    assert_eq!(stage.served("a").await.1, "m2");
    assert!(lives(&mut client).await);
}

#[tokio::test]
async fn as_many_sessions_as_the_topology_in_force_allows_may_be_open() {
    let [m1, _] = named().await;
    let topology = || parse(&pool("a", &["m1"]));
    let mut stage = Stage::new(topology(), &[("m1", m1.address)]);
    let (mut first, _) = stage.served("a").await;
    stage.control.sessions = 1;
    stage.adopt(topology()).await;
    let turned_away = match bounded(TcpStream::connect(stage.control.address("a"))).await {
        Ok(mut client) => said(&mut client).await.is_none(),
        Err(_) => true,
    };
    assert!(turned_away);
    assert!(lives(&mut first).await);
    assert_eq!(stage.control.service("a").shed.get(), 1);
    stage.control.sessions = 2;
    stage.adopt(topology()).await;
    stage.served("a").await;
}

#[test]
fn who_waits_to_be_accepted_where_a_listener_closes_is_served_all_the_same() {
    runtime().expect("a runtime").block_on(async {
        let [m1, _] = named().await;
        let quiet = |before: &str| {
            let mut topology = parse(&(before.to_owned() + &pool("a", &["m1"])));
            let pool = topology.pools.last_mut().expect("one");
            pool.services[0].listen.clear();
            topology
        };
        let topology = parse(&pool("a", &["m1"]));
        let (mut control, plan, _reports) = Control::new(topology, &[("m1", m1.address)]);
        let address = control.address("a");
        let (worker, mut entrances) = Worker::new(plan);
        // Nobody accepts before this task waits for something.
        let clients: Vec<_> = (0..20)
            .map(|_| std::net::TcpStream::connect(address).expect("in the backlog"))
            .collect();
        let (adoption, _done) = control.adoption(quiet(&pool("other", &["o8"])));
        entrances.adopt(&worker, adoption);
        // And another one, before any of those who came in has gone on.
        let (adoption, _done) = control.adoption(quiet(""));
        entrances.adopt(&worker, adoption);
        assert!(std::net::TcpStream::connect(address).is_err());
        for client in clients {
            client.set_nonblocking(true).expect("set");
            let mut client = TcpStream::from_std(client).expect("a client");
            assert_eq!(said(&mut client).await.as_deref(), Some("m1"));
        }
        assert_eq!(control.service("a").established.get(), 20);
    });
}

#[test]
fn thousands_of_reloads_leave_nothing_behind() {
    const RELOADS: usize = 1_000;
    runtime().expect("a runtime").block_on(async {
        let [m1, m2] = named().await;
        let members = [("m1", m1.address), ("m2", m2.address)];
        let (mut control, plan, _reports) = Control::new(two(), &members);
        let address = control.address("a");
        let (worker, mut entrances) = Worker::new(plan);
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = bounded(TcpStream::connect(address))
                .await
                .expect("accepted");
            let name = said(&mut client).await.expect("a name");
            clients.push((client, name));
        }
        let mut snapshots = Vec::new();
        let mut counters = Vec::new();
        let mut topologies = Vec::new();
        let mut closed = Vec::new();
        let mut steady = None;
        for nth in 0..RELOADS {
            let topology = if nth % 2 == 0 { turned() } else { two() };
            let (adoption, _done) = control.adoption(topology);
            snapshots.push(Arc::downgrade(&adoption.snapshot));
            counters.push(Arc::downgrade(&adoption.counters));
            topologies.push(Arc::downgrade(&adoption.topology));
            entrances.adopt(&worker, adoption);
            tokio::task::yield_now().await;
            if nth % 2 == 0 {
                closed.push(control.address("other"));
            }
            if nth % 100 == 99 {
                let mut late = bounded(TcpStream::connect(address))
                    .await
                    .expect("accepted");
                said(&mut late).await.expect("a name");
                drop(late);
                while control.service("a").open() != 8 {
                    sleep(Duration::from_millis(1)).await;
                }
                let held = (
                    worker.registry().places(),
                    entrances.doors(),
                    worker.fronts(),
                );
                assert_eq!(*steady.get_or_insert(held), held, "after {nth}");
            }
        }
        assert_eq!(worker.fronts(), 1);
        assert_eq!(entrances.doors(), 1);
        let alive = |left: usize| assert_eq!(left, 1, "only the last");
        alive(
            snapshots
                .iter()
                .filter(|one| one.strong_count() > 0)
                .count(),
        );
        alive(counters.iter().filter(|one| one.strong_count() > 0).count());
        alive(
            topologies
                .iter()
                .filter(|one| one.strong_count() > 0)
                .count(),
        );
        let left = listening(&closed);
        assert!(left < RELOADS / 100, "{left} that were closed still listen");
        for (client, name) in &mut clients {
            assert!(lives(client).await, "with {name}");
        }
        let (adoption, _done) = control.adoption(without_m1());
        entrances.adopt(&worker, adoption);
        let kept = clients.iter().filter(|(_, name)| name == "m2").count() as u32;
        assert_eq!(control.load("m2"), kept);
    });
}

/// How many of these somebody listens at; others may have a port by now that was one of them.
fn listening(addresses: &[SocketAddr]) -> usize {
    const LISTEN: &str = "0A";
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("a list of sockets");
    let ports: Vec<u16> = sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(3) == Some(&LISTEN))
        .filter_map(|words| u16::from_str_radix(words[1].split_once(':')?.1, 16).ok())
        .collect();
    assert!(!ports.is_empty(), "the test's own");
    addresses
        .iter()
        .filter(|at| ports.contains(&at.port()))
        .count()
}
