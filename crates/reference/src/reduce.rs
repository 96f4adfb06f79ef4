//! Reductions over axes, positions of extremes, running sums.
//!
//! Elements are taken in row-major order of the reduced axes, one after the other.

use crate::{
    arithmetic::Arithmetic,
    check,
    elementwise::{maximum, minimum},
    storage::{Number, elements, read, rows, shaped, store},
};
use attentia_backend::{ArgReduce, DType, Error, ErrorKind, Reduce, Result, View, ViewMut, rules};
use ndarray::{ArrayViewD, Axis, IxDyn};

/// `out = op over axes of x`
pub(crate) fn reduce(a: Arithmetic, op: Reduce, x: View, axes: &[usize], out: ViewMut) -> Result<()> {
    let (name, x_meta) = (op.name(), check::operand("x", x));
    for &axis in axes {
        check::axis(name, x_meta, axis)?;
    }
    if axes.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(Error::new(ErrorKind::Argument, name, format!("axes {axes:?} are not in ascending order")));
    }
    let (shape, dtype) = rules::reduce(op, x_meta, axes)?;
    check::result(name, check::destination("out", &out), dtype)?;
    if dtype.is_float() {
        let values = gathered(read(name, "x", x)?, axes)?.iter().map(|x| reduce_floats(a, op, x)).collect();
        store(name, "out", out, &shaped(values, &shape)?)
    } else {
        let values = gathered(read(name, "x", x)?, axes)?.iter().map(|x| reduce_integers(op, x)).collect();
        store(name, "out", out, &shaped(values, &shape)?)
    }
}

/// For each element of the result, the elements that go into it.
fn gathered<T: Number>(x: ArrayViewD<T>, axes: &[usize]) -> Result<Vec<Vec<T>>> {
    let kept = (0..x.ndim()).filter(|axis| !axes.contains(axis));
    let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
    let x = x.permuted_axes(IxDyn(&order));
    let (kept, reduced) = x.shape().split_at(x.ndim() - axes.len());
    let shape = [kept.iter().product(), reduced.iter().product()];
    rows(&shaped(elements(&x)?, &shape)?.view())
}

fn reduce_floats(a: Arithmetic, op: Reduce, x: &[f64]) -> f64 {
    let values = x.iter().copied();
    match op {
        Reduce::Sum => a.total(values),
        Reduce::Mean => a.mean(values),
        Reduce::Var { correction } => variance(a, x, correction),
        Reduce::Max => values.reduce(maximum).unwrap_or(f64::NAN),
        Reduce::Min => values.reduce(minimum).unwrap_or(f64::NAN),
        Reduce::Prod => values.fold(1.0, |product, x| a.hold(product * x)),
    }
}

/// `Σ (x − mean)² / (count − correction)`, in two passes; NaN where nothing is left of the count.
fn variance(a: Arithmetic, x: &[f64], correction: usize) -> f64 {
    let Some(freedom) = x.len().checked_sub(correction).filter(|&n| n > 0) else { return f64::NAN };
    let mean = a.hold(a.total(x.iter().copied()) / x.len() as f64);
    let squares = x.iter().map(|x| {
        let deviation = a.hold(x - mean);
        a.hold(deviation * deviation)
    });
    a.total(squares) / freedom as f64
}

fn reduce_integers(op: Reduce, x: &[i64]) -> i64 {
    let values = x.iter().copied();
    match op {
        Reduce::Max => values.max().unwrap_or(0),
        Reduce::Min => values.min().unwrap_or(0),
        Reduce::Prod => values.fold(1, i64::wrapping_mul),
        // Mean and variance of integers are refused by the rules before.
        Reduce::Sum | Reduce::Mean | Reduce::Var { .. } => values.fold(0, i64::wrapping_add),
    }
}

/// `out = position of the extreme along an axis`
pub(crate) fn arg_reduce(op: ArgReduce, x: View, axis: usize, out: ViewMut) -> Result<()> {
    let (name, x_meta) = (op.name(), check::operand("x", x));
    check::axis(name, x_meta, axis)?;
    let shape = rules::arg_reduce(op, x_meta, axis)?;
    rules::dtype(name, check::destination("out", &out), DType::I64)?;
    let positions: Vec<i64> = if x.dtype().is_float() {
        gathered::<f64>(read(name, "x", x)?, &[axis])?.iter().map(|x| extreme(op, x) as i64).collect()
    } else {
        gathered::<i64>(read(name, "x", x)?, &[axis])?.iter().map(|x| extreme(op, x) as i64).collect()
    };
    store(name, "out", out, &shaped(positions, &shape)?)
}

