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
    rows::{
        Floats, LANES, RowPlan, Scratch, Vector, blocks, fence, in_f64, prefetch, put, statistics_shape, stream, sum,
        take, try_chunks,
    },
};
use attentia_backend::{DType, Error, ErrorKind, Layout, Result, View, ViewMut};
use std::ops::Range;

/// Bytes of a result that no cache is likely to hold until they are read again.
const CACHES: usize = if cfg!(test) { 32 << 10 } else { 32 << 20 };

/// How far rows from memory are asked for ahead of their use, in bytes: a row of 768 takes 120 ns, and memory 100 to 200.
const AHEAD: usize = 12 << 10;

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
    let in_place = plan.scratch(0, &out) == 0 && plan.scratch(1, &x) == 0;
    let large = in_place && plan.rows().saturating_mul(columns).saturating_mul(size_of::<A>()) > CACHES;
    try_chunks(&cpu.threads, plan.rows(), plan.grain(), |range| {
        let mut scratch = Scratch::<A>::new(&cpu.pool, plan.scratch(0, &out).max(plan.scratch(1, &x)))?;
        let scratch = scratch.start();
        let (weight, bias) = (weight.start(), bias.start());
        let task =
            Forward::<A, CENTRED, false> { plan: &plan, range, x, weight, bias, epsilon, out, mean, rstd, scratch };
        match large {
            true => isa::run(cpu.isa, task.large()),
            false => isa::run(cpu.isa, task),
        }
        Ok(())
    })
}

fn fill_with_nan<A: Real>(out: Floats<A>) {
    let nest = Nest::new([out.layout()]);
    for run in nest.runs(0..nest.count()) {
        for i in 0..run.len as isize {
            // SAFETY: the nest stays within the layout.
            unsafe { out.set(run.offsets[0] + i * run.strides[0], A::NAN) };
        }
    }
}

/// The forward of some rows; they are computed in place in `scratch` where they can't lie in memory.
///
/// When it is `LARGE`, rows come from memory and go there: they are asked for early, and written past the caches.
struct Forward<'a, A, const CENTRED: bool, const LARGE: bool> {
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

impl<'a, A: Real, const CENTRED: bool> Forward<'a, A, CENTRED, false> {
    /// The same rows, beyond the caches.
    fn large(self) -> Forward<'a, A, CENTRED, true> {
        let Forward { plan, range, x, weight, bias, epsilon, out, mean, rstd, scratch } = self;
        Forward { plan, range, x, weight, bias, epsilon, out, mean, rstd, scratch }
    }
}

impl<A: Real, const CENTRED: bool, const LARGE: bool> Kernel for Forward<'_, A, CENTRED, LARGE> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Forward { plan, range, x, weight, bias, epsilon, out, mean, rstd, scratch } = self;
        for [to, from, of_mean, of_rstd] in plan.tiles(range) {
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
                    normalise_row::<M, A, LARGE>(x, centre, scale, weight, bias, y, columns);
                    if let Some(mean) = &mean {
                        mean.set(of_mean.of_row(row), centre);
                    }
                    rstd.set(of_rstd.of_row(row), scale);
                }
            }
            // SAFETY: as above.
            unsafe { out.store::<M>(to, scratch) };
        }
        if LARGE {
            fence();
        }
    }
}

/// # Safety
///
/// `columns` elements at `x`; so for the rows below.
#[inline(always)]
unsafe fn mean_of<A: Real>(x: *const A, columns: usize) -> A {
    let mut sums = [A::ZERO; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(x.add(at), len, A::ZERO) };
        for l in 0..LANES {
            sums[l] += block[l];
        }
    });
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
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(x.add(at), len, centre) };
        for l in 0..LANES {
            let deviation = block[l] - centre;
            sums[l] = A::mul_add::<M>(deviation, deviation, sums[l]);
        }
    });
    sum(sums).to_f64() / columns as f64
}

