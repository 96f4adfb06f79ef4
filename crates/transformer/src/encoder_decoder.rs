//! The encoder-decoder transformer (Vaswani et al., 2017).
//!
//! ```text
//! source ids [B, S] ─ embed·√C + positions ─ dropout ─ N × encoder layer ─ norm* ─► memory [B, S, C]
//! target ids [B, T] ─ embed·√C + positions ─ dropout ─ N × decoder layer ─ norm* ─ · tableᵀ ─► logits [B, T, V]
//!                                                                          * pre-norm models only
//! ```
//!
//! Tied, one table `embedding.weight` serves source, target and output; untied, there are `encoder.embedding`,
//! `decoder.embedding` and `output`.

use crate::{
    EncoderDecoderConfig, NormPlacement,
    layer::{DecoderLayer, EncoderLayer, Past},
    positions::Positions,
};
use attentia_attention::{AttentionOptions, Cache, KeyValue};
use attentia_nn::{Context, Dropout, Embedding, LayerNorm, Linear, Precision, Scope};
use attentia_tensor::{Error, ErrorKind, Result, Tensor};

/// An encoder-decoder; cloning shares its parameters.
#[derive(Clone, Debug)]
pub struct EncoderDecoder {
    config: EncoderDecoderConfig,
    precision: Precision,
    tables: Tables,
    source_positions: Positions,
    target_positions: Positions,
    dropout: Dropout,
    encoder: Vec<EncoderLayer>,
    encoder_norm: Option<LayerNorm>,
    decoder: Vec<DecoderLayer>,
    decoder_norm: Option<LayerNorm>,
}

/// From tokens to vectors, and back.
#[derive(Clone, Debug)]
enum Tables {
    Tied(Embedding),
    Untied { source: Embedding, target: Embedding, output: Linear },
}

/// What the encoder made of a batch of sources.
#[derive(Clone, Debug)]
pub struct Memory {
    /// `[B, S, C]`
    pub states: Tensor,
    /// i64 `[B]`: how many of them are no padding.
    pub lengths: Tensor,
}

