//! What the engine promises beyond right numbers: the same bits for any number of threads, no hidden copies, graphs of any
//! depth, flat memory, and use from many threads.

use attentia_backend::{AdamW, Backend, CrossEntropy, DType, Device, ErrorKind, RngKey};
use attentia_cpu::{CpuBackend, Isa};
use attentia_reference::ReferenceBackend;
use attentia_tensor::{
    Backward, Data, Function, Result, Saver, Tensor, Var, apply, checkpoint, copy_on_write_count, grad, gradcheck,
    materialised_bytes, no_grad,
};
use attentia_tests::outside::Outside;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

fn cpu(threads: usize) -> Device {
    Device::new(CpuBackend::new(threads).unwrap())
}

fn parallel_runs(device: &Device) -> usize {
    device.as_any().downcast_ref::<CpuBackend>().map_or(0, CpuBackend::parallel_runs)
}

fn random(seed: u64, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::rand_uniform(RngKey::new(seed), -1.0, 1.0, shape, dtype, device)
}

/// The bits of a tensor, whatever its dtype.
fn bits(x: &Tensor) -> Result<Vec<u64>> {
    let x = x.detach();
    match x.dtype() {
        DType::I64 => Ok(x.to_vec::<i64>()?.into_iter().map(|x| x as u64).collect()),
        DType::F64 => Ok(x.to_vec::<f64>()?.into_iter().map(f64::to_bits).collect()),
        // Every narrower float is an f32, bit for bit.
        _ => Ok(x.to_dtype(DType::F32)?.to_vec::<f32>()?.into_iter().map(|x| x.to_bits() as u64).collect()),
    }
}

/// Outputs of a function and the gradients of their sums with respect to the inputs.
fn with_gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>) -> Result<Vec<Tensor>> {
    let leaves = inputs.iter().map(|x| Ok(Var::new(x.clone())?.tensor())).collect::<Result<Vec<_>>>()?;
    let mut all = f(&leaves)?;
    let weights = all.iter().enumerate().map(|(i, y)| random(90 + i as u64, y.shape(), y.dtype(), y.device()));
    let weights = weights.collect::<Result<Vec<_>>>()?;
    let gradients = grad(
        &all.iter().collect::<Vec<_>>(),
        Some(&weights.iter().collect::<Vec<_>>()),
        &leaves.iter().collect::<Vec<_>>(),
        false,
    )?;
    all.extend(gradients.into_iter().flatten());
    Ok(all)
}

