//! Attention in primitives: the definition, the fallback, and the way to second derivatives.
//!
//! Everything is of one chunk of query rows, see `chunks.rs`: T is the number of its rows, and their places are those of the
//! whole.

use super::{AttentionFunction, OP, Tokens, chunks::Chunk, dropout::Gate, function::Given};
use crate::Tensor;
use attentia_backend::{Alignment, Causal, DType, Error, ErrorKind, Result, ScoreExpr, Statistic};

/// What the forward and the backward compute alike.
pub(super) struct Rows {
    /// `scale · q kᵀ`, `[B, H, T, S]`.
    products: Tensor,
    /// Behind modifier and biases; −∞ where hidden.
    pub(super) scores: Tensor,
    /// Before dropout.
    pub(super) weights: Tensor,
    /// What the sinks have taken of them, `[B, H, T, 1]`.
    sinks: Option<Tensor>,
    /// `[B, H, T, 1]`
    pub(super) lse: Tensor,
    /// Key position minus query position, `[T, S]`.
    distance: Tensor,
}

pub(super) fn forward(attention: &AttentionFunction, given: &Given, chunk: Chunk) -> Result<Vec<Tensor>> {
    let rows = rows(attention, given, chunk)?;
    let gate = Gate::of(attention.dropout, chunk, &rows.weights)?;
    let v = repeated(given.v, given.q.shape()[1])?;
    let mut outputs = vec![gate.apply(&rows.weights)?.matmul(&v)?, rows.lse.squeeze(-1)?];
    for statistic in &attention.spec.statistics {
        outputs.push(rows.statistic(*statistic, given)?);
    }
    Ok(outputs)
}

/// The wanted ones of dq, dk, dv and the gradients of sinks, biases and values per head.
pub(super) fn backward(
    attention: &AttentionFunction,
    given: &Given,
    [dout, dlse]: [Option<&Tensor>; 2],
    wants: &[bool],
    chunk: Chunk,
) -> Result<Vec<Tensor>> {
    let rows = rows(attention, given, chunk)?;
    let gate = Gate::of(attention.dropout, chunk, &rows.weights)?;
    let (q, heads, groups) = (given.q, given.q.shape()[1], given.k.shape()[1]);
    let dtype = q.dtype();
    // dlse − Σ p dp: what all scores of a row have alike, a sink's among them.
    let dp = match dout {
        Some(dout) => Some(gate.apply(&dout.matmul(&repeated(given.v, heads)?.t()?)?)?),
        None => None,
    };
    let inner = dp.as_ref().map(|dp| (&rows.weights * dp)?.sum(&[-1], true)?.neg()).transpose()?;
    let dlse = dlse.map(|dlse| dlse.to_dtype(dtype)?.unsqueeze(-1)).transpose()?;
    let alike = match (inner, dlse) {
        (Some(inner), Some(dlse)) => (inner + dlse)?,
        (Some(alike), None) | (None, Some(alike)) => alike,
        (None, None) => {
            return Err(Error::new(ErrorKind::Argument, "attention_backward", "neither output has a cotangent"));
        }
    };
    // dx, of the scores.
    let dx = match &dp {
        Some(dp) => (&rows.weights * (dp + &alike)?)?,
        None => (&rows.weights * &alike)?,
    };
    let derivative = |leaf: ScoreExpr, dx: &Tensor| -> Result<Tensor> {
        let Some(modifier) = &attention.spec.modifier else { return Ok(dx.clone()) };
        // A key of weight 0 has no gradient, whatever the modifier's slope at its score.
        let visible = rows.weights.ne_scalar(0.0)?;
        evaluate(attention, given, &rows.products, &rows.distance, &modifier.derivative(&leaf))?
            .times(dx)?
            .where_or_zero(&visible)
    };
    let dz = derivative(ScoreExpr::Score, &dx)?;
    let scaled = dz.mul_scalar(attention.scale)?;
    let ungrouped = |g: Tensor| -> Result<Tensor> {
        if heads == groups {
            return Ok(g);
        }
        let [b, _, s, d] = g.dims()?;
        let [b, hkv, each, s, d] = [b, groups, heads / groups, s, d].map(|extent| extent as isize);
        g.reshape(&[b, hkv, each, s, d])?.sum(&[2], false)
    };
    let mut wanted = wants.iter().copied();
    let mut next = || wanted.next().unwrap_or(false);
    let mut gradients = Vec::new();
    if next() {
        gradients.push(scaled.matmul(&repeated(given.k, heads)?)?);
    }
    if next() {
        gradients.push(ungrouped(scaled.t()?.matmul(q)?)?);
    }
    if next() {
        gradients.push(match dout {
            Some(dout) => ungrouped(gate.apply(&rows.weights)?.t()?.matmul(dout)?)?,
            None => given.v.zeros_like()?,
        });
    }
    if let Some(sinks) = &rows.sinks
        && next()
    {
        gradients.push((sinks * &alike)?.sum(&[0, 2, 3], false)?);
    }
    for (i, bias) in given.biases.iter().enumerate() {
        if next() {
            let named = attention.spec.modifier.as_ref().is_some_and(|m| m.names(&ScoreExpr::Bias(i as u8)));
            let term = if named { derivative(ScoreExpr::Bias(i as u8), &dx)? } else { dx.clone() };
            gradients.push(term.sum_to_shape(bias.shape())?);
        }
    }
    for i in 0..given.head_scalars.len() {
        if next() {
            // What does not depend on them has a derivative of 0, whether there is a modifier or not.
            gradients.push(match &attention.spec.modifier {
                Some(_) => derivative(ScoreExpr::HeadScalar(i as u8), &dx)?.sum(&[0, 2, 3], false)?,
                None => given.head_scalars[i].zeros_like()?,
            });
        }
    }
    Ok(gradients)
}

