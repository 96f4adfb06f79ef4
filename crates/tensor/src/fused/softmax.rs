//! The softmax family along the last axis.
//!
//! ```text
//! softmax, masked_softmax   dx = y ⊙ (dy − Σ y ⊙ dy)
//! log_softmax               dx = dy − exp(y) ⊙ Σ dy
//! ```

use super::{fused, may_overwrite};
use crate::{Backward, Data, Function, Saver, Tensor, function::run_one, tensor::same_device};
use attentia_backend::{FusedOp, Result, SoftmaxKind, Source, rules};

/// Softmax, log-softmax, or softmax over the elements that a mask keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax(pub SoftmaxKind);

impl Function for Softmax {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0];
        let mut out = Data::alloc(x.device(), x.dtype(), *x.shape())?;
        let mask = inputs.get(1).map(|mask| mask.view()).transpose()?;
        x.device().softmax(self.0, Source::View(x.view()?), mask, out.view_mut()?)?;
        save.output(0);
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [y] = b.take_saved()?;
        let Some(mut dy) = b.take_grad(0) else { return Ok(b.needs.iter().map(|_| None).collect()) };
        let dx = if may_overwrite(&mut dy, &[&y]) {
            let device = dy.device().clone();
            device.softmax_backward(self.0, y.view()?, Source::Destination, dy.data.view_mut()?)?;
            Tensor::from_data(dy.data)
        } else {
            run_one(&SoftmaxBackward(self.0), &[&y, &dy])?
        };
        Ok(std::iter::once(Some(dx)).chain(b.needs.iter().skip(1).map(|_| None)).collect())
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        if x.shape().last() == Some(&0) {
            return Ok(vec![x.copy()?]); // rows of nothing have no maximum
        }
        let max = |x: &Tensor| x.detach().max(&[-1], true);
        let y = match (self.0, inputs.get(1)) {
            (SoftmaxKind::LogSoftmax, _) => {
                let shifted = (x - max(x)?)?;
                let total = shifted.exp()?.sum(&[-1], true)?.log()?;
                shifted - total
            }
            (SoftmaxKind::Masked, Some(mask)) => {
                let x = x.masked_fill(&mask.logical_not()?, f64::NEG_INFINITY)?;
                let max = max(&x)?;
                // A row with nothing left would be NaN: its maximum is replaced, and its total of 0 by 1.
                let max = max.where_or_zero(&max.ne_scalar(f64::NEG_INFINITY)?)?;
                let weights = (x - max)?.exp()?;
                let total = weights.sum(&[-1], true)?;
                let empty = total.eq_scalar(0.0)?;
                weights / total.masked_fill(&empty, 1.0)?
            }
            _ => {
                let weights = (x - max(x)?)?.exp()?;
                let total = weights.sum(&[-1], true)?;
                weights / total
            }
        };
        Ok(vec![y?])
    }
}

/// `dx` from `y` and `dy`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoftmaxBackward(pub SoftmaxKind);

impl Function for SoftmaxBackward {
    fn name(&self) -> &'static str {
        match self.0 {
            SoftmaxKind::Softmax => "softmax_backward",
            SoftmaxKind::LogSoftmax => "log_softmax_backward",
            SoftmaxKind::Masked => "masked_softmax_backward",
        }
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (y, dy) = (inputs[0], inputs[1]);
        let mut dx = Data::alloc(y.device(), y.dtype(), *y.shape())?;
        y.device().softmax_backward(self.0, y.view()?, Source::View(dy.view()?), dx.view_mut()?)?;
        save.input(0);
        save.input(1);
        Ok(vec![dx])
    }

    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>> {
        crate::function::backward_by_compose(self, b.saved, b.grads, b.needs)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (y, dy) = (inputs[0], inputs[1]);
        let dx = match self.0 {
            SoftmaxKind::LogSoftmax => dy - (y.exp()? * dy.sum(&[-1], true)?)?,
            _ => y * (dy - (y * dy)?.sum(&[-1], true)?)?,
        };
        Ok(vec![dx?])
    }
}

impl Tensor {
    /// `exp(xᵢ) / Σ exp(xⱼ)` along an axis, without overflow; a row of −inf gives NaN, as IEEE has it.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// let x = attentia_tensor::Tensor::from_slice(&[0.0, 0.0, f64::NEG_INFINITY], &[3], &device)?;
    /// assert_eq!(x.softmax(-1)?.to_vec::<f64>()?, [0.5, 0.5, 0.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn softmax(&self, axis: isize) -> Result<Tensor> {
        self.softmax_family(SoftmaxKind::Softmax, None, axis)
    }

    /// `ln softmax(x)` along an axis, exact where the softmax would underflow.
    pub fn log_softmax(&self, axis: isize) -> Result<Tensor> {
        self.softmax_family(SoftmaxKind::LogSoftmax, None, axis)
    }

    /// Softmax along an axis over the elements whose mask (bool, broadcast to x) is true; the others are 0, and so is
    /// a row with nothing left, by mask or by −inf. Gradients of masked elements are 0.
    pub fn masked_softmax(&self, mask: &Tensor, axis: isize) -> Result<Tensor> {
        self.softmax_family(SoftmaxKind::Masked, Some(mask), axis)
    }

    fn softmax_family(&self, kind: SoftmaxKind, mask: Option<&Tensor>, axis: isize) -> Result<Tensor> {
        let op = kind.name();
        rules::softmax(op, self.meta("x"), mask.map(|m| m.meta("mask")))?;
        let axis = self.axis(op, axis)?;
        let last = axis + 1 == self.rank();
        let place = |t: &Tensor| if last { Ok(t.clone()) } else { t.axis_last(axis) };
        let x = place(self)?;
        let y = match mask {
            None => fused(FusedOp::Softmax(kind), &Softmax(kind), &[&x])?,
            Some(mask) => {
                same_device(op, &[self, mask])?;
                let mask = place(&mask.expand(self.shape())?)?;
                fused(FusedOp::Softmax(kind), &Softmax(kind), &[&x, &mask])?
            }
        };
        if last { Ok(y) } else { y.axis_back(axis) }
    }
}
