//! Products of bf16 with instructions that multiply pairs: AVX-512 BF16 and AMX.
//!
//! ```text
//! pair      elements 2p and 2p + 1 along K of one lane (a row of A, a column of B): 4 bytes
//! A packed  [rows, up to a multiple of 32][K, up to a multiple of 32]              rows of pairs, or in place
//! B packed  panels of 32 columns: [K / 2][32 columns][2]                           columns of pairs side by side
//! block     C[≤ 32 rows, 32 columns] = A · B over all of K, in f32                 kernel.rs
//! ```
//!
//! Attention has blocks of its own, in panels of pairs (`panel.rs`).
//!
//! Operands are packed once, with zeros behind their ends, and C is written once, rounded once. Rows of A that lie like
//! packed ones are read in place, where K is a multiple of 32, and M of 16 on tiles: theirs are most products of a training
//! step, forward and for gradients of activations.
//! K is not cut: sums stay in registers, and a panel of B and a block of A (64 bytes for each step along K) come from L2.
//!
//! A square of 16 lanes by 16 pairs fits in sixteen registers. Where the operand is contiguous along K, a register is a
//! lane; where its lanes are contiguous, two steps are interleaved and a register is a step. A wants lanes, B wants steps:
//! the square is transposed where it has to be.
//!
//! The instructions take subnormal numbers as zeros, and round sums to nearest. Their order of additions is their own,
//! which makes each of the two an instruction set of its own ([`crate::Isa`]).

mod kernel;
mod panel;

pub(super) use panel::PANELS;

use super::{
    block::{Operand, Product, Target},
    element::Element,
    schedule::{BATCH, Batch, SHARED_IN_BATCH, Scratch, Shared, TASK, block, grid},
    vector::{F32x16, Vector},
};
use crate::{CpuBackend, isa::Isa};
use attentia_backend::Result;
use half::bf16;
use kernel::{Kernel, Rows};
use std::arch::x86_64::*;

/// Rows and columns of a block.
const SIDE: usize = 32;
/// Lanes, and pairs, of a square.
const SQUARE: usize = 16;
/// Elements that are worth a task when they are packed.
const PACK: usize = 32 << 10;
/// Multiply-adds from which a product is shared by all threads, which pack it together.
const SHARED: usize = 2 * TASK;

/// Computes a batch of products with more than a few rows, if `isa` has the instructions.
///
/// # Safety
///
/// As for [`super::schedule::run`].
pub(crate) unsafe fn run<O: Element<Sum = f32>>(
    cpu: &CpuBackend,
    batch: &Batch,
    x: &Product<bf16, O>,
) -> Option<Result<()>> {
    let kernel = match cpu.isa {
        Isa::Avx512Bf16 => Kernel::Vector,
        Isa::Amx => Kernel::Tile,
        _ => return None,
    };
    // SAFETY: the caller's contract, for each product.
    Some(unsafe {
        if x.work() >= if batch.count() < BATCH { SHARED } else { SHARED_IN_BATCH } {
            (0..batch.count()).try_for_each(|i| shared(cpu, kernel, &batch.at(x, i)))
        } else {
            wholes(cpu, kernel, batch, x)
        }
    })
}

/// Extents of the packed operands.
#[derive(Clone, Copy)]
struct Packed {
    /// Elements of a row of A, and steps of a panel of B.
    depth: usize,
    /// Blocks of rows of A.
    strips: usize,
    /// Whether A is read in place.
    in_place: bool,
    /// Panels of B.
    panels: usize,
}

impl Packed {
    /// An operand that repeats itself may have more elements than memory: lengths saturate, and no memory is found.
    fn of<O>(kernel: Kernel, x: &Product<bf16, O>) -> Packed {
        let depth = x.k.checked_next_multiple_of(SIDE).unwrap_or(usize::MAX);
        let in_place = x.a.step == 1 && depth == x.k && kernel.stays_within(x.m);
        Packed { depth, strips: x.m.div_ceil(SIDE), in_place, panels: x.n.div_ceil(SIDE) }
    }

