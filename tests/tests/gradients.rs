//! Derivatives of everything: fused against composed, and both against differences, to the second order.
//!
//! ```text
//! for each sample of each function, five seeds:        for each differentiable method of Tensor, three shapes, five seeds:
//!   forward  = composition, with and without kernels     gradcheck, gradgradcheck
//!   backward = gradient of the composition
//!   gradcheck, gradgradcheck in f64
//! ```
//!
//! "Without kernels" is a backend written outside the engine that answers every `support` with "compose"; see
//! `attentia_tests::outside`.

use attentia_backend::{Alignment, Binary, Causal, CrossEntropy, DType, Device, Dropout, RngKey, Unary};
use attentia_cpu::CpuBackend;
use attentia_reference::ReferenceBackend;
use attentia_tensor::{
    Attention, GradcheckOptions, Result, Sample, Tensor, Var, WeightMap, functions, grad, gradcheck, gradgradcheck,
};
use attentia_tests::outside::Outside;
use std::{collections::BTreeSet, fs, path::Path};

const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

/// Fused f64 against composed f64: some roundings in another order, of numbers near 1 that cancel at most a few digits.
const COMPOSED: f64 = 1e-10;

fn options() -> GradcheckOptions {
    let options = GradcheckOptions::default();
    assert_eq!((options.rtol, options.atol), (1e-5, 1e-7));
    options
}

fn cpu() -> Device {
    Device::new(CpuBackend::new(1).unwrap())
}

/// The inputs of a sample on a device, moved a little: still of the same sign, and as far from kinks as the sample says.
fn inputs(sample: &Sample, seed: u64, device: &Device) -> Result<Vec<Tensor>> {
    let moved = |(i, x): (usize, Tensor)| {
        if !x.dtype().is_float() || seed == SEEDS[0] {
            return Ok(x);
        }
        let key = RngKey::new(seed).call(i as u64);
        // Drawn by the stream's own rule, so that every device draws the same.
        let factor = Tensor::rand_uniform(key, 0.96, 1.04, x.shape(), x.dtype(), device)?;
        &x * &factor
    };
    sample.inputs(device)?.into_iter().enumerate().map(moved).collect()
}

/// Inputs that require gradients where they can.
fn leaves(inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    inputs
        .iter()
        .map(|x| if x.dtype().is_float() { Ok(Var::new(x.clone())?.tensor()) } else { Ok(x.clone()) })
        .collect()
}

type Run<'a> = &'a dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>;

/// Outputs, and the gradients of their weighted sum, as host numbers.
fn outputs_and_gradients(run: Run, inputs: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    let host = |x: &Tensor| x.detach().to_dtype(DType::F64)?.to_vec::<f64>();
    let leaves = leaves(inputs)?;
    let outputs = run(&leaves)?;
    let mut all = outputs.iter().map(host).collect::<Result<Vec<_>>>()?;
    let mut loss: Option<Tensor> = None;
    for (j, y) in outputs.iter().enumerate().filter(|(_, y)| y.requires_grad()) {
        let weight = Tensor::rand_uniform(RngKey::new(99).call(j as u64), 0.5, 1.5, y.shape(), y.dtype(), y.device())?;
        let term = (y * &weight)?.sum_all()?;
        loss = Some(match loss {
            Some(loss) => (loss + term)?,
            None => term,
        });
    }
    let wanted: Vec<&Tensor> = leaves.iter().filter(|x| x.requires_grad()).collect();
    if let (Some(loss), false) = (loss, wanted.is_empty()) {
        for (gradient, x) in grad(&[&loss], None, &wanted, false)?.into_iter().zip(wanted) {
            all.push(match gradient {
                Some(gradient) => host(&gradient)?,
                None => vec![0.0; x.count()],
            });
        }
    }
    Ok(all)
}

fn assert_same(what: &str, a: &[Vec<f64>], b: &[Vec<f64>]) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (n, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.len(), b.len(), "{what}: result {n}");
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            let same = x == y || (x - y).abs() <= COMPOSED * (1.0 + y.abs()) || x.is_nan() && y.is_nan();
            assert!(same, "{what}: result {n}, element {i}: {x:e} and {y:e}");
        }
    }
}

