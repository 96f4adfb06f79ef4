//! Attention pooling: one learned query over a sequence.

use attentia_nn::{Initialise, Scope};
use attentia_tensor::{Result, Tensor, Var};

/// `α_i = softmax_i(⟨w, x_i⟩)`, `y = Σ_i α_i x_i` with a learned w.
///
/// It learns which element of a sequence matters:
///
/// ```
/// use attentia_attention::AttentionPooling;
/// use attentia_nn::{AdamW, AdamWConfig, Optimizer, Scope};
/// use attentia_tensor::{DType, Device, RngKey, Tensor};
/// # let device = Device::new(attentia_reference::ReferenceBackend::new());
/// let scope = Scope::new(&device, DType::F32, 0);
/// let pooling = AttentionPooling::new(&scope / "pooling", 4)?;
/// let mut optimizer = AdamW::new(scope.parameters(), AdamWConfig::default())?;
/// let x = Tensor::randn(RngKey::new(1), &[16, 6, 4], DType::F32, &device)?;                 // encode  [B, T, C]
/// let target = x.narrow(2, 0, 1)?.max(&[1], false)?;                                       // the greatest x[.., 0]
/// for _ in 0..150 {
///     let (y, _weights) = pooling.forward(&x, None)?;                                      // weigh, sum  [B, C]
///     let loss = (y.narrow(1, 0, 1)? - &target)?.square()?.mean_all()?;                    // decode
///     optimizer.step(loss.backward()?, 0.1)?;                                              // train
/// }
/// let (y, _) = pooling.forward(&x, None)?;
/// assert!((y.narrow(1, 0, 1)? - &target)?.square()?.mean_all()?.item::<f32>()? < 0.05);
/// # Ok::<(), attentia_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AttentionPooling {
    query: Var,
}

impl AttentionPooling {
    /// Registers `query [width]`, zeros: it starts as the mean.
    pub fn new(scope: Scope, width: usize) -> Result<AttentionPooling> {
        Ok(AttentionPooling { query: scope.parameter("query", &[width], Initialise::Zeros)? })
    }

    /// `x: [B, T, C]` → pooled `[B, C]` and weights `[B, T]`. `mask`: bool `[B, T]`, true means: counts.
    pub fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let scores = x.matmul(&self.query.tensor().unsqueeze(1)?)?.squeeze(2)?; // [B, T]
        let weights = match mask {
            Some(mask) => scores.masked_softmax(mask, -1)?,
            None => scores.softmax(-1)?,
        }; // [B, T]
        let pooled = weights.unsqueeze(1)?.matmul(x)?.squeeze(1)?; // [B, C]
        Ok((pooled, weights))
    }
}
