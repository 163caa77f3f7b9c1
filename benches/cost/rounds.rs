//! The figures of all rounds, and what they say: medians, and ratios that are paired.
//!
//! The machine's speed changes from phase to phase. So a ratio is taken within each round, from
//! phases that follow each other, and the median of those ratios is told, not the ratio of the
//! medians. Which peer is the best is decided by medians.

use crate::support::stats::{Table, median, quantile, show, worst};

/// One figure that is measured of every proxy.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Its name in tables.
    pub(crate) name: String,
    /// Decimals that are shown.
    pub(crate) decimals: usize,
    /// Whether less is better.
    pub(crate) less: bool,
    /// What is asked of twinpool.
    pub(crate) target: Target,
}

/// What is asked of twinpool in a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// Nothing.
    None,
    /// At most so many times the best peer.
    Ratio(f64),
    /// At most so much.
    Most(f64),
}

impl Figure {
    /// One of which less is better and nothing is asked.
    pub(crate) fn new(name: &str, decimals: usize) -> Figure {
        Figure {
            name: name.to_owned(),
            decimals,
            less: true,
            target: Target::None,
        }
    }

    /// The same, with what is asked.
    pub(crate) fn asked(self, target: Target) -> Figure {
        Figure { target, ..self }
    }

    /// The same, of which more is better.
    pub(crate) fn more(self) -> Figure {
        Figure {
            less: false,
            ..self
        }
    }
}

/// What was measured: of each figure and proxy one value a round, NaN where there is none.
#[derive(Debug)]
pub(crate) struct Rounds {
    figures: Vec<Figure>,
    proxies: Vec<String>,
    /// Which proxy the others are the peers of.
    ours: Option<usize>,
    values: Vec<Vec<Vec<f64>>>,
}

impl Rounds {
    /// Of these figures and proxies, of which `ours` is the one that is compared.
    pub(crate) fn new(figures: Vec<Figure>, proxies: Vec<String>, ours: Option<usize>) -> Rounds {
        let values = vec![vec![Vec::new(); proxies.len()]; figures.len()];
        Rounds {
            figures,
            proxies,
            ours,
            values,
        }
    }

    /// Takes the value of a figure and a proxy in a round, counted from 0.
    pub(crate) fn put(&mut self, figure: usize, proxy: usize, round: usize, value: f64) {
        let values = &mut self.values[figure][proxy];
        if values.len() <= round {
            values.resize(round + 1, f64::NAN);
        }
        values[round] = value;
    }

    /// The median of a figure of a proxy over the rounds that have it.
    pub(crate) fn median(&self, figure: usize, proxy: usize) -> f64 {
        median(&known(&self.values[figure][proxy]))
    }

    /// One value ÷ another, round by round; each is named by figure and proxy.
    pub(crate) fn ratios(&self, upper: (usize, usize), lower: (usize, usize)) -> Vec<f64> {
        let (upper, lower) = (
            &self.values[upper.0][upper.1],
            &self.values[lower.0][lower.1],
        );
        let ratios: Vec<f64> = upper.iter().zip(lower).map(|(u, l)| u / l).collect();
        known(&ratios)
    }

    /// The peer with the best median of a figure.
    fn best(&self, figure: usize) -> Option<usize> {
        let sign = if self.figures[figure].less { 1.0 } else { -1.0 };
        (0..self.proxies.len())
            .filter(|proxy| Some(*proxy) != self.ours && self.median(figure, *proxy).is_finite())
            .min_by(|a, b| {
                let key = |proxy: usize| sign * self.median(figure, proxy);
                key(*a).total_cmp(&key(*b))
            })
    }

    /// Medians: a row for each proxy, with the least and the most of all rounds in brackets.
    pub(crate) fn print_medians(&self) {
        let mut heads = vec!["proxy"];
        heads.extend(self.figures.iter().map(|figure| figure.name.as_str()));
        let mut table = Table::new(&heads);
        for (proxy, name) in self.proxies.iter().enumerate() {
            let mut cells = vec![name.clone()];
            for (n, figure) in self.figures.iter().enumerate() {
                let values = known(&self.values[n][proxy]);
                let mut cell = show(median(&values), figure.decimals);
                if values.len() > 1 {
                    let (least, most) = (quantile(&values, 0.0), worst(&values));
                    let (least, most) = (show(least, figure.decimals), show(most, figure.decimals));
                    cell.push_str(&format!(" [{least}–{most}]"));
                }
                cells.push(cell);
            }
            table.row(cells);
        }
        table.print();
    }

