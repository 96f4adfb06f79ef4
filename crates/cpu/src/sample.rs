//! Operands for tests: any dtype and layout, with the same content on every backend, and comparison with the oracle.

use crate::{CpuBackend, Isa};
use attentia_backend::{Backend, Buffer, DType, Element, Layout, Shape, Source, View, ViewMut};
use attentia_reference::ReferenceBackend;
use half::{bf16, f16};

/// How an operand lies in its buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lie {
    Contiguous,
    /// Axes in reverse order of their strides.
    Transposed,
    /// Every other element of a larger tensor, from the second on.
    Sliced,
    /// Negative strides.
    Flipped,
    /// Stride 0 along the first axis; to read only.
    RepeatedRows,
    /// Stride 0 along the last axis; to read only.
    RepeatedColumns,
}

impl Lie {
    pub(crate) const WRITABLE: [Lie; 4] = [Lie::Contiguous, Lie::Transposed, Lie::Sliced, Lie::Flipped];
    pub(crate) const ALL: [Lie; 6] =
        [Lie::Contiguous, Lie::Transposed, Lie::Sliced, Lie::Flipped, Lie::RepeatedRows, Lie::RepeatedColumns];

    /// A layout of this kind, and the length of the buffer.
    fn layout(self, extents: &[usize]) -> (Layout, usize) {
        let shape = Shape::new(extents).unwrap();
        let with = |axis: Option<usize>| {
            let mut smaller = extents.to_vec();
            if let Some(axis) = axis {
                smaller[axis] = smaller[axis].min(1);
            }
            let small = Layout::contiguous(Shape::new(&smaller).unwrap());
            (small.broadcast_to(&shape).unwrap(), small.count())
        };
        match self {
            Lie::Contiguous => (Layout::contiguous(shape), shape.count()),
            Lie::Transposed => {
                let reversed: Vec<usize> = extents.iter().rev().copied().collect();
                let order: Vec<usize> = (0..extents.len()).rev().collect();
                (Layout::contiguous(Shape::new(&reversed).unwrap()).permute(&order).unwrap(), shape.count())
            }
            Lie::Sliced => {
                let larger: Vec<usize> = extents.iter().map(|e| 2 * e + 1).collect();
                let mut layout = Layout::contiguous(Shape::new(&larger).unwrap());
                let len = layout.count();
                for (axis, &extent) in extents.iter().enumerate() {
                    layout = layout.slice(axis, 1, 2, extent).unwrap();
                }
                (layout, len)
            }
            Lie::Flipped => {
                let flipped = (0..extents.len()).fold(Layout::contiguous(shape), |l, axis| l.flip(axis).unwrap());
                (flipped, shape.count())
            }
            Lie::RepeatedRows => with((!extents.is_empty()).then_some(0)),
            Lie::RepeatedColumns => with(extents.len().checked_sub(1)),
        }
    }
}

/// A buffer of some backend and a layout over it.
pub(crate) struct Sample {
    buffer: Buffer,
    layout: Layout,
}

/// A number for each place of a buffer, in about ±3 and the same every time.
pub(crate) fn scattered(seed: u64, place: usize) -> f64 {
    let mixed = (place as u64 ^ seed << 32).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 40) as f64 / (1u64 << 24) as f64 * 6.0 - 3.0
}

impl Sample {
    /// A tensor whose buffer holds `value(place)` at each place.
    pub(crate) fn new(
        b: &dyn Backend,
        dtype: DType,
        extents: &[usize],
        lie: Lie,
        value: impl Fn(usize) -> f64,
    ) -> Sample {
        let (layout, len) = lie.layout(extents);
        let flat = Layout::contiguous(Shape::new(&[len]).unwrap());
        let mut buffer = b.alloc(dtype, len).unwrap();
        let values: Vec<f64> = (0..len).map(value).collect();
        fn put<T: Element>(b: &dyn Backend, values: &[f64], out: ViewMut) {
            let typed: Vec<T> = values.iter().map(|&x| T::from_f64(x)).collect();
            b.upload(T::host(&typed), out).unwrap();
        }
        let out = ViewMut::new(&mut buffer, &flat).unwrap();
        match dtype {
            DType::F64 => put::<f64>(b, &values, out),
            DType::F32 => put::<f32>(b, &values, out),
            DType::Bf16 => put::<bf16>(b, &values, out),
            DType::F16 => put::<f16>(b, &values, out),
            DType::I64 => put::<i64>(b, &values, out),
            DType::U32 => put::<u32>(b, &values, out),
            DType::U8 => put::<u8>(b, &values, out),
            DType::Bool => put::<bool>(b, &values, out),
        }
        Sample { buffer, layout }
    }

