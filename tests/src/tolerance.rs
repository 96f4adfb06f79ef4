//! When a result is right.
//!
//! The oracle is the reference backend in f64 on the inputs as they were rounded to their dtype. How far a result may be
//! from it depends on what was computed:
//!
//! | rule | holds for | allowed error |
//! |---|---|---|
//! | [`Accept::Bits`] | what only moves values | none, and zeros keep their sign |
//! | [`Accept::Exact`] | what has one right answer in the dtype | none |
//! | [`Accept::Ulps`] | functions of one or two elements | so many ulps of the expected value |
//! | [`Accept::Largest`] | random numbers | so many ulps of the greatest expected magnitude |
//! | [`Accept::Sum`] | sums and products of matrices | an error bound, see [`sum_bound`] |
//! | [`Accept::Naive`] | fused operations | twice the error of the same operation composed of primitives that round to the same dtype, plus ulps of the greatest magnitude |
//!
//! In f64 the oracle has no more digits than the kernel. There the naive error is measured one format below, on the
//! operands rounded to f32, and scaled by the ratio of the unit roundoffs; see [`F64_SCALE`].
//!
//! Every number that appears below has a name and a reason.

use crate::number::{round, roundoff, top, ulp};
use attentia_backend::{Accumulation, DType};
use std::fmt;

/// A number of ulps with the reason for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// How failures and the documentation call it.
    pub name: &'static str,
    /// Ulps of the dtype of the result.
    pub ulps: f64,
    /// Why so many.
    pub reason: &'static str,
}

/// Arithmetic that IEEE 754 rounds correctly.
pub const PRIMITIVE: Tolerance = Tolerance {
    name: "primitive",
    ulps: 1.0,
    reason: "correctly rounded is half an ulp; a multiplication by a rounded scalar may take the other half",
};

/// exp, log, tanh and their like, in f32 and f64.
pub const TRANSCENDENTAL: Tolerance = Tolerance {
    name: "transcendental",
    ulps: 4.0,
    reason: "polynomials of vector kernels stay within 2 to 3.5 ulp without double-width arithmetic",
};

/// The same in bf16 and f16.
pub const HALF_TRANSCENDENTAL: Tolerance = Tolerance {
    name: "half-transcendental",
    ulps: 1.0,
    reason: "computed in f32, whose error vanishes beside the one rounding to 16 bits",
};

/// Random numbers.
pub const RANDOM: Tolerance = Tolerance {
    name: "random",
    ulps: 2.0,
    reason: "the bits of the stream are exact; a product and a sum in the dtype round once each",
};

/// What a fused operation may lose beyond twice the naive error.
pub const FUSED: Tolerance = Tolerance {
    name: "fused",
    ulps: 2.0,
    reason: "the naive composition is sometimes exact by luck; two roundings are not an error of the kernel",
};

/// What a fused operation made of several transcendental functions may lose beyond twice the naive error.
pub const FUSED_TRANSCENDENTAL: Tolerance = Tolerance {
    name: "fused-transcendental",
    ulps: 5.0,
    reason: "the naive composition uses correctly rounded functions; a kernel's own may be 4 ulp off, see transcendental",
};

/// What attention's backward may lose beyond twice the naive error where scores are large.
pub const SAVED_LSE: Tolerance = Tolerance {
    name: "saved-lse",
    ulps: 64.0,
    reason: "weights are computed again from a saved lse, half an ulp of which is a relative error of each: 32 ulp of 1 \
             where |lse| is above 64, beside that of the scores; the naive composition keeps the weights themselves",
};

/// The naive error in f64 as a share of that in f32: the ratio of the unit roundoffs, 2⁻²⁹, twice, because the oracle's
/// own result in f64 may be as far from the truth as the naive one.
pub const F64_SCALE: f64 = 2.0 / (1u64 << 29) as f64;

/// All of them, for the documentation and its test.
pub const ALL: [Tolerance; 7] =
    [PRIMITIVE, TRANSCENDENTAL, HALF_TRANSCENDENTAL, RANDOM, FUSED, FUSED_TRANSCENDENTAL, SAVED_LSE];

/// The tolerance of a transcendental function in a dtype.
pub fn transcendental(dtype: DType) -> Tolerance {
    if dtype.is_half() { HALF_TRANSCENDENTAL } else { TRANSCENDENTAL }
}

/// How many unit roundoffs of `Σ |terms|` a sum of n terms may be off: `3 √n + 4`.
///
/// The certain bound for one accumulator is n; the probable one is √n (Higham and Mary, *A new approach to
/// probabilistic rounding error analysis*, 2019), which every blocked or pairwise order stays below too. Three times
/// that is beyond any honest kernel, and far below what a 16-bit accumulator would lose.
pub fn sum_bound(terms: usize) -> f64 {
    3.0 * (terms as f64).sqrt() + 4.0
}

