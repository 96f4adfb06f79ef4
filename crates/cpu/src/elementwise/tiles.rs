//! Nests in which some operand is contiguous along another axis than the destination, walked tile by tile.
//!
//! ```text
//! columns: the nest's innermost axis, along which the destination runs
//! rows:    the axis along which the other operand is contiguous
//! task:    strips (one tile high) of a band (up to 64 tiles long) of each index of the other axes
//! ```
//!
//! Within a tile every cache line of either operand is used whole before it is lost.

use crate::{CpuBackend, nest::Nest};
use attentia_backend::MAX_RANK;

/// Tiles side by side in one strip.
const BAND: usize = 64;

/// A nest as tiles.
pub(super) struct Tiles<const N: usize> {
    columns: usize,
    rows: usize,
    pub(super) column_strides: [isize; N],
    pub(super) row_strides: [isize; N],
    outer: [(usize, [isize; N]); MAX_RANK],
    outer_rank: usize,
}

/// One tile: offsets of each operand's first element, and its extents.
pub(super) struct Tile<const N: usize> {
    pub(super) offsets: [isize; N],
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl<const N: usize> Tiles<N> {
    /// The tiles of a nest that has such an operand, and axes long enough to gain from it.
    pub(super) fn find(nest: &Nest<N>) -> Option<Tiles<N>> {
        let inner = nest.axes().len() - 1;
        let (columns, column_strides) = nest.axes().nth(inner)?;
        let far = |n: usize| column_strides[n].unsigned_abs() >= 8;
        let along = (1..N).filter(|&n| far(n)).find_map(|n| {
            nest.axes()
                .position(|(extent, strides)| strides[n].unsigned_abs() == 1 && extent >= 4)
                .map(|axis| (n, axis))
        });
        let (_, rows_axis) = along.filter(|_| columns >= 4 && column_strides[0].unsigned_abs() == 1)?;
        let (rows, row_strides) = nest.axes().nth(rows_axis)?;
        let mut tiles =
            Tiles { columns, rows, row_strides, column_strides, outer: [(1, [0; N]); MAX_RANK], outer_rank: 0 };
        for (_, axis) in nest.axes().enumerate().filter(|(i, _)| *i != inner && *i != rows_axis) {
            tiles.outer[tiles.outer_rank] = axis;
            tiles.outer_rank += 1;
        }
        Some(tiles)
    }

    /// Calls `f` for every tile of at most `height` rows and `width` columns, in tasks of about `grain` elements.
    pub(super) fn each(
        &self,
        cpu: &CpuBackend,
        height: usize,
        width: usize,
        grain: usize,
        f: impl Fn(&mut dyn Iterator<Item = Tile<N>>) + Sync,
    ) {
        let (strips, bands) = (self.rows.div_ceil(height), self.columns.div_ceil(width * BAND));
        let outer = &self.outer[..self.outer_rank];
        let units = outer.iter().map(|(extent, _)| extent).product::<usize>() * strips * bands;
        let unit = height * self.columns.min(width * BAND);
        cpu.threads.chunks(units, grain.div_ceil(unit), |units| {
            let mut tiles = units.flat_map(|unit| {
                let (strip, band, mut rest) = (unit % strips, unit / strips % bands, unit / strips / bands);
                let mut base = [0isize; N];
                for (extent, strides) in outer.iter().rev() {
                    let index = (rest % extent) as isize;
                    rest /= extent;
                    base.iter_mut().zip(strides).for_each(|(base, stride)| *base += index * stride);
                }
                let first = strip * height;
                let last = self.columns.min((band + 1) * width * BAND);
                (band * width * BAND..last).step_by(width).map(move |column| {
                    let place = |n: usize| {
                        base[n] + first as isize * self.row_strides[n] + column as isize * self.column_strides[n]
                    };
                    Tile {
                        offsets: std::array::from_fn(place),
                        rows: height.min(self.rows - first),
                        columns: width.min(last - column),
                    }
                })
            });
            f(&mut tiles);
        });
    }
}
