//! What a model is made of.

use attentia_nn::FeedForwardActivation;
use attentia_tensor::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Token that fills a batch.
pub const PAD: i64 = 0;
/// Token that starts a target.
pub const BOS: i64 = 1;
/// Token that ends a sentence.
pub const EOS: i64 = 2;

/// Where a layer normalises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// `x + part(norm(x))`, and a norm behind the last layer (Xiong et al., 2020): trains without care.
    #[default]
    Pre,
    /// `norm(x + part(x))` (Vaswani et al., 2017).
    Post,
}

/// How a model knows where a token stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionEncoding {
    /// Sines and cosines (Vaswani et al., 2017, §3.5).
    #[default]
    Sinusoidal,
    /// A learned vector per position, for each stack (Gehring et al., 2017).
    Learned,
}

/// Configuration of an [`crate::EncoderDecoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderDecoderConfig {
    /// Tokens of the vocabulary that source and target share.
    pub vocabulary: usize,
    /// C: width of the residual stream.
    pub width: usize,
    /// H: attention heads; a divisor of the width.
    pub heads: usize,
    /// Layers of the encoder.
    pub encoder_layers: usize,
    /// Layers of the decoder.
    pub decoder_layers: usize,
    /// Width between the two maps of the feed-forward network.
    pub hidden: usize,
    /// The greatest number of tokens in a sentence, `<bos>` or `<eos>` included.
    pub positions: usize,
    /// Where layers normalise.
    pub norm: NormPlacement,
    /// Activation of the feed-forward network.
    pub activation: FeedForwardActivation,
    /// How positions are encoded.
    pub position_encoding: PositionEncoding,
    /// Whether source, target and output share one table (Press and Wolf, 2017).
    pub tied: bool,
    /// Dropout of embeddings, of what lies inside the feed-forward network, and of each part's result.
    pub dropout: f64,
    /// Dropout of attention weights.
    pub attention_dropout: f64,
}

impl EncoderDecoderConfig {
    /// d 128, 4 heads, 2+2 layers, feed-forward 512: learns a small corpus in minutes.
    pub fn tiny(vocabulary: usize) -> EncoderDecoderConfig {
        EncoderDecoderConfig {
            vocabulary,
            width: 128,
            heads: 4,
            encoder_layers: 2,
            decoder_layers: 2,
            hidden: 512,
            positions: 256,
            norm: NormPlacement::Pre,
            activation: FeedForwardActivation::Relu,
            position_encoding: PositionEncoding::Sinusoidal,
            tied: true,
            dropout: 0.1,
            attention_dropout: 0.0,
        }
    }

    /// d 256, 4 heads, 3+3 layers, feed-forward 1024.
    pub fn small(vocabulary: usize) -> EncoderDecoderConfig {
        EncoderDecoderConfig {
            width: 256,
            encoder_layers: 3,
            decoder_layers: 3,
            hidden: 1024,
            ..EncoderDecoderConfig::tiny(vocabulary)
        }
    }

    /// d 512, 8 heads, 6+6 layers, feed-forward 2048: the base model of Vaswani et al. (2017), with attention dropout.
    pub fn base(vocabulary: usize) -> EncoderDecoderConfig {
        EncoderDecoderConfig {
            width: 512,
            heads: 8,
            encoder_layers: 6,
            decoder_layers: 6,
            hidden: 2048,
            attention_dropout: 0.1,
            ..EncoderDecoderConfig::tiny(vocabulary)
        }
    }

    /// Errors name the field that makes no sense.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String, help: &str| {
            Err(Error::new(ErrorKind::Argument, "encoder_decoder", what).help(help.to_owned()))
        };
        // Layers and positions are built before any tensor is compared with a file, so their limits are tighter.
        let extents = [
            ("vocabulary", self.vocabulary, 1 << 24),
            ("width", self.width, 1 << 16),
            ("heads", self.heads, 1 << 16),
            ("encoder_layers", self.encoder_layers, 1 << 10),
            ("decoder_layers", self.decoder_layers, 1 << 10),
            ("hidden", self.hidden, 1 << 20),
            ("positions", self.positions, 1 << 20),
        ];
        for (name, extent, limit) in extents {
            if extent == 0 || extent > limit {
                return refuse(format!("{name} is {extent}"), &format!("it lies between 1 and {limit}"));
            }
        }
        if self.positions.saturating_mul(self.width) > 1 << 28 {
            let what = format!("{} positions of width {}", self.positions, self.width);
            return refuse(what, "their product is at most 2^28");
        }
        if !self.width.is_multiple_of(self.heads) || !self.width.is_multiple_of(2) {
            let what = format!("width {} and {} heads", self.width, self.heads);
            return refuse(what, "the width must be even and a multiple of the number of heads");
        }
        for (name, p) in [("dropout", self.dropout), ("attention_dropout", self.attention_dropout)] {
            if !(0.0..1.0).contains(&p) {
                return refuse(format!("{name} is {p}"), "a probability in [0, 1)");
            }
        }
        Ok(())
    }

    /// Numbers in all parameters together, without building the model.
    pub fn parameter_count(&self) -> u64 {
        let [v, c, f, p] = [self.vocabulary, self.width, self.hidden, self.positions].map(|n| n as u64);
        let [encoder, decoder] = [self.encoder_layers, self.decoder_layers].map(|n| n as u64);
        let norm = 2 * c;
        let attention = 4 * (c * c + c);
        let gate = if self.activation == FeedForwardActivation::SwiGlu { c * f + f } else { 0 };
        let feed_forward = c * f + f + f * c + c + gate;
        let tables = if self.tied { v * c } else { 3 * v * c };
        let positions = if self.position_encoding == PositionEncoding::Learned { 2 * p * c } else { 0 };
        let last = if self.norm == NormPlacement::Pre { 2 * norm } else { 0 };
        encoder * (attention + feed_forward + 2 * norm)
            + decoder * (2 * attention + feed_forward + 3 * norm)
            + tables
            + positions
            + last
    }
}
