//! Plots of measurements as SVG: the command `plot`, and the option `--plots` of `table` and `growth`.

mod bars;
mod curves;
mod drawing;
mod svg;
mod value_scale;

use std::{collections::BTreeMap, fs, path::Path};

use eventbus::Result;
use serde::Deserialize;

use crate::{PlotArgs, growth::AxisCurves, round_table::RoundTable};

/// The content of a file that `growth` or `table` has written.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Measurements {
    Growth(Vec<AxisCurves>),
    Tables(Vec<RoundTable>),
}

pub fn run(args: &PlotArgs) -> Result<()> {
    match serde_json::from_slice(&fs::read(&args.json)?)? {
        Measurements::Growth(axes) => write_growth(&axes, &args.folder),
        Measurements::Tables(tables) => write_tables(&tables, &args.folder),
    }
}

/// Writes a file for each axis.
pub fn write_growth(axes: &[AxisCurves], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for axis in axes {
        fs::write(folder.join(format!("growth-{}.svg", axis.axis)), curves::draw(axis).to_string())?;
    }
    Ok(())
}

/// Writes a file for each workload.
pub fn write_tables(tables: &[RoundTable], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut workloads = BTreeMap::<_, Vec<_>>::new();
    for table in tables {
        workloads.entry(&table.workload).or_default().push(table);
    }
    for (workload, tables) in workloads {
        fs::write(folder.join(format!("{workload}.svg")), bars::draw(&tables).to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round of `growth` and `table`.
    const ROUND: &str =
        r#"{"operations": 10, "seconds": 0.5, "client_cpu": 3.0, "server_cpu": 4.0, "p50": 80.0, "p99": null}"#;

    #[test]
    fn files_of_both_commands_are_read_and_drawn() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let growth = format!(
            r#"[{{"axis": "streams", "title": "streams", "is_paced": false, "curves": [{{"label": "save",
                "points": [{{"size": 10, "rounds": [{ROUND}]}}, {{"size": 10000, "rounds": [{ROUND}]}}]}}]}}]"#
        );
        let column = |label| format!(r#"{{"label": "{label}", "rounds": [{ROUND}], "allocations": 1.0}}"#);
        let columns = ["ours", "by hand", "grouped by hand"].map(column).join(", ");
        let table = |workload, is_paced| {
            let operation = format!(r#""operation": "save", "is_paced": {is_paced}, "callers": 8"#);
            format!(r#"{{"workload": "{workload}", {operation}, "columns": [{columns}]}}"#)
        };
        let tables = format!("[{}, {}]", table("save-1", false), table("deliver", true));
        for (name, json) in [("growth.json", growth), ("table.json", tables)] {
            fs::write(folder.path().join(name), json)?;
            run(&PlotArgs { json: folder.path().join(name), folder: folder.path().into() })?;
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name));
        let (curves, bars) = (read("growth-streams.svg")?, read("save-1.svg")?);
        assert_eq!(curves.matches("<polyline").count(), 2, "{curves}");
        assert_eq!(curves.matches("<circle").count(), 4, "{curves}");
        // three of the legend, and three in each diagram
        assert_eq!(bars.matches("<rect").count(), 9, "{bars}");
        // where the rate is given, the times are drawn
        let paced = read("deliver.svg")?;
        assert!(bars.contains("operations per second") && !bars.contains("(p50)"), "{bars}");
        assert!(!paced.contains("operations per second") && paced.contains("(p50)"), "{paced}");
        for svg in [curves, bars, paced] {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        Ok(())
    }
}
