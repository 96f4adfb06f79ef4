//! What happens to a block of scores between two products: hiding, exponentials, dropout.

use super::{
    modifier::{Modifier, Row},
    problem::{KEYS, PITCH, Problem},
    statistics::{Rows, Statistics},
    summed::{Place, Summed},
};
use crate::{
    isa::{Kernel, Machine},
    math::{Real, exp2_below_zero, log},
    matmul::element::{Element, Sum},
    random::{WORDS, words},
    rows::{LANES, blocks, put, sum, take},
    softmax::{row_maximum, scale_row},
};
use std::{ops::Range, ptr};

/// A block of scores: products `⟨q, k⟩` at first, and in plain problems to the end, where the exponential takes the scale in.
pub(super) struct Scores<'a, T: Element, A> {
    pub(super) problem: &'a Problem<T>,
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
    /// [`PITCH`] elements from row to row.
    pub(super) scores: *mut A,
    /// Rows for the modifier: the products of the row at hand, and its stack. Nothing without one.
    pub(super) rows: *mut A,
}

impl<T: Element<Sum = A>, A: Real + Sum> Scores<'_, T, A> {
    pub(super) fn row(&self, i: usize) -> Row {
        Row { b: self.b, h: self.h, t: self.queries.start + i, key: self.keys.start, columns: self.keys.len() }
    }

    /// Whether products are scores as they are: nothing acts on them, and every row sees every key.
    fn are_complete(&self) -> bool {
        self.problem.plain && self.problem.all_visible(self.b, self.queries.clone(), self.keys.clone())
    }

    /// Products of row `i` become scores, in the problem's unit. Returns whether it sees any of the block's keys.
    ///
    /// # Safety
    ///
    /// The block is valid, and nobody else touches it; so for all below.
    #[inline(always)]
    pub(super) unsafe fn complete<M: Machine>(&self, i: usize) -> bool {
        let row = self.scores.wrapping_add(i * PITCH);
        // SAFETY: rows of scores and of the modifier have KEYS elements.
        unsafe {
            if !self.problem.plain {
                scale_row(row, A::from_f64(self.problem.scale), self.keys.len());
            }
            if let Some([modifier, _]) = &self.problem.modifier {
                ptr::copy_nonoverlapping(row, self.rows, KEYS);
                let stack = self.rows.wrapping_add(KEYS);
                modifier.evaluate::<T, M>(self.problem, self.row(i), self.rows, stack);
                ptr::copy_nonoverlapping(stack, row, KEYS);
            }
            for &bias in &self.problem.added {
                let mut values = [A::ZERO; KEYS];
                self.problem.bias_row(bias, self.row(i), &mut values);
                let row = &mut *row.cast::<[A; KEYS]>();
                row.iter_mut().zip(&values).for_each(|(score, bias)| *score += *bias);
            }
            self.hide(i)
        }
    }

    /// −∞ where row `i` does not see a key. Returns whether it sees any of the block's.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    unsafe fn hide(&self, i: usize) -> bool {
        let (t, columns) = (self.queries.start + i, self.keys.len());
        let row = self.scores.wrapping_add(i * PITCH);
        let visible = self.problem.visible(self.b, t);
        let place = |key: usize| key.clamp(self.keys.start, self.keys.end) - self.keys.start;
        let (start, end) = (place(visible.start), place(visible.end));
        // SAFETY: the row has `columns` elements, and so has the mask's.
        unsafe {
            for j in (0..start).chain(end..columns) {
                *row.wrapping_add(j) = A::NEG_INFINITY;
            }
            if let Some((own, keys)) = self.problem.compared(self.b, t) {
                for (j, &of_key) in (start..end).zip(&keys[self.keys.start + start..]) {
                    if of_key != own {
                        *row.wrapping_add(j) = A::NEG_INFINITY;
                    }
                }
            }
            if let Some((mask, stride)) = self.problem.mask_row(self.b, self.h, t) {
                for j in start..end {
                    if *mask.wrapping_offset((self.keys.start + j) as isize * stride) == 0 {
                        *row.wrapping_add(j) = A::NEG_INFINITY;
                    }
                }
            }
        }
        start < end
    }

    /// By what dropout multiplies the weights of row `i`: 0, or what keeps their mean.
    #[inline(always)]
    pub(super) fn gates(&self, i: usize) -> Option<[A; KEYS]> {
        let gate = self.problem.gate?;
        let number = self.problem.row_number(self.b, self.h, self.queries.start + i);
        let factor = A::from_f64(gate.factor);
        let mut gates = [A::ZERO; KEYS];
        for (part, gates) in gates.chunks_exact_mut(WORDS).enumerate() {
            if part * WORDS >= self.keys.len() {
                break;
            }
            let words = words(gate.key, number, ((self.keys.start + part * WORDS) / 4) as u64);
            for (gate_of, word) in gates.iter_mut().zip(words) {
                *gate_of = if word >= gate.threshold { factor } else { A::ZERO };
            }
        }
        Some(gates)
    }
}

