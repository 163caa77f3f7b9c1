//! What people and other programs are told.

use twinpool::health::Verdict;

use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{OpenMetricsType, OpenMetricsValue};

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

#[tokio::test]
async fn the_page_of_metrics_is_open_metrics_and_has_measured_what_went_on() {
    let mut a = Member::start("a").await;
    let observe = free_address();
    let setup = Setup::of(&Pool::of([&a])).observe(observe);
    let setup = setup.text("[log]\naccess = \"{DIR}/access.jsonl\"");
    let daemon = Daemon::start(setup).await;
    let mut client = Client::connect(daemon.address().await).await;
    assert_eq!(client.member().await, "a");
    client.finish().await;
    client.ended().await;
    daemon.counted("an end", |totals| totals.ended == 1).await;
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    let (_, page) = http(observe, "/metrics").await;
    let parsed = parse_openmetrics(&page).unwrap_or_else(|error| panic!("{error:?}\n{page}"));
    let counted = |name: &str, label: (&str, &str)| -> u64 {
        let family = &parsed.families[name];
        assert_eq!(family.family_type, OpenMetricsType::Histogram, "{name}");
        let wanted = |labels: &[(String, String)]| {
            label.0.is_empty() || labels.contains(&(label.0.to_owned(), label.1.to_owned()))
        };
        let samples = family.iter_samples().filter(|sample| {
            let labels = sample.get_labelset().expect("labels");
            let labels: Vec<_> = labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            wanted(&labels)
        });
        samples
            .map(|sample| match &sample.value {
                OpenMetricsValue::Histogram(times) => times.count.expect("a count"),
                other => panic!("{name}: {other:?}"),
            })
            .sum()
    };
    for name in [
        "twinpool_session_wait_seconds",
        "twinpool_session_duration_seconds",
        "twinpool_member_connect_duration_seconds",
        "twinpool_member_session_duration_seconds",
    ] {
        assert_eq!(counted(name, ("", "")), 1, "{name}");
    }
    assert!(counted("twinpool_worker_lag_seconds", ("worker", "0")) > 0);
    let checks = "twinpool_check_duration_seconds";
    assert!(counted(checks, ("reason", "good")) > 0);
    assert!(counted(checks, ("reason", "refused")) > 0);
    for told in [
        "twinpool_transitions_total{kind=\"verdict\"} 2\n",
        "twinpool_member_verdict_changes_total{pool=\"p\",member=\"a\",service=\"",
        "twinpool_config_last_reload_successful 1\n",
        "twinpool_config_generation 1\n",
        "twinpool_config_reloads_total{result=\"refused\"} 0\n",
        "twinpool_access_log_dropped_total{reason=\"queue_full\"} 0\n",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
}
