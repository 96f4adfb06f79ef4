//! Reading and adding by index: gather, scatter_add, and rows of a table.
//!
//! ```text
//! gather       elements of out in any order, in parallel
//! scatter_add  lines along the axis are independent: in parallel over lines, ascending along each
//! embedding    rows of out in parallel
//!   backward   positions sorted by table row; each row's gradients added up in ascending order, rows in parallel
//! ```
//!
//! All indices are checked before anything is written. They are looked at once more where they are used, because memory
//! that is mapped from a file can change under a running kernel; an index that has become invalid is passed over.
//! 16-bit destinations are added up in f32 and rounded once.

mod table;

pub(crate) use table::{embedding, embedding_backward};

use crate::{
    CpuBackend, check as rules,
    convert::Wide,
    nest::{Nest, Run},
    rows::{GRAIN, Scratch, try_chunks},
    storage::{Input, Output, Raw, with_element},
};
use attentia_backend::{
    DType, Error, ErrorKind, Layout, Result, View, ViewMut,
    rules::{Meta, outside},
};
use half::{bf16, f16};

/// Every element of the index, which the operation calls `role`, names a place along an axis of x or is the ignored one;
/// else an error with the first that doesn't, row-major.
pub(crate) fn check(
    cpu: &CpuBackend,
    op: &'static str,
    x: Meta,
    axis: usize,
    role: &'static str,
    index: &Input<i64>,
    ignored: Option<i64>,
) -> Result<()> {
    let extent = x.layout.shape()[axis];
    // The nest's order is that of its first layout, and its offsets in there are flat positions.
    let flat = Layout::contiguous(*index.layout().shape());
    let nest = Nest::new([&flat, index.layout()]);
    try_chunks(&cpu.threads, nest.count(), 4 * GRAIN, |range| {
        let wrong = nest.runs(range).find_map(|run| {
            (0..run.len as isize).find_map(|i| {
                // SAFETY: the nest stays within the layout.
                let value = unsafe { *index.start().offset(run.offsets[1] + i * run.strides[1]) };
                let wrong = valid(value, extent).is_none() && ignored != Some(value);
                wrong.then_some((value, (run.offsets[0] + i * run.strides[0]) as usize))
            })
        });
        let Some((value, mut flat)) = wrong else { return Ok(()) };
        let mut position = index.layout().shape().to_vec();
        for coordinate in position.iter_mut().rev() {
            (*coordinate, flat) = (flat % *coordinate, flat / *coordinate);
        }
        let index = rules::operand(cpu, role, index.layout(), DType::I64);
        Err(outside(op, x, axis, index, value, &position))
    })
}

/// The index as a position, if it is one.
#[inline(always)]
fn valid(index: i64, extent: usize) -> Option<usize> {
    usize::try_from(index).ok().filter(|&i| i < extent)
}

fn same_dtype(op: &'static str, role: &str, dtype: DType, expected: DType) -> Result<()> {
    if dtype == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DType, op, format!("{role} is {dtype}, expected {expected}")))
}

/// `index` has the rank of `x` and, outside the axis, no greater extents.
fn fits(op: &'static str, x: &Layout, index: &Layout, axis: usize) -> Result<()> {
    rules::axis(op, x, axis)?;
    let (extents, of_index) = (x.shape(), index.shape());
    if of_index.rank() == extents.rank() && (0..extents.rank()).all(|i| i == axis || of_index[i] <= extents[i]) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("an index of shape {of_index} does not fit {extents}"))
        .help(format!("index has the rank of x and, outside axis {axis}, no greater extents")))
}

/// The layout as indices walk over it: the index's shape, and no movement along the axis.
fn without_axis(op: &'static str, layout: &Layout, shape: &[usize], axis: usize) -> Result<Layout> {
    let mut result = *layout;
    for (i, &extent) in shape.iter().enumerate() {
        let (step, len) = if i == axis { (0, extent) } else { (1, extent) };
        result = result
            .slice(i, 0, step, len)
            .ok_or_else(|| Error::new(ErrorKind::Shape, op, format!("{shape:?} does not fit {}", layout.shape())))?;
    }
    Ok(result)
}

