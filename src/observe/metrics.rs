//! Every metric, by name: the status of one moment as OpenMetrics text.
//!
//! Nothing is registered or kept between two scrapes: [`text`] lays a [`Status`] out. Counters are
//! sums over workers since the start. State sets are gauges of 0 and 1, one series a state, of which
//! exactly one is 1.

mod page;
mod pairs;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::{Registry, Unit};

use self::page::{Labels, Page};
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

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.instance(&mut page)?;
        self.services(&mut page)?;
        self.members(&mut page)?;
        self.targets(&mut page)?;
        pairs::families(&self.0, &mut page)
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
            one_of(vec![], "state", states, status.state),
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
        let each = |read: fn(&ServerStatus) -> u64| {
            self.0
                .servers
                .iter()
                .map(move |server| (vec![("server", server.name.as_str())], read(server)))
        };
        page.gauge(
            "twinpool_http_connections_open",
            "Connections to our own HTTP servers",
            each(|s| s.open),
        )?;
        page.counters([
            (
                "twinpool_http_connections_accepted",
                "Connections to our own HTTP servers since the start",
                each(|s| s.accepted),
            ),
            (
                "twinpool_http_connections_refused",
                "Connections to our own HTTP servers closed at once because too many were open",
                each(|s| s.refused),
            ),
            (
                "twinpool_http_connections_too_slow",
                "Connections to our own HTTP servers closed because they were too slow",
                each(|s| s.too_slow),
            ),
            (
                "twinpool_http_connections_broken",
                "Connections to our own HTTP servers that broke, or carried something else than \
                 HTTP/1",
                each(|s| s.broken),
            ),
            (
                "twinpool_http_accept_errors",
                "Errors of accepting connections to our own HTTP servers",
                each(|s| s.accept_errors),
            ),
        ])
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
        let counter = |read: Read| self.each_service(read);
        page.counters([
            (
                "twinpool_sessions_accepted",
                "Connections accepted from clients",
                counter(|s| s.totals.accepted),
            ),
            (
                "twinpool_sessions_established",
                "Sessions that reached a member",
                counter(|s| s.totals.established),
            ),
            (
                "twinpool_sessions_shed",
                "Connections reset at once because the instance was full",
                counter(|s| s.totals.shed),
            ),
            (
                "twinpool_sessions_queued",
                "Sessions that waited for a member with room",
                counter(|s| s.totals.queued),
            ),
            (
                "twinpool_attempts_retried",
                "Attempts beyond the first of a session, hedges not included",
                counter(|s| s.totals.retried),
            ),
            (
                "twinpool_attempts_hedged",
                "Attempts made beside one that was slow",
                counter(|s| s.totals.hedged),
            ),
            (
                "twinpool_hedges_withheld",
                "Hedges not made because the service's share of them was used up",
                counter(|s| s.totals.hedges_withheld),
            ),
        ])?;
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
                let labels = vec![("pool", pool.name.as_str())];
                one_of(labels, "condition", conditions(), pool.condition)
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
                    one_of(member_labels(pool, member), "mode", modes(), member.mode)
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

/// A state set: one series for each state, of which the one that is has 1.
fn one_of<'a, S: PartialEq, const N: usize>(
    labels: Labels<'a>,
    label: &'static str,
    states: [(&'static str, S); N],
    state: S,
) -> [(Labels<'a>, bool); N] {
    states.map(|(word, other)| {
        let mut labels = labels.clone();
        labels.push((label, word));
        (labels, other == state)
    })
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

#[cfg(test)]
mod tests;
