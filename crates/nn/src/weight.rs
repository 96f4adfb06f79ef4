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

    /// The value as a product with x takes it: parameters in f32 beside a layer that computes in 16 bits are rounded where
    /// they are multiplied, and their gradients are not.
    pub(crate) fn beside(&self, x: &Tensor) -> Result<Tensor> {
        if self.is_mixed(x) { Ok(self.var.tensor()) } else { self.tensor() }
    }

    fn is_mixed(&self, x: &Tensor) -> bool {
        matches!(self.compute, DType::Bf16 | DType::F16)
            && self.var.tensor().dtype() == DType::F32
            && x.dtype() == self.compute
    }

    /// `x wᵀ (+ b)` with this as w.
    pub(crate) fn linear(&self, x: &Tensor, bias: Option<&Weight>) -> Result<Tensor> {
        let (weight, bias) = (self.beside(x)?, bias.map(|bias| bias.beside(x)).transpose()?);
        match self.is_mixed(x) {
            true => x.mixed_linear(&weight, bias.as_ref()),
            false => x.linear(&weight, bias.as_ref()),
        }
    }
}
