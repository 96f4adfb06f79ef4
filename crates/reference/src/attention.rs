//! Attention, one row of the score matrix at a time.
//!
//! ```text
//! for each batch b, head h, query t:                            q: [B, H, T, D]   k: [B, H', S, D]   v: [B, H', S, D_v]
//!     score_s  = scale · ⟨q[b, h, t], k[b, h', s]⟩              h' = h · H' / H: grouped queries share a key head
//!     score_s  = modifier(score_s, biases, scalars, distance)   distance = s − i, i the position of the query
//!     score_s += each bias[b, h, t, s] that the modifier does not name
//!     score_s  = −∞ where s is hidden from t
//!     p        = masked_softmax(score)                          lse = ln Σ exp(score)
//!     out      = Σ_s dropout(p_s) · v[b, h', s]
//! ```
//!
//! A sink is one score more, behind those of the keys, whose weight goes nowhere.
//!
//! The position of query t among the keys is `i = t`, or `i = t + S − T` when the last query stands at the last key.
//! Without causality the latter holds too, for windows, [`ScoreExpr::Distance`] and the mean distance.
//!
//! A row without a finite or NaN score gives zeros, `lse = −∞` (or the sink), and statistics of 0.

mod backward;
mod maps;
mod operands;

pub(crate) use backward::backward;
pub(crate) use maps::maps;
use operands::Problem;

use crate::{
    arithmetic::Arithmetic,
    check,
    dropout::Gate,
    reduce::extreme,
    softmax::masked_softmax_row,
    storage::{shaped, store},
};
use attentia_backend::{
    Alignment, ArgReduce, AttentionOperands, AttentionOut, AttentionSpec, Causal, DType, Result, ScoreExpr, Statistic,
    rules,
};

const OP: &str = "attention";

/// Output, log-sum-exp and statistics.
pub(crate) fn forward(
    a: Arithmetic,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    destinations: AttentionOut,
) -> Result<()> {
    let problem = Problem::new(a, spec, operands)?;
    let [b, h, t, _] = problem.score_shape();
    let AttentionOut { out, lse, statistics } = destinations;
    let out_shape = [b, h, t, problem.v.shape()[3]];
    check::shape(OP, check::destination("out", &out), &out_shape)?;
    check::result(OP, check::destination("out", &out), operands.q.dtype())?;
    check::shape(OP, check::destination("lse", &lse), &[b, h, t])?;
    rules::dtype(OP, check::destination("lse", &lse), operands.q.dtype().statistics())?;
    check::argument(OP, statistics.len() == spec.statistics.len(), || {
        format!("{} destinations for {} statistics", statistics.len(), spec.statistics.len())
    })?;

    let (mut outputs, mut lses) = (Vec::new(), Vec::new());
    let mut values = vec![Vec::new(); statistics.len()];
    for at in problem.rows() {
        let row = problem.row(at);
        outputs.extend(problem.output(at, &row));
        lses.push(row.lse);
        for (statistic, values) in spec.statistics.iter().zip(&mut values) {
            values.push(problem.statistic(*statistic, at, &row));
        }
    }
    store(OP, "out", out, &shaped(outputs, &out_shape)?)?;
    store(OP, "lse", lse, &shaped(lses, &[b, h, t])?)?;
    for ((statistic, values), to) in spec.statistics.iter().zip(values).zip(statistics) {
        let values = shaped(values, &[b, h, t])?;
        // A position may be stored as an integer.
        match *statistic == Statistic::ArgMax && to.dtype() == DType::I64 {
            true => store(OP, "statistic", to, &values.mapv(|s| s as i64))?,
            false => store(OP, "statistic", to, &values)?,
        }
    }
    Ok(())
}

/// Batch, head and query.
#[derive(Clone, Copy, Debug)]
struct At {
    b: usize,
    h: usize,
    t: usize,
}

