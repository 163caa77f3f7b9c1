//! [`Histogram`]: how long something took, counted in fixed buckets.
//!
//! One thread counts, any thread reads: an observation raises two counters of the worker's own, the
//! bucket's and the sum. Bounds are powers of two of a microsecond, so that the bucket is found by
//! counting leading zeros: no table, no comparison a bucket, no floating point. Nothing is
//! allocated, and names and labels exist only where a [`Distribution`] is read.
//!
//! Four ranges are enough for what is measured:
//!
//! | Type | From | To | Factor | Because |
//! |---|---|---|---|---|
//! | [`ConnectTimes`] | 64 µs | 8.4 s | 2 | a member in the same rack accepts in less than the first, and no client waits for longer than the last by default: 5 s in the queue and 2 s of budget |
//! | [`SessionTimes`] | 1 ms | 4.8 h | 4 | from one request to a working day's session; a shift of shape shows, an exact length is for the access log |
//! | [`CheckTimes`] | 256 µs | 4.2 s | 4 | there is one for each reason of each member and service |
//! | [`LagTimes`] | 1 ms | 16.8 s | 4 | timers tick in milliseconds; beyond is a stuck worker |

use std::array;
use std::time::Duration;

use super::counters::Counter;

/// From a client's arrival, or a member's choice, until a member accepted.
pub type ConnectTimes = Histogram<6, 1, 18>;
/// How long sessions lasted.
pub type SessionTimes = Histogram<10, 2, 13>;
/// How long probes took.
pub type CheckTimes = Histogram<8, 2, 8>;
/// How late a worker's tick came.
pub type LagTimes = Histogram<10, 2, 8>;

/// Spans of time in `N` buckets and one for what is longer: the first holds those of up to
/// 2^`FIRST` microseconds, each later one those of up to 2^`STEP` times as much.
#[derive(Debug)]
pub struct Histogram<const FIRST: u32, const STEP: u32, const N: usize> {
    buckets: [Counter; N],
    longer: Counter,
    /// In microseconds: with 100,000 sessions at once it takes years to begin anew.
    sum: Counter,
}

/// What was counted, of one histogram or of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Upper bounds in seconds, rising, the last one infinite; each with how many lie between it
    /// and the one before.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all spans, in seconds.
    pub sum: f64,
}

impl<const FIRST: u32, const STEP: u32, const N: usize> Histogram<FIRST, STEP, N> {
    /// Counts one. Only the thread that owns the histogram may call this.
    pub fn observe(&self, span: Duration) {
        let micros = u64::try_from(span.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX);
        self.buckets
            .get(Self::bucket(micros))
            .unwrap_or(&self.longer)
            .add(1);
        self.sum.add(micros);
    }

    /// Adds what was counted to `distribution`, which must be empty or of the same range.
    pub fn add_to(&self, distribution: &mut Distribution) {
        if distribution.buckets.is_empty() {
            let bounds = (0..).take(N).map(Self::bound).chain([f64::INFINITY]);
            distribution.buckets = bounds.map(|bound| (bound, 0)).collect();
        }
        let counts = self.buckets.iter().chain([&self.longer]);
        for ((_, sum), count) in distribution.buckets.iter_mut().zip(counts) {
            *sum += count.get();
        }
        distribution.sum += self.sum.get() as f64 / 1e6;
    }

    /// The sum of several.
    pub fn total<'a>(each: impl Iterator<Item = &'a Self>) -> Distribution {
        let mut sum = Distribution::default();
        Self::default().add_to(&mut sum);
        each.for_each(|histogram| histogram.add_to(&mut sum));
        sum
    }

    /// The first bucket whose bound is no less.
    fn bucket(micros: u64) -> usize {
        // The power of two that is no less.
        let power = u64::BITS - micros.saturating_sub(1).leading_zeros();
        power.saturating_sub(FIRST).div_ceil(STEP) as usize
    }

    /// In seconds.
    fn bound(bucket: u32) -> f64 {
        (1u64 << (FIRST + STEP * bucket)) as f64 / 1e6
    }
}

impl<const FIRST: u32, const STEP: u32, const N: usize> Default for Histogram<FIRST, STEP, N> {
    fn default() -> Self {
        Histogram {
            buckets: array::from_fn(|_| Counter::default()),
            longer: Counter::default(),
            sum: Counter::default(),
        }
    }
}

impl Distribution {
    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(spans: &[Duration]) -> Distribution {
        let histogram = ConnectTimes::default();
        spans.iter().for_each(|span| histogram.observe(*span));
        ConnectTimes::total([&histogram].into_iter())
    }

    #[test]
    fn a_span_of_exactly_a_bound_lies_below_it_and_one_longer_above() {
        for (nanos, bucket) in [
            (0, 0),
            (1, 0),
            (64_000, 0),
            (64_001, 1),
            (128_000, 1),
            (128_001, 2),
            (1_024_000, 4),
            (8_388_608_000, 17),
            (8_388_608_001, 18),
            (u64::MAX, 18),
        ] {
            let counted = of(&[Duration::from_nanos(nanos)]);
            let at = counted.buckets.iter().position(|(_, count)| *count == 1);
            assert_eq!(at, Some(bucket), "{nanos} ns");
        }
        let longest = of(&[Duration::MAX]);
        assert_eq!(longest.buckets.last(), Some(&(f64::INFINITY, 1)));
    }

    #[test]
    fn the_ranges_are_those_of_the_table() {
        fn ends(distribution: &Distribution) -> (f64, f64) {
            let finite = distribution.buckets.len() - 2;
            (distribution.buckets[0].0, distribution.buckets[finite].0)
        }
        let connects = ConnectTimes::total([].into_iter());
        assert_eq!(ends(&connects), (0.000_064, 8.388_608));
        let sessions = SessionTimes::total([].into_iter());
        assert_eq!(ends(&sessions), (0.001_024, 17_179.869_184));
        let checks = CheckTimes::total([].into_iter());
        assert_eq!(ends(&checks), (0.000_256, 4.194_304));
        let lag = LagTimes::total([].into_iter());
        assert_eq!(ends(&lag), (0.001_024, 16.777_216));
    }

    #[test]
    fn several_are_summed() {
        let each: [ConnectTimes; 3] = Default::default();
        for (histogram, micros) in each.iter().zip([10, 70, 90]) {
            histogram.observe(Duration::from_micros(micros));
        }
        let sum = ConnectTimes::total(each.iter());
        assert_eq!(sum.buckets[..2], [(0.000_064, 1), (0.000_128, 2)]);
        assert_eq!((sum.count(), sum.sum), (3, 0.000_17));
    }

    proptest! {
        #[test]
        fn every_span_lies_between_the_bounds_of_its_bucket(micros in 0u64..1 << 50) {
            let histogram = SessionTimes::default();
            histogram.observe(Duration::from_micros(micros));
            let counted = SessionTimes::total([&histogram].into_iter());
            let at = counted.buckets.iter().position(|(_, count)| *count == 1);
            let at = at.expect("counted once");
            let seconds = micros as f64 / 1e6;
            prop_assert!(seconds <= counted.buckets[at].0);
            prop_assert!(at == 0 || seconds > counted.buckets[at - 1].0);
        }
    }
}
