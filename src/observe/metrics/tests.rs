mod exposition;
mod watching;

use std::collections::{HashMap, HashSet};

use super::*;
use crate::observe::sample::{self, Plight};
use crate::observe::status::AccessStatus;
use crate::pairing::pair::Destination;

fn page(status: Status) -> String {
    text(Arc::new(status), sample::measures())
}

/// Checks each line against the text format and returns every series with its value.
fn series_of(page: &str) -> HashMap<String, f64> {
    let body = page.strip_suffix("# EOF\n").expect("ends with EOF");
    let mut series = HashMap::new();
    let mut families = HashSet::new();
    let mut family = (String::new(), String::new());
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name, rest) = (
                words.next().unwrap(),
                words.next().unwrap(),
                words.next().unwrap(),
            );
            match word {
                "HELP" => assert!(families.insert(name.to_owned()), "{name} twice"),
                "TYPE" => {
                    assert!(
                        ["counter", "gauge", "histogram", "info"].contains(&rest),
                        "{line}"
                    );
                    family = (name.to_owned(), rest.to_owned());
                }
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("what is {line}"),
            }
            assert!(name.starts_with("twinpool_"), "{line}");
            continue;
        }
        let (key, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match key.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
            None => (key, ""),
        };
        let suffix = name.strip_prefix(family.0.as_str()).expect(line);
        match family.1.as_str() {
            "counter" => assert_eq!(suffix, "_total", "{line}"),
            "info" => assert_eq!(suffix, "_info", "{line}"),
            "histogram" => assert!(["_bucket", "_count", "_sum"].contains(&suffix), "{line}"),
            _ => assert_eq!(suffix, "", "{line}"),
        }
        check_labels(labels);
        let value: f64 = value.parse().expect(line);
        assert!(
            series.insert(key.to_owned(), value).is_none(),
            "twice: {key}"
        );
    }
    series
}

fn check_labels(mut labels: &str) {
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").expect(labels);
        assert!(
            name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
            "{name}"
        );
        let mut end = None;
        let mut escaped = false;
        for (i, c) in rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    end = Some(i);
                    break;
                }
                '\n' => panic!("a line feed in a label"),
                _ => {}
            }
        }
        let rest = &rest[end.expect("a closing quote") + 1..];
        labels = rest.strip_prefix(',').unwrap_or(rest);
    }
}

#[test]
fn the_page_is_open_metrics_in_every_plight() {
    for status in [
        sample::well(),
        sample::one_member_down(),
        sample::pool_lost(),
        sample::isolated(),
        sample::drained(),
        sample::starting(),
        sample::exhausted(),
    ] {
        series_of(&page(status));
    }
}

#[test]
fn a_dead_member_shows_in_its_series() {
    let series = series_of(&page(sample::one_member_down()));
    let at = |key: &str| *series.get(key).unwrap_or_else(|| panic!("no {key}"));
    let verdict = |verdict: &str| {
        at(&format!(
            "twinpool_member_verdict{{pool=\"fe-seoul\",member=\"fe1\",service=\"sip\",verdict=\"{verdict}\"}}"
        ))
    };
    assert_eq!(verdict("down"), 1.0);
    assert_eq!(verdict("up") + verdict("busy") + verdict("unknown"), 0.0);
    assert_eq!(
        at("twinpool_pool_condition{pool=\"fe-seoul\",condition=\"degraded\"}"),
        1.0
    );
    assert_eq!(at("twinpool_pool_members_present{pool=\"fe-seoul\"}"), 2.0);
    assert_eq!(
        at("twinpool_session_bytes_total{pool=\"fe-seoul\",service=\"sip\",direction=\"out\"}"),
        2_000.0
    );
    assert_eq!(
        at("twinpool_sessions_refused_total{pool=\"med\",service=\"sip\",reason=\"attempts\"}"),
        3.0
    );
    assert_eq!(at("twinpool_isolated"), 0.0);
    assert_eq!(at("twinpool_build_info{version=\"0.1.0\"}"), 1.0);
}

