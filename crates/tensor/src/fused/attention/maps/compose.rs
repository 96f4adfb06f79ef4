//! Maps in primitives, in chunks of query rows: where a gradient is wanted, and where a device has no kernel.

use super::WeightMap;
use crate::{
    Tensor,
    fused::attention::{
        AttentionFunction,
        chunks::{self, ByRows, Chunk},
        compose,
        dropout::Gate,
    },
};
use attentia_backend::{AttentionMap, DType, Result};
use std::{iter, ops::Range};

/// Maps of the weights, with `dout` of these times their gradients, each in its place. `inputs` are the attention's.
pub(super) fn composed(
    attention: &AttentionFunction,
    inputs: &[&Tensor],
    dout: Option<&Tensor>,
    maps: &[WeightMap],
) -> Result<Vec<Vec<Tensor>>> {
    let others = maps.iter().flat_map(WeightMap::operands);
    let inputs: Vec<&Tensor> = inputs.iter().copied().chain(dout).chain(others).collect();
    let of_rows = MapsOfRows {
        attention: attention.clone(),
        gradients: dout.is_some(),
        maps: maps.iter().map(MapOfRows::of).collect(),
    };
    let mut parts = chunks::compose(&of_rows, &inputs)?.into_iter();
    let chunks = chunks::chunks(attention, &inputs);
    let whole = |map: &MapOfRows| map.whole(parts.by_ref().take(map.output_axes().len()).collect(), &chunks);
    of_rows.maps.iter().map(whole).collect()
}

/// What the maps of one chunk of rows are computed by, from the inputs of the attention, `dout` and then the maps' own.
#[derive(Clone)]
struct MapsOfRows {
    attention: AttentionFunction,
    /// Whether there is a `dout`.
    gradients: bool,
    maps: Vec<MapOfRows>,
}

/// A [`WeightMap`] without the tensors that it reads.
#[derive(Clone)]
enum MapOfRows {
    Columns { weighted: bool },
    Totals,
    Diagonals,
    Blocks { size: usize },
    Segments { count: usize },
    Top { k: usize },
    Rows { queries: Vec<usize> },
}

impl ByRows for MapsOfRows {
    fn attention(&self) -> &AttentionFunction {
        &self.attention
    }

    fn input_axes(&self, inputs: &[&Tensor]) -> Vec<Option<usize>> {
        let (operands, dout, _) = self.parts(inputs);
        let mut axes = self.attention.input_axes(operands);
        axes.extend(dout.map(|_| Some(2)));
        axes.extend(self.maps.iter().flat_map(MapOfRows::input_axes));
        axes
    }

    fn output_axes(&self, _: &[&Tensor]) -> Vec<Option<usize>> {
        self.maps.iter().flat_map(MapOfRows::output_axes).copied().collect()
    }

    fn compose_rows(&self, inputs: &[&Tensor], chunk: Chunk) -> Result<Vec<Tensor>> {
        let (operands, dout, mut own) = self.parts(inputs);
        let given = self.attention.given(operands);
        let rows = compose::rows(&self.attention, &given, chunk)?;
        let mut p = rows.weights.to_dtype(rows.lse.dtype())?; // [B, H, rows, S]
        if let Some(dout) = dout {
            let gate = Gate::of(self.attention.dropout, chunk, &rows.weights)?;
            let dp = gate.apply(&dout.matmul(&compose::repeated(given.v, given.q.shape()[1])?.t()?)?)?;
            // A key of weight 0 has 0, whatever its value.
            p = (dp.to_dtype(p.dtype())?.where_or_zero(&p.ne_scalar(0.0)?)? * p)?;
        }
        let mut all = Vec::new();
        for map in &self.maps {
            let (read, others) = own.split_at(map.input_axes().len());
            own = others;
            all.extend(map.of_rows(&p, &rows.scores, read, chunk)?);
        }
        Ok(all)
    }
}

impl MapsOfRows {
    /// The attention's inputs, `dout`, and the maps' inputs.
    fn parts<'a, 'b>(&self, inputs: &'b [&'a Tensor]) -> (&'b [&'a Tensor], Option<&'a Tensor>, &'b [&'a Tensor]) {
        let own: usize = self.maps.iter().map(|map| map.input_axes().len()).sum();
        let (operands, own) = inputs.split_at(inputs.len() - own);
        match operands.split_last() {
            Some((dout, operands)) if self.gradients => (operands, Some(dout), own),
            _ => (operands, None, own),
        }
    }
}