pub(super) fn rows(attention: &AttentionFunction, given: &Given, chunk: Chunk) -> Result<Rows> {
    let (q, spec) = (given.q, &attention.spec);
    let keys = repeated(given.k, q.shape()[1])?;
    // Scaling the queries costs T · D products instead of T · S.
    let products = q.mul_scalar(attention.scale)?.matmul(&keys.t()?)?; // [B, H, T, S]
    let distance = distances(attention, given, chunk)?;
    let mut scores = match &spec.modifier {
        Some(modifier) => evaluate(attention, given, &products, &distance, modifier)?.tensor(&products)?,
        None => products.clone(),
    };
    for (i, bias) in given.biases.iter().enumerate() {
        if !spec.modifier.as_ref().is_some_and(|m| m.names(&ScoreExpr::Bias(i as u8))) {
            scores = (scores + *bias)?;
        }
    }
    if let Some(visible) = visible(attention, given, &distance)? {
        scores = scores.masked_fill(&visible.logical_not()?, f64::NEG_INFINITY)?;
    }
    let of_rows = [q.shape()[0], q.shape()[1], q.shape()[2], 1];
    let mut max = match scores.shape()[3] {
        0 => Tensor::full(&of_rows, f64::NEG_INFINITY, q.dtype(), q.device())?,
        _ => scores.detach().max(&[-1], true)?,
    };
    let sinks = given.sinks.map(|sinks| sinks.reshape(&[1, sinks.count() as isize, 1, 1])).transpose()?;
    if let Some(sinks) = &sinks {
        max = max.maximum(&sinks.detach())?;
    }
    // A row with nothing left would be NaN: its maximum is replaced, and its total of 0 by 1.
    let max = max.where_or_zero(&max.ne_scalar(f64::NEG_INFINITY)?)?;
    let powers = (&scores - &max)?.exp()?;
    let sinks = sinks.map(|sinks| (sinks - &max)?.exp()).transpose()?; // [B, H, T, 1]
    let total = match &sinks {
        Some(sinks) => (powers.sum(&[-1], true)? + sinks)?,
        None => powers.sum(&[-1], true)?,
    };
    let empty = total.eq_scalar(0.0)?;
    let total = total.masked_fill(&empty, 1.0)?;
    let statistics = q.dtype().statistics();
    let lse = (max.to_dtype(statistics)? + total.to_dtype(statistics)?.log()?)?;
    let lse = lse.masked_fill(&empty, f64::NEG_INFINITY)?;
    let sinks = sinks.map(|sinks| sinks / &total).transpose()?;
    Ok(Rows { weights: (powers / total)?, sinks, products, scores, lse, distance })
}

