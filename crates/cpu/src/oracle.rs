//! For tests: the same call on the reference backend and on this one, at each instruction set and number of threads.

use crate::{CpuBackend, Isa};
use attentia_backend::{Backend, Buffer, DType, Element, Layout, Result, Shape, View, ViewMut};
use attentia_reference::ReferenceBackend;
use half::{bf16, f16};
use std::{cell::RefCell, collections::HashMap, sync::Arc};

/// Numbers of threads that must give the same bits.
const THREADS: [usize; 4] = [1, 2, 3, 7];

/// Elements of a buffer, and how an operand walks over them.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    values: Vec<f64>,
}

pub(crate) fn shape(extents: &[usize]) -> Shape {
    Shape::new(extents).unwrap()
}

/// Ways to lay out a shape, by name: `broadcast` ones are for operands only.
pub(crate) fn layouts(extents: &[usize], broadcast: bool) -> Vec<(&'static str, Layout)> {
    let contiguous = Layout::contiguous(shape(extents));
    let mut all = vec![("contiguous", contiguous)];
    let rank = extents.len();
    if rank == 0 {
        return all;
    }
    let reversed: Vec<usize> = extents.iter().rev().copied().collect();
    let order: Vec<usize> = (0..rank).rev().collect();
    all.push(("transposed", Layout::contiguous(shape(&reversed)).permute(&order).unwrap()));
    let wider: Vec<usize> = extents.iter().map(|e| 2 * e + 3).collect();
    let mut sliced = Layout::contiguous(shape(&wider));
    let mut window = sliced;
    for (axis, extent) in extents.iter().enumerate() {
        sliced = sliced.slice(axis, 1, 2, *extent).unwrap();
        window = window.narrow(axis, 2, *extent).unwrap();
    }
    all.extend([("sliced", sliced), ("window", window)]);
    all.push(("flipped", contiguous.flip(rank - 1).unwrap().flip(0).unwrap()));
    if broadcast {
        for axis in [0, rank - 1] {
            let mut one = extents.to_vec();
            one[axis] = 1;
            all.push(("broadcast", Layout::contiguous(shape(&one)).broadcast_to(&shape(extents)).unwrap()));
        }
    }
    all
}

impl Sample {
    /// Arbitrary elements of a dtype: small numbers with many equal ones, and for floats ±0, ±∞, NaN and extremes.
    pub(crate) fn new(dtype: DType, layout: Layout, seed: u64) -> Sample {
        let mut sample = Sample::finite(dtype, layout, seed);
        if dtype.is_float() {
            let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 1e-42, 6e-8, -3e38, 0.5, 1.5, 100.0];
            for (i, x) in special.into_iter().enumerate() {
                if let Some(to) = sample.values.get_mut(3 + i * 7) {
                    *to = x;
                }
            }
        }
        sample
    }

    /// Arbitrary finite elements of a dtype.
    pub(crate) fn finite(dtype: DType, layout: Layout, seed: u64) -> Sample {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let values = (0..layout.bounds().1).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match dtype {
                DType::Bool => (state >> 40) as f64 % 2.0,
                DType::U8 => (state >> 40) as f64 % 256.0,
                DType::U32 => (state >> 60) as f64 * 286_331_153.0,
                DType::I64 => (state >> 58) as f64 - 32.0,
                // Quarters are exact and tie often; the others are arbitrary.
                _ if state & 64 == 0 => (state >> 58) as f64 / 4.0 - 8.0,
                _ => (state >> 20) as f64 / 2f64.powi(41) - 4.0,
            }
        });
        Sample { dtype, layout, values: values.collect() }
    }

    /// Room for a result.
    pub(crate) fn empty(dtype: DType, layout: Layout) -> Sample {
        Sample { dtype, layout, values: vec![1.0; layout.bounds().1] }
    }

    /// The same buffer with given elements, as many as it has.
    pub(crate) fn with(mut self, f: impl Fn(usize) -> f64) -> Sample {
        self.values.iter_mut().enumerate().for_each(|(i, x)| *x = f(i));
        self
    }

    fn buffer(&self, backend: &dyn Backend) -> Buffer {
        fn upload<T: Element>(backend: &dyn Backend, x: &[f64]) -> Buffer {
            let host: Vec<T> = x.iter().map(|&x| T::from_f64(x)).collect();
            let layout = Layout::contiguous(shape(&[x.len()]));
            let mut buffer = backend.alloc(T::DTYPE, x.len()).unwrap();
            backend.upload(T::host(&host), ViewMut::new(&mut buffer, &layout).unwrap()).unwrap();
            buffer
        }
        let upload = match self.dtype {
            DType::F64 => upload::<f64>,
            DType::F32 => upload::<f32>,
            DType::Bf16 => upload::<bf16>,
            DType::F16 => upload::<f16>,
            DType::I64 => upload::<i64>,
            DType::U32 => upload::<u32>,
            DType::U8 => upload::<u8>,
            DType::Bool => upload::<bool>,
        };
        upload(backend, &self.values)
    }

    /// All elements of the buffer: those that the layout does not name must stay as they were.
    fn download(&self, backend: &dyn Backend, buffer: &Buffer) -> Vec<f64> {
        fn download<T: Element>(backend: &dyn Backend, buffer: &Buffer) -> Vec<f64> {
            let layout = Layout::contiguous(shape(&[buffer.len()]));
            let mut host = vec![T::zero(); buffer.len()];
            backend.download(View::new(buffer, &layout).unwrap(), T::host_mut(&mut host)).unwrap();
            host.into_iter().map(T::to_f64).collect()
        }
        let download = match self.dtype {
            DType::F64 => download::<f64>,
            DType::F32 => download::<f32>,
            DType::Bf16 => download::<bf16>,
            DType::F16 => download::<f16>,
            DType::I64 => download::<i64>,
            DType::U32 => download::<u32>,
            DType::U8 => download::<u8>,
            DType::Bool => download::<bool>,
        };
        download(backend, buffer)
    }
}

