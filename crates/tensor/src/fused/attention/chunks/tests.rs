//! Chunks against the whole, to the third derivative, and what they hold in memory.

use super::*;
use crate::{
    Attention, DType, Device, RngKey, Sample, Statistic, Var, functions, grad, gradcheck::leaf, gradcheck::weights,
    tests::device, without_kernels,
};

/// Sums over rows in another order, of f64 numbers near 1.
const REORDERED: f64 = 1e-11;

/// A row of the samples: two sequences, four heads, five keys.
const ROW: usize = 2 * 4 * 5 * 8;

fn values(x: &Tensor) -> Vec<f64> {
    x.detach().to_vec().unwrap()
}

/// Outputs, gradients of their weighted sum, and gradients of the weighted sum of these.
fn derivatives(sample: &Sample) -> [Vec<Vec<f64>>; 3] {
    let leaves: Vec<Tensor> = sample.inputs(&device()).unwrap().iter().map(|x| leaf(x).unwrap()).collect();
    let wanted: Vec<&Tensor> = leaves.iter().filter(|x| x.requires_grad()).collect();
    let differentiated = |outputs: &[Tensor], create_graph: bool| -> Vec<Tensor> {
        let weights = weights(outputs, RngKey::new(3)).unwrap();
        let pairs = outputs.iter().zip(&weights).filter(|(y, _)| y.requires_grad());
        let (roots, seeds): (Vec<_>, Vec<_>) = pairs.filter_map(|(y, w)| Some((y, w.as_ref()?))).unzip();
        let gradients = grad(&roots, Some(&seeds), &wanted, create_graph).unwrap();
        gradients.into_iter().zip(&wanted).map(|(g, x)| g.unwrap_or_else(|| x.zeros_like().unwrap())).collect()
    };
    let outputs = sample.run(&leaves).unwrap();
    let first = differentiated(&outputs, true);
    let second = differentiated(&first, false);
    [outputs, first, second].map(|tensors| tensors.iter().map(values).collect())
}

