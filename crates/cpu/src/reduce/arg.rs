//! Positions of extremes along one axis.

use super::{
    fold::{Extreme, slice},
    kept_shape,
    number::Number,
    part,
};
use crate::{
    CpuBackend, check,
    elementwise::operand::{Destination, Operand},
    isa::{self, Isa, Kernel, Machine},
    nest::Nest,
};
use attentia_backend::{ArgReduce, DType, Error, ErrorKind, Result, View, ViewMut};

/// Elements per task.
const GRAIN: usize = 32 << 10;
/// Elements, or results side by side, in a block.
const BLOCK: usize = 512;

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
    match x.dtype {
        DType::F64 => along::<f64>(cpu, op, x, axis, out),
        DType::F32 | DType::Bf16 | DType::F16 => along::<f32>(cpu, op, x, axis, out),
        _ => along::<i64>(cpu, op, x, axis, out),
    }
}

fn along<L: Number>(cpu: &CpuBackend, op: ArgReduce, x: Operand, axis: usize, out: Destination) -> Result<()> {
    let (extent, stride) = (x.layout.shape()[axis], x.layout.strides()[axis]);
    if x.layout.count() == 0 {
        return Ok(());
    }
    let Some(kept) = part(x.layout, *out.layout.shape()) else {
        return Err(Error::new(ErrorKind::Shape, op.name(), format!("strides of {:?} are too large", x.layout)));
    };
    let nest = Nest::new([&kept, out.layout]);
    let side_by_side = stride != 1 && nest.axes().last().is_some_and(|(_, strides)| strides[0] == 1);
    // Side by side, no task is narrower than a few cache lines.
    let group = GRAIN.div_ceil(extent).max(if side_by_side { 128 } else { 1 });
    let (isa, greatest) = (cpu.isa(), op == ArgReduce::Max);
    cpu.threads.chunks(nest.count(), group, |range| {
        let (mut row, mut best, mut positions) = ([L::default(); BLOCK], [L::default(); BLOCK], [0i64; BLOCK]);
        for run in nest.runs(range) {
            let step = if side_by_side { BLOCK } else { 1 };
            for first in (0..run.len).step_by(step) {
                let width = step.min(run.len - first);
                let base = run.at(first)[0];
                if side_by_side {
                    for i in 0..extent {
                        // SAFETY: row i of these columns lies within x.
                        unsafe { L::load(isa, x, base + i as isize * stride, 1, &mut row[..width]) };
                        let (row, best, positions) = (&row[..width], &mut best[..width], &mut positions[..width]);
                        isa::run(isa, Improve { row, best, positions, index: i as i64, greatest });
                    }
                } else {
                    // SAFETY: this result's row lies within x.
                    positions[0] = unsafe { position::<L>(isa, x, base, stride, extent, greatest, &mut row) };
                }
                for (i, &position) in positions[..width].iter().enumerate() {
                    // SAFETY: the result's place, which belongs to this task alone.
                    unsafe { *out.at::<i64>(run.at(first + i)[1]) = position };
                }
            }
        }
    });
    Ok(())
}

/// Whether a takes the place of b: NaN of anything but NaN.
#[inline(always)]
fn beats<L: Number>(a: L, b: L, greatest: bool) -> bool {
    (if greatest { a > b } else { a < b }) || a.is_nan() && !b.is_nan()
}

/// One more row of candidates, side by side; row 0 is taken as it is.
struct Improve<'a, L> {
    row: &'a [L],
    best: &'a mut [L],
    positions: &'a mut [i64],
    index: i64,
    greatest: bool,
}

impl<L: Number> Kernel for Improve<'_, L> {
    type Output = ();
    #[inline(always)]
    fn run<M: Machine>(self) {
        let Improve { row, best, positions, index, greatest } = self;
        if index == 0 {
            best.copy_from_slice(row);
            return positions.fill(0);
        }
        for ((&x, best), position) in row.iter().zip(best).zip(positions) {
            let better = beats(x, *best, greatest);
            *best = if better { x } else { *best };
            *position = if better { index } else { *position };
        }
    }
}

/// Position of the extreme of a row: of each block by its value first, which is a loop without branches.
///
/// # Safety
///
/// The row must lie within x.
unsafe fn position<L: Number>(
    isa: Isa,
    x: Operand,
    base: isize,
    stride: isize,
    extent: usize,
    greatest: bool,
    buffer: &mut [L; BLOCK],
) -> i64 {
    let mut found: Option<(L, usize)> = None;
    for start in (0..extent).step_by(BLOCK) {
        let len = BLOCK.min(extent - start);
        // SAFETY: the caller's promise.
        let block = unsafe { slice(isa, x, base + start as isize * stride, stride, len, buffer) };
        let extreme = isa::run(isa, Extreme { block, greatest });
        if found.is_none_or(|(best, _)| beats(extreme, best, greatest)) {
            let same = |x: &L| *x == extreme || x.is_nan() && extreme.is_nan();
            found = block.iter().position(same).map(|i| (extreme, start + i));
        }
    }
    found.map_or(0, |(_, i)| i as i64)
}
