use super::*;
use crate::isa::{self, Isa, Kernel};

struct Apply<'a, T>(&'a str, &'a [T], &'a mut Vec<T>);

impl<T: Real> Kernel for Apply<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Apply(name, xs, ys) = self;
        match name {
            "exp" => ys.extend(xs.iter().map(|&x| exp::<M, T>(x))),
            "exp2_below_zero" => ys.extend(xs.iter().map(|&x| exp2_below_zero::<M, T>(x, T::from_f64(UNIT)))),
            "power_less" => ys.extend(xs.iter().map(|&x| power_less::<M, T>(x, in_two(UNIT), T::from_f64(LESS)))),
            "expm1" => ys.extend(xs.iter().map(|&x| expm1::<M, T>(x))),
            "log" => ys.extend(xs.iter().map(|&x| log::<M, T>(x))),
            "log1p" => ys.extend(xs.iter().map(|&x| log1p::<M, T>(x))),
            "tanh" => ys.extend(xs.iter().map(|&x| tanh::<M, T>(x))),
            "sigmoid" => ys.extend(xs.iter().map(|&x| sigmoid::<M, T>(x))),
            "erf" => ys.extend(xs.iter().map(|&x| erf::<M, T>(x))),
            "gaussian" => ys.extend(xs.iter().map(|&x| gaussian::<M, T>(x))),
            "normal_share" => ys.extend(xs.iter().map(|&x| normal_share::<M, T>(x))),
            "sin" => ys.extend(xs.iter().map(|&x| x.sin())),
            "cos" => ys.extend(xs.iter().map(|&x| x.cos())),
            _ => panic!("{name}"),
        }
    }
}

fn sigmoid_exact(x: f64) -> f64 {
    if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
}

type Exact = (&'static str, fn(f64) -> f64);
const FUNCTIONS: [Exact; 9] = [
    ("exp", f64::exp),
    ("expm1", f64::exp_m1),
    ("log", f64::ln),
    ("log1p", f64::ln_1p),
    ("tanh", f64::tanh),
    ("sigmoid", sigmoid_exact),
    ("erf", libm::erf),
    ("sin", f64::sin),
    ("cos", f64::cos),
];

/// Distance from the true value in units of f32's last place there.
fn ulps(y: f32, exact: f64) -> f64 {
    if exact.is_nan() || y.is_nan() {
        return if exact.is_nan() && y.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let rounded = exact as f32;
    if y == rounded {
        return 0.0;
    }
    // The step to infinity is as long as the one before it.
    let finite = |y: f32| if y.is_infinite() { 2f64.powi(128).copysign(y as f64) } else { y as f64 };
    let exponent = (rounded.abs().to_bits() >> 23).clamp(1, 254) as i32 - 127;
    ((finite(y) - exact) / 2f64.powi(exponent - 23)).abs()
}

#[test]
fn f32_functions_are_within_2_5_ulp_everywhere() {
    let special = [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN, 1e-45];
    let near = [88.72283, 88.72284, 88.7229, -87.33655, -103.27893, -103.97208, -103.97209, -0.99999994, 0.625];
    let xs: Vec<f32> = (0..=u32::MAX).step_by(4099).map(f32::from_bits).chain(special).chain(near).collect();
    for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
        for (name, exact) in FUNCTIONS {
            let mut ys = Vec::new();
            isa::run(isa, Apply(name, &xs, &mut ys));
            let (mut worst, mut at) = (0.0, 0.0);
            for (&x, &y) in xs.iter().zip(&ys) {
                let error = ulps(y, exact(x as f64));
                if error > worst {
                    (worst, at) = (error, x);
                }
            }
            println!("{isa} {name}: {worst:.2} ulp at {at:e}");
            assert!(worst <= 2.5, "{isa} {name}({at:e}) is {worst} ulp off");
        }
    }
}

/// Bits of a score, as for a head dimension of 64.
const UNIT: f64 = 0.125 * std::f64::consts::LOG2_E;

#[test]
fn exponentials_of_scores_end_where_denormals_begin() {
    let xs: Vec<f32> = (-120_000..10).map(|i| i as f32 * 8e-3).collect();
    for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
        let mut ys = Vec::new();
        isa::run(isa, Apply("exp2_below_zero", &xs, &mut ys));
        for (&x, &y) in xs.iter().zip(&ys) {
            let exact = (f64::from(x) * UNIT).exp2();
            assert!((f64::from(y) - exact).abs() < 2.5e-7, "{isa} exp2({x}) is {y}, not {exact}");
            assert!(y == 0.0 || y >= 0.7 * f32::MIN_POSITIVE, "{isa} exp2({x}) is {y}");
        }
        let (mut far, at) = (Vec::new(), [0.0, -705.0, -1e30, f32::NEG_INFINITY, f32::NAN]);
        isa::run(isa, Apply("exp2_below_zero", &at, &mut far));
        assert_eq!(far[..4], [1.0, 0.0, 0.0, 0.0]);
        assert!(far[4].is_nan());
    }
}

