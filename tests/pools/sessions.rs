//! The byte path: what goes in comes out, and ends as it ended.

use std::time::Duration;

use crate::harness::*;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn half_close_by_the_client_is_kept() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let mut client = Client::connect(daemon.address().await).await;
    client.send(b"sink\n").await;
    client.send_pattern(100_000).await;
    client.finish().await;
    assert_eq!(client.line().await.expect("an answer"), "a:sunk 100000");
    assert_eq!(client.ended().await, Ended::Orderly);
}

#[tokio::test]
async fn half_close_by_the_member_is_kept() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.ask("half").await, "half");
    assert_eq!(client.ended().await, Ended::Orderly);
    client.send(b"one\n").await;
    assert_eq!(a.heard(1).await, ["one"]);
    client.send(b"two\n").await;
    assert_eq!(a.heard(2).await, ["one", "two"]);
    drop(client);
    daemon.counted("the session's end", |t| t.ended == 1).await;
    assert_eq!(daemon.totals().await.reset_by_member, 0);
    assert_eq!(daemon.totals().await.reset_by_client, 0);
}

#[tokio::test]
async fn an_orderly_end_stays_orderly() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.ask("end").await, "bye");
    assert_eq!(client.ended().await, Ended::Orderly);
    drop(client);
    daemon.counted("the session's end", |t| t.ended == 1).await;
    let totals = daemon.totals().await;
    assert_eq!((totals.reset_by_member, totals.reset_by_client), (0, 0));
}

#[tokio::test]
async fn a_transfer_cut_by_the_member_ends_with_a_reset() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    for length in [0, 10, 100_000, 5 * MIB] {
        let mut client = Client::connect(daemon.address().await).await;
        client.send(format!("cut {length}\n").as_bytes()).await;
        assert_eq!(client.ended().await, Ended::Reset, "after {length} bytes");
    }
    daemon
        .counted("four cuts", |t| t.reset_by_member == 4)
        .await;
}

#[tokio::test]
async fn a_transfer_cut_by_the_client_reaches_the_member_as_a_reset() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let mut client = Client::connect(daemon.address().await).await;
    client.send(b"sink\n").await;
    client.send_pattern(100_000).await;
    client.reset();
    daemon.counted("the cut", |t| t.reset_by_client == 1).await;
    eventually("the member's side to break", async || {
        (a.broken() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bulk_from_the_member_arrives_intact() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let mut client = Client::connect(daemon.address().await).await;
    let length = 64 * MIB;
    client.send(format!("send {length}\n").as_bytes()).await;
    client.receive_pattern(length).await;
    assert_eq!(client.ask("still").await, "a:still");
}

#[tokio::test]
async fn bulk_from_the_client_arrives_intact() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let mut client = Client::connect(daemon.address().await).await;
    let length = 64 * MIB;
    client.send(b"sink\n").await;
    client.send_pattern(length).await;
    client.finish().await;
    let answer = client.line().await.expect("an answer");
    assert_eq!(answer, format!("a:sunk {length}"));
    drop(client);
    daemon.counted("the session's end", |t| t.ended == 1).await;
    let sent = length as u64 + "sink\n".len() as u64;
    assert_eq!(daemon.totals().await.bytes_in, sent);
    assert_eq!(daemon.totals().await.bytes_out, answer.len() as u64 + 1);
}

#[tokio::test]
async fn bulk_in_both_directions_at_once_arrives_intact() {
    let a = Member::start_as("a", Speaks::Raw).await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let client = Client::connect(daemon.address().await).await;
    let length = 32 * MIB;
    assert_eq!(client.send_and_receive_pattern(length).await, length);
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_it_and_holds_the_member_back_meanwhile() {
    let a = Member::start("a").await;
    let daemon = Daemon::start(Setup::of(&Pool::of([&a]))).await;
    let mut client = Client::connect_narrow(daemon.address().await).await;
    let length = 48 * MIB;
    client.send(format!("send {length}\n").as_bytes()).await;
    // It reads nothing until the member's kernel takes no more.
    let mut last = 0;
    let stuck_at = eventually("the member to be held back", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let sent = a.sent();
        (sent > 0 && sent == std::mem::replace(&mut last, sent)).then_some(sent)
    })
    .await;
    assert!(stuck_at < length as u64, "all of it is held somewhere");
    client.receive_pattern(length).await;
    assert_eq!(client.ask("still").await, "a:still");
}

#[tokio::test]
async fn many_sessions_at_once_keep_their_bytes_apart() {
    let [a, b] = [Member::start("a").await, Member::start("b").await];
    let daemon = Daemon::start(Setup::of(&Pool::of([&a, &b])).workers(2)).await;
    let address = daemon.address().await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::connect(address).await);
    }
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("{number}.{round}\n").as_bytes()).await;
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.line().await.expect("an answer");
            let (_, echo) = answer.split_once(':').expect("a member's answer");
            assert_eq!(echo, format!("{number}.{round}"));
        }
    }
}

#[tokio::test]
async fn an_idle_session_ends_with_a_reset_and_a_busy_one_does_not() {
    let a = Member::start("a").await;
    let pool = Pool::of([&a]).service("idle_timeout = \"1s\"");
    let daemon = Daemon::start(Setup::of(&pool)).await;
    let address = daemon.address().await;
    let mut idle = Client::connect(address).await;
    let mut busy = Client::connect(address).await;
    assert_eq!(idle.member().await, "a");
    let began = std::time::Instant::now();
    let ended = async {
        let ended = idle.ended().await;
        (ended, began.elapsed())
    };
    let go_on = async {
        loop {
            assert_eq!(busy.member().await, "a");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (ended, after) = tokio::select! {
        ended = ended => ended,
        () = go_on => unreachable!("it goes on for ever"),
    };
    assert_eq!(ended, Ended::Reset);
    assert!(
        after >= Duration::from_millis(900),
        "already after {after:?}"
    );
    assert_eq!(busy.member().await, "a");
    daemon.counted("one idle", |t| t.ended_idle == 1).await;
}
