//! The position-wise network of a transformer layer.

use crate::{Context, Dropout, Linear, Scope};
use attentia_tensor::{Result, Tensor};

/// `W₂ · dropout(relu(W₁ x + b₁)) + b₂`
#[derive(Clone, Debug)]
pub struct FeedForward {
    up: Linear,
    down: Linear,
    dropout: Dropout,
}

impl FeedForward {
    /// Registers `up` and `down`.
    pub fn new(scope: Scope, width: usize, hidden: usize, dropout: f64) -> Result<FeedForward> {
        Ok(FeedForward {
            up: Linear::new(&scope / "up", width, hidden)?,
            down: Linear::new(&scope / "down", hidden, width)?,
            dropout: Dropout::new(&scope / "dropout", dropout)?,
        })
    }

    /// `x: [B, T, C] → [B, T, C]`
    pub fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let hidden = self.up.forward(x)?.relu()?; // [B, T, hidden]
        self.down.forward(&self.dropout.forward(hidden, cx)?)
    }
}
