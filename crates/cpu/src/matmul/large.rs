//! One large product on all threads.
//!
//! ```text
//! kept      the smaller operand, in parts of its lanes; a thread packs a part when it first needs it
//! cut       the larger one; each block of C has some of its lanes, which no other block of the part reads
//!
//! for pc in 0..K in equal steps of at most 1024:
//!     in parallel, for each part of the kept operand and each block of the cut one:
//!         pack the part                  unless this thread has it from the block before
//!         C[block] += A · B              `tiles` packs the block's lanes of the cut operand
//! ```
//!
//! Who computes a block packs what it reads of both operands, into memory of its own. Every thread that meets a part packs it,
//! and a cut lane is packed once for each part; in return none reads a line that another has just written, which between cores
//! on different dies takes hundreds of cycles, and none waits for the others between packing and multiplying
//! (docs/src/measurements.md has what that brought). With many threads there are more parts, so that each meets few of them.
//! How lanes are cut changes no sum, so that it may depend on the number of threads.

use super::{
    block::{
        KC, Operand, Product, Side, Target, Visits, a_in_place, b_in_place, depth, direct, first_row, pack, panel_len,
        product, scratch_len, tiles,
    },
    element::Element,
    epilogue::Epilogue,
    kernel::Kernels,
    schedule::{BLOCK_TASKS, BLOCK_WORK, Scratch, block, grid},
    soon::Soon,
};
use crate::CpuBackend;
use attentia_backend::Result;
use std::ops::Range;

/// Steps along K that are packed at a time: of what is kept a thread has at most so many …
const SLAB_DEPTH: usize = 1024;
/// … by so many rows or columns, 8 MiB of f32; …
const PART_LANES: usize = 2048;
/// … and all threads together so many bytes.
const KEPT: usize = 64 << 20;

/// Lanes of a block of the cut operand: KC steps of them take a quarter of an L2.
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
    let slabs = x.k.div_ceil(SLAB_DEPTH);
    let deep = x.k.div_ceil(slabs);
    // A destination that can't hold sums gets those of one slab from the task's scratch, those of several from here.
    let can_hold = x.sums().is_some();
    let sums = if can_hold || slabs == 1 { None } else { Some(block::<T::Sum>(cpu, x.m * x.n)?) };
    let cuts = Cuts::new(kernels, x, deep, cpu.threads.count());
    let (a_direct, b_direct) = (a_in_place(kernels, &x.a, x.n), b_in_place(kernels, &x.b, x.m, x.n, x.k));
    let (most_rows, most_columns) = cuts.largest();
    // Scratch of a task: what it keeps, what it packs of its block, and the block's sums.
    let piece = deep.min(KC);
    let (kept_len, block_len) = match cuts.keeps_b {
        true => (most_columns.next_multiple_of(cuts.width) * deep, most_rows * piece),
        false => (most_rows * deep, panel_len(kernels, piece)),
    };
    let (kept_direct, cut_direct) = if cuts.keeps_b { (b_direct, a_direct) } else { (a_direct, b_direct) };
    // Panels of B begin on a line of memory.
    let kept_len = if kept_direct { 0 } else { kept_len.next_multiple_of(cuts.width) };
    let block_len = if cut_direct { 0 } else { block_len };
    let sums_len = if can_hold || sums.is_some() { 0 } else { most_rows * most_columns };
    let scratch = Scratch::new::<T::Sum>(cpu, cuts.count(), kept_len + block_len + sums_len)?;
    for (slab, pc) in (0..x.k).step_by(deep).enumerate() {
        let k = deep.min(x.k - pc);
        cpu.threads.run(cuts.count(), |task| {
            let ([r0, r1], [c0, c1], part) = cuts.task(task);
            let (m, n) = (r1 - r0, c1 - c0);
            let window = x.window(r0, m, c0, n);
            let (a, b, c) = (window.a.at(0, pc), window.b.at(0, pc), window.c);
            let is_last = slab + 1 == slabs;
            // What this thread most likely cuts next.
            let soon = Soon::nothing();
            if let Some(([r0, r1], [c0, c1])) = cuts.after(task) {
                match cuts.keeps_b {
                    true => soon.ask(x.a.at(r0, pc), r1 - r0, depth(k)),
                    false => soon.ask(x.b.at(c0, pc), (c1 - c0).min(cuts.width), depth(k)),
                }
            }
            scratch.lend_again(|kept: *mut T::Sum, holds| {
                let label = slab * cuts.parts + part;
                let is_new = holds.replace(label) != Some(label);
                let of_block = kept.wrapping_add(kept_len);
                let of_sums = of_block.wrapping_add(block_len);
                // SAFETY: the caller's contract; blocks are disjoint; scratch has the parts that were counted above, and holds
                // this slab's part of the kept operand or gets it now.
                unsafe {
                    let a = match (a_direct, cuts.keeps_b) {
                        (true, _) => direct(a),
                        (_, true) => Side::Raw(a),
                        (_, false) => {
                            let panels = m.div_ceil(kernels.rows);
                            let rows = (0..panels).map(|i| first_row(i, panels, m)..first_row(i + 1, panels, m));
                            packed(kernels, a, [m, m, k], rows, is_new, kept)
                        }
                    };
                    let b = match (b_direct, cuts.keeps_b) {
                        (true, _) => direct(b),
                        (_, false) => Side::Raw(b),
                        (_, true) => {
                            let columns = (0..n).step_by(cuts.width).map(|col| col..col + cuts.width);
                            packed(kernels, b, [n, n.next_multiple_of(cuts.width), k], columns, is_new, kept)
                        }
                    };
                    let multiply = |c: Target<T::Sum>, then: Epilogue<T::Sum>| {
                        let product = Product { m, n, k, a: x.a, b: x.b, c, then };
                        tiles(kernels, &product, a, b, &Visits { near: false, terms: KC }, &soon, of_block);
                    };
                    // From the second slab on sums start from those before; what follows them does after the last one.
                    if let Some(c) = window.sums() {
                        let then = window.then.of_sums();
                        let then = if slab > 0 { then.starting(Some(c.as_operand())) } else { then };
                        return multiply(c, if is_last { then } else { Epilogue::from(then.start()) });
                    }
                    let (start, pitch) = match &sums {
                        Some(sums) => (sums.as_ptr().cast::<T::Sum>().wrapping_add(r0 * x.n + c0), x.n),
                        None => (of_sums, n),
                    };
                    let sums = Target { start, row: pitch as isize, col: 1 };
                    multiply(sums, Epilogue::from((slab > 0).then(|| sums.as_operand())));
                    if is_last {
                        window.then.finish(start, sums.row, m, n, c);
                    }
                }
            });
        });
    }
    Ok(())
}

