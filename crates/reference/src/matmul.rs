//! Products of matrices.
//!
//! ```text
//! out[.., m, n] = (accumulate ? out[.., m, n] : 0) + Σ_k a[.., m, k] · b[.., k, n]
//! ```

use crate::{
    arithmetic::Arithmetic,
    check,
    storage::{contents, read, rows, shaped, store},
};
use attentia_backend::{Result, View, ViewMut, rules};

/// `[.., M, K] × [.., K, N] → [.., M, N]`, summed in ascending order of k.
pub(crate) fn matmul(arithmetic: Arithmetic, a: View, b: View, accumulate: bool, mut out: ViewMut) -> Result<()> {
    let (op, a_meta, b_meta) = ("matmul", check::operand("a", a), check::operand("b", b));
    let expected = rules::matmul(a_meta, b_meta)?;
    check::shape(op, check::destination("out", &out), &expected)?;
    check::result(op, check::destination("out", &out), a.dtype())?;
    let (lead, matrix) = expected.split_at(expected.rank() - 2);
    let inner = a.shape()[a.shape().rank() - 1];
    check::shape(op, a_meta, &[lead, &[matrix[0], inner]].concat())?;
    check::shape(op, b_meta, &[lead, &[inner, matrix[1]]].concat())?;

    let rank = expected.rank();
    let a = rows::<f64>(&read(op, "a", a)?)?; // [.. · M][K]
    let mut b = read(op, "b", b)?;
    b.swap_axes(rank - 2, rank - 1);
    let b = rows::<f64>(&b)?; // [.. · N][K]
    let mut start = match accumulate {
        true => contents::<f64>(op, "out", &mut out)?.iter().copied().collect::<Vec<_>>(),
        false => vec![0.0; expected.count()],
    };
    for (position, total) in start.iter_mut().enumerate() {
        let (row, n) = (position / matrix[1], position % matrix[1]);
        let column = row / matrix[0] * matrix[1] + n;
        *total = a[row].iter().zip(&b[column]).fold(*total, |total, (a, b)| arithmetic.add(total, a * b));
    }
    store(op, "out", out, &shaped(start, &expected)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;
    use attentia_backend::{DType, ErrorKind, Shape};

    #[test]
    fn two_by_two_by_hand() {
        let a = Sample::floats(DType::F32, &[2, 3], &[1., 2., 3., 4., 5., 6.]);
        let b = Sample::floats(DType::F32, &[2, 3], &[1., 0., 2., 0., 1., -1.]).seen(|l| l.transpose(0, 1));
        let mut out = Sample::floats(DType::F32, &[2, 2], &[100.; 4]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), false, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [7., -1., 16., -1.]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), true, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [14., -2., 32., -2.]);
    }

    #[test]
    fn leading_axes_are_broadcast_by_stride_zero() {
        let a = Sample::floats(DType::F64, &[2, 1, 2], &[1., 2., 3., 4.]);
        let b = Sample::floats(DType::F64, &[1, 2, 2], &[1., 2., 3., 4.]);
        let mut out = Sample::empty(DType::F64, &[2, 1, 2]);
        let error = matmul(Arithmetic::EXACT, a.view(), b.view(), false, out.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape, "the caller broadcasts");
        let b = b.seen(|l| l.broadcast_to(&Shape::new(&[2, 2, 2]).unwrap()).unwrap().flip(2).unwrap());
        matmul(Arithmetic::EXACT, a.view(), b.view(), false, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [10., 7., 22., 15.]);
    }

    #[test]
    fn nothing_to_sum_gives_zero_and_keeps_what_is_accumulated() {
        let (a, b) = (Sample::floats(DType::F32, &[1, 0], &[]), Sample::floats(DType::F32, &[0, 2], &[]));
        let mut out = Sample::floats(DType::F32, &[1, 2], &[1., 2.]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), true, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [1., 2.]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), false, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [0., 0.]);
        let mut none = Sample::empty(DType::F32, &[0, 0]);
        matmul(
            Arithmetic::EXACT,
            b.seen(|l| l.transpose(0, 1).narrow(0, 0, 0).unwrap()).view(),
            b.seen(|l| l.narrow(1, 0, 0).unwrap()).view(),
            false,
            none.view_mut(),
        )
        .unwrap();
    }

    #[test]
    fn the_naive_product_rounds_each_partial_sum_to_f32() {
        let a = Sample::floats(DType::F32, &[1, 3], &[16_777_216., 1., 1.]);
        let b = Sample::floats(DType::F32, &[3, 1], &[1.; 3]);
        let mut out = Sample::empty(DType::F64, &[1, 1]);
        matmul(Arithmetic::rounding(DType::F32), a.view(), b.view(), false, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [16_777_216.]);
        matmul(Arithmetic::EXACT, a.view(), b.view(), false, out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [16_777_218.]);
    }
}
