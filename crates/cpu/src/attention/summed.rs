//! Gradients that are summed over what an operand repeats: those of biases, and of values per head.
//!
//! A task adds to a part of its own: `[heads of the group, queries, keys of the range]`, where one stands for all that the
//! operand repeats. Parts are added up in the order of the tasks, a wave of them at a time.

use super::{
    modifier::Modifier,
    problem::{Heads, Problem},
};
use crate::matmul::{
    block::finish,
    element::{Element, Sum},
};
use attentia_backend::{Result, ScoreExpr, ViewMut};
use std::ops::Range;

/// Where a task's part lies among the scores.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) b: usize,
    /// Key head.
    pub(super) group: usize,
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
    /// Whether scores depend on it at all.
    pub(super) matters: bool,
    to: Heads<*mut T>,
}

impl<T: Element<Sum = A>, A: Sum> Summed<T> {
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
        let (to, extents) = Heads::broadcast(to, &format!("dbias {i}"), problem.scores())?;
        Ok(Summed { extents, derivative, matters: true, to })
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
        let derivative = modifier.map(|modifier| Modifier::new(&modifier.derivative(&leaf), scalars));
        let to = Heads::per_head(to, &format!("dhead_scalar {i}"), problem.heads)?;
        Ok(Summed { extents: [1, problem.heads, 1, 1], matters: derivative.is_some(), derivative, to })
    }

    /// Elements of the whole.
    pub(super) fn len(&self) -> usize {
        self.extents.iter().product()
    }

    /// Extents of a task's part.
    fn part(&self, place: &Place) -> [usize; 3] {
        let [_, heads, queries, keys] = self.extents;
        [if heads == 1 { 1 } else { place.heads }, queries, if keys == 1 { 1 } else { place.keys.len() }]
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
        let row = if heads == 1 { 0 } else { in_group * queries } + if queries == 1 { 0 } else { t };
        let start = part.wrapping_add(row * keys);
        if self.extents[3] != 1 {
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
            // Tasks are in the order of batches.
            let of_batch = match batch {
                1 => parts,
                _ => {
                    let [start, end] = [b, b + 1].map(|b| parts.partition_point(|(place, _)| place.b < b));
                    &parts[start..end]
                }
            };
            for (place, start) in of_batch {
                if heads != 1 && !(place.head..place.head + place.heads).contains(&h) {
                    continue;
                }
                let [_, queries, columns] = self.part(place);
                let in_part = if heads == 1 { 0 } else { h - place.head };
                let from = memory.wrapping_add(start + (in_part * queries + t) * columns);
                let to = to.wrapping_add(if keys == 1 { 0 } else { place.keys.start });
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

    /// Matrices of the whole, each of a batch and a head.
    pub(super) fn matrices(&self) -> usize {
        self.extents[0] * self.extents[1]
    }

    /// Writes a matrix of the whole to its place.
    ///
    /// # Safety
    ///
    /// The whole is complete; nobody else touches the matrix at its destination.
    pub(super) unsafe fn finish(&self, matrix: usize, whole: *const A) {
        let [_, heads, queries, keys] = self.extents;
        let (from, to) =
            (whole.wrapping_add(matrix * queries * keys), self.to.target(matrix / heads, matrix % heads, 0));
        // SAFETY: by contract.
        unsafe { finish(from, keys, queries, keys, to) };
    }
}
