//! Initial values of parameters.

use attentia_tensor::{DType, Device, Result, RngKey, Tensor};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialise {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// All the same.
    Constant {
        /// What they are.
        value: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        deviation: f64,
    },
    /// Uniform in [−bound, bound).
    Uniform {
        /// The greatest magnitude.
        bound: f64,
    },
    /// Uniform in ±√(6 / (fan_in + fan_out)) for a matrix `[fan_out, fan_in]` (Glorot and Bengio, 2010).
    XavierUniform,
    /// Normal with deviation √(2 / (fan_in + fan_out)), of the same paper.
    XavierNormal,
    /// Uniform in ±√(6 / fan_in) for a matrix `[fan_out, fan_in]` before a ReLU (He et al., 2015).
    KaimingUniform,
    /// Normal with deviation √(2 / fan_in), of the same paper.
    KaimingNormal,
}

impl Initialise {
    /// A tensor with such values, drawn from the stream of `key`.
    pub fn tensor(self, key: RngKey, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let fans = shape.iter().sum::<usize>().max(1) as f64;
        let fan_in = shape.last().copied().unwrap_or(1).max(1) as f64;
        let uniform = |bound: f64| Tensor::rand_uniform(key, -bound, bound, shape, dtype, device);
        let normal = |deviation: f64| Tensor::randn(key, shape, dtype, device)?.mul_scalar(deviation);
        match self {
            Initialise::Zeros => Tensor::zeros(shape, dtype, device),
            Initialise::Ones => Tensor::ones(shape, dtype, device),
            Initialise::Constant { value } => Tensor::full(shape, value, dtype, device),
            Initialise::Normal { deviation } => normal(deviation),
            Initialise::Uniform { bound } => uniform(bound),
            Initialise::XavierUniform => uniform((6.0 / fans).sqrt()),
            Initialise::XavierNormal => normal((2.0 / fans).sqrt()),
            Initialise::KaimingUniform => uniform((6.0 / fan_in).sqrt()),
            Initialise::KaimingNormal => normal((2.0 / fan_in).sqrt()),
        }
    }
}
