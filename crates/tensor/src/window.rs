//! Parts of a tensor: slices, and their transpose, placing a part into a larger tensor.

use crate::{Backward, Data, Function, Saver, Tensor, function::run_one};
use attentia_backend::{Error, ErrorKind, Layout, MAX_RANK, Result, Scalar, Shape};
use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// Which elements of a whole: along each axis `start, start + step, …`, as many as `part` has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    whole: Shape,
    part: Shape,
    start: [usize; MAX_RANK],
    step: [isize; MAX_RANK],
}

impl Window {
    pub fn whole(shape: &Shape) -> Window {
        Window { whole: *shape, part: *shape, start: [0; MAX_RANK], step: [1; MAX_RANK] }
    }

    /// Some elements of an axis; they must lie within the whole.
    pub fn along(mut self, axis: usize, start: usize, step: isize, len: usize) -> Window {
        let mut extents = [0; MAX_RANK];
        let rank = self.part.rank();
        extents[..rank].copy_from_slice(&self.part);
        if let (Some(extent), true) = (extents.get_mut(axis), axis < rank) {
            *extent = len;
            self.start[axis] = start;
            self.step[axis] = step;
        }
        // A part is never larger than its whole, which was a shape.
        self.part = Shape::new(&extents[..rank]).unwrap_or(self.part);
        self
    }

    fn of(&self, layout: &Layout) -> Result<Layout> {
        let mut result = *layout;
        for axis in 0..self.part.rank() {
            let part = result.slice(axis, self.start[axis], self.step[axis], self.part[axis]);
            result = part.ok_or_else(|| {
                let what = format!("{} from {} by {}", self.part[axis], self.start[axis], self.step[axis]);
                Error::new(ErrorKind::Index, "slice", format!("{what} leaves axis {axis} of {}", self.whole))
            })?;
        }
        Ok(result)
    }
}

/// A part, as a view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice(pub Window);

impl Function for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let data = inputs[0].data();
        Ok(vec![data.with_layout(self.0.of(data.layout())?)])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let place = Place { window: self.0, value: 0.0 };
        Ok(vec![b.take_grad(0).map(|g| run_one(&place, &[&g])).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

/// A whole that holds the input as a part, and one value everywhere else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub window: Window,
    pub value: f64,
}

impl Function for Place {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0];
        let mut whole = Data::alloc(x.device(), x.dtype(), self.window.whole)?;
        if self.window.part.count() != self.window.whole.count() {
            x.device().full(Scalar::Float(self.value), whole.view_mut()?)?;
        }
        let part = self.window.of(whole.layout())?;
        x.device().copy(x.view()?, whole.view_mut_as(&part)?)?;
        Ok(vec![whole])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![b.take_grad(0).map(|g| run_one(&Slice(self.window), &[&g])).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![run_one(self, inputs)?])
    }
}

impl Tensor {
    /// Adds `(before, after)` elements of a value along each axis; axes at the end that are not named stay as they are.
    pub fn pad(&self, pads: &[(usize, usize)], value: impl Into<Scalar>) -> Result<Tensor> {
        let refuse = |what: &str| Error::new(ErrorKind::Shape, "pad", what).operand(self.data().operand("x"));
        if pads.len() > self.rank() {
            return Err(refuse(&format!("{} pairs for {} axes", pads.len(), self.rank())));
        }
        let mut extents = self.shape().to_vec();
        for (extent, (before, after)) in extents.iter_mut().zip(pads) {
            *extent = before
                .checked_add(*after)
                .and_then(|added| added.checked_add(*extent))
                .ok_or_else(|| refuse("too many elements"))?;
        }
        let value = value.into();
        self.constant("pad", value)?;
        let mut window = Window::whole(&Shape::new(&extents)?);
        for (axis, (before, _)) in pads.iter().enumerate() {
            window = window.along(axis, *before, 1, self.shape()[axis]);
        }
        run_one(&Place { window, value: value.to_f64() }, &[self])
    }
}

/// A range along an axis, whose bounds may be left out or negative (counted from the end). Made from ranges of
/// `usize`, `isize` or `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: Option<isize>,
    stop: Option<isize>,
    inclusive: bool,
}

