//! Every metric, by name: the status of one moment as OpenMetrics text.
//!
//! Nothing is registered or kept between two scrapes: [`text`] lays a [`Status`] out. Counters are
//! sums over workers since the start. State sets are gauges of 0 and 1, one series a state, of which
//! exactly one is 1. What there is to tell stands in tables, one for each kind of subject: of the
//! instance, its services and members in [`families`], of pairs and sites in [`pairs`].

mod access;
mod families;
mod page;
mod pairs;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use self::page::Page;
use super::status::Status;

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

#[derive(Debug)]
struct Scrape(Arc<Status>);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        families::families(&self.0, &mut page)?;
        access::families(&self.0, &mut page)?;
        pairs::families(&self.0, &mut page)
    }
}

#[cfg(test)]
mod tests;
