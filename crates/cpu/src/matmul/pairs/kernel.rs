//! The two kernels for a block of 32 × 32 sums.
//!
//! ```text
//! Vector  for 14 rows at a time:  acc[14][2] += pairs of A[i, p] in every lane · 32 pairs of B[p, ..]      vdpbf16ps
//! Tile    acc[2][2] += A[16·i.., 32 steps] · B[32 steps, 16·j..]       16 × 16 sums of 32 products         tdpbf16ps
//! ```
//!
//! A tile instruction takes 16 cycles, a tile load 8: four products for four loads keep the unit busy. The language has no
//! intrinsics for tiles yet, so that they are written in assembly. Tiles are state of a thread, which costs it 8 KiB at
//! each switch: [`Kernel::configured`] claims them for a task and releases them behind it.

use super::SIDE;
use half::bf16;
use std::arch::{asm, x86_64::*};

/// Which instructions multiply.
#[derive(Clone, Copy)]
pub(super) enum Kernel {
    Vector,
    Tile,
}

/// Rows of A that are contiguous along K, packed or in place.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) start: *const bf16,
    /// Elements to the next row.
    pub(super) stride: isize,
}

impl Rows {
    /// From another row.
    pub(super) fn at(self, row: usize) -> Rows {
        Rows { start: self.start.wrapping_offset(row as isize * self.stride), ..self }
    }
}

/// A block of sums: 32 rows of 32.
#[repr(C, align(64))]
pub(super) struct Sums([f32; SIDE * SIDE]);

impl Sums {
    pub(super) fn zeros() -> Sums {
        Sums([0.0; SIDE * SIDE])
    }

    pub(super) fn start(&self) -> *const f32 {
        self.0.as_ptr()
    }
}

/// Eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

static TILES: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1; // the only palette there is
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64; // bytes of a row, two bytes little-endian
        bytes[48 + tile] = 16; // rows
        tile += 1;
    }
    Configuration(bytes)
};

impl Kernel {
    /// Whether the kernel reads no row behind the last of `m`: tiles have sixteen.
    pub(super) fn stays_within(self, m: usize) -> bool {
        matches!(self, Kernel::Vector) || m.is_multiple_of(16)
    }

    /// Runs a task with this thread's tiles claimed, where the kernel needs them.
    pub(super) fn configured(self, task: impl FnOnce()) {
        /// Releases them, panic or not.
        struct Claimed;
        impl Drop for Claimed {
            fn drop(&mut self) {
                // SAFETY: the processor has tiles, and the system has given them to this process.
                unsafe { asm!("tilerelease", options(nostack, nomem)) };
            }
        }
        if let Kernel::Vector = self {
            return task();
        }
        // SAFETY: as above; the configuration is one that the processor accepts.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &TILES, options(nostack, readonly)) };
        let _claimed = Claimed;
        task();
    }

    /// `sums[rows][32] = A · B` over `depth` steps.
    ///
    /// # Safety
    ///
    /// `a` are 32 rows of `depth` elements, or the last of an operand that the kernel [stays within](Kernel::stays_within); `b` is a packed
    /// panel of as many steps, `depth` a multiple of 32 above 0; `rows` is at most 32; the processor has the instructions, and tiles are claimed for [`Kernel::Tile`].
    #[inline]
    pub(super) unsafe fn block(self, a: Rows, b: *const bf16, depth: usize, rows: usize, sums: &mut Sums) {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                Kernel::Vector => vector(a, b, depth, rows, sums),
                Kernel::Tile if rows > 16 => tiles(a, b, depth, sums),
                Kernel::Tile => upper_tiles(a, b, depth, sums),
            }
        }
    }
}

/// # Safety
///
/// As [`Kernel::block`].
unsafe fn vector(a: Rows, b: *const bf16, depth: usize, rows: usize, sums: &mut Sums) {
    const MOST: usize = 14;
    let parts = rows.div_ceil(MOST);
    for part in 0..parts {
        let (first, last) = (part * rows / parts, (part + 1) * rows / parts);
        let (a, c) = (a.at(first), sums.0[first * SIDE..].as_mut_ptr());
        macro_rules! heights {
            ($($height:literal)*) => {
                // SAFETY: the rows of this part.
                unsafe { match last - first { $($height => rows_of_pairs::<$height>(a, b, depth, c),)* _ => {} } }
            };
        }
        heights!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

/// # Safety
///
/// As [`Kernel::block`], for R rows of A and of the sums.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[expect(clippy::needless_range_loop)] // rows and registers by number
unsafe fn rows_of_pairs<const R: usize>(a: Rows, b: *const bf16, depth: usize, c: *mut f32) {
    // SAFETY: by contract.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        for p in 0..depth / 2 {
            let pairs: [__m512bh; 2] = std::array::from_fn(|j| {
                std::mem::transmute(_mm512_loadu_si512(b.wrapping_add(p * 2 * SIDE + j * SIDE).cast()))
            });
            for i in 0..R {
                let pair = a.at(i).start.wrapping_add(2 * p).cast::<i32>().read_unaligned();
                let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(pair));
                for j in 0..2 {
                    acc[i][j] = _mm512_dpbf16_ps(acc[i][j], pair, pairs[j]);
                }
            }
        }
        for i in 0..R {
            for j in 0..2 {
                _mm512_storeu_ps(c.wrapping_add(i * SIDE + j * 16), acc[i][j]);
            }
        }
    }
}

/// # Safety
///
/// As [`Kernel::block`].
unsafe fn tiles(a: Rows, b: *const bf16, depth: usize, sums: &mut Sums) {
    // SAFETY: by contract; four tiles of sums are stored to 32 rows of 128 bytes.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{upper} + {row} * 1]",
            "tileloadd tmm6, [{b} + {pairs} * 1]",
            "tileloadd tmm7, [{b} + {pairs} * 1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{lower} + {row} * 1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {pairs} * 1], tmm0",
            "tilestored [{c} + {pairs} * 1 + 64], tmm1",
            "tilestored [{c} + {pairs} * 1 + 2048], tmm2",
            "tilestored [{c} + {pairs} * 1 + 2112], tmm3",
            upper = inout(reg) a.start => _,
            lower = inout(reg) a.at(16).start => _,
            b = inout(reg) b => _,
            steps = inout(reg) depth / 32 => _,
            row = in(reg) 2 * a.stride,
            pairs = in(reg) 128usize,
            c = in(reg) sums.0.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// [`tiles`] for at most sixteen rows.
///
/// # Safety
///
/// As [`Kernel::block`].
unsafe fn upper_tiles(a: Rows, b: *const bf16, depth: usize, sums: &mut Sums) {
    // SAFETY: as above; two tiles are stored.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{a} + {row} * 1]",
            "tileloadd tmm6, [{b} + {pairs} * 1]",
            "tileloadd tmm7, [{b} + {pairs} * 1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 64",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {pairs} * 1], tmm0",
            "tilestored [{c} + {pairs} * 1 + 64], tmm1",
            a = inout(reg) a.start => _,
            b = inout(reg) b => _,
            steps = inout(reg) depth / 32 => _,
            row = in(reg) 2 * a.stride,
            pairs = in(reg) 128usize,
            c = in(reg) sums.0.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
