//! How products are cut into tasks: from shapes, dtype and instruction set, never from the number of threads.
//!
//! | case | tasks | packing |
//! |---|---|---|
//! | many products, or a small one | some whole products each | each for itself |
//! | a few rows (M ≤ 4) | strips of columns | none: B is read once |
//! | a small destination under a long sum | pieces of K into partial results, added in order | each for itself |
//! | large | blocks of M × N | once, shared by all tasks |
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
use crate::{CpuBackend, pool::Block};
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

/// A slab of packed operands: so many steps along K …
const SLAB_DEPTH: usize = 1024;
/// … by so many rows or columns: 8 MiB of f32 each for A and B, which L3 holds.
const SLAB_WIDTH: usize = 2048;

/// Steps of contiguous lanes that a task packs.
const PACK_STEPS: usize = 64;

/// Largest block of C for a task: with KC steps of A it fits in L2.
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
pub(crate) struct Scratch(Mutex<Vec<Block>>);

impl Scratch {
    /// `len` elements of `S` for each task.
    pub(crate) fn new<S>(cpu: &CpuBackend, tasks: usize, len: usize) -> Result<Scratch> {
        let blocks = (0..tasks.min(cpu.threads.count())).map(|_| block::<S>(cpu, len));
        Ok(Scratch(Mutex::new(blocks.collect::<Result<_>>()?)))
    }

