//! The softmax family along the last axis, one row at a time while the row is in cache.
//!
//! ```text
//! softmax        m = max x;  out = exp(x − m), s = Σ out;  out *= 1/s
//! log_softmax    m = max x;  s = Σ exp(x − m);             out = (x − m) − ln s
//! masked         x is −∞ where the mask is false; a row without anything above −∞ takes m = 0, so s = 0, and stays 0
//! backward       dx = y · (dy − Σ y·dy);  dx = dy − exp(y) · Σ dy  for log_softmax
//!                masked: an element of weight 0 is no input of its row, and has gradient 0 whatever its cotangent
//! ```
//!
//! The maximum passes over NaN: a NaN reaches the sum through its own exponential, and the sum makes the row NaN. A
//! row whose maximum is +∞ becomes NaN the same way, by ∞ − ∞.

use crate::{
    CpuBackend, check,
    isa::{self, Kernel, Machine},
    math::{Real, exp, log},
    rows::{
        Floats, LANES, RowPlan, Scratch, as_row, blocks, greatest, in_f64, put, source_dtype, sum, take, try_chunks,
    },
    storage::Input,
};
use attentia_backend::{DType, Error, ErrorKind, Result, SoftmaxKind, Source, View, ViewMut};
use std::ops::Range;

pub(crate) fn softmax(cpu: &CpuBackend, kind: SoftmaxKind, x: Source, mask: Option<View>, out: ViewMut) -> Result<()> {
    match in_f64(&[source_dtype(&x, &out), out.dtype()]) {
        true => forward::<f64>(cpu, kind, x, mask, out),
        false => forward::<f32>(cpu, kind, x, mask, out),
    }
}

pub(crate) fn softmax_backward(cpu: &CpuBackend, kind: SoftmaxKind, y: View, dy: Source, dx: ViewMut) -> Result<()> {
    match in_f64(&[y.dtype(), source_dtype(&dy, &dx), dx.dtype()]) {
        true => backward::<f64>(cpu, kind, y, dy, dx),
        false => backward::<f32>(cpu, kind, y, dy, dx),
    }
}

fn forward<A: Real>(cpu: &CpuBackend, kind: SoftmaxKind, x: Source, mask: Option<View>, out: ViewMut) -> Result<()> {
    let op = kind.name();
    let out = Floats::<A>::output(op, out)?;
    let x = Floats::source(op, x, out)?;
    check::shape(op, "x", x.layout(), out.layout().shape())?;
    let mask = match mask {
        Some(mask) if kind == SoftmaxKind::Masked && mask.dtype() == DType::Bool => {
            check::shape(op, "mask", mask.layout(), out.layout().shape())?;
            Some(Input::<u8>::new(op, mask)?)
        }
        Some(mask) if kind == SoftmaxKind::Masked => {
            return Err(Error::new(ErrorKind::DType, op, format!("mask is {}, expected bool", mask.dtype())));
        }
        None if kind != SoftmaxKind::Masked => None,
        _ => return Err(Error::new(ErrorKind::Argument, op, "a mask goes with masked_softmax, and only with it")),
    };
    let columns = check::row_len(out.layout().shape());
    let mask_layout = mask.map_or(*x.layout(), |m| *m.layout());
    let layouts = [as_row(out.layout()), as_row(x.layout()), as_row(&mask_layout)];
    let Some(plan) = RowPlan::new(layouts.each_ref(), columns) else { return Ok(()) };
    try_chunks(&cpu.threads, plan.rows(), plan.grain(), |range| {
        let mut scratch = Scratch::<A>::new(&cpu.pool, plan.scratch(0, &out).max(plan.scratch(1, &x)))?;
        let masked_columns = if mask.is_some() { columns } else { 0 };
        let mut mask_row = Scratch::<u8>::new(&cpu.pool, masked_columns)?;
        let mut visible = Scratch::<A>::new(&cpu.pool, masked_columns)?;
        let (scratch, mask_row, visible) = (scratch.start(), mask_row.as_mut_slice(), visible.as_mut_slice());
        isa::run(cpu.isa, Forward { kind, plan: &plan, range, x, mask, out, scratch, mask_row, visible });
        Ok(())
    })
}

