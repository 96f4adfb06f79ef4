//! The numbers that a dtype can hold.
//!
//! Storage keeps every float as an `f64` and every integer and bool as an `i64`; a value enters storage only through
//! one of these functions, so that it is always one that the dtype holds exactly.

use attentia_backend::DType;

/// The nearest value of a float dtype, ties to even, in one rounding.
///
/// A detour through `f32` would round twice: 1 + 2⁻⁸ + 2⁻⁴⁰ lies above the middle between two `bf16`, but in `f32` it
/// falls on the middle itself, and then to the wrong side.
///
/// ```text
/// ulp = 2^(max(exponent(x), exponent of the smallest normal) − mantissa bits)
/// round(x) = ulp · (x / ulp to the nearest whole number), ∞ from 2^(greatest exponent + 1)
/// ```
pub(crate) fn round(dtype: DType, x: f64) -> f64 {
    let (mantissa_bits, smallest_exponent, greatest_exponent) = match dtype {
        DType::F32 => return x as f32 as f64,
        DType::Bf16 => (7, -126, 127),
        DType::F16 => (10, -14, 15),
        _ => return x,
    };
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let ulp = libm::scalbn(1.0, libm::ilogb(x).max(smallest_exponent) - mantissa_bits);
    // Both scalings are by powers of two and therefore exact.
    let rounded = (x / ulp).round_ties_even() * ulp;
    if rounded.abs() < libm::scalbn(1.0, greatest_exponent + 1) { rounded } else { f64::INFINITY.copysign(x) }
}

/// An integer modulo 2ⁿ, n the bits of the dtype; anything but 0 is 1 as a bool.
pub(crate) fn wrap(dtype: DType, x: i64) -> i64 {
    match dtype {
        DType::U32 => x as u32 as i64,
        DType::U8 => x as u8 as i64,
        DType::Bool => (x != 0) as i64,
        _ => x,
    }
}

/// Cast of a float: towards zero, saturating, NaN to 0; `x ≠ 0` as a bool.
pub(crate) fn to_integer(dtype: DType, x: f64) -> i64 {
    match dtype {
        DType::U32 => x as u32 as i64,
        DType::U8 => x as u8 as i64,
        DType::Bool => (x != 0.0) as i64,
        _ => x as i64,
    }
}

/// Cast of an integer, in one rounding.
pub(crate) fn to_float(dtype: DType, x: i64) -> f64 {
    if dtype == DType::F64 || x.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS {
        return round(dtype, x as f64);
    }
    // Eleven bits too many for an f64. If any of them is set, the lowest bit that is kept becomes 1 ("round to odd"):
    // the value stays strictly between the same two values of every narrower dtype.
    let inexact = x & 0x7ff != 0;
    round(dtype, ((x >> 11) | inexact as i64) as f64 * 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_16_bit_value_is_itself() {
        for bits in 0..=u16::MAX {
            for (dtype, x) in
                [(DType::Bf16, bf16::from_bits(bits).to_f64()), (DType::F16, f16::from_bits(bits).to_f64())]
            {
                let rounded = round(dtype, x);
                assert!(rounded.to_bits() == x.to_bits() || x.is_nan() && rounded.is_nan(), "{dtype} {x}");
            }
        }
    }

    /// The middle between neighbours goes to the even one, and the least step beside it to the nearer one.
    #[test]
    fn halves_are_rounded_once() {
        for bits in 0..0x7c00u16 {
            for (dtype, low, high) in [
                (DType::Bf16, bf16::from_bits(bits).to_f64(), bf16::from_bits(bits + 1).to_f64()),
                (DType::F16, f16::from_bits(bits).to_f64(), f16::from_bits(bits + 1).to_f64()),
            ] {
                // The neighbour of the greatest finite value stands where the next binade would begin.
                let top = if high.is_finite() { high } else { 65536.0 };
                let middle = (low + top) / 2.0;
                assert_eq!(round(dtype, middle), if bits % 2 == 0 { low } else { high });
                assert_eq!(round(dtype, middle.next_up()), high);
                assert_eq!(round(dtype, -middle.next_down()), -low);
            }
        }
        assert_eq!(round(DType::Bf16, 1.0 + 2f64.powi(-8) + 2f64.powi(-40)), 1.0 + 2f64.powi(-7));
        assert_eq!(round(DType::F16, 1e300), f64::INFINITY);
        assert_eq!(round(DType::F16, -1e-300).to_bits(), (-0.0f64).to_bits());
    }

    #[test]
    fn casts_saturate_and_integers_wrap() {
        assert_eq!(to_integer(DType::U8, -3.7), 0);
        assert_eq!(to_integer(DType::U8, 300.0), 255);
        assert_eq!(to_integer(DType::I64, -3.7), -3);
        assert_eq!(to_integer(DType::I64, f64::INFINITY), i64::MAX);
        assert_eq!(to_integer(DType::U32, f64::NAN), 0);
        assert_eq!(to_integer(DType::Bool, f64::NAN), 1);
        assert_eq!(wrap(DType::U8, -1), 255);
        assert_eq!(wrap(DType::U32, 1 << 32), 0);
        assert_eq!(wrap(DType::Bool, 7), 1);
    }

    #[test]
    fn large_integers_are_rounded_once() {
        let (tie, ulp) = (1i64 << 62 | 1 << 54, 2f64.powi(55));
        let base = 2f64.powi(62);
        assert_eq!(to_float(DType::Bf16, tie), base);
        assert_eq!(to_float(DType::Bf16, tie + 1), base + ulp);
        assert_eq!(to_float(DType::Bf16, -tie - 1), -base - ulp);
        assert_eq!(to_float(DType::F32, i64::MAX), 2f64.powi(63));
        for x in [0, 1, -1, i64::MIN, i64::MAX, (1 << 60) + 1, -(1 << 60) - (1 << 36) - 1] {
            assert_eq!(to_float(DType::F32, x), x as f32 as f64, "{x}");
        }
    }
}
