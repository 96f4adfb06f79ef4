//! Reductions over any set of axes.
//!
//! ```text
//! x's axes = kept (the results) × reduced              both are nests led by x, so that memory is read in its order
//!
//! reduced axis contiguous in x:   rows                 fold each result's elements in blocks of 2048 over 64 lanes
//! kept axis contiguous in x:      columns              fold rows of ≤ 512 results side by side, 32 rows at a time
//! block results → f64 (i64 for integers)               merged in order
//! more than 64 Ki elements per result: fixed splits    partial results in a buffer, merged in the order of the splits
//! ```
//!
//! Within a block sums run in the type computed in, across blocks in f64. A variance takes two passes over each block
//! while it is in cache (mean, then corrected squared deviations), and blocks are merged by their means (Chan, Golub and
//! LeVeque, *Updating formulae and a pairwise algorithm for computing sample variances*, 1979). Products are f64
//! throughout: partial products leave f32's range long before the result does.

mod arg;
mod cumsum;
mod fold;
mod number;

pub(crate) use arg::arg_reduce;
pub(crate) use cumsum::cumsum;

use crate::{
    CpuBackend, check,
    elementwise::operand::{Destination, Operand},
    nest::Nest,
};
use attentia_backend::{DType, Error, ErrorKind, Layout, Reduce, Result, Shape, View, ViewMut};
use fold::{Fold, Greatest, Product, Smallest, Sum, Variance};
use number::{Number, Wide as _};

/// Elements per task.
const GRAIN: usize = 32 << 10;
/// Reduced elements that one task takes per result; more are split.
const SPLIT: usize = 64 << 10;
/// Results side by side in a column kernel.
const COLUMNS: usize = 512;

/// `out = op over axes of x`
pub(crate) fn reduce(cpu: &CpuBackend, op: Reduce, x: View, axes: &[usize], out: ViewMut) -> Result<()> {
    let name = op.name();
    let (out, x) = (Destination::new(name, out)?, Operand::new(name, x)?);
    for &axis in axes {
        check::axis(name, x.layout, axis)?;
    }
    if axes.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Error::new(ErrorKind::Argument, name, format!("axes {axes:?} are not in ascending order")));
    }
    let Some(result) = op.result(x.dtype) else {
        return Err(Error::new(ErrorKind::DType, name, format!("not defined for {}", x.dtype)));
    };
    holds(name, &out, result)?;
    check::shape(name, "out", out.layout, &kept_shape(x.layout.shape(), axes)?)?;
    let count: usize = axes.iter().map(|&axis| x.layout.shape()[axis]).product();
    if count == 0 && matches!(op, Reduce::Max | Reduce::Min) {
        return Err(Error::new(ErrorKind::Shape, name, format!("an axis of {} is empty", x.layout.shape())));
    }
    let plan = Plan::new(name, x, axes, out)?;
    let double = x.dtype == DType::F64 || out.dtype == DType::F64;
    match (op, x.dtype.is_float()) {
        (Reduce::Sum | Reduce::Mean, true) => {
            let divisor = if op == Reduce::Mean { count as f64 } else { 1.0 };
            if double {
                plan.run::<Sum, f64>(cpu, |sum| sum / divisor)
            } else {
                plan.run::<Sum, f32>(cpu, |sum| sum / divisor)
            }
        }
        (Reduce::Var { correction }, _) => {
            let freedom = count.checked_sub(correction).filter(|&n| n > 0).map_or(f64::NAN, |n| n as f64);
            if double {
                plan.run::<Variance, f64>(cpu, |squares| squares / freedom)
            } else {
                plan.run::<Variance, f32>(cpu, |squares| squares / freedom)
            }
        }
        (Reduce::Max, true) if double => plan.run::<Greatest, f64>(cpu, |x| x),
        (Reduce::Max, true) => plan.run::<Greatest, f32>(cpu, |x| x),
        (Reduce::Min, true) if double => plan.run::<Smallest, f64>(cpu, |x| x),
        (Reduce::Min, true) => plan.run::<Smallest, f32>(cpu, |x| x),
        (Reduce::Prod, true) => plan.run::<Product, f64>(cpu, |x| x),
        (Reduce::Sum | Reduce::Mean, false) => plan.run::<Sum, i64>(cpu, |x| x),
        (Reduce::Max, false) => plan.run::<Greatest, i64>(cpu, |x| x),
        (Reduce::Min, false) => plan.run::<Smallest, i64>(cpu, |x| x),
        (Reduce::Prod, false) => plan.run::<Product, i64>(cpu, |x| x),
    }
}

/// The destination can hold a result of this dtype: any float holds any float, rounded once.
fn holds(op: &'static str, out: &Destination, dtype: DType) -> Result<()> {
    if out.dtype == dtype || out.dtype.is_float() && dtype.is_float() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DType, op, format!("out is {}, and the result {dtype}", out.dtype)))
}

/// The shape with some axes of extent 1.
fn kept_shape(shape: &Shape, axes: &[usize]) -> Result<Shape> {
    let mut extents = [0; attentia_backend::MAX_RANK];
    for (axis, extent) in shape.iter().enumerate() {
        extents[axis] = if axes.contains(&axis) { 1 } else { *extent };
    }
    Shape::new(&extents[..shape.rank()])
}

/// x's walk over the axes of `shape` alone. `None` cannot happen for a layout that has elements: the walk is a part of
/// the whole one.
fn part(x: &Layout, shape: Shape) -> Option<Layout> {
    Layout::from_parts(shape, x.strides(), x.offset())
}

