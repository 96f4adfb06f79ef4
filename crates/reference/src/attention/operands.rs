//! The operands of one call of attention, checked once so that the loops can index them.

use super::{At, OP};
use crate::{
    arithmetic::Arithmetic,
    check,
    storage::{Number, malformed, read_as},
};
use attentia_backend::{
    AttentionOperands, AttentionSpec, DType, Dropout, Error, ErrorKind, MaskKind, Result, ScoreExpr, Shape, TokenIds,
    View, rules,
};
use ndarray::{ArrayView1, ArrayView2, ArrayView4, Ix1, Ix2, Ix4};

/// A call of attention as arrays.
pub(super) struct Problem<'a> {
    pub(super) arithmetic: Arithmetic,
    pub(super) spec: &'a AttentionSpec,
    /// `[B, H, T, D]`
    pub(super) q: ArrayView4<'a, f64>,
    /// `[B, H', S, D]`
    pub(super) k: ArrayView4<'a, f64>,
    /// `[B, H', S, D_v]`
    pub(super) v: ArrayView4<'a, f64>,
    pub(super) scale: f64,
    /// `[B, H, T, S]`
    pub(super) mask: Option<ArrayView4<'a, i64>>,
    /// `[B, H, T, S]` each
    pub(super) biases: Vec<ArrayView4<'a, f64>>,
    /// Whether the modifier names each bias; the others are added to what it makes of the score.
    pub(super) named: Vec<bool>,
    /// `[B]`
    pub(super) key_lengths: Option<ArrayView1<'a, i64>>,
    /// `[B]`
    pub(super) key_starts: Option<ArrayView1<'a, i64>>,
    /// Of queries `[B, T]`, and of keys `[B, S]`.
    pub(super) segments: Option<[ArrayView2<'a, i64>; 2]>,
    pub(super) scalars: &'a [f64],
    /// `[H]` each
    pub(super) head_scalars: Vec<ArrayView1<'a, f64>>,
    /// `[H]`
    pub(super) sinks: Option<ArrayView1<'a, f64>>,
    pub(super) dropout: Option<Dropout>,
    pub(super) tokens: Option<Tokens<'a>>,
}

/// Token ids `[B, T]` of queries and `[B, S]` of keys.
pub(super) struct Tokens<'a> {
    pub(super) queries: ArrayView2<'a, i64>,
    pub(super) keys: ArrayView2<'a, i64>,
}

impl<'a> Tokens<'a> {
    fn new(tokens: TokenIds<'a>, [batch, queries, keys]: [usize; 3]) -> Result<Tokens<'a>> {
        Ok(Tokens {
            queries: table("query tokens", tokens.queries, [batch, queries])?,
            keys: table("key tokens", tokens.keys, [batch, keys])?,
        })
    }
}

impl<'a> Problem<'a> {
    /// Errors when operands don't fit each other or the specification.
    pub(super) fn new(
        arithmetic: Arithmetic,
        spec: &'a AttentionSpec,
        operands: &AttentionOperands<'a>,
    ) -> Result<Problem<'a>> {
        let AttentionOperands { q, k, v, scale, mask, biases, scalars, head_scalars, sinks, dropout, tokens, .. } =
            *operands;
        let AttentionOperands { key_lengths, key_starts, segments, .. } = *operands;
        rules::attention(check::operand("q", q), check::operand("k", k), check::operand("v", v))?;
        let [batch, heads] = [q.shape()[0], q.shape()[1]];
        let scores = Shape::new(&[batch, heads, q.shape()[2], k.shape()[2]])?;
        agree("a mask", (spec.mask == MaskKind::Boolean) == mask.is_some())?;
        agree("key lengths", spec.key_lengths == key_lengths.is_some())?;
        agree("key starts", spec.key_starts == key_starts.is_some())?;
        agree("segments", spec.segments == segments.is_some())?;
        agree("sinks", spec.sinks == sinks.is_some())?;
        agree("dropout", spec.dropout == dropout.is_some())?;
        agree("token ids", spec.needs_tokens() == tokens.is_some())?;
        agree("biases", usize::from(spec.biases) == biases.len())?;
        let leaves = spec.modifier.as_ref().map_or(Vec::new(), ScoreExpr::leaves);
        let known = leaves.iter().all(|leaf| match **leaf {
            ScoreExpr::Scalar(i) => usize::from(i) < scalars.len(),
            ScoreExpr::Bias(i) => usize::from(i) < biases.len(),
            ScoreExpr::HeadScalar(i) => usize::from(i) < head_scalars.len(),
            _ => true,
        });
        agree("operands of the modifier", known)?;
        if let Some(Dropout { p, .. }) = dropout {
            check::argument(OP, (0.0..1.0).contains(&p), || format!("p is {p}, not in [0, 1)"))?;
        }
        if let Some(mask) = mask {
            rules::dtype(OP, check::operand("mask", mask), DType::Bool)?;
        }
        if let Some(lengths) = key_lengths {
            rules::dtype(OP, check::operand("key_lengths", lengths), DType::I64)?;
        }
        if let Some(starts) = key_starts {
            rules::dtype(OP, check::operand("key_starts", starts), DType::I64)?;
        }
        if let Some(sinks) = sinks {
            rules::dtype(OP, check::operand("sinks", sinks), q.dtype())?;
        }
        let named = (0..spec.biases).map(|i| leaves.contains(&&ScoreExpr::Bias(i))).collect();
        Ok(Problem {
            arithmetic,
            spec,
            q: matrices("q", q, q.shape())?,
            k: matrices("k", k, k.shape())?,
            v: matrices("v", v, v.shape())?,
            scale,
            mask: mask.map(|mask| matrices("mask", mask, &scores)).transpose()?,
            biases: biases.iter().map(|bias| matrices("bias", *bias, &scores)).collect::<Result<_>>()?,
            named,
            key_lengths: key_lengths.map(|lengths| vector("key_lengths", lengths, batch)).transpose()?,
            key_starts: key_starts.map(|starts| vector("key_starts", starts, batch)).transpose()?,
            segments: match segments {
                Some([queries, keys]) => Some([
                    table("query segments", queries, [batch, q.shape()[2]])?,
                    table("key segments", keys, [batch, k.shape()[2]])?,
                ]),
                None => None,
            },
            scalars,
            head_scalars: head_scalars.iter().map(|x| vector("head_scalar", *x, heads)).collect::<Result<_>>()?,
            sinks: sinks.map(|sinks| vector("sinks", sinks, heads)).transpose()?,
            dropout,
            tokens: tokens.map(|tokens| Tokens::new(tokens, [batch, q.shape()[2], k.shape()[2]])).transpose()?,
        })
    }

