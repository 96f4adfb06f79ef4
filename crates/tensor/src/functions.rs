//! The list of this crate's differentiable functions, each with inputs at which it is smooth, so that no derivative
//! goes untested.

use crate::{
    Function, Sample, Tensor, apply, checkpoint,
    copy::{Cast, Copy, ToDevice},
    elementwise::{BinaryFunction, Select, UnaryFunction},
    feed_forward::FeedForward,
    fused::{
        activation::{Activate, ActivateBackward},
        attention::{AttentionFunction, Fallback},
        cross_entropy::CrossEntropyLoss,
        dropout::DropoutFunction,
        embedding::{Embedding, EmbeddingBackward},
        norm::{Kind, Norm},
        softmax::{Softmax, SoftmaxBackward},
    },
    index::{Gather, ScatterAdd},
    join::{Cat, Split},
    linear::Linear,
    matmul::MatMul,
    reduce::{Cumsum, LogSumExp, Reduction, Sort},
    view::{BroadcastTo, Permute, Reshape},
    window::{Place, Slice, Window},
};
use attentia_backend::{
    Activation, Alignment, AttentionSpec, Binary, Causal, CrossEntropy, DType, Device, Dropout, MaskKind, Reduce,
    Result, RngKey, ScoreExpr, Shape, SoftmaxKind, Statistic, Unary,
};
use std::sync::Arc;

fn shape(extents: &[usize]) -> Shape {
    Shape::new(extents).unwrap_or(Shape::SCALAR)
}

/// Distinct numbers of both signs, none near 0 or a half.
fn signed(device: &Device, seed: u64, extents: &[usize]) -> Result<Tensor> {
    let x = Tensor::rand_uniform(RngKey::new(seed), 0.1, 0.9, extents, DType::F64, device)?;
    let sign = Tensor::rand_uniform(RngKey::new(seed).call(1), -1.0, 1.0, extents, DType::F64, device)?.sign()?;
    let steps = Tensor::arange(0, x.count(), 1, DType::F64, device)?.reshape_to(x.shape())?;
    (x + (steps * 0.013)?)? * sign
}

fn positive(device: &Device, seed: u64, extents: &[usize]) -> Result<Tensor> {
    signed(device, seed, extents)?.abs()? + 0.3
}

/// The same shape, walked over with other strides.
fn transposed(device: &Device, seed: u64, extents: &[usize]) -> Result<Tensor> {
    let mut reversed = extents.to_vec();
    reversed.reverse();
    let order: Vec<isize> = (0..extents.len() as isize).rev().collect();
    signed(device, seed, &reversed)?.permute(&order)
}

fn indices(device: &Device, values: &[i64], extents: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(values, extents, device)
}

fn mask(device: &Device, seed: u64, extents: &[usize]) -> Result<Tensor> {
    signed(device, seed, extents)?.gt_scalar(-0.2)
}

/// A sample of one function, whose inputs a closure of the device gives.
macro_rules! sample {
    ($list:ident, $type:literal, $id:expr, $function:expr, |$d:ident| $($input:expr),+ $(,)?) => {
        $list.push(Sample::new($type, $id, Arc::new($function), move |$d| Ok(vec![$($input?),+])))
    };
}

/// Every [`crate::Function`] of this crate with samples at several shapes and layouts.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// let sample = &attentia_tensor::functions()[0];
/// sample.check(&device)?;
/// # Ok(())
/// # }
/// ```
pub fn functions() -> Vec<Sample> {
    let mut list = elementwise();
    list.extend(views());
    list.extend(reductions());
    list.extend(products_and_indices());
    list.extend(fused());
    list.extend(attention());
    list.push(recomputed());
    list
}

