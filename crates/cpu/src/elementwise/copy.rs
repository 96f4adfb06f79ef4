//! Copies: of one dtype as they are, between dtypes by casts, transposed in tiles.
//!
//! ```text
//! same dtype, a run contiguous on both sides      → memory copy           [B, T, H, D] ↔ [B, H, T, D]
//! same dtype, x contiguous along another axis     → tiles, see `Tiles`    [M, N] ↔ [N, M]
//! otherwise                                       → blocks of 256, gathered, cast, scattered
//! ```

use super::{
    GRAIN,
    fill::sticky,
    lane::{Lane, gather, scatter},
    operand::{Destination, Operand, load},
    pieces,
};
use crate::{
    CpuBackend, check,
    convert::BLOCK,
    isa::{self, Kernel, Machine},
    nest::Nest,
};
use attentia_backend::{DType, MAX_RANK, Result, View, ViewMut};

/// `out = x`, cast to the destination's dtype.
pub(crate) fn copy(cpu: &CpuBackend, x: View, out: ViewMut) -> Result<()> {
    let out = Destination::new("copy", out)?;
    let x = Operand::new("copy", x)?;
    check::shape("copy", "x", x.layout, out.layout.shape())?;
    if x.dtype == out.dtype {
        match x.dtype.size() {
            8 => plain::<u64>(cpu, x, out),
            4 => plain::<u32>(cpu, x, out),
            2 => plain::<u16>(cpu, x, out),
            _ => plain::<u8>(cpu, x, out),
        }
        return Ok(());
    }
    match x.dtype {
        DType::F64 => cast_from::<f64>(cpu, x, out),
        DType::F32 | DType::Bf16 | DType::F16 => cast_from::<f32>(cpu, x, out),
        DType::I64 => cast_from::<i64>(cpu, x, out),
        DType::U32 => cast_from::<u32>(cpu, x, out),
        DType::U8 | DType::Bool => cast_from::<u8>(cpu, x, out),
    }
    Ok(())
}

/// Elements of one size, whatever they mean.
fn plain<T: Copy + Default>(cpu: &CpuBackend, x: Operand, out: Destination) {
    if x.layout.is_contiguous() && out.layout.is_contiguous() {
        return cpu.threads.chunks(out.layout.count(), 4 * GRAIN, |range| {
            let at = range.start as isize;
            // SAFETY: both operands have `count` elements in a row, and tasks have disjoint ranges.
            unsafe { std::ptr::copy_nonoverlapping(x.at::<T>(at), out.at::<T>(at), range.len()) };
        });
    }
    let nest = Nest::new([out.layout, x.layout]);
    if let Some(tiles) = Tiles::find(&nest) {
        return tiles.copy::<T>(cpu, x, out);
    }
    cpu.threads.chunks(nest.count(), GRAIN, |range| {
        nest.runs(range, |run| {
            let (from, to) = (x.at::<T>(run.offsets[1]), out.at::<T>(run.offsets[0]));
            // SAFETY: the run stays within both layouts, and tasks write disjoint elements.
            unsafe {
                if run.strides[0] == 1 {
                    gather(from, run.strides[1], std::slice::from_raw_parts_mut(to, run.len));
                } else if run.strides[1] == 1 {
                    scatter(std::slice::from_raw_parts(from, run.len), to, run.strides[0]);
                } else {
                    for i in 0..run.len as isize {
                        *to.offset(i * run.strides[0]) = *from.offset(i * run.strides[1]);
                    }
                }
            }
        });
    });
}

/// A transposition: the destination is contiguous along one axis of the nest (`columns`), x along another (`rows`).
///
/// ```text
/// for each of the other axes, each 16 × 16 tile (32 × 32 of elements below 4 bytes):
///     read its rows from x, contiguous, into a buffer
///     write its columns to the destination, contiguous
/// ```
///
/// Every cache line of both sides is touched once, also where the strides are powers of two and all lines of a tile's
/// column compete for the same few places of the cache: that is what the buffer is for.
struct Tiles {
    columns: usize,
    rows: usize,
    /// Strides of the destination and x along rows.
    row_strides: [isize; 2],
    /// Stride of the destination and x along columns.
    column_strides: [isize; 2],
    outer: [(usize, [isize; 2]); MAX_RANK],
    outer_rank: usize,
}

