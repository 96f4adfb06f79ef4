//! Memory, and the way from a strided view to an array and back.
//!
//! ```text
//! View ──read──► ArrayViewD<T> ──a formula──► ArrayD<T> ──store──► ViewMut        T = f64 (floats) | i64 (integers, bool)
//! ```
//!
//! Reading copies nothing: flipped axes and stride 0 are those of the array view. [`store`] is the one place where
//! a result is rounded (or wrapped) to the dtype of its destination.

use crate::{check, number};
use attentia_backend::{DType, Error, ErrorKind, Layout, MemoryUse, Operand, Result, Source, Storage, View, ViewMut};
use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD, Axis, CowArray, IxDyn, ShapeBuilder};
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Elements of one buffer.
#[derive(Debug)]
pub(crate) enum Values {
    Floats(Vec<f64>),
    Integers(Vec<i64>),
}

/// The two kinds of number in [`Values`].
pub(crate) trait Number: Copy + PartialOrd + 'static {
    fn of(values: &Values) -> Option<&[Self]>;
    fn of_mut(values: &mut Values) -> Option<&mut [Self]>;
    /// The value as the dtype holds it: floats are rounded, integers wrap.
    fn fit(self, dtype: DType) -> Self;
    fn is_nan(self) -> bool;
}

impl Number for f64 {
    fn of(values: &Values) -> Option<&[f64]> {
        if let Values::Floats(v) = values { Some(v) } else { None }
    }
    fn of_mut(values: &mut Values) -> Option<&mut [f64]> {
        if let Values::Floats(v) = values { Some(v) } else { None }
    }
    fn fit(self, dtype: DType) -> f64 {
        number::round(dtype, self)
    }
    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

impl Number for i64 {
    fn of(values: &Values) -> Option<&[i64]> {
        if let Values::Integers(v) = values { Some(v) } else { None }
    }
    fn of_mut(values: &mut Values) -> Option<&mut [i64]> {
        if let Values::Integers(v) = values { Some(v) } else { None }
    }
    fn fit(self, dtype: DType) -> i64 {
        number::wrap(dtype, self)
    }
    fn is_nan(self) -> bool {
        false
    }
}

/// Counts the bytes that buffers hold.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    live: AtomicUsize,
    peak: AtomicUsize,
    allocations: AtomicUsize,
}

impl Meter {
    pub(crate) fn read(&self) -> MemoryUse {
        MemoryUse {
            live: self.live.load(Ordering::Relaxed),
            peak: self.peak.load(Ordering::Relaxed),
            cached: 0,
            system_allocations: self.allocations.load(Ordering::Relaxed),
        }
    }
}

/// A buffer of this backend. Each element takes eight bytes, whatever its dtype.
#[derive(Debug)]
pub(crate) struct ReferenceStorage {
    dtype: DType,
    values: Values,
    meter: Arc<Meter>,
}

impl ReferenceStorage {
    /// Room for `len` elements. They are NaN, or an odd pattern, so that a caller who relies on zeros finds out.
    pub(crate) fn new(dtype: DType, len: usize, meter: &Arc<Meter>) -> Result<ReferenceStorage> {
        let values = if dtype.is_float() {
            Values::Floats(filled(f64::NAN, len)?)
        } else {
            Values::Integers(filled(number::wrap(dtype, 0x5a5a_5a5a_5a5a_5a5a), len)?)
        };
        let live = meter.live.fetch_add(len * 8, Ordering::Relaxed) + len * 8;
        meter.peak.fetch_max(live, Ordering::Relaxed);
        meter.allocations.fetch_add(1, Ordering::Relaxed);
        Ok(ReferenceStorage { dtype, values, meter: meter.clone() })
    }
}

fn filled<T: Copy>(value: T, len: usize) -> Result<Vec<T>> {
    let mut values = room(len)?;
    values.resize(len, value);
    Ok(values)
}

/// An empty vector with room for `len` elements.
fn room<T>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let refuse = |_| Error::new(ErrorKind::OutOfMemory, "alloc", format!("no room for {len} elements"));
    values.try_reserve_exact(len).map_err(refuse)?;
    Ok(values)
}

impl Drop for ReferenceStorage {
    fn drop(&mut self) {
        self.meter.live.fetch_sub(self.len() * 8, Ordering::Relaxed);
    }
}

