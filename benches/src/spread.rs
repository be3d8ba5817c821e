//! A value over several rounds.

use std::fmt;

use crate::meter::Measured;

/// The median of the rounds, the least and the most.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// Returns `None` if there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { min, median: values[values.len() / 2], max })
    }

    /// Returns the ratio of a value to that of `others`, which is computed for each round.
    pub fn of_ratios(rounds: &[Measured], others: &[Measured], value: fn(&Measured) -> Option<f64>) -> Option<Self> {
        Self::of(rounds.iter().zip(others).filter_map(|(round, other)| Some(value(round)? / value(other)?)))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or_default();
        write!(f, "**{:.digits$}** ({:.digits$}–{:.digits$})", self.median, self.min, self.max)
    }
}

/// Writes a cell of a table.
pub fn write_cell(f: &mut fmt::Formatter<'_>, spread: Option<Spread>, digits: usize) -> fmt::Result {
    match spread {
        Some(spread) => write!(f, "| {spread:.digits$} "),
        None => f.write_str("| "),
    }
}
