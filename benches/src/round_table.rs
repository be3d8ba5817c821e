//! The rounds of a workload as lines of a table.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    meter::Measured,
    spread::{Spread, write_cell},
};

#[derive(Debug, Serialize, Deserialize)]
pub struct RoundTable {
    pub workload: String,
    pub operation: String,
    pub is_paced: bool,
    pub callers: usize,
    /// The implementations; the first one is compared with all others.
    pub columns: Vec<Column>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Column {
    pub label: String,
    pub rounds: Vec<Measured>,
    /// Allocations per operation; `None` if the program cannot count them.
    pub allocations: Option<f64>,
}

impl RoundTable {
    pub const HEADER: &str = "\
| workload | callers | | operations/s | p50 µs | p99 µs | CPU µs, client + server | allocations | ours ÷ this: operations/s | p50 | CPU |
|---|---|---|---|---|---|---|---|---|---|---|";

    /// Returns the ratio of our processor time to that of the line `label`, if there is such a line.
    pub fn cpu_ratio(&self, label: &str) -> Option<Spread> {
        let column = self.columns.iter().find(|column| column.label == label)?;
        self.ratio(column, |round| Some(round.cpu()))
    }

    /// Returns the ratio of a value of ours to that of a line.
    fn ratio(&self, column: &Column, value: fn(&Measured) -> Option<f64>) -> Option<Spread> {
        Spread::of_ratios(&self.columns[0].rounds, &column.rounds, value)
    }
}

/// Writes a line for each implementation.
impl fmt::Display for RoundTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, column) in self.columns.iter().enumerate() {
            let spread = |value: fn(&Measured) -> Option<f64>| Spread::of(column.rounds.iter().filter_map(value));
            let median = |value| spread(value).map_or(0.0, |spread| spread.median);
            let (workload, callers) = (&self.workload, self.callers);
            write!(f, "| {workload} | {callers} | {} ", column.label)?;
            write_cell(f, spread(|round| Some(round.rate())), 0)?;
            write_cell(f, spread(|round| round.p50), 0)?;
            write_cell(f, spread(|round| round.p99), 0)?;
            let (client, server) = (median(|round| Some(round.client_cpu)), median(|round| Some(round.server_cpu)));
            let allocations = column.allocations.map_or_else(String::new, |allocations| format!("{allocations:.1} "));
            write!(f, "| {client:.1} + {server:.1} | {allocations}")?;
            let ratio = |value: fn(&Measured) -> Option<f64>| {
                if index == 0 { None } else { self.ratio(column, value) }
            };
            write_cell(f, ratio(|round| Some(round.rate())), 2)?;
            write_cell(f, ratio(|round| round.p50), 2)?;
            write_cell(f, ratio(|round| Some(round.cpu())), 2)?;
            writeln!(f, "|")?;
        }
        Ok(())
    }
}
