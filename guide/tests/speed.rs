//! The figures of speed and memory in the README and in the chapter on sizing are those of `benches/README.md`.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, path::Path};

/// The head of the table of one run, and that of the run on a faster day.
const RUN: &str = "| workload | callers | | operations/s | p50 µs | p99 µs | CPU µs, client + server | allocations | \
                   ours ÷ this: operations/s | p50 | CPU |";
const FASTER_DAY: &str = "| workload | callers | ours: operations/s | p50 µs | ours ÷ by hand: operations/s | CPU | \
                          ours ÷ grouped, or compact, by hand |";

/// A workload, and its number of callers.
type Line = (&'static str, &'static str);

/// The rows of the README's table, each with the workloads and callers that it shows, and the code that ours is divided by.
const RATIOS: &[(&str, &[Line], &str)] = &[
    ("save one event, 1 / 32 / 256 callers", &[("save-1", "1"), ("save-1", "32"), ("save-1", "256")], "by hand"),
    ("save one event, 32 callers, against a group commit by hand", &[("save-1", "32")], "grouped by hand"),
    ("save ten events, 32 callers", &[("save-10", "32")], "by hand"),
    ("save ten events, 32 callers, against a group commit by hand", &[("save-10", "32")], "grouped by hand"),
    ("load 100 events and save one, 1 / 32 callers", &[("load-100-save", "1"), ("load-100-save", "32")], "by hand"),
    ("load 10,000 events, PostgreSQL / SQLite", &[("load-10000", "1"), ("sqlite-load-10000", "1")], "by hand"),
    ("decide by two tags, 1 / 32 callers", &[("decide-cold", "1"), ("decide-cold", "32")], "by hand"),
    (
        "rebuild a projection in memory, PostgreSQL / SQLite",
        &[("rebuild-memory", "1"), ("sqlite-rebuild-memory", "1")],
        "by hand",
    ),
    ("rebuild rows, one statement per event", &[("rebuild-rows", "1")], "by hand"),
    ("rebuild rows in batches", &[("rebuild-batches", "1")], "by hand"),
    ("publish on Redis, 32 callers / 100 at once", &[("publish-1", "32"), ("publish-100", "1")], "by hand"),
    ("consume from Redis", &[("consume", "1")], "by hand"),
    ("save in SQLite, 1 / 32 callers", &[("sqlite-save-1", "1"), ("sqlite-save-1", "32")], "by hand"),
    ("save in SQLite, 32 callers, against a group commit by hand", &[("sqlite-save-1", "32")], "grouped by hand"),
];

/// The operations of the chapter on sizing that have callers, with their workloads.
const CALLED: &[(&str, &str)] = &[
    ("save one event", "save-1"),
    ("load 10 events", "load-10"),
    ("load 10,000 events", "load-10000"),
    ("load a snapshot of 10,000 events, and 10 after it", "load-10000-snapshot"),
    ("a decision about two tags", "decide-cold"),
];

/// The operations of its second table, with workloads and callers.
const DISTRIBUTION: &[(&str, &str, &str)] = &[
    ("publish on Redis, 32 callers", "publish-1", "32"),
    ("the same on PostgreSQL", "rebuild-memory", "1"),
    ("a projection with rows, one statement per event", "rebuild-rows", "1"),
    ("a projection with rows, a batch method", "rebuild-batches", "1"),
];

/// The operations of that table whose figures are those of the run.
const OF_THE_RUN: &[(&str, &str)] = &[
    ("a projection in memory folds again, on SQLite (30 November)", "sqlite-rebuild-memory"),
    ("consume from Redis, one handler that does nothing (1 December)", "consume"),
];

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// Returns a text in one line.
fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the cells of the table with this head.
fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    let (_, below) = text.split_once(&format!("\n{head}\n")).unwrap_or_else(|| panic!("no table {head}"));
    let rows = below.lines().skip(1).map_while(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Returns the row that begins with these cells.
fn row<'t>(table: &'t [Vec<String>], begin: &[&str]) -> &'t [String] {
    let begins = |cells: &&Vec<String>| cells.iter().zip(begin).all(|(cell, wanted)| cell == wanted);
    table.iter().find(begins).unwrap_or_else(|| panic!("no row begins with {begin:?}"))
}

/// Returns the median in a cell of a run: `**median** (least–most)`.
fn median(cell: &str) -> &str {
    cell.split("**").nth(1).unwrap_or_else(|| panic!("no median: {cell}"))
}

fn number(cell: &str) -> f64 {
    cell.replace(',', "").parse().unwrap_or_else(|_| panic!("no number: {cell}"))
}

/// Fails unless a number is the measured one, rounded.
#[track_caller]
fn check_rounded(shown: f64, measured: f64) {
    assert!((shown - measured).abs() <= 0.03 * measured, "{shown} for {measured}");
}

#[test]
fn the_readme_has_the_ratios_of_the_run() {
    let (readme, bench) = (text("README.md"), text("benches/README.md"));
    let shown = table(&readme, "| workload | ours ÷ code by hand: operations/s | processor time |");
    let run = table(&bench, RUN);
    for &(label, lines, of) in RATIOS {
        let ratios = |column: usize| {
            let ratio = |(workload, callers): &Line| median(&row(&run, &[workload, callers, of])[column]);
            lines.iter().map(ratio).collect::<Vec<_>>().join(" / ")
        };
        assert_eq!(row(&shown, &[label])[1..], [ratios(8), ratios(10)], "{label}");
    }
    for (way, workload) in [("from publication to handler", "deliver"), ("from save to handler", "react")] {
        let [ours, by_hand] = ["ours", "by hand"].map(|of| row(&run, &[workload, "1", of]));
        let [ms, ms_by_hand] = [ours, by_hand].map(|cells| number(median(&cells[4])) / 1_000.0);
        let times = median(&by_hand[9]);
        let label = format!("{way}, 200/s: {times} times as long, {ms:.2} ms, by hand {ms_by_hand:.2} ms");
        assert_eq!(row(&shown, &[&label])[1..], ["–", median(&by_hand[10])], "{label}");
    }
    assert_eq!(shown.len(), RATIOS.len() + 2, "{shown:?}");
}