impl MapOfRows {
    fn of(map: &WeightMap) -> MapOfRows {
        match *map {
            WeightMap::Columns { weights } => MapOfRows::Columns { weighted: weights.is_some() },
            WeightMap::Totals => MapOfRows::Totals,
            WeightMap::Diagonals => MapOfRows::Diagonals,
            WeightMap::Blocks { size } => MapOfRows::Blocks { size },
            WeightMap::Segments { count, .. } => MapOfRows::Segments { count },
            WeightMap::Top { k } => MapOfRows::Top { k },
            WeightMap::Rows { queries } => MapOfRows::Rows { queries: queries.to_vec() },
        }
    }

    /// The axis of query rows of each tensor that it reads.
    fn input_axes(&self) -> &'static [Option<usize>] {
        match self {
            MapOfRows::Columns { weighted: true } => &[Some(2)],
            MapOfRows::Segments { .. } => &[Some(1), None],
            _ => &[],
        }
    }

    fn output_axes(&self) -> &'static [Option<usize>] {
        match self {
            MapOfRows::Columns { .. } | MapOfRows::Diagonals | MapOfRows::Segments { .. } => &[None],
            MapOfRows::Totals | MapOfRows::Blocks { .. } | MapOfRows::Top { .. } => &[Some(2), Some(2)],
            MapOfRows::Rows { .. } => &[Some(2)],
        }
    }

    /// What the rows of a chunk add to the map.
    fn of_rows(&self, p: &Tensor, scores: &Tensor, read: &[&Tensor], chunk: Chunk) -> Result<Vec<Tensor>> {
        let ([b, h, t, s], dtype, device) = (p.dims()?, p.dtype(), p.device());
        Ok(match self {
            MapOfRows::Columns { weighted: false } => vec![p.sum(&[-2], false)?],
            MapOfRows::Columns { weighted: true } => vec![(p * read[0].unsqueeze(-1)?)?.sum(&[-2], false)?],
            MapOfRows::Totals => vec![p.sum(&[-1], false)?, p.abs()?.sum(&[-1], false)?],
            MapOfRows::Diagonals => {
                let places = AttentionMap::diagonals(chunk.of, s);
                let none = Tensor::zeros(&[b, h, places], dtype, device)?;
                if places == 0 {
                    return Ok(vec![none]);
                }
                let query = Tensor::arange(0, t as i64, 1, DType::I64, device)?.unsqueeze(1)?; // [rows, 1]
                let first = (chunk.of - chunk.first) as i64 - 1; // the place of the first row's key 0
                let key = Tensor::arange(first, first + s as i64, 1, DType::I64, device)?;
                let cells = (t * s) as isize;
                let place = (key - query)?.reshape(&[cells])?.broadcast_to(&[b, h, t * s])?;
                vec![none.scatter_add(-1, &place, &p.reshape(&[b as isize, h as isize, cells])?)?]
            }
            MapOfRows::Blocks { size } => {
                let (tall, wide) = (block(*size, chunk.of), block(*size, s));
                let (above, blocks) = (chunk.first % tall, blocks_of(chunk, tall)); // rows of the first in other chunks
                let (down, across) = (blocks.len(), s.div_ceil(wide));
                let pads = [(0, 0), (0, 0), (above, down * tall - above - t), (0, across * wide - s)];
                let cut = [b, h, down, tall, across, wide].map(|extent| extent as isize);
                let padded = |value: f64| p.pad(&pads, value)?.reshape(&cut);
                let of = |i: usize, size: usize, extent: usize| size.min(extent - i * size) as f64;
                let cells = blocks.flat_map(|y| (0..across).map(move |x| of(y, tall, chunk.of) * of(x, wide, s)));
                let cells = Tensor::from_slice(&cells.collect::<Vec<f64>>(), &[down, across], device)?;
                let mean = (padded(0.0)?.sum(&[3, 5], false)? / cells.to_dtype(dtype)?)?;
                vec![mean, padded(f64::NEG_INFINITY)?.max(&[3, 5], false)?]
            }
            MapOfRows::Segments { count } => {
                let segments = Tensor::arange(0, *count as i64, 1, DType::I64, device)?;
                let of = |ids: &Tensor| ids.unsqueeze(1)?.unsqueeze(-1)?.eq(&segments)?.to_dtype(dtype); // [B, 1, *, G]
                vec![of(read[0])?.t()?.matmul(p)?.matmul(&of(read[1])?)?]
            }
            MapOfRows::Top { k } => {
                let there = (*k).min(s);
                let (scores, keys) = scores.detach().topk(there, -1, true)?;
                let hidden = scores.eq_scalar(f64::NEG_INFINITY)?;
                let more = [(0, 0), (0, 0), (0, 0), (0, k - there)];
                let weights = p.gather(-1, &keys)?.pad(&more, 0.0)?;
                vec![weights, keys.masked_fill(&hidden, -1i64)?.pad(&more, -1i64)?]
            }
            MapOfRows::Rows { queries } => {
                let own = queries.iter().filter(|query| chunk.range().contains(query));
                vec![selected(p, &own.map(|query| query - chunk.first).collect::<Vec<_>>())?]
            }
        })
    }

    /// The map, from what its chunks have together.
    fn whole(&self, parts: Vec<Tensor>, chunks: &[Chunk]) -> Result<Vec<Tensor>> {
        match (self, &parts[..]) {
            (MapOfRows::Blocks { size }, [means, greatest]) if chunks.len() > 1 => {
                joined(means, greatest, *size, chunks)
            }
            (MapOfRows::Rows { queries }, [rows]) if chunks.len() > 1 => {
                // They came chunk by chunk; among those of a chunk the order is that of the list.
                let mut came: Vec<usize> = (0..queries.len()).collect();
                came.sort_by_key(|&place| chunks.iter().position(|chunk| chunk.range().contains(&queries[place])));
                let mut place = vec![0; queries.len()];
                came.iter().enumerate().for_each(|(at, &wanted)| place[wanted] = at);
                Ok(vec![selected(rows, &place)?])
            }
            _ => Ok(parts),
        }
    }
}

