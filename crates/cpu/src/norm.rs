//! Layer norm and RMS norm along the last axis.
//!
//! ```text
//! layer   mean = Σ x / C;  rstd = 1/√(Σ (x − mean)² / C + ε);  out = (x − mean) · rstd · weight + bias
//! rms     mean = 0;        the same, without bias
//! ```
//!
//! Two passes over a row for its statistics and one for the result, all while it is in cache: the variance of centred
//! values loses nothing to cancellation. RMS norm is the same kernel with a mean of zero.

mod backward;

pub(crate) use backward::{layer_norm_backward, rms_norm_backward};

use crate::{
    CpuBackend, check,
    isa::{self, Kernel, Machine},
    math::Real,
    nest::Nest,
    rows::{Floats, LANES, RowPlan, Scratch, Vector, in_f64, put, statistics_shape, sum, take, try_chunks},
};
use attentia_backend::{DType, Error, ErrorKind, Layout, Result, View, ViewMut};
use std::ops::Range;

pub(crate) fn layer_norm(
    cpu: &CpuBackend,
    x: View,
    weight: Option<View>,
    bias: Option<View>,
    epsilon: f64,
    out: ViewMut,
    mean: ViewMut,
    rstd: ViewMut,
) -> Result<()> {
    match in_f64(&[x.dtype(), out.dtype()]) {
        true => forward::<f64, true>(cpu, "layer_norm", x, weight, bias, epsilon, out, Some(mean), rstd),
        false => forward::<f32, true>(cpu, "layer_norm", x, weight, bias, epsilon, out, Some(mean), rstd),
    }
}

pub(crate) fn rms_norm(
    cpu: &CpuBackend,
    x: View,
    weight: Option<View>,
    epsilon: f64,
    out: ViewMut,
    rstd: ViewMut,
) -> Result<()> {
    match in_f64(&[x.dtype(), out.dtype()]) {
        true => forward::<f64, false>(cpu, "rms_norm", x, weight, None, epsilon, out, None, rstd),
        false => forward::<f32, false>(cpu, "rms_norm", x, weight, None, epsilon, out, None, rstd),
    }
}

/// Number of columns of an operand with at least one axis.
fn columns_of(op: &'static str, layout: &Layout) -> Result<usize> {
    let columns = layout.shape().last().copied();
    columns.ok_or_else(|| Error::new(ErrorKind::Shape, op, "a scalar has no last axis"))
}

/// A weight or bias: a vector of the rows' length and dtype.
fn parameter<'a, A: Real>(
    op: &'static str,
    role: &str,
    view: Option<View<'a>>,
    columns: usize,
    dtype: DType,
) -> Result<Option<Floats<'a, A>>> {
    let Some(view) = view else { return Ok(None) };
    let floats = Floats::input(op, view)?;
    floats.expect(op, role, &[columns], dtype)?;
    Ok(Some(floats))
}

fn forward<A: Real, const CENTRED: bool>(
    cpu: &CpuBackend,
    op: &'static str,
    x: View,
    weight: Option<View>,
    bias: Option<View>,
    epsilon: f64,
    out: ViewMut,
    mean: Option<ViewMut>,
    rstd: ViewMut,
) -> Result<()> {
    let dtype = x.dtype();
    let (x, out) = (Floats::<A>::input(op, x)?, Floats::<A>::output(op, out)?);
    check::shape(op, "x", x.layout(), out.layout().shape())?;
    let columns = columns_of(op, x.layout())?;
    let weight = parameter(op, "weight", weight, columns, dtype)?;
    let bias = parameter(op, "bias", bias, columns, dtype)?;
    let statistics = statistics_shape(x.layout().shape());
    let rstd = Floats::<A>::output(op, rstd)?;
    rstd.expect(op, "rstd", &statistics, dtype.statistics())?;
    let mean = mean.map(|m| Floats::<A>::output(op, m)).transpose()?;
    if let Some(mean) = &mean {
        mean.expect(op, "mean", &statistics, dtype.statistics())?;
    }
    if columns == 0 {
        // The mean of nothing.
        [mean, Some(rstd)].into_iter().flatten().for_each(fill_with_nan);
        return Ok(());
    }
    let layouts = [out.layout(), x.layout(), mean.map_or(rstd.layout(), |m| m.layout()), rstd.layout()];
    let Some(plan) = RowPlan::new(layouts, columns) else { return Ok(()) };
    let weight = Vector::new(cpu, weight, columns, A::ONE)?;
    let bias = Vector::new(cpu, bias, columns, A::ZERO)?;
    try_chunks(&cpu.threads, plan.rows(), plan.grain(), |range| {
        let mut scratch = Scratch::<A>::new(&cpu.pool, plan.scratch(0, &out).max(plan.scratch(1, &x)))?;
        let scratch = scratch.start();
        let (weight, bias) = (weight.start(), bias.start());
        let task = Forward::<A, CENTRED> { plan: &plan, range, x, weight, bias, epsilon, out, mean, rstd, scratch };
        isa::run(cpu.isa, task);
        Ok(())
    })
}

