//! The document of a plot: a title, a legend, and two diagrams beside each other.

use super::svg::{Panel, Svg};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEGEND_LINE: f64 = 18.0;

/// Begins a document with a title and the legend of its colours. Returns it with the two places for diagrams.
pub fn begin(title: &str, legend: &[&str]) -> (Svg, [Panel; 2]) {
    let legend_height = legend.len() as f64 * LEGEND_LINE;
    let top = 34.0 + legend_height + 34.0;
    let mut svg = Svg::new(WIDTH, top + HEIGHT - 80.0 + 60.0);
    svg.text(16.0, 24.0, "title", title);
    for (color, text) in legend.iter().enumerate() {
        let y = 34.0 + color as f64 * LEGEND_LINE;
        svg.bar((16.0, y + 2.0), 12.0, 10.0, color);
        svg.text(34.0, y + 11.0, "", text);
    }
    let panel = |left| Panel { left, top, width: WIDTH / 2.0 - 90.0, height: HEIGHT - 80.0 };
    (svg, [panel(66.0), panel(WIDTH / 2.0 + 66.0)])
}
