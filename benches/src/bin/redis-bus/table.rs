//! The rounds as rows of a table: medians, and in brackets the least and the most. Ratios are computed per round.

use std::{fmt, time::Duration};

use crate::{meter::Throughput, side::Pair};

/// Prints a row for each measured workload. Processor time is per event, of this process and of the server.
pub fn throughputs(workloads: &[(&str, &[Pair<Throughput>])]) {
    println!("| | ours, events/s | by hand, events/s | ours ÷ by hand | ours, CPU µs | by hand, CPU µs |");
    println!("|---|---|---|---|---|---|");
    for (what, rounds) in workloads.iter().filter(|(_, rounds)| !rounds.is_empty()) {
        let both = Both::of(rounds, Throughput::rate);
        let client = Both::of(rounds, |side| side.each(side.client));
        let server = Both::of(rounds, |side| side.each(side.server));
        let ours = format!("{:.1} + {:.1}", client.ours.median, server.ours.median);
        let by_hand = format!("{:.1} + {:.1}", client.by_hand.median, server.by_hand.median);
        println!("| {what} | {both} | {ours} | {by_hand} |");
    }
}

/// Prints the percentiles of latencies, if there are any.
pub fn latencies(what: &str, rounds: &[Pair<Vec<Duration>>]) {
    if rounds.is_empty() {
        return;
    }
    println!("\n| | ours, µs | by hand, µs | ours ÷ by hand |");
    println!("|---|---|---|---|");
    for percent in [50, 99] {
        let percentile = |sorted: &Vec<Duration>| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted[rank - 1].as_secs_f64() * 1e6
        };
        println!("| {what}, p{percent} | {} |", Both::of(rounds, percentile));
    }
}

/// A value of both sides, and its ratio.
struct Both {
    ours: Spread,
    by_hand: Spread,
    ratio: Spread,
}

impl Both {
    fn of<T>(rounds: &[Pair<T>], value: impl Fn(&T) -> f64) -> Self {
        let spread = |of: &dyn Fn(&Pair<T>) -> f64| Spread::of(rounds.iter().map(of).collect());
        Self {
            ours: spread(&|pair| value(&pair.ours)),
            by_hand: spread(&|pair| value(&pair.by_hand)),
            ratio: spread(&|pair| value(&pair.ours) / value(&pair.by_hand)),
        }
    }
}

impl fmt::Display for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} | {:.0} | {:.2}", self.ours, self.by_hand, self.ratio)
    }
}

/// A value over the rounds.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { least: values[0], median: values[values.len() / 2], most: values[values.len() - 1] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or_default();
        write!(f, "**{:.digits$}** ({:.digits$}–{:.digits$})", self.median, self.least, self.most)
    }
}
