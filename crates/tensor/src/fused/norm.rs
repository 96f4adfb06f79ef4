//! Layer normalisation (Ba et al., 2016) and RMS normalisation (Zhang and Sennrich, 2019) along the last axis.
//!
//! ```text
//! layer_norm   x̂ = (x − mean) · rstd      y = x̂ · weight + bias       dx = rstd · (ĝ − mean(ĝ) − x̂ · mean(ĝ x̂))
//! rms_norm     x̂ = x · rstd               y = x̂ · weight              dx = rstd · (ĝ − x̂ · mean(ĝ x̂))       ĝ = dy · weight
//! ```
//!
//! Statistics are kept in [`attentia_backend::DType::statistics`]; compositions compute in it too.

use super::fused;
use crate::{
    Backward, Data, Function, Saver, Tensor,
    function::{backward_by_compose, run},
    tensor::same_device,
};
use attentia_backend::{FusedOp, Result, rules};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Layer,
    Rms,
}

/// `y` from x, then the weight and the bias if there are any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub kind: Kind,
    pub epsilon: f64,
    pub weight: bool,
    pub bias: bool,
}

impl Norm {
    /// Weight and bias among the operands behind x.
    fn parameters<'a>(&self, rest: &'a [&'a Tensor]) -> (Option<&'a Tensor>, Option<&'a Tensor>) {
        let weight = if self.weight { rest.first().copied() } else { None };
        let bias = if self.bias { rest.get(usize::from(self.weight)).copied() } else { None };
        (weight, bias)
    }

    /// `x̂` and `rstd`, in the statistics' dtype.
    fn normalised(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let x = x.to_dtype(x.dtype().statistics())?;
        let centred = if self.kind == Kind::Layer { (&x - x.mean(&[-1], true)?)? } else { x };
        let rstd = (centred.square()?.mean(&[-1], true)? + self.epsilon)?.rsqrt()?;
        Ok(((centred * &rstd)?, rstd))
    }
}

impl Function for Norm {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Layer => "layer_norm",
            Kind::Rms => "rms_norm",
        }
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0];
        let (weight, bias) = self.parameters(&inputs[1..]);
        let metas: Vec<_> = inputs[1..].iter().map(|t| t.meta("parameter")).collect();
        let rows = rules::norm(self.name(), x.meta("x"), &metas)?;
        let device = x.device();
        let (weight_view, bias_view) = (weight.map(|t| t.view()).transpose()?, bias.map(|t| t.view()).transpose()?);
        let mut out = Data::alloc(device, x.dtype(), *x.shape())?;
        let mut rstd = Data::alloc(device, x.dtype().statistics(), rows)?;
        save.input(0);
        if weight.is_some() {
            save.input(1);
        }
        match self.kind {
            Kind::Layer => {
                let mut mean = Data::alloc(device, x.dtype().statistics(), rows)?;
                let (epsilon, out, stat) = (self.epsilon, out.view_mut()?, mean.view_mut()?);
                device.layer_norm(x.view()?, weight_view, bias_view, epsilon, out, stat, rstd.view_mut()?)?;
                save.extra(mean);
            }
            Kind::Rms => device.rms_norm(x.view()?, weight_view, self.epsilon, out.view_mut()?, rstd.view_mut()?)?,
        }
        save.extra(rstd);
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let inputs = b.needs.len();
        let Some(dy) = b.take_grad(0) else { return Ok(vec![None; inputs]) };
        let wants = Wants {
            x: b.wants(0),
            weight: self.weight && b.wants(1),
            bias: self.bias && b.wants(1 + usize::from(self.weight)),
        };
        let backward = NormBackward { norm: *self, wants };
        let mut operands: Vec<&Tensor> = b.saved.iter().collect();
        operands.push(&dy);
        let mut grads = run(&backward, &operands)?.into_iter();
        let mut next = |wanted: bool| if wanted { grads.next() } else { None };
        let mut result = vec![next(wants.x)];
        result.extend(self.weight.then(|| next(wants.weight)));
        result.extend(self.bias.then(|| next(wants.bias)));
        Ok(result)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        let (weight, bias) = self.parameters(&inputs[1..]);
        let (mut y, _) = self.normalised(x)?;
        if let Some(weight) = weight {
            y = (y * weight.to_dtype(x.dtype().statistics())?)?;
        }
        if let Some(bias) = bias {
            y = (y + bias.to_dtype(x.dtype().statistics())?)?;
        }
        Ok(vec![y.to_dtype(x.dtype())?])
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Wants {
    pub x: bool,
    pub weight: bool,
    pub bias: bool,
}

/// The gradients that are wanted, in the order x, weight, bias, from x, weight if there is one, mean (layer norm only),
/// rstd, dy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormBackward {
    pub norm: Norm,
    pub wants: Wants,
}