pub(crate) fn gather(cpu: &CpuBackend, x: View, index: View, axis: usize, out: ViewMut) -> Result<()> {
    same_dtype("gather", "out", out.dtype(), x.dtype())?;
    with_element!(x.dtype(), T => gather_as::<T>(cpu, x, index, axis, out))
}

fn gather_as<T: Raw>(cpu: &CpuBackend, x: View, index: View, axis: usize, out: ViewMut) -> Result<()> {
    let (op, dtype) = ("gather", x.dtype());
    let (x, index, out) = (Input::<T>::new(op, x)?, Input::<i64>::new(op, index)?, Output::<T>::new(op, out)?);
    fits(op, x.layout(), index.layout(), axis)?;
    rules::shape(op, "out", out.layout(), index.layout().shape())?;
    let extent = x.layout().shape()[axis];
    check(cpu, op, rules::operand(cpu, "x", x.layout(), dtype), axis, "index", &index, None)?;
    if out.layout().count() == 0 {
        return Ok(());
    }
    let stride = x.layout().strides()[axis];
    let lines = without_axis(op, x.layout(), index.layout().shape(), axis)?;
    let nest = Nest::new([out.layout(), index.layout(), &lines]);
    cpu.threads.chunks(nest.count(), GRAIN, |range| {
        for run in nest.runs(range) {
            // SAFETY: the nest stays within the layouts; indices lie within the axis; tasks write different elements.
            unsafe { gather_run(&x, &index, &out, stride, extent, run) };
        }
    });
    Ok(())
}

/// # Safety
///
/// The run lies within out, index and the lines of x; `stride` and `extent` are those of x's axis.
#[inline(always)]
unsafe fn gather_run<T: Raw>(
    x: &Input<T>,
    index: &Input<i64>,
    out: &Output<T>,
    stride: isize,
    extent: usize,
    run: Run<3>,
) {
    let [to, at, from] = run.offsets;
    // SAFETY: the caller's promise.
    unsafe {
        let (to, at, from) = (out.start().offset(to), index.start().offset(at), x.start().offset(from));
        if run.strides == [1, 0, 1] {
            // One index for the whole run.
            if let Some(i) = valid(*at, extent) {
                std::ptr::copy_nonoverlapping(from.offset(i as isize * stride), to, run.len);
            }
            return;
        }
        for step in 0..run.len as isize {
            if let Some(i) = valid(*at.offset(step * run.strides[1]), extent) {
                *to.offset(step * run.strides[0]) = *from.offset(step * run.strides[2] + i as isize * stride);
            }
        }
    }
}

/// A dtype that can be added up: in which type, and how.
trait Sums: Raw {
    type Total: Raw;
    /// Whether totals need memory of their own.
    const WIDER: bool;
    fn widen(self) -> Self::Total;
    fn narrow(total: Self::Total) -> Self;
    fn add(total: Self::Total, x: Self) -> Self::Total;
}

macro_rules! sums {
    ($($t:ty, $total:ty, $wider:literal, $widen:expr, $narrow:expr, $add:expr;)*) => {$(
        impl Sums for $t {
            type Total = $total;
            const WIDER: bool = $wider;
            #[inline(always)]
            fn widen(self) -> $total { ($widen)(self) }
            #[inline(always)]
            fn narrow(total: $total) -> $t { ($narrow)(total) }
            #[inline(always)]
            fn add(total: $total, x: $t) -> $total { ($add)(total, x) }
        }
    )*};
}
sums! {
    f64, f64, false, |x| x, |x| x, |a, b| a + b;
    f32, f32, false, |x| x, |x| x, |a, b| a + b;
    bf16, f32, true, Wide::widen, Wide::narrow, |a, b| a + Wide::widen(b);
    f16, f32, true, Wide::widen, Wide::narrow, |a, b| a + Wide::widen(b);
    i64, i64, false, |x| x, |x| x, i64::wrapping_add;
    u32, u32, false, |x| x, |x| x, u32::wrapping_add;
    u8, u8, false, |x| x, |x| x, u8::wrapping_add;
}