/// Queries or keys of a block, of so many: one that is larger than everything is everything.
fn block(size: usize, extent: usize) -> usize {
    size.min(extent.max(1))
}

/// The blocks to which rows of a chunk belong.
fn blocks_of(chunk: Chunk, tall: usize) -> Range<usize> {
    chunk.first / tall..chunk.range().end.div_ceil(tall)
}

/// Blocks from the pieces `[B, H, pieces, ⌈S/n⌉]` into which the chunks cut them: means, of all of a block's cells, add up.
fn joined(means: &Tensor, greatest: &Tensor, size: usize, chunks: &[Chunk]) -> Result<Vec<Tensor>> {
    let [b, h, _, across] = means.dims()?;
    let tall = block(size, chunks[0].of);
    let owners: Vec<usize> = chunks.iter().flat_map(|chunk| blocks_of(*chunk, tall)).collect(); // in ascending order
    let down = chunks[0].of.div_ceil(tall);
    let index: Vec<i64> = owners.iter().map(|&block| block as i64).collect();
    let index = Tensor::from_slice(&index, &[owners.len(), 1], means.device())?;
    let index = index.broadcast_to(&[b, h, owners.len(), across])?;
    let mean = Tensor::zeros(&[b, h, down, across], means.dtype(), means.device())?.scatter_add(2, &index, means)?;
    // The n-th piece of every block at once; blocks of fewer pieces give their last again.
    let ends: Vec<usize> = (0..down).map(|block| owners.partition_point(|&owner| owner <= block)).collect();
    let starts: Vec<usize> = iter::once(0).chain(ends.iter().copied()).take(down).collect();
    let most = starts.iter().zip(&ends).map(|(start, end)| end - start).max().unwrap_or(1);
    let nth = |n: usize| {
        let places = starts.iter().zip(&ends).map(|(start, end)| (start + n).min(end - 1));
        selected(greatest, &places.collect::<Vec<_>>())
    };
    let greatest = (1..most).try_fold(nth(0)?, |so_far, n| so_far.maximum(&nth(n)?))?;
    Ok(vec![mean, greatest])
}

/// Some places along the axis of rows.
fn selected(rows: &Tensor, places: &[usize]) -> Result<Tensor> {
    let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
    rows.index_select(2, &Tensor::from_slice(&places, &[places.len()], rows.device())?)
}
