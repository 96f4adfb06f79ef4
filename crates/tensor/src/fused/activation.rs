//! GELU, its tanh approximation, SiLU, and ReLU.

use super::{fused, may_overwrite};
use crate::{
    Backward, Data, Function, Saver, Tensor,
    function::{backward_by_compose, run_one},
};
use attentia_backend::{Activation, FusedOp, Result, Source, rules};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// √(2/π)
const SQRT_2_OVER_PI: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
/// The cubic coefficient of the tanh approximation (Hendrycks and Gimpel, 2016).
const CUBIC: f64 = 0.044715;

/// `f(x)`
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activate(pub Activation);

impl Function for Activate {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0];
        let mut out = Data::alloc(x.device(), x.dtype(), *x.shape())?;
        x.device().activation(self.0, Source::View(x.view()?), out.view_mut()?)?;
        match self.0 {
            // Whatever follows keeps the result too.
            Activation::Relu => save.output(0),
            _ => save.input(0),
        }
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [x] = b.take_saved()?;
        let Some(mut dy) = b.take_grad(0) else { return Ok(vec![None]) };
        if !may_overwrite(&mut dy, &[&x]) {
            return Ok(vec![Some(run_one(&ActivateBackward(self.0), &[&x, &dy])?)]);
        }
        let device = dy.device().clone();
        device.activation_backward(self.0, x.view()?, Source::Destination, dy.data.view_mut()?)?;
        Ok(vec![Some(Tensor::from_data(dy.data))])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        let y = match self.0 {
            Activation::Gelu => (x * 0.5)? * ((x * FRAC_1_SQRT_2)?.erf()? + 1.0)?,
            Activation::GeluTanh => (x * 0.5)? * (inner(x)?.tanh()? + 1.0)?,
            Activation::Silu => x * x.sigmoid()?,
            Activation::Relu => Tensor::where_cond(&x.le_scalar(0.0)?, &Tensor::zeros(&[], x.dtype(), x.device())?, x),
        };
        Ok(vec![y?])
    }
}

/// `√(2/π) · (x + 0.044715 x³)`
fn inner(x: &Tensor) -> Result<Tensor> {
    (x * ((x.square()? * CUBIC)? + 1.0)?)? * SQRT_2_OVER_PI
}

/// `f'(x) · dy`; x of relu is its result, which has the same slope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivateBackward(pub Activation);

impl Function for ActivateBackward {
    fn name(&self) -> &'static str {
        match self.0 {
            Activation::Gelu => "gelu_backward",
            Activation::GeluTanh => "gelu_tanh_backward",
            Activation::Silu => "silu_backward",
            Activation::Relu => "relu_backward",
        }
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (x, dy) = (inputs[0], inputs[1]);
        let mut dx = Data::alloc(x.device(), x.dtype(), *x.shape())?;
        x.device().activation_backward(self.0, x.view()?, Source::View(dy.view()?), dx.view_mut()?)?;
        save.input(0);
        save.input(1);
        Ok(vec![dx])
    }

    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>> {
        backward_by_compose(self, b.saved, b.grads, b.needs)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (x, dy) = (inputs[0], inputs[1]);
        let slope = match self.0 {
            // Φ(x) + x φ(x)
            Activation::Gelu => {
                let density = ((x.square()? * -0.5)?.exp()? * (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2))?;
                (((x * FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)? + (x * density)?
            }
            Activation::GeluTanh => {
                let t = inner(x)?.tanh()?;
                let inner_slope = (((x.square()? * (3.0 * CUBIC))? + 1.0)? * SQRT_2_OVER_PI)?;
                ((&t + 1.0)? * 0.5)? + (((x * 0.5)? * (1.0 - t.square()?)?)? * inner_slope)?
            }
            Activation::Silu => {
                let s = x.sigmoid()?;
                &s * ((x * (1.0 - &s)?)? + 1.0)?
            }
            Activation::Relu => return Ok(vec![dy.clone().where_or_zero(&x.gt_scalar(0.0)?)?]),
        };
        Ok(vec![(slope? * dy)?])
    }
}

impl Tensor {
    /// `x/2 · (1 + erf(x/√2))` (Hendrycks and Gimpel, 2016).
    pub fn gelu(&self) -> Result<Tensor> {
        self.activate(Activation::Gelu)
    }

    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`
    pub fn gelu_tanh(&self) -> Result<Tensor> {
        self.activate(Activation::GeluTanh)
    }

    /// `x / (1 + e⁻ˣ)`, also called swish.
    pub fn silu(&self) -> Result<Tensor> {
        self.activate(Activation::Silu)
    }

    /// `max(x, 0)`, of numbers of any kind; NaN stays NaN, and the gradient at 0 is 0.
    pub fn relu(&self) -> Result<Tensor> {
        if self.dtype().is_float() { self.activate(Activation::Relu) } else { self.clamp_min(0) }
    }

    /// One of the activations that may have a kernel.
    pub fn activate(&self, f: Activation) -> Result<Tensor> {
        rules::float(f.name(), self.meta("x"))?;
        fused(FusedOp::Activation(f), &Activate(f), &[self])
    }
}