    /// Elements of packed A.
    fn a_len(&self) -> usize {
        if self.in_place { 0 } else { self.strips.saturating_mul(SIDE).saturating_mul(self.depth) }
    }

    /// Rows of A for the kernel, packed at `packed` where they are.
    fn a<O>(&self, x: &Product<bf16, O>, packed: *const bf16) -> Rows {
        match self.in_place {
            true => Rows { start: x.a.start, stride: x.a.lane },
            false => Rows { start: packed, stride: self.depth as isize },
        }
    }

    fn b_len(&self) -> usize {
        self.panels.saturating_mul(SIDE).saturating_mul(self.depth)
    }
}

/// One product, packed and computed by all threads.
///
/// # Safety
///
/// As for [`run`].
unsafe fn shared<O: Element<Sum = f32>>(cpu: &CpuBackend, kernel: Kernel, x: &Product<bf16, O>) -> Result<()> {
    let packed = Packed::of(kernel, x);
    let (a_memory, b_memory) = (block::<bf16>(cpu, packed.a_len())?, block::<bf16>(cpu, packed.b_len())?);
    let a = Shared(a_memory.as_ptr().cast::<bf16>());
    let b = Shared(b_memory.as_ptr().cast::<bf16>());
    // The memory was there, so that nothing overflows from here on.
    let a_strips = if packed.in_place { 0 } else { packed.strips };
    let together = (PACK / (SIDE * packed.depth)).max(1);
    let strips = a_strips + packed.panels;
    cpu.threads.run(strips.div_ceil(together), |task| {
        for strip in task * together..strips.min((task + 1) * together) {
            // SAFETY: the processor has the instructions; a strip of an operand, and its own part of the memory.
            unsafe {
                match mixed(strip, a_strips, packed.panels) {
                    Of::A(i) => pack_rows(x.a.at(i * SIDE, 0), x.m - i * SIDE, x.k, a.at(i * SIDE * packed.depth)),
                    Of::B(j) => pack_panel(x.b.at(j * SIDE, 0), x.n - j * SIDE, x.k, b.at(j * SIDE * packed.depth)),
                }
            }
        }
    });
    let (down, across) = grid(x.m, x.n, x.k, packed.strips, packed.panels);
    cpu.threads.run(down * across, |task| {
        // In place, nobody has packed rows of A: a thread's blocks share panels.
        let (i, j) = cell(task, [down, across], packed.b_len() > packed.a_len());
        let strips = i * packed.strips / down..(i + 1) * packed.strips / down;
        let panels = j * packed.panels / across..(j + 1) * packed.panels / across;
        // SAFETY: the caller's contract; the packed operands are complete, blocks are disjoint.
        kernel.configured(|| unsafe { blocks(kernel, x, &packed, packed.a(x, a.at(0)), b.at(0), strips, panels) });
    });
    Ok(())
}

/// A task of one operand, by its number among them.
enum Of {
    A(usize),
    B(usize),
}

/// Which of `a + b` tasks this is when both kinds are mixed evenly. A thread that takes a range of them packs its share of
/// both, and of A the rows that it multiplies later.
fn mixed(task: usize, a: usize, b: usize) -> Of {
    let before = |task: usize| task * a / (a + b);
    match before(task + 1) > before(task) {
        true => Of::A(before(task)),
        false => Of::B(task - before(task)),
    }
}

/// The block of C of a task. Each thread has a range of tasks of its own, and of packing: the blocks of a range share a part
/// of the larger operand, so that most of what a thread reads of that one it has packed itself. Cores may be far apart.
fn cell(task: usize, [down, across]: [usize; 2], b_is_larger: bool) -> (usize, usize) {
    if b_is_larger { (task % down, task / down) } else { (task / across, task % across) }
}

