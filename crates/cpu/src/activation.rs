//! Activations with a kernel of their own, and their slopes.
//!
//! ```text
//! gelu       x · Φ(x)       Φ(x) = ½ + ½·erf(x/√2)              f' = Φ(x) + x · φ(x)     φ = exp(−x²/2)/√(2π)
//! gelu_tanh  x · σ(2u)      u = √(2/π) · (x + 0.044715 · x³)    f' = σ(2u) + x · σ(2u) · σ(−2u) · (2u)'
//! silu       x · σ(x)       σ(x) = 1 / (1 + e⁻ˣ)                f' = σ(x) + x · σ(x) · σ(−x)
//! relu       max(x, 0)      NaN stays                            f' = 1 where x > 0, else 0
//! ```
//!
//! `½ · (1 + tanh u)` is `σ(2u)`: one exponential, and no digits lost far to the left of 0.

use crate::{
    CpuBackend, check,
    isa::{self, Kernel, Machine},
    math::{Real, gaussian, normal_share, sigmoid},
    nest::Nest,
    rows::{Floats, GRAIN, LANES, PIECE, blocks, in_f64, put, source_dtype, take},
};
use attentia_backend::{Activation, Result, Source, View, ViewMut};
use std::ops::Range;

pub(crate) fn activation(cpu: &CpuBackend, f: Activation, x: Source, out: ViewMut) -> Result<()> {
    match in_f64(&[source_dtype(&x, &out), out.dtype()]) {
        true => forward::<f64>(cpu, f, x, out),
        false => forward::<f32>(cpu, f, x, out),
    }
}

pub(crate) fn activation_backward(cpu: &CpuBackend, f: Activation, x: View, dy: Source, dx: ViewMut) -> Result<()> {
    match in_f64(&[x.dtype(), source_dtype(&dy, &dx), dx.dtype()]) {
        true => backward::<f64>(cpu, f, x, dy, dx),
        false => backward::<f32>(cpu, f, x, dy, dx),
    }
}

fn forward<A: Real>(cpu: &CpuBackend, f: Activation, x: Source, out: ViewMut) -> Result<()> {
    let op = f.name();
    let out = Floats::<A>::output(op, out)?;
    let x = Floats::source(op, x, out)?;
    check::shape(op, "x", x.layout(), out.layout().shape())?;
    let nest = Nest::new([out.layout(), x.layout()]);
    cpu.threads.chunks(nest.count(), GRAIN, |range| {
        isa::run(cpu.isa, Forward { f, nest: &nest, range, x, out });
    });
    Ok(())
}

/// `out = f(x)` for some elements.
struct Forward<'a, A> {
    f: Activation,
    nest: &'a Nest<2>,
    range: Range<usize>,
    x: Floats<'a, A>,
    out: Floats<'a, A>,
}

impl<A: Real> Kernel for Forward<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Forward { f, nest, range, x, out } = self;
        let mut scratch = [A::ZERO; PIECE];
        let scratch = scratch.as_mut_ptr();
        for run in nest.runs(range) {
            let mut done = 0;
            while done < run.len {
                let [to, from] = run.piece(done);
                // SAFETY: the nest stays within the operands, whose shapes agree; tasks have different elements. Source and
                // destination are the same memory or apart.
                unsafe {
                    let x = x.read::<M>(from, scratch).row(0).cast_const();
                    let results = out.place(to, scratch).row(0);
                    blocks!(to.columns, |at, len| {
                        put(values::<M, A>(f, take(x.add(at), len, A::ZERO)), results.add(at), len);
                    });
                    out.store::<M>(to, scratch);
                }
                done += to.columns;
            }
        }
    }
}

fn backward<A: Real>(cpu: &CpuBackend, f: Activation, x: View, dy: Source, dx: ViewMut) -> Result<()> {
    let op = f.name();
    let dx = Floats::<A>::output(op, dx)?;
    let (x, dy) = (Floats::<A>::input(op, x)?, Floats::source(op, dy, dx)?);
    check::shape(op, "x", x.layout(), dx.layout().shape())?;
    check::shape(op, "dy", dy.layout(), dx.layout().shape())?;
    let nest = Nest::new([dx.layout(), x.layout(), dy.layout()]);
    cpu.threads.chunks(nest.count(), GRAIN, |range| {
        isa::run(cpu.isa, Backward { f, nest: &nest, range, x, dy, dx });
    });
    Ok(())
}

/// `dx = f'(x) · dy` for some elements.
struct Backward<'a, A> {
    f: Activation,
    nest: &'a Nest<3>,
    range: Range<usize>,
    x: Floats<'a, A>,
    dy: Floats<'a, A>,
    dx: Floats<'a, A>,
}

