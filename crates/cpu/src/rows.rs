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

use crate::{
    CpuBackend, check,
    convert::Wide,
    isa::{self, Kernel, Machine},
    math::Real,
    nest::{Nest, Run},
    pool::{Block, Pool},
    storage::{Input, Output, Raw},
    threads::Threads,
};
use attentia_backend::{DType, Error, ErrorKind, Layout, Operand, Result, Shape, Source, View, ViewMut};
use half::{bf16, f16};
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

/// A float operand whose elements are computed in `A`.
pub(crate) struct Floats<'a, A> {
    start: *mut u8,
    dtype: DType,
    layout: &'a Layout,
    compute: PhantomData<A>,
}

impl<A> Clone for Floats<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<A> Copy for Floats<'_, A> {}

// SAFETY: a borrow of plain numbers; tasks that share a destination write disjoint rows of it.
unsafe impl<A: Sync> Sync for Floats<'_, A> {}
// SAFETY: as above.
unsafe impl<A: Send> Send for Floats<'_, A> {}

impl<'a, A: Real> Floats<'a, A> {
    /// An operand to read, of any float dtype.
    pub(crate) fn input(op: &'static str, view: View<'a>) -> Result<Floats<'a, A>> {
        let (layout, dtype) = (view.layout(), view.dtype());
        let start = match dtype {
            DType::F64 if A::holds(DType::F64) => Input::<f64>::new(op, view)?.start() as *mut u8,
            DType::F32 => Input::<f32>::new(op, view)?.start() as *mut u8,
            DType::Bf16 => Input::<bf16>::new(op, view)?.start() as *mut u8,
            DType::F16 => Input::<f16>::new(op, view)?.start() as *mut u8,
            _ => return Err(refused(op, layout, dtype)),
        };
        Ok(Floats { start, dtype, layout, compute: PhantomData })
    }

    /// An operand to write, or to read and write, of any float dtype.
    pub(crate) fn output(op: &'static str, view: ViewMut<'a>) -> Result<Floats<'a, A>> {
        let (layout, dtype) = (view.layout(), view.dtype());
        let start = match dtype {
            DType::F64 if A::holds(DType::F64) => Output::<f64>::new(op, view)?.start() as *mut u8,
            DType::F32 => Output::<f32>::new(op, view)?.start() as *mut u8,
            DType::Bf16 => Output::<bf16>::new(op, view)?.start() as *mut u8,
            DType::F16 => Output::<f16>::new(op, view)?.start() as *mut u8,
            _ => return Err(refused(op, layout, dtype)),
        };
        Ok(Floats { start, dtype, layout, compute: PhantomData })
    }

    /// An operand to read that may be the destination itself.
    pub(crate) fn source(op: &'static str, source: Source<'a>, out: Floats<'a, A>) -> Result<Floats<'a, A>> {
        match source {
            Source::View(view) => Floats::input(op, view),
            Source::Destination => Ok(out),
        }
    }

    /// Its layout; the offset is already accounted for.
    pub(crate) fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// It is called `role`, and has this shape and dtype.
    pub(crate) fn expect(&self, op: &'static str, role: &str, shape: &[usize], dtype: DType) -> Result<()> {
        check::shape(op, role, self.layout, shape)?;
        if self.dtype == dtype {
            return Ok(());
        }
        Err(Error::new(ErrorKind::DType, op, format!("{role} is {}, expected {dtype}", self.dtype)))
    }

    /// One element.
    ///
    /// # Safety
    ///
    /// `offset` lies within the layout.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, offset: isize) -> A {
        // SAFETY: the caller's promise, and the dtype names the type.
        unsafe {
            match self.dtype {
                DType::F64 => A::from_f64(*self.start.cast::<f64>().offset(offset)),
                DType::Bf16 => A::from_f64((*self.start.cast::<bf16>().offset(offset)).to_f64()),
                DType::F16 => A::from_f64((*self.start.cast::<f16>().offset(offset)).to_f64()),
                _ => A::from_f64(*self.start.cast::<f32>().offset(offset) as f64),
            }
        }
    }

    /// Writes one element, rounding.
    ///
    /// # Safety
    ///
    /// As [`Floats::get`], and no other task uses the element meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn set(&self, offset: isize, x: A) {
        let x = x.to_f64();
        // SAFETY: the caller's promise, and the dtype names the type.
        unsafe {
            match self.dtype {
                DType::F64 => *self.start.cast::<f64>().offset(offset) = x,
                DType::Bf16 => *self.start.cast::<bf16>().offset(offset) = bf16::from_f64(x),
                DType::F16 => *self.start.cast::<f16>().offset(offset) = f16::from_f64(x),
                _ => *self.start.cast::<f32>().offset(offset) = x as f32,
            }
        }
    }

    /// Whether pieces with this column stride are used where they lie.
    #[inline(always)]
    fn is_direct(&self, column_stride: isize) -> bool {
        column_stride == 1 && A::holds(self.dtype)
    }

    /// The elements of a tile to read; `scratch` has room for it unless it can be used where it lies.
    ///
    /// # Safety
    ///
    /// The tile lies within the layout, and no other task writes it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn read<M: Machine>(&self, tile: Tile, scratch: *mut A) -> Rows<A> {
        if self.is_direct(tile.column_stride) {
            let start = self.start.cast::<A>().wrapping_offset(tile.offset);
            return Rows { start, pitch: tile.row_stride };
        }
        isa::run(M::ISA, Move { operand: *self, tile, scratch, store: false });
        Rows { start: scratch, pitch: tile.pitch() as isize }
    }

    /// Where to compute the elements of a tile to write: in place or in `scratch`; [`Floats::store`] completes it.
    #[inline(always)]
    pub(crate) fn place(&self, tile: Tile, scratch: *mut A) -> Rows<A> {
        if self.is_direct(tile.column_stride) {
            let start = self.start.cast::<A>().wrapping_offset(tile.offset);
            return Rows { start, pitch: tile.row_stride };
        }
        Rows { start: scratch, pitch: tile.pitch() as isize }
    }

    /// Brings a tile from `scratch` to its place, rounding; nothing to do when it was computed there.
    ///
    /// # Safety
    ///
    /// The tile lies within the layout, `scratch` holds it, and no other task uses it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn store<M: Machine>(&self, tile: Tile, scratch: *mut A) {
        if !self.is_direct(tile.column_stride) {
            isa::run(M::ISA, Move { operand: *self, tile, scratch, store: true });
        }
    }
}