#[test]
fn a_service_over_udp_has_series_of_its_own_and_others_have_none_of_them() {
    let text = page(sample::exhausted());
    let series = series_of(&text);
    let of = "pool=\"edge\",service=\"av\"";
    for (key, value) in [
        ("udp_datagrams_total{OF,direction=\"in\"}", 4_117_300.0),
        ("udp_datagrams_total{OF,direction=\"out\"}", 4_002_511.0),
        ("udp_datagrams_dropped_total{OF,reason=\"no_member\"}", 7.0),
        ("udp_datagrams_dropped_total{OF,reason=\"table_full\"}", 9.0),
        ("udp_datagrams_dropped_total{OF,reason=\"unsent\"}", 40.0),
        ("udp_datagrams_dropped_total{OF,reason=\"no_port\"}", 2.0),
        ("udp_flows_evicted_total{OF}", 50_001.0),
        ("udp_flows_moved_total{OF}", 12.0),
        ("udp_icmp_errors_total{OF}", 15.0),
        ("sessions_open{OF}", 301.0),
        ("sessions_ended_total{OF,by=\"evicted\"}", 50_001.0),
        ("service_info{OF,protocol=\"udp\"}", 1.0),
        ("flow_limit", 8_000.0),
        ("worker_flows_open{worker=\"0\"}", 151.0),
        ("worker_sessions_open{worker=\"1\"}", 10_000.0),
        ("session_limit", 20_000.0),
        ("descriptor_limit", 65_536.0),
    ] {
        let key = format!("twinpool_{}", key.replace("OF", of));
        assert_eq!(series.get(&key), Some(&value), "{key}");
    }
    let udp = |key: &&String| key.starts_with("twinpool_udp_");
    assert!(series.keys().filter(udp).all(|key| key.contains(of)));
    let mut without = sample::well();
    without.pools.truncate(2);
    without.flows = None;
    for worker in &mut without.by_worker {
        worker.flows = None;
    }
    let text = page(without);
    assert!(
        !text.contains("twinpool_udp_") && !text.contains("twinpool_flow_limit"),
        "{text}"
    );
    assert!(!text.contains("twinpool_worker_flows_open"), "{text}");
}

#[test]
fn an_access_log_has_series_and_its_absence_has_none() {
    let mut status = sample::well();
    assert!(!page(status.clone()).contains("twinpool_access"));
    status.access = Some(AccessStatus {
        written: 90,
        dropped: 7,
        lost: 2,
    });
    let series = series_of(&page(status));
    let dropped =
        |reason: &str| series[&format!("twinpool_access_log_dropped_total{{reason=\"{reason}\"}}")];
    assert_eq!(series["twinpool_access_log_written_total"], 90.0);
    assert_eq!((dropped("queue_full"), dropped("unwritable")), (7.0, 2.0));
}

