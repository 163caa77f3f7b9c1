//! What people and other programs are told.

use twinpool::health::Verdict;

use crate::harness::*;

#[tokio::test]
async fn why_status_and_events_tell_of_a_death() {
    let (mut a, b) = (Member::start("a").await, Member::start("b").await);
    let daemon = Daemon::start(Setup::of(&Pool::of([&a, &b]))).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    for arguments in [&["status"][..], &["why", "p"], &["why", "p/a"], &["events"]] {
        let told = daemon.done(arguments).await;
        assert!(told.contains("down"), "{arguments:?}: {told}");
        assert!(told.contains("refused"), "{arguments:?}: {told}");
    }
    let unknown = daemon.command(&["why", "p/c"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
}

#[tokio::test]
async fn http_tells_whether_users_can_be_served() {
    let mut a = Member::start("a").await;
    let observe = free_address();
    let setup = Setup::of(&Pool::of([&a])).observe(observe);
    let daemon = Daemon::start(setup).await;
    let code = async |path: &str| http(observe, path).await.0;
    for path in ["/healthz", "/readyz", "/health/p", "/v1/status", "/metrics"] {
        assert_eq!(code(path).await, 200, "{path}");
    }
    assert_eq!(code("/health/q").await, 404);
    let (_, metrics) = http(observe, "/metrics").await;
    assert!(metrics.contains("\ntwinpool_"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    assert_eq!(code("/health/p").await, 503);
    // The daemon itself is well.
    assert_eq!(code("/healthz").await, 200);
    assert_eq!(code("/readyz").await, 200);
}
