//! The page that metrics are written on: families of series, each checked by the encoder.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// Names and values; the encoder escapes the values.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// What is being written: one family after the other. A family without series is left out.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

impl Page<'_> {
    pub(super) fn counter<'l>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        self.counter_of(name, help, None, series)
    }

    /// Several of one shape: name, help, series.
    pub(super) fn counters<'l, S, const N: usize>(
        &mut self,
        families: [(&str, &str, S); N],
    ) -> fmt::Result
    where
        S: IntoIterator<Item = (Labels<'l>, u64)>,
    {
        for (name, help, series) in families {
            self.counter(name, help, series)?;
        }
        Ok(())
    }

    /// Several of one shape: name, help, series.
    pub(super) fn gauges<'l, N: Into<u64>, S, const F: usize>(
        &mut self,
        families: [(&str, &str, S); F],
    ) -> fmt::Result
    where
        S: IntoIterator<Item = (Labels<'l>, N)>,
    {
        for (name, help, series) in families {
            self.gauge(name, help, series)?;
        }
        Ok(())
    }

    pub(super) fn counter_of<'l>(
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

    pub(super) fn gauge<'l, N: Into<u64>>(
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

    pub(super) fn gauge_of<'l>(
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

    pub(super) fn info(&mut self, name: &str, help: &str, labels: &Labels<'_>) -> fmt::Result {
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
