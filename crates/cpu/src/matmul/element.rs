//! What products need to know about a dtype.

use super::{block::Product, kernel::PairPanels, portable, schedule::Batch};
use crate::{CpuBackend, isa::Isa, math::Real, storage::Raw};
use attentia_backend::Result;
use half::{bf16, f16, slice::HalfFloatSliceExt};

#[cfg(target_arch = "x86_64")]
use super::vector::{F32x8, F32x16, F64x4, F64x8, Load, Vector};

/// The type that products accumulate in.
pub(crate) trait Sum: Element<Sum = Self> + Real {
    /// matrixmultiply's product of this type.
    const PORTABLE: portable::Gemm<Self>;
}

/// An operand's or a destination's element.
pub(crate) trait Element: Raw {
    /// `f64` for `f64`, else `f32`.
    type Sum: Sum;
    /// Whether `Sum` is this very type, so that kernels may read and write operands in place.
    const IS_SUM: bool;
    /// Exact.
    fn widen(self) -> Self::Sum;
    /// Rounds each number to nearest, ties to even.
    fn narrow(from: &[Self::Sum], to: &mut [Self]);

    /// Products on instructions that multiply pairs of this type, where the backend's instruction set has them.
    ///
    /// # Safety
    ///
    /// As for [`super::schedule::run`].
    unsafe fn pairs<O: Element<Sum = Self::Sum>>(
        _cpu: &CpuBackend,
        _batch: &Batch,
        _x: &Product<Self, O>,
    ) -> Option<Result<()>> {
        None
    }

    /// Kernels of panels whose steps are pairs of this type, where `isa` has them and they are the faster ones.
    fn pair_panels(_isa: Isa) -> Option<&'static PairPanels<Self>> {
        None
    }

    /// Its sums in AVX-512 registers.
    #[cfg(target_arch = "x86_64")]
    type Zmm: Vector<Scalar = Self::Sum> + Load<Self> + Load<Self::Sum>;
    /// Its sums in AVX2 registers.
    #[cfg(target_arch = "x86_64")]
    type Ymm: Vector<Scalar = Self::Sum> + Load<Self> + Load<Self::Sum>;
}

macro_rules! sums {
    ($($t:ident, $gemm:path, $wide:ident, $narrow:ident;)*) => {$(
        impl Sum for $t {
            const PORTABLE: portable::Gemm<$t> = $gemm;
        }
        impl Element for $t {
            type Sum = $t;
            const IS_SUM: bool = true;
            #[inline(always)]
            fn widen(self) -> $t { self }
            fn narrow(from: &[$t], to: &mut [$t]) { to.copy_from_slice(from) }
            #[cfg(target_arch = "x86_64")]
            type Zmm = $wide;
            #[cfg(target_arch = "x86_64")]
            type Ymm = $narrow;
        }
    )*};
}
sums! {
    f64, matrixmultiply::dgemm, F64x8, F64x4;
    f32, matrixmultiply::sgemm, F32x16, F32x8;
}

impl Element for bf16 {
    type Sum = f32;
    const IS_SUM: bool = false;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn narrow(from: &[f32], to: &mut [bf16]) {
        // Without a branch, so that the compiler vectorises it: adding half of the last kept bit rounds, and carries
        // into the exponent as it should; a NaN keeps its sign and becomes quiet.
        for (&x, y) in from.iter().zip(to) {
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            let quiet = bits >> 16 | 0x40;
            *y = bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16);
        }
    }
    #[cfg(target_arch = "x86_64")]
    unsafe fn pairs<O: Element<Sum = f32>>(
        cpu: &CpuBackend,
        batch: &Batch,
        x: &Product<bf16, O>,
    ) -> Option<Result<()>> {
        // SAFETY: the caller's contract.
        unsafe { super::pairs::run(cpu, batch, x) }
    }
    /// Not with tiles of AMX: a processor that has them takes pairs in registers more slowly than f32.
    #[cfg(target_arch = "x86_64")]
    fn pair_panels(isa: Isa) -> Option<&'static PairPanels<bf16>> {
        (isa == Isa::Avx512Bf16).then_some(&super::pairs::PANELS)
    }
    #[cfg(target_arch = "x86_64")]
    type Zmm = F32x16;
    #[cfg(target_arch = "x86_64")]
    type Ymm = F32x8;
}

impl Element for f16 {
    type Sum = f32;
    const IS_SUM: bool = false;
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
    #[cfg(target_arch = "x86_64")]
    type Zmm = F32x16;
    #[cfg(target_arch = "x86_64")]
    type Ymm = F32x8;
}
