//! An instance that is stopped while its successor takes over: nobody serves in the end.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use crate::BINARY;
use crate::harness::*;
use crate::line::Line;
use crate::refused::put;

/// An upgrade of this program takes some tens of milliseconds.
const MOMENTS: u64 = 16;
const FROM_ONE_TO_THE_NEXT: Duration = Duration::from_millis(9);

async fn nobody_listens(address: SocketAddr) {
    eventually("nobody to listen", async || {
        Client::try_connect(address).await.err().map(drop)
    })
    .await;
}

#[tokio::test]
async fn who_stops_it_before_the_successor_is_there_has_no_successor() {
    let a = Member::start("a").await;
    let dir = Scratch::new();
    let program = dir.path().join("twinpool");
    std::fs::copy(BINARY, &program).expect("a copy");
    let mut line = Line::start(Setup::of(&Pool::of([&a])).program(&program)).await;
    let address = line.daemon.address().await;
    put(
        &program,
        &format!("#!/bin/sh\nsleep 1\nexec {BINARY} \"$@\"\n"),
    );
    let stop = async {
        sleep(Duration::from_millis(500)).await;
        line.daemon.signal(Signal::TERM);
    };
    let (refused, ()) = tokio::join!(line.daemon.command(&["upgrade"]), stop);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("is stopping"), "{refused:?}");
    nobody_listens(address).await;
    assert!(line.daemon.exited().await.success());
}

#[tokio::test]
async fn whenever_it_is_stopped_in_an_upgrade_nobody_serves_or_the_successor_does() {
    let a = Member::start("a").await;
    let mut refusals = 0;
    for moment in 0..MOMENTS {
        let mut line = Line::start(Setup::of(&Pool::of([&a]))).await;
        let address = line.daemon.address().await;
        let stop = async {
            sleep(FROM_ONE_TO_THE_NEXT * moment as u32).await;
            line.daemon.signal(Signal::TERM);
        };
        let (said, ()) = tokio::join!(line.daemon.command(&["upgrade"]), stop);
        assert!(line.daemon.exited().await.success(), "{said:?}");
        let log = line.daemon.log();
        let together = log.contains("told to stop: stopping process");
        match said.code {
            Some(0) => line.has_followed(&said.stdout),
            _ => refusals += 1,
        }
        if said.code == Some(0) && !together {
            // It had nothing to do with it any more.
            assert_eq!(served_by(address).await, "a", "{log}");
        } else {
            nobody_listens(address).await;
        }
        if together {
            line.gone().await;
        }
    }
    assert!(refusals > 0, "every upgrade was over before the stop came");
}
