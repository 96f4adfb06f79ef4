//! Running sums.

use super::{holds, kept_shape, number::Number, part};
use crate::{
    CpuBackend, check,
    elementwise::{
        lane::Lane,
        operand::{Destination, Operand},
    },
    nest::Nest,
};
use attentia_backend::{Error, ErrorKind, Reduce, Result, View, ViewMut};

/// Elements per task.
const GRAIN: usize = 16 << 10;
/// Elements, or sums side by side, in a block.
const BLOCK: usize = 256;

/// `out[.., i, ..] = Σ_{j ≤ i} x[.., j, ..]`, summed in f64 or i64.
pub(crate) fn cumsum(cpu: &CpuBackend, x: View, axis: usize, out: ViewMut) -> Result<()> {
    let (out, x) = (Destination::new("cumsum", out)?, Operand::new("cumsum", x)?);
    check::axis("cumsum", x.layout, axis)?;
    check::shape("cumsum", "out", out.layout, x.layout.shape())?;
    holds("cumsum", &out, Reduce::Sum.result(x.dtype).unwrap_or(x.dtype))?;
    if x.dtype.is_float() { along::<f64>(cpu, x, axis, out) } else { along::<i64>(cpu, x, axis, out) }
}

fn along<L: Number + Lane>(cpu: &CpuBackend, x: Operand, axis: usize, out: Destination) -> Result<()> {
    let extent = x.layout.shape()[axis];
    let [stride, out_stride] = [x.layout, out.layout].map(|l| l.strides()[axis]);
    if x.layout.count() == 0 {
        return Ok(());
    }
    let others = kept_shape(x.layout.shape(), &[axis])?;
    let (Some(from), Some(to)) = (part(x.layout, others), part(out.layout, others)) else {
        return Err(Error::new(ErrorKind::Shape, "cumsum", format!("strides of {:?} are too large", x.layout)));
    };
    let nest = Nest::new([&to, &from]);
    let side_by_side = nest.axes().last().is_some_and(|(extent, strides)| extent >= 4 && strides == [1, 1]);
    let isa = cpu.isa();
    // Side by side, no task is narrower than a few cache lines.
    let group = GRAIN.div_ceil(extent).max(if side_by_side { 128 } else { 1 });
    cpu.threads.chunks(nest.count(), group, |range| {
        let mut buffer = [L::default(); BLOCK];
        for run in nest.runs(range) {
            let width = if side_by_side { BLOCK } else { 1 };
            for first in (0..run.len).step_by(width) {
                let width = width.min(run.len - first);
                let [to, from] = run.at(first);
                let mut sums = [L::ZERO; BLOCK];
                let sums = &mut sums[..width];
                // SAFETY, for all four: an index of the other axes and one of this axis are an index of both layouts,
                // and tasks write disjoint elements.
                if side_by_side {
                    for i in 0..extent as isize {
                        let row = &mut buffer[..width];
                        // SAFETY: see above.
                        unsafe { Number::load(isa, x, from + i * stride, 1, row) };
                        sums.iter_mut().zip(&*row).for_each(|(sum, &x)| *sum = Number::add(*sum, x));
                        // SAFETY: see above.
                        unsafe { out.store(isa, to + i * out_stride, 1, sums) };
                    }
                } else {
                    for start in (0..extent).step_by(BLOCK) {
                        let block = &mut buffer[..BLOCK.min(extent - start)];
                        let start = start as isize;
                        // SAFETY: see above.
                        unsafe { Number::load(isa, x, from + start * stride, stride, block) };
                        for x in block.iter_mut() {
                            sums[0] = Number::add(sums[0], *x);
                            *x = sums[0];
                        }
                        // SAFETY: see above.
                        unsafe { out.store(isa, to + start * out_stride, out_stride, block) };
                    }
                }
            }
        }
    });
    Ok(())
}
