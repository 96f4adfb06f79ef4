//! Gradients that are summed over what an operand repeats: those of biases, and of values per head.
//!
//! A task adds to a part of its own: `[heads of the group, queries, keys of the range]`, where one stands for all that the
//! operand repeats. Parts are added up in the order of the tasks, a wave of them at a time.

use super::{
    modifier::Modifier,
    problem::{Heads, Problem},
};
use crate::{
    math::Real,
    matmul::element::{Element, Sum},
};
use attentia_backend::{Result, ScoreExpr, ViewMut};
use std::ops::Range;

/// Where a task's part lies among the scores.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) b: usize,
    /// The first head of the group, and how many there are.
    pub(super) head: usize,
    pub(super) heads: usize,
    pub(super) keys: Range<usize>,
}

/// A gradient.
pub(super) struct Summed<T: Element> {
    /// Along batch, heads, queries and keys: as many as the scores have, or one.
    extents: [usize; 4],
    /// What a score's slope is multiplied by; nothing for a bias that is added.
    pub(super) derivative: Option<Modifier<T::Sum>>,
    to: Heads<*mut T>,
}

impl<T: Element<Sum = A>, A: Real + Sum> Summed<T> {
    /// Of a bias, in a shape that broadcasts to the scores'.
    pub(super) fn of_bias(
        problem: &Problem<T>,
        modifier: Option<&ScoreExpr>,
        i: usize,
        scalars: &[f64],
        to: ViewMut,
    ) -> Result<Summed<T>> {
        let leaf = ScoreExpr::Bias(i as u8);
        let named = modifier.filter(|_| !problem.added.contains(&i));
        let derivative = named.map(|modifier| Modifier::new(&modifier.derivative(&leaf), scalars));
        let (to, extents) = Heads::broadcast(to, "dbias", problem.scores())?;
        Ok(Summed { extents, derivative, to })
    }

    /// Of values per head.
    pub(super) fn of_values(
        problem: &Problem<T>,
        modifier: Option<&ScoreExpr>,
        i: usize,
        scalars: &[f64],
        to: ViewMut,
    ) -> Result<Summed<T>> {
        let leaf = ScoreExpr::HeadScalar(i as u8);
        let derivative = modifier.map_or(ScoreExpr::constant(0.0), |modifier| modifier.derivative(&leaf));
        let to = Heads::per_head(to, "dhead_scalar", problem.heads)?;
        Ok(Summed { extents: [1, problem.heads, 1, 1], derivative: Some(Modifier::new(&derivative, scalars)), to })
    }

    /// Elements of the whole.
    pub(super) fn len(&self) -> usize {
        self.extents.iter().product()
    }

    /// Extents of a task's part.
    fn part(&self, place: &Place) -> [usize; 3] {
        let [_, heads, queries, keys] = self.extents;
        [if heads > 1 { place.heads } else { 1 }, queries, if keys > 1 { place.keys.len() } else { 1 }]
    }

    /// Elements of a task's part.
    pub(super) fn part_len(&self, place: &Place) -> usize {
        self.part(place).iter().product()
    }

    /// Adds a row of a block to a task's part.
    ///
    /// # Safety
    ///
    /// The part is the task's, the row one of its place's: head `in_group`, query t, `values.len()` keys from `key` on.
    #[inline(always)]
    pub(super) unsafe fn add(&self, place: &Place, part: *mut A, in_group: usize, t: usize, key: usize, values: &[A]) {
        let [heads, queries, keys] = self.part(place);
        let row = if heads > 1 { in_group * queries } else { 0 } + if queries > 1 { t } else { 0 };
        let start = part.wrapping_add(row * keys);
        if keys > 1 {
            let start = start.wrapping_add(key - place.keys.start);
            for (j, x) in values.iter().enumerate() {
                // SAFETY: keys of the place.
                unsafe { *start.wrapping_add(j) += *x };
            }
        } else {
            // In f64: a row of a bias that repeats along the keys is the sum of many.
            let sum: f64 = values.iter().map(|x| x.to_f64()).sum();
            // SAFETY: a row of the part.
            unsafe { *start += A::from_f64(sum) };
        }
    }

    /// Adds the parts of a wave, by their places and where they begin in the memory, to some rows of the whole; a row is a
    /// batch, a head and a query of the extents.
    ///
    /// # Safety
    ///
    /// Parts are complete, and nobody else touches these rows.
    pub(super) unsafe fn gather(&self, rows: Range<usize>, parts: &[(Place, usize)], memory: *const A, whole: *mut A) {
        let [batch, heads, queries, keys] = self.extents;
        for row in rows {
            let (b, h, t) = (row / queries / heads, row / queries % heads, row % queries);
            let to = whole.wrapping_add(row * keys);
            for (place, start) in parts {
                let here =
                    (batch == 1 || place.b == b) && (heads == 1 || (place.head..place.head + place.heads).contains(&h));
                if !here {
                    continue;
                }
                let [_, queries, columns] = self.part(place);
                let in_part = if heads > 1 { h - place.head } else { 0 };
                let from = memory.wrapping_add(start + (in_part * queries + t) * columns);
                let to = to.wrapping_add(if keys > 1 { place.keys.start } else { 0 });
                for j in 0..columns {
                    // SAFETY: by contract.
                    unsafe { *to.wrapping_add(j) += *from.wrapping_add(j) };
                }
            }
        }
    }

    /// Rows of the whole.
    pub(super) fn rows(&self) -> usize {
        self.extents[..3].iter().product()
    }

    /// Writes the whole to its destination.
    ///
    /// # Safety
    ///
    /// The whole is complete; nobody else touches the destination.
    pub(super) unsafe fn finish(&self, whole: *const A) {
        let [batch, heads, queries, keys] = self.extents;
        for b in 0..batch {
            for h in 0..heads {
                let from = whole.wrapping_add((b * heads + h) * queries * keys);
                // SAFETY: by contract.
                unsafe { crate::matmul::block::finish(from, keys, queries, keys, self.to.target(b, h, 0), false) };
            }
        }
    }
}
