//! The softmax family along the last axis.
//!
//! ```text
//! m = max x     e_i = exp(x_i − m)     s = Σ e
//! softmax        y_i = e_i / s               dx_i = y_i · (dy_i − Σ_j y_j · dy_j)
//! log_softmax    y_i = x_i − m − ln s        dx_i = dy_i − exp(y_i) · Σ_j dy_j
//! masked_softmax softmax with x_i = −∞ where the mask is false; y = 0 when every x is −∞
//! ```
//!
//! Softmax is IEEE: a row of −∞ gives NaN, because m − m is. Only the masked one defines such a row as zeros.

use crate::{
    arithmetic::Arithmetic,
    check,
    elementwise::maximum,
    storage::{read, rows, shaped, source, store},
};
use attentia_backend::{Error, ErrorKind, Result, SoftmaxKind, Source, View, ViewMut, rules};

/// One of the softmax family.
pub(crate) fn softmax(a: Arithmetic, kind: SoftmaxKind, x: Source, mask: Option<View>, mut out: ViewMut) -> Result<()> {
    let (op, x_meta) = (kind.name(), check::source("x", x, &out));
    rules::softmax(op, x_meta, mask.map(|mask| check::operand("mask", mask)))?;
    check::shape(op, x_meta, out.shape())?;
    check::result(op, check::destination("out", &out), x_meta.dtype)?;
    let mut x = rows::<f64>(&source(op, "x", x, &mut out)?.view())?;
    match (kind, mask) {
        (SoftmaxKind::Masked, Some(mask)) => {
            check::shape(op, check::operand("mask", mask), out.shape())?;
            let mask = rows::<i64>(&read(op, "mask", mask)?)?;
            for (x, mask) in x.iter_mut().flatten().zip(mask.iter().flatten()) {
                *x = if *mask != 0 { *x } else { f64::NEG_INFINITY };
            }
        }
        (SoftmaxKind::Masked, None) => return Err(Error::new(ErrorKind::Argument, op, "there is no mask")),
        (_, Some(_)) => return Err(Error::new(ErrorKind::Argument, op, "a mask is given").help("use masked_softmax")),
        (_, None) => {}
    }
    let y = x.iter().flat_map(|x| match kind {
        SoftmaxKind::Softmax => softmax_row(a, x),
        SoftmaxKind::LogSoftmax => log_softmax_row(a, x),
        SoftmaxKind::Masked => masked_softmax_row(a, x).0,
    });
    let y = shaped(y.collect(), out.shape())?;
    store(op, "out", out, &y)
}

/// `exp(x − m)` of a row, with m and the sum.
fn exponentials(a: Arithmetic, x: &[f64]) -> (f64, Vec<f64>, f64) {
    let m = x.iter().copied().fold(f64::NEG_INFINITY, maximum);
    let e: Vec<f64> = x.iter().map(|x| a.keep(libm::exp(a.keep(x - m)))).collect();
    let s = a.sum(e.iter().copied());
    (m, e, s)
}

fn softmax_row(a: Arithmetic, x: &[f64]) -> Vec<f64> {
    let (_, e, s) = exponentials(a, x);
    e.iter().map(|e| a.keep(e / s)).collect()
}

fn log_softmax_row(a: Arithmetic, x: &[f64]) -> Vec<f64> {
    let (m, _, s) = exponentials(a, x);
    let log_sum = a.keep(libm::log(s));
    x.iter().map(|x| a.keep(a.keep(x - m) - log_sum)).collect()
}

/// Softmax of the scores that are not −∞, and `ln Σ exp(x)`. With nothing left: zeros, and −∞.
pub(crate) fn masked_softmax_row(a: Arithmetic, x: &[f64]) -> (Vec<f64>, f64) {
    let (m, e, s) = exponentials(a, x);
    if m == f64::NEG_INFINITY {
        return (vec![0.0; x.len()], f64::NEG_INFINITY);
    }
    // A masked element stays 0 in a row whose sum is NaN.
    let weight = |(x, e): (&f64, &f64)| if *x == f64::NEG_INFINITY { 0.0 } else { a.keep(e / s) };
    (x.iter().zip(&e).map(weight).collect(), a.keep(m + a.keep(libm::log(s))))
}

/// `ln Σ exp(x)` of a row; −∞ for a row of −∞.
pub(crate) fn log_sum_exp(a: Arithmetic, x: &[f64]) -> f64 {
    masked_softmax_row(a, x).1
}

