//! Operands for tests: any dtype and layout, with the same content on every backend.

use attentia_backend::{Backend, Buffer, DType, Element, Layout, Shape, Source, View, ViewMut};
use half::{bf16, f16};

pub(crate) fn shape(extents: &[usize]) -> Shape {
    Shape::new(extents).unwrap()
}

/// How an operand lies in its buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lie {
    Contiguous,
    /// Axes in reverse order of their strides.
    Transposed,
    /// Every other element of a larger tensor, from the second on.
    Sliced,
    /// Neighbours within a larger tensor.
    Window,
    /// Negative strides along the first axis and the last.
    Flipped,
    /// Stride 0 along the first axis; to read only.
    RepeatedRows,
    /// Stride 0 along the last axis; to read only.
    RepeatedColumns,
}

impl Lie {
    pub(crate) const WRITABLE: [Lie; 5] = [Lie::Contiguous, Lie::Transposed, Lie::Sliced, Lie::Window, Lie::Flipped];
    pub(crate) const ALL: [Lie; 7] = [
        Lie::Contiguous,
        Lie::Transposed,
        Lie::Sliced,
        Lie::Window,
        Lie::Flipped,
        Lie::RepeatedRows,
        Lie::RepeatedColumns,
    ];

    /// A layout of this kind. A scalar's is always contiguous.
    pub(crate) fn layout(self, extents: &[usize]) -> Layout {
        let contiguous = Layout::contiguous(shape(extents));
        let Some(last) = extents.len().checked_sub(1) else { return contiguous };
        let along_each = |layout: Layout, part: fn(Layout, usize, usize) -> Option<Layout>| {
            extents.iter().enumerate().fold(layout, |layout, (axis, &extent)| part(layout, axis, extent).unwrap())
        };
        let larger = || Layout::contiguous(shape(&extents.iter().map(|e| 2 * e + 3).collect::<Vec<_>>()));
        let repeated = |axis: usize| {
            let mut one = extents.to_vec();
            one[axis] = one[axis].min(1);
            Layout::contiguous(shape(&one)).broadcast_to(&shape(extents)).unwrap()
        };
        match self {
            Lie::Contiguous => contiguous,
            Lie::Transposed => {
                let reversed: Vec<usize> = extents.iter().rev().copied().collect();
                let order: Vec<usize> = (0..=last).rev().collect();
                Layout::contiguous(shape(&reversed)).permute(&order).unwrap()
            }
            Lie::Sliced => along_each(larger(), |layout, axis, extent| layout.slice(axis, 1, 2, extent)),
            Lie::Window => along_each(larger(), |layout, axis, extent| layout.narrow(axis, 2, extent)),
            Lie::Flipped if last == 0 => contiguous.flip(0).unwrap(),
            Lie::Flipped => contiguous.flip(0).unwrap().flip(last).unwrap(),
            Lie::RepeatedRows => repeated(0),
            Lie::RepeatedColumns => repeated(last),
        }
    }
}

/// The layouts of a shape, those to read only (`repeated`) too or not.
pub(crate) fn layouts(extents: &[usize], repeated: bool) -> Vec<Layout> {
    let lies = if repeated { &Lie::ALL[..] } else { &Lie::WRITABLE };
    let different = if extents.is_empty() { 1 } else { lies.len() };
    lies[..different].iter().map(|lie| lie.layout(extents)).collect()
}

/// A number for each place of a buffer, in about ±3 and the same every time.
pub(crate) fn scattered(seed: u64, place: usize) -> f64 {
    bits(seed, place) as f64 / (1u64 << 24) as f64 * 6.0 - 3.0
}

/// 24 bits that look random.
fn bits(seed: u64, place: usize) -> u64 {
    let mixed = (place as u64 ^ seed << 32).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
}

/// Elements of a buffer past what the layout reaches, so that a write there is seen.
const BEYOND: usize = 3;

/// An operand before it is in any backend's memory: how it lies, and all elements of its buffer.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    values: Vec<f64>,
}

impl Numbers {
    /// `value(place)` at each place of the buffer.
    pub(crate) fn new(dtype: DType, layout: Layout, value: impl Fn(usize) -> f64) -> Numbers {
        Numbers { dtype, layout, values: (0..layout.bounds().1 + BEYOND).map(value).collect() }
    }

