//! Positions as sines and cosines (Vaswani et al., 2017, §3.5).

use attentia_tensor::{DType, Device, Result, Tensor};

/// `[positions, width]`: `sin(t / 10000^(2i/width))` at column 2i, the cosine at column 2i + 1.
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