/// `2^((x − m) · unit)` of a row in its place, added to the lanes of a total.
///
/// # Safety
///
/// The row has `columns` elements, none above m.
#[inline(always)]
pub(super) unsafe fn weights<M: Machine, A: Real>(row: *mut A, m: A, unit: A, columns: usize, total: &mut [A; LANES]) {
    let mut sums = *total;
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let mut block = unsafe { take(row.add(at).cast_const(), len, A::NEG_INFINITY) };
        for l in 0..LANES {
            block[l] = exp2_below_zero::<M, A>(block[l] - m, unit);
            sums[l] += block[l];
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, row.add(at), len) };
    });
    *total = sums;
}

/// What dropout leaves of a block: 0 of a dropped element, whatever it was.
#[inline(always)]
pub(super) fn gated<A: Real>(mut block: [A; LANES], gates: &[A; LANES]) -> [A; LANES] {
    for l in 0..LANES {
        block[l] = if gates[l] == A::ZERO { A::ZERO } else { block[l] * gates[l] };
    }
    block
}

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

impl<T: Element<Sum = A>, A: Real + Sum> Kernel for Online<'_, T, A> {
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

impl<T: Element<Sum = A>, A: Real + Sum> Online<'_, T, A> {
    /// Takes in the greatest scores of each row: sums so far become those of exponentials below the new maxima.
    ///
    /// # Safety
    ///
    /// Rows of scores are complete.
    #[inline(always)]
    unsafe fn rise<M: Machine>(&self, greatest: &[A; ROWS], unit: A) {
        let Online { block, state } = self;
        let mut shrink = [<A as Real>::ONE; ROWS];
        let mut before = [A::NEG_INFINITY; ROWS];
        // SAFETY: each row has a maximum, a total, and `width` elements of output.
        unsafe {
            before[..state.rows].copy_from_slice(std::slice::from_raw_parts(state.maxima, state.rows));
            let mut rises = false;
            for i in 0..ROWS {
                let higher = greatest[i] > before[i];
                let factor = exp2_below_zero::<M, A>(before[i] - greatest[i], unit);
                shrink[i] = if higher { factor } else { <A as Real>::ONE };
                rises |= higher;
            }
            if !rises {
                return;
            }
            for i in 0..state.rows {
                if greatest[i] > before[i] {
                    let (m, total) = (state.maxima.wrapping_add(i), &mut *state.totals.wrapping_add(i));
                    if let Some(statistics) = &state.statistics {
                        let scores = block.scores.wrapping_add(i * PITCH).cast_const();
                        statistics.rise(i, scores, block.row(i), [*m, sum(*total), greatest[i]], shrink[i]);
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

impl<T: Element<Sum = A>, A: Real + Sum> Kernel for Slopes<'_, T, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Slopes { block, slopes, lse, delta, sums } = self;
        let (columns, scale) = (block.keys.len(), A::from_f64(block.problem.scale));
        let (nats, bits_of_nats) = (A::from_f64(block.problem.nats()), A::from_f64(std::f64::consts::LOG2_E));
        // The scale belongs to the products: it comes last.
        let direct = block.problem.modifier.is_none() && sums.all.is_empty();
        let factor = if direct { scale } else { <A as Real>::ONE };
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
                let gates = block.gates(i);
                let gates = gates.as_ref().map(|gates| gates.as_chunks::<LANES>().0);
                blocks!(columns, |at, len| {
                    let mut weights = take(p.add(at).cast_const(), len, A::NEG_INFINITY);
                    let mut slope = take(ds.add(at).cast_const(), len, A::ZERO);
                    if let Some(gates) = gates {
                        slope = gated(slope, &gates[at / LANES]);
                    }
                    for l in 0..LANES {
                        // Hidden even from a row that is NaN.
                        let hidden = weights[l] == A::NEG_INFINITY;
                        // No score is above the lse, but for roundings.
                        let below = A::mul_add::<M>(weights[l], nats, -lse);
                        let below = if below > A::ZERO { A::ZERO } else { below };
                        weights[l] = if hidden { A::ZERO } else { exp2_below_zero::<M, A>(below, bits_of_nats) };
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

impl<T: Element<Sum = A>, A: Real + Sum> Scores<'_, T, A> {
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

impl<T: Element<Sum = A>, A: Real + Sum> Sums<'_, T, A> {
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

const _: () = assert!(KEYS.is_multiple_of(WORDS));
