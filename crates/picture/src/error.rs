//! What can be wrong with the numbers of a picture.

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
}
