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
//! A device may have a kernel for a call, or answer why it has none: then the composition in `compose.rs` runs.

mod chunks;
mod compose;
mod dropout;
mod maps;

pub use maps::WeightMap;

use chunks::{ByRows, Chunk};

use super::kernels_enabled;
use crate::{Backward, Data, Function, Saver, Tensor, function::run, graph::records, tensor::same_device};
use attentia_backend::{
    AttentionCotangents, AttentionGrads, AttentionOperands, AttentionOut, AttentionSaved, AttentionSpec, Causal, DType,
    Dropout, Error, ErrorKind, MaskKind, Result, ScoreExpr, Shape, Statistic, Support, TokenIds, View, rules,
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
    /// Compose the operation from primitives: right, and slower, with a score matrix in memory.
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
    /// [`Statistic::ArgMax`]; where one of them has a cotangent, the backward differentiates the composition, which has a
    /// score matrix in memory, although the forward was a kernel.
    ///
    /// With sinks, they are of the weights of keys as they are: not divided by their sum, and the entropy has no term of the
    /// sink.
    pub statistics: Vec<Tensor>,
}

impl<'a> Attention<'a> {
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

/// `out`, `lse` and the statistics.
#[derive(Clone, Debug)]
pub(crate) struct AttentionFunction {
    pub(crate) spec: AttentionSpec,
    pub(crate) scale: f64,
    pub(crate) scalars: Vec<f64>,
    pub(crate) dropout: Option<Dropout>,
}

/// The inputs by their roles.
struct Given<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    mask: Option<&'a Tensor>,
    key_lengths: Option<&'a Tensor>,
    key_starts: Option<&'a Tensor>,
    segments: Option<[&'a Tensor; 2]>,
    tokens: Option<Tokens<'a>>,
    sinks: Option<&'a Tensor>,
    biases: &'a [&'a Tensor],
    head_scalars: &'a [&'a Tensor],
}