    /// Lends a block for the time of `task`.
    pub(crate) fn lend<S>(&self, task: impl FnOnce(*mut S)) {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let block = lock().pop();
        if let Some(block) = block {
            task(block.as_ptr().cast());
            lock().push(block);
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

/// Blocks of a grid over C; operands are packed once, slab by slab.
///
/// ```text
/// for jc in 0..N step 2048, pc in 0..K step 1024, ic in 0..M step 2048:
///     in parallel: pack A[ic, pc] and B[pc, jc]           (B once for all ic)
///     in parallel: each block of C[ic, jc] += A · B
/// ```
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
    let width = 2 * kernels.lanes;
    let deep = x.k.div_ceil(slabs);
    let (a_direct, b_direct) = (a_in_place(kernels, &x.a, x.n), b_in_place(kernels, &x.b, x.m, x.n, x.k));
    let (most_rows, most_cols) = (x.m.min(SLAB_WIDTH), x.n.min(SLAB_WIDTH));
    let a_memory = block::<T::Sum>(cpu, if a_direct { 0 } else { most_rows * deep })?;
    let b_len = most_cols.div_ceil(width) * panel_len(kernels, deep);
    let b_memory = block::<T::Sum>(cpu, if b_direct { 0 } else { b_len })?;
    let a_packed = Shared(a_memory.as_ptr().cast::<T::Sum>());
    let b_packed = Shared(b_memory.as_ptr().cast::<T::Sum>());
    let own = x.c.sums().is_none() && sums.is_none();
    for jc in (0..x.n).step_by(SLAB_WIDTH) {
        let cols = SLAB_WIDTH.min(x.n - jc);
        let b_panels = cols.div_ceil(width);
        for (slab, pc) in (0..x.k).step_by(deep).enumerate() {
            let k = deep.min(x.k - pc);
            let piece = depth(k);
            for ic in (0..x.m).step_by(SLAB_WIDTH) {
                let rows = SLAB_WIDTH.min(x.m - ic);
                let a_panels = rows.div_ceil(kernels.rows);
                let (a, b) = (x.a.at(ic, pc), x.b.at(jc, pc));
                let a_packing = Packing::new(&a, k, piece, a_panels, 4);
                let b_packing = Packing::new(&b, k, piece, b_panels, 2);
                let a_tasks = if a_direct { 0 } else { a_packing.count() };
                let b_tasks = if b_direct || ic > 0 { 0 } else { b_packing.count() };
                cpu.threads.run(a_tasks + b_tasks, |task| {
                    // SAFETY: rows of A or columns of B, and their own part of the slab.
                    unsafe {
                        match mixed(task, a_tasks, b_tasks) {
                            Of::A(task) => {
                                let (panels, part, steps) = a_packing.task(task);
                                let rows_of = |i| first_row(i, a_panels, rows)..first_row(i + 1, a_panels, rows);
                                let to = a_packed.at(rows * part.start);
                                pack(kernels, a.at(0, part.start), rows, panels.map(rows_of), steps, part.len(), to);
                            }
                            Of::B(task) => {
                                let (panels, part, steps) = b_packing.task(task);
                                let panels = panels.map(|j| j * width..(j + 1) * width);
                                let to = b_packed.at(b_panels * width * part.start);
                                pack(kernels, b.at(0, part.start), cols, panels, steps, part.len(), to);
                            }
                        }
                    }
                });
                let a =
                    if a_direct { direct(a) } else { Side::Packed { start: a_packed.at(0).cast_const(), lanes: rows } };
                let b = if b_direct {
                    direct(b)
                } else {
                    Side::Packed { start: b_packed.at(0).cast_const(), lanes: b_panels * width }
                };
                let (down, across) = grid(rows, cols, k, a_panels, b_panels);
                let largest = a_panels.div_ceil(down) * kernels.rows * b_panels.div_ceil(across) * width;
                let scratch = Scratch::new::<T::Sum>(cpu, if own { down * across } else { 0 }, largest)?;
                cpu.threads.run(down * across, |task| {
                    let (i, j) = cell(task, [down, across], cols > rows);
                    let (first, last) = (i * a_panels / down, (i + 1) * a_panels / down);
                    let (r0, r1) = (first_row(first, a_panels, rows), first_row(last, a_panels, rows));
                    let col = j * b_panels / across * width;
                    let end = ((j + 1) * b_panels / across * width).min(cols);
                    let window = Window { panels: a_panels, first, last, col, cols: end - col, near: false, terms: KC };
                    let c = x.c.at(ic + r0, jc + col);
                    let add = x.add || slab > 0;
                    let of = |c: Target<T::Sum>, add: bool| Product { m: rows, n: cols, k, a: x.a, b: x.b, c, add };
                    // SAFETY: the caller's contract; slabs are complete, blocks are disjoint, scratch holds the largest.
                    unsafe {
                        let nothing = std::ptr::null_mut();
                        if let Some(sums) = x.c.sums() {
                            let offset = (ic + r0) as isize * sums.row + (jc + col) as isize;
                            let c = Target { start: sums.start.wrapping_offset(offset), ..sums };
                            tiles(kernels, &of(c, add), a, b, &window, nothing);
                        } else if let Some(sums) = &sums {
                            let start = sums.as_ptr().cast::<T::Sum>().wrapping_add((ic + r0) * x.n + jc + col);
                            let c = Target { start, row: x.n as isize, col: 1 };
                            tiles(kernels, &of(c, slab > 0), a, b, &window, nothing);
                            if slab + 1 == slabs {
                                finish(start, x.n, r1 - r0, end - col, x.c.at(ic + r0, jc + col), x.add);
                            }
                        } else {
                            debug_assert!((r1 - r0) * (end - col) <= largest);
                            scratch.lend(|start| {
                                let own = Target { start, row: (end - col) as isize, col: 1 };
                                tiles(kernels, &of(own, false), a, b, &window, nothing);
                                finish(start, end - col, r1 - r0, end - col, c, x.add);
                            });
                        }
                    }
                });
            }
        }
    }
    Ok(())
}

/// How the packing of an operand is cut into tasks: by panels, but where lanes are contiguous by steps, so that a task reads
/// on along them.
struct Packing {
    /// Panels, and how many a task takes.
    panels: usize,
    group: usize,
    /// Steps, in parts that are packed apart, and in how many of them a task takes.
    k: usize,
    part: usize,
    steps: usize,
}

impl Packing {
    /// `few` panels to a task where lanes are not contiguous.
    fn new<T: Element>(x: &Operand<T>, k: usize, part: usize, panels: usize, few: usize) -> Packing {
        let (group, steps) = if x.lane == 1 { (16 * few, PACK_STEPS) } else { (few, part) };
        Packing { panels, group, k, part, steps }
    }

    fn count(&self) -> usize {
        let last = self.k % self.part;
        let parts = self.k / self.part * self.part.div_ceil(self.steps) + last.div_ceil(self.steps);
        self.panels.div_ceil(self.group) * parts
    }

    /// Panels, the part, and steps within the part.
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>, Range<usize>) {
        let groups = self.panels.div_ceil(self.group);
        let (first, i) = (task % groups * self.group, task / groups);
        let in_part = self.part.div_ceil(self.steps);
        let start = i / in_part * self.part;
        let part = start..self.k.min(start + self.part);
        let step = i % in_part * self.steps;
        (first..self.panels.min(first + self.group), part.clone(), step..part.len().min(step + self.steps))
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
