//! Maps of attention weights: what keys, distances, blocks and segments receive, the greatest keys, whole rows.
//!
//! ```text
//! attention.run()          lse [B, H, T] stays, the weights [B, H, T, S] were never in memory
//! attention.maps(lse, …)   p = exp(score − lse) again, tile by tile, added up where it belongs
//! attention.gradient_maps(lse, dout, …)                    the same of p · dp, dp = dropout(dout vᵀ); in gradients.rs
//! ```
//!
//! A kernel computes them where the device has one and nothing is recorded. Where a gradient is wanted they are composed from
//! primitives, in chunks of query rows; the composition normalises the scores itself, so that gradients are those of weights
//! that sum to 1, whether the `lse` that is given carries a gradient or not.

mod compose;
mod gradients;

use super::{Attention, AttentionFunction, Fallback, OP, shaped};
use crate::{Data, Tensor, fused::kernels_enabled, graph::records, tensor::same_device};
use attentia_backend::{AttentionMap, DType, Error, ErrorKind, Result, Shape, Support, rules};

/// What is to be known of the weights `p [B, H, T, S]` of an attention, before dropout; see [`Attention::maps`]. Of
/// [`Attention::gradient_maps`], p stands for the weights times their gradients.
///
/// Floats are of [`DType::statistics`] of q. A key that is hidden has weight 0, and so have all keys of a query that sees
/// none.
#[derive(Clone, Copy, Debug)]
pub enum WeightMap<'a> {
    /// What each key receives, `Σ_t r · p`: `[B, H, S]`.
    Columns {
        /// r, `[B, H, T]` of the result's dtype; 1 where it is left out.
        weights: Option<&'a Tensor>,
    },
    /// What all keys of a query come to, `Σ_s p` and `Σ_s |p|`: two of `[B, H, T]`. Of weights alone 1 where a key is
    /// visible and there is no sink; of weights times their gradients, which have both signs, what they come to and how
    /// much of it cancels.
    Totals,
    /// What each distance receives: `[B, H, T + S − 1]`, where place j adds up the pairs with `s − t = j − (T − 1)`.
    /// Nothing without queries or keys.
    Diagonals,
    /// Mean and maximum over blocks of `size` queries and as many keys: two of `[B, H, ⌈T/n⌉, ⌈S/n⌉]`.
    Blocks {
        /// n, at least 1.
        size: usize,
    },
    /// What the queries of a segment give to the keys of a segment: `[B, H, G, G]`, from and to.
    Segments {
        /// i64 `[B, T]`; an id outside of `0..G` belongs to no segment.
        queries: &'a Tensor,
        /// i64 `[B, S]`
        keys: &'a Tensor,
        /// G.
        count: usize,
    },
    /// Weights and keys (i64) of the `k` greatest scores of each row, the greatest first, of equal ones the first key first:
    /// two of `[B, H, T, k]`. Where fewer keys are visible the rest has weight 0 and key −1. Not of gradients.
    Top {
        /// 1 to 32.
        k: usize,
    },
    /// Whole rows of some queries: `[B, H, R, S]`.
    Rows {
        /// Which, in any order.
        queries: &'a [usize],
    },
}

