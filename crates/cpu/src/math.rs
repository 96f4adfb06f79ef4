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
    fn expm1<M: Machine>(self) -> Self;
    fn log<M: Machine>(self) -> Self;
    fn log1p<M: Machine>(self) -> Self;
    fn tanh<M: Machine>(self) -> Self;
    fn sigmoid<M: Machine>(self) -> Self;
    fn erf<M: Machine>(self) -> Self;
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
    /// Share of the standard normal distribution below x: `½ · (1 + erf(x/√2))`, with all digits far to the left of 0.
    normal_share
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

/// ln 2 in two parts: the product of the first with a whole number below 2¹⁵ is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding 1.5·2²³ moves the whole part of a number into the low bits of the mantissa.
const ROUND: f32 = 12_582_912.0;

/// `x = n·ln 2 + r` with |r| ≤ ln 2 / 2 and whole n, for |x| ≤ 110.
#[inline(always)]
fn split<M: Machine>(x: f32) -> (i32, f32) {
    let shifted = M::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = M::mul_add(n, -LN2_LOW, M::mul_add(n, -LN2_HIGH, x));
    ((shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32), r)
}

/// 2ⁿ for n in −126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// The whole part and the fraction of a logarithm: `x = 2ᵉ · (1 + f)` with `1 + f` in [√½, √2), for normal x > 0.
#[inline(always)]
fn significand(x: f32) -> (f32, f32) {
    const ROOT_HALF: i32 = std::f32::consts::FRAC_1_SQRT_2.to_bits() as i32;
    let above = (x.to_bits() as i32).wrapping_sub(ROOT_HALF);
    let m = f32::from_bits((above & 0x007f_ffff).wrapping_add(ROOT_HALF) as u32);
    ((above >> 23) as f32, m - 1.0)
}

