//! Gradients of attention, one row of the score matrix at a time.
//!
//! ```text
//! w  = dropout(p)                             dv[b, h', s] += w_s · dout
//! dp = dropout(⟨dout, v_s⟩)                   the same elements dropped, the others scaled alike
//! ds = p · (dp − Σ_s p_s · dp_s) + dlse · p   softmax, and ∂lse/∂score_s = p_s
//! dz = ds · ∂modifier/∂score
//! dq[b, h, t]  += scale · dz_s · k[b, h', s]
//! dk[b, h', s] += scale · dz_s · q[b, h, t]
//! dbias        += ds · ∂modifier/∂bias        or ds, for a bias that the modifier does not name
//! dvalue[h]    += ds · ∂modifier/∂value       for the values of each head
//! dsink[h]     += ds of the sink: a score without a modifier, whose dp is 0
//! ```
//!
//! The weights are computed again from q and k. What the forward saved is an approximation of them in the operands'
//! precision, and an oracle that started from it would inherit its error.
//!
//! A key of weight 0 (hidden, or with a score of −∞) gets and gives no gradient.

use super::{At, OP, operands::Problem};
use crate::{
    arithmetic::Arithmetic,
    check,
    softmax::masked_softmax_row_backward,
    storage::{read, shaped, store},
};
use attentia_backend::{
    AttentionCotangents, AttentionGrads, AttentionOperands, AttentionSaved, AttentionSpec, Layout, Result, ScoreExpr,
    Shape, View, ViewMut, rules,
};
use ndarray::{ArrayD, ArrayViewD};

/// Writes each gradient that is wanted. That of a bias may have any shape that broadcasts to `[B, H, T, S]`: it is
/// summed over the axes that the bias repeats.
pub(crate) fn backward(
    a: Arithmetic,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    saved: &AttentionSaved,
    cotangents: &AttentionCotangents,
    grads: AttentionGrads,
) -> Result<()> {
    let problem = Problem::new(a, spec, operands)?;
    let [b, h, t, s] = problem.score_shape();
    let out_shape = [b, h, t, problem.v.shape()[3]];
    check::shape(OP, check::operand("saved out", saved.out), &out_shape)?;
    check::shape(OP, check::operand("saved lse", saved.lse), &[b, h, t])?;
    check::argument(OP, [0, operands.biases.len()].contains(&grads.biases.len()), || {
        format!("{} gradients for {} biases", grads.biases.len(), operands.biases.len())
    })?;
    check::argument(OP, [0, operands.head_scalars.len()].contains(&grads.head_scalars.len()), || {
        format!("{} gradients for {} head scalars", grads.head_scalars.len(), operands.head_scalars.len())
    })?;
    let heads = |target: &Option<ViewMut>| {
        let Some(target) = target else { return Ok(None) };
        check::shape(OP, check::destination("dhead_scalar", target), &[h])?;
        zeros(target.shape()).map(Some)
    };
    let mut sums = Sums {
        q: zeros(operands.q.shape())?,
        k: zeros(operands.k.shape())?,
        v: zeros(operands.v.shape())?,
        biases: grads.biases.iter().map(|g| bias_zeros(g.as_ref(), [b, h, t, s])).collect::<Result<_>>()?,
        head_scalars: grads.head_scalars.iter().map(heads).collect::<Result<_>>()?,
        sinks: match &grads.sinks {
            Some(target) => {
                check::argument(OP, spec.sinks, || "a gradient of sinks is wanted, and there are none".to_owned())?;
                check::shape(OP, check::destination("dsinks", target), &[h])?;
                Some(zeros(target.shape())?)
            }
            None => None,
        },
    };
    let slopes = Slopes::new(spec, operands);
    let dout = cotangents.out.map(|x| cotangent("d(out)", x, &out_shape)).transpose()?;
    let dlse = cotangents.lse.map(|x| cotangent("d(lse)", x, &[b, h, t])).transpose()?;
    for at in problem.rows() {
        let dout: Vec<f64> = match &dout {
            Some(dout) => (0..out_shape[3]).map(|d| dout[[at.b, at.h, at.t, d]]).collect(),
            None => vec![0.0; out_shape[3]],
        };
        let dlse = dlse.as_ref().map_or(0.0, |dlse| dlse[[at.b, at.h, at.t]]);
        problem.row_backward(at, &dout, dlse, &slopes, &mut sums);
    }
    for (role, target, sum) in [("dq", grads.q, sums.q), ("dk", grads.k, sums.k), ("dv", grads.v, sums.v)] {
        target.map_or(Ok(()), |target| store(OP, role, target, &sum))?;
    }
    let biases = grads.biases.into_iter().zip(sums.biases).map(|of| ("dbias", of));
    let heads = grads.head_scalars.into_iter().zip(sums.head_scalars).map(|of| ("dhead_scalar", of));
    for (role, (target, sum)) in biases.chain(heads).chain([("dsinks", (grads.sinks, sums.sinks))]) {
        if let (Some(target), Some(sum)) = (target, sum) {
            store(OP, role, target, &sum)?;
        }
    }
    Ok(())
}

/// The gradients as far as they have been added up.
struct Sums {
    q: ArrayD<f64>,
    k: ArrayD<f64>,
    v: ArrayD<f64>,
    biases: Vec<Option<ArrayD<f64>>>,
    head_scalars: Vec<Option<ArrayD<f64>>>,
    sinks: Option<ArrayD<f64>>,
}

