//! The greatest scores of each row, in their destination.

use super::map::{At, place};
use crate::{
    attention::{problem::Heads, weights::Weigher},
    isa::{Kernel, Machine},
    math::Real,
    matmul::block::Target,
    rows::{blocks, take},
};

/// The greatest scores of a row so far and their keys, in the destination: −∞ and −1 where there are none yet.
#[derive(Clone, Copy)]
pub(super) struct List<A> {
    pub(super) weights: Target<A>,
    pub(super) keys: Target<i64>,
    k: usize,
}

impl<A: Real> List<A> {
    pub(super) fn new(weights: &Heads<*mut A>, keys: &Heads<*mut i64>, at: &At, t: usize, k: usize) -> List<A> {
        List { weights: weights.target(at.b, at.h, t), keys: keys.target(at.b, at.h, t), k }
    }

    /// Takes in what is greater than the least of the list. Keys come in their order: of equal ones the first stays first.
    ///
    /// # Safety
    ///
    /// The destination is ours; there are so many scores.
    #[inline(always)]
    pub(super) unsafe fn offer(&self, scores: *const A, columns: usize, key: usize) {
        // SAFETY: by contract, here and below.
        let mut least = unsafe { *place(self.weights, 0, self.k - 1) };
        blocks!(columns, |at, len| {
            // SAFETY: as above.
            let block = unsafe { take(scores.add(at), len, A::NEG_INFINITY) };
            let above: u32 = block.iter().map(|&score| u32::from(score > least)).sum();
            if above != 0 {
                for (l, &score) in block.iter().enumerate() {
                    if score > least {
                        // SAFETY: as above.
                        least = unsafe { self.insert(score, (key + at + l) as i64) };
                    }
                }
            }
        });
    }

    /// Puts a score where it belongs, and returns the least of the list.
    ///
    /// # Safety
    ///
    /// The destination is ours.
    unsafe fn insert(&self, score: A, key: i64) -> A {
        // SAFETY: by contract.
        unsafe {
            let mut i = self.k - 1;
            while i > 0 && *place(self.weights, 0, i - 1) < score {
                *place(self.weights, 0, i) = *place(self.weights, 0, i - 1);
                *place(self.keys, 0, i) = *place(self.keys, 0, i - 1);
                i -= 1;
            }
            *place(self.weights, 0, i) = score;
            *place(self.keys, 0, i) = key;
            *place(self.weights, 0, self.k - 1)
        }
    }
}

/// Scores of a list become weights.
pub(super) struct Weigh<A> {
    pub(super) list: List<A>,
    pub(super) weigher: Weigher<A>,
}

impl<A: Real> Kernel for Weigh<A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        for i in 0..self.list.k {
            let x = place(self.list.weights, 0, i);
            // SAFETY: the list is the caller's.
            unsafe {
                self.weigher.approach::<M>(x, 1);
                *x = self.weigher.weight::<M>(*x);
            }
        }
    }
}
