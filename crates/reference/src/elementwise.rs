//! Functions of one element, of two, and casts.
//!
//! Operands have been broadcast to the destination's shape by stride 0. Floats are computed in `f64`; integers wrap.

use crate::{
    check,
    number::{round, to_float, to_integer},
    storage::{Number, read, source, store},
};
use attentia_backend::{Binary, Compare, DType, Result, Source, Unary, View, ViewMut, rules};
use ndarray::{ArrayD, ArrayViewD, Zip};

/// `out = op(x)`
pub(crate) fn unary(op: Unary, x: Source, mut out: ViewMut) -> Result<()> {
    let (name, x_meta) = (op.name(), check::source("x", x, &out));
    rules::unary(op, x_meta)?;
    check::shape(name, x_meta, out.shape())?;
    check::result(name, check::destination("out", &out), x_meta.dtype)?;
    if x_meta.dtype.is_float() {
        let op = adopt(op, x_meta.dtype);
        let x = source(name, "x", x, &mut out)?;
        store(name, "out", out, &x.mapv(|x| unary_float(op, x)))
    } else {
        let x = source(name, "x", x, &mut out)?;
        store(name, "out", out, &x.mapv(|x| unary_integer(op, x_meta.dtype, x)))
    }
}

/// The scalar of an operation, rounded to the operand's dtype.
fn adopt(op: Unary, dtype: DType) -> Unary {
    match op {
        Unary::AddScalar(c) => Unary::AddScalar(round(dtype, c)),
        Unary::MulScalar(c) => Unary::MulScalar(round(dtype, c)),
        Unary::PowScalar(c) => Unary::PowScalar(round(dtype, c)),
        Unary::MaxScalar(c) => Unary::MaxScalar(round(dtype, c)),
        Unary::MinScalar(c) => Unary::MinScalar(round(dtype, c)),
        _ => op,
    }
}

/// The functions of a float, by their definitions.
pub(crate) fn unary_float(op: Unary, x: f64) -> f64 {
    match op {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign if x > 0.0 => 1.0,
        Unary::Sign if x < 0.0 => -1.0,
        Unary::Sign => x,
        Unary::Square => x * x,
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Exp => libm::exp(x),
        Unary::Expm1 => libm::expm1(x),
        Unary::Log => libm::log(x),
        Unary::Log1p => libm::log1p(x),
        Unary::Sin => libm::sin(x),
        Unary::Cos => libm::cos(x),
        Unary::Tanh => libm::tanh(x),
        Unary::Sigmoid => sigmoid(x),
        Unary::Erf => libm::erf(x),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Not => (x == 0.0) as u8 as f64,
        Unary::AddScalar(c) => x + c,
        Unary::MulScalar(c) => x * c,
        Unary::PowScalar(c) => libm::pow(x, c),
        Unary::MaxScalar(c) => maximum(x, c),
        Unary::MinScalar(c) => minimum(x, c),
    }
}

/// `1 / (1 + e⁻ˣ)`, written for negative x as `eˣ / (1 + eˣ)` so that the exponential never overflows.
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        return 1.0 / (1.0 + libm::exp(-x));
    }
    let e = libm::exp(x);
    e / (1.0 + e)
}

/// The functions of an integer; the caller wraps the result. A scalar is truncated to a whole number; as a bound it
/// is first brought into the dtype's range, so that `min(x, −1)` of unsigned x is 0.
fn unary_integer(op: Unary, dtype: DType, x: i64) -> i64 {
    match op {
        Unary::Neg => x.wrapping_neg(),
        Unary::Abs => x.wrapping_abs(),
        Unary::Sign => x.signum(),
        Unary::Square => x.wrapping_mul(x),
        Unary::Not => (x == 0) as i64,
        Unary::AddScalar(c) => x.wrapping_add(c as i64),
        Unary::MulScalar(c) => x.wrapping_mul(c as i64),
        Unary::MaxScalar(c) => x.max(to_integer(dtype, c)),
        Unary::MinScalar(c) => x.min(to_integer(dtype, c)),
        // Defined for floats only, and refused by the rules before.
        _ => to_integer(dtype, unary_float(op, x as f64)),
    }
}

