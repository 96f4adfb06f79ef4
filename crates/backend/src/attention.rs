//! What an attention kernel is asked for: a specification that may select a kernel, and the operands of one call.
//!
//! ```text
//! score → modify → add biases → mask → normalise → weight → sum
//! out[b, h, t, :] = Σ_s dropout(softmax_s(modify(scale · ⟨q[b, h, t, :], k[b, h', s, :]⟩) + biases)) · v[b, h', s, :]
//! lse[b, h, t]    = ln Σ_s exp(score)                                      h' = h · H_kv / H  (grouped queries repeat)
//! ```
//!
//! A row with nothing to attend to, by mask or by −inf scores, gives zeros, `lse = −inf` and zero gradients.
//!
//! # Sinks
//!
//! A sink is a learned logit of each query head, which takes part in the denominator and has no value (GPT-OSS; *Efficient
//! Streaming Language Models with Attention Sinks*, Xiao et al., 2024):
//!
//! ```text
//! lse     = ln(Σ_s exp(score_s) + exp(sink_h))       p_s = exp(score_s − lse)       p_sink = exp(sink_h − lse)
//! dsink_h = Σ_{b, t} p_sink · (dlse − Σ_s p_s · dp_s)    dp_s = dropout(⟨dout, v_s⟩): Σ_s p_s · dp_s = ⟨dout, out⟩
//! ```
//!
//! It is a logit as it stands: neither scaled nor modified, masked nor dropped out. The weights of a row add up to
//! `1 − p_sink`. A row with nothing to attend to gives zeros and `lse = sink_h`; its only gradient is that of the sink,
//! `dlse`. A sink of −inf is none; one of +inf or NaN makes rows of NaN. Statistics are of the weights of keys as they
//! are, as their formulas say: they are not divided by `1 − p_sink`, the entropy has no term of the sink, and a row
//! without keys has zeros.

use crate::{Dropout, Result, ScoreExpr, View, ViewMut};

/// How rows and columns of a score matrix that isn't square correspond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Alignment {
    /// Query 0 stands at key 0.
    TopLeft,
    /// The last query stands at the last key, as in decoding with a cache.
    #[default]
    BottomRight,
}

/// Causality: a query attends to keys at or before its own position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Causal {
    /// Every key is visible.
    #[default]
    No,
    /// Only keys at or before the query's position.
    Yes(Alignment),
}

/// Kinds of explicit mask operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MaskKind {
    /// None.
    #[default]
    None,
    /// Bool, broadcast to `[B, H, T, S]`; true means: may attend.
    Boolean,
}

/// A statistic of each attention row, computed by the kernel beside its output: of the weights before dropout, in the
/// dtype [`crate::DType::statistics`]. A row that sees no key has 0 of each.
///
/// ```text
/// p_s    weight of key s        i    position of the query among the keys, t or t + S − T; see [`Alignment`]
/// ```
///
/// Keys outside `0..S` have no weight: the previous-token mass of a query at key 0 is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// `−Σ p ln p`, nats.
    Entropy,
    /// `exp(entropy)`: among how many keys the same entropy would be spread evenly.
    EffectiveKeys,
    /// The greatest weight.
    MaxWeight,
    /// The key of the greatest weight, the first of equals; in f32, keys above 2²⁴ are rounded.
    ArgMax,
    /// `Σ p |i − s|`, tokens.
    MeanDistance,
    /// `Σ p log₂(1 + |i − s|)`, doublings: a few far keys do not drown the near ones.
    MeanLogDistance,
    /// `Σ p` of the first so many keys, where attention that looks for nothing tends to rest.
    SinkMass(u32),
    /// `p_i`: the query's own position.
    SelfMass,
    /// `p_{i−1}`
    PreviousMass,
    /// `p_{i+1}`, 0 under causality.
    NextMass,
    /// `Σ p` of keys before i whose token is the query's. Needs [`AttentionOperands::tokens`].
    DuplicateMass,
    /// `Σ p` of keys up to i behind a token that is the query's: what an induction head (Olsson et al., 2022) looks at.
    /// Needs [`AttentionOperands::tokens`].
    InductionMass,
}

impl Statistic {
    /// Whether it is about token ids.
    pub fn needs_tokens(self) -> bool {
        matches!(self, Statistic::DuplicateMass | Statistic::InductionMass)
    }
}

/// What may select a kernel: plain data, no buffer, no value that changes from step to step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct AttentionSpec {
    /// Causality.
    pub causal: Causal,
    /// Width of a sliding window: `|i − j| < window`, and with causality `0 ≤ i − j < window`, in tokens.
    pub window: Option<u32>,
    /// Explicit mask operand.
    pub mask: MaskKind,
    /// Whether `key_lengths` is given.
    pub key_lengths: bool,
    /// Whether `key_starts` is given.
    pub key_starts: bool,
    /// Whether `segments` are given.
    pub segments: bool,
    /// Number of biases. The modifier uses those that it names; the others are added to what it makes of the score.
    pub biases: u8,
    /// Score modifier; `None` leaves it as it is.
    pub modifier: Option<ScoreExpr>,
    /// Whether `sinks` is given.
    pub sinks: bool,
    /// Whether weights are dropped out after normalisation.
    pub dropout: bool,
    /// Statistics to compute.
    pub statistics: Vec<Statistic>,
}

