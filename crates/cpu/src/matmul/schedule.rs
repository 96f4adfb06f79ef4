//! How products are cut into tasks. The order of sums follows from shapes, dtype and instruction set, never from the number of
//! threads.
//!
//! | case | tasks | packing |
//! |---|---|---|
//! | many products, or a small one | some whole products each | each for itself |
//! | a few rows (M ≤ 4) | strips of columns | none: B is read once |
//! | a small destination under a long sum | pieces of K into partial results, added in order | each for itself |
//! | large | blocks of M × N | the smaller operand by each thread for itself, the larger by blocks |
//!
//! Large ones are in `large.rs`. Products of bf16 on instructions of their own have a schedule of their own, in `pairs.rs`.

use super::{
    block::{Product, Target, product, scratch_len},
    element::Element,
    epilogue::Epilogue,
    kernel::{Kernels, THIN},
    large::blocks,
};
use crate::{CpuBackend, pool::Block, threads};
use attentia_backend::{MAX_RANK, Result};
use std::sync::{Mutex, PoisonError};

/// Multiply-adds that are worth handing to another thread: some microseconds.
pub(crate) const TASK: usize = 256 << 10;

/// Multiply-adds from which a product is cut into blocks for all threads.
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

/// Largest block of C for a task of matrixmultiply, and of pairs.
const BLOCK_ROWS: usize = 224;
const BLOCK_COLUMNS: usize = 256;
/// Tasks below which blocks are halved, as long as they have work for [`BLOCK_WORK`].
pub(super) const BLOCK_TASKS: usize = 8;
pub(super) const BLOCK_WORK: usize = 1 << 20;

/// Leading axes that a, b and out are walked along together.
#[derive(Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) rank: usize,
    pub(crate) extents: [usize; MAX_RANK],
    /// Strides of a, b and out, and of the epilogue's operands.
    pub(crate) strides: [[isize; 6]; MAX_RANK],
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
            let [a, b, c, then @ ..] = self.strides[axis].map(|stride| index * stride);
            x.a.start = x.a.start.wrapping_offset(a);
            x.b.start = x.b.start.wrapping_offset(b);
            x.c.start = x.c.start.wrapping_offset(c);
            x.then = x.then.shifted(then);
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
        let count = tasks.min(cpu.threads.count());
        let mut blocks = (0..count).map(|_| block::<S>(cpu, len)).collect::<Result<Vec<_>>>()?;
        // The pool may give the blocks of the product before in another order: a thread gets the one that it had, as far as they
        // are the same, since a line that another core has written takes hundreds of cycles.
        blocks.sort_unstable_by_key(|block| block.as_ptr().addr());
        let lent = blocks.into_iter().enumerate().map(|(place, block)| Lent { block, place, holds: None });
        Ok(Scratch(Mutex::new(lent.collect())))
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
        let part = Product { m: x.m, n: x.n, k, a, b, c, then: Epilogue::NONE };
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
            let (then, c) = (x.then.at(rows.start, 0), x.c.at(rows.start, 0));
            then.finish(sums.as_ptr(), x.n as isize, rows.len(), x.n, c);
        }
    });
    Ok(())
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
