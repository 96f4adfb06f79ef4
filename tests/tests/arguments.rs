//! No argument makes a method of `Tensor` panic: whatever the shapes, dtypes, axes and ranges, it gives a `Result`.

use attentia_backend::{Activation, CrossEntropy, DType, Device, RngKey, Scalar};
use attentia_cpu::CpuBackend;
use attentia_tensor::{Affine, Result, Tensor, Var};
use proptest::prelude::*;
use std::{collections::BTreeSet, fs, path::Path, sync::OnceLock};

fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| Device::new(CpuBackend::new(1).unwrap()))
}

/// Everything that a call may want, all of it arbitrary.
#[derive(Clone, Debug)]
struct Arguments {
    tensors: Vec<Tensor>,
    axis: isize,
    axes: Vec<isize>,
    /// Shapes that nothing can hold are among them.
    extents: Vec<usize>,
    signed: Vec<isize>,
    start: usize,
    len: usize,
    step: isize,
    scalar: Scalar,
    number: f64,
    dtype: DType,
    flag: bool,
}

impl Arguments {
    fn x(&self) -> &Tensor {
        &self.tensors[0]
    }
    fn y(&self) -> &Tensor {
        &self.tensors[1]
    }
    fn z(&self) -> &Tensor {
        &self.tensors[2]
    }
    fn key(&self) -> RngKey {
        RngKey::new(self.start as u64)
    }
}

fn extent() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..5, 2 => Just(0usize), 1 => 5usize..19]
}

/// An extent that may be anything; one that fits in an address space and in no memory is left out, because a machine
/// that promises memory it does not have would be asked to fill it.
fn any_extent() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0usize..6, 1 => Just(usize::MAX), 1 => Just(1usize << 58), 1 => Just(usize::MAX / 2)]
}

fn any_int() -> impl Strategy<Value = isize> {
    prop_oneof![8 => -5isize..6, 1 => Just(isize::MIN), 1 => Just(isize::MAX), 1 => -100isize..100]
}

fn any_dtype() -> impl Strategy<Value = DType> {
    prop_oneof![3 => Just(DType::F32), 5 => proptest::sample::select(DType::ALL.to_vec())]
}