/// One row of the score matrix.
struct Row {
    /// `scale · ⟨q, k_s⟩`: what the modifier calls `Score`.
    products: Vec<f64>,
    /// p: normalised, before dropout; 0 where hidden.
    weights: Vec<f64>,
    /// What the sink has taken of them; 0 without one.
    sink: f64,
    /// `ln Σ exp(score)`, −∞ when there is nothing to attend to and no sink.
    lse: f64,
}

impl Problem<'_> {
    /// Every row, in row-major order.
    fn rows(&self) -> impl Iterator<Item = At> + use<> {
        let [heads, queries] = [self.q.shape()[1], self.q.shape()[2]];
        let count = self.q.shape()[0] * heads * queries;
        (0..count).map(move |row| At { b: row / queries / heads, h: row / queries % heads, t: row % queries })
    }

    /// The key head that a query head reads.
    fn key_head(&self, h: usize) -> usize {
        h * self.k.shape()[1] / self.q.shape()[1]
    }

    /// Key position minus query position.
    fn distance(&self, t: usize, s: usize) -> i64 {
        let [_, _, queries, keys] = self.score_shape();
        let first = match self.spec.causal {
            Causal::Yes(Alignment::TopLeft) => 0,
            Causal::Yes(Alignment::BottomRight) | Causal::No => keys as i64 - queries as i64,
        };
        s as i64 - (first + t as i64)
    }

    /// Whether query t may attend to key s.
    fn visible(&self, At { b, h, t }: At, s: usize) -> bool {
        let distance = self.distance(t, s);
        let past = self.spec.causal == Causal::No || distance <= 0;
        let near = self.spec.window.is_none_or(|w| distance.unsigned_abs() < u64::from(w));
        let real = self.key_lengths.is_none_or(|lengths| (s as i64) < lengths[b]);
        let begun = self.key_starts.is_none_or(|starts| (s as i64) >= starts[b]);
        let own = self.segments.is_none_or(|[queries, keys]| queries[[b, t]] == keys[[b, s]]);
        let allowed = self.mask.is_none_or(|mask| mask[[b, h, t, s]] != 0);
        past && near && real && begun && own && allowed
    }

    /// Scores and weights of a row.
    fn row(&self, at: At) -> Row {
        let (products, mut scores) = self.scores(at);
        scores.extend(self.sinks.map(|sinks| sinks[at.h]));
        let (mut weights, lse) = masked_softmax_row(self.arithmetic, &scores);
        let sink = weights.split_off(products.len()).first().copied().unwrap_or(0.0);
        Row { products, weights, sink, lse }
    }

    /// Products of a row, and scores; −∞ where hidden.
    fn scores(&self, at: At) -> (Vec<f64>, Vec<f64>) {
        let a = self.arithmetic;
        let keys = 0..self.k.shape()[2];
        let products: Vec<f64> = keys.clone().map(|s| self.product(at, s)).collect();
        let score = |s: usize| {
            if !self.visible(at, s) {
                return f64::NEG_INFINITY;
            }
            let modified = match &self.spec.modifier {
                Some(modifier) => a.keep(self.evaluate(modifier, at, s, products[s])),
                None => products[s],
            };
            let added = self.biases.iter().zip(&self.named).filter(|(_, named)| !**named);
            added.fold(modified, |score, (bias, _)| a.keep(score + bias[[at.b, at.h, at.t, s]]))
        };
        let scores: Vec<f64> = keys.map(score).collect();
        (products, scores)
    }

    fn product(&self, at: At, s: usize) -> f64 {
        let a = self.arithmetic;
        let (query, key) = (self.query(at), self.key(at.b, self.key_head(at.h), s));
        a.keep(a.dot(query, key) * a.keep(self.scale))
    }

    /// The value of an expression at (query, key), with the value of `Score`.
    fn evaluate(&self, expression: &ScoreExpr, At { b, h, t }: At, s: usize, score: f64) -> f64 {
        // Every leaf with a number has been checked to name an operand.
        expression.evaluate(&|leaf| match leaf {
            ScoreExpr::Score => score,
            ScoreExpr::Bias(i) => self.biases[*i as usize][[b, h, t, s]],
            ScoreExpr::Scalar(i) => self.scalars[*i as usize],
            ScoreExpr::HeadScalar(i) => self.head_scalars[*i as usize][h],
            _ => self.distance(t, s) as f64,
        })
    }

    /// The weights after dropout.
    fn dropped(&self, at: At, weights: &[f64]) -> Vec<f64> {
        let gate = self.dropout.map(|dropout| Gate::new(self.arithmetic, &dropout));
        let row = self.stream_row(at);
        let apply = |(s, &p): (usize, &f64)| gate.as_ref().map_or(p, |gate| gate.apply(p, row, s as u64));
        weights.iter().enumerate().map(apply).collect()
    }

    /// The row of the dropout stream: `(b · H + h) · T + t`.
    fn stream_row(&self, At { b, h, t }: At) -> u64 {
        let [_, heads, queries, _] = self.score_shape();
        ((b * heads + h) * queries + t) as u64
    }

    /// `Σ_s dropout(p_s) · v_s`. A key of weight 0 adds nothing, whatever its value.
    fn output(&self, at: At, row: &Row) -> Vec<f64> {
        let weights = self.dropped(at, &row.weights);
        let mut out = vec![0.0; self.v.shape()[3]];
        for (s, weight) in weights.into_iter().enumerate().filter(|(_, weight)| *weight != 0.0) {
            for (out, v) in out.iter_mut().zip(self.value(at.b, self.key_head(at.h), s)) {
                *out = self.arithmetic.add(*out, weight * v);
            }
        }
        out
    }

    fn statistic(&self, statistic: Statistic, at: At, row: &Row) -> f64 {
        let (a, p) = (self.arithmetic, &row.weights);
        if p.iter().all(|p| *p == 0.0) {
            return 0.0;
        }
        let distance = |s: usize| self.distance(at.t, s).unsigned_abs() as f64;
        let mean = |of: &dyn Fn(usize) -> f64| a.sum(p.iter().enumerate().map(|(s, p)| a.keep(p * of(s))));
        let mass = |of: &dyn Fn(usize) -> bool| a.sum(p.iter().enumerate().filter(|(s, _)| of(*s)).map(|(_, p)| *p));
        match statistic {
            Statistic::Entropy => self.entropy(p),
            Statistic::EffectiveKeys => a.keep(libm::exp(self.entropy(p))),
            Statistic::MaxWeight => p[extreme(ArgReduce::Max, p)],
            Statistic::ArgMax => extreme(ArgReduce::Max, p) as f64,
            Statistic::MeanDistance => mean(&distance),
            Statistic::MeanLogDistance => mean(&|s| a.keep(libm::log2(1.0 + distance(s)))),
            Statistic::SinkMass(keys) => mass(&|s| s < keys as usize),
            Statistic::SelfMass => mass(&|s| self.distance(at.t, s) == 0),
            Statistic::PreviousMass => mass(&|s| self.distance(at.t, s) == -1),
            Statistic::NextMass => mass(&|s| self.distance(at.t, s) == 1),
            Statistic::DuplicateMass => mass(&|s| self.distance(at.t, s) < 0 && self.same_token(at, s)),
            Statistic::InductionMass => {
                mass(&|s| self.distance(at.t, s) <= 0 && s.checked_sub(1).is_some_and(|s| self.same_token(at, s)))
            }
        }
    }

    /// `−Σ p ln p`, where 0 · ln 0 is 0 in the limit.
    fn entropy(&self, p: &[f64]) -> f64 {
        let a = self.arithmetic;
        -a.sum(p.iter().filter(|p| **p != 0.0).map(|p| a.keep(p * a.keep(libm::log(*p)))))
    }

    /// Whether key s has the query's token.
    fn same_token(&self, At { b, t, .. }: At, s: usize) -> bool {
        self.tokens.as_ref().is_some_and(|tokens| tokens.keys[[b, s]] == tokens.queries[[b, t]])
    }
}

#[cfg(test)]
mod tests;
