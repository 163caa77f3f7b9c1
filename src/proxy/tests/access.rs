//! What a worker hands to the access log, and what happens where there is no room for it.

use super::stage::Stage;
use super::*;
use crate::log::access::Queue;

#[tokio::test]
async fn a_line_that_finds_no_room_is_counted_and_costs_no_session() {
    let home = Member::named("home").await;
    let (sink, queue) = Sink::of(2);
    let bench = Bench::told(&[&home], sink);
    for _ in 0..5 {
        assert_eq!(bench.served().await.1, "home");
    }
    bench.counted(|b| &b.service().ended, 5).await;
    assert_eq!(bench.counters.access_dropped.get(), 3);
    let lines = queue.lines();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["instance"], "here");
        assert_eq!(line["bytes_out"], "home".len());
    }
    // There is room again.
    assert_eq!(bench.served().await.1, "home");
    bench.counted(|b| &b.service().ended, 6).await;
    assert_eq!(bench.counters.access_dropped.get(), 3);
    assert_eq!(queue.lines().len(), 1);
}

#[tokio::test]
async fn a_session_that_ends_with_its_worker_is_told_to_have_been_stopped() {
    let home = Member::named("home").await;
    let (sink, queue) = Sink::of(2);
    let bench = Bench::told(&[&home], sink);
    let (_client, name) = bench.served().await;
    assert_eq!(name, "home");
    drop(bench);
    let lines = queue.lines();
    let line: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
    assert_eq!(
        (&line["ended"], &line["phase"]),
        (&"stopped".into(), &"relay".into())
    );
}

/// The next line of a session that ended, by pool, member, and who ended it.
async fn next(queue: &Queue) -> [String; 3] {
    let told = async {
        loop {
            if let Some(line) = queue.lines().pop() {
                return serde_json::from_str(&line).expect("JSON");
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let line: serde_json::Value = bounded(told).await;
    ["pool", "member", "ended"].map(|key| line[key].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn sessions_are_told_by_the_names_that_they_came_by_whatever_topologies_come() {
    let [m1, m2] = reload::named().await;
    let members = [("m1", m1.address), ("m2", m2.address)];
    let mut stage = Stage::new(reload::two(), &members);
    let (untold, _) = stage.served("a").await;
    let (sink, queue) = Sink::of(8);
    let instance = "here".into();
    stage.control.access = Some(AccessLog { sink, instance });
    stage.adopt(reload::turned()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(stage.served("a").await);
    }
    clients.sort_by(|a, b| a.1.cmp(&b.1));
    let (one, _) = clients.remove(0);
    stage.adopt(reload::two()).await;
    drop(one);
    assert_eq!(next(&queue).await, ["a", "a/m1", "client"]);
    drop(untold);
    stage.counted(|c| &c.service("a").ended, 2).await;
    assert!(queue.lines().is_empty(), "it came before there was a log");
    let mut topology = reload::two();
    topology.pools[0].drain_deadline = Duration::ZERO;
    stage.adopt(topology).await;
    stage.adopt(reload::without_m1()).await;
    assert_eq!(next(&queue).await, ["a", "a/m1", "removed"]);
    // Turned off, it tells of those who came before.
    stage.control.access = None;
    stage.adopt(reload::without_m1()).await;
    let (later, _) = stage.served("a").await;
    drop(later);
    stage.counted(|c| &c.service("a").ended, 4).await;
    assert!(queue.lines().is_empty(), "it came when there was none");
    let (other, _) = clients.pop().expect("some are left");
    drop(other);
    assert_eq!(next(&queue).await, ["a", "a/m2", "client"]);
}