#[test]
fn fused_equals_composed_on_every_backend() {
    for device in [Device::new(ReferenceBackend::new()), cpu()] {
        let composed = Device::new(Outside::compose_only(device.clone()));
        for sample in functions() {
            for seed in SEEDS {
                let what = format!("{} on {}, seed {seed}", sample.id, device.name());
                let fused = outputs_and_gradients(&|x| sample.run(x), &inputs(&sample, seed, &device).unwrap());
                let fused = fused.unwrap_or_else(|e| panic!("{what}: {e}"));
                let definition =
                    outputs_and_gradients(&|x| sample.compose(x), &inputs(&sample, seed, &device).unwrap());
                assert_same(&what, &fused, &definition.unwrap_or_else(|e| panic!("{what}: {e}")));
                let hidden = outputs_and_gradients(&|x| sample.compose(x), &inputs(&sample, seed, &composed).unwrap());
                assert_same(&what, &fused, &hidden.unwrap_or_else(|e| panic!("{what} without kernels: {e}")));
            }
        }
    }
}

#[test]
fn samples_pass_gradcheck_and_gradgradcheck() {
    let device = cpu();
    for sample in functions() {
        for seed in SEEDS {
            let inputs = inputs(&sample, seed, &device).unwrap();
            gradcheck(|x| sample.run(x), &inputs, options())
                .unwrap_or_else(|e| panic!("{} seed {seed}: {e}", sample.id));
            gradgradcheck(|x| sample.run(x), &inputs, options())
                .unwrap_or_else(|e| panic!("{} seed {seed}, second order: {e}", sample.id));
        }
    }
}

#[test]
fn samples_pass_on_the_oracle() {
    let device = Device::new(ReferenceBackend::new());
    for sample in functions() {
        sample.check(&device).unwrap();
    }
}

/// Names of the types for which `Function` is implemented in a folder's sources; tests and examples apart.
fn implementations(folder: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "tests") {
            implementations(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.lines().filter_map(|line| line.strip_prefix("impl Function for "));
            found.extend(names.map(|name| name.trim_end_matches(" {").to_owned()));
        }
    }
}

