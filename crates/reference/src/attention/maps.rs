//! Maps of the weights, from whole matrices of them.
//!
//! ```text
//! p[t, s]    = exp(score[t, s] − lse[t])          0 where the score is −∞
//! x[t, s]    = p[t, s]                            or, with dout, p[t, s] · dropout(⟨dout[t], v[s]⟩); 0 where p is 0
//! column s   = Σ_t r[t] · x[t, s]                 diagonal j = Σ x[t, s] over s − t = j − (T − 1)
//! totals     = Σ_s x[t, s] and Σ_s |x[t, s]|
//! block y, z = mean and maximum of x[t, s] over t in y·n .., s in z·n ..
//! segments   = Σ x[t, s] over t of segment f and s of segment g
//! top        = keys by score, descending, the first of equals first
//! ```

use super::{
    At, OP,
    operands::{Problem, table},
};
use crate::{
    arithmetic::Arithmetic,
    check,
    storage::{read, shaped, store},
};
use attentia_backend::{AttentionMap, AttentionOperands, AttentionSpec, Result, View, ViewMut, rules};
use ndarray::{Array2, ArrayD};

/// Scores of a head and what is mapped, `[T, S]`.
struct Head {
    scores: Array2<f64>,
    /// Weights, or these times their gradients.
    mapped: Array2<f64>,
}

