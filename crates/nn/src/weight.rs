//! A parameter as a layer uses it.

use attentia_tensor::{DType, Result, Tensor, Var};

/// A registered parameter, and the dtype that its layer computes in.
#[derive(Clone, Debug)]
pub struct Weight {
    pub(crate) var: Var,
    pub(crate) compute: DType,
}

impl Weight {
    /// The value now in the layer's dtype; gradients flow to the parameter through the cast.
    pub fn tensor(&self) -> Result<Tensor> {
        let value = self.var.tensor();
        if value.dtype() == self.compute { Ok(value) } else { value.to_dtype(self.compute) }
    }

    /// The parameter.
    pub fn var(&self) -> &Var {
        &self.var
    }

    /// `x wᵀ (+ b)` with this as w. Parameters in f32 beside a layer that computes in 16 bits are rounded where they are
    /// used, and their gradients are not.
    pub(crate) fn linear(&self, x: &Tensor, bias: Option<&Weight>) -> Result<Tensor> {
        let weight = self.var.tensor();
        let is_mixed = matches!(self.compute, DType::Bf16 | DType::F16) && weight.dtype() == DType::F32;
        if is_mixed && x.dtype() == self.compute {
            let bias = bias.map(|bias| bias.var.tensor());
            return x.mixed_linear(&weight, bias.as_ref());
        }
        let bias = bias.map(Weight::tensor).transpose()?;
        x.linear(&self.tensor()?, bias.as_ref())
    }
}
