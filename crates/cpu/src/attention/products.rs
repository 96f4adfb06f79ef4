//! Products of blocks whose operands are packed once and read often.
//!
//! ```text
//! Left    rows of A, packed in panels of the instruction set's tiles, or anywhere in memory
//! Right   columns of B in panels: [columns / width][k][width], with room for a whole last panel
//! ```
//!
//! Where the instruction set has no tiles, both are plain rows, and matrixmultiply multiplies them. Where it multiplies pairs
//! of bf16, a step of a panel is two along K, rounded, in the place of one f32 (`matmul/pairs/panel.rs`): extents here count
//! elements all the same, and memory the places.

use super::problem::PITCH;
use crate::{
    isa::Isa,
    math::Real,
    matmul::{
        block::{Operand, Product, Side, Target, Visits, first_row, pack, product, rows_of_sums, scratch_len, tiles},
        element::{Element, Sum},
        epilogue::Epilogue,
        kernel::{Kernels, Pack, PairPanels, THIN},
        soon::Soon,
    },
};
use std::{ops::Range, ptr};

/// Most steps along K of a product here.
pub(super) const DEEPEST: usize = 512;

/// Steps of panels whose products are added up before they are added to what is there. The error of a sum grows with the partial
/// sums that are rounded: with 128, output and gradients of long sequences are closer to the truth than with all 512
/// (docs/src/attention-kernel.md).
const TERMS: usize = 128;

/// The rows of a product.
#[derive(Clone, Copy)]
pub(super) enum Left<S> {
    /// What [`Multiplier::pack_left`] wrote.
    Packed(*const S),
    /// In place; of pairs, what [`Multiplier::along`] or [`Multiplier::across`] made.
    Free(Operand<S>),
}

/// The products of an instruction set, for operands of type `T`.
#[derive(Clone, Copy)]
pub(super) struct Multiplier<T: Element + 'static> {
    kernels: Option<&'static Kernels<T>>,
    pairs: Option<&'static PairPanels<T>>,
}

impl<T: Element> Multiplier<T> {
    pub(super) fn of(isa: Isa) -> Multiplier<T> {
        let pairs = T::pair_panels(isa);
        Multiplier { kernels: pairs.map(|pairs| &pairs.kernels).or(Kernels::of(isa)), pairs }
    }

    /// Elements along K in a step of a panel.
    fn step(&self) -> usize {
        if self.pairs.is_some() { 2 } else { 1 }
    }

    /// Steps of panels for so many elements along K.
    pub(super) fn steps(&self, k: usize) -> usize {
        k.div_ceil(self.step())
    }

    /// Elements before one along K that are in earlier steps.
    pub(super) fn before(&self, k: usize) -> usize {
        k - k % self.step()
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
        columns.checked_next_multiple_of(self.width()).unwrap_or(usize::MAX).saturating_mul(self.steps(k))
    }

    /// Packed columns without their first elements along K, which are whole steps. What is multiplied has so many less, and
    /// the same depth.
    pub(super) fn without_first(&self, packed: *const T::Sum, first: usize) -> *const T::Sum {
        packed.wrapping_add(self.steps(first) * self.width())
    }

    /// Whether so few rows are multiplied that columns are read in place, once, rather than packed. 16-bit ones have to be
    /// contiguous one way for that, all of `columns`.
    pub(super) fn in_place(&self, rows: usize, columns: [Operand<T>; 2]) -> bool {
        let contiguous = columns.iter().all(|x| x.lane == 1 || x.step == 1);
        rows <= THIN && (T::IS_SUM || self.kernels.is_some() && contiguous)
    }

    /// Elements of scratch for products in place.
    pub(super) fn in_place_len(&self, rows: usize, columns: usize, k: usize) -> usize {
        scratch_len::<T, T::Sum>(self.kernels, rows, columns, k)
    }

