//! Products of blocks whose operands are packed once and read often.
//!
//! ```text
//! Left    rows of A, packed in panels of the instruction set's tiles, or anywhere in memory
//! Right   columns of B in panels: [columns / width][k][width], with room for a whole last panel
//! ```
//!
//! Where the instruction set has no tiles, both are plain rows, and matrixmultiply multiplies them.

use crate::{
    isa::Isa,
    matmul::{
        block::{Operand, Product, Side, Target, Window, first_row, pack, product, scratch_len, tiles},
        element::{Element, Sum},
        kernel::{Kernels, THIN},
    },
};
use std::ptr;

/// Most steps along K of a product here.
pub(super) const DEEPEST: usize = 512;

/// The rows of a product.
#[derive(Clone, Copy)]
pub(super) enum Left<S> {
    /// What [`Multiplier::pack_left`] wrote.
    Packed(*const S),
    /// In place.
    Free(Operand<S>),
}

/// The products of an instruction set, for operands of type `T`.
#[derive(Clone, Copy)]
pub(super) struct Multiplier<T: Element + 'static> {
    kernels: Option<&'static Kernels<T>>,
}

impl<T: Element> Multiplier<T> {
    pub(super) fn of(isa: Isa) -> Multiplier<T> {
        Multiplier { kernels: Kernels::of(isa) }
    }

    /// Columns of a panel.
    fn width(&self) -> usize {
        self.kernels.map_or(1, |kernels| 2 * kernels.lanes)
    }

    /// Rows that tiles cut best: a multiple of a tile's, about 30.
    pub(super) fn block_rows(&self) -> usize {
        self.kernels.map_or(32, |kernels| 32 / kernels.rows * kernels.rows)
    }

    /// Elements of packed columns. An operand that repeats itself may have more than memory: lengths saturate, and no memory
    /// is found.
    pub(super) fn right_len(&self, columns: usize, k: usize) -> usize {
        columns.checked_next_multiple_of(self.width()).unwrap_or(usize::MAX).saturating_mul(k)
    }

    /// Packed columns without their first steps. What is multiplied has so many steps less, and the same depth.
    pub(super) fn without_steps(&self, packed: *const T::Sum, steps: usize) -> *const T::Sum {
        packed.wrapping_add(steps * self.width())
    }

    /// Whether so few rows are multiplied that columns are read in place, once, rather than packed.
    pub(super) fn in_place(rows: usize) -> bool {
        T::IS_SUM && rows <= THIN
    }

    /// Elements of scratch for products in place.
    pub(super) fn in_place_len(&self, rows: usize, columns: usize, k: usize) -> usize {
        scratch_len::<T, T::Sum>(self.kernels, rows, columns, k)
    }

