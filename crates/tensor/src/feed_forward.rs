//! Two affine maps with an activation between them: the feed-forward network of a transformer layer.
//!
//! ```text
//! x [.., C], up [H, C], down [N, H] → y = f(x · upᵀ + b) · downᵀ + c   [.., N]
//! R = all rows of x:   u [R, H] = x · upᵀ + b
//!                      h [R, H] = f(u)                      in the epilogue of the product that makes u
//!                      y [R, N] = h · downᵀ + c
//!                      du [R, H] = (g · down) ⊙ f'(u)       in the epilogue of the product that makes dh
//! ```
//!
//! One function rather than three, because of du: what f does to a gradient then costs no pass over `[R, H]`. For the
//! backward one such matrix is kept: u, and h is computed once more; or h of relu, at which it has the same slope. All inputs
//! are kept, for second derivatives.

use crate::{
    Backward, Data, Function, Saver, Tensor,
    function::{backward_of, only, run_one},
    fused::{activation::Activate, kernels_enabled},
    graph::records,
    linear::{Linear, as_rows, check_shapes, input_gradient, into_rows, rows_of, with_last},
    tensor::same_device,
};
use attentia_backend::{Activation, Apply, DType, Epilogue, Error, ErrorKind, Layout, Result, rules, rules::Meta};

/// Weight `[out, in]` and bias `[out]` of an affine map, for [`Tensor::feed_forward`].
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// `[out, in]`
    pub weight: &'a Tensor,
    /// `[out]`
    pub bias: Option<&'a Tensor>,
}

/// `f(x · upᵀ + b) · downᵀ + c` of x `[.., C]`. The operands: x, up, b if there is one, down, c if there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeedForward {
    pub f: Activation,
    /// Dtype of weights and biases.
    pub parameters: DType,
    /// Whether there are b and c.
    pub biases: [bool; 2],
}

/// Places of an affine map's operands.
struct At {
    weight: usize,
    bias: Option<usize>,
}

impl At {
    /// The operands of the map of x.
    fn of<'a>(&self, x: &'a Tensor, inputs: &[&'a Tensor]) -> Vec<&'a Tensor> {
        [x, inputs[self.weight]].into_iter().chain(self.bias.map(|bias| inputs[bias])).collect()
    }
}

impl FeedForward {
    fn places(&self) -> [At; 2] {
        let down = 2 + usize::from(self.biases[0]);
        [
            At { weight: 1, bias: self.biases[0].then_some(2) },
            At { weight: down, bias: self.biases[1].then_some(down + 1) },
        ]
    }

    /// The same as functions that are recorded one by one: for second derivatives. Gradients of f32 parameters are not rounded
    /// in theirs.
    fn of_functions(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let [up, down] = self.places();
        let u = run_one(&self.linear(), &up.of(inputs[0], inputs))?;
        Ok(vec![run_one(&self.linear(), &down.of(&u.activate(self.f)?, inputs))?])
    }

    fn linear(&self) -> Linear {
        Linear { parameters: self.parameters }
    }