/// The rule for one result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accept {
    /// The same bits.
    Bits,
    /// The same number.
    Exact,
    /// Within ulps of each expected value.
    Ulps(Tolerance),
    /// Within ulps of the greatest expected magnitude.
    Largest(Tolerance),
    /// Within the error bound of a sum of that many terms of the operands' dtype.
    Sum {
        /// How many numbers go into one result.
        terms: usize,
    },
    /// At most twice the naive error, plus ulps of the greatest expected magnitude.
    Naive(Tolerance),
    /// The same, and what both the oracle and the naive composition give as 0 is 0: masked and dropped elements.
    NaiveKeepingZeros(Tolerance),
    /// The same as `Naive`, with the greatest magnitude among results and operands: where the formula multiplies an
    /// operand by a small difference of numbers near 1, as `x/2 · (1 + erf(x/√2))` does.
    NaiveBesideOperands(Tolerance),
}

/// What a rule needs to know beside the two results.
pub struct Yardstick<'a> {
    /// Dtype of the result.
    pub dtype: DType,
    /// Dtype of the operands.
    pub operand: DType,
    /// The oracle's values.
    pub expected: &'a [f64],
    /// The greatest magnitude among the operands.
    pub scale: f64,
    /// How the naive composition did, for rules that compare with it.
    pub naive: Option<&'a Naive>,
    /// The oracle's result of the operands' magnitudes, for error bounds.
    pub magnitudes: Option<&'a [f64]>,
}

/// How the naive composition did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Naive {
    /// Its greatest error.
    pub error: f64,
    /// Where it is exactly 0.
    pub zeros: Vec<bool>,
}

impl Naive {
    /// From its values and those of the oracle on the same operands.
    pub fn measured(naive: &[f64], expected: &[f64], scale: f64) -> Naive {
        // Where one of them is not finite, kinds of number are compared, and no distance.
        let errors = naive.iter().zip(expected).map(|(n, e)| (n - e).abs()).filter(|e| e.is_finite());
        Naive { error: errors.fold(0f64, f64::max) * scale, zeros: naive.iter().map(|n| *n == 0.0).collect() }
    }
}

/// The worst element of a result that is not accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// Its index, row-major.
    pub index: usize,
    /// How far off it is, in ulps of the expected value.
    pub ulps: f64,
    /// How far off it might have been.
    pub allowed: f64,
    /// How many elements are not accepted.
    pub count: usize,
}

impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Accept::Bits => f.write_str("bits"),
            Accept::Exact => f.write_str("exact"),
            Accept::Ulps(t) => f.write_str(t.name),
            Accept::Largest(t) => write!(f, "{} of the greatest", t.name),
            Accept::Sum { terms } => write!(f, "the bound of a sum of {terms}"),
            Accept::Naive(t) | Accept::NaiveKeepingZeros(t) | Accept::NaiveBesideOperands(t) => {
                write!(f, "twice the naive error and {}", t.name)
            }
        }
    }
}

impl Accept {
    /// Compares, element by element.
    pub fn check(self, yardstick: &Yardstick, actual: &[f64]) -> Result<(), Mismatch> {
        let (dtype, expected) = (yardstick.dtype, yardstick.expected);
        let greatest = expected.iter().filter(|e| e.is_finite()).fold(0f64, |m, e| m.max(e.abs()));
        let at_greatest = ulp(dtype, greatest.min(top(dtype) / 2.0));
        let naive_error = yardstick.naive.map_or(0.0, |naive| naive.error);
        let allowed = |i: usize| match self {
            Accept::Bits | Accept::Exact => 0.0,
            Accept::Ulps(t) => t.ulps * ulp(dtype, expected[i]),
            Accept::Largest(t) => t.ulps * at_greatest,
            Accept::Sum { terms } => {
                let magnitude = yardstick.magnitudes.map_or(0.0, |m| m[i]);
                let bound = sum_bound(terms) * roundoff(Accumulation::of(yardstick.operand)) * magnitude;
                bound + PRIMITIVE.ulps * ulp(dtype, expected[i])
            }
            Accept::NaiveKeepingZeros(_)
                if expected[i] == 0.0 && yardstick.naive.is_some_and(|naive| naive.zeros[i]) =>
            {
                0.0
            }
            Accept::Naive(t) | Accept::NaiveKeepingZeros(t) => 2.0 * naive_error + t.ulps * at_greatest,
            Accept::NaiveBesideOperands(t) => {
                let unit = ulp(dtype, greatest.max(yardstick.scale).min(top(dtype) / 2.0));
                2.0 * naive_error + t.ulps * unit
            }
        };
        let mut worst: Option<Mismatch> = None;
        let mut count = 0;
        for (i, &actual) in actual.iter().enumerate() {
            let error = self.error(dtype, expected[i], actual);
            let allowed = allowed(i);
            // A bound may be NaN or infinite where numbers are not finite; kinds of number must agree all the same.
            if error == 0.0 || error.is_finite() && error <= allowed {
                continue;
            }
            count += 1;
            let unit = if dtype.is_float() { ulp(dtype, expected[i]) } else { 1.0 };
            if worst.as_ref().is_none_or(|w| error / unit > w.ulps || error.is_nan()) {
                worst = Some(Mismatch { index: i, ulps: error / unit, allowed: allowed / unit, count: 0 });
            }
        }
        worst.map_or(Ok(()), |worst| Err(Mismatch { count, ..worst }))
    }