    /// `C[m, n] (+)= A[m, k] · B[k, n]` of operands in place, whose elements are sums; rows of C are `pitch` apart.
    ///
    /// # Safety
    ///
    /// Operands hold what the extents say, scratch [`in_place_len`](Self::in_place_len); nobody else touches C and scratch;
    /// the processor has the instruction set.
    #[expect(clippy::too_many_arguments)] // a product
    pub(super) unsafe fn multiply_in_place(
        &self,
        [m, n, k]: [usize; 3],
        a: Operand<T>,
        b: Operand<T>,
        c: *mut T::Sum,
        pitch: usize,
        add: bool,
        scratch: *mut T::Sum,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match k {
                0 => no_steps(m, n, c, pitch, add),
                _ => {
                    let c = Target { start: c, row: pitch as isize, col: 1 };
                    product(self.kernels, &Product { m, n, k, a, b, c, add }, scratch);
                }
            }
        }
    }

    /// Packs `rows` rows of `k` steps.
    ///
    /// # Safety
    ///
    /// The operand is valid for rows and steps, `to` for `rows · k` elements; the processor has the instruction set.
    pub(super) unsafe fn pack_left(&self, x: Operand<T>, rows: usize, k: usize, to: *mut T::Sum) {
        // SAFETY: the caller's promise; panels have the rows between them.
        unsafe {
            match self.kernels {
                Some(kernels) => {
                    let count = rows.div_ceil(kernels.rows);
                    let panels = (0..count).map(|i| first_row(i, count, rows)..first_row(i + 1, count, rows));
                    pack(kernels, x, rows, panels, 0..k, k, to);
                }
                None => plain(x, rows, k, to),
            }
        }
    }

    /// Packs `columns` columns of `k` steps.
    ///
    /// # Safety
    ///
    /// As [`pack_left`](Self::pack_left), and `to` is valid for [`right_len`](Self::right_len).
    pub(super) unsafe fn pack_right(&self, x: Operand<T>, columns: usize, k: usize, to: *mut T::Sum) {
        // SAFETY: the caller's promise; the last panel has room for all its columns.
        unsafe {
            match self.kernels {
                Some(kernels) => {
                    let width = self.width();
                    let panels = (0..columns).step_by(width).map(|first| first..first + width);
                    pack(kernels, x, columns, panels, 0..k, k, to);
                }
                None => plain(x, columns, k, to),
            }
        }
    }

    /// `C[m, n] (+)= A[m, k] · B[k, n]`, rows of C `pitch` apart. B was packed with `depth` steps, of which these are the
    /// first k.
    ///
    /// # Safety
    ///
    /// Operands hold what the extents say, a packed left one m rows of k steps; nobody else touches C; k is at most
    /// [`DEEPEST`]; the processor has the instruction set.
    pub(super) unsafe fn multiply(
        &self,
        [m, n, k]: [usize; 3],
        a: Left<T::Sum>,
        (b, depth): (*const T::Sum, usize),
        c: *mut T::Sum,
        pitch: usize,
        add: bool,
    ) {
        if k == 0 {
            // SAFETY: the caller's promise.
            return unsafe { no_steps(m, n, c, pitch, add) };
        }
        let Some(kernels) = self.kernels else {
            let a = match a {
                Left::Packed(start) => Operand { start, lane: k as isize, step: 1 },
                Left::Free(a) => a,
            };
            let (one, keep) = (T::Sum::ONE, if add { T::Sum::ONE } else { T::Sum::default() });
            let (a_row, a_step, pitch) = (a.lane, a.step, pitch as isize);
            // SAFETY: the caller's promise.
            unsafe {
                (T::Sum::PORTABLE)(m, k, n, one, a.start, a_row, a_step, b, 1, depth as isize, keep, c, pitch, 1)
            };
            return;
        };
        let a = match a {
            Left::Packed(start) => Side::Packed { start, lanes: m },
            Left::Free(a) => Side::Direct(a),
        };
        let nothing = Operand { start: ptr::null(), lane: 0, step: 0 };
        let (width, panels) = (self.width(), m.div_ceil(kernels.rows));
        for col in (0..n).step_by(width) {
            let cols = width.min(n - col);
            let b = Side::Packed { start: b.wrapping_add(col * depth), lanes: width };
            let c = Target { start: c.wrapping_add(col), row: pitch as isize, col: 1 };
            let window = Window { panels, first: 0, last: panels, col: 0, cols };
            let product = Product { m, n: cols, k, a: nothing, b: nothing, c, add };
            // SAFETY: the caller's promise; no operand is packed here, so that no scratch is needed.
            unsafe { tiles(kernels, &product, a, b, &window, ptr::null_mut()) };
        }
    }
}

/// A product without steps: tiles write what their steps add up to, and there is none.
///
/// # Safety
///
/// C has the rows.
unsafe fn no_steps<S>(m: usize, n: usize, c: *mut S, pitch: usize, add: bool) {
    for i in 0..if add { 0 } else { m } {
        // SAFETY: the caller's promise; all bits zero are the number 0.
        unsafe { c.wrapping_add(i * pitch).write_bytes(0, n) };
    }
}

/// Lanes as rows of sums.
///
/// # Safety
///
/// As [`Multiplier::pack_left`].
pub(super) unsafe fn plain<T: Element>(x: Operand<T>, lanes: usize, k: usize, to: *mut T::Sum) {
    for lane in 0..lanes {
        for p in 0..k {
            // SAFETY: the caller's promise.
            unsafe { *to.wrapping_add(lane * k + p) = (*x.at(lane, p).start).widen() };
        }
    }
}
