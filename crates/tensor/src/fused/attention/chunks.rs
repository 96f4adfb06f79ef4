//! Compositions of attention in chunks of query rows, so that no score matrix is ever whole.
//!
//! ```text
//! for each chunk of rows                         as many as a matrix [B, H, rows, S] of so many bytes has
//!     cut the operands that have query rows      views; keys, values and what belongs to heads stay whole
//!     compose, or compose and differentiate      what was recorded on the way is dropped
//! results that have query rows: one after the other            all others: added up, in the order of the chunks
//! ```
//!
//! A row needs no other row, so the chunks' results are those of the whole, and sums over rows differ by roundings. One chunk
//! is composed and recorded as it is. Of several, none is recorded: a chunk is composed again for its gradient, by
//! [`checkpoint`], and a function's backward composes and differentiates each chunk once. A derivative of that is a checkpoint's,
//! and computes the chunk and all derivatives below once more. So at no order do recordings of two chunks live at the same time.

use super::AttentionFunction;
use crate::{
    Tensor,
    backward::accumulate,
    checkpoint::{checkpoint, placed, recomputed_gradients},
    function::backward_of,
};
use attentia_backend::{Error, ErrorKind, Result};
use std::{cell::Cell, ops::Range};

/// Bytes of one matrix `[B, H, rows, S]` of a chunk. A composition holds about ten of them with its gradient: with 64 MiB
/// instead it takes as long and four times the memory, with less the products of many heads become small. Sentences are far
/// below it, and are composed whole.
pub(super) const MATRIX_BYTES: usize = 16 << 20;

thread_local! {
    static BUDGET: Cell<usize> = const { Cell::new(MATRIX_BYTES) };
}

/// Some consecutive query rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The first row's place.
    pub first: usize,
    /// How many.
    pub rows: usize,
    /// Rows of the whole.
    pub of: usize,
}

impl Chunk {
    pub(super) fn is_whole(&self) -> bool {
        self.rows == self.of
    }

    pub(super) fn range(&self) -> Range<usize> {
        self.first..self.first + self.rows
    }
}

/// The chunks of a call, of nearly the same size. There is always one, and always a row in it if there is one at all: a row
/// that is above the budget alone is still composed.
pub(super) fn chunks(attention: &AttentionFunction, inputs: &[&Tensor]) -> Vec<Chunk> {
    let given = attention.given(inputs);
    let (q, keys) = (given.q, given.k.shape()[2]);
    let [b, h, of] = [0, 1, 2].map(|axis| q.shape()[axis]);
    let bytes = q.dtype().statistics().size().max(q.dtype().size());
    let row = [b, h, keys].into_iter().fold(bytes, usize::saturating_mul);
    let rows = (BUDGET.get() / row.max(1)).max(1);
    let count = of.div_ceil(rows).max(1);
    let mut first = 0;
    let chunk = |i: usize| {
        let rows = of / count + usize::from(i < of % count);
        first += rows;
        Chunk { first: first - rows, rows, of }
    };
    (0..count).map(chunk).collect()
}

/// A composition that can be had for some query rows alone.
pub(super) trait ByRows: Clone + Send + Sync + 'static {
    /// The attention, whose operands come first among the inputs.
    fn attention(&self) -> &AttentionFunction;
    /// The axis of query rows of each input that has one.
    fn input_axes(&self, inputs: &[&Tensor]) -> Vec<Option<usize>>;
    /// The axis of query rows of each output that has one; others are sums over rows.
    fn output_axes(&self, inputs: &[&Tensor]) -> Vec<Option<usize>>;
    /// The outputs of a chunk, whose rows alone the inputs have.
    fn compose_rows(&self, inputs: &[&Tensor], chunk: Chunk) -> Result<Vec<Tensor>>;
}

/// The outputs.
pub(super) fn compose(function: &impl ByRows, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let chunks = chunks(function.attention(), inputs);
    let output_axes = function.output_axes(inputs);
    let operands = inputs.iter().map(|&x| x.clone()).zip(function.input_axes(inputs)).collect();
    let outputs = in_chunks(&chunks, operands, &output_axes, |chunk, own| {
        let again = function.clone();
        let compose = move |own: &[Tensor]| again.compose_rows(&own.iter().collect::<Vec<_>>(), chunk);
        let outputs = if chunk.is_whole() { compose(&own) } else { checkpoint(compose, &own) };
        Ok(outputs?.into_iter().map(Some).collect())
    })?;
    Ok(outputs.into_iter().flatten().collect())
}

