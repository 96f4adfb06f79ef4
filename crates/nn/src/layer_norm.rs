//! Layer normalisation (Ba, Kiros and Hinton, 2016).

use crate::{Initialise, Scope};
use attentia_tensor::{Result, Tensor, Var};
use std::sync::Arc;

/// Normalises the last axis to mean 0 and variance 1, then scales and shifts it.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Var,
    bias: Var,
    epsilon: f64,
    path: Arc<str>,
}

impl LayerNorm {
    /// Registers `weight [width]` (ones) and `bias [width]` (zeros); ε is 1e-5 as in PyTorch.
    pub fn new(scope: Scope, width: usize) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: scope.parameter("weight", &[width], Initialise::Ones)?,
            bias: scope.parameter("bias", &[width], Initialise::Zeros)?,
            epsilon: 1e-5,
            path: scope.path().clone(),
        })
    }

    /// `x: [.., width] → [.., width]`
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.layer_norm(Some(&self.weight.tensor()), Some(&self.bias.tensor()), self.epsilon)
            .map_err(|e| e.in_path(&*self.path))
    }
}
