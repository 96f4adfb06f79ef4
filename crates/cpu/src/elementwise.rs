//! Functions of one and two elements, comparisons, choices.
//!
//! ```text
//! nest of the operands, cut into chunks by the element count        → tasks
//! for each run (one walk along the innermost axis) of a chunk:
//!     every operand contiguous and of the type computed in          → one row, as long as the run
//!     else, in blocks of 256: load and widen, compute in place, round and store
//! ```
//!
//! What is computed in (a [`Lane`]) is f64 where an operand or the destination is f64, f32 for the other floats, and the
//! integer itself for integers; a bool is its byte. Only row kernels are compiled for each instruction set, so that an
//! operation costs one loop per lane type, not one per combination of dtypes.

mod copy;
mod fill;
pub(crate) mod lane;
pub(crate) mod operand;
mod row;

pub(crate) use copy::copy;
pub(crate) use fill::{full, iota};

use crate::{CpuBackend, check, convert::BLOCK, isa, nest::Nest, nest::Run};
use attentia_backend::{
    Binary, Compare, DType, Error, ErrorKind, Layout, Operand as Described, Result, Source, Unary, View, ViewMut,
};
use lane::Lane;
use operand::{Destination, Operand, load, row};
use row::{BinaryRow, CompareRow, SelectRow, UnaryRow};

/// Elements per task of cheap operations: 128 KiB of f32, which takes a thread some ten microseconds.
const GRAIN: usize = 32 << 10;
/// Elements per task of functions that take nanoseconds per element.
const COSTLY_GRAIN: usize = 4 << 10;

/// Calls `f` for the runs of the operands, in tasks of `grain` elements. Operand 0 is the destination.
fn each_run<const N: usize>(cpu: &CpuBackend, layouts: [&Layout; N], grain: usize, f: impl Fn(Run<N>) + Sync) {
    if layouts.iter().all(|l| l.is_contiguous()) {
        // No nest has to be built; small operations are mostly this.
        let count = layouts[0].count();
        return cpu.threads.chunks(count, grain, |range| {
            f(Run { offsets: [range.start as isize; N], strides: [1; N], len: range.len() });
        });
    }
    let nest = Nest::new(layouts);
    cpu.threads.chunks(nest.count(), grain, |range| nest.runs(range, &f));
}

/// Pieces of a run of `len` elements: all of it where everything is used in place, else blocks that fit the buffers.
fn pieces(len: usize, in_place: bool) -> impl Iterator<Item = (usize, usize)> {
    let step = if in_place { len.max(1) } else { BLOCK };
    (0..len).step_by(step).map(move |start| (start, step.min(len - start)))
}

/// The lane type of float operands and their destination.
macro_rules! with_lane {
    ($dtype:expr, $out:expr, $lane:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $lane = f64;
                $body
            }
            DType::F32 | DType::Bf16 | DType::F16 if $out == DType::F64 => {
                type $lane = f64;
                $body
            }
            DType::F32 | DType::Bf16 | DType::F16 => {
                type $lane = f32;
                $body
            }
            DType::I64 => {
                type $lane = i64;
                $body
            }
            DType::U32 => {
                type $lane = u32;
                $body
            }
            DType::U8 | DType::Bool => {
                type $lane = u8;
                $body
            }
        }
    };
}

/// The destination can hold a result of this dtype: any float holds any float, rounded once.
fn result(op: &'static str, out: &Destination, dtype: DType) -> Result<()> {
    if out.dtype == dtype || out.dtype.is_float() && dtype.is_float() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DType, op, format!("out cannot hold a result of {dtype}"))
        .operand(Described::new("out", *out.layout, out.dtype).expected(dtype.name())))
}

fn defined(op: &'static str, accepts: bool, dtype: DType) -> Result<()> {
    if accepts { Ok(()) } else { Err(Error::new(ErrorKind::DType, op, format!("not defined for {dtype}"))) }
}

fn alike(op: &'static str, a: DType, b: DType) -> Result<()> {
    if a == b { Ok(()) } else { Err(Error::new(ErrorKind::DType, op, format!("a is {a} and b is {b}"))) }
}

