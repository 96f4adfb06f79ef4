//! Module by module: the output, and the gradient of every input and parameter, to 1e-10.

use crate::{Golden, assert_close, device, floats};
use attentia_attention::{AttentionOptions, MultiHeadAttention, scaled_dot_product};
use attentia_nn::{
    Captures, Context, Embedding, FeedForward, FeedForwardActivation, LayerNorm, Linear, Part, Place, Point, RmsNorm,
    Run, Scope, Stack, cross_entropy,
};
use attentia_tensor::{DType, Device, Result, Tensor, Var};
use attentia_transformer::{DecoderLayer, EncoderDecoderConfig, EncoderLayer, NormPlacement, Past};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const TOLERANCE: f64 = 1e-10;
const PLACE: Place = Place { stack: Stack::Decoder, layer: 0, part: Part::SelfAttention };

/// One case of the file, and what it computes.
struct Case<'a> {
    golden: &'a Golden,
    name: &'a str,
    scope: Scope,
    inputs: BTreeMap<String, Var>,
}

impl<'a> Case<'a> {
    fn new(golden: &'a Golden, name: &'a str, device: &'a Device) -> Case<'a> {
        let floating = |(input, tensor): (&str, &Tensor)| {
            tensor.dtype().is_float().then(|| (input.to_owned(), Var::new(tensor.clone()).unwrap()))
        };
        let inputs = golden.below(&format!("{name}/in/")).into_iter().filter_map(floating).collect();
        Case { golden, name, scope: Scope::new(device, DType::F64, 1), inputs }
    }

    /// A float input, which gets a gradient.
    fn input(&self, input: &str) -> Tensor {
        self.inputs[input].tensor()
    }

    /// An input of another dtype, if there is one.
    fn plain(&self, input: &str) -> Option<&Tensor> {
        self.golden.tensors.get(&format!("{}/in/{input}", self.name))
    }

    fn constant(&self, name: &str) -> usize {
        self.golden.constant(self.name, name) as usize
    }

    /// Builds a module, whose parameters then are the file's.
    fn build<M>(&self, new: impl FnOnce(&Scope) -> Result<M>) -> M {
        let module = new(&self.scope).unwrap();
        let recorded = self.golden.below(&format!("{}/param/", self.name));
        let values = recorded.into_iter().map(|(path, tensor)| (path.to_owned(), tensor.clone())).collect();
        self.scope.parameters().load(&values).unwrap();
        module
    }

    /// Compares the output, and every gradient that was recorded.
    fn check(&self, output: Tensor) {
        let of = |what: &str| format!("{}/{what}", self.name);
        assert_close(&of("out"), &floats(&output), &self.golden.floats(&of("out")), TOLERANCE);
        let dout = self.golden.get(&of("dout"));
        let grads = (output * dout).unwrap().sum_all().unwrap().backward().unwrap();
        let mut compared = 0;
        for (name, expected) in self.golden.below(&of("grad/")) {
            let var = match name.split_once('/').unwrap() {
                ("in", input) => self.inputs[input].clone(),
                (_, path) => self.scope.parameters().get(path).unwrap().clone(),
            };
            let gradient = grads.get(&var).map_or_else(|| vec![0.0; expected.count()], floats);
            assert_close(&of(name), &gradient, &floats(expected), TOLERANCE);
            compared += 1;
        }
        assert!(compared > 0 && compared >= self.scope.parameters().len(), "{}", self.name);
    }

    fn options(&self) -> (Option<Tensor>, Option<Tensor>) {
        (self.plain("mask").cloned(), self.inputs.get("bias").map(Var::tensor))
    }
}

/// Names of the cases that begin like this.
fn cases(golden: &Golden, start: &str) -> Vec<String> {
    let names = golden.tensors.keys().filter_map(|name| name.split_once('/').map(|(case, _)| case));
    let names: BTreeSet<&str> = names.filter(|case| case.starts_with(start)).collect();
    assert!(!names.is_empty(), "no case {start}");
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn layers() {
    let device = device();
    let golden = Golden::read("modules", &device);
    let cx = &mut Context::evaluation();
    let case = Case::new(&golden, "linear", &device);
    let [outputs, inputs] = golden.get("linear/param/weight").dims().unwrap();
    let module = case.build(|scope| Linear::new(scope.clone(), inputs, outputs));
    case.check(module.forward(&case.input("x")).unwrap());

    let case = Case::new(&golden, "embedding", &device);
    let [tokens, width] = golden.get("embedding/param/weight").dims().unwrap();
    let module = case.build(|scope| Embedding::new(scope.clone(), tokens, width));
    case.check(module.forward(case.plain("index").unwrap()).unwrap());

    let case = Case::new(&golden, "layer_norm", &device);
    let [width] = golden.get("layer_norm/param/weight").dims().unwrap();
    let module = case.build(|scope| LayerNorm::new(scope.clone(), width));
    case.check(module.forward(&case.input("x")).unwrap());

    let case = Case::new(&golden, "rms_norm", &device);
    let [width] = golden.get("rms_norm/param/weight").dims().unwrap();
    let module = case.build(|scope| RmsNorm::new(scope.clone(), width));
    case.check(module.forward(&case.input("x")).unwrap());

    for (name, activation) in [
        ("feed_forward.relu", FeedForwardActivation::Relu),
        ("feed_forward.gelu", FeedForwardActivation::Gelu),
        ("feed_forward.gelu_tanh", FeedForwardActivation::GeluTanh),
        ("feed_forward.swiglu", FeedForwardActivation::SwiGlu),
    ] {
        let case = Case::new(&golden, name, &device);
        let [hidden, width] = golden.get(&format!("{name}/param/up.weight")).dims().unwrap();
        let module = case.build(|scope| FeedForward::new(scope.clone(), width, hidden, activation, 0.0, PLACE));
        case.check(module.forward(&case.input("x"), cx).unwrap());
    }
}

#[test]
fn losses() {
    let device = device();
    let golden = Golden::read("modules", &device);
    for name in cases(&golden, "cross_entropy") {
        let case = Case::new(&golden, &name, &device);
        let smoothing = golden.constant(&name, "label_smoothing");
        let ignored = golden.constant(&name, "ignore_index") as i64;
        let loss = cross_entropy(&case.input("logits"), case.plain("targets").unwrap(), smoothing, Some(ignored));
        case.check(loss.unwrap().mean().unwrap());
    }
}

#[test]
fn attention_under_every_mask() {
    let device = device();
    let golden = Golden::read("modules", &device);
    let names = cases(&golden, "scaled_dot_product.");
    assert!(names.len() >= 8, "{names:?}");
    for name in &names {
        let case = Case::new(&golden, name, &device);
        let (mask, bias) = case.options();
        let options = AttentionOptions { mask: mask.as_ref(), bias: bias.as_ref(), ..AttentionOptions::default() };
        let attended = scaled_dot_product(&case.input("q"), &case.input("k"), &case.input("v"), options).unwrap();
        let expected = golden.floats(&format!("{name}/weights"));
        assert_close(name, &floats(&attended.weights), &expected, TOLERANCE);
        case.check(attended.output);
    }
}

#[test]
fn multi_head_attention_to_itself_and_to_three_sources() {
    let device = device();
    let golden = Golden::read("modules", &device);
    let names = cases(&golden, "multi_head.");
    assert!(names.len() >= 16, "{names:?}");
    for name in &names {
        let case = Case::new(&golden, name, &device);
        let [width, _] = golden.get(&format!("{name}/param/query.weight")).dims().unwrap();
        let heads = case.constant("heads");
        let module = case.build(|scope| MultiHeadAttention::new(scope.clone(), width, heads, 0.0, PLACE));
        let (mask, bias) = case.options();
        let options = AttentionOptions { mask: mask.as_ref(), bias: bias.as_ref(), ..AttentionOptions::default() };
        let mut seen = Captures::new();
        let pattern = PLACE.at(Point::Pattern);
        let run = Run { plan: Some(Arc::new(BTreeSet::from([pattern]))), ..Run::default() };
        let cx = &mut Context::watched(run, &mut seen);
        let output = match name.starts_with("multi_head.self") {
            true => module.forward(&case.input("x"), options, cx),
            false => {
                let keys = module.keys(&case.input("key"), &case.input("value"), cx).unwrap();
                module.attend(&case.input("query"), &keys, options, cx)
            }
        };
        case.check(output.unwrap());
        assert_close(name, &floats(&seen[&pattern]), &golden.floats(&format!("{name}/weights")), TOLERANCE);
    }
}

#[test]
fn layers_of_both_stacks_and_norms() {
    let device = device();
    let golden = Golden::read("modules", &device);
    let cx = &mut Context::evaluation();
    for (ending, norm) in [("pre", NormPlacement::Pre), ("post", NormPlacement::Post)] {
        let name = format!("encoder_layer.{ending}");
        let case = Case::new(&golden, &name, &device);
        let config = |case: &Case| {
            let [hidden, width] = golden.get(&format!("{}/param/ff.up.weight", case.name)).dims().unwrap();
            let heads = case.constant("heads");
            EncoderDecoderConfig { width, hidden, heads, norm, dropout: 0.0, ..EncoderDecoderConfig::tiny(10) }
        };
        let layer = case.build(|scope| EncoderLayer::new(scope.clone(), &config(&case), 0));
        let masked = |role: &str| AttentionOptions::masked(case.plain(role).unwrap());
        case.check(layer.forward(case.input("x"), masked("mask"), cx).unwrap());

        let name = format!("decoder_layer.{ending}");
        let case = Case::new(&golden, &name, &device);
        let layer = case.build(|scope| DecoderLayer::new(scope.clone(), &config(&case), 0));
        let keys = layer.cross_keys(&case.input("memory"), cx).unwrap();
        let masked = |role: &str| AttentionOptions::masked(case.plain(role).unwrap());
        let past = Past::Whole(masked("mask"));
        let output = layer.forward(case.input("x"), past, &keys, masked("memory_mask"), cx).unwrap();
        case.check(output);
    }
}
