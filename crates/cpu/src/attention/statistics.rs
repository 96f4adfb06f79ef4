//! Statistics of each row of weights, beside the output and without a second pass.
//!
//! ```text
//! e_s = exp(x_s − m)     l = Σ e     E = Σ e · (x − m)     D = Σ e · |distance|          of the keys so far
//! m' > m                 E = exp(m − m') · (E + (m − m') · l)                    D = exp(m − m') · D
//! at the end             entropy = ln l − E / l     mean distance = D / l     greatest weight = 1 / l
//! ```
//!
//! Weights and their sum are those of the plain forward, operation by operation.

use crate::{
    isa::Machine,
    math::{Real, exp_below_zero, log},
    rows::{LANES, blocks, put, sum, take},
};
use attentia_backend::Statistic;

/// What is kept of each row of a block of queries; it becomes the statistics at the end.
#[derive(Clone, Copy)]
pub(super) struct Rows<A> {
    start: *mut A,
    rows: usize,
}

impl<A: Real> Rows<A> {
    /// Elements that each row takes.
    pub(super) const EACH: usize = 4;

    /// In memory for [`EACH`](Self::EACH) numbers of each row.
    pub(super) fn new(start: *mut A, rows: usize) -> Rows<A> {
        Rows { start, rows }
    }

    /// All rows of a statistic.
    pub(super) fn of(&self, statistic: Statistic) -> *mut A {
        let place = match statistic {
            Statistic::Entropy => 0,
            Statistic::MeanDistance => 1,
            Statistic::ArgMax => 2,
            Statistic::MaxWeight => 3,
        };
        self.start.wrapping_add(place * self.rows)
    }

    #[inline(always)]
    fn row(&self, i: usize) -> [*mut A; 4] {
        [Statistic::Entropy, Statistic::MeanDistance, Statistic::ArgMax, Statistic::MaxWeight]
            .map(|statistic| self.of(statistic).wrapping_add(i))
    }

    /// Takes in a block of scores, of which `greatest` is the first greatest, and writes their exponentials over them.
    /// Returns the sum of these. `m` and `l` are as before the block, `base` is the maximum with it.
    ///
    /// # Safety
    ///
    /// The memory is ours, and `i` one of the rows; so for all below. `scores` has `columns` elements.
    #[inline(always)]
    pub(super) unsafe fn add<M: Machine>(
        &self,
        i: usize,
        scores: *mut A,
        columns: usize,
        [m, l, base]: [A; 3],
        greatest: A,
        first_key: usize,
        position: isize,
    ) -> A {
        // SAFETY: the caller's promise.
        let [energy, distance, argmax, _] = unsafe { self.row(i).map(|x| &mut *x) };
        if greatest > m {
            // SAFETY: the caller's promise.
            *argmax = A::from_f64((first_key + unsafe { first_of(scores, columns, greatest) }) as f64);
            if l > A::ZERO {
                let shrink = exp_below_zero::<M, A>(m - base);
                *energy = shrink * (*energy + bounded(m - base) * l);
                *distance = *distance * shrink;
            }
        }
        let ([mut sums, mut energies, mut distances], first) = ([[A::ZERO; LANES]; 3], first_key as isize - position);
        blocks!(columns, |at, len| {
            // SAFETY: the caller's promise.
            let mut block = unsafe { take(scores.add(at).cast_const(), len, A::NEG_INFINITY) };
            let start = A::from_f64((first + at as isize) as f64);
            for l in 0..LANES {
                let below = block[l] - base;
                block[l] = exp_below_zero::<M, A>(below);
                sums[l] += block[l];
                energies[l] = A::mul_add::<M>(block[l], bounded(below), energies[l]);
                distances[l] = A::mul_add::<M>(block[l], Real::abs(start + A::from_f64(l as f64)), distances[l]);
            }
            // SAFETY: the caller's promise.
            unsafe { put(block, scores.add(at), len) };
        });
        *energy += sum(energies);
        *distance += sum(distances);
        sum(sums)
    }

    /// Adds what was kept of the keys that follow. Maxima and totals are those before, of both; `factors` are what the new
    /// maximum, `base`, makes of their exponentials.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn merge(&self, later: &Rows<A>, i: usize, m: [A; 2], l: [A; 2], factors: [A; 2], base: A) {
        // SAFETY: the caller's promise.
        let [[energy, distance, argmax, _], [later_energy, later_distance, later_argmax, _]] =
            unsafe { [self, later].map(|rows| rows.row(i).map(|x| &mut *x)) };
        let moved = |n: usize, energy: A| factors[n] * (energy + bounded(m[n] - base) * l[n]);
        *energy = moved(0, *energy) + moved(1, *later_energy);
        *distance = *distance * factors[0] + *later_distance * factors[1];
        *argmax = if m[1] > m[0] { *later_argmax } else { *argmax };
    }

    /// Makes statistics of what was kept of a row; 0 of one without weights.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn finish<M: Machine>(&self, i: usize, l: A) {
        // SAFETY: the caller's promise.
        let [entropy, distance, _, greatest] = unsafe { self.row(i).map(|x| &mut *x) };
        if l == A::ZERO {
            return; // everything is 0 as it was
        }
        *entropy = log::<M, A>(l) - *entropy / l;
        *distance = *distance / l;
        *greatest = A::ONE / l;
    }
}

impl<A: Real> Rows<A> {
    /// What becomes of finished statistics when all weights of a row are `share` times as large. That is sums of weights
    /// but for the entropy: `−Σ w p ln(w p) = w · entropy − w ln w`.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    pub(super) unsafe fn shrink<M: Machine>(&self, i: usize, share: A) {
        // SAFETY: the caller's promise.
        let [entropy, distance, _, greatest] = unsafe { self.row(i).map(|x| &mut *x) };
        // 0 · ln 0 is 0 in the limit.
        let spread = if share == A::ZERO { A::ZERO } else { share * log::<M, A>(share) };
        *entropy = *entropy * share - spread;
        *distance = *distance * share;
        *greatest = *greatest * share;
    }
}

/// A distance below the maximum, as far as it matters: its exponential is 0 long before, and 0 · −∞ shall be 0.
#[inline(always)]
fn bounded<A: Real>(below: A) -> A {
    let lowest = A::from_f64(-1e4);
    if below < lowest { lowest } else { below }
}

/// Place of the first of some scores that equals their greatest.
///
/// # Safety
///
/// `scores` has `columns` elements.
#[inline(always)]
unsafe fn first_of<A: Real>(scores: *const A, columns: usize, greatest: A) -> usize {
    // Places as numbers of the scores' type: small, and so exact.
    let mut places = [A::INFINITY; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(scores.add(at), len, A::NEG_INFINITY) };
        let start = A::from_f64(at as f64);
        for l in 0..LANES {
            let place = if block[l] < greatest { A::INFINITY } else { start + A::from_f64(l as f64) };
            places[l] = if place < places[l] { place } else { places[l] };
        }
    });
    let first = places.into_iter().fold(A::INFINITY, |a, b| if b < a { b } else { a });
    first.to_f64() as usize
}
