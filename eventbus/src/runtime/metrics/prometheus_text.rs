//! The text format of Prometheus, version 0.0.4.

use std::fmt::{self, Write as _};

use super::family::{Distribution, MetricFamily, SampleValue};

/// Writes metrics as a page.
pub(super) fn write(families: &[MetricFamily]) -> String {
    let mut page = String::new();
    for family in families {
        let MetricFamily { name, kind, help, samples, .. } = family;
        // writing to a string does not fail
        let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} {}", EscapedHelp(help), kind.label());
        for sample in samples {
            let labels = &sample.labels;
            let _ = match &sample.value {
                SampleValue::Number(number) => writeln!(page, "{name}{} {number}", Labels(labels, None)),
                SampleValue::Distribution(distribution) => write_distribution(&mut page, name, labels, distribution),
            };
        }
    }
    page
}

fn write_distribution(
    page: &mut String,
    name: &str,
    labels: &[(&'static str, String)],
    distribution: &Distribution,
) -> fmt::Result {
    for (bound, count) in &distribution.buckets {
        writeln!(page, "{name}_bucket{} {count}", Labels(labels, Some(&bound.to_string())))?;
    }
    writeln!(page, "{name}_bucket{} {}", Labels(labels, Some("+Inf")), distribution.count)?;
    writeln!(page, "{name}_sum{} {}", Labels(labels, None), distribution.sum)?;
    writeln!(page, "{name}_count{} {}", Labels(labels, None), distribution.count)
}

/// The labels of a sample, with the bound of its bucket, if it has one.
struct Labels<'a>(&'a [(&'static str, String)], Option<&'a str>);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(labels, bound) = *self;
        let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
        let mut separator = '{';
        for (name, value) in labels.chain(bound.map(|bound| ("le", bound))) {
            write!(f, "{separator}{name}=\"{}\"", EscapedValue(value))?;
            separator = ',';
        }
        if separator == ',' { f.write_char('}') } else { Ok(()) }
    }
}

/// The value of a label with `\`, `"` and line feeds escaped.
struct EscapedValue<'a>(&'a str);

impl fmt::Display for EscapedValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            char => f.write_char(char),
        })
    }
}

/// The meaning of a metric with `\` and line feeds escaped.
struct EscapedHelp<'a>(&'a str);

impl fmt::Display for EscapedHelp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '\\' => f.write_str("\\\\"),
            '\n' => f.write_str("\\n"),
            char => f.write_char(char),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        port::histogram::Histogram,
        runtime::metrics::{
            catalog::{Descriptor, MetricKind},
            families::FamilyBuilder,
        },
    };

    const UP: Descriptor =
        Descriptor { name: "up", kind: MetricKind::Gauge, unit: "", labels: &[], help: "A \\ and\na new line." };
    const RUNS: Descriptor = Descriptor {
        name: "runs_total",
        kind: MetricKind::Counter,
        unit: "{run}",
        labels: &["handler", "group"],
        help: "Runs.",
    };
    const SECONDS: Descriptor =
        Descriptor { name: "seconds", kind: MetricKind::Histogram, unit: "s", labels: &["outcome"], help: "Time." };

    #[test]
    fn a_page_holds_help_type_and_escaped_samples() {
        let histogram = Histogram::new(&[1_000_000, 2_000_000_000]);
        [500, 1_000_000_000, 3_000_000_000].into_iter().for_each(|nanos| histogram.record(nanos));
        let mut families = FamilyBuilder::new(&[&UP, &RUNS, &SECONDS]);
        families.flag(&UP, &[], true);
        families.count(&RUNS, &["say \"hi\"", "a\\b\nc"], 12_345_678_901);
        families.histogram(&SECONDS, &["ok"], &histogram.snapshot());
        let expected = r#"# HELP up A \\ and\na new line.
# TYPE up gauge
up 1
# HELP runs_total Runs.
# TYPE runs_total counter
runs_total{handler="say \"hi\"",group="a\\b\nc"} 12345678901
# HELP seconds Time.
# TYPE seconds histogram
seconds_bucket{outcome="ok",le="0.001"} 1
seconds_bucket{outcome="ok",le="2"} 2
seconds_bucket{outcome="ok",le="+Inf"} 3
seconds_sum{outcome="ok"} 4.0000005
seconds_count{outcome="ok"} 3
"#;
        assert_eq!(families.build().to_prometheus_text(), expected);
    }
}
