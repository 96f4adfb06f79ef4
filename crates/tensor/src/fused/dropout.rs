//! Dropout: keeps a key instead of a mask, and is its own backward.

use super::{fused, may_overwrite};
use crate::{Backward, Data, Function, Saver, Tensor, function::run_one};
use attentia_backend::{DType, Dropout, FusedOp, Result, RngKey, Source, rules};

/// Keeps an element, times `1 / (1 − p)`, when its word of the stream says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropoutFunction(pub Dropout);

impl Function for DropoutFunction {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn forward(&self, inputs: &[&Tensor], _: &mut Saver) -> Result<Vec<Data>> {
        let x = inputs[0];
        let mut out = Data::alloc(x.device(), x.dtype(), *x.shape())?;
        x.device().dropout(&self.0, Source::View(x.view()?), out.view_mut()?)?;
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let Some(mut dy) = b.take_grad(0) else { return Ok(vec![None]) };
        if !may_overwrite(&mut dy, &[]) {
            return Ok(vec![Some(run_one(self, &[&dy])?)]);
        }
        let device = dy.device().clone();
        device.dropout(&self.0, Source::Destination, dy.data.view_mut()?)?;
        Ok(vec![Some(Tensor::from_data(dy.data))])
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x = inputs[0];
        // A uniform f64 in [0, 1) is the word itself over 2³², so the comparison is that of the words.
        let uniform = Tensor::rand(self.0.key, x.shape(), DType::F64, x.device())?;
        let threshold = attentia_backend::Philox::drop_threshold(self.0.p) as f64 / 4_294_967_296.0;
        Ok(vec![(x * (1.0 / (1.0 - self.0.p)))?.where_or_zero(&uniform.ge_scalar(threshold)?)?])
    }
}

impl Tensor {
    /// Each element becomes 0 with probability `p`, in [0, 1), and else `x / (1 − p)`. The same key drops the same
    /// elements, so a recomputed forward repeats itself.
    pub fn dropout(&self, p: f64, key: RngKey) -> Result<Tensor> {
        rules::dropout(self.meta("x"), p)?;
        if p == 0.0 {
            return Ok(self.clone());
        }
        fused(FusedOp::Dropout, &DropoutFunction(Dropout { p, key }), &[self])
    }
}
