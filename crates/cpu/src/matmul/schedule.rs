//! How products are cut into tasks: from shapes, dtype and instruction set, never from the number of threads.
//!
//! | case | tasks | packing |
//! |---|---|---|
//! | many products, or a small one | some whole products each | each for itself |
//! | a few rows (M ≤ 4) | strips of columns | none: B is read once |
//! | a small destination under a long sum | pieces of K into partial results, added in order | each for itself |
//! | large | blocks of M × N | the smaller operand by each thread for itself, the larger by blocks |
//!
//! Products of bf16 on instructions of their own have a schedule of their own, in `pairs.rs`.

use super::{
    block::{
        KC, Operand, Product, Side, Target, Window, a_in_place, b_in_place, depth, direct, finish, first_row, pack,
        panel_len, product, scratch_len, tiles,
    },
    element::Element,
    kernel::{Kernels, THIN},
};
use crate::{CpuBackend, pool::Block, threads};
use attentia_backend::{MAX_RANK, Result};
use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Multiply-adds that are worth handing to another thread: some microseconds.
pub(crate) const TASK: usize = 256 << 10;

/// Multiply-adds from which a product is shared by tasks that pack together.
const SHARED: usize = 2 << 20;

/// The same for products that come in numbers: then whole products are tasks, which needs no cooperation.
pub(crate) const SHARED_IN_BATCH: usize = 64 << 20;
pub(crate) const BATCH: usize = 8;

/// Steps along K from which a small destination is computed in pieces.
const PIECE: usize = 1024;
const MOST_PIECES: usize = 64;
/// Elements of a destination that counts as small.
const SMALL_TARGET: usize = 128 * 128;

/// Elements of B for a task of a thin product, and the columns that its strips are multiples of.
const STRIP: usize = 64 << 10;
const STRIP_COLUMNS: usize = 256;

/// A slab of the packed operand that a thread keeps: at most so many steps along K …
const SLAB_DEPTH: usize = 1024;
/// … by so many rows or columns: 8 MiB of f32, which L3 holds.
const SLAB_WIDTH: usize = 2048;

/// Lanes of a block of the cut operand: KC steps of them fit in half of an L2.
const BLOCK: usize = 128;

/// Largest block of C for a task of matrixmultiply, and of pairs.
const BLOCK_ROWS: usize = 224;
const BLOCK_COLUMNS: usize = 256;
/// Tasks below which blocks are halved, as long as they have work for [`BLOCK_WORK`].
const BLOCK_TASKS: usize = 8;
const BLOCK_WORK: usize = 1 << 20;

/// Leading axes that a, b and out are walked along together.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) rank: usize,
    pub(crate) extents: [usize; MAX_RANK],
    /// Strides of a, b and out.
    pub(crate) strides: [[isize; 3]; MAX_RANK],
}

impl Batch {
    pub(crate) fn count(&self) -> usize {
        self.extents[..self.rank].iter().product()
    }

    /// The product at place `i`.
    pub(crate) fn at<T: Element, O: Element>(&self, x: &Product<T, O>, mut i: usize) -> Product<T, O> {
        let mut x = *x;
        for axis in (0..self.rank).rev() {
            let index = (i % self.extents[axis]) as isize;
            i /= self.extents[axis];
            let [a, b, c] = self.strides[axis];
            x.a.start = x.a.start.wrapping_offset(index * a);
            x.b.start = x.b.start.wrapping_offset(index * b);
            x.c.start = x.c.start.wrapping_offset(index * c);
        }
        x
    }
}

/// Scratch for as many tasks as can run at once, taken before they start: a task can't fail.
pub(crate) struct Scratch(Mutex<Vec<Lent>>);

/// A block of scratch, who had it last, and what that one says it holds.
struct Lent {
    block: Block,
    place: usize,
    holds: Option<usize>,
}

impl Scratch {
    /// `len` elements of `S` for each task.
    pub(crate) fn new<S>(cpu: &CpuBackend, tasks: usize, len: usize) -> Result<Scratch> {
        let lent = |place| Ok(Lent { block: block::<S>(cpu, len)?, place, holds: None });
        Ok(Scratch(Mutex::new((0..tasks.min(cpu.threads.count())).map(lent).collect::<Result<_>>()?)))
    }

    /// Lends a block for the time of `task`.
    pub(crate) fn lend<S>(&self, task: impl FnOnce(*mut S)) {
        self.lend_again(|start, _| task(start));
    }

    /// The same, and what the block holds from an earlier task, as that task has said. A thread gets the block that it had
    /// before, which its caches hold too, unless another has taken it.
    pub(crate) fn lend_again<S>(&self, task: impl FnOnce(*mut S, &mut Option<usize>)) {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = threads::place();
        let mut free = lock();
        let mine = free.iter().position(|lent| lent.place == place);
        let lent = mine.map(|at| free.swap_remove(at)).or_else(|| free.pop());
        drop(free);
        if let Some(mut lent) = lent {
            lent.place = place;
            task(lent.block.as_ptr().cast(), &mut lent.holds);
            lock().push(lent);
        }
    }
}

