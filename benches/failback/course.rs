//! The course of a failback: what members and twinpool told, put together by moment.

use std::fmt::Write as _;

use crate::support::clock::seconds;
use crate::support::echo::Sample;

/// Over what rates are taken, seconds.
const WINDOW: f64 = 1.0;
/// How long before the order the course begins, seconds.
const BEFORE: f64 = 2.0;

/// A failback from shortly before the order to shortly after its end.
#[derive(Debug)]
pub(crate) struct Course {
    /// In order.
    pub(crate) moments: Vec<Moment>,
    /// Sessions that came home.
    pub(crate) all: u64,
}

/// One moment of it.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// Seconds since the order.
    pub(crate) at: f64,
    /// Of a hundred clients, how many twinpool sends home.
    pub(crate) share: f64,
    /// Sessions that came home so far.
    pub(crate) moved: u64,
    /// Sessions that came home in the second before.
    pub(crate) rate: f64,
    /// Of the short connections in the second before, how many in a hundred went home; none where
    /// there were none.
    pub(crate) short_home: Option<f64>,
    /// Most sessions and connections that one member was given in the second before.
    pub(crate) arrivals: f64,
    /// Sessions that each member holds.
    pub(crate) held: Vec<u64>,
}

impl Course {
    /// Puts samples of the members, the first `home` of them those of the home pool, and of the
    /// share together.
    pub(crate) fn of(
        samples: &[Sample],
        shares: &[(u64, u64)],
        ordered: u64,
        home: usize,
    ) -> Course {
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        let at = |sample: &Sample| seconds(ordered, sample.at);
        let from = samples.partition_point(|sample| at(sample) < -BEFORE);
        let first = samples.get(from).map_or(0, |s| sum(&s.long[..home]));
        let moment = |(index, sample): (usize, &Sample)| {
            let within = samples[..index].partition_point(|s| at(s) <= at(sample) - WINDOW);
            let before = &samples[within.saturating_sub(1)];
            // At least a window, but for the first few.
            let span = seconds(before.at, sample.at).max(WINDOW);
            let risen = |of: fn(&Sample) -> &Vec<u64>| -> Vec<f64> {
                let pairs = of(sample).iter().zip(of(before));
                pairs.map(|(now, then)| (now - then) as f64).collect()
            };
            let (long, short) = (risen(|s| &s.long), risen(|s| &s.short));
            let all_short: f64 = short.iter().sum();
            let given = long.iter().zip(&short).map(|(long, short)| long + short);
            Moment {
                at: at(sample),
                share: share_at(shares, sample.at),
                moved: sum(&sample.long[..home]) - first,
                rate: long[..home].iter().sum::<f64>() / span,
                short_home: (all_short > 0.0)
                    .then(|| short[..home].iter().sum::<f64>() / all_short * 100.0),
                arrivals: given.fold(0.0, f64::max) / span,
                held: sample.held.clone(),
            }
        };
        let moments: Vec<Moment> = samples.iter().enumerate().skip(from).map(moment).collect();
        let all = moments.last().map_or(0, |last| last.moved);
        Course { moments, all }
    }

    /// Seconds from the order until the last session was home.
    pub(crate) fn took(&self) -> f64 {
        self.first(|moment| moment.moved == self.all)
    }

    /// Seconds from the first session that moved to the last.
    pub(crate) fn moving(&self) -> f64 {
        self.took() - self.first(|moment| moment.moved > 0)
    }

    /// The most of something from the order on.
    pub(crate) fn most(&self, of: fn(&Moment) -> f64) -> f64 {
        let since = self.moments.iter().filter(|moment| moment.at >= 0.0);
        since.map(of).fold(f64::NAN, f64::max)
    }

    /// As lines of comma-separated values.
    pub(crate) fn csv(&self, names: &[String]) -> String {
        let mut text = format!(
            "seconds,share_percent,moved,moved_per_second,short_home_percent,\
             most_arrivals_per_second,{}\n",
            names.join(",")
        );
        for moment in &self.moments {
            let short = moment.short_home.map(|share| format!("{share:.1}"));
            let held: Vec<String> = moment.held.iter().map(u64::to_string).collect();
            writeln!(
                text,
                "{:.2},{:.0},{},{:.0},{},{:.0},{}",
                moment.at,
                moment.share,
                moment.moved,
                moment.rate,
                short.unwrap_or_default(),
                moment.arrivals,
                held.join(",")
            )
            .expect("a String takes everything");
        }
        text
    }

    fn first(&self, is: impl Fn(&Moment) -> bool) -> f64 {
        let found = self.moments.iter().find(|moment| is(moment));
        found.map_or(f64::NAN, |moment| moment.at)
    }
}

/// The share that was told last before a moment; nobody before the first.
fn share_at(shares: &[(u64, u64)], at: u64) -> f64 {
    let told = shares.partition_point(|(when, _)| *when <= at);
    told.checked_sub(1)
        .map_or(0.0, |last| shares[last].1 as f64)
}
