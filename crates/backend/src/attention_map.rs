//! A second look at the weights of an attention: its columns, diagonals and blocks, and rows that somebody asks for.
//!
//! ```text
//! p[b, h, t, s]  = exp(score − lse[b, h, t])        0 where the key is hidden, and in a row that sees nothing
//! x = p                                             maps of weights
//!
//! dp[b, h, t, s] = dropout(⟨dout[b, h, t], v[b, h', s]⟩)      the gradient of a loss by p, from that by the output
//! x = p · dp                                        maps of weights times their gradients; 0 where p is 0
//! ```
//!
//! The forward keeps no weights. They are computed again from q, k and the `lse` that it left, tile by tile, and added up
//! as they come: memory grows with T + S and with what is asked for. Weights are those before dropout; without `dout` values
//! are not read.

use crate::{
    DType, Error, ErrorKind, Result, View, ViewMut,
    rules::{self, Meta},
};

const OP: &str = "attention_maps";

/// What is to be known of `x [B, H, T, S]`, the weights or these times their gradients, and where it goes. Destinations of
/// floats have the dtype [`DType::statistics`] of q.
#[derive(Debug)]
pub enum AttentionMap<'a> {
    /// `Σ_t r · x`: what each key receives.
    Columns {
        /// r `[B, H, T]`, dtype [`DType::statistics`]; 1 when it is left out.
        weights: Option<View<'a>>,
        /// `[B, H, S]`
        mass: ViewMut<'a>,
    },
    /// `Σ_s x` and `Σ_s |x|`: what all keys of a query come to.
    Totals {
        /// `[B, H, T]`
        sum: ViewMut<'a>,
        /// `[B, H, T]`
        magnitude: ViewMut<'a>,
    },
    /// `Σ x` of all pairs that are equally far apart.
    Diagonals {
        /// `[B, H, T + S − 1]`, nothing without queries or keys: place j has the pairs with `s − t = j − (T − 1)`.
        mass: ViewMut<'a>,
    },
    /// Mean and maximum of x over blocks of queries and keys. Those at the end may be smaller; hidden keys count as 0.
    Blocks {
        /// n, at least 1.
        size: usize,
        /// `[B, H, ⌈T/n⌉, ⌈S/n⌉]`
        mean: ViewMut<'a>,
        /// `[B, H, ⌈T/n⌉, ⌈S/n⌉]`
        greatest: ViewMut<'a>,
    },
    /// `Σ x` from the queries of a segment to the keys of a segment. An id outside of `0..G` belongs to no segment.
    Segments {
        /// i64 `[B, T]`
        queries: View<'a>,
        /// i64 `[B, S]`
        keys: View<'a>,
        /// `[B, H, G, G]`: from, to.
        mass: ViewMut<'a>,
    },
    /// The keys of the greatest scores of each row, the greatest first, of equal ones the first key first. Where fewer keys
    /// are visible, the rest has weight 0 and key −1. Of weights alone: it orders by scores, which say nothing of gradients.
    Top {
        /// `[B, H, T, k]`, k of 1 to [`AttentionMap::MOST`].
        weights: ViewMut<'a>,
        /// i64 `[B, H, T, k]`
        keys: ViewMut<'a>,
    },
    /// Whole rows of some queries.
    Rows {
        /// Which, in any order, R of them.
        queries: &'a [usize],
        /// `[B, H, R, S]`
        weights: ViewMut<'a>,
    },
}

impl AttentionMap<'_> {
    /// The most keys of a row that [`AttentionMap::Top`] gives.
    pub const MOST: usize = 32;

    /// Places of [`AttentionMap::Diagonals`].
    pub fn diagonals(queries: usize, keys: usize) -> usize {
        if queries == 0 || keys == 0 { 0 } else { queries + keys - 1 }
    }

    /// Errors where operands or destinations do not fit scores `[B, H, T, S]`; for backends, before they compute.
    /// `statistics` is the dtype of floats, `gradients` whether weights are multiplied by theirs, `device` the name of the
    /// backend.
    pub fn check(&self, scores: [usize; 4], statistics: DType, gradients: bool, device: &str) -> Result<()> {
        let [b, h, t, s] = scores;
        let is = |meta: Meta, dtype: DType, shape: &[usize]| {
            rules::dtype(OP, meta, dtype)?;
            if meta.layout.shape().as_slice() == shape {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Shape, OP, format!("{} has another shape", meta.role))
                .operand(meta.operand().expected(format!("{shape:?}"))))
        };
        let read = |role, x: &View, dtype, shape: &[usize]| {
            is(Meta { role, layout: x.layout(), dtype: x.dtype(), device }, dtype, shape)
        };
        let write = |role, x: &ViewMut, dtype, shape: &[usize]| {
            is(Meta { role, layout: x.layout(), dtype: x.dtype(), device }, dtype, shape)
        };
        let argument = |what: String, help: String| Err(Error::new(ErrorKind::Argument, OP, what).help(help));
        match self {
            AttentionMap::Columns { weights, mass } => {
                if let Some(weights) = weights {
                    read("row weights", weights, statistics, &[b, h, t])?;
                }
                write("column mass", mass, statistics, &[b, h, s])
            }
            AttentionMap::Totals { sum, magnitude } => {
                write("row sum", sum, statistics, &[b, h, t])?;
                write("row magnitude", magnitude, statistics, &[b, h, t])
            }
            AttentionMap::Diagonals { mass } => {
                write("diagonal mass", mass, statistics, &[b, h, AttentionMap::diagonals(t, s)])
            }
            AttentionMap::Blocks { size: 0, .. } => {
                argument("blocks of 0 queries and keys".to_owned(), "a size of at least 1, often 64 or more".to_owned())
            }
            AttentionMap::Blocks { size, mean, greatest } => {
                let shape = [b, h, t.div_ceil(*size), s.div_ceil(*size)];
                write("block mean", mean, statistics, &shape)?;
                write("block maximum", greatest, statistics, &shape)
            }
            AttentionMap::Segments { queries, keys, mass } => {
                read("query segments", queries, DType::I64, &[b, t])?;
                read("key segments", keys, DType::I64, &[b, s])?;
                let count = mass.shape().last().copied().unwrap_or(0);
                write("segment mass", mass, statistics, &[b, h, count, count])
            }
            AttentionMap::Top { .. } if gradients => argument(
                "the greatest keys of weights times their gradients".to_owned(),
                "they are ordered by scores: ask for them without dout, and for totals or whole rows with it"
                    .to_owned(),
            ),
            AttentionMap::Top { weights, keys } => {
                let k = keys.shape().last().copied().unwrap_or(0);
                write("top keys", keys, DType::I64, &[b, h, t, k])?;
                write("top weights", weights, statistics, &[b, h, t, k])?;
                match k {
                    1..=AttentionMap::MOST => Ok(()),
                    _ => argument(
                        format!("{k} keys of each row"),
                        format!("1 to {}; ask for whole rows of some queries instead", AttentionMap::MOST),
                    ),
                }
            }
            AttentionMap::Rows { queries, weights } => {
                if let Some(query) = queries.iter().find(|&&query| query >= t) {
                    return argument(format!("the row of query {query}"), format!("there are {t} queries, from 0 on"));
                }
                write("rows", weights, statistics, &[b, h, queries.len(), s])
            }
        }
    }
}
