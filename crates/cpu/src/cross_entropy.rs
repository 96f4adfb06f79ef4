//! Cross-entropy between rows of logits and class indices.
//!
//! ```text
//! m = max x;  lse = m + ln Σ exp(x − m)          a row of −∞ has m = 0 in place of −∞, and lse = −∞
//! loss = lse − (1 − ε) · x[t] − ε/C · Σ x        dx = dloss · (exp(x − lse) − (1 − ε) · [c = t] − ε/C)
//! ```
//!
//! A term with factor 0 is left out, so that a logit of −∞ costs nothing where it is neither the target nor smoothed.
//! All targets are checked before anything is written.

use crate::{
    CpuBackend, check, index,
    isa::{self, Kernel, Machine},
    math::{Real, exp, log},
    rows::{Floats, LANES, RowPlan, Scratch, blocks, in_f64, put, sum, take, try_chunks},
    softmax::{row_exp_sum, row_maximum},
    storage::Input,
};
use attentia_backend::{CrossEntropy, DType, Error, ErrorKind, Layout, Result, View, ViewMut};
use std::ops::Range;

const OP: &str = "cross_entropy";

pub(crate) fn cross_entropy(
    cpu: &CpuBackend,
    spec: &CrossEntropy,
    logits: View,
    targets: View,
    loss: ViewMut,
    lse: ViewMut,
) -> Result<()> {
    match in_f64(&[logits.dtype()]) {
        true => forward::<f64>(cpu, spec, logits, targets, loss, lse),
        false => forward::<f32>(cpu, spec, logits, targets, loss, lse),
    }
}

pub(crate) fn cross_entropy_backward(
    cpu: &CpuBackend,
    spec: &CrossEntropy,
    logits: View,
    targets: View,
    lse: View,
    dloss: View,
    dlogits: ViewMut,
) -> Result<()> {
    match in_f64(&[logits.dtype(), dloss.dtype(), dlogits.dtype()]) {
        true => backward::<f64>(cpu, spec, logits, targets, lse, dloss, dlogits),
        false => backward::<f32>(cpu, spec, logits, targets, lse, dloss, dlogits),
    }
}

/// What both halves read.
struct Operands<'a, A> {
    x: Floats<'a, A>,
    targets: Input<'a, i64>,
    rows: usize,
    classes: usize,
    statistics: DType,
}

impl<'a, A: Real> Operands<'a, A> {
    /// After all checks on the logits, the targets and the specification.
    fn new(cpu: &CpuBackend, spec: &CrossEntropy, logits: View<'a>, targets: View<'a>) -> Result<Operands<'a, A>> {
        let (x, dtype, targets) = (Floats::input(OP, logits)?, logits.dtype(), Input::new(OP, targets)?);
        let smoothing = spec.label_smoothing;
        if !(0.0..=1.0).contains(&smoothing) {
            let what = format!("label_smoothing is {smoothing}, not in [0, 1]");
            return Err(Error::new(ErrorKind::Argument, OP, what));
        }
        let &[rows, classes] = x.layout().shape().as_slice() else {
            return Err(Error::new(ErrorKind::Shape, OP, format!("logits are {}, expected [N, C]", logits.shape())));
        };
        if classes == 0 {
            return Err(Error::new(ErrorKind::Shape, OP, "there are no classes"));
        }
        check::shape(OP, "targets", targets.layout(), &[rows])?;
        let shown = check::operand(cpu, "logits", x.layout(), dtype);
        index::check(cpu, OP, shown, 1, "targets", &targets, spec.ignore_index)?;
        Ok(Operands { x, targets, rows, classes, statistics: dtype.statistics() })
    }
}

/// A vector `[N]` as a column beside rows.
fn column(layout: &Layout) -> Layout {
    layout.unsqueeze(1).unwrap_or(*layout)
}

/// What a row subtracts, or `None` where the row is ignored.
#[derive(Clone, Copy)]
struct Target {
    ignored: bool,
    class: usize,
}