fn elementwise() -> Vec<Sample> {
    let mut list = Vec::new();
    for op in Unary::ALL {
        let signs = !matches!(op, Unary::Sqrt | Unary::Rsqrt | Unary::Log | Unary::Log1p | Unary::PowScalar(_));
        if !op.accepts(DType::F64) {
            continue;
        }
        sample!(list, "UnaryFunction", format!("{}/3x2", op.name()), UnaryFunction(op), |d| positive(d, 1, &[3, 2]));
        if signs {
            let id = format!("{}/signed", op.name());
            sample!(list, "UnaryFunction", id, UnaryFunction(op), |d| transposed(d, 2, &[2, 3]));
        }
    }
    for op in Binary::ALL {
        if !op.accepts(DType::F64) {
            continue;
        }
        let id = format!("{}/2x3", op.name());
        sample!(list, "BinaryFunction", id, BinaryFunction(op), |d| positive(d, 3, &[2, 3]), positive(d, 4, &[2, 3]));
    }
    sample!(list, "Select", "select/5", Select, |d| mask(d, 5, &[5]), signed(d, 6, &[5]), signed(d, 7, &[5]));
    sample!(list, "Copy", "copy/transposed", Copy, |d| transposed(d, 8, &[2, 3]));
    sample!(list, "Cast", "to_dtype/same", Cast { from: DType::F64, to: DType::F64 }, |d| signed(d, 9, &[3]));
    list.push(Sample::of_closures(
        "ToDevice",
        "to_device/3",
        |d| Ok(vec![signed(d, 10, &[3])?]),
        |x| {
            let (from, to) = (x[0].device().clone(), x[0].device().clone());
            apply(Arc::new(ToDevice { from, to }), &[&x[0]])
        },
        |x| Ok(vec![x[0].copy()?]),
    ));
    list
}

fn views() -> Vec<Sample> {
    let mut list = Vec::new();
    let (s23, s32) = (shape(&[2, 3]), shape(&[3, 2]));
    sample!(list, "Reshape", "reshape/view", Reshape { from: s23, to: s32 }, |d| signed(d, 11, &[2, 3]));
    sample!(list, "Reshape", "reshape/copied", Reshape { from: s23, to: s32 }, |d| transposed(d, 12, &[2, 3]));
    sample!(list, "Permute", "permute/2x3x2", Permute::new(&[2, 0, 1]), |d| signed(d, 13, &[2, 3, 2]));
    let broadcast = BroadcastTo { from: shape(&[3, 1]), to: shape(&[2, 3, 2]) };
    sample!(list, "BroadcastTo", "broadcast_to/2x3x2", broadcast, |d| signed(d, 14, &[3, 1]));
    let window = Window::whole(&shape(&[5, 3])).along(0, 4, -2, 3).along(1, 1, 1, 2);
    sample!(list, "Slice", "slice/backwards", Slice(window), |d| signed(d, 15, &[5, 3]));
    sample!(list, "Place", "pad/backwards", Place { window, value: 0.5 }, |d| signed(d, 16, &[3, 2]));
    let cat = Cat { axis: 1, sizes: vec![1, 2] };
    sample!(list, "Cat", "cat/1", cat, |d| signed(d, 17, &[2, 1]), transposed(d, 18, &[2, 2]));
    let split = Split { axis: 1, sizes: vec![1, 0, 2], whole: s23 };
    sample!(list, "Split", "split/1", split, |d| signed(d, 19, &[2, 3]));
    list
}

fn reductions() -> Vec<Sample> {
    let mut list = Vec::new();
    let whole = shape(&[2, 3, 2]);
    for op in Reduce::ALL {
        for (axes, keepdim) in [(vec![1], true), (vec![0, 2], false), (vec![0, 1, 2], false)] {
            let id = format!("{}/{axes:?}", op.name());
            let function = Reduction::new(op, &whole, &axes, keepdim);
            sample!(list, "Reduction", id, function, |d| signed(d, 20, &[2, 3, 2]));
        }
    }
    sample!(list, "Cumsum", "cumsum/1", Cumsum { axis: 1 }, |d| transposed(d, 21, &[2, 3]));
    let whole = shape(&[2, 4]);
    let sort = |name, descending, k| Sort { name, axis: 1, descending, k, whole };
    sample!(list, "Sort", "sort/1", sort("sort", false, 4), |d| signed(d, 22, &[2, 4]));
    sample!(list, "Sort", "topk/2", sort("topk", true, 2), |d| signed(d, 23, &[2, 4]));
    sample!(list, "LogSumExp", "logsumexp/0", LogSumExp { axis: 0 }, |d| signed(d, 24, &[3, 2]));
    list
}

