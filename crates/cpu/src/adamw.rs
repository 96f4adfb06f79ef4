//! The AdamW step: one sweep over gradient, parameter and moments.
//!
//! ```text
//! g ← g · scale;  m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²
//! p ← p − lr · decay · p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
//! ```
//!
//! Each step is a correctly rounded operation in the moments' dtype without fused multiply-adds, so that every
//! instruction set takes the same step. A 16-bit parameter is widened, updated, and rounded once.

use crate::{
    CpuBackend, check,
    isa::{self, Kernel, Machine},
    math::Real,
    nest::Nest,
    rows::{Floats, GRAIN, LANES, PIECE, in_f64, put, take},
};
use attentia_backend::{AdamW, Error, ErrorKind, Result, View, ViewMut};
use std::ops::Range;

const OP: &str = "adamw";

pub(crate) fn adamw(
    cpu: &CpuBackend,
    spec: &AdamW,
    gradient: View,
    parameter: ViewMut,
    first_moment: ViewMut,
    second_moment: ViewMut,
) -> Result<()> {
    match in_f64(&[gradient.dtype(), parameter.dtype()]) {
        true => step::<f64>(cpu, spec, gradient, parameter, first_moment, second_moment),
        false => step::<f32>(cpu, spec, gradient, parameter, first_moment, second_moment),
    }
}

fn step<A: Real>(
    cpu: &CpuBackend,
    spec: &AdamW,
    gradient: View,
    parameter: ViewMut,
    first_moment: ViewMut,
    second_moment: ViewMut,
) -> Result<()> {
    let refuse = |what: String| Err(Error::new(ErrorKind::Argument, OP, what));
    if spec.step == 0 {
        return refuse("steps count from 1".to_owned());
    }
    for beta in [spec.betas.0, spec.betas.1] {
        if !(0.0..1.0).contains(&beta) {
            return refuse(format!("a beta is {beta}, not in [0, 1)"));
        }
    }
    let statistics = parameter.dtype().statistics();
    let p = Floats::<A>::output(OP, parameter)?;
    let g = Floats::<A>::input(OP, gradient)?;
    let (m, v) = (Floats::<A>::output(OP, first_moment)?, Floats::<A>::output(OP, second_moment)?);
    let shape = p.layout().shape();
    check::shape(OP, "gradient", g.layout(), shape)?;
    m.expect(OP, "first_moment", shape, statistics)?;
    v.expect(OP, "second_moment", shape, statistics)?;
    let nest = Nest::new([p.layout(), g.layout(), m.layout(), v.layout()]);
    let factors = Factors::new(spec);
    cpu.threads.chunks(nest.count(), GRAIN, |range| {
        isa::run(cpu.isa, Step { factors, nest: &nest, range, operands: [p, g, m, v] });
    });
    Ok(())
}

/// The constants of a step.
#[derive(Clone, Copy)]
struct Factors<A> {
    scale: A,
    keep: [A; 2],
    add: [A; 2],
    decay: A,
    unbias: [A; 2],
    epsilon: A,
    rate: A,
}

impl<A: Real> Factors<A> {
    fn new(spec: &AdamW) -> Factors<A> {
        let (first, second) = spec.betas;
        let unbias = |beta: f64| A::from_f64(1.0 - beta.powf(spec.step as f64));
        Factors {
            scale: A::from_f64(spec.gradient_scale),
            keep: [A::from_f64(first), A::from_f64(second)],
            add: [A::from_f64(1.0 - first), A::from_f64(1.0 - second)],
            decay: A::from_f64(spec.learning_rate * spec.weight_decay),
            unbias: [unbias(first), unbias(second)],
            epsilon: A::from_f64(spec.epsilon),
            rate: A::from_f64(spec.learning_rate),
        }
    }
}

/// The step of some elements of p, g, m and v.
struct Step<'a, A> {
    factors: Factors<A>,
    nest: &'a Nest<4>,
    range: Range<usize>,
    operands: [Floats<'a, A>; 4],
}

impl<A: Real> Kernel for Step<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Step { factors, nest, range, operands } = self;
        let mut scratch = [[A::ZERO; PIECE]; 4];
        let scratch = scratch.each_mut().map(|s| s.as_mut_ptr());
        for run in nest.runs(range) {
            let mut done = 0;
            while done < run.len {
                let tiles = run.piece(done);
                let len = tiles[0].columns;
                // SAFETY: the nest stays within the operands, whose shapes agree and which are different buffers; tasks have
                // different elements.
                unsafe {
                    let [p, g, m, v] = [0, 1, 2, 3].map(|i| operands[i].read::<M>(tiles[i], scratch[i]).row(0));
                    update(&factors, p, g, m, v, len);
                    for i in [0, 2, 3] {
                        operands[i].store::<M>(tiles[i], scratch[i]);
                    }
                }
                done += len;
            }
        }
    }
}

