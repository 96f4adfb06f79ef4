//! A model with its tokenizer: text in, text out, and the attention that connected them.

use crate::{Error, Result, trainer::tensor};
use attentia_data::{Ids, Tokenizer};
use attentia_nn::{Part, Place, Stack};
use attentia_tensor::{Device, Error as TensorError, ErrorKind};
use attentia_transformer::{Checkpoint, EncoderDecoder, GenerateOptions, Hypothesis, generate};
use std::{collections::BTreeMap, path::Path};

/// Translates text.
#[derive(Clone, Debug)]
pub struct Translator {
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    device: Device,
}

/// How to translate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TranslateOptions {
    /// Live hypotheses per sentence; 1 is greedy decoding.
    pub beams: usize,
    /// Translations returned per sentence, the best first; at most `beams`.
    pub best: usize,
    /// As in [`GenerateOptions::length_penalty`].
    pub length_penalty: f64,
    /// Sentences translated at once.
    pub batch: usize,
}

impl Default for TranslateOptions {
    /// Greedy, 64 sentences at once.
    fn default() -> TranslateOptions {
        TranslateOptions { beams: 1, best: 1, length_penalty: 0.6, batch: 64 }
    }
}

/// One translation of a sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    /// The text.
    pub text: String,
    /// Natural logarithm of its probability.
    pub log_probability: f64,
    /// The length-normalised one, by which translations are ranked.
    pub score: f64,
    /// Whether the model ended it, and not the limit of twice the source's tokens and eight.
    pub finished: bool,
}

/// Attention weights of every layer and head in the run that wrote a translation.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Read tokens, `<eos>` included.
    pub source: Vec<String>,
    /// Written tokens; `<eos>` is one of them unless the limit ended the translation.
    pub target: Vec<String>,
    maps: BTreeMap<Place, Heads>,
}

#[derive(Clone, Debug, PartialEq)]
struct Heads {
    heads: usize,
    weights: Vec<f32>,
}

/// The weights of a layer's heads, between tokens.
#[derive(Clone, Copy, Debug)]
pub struct LayerAttention<'a> {
    /// Encoder or decoder, layer, self or cross; written `dec.0.cross`.
    pub place: Place,
    /// H.
    pub heads: usize,
    /// The T tokens that look.
    pub rows: &'a [String],
    /// The S tokens that are looked at.
    pub columns: &'a [String],
    /// `[H, T, S]`, row-major; each row of a head sums to 1.
    pub weights: &'a [f32],
}

/// Attention weights between two token sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMap {
    /// Read tokens, `<eos>` included: the columns.
    pub source: Vec<String>,
    /// Written tokens: the rows; `<eos>` is one of them unless the length limit ended the translation.
    pub target: Vec<String>,
    /// `[target, source]`, row-major; each row sums to 1.
    pub weights: Vec<f32>,
}

impl Attention {
    /// Every layer: the encoder's first.
    pub fn layers(&self) -> impl Iterator<Item = LayerAttention<'_>> {
        self.maps.iter().map(|(&place, Heads { heads, weights })| {
            let (rows, columns) = match (place.stack, place.part) {
                (Stack::Encoder, _) => (&self.source, &self.source),
                (Stack::Decoder, Part::SelfAttention) => (&self.target, &self.target),
                (Stack::Decoder, _) => (&self.target, &self.source),
            };
            LayerAttention { place, heads: *heads, rows, columns, weights }
        })
    }

    /// Where the decoder's last layer looked in the source, mean of its heads: it follows the words most closely.
    ///
    /// Errors when nothing was written.
    pub fn last_cross(&self) -> Result<AttentionMap> {
        let cross = self.layers().filter(|layer| layer.place.part == Part::CrossAttention);
        let Some(last) = cross.max_by_key(|layer| layer.place.layer) else {
            let error = TensorError::new(ErrorKind::Argument, "attend", "nothing was written");
            return Err(error.help("the model has no positions for a target").into());
        };
        let cells = last.rows.len() * last.columns.len();
        let mut weights = vec![0.0; cells];
        for head in last.weights.chunks(cells) {
            weights.iter_mut().zip(head).for_each(|(sum, weight)| *sum += weight / last.heads as f32);
        }
        Ok(AttentionMap { source: self.source.clone(), target: self.target.clone(), weights })
    }
}

/// The longest translation of a source has this many tokens, and twice as many as the source.
const LIMIT: usize = 8;
const LIMIT_PER_TOKEN: usize = 2;

impl Translator {
    /// A model and the tokenizer that it was trained with.
    pub fn new(model: EncoderDecoder, tokenizer: Tokenizer, device: &Device) -> Translator {
        Translator { model, tokenizer, device: device.clone() }
    }