impl<A: Real> Kernel for Backward<'_, A> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Backward { f, nest, range, x, dy, dx } = self;
        let (mut x_scratch, mut scratch) = ([A::ZERO; PIECE], [A::ZERO; PIECE]);
        let (x_scratch, scratch) = (x_scratch.as_mut_ptr(), scratch.as_mut_ptr());
        for run in nest.runs(range) {
            let mut done = 0;
            while done < run.len {
                let [to, of_x, of_dy] = run.piece(done);
                // SAFETY: the nest stays within the operands, whose shapes agree; tasks have different elements. dy and dx
                // are the same memory or apart.
                unsafe {
                    let x = x.read::<M>(of_x, x_scratch).row(0).cast_const();
                    let dy = dy.read::<M>(of_dy, scratch).row(0).cast_const();
                    let results = dx.place(to, scratch).row(0);
                    blocks!(to.columns, |at, len| {
                        let (x, dy) = (take(x.add(at), len, A::ZERO), take(dy.add(at), len, A::ZERO));
                        put(slopes::<M, A>(f, x, dy), results.add(at), len);
                    });
                    dx.store::<M>(to, scratch);
                }
                done += to.columns;
            }
        }
    }
}

/// A function and its derivative, without branches.
trait Curve {
    fn value<M: Machine, A: Real>(x: A) -> A;
    fn slope<M: Machine, A: Real>(x: A) -> A;
    #[inline(always)]
    fn slope_times<M: Machine, A: Real>(x: A, dy: A) -> A {
        Self::slope::<M, A>(x) * dy
    }
}

struct Gelu;
struct GeluTanh;
struct Silu;
struct Relu;

impl Curve for Gelu {
    #[inline(always)]
    fn value<M: Machine, A: Real>(x: A) -> A {
        x * normal_share::<M, A>(x)
    }
    #[inline(always)]
    fn slope<M: Machine, A: Real>(x: A) -> A {
        let density = gaussian::<M, A>(x) * A::from_f64(0.398_942_280_401_432_7);
        A::mul_add::<M>(x, density, normal_share::<M, A>(x))
    }
}

/// 2·√(2/π), and the same times 0.044715.
const TWICE: f64 = 1.595_769_121_605_730_8;
const TWICE_CUBIC: f64 = TWICE * 0.044715;

impl Curve for GeluTanh {
    #[inline(always)]
    fn value<M: Machine, A: Real>(x: A) -> A {
        let slope = A::mul_add::<M>(x * x, A::from_f64(TWICE_CUBIC), A::from_f64(TWICE));
        x * sigmoid::<M, A>(x * slope)
    }
    #[inline(always)]
    fn slope<M: Machine, A: Real>(x: A) -> A {
        // Beyond 30 the curve is straight in every dtype, and x³ may overflow.
        let bound = A::from_f64(30.0);
        let near = if x > bound { bound } else { x };
        let near = if near < -bound { -bound } else { near };
        let square = near * near;
        let argument = near * A::mul_add::<M>(square, A::from_f64(TWICE_CUBIC), A::from_f64(TWICE));
        let argument_slope = A::mul_add::<M>(square, A::from_f64(3.0 * TWICE_CUBIC), A::from_f64(TWICE));
        let (share, rest) = (sigmoid::<M, A>(argument), sigmoid::<M, A>(-argument));
        A::mul_add::<M>(x * share * rest, argument_slope, share)
    }
}

impl Curve for Silu {
    #[inline(always)]
    fn value<M: Machine, A: Real>(x: A) -> A {
        x * sigmoid::<M, A>(x)
    }
    #[inline(always)]
    fn slope<M: Machine, A: Real>(x: A) -> A {
        let (share, rest) = (sigmoid::<M, A>(x), sigmoid::<M, A>(-x));
        A::mul_add::<M>(x * share, rest, share)
    }
}

impl Curve for Relu {
    #[inline(always)]
    fn value<M: Machine, A: Real>(x: A) -> A {
        if x < A::ZERO { A::ZERO } else { x }
    }
    #[inline(always)]
    fn slope<M: Machine, A: Real>(x: A) -> A {
        if x > A::ZERO { A::ONE } else { A::ZERO }
    }
    // A choice: where nothing passes, neither do infinities.
    #[inline(always)]
    fn slope_times<M: Machine, A: Real>(x: A, dy: A) -> A {
        if x > A::ZERO { dy } else { A::ZERO }
    }
}

/// `f(x)` of some lanes.
#[inline(always)]
pub(crate) fn values<M: Machine, A: Real>(f: Activation, x: [A; LANES]) -> [A; LANES] {
    match f {
        Activation::Gelu => values_of::<M, A, Gelu>(x),
        Activation::GeluTanh => values_of::<M, A, GeluTanh>(x),
        Activation::Silu => values_of::<M, A, Silu>(x),
        Activation::Relu => values_of::<M, A, Relu>(x),
    }
}

