//! Clipping by the norm of all gradients together (Pascanu, Mikolov and Bengio, 2013).

use attentia_tensor::{DType, Grads, Result, Tensor, no_grad};

/// Euclidean norm of all gradients together.
pub fn gradient_norm(grads: &Grads) -> Result<f64> {
    no_grad(|| {
        let mut squares = 0.0;
        for (_, gradient) in grads.iter() {
            squares += sum_of_squares(gradient)?;
        }
        Ok(squares.sqrt())
    })
}

fn sum_of_squares(x: &Tensor) -> Result<f64> {
    // A product with itself reads it once and writes nothing; f32 sums run in fixed pieces.
    let sum = match x.is_contiguous() && matches!(x.dtype(), DType::F32 | DType::F64) {
        true => x.flatten()?.matmul(&x.flatten()?)?,
        false => x.to_dtype(x.dtype().statistics())?.square()?.sum_all()?,
    };
    sum.to_dtype(DType::F64)?.item()
}

/// The factor that brings a gradient of this norm down to `limit`; 1 when it is shorter.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    if norm > limit { limit / norm } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipping_only_shortens() {
        assert_eq!((clip_factor(0.5, 1.0), clip_factor(4.0, 1.0), clip_factor(0.0, 1.0)), (1.0, 0.25, 1.0));
    }
}
