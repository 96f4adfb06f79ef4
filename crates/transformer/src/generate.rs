//! Writing: from sources to hypotheses.
//!
//! | file | what |
//! |---|---|
//! | `session` | one decoder step for all live rows, over caches or over the whole prefix |
//! | `greedy` | the most probable token at each step |
//! | `beam` | the most probable sequences, several at a time |
//! | `maps` | where each written token looked, in the run that wrote it |

mod beam;
mod greedy;
mod maps;
mod session;
#[cfg(test)]
mod tests;

use crate::EncoderDecoder;
use attentia_nn::Captures;
use attentia_tensor::{Error, ErrorKind, Result, Tensor, no_grad};
use session::Session;

/// How to write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Live hypotheses per source; 1 is greedy decoding.
    pub beams: usize,
    /// Hypotheses returned per source, the best first; at most `beams`.
    pub best: usize,
    /// α in `score = log p / ((5 + tokens) / 6)^α` (Wu et al., 2016, without coverage); greedy decoding ignores it
    /// but for the score.
    pub length_penalty: f64,
    /// The greatest number of tokens written for a source, `<eos>` included; the model's positions bound it too.
    pub limit: usize,
    /// What each token of the source adds to its limit. A source's limit does not depend on the others in its batch.
    pub limit_per_token: usize,
    /// Whether keys and values of written tokens are kept, or all of them read again at each step (to compare).
    pub cached: bool,
    /// Whether `<eos>` may be written; a benchmark that wants every step forbids it.
    pub may_end: bool,
    /// Whether each hypothesis brings its attention maps.
    pub maps: bool,
}

impl Default for GenerateOptions {
    /// Greedy, up to 256 tokens, cached, without maps.
    fn default() -> GenerateOptions {
        GenerateOptions {
            beams: 1,
            best: 1,
            length_penalty: 0.6,
            limit: 256,
            limit_per_token: 0,
            cached: true,
            may_end: true,
            maps: false,
        }
    }
}

/// A written sequence.
#[derive(Clone, Debug)]
pub struct Hypothesis {
    /// Tokens, without `<bos>` and `<eos>`.
    pub tokens: Vec<i64>,
    /// Natural logarithm of its probability, `<eos>` included where it was written.
    pub log_probability: f64,
    /// The length-normalised one, by which hypotheses are ranked.
    pub score: f64,
    /// Whether it ended with `<eos>`, and not at the limit.
    pub finished: bool,
    /// Attention weights of every layer, f32 `[H, T, S]`, where asked for: at `enc.N.self.pattern` between the
    /// source's tokens, at `dec.N.self.pattern` and `dec.N.cross.pattern` a row for each step, the one that wrote
    /// `<eos>` included.
    pub maps: Captures,
}

/// What was written for a batch of sources.
#[derive(Clone, Debug)]
pub struct Generated {
    /// For each source its hypotheses, the best first.
    pub hypotheses: Vec<Vec<Hypothesis>>,
    /// Decoder positions computed: with a cache, one per live hypothesis and step.
    pub decoder_tokens: usize,
    /// Decoder steps.
    pub steps: usize,
}

/// Writes hypotheses for sources `[B, S]` (i64) of these lengths. The sources are encoded once.
///
/// Errors when options make no sense, or as the model's forward does.
///
/// ```
/// use attentia_nn::Scope;
/// use attentia_transformer::{EncoderDecoder, EncoderDecoderConfig, GenerateOptions, generate};
/// # use attentia_tensor::{DType, Device, Tensor};
/// # let device = Device::new(attentia_reference::ReferenceBackend::new());
/// let config = EncoderDecoderConfig { width: 16, heads: 2, hidden: 32, ..EncoderDecoderConfig::tiny(50) };
/// let model = EncoderDecoder::new(&Scope::new(&device, DType::F32, 1), config)?;
/// let source = Tensor::from_slice(&[7i64, 8, 9, 2], &[1, 4], &device)?;
/// let options = GenerateOptions { beams: 4, best: 2, limit: 6, ..GenerateOptions::default() };
/// let written = generate(&model, &source, &[4], options)?;
/// let [first, second] = &written.hypotheses[0][..] else { panic!("two were asked for") };
/// assert!(first.score >= second.score && first.tokens.len() <= 6);
/// # Ok::<(), attentia_tensor::Error>(())
/// ```
pub fn generate(
    model: &EncoderDecoder,
    source: &Tensor,
    lengths: &[usize],
    options: GenerateOptions,
) -> Result<Generated> {
    let refuse =
        |what: String, help: &str| Err(Error::new(ErrorKind::Argument, "generate", what).help(help.to_owned()));
    if options.beams == 0 || options.best == 0 || options.best > options.beams {
        let what = format!("{} beams, of which the best {} are wanted", options.beams, options.best);
        return refuse(what, "at least one beam, and at most as many results");
    }
    if !options.length_penalty.is_finite() || options.length_penalty < 0.0 {
        return refuse(format!("the length penalty is {}", options.length_penalty), "a number from 0, often 0.6 to 1");
    }
    if options.maps && !options.cached {
        return refuse("maps are wanted without the cache".to_owned(), "leave cached on: maps come from its steps");
    }
    let limit = |&length: &usize| {
        options.limit.saturating_add(options.limit_per_token.saturating_mul(length)).min(model.config().positions)
    };
    let limits: Vec<usize> = lengths.iter().map(limit).collect();
    if limits.iter().all(|&limit| limit == 0) {
        let hypotheses = lengths.iter().map(|_| Vec::new()).collect();
        return Ok(Generated { hypotheses, decoder_tokens: 0, steps: 0 });
    }
    no_grad(|| {
        let mut session = Session::new(model, source, lengths, &limits, options)?;
        let open: Vec<usize> = (0..limits.len()).filter(|&source| limits[source] > 0).collect();
        session.keep(&open, &open)?;
        match options.beams {
            1 => greedy::run(session, &open, &limits, options),
            _ => beam::run(session, &open, &limits, options),
        }
    })
}

/// Wu et al. (2016), eq. 14.
fn score(log_probability: f64, tokens: usize, options: &GenerateOptions) -> f64 {
    log_probability / ((5.0 + tokens as f64) / 6.0).powf(options.length_penalty)
}