#[test]
fn a_label_with_quotes_and_line_feeds_stays_one_label() {
    let mut status = sample::well();
    status.pools[1].name = "a \"b\"\\\nc".to_owned();
    let text = page(status);
    let series = series_of(&text);
    assert!(series.contains_key(r#"twinpool_pool_members_present{pool="a \"b\"\\\nc"}"#));
}

#[test]
fn without_pools_the_page_is_still_whole() {
    let mut status = sample::well();
    status.pools.clear();
    series_of(&page(status));
}

#[test]
fn pairs_show_in_their_series() {
    let mut plight = Plight::new();
    plight.lose(&["fe-seoul", "med-seoul"]);
    plight.run(12_000);
    plight.set("fe-seoul", false);
    plight.run(330_000);
    let now = plight.now;
    plight.decider.handle_pause("bob".to_owned(), None, now);
    plight.disk = Some("no space left on device".to_owned());
    plight.order("med-seoul", Destination::Twin);
    plight.spilling = vec![plight.pool("med-busan")];
    plight.to_move = 40;
    let id = plight.pool("fe-seoul");
    for worker in &plight.workers {
        let home = worker.home(id);
        home.at_twin.add(10);
        home.at_twin_ended.add(3);
        home.moved.add(2);
        home.spilled.add(5);
        home.arrivals_held.add(1);
    }
    let status = plight.status();
    let share = status.pairs[0].pools[0].share;
    assert!((10..90).contains(&share), "{share} %");
    let series = series_of(&page(status.clone()));
    let at = |key: &str| *series.get(key).unwrap_or_else(|| panic!("no {key}"));
    let pool = "pool=\"fe-seoul\"";
    let home = |name: &str, more: &str| at(&format!("{name}{{pair=\"korea\",{pool}{more}}}"));
    let phase = |phase: &str| home("twinpool_pair_phase", &format!(",phase=\"{phase}\""));
    assert_eq!(
        [phase("home"), phase("away"), phase("returning")],
        [0.0, 0.0, 1.0]
    );
    assert_eq!(home("twinpool_pair_share", ""), f64::from(share) / 100.0);
    for (key, value) in [
        ("twinpool_pair_generation{pair=\"media\"}", 0.0),
        ("twinpool_pair_rounds{pair=\"korea\"}", 1.0),
        ("twinpool_pair_hold_seconds{pair=\"korea\"}", 600.0),
        ("twinpool_pair_record_ok{pair=\"korea\"}", 1.0),
        ("twinpool_pair_record_ok{pair=\"media\"}", 0.0),
        (
            "twinpool_pair_automation_halted{pair=\"korea\",reason=\"paused\"}",
            1.0,
        ),
        (
            "twinpool_pair_automation_halted{pair=\"korea\",reason=\"alarm\"}",
            0.0,
        ),
        (
            "twinpool_pair_automation_halted{pair=\"korea\",reason=\"damaged\"}",
            0.0,
        ),
        ("twinpool_pool_sessions_at_twin{pool=\"fe-seoul\"}", 14.0),
        ("twinpool_pool_sessions_to_move{pool=\"fe-seoul\"}", 40.0),
        ("twinpool_pool_moved_sessions_total{pool=\"fe-seoul\"}", 4.0),
        (
            "twinpool_pool_spilled_connections_total{pool=\"fe-seoul\"}",
            10.0,
        ),
        ("twinpool_pool_spilling{pool=\"fe-seoul\"}", 0.0),
        ("twinpool_pool_spilling{pool=\"med-busan\"}", 1.0),
        ("twinpool_pool_arrivals_held_total{pool=\"fe-seoul\"}", 2.0),
        ("twinpool_site_lost{site=\"seoul\"}", 0.0),
        ("twinpool_automation_paused", 1.0),
    ] {
        assert_eq!(at(key), value, "{key}");
    }
    assert_eq!(
        at("twinpool_pair_generation{pair=\"korea\"}"),
        status.pairs[0].generation as f64
    );
}

#[test]
fn a_lost_site_shows_and_an_instance_without_pairs_has_no_series_of_them() {
    let mut plight = Plight::new();
    plight.lose(&["fe-busan", "med-busan"]);
    let series = series_of(&page(plight.status()));
    assert_eq!(series["twinpool_site_lost{site=\"busan\"}"], 1.0);
    assert_eq!(series["twinpool_site_lost{site=\"seoul\"}"], 0.0);
    let without = page(sample::well());
    assert!(!without.contains("twinpool_pair") && !without.contains("automation"));
}

/// The numbers of the module's documentation.
#[test]
fn there_are_as_many_series_as_is_documented() {
    let series = series_of(&exposition::rich());
    let count = |has: &[&str], has_not: &[&str]| {
        let fits = |key: &&String| {
            has.iter().all(|label| key.contains(label))
                && !has_not.iter().any(|label| key.contains(label))
        };
        series.keys().filter(fits).count()
    };
    let (member, service) = ("member=\"", "service=\"");
    let [tcp, udp] = ["fe-busan", "med-busan"].map(|pool| format!("pool=\"{pool}\""));
    assert_eq!(count(&[&tcp, service], &[member]), 62);
    assert_eq!(count(&[&udp, service], &[member]), 62 + 9);
    let fe1 = "member=\"fe1\"";
    assert_eq!(count(&[&tcp, fe1], &[service]), 46);
    assert_eq!(count(&[&tcp, fe1, service], &["reason=\""]), 10);
    assert_eq!(count(&[&tcp, fe1, "reason=\"good\""], &[]), 11);
    assert_eq!(count(&[&tcp], &[service, member]), 7 + 11);
    assert_eq!(count(&["pair=\"media\""], &["pool=\""]), 7);
    assert_eq!(count(&["worker=\"0\""], &[]), 13);
    assert_eq!(count(&["site=\"busan\""], &[]), 1);
}