/// Derivatives of the modifier; without one it is the score itself.
struct Slopes {
    score: ScoreExpr,
    biases: Vec<ScoreExpr>,
    head_scalars: Vec<ScoreExpr>,
}

impl Slopes {
    fn new(spec: &AttentionSpec, operands: &AttentionOperands) -> Slopes {
        let slope = |leaf| spec.modifier.as_ref().map_or(ScoreExpr::constant(1.0), |m| m.derivative(&leaf));
        let biases = (0..operands.biases.len()).map(|i| slope(ScoreExpr::Bias(i as u8)));
        let heads = (0..operands.head_scalars.len()).map(|i| match &spec.modifier {
            Some(modifier) => modifier.derivative(&ScoreExpr::HeadScalar(i as u8)),
            None => ScoreExpr::constant(0.0),
        });
        Slopes { score: slope(ScoreExpr::Score), biases: biases.collect(), head_scalars: heads.collect() }
    }
}

impl Problem<'_> {
    /// `dp` of a row: the gradient by its weights, from that by its output.
    pub(super) fn weight_gradients(&self, at: At, dout: &[f64]) -> Vec<f64> {
        let key_head = self.key_head(at.h);
        let keys = 0..self.k.shape()[2];
        let dw: Vec<f64> = keys.map(|s| self.arithmetic.dot(dout, self.value(at.b, key_head, s))).collect();
        self.dropped(at, &dw)
    }

    fn row_backward(&self, at: At, dout: &[f64], dlse: f64, slopes: &Slopes, sums: &mut Sums) {
        let a = self.arithmetic;
        let row = self.row(at);
        let At { b, h, t } = at;
        let key_head = self.key_head(h);
        for (s, weight) in self.dropped(at, &row.weights).into_iter().enumerate() {
            if weight != 0.0 {
                for (d, cotangent) in dout.iter().enumerate() {
                    add_to(a, &mut sums.v, &[b, key_head, s, d], weight * cotangent);
                }
            }
        }
        let dp = self.weight_gradients(at, dout);
        // The sink as the last score, with a value of nothing.
        let [weights, dp] = [(row.weights.as_slice(), row.sink), (dp.as_slice(), 0.0)]
            .map(|(keys, sink)| keys.iter().copied().chain([sink]).collect::<Vec<f64>>());
        let ds = masked_softmax_row_backward(a, &weights, &dp);
        if let (Some(sum), true) = (&mut sums.sinks, row.sink != 0.0) {
            add_to(a, sum, &[h], a.keep(ds[row.weights.len()] + a.keep(dlse * row.sink)));
        }
        for (s, &p) in row.weights.iter().enumerate().filter(|(_, p)| **p != 0.0) {
            let ds = a.keep(ds[s] + a.keep(dlse * p));
            let slope = |expression: &ScoreExpr| a.keep(self.evaluate(expression, at, s, row.products[s]));
            for (i, sum) in sums.biases.iter_mut().enumerate() {
                let Some(sum) = sum else { continue };
                let term = if self.named[i] { a.keep(ds * slope(&slopes.biases[i])) } else { ds };
                let place = repeated(&[b, h, t, s], sum.shape());
                add_to(a, sum, &place, term);
            }
            for (sum, derivative) in sums.head_scalars.iter_mut().zip(&slopes.head_scalars) {
                let Some(sum) = sum else { continue };
                add_to(a, sum, &[h], a.keep(ds * slope(derivative)));
            }
            let dz = a.keep(a.keep(ds * slope(&slopes.score)) * a.keep(self.scale));
            for (d, (q, k)) in self.query(at).zip(self.key(b, key_head, s)).enumerate() {
                add_to(a, &mut sums.q, &[b, h, t, d], dz * k);
                add_to(a, &mut sums.k, &[b, key_head, s, d], dz * q);
            }
        }
    }
}

fn add_to(a: Arithmetic, sum: &mut ArrayD<f64>, place: &[usize], term: f64) {
    sum[place] = a.add(sum[place], term);
}

/// Where an element of the scores lies in a tensor that broadcasts to them.
fn repeated(at: &[usize; 4], shape: &[usize]) -> Vec<usize> {
    let at = &at[4 - shape.len()..];
    at.iter().zip(shape).map(|(&i, &extent)| if extent == 1 { 0 } else { i }).collect()
}

fn zeros(shape: &Shape) -> Result<ArrayD<f64>> {
    shaped(vec![0.0; shape.count()], shape)
}

fn bias_zeros(target: Option<&ViewMut>, scores: [usize; 4]) -> Result<Option<ArrayD<f64>>> {
    let Some(target) = target else { return Ok(None) };
    // Checked on a layout of the same shape: a bias that does not broadcast has no gradient either.
    let shape = target.shape();
    let meta = rules::Meta { layout: &Layout::contiguous(*shape), ..check::destination("dbias", target) };
    rules::broadcast_to(meta, &Shape::new(&scores)?)?;
    zeros(shape).map(Some)
}

fn cotangent<'a>(role: &'static str, x: View<'a>, shape: &[usize]) -> Result<ArrayViewD<'a, f64>> {
    check::shape(OP, check::operand(role, x), shape)?;
    read(OP, role, x)
}
