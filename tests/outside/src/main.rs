//! The README's ten lines, in a crate of their own; `scripts/check` runs it.

use attentia::prelude::*;

fn main() -> attentia::Result<()> {
    let device = attentia::device("cpu")?;
    let scope = Scope::new(&device, DType::F32, 7);
    let pooling = AttentionPooling::new(&scope / "pooling", 4)?; // y = Σ softmax_i(⟨w, x_i⟩) x_i
    let x = Tensor::randn(RngKey::new(1), &[2, 6, 4], DType::F32, &device)?; // [B, T, C]
    let (y, weights) = pooling.forward(&x, None)?; // [B, C], [B, T]
    let grads = y.square()?.mean_all()?.backward()?;
    AdamW::new(scope.parameters(), AdamWConfig::default())?.step(grads, 0.1)?;
    println!("{weights}");
    Ok(())
}