/// `out = op(a, b)`
pub(crate) fn binary(op: Binary, a: Source, b: View, mut out: ViewMut) -> Result<()> {
    let (name, a_meta, b_meta) = (op.name(), check::source("a", a, &out), check::operand("b", b));
    rules::binary(op, a_meta, b_meta)?;
    check::shape(name, a_meta, out.shape())?;
    check::shape(name, b_meta, out.shape())?;
    check::result(name, check::destination("out", &out), a_meta.dtype)?;
    if a_meta.dtype.is_float() {
        let (a, b) = (source(name, "a", a, &mut out)?, read(name, "b", b)?);
        store(name, "out", out, &zip(a.view(), b, |a, b| binary_float(op, a, b)))
    } else {
        let (a, b) = (source(name, "a", a, &mut out)?, read(name, "b", b)?);
        store(name, "out", out, &zip(a.view(), b, |a, b| binary_integer(op, a, b)))
    }
}

fn binary_float(op: Binary, a: f64, b: f64) -> f64 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => libm::pow(a, b),
        Binary::Max => maximum(a, b),
        Binary::Min => minimum(a, b),
        Binary::And => (a != 0.0 && b != 0.0) as u8 as f64,
        Binary::Or => (a != 0.0 || b != 0.0) as u8 as f64,
        Binary::Xor => ((a != 0.0) != (b != 0.0)) as u8 as f64,
    }
}

fn binary_integer(op: Binary, a: i64, b: i64) -> i64 {
    match op {
        Binary::Add => a.wrapping_add(b),
        Binary::Sub => a.wrapping_sub(b),
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div if b == 0 => 0,
        Binary::Div => a.wrapping_div(b),
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        // Defined for floats only, and refused by the rules before.
        Binary::Pow => libm::pow(a as f64, b as f64) as i64,
    }
}

