//! What happens to a block of scores between two products: hiding, dropout.

use super::{
    modifier::Row,
    problem::{KEYS, PITCH, Problem},
};
use crate::{
    isa::Machine,
    math::Real,
    matmul::element::{Element, Sum},
    random::{WORDS, words},
    rows::LANES,
    softmax::scale_row,
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

impl<T: Element<Sum = A>, A: Sum> Scores<'_, T, A> {
    pub(super) fn row(&self, i: usize) -> Row {
        Row { b: self.b, h: self.h, t: self.queries.start + i, key: self.keys.start, columns: self.keys.len() }
    }

    /// Whether products are scores as they are: nothing acts on them, and every row sees every key.
    pub(super) fn are_complete(&self) -> bool {
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
                let mask = mask.wrapping_offset((self.keys.start + start) as isize * stride);
                let scores = std::slice::from_raw_parts_mut(row.wrapping_add(start), end - start);
                if stride == 1 {
                    let visible = std::slice::from_raw_parts(mask, scores.len());
                    for (score, &visible) in scores.iter_mut().zip(visible) {
                        *score = if visible == 0 { A::NEG_INFINITY } else { *score };
                    }
                } else {
                    for (j, score) in scores.iter_mut().enumerate() {
                        if *mask.wrapping_offset(j as isize * stride) == 0 {
                            *score = A::NEG_INFINITY;
                        }
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

/// What dropout leaves of a block: 0 of a dropped element, whatever it was.
#[inline(always)]
pub(super) fn gated<A: Real>(mut block: [A; LANES], gates: &[A; LANES]) -> [A; LANES] {
    for l in 0..LANES {
        block[l] = if gates[l] == A::ZERO { A::ZERO } else { block[l] * gates[l] };
    }
    block
}

const _: () = assert!(KEYS.is_multiple_of(WORDS));