#[test]
fn chunks_give_what_the_whole_gives() {
    let samples = functions().into_iter().filter(|sample| sample.function.starts_with("Attention"));
    for sample in samples {
        for kernels in [true, false] {
            let of = |budget| {
                let run = || with_budget(budget, || derivatives(&sample));
                if kernels { run() } else { without_kernels(run) }
            };
            let whole = of(usize::MAX);
            // One row at a time, below the budget and above it, and two rows, then one.
            for budget in [0, ROW, 2 * ROW] {
                let chunked = of(budget);
                let forward = sample.function == "AttentionFunction";
                assert!(!forward || whole[0] == chunked[0], "{}: rows of the forward have other bits", sample.id);
                for (order, (a, b)) in whole.iter().zip(&chunked).enumerate() {
                    assert_eq!(a.len(), b.len());
                    for (x, y) in a.iter().flatten().zip(b.iter().flatten()) {
                        let close = x == y || (x - y).abs() <= REORDERED * (1.0 + x.abs());
                        assert!(close, "{}, kernels {kernels}, {budget} bytes, {order}: {x} and {y}", sample.id);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_are_shared_out_evenly_and_a_row_above_the_budget_is_a_chunk() {
    let device = device();
    let of = |t: usize, bytes: usize| {
        let (q, k) = ([1, 2, t, 3], [1, 1, 8, 3]);
        let [q, k] = [&q, &k].map(|shape| Tensor::zeros(shape, DType::F32, &device).unwrap());
        let call = Attention::new(&q, &k, &k);
        let chunks = with_budget(bytes, || chunks(&call.function().unwrap(), &call.inputs()));
        assert!(chunks.iter().all(|chunk| chunk.of == t));
        chunks.iter().map(|chunk| (chunk.first, chunk.rows)).collect::<Vec<_>>()
    };
    let row = 2 * 8 * 4;
    assert_eq!(of(7, 7 * row), [(0, 7)]);
    assert_eq!(of(7, 7 * row - 1), [(0, 4), (4, 3)]);
    assert_eq!(of(7, 3 * row), [(0, 3), (3, 2), (5, 2)]);
    assert_eq!(of(2, row - 1), [(0, 1), (1, 1)]);
    assert_eq!(of(0, 0), [(0, 0)]);
}

/// Queries and keys of the calls whose memory is measured, and bytes of their scores in f64.
const LONG: usize = 512;
const SCORES: usize = LONG * LONG * 8;

/// Peak of a device on which `f` ran.
fn peak(budget: usize, f: impl FnOnce(&Device)) -> usize {
    let device = device();
    with_budget(budget, || f(&device));
    device.memory().peak
}

fn long(device: &Device) -> Tensor {
    let x = Tensor::randn(RngKey::new(1), &[1, 1, LONG, 2], DType::F64, device).unwrap();
    Var::new(x).unwrap().tensor()
}

fn entropy(x: &Tensor) -> Tensor {
    let attention = Attention { statistics: &[Statistic::Entropy], ..Attention::new(x, x, x) };
    attention.run().unwrap().statistics.remove(0).sum_all().unwrap()
}

fn gradient_of_a_statistic(device: &Device) {
    entropy(&long(device)).backward().unwrap();
}

fn gradient_without_a_kernel(device: &Device) {
    without_kernels(|| gradient_of_a_statistic(device));
}

fn gradient_of_a_map(device: &Device) {
    let x = long(device);
    let attention = Attention::new(&x, &x, &x);
    let mass = attention.column_mass(&attention.run().unwrap().lse, None).unwrap();
    mass.square().unwrap().sum_all().unwrap().backward().unwrap();
}

fn second_derivative(device: &Device) {
    let x = long(device);
    let output = Attention::new(&x, &x, &x).run().unwrap().output.square().unwrap().sum_all().unwrap();
    let slope = grad(&[&output], None, &[&x], true).unwrap().remove(0).unwrap();
    slope.square().unwrap().sum_all().unwrap().backward().unwrap();
}

fn second_derivative_of_a_statistic(device: &Device) {
    let x = long(device);
    let slope = grad(&[&entropy(&x)], None, &[&x], true).unwrap().remove(0).unwrap();
    slope.square().unwrap().sum_all().unwrap().backward().unwrap();
}

fn second_derivative_without_a_kernel(device: &Device) {
    without_kernels(|| second_derivative_of_a_statistic(device));
}

fn second_derivative_of_a_map(device: &Device) {
    let x = long(device);
    let attention = Attention::new(&x, &x, &x);
    let mass = attention.column_mass(&attention.run().unwrap().lse, None).unwrap();
    let slope = grad(&[&mass.square().unwrap().sum_all().unwrap()], None, &[&x], true).unwrap().remove(0).unwrap();
    slope.square().unwrap().sum_all().unwrap().backward().unwrap();
}

fn third_derivative(device: &Device) {
    let x = long(device);
    let output = Attention::new(&x, &x, &x).run().unwrap().output.square().unwrap().sum_all().unwrap();
    let slope = |y: &Tensor| grad(&[y], None, &[&x], true).unwrap().remove(0).unwrap();
    let curvature = slope(&slope(&output).square().unwrap().sum_all().unwrap());
    curvature.square().unwrap().sum_all().unwrap().backward().unwrap();
}

#[test]
fn no_gradient_holds_a_whole_score_matrix() {
    for (what, run) in [
        ("gradient of a statistic", gradient_of_a_statistic as fn(&Device)),
        ("gradient without a kernel", gradient_without_a_kernel),
        ("gradient of a map", gradient_of_a_map),
        ("second derivative", second_derivative),
        ("third derivative", third_derivative),
        ("second derivative of a statistic", second_derivative_of_a_statistic),
        ("second derivative without a kernel", second_derivative_without_a_kernel),
        ("second derivative of a map", second_derivative_of_a_map),
    ] {
        let (whole, chunked) = (peak(usize::MAX, run), peak(SCORES / 64, run));
        assert!(whole > 3 * SCORES, "{what}: the whole peaks at {whole} bytes");
        assert!(chunked < SCORES, "{what}: chunks peak at {chunked} bytes");
    }
}