/// The operand to read, or `None` for the destination.
fn source<'a>(op: &'static str, x: Source<'a>, out: &Destination) -> Result<Option<Operand<'a>>> {
    match x {
        Source::Destination => Ok(None),
        Source::View(x) => {
            let x = Operand::new(op, x)?;
            check::shape(op, "x", x.layout, out.layout.shape())?;
            Ok(Some(x))
        }
    }
}

/// `out = op(x)`
pub(crate) fn unary(cpu: &CpuBackend, op: Unary, x: Source, out: ViewMut) -> Result<()> {
    let name = op.name();
    let out = Destination::new(name, out)?;
    let x = source(name, x, &out)?;
    let dtype = x.map_or(out.dtype, |x| x.dtype);
    defined(name, op.accepts(dtype), dtype)?;
    result(name, &out, dtype)?;
    let op = row::adopt(op, dtype);
    with_lane!(dtype, out.dtype, L => unary_as::<L>(cpu, op, x, out));
    Ok(())
}

fn unary_as<L: Lane>(cpu: &CpuBackend, op: Unary, x: Option<Operand>, out: Destination) {
    let (isa, from) = (cpu.isa(), x.unwrap_or(out.as_operand()));
    let grain = if row::is_costly_unary(op) { COSTLY_GRAIN } else { GRAIN };
    each_run(cpu, [out.layout, from.layout], grain, |run| {
        let direct = out.is_row::<L>(run.strides[0]);
        let in_place = x.is_none() && direct;
        let x_direct = x.is_some() && from.is_row::<L>(run.strides[1]);
        let mut buffer = [L::default(); BLOCK];
        for (start, len) in pieces(run.len, in_place || direct && x_direct) {
            let [to, at] = run.at(start);
            // SAFETY: the run stays within both layouts. Tasks write disjoint elements, and no other operand shares the
            // destination's memory, which has one owner.
            unsafe {
                let target = if direct { out.row_mut::<L>(to, len) } else { &mut buffer[..len] };
                let x = x_direct.then(|| from.row::<L>(at, len));
                if !x_direct && !in_place {
                    load(isa, from, at, run.strides[1], target);
                }
                isa::run(isa, UnaryRow { op, x, out: target });
                if !direct {
                    out.store(isa, to, run.strides[0], &buffer[..len]);
                }
            }
        }
    });
}

/// `out = op(a, b)`
pub(crate) fn binary(cpu: &CpuBackend, op: Binary, a: Source, b: View, out: ViewMut) -> Result<()> {
    let name = op.name();
    let out = Destination::new(name, out)?;
    let a = source(name, a, &out)?;
    let b = Operand::new(name, b)?;
    check::shape(name, "b", b.layout, out.layout.shape())?;
    alike(name, a.map_or(out.dtype, |a| a.dtype), b.dtype)?;
    defined(name, op.accepts(b.dtype), b.dtype)?;
    result(name, &out, b.dtype)?;
    with_lane!(b.dtype, out.dtype, L => binary_as::<L>(cpu, op, a, b, out));
    Ok(())
}

fn binary_as<L: Lane>(cpu: &CpuBackend, op: Binary, a: Option<Operand>, b: Operand, out: Destination) {
    let (isa, from) = (cpu.isa(), a.unwrap_or(out.as_operand()));
    let grain = if op == Binary::Pow { COSTLY_GRAIN } else { GRAIN };
    each_run(cpu, [out.layout, from.layout, b.layout], grain, |run| {
        let direct = out.is_row::<L>(run.strides[0]);
        let in_place = a.is_none() && direct;
        let a_direct = a.is_some() && from.is_row::<L>(run.strides[1]);
        let b_direct = run.strides[2] == 0 || b.is_row::<L>(run.strides[2]);
        let (mut buffer, mut b_buffer) = ([L::default(); BLOCK], [L::default(); BLOCK]);
        for (start, len) in pieces(run.len, direct && b_direct && (in_place || a_direct)) {
            let [to, a_at, b_at] = run.at(start);
            // SAFETY: the run stays within the layouts. Tasks write disjoint elements, and no other operand shares the
            // destination's memory, which has one owner.
            unsafe {
                let target = if direct { out.row_mut::<L>(to, len) } else { &mut buffer[..len] };
                let a = a_direct.then(|| from.row::<L>(a_at, len));
                if !a_direct && !in_place {
                    load(isa, from, a_at, run.strides[1], target);
                }
                let b = row(isa, b, b_at, run.strides[2], len, &mut b_buffer);
                isa::run(isa, BinaryRow { op, a, b, out: target });
                if !direct {
                    out.store(isa, to, run.strides[0], &buffer[..len]);
                }
            }
        }
    });
}

