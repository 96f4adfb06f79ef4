//! A float operand of any dtype, and how a tile of it comes to and from the type that kernels compute in.

use super::{LANES, PIECE};
use crate::{
    check,
    convert::Wide,
    isa::{self, Kernel, Machine},
    math::Real,
    nest::Run,
    storage::{Input, Output},
};
use attentia_backend::{DType, Error, ErrorKind, Layout, Operand, Result, Source, View, ViewMut};
use half::{bf16, f16};
use std::marker::PhantomData;

/// A float operand whose elements are computed in `A`.
pub(crate) struct Floats<'a, A> {
    pub(super) start: *mut u8,
    dtype: DType,
    pub(super) layout: &'a Layout,
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
    pub(super) fn is_direct(&self, column_stride: isize) -> bool {
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
    pub(super) fn pitch(&self) -> usize {
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
pub(super) struct Move<'a, A> {
    pub(super) operand: Floats<'a, A>,
    pub(super) tile: Tile,
    pub(super) scratch: *mut A,
    pub(super) store: bool,
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
