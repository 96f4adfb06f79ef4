//! The registers that the kernels of products are written over.
//!
//! One small trait, because one micro-kernel text serves four kinds of register: it has what a product needs (load,
//! splat, fused multiply-add, store, a mask for the last columns, a square transpose for packing) and nothing else.
//!
//! Every method compiles to instructions of the register's instruction set, and is inlined into a function that has
//! them enabled. Contract of all of them: the processor has that instruction set; pointers are valid for the lanes
//! that the mask selects, or for all of them without one.

use half::{bf16, f16};
use std::{arch::x86_64::*, ops::IndexMut};

/// A register of `LANES` numbers.
pub(crate) trait Vector: Copy {
    /// Its numbers.
    type Scalar: Copy;
    /// Selects its first lanes.
    type Mask: Copy;
    /// As many registers as lanes.
    type Square: Copy + IndexMut<usize, Output = Self>;
    /// Numbers in it.
    const LANES: usize;
    /// Whether a multiply-add can take a factor from memory, the same for every lane.
    const BROADCASTS: bool;
    unsafe fn zero() -> Self;
    unsafe fn zeros() -> Self::Square;
    /// The number at `p` in every lane.
    unsafe fn splat(p: *const Self::Scalar) -> Self;
    /// `a · b + self`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    /// Sum of the lanes, in a fixed order.
    unsafe fn sum(self) -> Self::Scalar;
    /// The first `lanes` lanes, all of them from `LANES` on.
    unsafe fn mask(lanes: usize) -> Self::Mask;
    unsafe fn store(self, p: *mut Self::Scalar);
    unsafe fn store_masked(self, p: *mut Self::Scalar, mask: Self::Mask);
    /// Lane `j` of register `i` becomes lane `i` of register `j`.
    unsafe fn transpose(square: &mut Self::Square);
}

/// Reading elements of type `T` into lanes, widened exactly.
pub(crate) trait Load<T>: Vector {
    unsafe fn load(p: *const T) -> Self;
    /// Zero in the lanes that the mask leaves out, whose memory is not touched.
    unsafe fn load_masked(p: *const T, mask: Self::Mask) -> Self;
}

/// Sixteen `f32` in an AVX-512 register.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m512);
impl From<__m512> for F32x16 {
    fn from(register: __m512) -> F32x16 {
        F32x16(register)
    }
}

impl From<F32x16> for __m512 {
    fn from(numbers: F32x16) -> __m512 {
        numbers.0
    }
}

/// Eight `f64` in an AVX-512 register.
#[derive(Clone, Copy)]
pub(crate) struct F64x8(__m512d);
/// Eight `f32` in an AVX register.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(__m256);
/// Four `f64` in an AVX register.
#[derive(Clone, Copy)]
pub(crate) struct F64x4(__m256d);

/// Methods that forward to one intrinsic each.
macro_rules! forward {
    ($(fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)? = $body:expr;)*) => {$(
        #[inline(always)]
        #[allow(unused_unsafe)] // for the methods that call no intrinsic
        unsafe fn $name($($arg: $type),*) $(-> $out)? {
            // SAFETY: the caller keeps the module's contract.
            unsafe { $body }
        }
    )*};
}

