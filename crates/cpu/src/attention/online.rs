//! The online softmax of a block of queries: weights, and what they are summed to.

use super::{
    problem::PITCH,
    scores::{Scores, gated},
    statistics::{Rows, Statistics},
    weights::weights,
};
use crate::{
    isa::{Kernel, Machine},
    math::{Real, exp2_below_zero, log},
    matmul::element::{Element, Sum},
    rows::{LANES, blocks, put, sum, take},
    softmax::{row_maximum, scale_row},
};

/// Scores become weights, up to a factor that is known at the end: the online softmax.
///
/// ```text
/// m' = max(m, max s)     p = exp(s − m')     l = l · exp(m − m') + Σ p     O = O · exp(m − m')
/// ```
pub(super) struct Online<'a, T: Element, A> {
    pub(super) block: Scores<'a, T, A>,
    pub(super) state: State<'a, A>,
}

/// What the online softmax has of some rows so far.
#[derive(Clone, Copy)]
pub(super) struct State<'a, A> {
    pub(super) rows: usize,
    /// Elements of a row of output.
    pub(super) width: usize,
    /// `Σ e · v`, row after row.
    pub(super) output: *mut A,
    /// Sums of the exponentials of each row, in lanes until the end.
    totals: *mut [A; LANES],
    /// Greatest score of each row; at the end, its log-sum-exp.
    pub(super) maxima: *mut A,
    pub(super) statistics: Option<Rows<'a, A>>,
    /// Elements of all.
    len: usize,
}

impl<'a, A: Real> State<'a, A> {
    /// Elements that the state of some rows takes.
    pub(super) fn len(rows: usize, width: usize, statistics: &Statistics<A>) -> usize {
        rows * (LANES + width + 1) + statistics.len(rows)
    }

    /// In memory for [`len`](Self::len) elements.
    pub(super) fn new(start: *mut A, rows: usize, width: usize, statistics: &'a Statistics<A>) -> State<'a, A> {
        let output = start.wrapping_add(rows * LANES);
        let maxima = output.wrapping_add(rows * width);
        let len = State::len(rows, width, statistics);
        let statistics = (!statistics.is_empty()).then(|| Rows::new(statistics, maxima.wrapping_add(rows), rows));
        State { rows, width, output, totals: start.cast(), maxima, statistics, len }
    }

    /// Before the first key.
    ///
    /// # Safety
    ///
    /// The memory is ours.
    pub(super) unsafe fn clear(&self) {
        // SAFETY: the caller's promise; all bits zero are the number 0.
        unsafe {
            self.totals.cast::<A>().write_bytes(0, self.len);
            (0..self.rows).for_each(|i| *self.maxima.wrapping_add(i) = A::NEG_INFINITY);
        }
    }
}

impl<T: Element<Sum = A>, A: Sum> Kernel for Online<'_, T, A> {
    type Output = ();
    /// Three loops over the rows, so that none waits for what another computes of the same row: maxima, what a new one makes
    /// of sums so far, weights.
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Online { block, state } = &self;
        let (rows, columns, unit) = (block.queries.len(), block.keys.len(), block.problem.bits());
        let row = |i: usize| block.scores.wrapping_add(i * PITCH);
        // SAFETY: rows of scores have `columns` elements; the state is this block's.
        unsafe {
            let (mut greatest, complete) = ([A::NEG_INFINITY; ROWS], block.are_complete());
            for (i, greatest) in greatest.iter_mut().enumerate().take(rows) {
                if complete || block.complete::<M>(i) {
                    *greatest = row_maximum(row(i).cast_const(), columns);
                    if let Some(statistics) = &state.statistics
                        && *greatest > *state.maxima.wrapping_add(i)
                    {
                        statistics.find(i, row(i).cast_const(), block.row(i), *greatest);
                    }
                }
            }
            self.rise::<M>(&greatest, unit);
            for i in 0..rows {
                let (base, total) = (based(*state.maxima.wrapping_add(i)), &mut *state.totals.wrapping_add(i));
                match &state.statistics {
                    None => weights::<M, A>(row(i), base, unit, columns, total),
                    Some(statistics) => {
                        let position = block.problem.position(block.queries.start + i);
                        statistics.add::<M>(i, row(i), block.row(i), base, position, total);
                    }
                }
                if let Some(gates) = block.gates(i) {
                    let (gates, _) = gates.as_chunks::<LANES>();
                    blocks!(columns, |at, len| {
                        let weights = take(row(i).add(at).cast_const(), len, A::ZERO);
                        put(gated(weights, &gates[at / LANES]), row(i).add(at), len);
                    });
                }
            }
        }
    }
}

