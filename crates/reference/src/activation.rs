//! Activations, by their definitions and by the compositions that people write.
//!
//! ```text
//! gelu       x · Φ(x)        Φ(x) = ½ · (1 + erf(x/√2))                  f' = Φ(x) + x · φ(x)    φ = exp(−x²/2)/√(2π)
//! gelu_tanh  x · σ(2u)       u = √(2/π) · (x + 0.044715 · x³)            f' = σ(2u) + 2x · σ(2u) · σ(−2u) · u'
//! silu       x · σ(x)        σ(x) = 1 / (1 + e⁻ˣ)                        f' = σ(x) + x · σ(x) · σ(−x)
//! relu       max(x, 0)       NaN stays                                   f' = 1 where x > 0, else 0
//! ```
//!
//! `½ · (1 + tanh u)` is `σ(2u)`, and `½ · (1 + erf(x/√2))` is `½ · erfc(−x/√2)`: far to the left of 0, where the
//! sums lose every digit, these keep all of them. The oracle computes these, and the naive composition the sums.

use crate::{
    arithmetic::Arithmetic,
    check,
    elementwise::{maximum, sigmoid},
    storage::{read, source, store},
};
use attentia_backend::{Activation, Result, Source, View, ViewMut, rules};
use ndarray::Zip;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, TAU};

/// The coefficient of the cube in the tanh approximation.
const CUBIC: f64 = 0.044715;

/// `out = f(x)`
pub(crate) fn forward(a: Arithmetic, f: Activation, x: Source, mut out: ViewMut) -> Result<()> {
    let (op, x_meta) = (f.name(), check::source("x", x, &out));
    rules::float(op, x_meta)?;
    check::shape(op, x_meta, out.shape())?;
    check::result(op, check::destination("out", &out), x_meta.dtype)?;
    let x = source(op, "x", x, &mut out)?;
    store(op, "out", out, &x.mapv(|x| apply(a, f, x)))
}

/// `dx = f'(x) · dy`
pub(crate) fn backward(a: Arithmetic, f: Activation, x: View, dy: Source, mut dx: ViewMut) -> Result<()> {
    let (op, x_meta, dy_meta) = (f.name(), check::operand("x", x), check::source("dy", dy, &dx));
    rules::float(op, x_meta)?;
    rules::float(op, dy_meta)?;
    check::shape(op, x_meta, dx.shape())?;
    check::shape(op, dy_meta, dx.shape())?;
    check::result(op, check::destination("dx", &dx), x_meta.dtype)?;
    let (x, dy) = (read::<f64>(op, "x", x)?, source::<f64>(op, "dy", dy, &mut dx)?);
    let gradient = Zip::from(x).and(dy.view()).map_collect(|&x, &dy| slope_times(a, f, x, dy));
    store(op, "dx", dx, &gradient)
}

/// `f(x)`
pub(crate) fn apply(a: Arithmetic, f: Activation, x: f64) -> f64 {
    if a.is_exact() { value(f, x) } else { composed(a, f, x) }
}

/// `f'(x) · dy`. Of relu a choice: where nothing passes, neither do infinities.
pub(crate) fn slope_times(a: Arithmetic, f: Activation, x: f64, dy: f64) -> f64 {
    match f {
        Activation::Relu if x > 0.0 => dy,
        Activation::Relu => 0.0,
        _ if a.is_exact() => slope(f, x) * dy,
        _ => composed_slope(a, f, x) * dy,
    }
}

fn value(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Gelu => x * normal_distribution(x),
        Activation::GeluTanh => x * sigmoid(2.0 * tanh_argument(x)),
        Activation::Silu => x * sigmoid(x),
        Activation::Relu => maximum(x, 0.0),
    }
}

fn slope(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Gelu => normal_distribution(x) + x * normal_density(x),
        Activation::GeluTanh => {
            let u = tanh_argument(x);
            sigmoid(2.0 * u) + 2.0 * x * sigmoid(2.0 * u) * sigmoid(-2.0 * u) * tanh_argument_slope(x)
        }
        Activation::Silu => sigmoid(x) + x * sigmoid(x) * sigmoid(-x),
        Activation::Relu => f64::from(x > 0.0),
    }
}

