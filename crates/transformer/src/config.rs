//! What a model is made of.

use attentia_tensor::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Token that fills a batch.
pub const PAD: i64 = 0;
/// Token that starts a target.
pub const BOS: i64 = 1;
/// Token that ends a sentence.
pub const EOS: i64 = 2;

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
    /// Layers of the encoder, and of the decoder.
    pub layers: usize,
    /// Width between the two maps of the feed-forward network.
    pub hidden: usize,
    /// The greatest number of tokens in a sentence, `<bos>` and `<eos>` included.
    pub positions: usize,
    /// Dropout of embeddings and of each part's result.
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
            layers: 2,
            hidden: 512,
            positions: 256,
            dropout: 0.1,
            attention_dropout: 0.0,
        }
    }

    /// Errors name the field that makes no sense.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String, help: &str| {
            Err(Error::new(ErrorKind::Argument, "encoder_decoder", what).help(help.to_owned()))
        };
        let extents = [
            ("vocabulary", self.vocabulary),
            ("width", self.width),
            ("heads", self.heads),
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("positions", self.positions),
        ];
        for (name, extent) in extents {
            if extent == 0 || extent > 1 << 24 {
                return refuse(format!("{name} is {extent}"), "it lies between 1 and 16,777,216");
            }
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
}