impl Rows {
    /// `[B, H, T]`, in the statistics' dtype; 0 of a row without keys.
    fn statistic(&self, statistic: Statistic, given: &Given) -> Result<Tensor> {
        let dtype = self.lse.dtype();
        let weights = self.weights.to_dtype(dtype)?;
        if weights.shape()[3] == 0 {
            return self.lse.squeeze(-1)?.zeros_like();
        }
        let distance = &self.distance;
        let apart = || distance.to_dtype(dtype)?.abs();
        let mean = |of: Tensor| (&weights * of)?.sum(&[-1], false);
        let mass = |of: Tensor| mean(of.to_dtype(dtype)?);
        match statistic {
            Statistic::Entropy => self.entropy(&weights),
            Statistic::EffectiveKeys => {
                let seen = weights.sum(&[-1], false)?.ne_scalar(0.0)?;
                self.entropy(&weights)?.exp()?.where_or_zero(&seen)
            }
            Statistic::MaxWeight => weights.max(&[-1], false),
            Statistic::ArgMax => weights.argmax(-1, false)?.to_dtype(dtype),
            Statistic::MeanDistance => mean(apart()?),
            Statistic::MeanLogDistance => mean(apart()?.log1p()?.mul_scalar(std::f64::consts::LOG2_E)?),
            Statistic::SinkMass(keys) => {
                let count = weights.shape()[3] as i64;
                mass(Tensor::arange(0, count, 1, DType::I64, weights.device())?.lt_scalar(i64::from(keys))?)
            }
            Statistic::SelfMass => mass(distance.eq_scalar(0)?),
            Statistic::PreviousMass => mass(distance.eq_scalar(-1)?),
            Statistic::NextMass => mass(distance.eq_scalar(1)?),
            Statistic::DuplicateMass => mass(distance.lt_scalar(0)?.logical_and(&same_tokens(given, 0)?)?),
            Statistic::InductionMass => mass(distance.le_scalar(0)?.logical_and(&same_tokens(given, 1)?)?),
        }
    }

    /// −Σ p ln p, where p ln p of 0 is 0 and has no slope.
    fn entropy(&self, weights: &Tensor) -> Result<Tensor> {
        let log = (self.lse.clone() - self.scores.to_dtype(weights.dtype())?)?;
        let log = log.where_or_zero(&weights.ne_scalar(0.0)?)?;
        (weights * log)?.sum(&[-1], false)
    }
}

/// Bool `[B, 1, T, S]`: whether the key so many places before a key has the query's token; there is none before the first.
fn same_tokens(given: &Given, before: usize) -> Result<Tensor> {
    let Some(Tokens { queries, keys }) = given.tokens else {
        return Err(Error::new(ErrorKind::Argument, OP, "a statistic needs token ids"));
    };
    let same = queries.unsqueeze(-1)?.unsqueeze(1)?.eq(&keys.unsqueeze(1)?.unsqueeze(1)?)?; // [B, 1, T, S]
    let [b, _, t, s] = same.dims()?;
    let nothing = Tensor::zeros(&[b, 1, t, before.min(s)], DType::Bool, same.device())?;
    Tensor::cat(&[&nothing, &same.narrow(-1, 0, s - before.min(s))?], -1)
}

/// A key head for each query head: each repeats for H / H_kv neighbours.
pub(super) fn repeated(x: &Tensor, heads: usize) -> Result<Tensor> {
    let [b, groups, s, d] = x.dims()?;
    if groups == heads {
        return Ok(x.clone());
    }
    let each = x.unsqueeze(2)?.broadcast_to(&[b, groups, heads / groups, s, d])?;
    each.reshape(&[b as isize, heads as isize, s as isize, d as isize])
}

/// Key position minus query position, i64 `[T, S]`.
fn distances(attention: &AttentionFunction, given: &Given, chunk: Chunk) -> Result<Tensor> {
    let s = given.k.shape()[2] as i64;
    let of_row_0 = match attention.spec.causal {
        Causal::Yes(Alignment::TopLeft) => 0,
        _ => s - chunk.of as i64,
    };
    let (device, first) = (given.q.device(), of_row_0 + chunk.first as i64);
    let query = Tensor::arange(first, first + chunk.rows as i64, 1, DType::I64, device)?.unsqueeze(1)?; // [T, 1]
    Tensor::arange(0, s, 1, DType::I64, device)? - query
}

/// Bool, broadcasts to `[B, H, T, S]`; nothing where all is visible.
fn visible(attention: &AttentionFunction, given: &Given, distance: &Tensor) -> Result<Option<Tensor>> {
    let mut masks: Vec<Tensor> = given.mask.into_iter().cloned().collect();
    if attention.spec.causal != Causal::No {
        masks.push(distance.le_scalar(0)?);
    }
    if let Some(window) = attention.spec.window {
        masks.push(distance.abs()?.lt_scalar(i64::from(window))?);
    }
    let keys = || Tensor::arange(0, given.k.shape()[2] as i64, 1, DType::I64, given.k.device()); // [S]
    let of_sequences = |counts: &Tensor| counts.reshape(&[counts.count() as isize, 1, 1, 1]);
    if let Some(lengths) = given.key_lengths {
        masks.push(keys()?.lt(&of_sequences(lengths)?)?);
    }
    if let Some(starts) = given.key_starts {
        masks.push(keys()?.ge(&of_sequences(starts)?)?);
    }
    if let Some([queries, keys]) = given.segments {
        masks.push(queries.unsqueeze(1)?.unsqueeze(3)?.eq(&keys.unsqueeze(1)?.unsqueeze(1)?)?); // [B, 1, T, S]
    }
    let mut masks = masks.into_iter();
    let Some(first) = masks.next() else { return Ok(None) };
    masks.try_fold(first, |all, mask| all.logical_and(&mask)).map(Some)
}