fn any_scalar() -> impl Strategy<Value = Scalar> {
    let floats = vec![0.0, -0.0, 1.5, -3.0, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    prop_oneof![
        proptest::sample::select(floats).prop_map(Scalar::Float),
        proptest::sample::select(vec![0, 1, -1, 7, i64::MAX, i64::MIN]).prop_map(Scalar::Int),
    ]
}

/// A tensor of any dtype, in any of several layouts, sometimes recorded.
fn tensor() -> impl Strategy<Value = Tensor> {
    let shape = proptest::collection::vec(extent(), 0..4);
    (shape, any_dtype(), 0..6usize, any::<bool>(), any_scalar()).prop_map(|(shape, dtype, layout, recorded, value)| {
        let build = || -> Result<Tensor> {
            let count: usize = shape.iter().product();
            let signed: Vec<isize> = shape.iter().map(|&e| e as isize).collect();
            // Numbers from -1 on, so that indices are sometimes right.
            let x = Tensor::arange(-1, count as i64 - 1, 1, DType::I64, device())?.reshape(&signed)?;
            let x = match value {
                Scalar::Int(_) => x.to_dtype(dtype)?,
                Scalar::Float(_) => Tensor::full(&shape, value, dtype, device())?,
            };
            let x = match layout {
                0 if x.rank() > 1 => x.transpose(0, -1)?,
                1 if x.rank() > 0 => x.flip(0)?,
                2 if x.rank() > 0 && x.shape()[0] > 1 => x.slice(0, .., 2)?,
                3 if x.rank() < 4 => x.unsqueeze(0)?.broadcast_to(&[&[2], x.shape().as_slice()].concat())?,
                _ => x,
            };
            if recorded && x.dtype().is_float() { Ok(Var::new(x)?.tensor()) } else { Ok(x) }
        };
        build().expect("small tensors of any layout can be made")
    })
}

fn arguments() -> impl Strategy<Value = Arguments> {
    let small = (any_int(), proptest::collection::vec(any_int(), 0..4), any_extent(), any_extent(), any_int());
    let lists = (proptest::collection::vec(any_extent(), 0..10), proptest::collection::vec(any_int(), 0..10));
    let values = (any_scalar(), any_scalar(), any_dtype(), any::<bool>());
    let shared = (proptest::collection::vec(tensor(), 3), any::<u8>());
    (shared, small, lists, values).prop_map(
        |((mut tensors, reuse), (axis, axes, start, len, step), (extents, signed), (scalar, number, dtype, flag))| {
            // Operands of independent shapes are refused most of the time: often they are alike.
            if reuse % 2 == 0 {
                tensors[1] = tensors[0].clone();
            }
            if reuse % 4 == 1 {
                tensors[1] = tensors[0].to_dtype(DType::I64).expect("every dtype converts to i64");
            }
            if reuse % 8 < 4 {
                tensors[2] = tensors[0].clone();
            }
            Arguments {
                tensors,
                axis,
                axes,
                extents,
                signed,
                start,
                len,
                step,
                scalar,
                number: number.to_f64(),
                dtype,
                flag,
            }
        },
    )
}

type Call = fn(&Arguments) -> Result<Vec<Tensor>>;

fn one(x: Result<Tensor>) -> Result<Vec<Tensor>> {
    Ok(vec![x?])
}

/// Every public method and constructor of `Tensor` that takes an argument or can fail, by name.
fn calls() -> Vec<(&'static str, Call)> {
    vec![
        ("neg", |a| one(a.x().neg())),
        ("abs", |a| one(a.x().abs())),
        ("sign", |a| one(a.x().sign())),
        ("square", |a| one(a.x().square())),
        ("sqrt", |a| one(a.x().sqrt())),
        ("rsqrt", |a| one(a.x().rsqrt())),
        ("reciprocal", |a| one(a.x().reciprocal())),
        ("exp", |a| one(a.x().exp())),
        ("expm1", |a| one(a.x().expm1())),
        ("log", |a| one(a.x().log())),
        ("log1p", |a| one(a.x().log1p())),
        ("sin", |a| one(a.x().sin())),
        ("cos", |a| one(a.x().cos())),
        ("tanh", |a| one(a.x().tanh())),
        ("sigmoid", |a| one(a.x().sigmoid())),
        ("erf", |a| one(a.x().erf())),
        ("relu", |a| one(a.x().relu())),
        ("floor", |a| one(a.x().floor())),
        ("ceil", |a| one(a.x().ceil())),
        ("round", |a| one(a.x().round())),
        ("logical_not", |a| one(a.x().logical_not())),
        ("add_scalar", |a| one(a.x().add_scalar(a.scalar))),
        ("sub_scalar", |a| one(a.x().sub_scalar(a.scalar))),
        ("mul_scalar", |a| one(a.x().mul_scalar(a.scalar))),
        ("div_scalar", |a| one(a.x().div_scalar(a.scalar))),
        ("pow_scalar", |a| one(a.x().pow_scalar(a.scalar))),
        ("clamp_min", |a| one(a.x().clamp_min(a.scalar))),
        ("clamp_max", |a| one(a.x().clamp_max(a.scalar))),
        ("clamp", |a| one(a.x().clamp(a.scalar, a.number))),
        ("add", |a| one(a.x().add(a.y()))),
        ("sub", |a| one(a.x().sub(a.y()))),
        ("mul", |a| one(a.x().mul(a.y()))),
        ("div", |a| one(a.x().div(a.y()))),
        ("pow", |a| one(a.x().pow(a.y()))),
        ("maximum", |a| one(a.x().maximum(a.y()))),
        ("minimum", |a| one(a.x().minimum(a.y()))),
        ("logical_and", |a| one(a.x().logical_and(a.y()))),
        ("logical_or", |a| one(a.x().logical_or(a.y()))),
        ("logical_xor", |a| one(a.x().logical_xor(a.y()))),
        ("eq", |a| one(a.x().eq(a.y()))),
        ("ne", |a| one(a.x().ne(a.y()))),
        ("lt", |a| one(a.x().lt(a.y()))),
        ("le", |a| one(a.x().le(a.y()))),
        ("gt", |a| one(a.x().gt(a.y()))),
        ("ge", |a| one(a.x().ge(a.y()))),
        ("eq_scalar", |a| one(a.x().eq_scalar(a.scalar))),
        ("ne_scalar", |a| one(a.x().ne_scalar(a.scalar))),
        ("lt_scalar", |a| one(a.x().lt_scalar(a.scalar))),
        ("le_scalar", |a| one(a.x().le_scalar(a.scalar))),
        ("gt_scalar", |a| one(a.x().gt_scalar(a.scalar))),
        ("ge_scalar", |a| one(a.x().ge_scalar(a.scalar))),
        ("where_cond", |a| one(Tensor::where_cond(a.x(), a.y(), a.z()))),
        ("masked_fill", |a| one(a.x().masked_fill(&a.y().to_dtype(DType::Bool)?, a.scalar))),
        ("sum", |a| one(a.x().sum(&a.axes, a.flag))),
        ("mean", |a| one(a.x().mean(&a.axes, a.flag))),
        ("max", |a| one(a.x().max(&a.axes, a.flag))),
        ("min", |a| one(a.x().min(&a.axes, a.flag))),
        ("prod", |a| one(a.x().prod(&a.axes, a.flag))),
        ("sum_all", |a| one(a.x().sum_all())),
        ("mean_all", |a| one(a.x().mean_all())),
        ("max_all", |a| one(a.x().max_all())),
        ("min_all", |a| one(a.x().min_all())),
        ("prod_all", |a| one(a.x().prod_all())),
        ("var", |a| one(a.x().var(&a.axes, a.start, a.flag))),
        ("argmax", |a| one(a.x().argmax(a.axis, a.flag))),
        ("argmin", |a| one(a.x().argmin(a.axis, a.flag))),
        ("any", |a| one(a.x().any(&a.axes, a.flag))),
        ("all", |a| one(a.x().all(&a.axes, a.flag))),
        ("cumsum", |a| one(a.x().cumsum(a.axis))),
        ("sort", |a| a.x().sort(a.axis, a.flag).map(|(v, i)| vec![v, i])),
        ("topk", |a| a.x().topk(a.len, a.axis, a.flag).map(|(v, i)| vec![v, i])),
        ("logsumexp", |a| one(a.x().logsumexp(a.axis, a.flag))),
        ("matmul", |a| one(a.x().matmul(a.y()))),
        ("linear", |a| one(a.x().linear(a.y(), a.flag.then(|| a.z())))),
        ("feed_forward", |a| {
            let bias = a.flag.then(|| a.z());
            let (up, down) = (Affine { weight: a.y(), bias }, Affine { weight: a.z(), bias: None });
            one(a.x().feed_forward(up, Activation::Gelu, down))
        }),
        ("mixed_linear", |a| one(a.x().mixed_linear(a.y(), a.flag.then(|| a.z())))),
        ("write_narrow", |a| {
            let mut x = a.x().copy()?;
            x.write_narrow(a.axis, a.start, a.y()).map(|_| Vec::new())
        }),
        ("reshape", |a| one(a.x().reshape(&a.signed))),
        ("flatten", |a| one(a.x().flatten())),
        ("transpose", |a| one(a.x().transpose(a.axis, a.step))),
        ("t", |a| one(a.x().t())),
        ("permute", |a| one(a.x().permute(&a.signed))),
        ("narrow", |a| one(a.x().narrow(a.axis, a.start, a.len))),
        ("slice", |a| one(a.x().slice(a.axis, a.step..a.axis, a.signed.first().copied().unwrap_or(1)))),
        ("select", |a| one(a.x().select(a.axis, a.step))),
        ("flip", |a| one(a.x().flip(a.axis))),
        ("squeeze", |a| one(a.x().squeeze(a.axis))),
        ("unsqueeze", |a| one(a.x().unsqueeze(a.axis))),
        // Views of any size are fine; nothing is computed on them.
        ("broadcast_to", |a| a.x().broadcast_to(&a.extents).map(|_| Vec::new())),
        ("sum_to_shape", |a| one(a.x().sum_to_shape(&a.extents))),
        ("pad", |a| {
            let pads: Vec<(usize, usize)> = a.extents.chunks(2).map(|pair| (pair[0], pair[pair.len() - 1])).collect();
            one(a.x().pad(&pads, a.scalar))
        }),
        ("i", |a| one(a.x().i((a.axis, a.step..)))),
        ("gather", |a| one(a.x().gather(a.axis, a.y()))),
        ("scatter_add", |a| one(a.x().scatter_add(a.axis, a.y(), a.z()))),
        ("index_select", |a| one(a.x().index_select(a.axis, a.y()))),
        ("one_hot", |a| one(Tensor::one_hot(a.x(), a.len, a.dtype))),
        ("cat", |a| one(Tensor::cat(&[a.x(), a.y(), a.z()], a.axis))),
        ("stack", |a| one(Tensor::stack(&[a.x(), a.y()], a.axis))),
        ("split", |a| a.x().split(&a.extents, a.axis)),
        ("chunk", |a| a.x().chunk(a.len.min(1 << 20), a.axis)),
        ("softmax", |a| one(a.x().softmax(a.axis))),
        ("log_softmax", |a| one(a.x().log_softmax(a.axis))),
        ("masked_softmax", |a| one(a.x().masked_softmax(&a.y().to_dtype(DType::Bool)?, a.axis))),
        ("gelu", |a| one(a.x().gelu())),
        ("gelu_tanh", |a| one(a.x().gelu_tanh())),
        ("silu", |a| one(a.x().silu())),
        ("activate", |a| one(a.x().activate(Activation::Silu))),
        ("layer_norm", |a| one(a.x().layer_norm(a.flag.then_some(a.y()), None, a.number))),
        ("rms_norm", |a| one(a.x().rms_norm(a.flag.then_some(a.y()), a.number))),
        ("cross_entropy", |a| {
            let spec = CrossEntropy { label_smoothing: a.number, ignore_index: a.flag.then_some(-1) };
            let targets = if a.flag { a.x().argmax(-1, false)? } else { a.y().clone() };
            one(a.x().cross_entropy(&targets, spec))
        }),
        ("embedding", |a| one(a.x().embedding(a.y()))),
        ("dropout", |a| one(a.x().dropout(a.number, a.key()))),
        ("copy", |a| one(a.x().copy())),
        ("contiguous", |a| one(a.x().contiguous())),
        ("to_dtype", |a| one(a.x().to_dtype(a.dtype))),
        ("to_device", |a| one(a.x().to_device(device()))),
        ("tril", |a| one(a.x().tril(a.step as i64))),
        ("triu", |a| one(a.x().triu(a.step as i64))),
        ("zeros_like", |a| one(a.x().zeros_like())),
        ("ones_like", |a| one(a.x().ones_like())),
        ("detach", |a| Ok(vec![a.x().detach()])),
        ("dims", |a| a.x().dims::<2>().map(|_| Vec::new())),
        ("item", |a| a.x().item::<f32>().map(|_| Vec::new())),
        ("to_vec", |a| a.x().to_vec::<f32>().map(|_| Vec::new())),
        ("view", |a| a.x().view().map(|_| Vec::new())),
        ("view_mut", |a| {
            let mut x = if a.flag { a.x().copy()? } else { a.x().clone() };
            x.view_mut().map(|_| Vec::new())
        }),
        ("backward", |a| a.x().sum_all()?.backward().map(|grads| grads.into_iter().map(|(_, g)| g).collect())),
        ("backward_retain", |a| a.x().backward_retain().map(|_| Vec::new())),
        ("backward_with", |a| a.x().clone().backward_with(a.y().clone()).map(|_| Vec::new())),
        ("from_slice", |a| one(Tensor::from_slice(&[1.0f32, 2.0], &a.extents, device()))),
        ("from_vec", |a| one(Tensor::from_vec(vec![1i64, 2], &a.extents, device()))),
        ("scalar", |a| one(Tensor::scalar(a.scalar, a.dtype, device()))),
        ("zeros", |a| one(Tensor::zeros(&a.extents, a.dtype, device()))),
        ("ones", |a| one(Tensor::ones(&a.extents, a.dtype, device()))),
        ("full", |a| one(Tensor::full(&a.extents, a.scalar, a.dtype, device()))),
        ("arange", |a| {
            // A range of a quintillion elements is refused; one of a billion would only be slow.
            let (end, step) = (Scalar::Int(a.axis as i64), Scalar::Int(a.step as i64));
            one(Tensor::arange(0, end, step, a.dtype, device()))
        }),
        ("eye", |a| one(Tensor::eye(a.len, a.dtype, device()))),
        ("rand", |a| one(Tensor::rand(a.key(), &a.extents, a.dtype, device()))),
        ("rand_uniform", |a| {
            one(Tensor::rand_uniform(a.key(), a.number, a.scalar.to_f64(), &a.extents, a.dtype, device()))
        }),
        ("randn", |a| one(Tensor::randn(a.key(), &a.extents, a.dtype, device()))),
        ("tril_mask", |a| one(Tensor::tril_mask(a.start, a.len, a.step as i64, device()))),
        ("triu_mask", |a| one(Tensor::triu_mask(a.start, a.len, a.step as i64, device()))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is passed, each call returns. What it returns can be read; a refusal says which operation refused.
    #[test]
    fn no_argument_panics(arguments in arguments()) {
        for (name, call) in calls() {
            match call(&arguments) {
                Ok(results) => {
                    for x in results {
                        let read = x.detach().to_dtype(DType::F64).and_then(|x| x.to_vec::<f64>());
                        prop_assert_eq!(read.map(|values| values.len()).ok(), Some(x.count()), "{}", name);
                    }
                }
                Err(error) => {
                    prop_assert!(!error.op().is_empty() && error.to_string().contains(": "), "{}: {}", name, error);
                }
            }
        }
    }
}

/// The property would hold of calls that are all refused: each must also succeed with some arguments.
#[test]
fn every_call_succeeds_with_some_arguments() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let (mut runner, calls) = (TestRunner::deterministic(), calls());
    let mut never: BTreeSet<&str> = calls.iter().map(|(name, _)| *name).collect();
    for _ in 0..3000 {
        let arguments = arguments().new_tree(&mut runner).unwrap().current();
        calls.iter().filter(|(_, call)| call(&arguments).is_ok()).for_each(|(name, _)| {
            never.remove(name);
        });
    }
    assert!(never.is_empty(), "always refused: {never:?}");
}

/// Names of the public functions in `impl Tensor` blocks of a source, those made by its macros among them.
fn public_methods(source: &str, found: &mut BTreeSet<String>) {
    let mut block = "";
    for line in source.lines() {
        if !line.is_empty() && !line.starts_with([' ', '}']) {
            block = line;
        }
        if block == "impl Tensor {"
            && let Some(rest) = line.strip_prefix("    pub fn ")
        {
            found.extend(rest.split(['(', '<']).next().map(str::to_owned));
        }
        if block.contains("_methods! {") || block.starts_with("reductions! {") {
            // `name Variant;`, or `name other_name Variant;`
            let words = line.split_whitespace();
            let names =
                words.take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()));
            found.extend(names.map(str::to_owned));
        }
    }
}

/// Methods that take no argument that could be wrong, and those that only exist with a feature.
const HARMLESS: [&str; 14] = [
    "from_data",
    "data",
    "into_data",
    "shape",
    "rank",
    "count",
    "dtype",
    "device",
    "layout",
    "is_contiguous",
    "requires_grad",
    "detach",
    "from_array",
    "to_array",
];

#[test]
fn every_public_method_is_called() {
    fn walk(folder: &Path, found: &mut BTreeSet<String>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "tests") {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                public_methods(&fs::read_to_string(&path).unwrap(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/tensor/src"), &mut found);
    assert!(found.len() > 120, "the search found only {found:?}");
    let called: BTreeSet<String> = calls().iter().map(|(name, _)| (*name).to_owned()).collect();
    let missing: Vec<_> = found.iter().filter(|n| !called.contains(*n) && !HARMLESS.contains(&n.as_str())).collect();
    assert!(missing.is_empty(), "public methods of Tensor that no test calls with arbitrary arguments: {missing:?}");
    let unknown: Vec<_> = called.difference(&found).collect();
    assert!(unknown.is_empty(), "not found in the sources: {unknown:?}");
}