/// Whether a call with operands of these dtypes is computed in f64: when one of them is; else in f32.
pub(crate) fn in_f64(dtypes: &[DType]) -> bool {
    dtypes.contains(&DType::F64)
}

/// The dtype of an operand that may be the destination.
pub(crate) fn source_dtype(source: &Source, out: &ViewMut) -> DType {
    match source {
        Source::View(view) => view.dtype(),
        Source::Destination => out.dtype(),
    }
}

fn refused(op: &'static str, layout: &Layout, dtype: DType) -> Error {
    Error::new(ErrorKind::DType, op, format!("not defined for {dtype}"))
        .operand(Operand::new("operand", *layout, dtype))
}

/// Some rows of an operand, as long walks along its last axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    /// Of the first element, from the operand's start.
    pub(crate) offset: isize,
    /// Number of rows.
    pub(crate) rows: usize,
    /// From one row to the next.
    pub(crate) row_stride: isize,
    /// Elements in a row.
    pub(crate) columns: usize,
    /// From one element to the next; 1 where there is no next.
    pub(crate) column_stride: isize,
}

impl Tile {
    /// From one row to the next in scratch memory; no power of two, so that the rows of a tile fall into different
    /// sets of the cache.
    #[inline(always)]
    fn pitch(&self) -> usize {
        self.columns.next_multiple_of(LANES) + 16
    }
}

impl Tile {
    /// Offset of a row's first element; for statistics, of its only one.
    #[inline(always)]
    pub(crate) fn of_row(&self, row: usize) -> isize {
        self.offset + row as isize * self.row_stride
    }
}