/// What is taken off, as of a log-sum-exp.
const LESS: f64 = 11.0 + 5.0 / 16_384.0;

/// A number and what it is rounded by.
fn in_two<T: Real>(x: f64) -> [T; 2] {
    let rounded = T::from_f64(x);
    [rounded, T::from_f64(x - rounded.to_f64())]
}

#[test]
fn exponentials_below_a_log_sum_exp_have_all_their_digits() {
    let xs: Vec<f32> = (-75_000..7_600).map(|i| i as f32 * 8e-3).collect();
    for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
        let mut ys = Vec::new();
        isa::run(isa, Apply("power_less", &xs, &mut ys));
        // The product is rounded where it is not fused.
        let limit = if isa == Isa::Portable { 2e-5 } else { 1.2e-7 };
        for (&x, &y) in xs.iter().zip(&ys) {
            let exact = (f64::from(x) * UNIT - LESS).exp2();
            assert!((f64::from(y) / exact - 1.0).abs() < limit, "{isa} power_less({x}) is {y}, not {exact}");
        }
        let xs: Vec<f64> = xs.iter().map(|&x| f64::from(x)).collect();
        let mut ys = Vec::new();
        isa::run(isa, Apply("power_less", &xs, &mut ys));
        for (&x, &y) in xs.iter().zip(&ys) {
            let exact = (x * UNIT - LESS).exp();
            assert!((y / exact - 1.0).abs() < 1e-13, "{isa} power_less({x}) is {y}, not {exact}");
        }
    }
}

/// Relative error: that of the fit, and far from 0 that of rounding x², which the exponential multiplies by x²/2.
#[test]
fn the_normal_density_and_share_keep_their_digits_far_left() {
    let xs: Vec<f32> = (-12_000..12_000).map(|i| i as f32 * 1e-3).collect();
    let far = [f32::INFINITY, f32::NEG_INFINITY, 40.0, -40.0, 1e30, f32::NAN];
    let gaussian = |x: f64| (-0.5 * x * x).exp();
    let share = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
    type Tailed = (Exact, fn(f32) -> f32);
    let functions: [Tailed; 2] = [(("gaussian", gaussian), f32::abs), (("normal_share", share), |x| x.min(0.0))];
    for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
        for ((name, exact), tail) in functions {
            let mut ys = Vec::new();
            isa::run(isa, Apply(name, &xs, &mut ys));
            for (&x, &y) in xs.iter().zip(&ys) {
                let limit = 5e-7 + f64::from(tail(x)).powi(2) * 1e-7;
                let want = exact(f64::from(x));
                assert!((f64::from(y) / want - 1.0).abs() < limit, "{isa} {name}({x}) is {y}, not {want}");
            }
            let mut edges = Vec::new();
            isa::run(isa, Apply(name, &far, &mut edges));
            for (&x, &y) in far.iter().zip(&edges[..5]) {
                assert_eq!(f64::from(y), exact(f64::from(x)), "{isa} {name}({x})");
            }
            assert!(edges[5].is_nan());
        }
    }
}

#[test]
fn f64_functions_are_within_4_ulp() {
    let mut xs: Vec<f64> = (-80_000..80_000).map(|i| i as f64 * 0.01 + 1e-5).collect();
    xs.extend((-3000..3000).map(|i| (i as f64 * 0.1).exp2()));
    xs.extend([0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -745.2, -740.0, 709.78, 709.79, 5e-324]);
    for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
        for (name, exact) in FUNCTIONS {
            let mut ys = Vec::new();
            isa::run(isa, Apply(name, &xs, &mut ys));
            for (&x, &y) in xs.iter().zip(&ys) {
                let want = exact(x);
                let unit = f64::from_bits(((want.abs().to_bits() >> 52).clamp(53, 2046) - 52) << 52);
                let close = y.to_bits() == want.to_bits()
                    || y.is_nan() && want.is_nan()
                    || (y - want).abs() <= (4.0 * unit).max(5e-324);
                assert!(close, "{isa} {name}({x:e}) = {y:e}, not {want:e}");
            }
        }
    }
}

#[test]
fn zeros_keep_their_sign() {
    for isa in Isa::ALL.into_iter().filter(|i| i.is_available()) {
        for name in ["expm1", "log1p", "tanh", "erf"] {
            let mut ys = Vec::new();
            isa::run(isa, Apply(name, &[-0.0f32, 0.0], &mut ys));
            assert!(ys[0].is_sign_negative() && ys[1].is_sign_positive(), "{isa} {name}");
        }
    }
}

#[test]
fn extremes_propagate_nan() {
    assert!(max(f32::NAN, 1.0).is_nan() && max(1.0, f32::NAN).is_nan());
    assert!(min(f32::NAN, 1.0).is_nan() && min(1.0, f32::NAN).is_nan());
    assert_eq!((max(1.0, 2.0), min(1.0, 2.0)), (2.0, 1.0));
}