/// A call with operands to read and destinations to write.
pub(crate) type Call<'a> = dyn Fn(&dyn Backend, &[View], Vec<ViewMut>) -> Result<()> + 'a;

fn results(backend: &dyn Backend, inputs: &[Sample], outs: &[Sample], call: &Call) -> Vec<Vec<f64>> {
    let buffers: Vec<Buffer> = inputs.iter().map(|s| s.buffer(backend)).collect();
    let views: Vec<View> = buffers.iter().zip(inputs).map(|(b, s)| View::new(b, &s.layout).unwrap()).collect();
    let mut destinations: Vec<Buffer> = outs.iter().map(|s| s.buffer(backend)).collect();
    let targets = destinations.iter_mut().zip(outs).map(|(b, s)| ViewMut::new(b, &s.layout).unwrap()).collect();
    call(backend, &views, targets).unwrap_or_else(|e| panic!("{}: {e:?}", backend.name()));
    destinations.iter().zip(outs).map(|(b, s)| s.download(backend, b)).collect()
}

/// Distance in units of the last place of a dtype, at the expected value.
fn ulps(dtype: DType, got: f64, expected: f64) -> f64 {
    if got == expected || got.is_nan() && expected.is_nan() {
        return 0.0;
    }
    if !dtype.is_float() || got.is_nan() || expected.is_nan() {
        return f64::INFINITY;
    }
    let (digits, smallest, greatest) = match dtype {
        DType::F64 => (52, -1022, 1023),
        DType::F32 => (23, -126, 127),
        DType::Bf16 => (7, -126, 127),
        _ => (10, -14, 15),
    };
    // Infinity is where the next binade would begin.
    let finite = |x: f64| if x.is_infinite() { 2f64.powi(greatest).copysign(x) * 2.0 } else { x };
    let exponent = ((expected.abs().to_bits() >> 52) as i32 - 1023).clamp(smallest, greatest);
    ((finite(got) - finite(expected)) / 2f64.powi(exponent) * 2f64.powi(digits)).abs()
}

/// Whether every instruction set gives the reference's results within `tolerance` ulp of the destination's dtype, and
/// any number of threads the same bits. Returns how many loops ran in parallel.
pub(crate) fn compare(what: &str, inputs: &[Sample], outs: &[Sample], tolerance: f64, call: &Call) -> usize {
    let expected = results(&ReferenceBackend::new(), inputs, outs, call);
    // What is smaller is one task, and runs on the caller's thread.
    let large = inputs.iter().chain(outs).any(|s| s.layout.count() > 4000);
    let mut parallel = 0;
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut first: Option<Vec<Vec<f64>>> = None;
        for &threads in if large { &THREADS[..] } else { &THREADS[..1] } {
            let backend = backend(threads, isa);
            let before = backend.parallel_runs();
            let got = results(&*backend, inputs, outs, call);
            parallel += backend.parallel_runs() - before;
            let Some(first) = &first else {
                for (o, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
                        let error = ulps(outs[o].dtype, g, e);
                        let layouts: Vec<_> = inputs.iter().map(|s| (s.dtype, s.layout)).collect();
                        assert!(
                            error <= tolerance,
                            "{what} {isa}: element {i} of {:?} {:?} is {g:e}, not {e:e}; operands {layouts:?}",
                            outs[o].dtype,
                            outs[o].layout
                        );
                    }
                }
                first = Some(got);
                continue;
            };
            let bits = |x: &Vec<Vec<f64>>| x.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&got) == bits(first), "{what} {isa}: {threads} threads give other bits");
        }
    }
    parallel
}

/// Each backend once: threads are not free.
fn backend(threads: usize, isa: Isa) -> Arc<CpuBackend> {
    type Known = HashMap<(usize, Isa), Arc<CpuBackend>>;
    thread_local! {
        static KNOWN: RefCell<Known> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        let new = || Arc::new(CpuBackend::with_isa(threads, isa).unwrap());
        known.entry((threads, isa)).or_insert_with(new).clone()
    })
}
