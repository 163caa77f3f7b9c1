//! Every metric, by name: the status of one moment as OpenMetrics text.
//!
//! Nothing is registered or kept between two scrapes: [`text`] lays a [`Status`] out. Counters are
//! sums over workers since the start. State sets are gauges of 0 and 1, one series a state, of which
//! exactly one is 1.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::status::{MemberStatus, PoolStatus, ServerStatus, ServiceStatus, Status, TargetStatus};
use super::view::RunState;
use crate::health::Verdict;
use crate::health::readiness::Mode;
use crate::pairing::Condition;

/// What `/metrics` declares itself to be.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Lays a status out as OpenMetrics text.
pub fn text(status: Arc<Status>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(status)));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(fmt::Error) => unreachable!("writing to a string does not fail"),
    }
}

/// Reads one number of a service.
type Read = fn(&ServiceStatus) -> u64;

#[derive(Debug)]
struct Scrape(Arc<Status>);

/// Names and values; the encoder escapes the values.
type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.instance(&mut page)?;
        self.services(&mut page)?;
        self.members(&mut page)?;
        self.targets(&mut page)
    }
}

impl Scrape {
    fn instance(&self, page: &mut Page<'_>) -> fmt::Result {
        let status = &self.0;
        page.info(
            "twinpool_build",
            "The version that runs",
            &vec![("version", &status.version)],
        )?;
        page.gauge_of(
            "twinpool_start_time",
            "When the instance started, since 1970",
            Some(Unit::Seconds),
            [(vec![], status.started.unix_seconds())],
        )?;
        page.gauge_of(
            "twinpool_uptime",
            "How long the instance has run",
            Some(Unit::Seconds),
            [(vec![], status.now.since(status.started).as_secs_f64())],
        )?;
        let states = [
            ("starting", RunState::Starting),
            ("serving", RunState::Serving),
            ("draining", RunState::Draining),
        ];
        page.gauge(
            "twinpool_state",
            "What the instance is doing",
            states.map(|(word, state)| (vec![("state", word)], status.state == state)),
        )?;
        page.gauge(
            "twinpool_workers",
            "Worker threads",
            [(vec![], status.workers)],
        )?;
        page.gauge(
            "twinpool_isolated",
            "1 while the instance thinks that the fault is its own and holds its verdicts",
            [(vec![], status.isolated.is_some())],
        )?;
        page.gauge(
            "twinpool_state_store_failing",
            "1 while decisions might not outlive a restart",
            [(vec![], status.store_problem.is_some())],
        )?;
        page.gauge(
            "twinpool_session_limit",
            "Sessions that the instance may hold",
            [(vec![], status.sessions.limit)],
        )?;
        page.counter(
            "twinpool_own_faults",
            "Faults of our own side, by kind",
            status
                .own_faults
                .kinds()
                .map(|(kind, n)| (vec![("kind", kind)], n)),
        )?;
        page.counter(
            "twinpool_reports_dropped",
            "Evidence from traffic that found the way to the control thread full",
            [(vec![], status.reports_dropped)],
        )?;
        self.servers(page)
    }

    fn servers(&self, page: &mut Page<'_>) -> fmt::Result {
        let servers = &self.0.servers;
        page.gauge(
            "twinpool_http_connections_open",
            "Connections to our own HTTP servers",
            servers.iter().map(|s| (server_labels(s), s.open)),
        )?;
        page.counter(
            "twinpool_http_connections_accepted",
            "Connections to our own HTTP servers since the start",
            servers.iter().map(|s| (server_labels(s), s.accepted)),
        )?;
        page.counter(
            "twinpool_http_connections_refused",
            "Connections to our own HTTP servers closed at once because too many were open",
            servers.iter().map(|s| (server_labels(s), s.refused)),
        )?;
        page.counter(
            "twinpool_http_connections_too_slow",
            "Connections to our own HTTP servers closed because they were too slow",
            servers.iter().map(|s| (server_labels(s), s.too_slow)),
        )?;
        page.counter(
            "twinpool_http_connections_broken",
            "Connections to our own HTTP servers that broke, or carried something else than HTTP/1",
            servers.iter().map(|s| (server_labels(s), s.broken)),
        )?;
        page.counter(
            "twinpool_http_accept_errors",
            "Errors of accepting connections to our own HTTP servers",
            servers.iter().map(|s| (server_labels(s), s.accept_errors)),
        )
    }