pub(crate) fn scatter_add(cpu: &CpuBackend, index: View, src: View, axis: usize, out: ViewMut) -> Result<()> {
    let op = "scatter_add";
    if src.dtype() == DType::Bool {
        return Err(Error::new(ErrorKind::DType, op, "not defined for bool"));
    }
    same_dtype(op, "out", out.dtype(), src.dtype())?;
    with_element!(src.dtype(), T => scatter_add_as::<T>(cpu, index, src, axis, out))
}

/// Lines that a task adds up together when they lie side by side in memory: whole cache lines.
const LINES: usize = 64;
/// Totals of a task's lines in scratch memory, unless one line has more.
const TOTALS: usize = 1 << 20;

fn scatter_add_as<T: Sums>(cpu: &CpuBackend, index: View, src: View, axis: usize, out: ViewMut) -> Result<()> {
    let (op, dtype) = ("scatter_add", out.dtype());
    let (index, src, out) = (Input::<i64>::new(op, index)?, Input::<T>::new(op, src)?, Output::<T>::new(op, out)?);
    fits(op, out.layout(), index.layout(), axis)?;
    let shape = index.layout().shape();
    rules::shape(op, "src", src.layout(), shape)?;
    let extent = out.layout().shape()[axis];
    check(cpu, op, rules::operand(cpu, "out", out.layout(), dtype), axis, "index", &index, None)?;
    if index.layout().count() == 0 {
        return Ok(());
    }
    let steps = shape[axis];
    let strides = [out.layout(), index.layout(), src.layout()].map(|l| l.strides()[axis]);
    let mut line_shape = shape.to_vec();
    line_shape[axis] = 1;
    let lines = [out.layout(), index.layout(), src.layout()].map(|l| without_axis(op, l, &line_shape, axis));
    let [to, at, from] = lines;
    let nest = Nest::new([&to?, &at?, &from?]);
    let beside =
        shape.iter().zip(src.layout().strides()).enumerate().any(|(i, (&extent, &stride))| {
            i != axis && extent > 1 && stride.unsigned_abs() < strides[2].unsigned_abs()
        });
    let fewest = if beside { LINES } else { 1 };
    let grain = (GRAIN / steps.max(1)).clamp(fewest, fewest.max(1024));
    let grain = if T::WIDER { grain.min(TOTALS / extent).max(1) } else { grain };
    try_chunks(&cpu.threads, nest.count(), grain, |range| {
        let totals = Scratch::<T::Total>::new(&cpu.pool, if T::WIDER { grain.saturating_mul(extent) } else { 0 })?;
        let mut task = Lines { index, src, out, strides, extent, steps, totals };
        for run in nest.runs(range) {
            // SAFETY: the nest stays within the layouts; indices lie within the axis; tasks have different lines.
            unsafe { task.add(run) };
        }
        Ok(())
    })
}

/// Lines along the axis: `strides` of out, index and src lead along it.
struct Lines<'a, T: Sums> {
    index: Input<'a, i64>,
    src: Input<'a, T>,
    out: Output<'a, T>,
    strides: [isize; 3],
    extent: usize,
    steps: usize,
    totals: Scratch<T::Total>,
}