/// The gradients of the inputs: [`backward_by_compose`](crate::function::backward_by_compose), chunk by chunk.
pub(super) fn backward(
    function: &impl ByRows,
    inputs: Vec<Tensor>,
    grads: Vec<Option<Tensor>>,
    needs: &[bool],
) -> Result<Vec<Option<Tensor>>> {
    let refs: Vec<&Tensor> = inputs.iter().collect();
    let chunks = chunks(function.attention(), &refs);
    let (input_axes, output_axes) = (function.input_axes(&refs), function.output_axes(&refs));
    let (count, there) = (inputs.len(), grads.iter().map(Option::is_some).collect::<Vec<_>>());
    let cotangents = grads.into_iter().zip(output_axes).filter_map(|(grad, axis)| Some((grad?, axis)));
    let operands = inputs.into_iter().zip(input_axes.iter().copied()).chain(cotangents).collect();
    in_chunks(&chunks, operands, &input_axes, |chunk, mut own| {
        let grads = placed(&there, own.split_off(count));
        let (again, needs) = (function.clone(), needs.to_vec());
        let gradients = move |own, grads| backward_of(|rows| again.compose_rows(rows, chunk), own, grads, &needs);
        if chunk.is_whole() { gradients(own, grads) } else { recomputed_gradients(gradients, own, grads) }
    })
}

/// Cuts operands along their axes, and joins the results of `each` along theirs.
fn in_chunks(
    chunks: &[Chunk],
    operands: Vec<(Tensor, Option<usize>)>,
    axes: &[Option<usize>],
    mut each: impl FnMut(Chunk, Vec<Tensor>) -> Result<Vec<Option<Tensor>>>,
) -> Result<Vec<Option<Tensor>>> {
    if let [whole] = chunks {
        return each(*whole, operands.into_iter().map(|(operand, _)| operand).collect());
    }
    let sizes: Vec<usize> = chunks.iter().map(|chunk| chunk.rows).collect();
    let mut parts: Vec<Vec<Tensor>> = chunks.iter().map(|_| Vec::with_capacity(operands.len())).collect();
    for (operand, axis) in operands {
        let pieces = match axis {
            Some(axis) => operand.split(&sizes, axis as isize)?,
            None => vec![operand; chunks.len()],
        };
        parts.iter_mut().zip(pieces).for_each(|(own, piece)| own.push(piece));
    }
    let mut joined: Vec<Vec<Tensor>> = axes.iter().map(|_| Vec::new()).collect();
    for (&chunk, own) in chunks.iter().zip(parts) {
        for ((so_far, axis), result) in joined.iter_mut().zip(axes).zip(each(chunk, own)?) {
            let Some(result) = result else { continue };
            let sum = if axis.is_none() { so_far.pop() } else { None };
            so_far.push(match sum {
                Some(sum) => accumulate(sum, result)?,
                None => result,
            });
        }
    }
    joined.into_iter().zip(axes).map(|(pieces, axis)| join(pieces, *axis, chunks.len())).collect()
}

/// One result from what the chunks gave: all of them, or none.
fn join(mut pieces: Vec<Tensor>, axis: Option<usize>, chunks: usize) -> Result<Option<Tensor>> {
    match axis {
        _ if pieces.is_empty() => Ok(None),
        None => Ok(pieces.pop()),
        Some(axis) if pieces.len() == chunks => {
            Tensor::cat(&pieces.iter().collect::<Vec<_>>(), axis as isize).map(Some)
        }
        Some(_) => {
            let what = format!("{} of {chunks} chunks of query rows gave a result", pieces.len());
            Err(Error::new(ErrorKind::Argument, super::OP, what))
        }
    }
}

/// Runs `f` with another budget for one matrix of a chunk.
#[cfg(test)]
pub(super) fn with_budget<T>(bytes: usize, f: impl FnOnce() -> T) -> T {
    let before = BUDGET.replace(bytes);
    let result = f();
    BUDGET.set(before);
    result
}

#[cfg(test)]
mod tests;