/// Two layers with attention between them: everything that a training step of a small model does.
fn forward_and_backward(device: &Device, dtype: DType) -> Result<Vec<Tensor>> {
    let (batch, time, heads, width, classes) = (4, 96, 4, 64, 301);
    let table = random(1, &[classes, width], dtype, device)?;
    let projection = random(2, &[width, 3 * width], dtype, device)?.mul_scalar(0.125)?;
    let up = random(3, &[width, 4 * width], dtype, device)?.mul_scalar(0.125)?;
    let down = random(4, &[4 * width, width], dtype, device)?.mul_scalar(0.0625)?;
    let (gain, shift) = (random(5, &[width], dtype, device)?, random(6, &[width], dtype, device)?);
    let ids: Vec<i64> = (0..batch * time).map(|i| (i * i % classes) as i64).collect();
    let ids = Tensor::from_slice(&ids, &[batch, time], device)?;
    let future = Tensor::tril_mask(time, time, 0, device)?;
    with_gradients(&[table, projection, up, down, gain, shift], move |x| {
        let [table, projection, up, down, gain, shift] = x else { return Ok(Vec::new()) };
        let embedded = table.embedding(&ids)?; // [B, T, C]
        let normed = embedded.layer_norm(Some(gain), Some(shift), 1e-5)?;
        let qkv = normed.matmul(projection)?; // [B, T, 3C]
        let heads_of = |part: usize| {
            let part = qkv.narrow(-1, part * width, width)?; // [B, T, C]
            part.reshape(&[batch as isize, time as isize, heads as isize, -1])?.transpose(1, 2) // [B, H, T, D]
        };
        let (q, k, v) = (heads_of(0)?, heads_of(1)?, heads_of(2)?);
        let scores = q.matmul(&k.transpose(-1, -2)?)?.mul_scalar(0.25)?; // [B, H, T, T]
        let weights = scores.masked_softmax(&future, -1)?.dropout(0.1, RngKey::new(8))?;
        let mixed = weights.matmul(&v)?.transpose(1, 2)?.reshape(&[batch as isize, time as isize, -1])?; // [B, T, C]
        let hidden = (mixed + &embedded)?;
        let fed = hidden.rms_norm(Some(gain), 1e-5)?.matmul(up)?.gelu()?.matmul(down)?;
        let logits = (fed + &hidden)?.matmul(&table.t()?)?; // [B, T, V]
        let logits = logits.reshape(&[-1, classes as isize])?;
        let spec = CrossEntropy { label_smoothing: 0.1, ignore_index: None };
        Ok(vec![logits.cross_entropy(&ids.reshape(&[-1])?, spec)?.mean_all()?])
    })
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

#[test]
fn rows_do_not_depend_on_their_batch() {
    let device = cpu(2);
    for dtype in [DType::F32, DType::Bf16] {
        let x = random(1, &[64, 257], dtype, &device).unwrap();
        let gain = random(2, &[257], dtype, &device).unwrap();
        let operations: [(&str, &dyn Fn(&Tensor) -> Result<Tensor>); 4] = [
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

#[test]
fn nothing_is_copied_unasked() {
    // The only test of this file in which a reshape has to copy: the counter belongs to the process.
    let device = cpu(1);
    let x = random(1, &[4, 6, 8], DType::F32, &device).unwrap();
    let cases: [(&str, &dyn Fn() -> Result<Tensor>); 16] = [
        ("transposed product", &|| x.transpose(1, 2)?.matmul(&x)),
        ("broadcast sum", &|| &x + &x.narrow(1, 0, 1)?),
        ("reversed softmax", &|| x.flip(2)?.softmax(-1)),
        ("softmax along another axis", &|| x.softmax(1)),
        ("sliced norm", &|| x.slice(1, .., 2)?.layer_norm(None, None, 1e-5)),
        ("permuted reduction", &|| x.permute(&[2, 0, 1])?.sum(&[0, 2], false)),
        ("reshape that splits a transposed axis", &|| x.transpose(0, 1)?.reshape(&[6, 2, 2, 8])),
        ("reshape of a slice", &|| x.narrow(0, 1, 2)?.reshape(&[-1, 8])),
        ("flatten", &|| x.flatten()),
        ("windows", &|| x.i((.., 1..3, 2..7))?.gelu()),
        ("squeeze", &|| x.narrow(0, 0, 1)?.squeeze(0)?.unsqueeze(1)?.exp()),
        ("cat", &|| Tensor::cat(&[&x.transpose(0, 2)?, &x.transpose(0, 2)?], 1)),
        ("gather", &|| x.transpose(0, 2)?.gather(0, &x.transpose(0, 2)?.argmax(0, true)?)),
        ("sort of a column", &|| Ok(x.transpose(0, 2)?.sort(0, false)?.0)),
        ("cumsum of a column", &|| x.transpose(0, 2)?.cumsum(1)),
        ("embedding with a transposed table", &|| {
            x.select(0, 0)?.t()?.embedding(&Tensor::from_slice(&[3i64, 0], &[2], &device)?)
        }),
    ];
    for (name, case) in cases {
        let before = materialised_bytes();
        case().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(materialised_bytes() - before, 0, "{name} copied an operand");
    }
    let before = materialised_bytes();
    x.transpose(0, 1).unwrap().flatten().unwrap();
    assert_eq!(materialised_bytes() - before, 4 * 6 * 8 * 4, "a reshape that can't be a view is counted");
}

#[test]
fn a_strided_operand_is_read_in_place() {
    // No call of `copy`, counted at the backend: the whole step works on views.
    let (backend, calls) = Outside::counting(cpu(1));
    let device = Device::new(backend);
    let w = Var::new(random(1, &[8, 6], DType::F32, &device).unwrap()).unwrap();
    let x = random(2, &[6, 5], DType::F32, &device).unwrap().t().unwrap();
    let loss = x.matmul(&w.tensor().t().unwrap()).unwrap().softmax(0).unwrap().square().unwrap().mean_all().unwrap();
    let grads = loss.backward().unwrap();
    assert_eq!(grads.get(&w).unwrap().shape().as_slice(), [8, 6]);
    assert_eq!(calls.of("copy"), 0);
    assert!(calls.of("matmul") >= 2 && calls.of("softmax") == 1 && calls.of("softmax_backward") == 1);
}

/// Runs on a thread with a stack of 2 MiB, as test threads and the main threads of some systems have.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

const DEEP: usize = 1_000_000;

#[test]
fn a_million_nodes_are_dropped_on_a_small_stack() {
    on_a_small_stack(|| {
        let device = cpu(1);
        let x = Var::new(Tensor::zeros(&[1], DType::F32, &device).unwrap()).unwrap();
        let mut y = x.tensor();
        for _ in 0..DEEP {
            y = y.add_scalar(1.0).unwrap();
        }
        assert_eq!(y.item::<f32>().unwrap(), DEEP as f32);
        drop(y);
    });
}

#[test]
fn a_million_nodes_are_walked_backwards_on_a_small_stack() {
    on_a_small_stack(|| {
        let device = cpu(1);
        let x = Var::new(Tensor::ones(&[1], DType::F64, &device).unwrap()).unwrap();
        let mut y = x.tensor();
        for _ in 0..DEEP / 4 {
            y = y.neg().unwrap();
        }
        assert_eq!(y.backward().unwrap().get(&x).unwrap().item::<f64>().unwrap(), 1.0);
    });
}

#[test]
fn nested_checkpoints_are_dropped_on_a_small_stack() {
    on_a_small_stack(|| {
        let device = cpu(1);
        let x = Var::new(Tensor::zeros(&[1], DType::F32, &device).unwrap()).unwrap();
        // Each captures the one before: a chain through captured tensors, not through operands.
        let mut y = x.tensor();
        for _ in 0..DEEP {
            let captured = y.clone();
            y = checkpoint(move |_| Ok(vec![captured.neg()?]), &[]).unwrap().remove(0);
        }
        assert!(y.requires_grad());
        drop(y);
    });
}

#[test]
fn a_checkpoint_behind_a_frozen_input_gives_all_gradients() {
    let device = cpu(1);
    let (w, b) = (
        Var::new(random(1, &[3, 4], DType::F64, &device).unwrap()).unwrap(),
        Var::new(random(2, &[4], DType::F64, &device).unwrap()).unwrap(),
    );
    let frozen = random(3, &[2, 3], DType::F64, &device).unwrap();
    assert!(!frozen.requires_grad());
    let layer = {
        let (w, b) = (w.clone(), b.clone());
        move |x: &[Tensor]| Ok(vec![(x[0].matmul(&w.tensor())? + b.tensor())?.dropout(0.4, RngKey::new(6))?.gelu()?])
    };
    let plain = layer(std::slice::from_ref(&frozen)).unwrap().remove(0).square().unwrap().sum_all().unwrap();
    let saved = checkpoint(layer, &[frozen]).unwrap().remove(0).square().unwrap().sum_all().unwrap();
    assert_eq!(bits(&plain).unwrap(), bits(&saved).unwrap());
    let (plain, saved) = (plain.backward().unwrap(), saved.backward().unwrap());
    for var in [&w, &b] {
        let (a, b) = (plain.get(var).unwrap(), saved.get(var).unwrap());
        assert_eq!(bits(a).unwrap(), bits(b).unwrap());
    }
}

#[test]
fn a_second_backward_names_the_node() {
    let device = cpu(1);
    let x = Var::new(random(1, &[3], DType::F32, &device).unwrap()).unwrap();
    let shared = x.tensor().tanh().unwrap();
    let (first, second) = (shared.sum_all().unwrap(), shared.exp().unwrap().sum_all().unwrap());
    first.backward().unwrap();
    let error = second.backward().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Consumed);
    assert!(error.to_string().contains("tanh"), "{error}");
}

/// `x · |x|`, from a kernel that the engine does not know.
#[derive(Debug)]
struct SignedSquare(Arc<AtomicUsize>);

impl Function for SignedSquare {
    fn name(&self) -> &'static str {
        "signed_square"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        self.0.fetch_add(1, Relaxed);
        save.input(0);
        let squares: Vec<f64> = inputs[0].to_vec::<f64>()?.iter().map(|x| x * x.abs()).collect();
        Ok(vec![Data::from_slice(&squares, *inputs[0].shape(), inputs[0].device())?])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [x] = b.take_saved()?;
        Ok(vec![b.take_grad(0).map(|g| x.abs()?.mul_scalar(2.0)? * &g).transpose()?])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![(inputs[0] * &inputs[0].abs()?)?])
    }
}

#[test]
fn a_function_written_outside_is_differentiated() {
    for device in [cpu(1), Device::new(ReferenceBackend::new())] {
        let forwards = Arc::new(AtomicUsize::new(0));
        let function: Arc<dyn Function> = Arc::new(SignedSquare(forwards.clone()));
        let x = random(1, &[2, 3], DType::F64, &device).unwrap();
        let run = |x: &[Tensor]| apply(function.clone(), &[&x[0]]);
        gradcheck(run, std::slice::from_ref(&x), Default::default()).unwrap();
        attentia_tensor::gradgradcheck(run, std::slice::from_ref(&x), Default::default()).unwrap();
        assert!(forwards.load(Relaxed) > 10);
        let composed = function.compose(&[&x]).unwrap().remove(0);
        assert_eq!(bits(&run(&[x]).unwrap()[0]).unwrap(), bits(&composed).unwrap());
    }
}

#[test]
fn a_backend_written_outside_trains() {
    let (backend, calls) = Outside::counting(cpu(2));
    let outside = Device::new(backend);
    let seen: Vec<_> = forward_and_backward(&outside, DType::F32).unwrap().iter().map(|x| bits(x).unwrap()).collect();
    let plain: Vec<_> = forward_and_backward(&cpu(2), DType::F32).unwrap().iter().map(|x| bits(x).unwrap()).collect();
    assert!(seen == plain, "a wrapper changes no bit");
    for entry in ["matmul", "softmax", "softmax_backward", "layer_norm", "layer_norm_backward", "embedding_backward"] {
        assert!(calls.of(entry) > 0, "{entry} was not reached");
    }
    let hidden = Device::new(Outside::compose_only(cpu(2)));
    let composed = forward_and_backward(&hidden, DType::F32).unwrap();
    let (loss, same) = (f32::from_bits(plain[0][0] as u32), composed[0].item::<f32>().unwrap());
    assert!((loss - same).abs() < 1e-4 * loss.abs(), "{loss} and, composed, {same}");
}

/// A small model with an optimiser's state, trained in place.
struct Training {
    device: Device,
    parameters: Vec<(Var, Tensor, Tensor)>,
}

impl Training {
    fn new(device: &Device) -> Result<Training> {
        let shapes: [&[usize]; 4] = [&[16, 64], &[64], &[64, 10], &[10]];
        let parameter = |(i, shape): (usize, &&[usize])| {
            let value = random(i as u64, shape, DType::F32, device)?.mul_scalar(0.2)?;
            let moment = || Tensor::zeros(shape, DType::F32, device);
            Ok((Var::new(value)?, moment()?, moment()?))
        };
        let parameters = shapes.iter().enumerate().map(parameter).collect::<Result<Vec<_>>>()?;
        Ok(Training { device: device.clone(), parameters })
    }

    fn loss(&self, step: u64) -> Result<Tensor> {
        let x = Tensor::randn(RngKey::new(40).step(step), &[32, 16], DType::F32, &self.device)?; // [N, C]
        let targets = x.narrow(-1, 0, 10)?.argmax(-1, false)?; // [N]
        let tensors: Vec<Tensor> = self.parameters.iter().map(|(var, _, _)| var.tensor()).collect();
        let hidden = (x.matmul(&tensors[0])? + &tensors[1])?.gelu()?.dropout(0.1, RngKey::new(41).step(step))?;
        let logits = (hidden.matmul(&tensors[2])? + &tensors[3])?;
        logits.cross_entropy(&targets, CrossEntropy::default())?.mean_all()
    }

    fn step(&mut self, step: u64) -> Result<f32> {
        let loss = self.loss(step)?;
        let value = loss.item::<f32>()?;
        let grads = loss.backward()?;
        let spec = AdamW {
            learning_rate: 1e-2,
            betas: (0.9, 0.99),
            epsilon: 1e-8,
            weight_decay: 0.01,
            step: step + 1,
            gradient_scale: 1.0,
        };
        for (var, first, second) in &mut self.parameters {
            let Some(gradient) = grads.get(var) else { panic!("a parameter has no gradient") };
            var.update_with([first, second], |p, [m, v]| self.device.adamw(&spec, gradient.view()?, p, m, v))?;
        }
        Ok(value)
    }
}

#[test]
fn memory_is_flat_over_training() {
    let device = cpu(2);
    let mut training = Training::new(&device).unwrap();
    let copies = copy_on_write_count();
    let mut first = 0.0;
    for step in 0..20 {
        first = training.step(step).unwrap().max(first);
    }
    let warm = device.memory();
    let mut last = f32::INFINITY;
    for step in 20..520 {
        last = training.step(step).unwrap();
        let now = device.memory();
        assert_eq!(now.live, warm.live, "live bytes after step {step}");
        assert_eq!(now.system_allocations, warm.system_allocations, "step {step} asked the system for memory");
    }
    assert_eq!(copy_on_write_count(), copies, "an update had to copy its variable first");
    assert!(last < first * 0.8, "and it learns: {first} to {last}");
    drop(training);
    assert_eq!(device.memory().live, 0);
}

#[test]
fn the_graph_frees_memory_as_it_is_consumed() {
    let device = cpu(1);
    let x = Var::new(random(1, &[256, 256], DType::F32, &device).unwrap()).unwrap();
    let idle = device.memory().live;
    let mut y = x.tensor();
    for _ in 0..20 {
        y = y.sin().unwrap(); // saves its operand
    }
    let loss = y.sum_all().unwrap();
    drop(y);
    let recorded = device.memory();
    let tensor = 256 * 256 * 4;
    assert!(recorded.live - idle >= 19 * tensor, "a recorded graph holds its operands");
    let grads = loss.backward().unwrap();
    // Gradients come while saved values go.
    assert!(device.memory().peak <= recorded.live + 4 * tensor);
    drop(grads);
    assert_eq!(device.memory().live, idle);
    no_grad(|| x.tensor().sin().unwrap());
    assert_eq!(device.memory().live, idle);
}

#[test]
fn eight_threads_share_one_model() {
    let device = cpu(2);
    let training = Training::new(&device).unwrap();
    let gradients = |step: u64| {
        let grads = training.loss(step).unwrap().backward().unwrap();
        training.parameters.iter().map(|(var, _, _)| bits(grads.get(var).unwrap()).unwrap()).collect::<Vec<_>>()
    };
    let serial: Vec<_> = (0..8).map(gradients).collect();
    std::thread::scope(|scope| {
        let gradients = &gradients;
        let workers: Vec<_> = (0..8)
            .map(|worker| scope.spawn(move || (0..8).map(|step| gradients((step + worker) % 8)).collect::<Vec<_>>()))
            .collect();
        for (worker, handle) in workers.into_iter().enumerate() {
            for (step, result) in handle.join().unwrap().into_iter().enumerate() {
                assert!(result == serial[(step + worker) % 8], "thread {worker} got other bits");
            }
        }
    });
    // Grad mode belongs to its thread.
    std::thread::scope(|scope| {
        no_grad(|| {
            let recorded = scope.spawn(|| training.loss(0).unwrap().requires_grad()).join().unwrap();
            assert!(recorded && !training.loss(0).unwrap().requires_grad());
        });
    });
}

#[test]
fn tensors_and_variables_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Tensor>();
    crosses::<Var>();
    crosses::<Device>();
    crosses::<Box<dyn Backend>>();
    crosses::<Box<dyn Function>>();
}