impl<T: Sums> Lines<'_, T> {
    /// Adds along the lines of a run.
    ///
    /// # Safety
    ///
    /// The run lies within the lines, and no other task uses them.
    unsafe fn add(&mut self, run: Run<3>) {
        if T::WIDER {
            // SAFETY: the caller's promise.
            unsafe { self.add_in_totals(run) };
            return;
        }
        let start = self.out.start().wrapping_offset(run.offsets[0]);
        if run.strides == [1, 0, 1] {
            // SAFETY: the caller's promise: `run.len` elements of out lie side by side at each index.
            self.each_row(run, |i, src| unsafe {
                let to = std::slice::from_raw_parts_mut(start.offset(i as isize * self.strides[0]), run.len);
                to.iter_mut().zip(src).for_each(|(to, &x)| *to = T::narrow(T::add((*to).widen(), x)));
            });
            return;
        }
        // SAFETY: the caller's promise; a total is an element here.
        unsafe {
            self.each(run, |line, i, x| {
                let to = start.offset(line as isize * run.strides[0] + i as isize * self.strides[0]);
                *to = T::narrow(T::add((*to).widen(), x));
            });
        }
    }

    /// Totals lie like a matrix `[extent, lines]`.
    ///
    /// # Safety
    ///
    /// As [`Lines::add`].
    unsafe fn add_in_totals(&mut self, run: Run<3>) {
        let totals = self.totals.start();
        let start = self.out.start().wrapping_offset(run.offsets[0]);
        let element = |i: usize, line: usize| {
            start.wrapping_offset(line as isize * run.strides[0] + i as isize * self.strides[0])
        };
        // SAFETY: the caller's promise; a task has totals for all of its lines.
        unsafe {
            for i in 0..self.extent {
                for line in 0..run.len {
                    *totals.add(i * run.len + line) = (*element(i, line)).widen();
                }
            }
            if run.strides[1..] == [0, 1] {
                self.each_row(run, |i, src| {
                    let totals = std::slice::from_raw_parts_mut(totals.add(i * run.len), run.len);
                    totals.iter_mut().zip(src).for_each(|(total, &x)| *total = T::add(*total, x));
                });
            } else {
                self.each(run, |line, i, x| {
                    let total = totals.add(i * run.len + line);
                    *total = T::add(*total, x);
                });
            }
            for i in 0..self.extent {
                for line in 0..run.len {
                    *element(i, line) = T::narrow(*totals.add(i * run.len + line));
                }
            }
        }
    }

    /// Calls `f` with each index and source row, ascending, where the lines of a run share their indices and lie side
    /// by side in src.
    #[inline(always)]
    fn each_row(&self, run: Run<3>, mut f: impl FnMut(usize, &[T])) {
        for step in 0..self.steps as isize {
            // SAFETY: the run lies within index and src, as whoever calls `add` promises.
            let (value, src) = unsafe {
                let src = self.src.start().offset(run.offsets[2] + step * self.strides[2]);
                let value = *self.index.start().offset(run.offsets[1] + step * self.strides[1]);
                (value, std::slice::from_raw_parts(src, run.len))
            };
            if let Some(i) = valid(value, self.extent) {
                f(i, src);
            }
        }
    }

    /// Calls `f` with each line, index and source element: ascending along every line, neighbours in memory first.
    ///
    /// # Safety
    ///
    /// As [`Lines::add`].
    #[inline(always)]
    unsafe fn each(&self, run: Run<3>, mut f: impl FnMut(usize, usize, T)) {
        // SAFETY: the caller's promise.
        let mut visit = |line: usize, step: usize| unsafe {
            let offset = |n: usize| run.offsets[n] + line as isize * run.strides[n] + step as isize * self.strides[n];
            if let Some(i) = valid(*self.index.start().offset(offset(1)), self.extent) {
                f(line, i, *self.src.start().offset(offset(2)));
            }
        };
        let line_first = run.strides[2].unsigned_abs() < self.strides[2].unsigned_abs();
        let (outer, inner) = if line_first { (self.steps, run.len) } else { (run.len, self.steps) };
        for a in 0..outer {
            for b in 0..inner {
                if line_first { visit(b, a) } else { visit(a, b) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