/// # Safety
///
/// `offset` lies within the targets.
#[inline(always)]
unsafe fn target(targets: &Input<i64>, offset: isize, ignore: Option<i64>, classes: usize) -> Target {
    // SAFETY: the caller's promise.
    let value = unsafe { *targets.start().offset(offset) };
    // Checked before; once more, because memory that is mapped from a file can change.
    let class = usize::try_from(value).ok().filter(|&c| c < classes);
    Target { ignored: ignore == Some(value) || class.is_none(), class: class.unwrap_or(0) }
}

fn forward<A: Real>(
    cpu: &CpuBackend,
    spec: &CrossEntropy,
    logits: View,
    targets: View,
    loss: ViewMut,
    lse: ViewMut,
) -> Result<()> {
    let Operands { x, targets, rows, classes, statistics } = Operands::<A>::new(cpu, spec, logits, targets)?;
    let (loss, lse) = (Floats::<A>::output(OP, loss)?, Floats::<A>::output(OP, lse)?);
    loss.expect(OP, "loss", &[rows], statistics)?;
    lse.expect(OP, "lse", &[rows], statistics)?;
    let columns = [column(loss.layout()), column(lse.layout()), column(targets.layout())];
    let layouts = [&columns[0], &columns[1], &columns[2], x.layout()];
    let Some(plan) = RowPlan::new(layouts, classes) else { return Ok(()) };
    try_chunks(&cpu.threads, plan.rows(), plan.grain(), |range| {
        let mut scratch = Scratch::<A>::new(&cpu.pool, plan.scratch(3, &x))?;
        isa::run(cpu.isa, Forward { spec, plan: &plan, range, x, targets, loss, lse, scratch: scratch.start() });
        Ok(())
    })
}

/// The forward of some rows.
struct Forward<'a, A> {
    spec: &'a CrossEntropy,
    plan: &'a RowPlan<4>,
    range: Range<usize>,
    x: Floats<'a, A>,
    targets: Input<'a, i64>,
    loss: Floats<'a, A>,
    lse: Floats<'a, A>,
    scratch: *mut A,
}

impl<A: Real> Kernel for Forward<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Forward { spec, plan, range, x, targets, loss, lse, scratch } = self;
        let smoothing = spec.label_smoothing;
        for [of_loss, of_lse, of_target, from] in plan.tiles(range) {
            // SAFETY: the plan stays within the operands, whose shapes agree; tasks have different rows.
            let rows = unsafe { x.read::<M>(from, scratch) };
            for row in 0..from.rows {
                let (x, classes) = (rows.row(row).cast_const(), from.columns);
                // SAFETY: the row has `classes` elements, and offsets are the plan's.
                unsafe {
                    let m = row_maximum(x, classes);
                    let total = row_exp_sum::<M, A>(x, if m == A::NEG_INFINITY { A::ZERO } else { m }, classes);
                    let log_sum = (m + log::<M, A>(total)).to_f64();
                    let target = target(&targets, of_target.of_row(row), spec.ignore_index, classes);
                    let mut value = if target.ignored { 0.0 } else { log_sum };
                    if smoothing < 1.0 && !target.ignored {
                        value -= (1.0 - smoothing) * (*x.add(target.class)).to_f64();
                    }
                    if smoothing > 0.0 && !target.ignored {
                        value -= smoothing / classes as f64 * row_sum(x, classes).to_f64();
                    }
                    loss.set(of_loss.of_row(row), A::from_f64(value));
                    lse.set(of_lse.of_row(row), A::from_f64(log_sum));
                }
            }
        }
    }
}

/// # Safety
///
/// `columns` elements at `x`.
#[inline(always)]
unsafe fn row_sum<A: Real>(x: *const A, columns: usize) -> A {
    let mut sums = [A::ZERO; LANES];
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let block = unsafe { take(x.add(at), len, A::ZERO) };
        for l in 0..LANES {
            sums[l] += block[l];
        }
    });
    sum(sums)
}