impl AttentionFunction {
    fn given<'a>(&self, inputs: &'a [&'a Tensor]) -> Given<'a> {
        let (q, k, v, mut rest) = (inputs[0], inputs[1], inputs[2], &inputs[3..]);
        let mut next = |there: bool| match rest.split_first() {
            Some((first, others)) if there => {
                rest = others;
                Some(*first)
            }
            _ => None,
        };
        let (mask, key_lengths) = (next(self.spec.mask == MaskKind::Boolean), next(self.spec.key_lengths));
        let key_starts = next(self.spec.key_starts);
        let segments = next(self.spec.segments).zip(next(self.spec.segments)).map(|(queries, keys)| [queries, keys]);
        let tokens = next(self.spec.needs_tokens()).zip(next(self.spec.needs_tokens()));
        let tokens = tokens.map(|(queries, keys)| Tokens { queries, keys });
        let sinks = next(self.spec.sinks);
        let (biases, head_scalars) = rest.split_at(usize::from(self.spec.biases).min(rest.len()));
        Given { q, k, v, mask, key_lengths, key_starts, segments, tokens, sinks, biases, head_scalars }
    }

    /// Where the sinks, biases and values per head begin among the inputs.
    fn first_learned(&self) -> usize {
        let spec = &self.spec;
        let tables = 2 * (usize::from(spec.segments) + usize::from(spec.needs_tokens()));
        let before = [spec.mask == MaskKind::Boolean, spec.key_lengths, spec.key_starts];
        3 + before.into_iter().map(usize::from).sum::<usize>() + tables
    }

    /// Which of `count` inputs a kernel can be asked for the gradients of: q, k, v, sinks, biases and values per head.
    fn places(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        (0..3).chain(self.first_learned()..count)
    }

    fn support(&self, inputs: &[&Tensor]) -> Result<Support> {
        if !kernels_enabled() {
            return Ok(Support::Compose { why: "kernels are switched off in this thread".to_owned() });
        }
        self.with_operands(inputs, |operands| {
            Ok(inputs[0].device().attention_support(&self.spec, operands, records(inputs)))
        })
    }

    /// The kernel if there is one, else the composition.
    pub(crate) fn run(&self, inputs: &[&Tensor], fallback: Fallback) -> Result<Vec<Tensor>> {
        match self.support(inputs)? {
            Support::Kernel { .. } => run(self, inputs),
            Support::Compose { .. } if fallback == Fallback::Allow => self.compose(inputs),
            Support::Compose { why } => Err(Error::new(ErrorKind::Unsupported, OP, why)
                .operand(inputs[0].data.operand("q"))
                .help("Fallback::Allow composes it from primitives, with a score matrix in memory")),
        }
    }

    fn with_operands<T>(
        &self,
        inputs: &[&Tensor],
        use_them: impl FnOnce(&AttentionOperands) -> Result<T>,
    ) -> Result<T> {
        let given = self.given(inputs);
        let scores = Shape::new(&[given.q.shape()[0], given.q.shape()[1], given.q.shape()[2], given.k.shape()[2]])?;
        // Masks and biases are read as if they had the scores' shape: no copy is made.
        let whole = |t: &Tensor| rules::broadcast_to(t.meta("operand"), &scores);
        let mask_layout = given.mask.map(whole).transpose()?;
        let bias_layouts = given.biases.iter().map(|bias| whole(bias)).collect::<Result<Vec<_>>>()?;
        let mask = given.mask.zip(mask_layout.as_ref()).map(|(mask, layout)| mask.data.view_as(layout)).transpose()?;
        let biases = given.biases.iter().zip(&bias_layouts).map(|(bias, layout)| bias.data.view_as(layout));
        let biases = biases.collect::<Result<Vec<View>>>()?;
        let head_scalars = given.head_scalars.iter().map(|values| values.view()).collect::<Result<Vec<View>>>()?;
        use_them(&AttentionOperands {
            q: given.q.view()?,
            k: given.k.view()?,
            v: given.v.view()?,
            scale: self.scale,
            mask,
            biases: &biases,
            key_lengths: given.key_lengths.map(|lengths| lengths.view()).transpose()?,
            key_starts: given.key_starts.map(|starts| starts.view()).transpose()?,
            segments: match given.segments {
                Some([queries, keys]) => Some([queries.view()?, keys.view()?]),
                None => None,
            },
            scalars: &self.scalars,
            head_scalars: &head_scalars,
            sinks: given.sinks.map(|sinks| sinks.view()).transpose()?,
            dropout: self.dropout,
            tokens: match given.tokens {
                Some(Tokens { queries, keys }) => Some(TokenIds { queries: queries.view()?, keys: keys.view()? }),
                None => None,
            },
        })
    }
}

impl Function for AttentionFunction {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (q, v) = (inputs[0], inputs[2]);
        let [b, h, t, _] = q.dims()?;
        let (rows, device, statistics) = (Shape::new(&[b, h, t])?, q.device(), q.dtype().statistics());
        let mut results = vec![Data::alloc(device, q.dtype(), Shape::new(&[b, h, t, v.shape()[3]])?)?];
        for _ in 0..1 + self.spec.statistics.len() {
            results.push(Data::alloc(device, statistics, rows)?);
        }
        self.with_operands(inputs, |operands| {
            let mut views = results.iter_mut().map(Data::view_mut).collect::<Result<Vec<_>>>()?.into_iter();
            let (Some(out), Some(lse)) = (views.next(), views.next()) else { return Ok(()) };
            device.attention(&self.spec, operands, AttentionOut { out, lse, statistics: views.collect() })
        })?;
        (0..inputs.len()).for_each(|i| save.input(i));
        save.output(0);
        save.output(1);
        Ok(results)
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let mut gradients = vec![None; b.needs.len()];
        if b.grads.iter().skip(2).any(Option::is_some) {
            // No kernel carries gradients of statistics.
            b.saved.truncate(b.needs.len());
            return chunks::backward(self, b.saved, b.grads, b.needs);
        }
        let (dout, dlse) = (b.take_grad(0), b.take_grad(1));
        let count = b.needs.len();
        let wants: Vec<bool> = self.places(count).map(|i| b.wants(i)).collect();
        if (dout.is_none() && dlse.is_none()) || !wants.contains(&true) {
            return Ok(gradients);
        }
        let backward = AttentionBackward { attention: self.clone(), wants, dout: dout.is_some(), dlse: dlse.is_some() };
        let operands: Vec<&Tensor> = b.saved.iter().chain(&dout).chain(&dlse).collect();
        let mut results = run(&backward, &operands)?.into_iter();
        for (place, _) in self.places(count).zip(&backward.wants).filter(|(_, wanted)| **wanted) {
            gradients[place] = results.next();
        }
        Ok(gradients)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        chunks::compose(self, inputs)
    }
}

impl ByRows for AttentionFunction {
    fn attention(&self) -> &AttentionFunction {
        self
    }