/// An operand in panels, which are packed first where they are new: so many lanes, with those that fill the last panel, and
/// steps.
///
/// # Safety
///
/// As for [`pack`]; the memory holds all panels, and if they are not new then these.
unsafe fn packed<T: Element>(
    kernels: &Kernels<T>,
    x: Operand<T>,
    [lanes, padded, k]: [usize; 3],
    panels: impl Iterator<Item = Range<usize>> + Clone,
    is_new: bool,
    start: *mut T::Sum,
) -> Side<T, T::Sum> {
    for pc in (0..k).step_by(depth(k)).take_while(|_| is_new) {
        let (kc, to) = (depth(k).min(k - pc), start.wrapping_add(padded * pc));
        // SAFETY: the caller's contract; each piece of K has memory of its own.
        unsafe { pack(kernels, x.at(0, pc), lanes, panels.clone(), kc, to) };
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
    fn new<T: Element, O: Element>(kernels: &Kernels<T>, x: &Product<T, O>, deep: usize, threads: usize) -> Cuts {
        let width = 2 * kernels.lanes;
        let keeps_b = x.n <= x.m;
        let (kept, cut) = (x.m.min(x.n), x.m.max(x.n));
        let panels = |of_rows: bool| if of_rows { x.m.div_ceil(kernels.rows) } else { x.n.div_ceil(width) };
        // So many parts that a thread packs as much of the kept operand as of the cut one, and that they fit in memory.
        let balanced = (threads * kept / cut).isqrt();
        let bytes = (threads * kept * deep).saturating_mul(size_of::<T::Sum>());
        let parts = balanced.max(kept.div_ceil(PART_LANES)).max(bytes.div_ceil(KEPT)).min(panels(!keeps_b));
        // A power of two, which the usual numbers of threads divide.
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
        let (i, j) = if self.keeps_b { (block, part) } else { (part, block) };
        let (down, across) = self.grid();
        let panels = self.n.div_ceil(self.width);
        let row = |i: usize| first_row(i, down, self.m);
        let column = |j: usize| (first_row(j, across, panels) * self.width).min(self.n);
        ([row(i), row(i + 1)], [column(j), column(j + 1)], part)
    }

    /// Rows and columns of the next task, if it is of the same part.
    fn after(&self, task: usize) -> Option<([usize; 2], [usize; 2])> {
        let is_last = (task + 1).is_multiple_of(self.blocks);
        (!is_last).then(|| self.task(task + 1)).map(|(rows, columns, _)| (rows, columns))
    }

    /// Rows and columns that no task exceeds.
    fn largest(&self) -> (usize, usize) {
        let (down, across) = self.grid();
        let panels = self.n.div_ceil(self.width).div_ceil(across);
        (self.m.div_ceil(down), (panels * self.width).min(self.n))
    }

    /// Into how many pieces rows and columns are cut.
    fn grid(&self) -> (usize, usize) {
        if self.keeps_b { (self.blocks, self.parts) } else { (self.parts, self.blocks) }
    }
}
