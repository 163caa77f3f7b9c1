//! What is told of flows, and of keys that a service over UDP has no use for.

use twinpool::health::Verdict;
use twinpool::observe::status::UdpTotals;

use crate::caller::*;
use crate::echo::*;
use crate::harness::*;

/// What is counted of the service `p/line` for being over UDP.
pub(crate) async fn udp_totals(daemon: &Daemon) -> UdpTotals {
    daemon.totals().await.udp.expect("a service over UDP")
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
    let mut a = Echo::start("a").await;
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
    let udp = udp_totals(&daemon).await;
    assert_eq!((udp.datagrams_in, udp.datagrams_out), (8, 10));
    assert_eq!((udp.evicted, udp.dropped()), (1, 0));
    assert_eq!(daemon.member("a").await.load, 4);
    let flows = daemon.status().await.flows.expect("flows");
    assert_eq!((flows.open, flows.limit), (4, 4));
    // With nobody to take it, the next one is dropped.
    a.die().await;
    daemon.verdict("a", Verdict::Down).await;
    let mut fifth = Caller::new(service).await;
    assert_eq!(fifth.try_ask(MOMENT).await, None);
    let (code, metrics) = http(observe, "/metrics").await;
    assert_eq!(code, 200);
    for (name, label, value) in [
        ("twinpool_sessions_open", "", 0.0),
        ("twinpool_sessions_accepted_total", "", 6.0),
        ("twinpool_udp_datagrams_total", "direction=\"in\"", 8.0),
        ("twinpool_udp_datagrams_total", "direction=\"out\"", 10.0),
        ("twinpool_udp_flows_evicted_total", "", 1.0),
        (
            "twinpool_udp_datagrams_dropped_total",
            "reason=\"no_member\"",
            1.0,
        ),
        ("twinpool_session_duration_seconds_count", "", 5.0),
        ("twinpool_session_wait_seconds_count", "", 0.0),
    ] {
        let told = sum(&metrics, name, &["pool=\"p\"", "service=\"line\"", label]);
        assert_eq!(told, Some(value), "{name} {label}: {metrics}");
    }
    assert_eq!(sum(&metrics, "twinpool_flow_limit", &[]), Some(4.0));
    for direction in ["direction=\"in\"", "direction=\"out\""] {
        let of_member = sum(
            &metrics,
            "twinpool_member_session_bytes_total",
            &[direction],
        );
        let of_service = sum(&metrics, "twinpool_session_bytes_total", &[direction]);
        assert!(
            of_member > Some(0.0) && of_member == of_service,
            "{metrics}"
        );
    }
    let lasted = "twinpool_member_session_duration_seconds_count";
    assert_eq!(sum(&metrics, lasted, &["member=\"a\""]), Some(5.0));
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
