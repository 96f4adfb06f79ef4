//! For tests: the same call on the reference backend and on this one, at each instruction set and number of threads.
//!
//! ```text
//! check      a case makes its operands on the backend that it is given, and returns what is to be compared
//! compare    a call with operands given as numbers, close in units of the last place
//! ```

mod sample;

pub(crate) use sample::{Lie, Numbers, Sample, layouts, scattered, shape};

use crate::{CpuBackend, Isa};
use attentia_backend::{Backend, DType, Result, View, ViewMut};
use attentia_reference::ReferenceBackend;
use std::{cell::RefCell, collections::HashMap, sync::Arc};

/// Numbers of threads that must give the same bits.
const THREADS: [usize; 4] = [1, 2, 3, 7];
/// The one whose memory ends at inaccessible pages, where the system has them: a kernel that reaches further ends the process.
const GUARDED: usize = 2;

/// Runs `case` on the oracle and on every instruction set: close to the oracle (see [`tolerance`]), and the same bits
/// for any number of threads. Returns how many loops ran in parallel.
pub(crate) fn check(what: &str, case: impl Fn(&dyn Backend) -> Vec<Sample>) -> usize {
    run(
        || what.to_owned(),
        &THREADS,
        case,
        |dtype, got, expected, greatest| (got - expected).abs() <= tolerance(dtype, expected.abs(), greatest),
    )
}

/// A call with operands to read and destinations to write.
pub(crate) type Call<'a> = dyn Fn(&dyn Backend, &[View], Vec<ViewMut>) -> Result<()> + 'a;

/// As [`check`], within `ulp` units in the last place of the destination's dtype.
pub(crate) fn compare(what: &str, inputs: &[Numbers], outs: &[Numbers], ulp: f64, call: &Call) -> usize {
    let case = |b: &dyn Backend| {
        let inputs: Vec<Sample> = inputs.iter().map(|x| x.on(b)).collect();
        let mut outs: Vec<Sample> = outs.iter().map(|x| x.on(b)).collect();
        let views: Vec<View> = inputs.iter().map(Sample::view).collect();
        let destinations = outs.iter_mut().map(Sample::view_mut).collect();
        call(b, &views, destinations).unwrap_or_else(|e| panic!("{what} on {}: {e:?}", b.name()));
        outs
    };
    // What is smaller is one task, and runs on the caller's thread.
    let large = inputs.iter().chain(outs).any(|x| x.layout.count() > 4000);
    let layouts = |all: &[Numbers]| all.iter().map(|x| (x.dtype, x.layout)).collect::<Vec<_>>();
    let what = || format!("{what} of {:?} to {:?}", layouts(inputs), layouts(outs));
    run(what, &THREADS[..if large { 4 } else { 1 }], case, |dtype, got, expected, _| ulps(dtype, got, expected) <= ulp)
}

/// `close` is asked about two numbers that differ, in a tensor whose greatest finite number is the last argument.
fn run(
    what: impl Fn() -> String,
    threads: &[usize],
    case: impl Fn(&dyn Backend) -> Vec<Sample>,
    close: impl Fn(DType, f64, f64, f64) -> bool,
) -> usize {
    let reference = ReferenceBackend::new();
    let expected: Vec<(DType, Vec<f64>)> = case(&reference).iter().map(|x| (x.dtype(), x.values(&reference))).collect();
    let mut parallel = 0;
    // The sets beyond are for products only, and have their own tests.
    for isa in Isa::ALL.into_iter().filter(|isa| *isa <= Isa::Avx512 && isa.is_available()) {
        let mut first: Option<Vec<Vec<f64>>> = None;
        for &threads in threads {
            let cpu = backend(threads, isa);
            let before = cpu.parallel_runs();
            let results: Vec<Vec<f64>> = case(&*cpu).iter().map(|x| x.values(&*cpu)).collect();
            parallel += cpu.parallel_runs() - before;
            if let Some(first) = &first {
                let bits = |x: &[Vec<f64>]| x.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert!(bits(&results) == bits(first), "{}, {isa}: other bits with {threads} threads", what());
                continue;
            }
            for (which, (result, (dtype, expected))) in results.iter().zip(&expected).enumerate() {
                assert_eq!(result.len(), expected.len());
                let greatest = expected.iter().filter(|x| x.is_finite()).fold(0.0, |m: f64, x| m.max(x.abs()));
                for (place, (&got, &want)) in result.iter().zip(expected).enumerate() {
                    let same = got == want || got.is_nan() && want.is_nan();
                    assert!(
                        same || close(*dtype, got, want, greatest),
                        "{}, {isa}, result {which}, place {place}: {got:e} for {want:e}",
                        what()
                    );
                }
            }
            first = Some(results);
        }
    }
    parallel
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

/// Distance of two numbers that differ, in units of the last place of a dtype at the expected value.
fn ulps(dtype: DType, got: f64, expected: f64) -> f64 {
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

/// Each backend once: threads are not free.
fn backend(threads: usize, isa: Isa) -> Arc<CpuBackend> {
    type Known = HashMap<(usize, Isa), Arc<CpuBackend>>;
    thread_local! {
        static KNOWN: RefCell<Known> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        let guarded = threads == GUARDED && cfg!(unix);
        let new = || if guarded { CpuBackend::guarded(threads, isa) } else { CpuBackend::with_isa(threads, isa) };
        known.entry((threads, isa)).or_insert_with(|| Arc::new(new().unwrap())).clone()
    })
}
