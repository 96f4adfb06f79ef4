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
mod tiles;

pub(crate) use copy::copy;
pub(crate) use fill::{full, iota};

use crate::{CpuBackend, check, convert::BLOCK, isa, nest::Nest, nest::Run};
use attentia_backend::{
    Binary, Compare, DType, Error, ErrorKind, Layout, Operand as Described, Result, Source, Unary, View, ViewMut,
};
use lane::Lane;
use operand::{Buffer, Destination, Operand, load, room, row};
use row::{BinaryRow, CompareRow, SelectRow, UnaryRow};
use tiles::Tiles;

/// Elements per task of cheap operations: 128 KiB of f32, which takes a thread some microseconds.
const GRAIN: usize = 32 << 10;
/// Elements per task of functions that are not vectorised and take some nanoseconds for each.
const SCALAR_GRAIN: usize = 4 << 10;

/// Rows and columns of a tile where operands disagree about the innermost axis.
const TILE: (usize, usize) = (16, 32);

/// Calls `f` for the runs of the operands, in tasks of `grain` elements. Operand 0 is the destination. `S` are a
/// task's buffers.
fn each_run<const N: usize, S: Default>(
    cpu: &CpuBackend,
    layouts: [&Layout; N],
    grain: usize,
    f: impl Fn(&mut S, Run<N>) + Sync,
) {
    if layouts.iter().all(|l| l.is_contiguous()) {
        // No nest has to be built; small operations are mostly this.
        let count = layouts[0].count();
        return cpu.threads.chunks(count, grain, |range| {
            f(&mut S::default(), Run { offsets: [range.start as isize; N], strides: [1; N], len: range.len() });
        });
    }
    let nest = Nest::new(layouts);
    if let Some(tiles) = Tiles::find(&nest) {
        return tiles.each(cpu, TILE.0, TILE.1, grain, |each| {
            let mut buffers = S::default();
            for tile in each {
                for row in 0..tile.rows as isize {
                    let offsets = std::array::from_fn(|n| tile.offsets[n] + row * tiles.row_strides[n]);
                    f(&mut buffers, Run { offsets, strides: tiles.column_strides, len: tile.columns });
                }
            }
        });
    }
    cpu.threads.chunks(nest.count(), grain, |range| {
        let mut buffers = S::default();
        for run in nest.runs(range) {
            f(&mut buffers, run);
        }
    });
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
    let grain = row::grain(op);
    each_run(cpu, [out.layout, from.layout], grain, |buffer: &mut Buffer<L>, run| {
        let direct = out.is_row::<L>(run.strides[0]);
        let in_place = x.is_none() && direct;
        let x_direct = x.is_some() && from.is_row::<L>(run.strides[1]);
        for (start, len) in pieces(run.len, in_place || direct && x_direct) {
            let [to, at] = run.at(start);
            // SAFETY: the run stays within both layouts. Tasks write disjoint elements, and no other operand shares the
            // destination's memory, which has one owner.
            unsafe {
                let target = if direct { out.row_mut::<L>(to, len) } else { room(buffer, len) };
                let x = x_direct.then(|| from.row::<L>(at, len));
                if !x_direct && !in_place {
                    load(isa, from, at, run.strides[1], target);
                }
                isa::run(isa, UnaryRow { op, x, out: &mut *target });
                if !direct {
                    out.store(isa, to, run.strides[0], target);
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
    let grain = if op == Binary::Pow { SCALAR_GRAIN } else { GRAIN };
    type Pair<L> = (Buffer<L>, Buffer<L>);
    each_run(cpu, [out.layout, from.layout, b.layout], grain, |(buffer, b_buffer): &mut Pair<L>, run| {
        let direct = out.is_row::<L>(run.strides[0]);
        let in_place = a.is_none() && direct;
        let a_direct = a.is_some() && from.is_row::<L>(run.strides[1]);
        let b_direct = run.strides[2] == 0 || b.is_row::<L>(run.strides[2]);
        for (start, len) in pieces(run.len, direct && b_direct && (in_place || a_direct)) {
            let [to, a_at, b_at] = run.at(start);
            // SAFETY: the run stays within the layouts. Tasks write disjoint elements, and no other operand shares the
            // destination's memory, which has one owner.
            unsafe {
                let target = if direct { out.row_mut::<L>(to, len) } else { room(buffer, len) };
                let a = a_direct.then(|| from.row::<L>(a_at, len));
                if !a_direct && !in_place {
                    load(isa, from, a_at, run.strides[1], target);
                }
                let b = row(isa, b, b_at, run.strides[2], len, b_buffer);
                isa::run(isa, BinaryRow { op, a, b, out: &mut *target });
                if !direct {
                    out.store(isa, to, run.strides[0], target);
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
    type Three<L> = (Buffer<L>, Buffer<L>, Buffer<u8>);
    each_run(cpu, [out.layout, a.layout, b.layout], GRAIN, |(a_buffer, b_buffer, buffer): &mut Three<L>, run| {
        let direct = run.strides[0] == 1;
        let in_place = |x: Operand, stride: isize| stride == 0 || x.is_row::<L>(stride);
        let whole = direct && in_place(a, run.strides[1]) && in_place(b, run.strides[2]);
        for (start, len) in pieces(run.len, whole) {
            let [to, a_at, b_at] = run.at(start);
            // SAFETY: as in `binary_as`.
            unsafe {
                let a = row(isa, a, a_at, run.strides[1], len, a_buffer);
                let b = row(isa, b, b_at, run.strides[2], len, b_buffer);
                let target = if direct { out.row_mut::<u8>(to, len) } else { room(buffer, len) };
                isa::run(isa, CompareRow { op, a, b, out: &mut *target });
                if !direct {
                    out.store(isa, to, run.strides[0], target);
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
    let layouts = [out.layout, condition.layout, a.layout, b.layout];
    type Four<L> = (Buffer<L>, Buffer<L>, Buffer<L>, Buffer<u8>);
    each_run(cpu, layouts, GRAIN, |(buffer, a_buffer, b_buffer, condition_buffer): &mut Four<L>, run| {
        let [out_stride, condition_stride, a_stride, b_stride] = run.strides;
        let direct = out.is_row::<L>(out_stride);
        let in_place = |x: Operand, stride: isize| stride == 0 || x.is_row::<L>(stride);
        let whole = direct && matches!(condition_stride, 0 | 1) && in_place(a, a_stride) && in_place(b, b_stride);
        for (start, len) in pieces(run.len, whole) {
            let [to, condition_at, a_at, b_at] = run.at(start);
            // SAFETY: as in `binary_as`.
            unsafe {
                let condition = row(isa, condition, condition_at, condition_stride, len, condition_buffer);
                let a = row(isa, a, a_at, a_stride, len, a_buffer);
                let b = row(isa, b, b_at, b_stride, len, b_buffer);
                let target = if direct { out.row_mut::<L>(to, len) } else { room(buffer, len) };
                isa::run(isa, SelectRow { condition, a, b, out: &mut *target });
                if !direct {
                    out.store(isa, to, out_stride, target);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
