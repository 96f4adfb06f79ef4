//! Destinations without operands: one value everywhere, and arithmetic progressions.

use super::{lane::Lane, lane::round_to_odd, operand::Destination};
use crate::{
    CpuBackend,
    convert::{BLOCK, Wide},
    nest::Nest,
    storage::Raw,
};
use attentia_backend::{DType, Layout, Result, Scalar, ViewMut};
use half::{bf16, f16};

/// Elements per task: writing alone is cheap.
const GRAIN: usize = 64 << 10;

/// `out = value`
pub(crate) fn full(cpu: &CpuBackend, value: Scalar, out: ViewMut) -> Result<()> {
    let out = Destination::new("full", out)?;
    let float = value.to_f64();
    match (out.dtype, value) {
        (DType::F64, _) => fill(cpu, float, out),
        (DType::F32, Scalar::Float(x)) => fill(cpu, x as f32, out),
        (DType::F32, Scalar::Int(x)) => fill(cpu, x as f32, out),
        (DType::Bf16, _) => fill(cpu, bf16::narrow(to_f32(value)), out),
        (DType::F16, _) => fill(cpu, f16::narrow(to_f32(value)), out),
        (DType::I64, Scalar::Float(x)) => fill(cpu, x as i64, out),
        (DType::I64, Scalar::Int(x)) => fill(cpu, x, out),
        (DType::U32, Scalar::Float(x)) => fill(cpu, x as u32, out),
        (DType::U32, Scalar::Int(x)) => fill(cpu, x as u32, out),
        (DType::U8, Scalar::Float(x)) => fill(cpu, x as u8, out),
        (DType::U8, Scalar::Int(x)) => fill(cpu, x as u8, out),
        (DType::Bool, Scalar::Float(x)) => fill(cpu, (x != 0.0) as u8, out),
        (DType::Bool, Scalar::Int(x)) => fill(cpu, (x != 0) as u8, out),
    }
    Ok(())
}

/// For one more rounding, to 16 bits.
fn to_f32(value: Scalar) -> f32 {
    match value {
        Scalar::Float(x) => round_to_odd(x),
        Scalar::Int(x) => round_to_odd(sticky(x)),
    }
}

/// An integer as f64 for one more rounding: bits that an f64 has no room for leave a trace in the last one it has.
pub(super) fn sticky(x: i64) -> f64 {
    if x.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS {
        return x as f64;
    }
    ((x >> 11) | (x & 0x7ff != 0) as i64) as f64 * 2048.0
}

fn fill<T: Raw>(cpu: &CpuBackend, value: T, out: Destination) {
    super::each_run(cpu, [out.layout], GRAIN, |(): &mut (), run| {
        let start = out.at::<T>(run.offsets[0]);
        // SAFETY: the run lies within the layout, and its elements belong to this task alone.
        unsafe {
            if run.strides[0] == 1 {
                std::slice::from_raw_parts_mut(start, run.len).fill(value);
            } else {
                (0..run.len).for_each(|i| *start.offset(i as isize * run.strides[0]) = value);
            }
        }
    });
}

/// `out[i] = start + i · step`, row-major. Integers wrap, after both scalars have lost their fractions.
pub(crate) fn iota(cpu: &CpuBackend, start: Scalar, step: Scalar, out: ViewMut) -> Result<()> {
    let out = Destination::new("iota", out)?;
    let (first, by) = (start.to_f64(), step.to_f64());
    let (whole_first, whole_by) = (whole(start), whole(step));
    let integer = move |i: usize| whole_first.wrapping_add((i as i64).wrapping_mul(whole_by));
    match out.dtype {
        dtype if dtype.is_float() => progression(cpu, out, |i| first + i as f64 * by),
        DType::I64 => progression(cpu, out, integer),
        DType::U32 => progression(cpu, out, |i| integer(i) as u32),
        DType::Bool => progression(cpu, out, |i| (integer(i) != 0) as u8),
        _ => progression(cpu, out, |i| integer(i) as u8),
    }
    Ok(())
}

fn whole(x: Scalar) -> i64 {
    match x {
        Scalar::Float(x) => x as i64,
        Scalar::Int(x) => x,
    }
}

fn progression<L: Lane>(cpu: &CpuBackend, out: Destination, value: impl Fn(usize) -> L + Sync) {
    let isa = cpu.isa();
    // Led by a contiguous layout, the nest keeps row-major order; that layout's offset is the index.
    let rows = Layout::contiguous(*out.layout.shape());
    let nest = Nest::new([&rows, out.layout]);
    cpu.threads.chunks(nest.count(), GRAIN / 4, |range| {
        for run in nest.runs(range) {
            let mut buffer = [L::default(); BLOCK];
            for (start, len) in super::pieces(run.len, false) {
                let [index, to] = run.at(start);
                for (i, x) in buffer[..len].iter_mut().enumerate() {
                    *x = value((index + i as isize * run.strides[0]) as usize);
                }
                // SAFETY: the run lies within the layout, and its elements belong to this task alone.
                unsafe { out.store(isa, to, run.strides[1], &buffer[..len]) };
            }
        }
    });
}
