//! The greatest scores of each row, in their destination.

use super::map::{At, place};
use crate::{
    attention::problem::Heads,
    isa::{Kernel, Machine},
    math::{Real, exp2_below_zero},
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
    /// What a score is in nats.
    pub(super) nats: A,
    pub(super) lse: A,
}

impl<A: Real> Kernel for Weigh<A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        for i in 0..self.list.k {
            // SAFETY: the list is the caller's.
            let x = unsafe { &mut *place(self.list.weights, 0, i) };
            *x = weight::<M, A>(*x, self.nats, self.lse);
        }
    }
}

/// `exp(score − lse)`, 0 of a hidden key, even in a row that is NaN. No score is above the lse, but for roundings.
#[inline(always)]
pub(super) fn weight<M: Machine, A: Real>(score: A, nats: A, lse: A) -> A {
    let below = A::mul_add::<M>(score, nats, -lse);
    let bits = A::from_f64(std::f64::consts::LOG2_E);
    let p = exp2_below_zero::<M, A>(if below > A::ZERO { A::ZERO } else { below }, bits);
    if score == A::NEG_INFINITY { A::ZERO } else { p }
}
