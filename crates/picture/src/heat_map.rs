//! A matrix as coloured cells, one labelled row per target token and one labelled column per source token.
//!
//! ```text
//!  title
//!               column axis
//!             / / / /            column labels, turned by 60 degrees
//!         la  # # # #  = high
//!  row    be  # # # #  |         legend
//!  axis   ls  # # # #  = low
//!                      x NaN     only where one occurs
//! ```
//!
//! The size follows from the labels: nothing is clipped and no two labels touch. Where cells are too small for one
//! label each, every second, fifth, tenth .. label is drawn; tooltips keep them all.

use std::fmt::Write;

use crate::color::NOT_A_NUMBER;
use crate::text::{escape, fit, number, width};
use crate::{Color, Error, Result};

mod layout;

use layout::{CELL_LABEL, FONT, LABEL_LIMIT, Layout, SLANT, TITLE_FONT};

/// More cells than this make a file that browsers open slowly: 512 x 512, about 30 MB.
const MOST_CELLS: usize = 1 << 18;
const INK: &str = "#24292f";
const STRIPS: u32 = 64;

/// A heat map to be drawn. Made by [`new`](Self::new), which checks the shape; the other methods say how it looks.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap<'a> {
    values: &'a [f32],
    rows: &'a [String],
    columns: &'a [String],
    title: String,
    row_axis: String,
    column_axis: String,
    range: Option<[f32; 2]>,
}

impl<'a> HeatMap<'a> {
    /// `values` are row-major, `[rows, columns]`. NaN and infinities are allowed: NaN cells are crossed out, infinite
    /// ones take the colour of the end of the scale.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`], [`Error::Empty`] without a cell, [`Error::TooLarge`] above 262,144 cells.
    pub fn new(values: &'a [f32], rows: &'a [String], columns: &'a [String]) -> Result<Self> {
        let shape = (rows.len(), columns.len());
        let cells = shape.0.checked_mul(shape.1);
        if cells != Some(values.len()) {
            return Err(Error::Shape { values: values.len(), rows: shape.0, columns: shape.1 });
        }
        if values.is_empty() {
            return Err(Error::Empty { rows: shape.0, columns: shape.1 });
        }
        if values.len() > MOST_CELLS {
            return Err(Error::TooLarge { cells: values.len(), most: MOST_CELLS });
        }
        let (title, row_axis, column_axis) = Default::default();
        Ok(Self { values, rows, columns, title, row_axis, column_axis, range: None })
    }

    /// A line above the picture.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// What the rows are, written along them.
    pub fn row_axis(mut self, name: impl Into<String>) -> Self {
        self.row_axis = name.into();
        self
    }

    /// What the columns are, written above them.
    pub fn column_axis(mut self, name: impl Into<String>) -> Self {
        self.column_axis = name.into();
        self
    }