impl Storage for ReferenceStorage {
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn len(&self) -> usize {
        match &self.values {
            Values::Floats(v) => v.len(),
            Values::Integers(v) => v.len(),
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// The elements of an operand.
pub(crate) fn read<'a, T: Number>(op: &'static str, role: &'static str, x: View<'a>) -> Result<ArrayViewD<'a, T>> {
    read_as(op, role, x, x.layout())
}

/// The elements of an operand under another layout of the same buffer, such as a broadcast one.
pub(crate) fn read_as<'a, T: Number>(
    op: &'static str,
    role: &'static str,
    x: View<'a>,
    layout: &Layout,
) -> Result<ArrayViewD<'a, T>> {
    let shown = || Operand::new(role, *x.layout(), x.dtype());
    let storage = x.buffer().storage().as_any().downcast_ref::<ReferenceStorage>();
    let storage = storage.ok_or_else(|| foreign(op, shown()))?;
    let elements = T::of(&storage.values).ok_or_else(|| other_kind(op, shown()))?;
    let Some(window) = Window::of(layout) else {
        return ArrayViewD::from_shape(IxDyn(layout.shape()), &[]).map_err(malformed);
    };
    let mut array =
        ArrayViewD::from_shape(window.shape(), elements.get(window.range()).unwrap_or(&[])).map_err(malformed)?;
    window.flipped().for_each(|axis| array.invert_axis(axis));
    Ok(array)
}

/// The elements of a destination, to be overwritten.
fn write<'a, T: Number>(op: &'static str, role: &'static str, out: &'a mut ViewMut) -> Result<ArrayViewMutD<'a, T>> {
    let (layout, shown) = (*out.layout(), Operand::new(role, *out.layout(), out.dtype()));
    let Some(storage) = out.storage().as_any_mut().downcast_mut::<ReferenceStorage>() else {
        return Err(foreign(op, shown));
    };
    let elements = T::of_mut(&mut storage.values).ok_or_else(|| other_kind(op, shown))?;
    let Some(window) = Window::of(&layout) else {
        return ArrayViewMutD::from_shape(IxDyn(layout.shape()), &mut []).map_err(malformed);
    };
    let mut array = ArrayViewMutD::from_shape(window.shape(), elements.get_mut(window.range()).unwrap_or(&mut []))
        .map_err(malformed)?;
    window.flipped().for_each(|axis| array.invert_axis(axis));
    Ok(array)
}

/// What a destination holds now.
pub(crate) fn contents<T: Number>(op: &'static str, role: &'static str, out: &mut ViewMut) -> Result<ArrayD<T>> {
    Ok(write(op, role, out)?.to_owned())
}

/// The elements of an operand that may be the destination itself.
pub(crate) fn source<'a, T: Number>(
    op: &'static str,
    role: &'static str,
    x: Source<'a>,
    out: &mut ViewMut,
) -> Result<CowArray<'a, T, IxDyn>> {
    match x {
        Source::View(x) => Ok(read(op, role, x)?.into()),
        Source::Destination => Ok(contents(op, role, out)?.into()),
    }
}

/// Writes a result: rounded or wrapped to the destination's dtype, once.
pub(crate) fn store<T: Number>(
    op: &'static str,
    role: &'static str,
    mut out: ViewMut,
    values: &ArrayD<T>,
) -> Result<()> {
    let dtype = out.dtype();
    check::shape(op, check::destination(role, &out), values.shape())?;
    write(op, role, &mut out)?.zip_mut_with(values, |to, from: &T| *to = from.fit(dtype));
    Ok(())
}

/// Row-major values under a shape.
pub(crate) fn shaped<T>(values: Vec<T>, shape: &[usize]) -> Result<ArrayD<T>> {
    ArrayD::from_shape_vec(IxDyn(shape), values).map_err(malformed)
}

/// The elements in row-major order. Repeated and empty axes cost a layout nothing, so that its elements or rows may be
/// too many for any memory: an error.
pub(crate) fn elements<T: Copy>(x: &ArrayViewD<T>) -> Result<Vec<T>> {
    let mut all = room(x.len())?;
    all.extend(x.iter().copied());
    Ok(all)
}

/// The rows along the last axis, in row-major order of the others. A scalar is one row of one element.
pub(crate) fn rows<T: Copy>(x: &ArrayViewD<T>) -> Result<Vec<Vec<T>>> {
    let (width, lead) = x.shape().split_last().map_or((1, &[][..]), |(&width, lead)| (width, lead));
    let count = lead.iter().product();
    let mut rows = room(count)?;
    match width {
        0 => rows.resize(count, Vec::new()),
        _ => rows.extend(elements(x)?.chunks(width).map(<[T]>::to_vec)),
    }
    Ok(rows)
}

/// The stretch of a buffer that a layout walks over, with strides made positive.
struct Window<'a> {
    layout: &'a Layout,
}

