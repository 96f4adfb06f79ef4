//! Initial values of parameters.

use attentia_tensor::{DType, Device, Result, RngKey, Tensor};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialise {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        deviation: f64,
    },
    /// Uniform in ±√(6 / (fan_in + fan_out)) for a matrix `[fan_out, fan_in]` (Glorot and Bengio, 2010).
    XavierUniform,
}

impl Initialise {
    /// A tensor with such values, drawn from the stream of `key`.
    pub fn tensor(self, key: RngKey, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        match self {
            Initialise::Zeros => Tensor::zeros(shape, dtype, device),
            Initialise::Ones => Tensor::ones(shape, dtype, device),
            Initialise::Normal { deviation } => Tensor::randn(key, shape, dtype, device)?.mul_scalar(deviation),
            Initialise::XavierUniform => {
                let fans: usize = shape.iter().sum();
                let bound = (6.0 / fans.max(1) as f64).sqrt();
                Tensor::rand_uniform(key, -bound, bound, shape, dtype, device)
            }
        }
    }
}
