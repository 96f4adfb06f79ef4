//! What holds for every entry: no call panics, whatever its operands.

use crate::{ReferenceBackend, sample::Sample};
use attentia_backend::{
    Activation, AdamW, ArgReduce, AttentionCotangents, AttentionGrads, AttentionOperands, AttentionOut, AttentionSaved,
    AttentionSpec, Backend, Binary, Compare, CrossEntropy, DType, Dropout, Epilogue, ErrorKind, FusedOp, Layout,
    Reduce, RngKey, Scalar, Shape, SoftmaxKind, Source, Unary,
};

const SHAPES: [&[usize]; 9] = [&[], &[0], &[2], &[1, 2], &[2, 2], &[3, 0], &[0, 2], &[2, 1, 2], &[1, 2, 2, 2]];
const DTYPES: [DType; 4] = [DType::F64, DType::Bf16, DType::I64, DType::Bool];

/// A sample of each shape and dtype; ones, so that integers are indices of some axes and not of others.
fn samples() -> Vec<Sample> {
    let ones = |shape: &[usize], dtype: DType| match dtype.is_float() {
        true => Sample::floats(dtype, shape, &vec![1.0; shape.iter().product()]),
        false => Sample::integers(dtype, shape, &vec![1; shape.iter().product()]),
    };
    DTYPES.iter().flat_map(|&dtype| SHAPES.iter().map(move |shape| ones(shape, dtype))).collect()
}

fn key() -> RngKey {
    RngKey::new(1)
}

#[test]
fn primitives_never_panic() {
    for backend in [ReferenceBackend::new(), ReferenceBackend::rounding()] {
        let (all, mut outs, mut seconds) = (samples(), samples(), samples());
        let mut done = 0;
        for (out, second) in outs.iter_mut().zip(&mut seconds) {
            let scalars = [Scalar::Float(f64::NAN), Scalar::Int(-1)];
            done += scalars.iter().filter(|s| backend.full(**s, out.view_mut()).is_ok()).count();
            done += scalars.iter().filter(|s| backend.iota(**s, scalars[0], out.view_mut()).is_ok()).count();
            done += usize::from(backend.uniform(key(), 0.0, 1.0, out.view_mut()).is_ok());
            done += usize::from(backend.normal(key(), 0.0, 1.0, out.view_mut()).is_ok());
            for x in &all {
                let mut tried = Vec::new();
                tried.extend(Unary::ALL.map(|op| backend.unary(op, x.source(), out.view_mut())));
                tried.push(backend.unary(Unary::Not, Source::Destination, out.view_mut()));
                tried.push(backend.copy(x.view(), out.view_mut()));
                for axes in [&[][..], &[0], &[1], &[0, 1], &[1, 0], &[7]] {
                    tried.extend(Reduce::ALL.map(|op| backend.reduce(op, x.view(), axes, out.view_mut())));
                }
                for axis in [0, 1, 9] {
                    tried.extend(ArgReduce::ALL.map(|op| backend.arg_reduce(op, x.view(), axis, out.view_mut())));
                    tried.push(backend.cumsum(x.view(), axis, out.view_mut()));
                    tried.push(backend.sort(x.view(), axis, true, out.view_mut(), second.view_mut()));
                }
                for y in &all {
                    tried.extend(Binary::ALL.map(|op| backend.binary(op, x.source(), y.view(), out.view_mut())));
                    tried.push(backend.binary(Binary::Add, Source::Destination, y.view(), out.view_mut()));
                    tried.push(backend.compare(Compare::Lt, x.view(), y.view(), out.view_mut()));
                    tried.push(backend.select(x.view(), y.view(), y.view(), out.view_mut()));
                    tried.push(backend.matmul(x.view(), y.view(), Epilogue::ACCUMULATE, out.view_mut()));
                    for axis in [0, 1, 9] {
                        tried.push(backend.gather(x.view(), y.view(), axis, out.view_mut()));
                        tried.push(backend.scatter_add(x.view(), y.view(), axis, out.view_mut()));
                    }
                    tried.push(backend.embedding(x.view(), y.view(), out.view_mut()));
                    tried.push(backend.embedding_backward(x.view(), y.view(), out.view_mut()));
                }
                done += tried.iter().filter(|r| r.is_ok()).count();
            }
        }
        assert!(done > 1000, "only {done} calls were accepted");
    }
}