/// Whole products, some to a task, each packed by the thread that computes it.
///
/// # Safety
///
/// As for [`run`].
unsafe fn wholes<O: Element<Sum = f32>>(
    cpu: &CpuBackend,
    kernel: Kernel,
    batch: &Batch,
    x: &Product<bf16, O>,
) -> Result<()> {
    let packed = Packed::of(kernel, x);
    let (count, group) = (batch.count(), TASK.div_ceil(x.work()));
    let tasks = count.div_ceil(group);
    let scratch = Scratch::new::<bf16>(cpu, tasks, packed.a_len().saturating_add(packed.b_len()))?;
    cpu.threads.run(tasks, |task| {
        scratch.lend(|a: *mut bf16| {
            kernel.configured(|| {
                for i in task * group..count.min((task + 1) * group) {
                    let (x, b) = (batch.at(x, i), a.wrapping_add(packed.a_len()));
                    // SAFETY: the caller's contract; scratch holds both packed operands.
                    unsafe {
                        if !packed.in_place {
                            for row in (0..x.m).step_by(SIDE) {
                                pack_rows(x.a.at(row, 0), x.m - row, x.k, a.wrapping_add(row * packed.depth));
                            }
                        }
                        for col in (0..x.n).step_by(SIDE) {
                            pack_panel(x.b.at(col, 0), x.n - col, x.k, b.wrapping_add(col * packed.depth));
                        }
                        blocks(kernel, &x, &packed, packed.a(&x, a), b, 0..packed.strips, 0..packed.panels);
                    }
                }
            });
        });
    });
    Ok(())
}

/// Blocks of C: some strips of rows by some panels.
///
/// # Safety
///
/// As for [`run`]; B is packed, and A where it is not in place; the kernel is configured, and nobody else touches these blocks.
unsafe fn blocks<O: Element<Sum = f32>>(
    kernel: Kernel,
    x: &Product<bf16, O>,
    packed: &Packed,
    a: Rows,
    b: *const bf16,
    strips: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
) {
    let mut sums = kernel::Sums::zeros();
    for j in panels {
        let b = b.wrapping_add(j * SIDE * packed.depth);
        for i in strips.clone() {
            let (row, col) = (i * SIDE, j * SIDE);
            let (m, n) = (SIDE.min(x.m - row), SIDE.min(x.n - col));
            // SAFETY: a block of rows and a packed panel; a block of C.
            unsafe {
                kernel.block(a.at(row), b, packed.depth, m, &mut sums);
                let (then, c) = (x.then.at(row, col), x.c.at(row, col));
                let [start, ..] = then.operands();
                match then.only_starts() && c.col == 1 && start.is_none_or(|start| start.step == 1) {
                    true => write(&sums, m, n, c, start),
                    false => then.finish(sums.start(), SIDE as isize, m, n, c),
                }
            }
        }
    }
}

/// Writes a block of sums, on top of what they start from, rounding where C is bf16.
///
/// # Safety
///
/// C and the start are valid for `m` rows and `n` contiguous columns, nobody else touches C; the processor has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn write<O: Element<Sum = f32>>(
    sums: &kernel::Sums,
    m: usize,
    n: usize,
    c: Target<O>,
    start: Option<Operand<O>>,
) {
    for i in 0..m {
        for j in (0..n).step_by(16) {
            let mask: __mmask16 = if n - j >= 16 { !0 } else { (1 << (n - j)) - 1 };
            let to = c.at(i, j).start;
            // SAFETY: by contract; loads and stores are masked to the columns. O is f32 or bf16.
            unsafe {
                let mut sum = _mm512_loadu_ps(sums.start().wrapping_add(i * SIDE + j));
                if let Some(start) = start {
                    let from = start.at(i, j).start;
                    let first = match O::IS_SUM {
                        true => _mm512_maskz_loadu_ps(mask, from.cast()),
                        false => {
                            let halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
                            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
                        }
                    };
                    sum = _mm512_add_ps(sum, first);
                }
                if O::IS_SUM {
                    _mm512_mask_storeu_ps(to.cast(), mask, sum);
                } else {
                    let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(sum));
                    _mm256_mask_storeu_epi16(to.cast(), mask, rounded);
                }
            }
        }
    }
}

