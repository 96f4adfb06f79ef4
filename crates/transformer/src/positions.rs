//! Where a token stands.

use crate::PositionEncoding;
use attentia_nn::{Embedding, Scope};
use attentia_tensor::{DType, Device, Error, ErrorKind, Result, Tensor};

/// `[positions, width]`: `sin(t / 10000^(2i/width))` at column 2i, the cosine at column 2i + 1
/// (Vaswani et al., 2017, §3.5).
pub fn sinusoidal(positions: usize, width: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let mut values = Vec::with_capacity(positions * width);
    for t in 0..positions {
        for column in 0..width {
            let angle = t as f64 / 10_000f64.powf((column / 2 * 2) as f64 / width as f64);
            values.push(if column % 2 == 0 { angle.sin() } else { angle.cos() });
        }
    }
    Tensor::from_slice(&values, &[positions, width], device)?.to_dtype(dtype)
}

/// Vectors for the positions of one stack.
#[derive(Clone, Debug)]
pub(crate) enum Positions {
    Sinusoidal(Tensor),
    Learned(Embedding),
}

impl Positions {
    /// Registers a table below `scope` where positions are learned.
    pub(crate) fn new(scope: Scope, encoding: PositionEncoding, positions: usize, width: usize) -> Result<Positions> {
        let (dtype, device) = (scope.precision().compute, scope.device().clone());
        Ok(match encoding {
            PositionEncoding::Sinusoidal => Positions::Sinusoidal(sinusoidal(positions, width, dtype, &device)?),
            PositionEncoding::Learned => Positions::Learned(Embedding::new(scope, positions, width)?),
        })
    }

    /// `[T, C]` of the positions `start .. start + t`. Errors when the model has fewer.
    pub(crate) fn at(&self, start: usize, t: usize, positions: usize, device: &Device) -> Result<Tensor> {
        if start + t > positions {
            let what = format!("{} tokens, and the model has {positions} positions", start + t);
            return Err(Error::new(ErrorKind::Shape, "embed", what).help("split the sentence"));
        }
        match self {
            Positions::Sinusoidal(table) => table.narrow(0, start, t),
            Positions::Learned(table) => {
                table.forward(&Tensor::arange(start as i64, (start + t) as i64, 1, DType::I64, device)?)
            }
        }
    }
}
