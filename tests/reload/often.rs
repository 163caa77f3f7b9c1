//! Thousands of reloads under load, each of which changes something.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::harness::*;
use crate::process::Process;
use crate::write;

/// How many, unless `TWINPOOL_RELOADS` says otherwise.
const RELOADS: usize = 1_000;
/// After so many whatever is to grow for good has grown.
const WARM: usize = 200;
/// Sessions that no change concerns.
const LONG: usize = 60;
/// Clients that come and go.
const COMERS: usize = 4;
/// What the allocator may keep for itself, or find new places for.
const SLACK: u64 = 6 << 20;

/// The file in one of many ways. The members `a` and `b` of the pool `p`, and its listener, are in
/// all of them.
struct Many<'a> {
    p: [&'a Member; 4],
    listen: String,
    second: String,
}

impl Many<'_> {
    fn setup(&self, dice: &mut StdRng) -> Setup {
        let [a, b, c, d] = self.p;
        let weight = dice.random_range(1..=9);
        let mut members = vec![a, b];
        if dice.random_bool(0.5) {
            members.push(c);
        }
        if dice.random_bool(0.3) {
            members.insert(0, d);
        }
        if dice.random_bool(0.5) {
            members.reverse();
        }
        let keys = format!("weight = {weight}");
        let pool = members
            .iter()
            .fold(Pool::of([]), |pool, member| pool.member(member, &keys));
        let check = match dice.random_bool(0.2) {
            true => RARE,
            false => FAST,
        };
        let listen = match dice.random_bool(0.5) {
            true => format!("[{}, {}]", self.listen, self.second),
            false => self.listen.clone(),
        };
        let pool = pool
            .listen(&listen)
            .check(check)
            .key("drain_deadline = \"300ms\"");
        let other = Pool::of([c, d]).named("other").listen("[]");
        match dice.random_range(0..4) {
            0 => Setup::of(&other).pool(&pool),
            1 => Setup::of(&pool).pool(&other),
            _ => Setup::of(&pool),
        }
    }
}

#[tokio::test]
async fn thousands_of_reloads_under_load_fail_no_connection_and_end_no_session() {
    let reloads = std::env::var("TWINPOOL_RELOADS").ok();
    let reloads = reloads.and_then(|n| n.parse().ok()).unwrap_or(RELOADS);
    LocalSet::new().run_until(reload_often(reloads)).await;
}

async fn reload_often(reloads: usize) {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let [c, d] = [Member::start("c").await, Member::start("d").await];
    let (one, two) = (free_address(), free_address());
    let many = Many {
        p: [&a, &b, &c, &d],
        listen: format!("\"{one}\""),
        second: format!("\"{two}\""),
    };
    let stays = Pool::of([&a, &b]).listen(&many.listen);
    let daemon = Daemon::start(Setup::of(&stays).workers(2)).await;
    let process = Process::of(&daemon);
    let mut long = Vec::new();
    for _ in 0..LONG {
        let mut client = Client::connect(one).await;
        let member = client.member().await;
        long.push((client, member));
    }
    let (came, stop) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(false)));
    let comers: Vec<_> = (0..COMERS)
        .map(|_| {
            let (came, stop) = (came.clone(), stop.clone());
            spawn_local(async move {
                while !stop.get() {
                    // Whoever serves it may be gone from the file before it asks again: once.
                    served_by(one).await;
                    came.set(came.get() + 1);
                }
            })
        })
        .collect();
    let mut dice = StdRng::seed_from_u64(5);
    let mut steady = None;
    for round in 0..reloads {
        write(&daemon, &many.setup(&mut dice).workers(2));
        reloaded(&daemon).await;
        if round % 97 == 0 {
            let (client, member) = &mut long[round % LONG];
            assert_eq!(client.member().await, *member, "after {round} reloads");
        }
        if round + 1 == WARM {
            steady = Some((process.descriptors(), process.resident()));
        }
    }
    stop.set(true);
    for comer in comers {
        comer.await.expect("everybody was served");
    }
    for (client, member) in &mut long {
        assert_eq!(client.member().await, *member, "a long session ended");
    }
    write(&daemon, &Setup::of(&stays).workers(2));
    reloaded(&daemon).await;
    let status = daemon.status().await;
    let line = &status.pool("p").expect("the pool").services[0].totals;
    assert_eq!(line.reset_by_member + line.ended_by_us, 0, "{line:?}");
    assert_eq!(line.accepted, came.get() + LONG as u64);
    println!("{reloads} reloads, {} sessions came and went", came.get());
    let Some((descriptors, resident)) = steady else {
        return;
    };
    // Sessions of members that are gone end within their deadline.
    sleep(Duration::from_millis(900)).await;
    assert!(
        process.descriptors() <= descriptors + 8,
        "{} descriptors, {descriptors} before",
        process.descriptors()
    );
    let grown = process.resident().saturating_sub(resident);
    assert!(
        grown <= SLACK,
        "{grown} bytes more than after {WARM} reloads"
    );
}

/// Has it reload, as `twinpool reload` does, but without a process each time.
async fn reloaded(daemon: &Daemon) {
    let exchange = async {
        let mut stream = UnixStream::connect(daemon.socket())
            .await
            .expect("the socket");
        let request = "POST /v1/commands/reload HTTP/1.1\r\nHost: twinpool\r\nContent-Length: 2\r\n\
                       Connection: close\r\n\r\n{}";
        stream
            .write_all(request.as_bytes())
            .await
            .expect("the request sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    let answer = timeout(PATIENCE, exchange)
        .await
        .expect("an answer in time");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