fn backward<A: Real>(
    cpu: &CpuBackend,
    spec: &CrossEntropy,
    logits: View,
    targets: View,
    lse: View,
    dloss: View,
    dlogits: ViewMut,
) -> Result<()> {
    let Operands { x, targets, rows, classes, statistics } = Operands::<A>::new(cpu, spec, logits, targets)?;
    let (lse, dloss) = (Floats::<A>::input(OP, lse)?, Floats::<A>::input(OP, dloss)?);
    lse.expect(OP, "lse", &[rows], statistics)?;
    check::shape(OP, "dloss", dloss.layout(), &[rows])?;
    let dx = Floats::<A>::output(OP, dlogits)?;
    check::shape(OP, "dlogits", dx.layout(), &[rows, classes])?;
    let columns = [column(lse.layout()), column(dloss.layout()), column(targets.layout())];
    let layouts = [dx.layout(), x.layout(), &columns[0], &columns[1], &columns[2]];
    let Some(plan) = RowPlan::new(layouts, classes) else { return Ok(()) };
    try_chunks(&cpu.threads, plan.rows(), plan.grain(), |range| {
        let mut scratch = Scratch::<A>::new(&cpu.pool, plan.scratch(0, &dx).max(plan.scratch(1, &x)))?;
        isa::run(cpu.isa, Backward { spec, plan: &plan, range, x, targets, lse, dloss, dx, scratch: scratch.start() });
        Ok(())
    })
}

/// The backward of some rows.
struct Backward<'a, A> {
    spec: &'a CrossEntropy,
    plan: &'a RowPlan<5>,
    range: Range<usize>,
    x: Floats<'a, A>,
    targets: Input<'a, i64>,
    lse: Floats<'a, A>,
    dloss: Floats<'a, A>,
    dx: Floats<'a, A>,
    scratch: *mut A,
}

impl<A: Real> Kernel for Backward<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Backward { spec, plan, range, x, targets, lse, dloss, dx, scratch } = self;
        for [to, from, of_lse, of_dloss, of_target] in plan.tiles(range) {
            // SAFETY: the plan stays within the operands, whose shapes agree; tasks have different rows.
            let rows = unsafe { x.read::<M>(from, scratch) };
            let results = dx.place(to, scratch);
            for row in 0..to.rows {
                let (x, dx, classes) = (rows.row(row).cast_const(), results.row(row), to.columns);
                let even = spec.label_smoothing / classes as f64;
                // SAFETY: both rows have `classes` elements and are the same memory or apart; offsets are the plan's.
                unsafe {
                    let target = target(&targets, of_target.of_row(row), spec.ignore_index, classes);
                    if target.ignored {
                        std::slice::from_raw_parts_mut(dx, classes).fill(A::ZERO);
                        continue;
                    }
                    let (lse, dloss) = (lse.get(of_lse.of_row(row)), dloss.get(of_dloss.of_row(row)));
                    let at_target = exp::<M, A>(*x.add(target.class) - lse);
                    gradient_row::<M, A>(x, lse, A::from_f64(even), dloss, dx, classes);
                    let wanted = A::from_f64(even + (1.0 - spec.label_smoothing));
                    *dx.add(target.class) = (at_target - wanted) * dloss;
                }
            }
            // SAFETY: as above.
            unsafe { dx.store::<M>(to, scratch) };
        }
    }
}

