//! The encoder-decoder transformer (Vaswani et al., 2017) in its pre-norm form, with one embedding table for source,
//! target and output.
//!
//! ```text
//! source ids [B, S] ─ embed·√C + positions ─ dropout ─ N × encoder layer ─ norm ─► memory [B, S, C]
//! target ids [B, T] ─ embed·√C + positions ─ dropout ─ N × decoder layer ─ norm ─ · tableᵀ ─► logits [B, T, V]
//! ```

use crate::{
    EncoderDecoderConfig,
    layer::{DecoderLayer, EncoderLayer},
    positions::sinusoidal,
};
use attentia_attention::mask;
use attentia_nn::{Context, Dropout, Embedding, LayerNorm, Scope};
use attentia_tensor::{Error, ErrorKind, Result, Tensor};

/// An encoder-decoder; cloning shares its parameters.
#[derive(Clone, Debug)]
pub struct EncoderDecoder {
    config: EncoderDecoderConfig,
    embedding: Embedding,
    positions: Tensor,
    dropout: Dropout,
    encoder: Vec<EncoderLayer>,
    encoder_norm: LayerNorm,
    decoder: Vec<DecoderLayer>,
    decoder_norm: LayerNorm,
}

/// What the encoder made of a batch of sources.
#[derive(Clone, Debug)]
pub struct Memory {
    /// `[B, S, C]`
    pub states: Tensor,
    /// `[B, 1, 1, S]`: which of them are no padding.
    pub mask: Tensor,
}

impl EncoderDecoder {
    /// Registers every parameter below `scope`.
    pub fn new(scope: &Scope, config: EncoderDecoderConfig) -> Result<EncoderDecoder> {
        config.validate()?;
        let (encoder, decoder) = (scope / "encoder", scope / "decoder");
        Ok(EncoderDecoder {
            embedding: Embedding::new(scope / "embedding", config.vocabulary, config.width)?,
            positions: sinusoidal(config.positions, config.width, scope.dtype(), scope.device())?,
            dropout: Dropout::new(scope / "dropout", config.dropout)?,
            encoder: (0..config.layers)
                .map(|i| EncoderLayer::new(&encoder / i, &config, i as u16))
                .collect::<Result<_>>()?,
            encoder_norm: LayerNorm::new(&encoder / "norm", config.width)?,
            decoder: (0..config.layers)
                .map(|i| DecoderLayer::new(&decoder / i, &config, i as u16))
                .collect::<Result<_>>()?,
            decoder_norm: LayerNorm::new(&decoder / "norm", config.width)?,
            config,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &EncoderDecoderConfig {
        &self.config
    }

    /// `ids: [B, T] → [B, T, C]`
    fn embed(&self, ids: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let [_, t] = ids.dims()?;
        if t > self.config.positions {
            let what = format!("{t} tokens, and the model has {} positions", self.config.positions);
            return Err(Error::new(ErrorKind::Shape, "embed", what).help("split the sentence"));
        }
        let scaled = self.embedding.forward(ids)?.mul_scalar((self.config.width as f64).sqrt())?;
        self.dropout.forward((scaled + self.positions.narrow(0, 0, t)?)?, cx)
    }

    /// Reads sources `[B, S]` (i64) of these lengths; what lies behind a length is padding.
    pub fn encode(&self, source: &Tensor, lengths: &[usize], cx: &mut Context) -> Result<Memory> {
        let [b, s] = source.dims()?;
        if lengths.len() != b {
            let what = format!("{} lengths for {b} sources", lengths.len());
            return Err(Error::new(ErrorKind::Argument, "encode", what));
        }
        let mask = mask::key_padding(lengths, s, source.device())?; // [B, 1, 1, S]
        let mut x = self.embed(source, cx)?; // [B, S, C]
        for layer in &self.encoder {
            x = layer.forward(x, &mask, cx)?;
        }
        Ok(Memory { states: self.encoder_norm.forward(&x)?, mask })
    }

    /// Logits `[B, T, V]` of the token after each of `written: [B, T]` (i64), given what was read.
    pub fn decode(&self, written: &Tensor, memory: &Memory, cx: &mut Context) -> Result<Tensor> {
        let x = self.decode_states(written, memory, cx)?; // [B, T, C]
        self.embedding.attend(&x)
    }

    /// Logits `[B, V]` of the token after the last of `written: [B, T]`.
    pub fn decode_last(&self, written: &Tensor, memory: &Memory, cx: &mut Context) -> Result<Tensor> {
        let [_, t] = written.dims()?;
        let last = self.decode_states(written, memory, cx)?.select(1, t as isize - 1)?; // [B, C]
        self.embedding.attend(&last)
    }

    fn decode_states(&self, written: &Tensor, memory: &Memory, cx: &mut Context) -> Result<Tensor> {
        let [_, t] = written.dims()?;
        let causal = mask::causal(t, t, written.device())?; // [T, T]
        let mut x = self.embed(written, cx)?; // [B, T, C]
        for layer in &self.decoder {
            x = layer.forward(x, &causal, &memory.states, &memory.mask, cx)?;
        }
        self.decoder_norm.forward(&x)
    }

    /// Logits `[B, T, V]` for training: encodes `source: [B, S]` and decodes `written: [B, T]`.
    pub fn forward(&self, source: &Tensor, lengths: &[usize], written: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let memory = self.encode(source, lengths, cx)?;
        self.decode(written, &memory, cx)
    }
}
