//! Positions of extremes along one axis.

use super::{Shared, kept_shape, number::Number, part};
use crate::{
    CpuBackend, check,
    elementwise::operand::{Destination, Operand},
    nest::Nest,
};
use attentia_backend::{ArgReduce, DType, Error, ErrorKind, Result, View, ViewMut};

/// Elements per task.
const GRAIN: usize = 32 << 10;
/// Elements, or results side by side, in a block.
const BLOCK: usize = 256;

/// `out = position of the extreme of x along an axis`: the first NaN if there is one, else the first of equals.
pub(crate) fn arg_reduce(cpu: &CpuBackend, op: ArgReduce, x: View, axis: usize, out: ViewMut) -> Result<()> {
    let name = op.name();
    let (out, x) = (Destination::new(name, out)?, Operand::new(name, x)?);
    check::axis(name, x.layout, axis)?;
    check::shape(name, "out", out.layout, &kept_shape(x.layout.shape(), &[axis])?)?;
    if out.dtype != DType::I64 {
        return Err(Error::new(ErrorKind::DType, name, format!("out is {}, not i64", out.dtype)));
    }
    if x.layout.shape()[axis] == 0 {
        return Err(Error::new(ErrorKind::Shape, name, format!("axis {axis} of {} is empty", x.layout.shape())));
    }
    match (op, x.dtype) {
        (ArgReduce::Max, DType::F64) => along::<f64>(cpu, x, axis, out, |a, b| a > b),
        (ArgReduce::Min, DType::F64) => along::<f64>(cpu, x, axis, out, |a, b| a < b),
        (ArgReduce::Max, d) if d.is_float() => along::<f32>(cpu, x, axis, out, |a, b| a > b),
        (ArgReduce::Min, d) if d.is_float() => along::<f32>(cpu, x, axis, out, |a, b| a < b),
        (ArgReduce::Max, _) => along::<i64>(cpu, x, axis, out, |a, b| a > b),
        (ArgReduce::Min, _) => along::<i64>(cpu, x, axis, out, |a, b| a < b),
    }
}

fn along<L: Number>(
    cpu: &CpuBackend,
    x: Operand,
    axis: usize,
    out: Destination,
    beats: impl Fn(L, L) -> bool + Sync + Copy,
) -> Result<()> {
    let (extent, stride) = (x.layout.shape()[axis], x.layout.strides()[axis]);
    if x.layout.count() == 0 {
        return Ok(());
    }
    let Some(kept) = part(x.layout, *out.layout.shape()) else {
        return Err(Error::new(ErrorKind::Shape, "arg_reduce", format!("strides of {:?} are too large", x.layout)));
    };
    // NaN beats everything but NaN.
    let beats = |a: L, b: L| beats(a, b) || a.is_nan() && !b.is_nan();
    let nest = Nest::new([&kept, out.layout]);
    let side_by_side = stride != 1 && nest.axes().last().is_some_and(|(_, strides)| strides[0] == 1);
    let (isa, start) = (cpu.isa(), Shared(out.at::<i64>(0)));
    cpu.threads.chunks(nest.count(), GRAIN.div_ceil(extent), |range| {
        let mut buffer = [L::default(); BLOCK];
        nest.runs(range, |run| {
            let width = if side_by_side { BLOCK } else { 1 };
            for first in (0..run.len).step_by(width) {
                let width = width.min(run.len - first);
                let mut best = [L::default(); BLOCK];
                let mut positions = [0i64; BLOCK];
                let (best, positions) = (&mut best[..width], &mut positions[..width]);
                let base = run.at(first)[0];
                if side_by_side {
                    // SAFETY: row 0 of these columns.
                    unsafe { L::load(isa, x, base, 1, best) };
                    for i in 1..extent {
                        let row = &mut buffer[..width];
                        // SAFETY: row i of these columns.
                        unsafe { L::load(isa, x, base + i as isize * stride, 1, row) };
                        for ((best, position), &x) in best.iter_mut().zip(positions.iter_mut()).zip(&*row) {
                            let better = beats(x, *best);
                            *best = if better { x } else { *best };
                            *position = if better { i as i64 } else { *position };
                        }
                    }
                } else {
                    for start in (0..extent).step_by(BLOCK) {
                        let block = &mut buffer[..BLOCK.min(extent - start)];
                        // SAFETY: elements of this result's row.
                        unsafe { L::load(isa, x, base + start as isize * stride, stride, block) };
                        if start == 0 {
                            best[0] = block[0];
                        }
                        for (i, &x) in block.iter().enumerate() {
                            if beats(x, best[0]) {
                                (best[0], positions[0]) = (x, (start + i) as i64);
                            }
                        }
                    }
                }
                for (i, &position) in positions.iter().enumerate() {
                    // SAFETY: the result's place, which belongs to this task alone.
                    unsafe { *start.get().offset(run.at(first + i)[1]) = position };
                }
            }
        });
    });
    Ok(())
}