impl Vector for F32x16 {
    type Scalar = f32;
    type Mask = __mmask16;
    type Square = [F32x16; 16];
    const LANES: usize = 16;
    const BROADCASTS: bool = true;
    forward! {
        fn zero() -> Self = F32x16(_mm512_setzero_ps());
        fn zeros() -> [F32x16; 16] = [F32x16(_mm512_setzero_ps()); 16];
        fn splat(p: *const f32) -> Self = F32x16(_mm512_set1_ps(*p));
        fn fma(self: Self, a: Self, b: Self) -> Self = F32x16(_mm512_fmadd_ps(a.0, b.0, self.0));
        fn add(self: Self, other: Self) -> Self = F32x16(_mm512_add_ps(self.0, other.0));
        fn sum(self: Self) -> f32 = _mm512_reduce_add_ps(self.0);
        fn mask(lanes: usize) -> __mmask16 = if lanes >= 16 { !0 } else { (1 << lanes) - 1 };
        fn store(self: Self, p: *mut f32) = _mm512_storeu_ps(p, self.0);
        fn store_masked(self: Self, p: *mut f32, mask: __mmask16) = _mm512_mask_storeu_ps(p, mask, self.0);
    }
    #[inline(always)]
    unsafe fn transpose(square: &mut [F32x16; 16]) {
        // SAFETY: the caller keeps the module's contract.
        unsafe {
            // 2 × 2 blocks of numbers, of pairs, of quarters, of halves change places.
            let mut pairs = [_mm512_setzero_ps(); 16];
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_ps(square[2 * i].0, square[2 * i + 1].0);
                pairs[2 * i + 1] = _mm512_unpackhi_ps(square[2 * i].0, square[2 * i + 1].0);
            }
            let mut quads = [_mm512_setzero_ps(); 16];
            for i in 0..4 {
                for half in 0..2 {
                    let (low, high) =
                        (_mm512_castps_pd(pairs[4 * i + half]), _mm512_castps_pd(pairs[4 * i + 2 + half]));
                    quads[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                    quads[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
                }
            }
            // quads[4i + c], quarter q: rows 4i..4i+4 of column 4q + c.
            for c in 0..4 {
                let [r0, r1, r2, r3] = [quads[c], quads[4 + c], quads[8 + c], quads[12 + c]];
                let (even01, odd01) = (_mm512_shuffle_f32x4::<0x88>(r0, r1), _mm512_shuffle_f32x4::<0xdd>(r0, r1));
                let (even23, odd23) = (_mm512_shuffle_f32x4::<0x88>(r2, r3), _mm512_shuffle_f32x4::<0xdd>(r2, r3));
                square[c] = F32x16(_mm512_shuffle_f32x4::<0x88>(even01, even23));
                square[4 + c] = F32x16(_mm512_shuffle_f32x4::<0x88>(odd01, odd23));
                square[8 + c] = F32x16(_mm512_shuffle_f32x4::<0xdd>(even01, even23));
                square[12 + c] = F32x16(_mm512_shuffle_f32x4::<0xdd>(odd01, odd23));
            }
        }
    }
}

impl Load<f32> for F32x16 {
    forward! {
        fn load(p: *const f32) -> Self = F32x16(_mm512_loadu_ps(p));
        fn load_masked(p: *const f32, mask: __mmask16) -> Self = F32x16(_mm512_maskz_loadu_ps(mask, p));
    }
}

/// bf16 is the upper half of f32.
#[inline(always)]
unsafe fn widen_bf16_512(x: __m256i) -> F32x16 {
    // SAFETY: the caller keeps the module's contract.
    unsafe { F32x16(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))) }
}

impl Load<bf16> for F32x16 {
    forward! {
        fn load(p: *const bf16) -> Self = widen_bf16_512(_mm256_loadu_si256(p.cast()));
        fn load_masked(p: *const bf16, mask: __mmask16) -> Self = widen_bf16_512(_mm256_maskz_loadu_epi16(mask, p.cast()));
    }
}

impl Load<f16> for F32x16 {
    forward! {
        fn load(p: *const f16) -> Self = F32x16(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())));
        fn load_masked(p: *const f16, mask: __mmask16) -> Self =
            F32x16(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p.cast())));
    }
}