fn products_and_indices() -> Vec<Sample> {
    let mut list = Vec::new();
    let shapes: [(&[usize], &[usize]); 5] = [
        (&[2, 3], &[3, 2]),
        (&[2, 2, 3], &[3, 2]),
        (&[2, 2, 3], &[2, 3, 1]),
        (&[2, 1, 2, 3], &[2, 3, 2]),
        (&[2, 3], &[2, 3, 2]),
    ];
    for (a, b) in shapes {
        let function = MatMul { a: shape(a), b: shape(b) };
        let id = format!("matmul/{a:?}x{b:?}");
        sample!(list, "MatMul", id, function, |d| transposed(d, 30, a), signed(d, 31, b));
    }
    let linear = Linear { parameters: DType::F64 };
    sample!(list, "Linear", "linear/2x3", linear, |d| transposed(d, 50, &[2, 3]), signed(d, 51, &[4, 3]));
    sample!(list, "Linear", "linear/2x2x3", linear, |d| transposed(d, 55, &[2, 2, 3]), signed(d, 56, &[4, 3]));
    sample!(
        list,
        "Linear",
        "linear/bias",
        linear,
        |d| signed(d, 52, &[5, 2]),
        transposed(d, 53, &[3, 2]),
        signed(d, 54, &[3])
    );
    for (f, biases) in Activation::ALL.into_iter().zip([[true, true], [false, false], [true, false], [false, true]]) {
        let function = FeedForward { f, parameters: DType::F64, biases };
        list.push(Sample::new("FeedForward", format!("feed_forward/{}", f.name()), Arc::new(function), move |d| {
            let mut operands = vec![signed(d, 60, &[3, 2])?, transposed(d, 61, &[4, 2])?];
            operands.extend(biases[0].then(|| signed(d, 62, &[4])).transpose()?);
            operands.push(signed(d, 63, &[2, 4])?);
            operands.extend(biases[1].then(|| signed(d, 64, &[2])).transpose()?);
            Ok(operands)
        }));
    }
    let gather = Gather { axis: 1, whole: shape(&[2, 3]) };
    sample!(list, "Gather", "gather/1", gather, |d| signed(d, 32, &[2, 3]), indices(d, &[2, 0, 2, 1], &[2, 2]));
    sample!(
        list,
        "ScatterAdd",
        "scatter_add/0",
        ScatterAdd { axis: 0 },
        |d| signed(d, 33, &[3, 2]),
        indices(d, &[2, 0, 2, 1], &[2, 2]),
        signed(d, 34, &[2, 2])
    );
    list
}

fn fused() -> Vec<Sample> {
    let mut list = Vec::new();
    for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax] {
        let (function, name) = (Softmax(kind), kind.name());
        sample!(list, "Softmax", format!("{name}/3x4"), function, |d| transposed(d, 40, &[3, 4]));
        sample!(
            list,
            "SoftmaxBackward",
            format!("{name}_backward/2x3"),
            SoftmaxBackward(kind),
            |d| signed(d, 41, &[2, 3]),
            signed(d, 42, &[2, 3])
        );
    }
    let masked = Softmax(SoftmaxKind::Masked);
    sample!(list, "Softmax", "masked_softmax/3x4", masked, |d| signed(d, 43, &[3, 4]), mask(d, 44, &[3, 4]));
    for f in Activation::ALL {
        sample!(list, "Activate", format!("{}/2x3", f.name()), Activate(f), |d| transposed(d, 45, &[2, 3]));
        sample!(
            list,
            "ActivateBackward",
            format!("{}_backward/4", f.name()),
            ActivateBackward(f),
            |d| signed(d, 46, &[4]),
            signed(d, 47, &[4])
        );
    }
    let dropout = DropoutFunction(Dropout { p: 0.4, key: RngKey::new(9) });
    sample!(list, "DropoutFunction", "dropout/3x5", dropout, |d| signed(d, 48, &[3, 5]));
    let table = shape(&[4, 2]);
    sample!(
        list,
        "Embedding",
        "embedding/2x2",
        Embedding { table },
        |d| signed(d, 49, &[4, 2]),
        indices(d, &[3, 0, 3, 1], &[2, 2])
    );
    sample!(
        list,
        "EmbeddingBackward",
        "embedding_backward/3",
        EmbeddingBackward { table },
        |d| indices(d, &[3, 0, 3], &[3]),
        signed(d, 50, &[3, 2])
    );
    for (weight, bias) in [(false, false), (true, false), (true, true), (false, true)] {
        let id = format!("layer_norm/weight={weight},bias={bias}");
        list.extend(norm_samples(Norm { kind: Kind::Layer, epsilon: 1e-3, weight, bias }, id));
    }
    for weight in [false, true] {
        let id = format!("rms_norm/weight={weight}");
        list.extend(norm_samples(Norm { kind: Kind::Rms, epsilon: 1e-3, weight, bias: false }, id));
    }
    for spec in [
        CrossEntropy::default(),
        CrossEntropy { label_smoothing: 0.1, ignore_index: Some(-100) },
        CrossEntropy { label_smoothing: 1.0, ignore_index: Some(2) },
    ] {
        let targets: &[i64] = if spec.ignore_index == Some(-100) { &[1, -100, 0] } else { &[1, 2, 0] };
        let one = move || {
            let inputs = move |d: &Device| Ok(vec![transposed(d, 51, &[3, 4])?, indices(d, targets, &[3])?]);
            let id = format!("cross_entropy/smoothing={}", spec.label_smoothing);
            Sample::new("CrossEntropyLoss", id, Arc::new(CrossEntropyLoss(spec)), inputs)
        };
        list.push(one());
        list.push(one().of_gradients("CrossEntropyBackward"));
    }
    list
}

