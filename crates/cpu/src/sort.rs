//! Stable sort along an axis, and its first elements (top-k).
//!
//! ```text
//! element → key: a whole number in the order wanted (NaN greatest, −0 and 0 equal; inverted when descending)
//! key, position → one number: all are different, so any sort of them is the stable sort of the elements
//! k < n: partition by the k-th, then sort the first k
//! ```

use crate::{
    CpuBackend, check,
    elementwise::{
        lane::Lane,
        operand::{Destination, Operand, load},
    },
    nest::Nest,
    rows::try_chunks,
};
use attentia_backend::{DType, Error, ErrorKind, Layout, MAX_RANK, Result, Shape, View, ViewMut};

/// Elements per task.
const GRAIN: usize = 8 << 10;

/// Values in order, and the positions that they came from; destinations may be shorter along the axis.
pub(crate) fn sort(
    cpu: &CpuBackend,
    x: View,
    axis: usize,
    descending: bool,
    values: ViewMut,
    indices: ViewMut,
) -> Result<()> {
    let op = "sort";
    let (x, values, indices) = (Operand::new(op, x)?, Destination::new(op, values)?, Destination::new(op, indices)?);
    check::axis(op, x.layout, axis)?;
    check::axis(op, values.layout, axis)?;
    let (extent, kept) = (x.layout.shape()[axis], values.layout.shape()[axis]);
    if kept > extent {
        return Err(Error::new(ErrorKind::Index, op, format!("{kept} elements wanted, and axis {axis} has {extent}")));
    }
    let expected = with_extent(x.layout.shape(), axis, kept)?;
    check::shape(op, "values", values.layout, &expected)?;
    check::shape(op, "indices", indices.layout, &expected)?;
    if indices.dtype != DType::I64 {
        return Err(Error::new(ErrorKind::DType, op, format!("indices are {}, not i64", indices.dtype)));
    }
    if values.dtype != x.dtype && !(values.dtype.is_float() && x.dtype.is_float()) {
        return Err(Error::new(ErrorKind::DType, op, format!("values are {}, and x is {}", values.dtype, x.dtype)));
    }
    let job = Job { x, values, indices, axis, extent, kept, descending };
    match x.dtype {
        DType::F64 => job.run::<f64, f64>(cpu),
        DType::I64 => job.run::<i64, i64>(cpu),
        DType::U32 => job.run::<u32, u32>(cpu),
        DType::U8 | DType::Bool => job.run::<u8, u8>(cpu),
        _ if values.dtype == DType::F64 => job.run::<f32, f64>(cpu),
        _ => job.run::<f32, f32>(cpu),
    }
}

fn with_extent(shape: &Shape, axis: usize, extent: usize) -> Result<Shape> {
    let mut extents = [0; MAX_RANK];
    extents[..shape.rank()].copy_from_slice(shape);
    extents[axis] = extent;
    Shape::new(&extents[..shape.rank()])
}

struct Job<'a> {
    x: Operand<'a>,
    values: Destination<'a>,
    indices: Destination<'a>,
    axis: usize,
    extent: usize,
    kept: usize,
    descending: bool,
}

impl Job<'_> {
    /// Sorts every row, loaded as `L` and stored from `V`.
    fn run<L: Key + Into<V>, V: Lane>(&self, cpu: &CpuBackend) -> Result<()> {
        if self.kept == 0 || self.x.layout.count() == 0 {
            return Ok(());
        }
        let others = with_extent(self.x.layout.shape(), self.axis, 1)?;
        let part = |layout: &Layout| {
            Layout::from_parts(others, layout.strides(), layout.offset())
                .ok_or_else(|| Error::new(ErrorKind::Shape, "sort", format!("strides of {layout:?} are too large")))
        };
        let [from, values, indices] = [part(self.x.layout)?, part(self.values.layout)?, part(self.indices.layout)?];
        let nest = Nest::new([&values, &from, &indices]);
        let stride = |layout: &Layout| layout.strides()[self.axis];
        let (isa, extent, kept) = (cpu.isa(), self.extent, self.kept);
        try_chunks(&cpu.threads, nest.count(), GRAIN.div_ceil(extent), |range| {
            let (mut row, mut scratch) = (room::<L>(extent)?, Scratch::new::<L>(extent)?);
            let (mut sorted, mut positions) = (room::<V>(kept)?, room::<i64>(kept)?);
            for run in nest.runs(range) {
                for i in 0..run.len {
                    let [to, from, to_index] = run.at(i);
                    // SAFETY: an index of the other axes and one of this axis are an index of x.
                    unsafe { load(isa, self.x, from, stride(self.x.layout), &mut row) };
                    scratch.order(&row, self.descending, &mut positions);
                    for (value, &position) in sorted.iter_mut().zip(&positions) {
                        *value = row[position as usize].into();
                    }
                    // SAFETY: the same for the destinations; tasks write disjoint elements.
                    unsafe {
                        self.values.store(isa, to, stride(self.values.layout), &sorted);
                        self.indices.store(isa, to_index, stride(self.indices.layout), &positions);
                    }
                }
            }
            Ok(())
        })
    }
}