/// `dx` from the result and its cotangent. In masked softmax an element of weight 0 is no input of its row: its
/// gradient is 0 whatever its cotangent.
pub(crate) fn softmax_backward(a: Arithmetic, kind: SoftmaxKind, y: View, dy: Source, mut dx: ViewMut) -> Result<()> {
    let op = kind.name();
    let (y_meta, dy_meta) = (check::operand("y", y), check::source("dy", dy, &dx));
    rules::float(op, y_meta)?;
    rules::float(op, dy_meta)?;
    check::shape(op, y_meta, dx.shape())?;
    check::shape(op, dy_meta, dx.shape())?;
    check::result(op, check::destination("dx", &dx), y_meta.dtype)?;
    let y = rows::<f64>(&read(op, "y", y)?)?;
    let dy = rows::<f64>(&source(op, "dy", dy, &mut dx)?.view())?;
    let gradient = y.iter().zip(&dy).flat_map(|(y, dy)| match kind {
        SoftmaxKind::Softmax => softmax_row_backward(a, y, dy),
        SoftmaxKind::LogSoftmax => log_softmax_row_backward(a, y, dy),
        SoftmaxKind::Masked => masked_softmax_row_backward(a, y, dy),
    });
    let gradient = shaped(gradient.collect(), dx.shape())?;
    store(op, "dx", dx, &gradient)
}

fn softmax_row_backward(a: Arithmetic, y: &[f64], dy: &[f64]) -> Vec<f64> {
    let inner = a.sum(y.iter().zip(dy).map(|(y, dy)| a.keep(y * dy)));
    y.iter().zip(dy).map(|(y, dy)| a.keep(y * a.keep(dy - inner))).collect()
}

fn log_softmax_row_backward(a: Arithmetic, y: &[f64], dy: &[f64]) -> Vec<f64> {
    let total = a.sum(dy.iter().copied());
    y.iter().zip(dy).map(|(y, dy)| a.keep(dy - a.keep(a.keep(libm::exp(*y)) * total))).collect()
}

