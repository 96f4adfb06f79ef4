//! The 16-bit floats: kernels load blocks of them as f32, compute, and round once when they store.
//!
//! bf16 is integer arithmetic that the compiler vectorises. So is f16, except where the processor has the conversion as
//! an instruction; both ways give the same bits. Rounding is to nearest even; NaN stays NaN and becomes quiet.

use crate::{
    isa::{Isa, Machine},
    math::Real,
    storage::Raw,
};
use half::{bf16, f16};

/// Elements that a kernel takes into its stack buffer at a time.
pub(crate) const BLOCK: usize = 256;

/// A float dtype and the type that kernels compute in: f64 for f64, f32 for the others.
pub(crate) trait Wide: Raw {
    /// What kernels compute in.
    type Compute: Real;
    /// One element, exactly.
    fn widen(self) -> Self::Compute;
    /// The nearest element, ties to even.
    fn narrow(x: Self::Compute) -> Self;
    /// Elements of equally long slices.
    fn widen_row<M: Machine>(from: &[Self], to: &mut [Self::Compute]);
    /// Elements of equally long slices.
    fn narrow_row<M: Machine>(from: &[Self::Compute], to: &mut [Self]);
}

/// `to = from`, exactly; elements beyond the shorter slice are left alone.
#[inline(always)]
pub(crate) fn widen<M: Machine, T: Wide>(from: &[T], to: &mut [T::Compute]) {
    T::widen_row::<M>(from, to);
}

/// `to = from`, rounded; elements beyond the shorter slice are left alone.
#[inline(always)]
pub(crate) fn narrow<M: Machine, T: Wide>(from: &[T::Compute], to: &mut [T]) {
    T::narrow_row::<M>(from, to);
}

macro_rules! own_compute {
    ($t:ty) => {
        impl Wide for $t {
            type Compute = $t;
            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
            #[inline(always)]
            fn narrow(x: $t) -> $t {
                x
            }
            #[inline(always)]
            fn widen_row<M: Machine>(from: &[$t], to: &mut [$t]) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
            #[inline(always)]
            fn narrow_row<M: Machine>(from: &[$t], to: &mut [$t]) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    };
}
own_compute!(f64);
own_compute!(f32);

impl Wide for bf16 {
    type Compute = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = (self.to_bits() as u32) << 16;
        // Quiet, as the processor's own conversions do.
        let quiet = if bits & 0x7fff_ffff > 0x7f80_0000 { 0x0040_0000 } else { 0 };
        f32::from_bits(bits | quiet)
    }

    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        let bits = x.to_bits();
        // Adding half a unit carries into the exponent where it should, up to infinity.
        let rounded = bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1) >> 16;
        let nan = (bits >> 16) | 0x0040;
        bf16::from_bits(if x.is_nan() { nan } else { rounded } as u16)
    }

    #[inline(always)]
    fn widen_row<M: Machine>(from: &[bf16], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
    }
    #[inline(always)]
    fn narrow_row<M: Machine>(from: &[f32], to: &mut [bf16]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = bf16::narrow(*from));
    }
}