/// `len` elements from the pool.
pub(crate) fn block<S>(cpu: &CpuBackend, len: usize) -> Result<Block> {
    cpu.pool.alloc(len.saturating_mul(size_of::<S>()))
}

/// A pointer that tasks share; each says what it touches.
#[derive(Clone, Copy)]
pub(crate) struct Shared<S>(pub(crate) *mut S);

// SAFETY: tasks write disjoint parts, and read what was complete before they started.
unsafe impl<S: Send> Sync for Shared<S> {}

impl<S> Shared<S> {
    pub(crate) fn at(&self, offset: usize) -> *mut S {
        self.0.wrapping_add(offset)
    }
}

/// Computes a batch of products of the same extents, none of which is 0.
///
/// # Safety
///
/// Operands and target are valid for the extents and the batch; nobody else touches the target, no two products write
/// the same element.
pub(crate) unsafe fn run<T: Element, O: Element<Sum = T::Sum>>(
    cpu: &CpuBackend,
    batch: &Batch,
    x: &Product<T, O>,
) -> Result<()> {
    let kernels = Kernels::<T>::of(cpu.isa);
    let (count, work) = (batch.count(), x.work());
    let wide = x.m > THIN;
    let shared = if count < BATCH { SHARED } else { SHARED_IN_BATCH };
    let long = x.k >= 2 * PIECE && x.m.saturating_mul(x.n) <= SMALL_TARGET;
    // SAFETY: the caller's contract, for each product.
    unsafe {
        if wide
            && !long
            && let Some(done) = T::pairs(cpu, batch, x)
        {
            return done;
        }
        if count < BATCH && long && work >= 2 * TASK && (wide || x.n < 4 * STRIP_COLUMNS) {
            (0..count).try_for_each(|i| pieces(cpu, kernels, &batch.at(x, i)))
        } else if wide && work >= shared {
            (0..count).try_for_each(|i| blocks(cpu, kernels, &batch.at(x, i)))
        } else {
            wholes(cpu, kernels, batch, x)
        }
    }
}

/// Whole products, several to a task or cut into strips.
///
/// # Safety
///
/// As for [`run`].
unsafe fn wholes<T: Element, O: Element<Sum = T::Sum>>(
    cpu: &CpuBackend,
    kernels: Option<&Kernels<T>>,
    batch: &Batch,
    x: &Product<T, O>,
) -> Result<()> {
    let (count, work) = (batch.count(), x.work());
    if count < BATCH && x.m <= THIN {
        let columns = STRIP.div_ceil(x.k).next_multiple_of(STRIP_COLUMNS);
        let strips = x.n.div_ceil(columns);
        let scratch = Scratch::new::<T::Sum>(cpu, count * strips, scratch_len::<T, O>(kernels, x.m, columns, x.k))?;
        cpu.threads.run(count * strips, |task| {
            let col = task % strips * columns;
            let part = batch.at(x, task / strips).window(0, x.m, col, columns.min(x.n - col));
            // SAFETY: the caller's contract; strips are disjoint.
            scratch.lend(|scratch| unsafe { product(kernels, &part, scratch) });
        });
        return Ok(());
    }
    if count < BATCH && work >= 2 * TASK {
        // One product between small and large: strips of rows or of columns, whichever are more.
        let parts = (work / TASK).min(BATCH);
        let (rows, columns) = match x.m >= x.n {
            true => (x.m.div_ceil(parts), x.n),
            false => (x.m, x.n.div_ceil(parts).next_multiple_of(32)),
        };
        let (down, across) = (x.m.div_ceil(rows), x.n.div_ceil(columns));
        let len = scratch_len::<T, O>(kernels, rows, columns, x.k);
        let scratch = Scratch::new::<T::Sum>(cpu, count * down * across, len)?;
        cpu.threads.run(count * down * across, |task| {
            let (row, col) = (task / across % down * rows, task % across * columns);
            let whole = batch.at(x, task / across / down);
            let part = whole.window(row, rows.min(x.m - row), col, columns.min(x.n - col));
            // SAFETY: the caller's contract; strips are disjoint.
            scratch.lend(|scratch| unsafe { product(kernels, &part, scratch) });
        });
        return Ok(());
    }
    let group = TASK.div_ceil(work);
    let tasks = count.div_ceil(group);
    let scratch = Scratch::new::<T::Sum>(cpu, tasks, scratch_len::<T, O>(kernels, x.m, x.n, x.k))?;
    cpu.threads.run(tasks, |task| {
        scratch.lend(|scratch| {
            for i in task * group..count.min((task + 1) * group) {
                // SAFETY: the caller's contract.
                unsafe { product(kernels, &batch.at(x, i), scratch) };
            }
        });
    });
    Ok(())
}