/// Also attention's, from the cotangents of its weights to those of its scores.
pub(crate) fn masked_softmax_row_backward(a: Arithmetic, y: &[f64], dy: &[f64]) -> Vec<f64> {
    let seen: Vec<f64> = y.iter().zip(dy).map(|(&y, &dy)| if y == 0.0 { 0.0 } else { dy }).collect();
    softmax_row_backward(a, y, &seen).iter().zip(y).map(|(dx, y)| if *y == 0.0 { 0.0 } else { *dx }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close, check_gradient, weighted};
    use attentia_backend::{DType, Shape};

    const EXACT: Arithmetic = Arithmetic::EXACT;
    const INF: f64 = f64::INFINITY;

    fn run(kind: SoftmaxKind, x: &Sample, mask: Option<&Sample>) -> Sample {
        let mut out = Sample::empty(x.view().dtype(), &x.extents());
        softmax(EXACT, kind, x.source(), mask.map(Sample::view), out.view_mut()).unwrap();
        out
    }

    #[test]
    fn rows_by_hand() {
        let ln = f64::ln;
        let x = Sample::floats(DType::F64, &[2, 3], &[ln(1.), ln(2.), ln(5.), 1000., 1000., -INF]);
        assert_close(&run(SoftmaxKind::Softmax, &x, None), &[0.125, 0.25, 0.625, 0.5, 0.5, 0.0], 1e-15);
        let logs = [ln(0.125), ln(0.25), ln(0.625), ln(0.5), ln(0.5), -INF];
        assert_close(&run(SoftmaxKind::LogSoftmax, &x, None), &logs, 1e-15);
        let mask = Sample::integers(DType::Bool, &[2, 3], &[1, 0, 1, 0, 0, 1]);
        assert_close(&run(SoftmaxKind::Masked, &x, Some(&mask)), &[1. / 6., 0., 5. / 6., 0., 0., 0.], 1e-15);
    }

    #[test]
    fn only_masked_softmax_defines_an_empty_row() {
        let x = Sample::floats(DType::F32, &[2, 2], &[-INF, -INF, f64::NAN, 1.0]);
        assert_close(&run(SoftmaxKind::Softmax, &x, None), &[f64::NAN; 4], 0.0);
        let all = Sample::integers(DType::Bool, &[2, 2], &[1, 1, 0, 1]);
        assert_close(&run(SoftmaxKind::Masked, &x, Some(&all)), &[0., 0., 0., 1.], 0.0);
        let poisoned = Sample::integers(DType::Bool, &[2, 2], &[0, 0, 1, 0]);
        assert_close(&run(SoftmaxKind::Masked, &x, Some(&poisoned)), &[0., 0., f64::NAN, 0.], 0.0);
    }

    #[test]
    fn shapes_without_elements_scalars_and_layouts() {
        for extents in [&[0, 3][..], &[3, 0]] {
            assert!(run(SoftmaxKind::Softmax, &Sample::floats(DType::F32, extents, &[]), None).to_floats().is_empty());
        }
        assert_eq!(run(SoftmaxKind::Softmax, &Sample::floats(DType::F32, &[], &[7.]), None).to_floats(), [1.]);
        let x = Sample::floats(DType::F64, &[1, 2], &[0.0, 3f64.ln()]);
        let x = x.seen(|l| l.flip(1).unwrap().broadcast_to(&Shape::new(&[2, 2]).unwrap()).unwrap());
        assert_close(&run(SoftmaxKind::Softmax, &x, None), &[0.75, 0.25, 0.75, 0.25], 1e-15);
        let mut in_place = Sample::floats(DType::F64, &[2], &[5., 5.]);
        softmax(EXACT, SoftmaxKind::Softmax, Source::Destination, None, in_place.view_mut()).unwrap();
        assert_eq!(in_place.to_floats(), [0.5, 0.5]);
    }

    #[test]
    fn masks_belong_to_masked_softmax() {
        let (x, mask) = (Sample::floats(DType::F32, &[2], &[0.; 2]), Sample::integers(DType::Bool, &[2], &[1, 1]));
        let mut out = Sample::empty(DType::F32, &[2]);
        assert!(softmax(EXACT, SoftmaxKind::Masked, x.source(), None, out.view_mut()).is_err());
        assert!(softmax(EXACT, SoftmaxKind::Softmax, x.source(), Some(mask.view()), out.view_mut()).is_err());
        let short = Sample::integers(DType::Bool, &[1], &[1]);
        assert!(softmax(EXACT, SoftmaxKind::Masked, x.source(), Some(short.view()), out.view_mut()).is_err());
    }

    #[test]
    fn gradients_agree_with_differences() {
        let (x, dy) = (Sample::scattered(&[2, 5], 1), Sample::scattered(&[2, 5], 2));
        let flags = Sample::integers(DType::Bool, &[2, 5], &[1, 0, 1, 1, 0, 0, 0, 0, 0, 0]);
        for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax, SoftmaxKind::Masked] {
            let mask = (kind == SoftmaxKind::Masked).then_some(&flags);
            let mut dx = Sample::floats(DType::F64, &[2, 5], &dy.to_floats());
            softmax_backward(EXACT, kind, run(kind, &x, mask).view(), Source::Destination, dx.view_mut()).unwrap();
            check_gradient(kind.name(), &x, &dx, |x| weighted(&run(kind, x, mask), &dy));
        }
    }

    #[test]
    fn a_masked_element_has_no_gradient_even_under_an_infinite_cotangent() {
        let y = Sample::floats(DType::F64, &[3], &[0.0, 0.5, 0.5]);
        let dy = Sample::floats(DType::F64, &[3], &[INF, 1.0, 3.0]);
        let mut dx = Sample::empty(DType::F64, &[3]);
        softmax_backward(EXACT, SoftmaxKind::Masked, y.view(), dy.source(), dx.view_mut()).unwrap();
        assert_eq!(dx.to_floats(), [0.0, -0.5, 0.5]);
    }

    #[test]
    fn the_naive_composition_rounds_each_step() {
        let x = Sample::floats(DType::Bf16, &[3], &[0.0, 0.5, 1.0]);
        let mut out = Sample::empty(DType::F64, &[3]);
        softmax(Arithmetic::rounding(DType::Bf16), SoftmaxKind::Softmax, x.source(), None, out.view_mut()).unwrap();
        // exp(−1) = 0.3671875, exp(−½) = 0.60546875 in bf16; their sum with 1 is 1.97265625, a tie that goes to 1.96875.
        let bf16 = |x: f64| half::bf16::from_f64(x).to_f64();
        assert_eq!(out.to_floats(), [0.3671875, 0.60546875, 1.0].map(|e| bf16(e / 1.96875)));
    }
}
