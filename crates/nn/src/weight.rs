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
}