impl Function for NormBackward {
    fn name(&self) -> &'static str {
        match self.norm.kind {
            Kind::Layer => "layer_norm_backward",
            Kind::Rms => "rms_norm_backward",
        }
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (x, dy) = (inputs[0], inputs[inputs.len() - 1]);
        let weight = self.norm.weight.then(|| inputs[1].view()).transpose()?;
        let rstd = inputs[inputs.len() - 2].view()?;
        let device = x.device();
        let width = &x.shape()[x.rank() - 1..];
        let room = |wanted: bool, shape: &[usize]| {
            wanted.then(|| Data::alloc(device, x.dtype(), attentia_backend::Shape::new(shape)?)).transpose()
        };
        let mut dx = room(self.wants.x, x.shape())?;
        let mut dweight = room(self.wants.weight, width)?;
        let mut dbias = room(self.wants.bias, width)?;
        let dx_view = dx.as_mut().map(Data::view_mut).transpose()?;
        let dweight_view = dweight.as_mut().map(Data::view_mut).transpose()?;
        let dbias_view = dbias.as_mut().map(Data::view_mut).transpose()?;
        match self.norm.kind {
            Kind::Layer => {
                let mean = inputs[inputs.len() - 3].view()?;
                device.layer_norm_backward(
                    x.view()?,
                    weight,
                    mean,
                    rstd,
                    dy.view()?,
                    dx_view,
                    dweight_view,
                    dbias_view,
                )?;
            }
            Kind::Rms => device.rms_norm_backward(x.view()?, weight, rstd, dy.view()?, dx_view, dweight_view)?,
        }
        (0..inputs.len()).for_each(|i| save.input(i));
        Ok([dx, dweight, dbias].into_iter().flatten().collect())
    }

    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>> {
        backward_by_compose(self, b.saved, b.grads, b.needs)
    }

    /// Computes the statistics again: they depend on x, which the saved ones have forgotten.
    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (x, dy) = (inputs[0], inputs[inputs.len() - 1]);
        let dtype = x.dtype().statistics();
        let (normalised, rstd) = self.norm.normalised(x)?;
        let dy = dy.to_dtype(dtype)?;
        let rows: Vec<isize> = (0..x.rank() as isize - 1).collect();
        let mut grads = Vec::new();
        if self.wants.x {
            let g = if self.norm.weight { (&dy * inputs[1].to_dtype(dtype)?)? } else { dy.clone() };
            let along = (&normalised * (&g * &normalised)?.mean(&[-1], true)?)?;
            let g = if self.norm.kind == Kind::Layer { (&g - g.mean(&[-1], true)?)? } else { g };
            grads.push(((g - along)? * rstd)?);
        }
        if self.wants.weight {
            grads.push((&dy * &normalised)?.sum(&rows, false)?);
        }
        if self.wants.bias {
            grads.push(dy.sum(&rows, false)?);
        }
        grads.into_iter().map(|g| g.to_dtype(x.dtype())).collect()
    }
}

impl Tensor {
    /// `(x − mean) / √(variance + ε) · weight + bias` along the last axis, with the population's variance; weight and
    /// bias are `[C]`.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// let x = attentia_tensor::Tensor::from_slice(&[1.0, 3.0], &[1, 2], &device)?;
    /// assert_eq!(x.layer_norm(None, None, 0.0)?.to_vec::<f64>()?, [-1.0, 1.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer_norm(&self, weight: Option<&Tensor>, bias: Option<&Tensor>, epsilon: f64) -> Result<Tensor> {
        self.norm(Norm { kind: Kind::Layer, epsilon, weight: weight.is_some(), bias: bias.is_some() }, weight, bias)
    }

    /// `x / √(mean(x²) + ε) · weight` along the last axis; the weight is `[C]`.
    pub fn rms_norm(&self, weight: Option<&Tensor>, epsilon: f64) -> Result<Tensor> {
        self.norm(Norm { kind: Kind::Rms, epsilon, weight: weight.is_some(), bias: false }, weight, None)
    }

    fn norm(&self, norm: Norm, weight: Option<&Tensor>, bias: Option<&Tensor>) -> Result<Tensor> {
        let metas: Vec<_> = weight.map(|w| w.meta("weight")).into_iter().chain(bias.map(|b| b.meta("bias"))).collect();
        rules::norm(norm.name(), self.meta("x"), &metas)?;
        let inputs: Vec<&Tensor> = std::iter::once(self).chain(weight).chain(bias).collect();
        same_device(norm.name(), &inputs)?;
        let op = if norm.kind == Kind::Layer { FusedOp::LayerNorm } else { FusedOp::RmsNorm };
        fused(op, &norm, &inputs)
    }
}