impl<const N: usize> Run<N> {
    /// The next elements of a run after the first `done`, at most [`PIECE`], as a row of each operand.
    #[inline(always)]
    pub(crate) fn piece(&self, done: usize) -> [Tile; N] {
        std::array::from_fn(|n| {
            let (offset, stride) = (self.offsets[n], self.strides[n]);
            let columns = (self.len - done).min(PIECE);
            let column_stride = if columns == 1 { 1 } else { stride };
            Tile { offset: offset + done as isize * stride, rows: 1, row_stride: 0, columns, column_stride }
        })
    }
}

/// Contiguous rows to compute with.
#[derive(Clone, Copy)]
pub(crate) struct Rows<A> {
    start: *mut A,
    pitch: isize,
}

impl<A> Rows<A> {
    /// Pointer to the first element of a row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> *mut A {
        self.start.wrapping_offset(row as isize * self.pitch)
    }
}

/// Brings a tile to or from scratch memory.
struct Move<'a, A> {
    operand: Floats<'a, A>,
    tile: Tile,
    scratch: *mut A,
    store: bool,
}

impl<A: Real> Kernel for Move<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        match self.operand.dtype {
            DType::F64 => self.typed::<M, f64>(),
            DType::F32 if A::holds(DType::F64) => self.mixed::<f32>(),
            DType::Bf16 if A::holds(DType::F64) => self.mixed::<bf16>(),
            DType::F16 if A::holds(DType::F64) => self.mixed::<f16>(),
            DType::F32 => self.typed::<M, f32>(),
            DType::Bf16 => self.typed::<M, bf16>(),
            DType::F16 => self.typed::<M, f16>(),
            _ => {} // refused when the operand was made
        }
    }
}

impl<A: Real> Move<'_, A> {
    #[inline(always)]
    fn typed<M: Machine, T: Wide>(self) {
        let Tile { offset, rows, row_stride, columns, column_stride } = self.tile;
        let operand = self.operand.start.cast::<T>().wrapping_offset(offset);
        // `A` is `T::Compute`: f64 goes with f64 only, by the operand's constructor, and the caller sees to the others.
        let scratch = self.scratch.cast::<T::Compute>();
        let pitch = self.tile.pitch();
        if column_stride == 1 {
            for row in 0..rows {
                let operand = operand.wrapping_offset(row as isize * row_stride);
                // SAFETY: the caller's promise on the tile; scratch memory is no operand's.
                unsafe {
                    let scratch = scratch.add(row * pitch);
                    if self.store {
                        let to = std::slice::from_raw_parts_mut(operand, columns);
                        T::narrow_row::<M>(std::slice::from_raw_parts(scratch, columns), to);
                    } else {
                        let to = std::slice::from_raw_parts_mut(scratch, columns);
                        T::widen_row::<M>(std::slice::from_raw_parts(operand, columns), to);
                    }
                }
            }
            return;
        }
        for column in 0..columns {
            let operand = operand.wrapping_offset(column as isize * column_stride);
            for row in 0..rows {
                // SAFETY: as above.
                unsafe {
                    let operand = operand.offset(row as isize * row_stride);
                    let scratch = scratch.add(row * pitch + column);
                    if self.store {
                        *operand = T::narrow(*scratch);
                    } else {
                        *scratch = (*operand).widen();
                    }
                }
            }
        }
    }

    /// A narrower operand among f64 ones, element by element.
    #[inline(always)]
    fn mixed<T: Wide>(self) {
        let Tile { offset, rows, row_stride, columns, column_stride } = self.tile;
        let operand = self.operand.start.cast::<T>().wrapping_offset(offset);
        let pitch = self.tile.pitch();
        for row in 0..rows {
            for column in 0..columns {
                // SAFETY: the caller's promise on the tile; scratch memory is no operand's.
                unsafe {
                    let operand = operand.offset(row as isize * row_stride + column as isize * column_stride);
                    let scratch = self.scratch.add(row * pitch + column);
                    if self.store {
                        *operand = T::narrow(T::Compute::from_f64((*scratch).to_f64()));
                    } else {
                        *scratch = A::from_f64((*operand).widen().to_f64());
                    }
                }
            }
        }
    }
}