/// What exponentials take off scores: the maximum, or 0 where nothing was seen, since −∞ − −∞ would be NaN.
#[inline(always)]
fn based<A: Real>(m: A) -> A {
    if m == A::NEG_INFINITY { A::ZERO } else { m }
}

impl<T: Element<Sum = A>, A: Sum> Online<'_, T, A> {
    /// Takes in the greatest scores of each row: sums so far become those of exponentials below the new maxima.
    ///
    /// # Safety
    ///
    /// Rows of scores are complete.
    #[inline(always)]
    unsafe fn rise<M: Machine>(&self, greatest: &[A; ROWS], unit: A) {
        let Online { state, .. } = self;
        let mut shrink = [A::ONE; ROWS];
        let mut before = [A::NEG_INFINITY; ROWS];
        // SAFETY: each row has a maximum, a total, and `width` elements of output.
        unsafe {
            before[..state.rows].copy_from_slice(std::slice::from_raw_parts(state.maxima, state.rows));
            let mut rises = false;
            for i in 0..ROWS {
                let higher = greatest[i] > before[i];
                let factor = exp2_below_zero::<M, A>(before[i] - greatest[i], unit);
                shrink[i] = if higher { factor } else { A::ONE };
                rises |= higher;
            }
            if !rises {
                return;
            }
            for i in 0..state.rows {
                if greatest[i] > before[i] {
                    let (m, total) = (state.maxima.wrapping_add(i), &mut *state.totals.wrapping_add(i));
                    if let Some(statistics) = &state.statistics {
                        statistics.rise(i, [*m, sum(*total), greatest[i]], shrink[i]);
                    }
                    total.iter_mut().for_each(|l| *l = *l * shrink[i]);
                    scale_row(state.output.wrapping_add(i * state.width), shrink[i], state.width);
                    *m = greatest[i];
                }
            }
        }
    }
}

/// Most rows of a block.
pub(super) const ROWS: usize = 32;

/// Sums become outputs: divided by the totals, with the log-sum-exp of each row in the place of its maximum.
pub(super) struct Finish<'a, A> {
    pub(super) state: State<'a, A>,
    /// What a score is in nats.
    pub(super) nats: f64,
}

impl<A: Real> Kernel for Finish<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Finish { state: State { rows, width, output, maxima, totals, statistics, .. }, nats } = self;
        // SAFETY: each row has a maximum, a total, and `width` elements of output.
        unsafe {
            let (mut l, mut logs) = ([A::ONE; ROWS], [A::ZERO; ROWS]);
            l.iter_mut().enumerate().take(rows).for_each(|(i, l)| *l = sum(*totals.wrapping_add(i)));
            for i in 0..ROWS {
                logs[i] = log::<M, A>(l[i]);
            }
            if let Some(statistics) = &statistics {
                statistics.finish::<M>(&l, &logs);
            }
            for i in 0..rows {
                let m = maxima.wrapping_add(i);
                if l[i] == A::ZERO {
                    *m = A::NEG_INFINITY; // nothing was visible; its output is 0 as it should be
                } else {
                    scale_row(output.wrapping_add(i * width), A::ONE / l[i], width);
                    *m = A::from_f64((*m).to_f64() * nats + logs[i].to_f64());
                }
            }
        }
    }
}

/// Adds the state of the keys that follow to a state.
pub(super) struct Merge<'a, A> {
    pub(super) into: State<'a, A>,
    pub(super) from: State<'a, A>,
    /// What a score is in bits.
    pub(super) unit: A,
}

impl<A: Real> Kernel for Merge<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Merge { into, from, unit } = self;
        for i in 0..into.rows {
            // SAFETY: each row has a maximum, a total, and `width` elements of output.
            unsafe {
                let (m, l) = (into.maxima.wrapping_add(i), &mut *into.totals.wrapping_add(i));
                let (later_m, later_l) = (*from.maxima.wrapping_add(i), *from.totals.wrapping_add(i));
                let next = if later_m > *m { later_m } else { *m };
                let base = based(next);
                let factors = [*m, later_m].map(|m| exp2_below_zero::<M, A>(m - base, unit));
                if let (Some(statistics), Some(later)) = (&into.statistics, &from.statistics) {
                    statistics.merge(later, i, [*m, later_m], [sum(*l), sum(later_l)], factors, base);
                }
                *m = next;
                l.iter_mut().zip(later_l).for_each(|(l, later)| *l = *l * factors[0] + later * factors[1]);
                let (row, later) = (into.output.wrapping_add(i * into.width), from.output.wrapping_add(i * from.width));
                for j in 0..into.width {
                    let x = row.wrapping_add(j);
                    *x = *x * factors[0] + *later.wrapping_add(j) * factors[1];
                }
            }
        }
    }
}
