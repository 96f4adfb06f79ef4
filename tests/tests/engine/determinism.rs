//! The same bits: for any number of threads, every time, in any batch.

use crate::{bits, cpu, model::forward_and_backward, random, with_gradients};
use attentia_backend::{CrossEntropy, DType, Device, RngKey};
use attentia_cpu::{CpuBackend, Isa};
use attentia_tensor::{Result, Tensor};

fn parallel_runs(device: &Device) -> usize {
    device.as_any().downcast_ref::<CpuBackend>().map_or(0, CpuBackend::parallel_runs)
}

type Work = fn(&Device) -> Result<Vec<Tensor>>;

/// Sizes at which more than one worker runs.
fn works() -> Vec<(&'static str, Work)> {
    vec![
        ("matmul", |d| {
            let inputs = [random(1, &[300, 257], DType::F32, d)?, random(2, &[257, 310], DType::F32, d)?];
            with_gradients(&inputs, |x| Ok(vec![x[0].matmul(&x[1])?]))
        }),
        ("matmul of long rows", |d| {
            Ok(vec![random(1, &[3, 40_003], DType::F32, d)?.matmul(&random(2, &[40_003, 5], DType::F32, d)?)?])
        }),
        ("matmul bf16", |d| {
            let inputs = [random(1, &[4, 130, 129], DType::Bf16, d)?, random(2, &[129, 200], DType::Bf16, d)?];
            with_gradients(&inputs, |x| Ok(vec![x[0].matmul(&x[1])?]))
        }),
        ("sums", |d| {
            let x = random(3, &[1001, 1003], DType::F32, d)?;
            Ok(vec![x.sum_all()?, x.sum(&[0], false)?, x.sum(&[1], false)?, x.mean_all()?, x.var(&[0, 1], 1, false)?])
        }),
        ("extremes", |d| {
            let x = random(4, &[301, 2003], DType::F32, d)?;
            Ok(vec![x.max(&[1], false)?, x.argmax(0, false)?, x.cumsum(1)?, x.topk(7, 1, true)?.0])
        }),
        ("softmax", |d| {
            with_gradients(&[random(5, &[300, 777], DType::F32, d)?], |x| {
                Ok(vec![x[0].softmax(-1)?, x[0].log_softmax(-1)?, x[0].softmax(0)?])
            })
        }),
        ("layer_norm backward", |d| {
            let inputs = [
                random(6, &[2000, 129], DType::F32, d)?,
                random(7, &[129], DType::F32, d)?,
                random(8, &[129], DType::F32, d)?,
            ];
            with_gradients(&inputs, |x| {
                Ok(vec![x[0].layer_norm(Some(&x[1]), Some(&x[2]), 1e-5)?, x[0].rms_norm(Some(&x[1]), 1e-5)?])
            })
        }),
        ("embedding backward", |d| {
            let ids: Vec<i64> = (0..5000i64).map(|i| i * 7919 % 97).collect();
            let ids = Tensor::from_slice(&ids, &[5000], d)?;
            with_gradients(&[random(9, &[97, 64], DType::F32, d)?], |x| Ok(vec![x[0].embedding(&ids)?]))
        }),
        ("scatter_add", |d| {
            let index: Vec<i64> = (0..200_000i64).map(|i| i * 31 % 1009).collect();
            let index = Tensor::from_slice(&index, &[100, 2000], d)?;
            let (x, src) = (random(10, &[100, 1009], DType::F32, d)?, random(11, &[100, 2000], DType::F32, d)?);
            with_gradients(&[x, src], |x| Ok(vec![x[0].scatter_add(1, &index, &x[1])?]))
        }),
        ("cross_entropy", |d| {
            let targets: Vec<i64> = (0..500).map(|i| i % 401).collect();
            let targets = Tensor::from_slice(&targets, &[500], d)?;
            with_gradients(&[random(12, &[500, 401], DType::F32, d)?], |x| {
                Ok(vec![x[0].cross_entropy(&targets, CrossEntropy::default())?])
            })
        }),
        ("activations and random numbers", |d| {
            let x = Tensor::randn(RngKey::new(13), &[300, 501], DType::F32, d)?;
            with_gradients(&[x], |x| Ok(vec![x[0].gelu()?, x[0].silu()?, x[0].dropout(0.2, RngKey::new(1))?]))
        }),
        ("forward and backward f32", |d| forward_and_backward(d, DType::F32)),
        ("forward and backward bf16", |d| forward_and_backward(d, DType::Bf16)),
    ]
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let device = |threads| Device::new(CpuBackend::with_isa(threads, isa).unwrap());
        let [one, two, three, seven] = [1, 2, 3, 7].map(device);
        for (name, work) in works() {
            let all_bits = |d: &Device| work(d).unwrap().iter().map(|x| bits(x).unwrap()).collect::<Vec<_>>();
            let alone = all_bits(&one);
            for many in [&two, &three, &seven] {
                let before = parallel_runs(many);
                let together = all_bits(many);
                assert!(parallel_runs(many) > before, "{name} at {isa} never used a second worker");
                for (i, (a, b)) in alone.iter().zip(&together).enumerate() {
                    assert!(a == b, "{name} at {isa}: result {i} depends on the number of threads");
                }
            }
        }
        assert_eq!(parallel_runs(&one), 0);
    }
}

#[test]
fn gradients_are_the_same_thirty_times() {
    let device = cpu(3);
    let run =
        || forward_and_backward(&device, DType::F32).unwrap().iter().map(|x| bits(x).unwrap()).collect::<Vec<_>>();
    let first = run();
    for n in 1..30 {
        assert!(run() == first, "run {n} differs");
    }
}

type Operation<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

#[test]
fn rows_do_not_depend_on_their_batch() {
    let device = cpu(2);
    for dtype in [DType::F32, DType::Bf16] {
        let x = random(1, &[64, 257], dtype, &device).unwrap();
        let gain = random(2, &[257], dtype, &device).unwrap();
        let operations: [(&str, Operation); 4] = [
            ("softmax", &|x| x.softmax(-1)),
            ("layer_norm", &|x| x.layer_norm(Some(&gain), None, 1e-5)),
            ("rms_norm", &|x| x.rms_norm(Some(&gain), 1e-5)),
            ("gelu", &|x| x.gelu()),
        ];
        for (name, operation) in operations {
            let together = operation(&x).unwrap();
            for row in [0, 1, 31, 63] {
                let alone = operation(&x.narrow(0, row, 1).unwrap()).unwrap();
                assert_eq!(bits(&alone).unwrap(), bits(&together.narrow(0, row, 1).unwrap()).unwrap(), "{name} {row}");
            }
        }
    }
}
