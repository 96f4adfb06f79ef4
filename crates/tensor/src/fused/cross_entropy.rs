//! Cross-entropy between logits and class indices, one loss per row.
//!
//! ```text
//! loss = lse − (1 − ε) · logits[target] − ε/C · Σ logits          lse = ln Σ exp(logits)
//! dlogits = dloss · (softmax(logits) − (1 − ε) · onehot(target) − ε/C)        both 0 where the target is ignored
//! ```

use super::fused;
use crate::{
    Backward, Data, Function, Saver, Tensor,
    function::{backward_by_compose, run_one},
    tensor::same_device,
};
use attentia_backend::{CrossEntropy, DType, Error, ErrorKind, FusedOp, Result, rules};

/// Loss `[N]` of logits `[N, C]` and targets `[N]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrossEntropyLoss(pub CrossEntropy);

impl Function for CrossEntropyLoss {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (logits, targets) = (inputs[0], inputs[1]);
        let rows = rules::cross_entropy(logits.meta("logits"), targets.meta("targets"))?;
        let device = logits.device();
        let mut loss = Data::alloc(device, logits.dtype().statistics(), rows)?;
        let mut lse = Data::alloc(device, logits.dtype().statistics(), rows)?;
        device.cross_entropy(&self.0, logits.view()?, targets.view()?, loss.view_mut()?, lse.view_mut()?)?;
        save.input(0);
        save.input(1);
        save.extra(lse);
        Ok(vec![loss])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let [logits, targets, lse] = b.take_saved()?;
        let Some(dloss) = b.take_grad(0) else { return Ok(vec![None, None]) };
        Ok(vec![Some(run_one(&CrossEntropyBackward(self.0), &[&logits, &targets, &lse, &dloss])?), None])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (logits, targets) = (inputs[0], inputs[1]);
        let logits = logits.to_dtype(logits.dtype().statistics())?;
        let (keep, class) = self.kept(targets)?;
        let lse = logits.logsumexp(-1, false)?;
        let picked = logits.gather(1, &class.unsqueeze(1)?)?.squeeze(1)?;
        let mut loss = (lse - (picked * (1.0 - self.0.label_smoothing))?)?;
        if self.0.label_smoothing != 0.0 {
            loss = (loss - (logits.mean(&[1], false)? * self.0.label_smoothing)?)?;
        }
        Ok(vec![loss.where_or_zero(&keep)?])
    }
}

impl CrossEntropyLoss {
    /// Which rows count, and their classes; an ignored target need not be a class, so that it becomes 0.
    fn kept(&self, targets: &Tensor) -> Result<(Tensor, Tensor)> {
        match self.0.ignore_index {
            None => Ok((Tensor::full(targets.shape(), true, DType::Bool, targets.device())?, targets.clone())),
            Some(ignored) => {
                let keep = targets.ne_scalar(ignored)?;
                let class = targets.where_or_zero(&keep)?;
                Ok((keep, class))
            }
        }
    }
}

/// `dlogits` from logits, targets, lse and dloss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrossEntropyBackward(pub CrossEntropy);

impl Function for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (logits, targets, lse, dloss) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let mut dlogits = Data::alloc(logits.device(), logits.dtype(), *logits.shape())?;
        logits.device().cross_entropy_backward(
            &self.0,
            logits.view()?,
            targets.view()?,
            lse.view()?,
            dloss.view()?,
            dlogits.view_mut()?,
        )?;
        (0..4).for_each(|i| save.input(i));
        Ok(vec![dlogits])
    }

    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>> {
        backward_by_compose(self, b.saved, b.grads, b.needs)
    }

    /// Computes `lse` again: it depends on the logits, which the saved one has forgotten.
    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let (logits, targets, dloss) = (inputs[0], inputs[1], inputs[3]);
        let wide = logits.to_dtype(logits.dtype().statistics())?;
        let classes = logits.shape()[1];
        let (keep, class) = CrossEntropyLoss(self.0).kept(targets)?;
        let hot = (Tensor::one_hot(&class, classes, wide.dtype())? * (1.0 - self.0.label_smoothing))?;
        let target = (hot + self.0.label_smoothing / classes as f64)?;
        let weight = (wide.softmax(-1)? - target)?.where_or_zero(&keep.unsqueeze(1)?)?;
        Ok(vec![(weight * dloss.unsqueeze(1)?)?.to_dtype(logits.dtype())?])
    }
}

impl Tensor {
    /// Loss `[N]` (nats, dtype [`DType::statistics`]) of these logits `[N, C]` and class indices `[N]` (i64), without
    /// a softmax in between. A target that is neither a class nor ignored is an error.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{CrossEntropy, Tensor};
    /// let logits = Tensor::from_slice(&[0.0, 0.0, 5.0, 1.0], &[2, 2], &device)?; // [N, C]
    /// let targets = Tensor::from_slice(&[1i64, -100], &[2], &device)?; //           [N]
    /// let spec = CrossEntropy { ignore_index: Some(-100), ..CrossEntropy::default() };
    /// assert_eq!(logits.cross_entropy(&targets, spec)?.to_vec::<f64>()?, [2f64.ln(), 0.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cross_entropy(&self, targets: &Tensor, spec: CrossEntropy) -> Result<Tensor> {
        rules::cross_entropy(self.meta("logits"), targets.meta("targets"))?;
        same_device("cross_entropy", &[self, targets])?;
        if !(0.0..=1.0).contains(&spec.label_smoothing) {
            let what = format!("label smoothing is {}", spec.label_smoothing);
            return Err(Error::new(ErrorKind::Argument, "cross_entropy", what).help("it lies in [0, 1]"));
        }
        fused(FusedOp::CrossEntropy, &CrossEntropyLoss(spec), &[self, targets])
    }
}