impl EncoderDecoder {
    /// Registers every parameter below `scope`.
    pub fn new(scope: &Scope, config: EncoderDecoderConfig) -> Result<EncoderDecoder> {
        config.validate()?;
        let (encoder, decoder) = (scope / "encoder", scope / "decoder");
        let (v, c) = (config.vocabulary, config.width);
        let tables = match config.tied {
            true => Tables::Tied(Embedding::new(scope / "embedding", v, c)?),
            false => Tables::Untied {
                source: Embedding::new(&encoder / "embedding", v, c)?,
                target: Embedding::new(&decoder / "embedding", v, c)?,
                output: Linear::without_bias(scope / "output", c, v)?,
            },
        };
        let positions = |scope: Scope| Positions::new(scope, config.position_encoding, config.positions, c);
        let last_norm =
            |scope: Scope| (config.norm == NormPlacement::Pre).then(|| LayerNorm::new(scope, c)).transpose();
        Ok(EncoderDecoder {
            tables,
            source_positions: positions(&encoder / "positions")?,
            target_positions: positions(&decoder / "positions")?,
            dropout: Dropout::new(scope / "dropout", config.dropout)?,
            encoder: (0..config.encoder_layers)
                .map(|i| EncoderLayer::new(&encoder / i, &config, i))
                .collect::<Result<_>>()?,
            encoder_norm: last_norm(&encoder / "norm")?,
            decoder: (0..config.decoder_layers)
                .map(|i| DecoderLayer::new(&decoder / i, &config, i))
                .collect::<Result<_>>()?,
            decoder_norm: last_norm(&decoder / "norm")?,
            precision: scope.precision(),
            config,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &EncoderDecoderConfig {
        &self.config
    }

    /// The dtype of its parameters, and the one that it computes in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// `ids: [B, T] → [B, T, C]`, the first of them at position `start`.
    fn embed(
        &self,
        ids: &Tensor,
        table: &Embedding,
        positions: &Positions,
        start: usize,
        cx: &mut Context,
    ) -> Result<Tensor> {
        let [_, t] = ids.dims()?;
        let positions = positions.at(start, t, self.config.positions, ids.device())?; // [T, C]
        let scaled = table.forward(ids)?.mul_scalar((self.config.width as f64).sqrt())?;
        self.dropout.forward((scaled + positions)?, cx)
    }

    /// Reads sources `[B, S]` (i64) of these lengths; what lies behind a length is padding.
    pub fn encode(&self, source: &Tensor, lengths: &[usize], cx: &mut Context) -> Result<Memory> {
        let [b, s] = source.dims()?;
        if lengths.len() != b {
            let what = format!("{} lengths for {b} sources", lengths.len());
            return Err(Error::new(ErrorKind::Argument, "encode", what).help("one length per row of the batch"));
        }
        if let Some(i) = lengths.iter().position(|&length| length > s) {
            return Err(Error::new(ErrorKind::Argument, "encode", format!("source {i} is longer than its {s} tokens"))
                .help("lengths count the tokens of a row without its padding"));
        }
        let lengths: Vec<i64> = lengths.iter().map(|&length| length as i64).collect();
        let lengths = Tensor::from_vec(lengths, &[b], source.device())?;
        let (Tables::Tied(table) | Tables::Untied { source: table, .. }) = &self.tables;
        let mut x = self.embed(source, table, &self.source_positions, 0, cx)?; // [B, S, C]
        for layer in &self.encoder {
            x = layer.forward(x, AttentionOptions::padded(&lengths), cx)?;
        }
        let states = match &self.encoder_norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        };
        Ok(Memory { states, lengths })
    }

    /// Logits `[B, T, V]` of the token after each of `written: [B, T]` (i64), given what was read.
    pub fn decode(&self, written: &Tensor, memory: &Memory, cx: &mut Context) -> Result<Tensor> {
        let mut x = self.embed_target(written, 0, cx)?; // [B, T, C]
        for layer in &self.decoder {
            let keys = layer.cross_keys(&memory.states, cx)?;
            let (past, padded) = (Past::Whole(AttentionOptions::causal()), AttentionOptions::padded(&memory.lengths));
            x = layer.forward(x, past, &keys, padded, cx)?;
        }
        self.logits(&self.last_norm(x)?)
    }

    /// Logits `[B, T, V]` for training: encodes `source: [B, S]` and decodes `written: [B, T]`.
    pub fn forward(&self, source: &Tensor, lengths: &[usize], written: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let memory = self.encode(source, lengths, cx)?;
        self.decode(written, &memory, cx)
    }

    /// Keys and values of the memory for each decoder layer: computed once, they serve every step of decoding.
    pub(crate) fn cross_keys(&self, memory: &Memory, cx: &mut Context) -> Result<Vec<KeyValue>> {
        self.decoder.iter().map(|layer| layer.cross_keys(&memory.states, cx)).collect()
    }

    /// Logits `[B, V]` of the token after the last of `written: [B, T]`, reading all of it again.
    pub(crate) fn decode_last(
        &self,
        written: &Tensor,
        cross: &[KeyValue],
        lengths: &Tensor,
        cx: &mut Context,
    ) -> Result<Tensor> {
        let mut x = self.embed_target(written, 0, cx)?; // [B, T, C]
        for (layer, keys) in self.decoder.iter().zip(cross) {
            let past = Past::Whole(AttentionOptions::causal());
            x = layer.forward(x, past, keys, AttentionOptions::padded(lengths), cx)?;
        }
        self.logits(&self.last_norm(x.select(1, -1)?)?)
    }

    /// Logits `[B, V]` of the token after `last: [B, 1]`, the tokens before it being in the caches.
    pub(crate) fn decode_next(
        &self,
        last: &Tensor,
        caches: &mut [Cache],
        cross: &[KeyValue],
        lengths: &Tensor,
        cx: &mut Context,
    ) -> Result<Tensor> {
        let start = caches.first().map_or(0, Cache::len);
        let mut x = self.embed_target(last, start, cx)?; // [B, 1, C]
        for ((layer, cache), keys) in self.decoder.iter().zip(caches).zip(cross) {
            x = layer.forward(x, Past::Cached(cache), keys, AttentionOptions::padded(lengths), cx)?;
        }
        self.logits(&self.last_norm(x.squeeze(1)?)?)
    }

    fn embed_target(&self, written: &Tensor, start: usize, cx: &mut Context) -> Result<Tensor> {
        let (Tables::Tied(table) | Tables::Untied { target: table, .. }) = &self.tables;
        self.embed(written, table, &self.target_positions, start, cx)
    }

    fn last_norm(&self, x: Tensor) -> Result<Tensor> {
        match &self.decoder_norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    /// `x: [.., C] → [.., V]`
    fn logits(&self, x: &Tensor) -> Result<Tensor> {
        match &self.tables {
            Tables::Tied(table) => table.attend(x),
            Tables::Untied { output, .. } => output.forward(x),
        }
    }
}
