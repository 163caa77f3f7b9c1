//! Pools below their quorum.

use twinpool::health::Verdict;
use twinpool::pairing::Condition;

use crate::harness::*;

async fn with_one_of_three_left(below: &str) -> (Daemon, [Member; 3]) {
    let mut members = [
        Member::start("a").await,
        Member::start("b").await,
        Member::start("c").await,
    ];
    let pool = Pool::of(&members).quorum("2").key(below);
    let daemon = Daemon::start(Setup::of(&pool)).await;
    members[0].die().await;
    daemon.verdict("a", Verdict::Down).await;
    let condition = async || daemon.status().await.pool("p").expect("the pool").condition;
    assert_eq!(condition().await, Condition::Degraded);
    members[1].die().await;
    daemon.verdict("b", Verdict::Down).await;
    assert_eq!(condition().await, Condition::Lost);
    (daemon, members)
}

#[tokio::test]
async fn below_quorum_those_that_answer_go_on_serving() {
    let (daemon, _members) = with_one_of_three_left("").await;
    assert_eq!(served_by(daemon.address().await).await, "c");
}

#[tokio::test]
async fn below_quorum_everybody_is_refused_where_that_is_wanted() {
    let (daemon, mut members) = with_one_of_three_left("below_quorum = \"refuse\"").await;
    assert_eq!(turned_away(daemon.address().await).await, Ended::Reset);
    members[1].resume().await;
    daemon.verdict("b", Verdict::Up).await;
    assert_ne!(served_by(daemon.address().await).await, "a");
}