/// The greater; NaN if either is.
pub(crate) fn maximum(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller; NaN if either is.
pub(crate) fn minimum(a: f64, b: f64) -> f64 {
    if a < b || a.is_nan() { a } else { b }
}

/// `out = a op b`
pub(crate) fn compare(op: Compare, a: View, b: View, out: ViewMut) -> Result<()> {
    let (name, a_meta, b_meta) = (op.name(), check::operand("a", a), check::operand("b", b));
    rules::compare(op, a_meta, b_meta)?;
    rules::dtype(name, check::destination("out", &out), DType::Bool)?;
    check::shape(name, a_meta, out.shape())?;
    check::shape(name, b_meta, out.shape())?;
    let truth = if a.dtype().is_float() {
        zip(read::<f64>(name, "a", a)?, read(name, "b", b)?, |a, b| holds(op, a, b))
    } else {
        zip(read::<i64>(name, "a", a)?, read(name, "b", b)?, |a, b| holds(op, a, b))
    };
    store(name, "out", out, &truth)
}

/// Whether `a op b`, as 0 or 1. With NaN only `Ne` is true.
fn holds<T: Number>(op: Compare, a: T, b: T) -> i64 {
    i64::from(match op {
        Compare::Eq => a == b,
        Compare::Ne => a != b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
    })
}

/// `out = condition ? a : b`
pub(crate) fn select(condition: View, a: View, b: View, out: ViewMut) -> Result<()> {
    let operands = [check::operand("condition", condition), check::operand("a", a), check::operand("b", b)];
    rules::select(operands[0], operands[1], operands[2])?;
    for operand in operands {
        check::shape("select", operand, out.shape())?;
    }
    check::result("select", check::destination("out", &out), a.dtype())?;
    if a.dtype().is_float() { select_as::<f64>(condition, a, b, out) } else { select_as::<i64>(condition, a, b, out) }
}

fn select_as<T: Number>(condition: View, a: View, b: View, out: ViewMut) -> Result<()> {
    let condition = read::<i64>("select", "condition", condition)?;
    let (a, b) = (read::<T>("select", "a", a)?, read::<T>("select", "b", b)?);
    let chosen = Zip::from(condition).and(a).and(b).map_collect(|&c, &a, &b| if c != 0 { a } else { b });
    store("select", "out", out, &chosen)
}

/// `out = x`, cast to the destination's dtype. Floats are rounded to even, float to integer truncates and saturates,
/// integer to integer wraps, and anything is `x ≠ 0` as a bool.
pub(crate) fn copy(x: View, out: ViewMut) -> Result<()> {
    let (from, to) = (x.dtype(), out.dtype());
    check::shape("copy", check::operand("x", x), out.shape())?;
    match (from.is_float(), to.is_float()) {
        (true, true) => store("copy", "out", out, &read::<f64>("copy", "x", x)?.to_owned()),
        (true, false) => store("copy", "out", out, &read("copy", "x", x)?.mapv(|x| to_integer(to, x))),
        (false, true) => store("copy", "out", out, &read("copy", "x", x)?.mapv(|x| to_float(to, x))),
        (false, false) => store("copy", "out", out, &read::<i64>("copy", "x", x)?.to_owned()),
    }
}

fn zip<T: Copy, R>(a: ArrayViewD<T>, b: ArrayViewD<T>, f: impl Fn(T, T) -> R) -> ArrayD<R> {
    Zip::from(a).and(b).map_collect(|&a, &b| f(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close};
    use attentia_backend::{ErrorKind, Shape};

    fn run(op: Unary, dtype: DType, x: &[f64]) -> Sample {
        let mut out = Sample::empty(dtype, &[x.len()]);
        unary(op, Sample::floats(dtype, &[x.len()], x).source(), out.view_mut()).unwrap();
        out
    }

    fn run_integers(op: Binary, dtype: DType, a: &[i64], b: &[i64]) -> Vec<i64> {
        let mut out = Sample::integers(dtype, &[a.len()], a);
        binary(op, Source::Destination, Sample::integers(dtype, &[b.len()], b).view(), out.view_mut()).unwrap();
        out.to_integers()
    }

    #[test]
    fn functions_have_their_known_values() {
        let (e, nan) = (std::f64::consts::E, f64::NAN);
        let cases: [(Unary, &[f64], &[f64]); 11] = [
            (Unary::Sign, &[-2.0, 0.0, nan], &[-1.0, 0.0, nan]),
            (Unary::Round, &[0.5, 1.5, -2.5], &[0.0, 2.0, -2.0]),
            (Unary::Exp, &[1.0, f64::NEG_INFINITY], &[e, 0.0]),
            (Unary::Expm1, &[1e-20], &[1e-20]),
            (Unary::Log1p, &[1e-20, -1.0], &[1e-20, f64::NEG_INFINITY]),
            (Unary::Rsqrt, &[4.0, 0.0], &[0.5, f64::INFINITY]),
            (Unary::Erf, &[0.5, -8.0], &[0.520_499_877_813_046_5, -1.0]),
            (Unary::Sigmoid, &[0.0, -800.0, 800.0], &[0.5, 0.0, 1.0]),
            (Unary::PowScalar(3.0), &[-2.0], &[-8.0]),
            (Unary::MaxScalar(1.0), &[0.0, 2.0, nan], &[1.0, 2.0, nan]),
            (Unary::MinScalar(1.0), &[0.0, 2.0, nan], &[0.0, 1.0, nan]),
        ];
        for (op, x, expected) in cases {
            assert_close(&run(op, DType::F64, x), expected, 1e-15);
        }
        for op in Unary::ALL.into_iter().filter(|op| op.accepts(DType::F32)) {
            assert!(run(op, DType::F32, &[nan]).to_floats()[0].is_nan(), "{op:?} keeps NaN");
        }
    }

    #[test]
    fn results_are_rounded_once_and_scalars_adopt_the_dtype() {
        assert_eq!(run(Unary::Square, DType::Bf16, &[1.0078125]).to_floats(), [1.015625]);
        let tenth = 0.1f32 as f64;
        assert_eq!(run(Unary::AddScalar(0.1), DType::F32, &[-tenth]).to_floats(), [0.0]);
        let mut wide = Sample::empty(DType::F32, &[1]);
        unary(Unary::Square, Sample::floats(DType::Bf16, &[1], &[1.0078125]).source(), wide.view_mut()).unwrap();
        assert_eq!(wide.to_floats(), [1.0078125 * 1.0078125], "the destination's dtype is the caller's");
    }

    #[test]
    fn integers_wrap() {
        assert_eq!(run_integers(Binary::Add, DType::U8, &[250, 1], &[10, 2]), [4, 3]);
        assert_eq!(run_integers(Binary::Sub, DType::U32, &[0], &[1]), [u32::MAX as i64]);
        assert_eq!(run_integers(Binary::Div, DType::I64, &[7, -7, 5, i64::MIN], &[2, 2, 0, -1]), [3, -3, 0, i64::MIN]);
        assert_eq!(run_integers(Binary::Xor, DType::Bool, &[0, 1, 1], &[1, 1, 0]), [1, 0, 1]);
        let mut x = Sample::integers(DType::U8, &[2], &[3, 0]);
        unary(Unary::Neg, Source::Destination, x.view_mut()).unwrap();
        assert_eq!(x.to_integers(), [253, 0]);
        unary(Unary::AddScalar(-1.0), Source::Destination, x.view_mut()).unwrap();
        assert_eq!(x.to_integers(), [252, 255]);
        unary(Unary::MinScalar(-1.0), Source::Destination, x.view_mut()).unwrap();
        assert_eq!(x.to_integers(), [0, 0]);
    }

    #[test]
    fn comparisons_and_extremes_know_nan() {
        let (a, b) = (
            Sample::floats(DType::F32, &[3], &[1.0, f64::NAN, 2.0]),
            Sample::floats(DType::F32, &[3], &[1.0, 1.0, f64::NAN]),
        );
        for (op, expected) in [(Compare::Eq, [1, 0, 0]), (Compare::Ne, [0, 1, 1]), (Compare::Ge, [1, 0, 0])] {
            let mut out = Sample::empty(DType::Bool, &[3]);
            compare(op, a.view(), b.view(), out.view_mut()).unwrap();
            assert_eq!(out.to_integers(), expected);
        }
        for op in [Binary::Max, Binary::Min] {
            let mut out = Sample::empty(DType::F32, &[3]);
            binary(op, a.source(), b.view(), out.view_mut()).unwrap();
            assert_close(&out, &[1.0, f64::NAN, f64::NAN], 0.0);
        }
    }

    #[test]
    fn operands_may_be_broadcast_flipped_or_empty() {
        let column = Sample::floats(DType::F64, &[2, 1], &[10., 20.]);
        let column = column.seen(|l| l.broadcast_to(&Shape::new(&[2, 3]).unwrap()).unwrap());
        let flipped = Sample::floats(DType::F64, &[2, 3], &[1., 2., 3., 4., 5., 6.]).seen(|l| l.flip(1).unwrap());
        let mut out = Sample::empty(DType::F64, &[3, 2]).seen(|l| l.transpose(0, 1));
        binary(Binary::Add, column.source(), flipped.view(), out.view_mut()).unwrap();
        assert_eq!(out.to_floats(), [13., 12., 11., 26., 25., 24.]);
        let none = Sample::floats(DType::F64, &[0, 3], &[]);
        binary(Binary::Add, none.source(), none.view(), Sample::empty(DType::F64, &[0, 3]).view_mut()).unwrap();
        let error = binary(Binary::Add, column.source(), none.view(), out.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
        let other = Sample::floats(DType::F32, &[2, 3], &[0.; 6]);
        let error = binary(Binary::Add, column.source(), other.view(), out.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DType);
    }

    #[test]
    fn select_takes_one_of_two() {
        let (condition, mut out) = (Sample::integers(DType::Bool, &[2], &[1, 0]), Sample::empty(DType::I64, &[2]));
        let (a, b) = (Sample::integers(DType::I64, &[2], &[1, 2]), Sample::integers(DType::I64, &[2], &[3, 4]));
        select(condition.view(), a.view(), b.view(), out.view_mut()).unwrap();
        assert_eq!(out.to_integers(), [1, 4]);
    }

    #[test]
    fn casts_follow_the_table() {
        let cast = |x: &Sample, to| {
            let mut out = Sample::empty(to, &x.extents());
            copy(x.view(), out.view_mut()).unwrap();
            out
        };
        let x = Sample::floats(DType::F64, &[4], &[-1.5, 300.7, f64::NAN, 0.0]);
        assert_eq!(cast(&x, DType::U8).to_integers(), [0, 255, 0, 0]);
        assert_eq!(cast(&x, DType::I64).to_integers(), [-1, 300, 0, 0]);
        assert_eq!(cast(&x, DType::Bool).to_integers(), [1, 1, 1, 0]);
        let n = Sample::integers(DType::I64, &[3], &[-1, 257, 0]);
        assert_eq!(cast(&n, DType::U8).to_integers(), [255, 1, 0]);
        assert_eq!(cast(&n, DType::Bool).to_integers(), [1, 1, 0]);
        assert_eq!(cast(&n, DType::Bf16).to_floats(), [-1.0, 256.0, 0.0]);
    }
}
