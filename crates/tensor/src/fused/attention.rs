//! Attention as one operation of everything that may act on a score.
//!
//! ```text
//! z = scale · q kᵀ                              [B, H, T, S]   key heads repeat among H / H_kv query heads
//! x = modifier(z, biases, values per head, distance) + biases that it does not name
//! x = −∞ where the mask, causality, the window, the keys' lengths and starts, or another segment hide the key
//! p = softmax(x)                                a row with nothing left: p = 0, lse = −∞
//! out = dropout(p) v     lse = ln Σ exp x       statistics of p
//!                                               with a sink, Σ has exp(sink) beside the keys', and out nothing of it
//!
//! backward, with p computed again:
//! dv = dropout(p)ᵀ dout     dp = dropout(dout vᵀ)
//! dx = p ⊙ (dp − Σ p dp + dlse)                 dbias = dx · ∂modifier/∂bias, and so for values per head
//! dz = dx · ∂modifier/∂z · scale                dq = dz k      dk = dzᵀ q
//! dsink = Σ p_sink · (dlse − Σ p dp)            over sequences and queries
//! ```
//!
//! A device may have a kernel for a call, or answer why it has none: then the composition in `compose.rs` runs, in chunks of
//! query rows (`chunks.rs`).

mod chunks;
mod compose;
mod dropout;
mod function;
mod maps;

pub(crate) use function::AttentionFunction;
pub use maps::WeightMap;

use crate::{Tensor, tensor::same_device};
use attentia_backend::{
    AttentionSpec, Causal, DType, Dropout, Error, ErrorKind, MaskKind, Result, ScoreExpr, Shape, Statistic, Support,
    rules,
};

/// A call of attention: its operands, and what acts on scores and weights. [`Attention::new`] leaves out everything
/// but q, k and v.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{Alignment, Attention, Causal, DType, RngKey, Tensor};
/// let x = Tensor::randn(RngKey::new(1), &[1, 2, 5, 4], DType::F32, &device)?; // [B, H, T, D]
/// let causal = Causal::Yes(Alignment::BottomRight);
/// let attended = Attention { causal, ..Attention::new(&x, &x, &x) }.run()?;
/// assert_eq!(attended.output.shape().as_slice(), [1, 2, 5, 4]);
/// assert_eq!(attended.lse.shape().as_slice(), [1, 2, 5]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries `[B, H, T, D]`.
    pub q: &'a Tensor,
    /// Keys `[B, H_kv, S, D]`; H is a multiple of H_kv.
    pub k: &'a Tensor,
    /// Values `[B, H_kv, S, D_v]`.
    pub v: &'a Tensor,
    /// Factor on `q kᵀ`; `1/√D` when it is left out.
    pub scale: Option<f64>,
    /// Whether a query sees only keys at or before its position.
    pub causal: Causal,
    /// Width of a sliding window, in tokens.
    pub window: Option<u32>,
    /// Bool, broadcast to `[B, H, T, S]`; true means: may attend.
    pub mask: Option<&'a Tensor>,
    /// i64 `[B]`: keys at or after it are padding.
    pub key_lengths: Option<&'a Tensor>,
    /// i64 `[B]`: keys before it are padding. Positions still count from key 0, padding or not.
    pub key_starts: Option<&'a Tensor>,
    /// i64 ids of queries `[B, T]` and of keys `[B, S]`: a query attends only to keys with its own id. So documents are
    /// packed into one sequence; a kernel passes over blocks of keys of other documents. Positions still count from key 0
    /// of the sequence: causality, windows and distances are those of the whole, which is each document's own where its
    /// queries stand at its keys.
    pub segments: Option<[&'a Tensor; 2]>,
    /// Added to the scores, each broadcast to `[B, H, T, S]`, of the operands' dtype. Gradients flow to them.
    pub biases: &'a [&'a Tensor],
    /// What becomes of a score; see [`ScoreExpr`].
    pub modifier: Option<&'a ScoreExpr>,
    /// Values of [`ScoreExpr::Scalar`].
    pub scalars: &'a [f64],
    /// Values of [`ScoreExpr::HeadScalar`], each `[H]`. Gradients flow to them.
    pub head_scalars: &'a [&'a Tensor],
    /// Logits `[H]`, of the operands' dtype, one in the denominator of each row of its head and without a value: weights
    /// add up to less than 1, and a row that sees no key gives zeros with the sink as its `lse`. Nothing scales, modifies,
    /// masks or drops it; −∞ is none. Gradients flow to it.
    pub sinks: Option<&'a Tensor>,
    /// Dropout of the normalised weights.
    pub dropout: Option<Dropout>,
    /// What is to be known of each row of weights.
    pub statistics: &'a [Statistic],
    /// For statistics that compare tokens, [`Statistic::DuplicateMass`] and [`Statistic::InductionMass`]; the others do
    /// not read them.
    pub tokens: Option<Tokens<'a>>,
    /// Whether the operation may be composed where the device has no kernel.
    pub fallback: Fallback,
}

