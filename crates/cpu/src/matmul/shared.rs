//! One large product on all threads.
//!
//! ```text
//! kept      the smaller operand, in parts of its lanes; a thread packs a part when it first needs it
//! cut       the larger one; each block of C has some of its lanes, which no other block of the part reads
//!
//! for pc in 0..K step 1024:
//!     in parallel, for each part of the kept operand and each block of the cut one:
//!         pack the part                  unless this thread has it from the block before
//!         C[block] += A · B              `tiles` packs the block's lanes of the cut operand
//! ```
//!
//! Who computes a block packs what it reads of both operands, into memory of its own. So the kept operand is packed by every
//! thread, and none of them reads a line that another has just written: between cores on different dies that takes hundreds
//! of cycles. Nor do they wait for each other between packing and multiplying (docs/src/measurements.md has what it brought).
//! Many threads share the parts among them. How lanes are cut changes no sum, so that it may depend on their number.

use super::{
    block::{
        KC, Operand, Product, Side, Target, Window, a_in_place, b_in_place, depth, direct, finish, first_row, pack,
        panel_len, product, scratch_len, tiles,
    },
    element::Element,
    kernel::Kernels,
    schedule::{BLOCK_TASKS, BLOCK_WORK, Scratch, block, grid},
};
use crate::CpuBackend;
use attentia_backend::Result;
use std::ops::Range;

/// A slab of the packed operand that a thread keeps: at most so many steps along K …
const SLAB_DEPTH: usize = 1024;
/// … by so many rows or columns: 8 MiB of f32, which L3 holds.
const SLAB_WIDTH: usize = 2048;

/// Lanes of a block of the cut operand: KC steps of them fit in half of an L2.
const BLOCK: usize = 128;

/// Computes a product that is worth several tasks.
///
/// # Safety
///
/// As for [`run`](super::schedule::run).
pub(super) unsafe fn blocks<T: Element, O: Element<Sum = T::Sum>>(
    cpu: &CpuBackend,
    kernels: Option<&Kernels<T>>,
    x: &Product<T, O>,
) -> Result<()> {
    let Some(kernels) = kernels else {
        // matrixmultiply packs for itself.
        let (down, across) = grid(x.m, x.n, x.k, x.m.div_ceil(8), x.n.div_ceil(32));
        let len = scratch_len::<T, O>(None, x.m.div_ceil(down), x.n.div_ceil(across), x.k);
        let scratch = Scratch::new::<T::Sum>(cpu, down * across, len)?;
        cpu.threads.run(down * across, |task| {
            let (i, j) = (task / across, task % across);
            let (r0, r1) = (first_row(i, down, x.m), first_row(i + 1, down, x.m));
            let (c0, c1) = (first_row(j, across, x.n), first_row(j + 1, across, x.n));
            let part = x.window(r0, r1 - r0, c0, c1 - c0);
            // SAFETY: the caller's contract; blocks are disjoint.
            scratch.lend(|scratch| unsafe { product(None, &part, scratch) });
        });
        return Ok(());
    };
    // Several slabs along K into a destination that can't hold sums: they are kept beside it.
    let slabs = x.k.div_ceil(SLAB_DEPTH);
    let sums = match x.c.sums() {
        None if slabs > 1 => Some(block::<T::Sum>(cpu, x.m * x.n)?),
        _ => None,
    };
    let own = x.c.sums().is_none() && sums.is_none();
    let deep = x.k.div_ceil(slabs);
    let cuts = Cuts::new(kernels, x, cpu.threads.count());
    let (a_direct, b_direct) = (a_in_place(kernels, &x.a, x.n), b_in_place(kernels, &x.b, x.m, x.n, x.k));
    let (rows, cols) = cuts.largest();
    let kept_len = match cuts.keeps_b {
        true if !b_direct => cols.next_multiple_of(2 * kernels.lanes) * deep,
        false if !a_direct => rows * deep,
        _ => 0,
    };
    let piece = deep.min(KC);
    let block_len = if cuts.keeps_b { rows * piece } else { 0 } + panel_len(kernels, piece);
    let own_len = if own { rows * cols } else { 0 };
    let scratch = Scratch::new::<T::Sum>(cpu, cuts.count(), kept_len + block_len + own_len)?;
    for (slab, pc) in (0..x.k).step_by(deep).enumerate() {
        let k = deep.min(x.k - pc);
        cpu.threads.run(cuts.count(), |task| {
            let ([r0, r1], [c0, c1], part) = cuts.task(task);
            let (m, n) = (r1 - r0, c1 - c0);
            let (a, b, c) = (x.a.at(r0, pc), x.b.at(c0, pc), x.c.at(r0, c0));
            let panels = m.div_ceil(kernels.rows);
            scratch.lend_again(|start: *mut T::Sum, holds| {
                let part = slab * cuts.parts + part;
                let new = holds.replace(part) != Some(part);
                let (rest, own) = (start.wrapping_add(kept_len), start.wrapping_add(kept_len + block_len));
                // SAFETY: the caller's contract; blocks are disjoint; scratch has the parts that were counted above.
                unsafe {
                    let a = match (a_direct, cuts.keeps_b) {
                        (true, _) => direct(a),
                        (_, true) => Side::Raw(a),
                        (_, false) => {
                            let rows = (0..panels).map(|i| first_row(i, panels, m)..first_row(i + 1, panels, m));
                            packed(kernels, a, m, m, rows, k, new, start)
                        }
                    };
                    let b = match (b_direct, cuts.keeps_b) {
                        (true, _) => direct(b),
                        (_, false) => Side::Raw(b),
                        (_, true) => {
                            let width = 2 * kernels.lanes;
                            let columns = (0..n).step_by(width).map(|col| col..col + width);
                            packed(kernels, b, n, n.next_multiple_of(width), columns, k, new, start)
                        }
                    };
                    let window = Window { panels, first: 0, last: panels, col: 0, cols: n, near: false, terms: KC };
                    let block = |c: Target<T::Sum>, add: bool| {
                        tiles(kernels, &Product { m, n, k, a: x.a, b: x.b, c, add }, a, b, &window, rest);
                    };
                    if let Some(c) = c.sums() {
                        block(c, x.add || slab > 0);
                    } else if let Some(sums) = &sums {
                        let start = sums.as_ptr().cast::<T::Sum>().wrapping_add(r0 * x.n + c0);
                        block(Target { start, row: x.n as isize, col: 1 }, slab > 0);
                        if slab + 1 == slabs {
                            finish(start, x.n, m, n, c, x.add);
                        }
                    } else {
                        block(Target { start: own, row: n as isize, col: 1 }, false);
                        finish(own, n, m, n, c, x.add);
                    }
                }
            });
        });
    }
    Ok(())
}