/// Tiles in a task, along the columns.
const BAND: usize = 64;

impl Tiles {
    fn find(nest: &Nest<2>) -> Option<Tiles> {
        let inner = nest.axes().len() - 1;
        let (columns, column_strides) = nest.axes().nth(inner)?;
        if column_strides[0] != 1 || matches!(column_strides[1], 0 | 1) {
            return None;
        }
        let rows_axis = nest.axes().position(|(extent, strides)| strides[1] == 1 && extent >= 4)?;
        let (rows, row_strides) = nest.axes().nth(rows_axis)?;
        let mut tiles =
            Tiles { columns, rows, row_strides, column_strides, outer: [(1, [0; 2]); MAX_RANK], outer_rank: 0 };
        for (i, axis) in nest.axes().enumerate() {
            if i != inner && i != rows_axis {
                tiles.outer[tiles.outer_rank] = axis;
                tiles.outer_rank += 1;
            }
        }
        (columns >= 4).then_some(tiles)
    }

    fn copy<T: Copy + Default>(&self, cpu: &CpuBackend, x: Operand, out: Destination) {
        if size_of::<T>() >= 4 { self.copy_in::<T, 16>(cpu, x, out) } else { self.copy_in::<T, 32>(cpu, x, out) }
    }

    fn copy_in<T: Copy + Default, const SIDE: usize>(&self, cpu: &CpuBackend, x: Operand, out: Destination) {
        let bands = self.columns.div_ceil(SIDE * BAND);
        let strips = self.rows.div_ceil(SIDE);
        let outer: usize = self.outer[..self.outer_rank].iter().map(|(extent, _)| extent).product();
        // A unit is one strip of rows within one band of columns of one outer index.
        let unit = SIDE * self.columns.min(SIDE * BAND);
        cpu.threads.chunks(outer * strips * bands, GRAIN.div_ceil(unit), |units| {
            for unit in units {
                let (rest, strip) = (unit / strips, unit % strips);
                let (mut rest, band) = (rest / bands, rest % bands);
                let mut base = [0isize; 2];
                for (extent, strides) in self.outer[..self.outer_rank].iter().rev() {
                    let index = (rest % extent) as isize;
                    rest /= extent;
                    base[0] += index * strides[0];
                    base[1] += index * strides[1];
                }
                let rows = strip * SIDE..self.rows.min((strip + 1) * SIDE);
                let last = self.columns.min((band + 1) * SIDE * BAND);
                for column in (band * SIDE * BAND..last).step_by(SIDE) {
                    let width = SIDE.min(last - column);
                    let at = |side: usize| {
                        base[side]
                            + rows.start as isize * self.row_strides[side]
                            + column as isize * self.column_strides[side]
                    };
                    // SAFETY: rows and columns of the tile exist in both layouts; units are disjoint.
                    unsafe { self.tile::<T, SIDE>(x.at(at(1)), out.at(at(0)), rows.len(), width) };
                }
            }
        });
    }

    /// # Safety
    ///
    /// `from` and `to` must point to the first of `height` rows and `width` columns with this nest's strides.
    #[inline]
    unsafe fn tile<T: Copy + Default, const SIDE: usize>(
        &self,
        from: *const T,
        to: *mut T,
        height: usize,
        width: usize,
    ) {
        // One element per column and row: along x's contiguous axis first.
        let mut buffer = [[T::default(); SIDE]; SIDE];
        let (from_stride, to_stride) = (self.column_strides[1], self.row_strides[0]);
        // SAFETY: the caller's promise.
        unsafe {
            for (i, line) in buffer[..width].iter_mut().enumerate() {
                let from = from.offset(i as isize * from_stride);
                std::ptr::copy_nonoverlapping(from, line.as_mut_ptr(), height);
            }
            for j in 0..height {
                let to = to.offset(j as isize * to_stride);
                if width == SIDE {
                    for (i, line) in buffer.iter().enumerate() {
                        *to.add(i) = line[j];
                    }
                } else {
                    for (i, line) in buffer[..width].iter().enumerate() {
                        *to.add(i) = line[j];
                    }
                }
            }
        }
    }
}

