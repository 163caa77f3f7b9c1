//! What clients see of an upgrade: nothing.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;
use twinpool::observe::RunState;
use twinpool::observe::status::HomePhase;

use crate::BINARY;
use crate::harness::*;
use crate::line::Line;

/// Upgrades in a row.
const UPGRADES: usize = 5;
/// Clients that come and go meanwhile.
const COMERS: usize = 4;

#[tokio::test]
async fn no_connection_fails_over_several_upgrades_and_long_sessions_live() {
    LocalSet::new().run_until(upgrade_often()).await;
}

async fn upgrade_often() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let mut line = Line::start(Setup::of(&Pool::of([&a, &b])).workers(2)).await;
    let address = line.daemon.address().await;
    let mut long = Vec::new();
    let (came, stop) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(false)));
    let comers: Vec<_> = (0..COMERS)
        .map(|_| {
            let (came, stop) = (came.clone(), stop.clone());
            spawn_local(async move {
                while !stop.get() {
                    served_by(address).await;
                    came.set(came.get() + 1);
                }
            })
        })
        .collect();
    let mut pids = BTreeSet::from([line.serving()]);
    for _ in 0..UPGRADES {
        let mut client = Client::connect(address).await;
        let member = client.member().await;
        long.push((client, member));
        line.upgrade().await;
        assert!(pids.insert(line.serving()), "another process serves");
        let before = came.get();
        eventually("more connections", async || {
            (came.get() > before + 50).then_some(())
        })
        .await;
    }
    let status = line.daemon.status().await;
    assert_eq!(status.state, RunState::Serving);
    assert_eq!(status.earlier.len(), UPGRADES, "{:?}", status.earlier);
    stop.set(true);
    for comer in comers {
        comer.await.expect("everybody was served");
    }
    for (client, member) in &mut long {
        assert_eq!(client.member().await, *member, "a long session ended");
    }
    drop(long);
    line.drained().await;
    eventually("nobody to drain", async || {
        let earlier = line.daemon.status().await.earlier;
        earlier.is_empty().then_some(())
    })
    .await;
    assert_eq!(a.broken() + b.broken(), 0);
}

#[tokio::test]
async fn verdicts_decisions_and_redirects_go_on_as_they_were() {
    let [s, t, b] = [
        Member::start("s").await,
        Member::start("t").await,
        Member::start("b").await,
    ];
    let fe = Pool::of([&s, &t]).named("fe-seoul").key("site = \"seoul\"");
    let other = Pool::of([&b]).named("fe-busan").key("site = \"busan\"");
    let setup = Setup::new()
        .text("[sites.seoul]\nregion = \"north\"\n[sites.busan]\nregion = \"south\"")
        .pool(&fe)
        .pool(&other)
        .text("[pairs.korea]\npools = [\"fe-seoul\", \"fe-busan\"]\nramp = \"100ms\"");
    let mut line = Line::start(setup).await;
    let address = line.daemon.address_of("fe-seoul", "line").await;
    let drain = ["drain", "fe-seoul/t", "--reason", "new disks"];
    line.daemon.done(&drain).await;
    line.daemon.done(&["failover", "fe-seoul", "--now"]).await;
    assert_eq!(served_by(address).await, "b");
    let before = line.daemon.status().await;
    let told = line.daemon.done(&["events"]).await;
    line.upgrade().await;
    let after = line.daemon.status().await;
    assert_eq!(after.state, RunState::Serving, "it does not begin anew");
    assert_eq!(served_by(address).await, "b");
    assert_eq!(after.pairs[0].generation, before.pairs[0].generation);
    assert_eq!(after.pairs[0].pools[0].phase, HomePhase::Away);
    for (was, is) in before.pools.iter().zip(&after.pools) {
        assert_eq!(was.condition, is.condition);
        for (was, is) in was.members.iter().zip(&is.members) {
            assert_eq!((was.mode, &was.operator), (is.mode, &is.operator));
            for (was, is) in was.services.iter().zip(&is.services) {
                assert_eq!(was.verdict, is.verdict);
                assert_eq!(was.since, is.since, "a verdict keeps its age");
            }
        }
    }
    let now_told = line.daemon.done(&["events"]).await;
    let more = now_told
        .strip_prefix(&told)
        .expect("all that was told before");
    assert_eq!(more.lines().count(), 1, "nothing but the upgrade: {more}");
    assert!(more.contains("took over from process"), "{more}");
    // The last process decides, and the others' records are its own.
    line.daemon.done(&["failback", "fe-seoul", "--now"]).await;
    assert_eq!(served_by(address).await, "s");
}

#[tokio::test]
async fn a_changed_file_is_put_in_force_by_the_upgrade() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let mut line = Line::start(Setup::of(&Pool::of([&a]))).await;
    let address = line.daemon.address().await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.member().await, "a");
    // Even what a reload could not change.
    let other = Setup::of(&Pool::of([&b])).workers(2);
    std::fs::write(line.daemon.config(), other.toml(line.daemon.dir())).expect("the file");
    let said = line.upgrade().await;
    assert!(said.contains("workers"), "{said}");
    assert!(said.contains("+ member p/b"), "{said}");
    assert_eq!(line.daemon.address().await, address, "the free port stays");
    assert_eq!(served_by(address).await, "b");
    assert_eq!(client.member().await, "a", "who was with it stays");
}

