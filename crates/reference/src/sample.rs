//! Operands for the unit tests.

use crate::{
    ReferenceBackend,
    storage::{Number, read, shaped, store},
};
use attentia_backend::{Backend, Buffer, DType, Layout, Shape, Source, View, ViewMut};

/// A buffer and a layout over it.
pub(crate) struct Sample {
    buffer: Buffer,
    layout: Layout,
}

impl Sample {
    pub(crate) fn floats(dtype: DType, extents: &[usize], values: &[f64]) -> Sample {
        Sample::of(dtype, extents, values)
    }

    pub(crate) fn integers(dtype: DType, extents: &[usize], values: &[i64]) -> Sample {
        Sample::of(dtype, extents, values)
    }

    /// A destination of any content.
    pub(crate) fn empty(dtype: DType, extents: &[usize]) -> Sample {
        let layout = Layout::contiguous(Shape::new(extents).unwrap());
        Sample { buffer: ReferenceBackend::new().alloc(dtype, layout.count()).unwrap(), layout }
    }

    /// Numbers between −1 and 1 without a pattern, the same ones for the same `seed`.
    pub(crate) fn scattered(extents: &[usize], seed: u32) -> Sample {
        let count: usize = extents.iter().product();
        let values: Vec<f64> = (0..count).map(|i| (i as f64 * 12.9898 + seed as f64 * 78.233).sin()).collect();
        Sample::floats(DType::F64, extents, &values)
    }

    fn of<T: Number>(dtype: DType, extents: &[usize], values: &[T]) -> Sample {
        let mut sample = Sample::empty(dtype, extents);
        store("sample", "x", sample.view_mut(), &shaped(values.to_vec(), extents).unwrap()).unwrap();
        sample
    }

    /// The same elements through another layout.
    pub(crate) fn seen(&self, layout: impl Fn(&Layout) -> Layout) -> Sample {
        let mut copy = Sample::empty(self.buffer.dtype(), &[self.buffer.len()]);
        let all = Layout::contiguous(Shape::new(&[self.buffer.len()]).unwrap());
        ReferenceBackend::new().copy(View::new(&self.buffer, &all).unwrap(), copy.view_mut()).unwrap();
        copy.layout = layout(&self.layout);
        copy
    }

    pub(crate) fn view(&self) -> View<'_> {
        View::new(&self.buffer, &self.layout).unwrap()
    }

    pub(crate) fn source(&self) -> Source<'_> {
        Source::View(self.view())
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut::new(&mut self.buffer, &self.layout).unwrap()
    }

    pub(crate) fn extents(&self) -> Vec<usize> {
        self.layout.shape().to_vec()
    }

    pub(crate) fn to_floats(&self) -> Vec<f64> {
        read("sample", "x", self.view()).unwrap().iter().copied().collect()
    }

    pub(crate) fn to_integers(&self) -> Vec<i64> {
        read("sample", "x", self.view()).unwrap().iter().copied().collect()
    }
}

/// Compares a gradient with central differences of `loss` at `x`. Both errors of a difference, that of the third
/// derivative and that of cancellation, stay below 1e-8 for values near 1 with a step of 1e-5.
pub(crate) fn check_gradient(what: &str, x: &Sample, gradient: &Sample, loss: impl Fn(&Sample) -> f64) {
    let (values, gradient, step) = (x.to_floats(), gradient.to_floats(), 1e-5);
    assert_eq!(values.len(), gradient.len(), "{what}");
    for i in 0..values.len() {
        let nudged = |by: f64| {
            let mut values = values.clone();
            values[i] += by;
            loss(&Sample::floats(DType::F64, &x.extents(), &values))
        };
        let difference = (nudged(step) - nudged(-step)) / (2.0 * step);
        let scale = 1.0 + difference.abs();
        assert!((difference - gradient[i]).abs() < 1e-7 * scale, "{what}[{i}]: {difference} and {}", gradient[i]);
    }
}

/// `Σ a · b`: a loss whose cotangent is `b`.
pub(crate) fn weighted(a: &Sample, b: &Sample) -> f64 {
    a.to_floats().iter().zip(b.to_floats()).map(|(a, b)| a * b).sum()
}

/// Every element within `tolerance` of what is expected.
pub(crate) fn assert_close(actual: &Sample, expected: &[f64], tolerance: f64) {
    let actual = actual.to_floats();
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance || a == e || a.is_nan() && e.is_nan(), "[{i}]: {actual:?} {expected:?}");
    }
}