impl<'a> Window<'a> {
    /// `None` when it is empty: its offset may then lie anywhere.
    fn of(layout: &'a Layout) -> Option<Window<'a>> {
        (layout.count() != 0).then_some(Window { layout })
    }

    fn range(&self) -> std::ops::Range<usize> {
        let (low, high) = self.layout.bounds();
        low..high
    }

    fn shape(&self) -> ndarray::StrideShape<IxDyn> {
        let shape = self.layout.shape();
        // The stride of an axis with one element is never taken, and may be any number.
        let stride = |(&stride, &extent): (&isize, &usize)| if extent == 1 { 1 } else { stride.unsigned_abs() };
        let strides: Vec<usize> = self.layout.strides().iter().zip(shape.iter()).map(stride).collect();
        IxDyn(shape).strides(IxDyn(&strides))
    }

    fn flipped(&self) -> impl Iterator<Item = Axis> {
        self.layout.strides().iter().enumerate().filter(|(_, stride)| **stride < 0).map(|(axis, _)| Axis(axis))
    }
}

fn foreign(op: &'static str, operand: Operand) -> Error {
    Error::new(ErrorKind::Device, op, "a buffer of another backend")
        .operand(operand.expected(format!("a buffer of {}", check::DEVICE)))
        .help("download it there and upload it here")
}

fn other_kind(op: &'static str, operand: Operand) -> Error {
    Error::new(ErrorKind::DType, op, "not defined for this dtype").operand(operand)
}

/// A shape that ndarray refuses, although layouts have been proved to stay within their buffers.
pub(crate) fn malformed(error: ndarray::ShapeError) -> Error {
    Error::new(ErrorKind::Shape, "array", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ReferenceBackend, sample::Sample};
    use attentia_backend::{Backend, Buffer, Shape};

    #[test]
    fn layouts_are_read_without_a_copy() {
        let x = Sample::floats(DType::F32, &[2, 3], &[0., 1., 2., 3., 4., 5.]);
        assert_eq!(x.seen(|l| l.flip(1).unwrap()).to_floats(), [2., 1., 0., 5., 4., 3.]);
        assert_eq!(x.seen(|l| l.transpose(0, 1)).to_floats(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(x.seen(|l| l.slice(1, 2, -2, 2).unwrap().flip(0).unwrap()).to_floats(), [5., 3., 2., 0.]);
        let row = x.seen(|l| l.narrow(0, 1, 1).unwrap().broadcast_to(&Shape::new(&[2, 3]).unwrap()).unwrap());
        assert_eq!(row.to_floats(), [3., 4., 5., 3., 4., 5.]);
        assert!(x.seen(|l| l.narrow(0, 2, 0).unwrap()).to_floats().is_empty());
        assert_eq!(
            x.seen(|l| l.slice(1, 1, isize::MIN, 1).unwrap()).to_floats(),
            [1., 4.],
            "a stride that is never taken"
        );
    }

    #[test]
    fn destinations_may_have_any_injective_layout() {
        let mut x = Sample::floats(DType::Bf16, &[2, 2], &[0.; 4]).seen(|l| l.transpose(0, 1).flip(0).unwrap());
        let values = shaped(vec![1., 2., 3., 257.], &[2, 2]).unwrap();
        store("test", "out", x.view_mut(), &values).unwrap();
        assert_eq!(x.to_floats(), [1., 2., 3., 256.], "rounded to bf16");
        assert_eq!(x.seen(|_| Layout::contiguous(Shape::new(&[4]).unwrap())).to_floats(), [3., 1., 256., 2.]);
        let error = store("test", "out", x.view_mut(), &shaped(vec![1.], &[1]).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
        let error = store("test", "out", x.view_mut(), &shaped(vec![1i64; 4], &[2, 2]).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DType);
    }

    #[derive(Debug)]
    struct Foreign;
    impl Storage for Foreign {
        fn dtype(&self) -> DType {
            DType::F32
        }
        fn len(&self) -> usize {
            1
        }
        fn as_any(&self) -> &dyn Any {
            self
        }
        fn as_any_mut(&mut self) -> &mut dyn Any {
            self
        }
    }

    #[test]
    fn a_foreign_buffer_is_an_error() {
        let layout = Layout::contiguous(Shape::new(&[1]).unwrap());
        let mut buffer = Buffer::new(Foreign);
        let error = read::<f64>("test", "x", View::new(&buffer, &layout).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        let error = write::<f64>("test", "out", &mut ViewMut::new(&mut buffer, &layout).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
    }

    #[test]
    fn memory_is_counted_and_refused() {
        let backend = ReferenceBackend::new();
        let buffer = backend.alloc(DType::U8, 10).unwrap();
        drop(backend.alloc(DType::F64, 5).unwrap());
        let expected = MemoryUse { live: 80, peak: 120, cached: 0, system_allocations: 2 };
        assert_eq!(backend.memory(), expected);
        drop(buffer);
        assert_eq!(backend.memory().live, 0);
        assert_eq!(backend.alloc(DType::F32, usize::MAX).unwrap_err().kind(), ErrorKind::OutOfMemory);
    }
}