/// The forward of some rows; they are computed in place in `scratch` where they can't lie in memory.
struct Forward<'a, A> {
    kind: SoftmaxKind,
    plan: &'a RowPlan<3>,
    range: Range<usize>,
    x: Floats<'a, A>,
    mask: Option<Input<'a, u8>>,
    out: Floats<'a, A>,
    scratch: *mut A,
    mask_row: &'a mut [u8],
    visible: &'a mut [A],
}

impl<A: Real> Kernel for Forward<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Forward { kind, plan, range, x, mask, out, scratch, mask_row, visible } = self;
        for [to, from, masked] in plan.tiles(range) {
            // SAFETY: the plan stays within the operands, whose shapes agree; tasks have different rows.
            let rows = unsafe { x.read::<M>(from, scratch) };
            let results = out.place(to, scratch);
            for row in 0..to.rows {
                let (x, out) = (rows.row(row).cast_const(), results.row(row));
                // SAFETY: both rows have `columns` elements and are the same memory or apart.
                unsafe {
                    match (kind, &mask) {
                        (SoftmaxKind::LogSoftmax, _) => log_softmax_row::<M, A>(x, out, to.columns),
                        (SoftmaxKind::Masked, Some(mask)) => {
                            let start = mask.start().offset(masked.offset + row as isize * masked.row_stride);
                            let keep = gathered(start, masked.column_stride, mask_row);
                            masked_row::<M, A>(x, keep, out, visible);
                        }
                        _ => softmax_row::<M, A>(x, out, to.columns),
                    }
                }
            }
            // SAFETY: as above.
            unsafe { out.store::<M>(to, scratch) };
        }
    }
}

/// Pointer to contiguous bytes: those at `start`, or a copy in `row` when they are strided.
///
/// # Safety
///
/// `row.len()` bytes can be read from `start` on, `stride` apart.
#[inline(always)]
unsafe fn gathered(start: *const u8, stride: isize, row: &mut [u8]) -> *const u8 {
    match stride {
        1 => return start,
        // SAFETY: the caller's promise.
        0 => row.fill(unsafe { *start }),
        _ => {
            for (i, byte) in row.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *byte = unsafe { *start.offset(i as isize * stride) };
            }
        }
    }
    row.as_ptr()
}

/// The greatest element of a row, NaN passed over; −∞ of nothing.
///
/// # Safety
///
/// `columns` elements can be read at `x`.
#[inline(always)]
pub(crate) unsafe fn row_maximum<A: Real>(x: *const A, columns: usize) -> A {
    let mut maxima = [A::NEG_INFINITY; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(x.add(at), len, A::NEG_INFINITY) };
        for l in 0..LANES {
            maxima[l] = if block[l] > maxima[l] { block[l] } else { maxima[l] };
        }
    });
    greatest(maxima)
}

/// `Σ exp(x − m)` of a row.
///
/// # Safety
///
/// As [`row_maximum`].
#[inline(always)]
pub(crate) unsafe fn row_exp_sum<M: Machine, A: Real>(x: *const A, m: A, columns: usize) -> A {
    let mut sums = [A::ZERO; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(x.add(at), len, A::NEG_INFINITY) };
        for l in 0..LANES {
            sums[l] += exp::<M, A>(block[l] - m);
        }
    });
    sum(sums)
}

/// # Safety
///
/// `columns` elements at `x` and at `out`, which are the same memory or apart; so for the rows below.
#[inline(always)]
unsafe fn softmax_row<M: Machine, A: Real>(x: *const A, out: *mut A, columns: usize) {
    // SAFETY: the caller's promise, here and below.
    let m = unsafe { row_maximum(x, columns) };
    // SAFETY: as above.
    let total = unsafe { exponentials::<M, A>(x, m, out, columns) };
    // SAFETY: as above.
    unsafe { scale_row(out, A::ONE / total, columns) };
}