#[tokio::test]
async fn a_flow_over_udp_goes_on_with_its_member_and_loses_nothing() {
    let a = Member::start("a").await;
    let sockets: Vec<UdpSocket> = (0..2)
        .map(|_| UdpSocket::bind((a.address().ip(), 0)).expect("a socket"))
        .collect();
    let alive = format!(
        "{{ kind = \"tcp\", port = {}, interval = \"100ms\" }}",
        a.address().port()
    );
    let pool = sockets.iter().zip(["one", "two"]).fold(
        Pool::of([]).over_udp().check(&alive),
        |pool, (socket, name)| {
            pool.member_named(name, socket.local_addr().expect("an address"), "")
        },
    );
    let mut line = Line::start(Setup::of(&pool).workers(2)).await;
    let address = line.daemon.address().await;
    for socket in &sockets {
        socket.set_nonblocking(true).expect("set");
    }
    let clients: Vec<UdpSocket> = (0..20)
        .map(|_| {
            let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            client.connect(address).expect("connected");
            client.set_nonblocking(true).expect("set");
            client
        })
        .collect();
    // Each member echoes, and it is seen from which port the flow comes.
    let echo = async |client: &UdpSocket, said: &[u8]| {
        client.send(said).expect("sent");
        eventually("an echo", async || {
            let mut bytes = [0; 64];
            for (at, socket) in sockets.iter().enumerate() {
                if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    assert_eq!(&bytes[..length], said);
                    socket.send_to(said, from).expect("sent");
                    return Some((at, from));
                }
            }
            None
        })
        .await
    };
    let heard = async |client: &UdpSocket, said: &[u8]| {
        eventually("the answer", async || {
            let mut bytes = [0; 64];
            let length = client.recv(&mut bytes).ok()?;
            assert_eq!(&bytes[..length], said);
            Some(())
        })
        .await;
    };
    let mut ways = Vec::new();
    for client in &clients {
        let way = echo(client, b"one").await;
        heard(client, b"one").await;
        ways.push(way);
    }
    for round in 0..3 {
        if round == 1 {
            // New sockets at the address would have the kernel spread all flows anew.
            let more = Setup::of(&pool).workers(4).toml(line.daemon.dir());
            std::fs::write(line.daemon.config(), more).expect("the file");
        }
        line.upgrade().await;
        let said = format!("after {round}");
        for (client, way) in clients.iter().zip(&ways) {
            assert_eq!(echo(client, said.as_bytes()).await, *way);
            heard(client, said.as_bytes()).await;
        }
    }
    line.drained().await;
    let totals = line.daemon.totals().await;
    assert_eq!((totals.accepted, totals.ended), (20, 0), "{totals:?}");
}

#[tokio::test]
async fn what_flows_carry_while_they_go_over_arrives() {
    LocalSet::new().run_until(carry_while_they_go_over()).await;
}

async fn carry_while_they_go_over() {
    let a = Member::start("a").await;
    let member = UdpSocket::bind((a.address().ip(), 0)).expect("a socket");
    member.set_nonblocking(true).expect("set");
    let alive = format!(
        "{{ kind = \"tcp\", port = {}, interval = \"100ms\" }}",
        a.address().port()
    );
    let pool = Pool::of([]).over_udp().check(&alive).member_named(
        "one",
        member.local_addr().expect("an address"),
        "",
    );
    let mut line = Line::start(Setup::of(&pool).workers(2)).await;
    let address = line.daemon.address().await;
    let clients: Vec<UdpSocket> = (0..20)
        .map(|_| {
            let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            client.connect(address).expect("connected");
            client.set_nonblocking(true).expect("set");
            client
        })
        .collect();
    let (sent, back) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(0_u64)));
    let stop = Rc::new(Cell::new(false));
    let carrying = spawn_local({
        let (sent, back, stop) = (sent.clone(), back.clone(), stop.clone());
        async move {
            let mut bytes = [0; 64];
            loop {
                if !stop.get() {
                    for client in &clients {
                        client.send(b"word").expect("sent");
                        sent.set(sent.get() + 1);
                    }
                }
                while let Ok((length, from)) = member.recv_from(&mut bytes) {
                    member.send_to(&bytes[..length], from).expect("sent");
                }
                for client in &clients {
                    while client.recv(&mut bytes).is_ok() {
                        back.set(back.get() + 1);
                    }
                }
                // So few that no buffer is ever full.
                sleep(Duration::from_millis(2)).await;
            }
        }
    });
    eventually("flows", async || (back.get() > 200).then_some(())).await;
    for _ in 0..UPGRADES {
        let before = back.get();
        line.upgrade().await;
        eventually("more of them", async || {
            (back.get() > before + 200).then_some(())
        })
        .await;
    }
    stop.set(true);
    eventually(&format!("all {} datagrams", sent.get()), async || {
        (back.get() == sent.get()).then_some(())
    })
    .await;
    carrying.abort();
}

#[tokio::test]
async fn the_program_that_is_on_disk_by_then_is_what_takes_over() {
    let a = Member::start("a").await;
    let dir = Scratch::new();
    let program = dir.path().join("twinpool");
    std::fs::copy(BINARY, &program).expect("a copy");
    let mut line = Line::start(Setup::of(&Pool::of([&a])).program(&program)).await;
    // As a package does it.
    let new = dir.path().join("new");
    std::fs::copy(BINARY, &new).expect("a copy");
    std::fs::rename(&new, &program).expect("in its place");
    line.upgrade().await;
    let running = std::fs::read_link(format!("/proc/{}/exe", line.serving()));
    assert_eq!(running.expect("its program"), program);
    line.drained().await;
    // A signal does the same.
    let first = line.serving();
    line.signal(rustix::process::Signal::USR2);
    let log = eventually("another process to serve", async || {
        let log = line.daemon.log();
        let told = log
            .lines()
            .find(|told| told.contains("SIGUSR2: upgraded"))?;
        Some(told.to_owned())
    })
    .await;
    line.has_followed(&log);
    assert_ne!(line.serving(), first);
    assert_eq!(served_by(line.daemon.address().await).await, "a");
}
