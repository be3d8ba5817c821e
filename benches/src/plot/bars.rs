//! The plot of a workload of `table`: a bar for each implementation, with the least and the most of its rounds.

use super::{
    drawing,
    svg::{Panel, Svg},
    value_scale::ValueScale,
};
use crate::{
    round_table::{Column, RoundTable},
    spread::Spread,
};

/// The part of its place that the bars of a number of callers fill.
const FILLED: f64 = 0.7;

type Value = fn(&Column) -> Option<Spread>;

/// Draws the tables of one workload, each of a number of callers.
pub fn draw(tables: &[&RoundTable]) -> Svg {
    let title = tables.first().map_or("", |table| &table.operation);
    let legend =
        tables.first().map_or(Vec::new(), |table| table.columns.iter().map(|column| column.label.as_str()).collect());
    let (mut svg, [left, right]) = drawing::begin(title, &legend);
    let rate: Value = |column| Spread::of(column.rounds.iter().map(|round| round.rate()));
    let cpu: Value = |column| Spread::of(column.rounds.iter().map(|round| round.cpu()));
    if tables.iter().any(|table| table.is_paced) {
        let p50: Value = |column| Spread::of(column.rounds.iter().filter_map(|round| round.p50));
        draw_panel(&mut svg, left, tables, "time of an operation, µs (p50)", p50);
    } else {
        draw_panel(&mut svg, left, tables, "operations per second", rate);
    }
    draw_panel(&mut svg, right, tables, "processor time per operation, µs, client + server", cpu);
    svg
}

fn draw_panel(svg: &mut Svg, panel: Panel, tables: &[&RoundTable], title: &str, value: Value) {
    let columns = tables.iter().flat_map(|table| &table.columns);
    let most = columns.filter_map(value).map(|spread| spread.max).fold(0.0, f64::max);
    let scale = ValueScale::linear(most);
    panel.draw(svg, "callers", title, &scale);
    let group = 1.0 / tables.len() as f64;
    for (index, table) in tables.iter().enumerate() {
        let begin = (index as f64 + (1.0 - FILLED) / 2.0) * group;
        let width = FILLED * group / table.columns.len() as f64;
        panel.draw_x_label(svg, panel.x((index as f64 + 0.5) * group), &table.callers.to_string());
        for (color, column) in table.columns.iter().enumerate() {
            let Some(spread) = value(column) else { continue };
            let (left, place) = (panel.x(begin + color as f64 * width), scale.place(spread.median));
            let (bar, height) = (width * panel.width, place * panel.height);
            svg.bar((left + 1.0, panel.y(place)), bar - 2.0, height, color);
            panel.draw_spread(svg, left + bar / 2.0, scale.place(spread.min), scale.place(spread.max));
        }
    }
}