/// Lanes to lanes: floats round to even, floats to integers truncate and saturate, integers wrap.
trait Cast<D>: Lane {
    fn cast(self) -> D;
}

macro_rules! cast {
    ($($from:ty => $($to:ty)*;)*) => {$($(
        impl Cast<$to> for $from {
            #[inline(always)]
            fn cast(self) -> $to {
                self as $to
            }
        }
    )*)*};
}
cast! {
    f64 => f64 f32 i64 u32 u8;
    f32 => f64 f32 i64 u32 u8;
    i64 => f32 i64 u32 u8;
    u32 => f64 f32 i64 u32 u8;
    u8 => f64 f32 i64 u32 u8;
}

impl Cast<f64> for i64 {
    #[inline(always)]
    fn cast(self) -> f64 {
        self as f64
    }
}

fn cast_from<S>(cpu: &CpuBackend, x: Operand, out: Destination)
where
    S: Cast<f64> + Cast<f32> + Cast<i64> + Cast<u32> + Cast<u8>,
{
    match out.dtype {
        DType::F64 => cast_blocks::<S, f64>(cpu, x, out, S::cast),
        DType::F32 => cast_blocks::<S, f32>(cpu, x, out, S::cast),
        // To 16 bits from what is wider than f32, through f64, which `store` rounds once.
        DType::Bf16 | DType::F16 => match x.dtype {
            DType::I64 => cast_blocks::<i64, f64>(cpu, x, out, sticky),
            DType::F64 | DType::U32 => cast_blocks::<S, f64>(cpu, x, out, S::cast),
            _ => cast_blocks::<S, f32>(cpu, x, out, S::cast),
        },
        DType::I64 => cast_blocks::<S, i64>(cpu, x, out, S::cast),
        DType::U32 => cast_blocks::<S, u32>(cpu, x, out, S::cast),
        DType::U8 => cast_blocks::<S, u8>(cpu, x, out, S::cast),
        DType::Bool => cast_blocks::<S, u8>(cpu, x, out, |x| (x != S::default()) as u8),
    }
}

struct CastRow<'a, S, D, F>(&'a [S], &'a mut [D], F);

impl<S: Lane, D: Lane, F: Fn(S) -> D> Kernel for CastRow<'_, S, D, F> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        self.1.iter_mut().zip(self.0).for_each(|(to, from)| *to = (self.2)(*from));
    }
}

fn cast_blocks<S: Lane, D: Lane>(cpu: &CpuBackend, x: Operand, out: Destination, f: impl Fn(S) -> D + Sync + Copy) {
    let isa = cpu.isa();
    super::each_run(cpu, [out.layout, x.layout], GRAIN, |run| {
        let (direct, x_direct) = (out.is_row::<D>(run.strides[0]), x.is_row::<S>(run.strides[1]));
        let (mut buffer, mut x_buffer) = ([D::default(); BLOCK], [S::default(); BLOCK]);
        for (start, len) in pieces(run.len, direct && x_direct) {
            let [to, from] = run.at(start);
            // SAFETY: the run stays within both layouts, and tasks write disjoint elements.
            unsafe {
                let source = match x_direct {
                    true => x.row::<S>(from, len),
                    false => {
                        load(isa, x, from, run.strides[1], &mut x_buffer[..len]);
                        &x_buffer[..len]
                    }
                };
                let target = if direct { out.row_mut::<D>(to, len) } else { &mut buffer[..len] };
                isa::run(isa, CastRow(source, target, f));
                if !direct {
                    out.store(isa, to, run.strides[0], &buffer[..len]);
                }
            }
        }
    });
}
