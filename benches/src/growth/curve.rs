//! The curves of an axis, and their table.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::axis::Axis;
use crate::{
    meter::Measured,
    spread::{Spread, write_cell},
};

/// The curves of an axis: one for each operation.
#[derive(Debug, Serialize, Deserialize)]
pub struct AxisCurves {
    pub axis: String,
    /// The title of the axis of sizes, with its unit.
    pub title: String,
    /// Set if the workloads have a rate of their own: then only the times of operations tell how fast they are.
    pub is_paced: bool,
    /// Set if each round measured every size: then the sizes can be compared round by round.
    #[serde(default)]
    pub sizes_take_turns: bool,
    pub curves: Vec<Curve>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Curve {
    pub label: String,
    /// In the order of their sizes.
    pub points: Vec<Point>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Point {
    pub size: usize,
    pub rounds: Vec<Measured>,
}

impl AxisCurves {
    pub fn new(axis: &Axis) -> Self {
        let curve = |label: &str| Curve { label: label.into(), points: Vec::new() };
        let curves = axis.lines.iter().map(|line| curve(line.label)).collect();
        let (is_paced, sizes_take_turns) = (axis.is_paced(), axis.sizes_take_turns());
        Self { axis: axis.name.into(), title: axis.title.into(), is_paced, sizes_take_turns, curves }
    }
}

impl Point {
    /// Returns a value over the rounds; `None` if no round has it.
    pub fn spread(&self, value: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(value))
    }

    /// Returns the microseconds of processor time per operation, of client and servers.
    pub fn cpu(&self) -> Option<Spread> {
        self.spread(|round| Some(round.cpu()))
    }
}

/// Writes a line for each size of each curve.
impl fmt::Display for AxisCurves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| operation | {} | operations/s | p50 µs | p99 µs | CPU µs, client + server | CPU ÷ that of the first \
             | last ÷ first: operations/s | CPU |",
            self.title
        )?;
        writeln!(f, "|---|---:|---|---|---|---|---|---|---|")?;
        for Curve { label, points } in &self.curves {
            let first = points.first().and_then(Point::cpu).map(|cpu| cpu.median);
            for (index, point) in points.iter().enumerate() {
                let median = |value: fn(&Measured) -> f64| {
                    point.spread(|round| Some(value(round))).map_or(0.0, |spread| spread.median)
                };
                write!(f, "| {label} | {} ", point.size)?;
                write_cell(f, point.spread(|round| Some(round.rate())), 0)?;
                write_cell(f, point.spread(|round| round.p50), 0)?;
                write_cell(f, point.spread(|round| round.p99), 0)?;
                write!(f, "| {:.1} + {:.1} ", median(|round| round.client_cpu), median(|round| round.server_cpu))?;
                match (point.cpu(), first) {
                    (Some(cpu), Some(first)) => write!(f, "| {:.2} ", cpu.median / first)?,
                    _ => write!(f, "| ")?,
                }
                let is_compared = self.sizes_take_turns && index > 0 && index + 1 == points.len();
                let ratio = |value: fn(&Measured) -> Option<f64>| {
                    if is_compared { Spread::of_ratios(&point.rounds, &points[0].rounds, value) } else { None }
                };
                write_cell(f, ratio(|round| Some(round.rate())), 2)?;
                write_cell(f, ratio(|round| Some(round.cpu())), 2)?;
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_medians_and_the_last_one_the_ratio_of_rounds_to_the_first() {
        let round = |client_cpu| Measured {
            operations: 100,
            seconds: 0.5,
            client_cpu,
            server_cpu: 1.0,
            p50: Some(10.0),
            p99: None,
        };
        let point = |size, cpu: &[f64]| Point { size, rounds: cpu.iter().copied().map(round).collect() };
        let points = vec![point(1, &[1.0, 3.0, 2.0]), point(5, &[4.0]), point(10, &[8.0, 7.0, 8.0])];
        let curves = vec![Curve { label: "save".into(), points }];
        let (axis, title) = ("streams".into(), "streams".into());
        let mut curves = AxisCurves { axis, title, is_paced: false, sizes_take_turns: true, curves };
        let (table, cells) = (curves.to_string(), "| **200** (200–200) | **10** (10–10) | |");
        assert_eq!(
            table.lines().skip(2).collect::<Vec<_>>(),
            [
                format!("| save | 1 {cells} 2.0 + 1.0 | 1.00 | | |"),
                format!("| save | 5 {cells} 4.0 + 1.0 | 1.67 | | |"),
                format!("| save | 10 {cells} 8.0 + 1.0 | 3.00 | **1.00** (1.00–1.00) | **3.00** (2.00–4.50) |"),
            ]
        );
        curves.sizes_take_turns = false;
        assert!(curves.to_string().ends_with("| 3.00 | | |\n"));
    }
}