    fn services(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "twinpool_sessions_open",
            "Sessions open now",
            self.each_service(|s| s.open),
        )?;
        page.gauge(
            "twinpool_service_members_usable",
            "Members that take new sessions, those of last resort when there are no others",
            self.each_service(|s| u64::from(s.usable)),
        )?;
        let counters: [(&str, &str, Read); 7] = [
            (
                "twinpool_sessions_accepted",
                "Connections accepted from clients",
                |s| s.totals.accepted,
            ),
            (
                "twinpool_sessions_established",
                "Sessions that reached a member",
                |s| s.totals.established,
            ),
            (
                "twinpool_sessions_shed",
                "Connections reset at once because the instance was full",
                |s| s.totals.shed,
            ),
            (
                "twinpool_sessions_queued",
                "Sessions that waited for a member with room",
                |s| s.totals.queued,
            ),
            (
                "twinpool_attempts_retried",
                "Attempts beyond the first of a session, hedges not included",
                |s| s.totals.retried,
            ),
            (
                "twinpool_attempts_hedged",
                "Attempts made beside one that was slow",
                |s| s.totals.hedged,
            ),
            (
                "twinpool_hedges_withheld",
                "Hedges not made because the service's share of them was used up",
                |s| s.totals.hedges_withheld,
            ),
        ];
        for (name, help, read) in counters {
            page.counter(name, help, self.each_service(read))?;
        }
        page.counter(
            "twinpool_sessions_refused",
            "Connections refused, by reason",
            self.each_service_by("reason", |s| s.totals.refusals()),
        )?;
        page.counter(
            "twinpool_sessions_ended",
            "Sessions over, by who ended them",
            self.each_service_by("by", |s| s.totals.endings()),
        )?;
        page.counter_of(
            "twinpool_session",
            "Bytes carried, by direction: in is from clients to members",
            Some(Unit::Bytes),
            self.each_service_by("direction", |s| {
                [("in", s.totals.bytes_in), ("out", s.totals.bytes_out)]
            }),
        )
    }

    fn members(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "twinpool_pool_condition",
            "Whether a pool can serve its users",
            self.0.pools.iter().flat_map(|pool| {
                conditions().map(|(word, condition)| {
                    let labels = vec![("pool", pool.name.as_str()), ("condition", word)];
                    (labels, pool.condition == condition)
                })
            }),
        )?;
        page.gauge(
            "twinpool_pool_members_present",
            "Members present among those that count towards quorum",
            self.each_pool(|pool| u64::from(pool.present)),
        )?;
        page.gauge(
            "twinpool_pool_members_needed",
            "Members that a pool needs to stay",
            self.each_pool(|pool| u64::from(pool.need)),
        )?;
        page.gauge(
            "twinpool_member_mode",
            "What an operator wants of a member",
            self.0.pools.iter().flat_map(|pool| {
                pool.members.iter().flat_map(move |member| {
                    modes().map(|(word, mode)| {
                        let mut labels = member_labels(pool, member);
                        labels.push(("mode", word));
                        (labels, member.mode == mode)
                    })
                })
            }),
        )?;
        page.gauge(
            "twinpool_member_sessions_open",
            "Sessions that a member holds now",
            self.each_member(|member| member.load),
        )?;
        page.counter(
            "twinpool_member_sessions",
            "Sessions that a member was given",
            self.each_member(|member| member.sessions),
        )?;
        page.counter(
            "twinpool_member_connect_failures",
            "Attempts that failed to connect, by how",
            self.0.pools.iter().flat_map(|pool| {
                pool.members.iter().flat_map(move |member| {
                    let how = [
                        ("refused", member.connect_failed),
                        ("timeout", member.connect_timeout),
                    ];
                    how.map(|(word, n)| {
                        let mut labels = member_labels(pool, member);
                        labels.push(("how", word));
                        (labels, n)
                    })
                })
            }),
        )
    }

    fn targets(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "twinpool_member_verdict",
            "What is thought of a member for a service",
            self.each_target("verdict", |target| {
                verdicts().map(|(word, verdict)| (word, u64::from(target.verdict == verdict)))
            }),
        )?;
        page.counter(
            "twinpool_checks",
            "Probes of a member for a service that came back, by result",
            self.each_target("result", |target| {
                let checks = target.checks;
                [
                    ("good", checks.good),
                    ("bad", checks.bad),
                    ("own_fault", checks.own_fault),
                ]
            }),
        )
    }

    fn each_pool(
        &self,
        read: impl Fn(&PoolStatus) -> u64,
    ) -> impl Iterator<Item = (Labels<'_>, u64)> {
        self.0
            .pools
            .iter()
            .map(move |pool| (vec![("pool", pool.name.as_str())], read(pool)))
    }

    fn each_service(
        &self,
        read: impl Fn(&ServiceStatus) -> u64,
    ) -> impl Iterator<Item = (Labels<'_>, u64)> {
        self.0.pools.iter().flat_map(move |pool| {
            let read = &read;
            let rows: Vec<_> = pool
                .services
                .iter()
                .map(|service| (service_labels(pool, service), read(service)))
                .collect();
            rows
        })
    }

    fn each_service_by<const N: usize>(
        &self,
        label: &'static str,
        read: fn(&ServiceStatus) -> [(&'static str, u64); N],
    ) -> impl Iterator<Item = (Labels<'_>, u64)> {
        self.0.pools.iter().flat_map(move |pool| {
            pool.services.iter().flat_map(move |service| {
                read(service).map(|(word, n)| {
                    let mut labels = service_labels(pool, service);
                    labels.push((label, word));
                    (labels, n)
                })
            })
        })
    }

    fn each_member(
        &self,
        read: fn(&MemberStatus) -> u64,
    ) -> impl Iterator<Item = (Labels<'_>, u64)> {
        self.0.pools.iter().flat_map(move |pool| {
            pool.members
                .iter()
                .map(move |member| (member_labels(pool, member), read(member)))
        })
    }

    fn each_target<const N: usize>(
        &self,
        label: &'static str,
        read: fn(&TargetStatus) -> [(&'static str, u64); N],
    ) -> impl Iterator<Item = (Labels<'_>, u64)> {
        self.0.pools.iter().flat_map(move |pool| {
            pool.members.iter().flat_map(move |member| {
                member.services.iter().flat_map(move |target| {
                    read(target).map(|(word, n)| {
                        let mut labels = member_labels(pool, member);
                        labels.push(("service", &target.service));
                        labels.push((label, word));
                        (labels, n)
                    })
                })
            })
        })
    }
}

fn server_labels(server: &ServerStatus) -> Labels<'_> {
    vec![("server", server.name.as_str())]
}

fn service_labels<'a>(pool: &'a PoolStatus, service: &'a ServiceStatus) -> Labels<'a> {
    vec![
        ("pool", pool.name.as_str()),
        ("service", service.name.as_str()),
    ]
}

fn member_labels<'a>(pool: &'a PoolStatus, member: &'a MemberStatus) -> Labels<'a> {
    vec![
        ("pool", pool.name.as_str()),
        ("member", member.name.as_str()),
    ]
}

fn conditions() -> [(&'static str, Condition); 3] {
    [
        ("serving", Condition::Serving),
        ("degraded", Condition::Degraded),
        ("lost", Condition::Lost),
    ]
}

fn modes() -> [(&'static str, Mode); 3] {
    [
        ("ready", Mode::Ready),
        ("drain", Mode::Drain),
        ("maintenance", Mode::Maintenance),
    ]
}

fn verdicts() -> [(&'static str, Verdict); 4] {
    [
        ("unknown", Verdict::Unknown),
        ("up", Verdict::Up),
        ("busy", Verdict::Busy),
        ("down", Verdict::Down),
    ]
}

/// What is being written: one family after the other. A family without series is left out.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter<'l>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        self.counter_of(name, help, None, series)
    }

    fn counter_of<'l>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            unit,
            MetricType::Counter,
            series,
            |metric, n: u64| metric.encode_counter::<NoLabelSet, _, u64>(&n, None),
        )
    }

    fn gauge<'l, N: Into<u64>>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, N)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            None,
            MetricType::Gauge,
            series,
            |metric, n: N| metric.encode_gauge(&n.into()),
        )
    }

    fn gauge_of<'l>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            unit,
            MetricType::Gauge,
            series,
            |metric, n: f64| metric.encode_gauge(&n),
        )
    }

    fn info(&mut self, name: &str, help: &str, labels: &Labels<'_>) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Info)?;
        family.encode_info(labels)
    }

    fn family<'l, N>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        series: impl IntoIterator<Item = (Labels<'l>, N)>,
        write: fn(&mut MetricEncoder<'_>, N) -> fmt::Result,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, n) in series {
            match labels.is_empty() {
                true => write(&mut family, n)?,
                false => write(&mut family.encode_family(&labels)?, n)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::observe::sample;

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
                        assert!(["counter", "gauge", "info"].contains(&rest), "{line}");
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
        ] {
            series_of(&text(Arc::new(status)));
        }
    }

    #[test]
    fn a_dead_member_shows_in_its_series() {
        let series = series_of(&text(Arc::new(sample::one_member_down())));
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
    fn a_label_with_quotes_and_line_feeds_stays_one_label() {
        let mut status = sample::well();
        status.pools[1].name = "a \"b\"\\\nc".to_owned();
        let page = text(Arc::new(status));
        let series = series_of(&page);
        assert!(series.contains_key(r#"twinpool_pool_members_present{pool="a \"b\"\\\nc"}"#));
    }

    #[test]
    fn without_pools_the_page_is_still_whole() {
        let mut status = sample::well();
        status.pools.clear();
        series_of(&text(Arc::new(status)));
    }
}
