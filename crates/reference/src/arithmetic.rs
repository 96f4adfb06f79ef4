//! How exact a calculation is: the one difference between the oracle and the naive composition.
//!
//! | | a primitive's result | a running sum |
//! |---|---|---|
//! | [`Arithmetic::EXACT`] | `f64` | `f64` |
//! | [`Arithmetic::rounding`] | rounded to the operands' dtype | each partial sum rounded to [`Accumulation`] |
//!
//! A formula written once with [`keep`](Arithmetic::keep) around every primitive is therefore both.

use crate::number::round;
use attentia_backend::{Accumulation, DType};

/// The dtypes in which a calculation keeps its intermediate results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arithmetic {
    exact: bool,
    element: DType,
    accumulator: DType,
}

impl Arithmetic {
    /// Nothing is rounded before the end.
    pub(crate) const EXACT: Arithmetic = Arithmetic { exact: true, element: DType::F64, accumulator: DType::F64 };

    /// Every primitive is rounded, as if the operation were composed of calls on operands of `dtype`.
    pub(crate) const fn rounding(dtype: DType) -> Arithmetic {
        Arithmetic { exact: false, element: dtype, accumulator: Accumulation::of(dtype) }
    }

    /// Whether this is the oracle's. In `f64` the naive composition rounds nothing either, but where its formula loses
    /// digits, the oracle takes another one.
    pub(crate) const fn is_exact(self) -> bool {
        self.exact
    }

    /// A primitive's result.
    pub(crate) fn keep(self, x: f64) -> f64 {
        round(self.element, x)
    }

    /// A number in the accumulator.
    pub(crate) fn hold(self, x: f64) -> f64 {
        round(self.accumulator, x)
    }

    /// `total + term`, in the accumulator.
    pub(crate) fn add(self, total: f64, term: f64) -> f64 {
        self.hold(total + term)
    }

    /// `Σ terms` in their order, still in the accumulator.
    pub(crate) fn total(self, terms: impl IntoIterator<Item = f64>) -> f64 {
        terms.into_iter().fold(0.0, |total, term| self.add(total, term))
    }

    /// `Σ terms`, a primitive.
    pub(crate) fn sum(self, terms: impl IntoIterator<Item = f64>) -> f64 {
        self.keep(self.total(terms))
    }

    /// `Σ terms / count`, a primitive; NaN of nothing.
    pub(crate) fn mean(self, terms: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = terms.len() as f64;
        self.keep(self.total(terms) / count)
    }

    /// `⟨a, b⟩`, a primitive. A product of two operands is exact in the accumulator's sum.
    pub(crate) fn dot<'a>(self, a: impl IntoIterator<Item = &'a f64>, b: impl IntoIterator<Item = &'a f64>) -> f64 {
        self.sum(a.into_iter().zip(b).map(|(a, b)| a * b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_sums_are_rounded_or_not() {
        // 2²⁴ + 1 is no f32: the sum stands still.
        let terms = [16_777_216.0, 1.0, 1.0];
        assert_eq!(Arithmetic::EXACT.sum(terms), 16_777_218.0);
        assert_eq!(Arithmetic::rounding(DType::F32).sum(terms), 16_777_216.0);
        assert_eq!(Arithmetic::rounding(DType::F64).sum(terms), 16_777_218.0);
    }

    #[test]
    fn halves_accumulate_in_f32() {
        // 256 + 1 is no bf16, but the accumulator holds it, and 258 is one again.
        let bf16 = Arithmetic::rounding(DType::Bf16);
        assert_eq!(bf16.sum([256.0, 1.0, 1.0]), 258.0);
        assert_eq!(bf16.keep(257.0), 256.0);
        assert_eq!(bf16.dot(&[16.0, 1.0], &[16.0, 2.0]), 258.0);
        assert!(bf16.mean([].into_iter()).is_nan());
    }
}
