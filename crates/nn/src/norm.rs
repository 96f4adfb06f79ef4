//! Normalisation of the last axis.

use crate::{Initialise, Scope, Weight};
use attentia_tensor::{Result, Tensor};
use std::sync::Arc;

/// Layer normalisation (Ba, Kiros and Hinton, 2016): mean 0 and variance 1, then scaled and shifted.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Weight,
    bias: Weight,
    epsilon: f64,
    path: Arc<str>,
}

impl LayerNorm {
    /// Registers `weight [width]` (ones) and `bias [width]` (zeros); ε is 1e-5 as in PyTorch.
    pub fn new(scope: Scope, width: usize) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: scope.weight("weight", &[width], Initialise::Ones)?,
            bias: scope.weight("bias", &[width], Initialise::Zeros)?,
            epsilon: 1e-5,
            path: scope.path().clone(),
        })
    }

    /// `x: [.., width] → [.., width]`
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.layer_norm(Some(&self.weight.tensor()?), Some(&self.bias.tensor()?), self.epsilon)
            .map_err(|e| e.in_path(&*self.path))
    }
}

/// Root-mean-square normalisation (Zhang and Sennrich, 2019): mean square 1, then scaled.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Weight,
    epsilon: f64,
    path: Arc<str>,
}

impl RmsNorm {
    /// Registers `weight [width]` (ones); ε is 1e-5.
    pub fn new(scope: Scope, width: usize) -> Result<RmsNorm> {
        let weight = scope.weight("weight", &[width], Initialise::Ones)?;
        Ok(RmsNorm { weight, epsilon: 1e-5, path: scope.path().clone() })
    }

    /// `x: [.., width] → [.., width]`
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.rms_norm(Some(&self.weight.tensor()?), self.epsilon).map_err(|e| e.in_path(&*self.path))
    }
}
