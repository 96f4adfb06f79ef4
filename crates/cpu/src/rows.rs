//! Float operands of any dtype and strides, as contiguous rows of the type that kernels compute in.
//!
//! ```text
//! operand (f64 | f32 | bf16 | f16, any strides)          rows = all axes but the last, in the destination's order
//!   last axis contiguous, f32 or f64  → used where it lies
//!   anything else                     → a tile of ≤ 16 rows goes through scratch memory, at most 512 KiB for each operand
//! ```
//!
//! A tile is read column by column over all of its rows, so that a row along a strided axis (softmax over an axis that
//! isn't the last arrives as a permuted view) uses whole cache lines: its neighbours lie beside it.
//!
//! Row kernels work on blocks of [`LANES`] elements, taken by value before anything is written: destination and source
//! may be the same memory. The last block is padded, so that short rows run through the same vector code as long ones,
//! and sums keep one running total per lane, added up pairwise at the end: an order that depends on the length alone.

mod lanes;
mod operand;

pub(crate) use lanes::{blocks, fence, greatest, prefetch, put, stream, sum, take};
pub(crate) use operand::{Floats, Tile, in_f64, source_dtype};

use crate::{
    CpuBackend, isa,
    math::Real,
    nest::{Nest, Run, Runs},
    pool::{Block, Pool},
    storage::Raw,
    threads::Threads,
};
use attentia_backend::{Error, Layout, Result, Shape};
use operand::Move;
use std::{
    marker::PhantomData,
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Elements in a block of a row kernel.
pub(crate) const LANES: usize = 32;
/// Elements in a task; smaller operands are worked on by the caller's thread.
pub(crate) const GRAIN: usize = 16 << 10;
/// Elements that an elementwise kernel takes at a time; its scratch memory is on the stack.
pub(crate) const PIECE: usize = 1024;
const TILE_ROWS: usize = 16;
/// Elements of a tile in scratch memory, unless a single row has more.
const TILE_ELEMENTS: usize = 64 << 10;

/// Memory of the pool for the length of a task.
pub(crate) struct Scratch<T> {
    block: Option<Block>,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Scratch<T> {
    /// Room for `len` numbers of any value; nothing is taken for none.
    pub(crate) fn new(pool: &Pool, len: usize) -> Result<Scratch<T>> {
        let bytes = len.saturating_mul(size_of::<T>());
        let block = if bytes == 0 { None } else { Some(pool.alloc(bytes)?) };
        Ok(Scratch { block, len, element: PhantomData })
    }

    /// Pointer to the first number.
    pub(crate) fn start(&mut self) -> *mut T {
        self.block.as_ref().map_or(std::ptr::NonNull::dangling().as_ptr(), |b| b.as_ptr().cast::<T>())
    }
}

impl<T: Raw> Scratch<T> {
    /// The numbers.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: the block is ours, aligned for every number, has `len` of them, and its bytes are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

/// A vector `[C]` that every row needs, brought to the compute type once.
pub(crate) struct Vector<A> {
    _scratch: Scratch<A>,
    start: *const A,
}

// SAFETY: it is only read, and its scratch memory or the operand's borrow outlives the tasks that read it.
unsafe impl<A: Sync> Sync for Vector<A> {}

impl<A: Real> Vector<A> {
    /// The elements of a vector operand, or `columns` times `absent`.
    pub(crate) fn new(cpu: &CpuBackend, operand: Option<Floats<A>>, columns: usize, absent: A) -> Result<Vector<A>> {
        let Some(operand) = operand else {
            let mut scratch = Scratch::new(&cpu.pool, columns)?;
            scratch.as_mut_slice().fill(absent);
            let start = scratch.start().cast_const();
            return Ok(Vector { _scratch: scratch, start });
        };
        let tile = whole_vector(&operand, columns);
        if operand.is_direct(tile.column_stride) {
            let start = operand.start.cast::<A>().cast_const();
            return Ok(Vector { _scratch: Scratch::new(&cpu.pool, 0)?, start });
        }
        let mut scratch = Scratch::new(&cpu.pool, tile.pitch())?;
        let start = scratch.start();
        isa::run(cpu.isa, Move { operand, tile, scratch: start, store: false });
        Ok(Vector { _scratch: scratch, start })
    }

    /// Pointer to the first element.
    #[inline(always)]
    pub(crate) fn start(&self) -> *const A {
        self.start
    }
}

/// Writes a vector destination of shape `[C]`, rounding.
pub(crate) fn store_vector<A: Real>(cpu: &CpuBackend, operand: Floats<A>, values: &mut [A]) {
    let tile = whole_vector(&operand, values.len());
    if operand.is_direct(tile.column_stride) {
        // SAFETY: a contiguous destination of `values.len()` elements of this type, which nothing else refers to.
        let to = unsafe { std::slice::from_raw_parts_mut(operand.start.cast::<A>(), values.len()) };
        return to.copy_from_slice(values);
    }
    isa::run(cpu.isa, Move { operand, tile, scratch: values.as_mut_ptr(), store: true });
}

fn whole_vector<A: Real>(operand: &Floats<A>, columns: usize) -> Tile {
    let column_stride = if columns == 1 { 1 } else { operand.layout.strides().first().copied().unwrap_or(1) };
    Tile { offset: 0, rows: 1, row_stride: 0, columns, column_stride }
}

/// The rows of `N` operands that agree on all axes but the last; operand 0 is the destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowPlan<const N: usize> {
    nest: Nest<N>,
    column_strides: [isize; N],
    columns: usize,
    tile_rows: usize,
}

impl<const N: usize> RowPlan<N> {
    /// The plan of operands with rows of `columns` elements or of one; `None` when there is nothing to do.
    ///
    /// The last axis of each must exist (see [`as_row`] for scalars).
    pub(crate) fn new(layouts: [&Layout; N], columns: usize) -> Option<RowPlan<N>> {
        if layouts.iter().any(|l| l.count() == 0) {
            return None;
        }
        let leading = layouts.map(leading_axes);
        let column_strides = layouts.map(|l| match l.shape().last() {
            Some(&extent) if extent > 1 => l.strides()[l.rank() - 1],
            _ => 1,
        });
        let tile_rows = match column_strides.iter().all(|&s| s == 1) {
            true => 1,
            false => (TILE_ELEMENTS / columns.max(1)).clamp(1, TILE_ROWS),
        };
        let nest = Nest::new(leading.each_ref());
        Some(RowPlan { nest, column_strides, columns, tile_rows })
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.nest.count()
    }

    /// Elements of scratch memory for the tiles of an operand; 0 when its rows are used where they lie.
    pub(crate) fn scratch<A: Real>(&self, operand: usize, floats: &Floats<A>) -> usize {
        if floats.is_direct(self.column_strides[operand]) {
            return 0;
        }
        let tile = Tile { offset: 0, rows: 0, row_stride: 0, columns: self.columns, column_stride: 1 };
        tile.pitch() * self.tile_rows
    }

    /// Rows in a tile, of which a task should have a multiple.
    pub(crate) fn tile_rows(&self) -> usize {
        self.tile_rows
    }

    /// Rows in a task.
    pub(crate) fn grain(&self) -> usize {
        (GRAIN / self.columns.max(1)).max(1).next_multiple_of(self.tile_rows)
    }

    /// The tiles of `range` of the rows, one for each operand. They all have the same rows.
    #[inline(always)]
    pub(crate) fn tiles(&self, range: Range<usize>) -> Tiles<'_, N> {
        Tiles { plan: self, runs: self.nest.runs(range), run: None, done: 0 }
    }
}

/// The tiles of a range of rows.
pub(crate) struct Tiles<'a, const N: usize> {
    plan: &'a RowPlan<N>,
    runs: Runs<'a, N>,
    run: Option<Run<N>>,
    /// Rows of `run` that tiles have covered.
    done: usize,
}