/// Token ids of queries and keys; in self-attention both are the same tensor.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// i64 `[B, T]`
    pub queries: &'a Tensor,
    /// i64 `[B, S]`
    pub keys: &'a Tensor,
}

/// What to do where a device has no kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// Compose the operation from primitives: right, and slower, with scores in memory, [`Attention::CHUNK_BYTES`] of them
    /// at a time.
    #[default]
    Allow,
    /// An error that says why there is no kernel.
    Deny,
}

/// What attention returns.
#[derive(Clone, Debug)]
pub struct AttentionResult {
    /// `[B, H, T, D_v]`
    pub output: Tensor,
    /// `ln Σ exp(score)`, `[B, H, T]`, of [`DType::statistics`]; −∞ where nothing is visible. With sinks, theirs is one of
    /// the scores.
    pub lse: Tensor,
    /// The statistics, each `[B, H, T]`, in their order, of [`DType::statistics`]. Gradients flow through all but
    /// [`Statistic::ArgMax`]; where one of them has a cotangent, the backward differentiates the composition, which has
    /// scores in memory ([`Attention::CHUNK_BYTES`]), although the forward was a kernel.
    ///
    /// With sinks, they are of the weights of keys as they are: not divided by their sum, and the entropy has no term of the
    /// sink.
    pub statistics: Vec<Tensor>,
}

impl<'a> Attention<'a> {
    /// Bytes of one matrix of scores `[B, H, rows, S]` where attention is composed from primitives: without a kernel, for
    /// gradients of statistics and of maps, and for second derivatives. It runs in chunks of so many query rows, at least one,
    /// and a chunk has about ten such matrices in memory with its gradient, twice as many with its second derivatives. No two
    /// chunks have theirs at the same time, whatever the order of the derivative: for the next derivative each is computed again.
    pub const CHUNK_BYTES: usize = chunks::MATRIX_BYTES;

