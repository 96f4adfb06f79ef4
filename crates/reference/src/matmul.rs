//! Products of matrices.
//!
//! ```text
//! out[.., m, n] = apply(Σ_k a[.., m, k] · b[.., k, n] + bias[n]) + added[.., m, n]      added: a view, or what out holds
//! ```

use crate::{
    activation,
    arithmetic::Arithmetic,
    check,
    storage::{contents, elements, read, rows, shaped, store},
};
use attentia_backend::{Apply, Epilogue, Result, Source, View, ViewMut, rules};

/// `[.., M, K] × [.., K, N] → [.., M, N]`, summed in ascending order of k.
pub(crate) fn matmul(arithmetic: Arithmetic, a: View, b: View, epilogue: Epilogue, mut out: ViewMut) -> Result<()> {
    let (op, a_meta, b_meta) = ("matmul", check::operand("a", a), check::operand("b", b));
    let expected = rules::matmul(a_meta, b_meta)?;
    check::shape(op, check::destination("out", &out), &expected)?;
    check::result(op, check::destination("out", &out), a.dtype())?;
    let (lead, matrix) = expected.split_at(expected.rank() - 2);
    let inner = a.shape()[a.shape().rank() - 1];
    check::shape(op, a_meta, &[lead, &[matrix[0], inner]].concat())?;
    check::shape(op, b_meta, &[lead, &[inner, matrix[1]]].concat())?;

    epilogue.check(op, check::destination("out", &out))?;

    let rank = expected.rank();
    let a = rows::<f64>(&read(op, "a", a)?)?; // [.. · M][K]
    let mut b = read(op, "b", b)?;
    b.swap_axes(rank - 2, rank - 1);
    let b = rows::<f64>(&b)?; // [.. · N][K]
    let views = epilogue.views().map(|given| given.map(|(role, view)| elements::<f64>(&read(op, role, view)?)));
    let [bias, x, mut added] = views.map(Option::transpose);
    if let Some(Source::Destination) = epilogue.add {
        added = elements(&contents(op, "out", &mut out)?.view()).map(Some);
    }
    let (bias, x, added) = (bias?, x?, added?);
    let result = (0..expected.count()).map(|position| {
        let (row, n) = (position / matrix[1], position % matrix[1]);
        let column = row / matrix[0] * matrix[1] + n;
        // What is added to a sum alone may be its first term.
        let linear = epilogue.bias.is_none() && epilogue.apply.is_none();
        let first = added.as_ref().filter(|_| linear).map_or(0.0, |added| added[position]);
        let mut value = a[row].iter().zip(&b[column]).fold(first, |total, (a, b)| arithmetic.add(total, a * b));
        if let Some(bias) = &bias {
            value = arithmetic.keep(arithmetic.keep(value) + bias[n]);
        }
        value = match (epilogue.apply, &x) {
            (Some(Apply::Value(f)), _) => arithmetic.keep(activation::apply(arithmetic, f, arithmetic.keep(value))),
            (Some(Apply::Slope(f, _)), Some(x)) => {
                arithmetic.keep(activation::slope_times(arithmetic, f, x[position], arithmetic.keep(value)))
            }
            _ => value,
        };
        match &added {
            Some(added) if !linear => arithmetic.keep(value + added[position]),
            _ => value,
        }
    });
    store(op, "out", out, &shaped(result.collect(), &expected)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;
    use attentia_backend::{Activation, DType, ErrorKind, Shape};

    #[test]
    fn two_by_two_by_hand() {
        let a = Sample::floats(DType::F32, &[2, 3], &[1., 2., 3., 4., 5., 6.]);
        let b = Sample::floats(DType::F32, &[2, 3], &[1., 0., 2., 0., 1., -1.]).seen(|l| l.transpose(0, 1));
        let mut out = Sample::floats(DType::F32, &[2, 2], &[100.; 4]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), Epilogue::NONE, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [7., -1., 16., -1.]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), Epilogue::ACCUMULATE, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [14., -2., 32., -2.]);
    }

    #[test]
    fn an_epilogue_adds_applies_and_adds() {
        let of = |extents: &[usize], values: &[f64]| Sample::floats(DType::F64, extents, values);
        let (a, b) = (of(&[2, 1], &[1., -2.]), of(&[1, 2], &[3., 1.])); // products 3, 1, -6, -2
        let (bias, x, mut out) = (of(&[2], &[1., -4.]), of(&[2, 2], &[1., 1., -1., 0.]), of(&[2, 2], &[10.; 4]));
        let run = |epilogue: Epilogue, out: &mut Sample| {
            matmul(Arithmetic::EXACT, a.view(), b.view(), epilogue, out.view_mut()).unwrap();
            out.to_floats()
        };
        let bias = Some(bias.view());
        assert_eq!(run(Epilogue { bias, ..Epilogue::NONE }, &mut out), [4., -3., -5., -6.]);
        let apply = Some(Apply::Value(Activation::Relu));
        assert_eq!(run(Epilogue { bias, apply, ..Epilogue::ACCUMULATE }, &mut out), [8., -3., -5., -6.]);
        let (apply, add) = (Some(Apply::Slope(Activation::Relu, x.view())), Some(Source::View(x.view())));
        assert_eq!(run(Epilogue { bias, apply, add }, &mut out), [5., -2., -1., 0.]);
        let wrong = Epilogue { bias: Some(x.view()), ..Epilogue::NONE };
        let error = matmul(Arithmetic::EXACT, a.view(), b.view(), wrong, out.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
    }

    #[test]
    fn leading_axes_are_broadcast_by_stride_zero() {
        let a = Sample::floats(DType::F64, &[2, 1, 2], &[1., 2., 3., 4.]);
        let b = Sample::floats(DType::F64, &[1, 2, 2], &[1., 2., 3., 4.]);
        let mut out = Sample::empty(DType::F64, &[2, 1, 2]);
        let error = matmul(Arithmetic::EXACT, a.view(), b.view(), Epilogue::NONE, out.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape, "the caller broadcasts");
        let b = b.seen(|l| l.broadcast_to(&Shape::new(&[2, 2, 2]).unwrap()).unwrap().flip(2).unwrap());
        matmul(Arithmetic::EXACT, a.view(), b.view(), Epilogue::NONE, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [10., 7., 22., 15.]);
    }

    #[test]
    fn nothing_to_sum_gives_zero_and_keeps_what_is_accumulated() {
        let (a, b) = (Sample::floats(DType::F32, &[1, 0], &[]), Sample::floats(DType::F32, &[0, 2], &[]));
        let mut out = Sample::floats(DType::F32, &[1, 2], &[1., 2.]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), Epilogue::ACCUMULATE, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [1., 2.]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), Epilogue::NONE, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [0., 0.]);
        let mut none = Sample::empty(DType::F32, &[0, 0]);
        matmul(
            Arithmetic::EXACT,
            b.seen(|l| l.transpose(0, 1).narrow(0, 0, 0).unwrap()).view(),
            b.seen(|l| l.narrow(1, 0, 0).unwrap()).view(),
            Epilogue::NONE,
            none.view_mut(),
        )
        .unwrap();
    }

    #[test]
    fn the_naive_product_rounds_each_partial_sum_to_f32() {
        let a = Sample::floats(DType::F32, &[1, 3], &[16_777_216., 1., 1.]);
        let b = Sample::floats(DType::F32, &[3, 1], &[1.; 3]);
        let mut out = Sample::empty(DType::F64, &[1, 1]);
        matmul(Arithmetic::rounding(DType::F32), a.view(), b.view(), Epilogue::NONE, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [16_777_216.]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), Epilogue::NONE, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [16_777_218.]);
    }
}
