//! Operations that a backend may run in one kernel; the composition of primitives beside each is its definition.

use crate::RngKey;

/// A fused operation, as asked of [`crate::Backend::support`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FusedOp {
    /// One of the softmax family.
    Softmax(SoftmaxKind),
    /// Layer normalisation.
    LayerNorm,
    /// Root-mean-square normalisation.
    RmsNorm,
    /// Cross-entropy over class indices.
    CrossEntropy,
    /// An activation function.
    Activation(Activation),
    /// Rows of a table by index.
    Embedding,
    /// Dropout.
    Dropout,
    /// The AdamW update.
    AdamW,
}

impl FusedOp {
    /// Every fused operation.
    pub const ALL: [FusedOp; 13] = [
        FusedOp::Softmax(SoftmaxKind::Softmax),
        FusedOp::Softmax(SoftmaxKind::LogSoftmax),
        FusedOp::Softmax(SoftmaxKind::Masked),
        FusedOp::LayerNorm,
        FusedOp::RmsNorm,
        FusedOp::CrossEntropy,
        FusedOp::Activation(Activation::Gelu),
        FusedOp::Activation(Activation::GeluTanh),
        FusedOp::Activation(Activation::Silu),
        FusedOp::Activation(Activation::Relu),
        FusedOp::Embedding,
        FusedOp::Dropout,
        FusedOp::AdamW,
    ];

    /// The name in messages and test ids.
    pub const fn name(self) -> &'static str {
        match self {
            FusedOp::Softmax(kind) => kind.name(),
            FusedOp::LayerNorm => "layer_norm",
            FusedOp::RmsNorm => "rms_norm",
            FusedOp::CrossEntropy => "cross_entropy",
            FusedOp::Activation(activation) => activation.name(),
            FusedOp::Embedding => "embedding",
            FusedOp::Dropout => "dropout",
            FusedOp::AdamW => "adamw",
        }
    }
}

/// The softmax family, along the last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SoftmaxKind {
    /// `yᵢ = exp(xᵢ − m) / Σⱼ exp(xⱼ − m)`, m the row's maximum; IEEE: a row of −inf gives NaN.
    Softmax,
    /// `yᵢ = xᵢ − m − ln Σⱼ exp(xⱼ − m)`
    LogSoftmax,
    /// Softmax over the elements whose mask is true; the others are 0, and so is a row with nothing left
    /// (by mask or by −inf scores).
    Masked,
}

impl SoftmaxKind {
    /// The name in messages and test ids.
    pub const fn name(self) -> &'static str {
        match self {
            SoftmaxKind::Softmax => "softmax",
            SoftmaxKind::LogSoftmax => "log_softmax",
            SoftmaxKind::Masked => "masked_softmax",
        }
    }
}

/// Activations with a kernel of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x/2 · (1 + erf(x/√2))` (Hendrycks and Gimpel, 2016).
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, the approximation of the same paper.
    GeluTanh,
    /// `x / (1 + e⁻ˣ)`, also called swish.
    Silu,
    /// `max(x, 0)`; NaN stays NaN, and the slope at 0 is 0. The slope is the same function of x and of the result.
    Relu,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu];

    /// The name in messages and test ids.
    pub const fn name(self) -> &'static str {
        match self {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::Silu => "silu",
            Activation::Relu => "relu",
        }
    }
}

/// Parameters of cross-entropy between logits `[N, C]` and class indices `[N]` (i64).
///
/// ```text
/// loss_n = lse_n − (1 − ε) · logits[n, target_n] − ε/C · Σ_c logits[n, c]      lse_n = ln Σ_c exp(logits[n, c])
/// loss_n = 0, with zero gradient, where target_n = ignore_index
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// ε: the share of the target that is spread evenly over all classes, in [0, 1].
    pub label_smoothing: f64,
    /// Rows with this target count for nothing. It need not be a class.
    pub ignore_index: Option<i64>,
}

/// Parameters of dropout: an element stays, times `1 / (1 − p)`, when its word of `key`'s stream is at least
/// [`crate::Philox::drop_threshold`]`(p)`; else it becomes 0. The function is its own backward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping an element, in [0, 1).
    pub p: f64,
    /// The stream of random bits.
    pub key: RngKey,
}

/// One AdamW step (Loshchilov and Hutter, 2019):
///
/// ```text
/// g ← g · gradient_scale
/// m ← β₁ m + (1 − β₁) g             v ← β₂ v + (1 − β₂) g²
/// p ← p − lr · decay · p            p ← p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub learning_rate: f64,
    /// β₁ and β₂.
    pub betas: (f64, f64),
    /// ε, outside the root.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// t: number of this step, from 1.
    pub step: u64,
    /// Factor on the gradient, e.g. from clipping.
    pub gradient_scale: f64,
}