impl Vector for F64x8 {
    type Scalar = f64;
    type Mask = __mmask8;
    type Square = [F64x8; 8];
    const LANES: usize = 8;
    const BROADCASTS: bool = true;
    forward! {
        fn zero() -> Self = F64x8(_mm512_setzero_pd());
        fn zeros() -> [F64x8; 8] = [F64x8(_mm512_setzero_pd()); 8];
        fn splat(p: *const f64) -> Self = F64x8(_mm512_set1_pd(*p));
        fn fma(self: Self, a: Self, b: Self) -> Self = F64x8(_mm512_fmadd_pd(a.0, b.0, self.0));
        fn add(self: Self, other: Self) -> Self = F64x8(_mm512_add_pd(self.0, other.0));
        fn sum(self: Self) -> f64 = _mm512_reduce_add_pd(self.0);
        fn mask(lanes: usize) -> __mmask8 = if lanes >= 8 { !0 } else { (1 << lanes) - 1 };
        fn store(self: Self, p: *mut f64) = _mm512_storeu_pd(p, self.0);
        fn store_masked(self: Self, p: *mut f64, mask: __mmask8) = _mm512_mask_storeu_pd(p, mask, self.0);
    }
    #[inline(always)]
    unsafe fn transpose(square: &mut [F64x8; 8]) {
        // SAFETY: the caller keeps the module's contract.
        unsafe {
            let mut pairs = [_mm512_setzero_pd(); 8];
            for i in 0..4 {
                pairs[2 * i] = _mm512_unpacklo_pd(square[2 * i].0, square[2 * i + 1].0);
                pairs[2 * i + 1] = _mm512_unpackhi_pd(square[2 * i].0, square[2 * i + 1].0);
            }
            // pairs[2i + c], quarter q: rows 2i and 2i + 1 of column 2q + c.
            for c in 0..2 {
                let [r0, r1, r2, r3] = [pairs[c], pairs[2 + c], pairs[4 + c], pairs[6 + c]];
                let (even01, odd01) = (_mm512_shuffle_f64x2::<0x88>(r0, r1), _mm512_shuffle_f64x2::<0xdd>(r0, r1));
                let (even23, odd23) = (_mm512_shuffle_f64x2::<0x88>(r2, r3), _mm512_shuffle_f64x2::<0xdd>(r2, r3));
                square[c] = F64x8(_mm512_shuffle_f64x2::<0x88>(even01, even23));
                square[2 + c] = F64x8(_mm512_shuffle_f64x2::<0x88>(odd01, odd23));
                square[4 + c] = F64x8(_mm512_shuffle_f64x2::<0xdd>(even01, even23));
                square[6 + c] = F64x8(_mm512_shuffle_f64x2::<0xdd>(odd01, odd23));
            }
        }
    }
}

impl Load<f64> for F64x8 {
    forward! {
        fn load(p: *const f64) -> Self = F64x8(_mm512_loadu_pd(p));
        fn load_masked(p: *const f64, mask: __mmask8) -> Self = F64x8(_mm512_maskz_loadu_pd(mask, p));
    }
}

impl Vector for F32x8 {
    type Scalar = f32;
    type Mask = __m256i;
    type Square = [F32x8; 8];
    const LANES: usize = 8;
    const BROADCASTS: bool = false;
    forward! {
        fn zero() -> Self = F32x8(_mm256_setzero_ps());
        fn zeros() -> [F32x8; 8] = [F32x8(_mm256_setzero_ps()); 8];
        fn splat(p: *const f32) -> Self = F32x8(_mm256_set1_ps(*p));
        fn fma(self: Self, a: Self, b: Self) -> Self = F32x8(_mm256_fmadd_ps(a.0, b.0, self.0));
        fn add(self: Self, other: Self) -> Self = F32x8(_mm256_add_ps(self.0, other.0));
        fn sum(self: Self) -> f32 = {
            let half = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
        };
        fn mask(lanes: usize) -> __m256i =
            _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes.min(8) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        fn store(self: Self, p: *mut f32) = _mm256_storeu_ps(p, self.0);
        fn store_masked(self: Self, p: *mut f32, mask: __m256i) = _mm256_maskstore_ps(p, mask, self.0);
    }
    #[inline(always)]
    unsafe fn transpose(square: &mut [F32x8; 8]) {
        // SAFETY: the caller keeps the module's contract.
        unsafe {
            let mut quads = [_mm256_setzero_ps(); 8];
            for i in 0..2 {
                let (r0, r1) = (square[4 * i].0, square[4 * i + 1].0);
                let (r2, r3) = (square[4 * i + 2].0, square[4 * i + 3].0);
                let (low01, high01) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
                let (low23, high23) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
                quads[4 * i] = _mm256_shuffle_ps::<0x44>(low01, low23);
                quads[4 * i + 1] = _mm256_shuffle_ps::<0xee>(low01, low23);
                quads[4 * i + 2] = _mm256_shuffle_ps::<0x44>(high01, high23);
                quads[4 * i + 3] = _mm256_shuffle_ps::<0xee>(high01, high23);
            }
            for c in 0..4 {
                square[c] = F32x8(_mm256_permute2f128_ps::<0x20>(quads[c], quads[4 + c]));
                square[4 + c] = F32x8(_mm256_permute2f128_ps::<0x31>(quads[c], quads[4 + c]));
            }
        }
    }
}