/// # Safety
///
/// `len` elements at each pointer, all apart.
#[inline(always)]
unsafe fn update<A: Real>(f: &Factors<A>, p: *mut A, g: *const A, m: *mut A, v: *mut A, len: usize) {
    let mut at = 0;
    while at < len {
        let left = len - at;
        // SAFETY: the caller's promise.
        let (mut ps, gs, mut ms, mut vs) = unsafe {
            (
                take(p.add(at), left, A::ZERO),
                take(g.add(at), left, A::ZERO),
                take(m.add(at), left, A::ZERO),
                take(v.add(at), left, A::ZERO),
            )
        };
        for l in 0..LANES {
            let g = gs[l] * f.scale;
            let m = ms[l] * f.keep[0] + g * f.add[0];
            let v = vs[l] * f.keep[1] + g * g * f.add[1];
            let direction = m / f.unbias[0] / ((v / f.unbias[1]).sqrt() + f.epsilon);
            ps[l] = ps[l] - ps[l] * f.decay - direction * f.rate;
            (ms[l], vs[l]) = (m, v);
        }
        // SAFETY: the caller's promise.
        unsafe {
            put(ps, p.add(at), left);
            put(ms, m.add(at), left);
            put(vs, v.add(at), left);
        }
        at += LANES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Lie, Sample, check, scattered};
    use attentia_backend::{Backend, DType};

    const SPEC: AdamW = AdamW {
        learning_rate: 0.01,
        betas: (0.9, 0.999),
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 3,
        gradient_scale: 0.5,
    };

    fn stepped(b: &dyn Backend, dtype: DType, gradient: DType, extents: &[usize], lies: [Lie; 2]) -> Vec<Sample> {
        let [lie, to] = lies;
        let g = Sample::floats(b, gradient, extents, lie, 1);
        let mut p = Sample::floats(b, dtype, extents, to, 2);
        let mut m = Sample::floats(b, dtype.statistics(), extents, to, 3);
        let mut v = Sample::new(b, dtype.statistics(), extents, Lie::Contiguous, |i| scattered(4, i).abs());
        b.adamw(&SPEC, g.view(), p.view_mut(), m.view_mut(), v.view_mut()).unwrap();
        vec![p, m, v]
    }

    #[test]
    fn agrees_with_the_oracle() {
        for dtype in DType::FLOATS {
            for (lie, to) in Lie::ALL.into_iter().zip(Lie::WRITABLE.into_iter().cycle()) {
                check(&format!("adamw {dtype} {lie:?} to {to:?}"), |b| stepped(b, dtype, dtype, &[5, 43], [lie, to]));
            }
        }
        check("f32 gradient of bf16", |b| stepped(b, DType::Bf16, DType::F32, &[70], [Lie::Contiguous; 2]));
        check("f64 gradient of f32", |b| stepped(b, DType::F32, DType::F64, &[70], [Lie::Contiguous; 2]));
        for extents in [&[][..], &[0], &[1]] {
            check("edge shapes", |b| stepped(b, DType::F32, DType::F32, extents, [Lie::Contiguous; 2]));
        }
        let parallel = check("large", |b| stepped(b, DType::F32, DType::F32, &[40_000], [Lie::Contiguous; 2]));
        assert!(parallel > 0);
    }

    #[test]
    fn nonsense_is_refused() {
        let cpu = CpuBackend::new(1).unwrap();
        for spec in
            [AdamW { step: 0, ..SPEC }, AdamW { betas: (0.9, 1.0), ..SPEC }, AdamW { betas: (f64::NAN, 0.9), ..SPEC }]
        {
            let [mut p, mut m, mut v] = [0; 3].map(|_| Sample::room(&cpu, DType::F32, &[2], Lie::Contiguous));
            let g = Sample::room(&cpu, DType::F32, &[2], Lie::Contiguous);
            let error = cpu.adamw(&spec, g.view(), p.view_mut(), m.view_mut(), v.view_mut()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Argument);
        }
        let [mut p, mut m, mut v] = [0; 3].map(|_| Sample::room(&cpu, DType::Bf16, &[2], Lie::Contiguous));
        let g = Sample::room(&cpu, DType::Bf16, &[2], Lie::Contiguous);
        let error = cpu.adamw(&SPEC, g.view(), p.view_mut(), m.view_mut(), v.view_mut()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DType, "moments are f32");
    }
}
