//! The position-wise network of a transformer layer.

use crate::{Context, Dropout, Linear, Place, Point, Scope};
use attentia_tensor::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// What stands between the two maps of a feed-forward network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedForwardActivation {
    /// `relu(up x)` (Vaswani et al., 2017)
    #[default]
    Relu,
    /// `gelu(up x)`, exact (Hendrycks and Gimpel, 2016)
    Gelu,
    /// `gelu(up x)`, the tanh approximation of the same paper
    GeluTanh,
    /// `silu(gate x) ⊙ up x`: a third matrix (Shazeer, 2020)
    SwiGlu,
}

/// `down · dropout(activation(up · x))`
#[derive(Clone, Debug)]
pub struct FeedForward {
    activation: FeedForwardActivation,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    dropout: Dropout,
    place: Place,
}

impl FeedForward {
    /// Registers `up` and `down`, and `gate` for SwiGLU; `place` names the site of what lies between.
    pub fn new(
        scope: Scope,
        width: usize,
        hidden: usize,
        activation: FeedForwardActivation,
        dropout: f64,
        place: Place,
    ) -> Result<FeedForward> {
        let gated = activation == FeedForwardActivation::SwiGlu;
        Ok(FeedForward {
            activation,
            gate: gated.then(|| Linear::new(&scope / "gate", width, hidden)).transpose()?,
            up: Linear::new(&scope / "up", width, hidden)?,
            down: Linear::new(&scope / "down", hidden, width)?,
            dropout: Dropout::new(&scope / "dropout", dropout)?,
            place,
        })
    }

    /// `x: [.., C] → [.., C]`
    pub fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let up = self.up.forward(x)?; // [.., hidden]
        let hidden = match (&self.gate, self.activation) {
            (Some(gate), _) => gate.forward(x)?.silu()? * up,
            (None, FeedForwardActivation::Gelu) => up.gelu(),
            (None, FeedForwardActivation::GeluTanh) => up.gelu_tanh(),
            (None, _) => up.relu(),
        }?;
        cx.tap(self.place.at(Point::Hidden), &hidden)?;
        self.down.forward(&self.dropout.forward(hidden, cx)?)
    }
}
