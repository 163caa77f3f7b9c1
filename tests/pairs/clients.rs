//! What single clients see while their pool moves.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use twinpool::observe::status::HomePhase;

use crate::harness::*;
use crate::korea::*;

/// Enough clients that some go home with almost every share.
const CLIENTS: u8 = 32;

fn client(n: u8) -> IpAddr {
    [127, 0, 0, 100 + n].into()
}

async fn site_for(source: IpAddr, service: SocketAddr) -> &'static str {
    let mut client = Client::connect_from(source, service).await;
    site_of(&client.member().await)
}

#[tokio::test]
async fn over_a_ramp_each_client_moves_once_and_not_all_at_once() {
    let korea = Plan::manual()
        .rule("ramp", "\"1500ms\"")
        .workers(2)
        .start()
        .await;
    let address = korea.address(SEOUL).await;
    korea.daemon.done(&["failover", SEOUL]).await;
    for n in 0..CLIENTS {
        assert_eq!(site_for(client(n), address).await, "busan");
    }
    korea.daemon.done(&["failback", SEOUL]).await;
    let mut is_home = [false; CLIENTS as usize];
    let mut homes = vec![0];
    while korea.home(SEOUL).await.phase == HomePhase::Returning {
        for (n, is_home) in (0..).zip(&mut is_home) {
            let home = site_for(client(n), address).await == "seoul";
            assert!(home || !*is_home, "client {n} went away again");
            *is_home = home;
        }
        homes.push(is_home.iter().filter(|home| **home).count());
    }
    for n in 0..CLIENTS {
        assert_eq!(site_for(client(n), address).await, "seoul");
    }
    assert!(homes.is_sorted());
    // Some, then more, then all.
    homes.dedup();
    assert!(homes.len() >= 4, "{homes:?}");
}

#[tokio::test]
async fn who_goes_home_first_is_the_same_every_time() {
    let korea = Plan::manual().rule("ramp", "\"12s\"").start().await;
    let address = korea.address(SEOUL).await;
    let mut rounds = Vec::new();
    for _ in 0..2 {
        korea.daemon.done(&["failover", SEOUL, "--now"]).await;
        korea.daemon.done(&["failback", SEOUL]).await;
        korea
            .until(SEOUL, "some way home", |home| home.share >= 20)
            .await;
        rounds.push(those_home(&korea, address).await);
    }
    rounds.sort_by_key(|(share, _)| *share);
    let [(_, fewer), (_, more)] = <[_; 2]>::try_from(rounds).expect("two rounds");
    assert!(!fewer.is_empty() && more.len() < usize::from(CLIENTS));
    assert!(fewer.iter().all(|n| more.contains(n)), "{fewer:?} {more:?}");
}

/// Who is home at a share that stayed as it was meanwhile.
async fn those_home(korea: &Korea, address: SocketAddr) -> (u8, Vec<u8>) {
    eventually("a share that stays for a moment", async || {
        let before = korea.home(SEOUL).await.share;
        let mut home = Vec::new();
        for n in 0..CLIENTS {
            if site_for(client(n), address).await == "seoul" {
                home.push(n);
            }
        }
        let after = korea.home(SEOUL).await.share;
        (before == after).then_some((before, home))
    })
    .await
}

#[tokio::test]
async fn the_twins_members_let_arrivals_in_at_their_pace_and_refuse_none() {
    let korea = Plan::manual()
        .rule("arrivals", "10")
        .members(1)
        .start()
        .await;
    let address = korea.address(SEOUL).await;
    korea.daemon.done(&["failover", SEOUL]).await;
    let began = Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..30 {
        let mut client = Client::connect(address).await;
        client.send(b"who\n").await;
        waiting.push(client);
    }
    // The twin's own users do not wait behind them.
    let own = Instant::now();
    assert_eq!(site_at(korea.address(BUSAN).await).await, "busan");
    assert!(
        own.elapsed() < Duration::from_millis(500),
        "{:?}",
        own.elapsed()
    );
    for client in &mut waiting {
        assert_eq!(client.line().await.expect("an answer"), "b1:who");
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1_500), "{took:?}");
    assert!(korea.home(SEOUL).await.arrivals_held > 0);
    let status = korea.daemon.status().await;
    let totals = status.pool(SEOUL).expect("the pool").services[0].totals;
    assert_eq!(totals.refused(), 0, "{totals:?}");
}
