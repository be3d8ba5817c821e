//! The plot of an axis of `growth`: a curve for each operation.

use super::{
    drawing,
    svg::{Panel, Svg},
    value_scale::{ValueScale, label},
};
use crate::{
    growth::{AxisCurves, Point},
    spread::Spread,
};

/// From these ratios of the largest to the smallest an axis is logarithmic: sizes, and values.
const LOGARITHMIC_SIZES: f64 = 100.0;
const LOGARITHMIC_VALUES: f64 = 20.0;

type Value = fn(&Point) -> Option<Spread>;

/// Draws the cost of each operation, and its rate, or its time if the workload has a rate of its own.
pub fn draw(axis: &AxisCurves) -> Svg {
    let legend: Vec<_> = axis.curves.iter().map(|curve| curve.label.as_str()).collect();
    let (mut svg, [left, right]) = drawing::begin(&format!("Growth: {}", axis.title), &legend);
    draw_panel(&mut svg, left, axis, "processor time per operation, µs, client + server", Point::cpu);
    if axis.is_paced {
        draw_panel(&mut svg, right, axis, "time of an operation, µs (p50)", |point| point.spread(|round| round.p50));
    } else {
        draw_panel(&mut svg, right, axis, "operations per second", |point| point.spread(|round| Some(round.rate())));
    }
    svg
}

fn draw_panel(svg: &mut Svg, panel: Panel, axis: &AxisCurves, title: &str, value: Value) {
    let points = || axis.curves.iter().flat_map(|curve| &curve.points);
    let sizes: Vec<_> = points().map(|point| point.size as f64).collect();
    let values: Vec<_> = points().filter_map(value).flat_map(|spread| [spread.min, spread.max]).collect();
    let (x, y) = (ValueScale::fitting(&sizes, LOGARITHMIC_SIZES), ValueScale::fitting(&values, LOGARITHMIC_VALUES));
    panel.draw(svg, &axis.title, title, &y);
    for &tick in x.ticks() {
        panel.draw_x_label(svg, panel.x(x.place(tick)), &label(tick));
    }
    for (color, curve) in axis.curves.iter().enumerate() {
        let mut line = Vec::new();
        for point in &curve.points {
            let Some(spread) = value(point) else { continue };
            let at = panel.x(x.place(point.size as f64));
            panel.draw_spread(svg, at, y.place(spread.min), y.place(spread.max));
            line.push((at, panel.y(y.place(spread.median))));
        }
        svg.curve(&line, color);
        line.into_iter().for_each(|point| svg.dot(point, color));
    }
}