    /// Twinpool ÷ the best peer, paired: a row for each figure.
    pub(crate) fn print_ratios(&self) {
        let Some(ours) = self.ours else { return };
        let mut table = Table::new(&[
            "figure",
            "twinpool",
            "best peer",
            "twinpool ÷ it, median of rounds",
            "middle half",
            "all rounds",
            "target",
            "result",
        ]);
        let mut rows = 0;
        for (n, figure) in self.figures.iter().enumerate() {
            let middle = self.median(n, ours);
            let best = self.best(n);
            let ratios = best.map_or(Vec::new(), |best| self.ratios((n, ours), (n, best)));
            if !middle.is_finite() || (ratios.is_empty() && !figure.target.is_set()) {
                continue;
            }
            let ratio = median(&ratios);
            let span = |from, to| match ratios.is_empty() {
                true => "–".to_owned(),
                false => format!(
                    "{}–{}",
                    show(quantile(&ratios, from), 2),
                    show(quantile(&ratios, to), 2)
                ),
            };
            let (target, met) = match figure.target {
                Target::None => ("–".to_owned(), None),
                Target::Ratio(most) => (format!("{} ×", show(most, 2)), Some(ratio <= most)),
                Target::Most(most) => (show(most, figure.decimals), Some(middle <= most)),
            };
            let result = match met.filter(|_| figure.target.is_absolute() || ratio.is_finite()) {
                None => "–",
                Some(true) => "met",
                Some(false) => "missed",
            };
            table.row([
                figure.name.clone(),
                show(middle, figure.decimals),
                best.map_or("–".to_owned(), |best| {
                    let value = show(self.median(n, best), figure.decimals);
                    format!("{} ({value})", self.proxies[best])
                }),
                show(ratio, 2),
                span(0.25, 0.75),
                span(0.0, 1.0),
                target,
                result.to_owned(),
            ]);
            rows += 1;
        }
        if rows > 0 {
            table.print();
        }
    }

    /// How a figure grows: a row for each proxy and unit, a column for each of `steps`, in each
    /// cell the median and, paired, its ratio to the first step. The figures must be `units` for
    /// the first step, then for the second, and so on.
    pub(crate) fn print_growth(&self, units: &[&str], steps: &[String]) {
        let mut heads = vec!["proxy", "figure"];
        heads.extend(steps.iter().map(String::as_str));
        let mut table = Table::new(&heads);
        for (unit, what) in units.iter().enumerate() {
            for (proxy, name) in self.proxies.iter().enumerate() {
                let mut cells = vec![name.clone(), (*what).to_owned()];
                for step in 0..steps.len() {
                    let figure = step * units.len() + unit;
                    let decimals = self.figures[figure].decimals;
                    let mut cell = show(self.median(figure, proxy), decimals);
                    let growth = median(&self.ratios((figure, proxy), (unit, proxy)));
                    if step > 0 && growth.is_finite() {
                        cell.push_str(&format!(" ({} ×)", show(growth, 2)));
                    }
                    cells.push(cell);
                }
                table.row(cells);
            }
        }
        table.print();
    }
}

impl Target {
    fn is_set(self) -> bool {
        !matches!(self, Target::None)
    }

    fn is_absolute(self) -> bool {
        matches!(self, Target::Most(_))
    }
}

/// The order in which so many take their turns in a round, counted from 0: everybody begins as
/// often as everybody else, and each second time the order is turned round, so that nobody always
/// follows the same one.
pub(crate) fn order(many: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..many).map(|n| (n + round) % many).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn known(values: &[f64]) -> Vec<f64> {
    values.iter().copied().filter(|v| v.is_finite()).collect()
}