impl Attention<'_> {
    /// Maps of the weights of an attention that has been run, from the `lse` that it returned: one pass over q and k for
    /// all of them, without a score matrix. Each gives one tensor or two, in its place.
    ///
    /// Values, dropout and statistics of the call do not matter.
    ///
    /// Gradients flow to q, k, biases and values per head: where one is wanted the maps are composed from primitives, with
    /// scores in memory ([`Attention::CHUNK_BYTES`]), else a kernel computes them where the device has one. Keys carry no
    /// gradient, and of equal maxima of a block each gets its share.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{Attention, DType, RngKey, Tensor, WeightMap};
    /// let x = Tensor::randn(RngKey::new(1), &[1, 2, 6, 4], DType::F32, &device)?; // [B, H, T, D]
    /// let attention = Attention::new(&x, &x, &x);
    /// let lse = attention.run()?.lse;
    /// let maps = attention.maps(&lse, &[WeightMap::Blocks { size: 4 }, WeightMap::Top { k: 3 }])?;
    /// let [mean, greatest] = &maps[0][..] else { unreachable!() };
    /// assert_eq!((mean.dims()?, greatest.dims()?), ([1, 2, 2, 2], [1, 2, 2, 2]));
    /// assert_eq!(maps[1][1].dims()?, [1, 2, 6, 3]); // keys of the three greatest weights
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When operands disagree; when [`Fallback::Deny`] forbids to compose what no kernel serves or gradients are wanted of.
    pub fn maps(&self, lse: &Tensor, maps: &[WeightMap]) -> Result<Vec<Vec<Tensor>>> {
        self.of_weights().mapped(lse, None, maps)
    }

    /// Which kernel [`maps`](Self::maps) would take where nothing is recorded, or why it would compose them.
    pub fn explain_maps(&self) -> Result<Support> {
        let call = self.of_weights();
        call.maps_support(&call.function()?, &call.inputs(), false)
    }

    /// What each key receives: `Σ_t r · p`, `[B, H, S]`. `weights` are r, `[B, H, T]`; 1 if left out. Without them a key
    /// that all T queries look at, and at nothing else, has T.
    ///
    /// With weights of the queries it is a step of attention rollout (Abnar and Zuidema, 2020) from some of them back to
    /// the keys. Gradients flow; see [`maps`](Self::maps).
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{Alignment, Attention, Causal, DType, Tensor};
    /// let x = Tensor::zeros(&[1, 1, 2, 4], DType::F64, &device)?; // [B, H, T, D]
    /// let attention = Attention { causal: Causal::Yes(Alignment::TopLeft), ..Attention::new(&x, &x, &x) };
    /// let mass = attention.column_mass(&attention.run()?.lse, None)?;
    /// assert_eq!(mass.to_vec::<f64>()?, [1.5, 0.5]); // rows [1, 0] and [½, ½]
    /// # Ok(())
    /// # }
    /// ```
    pub fn column_mass(&self, lse: &Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
        self.one(lse, WeightMap::Columns { weights })
    }

    /// What each distance receives: `[B, H, T + S − 1]`, where place j adds up the pairs with `s − t = j − (T − 1)`.
    ///
    /// In self-attention place `T − 1` has what queries give to their own position, `T − 2` what they give to the previous
    /// one.
    pub fn diagonal_mass(&self, lse: &Tensor) -> Result<Tensor> {
        self.one(lse, WeightMap::Diagonals)
    }

    /// Mean and maximum of the weights over blocks of `size` queries and as many keys, `[B, H, ⌈T/n⌉, ⌈S/n⌉]` each: a
    /// picture of any length, in which the maximum shows the needle that the mean hides. Hidden keys count as 0, and blocks
    /// at the end may be smaller.
    pub fn block_map(&self, lse: &Tensor, size: usize) -> Result<[Tensor; 2]> {
        self.some(lse, WeightMap::Blocks { size })
    }

    /// What the queries of each segment give to the keys of each segment, `[B, H, G, G]`: documents, speakers, image and
    /// text. Ids are i64, `[B, T]` of queries and `[B, S]` of keys; one outside of `0..count` belongs to no segment.
    pub fn segment_mass(&self, lse: &Tensor, queries: &Tensor, keys: &Tensor, count: usize) -> Result<Tensor> {
        self.one(lse, WeightMap::Segments { queries, keys, count })
    }

    /// Weights and keys of the `k` greatest scores of each query, the greatest first: `[B, H, T, k]` each, keys i64. Of equal
    /// ones the first key comes first; where fewer keys are visible the rest has weight 0 and key −1. k is 1 to 32.
    pub fn top_keys(&self, lse: &Tensor, k: usize) -> Result<[Tensor; 2]> {
        self.some(lse, WeightMap::Top { k })
    }

    /// Whole rows of weights of some queries, `[B, H, R, S]`, at the cost of these queries alone.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{Attention, DType, RngKey, Tensor};
    /// let x = Tensor::randn(RngKey::new(1), &[1, 2, 6, 4], DType::F64, &device)?; // [B, H, T, D]
    /// let attention = Attention::new(&x, &x, &x);
    /// let rows = attention.weight_rows(&attention.run()?.lse, &[5, 0])?; // [1, 2, 2, 6]
    /// let off = (rows.sum(&[-1], false)? - 1.0)?.abs()?.max_all()?.item::<f64>()?;
    /// assert!(off < 1e-12);
    /// # Ok(())
    /// # }
    /// ```
    pub fn weight_rows(&self, lse: &Tensor, queries: &[usize]) -> Result<Tensor> {
        self.one(lse, WeightMap::Rows { queries })
    }

    fn one(&self, lse: &Tensor, map: WeightMap) -> Result<Tensor> {
        self.some(lse, map).map(|[tensor]| tensor)
    }

    fn some<const N: usize>(&self, lse: &Tensor, map: WeightMap) -> Result<[Tensor; N]> {
        let tensors = self.maps(lse, &[map])?.into_iter().flatten().collect::<Vec<_>>();
        tensors.try_into().map_err(|_| Error::new(ErrorKind::Argument, OP, format!("a map gave not {N} tensors")))
    }

    /// The call without what does not matter for its weights.
    fn of_weights(&self) -> Attention<'_> {
        Attention { v: self.k, dropout: None, statistics: &[], tokens: None, ..*self }
    }

    /// Maps of the weights, or with `dout` of these times their gradients, of a call without what does not matter for them.
    fn mapped(&self, lse: &Tensor, dout: Option<&Tensor>, maps: &[WeightMap]) -> Result<Vec<Vec<Tensor>>> {
        let (function, inputs) = (self.function()?, self.inputs());
        let [b, h, t, _] = self.q.dims()?;
        let scores = [b, h, t, self.k.shape()[2]];
        let statistics = self.q.dtype().statistics();
        rules::dtype(OP, lse.meta("lse"), statistics)?;
        shaped("lse", lse, &scores[..3])?;
        if let Some(dout) = dout {
            rules::dtype(OP, dout.meta("dout"), self.q.dtype())?;
            shaped("dout", dout, &[b, h, t, self.v.shape()[3]])?;
        }
        maps.iter().try_for_each(|map| map.check(scores, statistics, dout.is_some()))?;
        let others = maps.iter().flat_map(WeightMap::operands);
        let all: Vec<&Tensor> = inputs.iter().copied().chain([lse]).chain(dout).chain(others).collect();
        same_device(OP, &all)?;
        let why = match self.maps_support(&function, &inputs, dout.is_some())? {
            Support::Kernel { .. } if !records(&all) => return kernel(&function, &inputs, lse, dout, scores, maps),
            Support::Kernel { .. } => "gradients of maps have no kernel".to_owned(),
            Support::Compose { why } => why,
        };
        match self.fallback {
            Fallback::Allow => compose::composed(&function, &inputs, dout, maps),
            Fallback::Deny => Err(Error::new(ErrorKind::Unsupported, OP, why)
                .operand(self.q.data.operand("q"))
                .help("Fallback::Allow composes maps from primitives, in chunks of query rows")),
        }
    }

    fn maps_support(&self, function: &AttentionFunction, inputs: &[&Tensor], gradients: bool) -> Result<Support> {
        if !kernels_enabled() {
            return Ok(Support::Compose { why: "kernels are switched off in this thread".to_owned() });
        }
        function.with_operands(inputs, |operands| {
            Ok(self.q.device().attention_maps_support(&function.spec, operands, gradients))
        })
    }
}

