//! Dropout of a chunk of query rows: the weights that the whole matrix's dropout would drop.

use super::chunks::Chunk;
use crate::Tensor;
use attentia_backend::{Dropout, Philox, Result};

/// What dropout does to the weights of a chunk, and to their cotangents.
pub(super) enum Gate {
    /// Nothing.
    Open,
    /// The chunk is the whole: the device's own dropout.
    Whole(Dropout),
    /// Some rows of it.
    Rows {
        /// Bool, of the weights' shape.
        keep: Tensor,
        /// What is kept is multiplied by it.
        factor: f64,
    },
}

impl Gate {
    /// The gate of `weights [B, H, rows, S]`.
    pub(super) fn of(dropout: Option<Dropout>, chunk: Chunk, weights: &Tensor) -> Result<Gate> {
        match dropout {
            None => Ok(Gate::Open),
            Some(dropout) if chunk.is_whole() => Ok(Gate::Whole(dropout)),
            Some(dropout) => Ok(Gate::Rows { keep: kept(dropout, chunk, weights)?, factor: 1.0 / (1.0 - dropout.p) }),
        }
    }

    pub(super) fn apply(&self, weights: &Tensor) -> Result<Tensor> {
        match self {
            Gate::Open => Ok(weights.clone()),
            Gate::Whole(dropout) => weights.dropout(dropout.p, dropout.key),
            Gate::Rows { keep, factor } => {
                // A half would round the factor, and move all weights by as much.
                let scaled = weights.to_dtype(weights.dtype().statistics())?.mul_scalar(*factor)?;
                scaled.to_dtype(weights.dtype())?.where_or_zero(keep)
            }
        }
    }
}

/// A device counts rows from 0 of the tensor that it is given; these are rows of the whole matrix. So the host draws.
fn kept(dropout: Dropout, chunk: Chunk, weights: &Tensor) -> Result<Tensor> {
    let [b, h, _, s] = weights.dims()?;
    let (stream, threshold) = (dropout.key.generator(), Philox::drop_threshold(dropout.p));
    let mut keep = Vec::with_capacity(weights.count());
    for head in 0..b * h {
        for row in chunk.range() {
            let row = (head * chunk.of + row) as u64;
            for column in (0..s).step_by(4) {
                let words = stream.block(row, column as u64 / 4);
                keep.extend(words.iter().take(s - column).map(|&word| word >= threshold));
            }
        }
    }
    Tensor::from_vec(keep, weights.shape(), weights.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, RngKey, tests::device};

    /// The oracle multiplies in f64 by an unrounded factor, which may cost f32 its last bit; halves do not see it.
    const OF_F32: f64 = f32::EPSILON as f64;

    #[test]
    fn rows_are_those_that_the_whole_has() {
        let (device, dropout) = (device(), Dropout { p: 0.4, key: RngKey::new(7) });
        for (dtype, tolerance) in [(DType::F64, 0.0), (DType::F32, OF_F32), (DType::Bf16, 0.0), (DType::F16, 0.0)] {
            let weights = Tensor::rand(RngKey::new(1), &[2, 3, 5, 7], dtype, &device).unwrap();
            let whole = weights.dropout(dropout.p, dropout.key).unwrap();
            for (first, rows) in [(0, 1), (1, 3), (4, 1)] {
                let of_rows = |x: &Tensor| x.narrow(2, first, rows).unwrap();
                let own = of_rows(&weights);
                let gate = Gate::of(Some(dropout), Chunk { first, rows, of: 5 }, &own).unwrap();
                let values = |x: &Tensor| x.to_dtype(DType::F64).unwrap().to_vec::<f64>().unwrap();
                for (x, y) in values(&gate.apply(&own).unwrap()).into_iter().zip(values(&of_rows(&whole))) {
                    assert!((x - y).abs() <= tolerance * y, "{dtype}, rows from {first} on: {x} and {y}");
                }
            }
        }
    }
}