/// In a loop, which the compiler vectorises; `map` it does not.
#[inline(always)]
fn values_of<M: Machine, A: Real, C: Curve>(mut x: [A; LANES]) -> [A; LANES] {
    for x in &mut x {
        *x = C::value::<M, A>(*x);
    }
    x
}

/// `f'(x) · dy` of some lanes.
#[inline(always)]
pub(crate) fn slopes<M: Machine, A: Real>(f: Activation, x: [A; LANES], dy: [A; LANES]) -> [A; LANES] {
    match f {
        Activation::Gelu => slopes_of::<M, A, Gelu>(x, dy),
        Activation::GeluTanh => slopes_of::<M, A, GeluTanh>(x, dy),
        Activation::Silu => slopes_of::<M, A, Silu>(x, dy),
        Activation::Relu => slopes_of::<M, A, Relu>(x, dy),
    }
}

#[inline(always)]
fn slopes_of<M: Machine, A: Real, C: Curve>(x: [A; LANES], mut dy: [A; LANES]) -> [A; LANES] {
    for l in 0..LANES {
        dy[l] = C::slope_times::<M, A>(x[l], dy[l]);
    }
    dy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Lie, Sample, check, scattered};
    use attentia_backend::DType;

    #[test]
    fn agree_with_the_oracle() {
        for f in Activation::ALL {
            for dtype in DType::FLOATS {
                for (lie, to) in Lie::ALL.into_iter().zip(Lie::WRITABLE.into_iter().cycle()) {
                    for in_place in [false, true] {
                        check(&format!("{} {dtype} {lie:?} to {to:?}", f.name()), |b| {
                            let extents = [3, 4, 37];
                            let (x, dy) =
                                (Sample::floats(b, dtype, &extents, lie, 1), Sample::floats(b, dtype, &extents, to, 2));
                            let mut out = Sample::floats(b, dtype, &extents, to, 3);
                            let mut dx = Sample::floats(b, dtype, &extents, to, 4);
                            let from = if in_place { Source::Destination } else { x.source() };
                            b.activation(f, from, out.view_mut()).unwrap();
                            let from = if in_place { Source::Destination } else { dy.source() };
                            b.activation_backward(f, x.view(), from, dx.view_mut()).unwrap();
                            vec![out, dx]
                        });
                    }
                }
            }
        }
    }

    #[test]
    fn relu_lets_no_infinity_pass_where_it_is_flat() {
        for dtype in DType::FLOATS {
            check(&format!("relu {dtype}"), |b| {
                let x = Sample::new(b, dtype, &[40], Lie::Contiguous, |p| [-1.0, 0.0, 2.0, f64::NAN][p % 4]);
                let dy = Sample::new(b, dtype, &[40], Lie::Contiguous, |p| [f64::INFINITY, f64::NAN, 3.0][p % 3]);
                let mut dx = Sample::room(b, dtype, &[40], Lie::Contiguous);
                b.activation_backward(Activation::Relu, x.view(), dy.source(), dx.view_mut()).unwrap();
                vec![dx]
            });
        }
    }

    #[test]
    fn far_from_zero_and_in_edge_shapes() {
        for f in Activation::ALL {
            for dtype in [DType::F64, DType::F32] {
                check(&format!("{} {dtype} far", f.name()), |b| {
                    let ends = [f64::INFINITY, f64::NAN, 1e30, -1e30, 200.0, -200.0, 30.0, -30.0, 0.0, -0.0];
                    let x = Sample::new(b, dtype, &[300], Lie::Contiguous, |p| match ends.get(p) {
                        Some(&x) => x,
                        None => 4.0 * scattered(1, p),
                    });
                    let one = Sample::new(b, dtype, &[300], Lie::RepeatedRows, |_| 1.0);
                    let [mut out, mut dx] = [0; 2].map(|_| Sample::room(b, dtype, &[300], Lie::Contiguous));
                    b.activation(f, x.source(), out.view_mut()).unwrap();
                    b.activation_backward(f, x.view(), one.source(), dx.view_mut()).unwrap();
                    vec![out, dx]
                });
            }
            for extents in [&[][..], &[0], &[1], &[33], &[2, 0, 3]] {
                check(&format!("{} {extents:?}", f.name()), |b| {
                    let mut out = Sample::floats(b, DType::F16, extents, Lie::Contiguous, 1);
                    b.activation(f, Source::Destination, out.view_mut()).unwrap();
                    vec![out]
                });
            }
        }
        let parallel = check("large", |b| {
            let x = Sample::floats(b, DType::F32, &[150, 333], Lie::Transposed, 1);
            let mut out = Sample::room(b, DType::F32, &[150, 333], Lie::Contiguous);
            b.activation(Activation::Gelu, x.source(), out.view_mut()).unwrap();
            vec![out]
        });
        assert!(parallel > 0);
    }
}