    /// `[B, H, T, S]`
    pub(super) fn score_shape(&self) -> [usize; 4] {
        [self.q.shape()[0], self.q.shape()[1], self.q.shape()[2], self.k.shape()[2]]
    }

    pub(super) fn query(&self, At { b, h, t }: At) -> impl Iterator<Item = &f64> {
        (0..self.q.shape()[3]).map(move |d| &self.q[[b, h, t, d]])
    }

    pub(super) fn key(&self, b: usize, key_head: usize, s: usize) -> impl Iterator<Item = &f64> {
        (0..self.k.shape()[3]).map(move |d| &self.k[[b, key_head, s, d]])
    }

    pub(super) fn value(&self, b: usize, key_head: usize, s: usize) -> impl Iterator<Item = &f64> {
        (0..self.v.shape()[3]).map(move |d| &self.v[[b, key_head, s, d]])
    }
}

fn agree(what: &str, holds: bool) -> Result<()> {
    check::argument(OP, holds, || format!("specification and operands disagree on {what}"))
}

/// An operand of four axes, broadcast to `shape`.
fn matrices<'a, T: Number>(role: &'static str, x: View<'a>, shape: &Shape) -> Result<ArrayView4<'a, T>> {
    let layout = rules::broadcast_to(check::operand(role, x), shape).map_err(|_| {
        Error::new(ErrorKind::Shape, OP, format!("{role} does not broadcast to the scores"))
            .operand(check::operand(role, x).operand().expected(format!("something that broadcasts to {shape}")))
    })?;
    read_as(OP, role, x, &layout)?.into_dimensionality::<Ix4>().map_err(malformed)
}

/// An operand of two axes of whole numbers.
pub(super) fn table<'a>(role: &'static str, x: View<'a>, shape: [usize; 2]) -> Result<ArrayView2<'a, i64>> {
    rules::dtype(OP, check::operand(role, x), DType::I64)?;
    check::shape(OP, check::operand(role, x), &shape)?;
    read_as(OP, role, x, x.layout())?.into_dimensionality::<Ix2>().map_err(malformed)
}

/// An operand of one axis.
fn vector<'a, T: Number>(role: &'static str, x: View<'a>, extent: usize) -> Result<ArrayView1<'a, T>> {
    check::shape(OP, check::operand(role, x), &[extent])?;
    read_as(OP, role, x, x.layout())?.into_dimensionality::<Ix1>().map_err(malformed)
}