/// Memory of the pool for the length of a task.
pub(crate) struct Scratch<T> {
    block: Option<Block>,
    len: usize,
    element: PhantomData<T>,
}

impl<T> Scratch<T> {
    /// Room for `len` numbers of any value; nothing is taken for none.
    pub(crate) fn new(pool: &Pool, len: usize) -> Result<Scratch<T>> {
        let bytes = len.checked_mul(size_of::<T>()).unwrap_or(usize::MAX);
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
    match operand.is_direct(tile.column_stride) {
        // SAFETY: a contiguous destination of `values.len()` elements of this type, which nothing else refers to.
        true => {
            unsafe { std::slice::from_raw_parts_mut(operand.start.cast::<A>(), values.len()) }.copy_from_slice(values)
        }
        false => isa::run(cpu.isa, Move { operand, tile, scratch: values.as_mut_ptr(), store: true }),
    }
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

    /// Calls `f` with the tiles of `range` of the rows, one for each operand. They all have the same rows.
    #[inline(always)]
    pub(crate) fn tiles(&self, range: Range<usize>, mut f: impl FnMut([Tile; N])) {
        self.nest.runs(range, |run| {
            let mut done = 0;
            while done < run.len {
                let rows = self.tile_rows.min(run.len - done);
                f(std::array::from_fn(|n| Tile {
                    offset: run.offsets[n] + done as isize * run.strides[n],
                    rows,
                    row_stride: run.strides[n],
                    columns: self.columns,
                    column_stride: self.column_strides[n],
                }));
                done += rows;
            }
        });
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

/// A block of up to [`LANES`] elements by value; `pad` fills the rest.
///
/// # Safety
///
/// `len` elements can be read at `from`.
#[inline(always)]
pub(crate) unsafe fn take<A: Copy>(from: *const A, len: usize, pad: A) -> [A; LANES] {
    if len >= LANES {
        // SAFETY: the caller's promise.
        return unsafe { from.cast::<[A; LANES]>().read_unaligned() };
    }
    let mut block = [pad; LANES];
    // SAFETY: `len < LANES`, and the caller's promise.
    unsafe { copy_part(from, block.as_mut_ptr(), len) };
    block
}

/// Copies fewer than [`LANES`] elements in pieces of fixed length: a general copy would be a library call.
///
/// # Safety
///
/// `len` elements can be read at `from` and written at `to`, which are apart.
#[inline(always)]
unsafe fn copy_part<A: Copy>(from: *const A, to: *mut A, len: usize) {
    let mut at = 0;
    macro_rules! piece {
        ($($n:literal)*) => {$(
            if len & $n != 0 {
                // SAFETY: the pieces before took `at` of the elements, which leaves at least this many.
                unsafe { to.add(at).cast::<[A; $n]>().write_unaligned(from.add(at).cast::<[A; $n]>().read_unaligned()) };
                at += $n;
            }
        )*};
    }
    piece!(16 8 4 2);
    if len & 1 != 0 {
        // SAFETY: as above.
        unsafe { *to.add(at) = *from.add(at) };
    }
}

/// Writes the first `len` elements of a block.
///
/// # Safety
///
/// `len` elements can be written at `to`.
#[inline(always)]
pub(crate) unsafe fn put<A: Copy>(block: [A; LANES], to: *mut A, len: usize) {
    if len >= LANES {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[A; LANES]>().write_unaligned(block) };
    } else {
        // SAFETY: `len < LANES`, and the caller's promise.
        unsafe { copy_part(block.as_ptr(), to, len) };
    }
}

/// The lanes added up pairwise.
#[inline(always)]
pub(crate) fn sum<A: Real>(mut lanes: [A; LANES]) -> A {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] = lanes[l] + lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The greatest lane; NaN is passed over.
#[inline(always)]
pub(crate) fn greatest<A: Real>(mut lanes: [A; LANES]) -> A {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] = if lanes[l + width] > lanes[l] { lanes[l + width] } else { lanes[l] };
        }
        width /= 2;
    }
    lanes[0]
}