    /// The model and tokenizer of a checkpoint. Errors when it has no tokenizer, or one of another vocabulary.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<Translator> {
        let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer)?;
        let (known, embedded) = (tokenizer.vocab_size(), checkpoint.config.vocabulary);
        if known != embedded {
            let what = format!("its tokenizer has {known} tokens, and its model {embedded}");
            let error = TensorError::new(ErrorKind::Argument, "checkpoint", what);
            return Err(error
                .help("an id of the one has no place in the other: use the file that the training wrote")
                .into());
        }
        Ok(Translator::new(checkpoint.model(device)?.0, tokenizer, device))
    }

    /// The model and tokenizer of a checkpoint file.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Translator> {
        Translator::from_checkpoint(&Checkpoint::load(path, device)?, device)
    }

    /// The model.
    pub fn model(&self) -> &EncoderDecoder {
        &self.model
    }

    /// Whether a text can be translated. Errors when it is empty, or longer than the model has positions.
    pub fn check(&self, text: &str) -> Result<()> {
        self.encode(text).map(|_| ())
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

    fn translation(&self, hypothesis: &Hypothesis) -> Result<Translation> {
        // Ids come from the model's own vocabulary, which the tokenizer checks again.
        let ids: Vec<u32> = hypothesis.tokens.iter().map(|&id| u32::try_from(id).unwrap_or(u32::MAX)).collect();
        let Hypothesis { log_probability, score, finished, .. } = *hypothesis;
        Ok(Translation { text: self.tokenizer.decode(&ids)?, log_probability, score, finished })
    }

    /// The best translations of each text, in batches sorted by length; `done` is told how many texts are finished. A
    /// text's limit is its own, whatever else is in its batch.
    ///
    /// Errors when a text is empty or too long, or the options make no sense.
    pub fn translate<S: AsRef<str>>(
        &self,
        texts: &[S],
        options: TranslateOptions,
        mut done: impl FnMut(usize),
    ) -> Result<Vec<Vec<Translation>>> {
        let sources = texts.iter().map(|t| self.encode(t.as_ref())).collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..sources.len()).collect();
        order.sort_by_key(|&i| sources[i].len());
        let mut translations = vec![Vec::new(); sources.len()];
        let mut finished = 0;
        for indices in order.chunks(options.batch.max(1)) {
            let rows: Vec<&[u32]> = indices.iter().map(|&i| sources[i].as_slice()).collect();
            let written = self.generate(&rows, options, false)?;
            for (&i, hypotheses) in indices.iter().zip(&written) {
                translations[i] = hypotheses.iter().map(|one| self.translation(one)).collect::<Result<_>>()?;
            }
            finished += indices.len();
            done(finished);
        }
        Ok(translations)
    }

    fn generate(&self, sources: &[&[u32]], options: TranslateOptions, maps: bool) -> Result<Vec<Vec<Hypothesis>>> {
        let ids = Ids::padded(sources);
        let TranslateOptions { beams, best, length_penalty, .. } = options;
        let options = GenerateOptions {
            beams,
            best,
            length_penalty,
            limit: LIMIT,
            limit_per_token: LIMIT_PER_TOKEN,
            maps,
            ..GenerateOptions::default()
        };
        Ok(generate(&self.model, &tensor(&ids, &self.device)?, ids.lengths(), options)?.hypotheses)
    }

    /// The best translation of one text, and the attention weights of the very steps that wrote it.
    ///
    /// Errors as [`translate`](Self::translate).
    pub fn attend(&self, text: &str, options: TranslateOptions) -> Result<(Translation, Attention)> {
        let ids = self.encode(text)?;
        let written = self.generate(&[&ids], TranslateOptions { best: 1, ..options }, true)?;
        let Some(best) = written.into_iter().flatten().next() else {
            let error = TensorError::new(ErrorKind::Argument, "attend", "nothing was written");
            return Err(error.help("the model has no positions for a target").into());
        };
        let mut target = self.tokenizer.tokens(&best.tokens.iter().map(|&id| id as u32).collect::<Vec<_>>())?;
        if best.finished {
            target.push("<eos>".to_owned());
        }
        let mut maps = BTreeMap::new();
        for (site, pattern) in &best.maps {
            let [heads, ..] = pattern.dims::<3>()?; // [H, T, S]
            maps.insert(site.place(), Heads { heads, weights: pattern.to_vec()? });
        }
        let source = self.tokenizer.tokens(&ids)?;
        Ok((self.translation(&best)?, Attention { source, target, maps }))
    }
}
