//! What the rounds came to: medians, ratios within a round, tables.

use std::fmt;

use super::crowd::Report;
use super::proxies::Proxy;
use crate::support::stats::{Table, median, quantile, show, worst};

/// Of what was sent, how much may be lost where the most datagrams a second are told.
const MAY_BE_LOST: f64 = 0.01;
/// A datagram that came back was forwarded to a member and to its client.
const FORWARDED: f64 = 2.0;

/// A load by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// The proxy's clients.
    pub(crate) flows: usize,
    /// Datagrams of a burst.
    pub(crate) window: usize,
    /// Bytes of a datagram.
    pub(crate) size: usize,
    /// Whether it stands in the table of costs; the others are for the most datagrams alone.
    pub(crate) shown: bool,
    /// Whether it may be the one of the most datagrams a second.
    pub(crate) most: bool,
}

/// One proxy's turn in a round.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    /// What came of each load, in their order.
    pub(crate) reports: Vec<Report>,
    /// KiB that an idle flow takes; NaN when not asked for.
    pub(crate) idle_kib: f64,
}

/// All turns.
#[derive(Debug)]
pub(crate) struct Results {
    loads: Vec<Load>,
    proxies: Vec<Proxy>,
    /// By round, by proxy.
    rounds: Vec<Vec<Option<Turn>>>,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} flows × {}, {} bytes",
            self.flows, self.window, self.size
        )
    }
}

impl Report {
    /// What the proxy's core did for each datagram forwarded, µs.
    pub(crate) fn micros(&self) -> f64 {
        self.busy / (self.counts.returned as f64 * FORWARDED) * 1e6
    }

    /// Datagrams forwarded a second.
    pub(crate) fn rate(&self) -> f64 {
        self.counts.returned as f64 * FORWARDED / self.seconds
    }

    /// Datagrams that were sent while it was measured and never came back.
    pub(crate) fn lost(&self) -> u64 {
        self.counts.sent.saturating_sub(self.counts.answered)
    }

    fn lost_share(&self) -> f64 {
        self.lost() as f64 / self.counts.sent as f64
    }

    fn percentile(&self, share: f64) -> f64 {
        let times: Vec<f64> = self.counts.times.iter().map(|t| f64::from(*t)).collect();
        quantile(&times, share) / 1e3
    }
}

impl Results {
    /// None yet.
    pub(crate) fn new(loads: Vec<Load>, proxies: Vec<Proxy>) -> Results {
        Results {
            loads,
            proxies,
            rounds: Vec::new(),
        }
    }

    /// What a proxy did in a round; rounds come in their order.
    pub(crate) fn add(&mut self, round: usize, proxy: Proxy, turn: Turn) {
        if self.rounds.len() <= round {
            self.rounds.push(vec![None; self.proxies.len()]);
        }
        if let Some(place) = self.proxies.iter().position(|p| *p == proxy) {
            self.rounds[round][place] = Some(turn);
        }
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        if self.loads.iter().any(|load| load.shown) {
            self.costs().print();
        }
        self.totals().print();
    }

    fn costs(&self) -> Table {
        let mut table = Table::new(&[
            "load",
            "proxy",
            "µs of core 0 per datagram",
            "÷ best peer",
            "datagrams/s",
            "core 0 busy",
            "lost",
            "echo, ms: median / p99",
        ]);
        for (n, load) in self.loads.iter().enumerate() {
            for &proxy in self.proxies.iter().filter(|_| load.shown) {
                let all = |read: fn(&Report) -> f64| self.each(proxy, |t| read(&t.reports[n]));
                let echo = if load.window == 1 {
                    let [middle, p99] = [all(|r| r.percentile(0.5)), all(|r| r.percentile(0.99))];
                    format!("{} / {}", show(median(&middle), 2), show(median(&p99), 2))
                } else {
                    "–".into()
                };
                table.row([
                    load.to_string(),
                    proxy.name().to_owned(),
                    spread(&all(Report::micros), 2),
                    self.ratio(proxy, true, |t| t.reports[n].micros()),
                    show(median(&all(Report::rate)), 0),
                    percent(median(&all(|r| r.busy / r.seconds)), 0),
                    percent(median(&all(Report::lost_share)), 3),
                    echo,
                ]);
            }
        }
        table
    }

