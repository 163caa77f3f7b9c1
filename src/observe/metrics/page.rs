//! The page that metrics are written on, and what a table of them says: families of series, each
//! checked by the encoder.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::observe::histogram::Distribution;

/// Names and values; the encoder escapes the values.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// What a family tells of: a service, a member, a pair; with the labels of its series.
pub(super) type Subject<'a, T> = (Labels<'a>, &'a T);

/// A family of series: the same numbers of each subject.
pub(super) struct Family<T> {
    /// Without the suffix that its kind and unit add.
    name: &'static str,
    help: &'static str,
    kind: Kind,
    read: Read<T>,
}

/// What its numbers are.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Bytes,
    Gauge,
    Seconds,
    Times,
    Info,
}

/// How they are read.
enum Read<T> {
    /// One series a subject.
    One(fn(&T) -> u64),
    /// The same, where it is no whole number.
    Real(fn(&T) -> f64),
    /// A series for each value of one more label; at least one.
    By(&'static str, fn(&T) -> Vec<(&'static str, u64)>),
    /// How long something took.
    Times(fn(&T) -> &Distribution),
    /// The same for each value of one more label.
    TimesBy(&'static str, fn(&T) -> &[(&'static str, Distribution)]),
    /// What more labels say; the number is always 1.
    Words(fn(&T) -> Labels<'_>),
}

impl<T> Family<T> {
    /// What only rises, since the start.
    pub(super) const fn counter(
        name: &'static str,
        help: &'static str,
        read: fn(&T) -> u64,
    ) -> Family<T> {
        Family::new(name, help, Kind::Counter, Read::One(read))
    }