/// `out = exp(x − m)`, and their sum.
///
/// # Safety
///
/// As [`softmax_row`].
#[inline(always)]
pub(crate) unsafe fn exponentials<M: Machine, A: Real>(x: *const A, m: A, out: *mut A, columns: usize) -> A {
    let mut sums = [A::ZERO; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let mut block = unsafe { take(x.add(at), len, A::NEG_INFINITY) };
        for l in 0..LANES {
            block[l] = exp::<M, A>(block[l] - m);
            sums[l] += block[l];
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, out.add(at), len) };
    });
    sum(sums)
}

/// `row *= factor`
///
/// # Safety
///
/// `columns` elements at `row`.
#[inline(always)]
pub(crate) unsafe fn scale_row<A: Real>(row: *mut A, factor: A, columns: usize) {
    // SAFETY: the caller's promise; nothing else refers to the row meanwhile.
    for x in unsafe { std::slice::from_raw_parts_mut(row, columns) } {
        *x = *x * factor;
    }
}

/// # Safety
///
/// As [`softmax_row`].
#[inline(always)]
unsafe fn log_softmax_row<M: Machine, A: Real>(x: *const A, out: *mut A, columns: usize) {
    // SAFETY: the caller's promise.
    let (m, total) = unsafe {
        let m = row_maximum(x, columns);
        (m, row_exp_sum::<M, A>(x, m, columns))
    };
    let log_sum = log::<M, A>(total);
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let mut block = unsafe { take(x.add(at), len, A::ZERO) };
        for value in &mut block {
            *value = *value - m - log_sum;
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, out.add(at), len) };
    });
}

/// `visible` is room for a row of its own.
///
/// # Safety
///
/// As [`softmax_row`], and `columns` bytes at `keep`.
#[inline(always)]
unsafe fn masked_row<M: Machine, A: Real>(x: *const A, keep: *const u8, out: *mut A, visible: &mut [A]) {
    let columns = visible.len();
    // SAFETY: the caller's promise; the row is not written while this borrow lives.
    let (x, keep) = unsafe { (std::slice::from_raw_parts(x, columns), std::slice::from_raw_parts(keep, columns)) };
    for ((to, &x), &keep) in visible.iter_mut().zip(x).zip(keep) {
        *to = if keep != 0 { x } else { A::NEG_INFINITY };
    }
    // SAFETY: `visible` has `columns` elements.
    let m = unsafe { row_maximum(visible.as_ptr(), columns) };
    // −∞ − −∞ would be NaN where the row has to be 0.
    let m = if m == A::NEG_INFINITY { A::ZERO } else { m };
    // SAFETY: the caller's promise on `out`.
    let total = unsafe { exponentials::<M, A>(visible.as_ptr(), m, out, columns) };
    if total == A::ZERO {
        return; // every exponential was 0, and 0 is what the row shall be
    }
    if total.is_nan() {
        // SAFETY: the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(out, columns) };
        let poisoned = |&x: &A| if x == A::NEG_INFINITY { A::ZERO } else { A::NAN };
        out.iter_mut().zip(&*visible).for_each(|(y, x)| *y = poisoned(x));
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { scale_row(out, A::ONE / total, columns) };
}

fn backward<A: Real>(cpu: &CpuBackend, kind: SoftmaxKind, y: View, dy: Source, dx: ViewMut) -> Result<()> {
    let op = kind.name();
    let dx = Floats::<A>::output(op, dx)?;
    let (y, dy) = (Floats::input(op, y)?, Floats::source(op, dy, dx)?);
    for (role, operand) in [("y", y), ("dy", dy)] {
        check::shape(op, role, operand.layout(), dx.layout().shape())?;
    }
    let layouts = [as_row(dx.layout()), as_row(y.layout()), as_row(dy.layout())];
    let Some(plan) = RowPlan::new(layouts.each_ref(), check::row_len(dx.layout().shape())) else { return Ok(()) };
    try_chunks(&cpu.threads, plan.rows(), plan.grain(), |range| {
        let mut y_scratch = Scratch::<A>::new(&cpu.pool, plan.scratch(1, &y))?;
        let mut scratch = Scratch::<A>::new(&cpu.pool, plan.scratch(0, &dx).max(plan.scratch(2, &dy)))?;
        let (y_scratch, scratch) = (y_scratch.start(), scratch.start());
        isa::run(cpu.isa, Backward { kind, plan: &plan, range, y, dy, dx, y_scratch, scratch });
        Ok(())
    })
}

/// The backward of some rows.
struct Backward<'a, A> {
    kind: SoftmaxKind,
    plan: &'a RowPlan<3>,
    range: Range<usize>,
    y: Floats<'a, A>,
    dy: Floats<'a, A>,
    dx: Floats<'a, A>,
    y_scratch: *mut A,
    scratch: *mut A,
}