fn norm_samples(norm: Norm, id: String) -> [Sample; 2] {
    let one = || {
        let inputs = move |d: &Device| {
            let mut inputs = vec![signed(d, 52, &[2, 3, 4])?];
            for seed in 0..u64::from(norm.weight) + u64::from(norm.bias) {
                inputs.push(signed(d, 53 + seed, &[4])?);
            }
            Ok(inputs)
        };
        Sample::new("Norm", id.clone(), Arc::new(norm), inputs)
    };
    [one(), one().of_gradients("NormBackward")]
}

/// Each flag of the specification, and some together, at sizes in which rows have one to five keys.
fn attention() -> Vec<Sample> {
    let causal = |alignment| AttentionSpec { causal: Causal::Yes(alignment), ..AttentionSpec::default() };
    let (left, right) = (causal(Alignment::TopLeft), causal(Alignment::BottomRight));
    let soft_cap = ScoreExpr::constant(2.0) * (ScoreExpr::Score * ScoreExpr::constant(0.5)).tanh();
    let slopes = ScoreExpr::Score + ScoreExpr::HeadScalar(0) * ScoreExpr::Distance.abs();
    let named = ScoreExpr::Score + ScoreExpr::Scalar(0) * ScoreExpr::Bias(0).exp();
    let plain = AttentionSpec::default;
    let statistics = vec![Statistic::Entropy, Statistic::MaxWeight, Statistic::MeanDistance];
    let spreads = vec![
        Statistic::EffectiveKeys,
        Statistic::MeanLogDistance,
        Statistic::SinkMass(2),
        Statistic::SelfMass,
        Statistic::PreviousMass,
        Statistic::NextMass,
    ];
    let of_tokens = vec![Statistic::DuplicateMass, Statistic::InductionMass];
    let specs = [
        ("plain", plain()),
        ("causal_left", left.clone()),
        ("causal_right", right.clone()),
        ("window", AttentionSpec { window: Some(2), ..right.clone() }),
        ("mask", AttentionSpec { mask: MaskKind::Boolean, ..plain() }),
        ("key_lengths", AttentionSpec { key_lengths: true, ..left.clone() }),
        ("key_starts", AttentionSpec { key_starts: true, ..right.clone() }),
        ("segments", AttentionSpec { segments: true, ..plain() }),
        ("biases", AttentionSpec { biases: 2, ..right }),
        ("dropout", AttentionSpec { dropout: true, ..plain() }),
        ("soft_cap", AttentionSpec { modifier: Some(soft_cap.clone()), ..left.clone() }),
        ("slopes", AttentionSpec { modifier: Some(slopes.clone()), dropout: true, ..left }),
        ("capped_and_bias", AttentionSpec { modifier: Some(soft_cap.clone()), biases: 1, ..plain() }),
        ("named_bias", AttentionSpec { modifier: Some(named), biases: 2, mask: MaskKind::Boolean, ..plain() }),
        ("statistics", AttentionSpec { statistics: statistics.clone(), ..plain() }),
        ("spreads", AttentionSpec { statistics: spreads.clone(), ..plain() }),
        ("tokens", AttentionSpec { statistics: of_tokens, biases: 1, key_lengths: true, ..plain() }),
        ("sinks", AttentionSpec { sinks: true, key_lengths: true, ..plain() }),
        ("sinks_and_dropout", AttentionSpec { sinks: true, dropout: true, modifier: Some(soft_cap), ..plain() }),
        ("sinks_and_statistics", AttentionSpec { sinks: true, statistics: statistics.clone(), ..plain() }),
        ("sinks_and_spreads", AttentionSpec { sinks: true, statistics: spreads, ..plain() }),
        (
            "all",
            AttentionSpec { modifier: Some(slopes), biases: 1, key_lengths: true, sinks: true, statistics, ..plain() },
        ),
    ];
    let mut list = Vec::new();
    for (name, spec) in specs {
        let heads = matches!(&spec.modifier, Some(modifier) if modifier.to_string().contains("head_scalar"));
        let (given, tokens) = (spec.clone(), spec.needs_tokens());
        let inputs = move |d: &Device| {
            let mut inputs = vec![signed(d, 70, &[2, 4, 3, 2])?, transposed(d, 71, &[2, 2, 5, 2])?];
            inputs.push(signed(d, 72, &[2, 2, 5, 3])?);
            if given.mask == MaskKind::Boolean {
                inputs.push(mask(d, 73, &[4, 3, 5])?);
            }
            if given.key_lengths {
                inputs.push(indices(d, &[5, 2], &[2])?);
            }
            if given.key_starts {
                inputs.push(indices(d, &[1, 0], &[2])?);
            }
            if given.segments {
                inputs.push(indices(d, &[1, 1, 2, 0, 1, 0], &[2, 3])?);
                inputs.push(indices(d, &[1, 1, 2, 2, 2, 0, 1, 0, 1, 0], &[2, 5])?);
            }
            if tokens {
                inputs.push(indices(d, &[1, 2, 1, 3, 3, 1], &[2, 3])?);
                inputs.push(indices(d, &[2, 1, 2, 1, 2, 3, 3, 1, 3, 3], &[2, 5])?);
            }
            if given.sinks {
                inputs.push(signed(d, 77, &[4])?);
            }
            for (i, shape) in [&[1, 4, 3, 5][..], &[5]].into_iter().take(usize::from(given.biases)).enumerate() {
                inputs.push(signed(d, 74 + i as u64, shape)?);
            }
            if heads {
                inputs.push(signed(d, 76, &[4])?);
            }
            Ok(inputs)
        };
        let dropout = spec.dropout.then_some(Dropout { p: 0.3, key: RngKey::new(4) });
        let function = AttentionFunction { spec, scale: 0.7, scalars: vec![0.3], dropout };
        let outputs = function.spec.statistics.len() + 2;
        // All outputs, and the first one alone for the gradients' own derivative.
        let of = |id: String, count: usize| {
            let (run, composed) = (function.clone(), function.clone());
            let taken = move |outputs: Vec<Tensor>| outputs.into_iter().take(count).collect();
            Sample::of_closures(
                "AttentionFunction",
                id,
                inputs,
                move |x| run.run(&x.iter().collect::<Vec<_>>(), Fallback::Allow).map(taken),
                move |x| composed.compose(&x.iter().collect::<Vec<_>>()).map(taken),
            )
        };
        list.push(of(format!("attention/{name}"), outputs));
        list.push(of(format!("attention/{name}/output"), 1).of_gradients("AttentionBackward"));
    }
    list
}

fn recomputed() -> Sample {
    let f = |x: &[Tensor]| Ok(vec![(x[0].exp()? * &x[1])?, x[1].tanh()?]);
    Sample::of_closures(
        "Recompute",
        "checkpoint/2",
        |d| Ok(vec![signed(d, 60, &[3])?, signed(d, 61, &[3])?]),
        move |x| checkpoint(f, x),
        f,
    )
}