#[test]
fn fused_operations_never_panic() {
    let backend = ReferenceBackend::new();
    let (all, mut outs, mut seconds, mut thirds) = (samples(), samples(), samples(), samples());
    let adamw = AdamW {
        learning_rate: 0.1,
        betas: (0.9, 0.99),
        epsilon: 1e-8,
        weight_decay: 0.0,
        step: 1,
        gradient_scale: 1.0,
    };
    let (entropy, dropout) =
        (CrossEntropy { label_smoothing: 0.1, ignore_index: None }, Dropout { p: 0.5, key: key() });
    let mut done = 0;
    for ((out, second), third) in outs.iter_mut().zip(&mut seconds).zip(&mut thirds) {
        for x in &all {
            let mut tried = Vec::new();
            tried.extend(Activation::ALL.map(|f| backend.activation(f, x.source(), out.view_mut())));
            tried.push(backend.activation(Activation::Gelu, Source::Destination, out.view_mut()));
            tried.push(backend.dropout(&dropout, x.source(), out.view_mut()));
            for y in &all {
                let (x, y, source) = (x.view(), y.view(), Source::View(y.view()));
                for kind in [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax, SoftmaxKind::Masked] {
                    tried.push(backend.softmax(kind, source, Some(x), out.view_mut()));
                    tried.push(backend.softmax(kind, source, None, out.view_mut()));
                    tried.push(backend.softmax_backward(kind, x, source, out.view_mut()));
                }
                tried.push(backend.activation_backward(Activation::Silu, x, source, out.view_mut()));
                let [a, b, c] = [out.view_mut(), second.view_mut(), third.view_mut()];
                tried.push(backend.layer_norm(x, Some(y), Some(y), 0.0, a, b, c));
                let [a, b, c] = [out.view_mut(), second.view_mut(), third.view_mut()];
                tried.push(backend.layer_norm_backward(x, Some(y), y, y, x, Some(a), Some(b), Some(c)));
                tried.push(backend.rms_norm(x, Some(y), 0.0, out.view_mut(), second.view_mut()));
                let [a, b] = [Some(out.view_mut()), Some(second.view_mut())];
                tried.push(backend.rms_norm_backward(x, None, y, x, a, b));
                tried.push(backend.cross_entropy(&entropy, x, y, out.view_mut(), second.view_mut()));
                tried.push(backend.cross_entropy_backward(&entropy, x, y, x, x, out.view_mut()));
                tried.push(backend.adamw(&adamw, x, out.view_mut(), second.view_mut(), third.view_mut()));
                let spec = AttentionSpec { biases: 1, ..AttentionSpec::default() };
                let biases = [y];
                let operands = AttentionOperands {
                    q: x,
                    k: x,
                    v: y,
                    scale: 1.0,
                    mask: None,
                    biases: &biases,
                    key_lengths: None,
                    key_starts: None,
                    segments: None,
                    scalars: &[],
                    head_scalars: &[],
                    sinks: None,
                    dropout: None,
                    tokens: None,
                };
                let destinations = AttentionOut { out: out.view_mut(), lse: second.view_mut(), statistics: Vec::new() };
                tried.push(backend.attention(&spec, &operands, destinations));
                let grads = AttentionGrads {
                    q: Some(out.view_mut()),
                    k: None,
                    v: None,
                    biases: vec![None],
                    head_scalars: Vec::new(),
                    sinks: None,
                };
                let cotangents = AttentionCotangents { out: Some(y), lse: None };
                let saved = AttentionSaved { out: y, lse: x };
                tried.push(backend.attention_backward(&spec, &operands, &saved, &cotangents, grads));
            }
            done += tried.iter().filter(|r| r.is_ok()).count();
        }
    }
    assert!(done > 200, "only {done} calls were accepted");
}

#[test]
fn layouts_too_large_for_memory_are_errors() {
    let backend = ReferenceBackend::new();
    let many = Shape::new(&[1 << 59]).unwrap();
    let ones = Sample::floats(DType::F32, &[1], &[1.0]).seen(|l| l.broadcast_to(&many).unwrap());
    let mut out = Sample::empty(DType::F32, &[1]);
    let error = backend.reduce(Reduce::Sum, ones.view(), &[0], out.view_mut()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let rows = Shape::new(&[1 << 59, 0]).unwrap();
    let mut none = Sample::empty(DType::F32, &[0]).seen(|_| Layout::contiguous(rows));
    let x = none.seen(|l| *l);
    let error = backend.softmax(SoftmaxKind::Softmax, x.source(), None, none.view_mut()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    backend.cumsum(x.view(), 0, none.view_mut()).unwrap();
    backend.unary(Unary::Exp, x.source(), none.view_mut()).unwrap();
}

#[test]
fn both_backends_have_every_kernel_for_floats() {
    for backend in [ReferenceBackend::new(), ReferenceBackend::rounding()] {
        for op in FusedOp::ALL {
            assert!(DType::FLOATS.iter().all(|&dtype| backend.support(op, dtype).is_kernel()), "{}", op.name());
            assert_eq!(backend.support(op, DType::I64).is_kernel(), op == FusedOp::Embedding);
        }
    }
    assert_eq!(ReferenceBackend::new().name(), "reference");
    assert_eq!(ReferenceBackend::rounding().name(), "reference-rounding");
}