/// Pieces of K into partial results, which are then added in their order.
///
/// # Safety
///
/// As for [`run`].
unsafe fn pieces<T: Element, O: Element<Sum = T::Sum>>(
    cpu: &CpuBackend,
    kernels: Option<&Kernels<T>>,
    x: &Product<T, O>,
) -> Result<()> {
    let depth = PIECE.max(x.k.div_ceil(MOST_PIECES));
    let pieces = x.k.div_ceil(depth);
    let size = x.m * x.n;
    let memory = block::<T::Sum>(cpu, pieces * size)?;
    let partial = Shared(memory.as_ptr().cast::<T::Sum>());
    let scratch = Scratch::new::<T::Sum>(cpu, pieces, scratch_len::<T, T::Sum>(kernels, x.m, x.n, depth))?;
    cpu.threads.run(pieces, |piece| {
        let from = piece * depth;
        let c = Target { start: partial.at(piece * size), row: x.n as isize, col: 1 };
        let (a, b, k) = (x.a.at(0, from), x.b.at(0, from), depth.min(x.k - from));
        let part = Product { m: x.m, n: x.n, k, a, b, c, add: false };
        // SAFETY: the caller's contract; each piece has its own partial result.
        scratch.lend(|scratch| unsafe { product(kernels, &part, scratch) });
    });
    // Rows are summed in groups of some thousand elements.
    let group = 4096usize.div_ceil(x.n);
    cpu.threads.chunks(x.m, group, |rows| {
        let (start, len) = (rows.start * x.n, rows.len() * x.n);
        // SAFETY: the rows of this task, in every partial result and in C; all partial results are complete.
        unsafe {
            let sums = std::slice::from_raw_parts_mut(partial.at(start), len);
            for piece in 1..pieces {
                let more = std::slice::from_raw_parts(partial.at(piece * size + start), len);
                sums.iter_mut().zip(more).for_each(|(sum, &x)| *sum += x);
            }
            finish(sums.as_ptr(), x.n, rows.len(), x.n, x.c.at(rows.start, 0), x.add);
        }
    });
    Ok(())
}

/// Blocks of C. Who computes a block packs what it reads of both operands, into memory of its own:
///
/// ```text
/// kept      the smaller operand, in parts of its lanes; a thread packs a part when it first needs it
/// cut       the larger one; each block of C has some of its lanes, which no other block of the part reads
///
/// for pc in 0..K step 1024:
///     in parallel, for each part of the kept operand and each block of the cut one:
///         pack the part                       unless this thread has it from the block before
///         C[block] += A · B                   tiles.rs packs the block's lanes of the cut operand
/// ```
///
/// So the kept operand is packed by every thread, and none of them reads a line that another has just written: between two
/// cores on different dies that takes hundreds of cycles, and both used to wait for each other between packing and
/// multiplying (docs/src/measurements.md). Where there are many threads they share the parts among them, as their sums do
/// not depend on how lanes are cut.
///
/// # Safety
///
/// As for [`run`].
unsafe fn blocks<T: Element, O: Element<Sum = T::Sum>>(
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

/// A task of one operand, by its number among them.
pub(crate) enum Of {
    A(usize),
    B(usize),
}

/// Which of `a + b` tasks this is when both kinds are mixed evenly. A thread that takes a range of them packs its share of
/// both, and of A the rows that it multiplies later.
pub(crate) fn mixed(task: usize, a: usize, b: usize) -> Of {
    let before = |task: usize| task * a / (a + b);
    match before(task + 1) > before(task) {
        true => Of::A(before(task)),
        false => Of::B(task - before(task)),
    }
}

/// The block of C of a task. Each thread has a range of tasks of its own, and of packing: the blocks of a range share a part
/// of the larger operand, so that most of what a thread reads of that one it has packed itself. Cores may be far apart.
pub(crate) fn cell(task: usize, [down, across]: [usize; 2], b_is_larger: bool) -> (usize, usize) {
    if b_is_larger { (task % down, task / down) } else { (task / across, task % across) }
}

/// Into how many blocks the panels of A and of B are cut.
pub(crate) fn grid(rows: usize, cols: usize, k: usize, a_panels: usize, b_panels: usize) -> (usize, usize) {
    let (mut down, mut across) = (rows.div_ceil(BLOCK_ROWS), cols.div_ceil(BLOCK_COLUMNS));
    while down * across < BLOCK_TASKS && rows * cols * k / (down * across) > BLOCK_WORK {
        let (tall, wide) = (rows / down >= cols / across, down < a_panels);
        match (tall && wide, across < b_panels) {
            (true, _) => down *= 2,
            (false, true) => across *= 2,
            (false, false) if wide => down *= 2,
            (false, false) => break,
        }
    }
    (down.min(a_panels), across.min(b_panels))
}
