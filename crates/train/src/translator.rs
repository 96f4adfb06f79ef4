//! A model with its tokenizer.

use crate::{Error, Result, trainer::tensor};
use attentia_data::{Ids, Tokenizer};
use attentia_nn::{Part, Place, Point, Stack};
use attentia_tensor::{DType, Device, Error as TensorError, ErrorKind};
use attentia_transformer::{Checkpoint, EncoderDecoder, GenerateOptions, Hypothesis, generate};

/// Translates text.
#[derive(Clone, Debug)]
pub struct Translator {
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    device: Device,
}

/// Where each written token looked: attention weights between the tokens of a sentence pair.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMap {
    /// Read tokens, `<eos>` included: the columns.
    pub source: Vec<String>,
    /// Written tokens: the rows; `<eos>` is one of them unless the length limit ended the translation.
    pub target: Vec<String>,
    /// `[target, source]`, row-major; each row sums to 1.
    pub weights: Vec<f32>,
}

/// The longest translation of a source, in tokens.
fn limit(source_tokens: usize) -> usize {
    2 * source_tokens + 8
}

impl Translator {
    /// A model and the tokenizer that it was trained with.
    pub fn new(model: EncoderDecoder, tokenizer: Tokenizer, device: &Device) -> Translator {
        Translator { model, tokenizer, device: device.clone() }
    }

    /// The model and tokenizer of a checkpoint file's bytes.
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<Translator> {
        let checkpoint = Checkpoint::from_bytes(bytes, device)?;
        let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer)?;
        Ok(Translator::new(checkpoint.model(device)?.0, tokenizer, device))
    }

    /// The model.
    pub fn model(&self) -> &EncoderDecoder {
        &self.model
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.trim().is_empty() {
            return Err(Error::NoText);
        }
        let mut ids = self.tokenizer.encode(text)?;
        ids.push(attentia_data::tokenizer::EOS);
        let limit = self.model.config().positions;
        if ids.len() > limit {
            return Err(Error::TooLong { tokens: ids.len(), limit });
        }
        Ok(ids)
    }

    fn decode(&self, ids: &[i64]) -> Result<String> {
        // Ids come from the model's own vocabulary, which the tokenizer checks again.
        let ids: Vec<u32> = ids.iter().map(|&id| u32::try_from(id).unwrap_or(u32::MAX)).collect();
        Ok(self.tokenizer.decode(&ids)?)
    }

    /// Translates texts, in batches of `batch` sorted by length; `done` is told how many are finished.
    pub fn translate<S: AsRef<str>>(
        &self,
        texts: &[S],
        batch: usize,
        mut done: impl FnMut(usize),
    ) -> Result<Vec<String>> {
        let sources = texts.iter().map(|t| self.encode(t.as_ref())).collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..sources.len()).collect();
        order.sort_by_key(|&i| sources[i].len());
        let mut translations = vec![String::new(); sources.len()];
        for (group, indices) in order.chunks(batch.max(1)).enumerate() {
            let rows: Vec<&[u32]> = indices.iter().map(|&i| sources[i].as_slice()).collect();
            let ids = Ids::padded(&rows);
            let source = tensor(&ids, &self.device)?;
            let options = GenerateOptions { limit: limit(ids.width()), ..GenerateOptions::default() };
            let written = generate(&self.model, &source, ids.lengths(), options)?;
            for (&i, hypotheses) in indices.iter().zip(&written.hypotheses) {
                translations[i] =
                    hypotheses.first().map(|best| self.decode(&best.tokens)).transpose()?.unwrap_or_default();
            }
            done((group * batch.max(1) + indices.len()).min(sources.len()));
        }
        Ok(translations)
    }

    /// Translates one text, and returns the cross-attention of a decoder layer (from 0), averaged over its heads: the
    /// weights of the very steps that wrote the translation.
    pub fn attend(&self, text: &str, layer: u16) -> Result<(String, AttentionMap)> {
        let ids = self.encode(text)?;
        let padded = Ids::padded(&[&ids]);
        let source = tensor(&padded, &self.device)?;
        let options = GenerateOptions { limit: limit(ids.len()), maps: true, ..GenerateOptions::default() };
        let written = generate(&self.model, &source, padded.lengths(), options)?.hypotheses.swap_remove(0);
        let refuse = |what: String, help: String| TensorError::new(ErrorKind::Argument, "attend", what).help(help);
        let Some(Hypothesis { tokens, finished, maps, .. }) = written.into_iter().next() else {
            return Err(refuse("nothing was written".into(), "the model has no positions for a target".into()).into());
        };
        let site = Place { stack: Stack::Decoder, layer, part: Part::CrossAttention }.at(Point::Pattern);
        let weights = maps.get(&site).ok_or_else(|| {
            let layers = self.model.config().decoder_layers;
            refuse(format!("no layer {layer}"), format!("the decoder has layers 0..{layers}"))
        })?;
        let weights = weights.mean(&[0], false)?.to_dtype(DType::F32)?.to_vec()?; // [H, T, S] → [T, S]
        let mut target = self.tokenizer.tokens(&tokens.iter().map(|&id| id as u32).collect::<Vec<_>>())?;
        if finished {
            target.push("<eos>".to_owned());
        }
        Ok((self.decode(&tokens)?, AttentionMap { source: self.tokenizer.tokens(&ids)?, target, weights }))
    }
}