    /// Scattered numbers.
    pub(crate) fn floats(b: &dyn Backend, dtype: DType, extents: &[usize], lie: Lie, seed: u64) -> Sample {
        Sample::new(b, dtype, extents, lie, |place| scattered(seed, place))
    }

    /// Room for a result, full of a number that no result is.
    pub(crate) fn room(b: &dyn Backend, dtype: DType, extents: &[usize], lie: Lie) -> Sample {
        Sample::new(b, dtype, extents, lie, |_| 77.0)
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

    /// All elements of the buffer, those outside the layout too.
    pub(crate) fn values(&self, b: &dyn Backend) -> Vec<f64> {
        fn get<T: Element>(b: &dyn Backend, x: View) -> Vec<f64> {
            let mut values = vec![T::zero(); x.layout().count()];
            b.download(x, T::host_mut(&mut values)).unwrap();
            values.into_iter().map(T::to_f64).collect()
        }
        let flat = Layout::contiguous(Shape::new(&[self.buffer.len()]).unwrap());
        let all = View::new(&self.buffer, &flat).unwrap();
        match self.buffer.dtype() {
            DType::F64 => get::<f64>(b, all),
            DType::F32 => get::<f32>(b, all),
            DType::Bf16 => get::<bf16>(b, all),
            DType::F16 => get::<f16>(b, all),
            DType::I64 => get::<i64>(b, all),
            DType::U32 => get::<u32>(b, all),
            DType::U8 => get::<u8>(b, all),
            DType::Bool => get::<bool>(b, all),
        }
    }
}

/// How far a fused kernel may be off at a number of size `scale` in a tensor whose greatest number is `greatest`: in f32
/// and f64 some units in the last place of the latter, because what cancels to almost nothing keeps the error of what it
/// came from; in 16 bits the neighbour, when f32 lies on the other side of a tie.
fn tolerance(dtype: DType, scale: f64, greatest: f64) -> f64 {
    match dtype {
        DType::F64 => 64.0 * 2f64.powi(-52) * greatest,
        DType::F32 => 32.0 * 2f64.powi(-23) * greatest,
        DType::Bf16 => 1.01 * 2f64.powi(-7) * scale + 1e-6 * greatest,
        DType::F16 => 1.01 * 2f64.powi(-10) * scale + 1e-6 * greatest,
        _ => 0.0,
    }
}

/// Runs `case` on the oracle and on every instruction set with 1, 2, 3 and 7 threads: close to the oracle, and the same
/// bits for any number of threads. Returns how many loops ran in parallel.
pub(crate) fn check(what: &str, case: impl Fn(&dyn Backend) -> Vec<Sample>) -> usize {
    let reference = ReferenceBackend::new();
    let expected = case(&reference);
    let expected: Vec<(DType, Vec<f64>)> = expected.iter().map(|s| (s.buffer.dtype(), s.values(&reference))).collect();
    let mut parallel = 0;
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut first: Option<Vec<Vec<u64>>> = None;
        for threads in [1, 2, 3, 7] {
            let cpu = CpuBackend::with_isa(threads, isa).unwrap();
            let results: Vec<Vec<f64>> = case(&cpu).iter().map(|s| s.values(&cpu)).collect();
            for (which, (result, (dtype, expected))) in results.iter().zip(&expected).enumerate() {
                assert_eq!(result.len(), expected.len());
                let greatest = expected.iter().filter(|x| x.is_finite()).fold(0.0, |m: f64, x| m.max(x.abs()));
                for (place, (&got, &want)) in result.iter().zip(expected).enumerate() {
                    let close = got == want
                        || got.is_nan() && want.is_nan()
                        || (got - want).abs() <= tolerance(*dtype, want.abs(), greatest);
                    assert!(close, "{what}, {isa}, result {which}, place {place}: {got} for {want}");
                }
            }
            let bits = results.iter().map(|r| r.iter().map(|x| x.to_bits()).collect()).collect();
            match &first {
                None => first = Some(bits),
                Some(first) => assert!(*first == bits, "{what}, {isa}: other bits with {threads} threads"),
            }
            parallel += cpu.parallel_runs();
        }
    }
    parallel
}