/// Room for a row. A broadcast axis can be longer than any memory.
fn room<T: Copy + Default>(len: usize) -> Result<Vec<T>> {
    let mut room = reserved(len)?;
    room.resize(len, T::default());
    Ok(room)
}

fn reserved<T>(len: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(len)
        .map_err(|_| Error::new(ErrorKind::OutOfMemory, "sort", format!("no room for the keys of {len} elements")))?;
    Ok(room)
}

/// An element with a place in the order.
trait Key: Lane {
    /// Whether keys lie below 2³².
    const NARROW: bool;
    /// Greater for what comes later, the same for what counts as equal.
    fn key(self) -> u64;
}

impl Key for f32 {
    const NARROW: bool = true;
    fn key(self) -> u64 {
        if self.is_nan() {
            return u32::MAX as u64;
        }
        // Adding 0 makes −0 into +0. Negative patterns fall with their value: all bits turn; of others the sign alone.
        let bits = (self + 0.0).to_bits();
        (bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }) as u64
    }
}

impl Key for f64 {
    const NARROW: bool = false;
    fn key(self) -> u64 {
        if self.is_nan() {
            return u64::MAX;
        }
        let bits = (self + 0.0).to_bits();
        bits ^ if bits >> 63 == 1 { u64::MAX } else { 1 << 63 }
    }
}

impl Key for i64 {
    const NARROW: bool = false;
    fn key(self) -> u64 {
        self as u64 ^ (1 << 63)
    }
}

impl Key for u32 {
    const NARROW: bool = true;
    fn key(self) -> u64 {
        self as u64
    }
}

impl Key for u8 {
    const NARROW: bool = true;
    fn key(self) -> u64 {
        self as u64
    }
}

/// Room for keys and positions, kept from row to row; one of the two is used.
struct Scratch {
    narrow: Vec<u64>,
    wide: Vec<u128>,
}

impl Scratch {
    fn new<L: Key>(len: usize) -> Result<Scratch> {
        match fits_narrow::<L>(len) {
            true => Ok(Scratch { narrow: reserved(len)?, wide: Vec::new() }),
            false => Ok(Scratch { narrow: Vec::new(), wide: reserved(len)? }),
        }
    }

    /// Positions of the first elements in order, as many as there is room for.
    fn order<L: Key>(&mut self, row: &[L], descending: bool, positions: &mut [i64]) {
        if fits_narrow::<L>(row.len()) {
            let turn = if descending { u32::MAX as u64 } else { 0 };
            self.narrow.clear();
            self.narrow.extend(row.iter().enumerate().map(|(i, x)| ((x.key() ^ turn) << 32) | i as u64));
            first(&mut self.narrow, positions, |packed| (packed & u32::MAX as u64) as i64);
        } else {
            let turn = if descending { u64::MAX } else { 0 };
            self.wide.clear();
            self.wide.extend(row.iter().enumerate().map(|(i, x)| (((x.key() ^ turn) as u128) << 64) | i as u128));
            first(&mut self.wide, positions, |packed| (packed & u64::MAX as u128) as i64);
        }
    }
}

/// Whether a key and a position fit in 64 bits.
fn fits_narrow<L: Key>(len: usize) -> bool {
    L::NARROW && u32::try_from(len).is_ok()
}