/// Errors where an expression has a leaf that there is no value for; `counts` are those of scalars, biases and values per
/// head.
pub(super) fn check_leaves(expression: &ScoreExpr, counts: [usize; 3]) -> Result<()> {
    for leaf in expression.leaves() {
        let (what, i, count) = match leaf {
            ScoreExpr::Scalar(i) => ("scalars", *i, counts[0]),
            ScoreExpr::Bias(i) => ("biases", *i, counts[1]),
            ScoreExpr::HeadScalar(i) => ("head_scalars", *i, counts[2]),
            _ => continue,
        };
        if usize::from(i) >= count {
            return Err(Error::new(
                ErrorKind::Argument,
                OP,
                format!("the modifier names {leaf}, and there are {count} {what}"),
            )
            .help("pass a value for each leaf of the modifier; they are counted from 0"));
        }
    }
    Ok(())
}

/// A value of an expression: a number stays one as long as it can.
enum Value {
    Number(f64),
    Tensor(Tensor),
}

impl Value {
    fn tensor(self, like: &Tensor) -> Result<Tensor> {
        match self {
            Value::Number(x) => Tensor::full(like.shape(), x, like.dtype(), like.device()),
            Value::Tensor(x) => x.broadcast_to(like.shape()),
        }
    }

    fn times(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Value::Number(factor) => x.mul_scalar(factor),
            Value::Tensor(factor) => factor * x,
        }
    }

    fn map(self, number: impl FnOnce(f64) -> f64, tensor: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Value> {
        Ok(match self {
            Value::Number(x) => Value::Number(number(x)),
            Value::Tensor(x) => Value::Tensor(tensor(&x)?),
        })
    }
}

/// The expression at every score.
fn evaluate(
    attention: &AttentionFunction,
    given: &Given,
    products: &Tensor,
    distance: &Tensor,
    expression: &ScoreExpr,
) -> Result<Value> {
    let of = |expression: &ScoreExpr| evaluate(attention, given, products, distance, expression);
    Ok(match expression {
        ScoreExpr::Score => Value::Tensor(products.clone()),
        ScoreExpr::Constant(bits) => Value::Number(f64::from(f32::from_bits(*bits))),
        ScoreExpr::Scalar(i) => Value::Number(attention.scalars[usize::from(*i)]),
        ScoreExpr::Bias(i) => Value::Tensor(given.biases[usize::from(*i)].clone()),
        ScoreExpr::HeadScalar(i) => {
            let values = given.head_scalars[usize::from(*i)];
            Value::Tensor(values.reshape(&[values.count() as isize, 1, 1])?)
        }
        ScoreExpr::Distance => Value::Tensor(distance.to_dtype(products.dtype())?),
        ScoreExpr::Add(pair) => match (of(&pair.0)?, of(&pair.1)?) {
            (Value::Number(a), Value::Number(b)) => Value::Number(a + b),
            (Value::Number(c), Value::Tensor(x)) | (Value::Tensor(x), Value::Number(c)) => Value::Tensor((x + c)?),
            (Value::Tensor(a), Value::Tensor(b)) => Value::Tensor((a + b)?),
        },
        ScoreExpr::Mul(pair) => match (of(&pair.0)?, of(&pair.1)?) {
            (Value::Number(a), Value::Number(b)) => Value::Number(a * b),
            (Value::Number(c), Value::Tensor(x)) | (Value::Tensor(x), Value::Number(c)) => {
                Value::Tensor(x.mul_scalar(c)?)
            }
            (Value::Tensor(a), Value::Tensor(b)) => Value::Tensor((a * b)?),
        },
        ScoreExpr::Tanh(x) => of(x)?.map(f64::tanh, Tensor::tanh)?,
        ScoreExpr::Exp(x) => of(x)?.map(f64::exp, Tensor::exp)?,
        ScoreExpr::Abs(x) => of(x)?.map(f64::abs, Tensor::abs)?,
        ScoreExpr::Sign(x) => of(x)?.map(|x| if x == 0.0 { x } else { x.signum() }, Tensor::sign)?,
    })
}