impl Wide for f16 {
    type Compute = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = self.to_bits() as u32;
        let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
        // Exponent and mantissa in f32's places; the product corrects the bias and normalises denormals, exactly.
        let finite = (f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)).to_bits();
        let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
        let special = 0x7f80_0000 | (magnitude << 13) | quiet;
        f32::from_bits(sign | if magnitude < 0x7c00 { finite } else { special })
    }

    #[inline(always)]
    fn narrow(x: f32) -> f16 {
        let bits = x.to_bits();
        let (sign, magnitude) = ((bits >> 16) & 0x8000, bits & 0x7fff_ffff);
        // Normal: the bias moves from 127 to 15, and half a unit carries upwards, beyond 65519 into infinity.
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0x0fff).wrapping_add((magnitude >> 13) & 1) >> 13;
        // Denormal: 0.5 has the unit 2⁻²⁴ of f16's denormals, so the addition rounds there.
        let denormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let nan = 0x7e00 | ((magnitude >> 13) & 0x03ff);
        let finite = if magnitude < 0x3880_0000 { denormal } else { normal };
        let large = if magnitude > 0x7f80_0000 { nan } else { 0x7c00 };
        f16::from_bits((sign | if magnitude < 0x4780_0000 { finite } else { large }) as u16)
    }

    #[inline(always)]
    fn widen_row<M: Machine>(from: &[f16], to: &mut [f32]) {
        let len = from.len().min(to.len());
        let (from, to) = (&from[..len], &mut to[..len]);
        #[cfg(target_arch = "x86_64")]
        if M::ISA != Isa::Portable {
            return x86::widen::<M>(from, to);
        }
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
    }

    #[inline(always)]
    fn narrow_row<M: Machine>(from: &[f32], to: &mut [f16]) {
        let len = from.len().min(to.len());
        let (from, to) = (&from[..len], &mut to[..len]);
        #[cfg(target_arch = "x86_64")]
        if M::ISA != Isa::Portable {
            return x86::narrow::<M>(from, to);
        }
        to.iter_mut().zip(from).for_each(|(to, from)| *to = f16::narrow(*from));
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! f16 by the processor's conversion instructions, for machines above the baseline and within `isa::run`.

    use super::*;
    use std::arch::x86_64::*;

    #[inline(always)]
    pub(super) fn widen<M: Machine>(from: &[f16], to: &mut [f32]) {
        let mut i = 0;
        if M::ISA == Isa::Avx512 {
            while i + 16 <= from.len() {
                // SAFETY: 16 elements follow in both slices, and this machine has AVX-512 F.
                unsafe {
                    let half = _mm256_loadu_si256(from.as_ptr().add(i).cast());
                    _mm512_storeu_ps(to.as_mut_ptr().add(i), _mm512_cvtph_ps(half));
                }
                i += 16;
            }
        }
        while i + 8 <= from.len() {
            // SAFETY: 8 elements follow in both slices, and this machine has F16C.
            unsafe {
                let half = _mm_loadu_si128(from.as_ptr().add(i).cast());
                _mm256_storeu_ps(to.as_mut_ptr().add(i), _mm256_cvtph_ps(half));
            }
            i += 8;
        }
        to[i..].iter_mut().zip(&from[i..]).for_each(|(to, from)| *to = from.widen());
    }

    #[inline(always)]
    pub(super) fn narrow<M: Machine>(from: &[f32], to: &mut [f16]) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        let mut i = 0;
        if M::ISA == Isa::Avx512 {
            while i + 16 <= from.len() {
                // SAFETY: 16 elements follow in both slices, and this machine has AVX-512 F.
                unsafe {
                    let half = _mm512_cvtps_ph::<NEAREST>(_mm512_loadu_ps(from.as_ptr().add(i)));
                    _mm256_storeu_si256(to.as_mut_ptr().add(i).cast(), half);
                }
                i += 16;
            }
        }
        while i + 8 <= from.len() {
            // SAFETY: 8 elements follow in both slices, and this machine has F16C.
            unsafe {
                let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr().add(i)));
                _mm_storeu_si128(to.as_mut_ptr().add(i).cast(), half);
            }
            i += 8;
        }
        to[i..].iter_mut().zip(&from[i..]).for_each(|(to, from)| *to = f16::narrow(*from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{self, Kernel};

    struct Convert<'a, T: Wide>(&'a [T], &'a [f32], &'a mut Vec<f32>, &'a mut Vec<T>);

    impl<T: Wide<Compute = f32>> Kernel for Convert<'_, T> {
        type Output = ();
        #[inline(always)]
        fn run<M: Machine>(self) {
            widen::<M, T>(self.0, self.2);
            narrow::<M, T>(self.1, self.3);
        }
    }

    /// Every 16-bit pattern widened, every 997th f32 pattern narrowed, against the `half` crate.
    fn agrees_with_half<T: Wide<Compute = f32>>(
        from_bits: fn(u16) -> T,
        bits: fn(T) -> u16,
        to: fn(T) -> f32,
        from: fn(f32) -> T,
    ) {
        let halves: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
        let mut floats: Vec<f32> = (0..=u32::MAX).step_by(997).map(f32::from_bits).collect();
        // Ties, and the neighbours of ties.
        floats.extend(halves.iter().flat_map(|&h| {
            let middle = to(h).to_bits() | 0x1000;
            [middle, middle - 1, middle + 1, to(h).to_bits() | 0x8000].map(f32::from_bits)
        }));
        for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
            let (mut wide, mut narrowed) = (vec![0.0; halves.len()], vec![from_bits(0); floats.len()]);
            isa::run(isa, Convert(&halves, &floats, &mut wide, &mut narrowed));
            for (h, &w) in halves.iter().zip(&wide) {
                let want = to(*h);
                assert!(w.to_bits() == want.to_bits() || w.is_nan() && want.is_nan(), "{isa} {:x}", bits(*h));
                assert!(!w.is_nan() || w.to_bits() & 0x0040_0000 != 0, "{isa}: a signalling NaN");
            }
            for (x, &n) in floats.iter().zip(&narrowed) {
                let want = from(*x);
                let same = bits(n) == bits(want) || to(n).is_nan() && x.is_nan();
                assert!(same, "{isa} {x:e}: {:x}, not {:x}", bits(n), bits(want));
            }
            // One by one, without the vector path, the same bits come out.
            assert!(halves.iter().zip(&wide).all(|(h, w)| h.widen().to_bits() == w.to_bits()), "{isa}");
            assert!(floats.iter().zip(&narrowed).all(|(x, n)| bits(T::narrow(*x)) == bits(*n)), "{isa}");
        }
    }

    #[test]
    fn bf16_rounds_to_even() {
        agrees_with_half(bf16::from_bits, bf16::to_bits, bf16::to_f32, bf16::from_f32);
    }

    #[test]
    fn f16_rounds_to_even() {
        agrees_with_half(f16::from_bits, f16::to_bits, f16::to_f32, f16::from_f32);
    }
}
