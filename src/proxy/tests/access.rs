//! What a worker hands to the access log, and what happens where there is no room for it.

use super::*;

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
