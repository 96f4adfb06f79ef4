//! Scaled dot-product attention (Vaswani et al., 2017, §3.2.1), composed from primitives.

use attentia_tensor::{Result, RngKey, Tensor};

/// What acts on the scores and the weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionOptions<'a> {
    /// Bool, broadcast to `[B, H, T, S]`; true means: may attend. A row of nothing but false gives zeros.
    pub mask: Option<&'a Tensor>,
    /// Added to the scaled scores; of their dtype, broadcast to `[B, H, T, S]`. Gradients flow to it.
    pub bias: Option<&'a Tensor>,
    /// Factor on `q kᵀ`; `1/√D` when it is left out.
    pub scale: Option<f64>,
    /// Probability and stream of dropout, which acts on the normalised weights.
    pub dropout: Option<(f64, RngKey)>,
}

impl<'a> AttentionOptions<'a> {
    /// Nothing but a mask.
    pub fn masked(mask: &'a Tensor) -> AttentionOptions<'a> {
        AttentionOptions { mask: Some(mask), ..AttentionOptions::default() }
    }
}

/// What attention returns.
#[derive(Clone, Debug)]
pub struct Attended {
    /// `[B, H, T, D_v]`
    pub output: Tensor,
    /// `[B, H, T, S]`, before dropout.
    pub weights: Tensor,
}

/// `softmax(q kᵀ · scale + bias) v` over the keys that the mask allows.
///
/// `q: [B, H, T, D]`, `k: [B, H, S, D]`, `v: [B, H, S, D_v]`. Errors when they disagree, or when mask or bias do not
/// broadcast.
///
/// ```
/// # use attentia_tensor::{Device, Tensor};
/// # let device = Device::new(attentia_reference::ReferenceBackend::new());
/// let q = Tensor::from_slice(&[9.0, 0.0], &[1, 1, 1, 2], &device)?;
/// let k = Tensor::from_slice(&[9.0, 0.0, 0.0, 9.0], &[1, 1, 2, 2], &device)?;
/// let v = Tensor::from_slice(&[1.0, 2.0], &[1, 1, 2, 1], &device)?;
/// let attended = attentia_attention::scaled_dot_product(&q, &k, &v, Default::default())?;
/// assert!((attended.output.item::<f64>()? - 1.0).abs() < 1e-9, "the query points at the first key");
/// # Ok::<(), attentia_tensor::Error>(())
/// ```
pub fn scaled_dot_product(q: &Tensor, k: &Tensor, v: &Tensor, options: AttentionOptions) -> Result<Attended> {
    scaled_dot_product_seen(q, k, v, options, |_| Ok(()))
}

/// [`scaled_dot_product`], which shows the scores, scaled and biased, to `see`.
pub(crate) fn scaled_dot_product_seen(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    options: AttentionOptions,
    see: impl FnOnce(&Tensor) -> Result<()>,
) -> Result<Attended> {
    attentia_tensor::rules::attention(q.data().meta("q"), k.data().meta("k"), v.data().meta("v"))?;
    let [_, _, _, d] = q.dims()?;
    let scale = options.scale.unwrap_or(1.0 / (d.max(1) as f64).sqrt());
    // Scaling the queries costs T · D products instead of T · S.
    let mut scores = q.mul_scalar(scale)?.matmul(&k.t()?)?; // [B, H, T, S]
    if let Some(bias) = options.bias {
        scores = (scores + bias)?;
    }
    see(&scores)?;
    let weights = match options.mask {
        Some(mask) => scores.masked_softmax(mask, -1)?,
        None => scores.softmax(-1)?,
    };
    drop(scores);
    let output = match options.dropout {
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
        let attended = scaled_dot_product(&q, &k, &v, AttentionOptions::masked(&visible)).unwrap();
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
        let attended = scaled_dot_product(&q.tensor(), &k, &v, AttentionOptions::masked(&nothing)).unwrap();
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
        let [q, k, v] = operands(&device);
        let bias = Tensor::randn(RngKey::new(4), &[2, 1, 4], DType::F64, &device).unwrap();
        gradcheck(
            |x| {
                let options = AttentionOptions { dropout, bias: Some(&x[3]), ..AttentionOptions::masked(&visible) };
                Ok(vec![scaled_dot_product(&x[0], &x[1], &x[2], options)?.output])
            },
            &[q, k, v, bias],
            GradcheckOptions::default(),
        )
        .unwrap();
    }
}
