//! Transcendental functions without branches, so that the compiler vectorises the loops that call them.
//!
//! ```text
//! exp(x)  = 2ⁿ · eʳ            n = round(x / ln 2),  r = x − n·ln 2 in two exact steps,  eʳ by a polynomial
//! log(x)  = e·ln 2 + log(m)    m in [√½, √2), log(m) by a polynomial in m − 1
//! tanh, sigmoid, erf           a polynomial near 0, an exp elsewhere; both are computed and one is selected
//! ```
//!
//! Two habits make these formulas vectorise everywhere: rounding by adding and subtracting 1.5·2²³, which every
//! instruction set can do, and `if` only as a choice between two finished values. No step needs a fused multiply-add to
//! be exact: constants that are subtracted in steps have trailing zeros enough.
//!
//! In f32 everything is within 2.5 ulp of the true value over the whole range, denormals and infinities included; the
//! tests measure it. `sin`, `cos` and `pow` go through f64. In f64, `exp` and `sigmoid` vectorise and the others are
//! the standard library's. The polynomials are minimax fits made for these intervals (Remez exchange).

mod double;
mod single;
#[cfg(test)]
mod tests;

use crate::{isa::Machine, storage::Raw};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// A float type that kernels compute in: f32 or f64.
pub(crate) trait Real:
    Raw
    + PartialOrd
    + Default
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    const ZERO: Self;
    const ONE: Self;
    const INFINITY: Self;
    const NEG_INFINITY: Self;
    const NAN: Self;
    /// [`exp2_below_zero`](Real::exp2_below_zero) of this power is 0, and of all below; and so is
    /// [`power_less`](Real::power_less) of this exponent.
    const NO_POWER: Self;
    /// What a nat is in exponents of [`power_less`](Real::power_less).
    const PER_NAT: f64;
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn is_nan(self) -> bool;
    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    /// Nearest whole number, ties to even.
    fn round(self) -> Self;
    /// `a · b + c`, fused where the instruction set has it.
    fn mul_add<M: Machine>(a: Self, b: Self, c: Self) -> Self;
    fn exp<M: Machine>(self) -> Self;
    fn exp2_below_zero<M: Machine>(self, unit: Self) -> Self;
    fn power_less<M: Machine>(self, unit: [Self; 2], less: Self) -> Self;
    fn expm1<M: Machine>(self) -> Self;
    fn log<M: Machine>(self) -> Self;
    fn log1p<M: Machine>(self) -> Self;
    fn tanh<M: Machine>(self) -> Self;
    fn sigmoid<M: Machine>(self) -> Self;
    fn erf<M: Machine>(self) -> Self;
    fn gaussian<M: Machine>(self) -> Self;
    fn normal_share<M: Machine>(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn pow(self, exponent: Self) -> Self;
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name<M: Machine, T: Real>(x: T) -> T {
            T::$name::<M>(x)
        }
    )*};
}
functions! {
    /// `eˣ`
    exp
    /// `eˣ − 1`, exact near 0.
    expm1
    /// Natural logarithm: −∞ at 0, NaN below.
    log
    /// `ln(1 + x)`, exact near 0.
    log1p
    /// Hyperbolic tangent.
    tanh
    /// `1 / (1 + e⁻ˣ)`
    sigmoid
    /// Error function.
    erf
    /// `e^(−x²/2)`; in f32, 0 from |x| = 13.15 on, where denormal numbers begin.
    gaussian
    /// Share of the standard normal distribution below x: `½ · (1 + erf(x/√2))`, with all digits far to the left of 0.
    normal_share
}

/// `2^(x · unit)` of a product that is not above 0 but for roundings, as in weights, with `unit > 0`. In f32 within 2.5e-7 of
/// the true value relative to 1, and 0 from a product of −126.5 down, where denormal numbers begin.
///
/// The product is not rounded before its whole part is split off, so that scores of any unit take no operation more.
#[inline(always)]
pub(crate) fn exp2_below_zero<M: Machine, T: Real>(x: T, unit: T) -> T {
    T::exp2_below_zero::<M>(x, unit)
}

/// `b^(x · unit − less)` of an exponent that [`NO_POWER`](Real::NO_POWER) and its negative bound, where b has a logarithm of
/// `1 / PER_NAT`: 2 in f32, e in f64. The unit is in two parts, the second of which is what the first was rounded by. If `less`
/// is a multiple of 2⁻¹⁴, nothing is rounded in f32 before the whole part is split off, as long as product and difference are
/// below 512: then it is within 1.2e-7 of the true value, relative to it.
#[inline(always)]
pub(crate) fn power_less<M: Machine, T: Real>(x: T, unit: [T; 2], less: T) -> T {
    T::power_less::<M>(x, unit, less)
}

/// The greater; NaN if either is.
#[inline(always)]
pub(crate) fn max<T: Real>(a: T, b: T) -> T {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller; NaN if either is.
#[inline(always)]
pub(crate) fn min<T: Real>(a: T, b: T) -> T {
    if a < b || a.is_nan() { a } else { b }
}

/// A polynomial, constant coefficient first, by Horner's rule.
#[inline(always)]
fn polynomial<M: Machine, T: Real, const N: usize>(x: T, coefficients: [T; N]) -> T {
    let mut sum = coefficients[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = T::mul_add::<M>(sum, x, coefficients[i]);
    }
    sum
}