    /// `(g · down) ⊙ f'(u)`, where `at` is u, or h of relu.
    fn hidden_gradient(&self, g: &Tensor, down: &Tensor, at: &Tensor) -> Result<Tensor> {
        let mut out = Data::alloc(g.device(), g.dtype(), *at.shape())?;
        let apply = Some(Apply::Slope(self.f, at.view()?));
        g.device().matmul(g.view()?, down.data().view()?, Epilogue { apply, ..Epilogue::NONE }, out.view_mut()?)?;
        Ok(Tensor::from_data(out))
    }
}

impl Function for FeedForward {
    fn name(&self) -> &'static str {
        "feed_forward"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0].data();
        let [up, down] = self.places();
        let rounded = |at: &At| self.linear().rounded(inputs[at.weight].data(), x.dtype());
        let weights = [rounded(&up)?, rounded(&down)?];
        let affine = |x: &Data, at: &At, rounded: &Option<Data>, f: Option<Activation>| {
            let weight = rounded.as_ref().unwrap_or(inputs[at.weight].data());
            self.linear().apply(x, weight, at.bias.map(|bias| inputs[bias].data()), f)
        };
        let keeps_u = save.is_recording() && self.f != Activation::Relu;
        let first = affine(&rows_of(x)?, &up, &weights[0], (!keeps_u).then_some(self.f))?;
        let h = match keeps_u {
            true => &Tensor::from_data(first.clone()).activate(self.f)?.into_data(),
            false => &first,
        };
        let out = affine(h, &down, &weights[1], None)?;
        for i in 0..inputs.len() {
            save.input(i);
        }
        save.extra(first);
        for rounded in weights.into_iter().flatten() {
            save.extra(rounded);
        }
        let shape = with_last(x.shape(), out.shape()[1])?;
        Ok(vec![out.relayout(Layout::contiguous(shape))])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        // All inputs, and behind them u or h, and weights that were rounded.
        let mut extras = std::mem::take(&mut b.saved).into_iter();
        let inputs: Vec<Tensor> = extras.by_ref().take(b.needs.len()).collect();
        let (Some(kept), Some(g)) = (extras.next(), b.take_grad(0)) else { return Ok(vec![None; b.needs.len()]) };
        let all: Vec<&Tensor> = inputs.iter().chain([&g]).collect();
        if records(&all) {
            drop(kept);
            return backward_of(|inputs| self.of_functions(inputs), inputs, vec![Some(g)], b.needs);
        }
        let (shape, g) = (*g.shape(), into_rows(g)?);
        let mut gradients = vec![None; b.needs.len()];
        let wanted = |place: &Option<usize>| place.filter(|&i| b.wants(i));
        let [up, down] = self.places();
        let mut multiplied = |at: &At| extras.next().unwrap_or_else(|| inputs[at.weight].clone());
        let (up_weight, down_weight) = (multiplied(&up), multiplied(&down));
        if b.wants(down.weight) {
            let h = if self.f == Activation::Relu { kept.clone() } else { kept.activate(self.f)? };
            gradients[down.weight] = Some(self.linear().weight_gradient(&g, &h)?);
        }
        if let Some(bias) = wanted(&down.bias) {
            gradients[bias] = Some(self.linear().bias_gradient(&g)?);
        }
        if !(0..down.weight).any(|i| b.wants(i)) {
            return Ok(gradients);
        }
        let du = self.hidden_gradient(&g, &down_weight, &kept)?;
        drop((g, kept));
        if b.wants(up.weight) {
            gradients[up.weight] = Some(self.linear().weight_gradient(&du, &as_rows(&inputs[0])?)?);
        }
        if let Some(bias) = wanted(&up.bias) {
            gradients[bias] = Some(self.linear().bias_gradient(&du)?);
        }
        if b.wants(0) {
            gradients[0] = Some(input_gradient(&mut b, &du, &up_weight, &shape)?);
        }
        Ok(gradients)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let affine = |x: &Tensor, at: At| only(&self.linear(), self.linear().compose(&at.of(x, inputs))?);
        let [up, down] = self.places();
        let (u, f) = (affine(inputs[0], up)?, Activate(self.f));
        Ok(vec![affine(&only(&f, f.compose(&[&u])?)?, down)?])
    }
}

