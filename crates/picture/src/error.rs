//! What can be wrong with the numbers of a picture or a page.

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The number of values is not rows x columns.
    #[error(
        "heat map: {values} values for {rows} row labels and {columns} column labels\n  \
         help: values are row-major, one per cell: rows x columns"
    )]
    Shape {
        /// Values given.
        values: usize,
        /// Row labels given.
        rows: usize,
        /// Column labels given.
        columns: usize,
    },
    /// There is no cell to draw.
    #[error("heat map: {rows} rows and {columns} columns make no cell\n  help: is the sequence empty?")]
    Empty {
        /// Row labels given.
        rows: usize,
        /// Column labels given.
        columns: usize,
    },
    /// More cells than a browser draws with ease.
    #[error(
        "heat map: {cells} cells, and a picture holds at most {most}\n  \
         help: draw a part, or pool rows and columns first"
    )]
    TooLarge {
        /// Cells asked for.
        cells: usize,
        /// Cells that a picture may have.
        most: usize,
    },
    /// A range that no colour scale can cover.
    #[error(
        "heat map: a colour scale from {low} to {high}\n  help: both ends must be finite, the first below the second"
    )]
    Range {
        /// The lower end.
        low: f32,
        /// The upper end.
        high: f32,
    },
    /// A scale at which a still picture can't be drawn.
    #[error(
        "heat map: a scale of {scale} makes {width} x {height} pixels, and a picture has 1 to {most} a side\n  \
         help: a smaller scale, or an SVG, which has no pixels"
    )]
    Scale {
        /// Pixels per unit asked for.
        scale: f32,
        /// Pixels from left to right that this would make.
        width: f32,
        /// Pixels from top to bottom that this would make.
        height: f32,
        /// Pixels that a side may have.
        most: u32,
    },
    /// The drawing could not be turned into pixels: a fault of this crate, for its drawings are its own.
    #[error("heat map: the drawing could not be turned into pixels: {reason}\n  help: please report this map")]
    Raster {
        /// What the rasteriser says.
        reason: String,
    },
    /// A name that says no place in a model.
    #[error("attention page: no place is called {name:?}\n  help: enc.0.self, dec.0.self or dec.0.cross, by layer")]
    MapName {
        /// The name given.
        name: String,
    },
    /// Two maps of the same place.
    #[error("attention page: {name} is on the page already\n  help: one map holds all heads: [heads, rows, columns]")]
    MapTwice {
        /// The place.
        name: String,
    },
    /// The number of weights is not heads x rows x columns.
    #[error(
        "attention page: {name} has {weights} weights for {heads} heads, {rows} row labels and {columns} column \
         labels\n  help: weights are row-major, one per cell: heads x rows x columns"
    )]
    MapShape {
        /// The place.
        name: String,
        /// Weights given.
        weights: usize,
        /// Heads given.
        heads: usize,
        /// Row labels given.
        rows: usize,
        /// Column labels given.
        columns: usize,
    },
    /// There is no weight to show.
    #[error(
        "attention page: {name} has {heads} heads, {rows} rows and {columns} columns, which make no cell\n  \
         help: is the sequence empty?"
    )]
    MapEmpty {
        /// The place.
        name: String,
        /// Heads given.
        heads: usize,
        /// Row labels given.
        rows: usize,
        /// Column labels given.
        columns: usize,
    },
    /// More tokens along a side than a browser can draw.
    #[error(
        "attention page: {name} has {rows} rows and {columns} columns, and a map holds at most {most} of each\n  \
         help: show a part of the sequence"
    )]
    MapTooLong {
        /// The place.
        name: String,
        /// Row labels given.
        rows: usize,
        /// Column labels given.
        columns: usize,
        /// Tokens that a side may have.
        most: usize,
    },
    /// More weights than a browser loads with ease.
    #[error(
        "attention page: with {name} it would hold {weights} weights, and a page holds at most {most}\n  \
         help: show fewer layers, or a part of the sequence"
    )]
    PageTooLarge {
        /// The map that was one too many.
        name: String,
        /// Weights on the page with it.
        weights: usize,
        /// Weights that a page may have.
        most: usize,
    },
    /// A number that no attention gives.
    #[error(
        "attention page: {name}, head {head}, row {row}, column {column} is {value}, and a weight is between 0 and 1\n  \
         help: are these scores from before the softmax, or weights after dropout?"
    )]
    Weight {
        /// The place.
        name: String,
        /// Its head.
        head: usize,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The number.
        value: f32,
    },
    /// A page without a map.
    #[error("attention page: there is no map to show\n  help: add one with `map`")]
    NoMap,
    /// Places along the horizontal axis that are none.
    #[error(
        "chart: an axis with the points {points:?}\n  \
         help: at least one point; each is above 0, finite, and greater than the one before"
    )]
    ChartAxis {
        /// The points given.
        points: Vec<f64>,
    },
    /// A line with another number of values than the axis has points.
    #[error("chart: {name} has {values} values for {points} points\n  help: one value per point of the axis")]
    ChartLine {
        /// The line.
        name: String,
        /// Values given.
        values: usize,
        /// Points of the axis.
        points: usize,
    },
    /// A value that has no place in a chart.
    #[error("chart: a value of {name} is {value}\n  help: values are finite, and not below 0")]
    ChartValue {
        /// The line.
        name: String,
        /// The value.
        value: f64,
    },
    /// A table's row of another width than its head.
    #[error("report: row {row} of the table has {cells} cells under {columns} names\n  help: one cell per column")]
    TableRow {
        /// The row, from 0.
        row: usize,
        /// Cells given.
        cells: usize,
        /// Columns of the table.
        columns: usize,
    },
}
