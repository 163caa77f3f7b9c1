//! Medians, quantiles and tables.

use std::fmt::Write as _;

/// The middle value; NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that this share of them is at or below; NaN of none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    // Nearest rank: exact for the few values that are rounds, close enough for thousands.
    let rank = (share * last as f64).round() as usize;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

/// The greatest value; NaN of none.
pub(crate) fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

/// A number with so many decimals, or a dash when there is none.
pub(crate) fn show(value: f64, decimals: usize) -> String {
    if value.is_finite() {
        format!("{value:.decimals$}")
    } else {
        "–".into()
    }
}

/// A Markdown table.
#[derive(Debug)]
pub(crate) struct Table {
    columns: usize,
    text: String,
}

impl Table {
    /// With these column heads.
    pub(crate) fn new(heads: &[&str]) -> Table {
        let mut table = Table {
            columns: heads.len(),
            text: String::new(),
        };
        table.row(heads.iter().map(|s| (*s).to_owned()));
        table.row(heads.iter().map(|_| "---".to_owned()));
        table
    }

    /// One more row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns, "a row of another width");
        writeln!(self.text, "| {} |", cells.join(" | ")).expect("a String takes everything");
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        println!("\n{}", self.text);
    }
}