/// Sorts what is wanted of the packed keys, which are all different, and takes their positions.
fn first<P: Copy + Ord>(packed: &mut [P], positions: &mut [i64], position: impl Fn(P) -> i64) {
    let kept = positions.len();
    if 0 < kept && kept < packed.len() {
        packed.select_nth_unstable(kept - 1);
    }
    packed[..kept].sort_unstable();
    positions.iter_mut().zip(packed).for_each(|(to, from)| *to = position(*from));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{Numbers, compare, layouts, shape};

    fn check(x: Numbers, axis: usize, descending: bool, kept: usize, values: Option<Layout>) -> usize {
        let expected = with_extent(x.layout.shape(), axis, kept).unwrap();
        let values = Numbers::room(x.dtype, values.unwrap_or(Layout::contiguous(expected)));
        let indices = Numbers::room(DType::I64, Layout::contiguous(expected));
        compare("sort", &[x], &[values, indices], 0.0, &|b, x, mut outs| {
            let indices = outs.remove(1);
            b.sort(x[0], axis, descending, outs.remove(0), indices)
        })
    }

    #[test]
    fn sorts_agree_with_the_reference() {
        let cases = [(&[1][..], 0), (&[0, 3], 1), (&[3, 0], 1), (&[7, 60], 1), (&[60, 7], 0), (&[3, 20, 4], 1)];
        for dtype in DType::ALL {
            for descending in [false, true] {
                for (extents, axis) in cases {
                    for kept in [extents[axis], extents[axis] / 2, extents[axis].min(1), 0] {
                        for x in layouts(extents, true) {
                            check(Numbers::arbitrary(dtype, x, 1), axis, descending, kept, None);
                        }
                        let x = Numbers::arbitrary(dtype, Layout::contiguous(shape(extents)), 2);
                        let expected = with_extent(&shape(extents), axis, kept).unwrap();
                        for values in layouts(&expected, false) {
                            check(x.clone(), axis, descending, kept, Some(values));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn many_rows_are_sorted_in_parallel() {
        let layout = Layout::contiguous(shape(&[40, 700]));
        for kept in [700, 10] {
            assert!(check(Numbers::arbitrary(DType::F32, layout, 3), 1, true, kept, None) >= 3);
        }
    }

    #[test]
    fn mistakes_of_direct_callers_are_errors() {
        let cpu = CpuBackend::new(1).unwrap();
        let cpu: &dyn attentia_backend::Backend = &cpu;
        let (layout, longer) = (Layout::contiguous(shape(&[4])), Layout::contiguous(shape(&[5])));
        let x = cpu.alloc(DType::F32, 5).unwrap();
        let x = View::new(&x, &layout).unwrap();
        let refused = |dtypes: [DType; 2], layouts: [&Layout; 2], axis, kind: ErrorKind| {
            let [mut values, mut indices] = dtypes.map(|d| cpu.alloc(d, 5).unwrap());
            let values = ViewMut::new(&mut values, layouts[0]).unwrap();
            let indices = ViewMut::new(&mut indices, layouts[1]).unwrap();
            assert_eq!(cpu.sort(x, axis, false, values, indices).unwrap_err().kind(), kind);
        };
        refused([DType::F32, DType::I64], [&longer, &longer], 0, ErrorKind::Index);
        refused([DType::F32, DType::I64], [&layout, &longer], 0, ErrorKind::Shape);
        refused([DType::F32, DType::I64], [&layout, &layout], 1, ErrorKind::Shape);
        refused([DType::F32, DType::F32], [&layout, &layout], 0, ErrorKind::DType);
        refused([DType::U8, DType::I64], [&layout, &layout], 0, ErrorKind::DType);
        let endless = Layout::contiguous(shape(&[1])).broadcast_to(&shape(&[1 << 59])).unwrap();
        let (one, [mut value, mut index]) =
            (Layout::contiguous(shape(&[1])), [DType::F32, DType::I64].map(|d| cpu.alloc(d, 1).unwrap()));
        let (values, indices) = (ViewMut::new(&mut value, &one).unwrap(), ViewMut::new(&mut index, &one).unwrap());
        let error = cpu.sort(View::new(x.buffer(), &endless).unwrap(), 0, false, values, indices).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    }
}