/// Position of the extreme: the first NaN if there is one, else the first of equals.
pub(crate) fn extreme<T: Number>(op: ArgReduce, x: &[T]) -> usize {
    let beats = |a: T, b: T| match op {
        _ if b.is_nan() => false,
        _ if a.is_nan() => true,
        ArgReduce::Max => a > b,
        ArgReduce::Min => a < b,
    };
    (1..x.len()).fold(0, |best, i| if beats(x[i], x[best]) { i } else { best })
}

/// `out[.., i, ..] = Σ_{j ≤ i} x[.., j, ..]`
pub(crate) fn cumsum(a: Arithmetic, x: View, axis: usize, out: ViewMut) -> Result<()> {
    let x_meta = check::operand("x", x);
    check::axis("cumsum", x_meta, axis)?;
    let (_, dtype) = rules::cumsum(x_meta);
    check::result("cumsum", check::destination("out", &out), dtype)?;
    if dtype.is_float() {
        running::<f64>(x, axis, 0.0, |total, x| a.add(total, x), out)
    } else {
        running::<i64>(x, axis, 0, i64::wrapping_add, out)
    }
}

fn running<T: Number>(x: View, axis: usize, zero: T, add: impl Fn(T, T) -> T, out: ViewMut) -> Result<()> {
    check::shape("cumsum", check::destination("out", &out), x.shape())?;
    if x.layout().count() == 0 {
        return Ok(());
    }
    let mut values = read::<T>("cumsum", "x", x)?.to_owned();
    for mut lane in values.lanes_mut(Axis(axis)) {
        let mut total = zero;
        for x in lane.iter_mut() {
            total = add(total, *x);
            *x = total;
        }
    }
    store("cumsum", "out", out, &values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close};
    use attentia_backend::Shape;

    fn run(op: Reduce, x: &Sample, axes: &[usize], extents: &[usize]) -> Sample {
        let dtype = op.result(x.view().dtype()).unwrap();
        let mut out = Sample::empty(dtype, extents);
        reduce(Arithmetic::EXACT, op, x.view(), axes, out.view_mut()).unwrap();
        out
    }

    #[test]
    fn small_sums_by_hand() {
        let x = Sample::floats(DType::F64, &[2, 3], &[1., 2., 3., 4., 5., 9.]);
        assert_eq!(run(Reduce::Sum, &x, &[0], &[1, 3]).to_floats(), [5., 7., 12.]);
        assert_eq!(run(Reduce::Mean, &x, &[1], &[2, 1]).to_floats(), [2., 6.]);
        assert_eq!(run(Reduce::Var { correction: 1 }, &x, &[1], &[2, 1]).to_floats(), [1., 7.]);
        assert_eq!(run(Reduce::Var { correction: 0 }, &x, &[], &[2, 3]).to_floats(), [0.; 6]);
        assert_eq!(run(Reduce::Prod, &x, &[0, 1], &[1, 1]).to_floats(), [1080.]);
        assert_eq!(run(Reduce::Sum, &x, &[], &[2, 3]).to_floats(), x.to_floats());
        let flipped = x.seen(|l| l.transpose(0, 1).flip(0).unwrap());
        assert_eq!(run(Reduce::Max, &flipped, &[1], &[3, 1]).to_floats(), [9., 5., 4.]);
        let wide = Sample::floats(DType::F64, &[1], &[2.]);
        let wide = wide.seen(|l| l.broadcast_to(&Shape::new(&[5]).unwrap()).unwrap());
        assert_eq!(run(Reduce::Sum, &wide, &[0], &[1]).to_floats(), [10.]);
    }

    #[test]
    fn nothing_has_a_sum_and_no_extreme() {
        let x = Sample::floats(DType::F32, &[2, 0], &[]);
        assert_eq!(run(Reduce::Sum, &x, &[1], &[2, 1]).to_floats(), [0., 0.]);
        assert_eq!(run(Reduce::Prod, &x, &[1], &[2, 1]).to_floats(), [1., 1.]);
        assert_close(&run(Reduce::Mean, &x, &[1], &[2, 1]), &[f64::NAN; 2], 0.0);
        assert_close(&run(Reduce::Var { correction: 0 }, &x, &[1], &[2, 1]), &[f64::NAN; 2], 0.0);
        assert!(run(Reduce::Max, &x, &[0], &[1, 0]).to_floats().is_empty());
        let mut out = Sample::empty(DType::F32, &[2, 1]);
        let error = reduce(Arithmetic::EXACT, Reduce::Max, x.view(), &[1], out.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
        for axes in [&[2][..], &[1, 0], &[1, 1]] {
            assert!(reduce(Arithmetic::EXACT, Reduce::Sum, x.view(), axes, out.view_mut()).is_err());
        }
        let one = Sample::floats(DType::F32, &[1], &[3.]);
        assert_close(&run(Reduce::Var { correction: 1 }, &one, &[0], &[1]), &[f64::NAN], 0.0);
    }

    #[test]
    fn nan_is_an_extreme_and_the_first_of_equals_wins() {
        let x = Sample::floats(DType::F32, &[3, 3], &[1., f64::NAN, f64::NAN, 5., 5., 1., -0.0, 0.0, 0.0]);
        assert_close(&run(Reduce::Max, &x, &[1], &[3, 1]), &[f64::NAN, 5., 0.], 0.0);
        assert_close(&run(Reduce::Min, &x, &[1], &[3, 1]), &[f64::NAN, 1., 0.], 0.0);
        for (op, expected) in [(ArgReduce::Max, [1, 0, 0]), (ArgReduce::Min, [1, 2, 0])] {
            let mut out = Sample::empty(DType::I64, &[3, 1]);
            arg_reduce(op, x.view(), 1, out.view_mut()).unwrap();
            assert_eq!(out.to_integers(), expected);
        }
    }

    #[test]
    fn integers_are_summed_in_i64_and_bools_are_any_and_all() {
        let bytes = Sample::integers(DType::U8, &[3], &[200, 200, 2]);
        assert_eq!(run(Reduce::Sum, &bytes, &[0], &[1]).to_integers(), [402]);
        assert_eq!(run(Reduce::Prod, &bytes, &[0], &[1]).to_integers(), [80_000]);
        let flags = Sample::integers(DType::Bool, &[3], &[1, 0, 1]);
        assert_eq!(run(Reduce::Sum, &flags, &[0], &[1]).to_integers(), [2]);
        assert_eq!(run(Reduce::Max, &flags, &[0], &[1]).to_integers(), [1]);
        assert_eq!(run(Reduce::Min, &flags, &[0], &[1]).to_integers(), [0]);
    }

    #[test]
    fn the_naive_sum_rounds_as_it_goes() {
        let x = Sample::floats(DType::F32, &[3], &[16_777_216.0, 1.0, 1.0]);
        let mut out = Sample::empty(DType::F64, &[1]);
        reduce(Arithmetic::rounding(DType::F32), Reduce::Sum, x.view(), &[0], out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [16_777_216.0]);
        reduce(Arithmetic::EXACT, Reduce::Sum, x.view(), &[0], out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [16_777_218.0]);
    }

    #[test]
    fn running_sums() {
        let x = Sample::floats(DType::F64, &[2, 3], &[1., 2., 3., 4., 5., 6.]).seen(|l| l.flip(1).unwrap());
        let mut out = Sample::empty(DType::F64, &[2, 3]);
        cumsum(Arithmetic::EXACT, x.view(), 1, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [3., 5., 6., 6., 11., 15.]);
        let flags = Sample::integers(DType::Bool, &[3], &[1, 0, 1]);
        let mut counts = Sample::empty(DType::I64, &[3]);
        cumsum(Arithmetic::EXACT, flags.view(), 0, counts.view_mut()).unwrap();
        assert_eq!(counts.to_integers(), [1, 1, 2]);
        assert!(cumsum(Arithmetic::EXACT, flags.view(), 1, counts.view_mut()).is_err());
    }
}