/// # Safety
///
/// As [`mean_of`], for each pointer; `out` may be `x`.
#[inline(always)]
unsafe fn normalise_row<M: Machine, A: Real, const LARGE: bool>(
    x: *const A,
    centre: A,
    scale: A,
    weight: *const A,
    bias: *const A,
    out: *mut A,
    columns: usize,
) {
    let ahead = AHEAD.div_ceil(columns * size_of::<A>()) * columns;
    blocks!(columns, |at, len| {
        if LARGE {
            prefetch(x.wrapping_add(ahead + at));
        }
        // SAFETY: the caller's promise.
        let (mut block, weight, bias) = unsafe {
            (take(x.add(at), len, A::ZERO), take(weight.add(at), len, A::ZERO), take(bias.add(at), len, A::ZERO))
        };
        for l in 0..LANES {
            block[l] = A::mul_add::<M>((block[l] - centre) * scale, weight[l], bias[l]);
        }
        // SAFETY: the caller's promise.
        unsafe {
            match LARGE {
                true => stream(block, out.add(at), len),
                false => put(block, out.add(at), len),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use crate::{
        CpuBackend,
        oracle::{Lie, Sample, check},
    };
    use attentia_backend::{Backend, DType, ErrorKind};

    const EPSILON: f64 = 1e-3;

    /// Forward and backward of both norms, with everything in one kind of layout.
    fn all(b: &dyn Backend, dtype: DType, extents: &[usize], lie: Lie, to: Lie, parameters: bool) -> Vec<Sample> {
        let columns = [*extents.last().unwrap()];
        let statistics = [&extents[..extents.len() - 1], &[1]].concat();
        let (x, dy) = (Sample::floats(b, dtype, extents, lie, 1), Sample::floats(b, dtype, extents, lie, 2));
        let (w, bias) = (Sample::floats(b, dtype, &columns, to, 3), Sample::floats(b, dtype, &columns, to, 4));
        let (w, bias) = (parameters.then(|| w.view()), parameters.then(|| bias.view()));
        let room = |dtype, extents: &[usize]| Sample::room(b, dtype, extents, to);
        let narrow = |seed| Sample::floats(b, dtype.statistics(), &statistics, to, seed);
        let (mut out, mut rms_out) = (room(dtype, extents), room(dtype, extents));
        let mut results = [0; 3].map(|_| room(dtype.statistics(), &statistics));
        let [mean, rstd, rms] = &mut results;
        b.layer_norm(x.view(), w, bias, EPSILON, out.view_mut(), mean.view_mut(), rstd.view_mut()).unwrap();
        b.rms_norm(x.view(), w, EPSILON, rms_out.view_mut(), rms.view_mut()).unwrap();
        // The statistics of a backward are operands like any other.
        let (mean, rstd) = (narrow(5), narrow(6));
        let (mean, rstd) = (mean.view(), rstd.view());
        let (mut dx, mut dw, mut db) = (room(dtype, extents), room(dtype, &columns), room(dtype, &columns));
        let (to_x, to_w, to_b) = (Some(dx.view_mut()), Some(dw.view_mut()), Some(db.view_mut()));
        b.layer_norm_backward(x.view(), w, mean, rstd, dy.view(), to_x, to_w, to_b).unwrap();
        let (mut rms_dx, mut rms_dw) = (room(dtype, extents), room(dtype, &columns));
        b.rms_norm_backward(x.view(), w, rstd, dy.view(), Some(rms_dx.view_mut()), None).unwrap();
        b.rms_norm_backward(x.view(), w, rstd, dy.view(), None, Some(rms_dw.view_mut())).unwrap();
        let mut all = vec![out, rms_out, dx, dw, db, rms_dx, rms_dw];
        all.extend(results);
        all
    }

    #[test]
    fn agree_with_the_oracle() {
        for dtype in DType::FLOATS {
            for (lie, to) in Lie::ALL.into_iter().zip(Lie::WRITABLE.into_iter().cycle()) {
                if lie == Lie::RepeatedColumns {
                    continue; // no variance: rounding errors times 1/√ε
                }
                for parameters in [false, true] {
                    check(&format!("norms {dtype} {lie:?} to {to:?}"), |b| {
                        all(b, dtype, &[3, 4, 67], lie, to, parameters)
                    });
                }
            }
        }
    }

    #[test]
    fn edge_shapes() {
        for extents in [&[1][..], &[5], &[2, 1], &[0, 3], &[9, 31], &[9, 32], &[9, 33]] {
            check(&format!("norms {extents:?}"), |b| {
                all(b, DType::F64, extents, Lie::Contiguous, Lie::Contiguous, true)
            });
        }
        check("nothing to average", |b| {
            let x = Sample::floats(b, DType::F32, &[3, 0], Lie::Contiguous, 1);
            let mut out = Sample::room(b, DType::F32, &[3, 0], Lie::Contiguous);
            let mut statistics = [0; 2].map(|_| Sample::room(b, DType::F32, &[3, 1], Lie::Sliced));
            let [mean, rstd] = &mut statistics;
            let to = (out.view_mut(), mean.view_mut(), rstd.view_mut());
            b.layer_norm(x.view(), None, None, 0.0, to.0, to.1, to.2).unwrap();
            statistics.into()
        });
    }

    #[test]
    fn parameter_gradients_have_the_same_bits_for_any_number_of_threads() {
        for lie in [Lie::Contiguous, Lie::Transposed] {
            let parallel = check(&format!("large norms {lie:?}"), |b| all(b, DType::F64, &[900, 65], lie, lie, true));
            assert!(parallel > 0);
            check(&format!("large norms in f32 {lie:?}"), |b| {
                let x = Sample::floats(b, DType::F32, &[900, 65], lie, 1);
                let one = Sample::new(b, DType::F32, &[900, 1], lie, |_| 1.0);
                let mut dw = Sample::room(b, DType::F32, &[65], Lie::Sliced);
                b.rms_norm_backward(x.view(), None, one.view(), x.view(), None, Some(dw.view_mut())).unwrap();
                vec![dw]
            });
        }
    }

    #[test]
    fn gradients_may_be_wider_than_their_operands() {
        check("f32 gradients of bf16", |b| {
            let x = Sample::floats(b, DType::Bf16, &[7, 40], Lie::Contiguous, 1);
            let (mean, rstd) = (
                Sample::floats(b, DType::F32, &[7, 1], Lie::Contiguous, 2),
                Sample::floats(b, DType::F32, &[7, 1], Lie::Sliced, 3),
            );
            let [mut dx, mut dw] = [&[7, 40][..], &[40]].map(|e| Sample::room(b, DType::F32, e, Lie::Flipped));
            let to = (Some(dx.view_mut()), Some(dw.view_mut()));
            b.layer_norm_backward(x.view(), None, mean.view(), rstd.view(), x.view(), to.0, to.1, None).unwrap();
            vec![dx, dw]
        });
    }

    #[test]
    fn mistakes_are_errors() {
        let cpu = CpuBackend::new(1).unwrap();
        let x = Sample::floats(&cpu, DType::Bf16, &[2, 3], Lie::Contiguous, 1);
        let w = Sample::floats(&cpu, DType::Bf16, &[2], Lie::Contiguous, 1);
        let mut out = Sample::room(&cpu, DType::Bf16, &[2, 3], Lie::Contiguous);
        let mut narrow = Sample::room(&cpu, DType::Bf16, &[2, 1], Lie::Contiguous);
        let mut rstd = Sample::room(&cpu, DType::F32, &[2, 1], Lie::Contiguous);
        let mut scalar = Sample::room(&cpu, DType::F32, &[], Lie::Contiguous);
        let error = cpu.rms_norm(x.view(), None, 0.0, out.view_mut(), narrow.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DType);
        let error = cpu.rms_norm(x.view(), Some(w.view()), 0.0, out.view_mut(), rstd.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
        let one = Sample::floats(&cpu, DType::F32, &[], Lie::Contiguous, 1);
        assert!(cpu.rms_norm(one.view(), None, 0.0, scalar.view_mut(), rstd.view_mut()).is_err());
    }
}
