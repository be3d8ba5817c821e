//! The rounds as rows of a table: medians, and from the least to the most in brackets.

use std::{fmt, time::Duration};

use crate::{meter::Throughput, side::Pair};

/// Throughput over the rounds; a ratio is that of one round.
pub struct Throughputs<'a> {
    pub what: &'static str,
    pub rounds: &'a [Pair<Throughput>],
}

impl Throughputs<'_> {
    pub const HEAD: &'static str = "\
| | ours, events/s | by hand, events/s | ours ÷ by hand | ours, CPU µs | by hand, CPU µs |
|---|---|---|---|---|---|";
}

impl fmt::Display for Throughputs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rates =
            |side: fn(&Pair<Throughput>) -> &Throughput| Spread::of(self.rounds.iter().map(|pair| side(pair).rate()));
        let cpu = |side: fn(&Pair<Throughput>) -> &Throughput| {
            let client = Spread::of(self.rounds.iter().map(|pair| side(pair).each(side(pair).client)));
            let server = Spread::of(self.rounds.iter().map(|pair| side(pair).each(side(pair).server)));
            format!("{:.1} + {:.1}", client.median, server.median)
        };
        let ratio = Spread::of(self.rounds.iter().map(|pair| pair.ours.rate() / pair.by_hand.rate()));
        let (ours, by_hand) = (rates(|pair| &pair.ours), rates(|pair| &pair.by_hand));
        write!(f, "| {} | {ours:.0} | {by_hand:.0} | {ratio:.2} |", self.what)?;
        write!(f, " {} | {} |", cpu(|pair| &pair.ours), cpu(|pair| &pair.by_hand))
    }
}

/// A percentile of the latency over the rounds; a ratio is that of one round.
pub struct Latencies<'a> {
    pub what: &'static str,
    pub part: f64,
    pub rounds: &'a [Pair<Vec<Duration>>],
}

impl Latencies<'_> {
    pub const HEAD: &'static str = "\
| | ours, µs | by hand, µs | ours ÷ by hand |
|---|---|---|---|";

    fn of(&self, sorted: &[Duration]) -> f64 {
        let rank = (self.part * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1].as_secs_f64() * 1e6
    }
}

impl fmt::Display for Latencies<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = Spread::of(self.rounds.iter().map(|pair| self.of(&pair.ours)));
        let by_hand = Spread::of(self.rounds.iter().map(|pair| self.of(&pair.by_hand)));
        let ratio = Spread::of(self.rounds.iter().map(|pair| self.of(&pair.ours) / self.of(&pair.by_hand)));
        write!(f, "| {} | {ours:.0} | {by_hand:.0} | {ratio:.2} |", self.what)
    }
}

/// A value of several rounds.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    /// Of an odd number of values.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
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