/// `out = a op b`, bool
pub(crate) fn compare(cpu: &CpuBackend, op: Compare, a: View, b: View, out: ViewMut) -> Result<()> {
    let name = op.name();
    let out = Destination::new(name, out)?;
    let (a, b) = (Operand::new(name, a)?, Operand::new(name, b)?);
    check::shape(name, "a", a.layout, out.layout.shape())?;
    check::shape(name, "b", b.layout, out.layout.shape())?;
    alike(name, a.dtype, b.dtype)?;
    result(name, &out, DType::Bool)?;
    with_lane!(a.dtype, DType::Bool, L => compare_as::<L>(cpu, op, a, b, out));
    Ok(())
}

fn compare_as<L: Lane>(cpu: &CpuBackend, op: Compare, a: Operand, b: Operand, out: Destination) {
    let isa = cpu.isa();
    each_run(cpu, [out.layout, a.layout, b.layout], GRAIN, |run| {
        let direct = run.strides[0] == 1;
        let operands_direct =
            [(a, 1), (b, 2)].iter().all(|(x, i)| run.strides[*i] == 0 || x.is_row::<L>(run.strides[*i]));
        let (mut a_buffer, mut b_buffer) = ([L::default(); BLOCK], [L::default(); BLOCK]);
        let mut buffer = [0u8; BLOCK];
        for (start, len) in pieces(run.len, direct && operands_direct) {
            let [to, a_at, b_at] = run.at(start);
            // SAFETY: as in `binary_as`.
            unsafe {
                let a = row(isa, a, a_at, run.strides[1], len, &mut a_buffer);
                let b = row(isa, b, b_at, run.strides[2], len, &mut b_buffer);
                let target = if direct { out.row_mut::<u8>(to, len) } else { &mut buffer[..len] };
                isa::run(isa, CompareRow { op, a, b, out: target });
                if !direct {
                    out.store(isa, to, run.strides[0], &buffer[..len]);
                }
            }
        }
    });
}

/// `out = condition ? a : b`
pub(crate) fn select(cpu: &CpuBackend, condition: View, a: View, b: View, out: ViewMut) -> Result<()> {
    let op = "select";
    let out = Destination::new(op, out)?;
    let (condition, a, b) = (Operand::new(op, condition)?, Operand::new(op, a)?, Operand::new(op, b)?);
    for (role, x) in [("condition", condition), ("a", a), ("b", b)] {
        check::shape(op, role, x.layout, out.layout.shape())?;
    }
    if condition.dtype != DType::Bool {
        return Err(Error::new(ErrorKind::DType, op, format!("condition is {}, not bool", condition.dtype)));
    }
    alike(op, a.dtype, b.dtype)?;
    result(op, &out, a.dtype)?;
    with_lane!(a.dtype, out.dtype, L => select_as::<L>(cpu, condition, a, b, out));
    Ok(())
}

fn select_as<L: Lane>(cpu: &CpuBackend, condition: Operand, a: Operand, b: Operand, out: Destination) {
    let isa = cpu.isa();
    each_run(cpu, [out.layout, condition.layout, a.layout, b.layout], GRAIN, |run| {
        let direct = out.is_row::<L>(run.strides[0]);
        let (mut buffer, mut b_buffer) = ([L::default(); BLOCK], [L::default(); BLOCK]);
        let mut condition_buffer = [0u8; BLOCK];
        // In blocks also where all is contiguous: a is copied to the target, and b laid over it while it is in cache.
        for (start, len) in pieces(run.len, false) {
            let [to, condition_at, a_at, b_at] = run.at(start);
            // SAFETY: as in `binary_as`.
            unsafe {
                let target = if direct { out.row_mut::<L>(to, len) } else { &mut buffer[..len] };
                load(isa, a, a_at, run.strides[2], target);
                let condition = row(isa, condition, condition_at, run.strides[1], len, &mut condition_buffer);
                let b = row(isa, b, b_at, run.strides[3], len, &mut b_buffer);
                isa::run(isa, SelectRow { condition, b, out: target });
                if !direct {
                    out.store(isa, to, run.strides[0], &buffer[..len]);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