/// `e·ln 2 + ln(1 + f) + correction`, small terms first.
#[inline(always)]
fn log_of_parts<M: Machine>(e: f32, f: f32, correction: f32) -> f32 {
    let p = polynomial::<M, f32, 9>(
        f,
        [
            0.333_333_13,
            -0.250_000_1,
            0.200_021_19,
            -0.166_679_96,
            0.142_195_52,
            -0.124_055_885,
            0.118_881_606,
            -0.116_756_54,
            0.067_466_47,
        ],
    );
    let square = f * f;
    let small = M::mul_add(square * f, p, M::mul_add(e, LN2_LOW, correction));
    M::mul_add(e, LN2_HIGH, f + M::mul_add(square, -0.5, small))
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const INFINITY: f32 = f32::INFINITY;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
    const NAN: f32 = f32::NAN;

    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self as f64
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        self.abs()
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        self.sqrt()
    }
    #[inline(always)]
    fn floor(self) -> f32 {
        self.floor()
    }
    #[inline(always)]
    fn ceil(self) -> f32 {
        self.ceil()
    }
    #[inline(always)]
    fn round(self) -> f32 {
        self.round_ties_even()
    }
    #[inline(always)]
    fn mul_add<M: Machine>(a: f32, b: f32, c: f32) -> f32 {
        M::mul_add(a, b, c)
    }

    #[inline(always)]
    fn exp<M: Machine>(self) -> f32 {
        // Beyond these bounds the result is ∞ or 0 all the same; NaN passes both tests.
        let x = if self > 89.0 { 89.0 } else { self };
        let x = if x < -105.0 { -105.0 } else { x };
        let (n, r) = split::<M>(x);
        let q = polynomial::<M, f32, 5>(r, [0.499_999_94, 0.166_665_2, 0.041_668_408, 0.008_368_921, 0.001_381_417_4]);
        let p = M::mul_add(r * r, q, r) + 1.0;
        // In two factors: 2ⁿ alone overflows before the result does, and denormals are rounded once, by the last product.
        let half = n >> 1;
        p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
    }

    #[inline(always)]
    fn expm1<M: Machine>(self) -> f32 {
        let x = if self > 89.0 { 89.0 } else { self };
        let x = if x < -30.0 { -30.0 } else { x };
        let (n, r) = split::<M>(x);
        let q = polynomial::<M, f32, 6>(
            r,
            [0.5, 0.166_666_66, 0.041_666_36, 0.008_333_39, 0.001_394_092_7, 0.000_198_459_02],
        );
        let p = M::mul_add(r * r, q, r);
        // 2ⁿ·(1 + p) − 1 through 2ⁿ⁻¹, which is finite for every n.
        let scale = power_of_two(n.wrapping_sub(1));
        let y = M::mul_add(scale, p, scale - 0.5) * 2.0;
        if self.abs() < 1e-9 { self } else { y }
    }

    #[inline(always)]
    fn log<M: Machine>(self) -> f32 {
        let denormal = self < f32::MIN_POSITIVE;
        let (e, f) = significand(if denormal { self * 8_388_608.0 } else { self });
        let y = log_of_parts::<M>(if denormal { e - 23.0 } else { e }, f, 0.0);
        let y = if self == f32::INFINITY { self } else { y };
        let below = if self == 0.0 { f32::NEG_INFINITY } else { f32::NAN };
        if self > 0.0 { y } else { below }
    }

    #[inline(always)]
    fn log1p<M: Machine>(self) -> f32 {
        let sum = 1.0 + self;
        // What the sum lost; one of the differences is exact, whichever term is the greater.
        let lost = if self >= 1.0 { 1.0 - (sum - self) } else { self - (sum - 1.0) };
        let (e, f) = significand(sum);
        let y = log_of_parts::<M>(e, f, lost / sum);
        let y = if self.abs() < 1e-9 || self == f32::INFINITY { self } else { y };
        let below = if self == -1.0 { f32::NEG_INFINITY } else { f32::NAN };
        if self > -1.0 { y } else { below }
    }

    #[inline(always)]
    fn tanh<M: Machine>(self) -> f32 {
        let x = self.abs();
        let z = x * x;
        let p =
            polynomial::<M, f32, 5>(z, [-0.333_332_8, 0.133_314_42, -0.053_739_715, 0.020_639_086, -0.005_704_986_5]);
        let near = M::mul_add(x * z, p, x);
        let far = 1.0 - 2.0 / (exp::<M, f32>(2.0 * x) + 1.0);
        (if x < 0.625 { near } else { far }).copysign(self)
    }

    #[inline(always)]
    fn sigmoid<M: Machine>(self) -> f32 {
        // e^−|x| is at most 1: nothing overflows, and the left tail keeps its denormals.
        let e = exp::<M, f32>(-self.abs());
        (if self < 0.0 { e } else { 1.0 }) / (1.0 + e)
    }

    #[inline(always)]
    fn normal_share<M: Machine>(self) -> f32 {
        // The share beyond |x| is e^(−x²/2) · t · p(t) with t = 1 / (1 + |x|/√8): p was fitted to least relative error.
        let x = self.abs();
        let t = 1.0 / M::mul_add(x, 0.5 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
        let p = polynomial::<M, f32, 9>(
            t,
            [
                0.1410437,
                0.14117928,
                0.12161231,
                0.101106144,
                -0.012755689,
                0.13822944,
                -0.24290058,
                0.14195122,
                -0.02946583,
            ],
        );
        let beyond = t * p * exp::<M, f32>(-0.5 * self * self);
        if self < 0.0 { beyond } else { 1.0 - beyond }
    }

    #[inline(always)]
    fn erf<M: Machine>(self) -> f32 {
        let x = self.abs();
        let near = polynomial::<M, f32, 7>(
            x * x,
            [
                0.128_379_17,
                -0.376_126_26,
                0.112_835_884,
                -0.026_853_917,
                0.005_188_500_5,
                -0.000_801_156_04,
                7.858_031e-5,
            ],
        );
        let near = M::mul_add(x, near, x);
        // ln(1 − erf(1 + t)); from 4 on, erf is 1 in f32.
        let t = (if x > 4.0 { 4.0 } else { x }) - 1.0;
        let tail = polynomial::<M, f32, 8>(
            t,
            [
                -1.849_605_6,
                -2.638_967_5,
                -0.843_107_1,
                -0.041_563_48,
                0.010_046_452,
                -0.002_011_966_2,
                0.000_289_527_82,
                -2.168_673_8e-5,
            ],
        );
        let far = 1.0 - exp::<M, f32>(tail);
        (if x < 1.0 { near } else { far }).copysign(self)
    }

    #[inline(always)]
    fn sin(self) -> f32 {
        (self as f64).sin() as f32
    }
    #[inline(always)]
    fn cos(self) -> f32 {
        (self as f64).cos() as f32
    }
    #[inline(always)]
    fn pow(self, exponent: f32) -> f32 {
        (self as f64).powf(exponent as f64) as f32
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const INFINITY: f64 = f64::INFINITY;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    const NAN: f64 = f64::NAN;

    #[inline(always)]
    fn from_f64(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }
    #[inline(always)]
    fn abs(self) -> f64 {
        self.abs()
    }
    #[inline(always)]
    fn sqrt(self) -> f64 {
        self.sqrt()
    }
    #[inline(always)]
    fn floor(self) -> f64 {
        self.floor()
    }
    #[inline(always)]
    fn ceil(self) -> f64 {
        self.ceil()
    }
    #[inline(always)]
    fn round(self) -> f64 {
        self.round_ties_even()
    }
    #[inline(always)]
    fn mul_add<M: Machine>(a: f64, b: f64, c: f64) -> f64 {
        M::mul_add_f64(a, b, c)
    }

    #[inline(always)]
    fn exp<M: Machine>(self) -> f64 {
        /// ln 2 in two parts, the first with 20 bits.
        const LN2_HIGH: f64 = 0.693_145_751_953_125;
        const LN2_LOW: f64 = 1.428_606_820_309_417_3e-6;
        const ROUND: f64 = 6_755_399_441_055_744.0;
        let power_of_two = |n: i64| f64::from_bits((n.wrapping_add(1023) as u64) << 52);
        let x = if self > 710.0 { 710.0 } else { self };
        let x = if x < -750.0 { -750.0 } else { x };
        let shifted = M::mul_add_f64(x, std::f64::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = M::mul_add_f64(n, -LN2_LOW, M::mul_add_f64(n, -LN2_HIGH, x));
        let q = polynomial::<M, f64, 11>(
            r,
            [
                0.5,
                0.166_666_666_666_666_85,
                0.041_666_666_666_666_075,
                0.008_333_333_333_316_654,
                0.001_388_888_888_912_096_7,
                0.000_198_412_698_973_478_46,
                2.480_158_692_000_817_5e-5,
                2.755_723_388_063_132_6e-6,
                2.755_758_495_319_361e-7,
                2.511_238_456_453_851_6e-8,
                2.082_632_230_729_233_4e-9,
            ],
        );
        let p = M::mul_add_f64(r * r, q, r) + 1.0;
        let n = (shifted.to_bits() as i64).wrapping_sub(ROUND.to_bits() as i64);
        // n >> 1, without the 64-bit arithmetic shift that AVX2 lacks; n + 2048 is positive.
        let half = ((n.wrapping_add(2048) as u64) >> 1) as i64 - 1024;
        p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
    }

    #[inline(always)]
    fn expm1<M: Machine>(self) -> f64 {
        self.exp_m1()
    }
    #[inline(always)]
    fn log<M: Machine>(self) -> f64 {
        self.ln()
    }
    #[inline(always)]
    fn log1p<M: Machine>(self) -> f64 {
        self.ln_1p()
    }
    #[inline(always)]
    fn tanh<M: Machine>(self) -> f64 {
        self.tanh()
    }
    #[inline(always)]
    fn sigmoid<M: Machine>(self) -> f64 {
        let e = exp::<M, f64>(-self.abs());
        (if self < 0.0 { e } else { 1.0 }) / (1.0 + e)
    }
    #[inline(always)]
    fn normal_share<M: Machine>(self) -> f64 {
        0.5 * libm::erfc(-self * std::f64::consts::FRAC_1_SQRT_2)
    }

    #[inline(always)]
    fn erf<M: Machine>(self) -> f64 {
        libm::erf(self)
    }
    #[inline(always)]
    fn sin(self) -> f64 {
        self.sin()
    }
    #[inline(always)]
    fn cos(self) -> f64 {
        self.cos()
    }
    #[inline(always)]
    fn pow(self, exponent: f64) -> f64 {
        self.powf(exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{self, Isa, Kernel};

    struct Apply<'a, T>(&'a str, &'a [T], &'a mut Vec<T>);

    impl<T: Real> Kernel for Apply<'_, T> {
        type Output = ();
        #[inline(always)]
        fn run<M: Machine>(self) {
            let Apply(name, xs, ys) = self;
            match name {
                "exp" => ys.extend(xs.iter().map(|&x| exp::<M, T>(x))),
                "expm1" => ys.extend(xs.iter().map(|&x| expm1::<M, T>(x))),
                "log" => ys.extend(xs.iter().map(|&x| log::<M, T>(x))),
                "log1p" => ys.extend(xs.iter().map(|&x| log1p::<M, T>(x))),
                "tanh" => ys.extend(xs.iter().map(|&x| tanh::<M, T>(x))),
                "sigmoid" => ys.extend(xs.iter().map(|&x| sigmoid::<M, T>(x))),
                "erf" => ys.extend(xs.iter().map(|&x| erf::<M, T>(x))),
                "normal_share" => ys.extend(xs.iter().map(|&x| normal_share::<M, T>(x))),
                "sin" => ys.extend(xs.iter().map(|&x| x.sin())),
                "cos" => ys.extend(xs.iter().map(|&x| x.cos())),
                _ => panic!("{name}"),
            }
        }
    }

    fn sigmoid_exact(x: f64) -> f64 {
        if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
    }

    type Exact = (&'static str, fn(f64) -> f64);
    const FUNCTIONS: [Exact; 9] = [
        ("exp", f64::exp),
        ("expm1", f64::exp_m1),
        ("log", f64::ln),
        ("log1p", f64::ln_1p),
        ("tanh", f64::tanh),
        ("sigmoid", sigmoid_exact),
        ("erf", libm::erf),
        ("sin", f64::sin),
        ("cos", f64::cos),
    ];

    /// Distance from the true value in units of f32's last place there.
    fn ulps(y: f32, exact: f64) -> f64 {
        if exact.is_nan() || y.is_nan() {
            return if exact.is_nan() && y.is_nan() { 0.0 } else { f64::INFINITY };
        }
        let rounded = exact as f32;
        if y == rounded {
            return 0.0;
        }
        // The step to infinity is as long as the one before it.
        let finite = |y: f32| if y.is_infinite() { 2f64.powi(128).copysign(y as f64) } else { y as f64 };
        let exponent = (rounded.abs().to_bits() >> 23).clamp(1, 254) as i32 - 127;
        ((finite(y) - exact) / 2f64.powi(exponent - 23)).abs()
    }

    #[test]
    fn f32_functions_are_within_2_5_ulp_everywhere() {
        let special = [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN, 1e-45];
        let near = [88.72283, 88.72284, 88.7229, -87.33655, -103.27893, -103.97208, -103.97209, -0.99999994, 0.625];
        let xs: Vec<f32> = (0..=u32::MAX).step_by(4099).map(f32::from_bits).chain(special).chain(near).collect();
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            for (name, exact) in FUNCTIONS {
                let mut ys = Vec::new();
                isa::run(isa, Apply(name, &xs, &mut ys));
                let (mut worst, mut at) = (0.0, 0.0);
                for (&x, &y) in xs.iter().zip(&ys) {
                    let error = ulps(y, exact(x as f64));
                    if error > worst {
                        (worst, at) = (error, x);
                    }
                }
                println!("{isa} {name}: {worst:.2} ulp at {at:e}");
                assert!(worst <= 2.5, "{isa} {name}({at:e}) is {worst} ulp off");
            }
        }
    }

    /// Relative error: that of the fit, and left of 0 that of rounding x², which the exponential multiplies by x²/2.
    #[test]
    fn the_normal_share_keeps_its_digits_far_left() {
        let xs: Vec<f32> = (-12_000..12_000).map(|i| i as f32 * 1e-3).collect();
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            let mut ys = Vec::new();
            isa::run(isa, Apply("normal_share", &xs, &mut ys));
            for (&x, &y) in xs.iter().zip(&ys) {
                let exact = 0.5 * libm::erfc(-f64::from(x) * std::f64::consts::FRAC_1_SQRT_2);
                let limit = 5e-7 + f64::from(x.min(0.0)).powi(2) * 1e-7;
                assert!((f64::from(y) / exact - 1.0).abs() < limit, "{isa} normal_share({x}) is {y}, not {exact}");
            }
            let mut edges = Vec::new();
            let far = [f32::INFINITY, f32::NEG_INFINITY, 40.0, -40.0, f32::NAN];
            isa::run(isa, Apply("normal_share", &far, &mut edges));
            assert_eq!(edges[..4], [1.0, 0.0, 1.0, 0.0]);
            assert!(edges[4].is_nan());
        }
    }

    #[test]
    fn f64_functions_are_within_4_ulp() {
        let mut xs: Vec<f64> = (-80_000..80_000).map(|i| i as f64 * 0.01 + 1e-5).collect();
        xs.extend((-3000..3000).map(|i| (i as f64 * 0.1).exp2()));
        xs.extend([0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -745.2, -740.0, 709.78, 709.79, 5e-324]);
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            for (name, exact) in FUNCTIONS {
                let mut ys = Vec::new();
                isa::run(isa, Apply(name, &xs, &mut ys));
                for (&x, &y) in xs.iter().zip(&ys) {
                    let want = exact(x);
                    let unit = f64::from_bits(((want.abs().to_bits() >> 52).clamp(53, 2046) - 52) << 52);
                    let close = y.to_bits() == want.to_bits()
                        || y.is_nan() && want.is_nan()
                        || (y - want).abs() <= (4.0 * unit).max(5e-324);
                    assert!(close, "{isa} {name}({x:e}) = {y:e}, not {want:e}");
                }
            }
        }
    }

    #[test]
    fn zeros_keep_their_sign() {
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            for name in ["expm1", "log1p", "tanh", "erf"] {
                let mut ys = Vec::new();
                isa::run(isa, Apply(name, &[-0.0f32, 0.0], &mut ys));
                assert!(ys[0].is_sign_negative() && ys[1].is_sign_positive(), "{isa} {name}");
            }
        }
    }

    #[test]
    fn extremes_propagate_nan() {
        assert!(max(f32::NAN, 1.0).is_nan() && max(1.0, f32::NAN).is_nan());
        assert!(min(f32::NAN, 1.0).is_nan() && min(1.0, f32::NAN).is_nan());
        assert_eq!((max(1.0, 2.0), min(1.0, 2.0)), (2.0, 1.0));
    }
}
