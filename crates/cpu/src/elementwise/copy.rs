//! Copies: of one dtype as they are, between dtypes by casts, transposed in tiles.
//!
//! ```text
//! same dtype, a run contiguous on both sides      → memory copy           [B, T, H, D] ↔ [B, H, T, D]
//! same dtype, x contiguous along another axis     → tiles                 [M, N] ↔ [N, M]
//! otherwise                                       → blocks of 256, gathered, cast, scattered
//! ```

use super::{
    GRAIN,
    fill::sticky,
    lane::{Lane, gather, scatter},
    operand::{Buffer, Destination, Operand, load, room},
    pieces,
    tiles::{Tile, Tiles},
};
use crate::{
    CpuBackend, check,
    isa::{self, Kernel, Machine},
    nest::Nest,
};
use attentia_backend::{DType, Result, View, ViewMut};

/// Bytes per task of a plain memory copy.
const PIECE: usize = 1 << 20;

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
        return cpu.threads.chunks(out.layout.count(), PIECE / size_of::<T>(), |range| {
            let at = range.start as isize;
            // SAFETY: both operands have `count` elements in a row, and tasks have disjoint ranges.
            unsafe { std::ptr::copy_nonoverlapping(x.at::<T>(at), out.at::<T>(at), range.len()) };
        });
    }
    let nest = Nest::new([out.layout, x.layout]);
    if let Some(tiles) = Tiles::find(&nest).filter(|t| t.column_strides[0] == 1 && t.row_strides[1] == 1) {
        return match size_of::<T>() {
            4.. => transpose::<T, 16>(cpu, &tiles, x, out),
            _ => transpose::<T, 32>(cpu, &tiles, x, out),
        };
    }
    cpu.threads.chunks(nest.count(), GRAIN, |range| {
        for run in nest.runs(range) {
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
        }
    });
}

/// A transposition: the destination is contiguous along columns, x along rows.
///
/// ```text
/// for each 16 × 16 tile (32 × 32 of elements below 4 bytes):
///     read it from x, column by column, each contiguous, into a buffer
///     write it to the destination, row by row, each contiguous
/// ```
///
/// Every cache line of both sides is touched once, also where the strides are powers of two and all lines of a tile
/// compete for the same few places of the cache: that is what the buffer is for.
fn transpose<T: Copy + Default, const SIDE: usize>(cpu: &CpuBackend, tiles: &Tiles<2>, x: Operand, out: Destination) {
    tiles.each(cpu, SIDE, SIDE, GRAIN, |each| {
        for tile in each {
            let [to, from] = tile.offsets;
            // SAFETY: the tile lies within both layouts, and tasks write disjoint ones.
            unsafe { transpose_tile::<T, SIDE>(tiles, &tile, x.at(from), out.at(to)) };
        }
    });
}

/// # Safety
///
/// `from` and `to` must point to the first element of the tile.
#[inline]
unsafe fn transpose_tile<T: Copy + Default, const SIDE: usize>(
    tiles: &Tiles<2>,
    tile: &Tile<2>,
    from: *const T,
    to: *mut T,
) {
    let mut buffer = [[T::default(); SIDE]; SIDE];
    let whole = tile.columns == SIDE;
    // SAFETY: the caller's promise.
    unsafe {
        for (i, column) in buffer[..tile.columns].iter_mut().enumerate() {
            let from = from.offset(i as isize * tiles.column_strides[1]);
            std::ptr::copy_nonoverlapping(from, column.as_mut_ptr(), tile.rows);
        }
        for j in 0..tile.rows {
            let to = to.offset(j as isize * tiles.row_strides[0]);
            let columns = if whole { &buffer[..] } else { &buffer[..tile.columns] };
            for (i, column) in columns.iter().enumerate() {
                *to.add(i) = column[j];
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
    type Pair<S, D> = (Buffer<S>, Buffer<D>);
    super::each_run(cpu, [out.layout, x.layout], GRAIN, |(x_buffer, buffer): &mut Pair<S, D>, run| {
        let (direct, x_direct) = (out.is_row::<D>(run.strides[0]), x.is_row::<S>(run.strides[1]));
        for (start, len) in pieces(run.len, direct && x_direct) {
            let [to, from] = run.at(start);
            // SAFETY: the run stays within both layouts, and tasks write disjoint elements.
            unsafe {
                let source = if x_direct {
                    x.row::<S>(from, len)
                } else {
                    let source = room(x_buffer, len);
                    load(isa, x, from, run.strides[1], source);
                    source
                };
                let target = if direct { out.row_mut::<D>(to, len) } else { room(buffer, len) };
                isa::run(isa, CastRow(source, &mut *target, f));
                if !direct {
                    out.store(isa, to, run.strides[0], target);
                }
            }
        }
    });
}