impl Span {
    /// First element and number of elements, for a step.
    pub(crate) fn resolve(self, op: &'static str, x: &Tensor, axis: usize, step: isize) -> Result<(usize, usize)> {
        let extent = x.shape()[axis] as isize;
        let refuse = |kind, what: String| {
            Error::new(kind, op, what)
                .operand(x.data().operand("x"))
                .help(format!("axis {axis} has {extent} elements; negative bounds count from the end"))
        };
        if step == 0 {
            return Err(refuse(ErrorKind::Argument, "the step is 0".to_owned()));
        }
        let from_end = |at: isize| if at < 0 { at.saturating_add(extent) } else { at };
        let (first, end) = if step > 0 { (0, extent) } else { (extent - 1, -1) };
        let start = self.start.map_or(first, from_end);
        let stop = match self.stop {
            None => end,
            Some(at) if self.inclusive => from_end(at).saturating_add(step.signum()),
            Some(at) => from_end(at),
        };
        let inside = if step > 0 {
            (0..=extent).contains(&start) && (0..=extent).contains(&stop)
        } else {
            (-1..extent).contains(&start) && (-1..extent).contains(&stop)
        };
        if !inside {
            return Err(refuse(ErrorKind::Index, format!("bounds {start} and {stop} leave axis {axis}")));
        }
        let distance = if step > 0 { stop - start } else { start - stop };
        let len = if distance <= 0 { 0 } else { (distance as usize).div_ceil(step.unsigned_abs()) };
        Ok((start.max(0) as usize, len))
    }
}

impl From<RangeFull> for Span {
    fn from(_: RangeFull) -> Span {
        Span { start: None, stop: None, inclusive: false }
    }
}

/// One position or range of [`Tensor::i`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// One element; the axis disappears. Negative counts from the end.
    At(isize),
    /// A range; the axis stays.
    Span(Span),
}

impl From<RangeFull> for Index {
    fn from(all: RangeFull) -> Index {
        Index::Span(all.into())
    }
}

macro_rules! spans {
    ($($int:ty),*) => {$(
        spans! { @range $int;
            Range<$int>: r => (Some(bound(r.start)), Some(bound(r.end)), false),
            RangeInclusive<$int>: r => (Some(bound(*r.start())), Some(bound(*r.end())), true),
            RangeFrom<$int>: r => (Some(bound(r.start)), None, false),
            RangeTo<$int>: r => (None, Some(bound(r.end)), false),
            RangeToInclusive<$int>: r => (None, Some(bound(r.end)), true)
        }
        impl From<$int> for Index {
            fn from(at: $int) -> Index {
                Index::At(bound(at))
            }
        }
    )*};
    (@range $int:ty; $($range:ty: $r:ident => $parts:expr),*) => {$(
        impl From<$range> for Span {
            fn from($r: $range) -> Span {
                let (start, stop, inclusive) = $parts;
                Span { start, stop, inclusive }
            }
        }
        impl From<$range> for Index {
            fn from(range: $range) -> Index {
                Index::Span(range.into())
            }
        }
    )*};
}

spans!(usize, isize, i32);

/// What does not fit lies outside every axis.
fn bound(at: impl TryInto<isize>) -> isize {
    at.try_into().unwrap_or(isize::MAX)
}

/// Positions and ranges of the leading axes, for [`Tensor::i`]: one, or a tuple of up to six.
pub trait IntoIndices {
    /// In the order of the axes.
    fn into_indices(self) -> Vec<Index>;
}

impl<T: Into<Index>> IntoIndices for T {
    fn into_indices(self) -> Vec<Index> {
        vec![self.into()]
    }
}

macro_rules! tuples {
    ($(($($name:ident)*))*) => {$(
        impl<$($name: Into<Index>),*> IntoIndices for ($($name,)*) {
            #[allow(non_snake_case)] // a variable per type parameter
            fn into_indices(self) -> Vec<Index> {
                let ($($name,)*) = self;
                vec![$($name.into()),*]
            }
        }
    )*};
}

tuples! { (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) }

impl Tensor {
    /// A part by positions and ranges of the leading axes, as one view: `x.i((.., 1..3, -1))?`.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// let x = attentia_tensor::Tensor::arange(0, 6, 1, attentia_tensor::DType::I64, &device)?.reshape(&[2, 3])?;
    /// assert_eq!(x.i((.., 1..3))?.to_vec::<i64>()?, [1, 2, 4, 5]);
    /// assert_eq!(x.i((1, -1))?.item::<i64>()?, 5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn i(&self, indices: impl IntoIndices) -> Result<Tensor> {
        let indices = indices.into_indices();
        if indices.len() > self.rank() {
            return Err(Error::new(ErrorKind::Shape, "index", format!("{} indices", indices.len()))
                .operand(self.data().operand("x").expected(format!("at least {} axes", indices.len()))));
        }
        let mut window = Window::whole(self.shape());
        let mut kept = Vec::with_capacity(self.rank());
        for (axis, index) in indices.iter().enumerate() {
            let (start, len) = match *index {
                Index::Span(span) => span.resolve("index", self, axis, 1)?,
                Index::At(at) => (self.place("index", axis, at)?, 1),
            };
            window = window.along(axis, start, 1, len);
            if let Index::Span(_) = index {
                kept.push(len);
            }
        }
        kept.extend(&self.shape()[indices.len()..]);
        let part = run_one(&Slice(window), &[self])?;
        if kept.len() == self.rank() { Ok(part) } else { part.reshape_to(&Shape::new(&kept)?) }
    }
}