impl Tensor {
    /// `f(x · upᵀ + b) · downᵀ + c` along the last axis: x `[.., C]`, up `[H, C]`, down `[N, H]`, result `[.., N]`. What
    /// [`linear`](Tensor::linear), [`activate`](Tensor::activate) and `linear` again compute, without a pass over memory for the
    /// activation, forward or backward. In 16 bits what lies between is rounded once, after f, where only the result of f is
    /// kept: without a gradient, and for relu.
    ///
    /// Parameters have x's dtype, or all of them f32 beside a 16-bit x, as in [`mixed_linear`](Tensor::mixed_linear). Errors
    /// when they don't, or when C or H disagree, or devices do.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{Activation, Affine, Tensor};
    /// let x = Tensor::from_slice(&[1.0, -1.0], &[2, 1], &device)?;
    /// let up = Tensor::from_slice(&[2.0, -3.0], &[2, 1], &device)?;
    /// let down = Tensor::from_slice(&[1.0, 10.0], &[1, 2], &device)?;
    /// let [up, down] = [&up, &down].map(|weight| Affine { weight, bias: None });
    /// assert_eq!(x.feed_forward(up, Activation::Relu, down)?.to_vec::<f64>()?, [2.0, 30.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn feed_forward(&self, up: Affine, f: Activation, down: Affine) -> Result<Tensor> {
        const OP: &str = "feed_forward";
        let mut operands = vec![self, up.weight];
        operands.extend(up.bias);
        operands.push(down.weight);
        operands.extend(down.bias);
        same_device(OP, &operands)?;
        rules::float(OP, self.meta("x"))?;
        let roles = [Some("up"), up.bias.map(|_| "up's bias"), Some("down"), down.bias.map(|_| "down's bias")];
        let metas: Vec<_> =
            operands[1..].iter().zip(roles.into_iter().flatten()).map(|(x, role)| x.meta(role)).collect();
        rules::alike(OP, &metas)?;
        let parameters = up.weight.dtype();
        if parameters != self.dtype() && !(self.dtype().is_half() && parameters == DType::F32) {
            return Err(Error::new(
                ErrorKind::DType,
                OP,
                format!("x is {} and the parameters {parameters}", self.dtype()),
            )
            .operands([self.meta("x").operand()].into_iter().chain(metas.iter().map(|meta| meta.operand())))
            .help("parameters have x's dtype, or f32 beside bf16 and f16"));
        }
        let hidden = Layout::contiguous(check_shapes(OP, self.meta("x"), up.weight, up.bias)?);
        let hidden = Meta { role: "hidden", layout: &hidden, ..self.meta("x") };
        check_shapes(OP, hidden, down.weight, down.bias)?;
        let function = FeedForward { f, parameters, biases: [up.bias.is_some(), down.bias.is_some()] };
        match kernels_enabled() {
            true => run_one(&function, &operands),
            false => only(&function, function.compose(&operands)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Activation, Affine, DType, Tensor, Var, grad, tests::device, without_kernels};

    /// x in bf16, and parameters in f32 that bf16 does not hold: x, up, its bias, down, its bias.
    fn operands() -> [Var; 5] {
        let device = device();
        let of = |values: &[f32], extents: &[usize], dtype| {
            Var::new(Tensor::from_slice(values, extents, &device).unwrap().to_dtype(dtype).unwrap()).unwrap()
        };
        [
            of(&[1.0, -0.5, 3.0, 0.25, 2.0, -1.0], &[3, 2], DType::Bf16),
            of(&[0.1, 0.2, 0.3, -0.7, 0.011, 1.9], &[3, 2], DType::F32),
            of(&[0.013, -0.7, 0.21], &[3], DType::F32),
            of(&[0.7, -0.11, 0.31, 1.1, 0.3, -0.9], &[2, 3], DType::F32),
            of(&[0.1, -0.3], &[2], DType::F32),
        ]
    }

    type Forward = fn(&[Tensor; 5], Activation) -> Tensor;

    fn at_once([x, up, b, down, c]: &[Tensor; 5], f: Activation) -> Tensor {
        let (up, down) = (Affine { weight: up, bias: Some(b) }, Affine { weight: down, bias: Some(c) });
        x.feed_forward(up, f, down).unwrap()
    }

    fn in_steps([x, up, b, down, c]: &[Tensor; 5], f: Activation) -> Tensor {
        let u = x.mixed_linear(up, Some(b)).unwrap();
        u.activate(f).unwrap().mixed_linear(down, Some(c)).unwrap()
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.to_dtype(DType::F32).unwrap().to_vec::<f32>().unwrap()
    }

    /// The result, and gradients of the wanted operands.
    fn run(forward: Forward, f: Activation, wanted: [bool; 5], create_graph: bool) -> Vec<Tensor> {
        let vars = operands();
        let all: [Tensor; 5] = std::array::from_fn(|i| {
            let tensor = vars[i].tensor();
            if wanted[i] { tensor } else { tensor.detach() }
        });
        let y = forward(&all, f);
        let leaves: Vec<&Tensor> = all.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(x, _)| x).collect();
        let gradients = grad(&[&y], Some(&[&y.detach()]), &leaves, create_graph).unwrap();
        let gradients = gradients.into_iter().map(Option::unwrap);
        [y.detach()].into_iter().chain(gradients).collect()
    }