/// Writes each map.
pub(crate) fn maps(
    a: Arithmetic,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    lse: View,
    dout: Option<View>,
    maps: Vec<AttentionMap>,
) -> Result<()> {
    let problem = Problem::new(a, spec, operands)?;
    let shape @ [b, h, t, s] = problem.score_shape();
    let statistics = operands.q.dtype().statistics();
    check::shape(OP, check::operand("lse", lse), &[b, h, t])?;
    rules::dtype(OP, check::operand("lse", lse), statistics)?;
    maps.iter().try_for_each(|map| map.check(shape, statistics, dout.is_some(), check::DEVICE))?;
    let lse = read::<f64>(OP, "lse", lse)?;
    let dout: Option<ArrayD<f64>> = match dout {
        Some(dout) => {
            check::shape(OP, check::operand("dout", dout), &[b, h, t, problem.v.shape()[3]])?;
            rules::dtype(OP, check::operand("dout", dout), operands.q.dtype())?;
            Some(read(OP, "dout", dout)?.to_owned())
        }
        None => None,
    };
    let mut heads = Vec::new();
    for b in 0..b {
        for h in 0..h {
            let rows = (0..t).flat_map(|t| problem.scores(At { b, h, t }).1).collect();
            let scores = Array2::from_shape_vec((t, s), rows).map_err(crate::storage::malformed)?;
            let weight = |(t, s)| match (scores[[t, s]], lse[[b, h, t]]) {
                (f64::NEG_INFINITY, _) | (_, f64::NEG_INFINITY) => 0.0,
                (score, lse) => a.keep(libm::exp(a.keep(score - lse))),
            };
            let mut mapped = Array2::from_shape_fn((t, s), weight);
            if let Some(dout) = &dout {
                for (t, mut row) in mapped.rows_mut().into_iter().enumerate() {
                    let dout: Vec<f64> = (0..dout.shape()[3]).map(|d| dout[[b, h, t, d]]).collect();
                    for (p, dp) in row.iter_mut().zip(problem.weight_gradients(At { b, h, t }, &dout)) {
                        *p = if *p == 0.0 { 0.0 } else { a.keep(*p * dp) };
                    }
                }
            }
            heads.push(Head { scores, mapped });
        }
    }
    let of_heads = |of: &dyn Fn(usize, &Head) -> Vec<f64>| -> Vec<f64> {
        heads.iter().enumerate().flat_map(|(i, head)| of(i, head)).collect()
    };
    let put = |role, to: ViewMut, values: Vec<f64>| {
        let values = shaped(values, to.shape())?;
        store(OP, role, to, &values)
    };
    for map in maps {
        match map {
            AttentionMap::Columns { weights, mass } => {
                let rows: Option<ArrayD<f64>> = match weights {
                    Some(weights) => Some(read(OP, "row weights", weights)?.to_owned()),
                    None => None,
                };
                let of = |i: usize, head: &Head| {
                    let term = |t: usize, p: f64| rows.as_ref().map_or(p, |r| a.keep(r[[i / h, i % h, t]] * p));
                    let columns = head.mapped.columns().into_iter();
                    columns.map(|column| a.sum(column.iter().enumerate().map(|(t, p)| term(t, *p)))).collect()
                };
                put("column mass", mass, of_heads(&of))?;
            }
            AttentionMap::Totals { sum, magnitude } => {
                let of_rows = |term: &dyn Fn(f64) -> f64| {
                    of_heads(&|_, head| {
                        head.mapped.rows().into_iter().map(|row| a.sum(row.iter().map(|x| term(*x)))).collect()
                    })
                };
                put("row sum", sum, of_rows(&|x| x))?;
                put("row magnitude", magnitude, of_rows(&f64::abs))?;
            }
            AttentionMap::Diagonals { mass } => {
                let of = |_, head: &Head| {
                    let on = |j: usize| (0..t).filter_map(move |t_| Some((t_, (j + t_ + 1).checked_sub(t)?)));
                    let sum = |j| a.sum(on(j).filter_map(|place| head.mapped.get(place)).copied());
                    (0..AttentionMap::diagonals(t, s)).map(sum).collect()
                };
                put("diagonal mass", mass, of_heads(&of))?;
            }
            AttentionMap::Blocks { size, mean, greatest } => {
                let block = |head: &Head, y: usize, x: usize| -> Vec<f64> {
                    let columns = x * size..s.min((x + 1) * size);
                    let cells = |t: usize| columns.clone().map(move |s| (t, s));
                    (y * size..t.min((y + 1) * size)).flat_map(cells).map(|place| head.mapped[place]).collect()
                };
                let places = || (0..t.div_ceil(size)).flat_map(|y| (0..s.div_ceil(size)).map(move |x| (y, x)));
                let of_blocks = |of: &dyn Fn(Vec<f64>) -> f64| {
                    of_heads(&|_, head| places().map(|(y, x)| of(block(head, y, x))).collect())
                };
                let count = |p: &[f64]| p.len() as f64;
                put("block mean", mean, of_blocks(&|p| a.keep(a.sum(p.iter().copied()) / count(&p))))?;
                put("block maximum", greatest, of_blocks(&|p| p.into_iter().fold(f64::NEG_INFINITY, f64::max)))?;
            }
            AttentionMap::Segments { queries, keys, mass } => {
                let (queries, keys) = (table("query segments", queries, [b, t])?, table("key segments", keys, [b, s])?);
                let count = mass.shape()[3];
                let of = |i: usize, head: &Head| {
                    let sum = |from: usize, to: usize| {
                        let cells = head.mapped.indexed_iter().filter(|((t, s), _)| {
                            queries[[i / h, *t]] == from as i64 && keys[[i / h, *s]] == to as i64
                        });
                        a.sum(cells.map(|(_, p)| *p))
                    };
                    (0..count * count).map(|place| sum(place / count, place % count)).collect()
                };
                put("segment mass", mass, of_heads(&of))?;
            }
            AttentionMap::Top { weights, keys } => {
                let k = keys.shape()[3];
                let (mut of_weights, mut of_keys) = (Vec::new(), Vec::new());
                for head in &heads {
                    for (scores, p) in head.scores.rows().into_iter().zip(head.mapped.rows()) {
                        let mut order: Vec<usize> = (0..s).filter(|&s| scores[s] > f64::NEG_INFINITY).collect();
                        order.sort_by(|&x, &y| scores[y].total_cmp(&scores[x]));
                        of_weights.extend((0..k).map(|i| order.get(i).map_or(0.0, |&s| p[s])));
                        of_keys.extend((0..k).map(|i| order.get(i).map_or(-1, |&s| s as i64)));
                    }
                }
                let of_keys = shaped(of_keys, keys.shape())?;
                put("top weights", weights, of_weights)?;
                store(OP, "top keys", keys, &of_keys)?;
            }
            AttentionMap::Rows { queries, weights } => {
                let of = |_, head: &Head| queries.iter().flat_map(|&t| head.mapped.row(t).to_vec()).collect();
                put("rows", weights, of_heads(&of))?;
            }
        }
    }
    Ok(())
}