/// An operand in panels, which are packed first where they are `new`.
///
/// # Safety
///
/// As for [`pack`], for all pieces of `k`.
#[expect(clippy::too_many_arguments)] // an operand, its extents, and where it goes
unsafe fn packed<T: Element>(
    kernels: &Kernels<T>,
    x: Operand<T>,
    lanes: usize,
    padded: usize,
    panels: impl Iterator<Item = Range<usize>> + Clone,
    k: usize,
    new: bool,
    start: *mut T::Sum,
) -> Side<T, T::Sum> {
    let piece = depth(k);
    for p in (0..k).step_by(piece).take_while(|_| new) {
        let (steps, to) = (piece.min(k - p), start.wrapping_add(padded * p));
        // SAFETY: the caller's contract; each piece has memory of its own.
        unsafe { pack(kernels, x.at(0, p), lanes, panels.clone(), 0..steps, steps, to) };
    }
    Side::Packed { start, lanes: padded }
}

/// How a product is cut: parts of the operand that threads keep, blocks of the other.
struct Cuts {
    /// Whether the kept operand is B.
    keeps_b: bool,
    m: usize,
    n: usize,
    /// Columns are cut at multiples of this.
    width: usize,
    parts: usize,
    blocks: usize,
}

impl Cuts {
    fn new<T: Element, O: Element>(kernels: &Kernels<T>, x: &Product<T, O>, threads: usize) -> Cuts {
        let width = 2 * kernels.lanes;
        let keeps_b = x.n <= x.m;
        let (kept, cut) = (x.m.min(x.n), x.m.max(x.n));
        let panels = |rows: bool| if rows { x.m.div_ceil(kernels.rows) } else { x.n.div_ceil(width) };
        // As many parts as make a thread pack as much of the kept operand as of the cut one.
        let shared = (threads * kept / cut).isqrt();
        let parts = shared.max(kept.div_ceil(SLAB_WIDTH)).min(panels(!keeps_b));
        let least = (x.work() / BLOCK_WORK).min(BLOCK_TASKS).div_ceil(parts);
        let blocks = cut.div_ceil(BLOCK).max(least).next_power_of_two().min(panels(keeps_b));
        Cuts { keeps_b, m: x.m, n: x.n, width, parts, blocks }
    }

    fn count(&self) -> usize {
        self.parts * self.blocks
    }

    /// Rows, columns, and the part of the kept operand. Tasks of a part follow each other, so that a thread meets few parts.
    fn task(&self, task: usize) -> ([usize; 2], [usize; 2], usize) {
        let (part, block) = (task / self.blocks, task % self.blocks);
        let ((i, down), (j, across)) = match self.keeps_b {
            true => ((block, self.blocks), (part, self.parts)),
            false => ((part, self.parts), (block, self.blocks)),
        };
        let panels = self.n.div_ceil(self.width);
        let row = |i: usize| first_row(i, down, self.m);
        let col = |j: usize| (first_row(j, across, panels) * self.width).min(self.n);
        ([row(i), row(i + 1)], [col(j), col(j + 1)], part)
    }

    /// Rows and columns that no task exceeds.
    fn largest(&self) -> (usize, usize) {
        let (down, across) = if self.keeps_b { (self.blocks, self.parts) } else { (self.parts, self.blocks) };
        (self.m.div_ceil(down), (self.n.div_ceil(self.width).div_ceil(across) * self.width).min(self.n))
    }
}