    /// Within roundings of bf16 of each other. What must not have been rounded to it holds more digits.
    fn assert_alike(ours: &[Tensor], theirs: &[Tensor], what: &str) {
        assert_eq!(ours.len(), theirs.len());
        for (x, y) in ours.iter().zip(theirs) {
            assert_eq!((x.dtype(), x.shape()), (y.dtype(), y.shape()), "{what}");
            let scale = numbers(y).iter().fold(0f32, |most, y| most.max(y.abs()));
            for (x, y) in numbers(x).iter().zip(numbers(y)) {
                assert!((x - y).abs() <= scale / 64.0, "{what}: {x} and {y}");
            }
        }
    }

    #[test]
    fn it_is_linear_activate_and_linear_whatever_wants_a_gradient() {
        for f in Activation::ALL {
            for wanted in (1..32).map(|bits| [0, 1, 2, 3, 4].map(|i| bits >> i & 1 == 1)) {
                for create_graph in [false, true] {
                    let [ours, theirs] = [at_once, in_steps].map(|forward| run(forward, f, wanted, create_graph));
                    assert_alike(&ours, &theirs, &format!("{f:?} {wanted:?}, recorded: {create_graph}"));
                }
            }
        }
    }

    #[test]
    fn gradients_of_parameters_in_f32_are_not_rounded() {
        for create_graph in [false, true] {
            let ours = run(at_once, Activation::Relu, [true; 5], create_graph);
            for (i, gradient) in ours.iter().enumerate().skip(2) {
                assert_eq!(gradient.dtype(), DType::F32);
                let rounded = numbers(&gradient.to_dtype(DType::Bf16).unwrap());
                assert_ne!(numbers(gradient), rounded, "operand {}, recorded: {create_graph}", i - 1);
            }
        }
    }

    #[test]
    fn without_kernels_it_is_composed() {
        let all = operands().map(|var| var.tensor().detach());
        for f in Activation::ALL {
            let composed = without_kernels(|| at_once(&all, f));
            assert_alike(&[composed], &[at_once(&all, f)], f.name());
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let [x, up, _, down, _] = operands().map(|var| var.tensor());
        let map = |weight| Affine { weight, bias: None };
        let error = x.feed_forward(map(&up), Activation::Gelu, map(&up)).unwrap_err().to_string();
        assert!(error.contains("hidden  [3, 3]"), "{error}");
        let narrow = down.to_dtype(DType::Bf16).unwrap();
        let error = x.feed_forward(map(&up), Activation::Gelu, map(&narrow)).unwrap_err().to_string();
        assert!(error.contains("up is f32 and down is bf16"), "{error}");
        let wide = x.to_dtype(DType::F64).unwrap();
        let error = wide.feed_forward(map(&up), Activation::Gelu, map(&down)).unwrap_err().to_string();
        assert!(error.contains("x is f64 and the parameters f32"), "{error}");
    }
}