fn fill_with_nan<A: Real>(out: Floats<A>) {
    let nest = Nest::new([out.layout()]);
    nest.runs(0..nest.count(), |run| {
        for i in 0..run.len as isize {
            // SAFETY: the nest stays within the layout.
            unsafe { out.set(run.offsets[0] + i * run.strides[0], A::NAN) };
        }
    });
}

/// The forward of some rows; they are computed in place in `scratch` where they can't lie in memory.
struct Forward<'a, A, const CENTRED: bool> {
    plan: &'a RowPlan<4>,
    range: Range<usize>,
    x: Floats<'a, A>,
    weight: *const A,
    bias: *const A,
    epsilon: f64,
    out: Floats<'a, A>,
    mean: Option<Floats<'a, A>>,
    rstd: Floats<'a, A>,
    scratch: *mut A,
}

impl<A: Real, const CENTRED: bool> Kernel for Forward<'_, A, CENTRED> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Forward { plan, range, x, weight, bias, epsilon, out, mean, rstd, scratch } = self;
        plan.tiles(range, |[to, from, of_mean, of_rstd]| {
            // SAFETY: the plan stays within the operands, whose shapes agree; tasks have different rows.
            let rows = unsafe { x.read::<M>(from, scratch) };
            let results = out.place(to, scratch);
            for row in 0..to.rows {
                let (x, y, columns) = (rows.row(row).cast_const(), results.row(row), to.columns);
                // SAFETY: rows and vectors have `columns` elements; the two rows are the same memory or apart.
                unsafe {
                    let centre = if CENTRED { mean_of(x, columns) } else { A::ZERO };
                    let variance = mean_square::<M, A>(x, centre, columns);
                    let scale = A::from_f64(1.0 / (variance + epsilon).sqrt());
                    normalise_row::<M, A>(x, centre, scale, weight, bias, y, columns);
                    if let Some(mean) = &mean {
                        mean.set(of_mean.of_row(row), centre);
                    }
                    rstd.set(of_rstd.of_row(row), scale);
                }
            }
            // SAFETY: as above.
            unsafe { out.store::<M>(to, scratch) };
        });
    }
}

/// # Safety
///
/// `columns` elements at `x`; so for the rows below.
#[inline(always)]
unsafe fn mean_of<A: Real>(x: *const A, columns: usize) -> A {
    let mut sums = [A::ZERO; LANES];
    let mut at = 0;
    while at < columns {
        // SAFETY: the caller's promise.
        let block = unsafe { take(x.add(at), columns - at, A::ZERO) };
        for l in 0..LANES {
            sums[l] += block[l];
        }
        at += LANES;
    }
    A::from_f64(sum(sums).to_f64() / columns as f64)
}

/// `Σ (x − centre)² / C`
///
/// # Safety
///
/// As [`mean_of`].
#[inline(always)]
unsafe fn mean_square<M: Machine, A: Real>(x: *const A, centre: A, columns: usize) -> f64 {
    let mut sums = [A::ZERO; LANES];
    let mut at = 0;
    while at < columns {
        // SAFETY: the caller's promise.
        let block = unsafe { take(x.add(at), columns - at, centre) };
        for l in 0..LANES {
            let deviation = block[l] - centre;
            sums[l] = A::mul_add::<M>(deviation, deviation, sums[l]);
        }
        at += LANES;
    }
    sum(sums).to_f64() / columns as f64
}

/// # Safety
///
/// As [`mean_of`], for each pointer; `out` may be `x`.
#[inline(always)]
unsafe fn normalise_row<M: Machine, A: Real>(
    x: *const A,
    centre: A,
    scale: A,
    weight: *const A,
    bias: *const A,
    out: *mut A,
    columns: usize,
) {
    let mut at = 0;
    while at < columns {
        let left = columns - at;
        // SAFETY: the caller's promise.
        let (mut block, weight, bias) = unsafe {
            (take(x.add(at), left, A::ZERO), take(weight.add(at), left, A::ZERO), take(bias.add(at), left, A::ZERO))
        };
        for l in 0..LANES {
            block[l] = A::mul_add::<M>((block[l] - centre) * scale, weight[l], bias[l]);
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, out.add(at), left) };
        at += LANES;
    }
}
