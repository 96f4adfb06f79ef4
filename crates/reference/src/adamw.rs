//! The AdamW update (Loshchilov and Hutter, 2019), element by element.
//!
//! ```text
//! g ← g · gradient_scale
//! m ← β₁ m + (1 − β₁) g             v ← β₂ v + (1 − β₂) g²
//! p ← p − lr · decay · p            p ← p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
//! ```

use crate::{
    arithmetic::Arithmetic,
    check,
    storage::{contents, read, store},
};
use attentia_backend::{AdamW, Result, View, ViewMut, rules};

const OP: &str = "adamw";

/// One step of a parameter and its moments. Everything is computed in `a`, which the backend chooses for the moments'
/// dtype: a 16-bit parameter is rounded once, at the end.
pub(crate) fn adamw(
    a: Arithmetic,
    spec: &AdamW,
    gradient: View,
    mut parameter: ViewMut,
    mut first: ViewMut,
    mut second: ViewMut,
) -> Result<()> {
    let target = check::destination("parameter", &parameter);
    let gradient_meta = check::operand("gradient", gradient);
    rules::float(OP, target)?;
    rules::float(OP, gradient_meta)?;
    check::shape(OP, gradient_meta, target.layout.shape())?;
    for moment in [check::destination("first_moment", &first), check::destination("second_moment", &second)] {
        check::shape(OP, moment, target.layout.shape())?;
        rules::dtype(OP, moment, target.dtype.statistics())?;
    }
    check::argument(OP, spec.step > 0, || "steps count from 1".to_owned())?;
    for beta in [spec.betas.0, spec.betas.1] {
        check::argument(OP, (0.0..1.0).contains(&beta), || format!("a beta is {beta}, not in [0, 1)"))?;
    }
    let gradient = read::<f64>(OP, "gradient", gradient)?;
    let mut p = contents::<f64>(OP, "parameter", &mut parameter)?;
    let mut m = contents::<f64>(OP, "first_moment", &mut first)?;
    let mut v = contents::<f64>(OP, "second_moment", &mut second)?;
    for (((p, m), v), g) in p.iter_mut().zip(&mut m).zip(&mut v).zip(gradient) {
        (*p, *m, *v) = update(a, spec, *p, *m, *v, *g);
    }
    store(OP, "parameter", parameter, &p)?;
    store(OP, "first_moment", first, &m)?;
    store(OP, "second_moment", second, &v)
}

fn update(a: Arithmetic, spec: &AdamW, p: f64, m: f64, v: f64, g: f64) -> (f64, f64, f64) {
    let k = |x: f64| a.keep(x);
    let (beta1, beta2) = spec.betas;
    let unbiased = |x: f64, beta: f64| k(x / k(1.0 - libm::pow(beta, spec.step as f64)));
    let g = k(g * k(spec.gradient_scale));
    let m = k(k(m * k(beta1)) + k(g * k(1.0 - beta1)));
    let v = k(k(v * k(beta2)) + k(k(g * g) * k(1.0 - beta2)));
    let p = k(p - k(p * k(spec.learning_rate * spec.weight_decay)));
    let denominator = k(k(unbiased(v, beta2).sqrt()) + k(spec.epsilon));
    let direction = k(unbiased(m, beta1) / denominator);
    (k(p - k(direction * k(spec.learning_rate))), m, v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, assert_close};
    use attentia_backend::{DType, ErrorKind};

    const SPEC: AdamW =
        AdamW { learning_rate: 0.1, betas: (0.5, 0.75), epsilon: 0.0, weight_decay: 0.5, step: 1, gradient_scale: 2.0 };

    fn step(spec: &AdamW, g: &Sample, p: &mut Sample, m: &mut Sample, v: &mut Sample) -> Result<()> {
        adamw(Arithmetic::EXACT, spec, g.view(), p.view_mut(), m.view_mut(), v.view_mut())
    }

    #[test]
    fn two_steps_by_hand() {
        let g = Sample::floats(DType::F64, &[2], &[1.0, -2.0]);
        let mut p = Sample::floats(DType::F64, &[2], &[1.0, 2.0]);
        let (mut m, mut v) = (Sample::floats(DType::F64, &[2], &[0.0; 2]), Sample::floats(DType::F64, &[2], &[0.0; 2]));
        step(&SPEC, &g, &mut p, &mut m, &mut v).unwrap();
        // The first direction is the sign of the gradient; 5 % decay comes first.
        assert_close(&p, &[0.95 - 0.1, 1.9 + 0.1], 1e-15);
        assert_eq!((m.to_floats(), v.to_floats()), (vec![1.0, -2.0], vec![1.0, 4.0]));
        let zero = Sample::floats(DType::F64, &[2], &[0.0; 2]);
        step(&AdamW { step: 2, ..SPEC }, &zero, &mut p, &mut m, &mut v).unwrap();
        assert_eq!((m.to_floats(), v.to_floats()), (vec![0.5, -1.0], vec![0.75, 3.0]));
        // m̂ = 0.5 / 0.75, v̂ = 0.75 / 0.4375
        let direction = (0.5 / 0.75) / (0.75f64 / 0.4375).sqrt();
        assert_close(&p, &[0.85 * 0.95 - 0.1 * direction, 2.0 * 0.95 + 0.1 * direction], 1e-15);
    }

    #[test]
    fn halves_keep_moments_in_f32_and_bad_steps_are_refused() {
        let g = Sample::floats(DType::F32, &[1], &[0.1f32 as f64]);
        let mut p = Sample::floats(DType::Bf16, &[1], &[1.0]);
        let (mut m, mut v) = (Sample::floats(DType::F32, &[1], &[0.0]), Sample::floats(DType::F32, &[1], &[0.0]));
        step(&SPEC, &g, &mut p, &mut m, &mut v).unwrap();
        assert_eq!(p.to_floats(), [half::bf16::from_f64(0.85).to_f64()]);
        for bad in [AdamW { step: 0, ..SPEC }, AdamW { betas: (1.0, 0.9), ..SPEC }] {
            let error = step(&bad, &g, &mut p, &mut m, &mut v).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Argument);
        }
        let mut narrow = Sample::floats(DType::Bf16, &[1], &[0.0]);
        assert_eq!(step(&SPEC, &g, &mut p, &mut narrow, &mut v).unwrap_err().kind(), ErrorKind::DType);
    }
}
