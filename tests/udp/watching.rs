//! What is told of flows, and of keys that a service over UDP has no use for.

use serde_json::Value;

use crate::caller::*;
use crate::echo::*;
use crate::harness::*;

/// One of what is counted of the service `p/line` for being over UDP.
pub(crate) async fn udp_total(daemon: &Daemon, key: &str) -> u64 {
    let status = daemon.get("/v1/status").await.expect("a status");
    let status: Value = serde_json::from_str(&status).expect("a status in JSON");
    let udp = &status["pools"][0]["services"][0]["totals"]["udp"];
    udp[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {udp}"))
}

/// The sum of the samples of a metric, those alone that have all these labels.
fn sum(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (own, value) = rest.rsplit_once(' ')?;
        let fits = own.is_empty() || own.starts_with('{');
        (fits && labels.iter().all(|label| own.contains(label)))
            .then(|| value.parse::<f64>().expect("a number"))
    });
    samples.reduce(|sum, value| sum + value)
}

#[tokio::test]
async fn status_and_metrics_tell_flows_datagrams_and_what_was_dropped() {
    let a = Echo::start("a").await;
    let observe = free_address();
    let setup = Setup::of(&pool_of([&a]))
        .observe(observe)
        .instance("max_flows = 4");
    let daemon = Daemon::start(setup).await;
    let service = daemon.address().await;
    let mut callers = callers(service, 3).await;
    let lone = Caller::new(service).await;
    lone.send(b"times 3").await;
    for _ in 0..3 {
        lone.hear(PATIENCE).await.expect("an answer");
    }
    let mut fourth = Caller::new(service).await;
    fourth.ask().await;
    callers.push((fourth, callers[0].1.clone()));
    let totals = daemon.totals().await;
    assert_eq!(
        (totals.accepted, totals.established, totals.ended),
        (5, 5, 1)
    );
    assert_eq!(udp_total(&daemon, "datagrams_in").await, 8);
    assert_eq!(udp_total(&daemon, "datagrams_out").await, 10);
    assert_eq!(udp_total(&daemon, "evicted").await, 1);
    assert_eq!(daemon.member("a").await.load, 4);
    let (code, metrics) = http(observe, "/metrics").await;
    assert_eq!(code, 200);
    let datagrams = |way: &str| {
        let labels = ["pool=\"p\"", "service=\"line\"", way];
        sum(&metrics, "twinpool_udp_datagrams_total", &labels)
    };
    assert_eq!(datagrams("direction=\"in\""), Some(8.0), "{metrics}");
    assert_eq!(datagrams("direction=\"out\""), Some(10.0), "{metrics}");
}

#[tokio::test]
async fn a_full_table_of_flows_is_told_on_every_page_with_what_to_raise() {
    let a = Echo::start("a").await;
    let observe = free_address();
    let setup = Setup::of(&pool_of([&a]))
        .observe(observe)
        .instance("max_flows = 4");
    let daemon = Daemon::start(setup).await;
    let service = daemon.address().await;
    let mut proven = callers(service, 4).await;
    let mut late = Caller::new(service).await;
    assert_eq!(late.try_ask(MOMENT).await, None);
    let page = daemon.done(&["status"]).await;
    for told in [
        "4 of 4 flows",
        "line (primary, udp)",
        "OVER UDP",
        "1 datagram of a new client was dropped",
        "raise max_flows in [instance]",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
    let why = daemon.done(&["why", "p"]).await;
    for told in ["line: 4 flows now", "line: 1 datagram was dropped since"] {
        assert!(why.contains(told), "{told}: {why}");
    }
    let why = daemon.done(&["why", "p/a"]).await;
    for told in ["line (udp): up", "flows refused by ICMP 0"] {
        assert!(why.contains(told), "{told}: {why}");
    }
    let status = daemon.status().await;
    assert_eq!((status.sessions.open, status.open()), (0, 4));
    let (code, metrics) = http(observe, "/metrics").await;
    assert_eq!(code, 200);
    assert_eq!(sum(&metrics, "twinpool_flow_limit", &[]), Some(4.0));
    let open = sum(&metrics, "twinpool_worker_flows_open", &["worker=\"0\""]);
    assert_eq!(open, Some(4.0), "{metrics}");
    let dropped = ["service=\"line\"", "reason=\"table_full\""];
    let dropped = sum(&metrics, "twinpool_udp_datagrams_dropped_total", &dropped);
    assert_eq!(dropped, Some(1.0), "{metrics}");
    for (caller, _) in &mut proven {
        caller.ask().await;
    }
}

#[tokio::test]
async fn keys_for_connections_are_refused_on_a_service_over_udp_with_what_to_write() {
    let a = Echo::start("a").await;
    for key in [
        "connect = { budget = \"1s\" }",
        "send_proxy = true",
        "accept_proxy = [\"10.0.0.0/8\"]",
        "peer_timeout = \"10s\"",
    ] {
        let pool = pool_of([&a]).service(key);
        let dir = Scratch::new();
        let config = dir.write("twinpool.toml", &Setup::of(&pool).toml(dir.path()));
        let path = config.to_str().expect("a path in UTF-8");
        let finished = twinpool(&["validate", path]).await;
        assert_eq!(finished.code, Some(78), "{key}: {finished:?}");
        let name = key.split(' ').next().expect("a key");
        for word in [name, "UDP", "twinpool.toml:", "leave"] {
            let told = &finished.stderr;
            assert!(told.contains(word), "{key}: {word}: {told}");
        }
    }
}