    /// `C[m, n] (+)= A[m, k] · B[k, n]` of rows of sums and columns [`in_place`](Self::in_place); rows of C are `pitch` apart.
    ///
    /// # Safety
    ///
    /// Operands hold what the extents say, scratch [`in_place_len`](Self::in_place_len); nobody else touches C and scratch;
    /// the processor has the instruction set.
    #[expect(clippy::too_many_arguments)] // a product
    pub(super) unsafe fn multiply_in_place(
        &self,
        [m, n, k]: [usize; 3],
        (a, a_row): (*const T::Sum, usize),
        b: Operand<T>,
        c: *mut T::Sum,
        pitch: usize,
        add: bool,
        scratch: *mut T::Sum,
    ) {
        // A is read as what it is; where it is no T, its place among the operands is not.
        let rows = Operand { start: a.cast(), lane: a_row as isize, step: 1 };
        let (c, then) = target(c, pitch, add);
        let x = Product { m, n, k, a: rows, b, c, then };
        // SAFETY: the caller's promise.
        unsafe {
            match self.kernels {
                _ if k == 0 => no_steps(m, n, c.start, pitch, add),
                Some(kernels) if !T::IS_SUM => rows_of_sums(kernels, &x, a, a_row as isize),
                kernels => product(kernels, &x, scratch),
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
                    self.pack(kernels, x, rows, panels, k, to);
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
                    self.pack(kernels, x, columns, panels, k, to);
                }
                None => plain(x, columns, k, to),
            }
        }
    }

    /// # Safety
    ///
    /// As [`block::pack`](pack).
    unsafe fn pack(
        &self,
        kernels: &Kernels<T>,
        x: Operand<T>,
        lanes: usize,
        panels: impl Iterator<Item = Range<usize>> + Clone,
        k: usize,
        to: *mut T::Sum,
    ) {
        if self.pairs.is_none() {
            // SAFETY: the caller's promise.
            return unsafe { pack(kernels, x, lanes, panels, k, to) };
        }
        for panel in panels {
            let Operand { start: from, lane, step } = x.at(panel.start, 0);
            let (width, to) = (lanes.min(panel.end) - panel.start, to.wrapping_add(panel.start * self.steps(k)));
            let strip = Pack { from, lane, step, width, k, to, pitch: panel.len() };
            // SAFETY: as above; panels are apart.
            unsafe { (kernels.pack)(&strip) };
        }
    }

    /// Makes zeros of elements outside of a range that share a step with one in it: they are multiplied with it, and
    /// padding may hold anything.
    ///
    /// # Safety
    ///
    /// Packed columns of `k` steps, which nobody else touches.
    pub(super) unsafe fn clear_outside(&self, packed: *mut T::Sum, columns: usize, k: usize, range: Range<usize>) {
        let Some(pairs) = self.pairs else { return };
        for (neighbour, inside) in [(range.start.wrapping_sub(1), range.start), (range.end, range.end.wrapping_sub(1))]
        {
            if range.is_empty() || neighbour >= k || neighbour / 2 != inside / 2 {
                continue;
            }
            for panel in 0..columns.div_ceil(self.width()) {
                let step = packed.wrapping_add((panel * self.steps(k) + neighbour / 2) * self.width());
                // SAFETY: a step of a panel.
                unsafe { (pairs.clear)(step, self.width(), neighbour % 2) };
            }
        }
    }

    /// Rows of sums, [`PITCH`] apart, as a left operand whose lanes are the rows.
    ///
    /// # Safety
    ///
    /// The rows are there, and nobody else touches them; the processor has the instruction set.
    pub(super) unsafe fn along(&self, x: *mut T::Sum, rows: usize, columns: usize) -> Operand<T::Sum> {
        if let Some(pairs) = self.pairs {
            // SAFETY: the caller's promise; rows have room for whole blocks of 32.
            unsafe { (pairs.along)(x, rows, columns, PITCH) };
        }
        Operand { start: x.cast_const(), lane: PITCH as isize, step: 1 }
    }

    /// Two matrices of sums as left operands whose lanes are the columns, and the second also as one whose lanes are its
    /// rows.
    ///
    /// # Safety
    ///
    /// As [`along`](Self::along), for both; the first has room for an even number of rows.
    pub(super) unsafe fn across(&self, [x, y]: [*mut T::Sum; 2], rows: usize, columns: usize) -> [Operand<T::Sum>; 3] {
        let (pitch, rows_of_y) = (PITCH as isize, Operand { start: y.cast_const(), lane: PITCH as isize, step: 1 });
        let columns_of = |start: *mut T::Sum, step| Operand { start: start.cast_const(), lane: 1, step };
        match self.pairs {
            None => [columns_of(x, pitch), columns_of(y, pitch), rows_of_y],
            Some(pairs) => {
                // SAFETY: the caller's promise; rows have room for whole blocks of 32.
                unsafe { (pairs.across)(x, y, rows, columns, PITCH) };
                [columns_of(x, 2 * pitch), columns_of(x.wrapping_add(PITCH), 2 * pitch), rows_of_y]
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
        (c, pitch): (*mut T::Sum, usize),
        add: bool,
        soon: &Soon,
    ) {
        if k == 0 {
            // SAFETY: the caller's promise.
            return unsafe { no_steps(m, n, c, pitch, add) };
        }
        let (k, depth) = (self.steps(k), self.steps(depth));
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
        // Columns whose panels follow each other: all, or those of a panel that goes on behind its first steps.
        let width = if depth == k { n.max(1) } else { self.width() };
        for col in (0..n).step_by(width) {
            let cols = width.min(n - col);
            let b = Side::Packed { start: b.wrapping_add(col * depth), lanes: cols };
            let (c, then) = target(c.wrapping_add(col), pitch, add);
            let visits = Visits { near: true, terms: TERMS };
            let product = Product { m, n: cols, k, a: nothing, b: nothing, c, then };
            // SAFETY: the caller's promise; no operand is packed here, so that no scratch is needed.
            unsafe { tiles(kernels, &product, a, b, &visits, soon, ptr::null_mut()) };
        }
    }
}

/// Rows of C, and a start from what they hold where sums are added to it.
fn target<S: Sum>(c: *mut S, pitch: usize, add: bool) -> (Target<S>, Epilogue<S>) {
    let c = Target { start: c, row: pitch as isize, col: 1 };
    (c, Epilogue::from(add.then(|| c.as_operand())))
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