impl<A: Real> Kernel for Backward<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Backward { kind, plan, range, y, dy, dx, y_scratch, scratch } = self;
        for [to, of_y, of_dy] in plan.tiles(range) {
            // SAFETY: the plan stays within the operands, whose shapes agree; tasks have different rows.
            let (ys, dys) = unsafe { (y.read::<M>(of_y, y_scratch), dy.read::<M>(of_dy, scratch)) };
            let results = dx.place(to, scratch);
            for row in 0..to.rows {
                let (y, dy, dx) = (ys.row(row).cast_const(), dys.row(row).cast_const(), results.row(row));
                // SAFETY: the rows have `columns` elements; dy and dx are the same memory or apart.
                unsafe {
                    match kind {
                        SoftmaxKind::LogSoftmax => log_softmax_backward_row::<M, A>(y, dy, dx, to.columns),
                        SoftmaxKind::Masked => softmax_backward_row::<M, A, true>(y, dy, dx, to.columns),
                        SoftmaxKind::Softmax => softmax_backward_row::<M, A, false>(y, dy, dx, to.columns),
                    }
                }
            }
            // SAFETY: as above.
            unsafe { dx.store::<M>(to, scratch) };
        }
    }
}

/// # Safety
///
/// `columns` elements at each pointer; `dx` may be `dy`.
#[inline(always)]
unsafe fn softmax_backward_row<M: Machine, A: Real, const MASKED: bool>(
    y: *const A,
    dy: *const A,
    dx: *mut A,
    columns: usize,
) {
    let mut sums = [A::ZERO; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let (y, dy) = unsafe { (take(y.add(at), len, A::ZERO), take(dy.add(at), len, A::ZERO)) };
        for l in 0..LANES {
            let dy = if MASKED && y[l] == A::ZERO { A::ZERO } else { dy[l] };
            sums[l] = A::mul_add::<M>(y[l], dy, sums[l]);
        }
    });
    let total = sum(sums);
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let (y, mut block) = unsafe { (take(y.add(at), len, A::ZERO), take(dy.add(at), len, A::ZERO)) };
        for l in 0..LANES {
            let slope = y[l] * (block[l] - total);
            block[l] = if MASKED && y[l] == A::ZERO { A::ZERO } else { slope };
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, dx.add(at), len) };
    });
}

/// # Safety
///
/// As [`softmax_backward_row`].
#[inline(always)]
unsafe fn log_softmax_backward_row<M: Machine, A: Real>(y: *const A, dy: *const A, dx: *mut A, columns: usize) {
    let mut sums = [A::ZERO; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(dy.add(at), len, A::ZERO) };
        for l in 0..LANES {
            sums[l] += block[l];
        }
    });
    let total = sum(sums);
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let (y, mut block) = unsafe { (take(y.add(at), len, A::ZERO), take(dy.add(at), len, A::ZERO)) };
        for l in 0..LANES {
            block[l] = A::mul_add::<M>(-exp::<M, A>(y[l]), total, block[l]);
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, dx.add(at), len) };
    });
}

#[cfg(test)]
mod tests;