    /// Fixes the ends of the colour scale, so that several maps can be compared; otherwise they are the least and the
    /// greatest finite value.
    ///
    /// # Errors
    ///
    /// [`Error::Range`] unless both are finite and `low < high`.
    pub fn range(mut self, low: f32, high: f32) -> Result<Self> {
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(Error::Range { low, high });
        }
        self.range = Some([low, high]);
        Ok(self)
    }

    /// The picture as an SVG document, about 110 bytes per cell. It uses no script, no style sheet and no id, so it can
    /// stand in an HTML page beside others.
    pub fn to_svg(&self) -> String {
        let [low, high] = self.scale();
        let has_nan = self.values.iter().any(|value| value.is_nan());
        let middle = low + (high - low) / 2.0;
        // Beside ends of about -1 and 1 a middle of -3.9e-5 is a zero.
        let middle = if middle.abs() < (high - low) * 1e-3 { 0.0 } else { middle };
        let ticks = [high, middle, low].map(number);
        let layout = Layout::new(self, &ticks, has_nan);
        let mut svg = String::with_capacity(self.values.len() * 120 + 8192);
        self.draw(&mut svg, &layout, [low, high], &ticks, has_nan);
        svg
    }

    /// The ends of the colour scale; a constant map gets a scale of length 1 above its value.
    fn scale(&self) -> [f64; 2] {
        if let Some(range) = self.range {
            return range.map(f64::from);
        }
        let finite = || self.values.iter().copied().filter(|value| value.is_finite()).map(f64::from);
        let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        match low < high {
            true => [low, high],
            false if low.is_finite() => [low, low + low.abs().max(1.0)],
            false => [0.0, 1.0],
        }
    }

    fn draw(&self, svg: &mut String, at: &Layout, scale: [f64; 2], ticks: &[String; 3], has_nan: bool) {
        let [w, h] = [at.width.ceil(), at.height.ceil()];
        push(
            svg,
            format_args!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
                 role=\"img\" aria-label=\"{}\" font-family=\"DejaVu Sans, Verdana, Arial, sans-serif\" \
                 font-size=\"{FONT}\" fill=\"{INK}\">\n<rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n",
                escape(if self.title.is_empty() { "heat map" } else { &self.title })
            ),
        );
        self.draw_names(svg, at);
        self.draw_labels(svg, at);
        self.draw_cells(svg, at, scale);
        draw_legend(svg, at, ticks, has_nan);
        svg.push_str("</svg>\n");
    }

    fn draw_names(&self, svg: &mut String, at: &Layout) {
        let (middle_x, middle_y) = (at.left + at.plot_width() / 2.0, at.top + at.plot_height() / 2.0);
        if !self.title.is_empty() {
            let (x, y) = (at.margin, at.title_y);
            let title = escape(&self.title);
            push(
                svg,
                format_args!(
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{TITLE_FONT}\" font-weight=\"bold\">{title}</text>\n"
                ),
            );
        }
        if !self.column_axis.is_empty() {
            let (x, y, name) =
                (at.column_axis_x(middle_x, width(&self.column_axis)), at.column_axis_y, &self.column_axis);
            let name = escape(name);
            push(
                svg,
                format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" opacity=\"0.7\">{name}</text>\n"),
            );
        }
        if !self.row_axis.is_empty() {
            let (x, y, name) = (at.row_axis_x, middle_y.max(at.row_axis_reach), escape(&self.row_axis));
            push(
                svg,
                format_args!(
                    "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\" \
                     opacity=\"0.7\">{name}</text>\n"
                ),
            );
        }
    }

    fn draw_labels(&self, svg: &mut String, at: &Layout) {
        for (row, label) in self.rows.iter().enumerate().step_by(at.row_step) {
            let (x, y) = (at.left - CELL_LABEL, at.top + (row as f64 + 0.5) * at.cell + 0.36 * FONT);
            let label = escape(&fit(label, LABEL_LIMIT));
            push(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>\n"));
        }
        for (column, label) in self.columns.iter().enumerate().step_by(at.column_step) {
            // The turned baseline starts under the middle of the letters, so shift it right by a third of their height.
            let (x, y) = (at.left + (column as f64 + 0.5) * at.cell + 0.3 * FONT, at.top - CELL_LABEL);
            let label = escape(&fit(label, LABEL_LIMIT));
            push(svg, format_args!("<text transform=\"translate({x:.1} {y:.1}) rotate(-{SLANT})\">{label}</text>\n"));
        }
    }

    fn draw_cells(&self, svg: &mut String, at: &Layout, [low, high]: [f64; 2]) {
        svg.push_str("<g shape-rendering=\"crispEdges\">\n");
        // A thin white grid, unless cells are so small that it would be all that one sees.
        let side = if at.cell >= 12.0 { at.cell - 1.0 } else { at.cell };
        for (row, (line, row_label)) in self.values.chunks(self.columns.len()).zip(self.rows).enumerate() {
            for (column, (value, column_label)) in line.iter().zip(self.columns).enumerate() {
                let (x, y) = (at.left + column as f64 * at.cell, at.top + row as f64 * at.cell);
                let value = f64::from(*value);
                let color = if value.is_nan() { NOT_A_NUMBER } else { Color::of((value - low) / (high - low)) }.hex();
                push(
                    svg,
                    format_args!(
                        "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{color}\">\
                         <title>{}, {}: {}</title></rect>\n",
                        escape(row_label),
                        escape(column_label),
                        number(value)
                    ),
                );
                if value.is_nan() {
                    cross(svg, x, y, side);
                }
            }
        }
        svg.push_str("</g>\n");
    }
}

fn draw_legend(svg: &mut String, at: &Layout, ticks: &[String; 3], has_nan: bool) {
    let (x, y, bar) = (at.legend_x, at.top, at.legend_height);
    let strip = bar / f64::from(STRIPS);
    svg.push_str("<g shape-rendering=\"crispEdges\">\n");
    for step in 0..STRIPS {
        let color = Color::of(1.0 - (f64::from(step) + 0.5) / f64::from(STRIPS)).hex();
        let (y, w) = (y + f64::from(step) * strip, layout::LEGEND_WIDTH);
        // Half a pixel more than its share, or hairlines show between strips.
        let h = if step + 1 < STRIPS { strip + 0.5 } else { strip };
        push(svg, format_args!("<rect x=\"{x}\" y=\"{y:.2}\" width=\"{w}\" height=\"{h:.2}\" fill=\"{color}\"/>\n"));
    }
    svg.push_str("</g>\n");
    let text_x = x + layout::LEGEND_WIDTH + CELL_LABEL;
    for (tick, share) in ticks.iter().zip([0.0, 0.5, 1.0]) {
        // The ends stand inside the bar's height, the middle beside its middle.
        let y = y + bar * share + FONT * (0.76 - 0.76 * share);
        push(svg, format_args!("<text x=\"{text_x:.1}\" y=\"{y:.1}\">{}</text>\n", escape(tick)));
    }
    if has_nan {
        let (y, side) = (at.nan_y(), layout::LEGEND_WIDTH);
        let fill = NOT_A_NUMBER.hex();
        push(svg, format_args!("<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{fill}\"/>\n"));
        cross(svg, x, y, side);
        push(svg, format_args!("<text x=\"{text_x:.1}\" y=\"{:.1}\">NaN</text>\n", y + 0.5 * side + 0.36 * FONT));
    }
}

fn cross(svg: &mut String, x: f64, y: f64, side: f64) {
    let (inset, far) = (side * 0.25, side * 0.75);
    push(
        svg,
        format_args!(
            "<path d=\"M{:.1} {:.1}L{:.1} {:.1}M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#a04040\" pointer-events=\"none\" \
             shape-rendering=\"auto\"/>\n",
            x + inset,
            y + inset,
            x + far,
            y + far,
            x + far,
            y + inset,
            x + inset,
            y + far
        ),
    );
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes everything: its `write_fmt` has no way to fail.
    let _ = svg.write_fmt(text);
}

#[cfg(test)]
mod tests;