impl Load<f32> for F32x8 {
    forward! {
        fn load(p: *const f32) -> Self = F32x8(_mm256_loadu_ps(p));
        fn load_masked(p: *const f32, mask: __m256i) -> Self = F32x8(_mm256_maskload_ps(p, mask));
    }
}

/// The selected 16-bit elements, zero in the other lanes: AVX2 has no masked load for them.
#[inline(always)]
unsafe fn load_halves(p: *const u16, mask: __m256i) -> __m128i {
    // SAFETY: the caller keeps the module's contract; only selected elements are read.
    unsafe {
        let lanes = (_mm256_movemask_ps(_mm256_castsi256_ps(mask)) as u32).trailing_ones() as usize;
        let mut halves = [0u16; 8];
        for (i, half) in halves.iter_mut().enumerate().take(lanes) {
            *half = *p.add(i);
        }
        _mm_loadu_si128(halves.as_ptr().cast())
    }
}

/// bf16 is the upper half of f32.
#[inline(always)]
unsafe fn widen_bf16_256(x: __m128i) -> F32x8 {
    // SAFETY: the caller keeps the module's contract.
    unsafe { F32x8(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))) }
}

impl Load<bf16> for F32x8 {
    forward! {
        fn load(p: *const bf16) -> Self = widen_bf16_256(_mm_loadu_si128(p.cast()));
        fn load_masked(p: *const bf16, mask: __m256i) -> Self = widen_bf16_256(load_halves(p.cast(), mask));
    }
}

impl Load<f16> for F32x8 {
    forward! {
        fn load(p: *const f16) -> Self = F32x8(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())));
        fn load_masked(p: *const f16, mask: __m256i) -> Self = F32x8(_mm256_cvtph_ps(load_halves(p.cast(), mask)));
    }
}

impl Vector for F64x4 {
    type Scalar = f64;
    type Mask = __m256i;
    type Square = [F64x4; 4];
    const LANES: usize = 4;
    const BROADCASTS: bool = false;
    forward! {
        fn zero() -> Self = F64x4(_mm256_setzero_pd());
        fn zeros() -> [F64x4; 4] = [F64x4(_mm256_setzero_pd()); 4];
        fn splat(p: *const f64) -> Self = F64x4(_mm256_set1_pd(*p));
        fn fma(self: Self, a: Self, b: Self) -> Self = F64x4(_mm256_fmadd_pd(a.0, b.0, self.0));
        fn add(self: Self, other: Self) -> Self = F64x4(_mm256_add_pd(self.0, other.0));
        fn sum(self: Self) -> f64 = {
            let half = _mm_add_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
            _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)))
        };
        fn mask(lanes: usize) -> __m256i =
            _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes.min(4) as i64), _mm256_setr_epi64x(0, 1, 2, 3));
        fn store(self: Self, p: *mut f64) = _mm256_storeu_pd(p, self.0);
        fn store_masked(self: Self, p: *mut f64, mask: __m256i) = _mm256_maskstore_pd(p, mask, self.0);
    }
    #[inline(always)]
    unsafe fn transpose(square: &mut [F64x4; 4]) {
        // SAFETY: the caller keeps the module's contract.
        unsafe {
            let [F64x4(r0), F64x4(r1), F64x4(r2), F64x4(r3)] = *square;
            let (low01, high01) = (_mm256_unpacklo_pd(r0, r1), _mm256_unpackhi_pd(r0, r1));
            let (low23, high23) = (_mm256_unpacklo_pd(r2, r3), _mm256_unpackhi_pd(r2, r3));
            square[0] = F64x4(_mm256_permute2f128_pd::<0x20>(low01, low23));
            square[1] = F64x4(_mm256_permute2f128_pd::<0x20>(high01, high23));
            square[2] = F64x4(_mm256_permute2f128_pd::<0x31>(low01, low23));
            square[3] = F64x4(_mm256_permute2f128_pd::<0x31>(high01, high23));
        }
    }
}

impl Load<f64> for F64x4 {
    forward! {
        fn load(p: *const f64) -> Self = F64x4(_mm256_loadu_pd(p));
        fn load_masked(p: *const f64, mask: __m256i) -> Self = F64x4(_mm256_maskload_pd(p, mask));
    }
}