impl WeightMap<'_> {
    /// The tensors that it reads.
    fn operands(&self) -> impl Iterator<Item = &Tensor> {
        let some = match *self {
            WeightMap::Columns { weights } => [weights, None],
            WeightMap::Segments { queries, keys, .. } => [Some(queries), Some(keys)],
            _ => [None, None],
        };
        some.into_iter().flatten()
    }

    fn check(&self, [b, h, t, s]: [usize; 4], statistics: DType, gradients: bool) -> Result<()> {
        let argument = |what: String, help: String| Err(Error::new(ErrorKind::Argument, OP, what).help(help));
        match self {
            WeightMap::Columns { weights: Some(weights) } => {
                rules::dtype(OP, weights.meta("row weights"), statistics)?;
                shaped("row weights", weights, &[b, h, t])
            }
            WeightMap::Blocks { size: 0 } => {
                argument("blocks of 0 queries and keys".to_owned(), "a size of at least 1, often 64 or more".to_owned())
            }
            WeightMap::Segments { queries, keys, .. } => {
                for (role, ids, extent) in [("query segments", queries, t), ("key segments", keys, s)] {
                    rules::dtype(OP, ids.meta(role), DType::I64)?;
                    shaped(role, ids, &[b, extent])?;
                }
                Ok(())
            }
            WeightMap::Top { .. } if gradients => argument(
                "the greatest keys of weights times their gradients".to_owned(),
                "they are ordered by scores: ask `maps` for them, and here for totals or whole rows".to_owned(),
            ),
            WeightMap::Top { k } if !(1..=AttentionMap::MOST).contains(k) => argument(
                format!("{k} keys of each row"),
                format!("1 to {}; ask for whole rows of some queries instead", AttentionMap::MOST),
            ),
            WeightMap::Rows { queries } => match queries.iter().find(|&&query| query >= t) {
                Some(query) => {
                    argument(format!("the row of query {query}"), format!("there are {t} queries, from 0 on"))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Dtypes and shapes of its tensors.
    fn results(&self, [b, h, t, s]: [usize; 4], statistics: DType) -> Vec<(DType, Vec<usize>)> {
        match self {
            WeightMap::Columns { .. } => vec![(statistics, vec![b, h, s])],
            WeightMap::Totals => vec![(statistics, vec![b, h, t]); 2],
            WeightMap::Diagonals => vec![(statistics, vec![b, h, AttentionMap::diagonals(t, s)])],
            WeightMap::Blocks { size } => vec![(statistics, vec![b, h, t.div_ceil(*size), s.div_ceil(*size)]); 2],
            WeightMap::Segments { count, .. } => vec![(statistics, vec![b, h, *count, *count])],
            WeightMap::Top { k } => vec![(statistics, vec![b, h, t, *k]), (DType::I64, vec![b, h, t, *k])],
            WeightMap::Rows { queries } => vec![(statistics, vec![b, h, queries.len(), s])],
        }
    }
}

/// By the device's kernel.
fn kernel(
    function: &AttentionFunction,
    inputs: &[&Tensor],
    lse: &Tensor,
    dout: Option<&Tensor>,
    scores: [usize; 4],
    maps: &[WeightMap],
) -> Result<Vec<Vec<Tensor>>> {
    let device = lse.device();
    let room = |(dtype, shape): (DType, Vec<usize>)| Data::alloc(device, dtype, Shape::new(&shape)?);
    let results = |map: &WeightMap| map.results(scores, lse.dtype()).into_iter().map(room).collect();
    let mut results = maps.iter().map(results).collect::<Result<Vec<Vec<Data>>>>()?;
    function.with_operands(inputs, |operands| {
        let mut wanted = Vec::new();
        for (map, results) in maps.iter().zip(&mut results) {
            let mut views = results.iter_mut().map(Data::view_mut).collect::<Result<Vec<_>>>()?.into_iter();
            let mut next =
                || views.next().ok_or_else(|| Error::new(ErrorKind::Argument, OP, "a map has too few destinations"));
            wanted.push(match *map {
                WeightMap::Columns { weights } => {
                    AttentionMap::Columns { weights: weights.map(Tensor::view).transpose()?, mass: next()? }
                }
                WeightMap::Totals => AttentionMap::Totals { sum: next()?, magnitude: next()? },
                WeightMap::Diagonals => AttentionMap::Diagonals { mass: next()? },
                WeightMap::Blocks { size } => AttentionMap::Blocks { size, mean: next()?, greatest: next()? },
                WeightMap::Segments { queries, keys, .. } => {
                    AttentionMap::Segments { queries: queries.view()?, keys: keys.view()?, mass: next()? }
                }
                WeightMap::Top { .. } => AttentionMap::Top { weights: next()?, keys: next()? },
                WeightMap::Rows { queries } => AttentionMap::Rows { queries, weights: next()? },
            });
        }
        device.attention_maps(&function.spec, operands, lse.view()?, dout.map(Tensor::view).transpose()?, wanted)
    })?;
    Ok(results.into_iter().map(|map| map.into_iter().map(Tensor::from_data).collect()).collect())
}

#[cfg(test)]
mod tests;
