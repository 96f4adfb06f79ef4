//! Affine maps.

use crate::{Initialise, Scope};
use attentia_tensor::{Result, Tensor, Var};
use std::sync::Arc;

/// `y = x Wᵀ + b` along the last axis; W is `[out, in]` as in PyTorch.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Var,
    bias: Option<Var>,
    path: Arc<str>,
}

impl Linear {
    /// Registers `weight [outputs, inputs]` (Xavier uniform) and `bias [outputs]` (zeros).
    pub fn new(scope: Scope, inputs: usize, outputs: usize) -> Result<Linear> {
        let bias = scope.parameter("bias", &[outputs], Initialise::Zeros)?;
        Ok(Linear { bias: Some(bias), ..Linear::without_bias(scope, inputs, outputs)? })
    }

    /// Registers `weight` only.
    pub fn without_bias(scope: Scope, inputs: usize, outputs: usize) -> Result<Linear> {
        let weight = scope.parameter("weight", &[outputs, inputs], Initialise::XavierUniform)?;
        Ok(Linear { weight, bias: None, path: scope.path().clone() })
    }

    /// `x: [.., in] → [.., out]`. Errors when the last extent of x is not `in`, or dtypes differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.matmul(&self.weight.tensor().t()?); // [.., out]
        match &self.bias {
            Some(bias) => y + bias.tensor(),
            None => y,
        }
        .map_err(|e| e.in_path(&*self.path))
    }
}
