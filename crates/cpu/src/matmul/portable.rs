//! Products without kernels of our own: matrixmultiply, on the blocks of the same schedule.
//!
//! It packs and picks its instruction set itself, and takes any strides. 16-bit operands are widened into scratch first;
//! destinations that do not hold sums, and sums that something becomes of, are computed in scratch and rounded once.

use super::{
    block::{Operand, Product},
    element::{Element, Sum},
};
use crate::math::Real;

/// matrixmultiply's signature: `m, k, n, α, A, row and column stride, B, …, β, C, …`.
pub(crate) type Gemm<S> =
    unsafe fn(usize, usize, usize, S, *const S, isize, isize, *const S, isize, isize, S, *mut S, isize, isize);

/// Elements of scratch that [`product`] needs.
pub(crate) fn scratch_len(m: usize, n: usize, k: usize) -> usize {
    m * n + m * k + k * n
}

/// Computes one product.
///
/// # Safety
///
/// As for `block::product`.
pub(crate) unsafe fn product<T: Element, O: Element<Sum = T::Sum>>(x: &Product<T, O>, scratch: *mut T::Sum) {
    let (c_scratch, a_scratch) = (scratch, scratch.wrapping_add(x.m * x.n));
    let b_scratch = a_scratch.wrapping_add(x.m * x.k);
    // SAFETY: scratch is cut into parts that `scratch_len` has counted; the rest is the caller's contract.
    unsafe {
        let a = widened(x.a, x.m, x.k, a_scratch);
        let b = widened(x.b, x.n, x.k, b_scratch);
        // Any strides will do, as long as C holds sums and nothing becomes of them.
        let in_place = O::IS_SUM && x.then.is_none();
        let (c, row, col) = match in_place {
            true => (x.c.start.cast(), x.c.row, x.c.col),
            false => (c_scratch, x.n as isize, 1),
        };
        let one = T::Sum::ONE;
        let (m, n, k) = (x.m, x.n, x.k);
        (T::Sum::PORTABLE)(m, k, n, one, a.start, a.lane, a.step, b.start, b.step, b.lane, T::Sum::ZERO, c, row, col);
        if !in_place {
            x.then.finish(c_scratch, x.n as isize, x.m, x.n, x.c);
        }
    }
}

/// The operand itself when it holds sums, else a widened copy in scratch.
///
/// # Safety
///
/// The operand is valid for the extents and scratch for `lanes · k` elements.
unsafe fn widened<T: Element>(x: Operand<T>, lanes: usize, k: usize, scratch: *mut T::Sum) -> Operand<T::Sum> {
    if T::IS_SUM {
        return Operand { start: x.start.cast(), lane: x.lane, step: x.step };
    }
    for lane in 0..lanes {
        for p in 0..k {
            // SAFETY: by contract.
            unsafe { *scratch.wrapping_add(lane * k + p) = (*x.at(lane, p).start).widen() };
        }
    }
    Operand { start: scratch, lane: k as isize, step: 1 }
}
