//! The functions of f32, within 2.5 ulp everywhere. Those of one operation, and `sin`, `cos` and `pow`, go through the
//! standard library, the latter in f64.

use super::{Real, exp, gaussian, polynomial};
use crate::isa::Machine;

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

/// `eˣ = 2ⁿ · p`
#[inline(always)]
fn exp_of_parts<M: Machine>(x: f32) -> (i32, f32) {
    let (n, r) = split::<M>(x);
    let q = polynomial::<M, f32, 5>(r, [0.499_999_94, 0.166_665_2, 0.041_668_408, 0.008_368_921, 0.001_381_417_4]);
    (n, M::mul_add(r * r, q, r) + 1.0)
}

/// Adding it moves the whole part of a number, and 127, into the low bits of the mantissa: the bits of a power of two.
const ROUND_TO_POWER: f32 = ROUND + 127.0;

const LN_2: f32 = std::f32::consts::LN_2;

/// 2ⁿ for n in −126..=127, and 0 for −127.
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
    const NO_POWER: f32 = -127.0;
    const PER_NAT: f64 = std::f64::consts::LOG2_E;

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
        let (n, p) = exp_of_parts::<M>(x);
        // In two factors: 2ⁿ alone overflows before the result does, and denormals are rounded once, by the last product.
        let half = n >> 1;
        p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
    }

    #[inline(always)]
    fn exp2_below_zero<M: Machine>(self, unit: f32) -> f32 {
        // 2⁻¹²⁷ by its bits is 0.
        let lowest = Self::NO_POWER / unit;
        let x = if self < lowest { lowest } else { self };
        let shifted = M::mul_add(x, unit, ROUND_TO_POWER);
        let f = M::mul_add(x, unit, ROUND_TO_POWER - shifted);
        let p = polynomial::<M, f32, 6>(f, [1.0, LN_2, 0.240_222_83, 0.055_505_585, 0.009_669_691, 0.001_330_060_5]);
        p * f32::from_bits(shifted.to_bits() << 23)
    }

    #[inline(always)]
    fn power_less<M: Machine>(self, [unit, rest]: [f32; 2], less: f32) -> f32 {
        let shifted = M::mul_add(self, unit, -less) + ROUND_TO_POWER;
        let f = M::mul_add(self, rest, M::mul_add(self, unit, (ROUND_TO_POWER - shifted) - less));
        let p = polynomial::<M, f32, 7>(
            f,
            [1.0, LN_2, 0.240_226_48, 0.055_503_322, 0.009_618_439, 0.001_339_900_4, 0.000_153_532_57],
        );
        p * f32::from_bits(shifted.to_bits() << 23)
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
    fn gaussian<M: Machine>(self) -> f32 {
        // Results above 2⁻¹²⁵ only, which need a single power of two; what is less is 0.
        const LEAST: f32 = -86.5;
        let exponent = -0.5 * (self * self);
        let (n, r) = split::<M>(if exponent < LEAST { LEAST } else { exponent });
        let p = polynomial::<M, f32, 7>(
            r,
            [1.0, 1.0, 0.499_999_94, 0.166_665_2, 0.041_668_408, 0.008_368_921, 0.001_381_417_4],
        );
        if exponent < LEAST { 0.0 } else { p * power_of_two(n) }
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
        let beyond = t * p * gaussian::<M, f32>(self);
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