#[test]
fn every_function_and_every_variant_has_a_sample() {
    let samples = functions();
    let mut found = BTreeSet::new();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    for entry in fs::read_dir(crates).unwrap() {
        implementations(&entry.unwrap().path().join("src"), &mut found);
    }
    assert!(found.len() > 25, "the search found only {found:?}");
    let listed: BTreeSet<String> = samples.iter().map(|s| s.function.to_owned()).collect();
    assert_eq!(found, listed, "implementations, and those with samples");
    let has = |name: &str| samples.iter().any(|s| s.id.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')));
    for op in Unary::ALL.into_iter().filter(|op| op.accepts(DType::F64)) {
        assert!(has(op.name()), "{} has no sample", op.name());
    }
    for op in Binary::ALL.into_iter().filter(|op| op.accepts(DType::F64)) {
        assert!(has(op.name()), "{} has no sample", op.name());
    }
}

/// Numbers at which a method is smooth.
#[derive(Clone, Copy)]
enum Domain {
    /// Of both signs, away from 0 and from halves.
    Signed,
    /// Above 0.3.
    Positive,
}

struct Method {
    name: &'static str,
    domains: &'static [Domain],
    run: fn(&[Tensor]) -> Result<Tensor>,
}

fn method(name: &'static str, domains: &'static [Domain], run: fn(&[Tensor]) -> Result<Tensor>) -> Method {
    Method { name, domains, run }
}

/// The differentiable methods that accept any shape of rank 2 or more.
fn methods() -> Vec<Method> {
    use Domain::{Positive, Signed};
    const ONE: &[Domain] = &[Signed];
    const TWO: &[Domain] = &[Signed, Signed];
    vec![
        method("neg", ONE, |x| x[0].neg()),
        method("abs", ONE, |x| x[0].abs()),
        method("sign", ONE, |x| x[0].sign()),
        method("square", ONE, |x| x[0].square()),
        method("sqrt", &[Positive], |x| x[0].sqrt()),
        method("rsqrt", &[Positive], |x| x[0].rsqrt()),
        method("reciprocal", ONE, |x| x[0].reciprocal()),
        method("exp", ONE, |x| x[0].exp()),
        method("expm1", ONE, |x| x[0].expm1()),
        method("log", &[Positive], |x| x[0].log()),
        method("log1p", &[Positive], |x| x[0].log1p()),
        method("sin", ONE, |x| x[0].sin()),
        method("cos", ONE, |x| x[0].cos()),
        method("tanh", ONE, |x| x[0].tanh()),
        method("sigmoid", ONE, |x| x[0].sigmoid()),
        method("erf", ONE, |x| x[0].erf()),
        method("relu", ONE, |x| x[0].relu()),
        method("floor", ONE, |x| x[0].floor()),
        method("ceil", ONE, |x| x[0].ceil()),
        method("round", ONE, |x| x[0].round()),
        method("add_scalar", ONE, |x| x[0].add_scalar(0.7)),
        method("sub_scalar", ONE, |x| x[0].sub_scalar(0.7)),
        method("mul_scalar", ONE, |x| x[0].mul_scalar(-1.3)),
        method("div_scalar", ONE, |x| x[0].div_scalar(0.7)),
        method("pow_scalar", &[Positive], |x| x[0].pow_scalar(1.7)),
        method("clamp", ONE, |x| x[0].clamp(-0.05, 0.05)),
        method("add", TWO, |x| &x[0] + &x[1]),
        method("sub", TWO, |x| &x[0] - &x[1]),
        method("mul", TWO, |x| &x[0] * &x[1]),
        method("div", &[Signed, Positive], |x| &x[0] / &x[1]),
        method("pow", &[Positive, Signed], |x| x[0].pow(&x[1])),
        method("maximum", TWO, |x| x[0].maximum(&x[1])),
        method("minimum", TWO, |x| x[0].minimum(&x[1])),
        method("broadcast mul", TWO, |x| &x[0] * &x[1].narrow(-1, 0, 1)?),
        method("where_cond", TWO, |x| Tensor::where_cond(&x[0].detach().gt_scalar(0.0)?, &x[0], &x[1])),
        method("masked_fill", ONE, |x| x[0].masked_fill(&x[0].detach().lt_scalar(0.0)?, 2.0)),
        method("sum", ONE, |x| x[0].sum(&[-1], false)),
        method("sum_all", ONE, |x| x[0].sum_all()),
        method("mean", ONE, |x| x[0].mean(&[0], true)),
        method("var", ONE, |x| x[0].var(&[0], 0, false)),
        method("max", ONE, |x| x[0].max(&[-1], false)),
        method("min", ONE, |x| x[0].min(&[0], false)),
        method("prod", ONE, |x| x[0].prod(&[-1], false)),
        method("logsumexp", ONE, |x| x[0].logsumexp(-1, false)),
        method("cumsum", ONE, |x| x[0].cumsum(0)),
        method("sort", ONE, |x| Ok(x[0].sort(-1, true)?.0)),
        method("topk", ONE, |x| Ok(x[0].topk(2, -1, true)?.0)),
        method("matmul", TWO, |x| x[0].matmul(&x[1].transpose(-1, -2)?)),
        method("matmul with a matrix", TWO, |x| x[0].matmul(&x[1].select(0, 0)?.unsqueeze(-1)?)),
        method("reshape", ONE, |x| x[0].transpose(-1, -2)?.reshape(&[-1])),
        method("permute", ONE, |x| x[0].transpose(0, -1)?.square()),
        method("broadcast_to", ONE, |x| {
            let shape = [&[2], x[0].shape().as_slice()].concat();
            x[0].broadcast_to(&shape)?.square()
        }),
        method("slice", ONE, |x| x[0].slice(-1, .., -1)?.square()),
        method("flip", ONE, |x| x[0].flip(0)?.exp()),
        method("pad", ONE, |x| {
            let mut pads = vec![(0, 0); x[0].rank()];
            pads[0] = (1, 2);
            x[0].pad(&pads, 0.5)?.square()
        }),
        method("cat", TWO, |x| Tensor::cat(&[&x[0], &x[1], &x[0]], -1)?.square()),
        method("stack", TWO, |x| Tensor::stack(&[&x[0], &x[1]], 0)?.square()),
        method("split", ONE, |x| {
            let parts = x[0].chunk(2, -1)?;
            parts[0].square()?.sum_all()? + parts[parts.len() - 1].exp()?.sum_all()?
        }),
        method("index_select", ONE, |x| {
            x[0].index_select(0, &Tensor::from_slice(&[1i64, 0, 1], &[3], x[0].device())?)?.square()
        }),
        method("tril", ONE, |x| x[0].tril(0)?.square()),
        method("softmax", ONE, |x| x[0].softmax(-1)),
        method("softmax along 0", ONE, |x| x[0].softmax(0)),
        method("log_softmax", ONE, |x| x[0].log_softmax(-1)),
        method("masked_softmax", ONE, |x| x[0].masked_softmax(&x[0].detach().gt_scalar(-0.4)?, -1)),
        method("gelu", ONE, |x| x[0].gelu()),
        method("gelu_tanh", ONE, |x| x[0].gelu_tanh()),
        method("silu", ONE, |x| x[0].silu()),
        method("dropout", ONE, |x| x[0].dropout(0.3, RngKey::new(5))?.square()),
        method("layer_norm", TWO, |x| {
            let row = x[1].flatten()?.narrow(0, 0, x[0].shape()[x[0].rank() - 1])?;
            x[0].layer_norm(Some(&row), Some(&row), 1e-2)
        }),
        method("rms_norm", TWO, |x| {
            x[0].rms_norm(Some(&x[1].flatten()?.narrow(0, 0, x[0].shape()[x[0].rank() - 1])?), 1e-2)
        }),
        method("cross_entropy", ONE, |x| {
            let logits = x[0].reshape(&[-1, x[0].shape()[x[0].rank() - 1] as isize])?;
            let rows = logits.shape()[0];
            let targets: Vec<i64> = (0..rows as i64).map(|n| if n == 1 { -100 } else { n % 2 }).collect();
            let targets = Tensor::from_slice(&targets, &[rows], x[0].device())?;
            logits.cross_entropy(&targets, CrossEntropy { label_smoothing: 0.1, ignore_index: Some(-100) })
        }),
        method("embedding", ONE, |x| {
            let table = x[0].reshape(&[2, -1])?;
            table.embedding(&Tensor::from_slice(&[1i64, 0, 1], &[3], x[0].device())?)?.square()
        }),
        method("gather", ONE, |x| {
            let index = x[0].detach().topk(2, -1, true)?.1;
            x[0].gather(-1, &index)?.square()
        }),
        method("scatter_add", TWO, |x| {
            let index = x[0].detach().sort(-1, false)?.1;
            x[0].scatter_add(-1, &index, &x[1])?.square()
        }),
    ]
}

fn operand(domain: Domain, seed: u64, shape: &[usize], device: &Device) -> Result<Tensor> {
    let key = RngKey::new(seed);
    let size = Tensor::rand_uniform(key, 0.1, 0.4, shape, DType::F64, device)?;
    // Steps keep all elements of an operand apart, so that no extreme and no order is at a tie.
    let steps = Tensor::arange(0, size.count(), 1, DType::F64, device)?.mul_scalar(2e-3)?;
    let size = (size + steps.reshape(&shape.iter().map(|&e| e as isize).collect::<Vec<_>>())?)?;
    match domain {
        Domain::Positive => size + 0.3,
        Domain::Signed => {
            let sign = Tensor::rand_uniform(key.call(1), -1.0, 1.0, shape, DType::F64, device)?;
            size * sign.sign()?
        }
    }
}

#[test]
fn methods_pass_at_three_shapes() {
    let device = cpu();
    for method in methods() {
        for shape in [&[2, 2][..], &[4, 3], &[2, 2, 3]] {
            for seed in SEEDS {
                let operands = method.domains.iter().enumerate();
                let operands = operands.map(|(i, d)| operand(*d, seed * 31 + i as u64, shape, &device));
                let inputs = operands.collect::<Result<Vec<_>>>().unwrap();
                let run = |x: &[Tensor]| Ok(vec![(method.run)(x)?]);
                let what = format!("{} at {shape:?}, seed {seed}", method.name);
                gradcheck(run, &inputs, options()).unwrap_or_else(|e| panic!("{what}: {e}"));
                gradgradcheck(run, &inputs, options()).unwrap_or_else(|e| panic!("{what}, second order: {e}"));
            }
        }
    }
}

#[test]
fn a_wrong_gradient_is_found() {
    // The detached factor hides half of the derivative of x².
    let device = cpu();
    let x = operand(Domain::Signed, 1, &[3], &device).unwrap();
    let error = gradcheck(|x| Ok(vec![(&x[0] * &x[0].detach())?]), &[x], options()).unwrap_err();
    assert!(error.to_string().contains("input 0 at [0]"), "{error}");
}

#[test]
fn maps_of_attention_pass_gradcheck() {
    let device = cpu();
    let random =
        |seed, shape: &[usize]| Tensor::rand_uniform(RngKey::new(seed), -1.5, 1.5, shape, DType::F64, &device).unwrap();
    let ids = |extent: usize| {
        let ids: Vec<i64> = (0..extent as i64).map(|i| i * 2 % 5 - 1).collect();
        Tensor::from_slice(&ids, &[1, extent], &device).unwrap()
    };
    let (queries, keys) = (ids(3), ids(5));
    let inputs = [random(1, &[1, 4, 3, 2]), random(2, &[1, 2, 5, 2]), random(3, &[4, 3, 5]), random(4, &[1, 4, 3])];
    let more = [inputs.to_vec(), vec![random(5, &[1, 2, 5, 3]), random(6, &[1, 4, 3, 3])]].concat();
    for causal in [Causal::No, Causal::Yes(Alignment::BottomRight), Causal::Yes(Alignment::TopLeft)] {
        // q, k, a bias, and weights of the rows.
        let maps = |x: &[Tensor]| {
            let biases = [&x[2]];
            let attention = Attention { causal, biases: &biases, ..Attention::new(&x[0], &x[1], &x[1]) };
            let lse = attention.run()?.lse;
            let maps = [
                WeightMap::Columns { weights: None },
                WeightMap::Columns { weights: Some(&x[3]) },
                WeightMap::Totals,
                WeightMap::Diagonals,
                WeightMap::Blocks { size: 2 },
                WeightMap::Segments { queries: &queries, keys: &keys, count: 3 },
                WeightMap::Top { k: 3 },
                WeightMap::Rows { queries: &[2, 0] },
            ];
            let all = attention.maps(&lse, &maps)?.into_iter().flatten();
            Ok(all.filter(|map| map.dtype().is_float()).collect::<Vec<_>>())
        };
        gradcheck(maps, &inputs, options()).unwrap_or_else(|e| panic!("{causal:?}: {e}"));
        gradgradcheck(maps, &inputs, options()).unwrap_or_else(|e| panic!("{causal:?}, second order: {e}"));
        // Where nothing is recorded the kernel runs; else the composition, for the same numbers.
        let host = |all: Vec<Tensor>| all.iter().map(|x| x.detach().to_vec::<f64>().unwrap()).collect::<Vec<_>>();
        let recorded = host(maps(&leaves(&inputs).unwrap()).unwrap());
        assert_same("maps", &host(maps(&inputs).unwrap()), &recorded);
        // The same, values and the gradient by the output.
        let times_gradients = |x: &[Tensor]| {
            let biases = [&x[2]];
            let dropout = Some(Dropout { p: 0.3, key: RngKey::new(9) });
            let attention = Attention { causal, dropout, biases: &biases, ..Attention::new(&x[0], &x[1], &x[4]) };
            let lse = attention.run()?.lse;
            let maps = [
                WeightMap::Columns { weights: Some(&x[3]) },
                WeightMap::Totals,
                WeightMap::Diagonals,
                WeightMap::Blocks { size: 2 },
                WeightMap::Segments { queries: &queries, keys: &keys, count: 3 },
                WeightMap::Rows { queries: &[2, 0] },
            ];
            Ok(attention.gradient_maps(&lse, &x[5], &maps)?.into_iter().flatten().collect::<Vec<_>>())
        };
        gradcheck(times_gradients, &more, options()).unwrap_or_else(|e| panic!("{causal:?}, times gradients: {e}"));
        let recorded = host(times_gradients(&leaves(&more).unwrap()).unwrap());
        assert_same("gradient maps", &host(times_gradients(&more).unwrap()), &recorded);
    }
}
