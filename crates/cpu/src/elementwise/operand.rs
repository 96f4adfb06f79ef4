//! Operands whose dtype is known at run time only.

use super::lane::Lane;
use crate::{
    convert::BLOCK,
    isa::Isa,
    storage::{Input, Output, with_element},
};
use attentia_backend::{DType, Layout, Result, View, ViewMut};

/// An operand to read.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    start: *const u8,
    pub(crate) dtype: DType,
    pub(crate) layout: &'a Layout,
}

/// An operand to write, or to read and write.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'a> {
    start: *mut u8,
    pub(crate) dtype: DType,
    pub(crate) layout: &'a Layout,
}

// SAFETY: it is a shared borrow of plain numbers.
unsafe impl Send for Operand<'_> {}
// SAFETY: as above.
unsafe impl Sync for Operand<'_> {}
// SAFETY: tasks that share it write disjoint elements, those of different runs of a nest.
unsafe impl Send for Destination<'_> {}
// SAFETY: as above.
unsafe impl Sync for Destination<'_> {}

impl<'a> Operand<'a> {
    /// Errors when the view is another backend's.
    pub(crate) fn new(op: &'static str, view: View<'a>) -> Result<Operand<'a>> {
        let (dtype, layout) = (view.dtype(), view.layout());
        let start = with_element!(dtype, T => Input::<T>::new(op, view)?.start().cast::<u8>());
        Ok(Operand { start, dtype, layout })
    }

    /// Pointer to the element at an offset; `T` must have the size of the operand's elements.
    #[inline]
    pub(crate) fn at<T>(&self, offset: isize) -> *const T {
        self.start.cast::<T>().wrapping_offset(offset)
    }

    /// Whether a run with this stride is a slice of lanes.
    #[inline]
    pub(crate) fn is_row<L: Lane>(&self, stride: isize) -> bool {
        stride == 1 && L::holds(self.dtype)
    }

    /// Elements in a row.
    ///
    /// # Safety
    ///
    /// `is_row` must hold, and the elements lie within the layout and not be written meanwhile.
    #[inline]
    pub(crate) unsafe fn row<L: Lane>(&self, offset: isize, len: usize) -> &'a [L] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(offset), len) }
    }
}

impl<'a> Destination<'a> {
    /// Errors when the destination is another backend's or read only.
    pub(crate) fn new(op: &'static str, view: ViewMut<'a>) -> Result<Destination<'a>> {
        let (dtype, layout) = (view.dtype(), view.layout());
        let start = with_element!(dtype, T => Output::<T>::new(op, view)?.start().cast::<u8>());
        Ok(Destination { start, dtype, layout })
    }

    /// The same elements to read.
    pub(crate) fn as_operand(&self) -> Operand<'a> {
        Operand { start: self.start, dtype: self.dtype, layout: self.layout }
    }

    /// Pointer to the element at an offset; `T` must have the size of the destination's elements.
    #[inline]
    pub(crate) fn at<T>(&self, offset: isize) -> *mut T {
        self.start.cast::<T>().wrapping_offset(offset)
    }

    /// Whether a run with this stride is a slice of lanes.
    #[inline]
    pub(crate) fn is_row<L: Lane>(&self, stride: isize) -> bool {
        stride == 1 && L::holds(self.dtype)
    }

    /// Elements in a row.
    ///
    /// # Safety
    ///
    /// `is_row` must hold, and the elements lie within the layout and belong to this task alone.
    #[inline]
    pub(crate) unsafe fn row_mut<L: Lane>(&self, offset: isize, len: usize) -> &'a mut [L] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset), len) }
    }

    /// Stores lanes, rounded to the destination's dtype.
    ///
    /// # Safety
    ///
    /// The elements must lie within the layout and belong to this task alone, and the lane be one of the dtype's.
    pub(crate) unsafe fn store<L: Lane>(&self, isa: Isa, offset: isize, stride: isize, from: &[L]) {
        // SAFETY: the caller's promise.
        unsafe { L::store(isa, self.dtype, from, self, offset, stride) }
    }
}

/// Loads a block as lanes.
///
/// # Safety
///
/// The elements must lie within the layout and not be written meanwhile, and the lane be one of the dtype's.
pub(crate) unsafe fn load<L: Lane>(isa: Isa, from: Operand, offset: isize, stride: isize, to: &mut [L]) {
    // SAFETY: the caller's promise.
    unsafe { L::load(isa, from, offset, stride, to) }
}

/// The right operand of a row kernel.
#[derive(Clone, Copy)]
pub(crate) enum Row<'a, L> {
    /// One element for each of the destination's.
    Slice(&'a [L]),
    /// The same one for all.
    Value(L),
}

/// A block's way between memory and a kernel; made when it is first needed, so that small operations on operands that
/// are used in place don't pay for it.
pub(crate) type Buffer<L> = Option<[L; BLOCK]>;

/// The buffer's first `len` elements; no more than [`BLOCK`].
#[inline]
pub(crate) fn room<L: Lane>(buffer: &mut Buffer<L>, len: usize) -> &mut [L] {
    &mut buffer.get_or_insert_with(|| [L::default(); BLOCK])[..len]
}

/// A block as it is used best: in place, as one value, or through the buffer.
///
/// # Safety
///
/// As for [`load`]; and where neither the stride is 0 nor `is_row` holds, `len` must not exceed [`BLOCK`].
#[inline]
pub(crate) unsafe fn row<'a, L: Lane>(
    isa: Isa,
    from: Operand<'a>,
    offset: isize,
    stride: isize,
    len: usize,
    buffer: &'a mut Buffer<L>,
) -> Row<'a, L> {
    // SAFETY: the caller's promise.
    unsafe {
        if stride == 0 {
            let mut value = [L::default()];
            load(isa, from, offset, 0, &mut value);
            return Row::Value(value[0]);
        }
        if from.is_row::<L>(stride) {
            return Row::Slice(from.row(offset, len));
        }
        let buffer = room(buffer, len);
        load(isa, from, offset, stride, buffer);
        Row::Slice(buffer)
    }
}