/// Packs up to 32 rows of A, the first of `rows`, over all of K.
///
/// # Safety
///
/// The operand has the rows and `k` steps; `to` holds 32 rows; the processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_rows(x: Operand<bf16>, rows: usize, k: usize, to: *mut bf16) {
    let depth = k.next_multiple_of(SIDE);
    for lane in [0, SQUARE] {
        for step in (0..k).step_by(SIDE) {
            // SAFETY: the part of the operand that there is.
            unsafe {
                let square = square::<true>(x.at(lane, step), rows.saturating_sub(lane), k - step);
                for (i, row) in square.into_iter().enumerate() {
                    _mm512_storeu_si512(to.wrapping_add((lane + i) * depth + step).cast(), row);
                }
            }
        }
    }
}

/// Packs a panel of up to 32 columns of B, the first of `cols`, over all of K.
///
/// # Safety
///
/// As for [`pack_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_panel(x: Operand<bf16>, cols: usize, k: usize, to: *mut bf16) {
    for step in (0..k).step_by(SIDE) {
        for lane in [0, SQUARE] {
            // SAFETY: as above.
            unsafe {
                let square = square::<false>(x.at(lane, step), cols.saturating_sub(lane), k - step);
                for (p, pairs) in square.into_iter().enumerate() {
                    _mm512_storeu_si512(to.wrapping_add((step / 2 + p) * 2 * SIDE + 2 * lane).cast(), pairs);
                }
            }
        }
    }
}

/// A square of 16 lanes by 16 pairs, zeros where the operand ends: a register for each lane, or for each step of a pair.
///
/// # Safety
///
/// The operand has `lanes` more lanes and `steps` more steps; the processor has AVX-512.
#[inline(always)]
unsafe fn square<const BY_LANE: bool>(x: Operand<bf16>, lanes: usize, steps: usize) -> [__m512i; SQUARE] {
    // SAFETY: loads are masked to what there is.
    unsafe {
        let mut square = [_mm512_setzero_si512(); SQUARE];
        let at = |lane: usize, step: usize| x.at(lane, step).start;
        if x.step == 1 {
            let mask: __mmask32 = if steps >= 32 { !0 } else { (1 << steps) - 1 };
            for (i, lane) in square.iter_mut().enumerate().take(lanes) {
                _mm_prefetch::<_MM_HINT_T0>(at(i, 4 * SIDE).cast());
                *lane = _mm512_maskz_loadu_epi16(mask, at(i, 0).cast());
            }
        } else if x.lane == 1 {
            let mask: __mmask16 = if lanes >= 16 { !0 } else { (1 << lanes) - 1 };
            for (p, pairs) in square.iter_mut().enumerate().take(steps.div_ceil(2)) {
                _mm_prefetch::<_MM_HINT_T0>(at(0, 2 * p + 2 * SIDE).cast());
                _mm_prefetch::<_MM_HINT_T0>(at(0, 2 * p + 1 + 2 * SIDE).cast());
                let even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at(0, 2 * p).cast()));
                let mask = if 2 * p + 1 < steps { mask } else { 0 };
                let odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at(0, 2 * p + 1).cast()));
                *pairs = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
            }
        } else {
            let mut pairs = [[0u16; 2 * SQUARE]; SQUARE];
            for (i, lane) in pairs.iter_mut().enumerate().take(lanes) {
                for (p, element) in lane.iter_mut().enumerate().take(steps) {
                    *element = (*at(i, p)).to_bits();
                }
            }
            for (register, lane) in square.iter_mut().zip(&pairs) {
                *register = _mm512_loadu_si512(lane.as_ptr().cast());
            }
        }
        let by_lane = x.step == 1 || x.lane != 1;
        if by_lane != BY_LANE {
            // Loops: a closure that `map` calls would be compiled without the instructions, and called through memory.
            let mut numbers = [F32x16::from(_mm512_setzero_ps()); SQUARE];
            for (number, pairs) in numbers.iter_mut().zip(square) {
                *number = F32x16::from(_mm512_castsi512_ps(pairs));
            }
            F32x16::transpose(&mut numbers);
            for (pairs, number) in square.iter_mut().zip(numbers) {
                *pairs = _mm512_castps_si512(number.into());
            }
        }
        square
    }
}