    fn input_axes(&self, inputs: &[&Tensor]) -> Vec<Option<usize>> {
        let given = self.given(inputs);
        let queries = given.q.shape()[2];
        // A mask or a bias that repeats along the rows is whole in each chunk.
        let broadcast = |x: &Tensor| x.rank().checked_sub(2).filter(|&axis| x.shape()[axis] == queries);
        let mut axes = vec![Some(2), None, None];
        axes.extend(given.mask.map(broadcast));
        axes.extend([given.key_lengths, given.key_starts].into_iter().flatten().map(|_| None));
        axes.extend(given.segments.iter().flat_map(|_| [Some(1), None]));
        axes.extend(given.tokens.iter().flat_map(|_| [Some(1), None]));
        axes.extend(given.sinks.map(|_| None));
        axes.extend(given.biases.iter().map(|bias| broadcast(bias)));
        axes.extend(given.head_scalars.iter().map(|_| None));
        axes
    }

    fn output_axes(&self, _: &[&Tensor]) -> Vec<Option<usize>> {
        vec![Some(2); 2 + self.spec.statistics.len()]
    }

    fn compose_rows(&self, inputs: &[&Tensor], chunk: Chunk) -> Result<Vec<Tensor>> {
        compose::forward(self, &self.given(inputs), chunk)
    }
}

/// The gradients of q, k, v, sinks, biases and values per head that are wanted, from the inputs, `out`, `lse`, and the
/// cotangents of the two that there are.
#[derive(Clone, Debug)]
pub(crate) struct AttentionBackward {
    attention: AttentionFunction,
    wants: Vec<bool>,
    dout: bool,
    dlse: bool,
}

impl AttentionBackward {
    /// The attention's inputs, `[out, lse]`, and the cotangents.
    fn parts<'a, 'b>(&self, inputs: &'b [&'a Tensor]) -> (&'b [&'a Tensor], [&'a Tensor; 2], [Option<&'a Tensor>; 2]) {
        let cotangents = usize::from(self.dout) + usize::from(self.dlse);
        let (operands, rest) = inputs.split_at(inputs.len() - cotangents - 2);
        let dout = self.dout.then(|| rest[2]);
        let dlse = self.dlse.then(|| rest[rest.len() - 1]);
        (operands, [rest[0], rest[1]], [dout, dlse])
    }
}

impl Function for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (operands, [out, lse], [dout, dlse]) = self.parts(inputs);
        let device = out.device();
        let mut results: Vec<Option<Data>> = Vec::new();
        for (place, &wanted) in self.attention.places(operands.len()).zip(&self.wants) {
            let like = operands[place];
            results.push(wanted.then(|| Data::alloc(device, like.dtype(), *like.shape())).transpose()?);
        }
        self.attention.with_operands(operands, |given| {
            let views = results.iter_mut().map(|result| result.as_mut().map(Data::view_mut).transpose());
            let mut views = views.collect::<Result<Vec<_>>>()?.into_iter();
            let mut next = || views.next().flatten();
            let (q, k, v) = (next(), next(), next());
            let sinks = if self.attention.spec.sinks { next() } else { None };
            let biases = views.by_ref().take(usize::from(self.attention.spec.biases)).collect();
            let grads = AttentionGrads { q, k, v, biases, head_scalars: views.collect(), sinks };
            let saved = AttentionSaved { out: out.view()?, lse: lse.view()? };
            let (dout, dlse) = (dout.map(Tensor::view).transpose()?, dlse.map(Tensor::view).transpose()?);
            let cotangents = AttentionCotangents { out: dout, lse: dlse };
            device.attention_backward(&self.attention.spec, given, &saved, &cotangents, grads)
        })?;
        (0..inputs.len()).for_each(|i| save.input(i));
        Ok(results.into_iter().flatten().collect())
    }

    fn backward(&self, b: Backward) -> Result<Vec<Option<Tensor>>> {
        chunks::backward(self, b.saved, b.grads, b.needs)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        chunks::compose(self, inputs)
    }
}

impl ByRows for AttentionBackward {
    fn attention(&self) -> &AttentionFunction {
        &self.attention
    }

    fn input_axes(&self, inputs: &[&Tensor]) -> Vec<Option<usize>> {
        let (operands, ..) = self.parts(inputs);
        let mut axes = self.attention.input_axes(operands);
        axes.resize(inputs.len(), Some(2)); // out, lse, and their cotangents
        axes
    }

    fn output_axes(&self, inputs: &[&Tensor]) -> Vec<Option<usize>> {
        let (operands, ..) = self.parts(inputs);
        let axes = self.attention.input_axes(operands);
        let wanted = self.attention.places(operands.len()).zip(&self.wants).filter(|(_, wanted)| **wanted);
        wanted.map(|(place, _)| axes[place]).collect()
    }

    fn compose_rows(&self, inputs: &[&Tensor], chunk: Chunk) -> Result<Vec<Tensor>> {
        let (operands, _, cotangents) = self.parts(inputs);
        compose::backward(&self.attention, &self.attention.given(operands), cotangents, &self.wants, chunk)
    }
}