/// Φ: the share of a standard normal distribution below x.
fn normal_distribution(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// φ: its density.
fn normal_density(x: f64) -> f64 {
    libm::exp(-0.5 * x * x) / TAU.sqrt()
}

fn tanh_argument(x: f64) -> f64 {
    FRAC_2_PI.sqrt() * (x + CUBIC * x * x * x)
}

fn tanh_argument_slope(x: f64) -> f64 {
    FRAC_2_PI.sqrt() * (1.0 + 3.0 * CUBIC * x * x)
}

/// The activation in primitives.
fn composed(a: Arithmetic, f: Activation, x: f64) -> f64 {
    let k = |x: f64| a.keep(x);
    match f {
        Activation::Gelu => k(k(x * 0.5) * k(1.0 + k(libm::erf(k(x * k(FRAC_1_SQRT_2)))))),
        Activation::GeluTanh => k(k(x * 0.5) * k(1.0 + composed_tanh(a, x))),
        Activation::Silu => k(x * k(sigmoid(x))),
        Activation::Relu => value(f, x),
    }
}

fn composed_tanh(a: Arithmetic, x: f64) -> f64 {
    let k = |x: f64| a.keep(x);
    let cube = k(k(x * x) * x);
    k(libm::tanh(k(k(x + k(cube * k(CUBIC))) * k(FRAC_2_PI.sqrt()))))
}

/// The derivative in primitives.
fn composed_slope(a: Arithmetic, f: Activation, x: f64) -> f64 {
    let k = |x: f64| a.keep(x);
    match f {
        Activation::Gelu => {
            let distribution = k(k(1.0 + k(libm::erf(k(x * k(FRAC_1_SQRT_2))))) * 0.5);
            let density = k(k(libm::exp(k(k(x * x) * -0.5))) * k(1.0 / TAU.sqrt()));
            k(distribution + k(x * density))
        }
        Activation::GeluTanh => {
            let t = composed_tanh(a, x);
            let inner = k(k(1.0 + k(k(x * x) * k(3.0 * CUBIC))) * k(FRAC_2_PI.sqrt()));
            let outer = k(1.0 - k(t * t));
            k(k(k(1.0 + t) * 0.5) + k(k(k(x * 0.5) * outer) * inner))
        }
        Activation::Silu => {
            let s = k(sigmoid(x));
            k(s * k(1.0 + k(x * k(1.0 - s))))
        }
        Activation::Relu => slope(f, x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close, check_gradient, weighted};
    use attentia_backend::{DType, ErrorKind};

    fn run(a: Arithmetic, f: Activation, x: &Sample) -> Sample {
        let mut out = Sample::empty(DType::F64, &x.extents());
        forward(a, f, x.source(), out.view_mut()).unwrap();
        out
    }

    #[test]
    fn known_values() {
        let x = Sample::floats(DType::F64, &[3], &[0.0, 1.0, -1.0]);
        let expect = |f, expected: &[f64]| assert_close(&run(Arithmetic::EXACT, f, &x), expected, 1e-15);
        expect(Activation::Gelu, &[0.0, 0.841_344_746_068_542_9, -0.158_655_253_931_457_05]);
        expect(Activation::Silu, &[0.0, 0.731_058_578_630_004_9, -0.268_941_421_369_995_1]);
        expect(Activation::GeluTanh, &[0.0, 0.841_191_990_608_276_8, -0.158_808_009_391_723_24]);
        expect(Activation::Relu, &[0.0, 1.0, 0.0]);
        let ends = Sample::floats(DType::F64, &[3], &[f64::NEG_INFINITY, f64::INFINITY, f64::NAN]);
        let relu = run(Arithmetic::EXACT, Activation::Relu, &ends).to_floats();
        assert!(relu[..2] == [0.0, f64::INFINITY] && relu[2].is_nan(), "{relu:?}");
    }

    #[test]
    fn relu_lets_no_infinity_pass_where_it_is_flat() {
        let x = Sample::floats(DType::F64, &[4], &[-1.0, 0.0, f64::NAN, 2.0]);
        let mut dx = Sample::floats(DType::F64, &[4], &[f64::INFINITY, f64::NAN, 1.0, f64::INFINITY]);
        backward(Arithmetic::EXACT, Activation::Relu, x.view(), Source::Destination, dx.view_mut()).unwrap();
        assert_eq!(dx.to_floats(), [0.0, 0.0, 0.0, f64::INFINITY]);
    }

    #[test]
    fn the_left_tail_keeps_its_digits() {
        // Φ(−10) = 7.619853024160526e-24, from tables; 1 + erf(−10/√2) is 0 in f64.
        let x = Sample::floats(DType::F64, &[1], &[-10.0]);
        assert_close(&run(Arithmetic::EXACT, Activation::Gelu, &x), &[-7.619_853_024_160_526e-23], 1e-36);
        assert_eq!(run(Arithmetic::rounding(DType::F64), Activation::Gelu, &x).to_floats(), [0.0]);
    }

    #[test]
    fn compositions_agree_with_the_definitions() {
        let x = Sample::scattered(&[50], 3);
        for f in Activation::ALL {
            let composed = run(Arithmetic::rounding(DType::F64), f, &x);
            assert_close(&composed, &run(Arithmetic::EXACT, f, &x).to_floats(), 1e-15);
            for x in x.to_floats() {
                let naive = composed_slope(Arithmetic::rounding(DType::F64), f, x);
                assert!((naive - slope(f, x)).abs() < 1e-15, "{f:?} {x}");
            }
        }
    }

    #[test]
    fn gradients_agree_with_differences() {
        // No 0, where relu has a corner.
        let x = Sample::floats(DType::F64, &[6], &[-6.0, -1.3, -0.2, 0.1, 0.7, 4.0]);
        let dy = Sample::scattered(&[6], 1);
        for f in Activation::ALL {
            let mut dx = dy.seen(|l| *l);
            backward(Arithmetic::EXACT, f, x.view(), Source::Destination, dx.view_mut()).unwrap();
            check_gradient(f.name(), &x, &dx, |x| weighted(&run(Arithmetic::EXACT, f, x), &dy));
        }
    }

    #[test]
    fn integers_have_no_activation() {
        let (x, mut out) = (Sample::integers(DType::I64, &[1], &[1]), Sample::empty(DType::F32, &[1]));
        let error = forward(Arithmetic::EXACT, Activation::Silu, x.source(), out.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DType);
    }
}
