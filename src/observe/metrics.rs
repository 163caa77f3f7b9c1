//! Every metric, by name: the status of one moment as OpenMetrics text.
//!
//! Nothing is registered or kept between two scrapes: [`text`] lays a [`Status`] and [`Measures`]
//! out. Counters are sums over workers since the start. State sets are gauges of 0 and 1, one series
//! a state, of which exactly one is 1. What there is to tell stands in tables, one for each kind of
//! subject: of the instance, its services and members in [`families`], what only metrics show in
//! [`measured`], of pairs and sites in [`pairs`].
//!
//! | To know | Look at |
//! |---|---|
//! | whether users are served | `twinpool_pool_condition`, `twinpool_service_members_usable`, `twinpool_sessions_refused_total`, `twinpool_sessions_shed_total` |
//! | how well | `twinpool_session_wait_seconds`, `twinpool_attempts_retried_total`, `twinpool_attempts_hedged_total`, `twinpool_pool_queue_length` |
//! | how much | `twinpool_sessions_open`, `twinpool_sessions_accepted_total`, `twinpool_session_bytes_total`, `twinpool_session_duration_seconds`, `twinpool_udp_…` |
//! | which member is to blame | `twinpool_member_verdict`, `…_connect_duration_seconds`, `…_connect_failures_total`, `…_verdict_changes_total`, `twinpool_check_duration_seconds` by reason |
//! | where users are | `twinpool_pair_phase`, `twinpool_pair_generation`, `twinpool_pool_sessions_at_twin`, `twinpool_pool_spilling` |
//! | whether somebody has to decide | `twinpool_pair_automation_halted`, `twinpool_automation_paused` |
//! | whether the instance is well | `twinpool_isolated`, `twinpool_own_faults_total`, `twinpool_worker_lag_seconds`, `twinpool_state_store_failing`, `twinpool_config_last_reload_successful` |
//!
//! `config/alerts.yml` and `config/dashboard.json` are made of these. No label has a value that a
//! client or member chooses, so the number of series is bounded by the configuration:
//!
//! | For each | Series |
//! |---|---|
//! | service | 62, and 9 more over UDP |
//! | member | 46 |
//! | member and service | 10, and 11 for each reason of its probes that occurred: mostly one or two, 12 at most |
//! | pool | 7, and 11 more in a pair |
//! | pair, worker, site | 7, 12 and 1 more with flows, 1 |

mod access;
mod families;
mod measured;
mod page;
mod pairs;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use self::page::Page;
use super::measures::Measures;
use super::status::Status;

/// What `/metrics` declares itself to be.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Lays a status, and what only metrics show, out as OpenMetrics text.
pub fn text(status: Arc<Status>, measures: Measures) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(status, measures)));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => text,
        Err(fmt::Error) => unreachable!("writing to a string does not fail"),
    }
}

#[derive(Debug)]
struct Scrape(Arc<Status>, Measures);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        families::families(&self.0, &mut page)?;
        measured::families(&self.1, &mut page)?;
        access::families(&self.0, &mut page)?;
        pairs::families(&self.0, &mut page)
    }
}

#[cfg(test)]
mod tests;
