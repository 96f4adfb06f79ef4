//! Pairs in the panels of `tile.rs`, for blocks that are packed once and read often.
//!
//! ```text
//! slot     a pair of neighbours along K, in the place of an f32            (K + 1) / 2 steps instead of K
//! panel    [steps][lanes] of slots, as a panel of sums is [K][lanes] of f32
//! tile     acc[i][..] += slots of A[i, p] in every lane · slots of B[p, ..]      vdpbf16ps
//! ```
//!
//! A tile moves the bits of an f32 and looks at none but where it multiplies: with another multiplication it is the tile of
//! pairs, and whoever cuts blocks for one cuts them for the other. What a kernel has computed in f32 becomes a left operand
//! by rounding neighbours into a slot, in place.

use super::{SIDE, SQUARE, square};
use crate::matmul::{
    block::Operand,
    kernel::{Kernels, Pack, PairPanels, Tile, TileFn},
    tile::{
        Products, avx512,
        place::{FREE, PANEL},
        tile as tile_of,
    },
    vector::{F32x16, Load, Vector},
};
use half::bf16;
use std::arch::x86_64::*;

/// Products of slots: two of their elements each, added to a sum.
struct OfSlots;

impl Products<F32x16> for OfSlots {
    #[inline(always)]
    unsafe fn add(sums: F32x16, a: F32x16, b: F32x16) -> F32x16 {
        // SAFETY: the caller's processor has the instruction; registers of the same size.
        unsafe {
            let pairs = |slots: F32x16| std::mem::transmute::<__m512, __m512bh>(slots.into());
            F32x16::from(_mm512_dpbf16_ps(sums.into(), pairs(a), pairs(b)))
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn tile<const R: usize, const N: usize, const PLACE: u8>(t: &Tile<f32, f32>) {
    // SAFETY: this function is only called on a processor that has its features; the rest is the caller's.
    unsafe { tile_of::<F32x16, f32, OfSlots, R, N, PLACE>(t) }
}

macro_rules! tiles {
    ($place:ident: $($row:literal)*) => {
        &[$([tile::<$row, 1, $place>, tile::<$row, 2, $place>]),*]
    };
}
const PACKED: &[[TileFn<f32, f32>; 2]] = tiles!(PANEL: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
const ANYWHERE: &[[TileFn<f32, f32>; 2]] = tiles!(FREE: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);

/// Tiles whose operands are slots. Thin products are those of single numbers.
pub(crate) static PANELS: PairPanels<bf16> = PairPanels {
    kernels: Kernels { panels: PACKED, free: ANYWHERE, pack: strip, ..avx512::Table::<bf16>::KERNELS },
    clear,
    along: narrow_along,
    across: narrow_across,
};

/// Packs a strip; `k` counts elements, and an odd last one has a zero beside it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn strip(t: &Pack<f32, bf16>) {
    let x = Operand { start: t.from, lane: t.lane, step: t.step };
    for lane in (0..t.pitch).step_by(SQUARE) {
        let mask: __mmask16 = if t.pitch - lane >= SQUARE { !0 } else { (1 << (t.pitch - lane)) - 1 };
        for step in (0..t.k).step_by(SIDE) {
            let slots = (t.k - step).div_ceil(2).min(SQUARE);
            // SAFETY: the part of the operand that there is; the strip has these slots of these lanes.
            unsafe {
                let square = square::<false>(x.at(lane, step), t.width.saturating_sub(lane), t.k - step);
                for (p, pairs) in square.into_iter().enumerate().take(slots) {
                    let to = t.to.wrapping_add((step / 2 + p) * t.pitch + lane);
                    _mm512_mask_storeu_epi32(to.cast(), mask, pairs);
                }
            }
        }
    }
}

/// Makes zeros of the first or second elements of so many slots.
///
/// # Safety
///
/// They are there, and nobody else touches them.
unsafe fn clear(slots: *mut f32, count: usize, which: usize) {
    for slot in (0..count).map(|i| slots.wrapping_add(i).cast::<[bf16; 2]>()) {
        // SAFETY: by contract.
        unsafe { (&mut *slot)[which] = bf16::ZERO };
    }
}

/// Two registers of sums as sixteen and sixteen rounded numbers.
#[inline(always)]
unsafe fn narrow(low: __m512, high: __m512) -> __m512i {
    // SAFETY: the caller's processor has the instruction; registers of the same size.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// `columns` sums of a row from `at` on, up to sixteen, and zeros.
#[inline(always)]
unsafe fn sums(row: *const f32, at: usize, columns: usize) -> __m512 {
    // SAFETY: the caller's row has the columns.
    unsafe { <F32x16 as Load<f32>>::load_masked(row.wrapping_add(at), F32x16::mask(columns.saturating_sub(at))).into() }
}

/// Rows of sums become rows of slots along their columns, in place: `[rows, columns]` f32 to `[rows, ⌈columns / 2⌉]`.
///
/// # Safety
///
/// Rows are `pitch` apart, which is at least `columns`, up to a multiple of 32; nobody else touches them; the processor has
/// AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn narrow_along(x: *mut f32, rows: usize, columns: usize, pitch: usize) {
    for i in 0..rows {
        let row = x.wrapping_add(i * pitch);
        for at in (0..columns).step_by(SIDE) {
            // SAFETY: by contract. Slots lie before the sums that are read next.
            unsafe {
                let pairs = narrow(sums(row, at, columns), sums(row, at + 16, columns));
                _mm512_storeu_si512(row.wrapping_add(at / 2).cast(), pairs);
            }
        }
    }
}

/// Two matrices of sums become left operands along their rows, and the second also along its columns, in place:
///
/// ```text
/// row 2p of x        pairs of rows 2p and 2p + 1 of x            [columns] slots
/// row 2p + 1 of x    pairs of rows 2p and 2p + 1 of y
/// row i of y         pairs along the columns of row i of y       [⌈columns / 2⌉] slots
/// ```
///
/// A row that is missing at the end counts as zeros.
///
/// # Safety
///
/// As [`narrow_along`], for both; x has an even number of rows in memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn narrow_across(x: *mut f32, y: *mut f32, rows: usize, columns: usize, pitch: usize) {
    let side_by_side = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
        16, 0,
    );
    for i in (0..rows).step_by(2) {
        let (x, y) = (x.wrapping_add(i * pitch), y.wrapping_add(i * pitch));
        let (next_x, next_y) = (x.wrapping_add(pitch), y.wrapping_add(pitch));
        let next = if i + 1 < rows { columns } else { 0 };
        for at in (0..columns).step_by(SIDE) {
            // SAFETY: by contract. Everything of these columns is read before it is written over.
            unsafe {
                let of = |row: *mut f32, columns: usize| [sums(row, at, columns), sums(row, at + 16, columns)];
                let (x0, x1, y0, y1) = (of(x, columns), of(next_x, next), of(y, columns), of(next_y, next));
                for half in 0..2 {
                    let to = at + 16 * half;
                    let pairs = |a: __m512, b: __m512| _mm512_permutexvar_epi16(side_by_side, narrow(a, b));
                    _mm512_storeu_si512(x.wrapping_add(to).cast(), pairs(x0[half], x1[half]));
                    _mm512_storeu_si512(next_x.wrapping_add(to).cast(), pairs(y0[half], y1[half]));
                }
                _mm512_storeu_si512(y.wrapping_add(at / 2).cast(), narrow(y0[0], y0[1]));
                if next > 0 {
                    _mm512_storeu_si512(next_y.wrapping_add(at / 2).cast(), narrow(y1[0], y1[1]));
                }
            }
        }
    }
}