#[test]
fn readme_and_sizing_have_the_figures_of_the_faster_day() {
    let (bench, sizing) = (text("benches/README.md"), text("guide/src/sizing.md"));
    let (run, day) = (table(&bench, RUN), table(&bench, FASTER_DAY));
    let ratio = |workload: &str, callers: &str| row(&day, &[workload, callers])[4].clone();
    let said = format!(
        "are lower: {} with 256 callers, {} for ten events; those of decisions are higher, {} and {}.",
        ratio("save-1", "256"),
        ratio("save-10", "32"),
        ratio("decide-cold", "1"),
        ratio("decide-cold", "32"),
    );
    assert!(in_one_line(&text("README.md")).contains(&said), "{said}");

    let called = table(&sizing, "| operation | callers | per second | p50 | ÷ by hand |");
    assert_eq!(called.len(), 7);
    for cells in &called {
        let [label, callers, per_second, p50, ratio] = &cells[..] else { panic!("{cells:?}") };
        let (_, workload) = CALLED.iter().find(|(of, _)| of == label).unwrap_or_else(|| panic!("{label}"));
        let measured = row(&day, &[workload, callers]);
        check_rounded(number(per_second), number(&measured[2]));
        check_rounded(number(p50.strip_suffix(" ms").unwrap()) * 1_000.0, number(&measured[3]));
        assert_eq!(ratio, &measured[4], "{label}");
    }
    let distribution = table(&sizing, "| operation | per second | ÷ by hand |");
    assert_eq!(distribution.len(), DISTRIBUTION.len() + OF_THE_RUN.len());
    for &(label, workload, callers) in DISTRIBUTION {
        let (shown, measured) = (row(&distribution, &[label]), row(&day, &[workload, callers]));
        check_rounded(number(&shown[1]), number(&measured[2]));
        assert_eq!(shown[2], measured[4], "{label}");
    }
    for &(label, workload) in OF_THE_RUN {
        let shown = row(&distribution, &[label]);
        let [ours, by_hand] = ["ours", "by hand"].map(|of| row(&run, &[workload, "1", of]));
        check_rounded(number(&shown[1]), number(median(&ours[3])));
        assert_eq!(shown[2], median(&by_hand[8]), "{label}");
    }
}

#[test]
fn readme_and_operating_have_the_cost_of_spans() {
    let (bench, operating) = (text("benches/README.md"), in_one_line(&text("guide/src/operating.md")));
    let spans = table(&bench, "| | `save-1`, 1, 8, 32 and 256 callers | `consume` | `react-steady` |");
    let range = |cell: &str| {
        let mut ratios: Vec<_> = cell.split(", ").map(number).collect();
        ratios.sort_by(f64::total_cmp);
        (ratios[0], ratios[ratios.len() - 1])
    };
    let percent = |ratio: f64| ((ratio - 1.0) * 100.0).round();
    let in_percent = |cell: &str| format!("{} %", percent(number(cell)));
    let [cpu, rate, cpu_of_tenth] =
        ["all spans: CPU", "all spans: operations/s", "one trace in ten (`TRACES_RATIO=0.1`): CPU"]
            .map(|label| row(&spans, &[label]));
    let (least, most) = range(&cpu[1]);
    let [save, consumer, steady] =
        [format!("{} to {} %", percent(least), percent(most)), in_percent(&cpu[2]), in_percent(&cpu[3])];
    let (slowest, fastest) = range(&rate[1]);
    let consumer_of_tenth = in_percent(&cpu_of_tenth[2]);
    for said in [
        format!(
            "if all are exported, {save} more for saves, by the number of callers, {steady} more for a steady stream"
        ),
        format!("and {consumer} more for a consumer whose handler does nothing"),
        format!("Saves then reach {slowest} to {fastest} of their rate, the consumer {}.", rate[2]),
        format!("With one trace in ten the consumer needs {consumer_of_tenth} more"),
    ] {
        assert!(operating.contains(&said), "{said}");
    }
    let said = format!("with all spans a save takes {save} more processor time, a consumer {consumer} |");
    assert!(text("README.md").contains(&said), "{said}");
}

#[test]
fn sizing_has_the_memory_that_was_measured() {
    let (bench, sizing) = (text("benches/README.md"), text("guide/src/sizing.md"));
    let goals = table(&bench, "| workload | goal | reached |");
    let measured = row(&goals, &["memory: a rebuild of 10,000,000 events / a consumer of 1,000,000"]);
    let (rebuild, consumer) = measured[2].strip_suffix(" MiB").unwrap().split_once(" / ").unwrap();
    for (what, mebibytes) in [("| a rebuild of 10,000,000 events ", rebuild), ("| a consumer of 1,000,000 ", consumer)]
    {
        let line = sizing.lines().find(|line| line.starts_with(what)).unwrap();
        assert!(line.contains(&format!("| at most {mebibytes} MiB more")), "{line}");
    }
}
