//! The backward's step between products: weights from saved log-sum-exps, and gradients of scores.

use super::{
    modifier::Modifier,
    problem::{KEYS, PITCH},
    scores::{Scores, gated},
    summed::{Place, Summed},
    weights::Weigher,
};
use crate::{
    isa::{Kernel, Machine},
    math::Real,
    matmul::element::{Element, Sum},
    rows::{LANES, blocks, put, sum, take},
};

/// Scores and `dout vᵀ` become what the products of the backward need.
///
/// ```text
/// p  = exp(s − lse)      0 where hidden, and in a row that saw nothing
/// ds = p · (dropout(dp) − delta) · scale        delta = Σ dout · out − dlse of the row
/// p  = dropout(p)
/// ```
pub(super) struct Slopes<'a, T: Element, A> {
    pub(super) block: Scores<'a, T, A>,
    /// `dp`, [`PITCH`] elements from row to row; becomes `ds`.
    pub(super) slopes: *mut A,
    /// Of the block's rows.
    pub(super) lse: *const A,
    pub(super) delta: *const A,
    /// Gradients of biases and of values per head, to which each row is added.
    pub(super) sums: Sums<'a, T, A>,
}

/// A task's parts of [`Summed`] gradients, one behind the other.
pub(super) struct Sums<'a, T: Element, A> {
    pub(super) all: &'a [Summed<T>],
    pub(super) place: &'a Place,
    pub(super) parts: *mut A,
}

impl<T: Element<Sum = A>, A: Sum> Kernel for Slopes<'_, T, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Slopes { block, slopes, lse, delta, sums } = self;
        let (columns, scale) = (block.keys.len(), A::from_f64(block.problem.scale));
        // The scale belongs to the products: it comes last.
        let direct = block.problem.modifier.is_none() && sums.all.is_empty();
        let factor = if direct { scale } else { A::ONE };
        for i in 0..block.queries.len() {
            let (p, ds) = (block.scores.wrapping_add(i * PITCH), slopes.wrapping_add(i * PITCH));
            // SAFETY: both rows have `columns` elements, and each row has its statistics.
            unsafe {
                let (lse, delta) = (*lse.wrapping_add(i), *delta.wrapping_add(i));
                if !block.complete::<M>(i) || lse == A::NEG_INFINITY {
                    p.write_bytes(0, columns);
                    ds.write_bytes(0, columns);
                    continue;
                }
                let weigher = Weigher::new(block.problem.nats(), lse);
                weigher.approach::<M>(p, columns);
                let gates = block.gates(i);
                let gates = gates.as_ref().map(|gates| gates.as_chunks::<LANES>().0);
                blocks!(columns, |at, len| {
                    let mut weights = take(p.add(at).cast_const(), len, A::NEG_INFINITY);
                    let mut slope = take(ds.add(at).cast_const(), len, A::ZERO);
                    if let Some(gates) = gates {
                        slope = gated(slope, &gates[at / LANES]);
                    }
                    for l in 0..LANES {
                        weights[l] = weigher.weight::<M>(weights[l]);
                        // A key of weight 0 has no gradient, whatever the others have.
                        let ds = weights[l] * (slope[l] - delta) * factor;
                        slope[l] = if weights[l] == A::ZERO { A::ZERO } else { ds };
                    }
                    if let Some(gates) = gates {
                        weights = gated(weights, &gates[at / LANES]);
                    }
                    put(weights, p.add(at), len);
                    put(slope, ds.add(at), len);
                });
                if !direct {
                    let ds = &mut *ds.cast::<[A; KEYS]>();
                    sums.add::<M>(&block, i, ds);
                    if let Some([_, derivative]) = &block.problem.modifier {
                        block.times::<M>(derivative, i, ds);
                    }
                    ds.iter_mut().for_each(|x| *x = *x * scale);
                }
            }
        }
    }
}

impl<T: Element<Sum = A>, A: Sum> Scores<'_, T, A> {
    /// Multiplies a row by a derivative of the modifier; 0 stays 0, whatever the derivative.
    ///
    /// # Safety
    ///
    /// Row `i` has been completed last.
    #[inline(always)]
    unsafe fn times<M: Machine>(&self, derivative: &Modifier<A>, i: usize, row: &mut [A; KEYS]) {
        let stack = self.rows.wrapping_add(KEYS);
        // SAFETY: the products of the row lie before the stack.
        unsafe {
            derivative.evaluate::<T, M>(self.problem, self.row(i), self.rows.cast_const(), stack);
            let factors = &*stack.cast_const().cast::<[A; KEYS]>();
            row.iter_mut().zip(factors).for_each(|(x, y)| *x = if *x == A::ZERO { A::ZERO } else { *x * *y });
        }
    }
}

impl<T: Element<Sum = A>, A: Sum> Sums<'_, T, A> {
    /// Adds the slopes of row `i`.
    ///
    /// # Safety
    ///
    /// As above; the parts are the task's.
    #[inline(always)]
    unsafe fn add<M: Machine>(&self, block: &Scores<T, A>, i: usize, slopes: &[A; KEYS]) {
        let (row, mut part) = (block.row(i), self.parts);
        for summed in self.all {
            if summed.matters {
                let mut values = *slopes;
                // SAFETY: the caller's promise.
                unsafe {
                    if let Some(derivative) = &summed.derivative {
                        block.times::<M>(derivative, i, &mut values);
                    }
                    let in_group = row.h - self.place.head;
                    summed.add(self.place, part, in_group, row.t, row.key, &values[..row.columns]);
                }
            }
            part = part.wrapping_add(summed.part_len(self.place));
        }
    }
}

/// `Σ x · y` of rows, minus what is taken off each.
pub(super) struct Deltas<A> {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) x: *const A,
    pub(super) y: *const A,
    /// In: what to take off. Out: the result.
    pub(super) delta: *mut A,
}

impl<A: Real> Kernel for Deltas<A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        for i in 0..self.rows {
            // In f64: it is taken from numbers that differ little from it where one key has nearly all the weight.
            let mut sums = [0.0f64; LANES];
            blocks!(self.width, |at, len| {
                // SAFETY: both rows have `width` elements.
                let (x, y) = unsafe {
                    let place = i * self.width + at;
                    (take(self.x.add(place), len, A::ZERO), take(self.y.add(place), len, A::ZERO))
                };
                for l in 0..LANES {
                    sums[l] = Real::mul_add::<M>(x[l].to_f64(), y[l].to_f64(), sums[l]);
                }
            });
            // SAFETY: there is one for each row.
            unsafe {
                let delta = self.delta.wrapping_add(i);
                *delta = A::from_f64(sum(sums) - (*delta).to_f64());
            }
        }
    }
}
