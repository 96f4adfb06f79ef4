//! The functions of f64: `exp` and `sigmoid` vectorise, the others are those of the standard library and of libm.

use super::{Real, exp, polynomial};
use crate::isa::Machine;

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const INFINITY: f64 = f64::INFINITY;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    const NAN: f64 = f64::NAN;
    const NO_POWER: f64 = -1100.0;
    const PER_NAT: f64 = 1.0;

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
    fn exp2_below_zero<M: Machine>(self, unit: f64) -> f64 {
        exp::<M, f64>(self * (unit * std::f64::consts::LN_2))
    }

    #[inline(always)]
    fn power_less<M: Machine>(self, [unit, rest]: [f64; 2], less: f64) -> f64 {
        let power = M::mul_add_f64(self, rest, M::mul_add_f64(self, unit, -less));
        exp::<M, f64>(power)
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
    fn gaussian<M: Machine>(self) -> f64 {
        exp::<M, f64>(-0.5 * (self * self))
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
