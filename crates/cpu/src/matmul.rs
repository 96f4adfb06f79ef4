//! Matrix products.
//!
//! ```text
//! matmul        checks, merges leading axes, turns the product so that rows of out are contiguous
//! schedule.rs   cuts it into tasks                      large.rs     a large one, for all threads
//! block.rs      one block on one thread
//! tile.rs       the micro-kernels                       vector.rs    the registers that they are written over
//! kernel.rs     their arguments and their table
//! portable.rs   matrixmultiply on the same blocks       element.rs   dtypes
//! pairs.rs      bf16 on instructions that multiply pairs of it        epilogue.rs   what becomes of sums
//! soon.rs       what tiles prefetch
//! ```
//!
//! # Which bits
//!
//! The order of every sum follows from extents, dtype, instruction set, from the epilogue, and from which axes of the operands
//! are contiguous; never from the number of threads. 16-bit operands are widened, or multiplied in pairs, summed in f32, and
//! rounded once when they are written; f64 is summed in f64.

pub(crate) mod block;
pub(crate) mod element;
pub(crate) mod epilogue;
pub(crate) mod kernel;
mod large;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod portable;
pub(crate) mod schedule;
pub(crate) mod soon;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vector;

use crate::{
    CpuBackend, check,
    math::Real,
    storage::{Input, Output},
};
use attentia_backend::{DType, Epilogue, Error, ErrorKind, MAX_RANK, Operand as Shown, Result, View, ViewMut};
use block::{Operand, Product, Target};
use element::Element;
use half::{bf16, f16};
use kernel::THIN;
use schedule::Batch;

/// `out = epilogue(a · b)`: `[.., M, K] × [.., K, N] → [.., M, N]`. The leading axes of all three agree; strides are free.
/// Operands share a float dtype, which out has too, or f32 for 16-bit operands.
pub(crate) fn matmul(cpu: &CpuBackend, a: View, b: View, epilogue: Epilogue, out: ViewMut) -> Result<()> {
    match (a.dtype(), out.dtype()) {
        (DType::F64, DType::F64) => typed::<f64, f64>(cpu, a, b, epilogue, out),
        (DType::F32, DType::F32) => typed::<f32, f32>(cpu, a, b, epilogue, out),
        (DType::Bf16, DType::Bf16) => typed::<bf16, bf16>(cpu, a, b, epilogue, out),
        (DType::Bf16, DType::F32) => typed::<bf16, f32>(cpu, a, b, epilogue, out),
        (DType::F16, DType::F16) => typed::<f16, f16>(cpu, a, b, epilogue, out),
        (DType::F16, DType::F32) => typed::<f16, f32>(cpu, a, b, epilogue, out),
        (x, y) => Err(refuse(ErrorKind::DType, format!("no product of {x} is written to {y}"), a, b, &out)),
    }
}

fn refuse(kind: ErrorKind, what: String, a: View, b: View, out: &ViewMut) -> Error {
    Error::new(kind, "matmul", what).operands([
        Shown::new("a", *a.layout(), a.dtype()),
        Shown::new("b", *b.layout(), b.dtype()),
        Shown::new("out", *out.layout(), out.dtype()),
    ])
}

