//! Scaled dot-product attention (Vaswani et al., 2017, §3.2.1), composed from primitives.

use attentia_tensor::{Result, RngKey, Tensor};

/// What attention returns.
#[derive(Clone, Debug)]
pub struct Attended {
    /// `[B, H, T, D_v]`
    pub output: Tensor,
    /// `[B, H, T, S]`, before dropout.
    pub weights: Tensor,
}

/// `softmax(q kᵀ / √D) v` over the keys that `mask` allows.
///
/// - `q: [B, H, T, D]`, `k: [B, H, S, D]`, `v: [B, H, S, D_v]`
/// - `mask`: bool, broadcast to `[B, H, T, S]`; true means: may attend. A row of nothing but false gives zeros.
/// - `dropout`: probability and stream; acts on the normalised weights.
///
/// ```
/// # use attentia_tensor::{Device, Tensor};
/// # let device = Device::new(attentia_reference::ReferenceBackend::new());
/// let q = Tensor::from_slice(&[9.0, 0.0], &[1, 1, 1, 2], &device)?;
/// let k = Tensor::from_slice(&[9.0, 0.0, 0.0, 9.0], &[1, 1, 2, 2], &device)?;
/// let v = Tensor::from_slice(&[1.0, 2.0], &[1, 1, 2, 1], &device)?;
/// let attended = attentia_attention::scaled_dot_product(&q, &k, &v, None, None)?;
/// assert!((attended.output.item::<f64>()? - 1.0).abs() < 1e-9, "the query points at the first key");
/// # Ok::<(), attentia_tensor::Error>(())
/// ```
pub fn scaled_dot_product(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    dropout: Option<(f64, RngKey)>,
) -> Result<Attended> {
    attentia_tensor::rules::attention(q.data().meta("q"), k.data().meta("k"), v.data().meta("v"))?;
    let [_, _, _, d] = q.dims()?;
    // Scaling the queries costs T · D products instead of T · S.
    let scores = q.mul_scalar(1.0 / (d.max(1) as f64).sqrt())?.matmul(&k.t()?)?; // [B, H, T, S]
    let weights = match mask {
        Some(mask) => scores.masked_softmax(mask, -1)?,
        None => scores.softmax(-1)?,
    };
    drop(scores);
    let output = match dropout {
        Some((p, key)) => weights.dropout(p, key)?.matmul(v)?,
        None => weights.matmul(v)?,
    }; // [B, H, T, D_v]
    Ok(Attended { output, weights })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask;
    use attentia_tensor::{DType, Device, GradcheckOptions, gradcheck};

    fn device() -> Device {
        Device::new(attentia_reference::ReferenceBackend::new())
    }

    fn operands(device: &Device) -> [Tensor; 3] {
        ["q", "k", "v"].map(|role| {
            let length = if role == "q" { 3 } else { 4 };
            Tensor::randn(RngKey::new(3).path(role), &[2, 2, length, 5], DType::F64, device).unwrap()
        })
    }

    #[test]
    fn weights_are_a_distribution_over_the_visible_keys() {
        let device = device();
        let [q, k, v] = operands(&device);
        let visible = mask::key_padding(&[4, 1], 4, &device).unwrap();
        let attended = scaled_dot_product(&q, &k, &v, Some(&visible), None).unwrap();
        let weights = attended.weights.to_vec::<f64>().unwrap();
        for row in weights.chunks(4) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        assert!(weights[24..].chunks(4).all(|row| row == [1.0, 0.0, 0.0, 0.0]));
    }

    #[test]
    fn a_row_without_keys_gives_zeros_and_zero_gradients() {
        let device = device();
        let [q, k, v] = operands(&device);
        let nothing = Tensor::zeros(&[4], DType::Bool, &device).unwrap();
        let q = attentia_tensor::Var::new(q).unwrap();
        let attended = scaled_dot_product(&q.tensor(), &k, &v, Some(&nothing), None).unwrap();
        assert!(attended.output.to_vec::<f64>().unwrap().iter().all(|&x| x == 0.0));
        let mut grads = attended.output.sum_all().unwrap().backward().unwrap();
        let dq = grads.remove(&q).unwrap();
        assert!(dq.to_vec::<f64>().unwrap().iter().all(|&x| x == 0.0));
    }

    #[test]
    fn gradients_agree_with_differences() {
        let device = device();
        let visible = mask::causal(3, 4, &device).unwrap();
        let dropout = Some((0.3, RngKey::new(5)));
        gradcheck(
            |x| Ok(vec![scaled_dot_product(&x[0], &x[1], &x[2], Some(&visible), dropout)?.output]),
            &operands(&device),
            GradcheckOptions::default(),
        )
        .unwrap();
    }
}
