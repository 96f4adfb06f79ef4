//! One layer of the encoder and of the decoder, pre-norm: `x + dropout(part(norm(x)))` for each part.

use crate::EncoderDecoderConfig;
use attentia_attention::MultiHeadAttention;
use attentia_nn::{Context, Dropout, FeedForward, LayerNorm, Part, Scope, Stack};
use attentia_tensor::{Result, Tensor};

/// Self-attention and feed-forward.
#[derive(Clone, Debug)]
pub(crate) struct EncoderLayer {
    attention_norm: LayerNorm,
    attention: MultiHeadAttention,
    feed_forward_norm: LayerNorm,
    feed_forward: FeedForward,
    dropout: Dropout,
}

fn attention(scope: Scope, config: &EncoderDecoderConfig, place: (Stack, u16, Part)) -> Result<MultiHeadAttention> {
    MultiHeadAttention::new(scope, config.width, config.heads, config.attention_dropout, place)
}

impl EncoderLayer {
    pub(crate) fn new(scope: Scope, config: &EncoderDecoderConfig, index: u16) -> Result<EncoderLayer> {
        let c = config.width;
        Ok(EncoderLayer {
            attention_norm: LayerNorm::new(&scope / "self_norm", c)?,
            attention: attention(&scope / "self", config, (Stack::Encoder, index, Part::SelfAttention))?,
            feed_forward_norm: LayerNorm::new(&scope / "ff_norm", c)?,
            feed_forward: FeedForward::new(&scope / "ff", c, config.hidden, config.dropout)?,
            dropout: Dropout::new(&scope / "dropout", config.dropout)?,
        })
    }

    /// `x: [B, S, C]`; `mask` hides padding: `[B, 1, 1, S]`.
    pub(crate) fn forward(&self, x: Tensor, mask: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let normed = self.attention_norm.forward(&x)?;
        let attended = self.attention.forward(&normed, &normed, Some(mask), cx)?;
        let x = (x + self.dropout.forward(attended, cx)?)?;
        let widened = self.feed_forward.forward(&self.feed_forward_norm.forward(&x)?, cx)?;
        x + self.dropout.forward(widened, cx)?
    }
}

/// Self-attention, cross-attention and feed-forward.
#[derive(Clone, Debug)]
pub(crate) struct DecoderLayer {
    self_norm: LayerNorm,
    self_attention: MultiHeadAttention,
    cross_norm: LayerNorm,
    cross_attention: MultiHeadAttention,
    feed_forward_norm: LayerNorm,
    feed_forward: FeedForward,
    dropout: Dropout,
}

impl DecoderLayer {
    pub(crate) fn new(scope: Scope, config: &EncoderDecoderConfig, index: u16) -> Result<DecoderLayer> {
        let c = config.width;
        Ok(DecoderLayer {
            self_norm: LayerNorm::new(&scope / "self_norm", c)?,
            self_attention: attention(&scope / "self", config, (Stack::Decoder, index, Part::SelfAttention))?,
            cross_norm: LayerNorm::new(&scope / "cross_norm", c)?,
            cross_attention: attention(&scope / "cross", config, (Stack::Decoder, index, Part::CrossAttention))?,
            feed_forward_norm: LayerNorm::new(&scope / "ff_norm", c)?,
            feed_forward: FeedForward::new(&scope / "ff", c, config.hidden, config.dropout)?,
            dropout: Dropout::new(&scope / "dropout", config.dropout)?,
        })
    }

    /// `x: [B, T, C]`, `memory: [B, S, C]`; `causal: [T, T]` hides later targets, `memory_mask: [B, 1, 1, S]` padding.
    ///
    /// Padding at the end of a target needs no mask of its own: no earlier position sees it.
    pub(crate) fn forward(
        &self,
        x: Tensor,
        causal: &Tensor,
        memory: &Tensor,
        memory_mask: &Tensor,
        cx: &mut Context,
    ) -> Result<Tensor> {
        let normed = self.self_norm.forward(&x)?;
        let attended = self.self_attention.forward(&normed, &normed, Some(causal), cx)?;
        let x = (x + self.dropout.forward(attended, cx)?)?;
        let crossed = self.cross_attention.forward(&self.cross_norm.forward(&x)?, memory, Some(memory_mask), cx)?;
        let x = (x + self.dropout.forward(crossed, cx)?)?;
        let widened = self.feed_forward.forward(&self.feed_forward_norm.forward(&x)?, cx)?;
        x + self.dropout.forward(widened, cx)?
    }
}