/// `dx = (exp(x − lse) − even) · dloss`
///
/// # Safety
///
/// `columns` elements at `x` and `dx`, which may be the same memory.
#[inline(always)]
unsafe fn gradient_row<M: Machine, A: Real>(x: *const A, lse: A, even: A, dloss: A, dx: *mut A, columns: usize) {
    blocks!(columns, |at, len| {
        // SAFETY: the caller's promise.
        let mut block = unsafe { take(x.add(at), len, A::ZERO) };
        for value in &mut block {
            *value = (exp::<M, A>(*value - lse) - even) * dloss;
        }
        // SAFETY: the caller's promise.
        unsafe { put(block, dx.add(at), len) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Lie, Sample, check, scattered};
    use attentia_backend::Backend;

    fn targets(b: &dyn Backend, rows: usize, classes: usize, lie: Lie) -> Sample {
        Sample::new(
            b,
            DType::I64,
            &[rows],
            lie,
            |place| {
                if place % 5 == 3 { -100.0 } else { (place * 7 % classes) as f64 }
            },
        )
    }

    fn both(
        b: &dyn Backend,
        dtype: DType,
        extents: [usize; 2],
        lie: Lie,
        to: Lie,
        label_smoothing: f64,
    ) -> Vec<Sample> {
        let spec = CrossEntropy { label_smoothing, ignore_index: Some(-100) };
        let logits = Sample::new(b, dtype, &extents, lie, |place| match place % 97 {
            13 if label_smoothing == 0.0 => f64::NEG_INFINITY,
            _ => scattered(1, place),
        });
        let targets = targets(b, extents[0], extents[1], to);
        let room = |dtype, extents: &[usize]| Sample::room(b, dtype, extents, to);
        let (mut loss, mut lse) = (room(dtype.statistics(), &extents[..1]), room(dtype.statistics(), &extents[..1]));
        b.cross_entropy(&spec, logits.view(), targets.view(), loss.view_mut(), lse.view_mut()).unwrap();
        let dloss = Sample::floats(b, dtype.statistics(), &extents[..1], lie, 2);
        let saved = Sample::new(b, dtype.statistics(), &extents[..1], to, |place| 4.0 + scattered(3, place));
        let mut dx = room(dtype, &extents);
        let operands = (logits.view(), targets.view(), saved.view(), dloss.view());
        b.cross_entropy_backward(&spec, operands.0, operands.1, operands.2, operands.3, dx.view_mut()).unwrap();
        vec![loss, lse, dx]
    }

    #[test]
    fn agrees_with_the_oracle() {
        for dtype in DType::FLOATS {
            for (lie, to) in Lie::ALL.into_iter().zip(Lie::WRITABLE.into_iter().cycle()) {
                for smoothing in [0.0, 0.1, 1.0] {
                    check(&format!("cross_entropy {dtype} {lie:?} to {to:?} {smoothing}"), |b| {
                        both(b, dtype, [11, 43], lie, to, smoothing)
                    });
                }
            }
        }
        for extents in [[0, 3], [1, 1], [3, 31], [3, 33]] {
            check(&format!("{extents:?}"), |b| both(b, DType::F32, extents, Lie::Contiguous, Lie::Contiguous, 0.1));
        }
        let parallel = check("large", |b| both(b, DType::F32, [200, 301], Lie::Contiguous, Lie::Contiguous, 0.1));
        assert!(parallel > 0);
    }

    #[test]
    fn infinite_logits() {
        for value in [f64::NEG_INFINITY, f64::INFINITY, f64::NAN] {
            check(&format!("logits of {value}"), |b| {
                let logits = Sample::new(b, DType::F32, &[2, 3], Lie::Contiguous, |p| if p > 2 { value } else { 1.0 });
                let targets = Sample::new(b, DType::I64, &[2], Lie::Contiguous, |_| 1.0);
                let [mut loss, mut lse] = [0; 2].map(|_| Sample::room(b, DType::F32, &[2], Lie::Contiguous));
                let spec = CrossEntropy { label_smoothing: 0.0, ignore_index: None };
                b.cross_entropy(&spec, logits.view(), targets.view(), loss.view_mut(), lse.view_mut()).unwrap();
                vec![loss, lse]
            });
        }
    }

    #[test]
    fn wrong_targets_are_named_and_nothing_is_written() {
        let cpu = CpuBackend::new(2).unwrap();
        let logits = Sample::floats(&cpu, DType::F32, &[3, 4], Lie::Contiguous, 1);
        let [mut loss, mut lse] = [0; 2].map(|_| Sample::room(&cpu, DType::F32, &[3], Lie::Contiguous));
        for bad in [4.0, -1.0] {
            let targets = Sample::new(&cpu, DType::I64, &[3], Lie::Contiguous, |p| if p == 2 { bad } else { 0.0 });
            let spec = CrossEntropy { label_smoothing: 0.0, ignore_index: Some(-100) };
            let result = cpu.cross_entropy(&spec, logits.view(), targets.view(), loss.view_mut(), lse.view_mut());
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Index);
            let text = format!("cross_entropy: {bad} at position [2] of targets lies outside axis 1 of logits\n");
            assert!(error.to_string().starts_with(&text), "{error}");
            assert!(loss.values(&cpu).iter().all(|&x| x == 77.0));
        }
        let targets = Sample::new(&cpu, DType::I64, &[3], Lie::Contiguous, |_| 0.0);
        let spec = CrossEntropy { label_smoothing: 2.0, ignore_index: None };
        let result = cpu.cross_entropy(&spec, logits.view(), targets.view(), loss.view_mut(), lse.view_mut());
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Argument);
    }
}