/// One reduction: which elements go where.
struct Plan<'a> {
    x: Operand<'a>,
    out: Destination<'a>,
    /// Results: offsets of x's first element of each, and of the result. `None` when x is empty.
    nests: Option<(Nest<2>, Nest<1>)>,
    /// Whether results side by side are contiguous in x.
    columns: bool,
}

impl<'a> Plan<'a> {
    fn new(op: &'static str, x: Operand<'a>, axes: &[usize], out: Destination<'a>) -> Result<Plan<'a>> {
        if x.layout.count() == 0 {
            return Ok(Plan { x, out, nests: None, columns: false });
        }
        let others: Vec<usize> = (0..x.layout.rank()).filter(|axis| !axes.contains(axis)).collect();
        let kept = part(x.layout, *out.layout.shape());
        let reduced = part(x.layout, kept_shape(x.layout.shape(), &others)?);
        let (Some(kept), Some(reduced)) = (kept, reduced) else {
            return Err(Error::new(ErrorKind::Shape, op, format!("strides of {:?} are too large", x.layout)));
        };
        let (kept, reduced) = (Nest::new([&kept, out.layout]), Nest::new([&reduced]));
        let inner_stride = |strides: Option<isize>| strides.unwrap_or(0);
        let kept_stride = inner_stride(kept.axes().last().map(|(_, strides)| strides[0]));
        let reduced_stride = inner_stride(reduced.axes().last().map(|(_, strides)| strides[0]));
        let columns = kept_stride == 1 && kept.run_len() >= 8 && (reduced_stride != 1 || reduced.count() == 1);
        Ok(Plan { x, out, nests: Some((kept, reduced)), columns })
    }

    /// Folds every result's elements; `finish` turns the merged value into the result.
    fn run<F: Fold<L>, L: Number>(&self, cpu: &CpuBackend, finish: impl Fn(L::Wide) -> L::Wide + Sync) -> Result<()> {
        let Some((kept, reduced)) = &self.nests else {
            let nothing = finish(F::result(F::nothing()));
            let nest = Nest::new([self.out.layout]);
            for run in nest.runs(0..nest.count()) {
                for i in 0..run.len {
                    // SAFETY: the run stays within the layout, and this thread is the only one.
                    unsafe { nothing.store(&self.out, run.at(i)[0]) };
                }
            }
            return Ok(());
        };
        let (results, elements) = (kept.count(), reduced.count());
        // The width of a task in results, and its height in elements of each.
        let width = if self.columns { kept.run_len().min(COLUMNS) } else { 1 };
        let height = if self.columns { (SPLIT / width).max(fold::ROWS) } else { SPLIT };
        let splits = elements.div_ceil(height);
        let task = |units: std::ops::Range<usize>, height: usize, split: usize, emit: &fold::Emit<F::State>| {
            let part = split * height..elements.min((split + 1) * height);
            fold::task::<F, L>(cpu.isa(), self.x, kept, reduced, self.columns, units, part, emit);
        };
        // Units: single results, or blocks of columns of one run.
        let per_run = if self.columns { kept.run_len().div_ceil(width) } else { 1 };
        let units = if self.columns { results / kept.run_len() * per_run } else { results };
        let range = |unit: usize| match self.columns {
            true => {
                let start = unit / per_run * kept.run_len() + unit % per_run * width;
                start..((unit / per_run + 1) * kept.run_len()).min(start + width)
            }
            false => unit..unit + 1,
        };
        if splits == 1 {
            let group = (GRAIN / (width * elements)).max(1);
            cpu.threads.chunks(units, group, |chunk| {
                let emit = |_: usize, at: isize, state: F::State| {
                    // SAFETY: the offset is a result's, which belongs to this task alone.
                    unsafe { finish(F::result(state)).store(&self.out, at) };
                };
                match self.columns {
                    true => chunk.for_each(|unit| task(range(unit), height, 0, &emit)),
                    false => task(chunk, height, 0, &emit),
                }
            });
            return Ok(());
        }
        // Split s of result r at [s · results + r].
        let bytes = (splits * results).checked_mul(size_of::<F::State>());
        let partial = cpu.pool.alloc(bytes.unwrap_or(usize::MAX))?;
        let start = Shared(partial.as_ptr().cast::<F::State>());
        cpu.threads.run(units * splits, |i| {
            let (split, unit) = (i / units, i % units);
            let emit = |result: usize, _: isize, state: F::State| {
                // SAFETY: the block holds `splits · results` states, aligned to 64 bytes; this one is this task's.
                unsafe { start.get().add(split * results + result).write(state) };
            };
            task(range(unit), height, split, &emit);
        });
        cpu.threads.chunks(results, GRAIN.div_ceil(splits), |chunk| {
            let mut result = chunk.start;
            for run in kept.runs(chunk) {
                for i in 0..run.len {
                    let states = (0..splits).map(|split| {
                        // SAFETY: written above by the task of this split and result.
                        unsafe { start.get().add(split * results + result).read() }
                    });
                    let state = states.reduce(F::merge).unwrap_or(F::nothing());
                    // SAFETY: the offset is a result's, which belongs to this task alone.
                    unsafe { finish(F::result(state)).store(&self.out, run.at(i)[1]) };
                    result += 1;
                }
            }
        });
        Ok(())
    }
}

/// A pointer that tasks share and write to in different places.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: each task writes its own elements.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// By a method, so that closures capture the whole.
    fn get(&self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests;