    /// The same by one more label.
    pub(super) const fn counter_by(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        read: fn(&T) -> Vec<(&'static str, u64)>,
    ) -> Family<T> {
        Family::new(name, help, Kind::Counter, Read::By(label, read))
    }

    /// The same in bytes.
    pub(super) const fn bytes_by(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        read: fn(&T) -> Vec<(&'static str, u64)>,
    ) -> Family<T> {
        Family::new(name, help, Kind::Bytes, Read::By(label, read))
    }

    /// What is so now.
    pub(super) const fn gauge(
        name: &'static str,
        help: &'static str,
        read: fn(&T) -> u64,
    ) -> Family<T> {
        Family::new(name, help, Kind::Gauge, Read::One(read))
    }

    /// The same, where it is no whole number.
    pub(super) const fn share(
        name: &'static str,
        help: &'static str,
        read: fn(&T) -> f64,
    ) -> Family<T> {
        Family::new(name, help, Kind::Gauge, Read::Real(read))
    }

    /// The same in seconds.
    pub(super) const fn seconds(
        name: &'static str,
        help: &'static str,
        read: fn(&T) -> f64,
    ) -> Family<T> {
        Family::new(name, help, Kind::Seconds, Read::Real(read))
    }

    /// A state set: a series for each state, of which the one that is has 1 (see [`one_of`]).
    pub(super) const fn state(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        read: fn(&T) -> Vec<(&'static str, u64)>,
    ) -> Family<T> {
        Family::new(name, help, Kind::Gauge, Read::By(label, read))
    }

    /// How long something took, as a histogram in seconds; the name says so itself.
    pub(super) const fn times(
        name: &'static str,
        help: &'static str,
        read: fn(&T) -> &Distribution,
    ) -> Family<T> {
        Family::new(name, help, Kind::Times, Read::Times(read))
    }

    /// The same by one more label.
    pub(super) const fn times_by(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        read: fn(&T) -> &[(&'static str, Distribution)],
    ) -> Family<T> {
        Family::new(name, help, Kind::Times, Read::TimesBy(label, read))
    }

    /// What does not change while the instance runs, in words.
    pub(super) const fn info(
        name: &'static str,
        help: &'static str,
        read: fn(&T) -> Labels<'_>,
    ) -> Family<T> {
        Family::new(name, help, Kind::Info, Read::Words(read))
    }

    const fn new(name: &'static str, help: &'static str, kind: Kind, read: Read<T>) -> Family<T> {
        Family {
            name,
            help,
            kind,
            read,
        }
    }
}

/// Each state's word, with 1 for the one that is.
pub(super) fn one_of<S: PartialEq, const N: usize>(
    states: [(&'static str, S); N],
    state: S,
) -> Vec<(&'static str, u64)> {
    let each = states.into_iter();
    each.map(|(word, other)| (word, u64::from(other == state)))
        .collect()
}

/// What is being written: one family after the other. A family without subjects is left out.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

impl Page<'_> {
    /// Writes a table of families that tell of the same subjects.
    pub(super) fn table<T>(
        &mut self,
        families: &[Family<T>],
        subjects: &[Subject<'_, T>],
    ) -> fmt::Result {
        if subjects.is_empty() {
            return Ok(());
        }
        for family in families {
            self.family(family, subjects)?;
        }
        Ok(())
    }

    fn family<T>(&mut self, family: &Family<T>, subjects: &[Subject<'_, T>]) -> fmt::Result {
        let (kind, unit) = match family.kind {
            Kind::Counter => (MetricType::Counter, None),
            Kind::Bytes => (MetricType::Counter, Some(Unit::Bytes)),
            Kind::Gauge => (MetricType::Gauge, None),
            Kind::Seconds => (MetricType::Gauge, Some(Unit::Seconds)),
            // Some parsers refuse a line of the unit here; the name says it.
            Kind::Times => (MetricType::Histogram, None),
            Kind::Info => (MetricType::Info, None),
        };
        let mut encoder =
            self.0
                .encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
        for (labels, subject) in subjects {
            match family.read {
                Read::One(read) => one(&mut encoder, family.kind, labels, read(subject))?,
                Read::Real(read) => {
                    let number = read(subject);
                    with(&mut encoder, labels, |metric| metric.encode_gauge(&number))?;
                }
                Read::By(label, read) => {
                    for (word, number) in read(subject) {
                        let labels = and(labels, label, word);
                        one(&mut encoder, family.kind, &labels, number)?;
                    }
                }
                Read::Times(read) => times(&mut encoder, labels, read(subject))?,
                Read::TimesBy(label, read) => {
                    for (word, distribution) in read(subject) {
                        times(&mut encoder, &and(labels, label, word), distribution)?;
                    }
                }
                Read::Words(read) => {
                    let words = read(subject).into_iter();
                    encoder
                        .encode_info(&labels.iter().copied().chain(words).collect::<Vec<_>>())?;
                }
            }
        }
        Ok(())
    }
}

fn one(
    encoder: &mut MetricEncoder<'_>,
    kind: Kind,
    labels: &Labels<'_>,
    number: u64,
) -> fmt::Result {
    with(encoder, labels, |metric| match kind {
        Kind::Counter | Kind::Bytes => metric.encode_counter::<NoLabelSet, _, u64>(&number, None),
        Kind::Gauge | Kind::Seconds | Kind::Times | Kind::Info => metric.encode_gauge(&number),
    })
}

fn times(
    encoder: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    times: &Distribution,
) -> fmt::Result {
    with(encoder, labels, |metric| {
        metric.encode_histogram::<NoLabelSet>(times.sum, times.count(), &times.buckets, None)
    })
}

/// Writes a number with these labels.
fn with(
    encoder: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    write: impl Fn(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    match labels.is_empty() {
        true => write(encoder),
        false => write(&mut encoder.encode_family(labels)?),
    }
}

/// The same with one label more.
pub(super) fn and<'a>(labels: &Labels<'a>, label: &'static str, word: &'a str) -> Labels<'a> {
    let mut labels = labels.clone();
    labels.push((label, word));
    labels
}