impl<const N: usize> Iterator for Tiles<'_, N> {
    type Item = [Tile; N];

    #[inline(always)]
    fn next(&mut self) -> Option<[Tile; N]> {
        if self.run.is_none_or(|run| self.done == run.len) {
            self.run = self.runs.next();
            self.done = 0;
        }
        let run = self.run?;
        let rows = self.plan.tile_rows.min(run.len - self.done);
        let done = self.done as isize;
        self.done += rows;
        Some(std::array::from_fn(|n| Tile {
            offset: run.offsets[n] + done * run.strides[n],
            rows,
            row_stride: run.strides[n],
            columns: self.plan.columns,
            column_stride: self.plan.column_strides[n],
        }))
    }
}

/// The layout without its last axis, for a layout with elements. Its offset means nothing.
pub(crate) fn leading_axes(layout: &Layout) -> Layout {
    let axis = layout.rank().saturating_sub(1);
    // An axis with elements can be narrowed to the first and then taken away.
    layout.narrow(axis, 0, 1).and_then(|l| l.squeeze(axis)).unwrap_or(*layout)
}

/// A layout with a last axis: a scalar becomes one row of one element.
pub(crate) fn as_row(layout: &Layout) -> Layout {
    match layout.rank() {
        0 => layout.unsqueeze(0).unwrap_or(*layout),
        _ => *layout,
    }
}

/// The shape of statistics beside rows of this shape: the last extent becomes 1.
pub(crate) fn statistics_shape(shape: &Shape) -> Vec<usize> {
    let mut extents = shape.to_vec();
    if let Some(last) = extents.last_mut() {
        *last = 1;
    }
    extents
}

/// Runs `task` over `0..len` in pieces of `grain`; the error of the first piece that failed.
pub(crate) fn try_chunks(
    threads: &Threads,
    len: usize,
    grain: usize,
    task: impl Fn(Range<usize>) -> Result<()> + Sync,
) -> Result<()> {
    let first: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    threads.chunks(len, grain, |range| {
        let start = range.start;
        if let Err(error) = task(range) {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|(at, _)| start < *at) {
                *first = Some((start, error));
            }
        }
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}