    /// The distance between two values; infinite when they are of different kinds. Overflow is compared as if the
    /// dtype went on for one more binade: half an ulp below the greatest number and infinity are neighbours.
    fn error(self, dtype: DType, expected: f64, actual: f64) -> f64 {
        if !dtype.is_float() {
            return (expected - actual).abs();
        }
        if expected.is_nan() || actual.is_nan() {
            return if expected.is_nan() && actual.is_nan() { 0.0 } else { f64::INFINITY };
        }
        match self {
            Accept::Bits | Accept::Exact => {
                let expected = round(dtype, expected);
                let same_sign = expected.is_sign_negative() == actual.is_sign_negative() || self == Accept::Exact;
                match expected == actual && same_sign {
                    true => 0.0,
                    false if expected == actual => f64::MIN_POSITIVE,
                    false => (expected - actual).abs(),
                }
            }
            _ if expected.is_infinite() => {
                if expected == actual {
                    0.0
                } else {
                    f64::INFINITY
                }
            }
            _ => {
                let bound = |x: f64| x.clamp(-top(dtype), top(dtype));
                (bound(expected) - bound(actual)).abs()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: Accept, dtype: DType, expected: &[f64], actual: &[f64]) -> Result<(), Mismatch> {
        let yardstick = Yardstick { dtype, operand: dtype, expected, scale: 0.0, naive: None, magnitudes: None };
        accept.check(&yardstick, actual)
    }

    #[test]
    fn kinds_of_number_are_never_confused() {
        let wide = Accept::Ulps(Tolerance { name: "wide", ulps: 1e300, reason: "to find out what is not a number" });
        for (expected, actual) in [
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (f64::INFINITY, 1.0),
            (f64::INFINITY, f64::NEG_INFINITY),
            (f64::INFINITY, f64::NAN),
        ] {
            assert!(check(wide, DType::F32, &[expected], &[actual]).is_err(), "{expected} {actual}");
        }
        assert!(check(Accept::Exact, DType::F32, &[f64::NAN, f64::INFINITY], &[f64::NAN, f64::INFINITY]).is_ok());
        assert!(check(Accept::Bits, DType::F32, &[0.0], &[-0.0]).is_err());
        assert!(check(Accept::Exact, DType::F32, &[0.0], &[-0.0]).is_ok());
    }

    #[test]
    fn ulps_are_counted_at_the_expected_value() {
        let eps = f32::EPSILON as f64;
        assert!(check(Accept::Ulps(PRIMITIVE), DType::F32, &[1.0], &[1.0 + eps]).is_ok());
        let miss = check(Accept::Ulps(PRIMITIVE), DType::F32, &[1.0, 1.0], &[1.0, 1.0 + 2.0 * eps]).unwrap_err();
        assert_eq!((miss.index, miss.ulps, miss.count), (1, 2.0, 1));
        assert!(
            check(Accept::Ulps(PRIMITIVE), DType::F16, &[65_519.0], &[f64::INFINITY]).is_ok(),
            "one ulp to overflow"
        );
        assert!(check(Accept::Ulps(PRIMITIVE), DType::F16, &[60_000.0], &[f64::INFINITY]).is_err());
    }

    #[test]
    fn naive_errors_set_the_scale() {
        let expected = [1.0, 0.0];
        let naive = Naive::measured(&[1.0 + 1e-4, 0.0], &expected, 1.0);
        let yardstick = Yardstick {
            dtype: DType::F32,
            operand: DType::F32,
            expected: &expected,
            scale: 0.0,
            naive: Some(&naive),
            magnitudes: None,
        };
        assert!(Accept::Naive(FUSED).check(&yardstick, &[1.0 - 1.9e-4, 1e-5]).is_ok());
        assert!(Accept::Naive(FUSED).check(&yardstick, &[1.0 - 2.1e-4, 0.0]).is_err());
        assert!(Accept::NaiveKeepingZeros(FUSED).check(&yardstick, &[1.0, 1e-30]).is_err());
    }

    #[test]
    fn names_and_reasons_are_given() {
        for (i, t) in ALL.iter().enumerate() {
            assert!(!t.reason.is_empty() && t.ulps >= 1.0);
            assert!(ALL[i + 1..].iter().all(|other| other.name != t.name));
        }
    }
}
