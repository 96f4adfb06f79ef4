//! Where everything stands, in pixels. Label widths are upper bounds (see `text`), so the sums below are too.

use crate::heat_map::HeatMap;
use crate::text::{BOLD, fit, width};

pub(super) const FONT: f64 = 12.0;
pub(super) const TITLE_FONT: f64 = 15.0;
/// Distance of a label from what it belongs to.
pub(super) const CELL_LABEL: f64 = 7.0;
/// Longest label in units of the font size; longer ones end in an ellipsis.
pub(super) const LABEL_LIMIT: f64 = 14.0;
/// Degrees by which column labels are turned.
pub(super) const SLANT: f64 = 60.0;
pub(super) const LEGEND_WIDTH: f64 = 14.0;

const MARGIN: f64 = 16.0;
const LARGEST_CELL: f64 = 30.0;
const SMALLEST_CELL: f64 = 2.0;
/// The longer side of the plot, as far as the size of cells allows.
const LONGER_SIDE: f64 = 840.0;
/// What a line of text needs across its baseline.
const LINE: f64 = FONT * 1.25;
const LEGEND_GAP: f64 = 20.0;
const LEGEND_HEIGHTS: [f64; 2] = [96.0, 240.0];
/// Steps at which labels are drawn when there is no room for all.
const STEPS: [usize; 3] = [1, 2, 5];

pub(super) struct Layout {
    pub width: f64,
    pub height: f64,
    pub margin: f64,
    /// Side of a cell with its share of the grid.
    pub cell: f64,
    /// Left edge of the cells.
    pub left: f64,
    /// Upper edge of the cells.
    pub top: f64,
    pub row_step: usize,
    pub column_step: usize,
    pub title_y: f64,
    pub column_axis_y: f64,
    pub row_axis_x: f64,
    /// Least height of the middle of the row axis' name: above it the name would leave the picture.
    pub row_axis_reach: f64,
    pub legend_x: f64,
    pub legend_height: f64,
    rows: f64,
    columns: f64,
}

impl Layout {
    pub(super) fn new(map: &HeatMap<'_>, ticks: &[String], has_nan: bool) -> Self {
        let (rows, columns) = (map.rows.len() as f64, map.columns.len() as f64);
        let cell = (LONGER_SIDE / rows.max(columns)).floor().clamp(SMALLEST_CELL, LARGEST_CELL);
        let (sin, cos) = SLANT.to_radians().sin_cos();
        let row_step = step(LINE / cell);
        let column_step = step(LINE / sin / cell);
        let label = |text: &String| width(&fit(text, LABEL_LIMIT)) * FONT;
        let longest = |labels: &[String], step| labels.iter().step_by(step).map(label).fold(0.0, f64::max);

        let row_axis = if map.row_axis.is_empty() { 0.0 } else { LINE + CELL_LABEL };
        let left = (MARGIN + row_axis + longest(map.rows, row_step) + CELL_LABEL).ceil();
        let title = if map.title.is_empty() { 0.0 } else { TITLE_FONT * 1.2 + 10.0 };
        let column_axis = if map.column_axis.is_empty() { 0.0 } else { LINE + CELL_LABEL };
        let labels_height = longest(map.columns, column_step) * sin + FONT * cos + CELL_LABEL;
        let top = (MARGIN + title + column_axis + labels_height).ceil();

        let (plot_width, plot_height) = (columns * cell, rows * cell);
        let legend_height = plot_height.clamp(LEGEND_HEIGHTS[0], LEGEND_HEIGHTS[1]);
        let legend_x = left + plot_width + LEGEND_GAP;
        let tick =
            ticks.iter().map(String::as_str).chain(has_nan.then_some("NaN")).map(width).fold(0.0, f64::max) * FONT;
        let nan = if has_nan { LEGEND_GAP + LEGEND_WIDTH } else { 0.0 };

        let legend_right = legend_x + LEGEND_WIDTH + CELL_LABEL + tick;
        // A turned label may reach farther right than the legend below it.
        let reach = |(column, text)| left + (column as f64 + 0.5) * cell + 0.3 * FONT + label(text) * cos + FONT * sin;
        let labels_right = map.columns.iter().enumerate().step_by(column_step).map(reach).fold(0.0, f64::max);
        let title_right = MARGIN + width(&map.title) * TITLE_FONT * BOLD;
        let column_axis_right = MARGIN + width(&map.column_axis) * FONT;
        let right = legend_right.max(labels_right).max(title_right).max(column_axis_right);

        let row_axis_length = width(&map.row_axis) * FONT;
        let row_axis_reach = MARGIN + title + row_axis_length / 2.0;
        let row_axis_bottom = row_axis_reach.max(top + plot_height / 2.0) + row_axis_length / 2.0;
        let bottom = top + plot_height.max(legend_height + nan);
        Self {
            width: right + MARGIN,
            height: bottom.max(if map.row_axis.is_empty() { 0.0 } else { row_axis_bottom }) + MARGIN,
            margin: MARGIN,
            cell,
            left,
            top,
            row_step,
            column_step,
            title_y: MARGIN + TITLE_FONT,
            column_axis_y: MARGIN + title + FONT,
            row_axis_x: MARGIN + FONT,
            row_axis_reach,
            legend_x,
            legend_height,
            rows,
            columns,
        }
    }

    pub(super) fn plot_width(&self) -> f64 {
        self.columns * self.cell
    }

    pub(super) fn plot_height(&self) -> f64 {
        self.rows * self.cell
    }

    /// Middle of the column axis' name: over the plot's middle, unless the name would then leave the picture.
    pub(super) fn column_axis_x(&self, middle: f64, name_width: f64) -> f64 {
        let half = name_width * FONT / 2.0;
        middle.min(self.width - self.margin - half).max(self.margin + half)
    }

    /// Upper edge of the legend's NaN field.
    pub(super) fn nan_y(&self) -> f64 {
        self.top + self.legend_height + LEGEND_GAP
    }
}

/// The least of 1, 2, 5, 10, 20, 50 .. that is not below `least`.
fn step(least: f64) -> usize {
    let decades = (0..).map_while(|power| 10usize.checked_pow(power));
    let mut steps = decades.flat_map(|decade| STEPS.map(|digit| digit.saturating_mul(decade)));
    steps.find(|step| *step as f64 >= least).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        let steps = [0.2, 1.0, 1.1, 2.5, 7.0, 11.0, 99.0].map(step);
        assert_eq!(steps, [1, 1, 2, 5, 10, 20, 100]);
    }
}