    /// What a proxy has but one figure of.
    fn totals(&self) -> Table {
        let mut sizes: Vec<usize> = self.most().map(|(_, load)| load.size).collect();
        sizes.dedup();
        let mut heads = vec!["proxy".to_owned()];
        for size in &sizes {
            heads.push(format!("most datagrams/s, {size} bytes"));
            heads.push("÷ best peer".into());
            heads.push("at a window of; core 0 busy; lost".into());
        }
        heads.extend(["KiB per idle flow".into(), "÷ best peer".into()]);
        let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
        for &proxy in &self.proxies {
            let mut cells = vec![proxy.name().to_owned()];
            for &size in &sizes {
                let rate = |turn: &Turn| self.best(turn, size).map_or(f64::NAN, |(_, r)| r.rate());
                cells.push(spread(&self.each(proxy, rate), 0));
                cells.push(self.ratio(proxy, false, rate));
                cells.push(self.usual(proxy, size));
            }
            cells.push(spread(&self.each(proxy, |turn| turn.idle_kib), 2));
            cells.push(self.ratio(proxy, true, |turn| turn.idle_kib));
            table.row(cells);
        }
        table
    }

    /// The loads that the most datagrams a second are looked for among.
    fn most(&self) -> impl Iterator<Item = (usize, &Load)> {
        self.loads.iter().enumerate().filter(|(_, load)| load.most)
    }

    /// The load of this size with the most datagrams a second of those that lost few.
    fn best<'a>(&'a self, turn: &'a Turn, size: usize) -> Option<(&'a Load, &'a Report)> {
        self.most()
            .filter(|(_, load)| load.size == size)
            .map(|(n, load)| (load, &turn.reports[n]))
            .filter(|(_, report)| report.lost_share() <= MAY_BE_LOST)
            .max_by(|(_, a), (_, b)| a.rate().total_cmp(&b.rate()))
    }

    /// How it was in the round of the median.
    fn usual(&self, proxy: Proxy, size: usize) -> String {
        let mut bests: Vec<(&Load, &Report)> = self
            .turns(proxy)
            .filter_map(|turn| self.best(turn, size))
            .collect();
        bests.sort_by(|(_, a), (_, b)| a.rate().total_cmp(&b.rate()));
        let Some((load, report)) = bests.get(bests.len() / 2) else {
            return "every window lost more than 1 %".into();
        };
        format!(
            "{}; {}; {}",
            load.window,
            percent(report.busy / report.seconds, 0),
            percent(report.lost_share(), 3)
        )
    }

    fn turns(&self, proxy: Proxy) -> impl Iterator<Item = &Turn> {
        let place = self.proxies.iter().position(|p| *p == proxy);
        self.rounds
            .iter()
            .filter_map(move |round| round.get(place?)?.as_ref())
    }

    fn each(&self, proxy: Proxy, read: impl Fn(&Turn) -> f64) -> Vec<f64> {
        self.turns(proxy).map(read).collect()
    }

    /// Twinpool's figure ÷ the best peer's of the same round: the median of the rounds, the least
    /// and the greatest.
    fn ratio(&self, proxy: Proxy, less: bool, read: impl Fn(&Turn) -> f64) -> String {
        if proxy != Proxy::Twinpool {
            return "–".into();
        }
        let mut ratios = Vec::new();
        for round in &self.rounds {
            let mut ours = f64::NAN;
            let mut best = f64::NAN;
            for (proxy, turn) in self.proxies.iter().zip(round) {
                let Some(turn) = turn else { continue };
                let value = read(turn);
                match proxy {
                    Proxy::Twinpool => ours = value,
                    // A NaN gives way to a number.
                    _ if less => best = best.min(value),
                    _ => best = best.max(value),
                }
            }
            ratios.push(ours / best);
        }
        spread(&ratios, 2)
    }
}

/// The median, and in brackets the least and the greatest.
fn spread(values: &[f64], decimals: usize) -> String {
    let middle = show(median(values), decimals);
    let least = values.iter().copied().fold(f64::NAN, f64::min);
    if values.len() < 2 || !least.is_finite() {
        return middle;
    }
    let (least, most) = (show(least, decimals), show(worst(values), decimals));
    format!("{middle} [{least}–{most}]")
}

fn percent(share: f64, decimals: usize) -> String {
    format!("{} %", show(share * 100.0, decimals))
}