    /// Arbitrary elements of a dtype: small numbers with many equal ones, and for floats ±0, ±∞, NaN and extremes.
    pub(crate) fn arbitrary(dtype: DType, layout: Layout, seed: u64) -> Numbers {
        let mut numbers = Numbers::finite(dtype, layout, seed);
        if dtype.is_float() {
            let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 1e-42, 6e-8, -3e38, 0.5, 1.5, 100.0];
            for (to, x) in numbers.values.iter_mut().skip(3).step_by(7).zip(special) {
                *to = x;
            }
        }
        numbers
    }

    /// Arbitrary finite elements of a dtype.
    pub(crate) fn finite(dtype: DType, layout: Layout, seed: u64) -> Numbers {
        Numbers::new(dtype, layout, |place| {
            let bits = bits(seed, place);
            match dtype {
                DType::Bool => (bits % 2) as f64,
                DType::U8 => (bits % 256) as f64,
                DType::U32 => (bits % 16) as f64 * 286_331_153.0,
                DType::I64 => (bits % 64) as f64 - 32.0,
                // Quarters are exact and tie often; the others are arbitrary.
                _ if bits.is_multiple_of(2) => (bits >> 1) as f64 % 64.0 / 4.0 - 8.0,
                _ => scattered(seed, place),
            }
        })
    }

    /// Room for a result, full of a number that few results are.
    pub(crate) fn room(dtype: DType, layout: Layout) -> Numbers {
        Numbers::new(dtype, layout, |_| 77.0)
    }

    /// In a backend's memory.
    pub(crate) fn on(&self, b: &dyn Backend) -> Sample {
        fn put<T: Element>(b: &dyn Backend, values: &[f64], out: ViewMut) {
            let typed: Vec<T> = values.iter().map(|&x| T::from_f64(x)).collect();
            b.upload(T::host(&typed), out).unwrap();
        }
        let put = match self.dtype {
            DType::F64 => put::<f64>,
            DType::F32 => put::<f32>,
            DType::Bf16 => put::<bf16>,
            DType::F16 => put::<f16>,
            DType::I64 => put::<i64>,
            DType::U32 => put::<u32>,
            DType::U8 => put::<u8>,
            DType::Bool => put::<bool>,
        };
        let mut buffer = b.alloc(self.dtype, self.values.len()).unwrap();
        let flat = Layout::contiguous(shape(&[self.values.len()]));
        put(b, &self.values, ViewMut::new(&mut buffer, &flat).unwrap());
        Sample { buffer, layout: self.layout }
    }
}

/// An operand in a backend's memory.
pub(crate) struct Sample {
    buffer: Buffer,
    layout: Layout,
}

impl Sample {
    /// `value(place)` at each place of its buffer.
    pub(crate) fn new(
        b: &dyn Backend,
        dtype: DType,
        extents: &[usize],
        lie: Lie,
        value: impl Fn(usize) -> f64,
    ) -> Sample {
        Numbers::new(dtype, lie.layout(extents), value).on(b)
    }

    /// Scattered numbers.
    pub(crate) fn floats(b: &dyn Backend, dtype: DType, extents: &[usize], lie: Lie, seed: u64) -> Sample {
        Sample::new(b, dtype, extents, lie, |place| scattered(seed, place))
    }

    /// Room for a result.
    pub(crate) fn room(b: &dyn Backend, dtype: DType, extents: &[usize], lie: Lie) -> Sample {
        Numbers::room(dtype, lie.layout(extents)).on(b)
    }

    pub(crate) fn dtype(&self) -> DType {
        self.buffer.dtype()
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

    /// All elements of the buffer: those outside the layout must stay as they were.
    pub(crate) fn values(&self, b: &dyn Backend) -> Vec<f64> {
        fn get<T: Element>(b: &dyn Backend, x: View) -> Vec<f64> {
            let mut values = vec![T::zero(); x.layout().count()];
            b.download(x, T::host_mut(&mut values)).unwrap();
            values.into_iter().map(T::to_f64).collect()
        }
        let get = match self.buffer.dtype() {
            DType::F64 => get::<f64>,
            DType::F32 => get::<f32>,
            DType::Bf16 => get::<bf16>,
            DType::F16 => get::<f16>,
            DType::I64 => get::<i64>,
            DType::U32 => get::<u32>,
            DType::U8 => get::<u8>,
            DType::Bool => get::<bool>,
        };
        let flat = Layout::contiguous(shape(&[self.buffer.len()]));
        get(b, View::new(&self.buffer, &flat).unwrap())
    }
}