impl AttentionSpec {
    /// Whether a statistic is about token ids, so that [`AttentionOperands::tokens`] is given.
    pub fn needs_tokens(&self) -> bool {
        self.statistics.iter().any(|statistic| statistic.needs_tokens())
    }
}

/// Token ids, for statistics that compare them.
#[derive(Clone, Copy, Debug)]
pub struct TokenIds<'a> {
    /// Of the queries, i64 `[B, T]`.
    pub queries: View<'a>,
    /// Of the keys, i64 `[B, S]`.
    pub keys: View<'a>,
}

/// The operands of one call.
#[derive(Clone, Copy, Debug)]
pub struct AttentionOperands<'a> {
    /// Queries `[B, H, T, D]`.
    pub q: View<'a>,
    /// Keys `[B, H_kv, S, D]`; H is a multiple of H_kv.
    pub k: View<'a>,
    /// Values `[B, H_kv, S, D_v]`.
    pub v: View<'a>,
    /// Factor on `⟨q, k⟩`, usually `1/√D`.
    pub scale: f64,
    /// Bool, broadcast to `[B, H, T, S]`.
    pub mask: Option<View<'a>>,
    /// Biases, each broadcast to `[B, H, T, S]`.
    pub biases: &'a [View<'a>],
    /// i64 `[B]`: keys at or after it are padding.
    pub key_lengths: Option<View<'a>>,
    /// i64 `[B]`: keys before it are padding. Positions still count from key 0, padding or not.
    pub key_starts: Option<View<'a>>,
    /// i64 ids of queries `[B, T]` and of keys `[B, S]`: a query attends only to keys with its own id, as of the documents
    /// that are packed into a sequence. Positions still count from key 0 of the sequence: causality, windows and distances
    /// are those of the whole.
    pub segments: Option<[View<'a>; 2]>,
    /// Values of `ScoreExpr::Scalar`.
    pub scalars: &'a [f64],
    /// Values of `ScoreExpr::HeadScalar`, each `[H]`.
    pub head_scalars: &'a [View<'a>],
    /// Logits `[H]`, of q's dtype, one in the denominator of each row; see the module's text.
    pub sinks: Option<View<'a>>,
    /// Dropout of the weights; row `(b · H + h) · T + t`, column s.
    pub dropout: Option<Dropout>,
    /// Given where [`AttentionSpec::needs_tokens`].
    pub tokens: Option<TokenIds<'a>>,
}

/// Destinations of the forward.
#[derive(Debug)]
pub struct AttentionOut<'a> {
    /// `[B, H, T, D_v]`
    pub out: ViewMut<'a>,
    /// `[B, H, T]`, dtype [`crate::DType::statistics`].
    pub lse: ViewMut<'a>,
    /// `[B, H, T]` each, in the order of the specification.
    pub statistics: Vec<ViewMut<'a>>,
}

/// What the forward left for the backward.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSaved<'a> {
    /// The forward's output.
    pub out: View<'a>,
    /// The forward's log-sum-exp.
    pub lse: View<'a>,
}

/// Cotangents of the forward's results; `None` is zero.
#[derive(Clone, Copy, Debug)]
pub struct AttentionCotangents<'a> {
    /// Of `out`.
    pub out: Option<View<'a>>,
    /// Of `lse`.
    pub lse: Option<View<'a>>,
}

/// Destinations of the backward; `None` is not wanted.
#[derive(Debug)]
pub struct AttentionGrads<'a> {
    /// Like q.
    pub q: Option<ViewMut<'a>>,
    /// Like k.
    pub k: Option<ViewMut<'a>>,
    /// Like v.
    pub v: Option<ViewMut<'a>>,
    /// Of each bias, in a shape that broadcasts to `[B, H, T, S]`: the gradient is summed over what the bias repeats.
    /// Empty when none is wanted.
    pub biases: Vec<Option<ViewMut<'a>>>,
    /// Of each vector of values per head, `[H]`. Empty when none is wanted.
    pub head_scalars: Vec<Option<ViewMut<'a>>>,
    /// Of the sinks, `[H]`.
    pub sinks: Option<ViewMut<'a>>,
}

/// A backend's answer to: can you run this in one kernel?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// Yes.
    Kernel {
        /// Which one.
        name: &'static str,
        /// Bytes of scratch memory that it takes.
        workspace: usize,
    },
    /// No: compose it from primitives.
    Compose {
        /// The reason, for `explain()`.
        why: String,
    },
}

impl Support {
    /// Whether there is a kernel.
    pub fn is_kernel(&self) -> bool {
        matches!(self, Support::Kernel { .. })
    }

    /// Turns the answer "no" into an error, for backends whose kernel was called all the same.
    pub fn require(&self, op: &'static str) -> Result<()> {
        match self {
            Support::Kernel { .. } => Ok(()),
            Support::Compose { why } => Err(crate::Error::new(crate::ErrorKind::Unsupported, op, why.clone())
                .help("ask `support` first, and compose the operation from primitives")),
        }
    }
}