    /// `softmax(q kᵀ / √D) v`
    pub fn new(q: &'a Tensor, k: &'a Tensor, v: &'a Tensor) -> Attention<'a> {
        Attention {
            q,
            k,
            v,
            scale: None,
            causal: Causal::No,
            window: None,
            mask: None,
            key_lengths: None,
            key_starts: None,
            segments: None,
            biases: &[],
            modifier: None,
            scalars: &[],
            head_scalars: &[],
            sinks: None,
            dropout: None,
            statistics: &[],
            tokens: None,
            fallback: Fallback::Allow,
        }
    }

    /// Computes it, with a kernel where the device has one.
    ///
    /// # Errors
    ///
    /// When operands disagree, or no kernel serves the call and [`Fallback::Deny`] forbids to compose it.
    pub fn run(&self) -> Result<AttentionResult> {
        let mut outputs = self.function()?.run(&self.inputs(), self.fallback)?.into_iter();
        match (outputs.next(), outputs.next()) {
            (Some(output), Some(lse)) => Ok(AttentionResult { output, lse, statistics: outputs.collect() }),
            _ => Err(Error::new(ErrorKind::Argument, OP, "gave not two outputs")),
        }
    }

    /// Which kernel [`run`](Self::run) would take, or why it would compose the operation.
    pub fn explain(&self) -> Result<Support> {
        self.function()?.support(&self.inputs())
    }

    fn function(&self) -> Result<AttentionFunction> {
        let Attention { q, k, v, .. } = self;
        let shape = rules::attention(q.meta("q"), k.meta("k"), v.meta("v"))?;
        let scores = Shape::new(&[shape[0], shape[1], shape[2], k.shape()[2]])?;
        same_device(OP, &self.inputs())?;
        if let Some(mask) = self.mask {
            rules::dtype(OP, mask.meta("mask"), DType::Bool)?;
            rules::broadcast_to(mask.meta("mask"), &scores)?;
        }
        for bias in self.biases {
            rules::dtype(OP, bias.meta("bias"), q.dtype())?;
            rules::broadcast_to(bias.meta("bias"), &scores)?;
        }
        for (role, counts) in [("key_lengths", self.key_lengths), ("key_starts", self.key_starts)] {
            if let Some(counts) = counts {
                rules::dtype(OP, counts.meta(role), DType::I64)?;
                shaped(role, counts, &scores[..1])?;
            }
        }
        if let Some([queries, keys]) = self.segments {
            for (role, ids, extent) in [("query segments", queries, scores[2]), ("key segments", keys, scores[3])] {
                rules::dtype(OP, ids.meta(role), DType::I64)?;
                shaped(role, ids, &[scores[0], extent])?;
            }
        }
        for values in self.head_scalars {
            rules::dtype(OP, values.meta("head_scalar"), q.dtype())?;
            shaped("head_scalar", values, &scores[1..2])?;
        }
        if self.needs_tokens() {
            let Some(tokens) = self.tokens else {
                return Err(Error::new(ErrorKind::Argument, OP, "a statistic needs token ids")
                    .help("set `tokens` to the ids of queries [B, T] and of keys [B, S]"));
            };
            for (role, ids, shape) in [
                ("query tokens", tokens.queries, [scores[0], scores[2]]),
                ("key tokens", tokens.keys, [scores[0], scores[3]]),
            ] {
                rules::dtype(OP, ids.meta(role), DType::I64)?;
                shaped(role, ids, &shape)?;
            }
        }
        if let Some(sinks) = self.sinks {
            rules::dtype(OP, sinks.meta("sinks"), q.dtype())?;
            shaped("sinks", sinks, &scores[1..2])?;
        }
        if let Some(dropout) = self.dropout {
            rules::dropout(q.meta("q"), dropout.p)?;
        }
        if let Some(modifier) = self.modifier {
            let counts = [self.scalars.len(), self.biases.len(), self.head_scalars.len()];
            compose::check_leaves(modifier, counts)?;
        }
        let spec = AttentionSpec {
            causal: self.causal,
            window: self.window,
            mask: if self.mask.is_some() { MaskKind::Boolean } else { MaskKind::None },
            key_lengths: self.key_lengths.is_some(),
            key_starts: self.key_starts.is_some(),
            segments: self.segments.is_some(),
            biases: u8::try_from(self.biases.len())
                .map_err(|_| Error::new(ErrorKind::Argument, OP, format!("{} biases", self.biases.len())))?,
            modifier: self.modifier.cloned(),
            sinks: self.sinks.is_some(),
            dropout: self.dropout.is_some_and(|dropout| dropout.p > 0.0),
            statistics: self.statistics.to_vec(),
        };
        Ok(AttentionFunction {
            dropout: self.dropout.filter(|_| spec.dropout),
            spec,
            scale: self.scale.unwrap_or(1.0 / (q.shape()[3].max(1) as f64).sqrt()),
            scalars: self.scalars.to_vec(),
        })
    }

    fn needs_tokens(&self) -> bool {
        self.statistics.iter().any(|statistic| statistic.needs_tokens())
    }

    /// q, k, v, the mask, the keys' lengths and starts, segments, tokens of queries and of keys, sinks, biases, head scalars:
    /// those that there are.
    fn inputs(&self) -> Vec<&'a Tensor> {
        let Attention { q, k, v, mask, key_lengths, key_starts, segments, sinks, biases, head_scalars, .. } = *self;
        let tokens = self.tokens.filter(|_| self.needs_tokens()).map(|tokens| [tokens.queries, tokens.keys]);
        let optional = mask.into_iter().chain(key_lengths).chain(key_starts);
        let optional = optional.chain(segments.into_iter().chain(tokens).flatten()).chain(sinks);
        [q, k, v].into_iter().chain(optional).chain(biases.iter().chain(head_scalars).copied()).collect()
    }
}

const OP: &str = "attention";

fn shaped(role: &'static str, x: &Tensor, expected: &[usize]) -> Result<()> {
    if x.shape().as_slice() == expected {
        return Ok(());
    }
    let expected = x.data.operand(role).expected(format!("{expected:?}"));
    Err(Error::new(ErrorKind::Shape, OP, format!("{role} has another shape")).operand(expected))
}
