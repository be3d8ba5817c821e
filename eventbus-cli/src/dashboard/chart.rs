//! Charts: lines over the last hour, as SVG without inline styles.

use maud::{Markup, html};

/// Width and height of the drawing, in its own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;
/// The lowest value at the top of a chart, even if all values are smaller.
const TOP_MIN: f64 = 1.0;
/// The shortest time that a chart shows, in seconds.
const SPAN_MIN: f64 = 60.0;

/// Draws a line through points (seconds before now, value), with its last and highest value in words.
pub(super) fn line_chart(name: &str, unit: &str, points: &[(f64, f64)]) -> Markup {
    let Some((_, last)) = points.last() else {
        return html! { p.hint { "No samples yet." } };
    };
    let highest = points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let span = points.iter().map(|(time, _)| -time).fold(SPAN_MIN, f64::max);
    let label = format!("{name} over the last {:.0} min: {last:.1} {unit} now, at most {highest:.1}", span / 60.0);
    html! {
        figure.chart {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(label) {
                line.axis x1="0" y1=(HEIGHT) x2=(WIDTH) y2=(HEIGHT) {}
                polyline points=(path(points, span, highest)) {}
            }
            figcaption { (label) }
        }
    }
}

fn path(points: &[(f64, f64)], span: f64, highest: f64) -> String {
    let scale = (HEIGHT - 2.0) / highest.max(TOP_MIN);
    let place =
        |(time, value): &(f64, f64)| format!("{:.1},{:.1}", WIDTH * (1.0 + time / span), HEIGHT - 1.0 - value * scale);
    points.iter().map(place).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_value_is_at_the_top_and_now_at_the_right() {
        assert_eq!(path(&[(-120.0, 0.0), (-60.0, 5.0), (0.0, 10.0)], 120.0, 10.0), "0.0,99.0 300.0,50.0 600.0,1.0");
        assert_eq!(path(&[(0.0, 0.0)], 60.0, 0.0), "600.0,99.0");
        assert_eq!(path(&[(0.0, 0.5)], 60.0, 0.5), "600.0,50.0", "half a second is no peak");
        let chart = line_chart("Lag", "s", &[(-60.0, 2.5), (0.0, 1.0)]).into_string();
        assert!(chart.contains("Lag over the last 1 min: 1.0 s now, at most 2.5"), "{chart}");
        assert!(!chart.contains("style"), "{chart}");
    }
}
