//! Writes SVG: shapes with classes, and one style sheet, so that a plot follows the reader's colour scheme.

use std::fmt::{self, Write as _};

use super::value_scale::{ValueScale, label};

/// The number of colours.
pub const COLORS: usize = 6;

/// Greys that can be read on white and on black, for programs that know no colour scheme.
const STYLE: &str = "
    text { font-family: system-ui, sans-serif; font-size: 12px; fill: #768390; }
    .title { font-weight: 600; }
    .middle { text-anchor: middle; }
    .end { text-anchor: end; }
    .grid { stroke: #8b949e; stroke-opacity: 0.3; }
    .spread { stroke: #768390; stroke-width: 1.2; }
    .curve { fill: none; stroke-width: 2; }
    .color0 { stroke: #3b82f6; } .fill0 { fill: #3b82f6; }
    .color1 { stroke: #e07b00; } .fill1 { fill: #e07b00; }
    .color2 { stroke: #10a37f; } .fill2 { fill: #10a37f; }
    .color3 { stroke: #d05097; } .fill3 { fill: #d05097; }
    .color4 { stroke: #8b5cf6; } .fill4 { fill: #8b5cf6; }
    .color5 { stroke: #9a8c3c; } .fill5 { fill: #9a8c3c; }
    @media (prefers-color-scheme: light) { text { fill: #24292f; } .spread { stroke: #57606a; } }
    @media (prefers-color-scheme: dark) { text { fill: #d0d7de; } .spread { stroke: #afb8c1; } }
";

/// An SVG document.
#[derive(Debug)]
pub struct Svg {
    width: f64,
    height: f64,
    shapes: String,
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, shapes: String::new() }
    }

    pub fn text(&mut self, x: f64, y: f64, classes: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.add(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{classes}\">{text}</text>"));
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), classes: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{classes}\"/>"
        ));
    }

    pub fn curve(&mut self, points: &[(f64, f64)], color: usize) {
        let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ");
        let color = color % COLORS;
        self.add(format_args!("<polyline points=\"{points}\" class=\"curve color{color}\"/>"));
    }

    pub fn dot(&mut self, (x, y): (f64, f64), color: usize) {
        let color = color % COLORS;
        self.add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" class=\"fill{color}\"/>"));
    }

    pub fn bar(&mut self, (x, y): (f64, f64), width: f64, height: f64, color: usize) {
        let color = color % COLORS;
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"fill{color}\"/>"
        ));
    }

    fn add(&mut self, shape: fmt::Arguments<'_>) {
        // a `String` takes all
        let _ = writeln!(self.shapes, "  {shape}");
    }
}

impl fmt::Display for Svg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, height, shapes } = self;
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">"
        )?;
        writeln!(f, "  <style>{STYLE}  </style>")?;
        write!(f, "{shapes}")?;
        writeln!(f, "</svg>")
    }
}

/// The place of a diagram in a document: from its upper left corner.
#[derive(Debug, Clone, Copy)]
pub struct Panel {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

impl Panel {
    pub fn x(&self, place: f64) -> f64 {
        self.left + place * self.width
    }

    pub fn y(&self, place: f64) -> f64 {
        self.top + (1.0 - place) * self.height
    }

    /// Draws the titles of both axes, and the ticks of the vertical one.
    pub fn draw(&self, svg: &mut Svg, x_title: &str, y_title: &str, scale: &ValueScale) {
        svg.text(self.left, self.top - 12.0, "title", y_title);
        svg.text(self.x(0.5), self.y(0.0) + 38.0, "middle", x_title);
        for &tick in scale.ticks() {
            let y = self.y(scale.place(tick));
            svg.line((self.left, y), (self.x(1.0), y), "grid");
            svg.text(self.left - 6.0, y + 4.0, "end", &label(tick));
        }
    }

    /// Draws a label of the horizontal axis.
    pub fn draw_x_label(&self, svg: &mut Svg, x: f64, text: &str) {
        svg.text(x, self.y(0.0) + 18.0, "middle", text);
    }

    /// Draws a line from the least to the most of several rounds.
    pub fn draw_spread(&self, svg: &mut Svg, x: f64, from: f64, to: f64) {
        svg.line((x, self.y(from)), (x, self.y(to)), "spread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_its_shapes_and_escapes_texts() {
        let mut svg = Svg::new(100.0, 50.0);
        svg.text(1.0, 2.0, "end", "a < b & c");
        svg.curve(&[(0.0, 1.0), (2.0, 3.25)], 7);
        let text = svg.to_string();
        assert!(text.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 100 50\""), "{text}");
        assert!(text.contains(">a &lt; b &amp; c</text>"), "{text}");
        assert!(text.contains("points=\"0.0,1.0 2.0,3.2\" class=\"curve color1\""), "{text}");
        assert!(text.ends_with("</svg>\n"), "{text}");
    }

    #[test]
    fn a_panel_has_low_values_below() {
        let panel = Panel { left: 10.0, top: 20.0, width: 100.0, height: 50.0 };
        assert_eq!((panel.x(0.0), panel.x(1.0)), (10.0, 110.0));
        assert_eq!((panel.y(0.0), panel.y(1.0)), (70.0, 20.0));
    }
}
