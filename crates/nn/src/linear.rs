//! Affine maps.

use crate::{Initialise, Scope, Weight};
use attentia_tensor::{Result, Tensor};
use std::sync::Arc;

/// `y = x Wᵀ + b` along the last axis; W is `[out, in]` as in PyTorch.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Weight>,
    path: Arc<str>,
}

impl Linear {
    /// Registers `weight [outputs, inputs]` (Xavier uniform) and `bias [outputs]` (zeros).
    pub fn new(scope: Scope, inputs: usize, outputs: usize) -> Result<Linear> {
        let bias = scope.weight("bias", &[outputs], Initialise::Zeros)?;
        Ok(Linear { bias: Some(bias), ..Linear::without_bias(scope, inputs, outputs)? })
    }

    /// Registers `weight` only.
    pub fn without_bias(scope: Scope, inputs: usize, outputs: usize) -> Result<Linear> {
        let weight = scope.weight("weight", &[outputs, inputs], Initialise::XavierUniform)?;
        Ok(Linear { weight, bias: None, path: scope.path().clone() })
    }

    /// Weight and bias as a product with x takes them.
    pub(crate) fn operands(&self, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        Ok((self.weight.beside(x)?, self.bias.as_ref().map(|bias| bias.beside(x)).transpose()?))
    }

    /// `x: [.., in] → [.., out]`. Errors when the last extent of x is not `in`, or dtypes differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.linear(x, self.bias.as_ref()).map_err(|e| e.in_path(&*self.path))
    }
}
