//! The position-wise network of a transformer layer.

use crate::{Context, Dropout, Linear, Place, Point, Scope};
use attentia_tensor::{Activation, Affine, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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
    path: Arc<str>,
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
            path: scope.path().clone(),
        })
    }

    /// `x: [.., C] → [.., C]`
    pub fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let f = match self.activation {
            FeedForwardActivation::Gelu => Activation::Gelu,
            FeedForwardActivation::GeluTanh => Activation::GeluTanh,
            FeedForwardActivation::SwiGlu => Activation::Silu,
            FeedForwardActivation::Relu => Activation::Relu,
        };
        // In one piece where nobody looks at what lies between, nor changes it. In 16 bits to look is to round once more.
        let is_seen = cx.wants(self.place.at(Point::Hidden)) || self.dropout.is_active(cx);
        if self.gate.is_none() && !is_seen {
            let (up, down) = (self.up.operands(x)?, self.down.operands(x)?);
            let [up, down] = [&up, &down].map(|(weight, bias)| Affine { weight, bias: bias.as_ref() });
            return x.feed_forward(up, f, down).map_err(|e| e.in_path(&*self.path));
        }
        let up = self.up.forward(x)?; // [.., hidden]
        let hidden = match &self.gate {
            Some(gate) => (gate.forward(x)?.activate(f)? * up)?,
            None => up.activate(f)?,
        };
        cx.tap(self.place.at(Point::Hidden), &hidden)?;
        self.down.forward(&self.dropout.forward(hidden, cx)?)
    }
}