fn typed<T: Element, O: Element<Sum = T::Sum>>(
    cpu: &CpuBackend,
    a: View,
    b: View,
    epilogue: Epilogue,
    out: ViewMut,
) -> Result<()> {
    let rank = out.layout().rank();
    let (sa, sb, so) = (a.shape(), b.shape(), out.shape());
    let fits = rank >= 2
        && sa.rank() == rank
        && sb.rank() == rank
        && sa[..rank - 2] == so[..rank - 2]
        && sb[..rank - 2] == so[..rank - 2]
        && sa[rank - 2] == so[rank - 2]
        && sa[rank - 1] == sb[rank - 2]
        && sb[rank - 1] == so[rank - 1];
    if !fits {
        let what = "the shapes are not [.., M, K], [.., K, N] and [.., M, N]".to_owned();
        return Err(refuse(ErrorKind::Shape, what, a, b, &out).help("broadcast the leading axes with stride 0"));
    }
    epilogue.check("matmul", check::operand(cpu, "out", out.layout(), out.dtype()))?;
    let (m, n, k) = (so[rank - 2], so[rank - 1], sa[rank - 1]);
    let (a, b, out) = (Input::<T>::new("matmul", a)?, Input::<T>::new("matmul", b)?, Output::<O>::new("matmul", out)?);
    let (then, [start, at, added]) = epilogue::Epilogue::new(cpu.isa, epilogue, &out)?;
    if out.layout().count() == 0 {
        return Ok(());
    }
    let strides = [a.layout().strides(), b.layout().strides(), out.layout().strides()];
    // The stride of a single element may be any number: one that can't mislead or overflow.
    let stride = |extent: usize, stride: isize| if extent == 1 { 1 } else { stride };
    let [(ar, ac), (br, bc), (cr, cc)] = strides.map(|s| (s[rank - 2], s[rank - 1]));
    let (ar, ac, br, bc) = (stride(m, ar), stride(k, ac), stride(k, br), stride(n, bc));
    let (cr, cc) = (stride(m, cr), stride(n, cc));
    let then = then.map(|x, _| Operand { lane: stride(m, x.lane), step: stride(n, x.step), ..x });
    let mut x = Product {
        m,
        n,
        k,
        a: Operand { start: a.start(), lane: ar, step: ac },
        b: Operand { start: b.start(), lane: bc, step: br },
        c: Target { start: out.start(), row: cr, col: cc },
        then,
    };
    let [a, b, c] = strides;
    let mut batch = Batch { rank: 0, extents: [1; MAX_RANK], strides: [[0; 6]; MAX_RANK] };
    for axis in 0..rank - 2 {
        if so[axis] != 1 {
            let along = |strides: &[isize]| strides.get(axis).copied().unwrap_or(0);
            let strides = [a, b, c, start, at, added].map(along);
            (batch.extents[batch.rank], batch.strides[batch.rank]) = (so[axis], strides);
            batch.rank += 1;
        }
    }
    fold(&mut batch, &mut x);
    // SAFETY: views lie within their buffers and have the shapes of the product, out owns its memory and names no
    // element twice; folding and turning keep the set of elements.
    unsafe {
        if k == 0 {
            finish_nothing(&batch, &x);
            return Ok(());
        }
        let (batch, x) = turn(batch, x);
        schedule::run(cpu, &batch, &x)
    }
}

/// Merges inner leading axes into M when they share B, into N when they share A: `[B, T, C] · [C, N]` is one product.
fn fold<T: Element, O: Element>(batch: &mut Batch, x: &mut Product<T, O>) {
    // An axis of one element may be given any stride.
    let follows = |outer: isize, extent: usize, inner: isize| extent == 1 || outer == inner * extent as isize;
    while batch.rank > 0 {
        let (extent, [a, b, c, outer @ ..]) = (batch.extents[batch.rank - 1], batch.strides[batch.rank - 1]);
        let then = x.then.operands();
        let then_follows = |extent: usize, inner: fn(Operand<O>) -> isize| {
            then.into_iter().zip(outer).all(|(x, outer)| x.is_none_or(|x| follows(outer, extent, inner(x))))
        };
        if b == 0 && follows(a, x.m, x.a.lane) && follows(c, x.m, x.c.row) && then_follows(x.m, |x| x.lane) {
            if x.m == 1 {
                (x.a.lane, x.c.row) = (a, c);
                x.then = x.then.map(|x, i| Operand { lane: outer[i], ..x });
            }
            x.m *= extent;
        } else if a == 0 && follows(b, x.n, x.b.lane) && follows(c, x.n, x.c.col) && then_follows(x.n, |x| x.step) {
            if x.n == 1 {
                (x.b.lane, x.c.col) = (b, c);
                x.then = x.then.map(|x, i| Operand { step: outer[i], ..x });
            }
            x.n *= extent;
        } else {
            return;
        }
        batch.rank -= 1;
    }
}

/// Exchanges rows and columns where that gives the kernels contiguous rows of out, or makes the few rows or columns of
/// a thin product its rows.
fn turn<T: Element, O: Element>(mut batch: Batch, mut x: Product<T, O>) -> (Batch, Product<T, O>) {
    let thin = x.m.min(x.n) <= THIN;
    let across = if thin { x.n < x.m } else { x.c.col != 1 && x.c.row == 1 };
    if across {
        x = x.swap();
        for strides in &mut batch.strides {
            strides.swap(0, 1);
        }
    }
    (batch, x)
}

/// Writes what becomes of the sum of nothing.
///
/// # Safety
///
/// The target is valid for the extents and the batch.
unsafe fn finish_nothing<T: Element, O: Element>(batch: &Batch, x: &Product<T, O>) {
    const CHUNK: usize = 64;
    // Which leaves a zero's sign alone.
    let nothing = [-O::Sum::ZERO; CHUNK];
    for i in 0..batch.count() {
        let x = batch.at(x, i);
        for col in (0..x.n).step_by(CHUNK) {
            // SAFETY: by contract; every row begins with the same zeros.
            unsafe { x.then.at(0, col).finish(nothing.as_ptr(), 0, x.m, CHUNK.min(x.n - col), x.c.at(0, col)) };
        }
    }
}
