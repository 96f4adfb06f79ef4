//! Scaled dot-product attention (Vaswani et al., 2017, §3.2.1), composed from primitives.

use crate::mask;
use attentia_tensor::{Alignment, Causal, DType, Error, ErrorKind, Result, RngKey, Tensor};

/// What acts on the scores and the weights.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionOptions<'a> {
    /// Whether a query sees only keys at or before its own position, which counts from key 0 or from the last one
    /// ([`Alignment`]).
    pub causal: Causal,
    /// Bool, broadcast to `[B, H, T, S]`; true means: may attend. A row of nothing but false gives zeros.
    pub mask: Option<&'a Tensor>,
    /// i64 `[B]`: keys at or after it are padding.
    pub key_lengths: Option<&'a Tensor>,
    /// i64 `[B]`: keys before it are padding.
    pub key_starts: Option<&'a Tensor>,
    /// i64 ids of queries `[B, T]` and of keys `[B, S]`: a query attends only to keys with its own id;
    /// [`segment_ids`](crate::segment_ids) makes them for packed sequences.
    pub segments: Option<[&'a Tensor; 2]>,
    /// Added to the scaled scores; of their dtype, broadcast to `[B, H, T, S]`. Gradients flow to it.
    pub bias: Option<&'a Tensor>,
    /// Factor on `q kᵀ`; `1/√D` when it is left out.
    pub scale: Option<f64>,
    /// Logits `[H]` of the scores' dtype, one for each head, which take weight and give no value; see
    /// [`attentia_tensor::Attention::sinks`]. Gradients flow to them.
    pub sinks: Option<&'a Tensor>,
    /// Probability and stream of dropout, which acts on the normalised weights.
    pub dropout: Option<(f64, RngKey)>,
}

impl<'a> AttentionOptions<'a> {
    /// Nothing but causality, the last query standing at the last key. A kernel passes over keys that it hides, which it does
    /// not of a mask.
    pub fn causal() -> AttentionOptions<'a> {
        AttentionOptions { causal: Causal::Yes(Alignment::BottomRight), ..AttentionOptions::default() }
    }

    /// Nothing but padding behind so many keys of each sequence, i64 `[B]`.
    pub fn padded(key_lengths: &'a Tensor) -> AttentionOptions<'a> {
        AttentionOptions { key_lengths: Some(key_lengths), ..AttentionOptions::default() }
    }

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
    /// `[B, H, T, S]`, before dropout. A row adds up to 1, or to less where a sink takes some.
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
    let visible = visible(&scores, &options)?;
    let weights = match (&visible, options.sinks) {
        (Some(visible), None) => scores.masked_softmax(visible, -1)?,
        (None, None) => scores.softmax(-1)?,
        (visible, Some(sinks)) => beside_sinks(&scores, visible.as_ref(), sinks)?,
    };
    drop(scores);
    let output = match options.dropout {
        Some((p, key)) => weights.dropout(p, key)?.matmul(v)?,
        None => weights.matmul(v)?,
    }; // [B, H, T, D_v]
    Ok(Attended { output, weights })
}

/// What hides keys, as one mask that broadcasts to the scores; nothing where all are visible.
fn visible(scores: &Tensor, options: &AttentionOptions) -> Result<Option<Tensor>> {
    let [b, _, t, s] = scores.dims()?;
    let mut masks: Vec<Tensor> = options.mask.into_iter().cloned().collect();
    if let Causal::Yes(alignment) = options.causal {
        let first = if alignment == Alignment::TopLeft { 0 } else { s as i64 - t as i64 };
        masks.push(mask::causal_from(first, t, s, scores.device())?);
    }
    for (role, counts) in [("key_lengths", options.key_lengths), ("key_starts", options.key_starts)] {
        let Some(counts) = counts else { continue };
        ids(role, counts, &[b])?;
        let keys = Tensor::arange(0, s, 1, DType::I64, scores.device())?; // [S]
        let counts = counts.reshape(&[b as isize, 1, 1, 1])?;
        masks.push(if role == "key_lengths" { keys.lt(&counts)? } else { keys.ge(&counts)? });
    }
    if let Some([queries, keys]) = options.segments {
        ids("query segments", queries, &[b, t])?;
        ids("key segments", keys, &[b, s])?;
        masks.push(queries.unsqueeze(1)?.unsqueeze(3)?.eq(&keys.unsqueeze(1)?.unsqueeze(1)?)?); // [B, 1, T, S]
    }
    match masks.is_empty() {
        true => Ok(None),
        false => mask::all(&masks.iter().collect::<Vec<_>>()).map(Some),
    }
}

/// Errors unless these are whole numbers of this shape.
fn ids(role: &'static str, x: &Tensor, shape: &[usize]) -> Result<()> {
    attentia_tensor::rules::dtype("attention", x.data().meta(role), DType::I64)?;
    of_shape(role, x, shape, "whole numbers, by sequences of the batch")
}

fn of_shape(role: &'static str, x: &Tensor, shape: &[usize], help: &'static str) -> Result<()> {
    if x.shape().as_slice() == shape {
        return Ok(());
    }
    let expected = x.data().meta(role).operand().expected(format!("{shape:?}"));
    Err(Error::new(ErrorKind::Shape, "attention", format!("{role} has another shape")).operand(expected).help(help))
}

/// Weights of keys in rows in which a sink of each head is one score more.
fn beside_sinks(scores: &Tensor, mask: Option<&Tensor>, sinks: &Tensor) -> Result<Tensor> {
    let [b, h, t, s] = scores.dims()?;
    of_shape("sinks", sinks, &[h], "one logit for each query head")?;
    let hidden = mask.map(|mask| scores.masked_fill(&mask.logical_not()?, f64::NEG_INFINITY)).transpose()?;
    let sinks = sinks.reshape(&[1, h as isize, 1, 1])?.broadcast_to(&[b, h, t, 1])?;
    let all = Tensor::cat(&[hidden.as_ref().unwrap_or(scores), &sinks], -1)?; // [B, H, T, S + 1]
    // Masked: a sink of −∞ in a row without keys leaves nothing.
    let visible = Tensor::full(&[s + 1], true, DType::Bool, scores.device())?;
    all.masked_softmax(&visible, -1)?.narrow(-1, 0, s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use attentia_tensor::{Attention, Device, GradcheckOptions, gradcheck};

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
    fn padding_on_both_sides_is_that_of_the_masks() {
        let device = device();
        let [q, k, v] = operands(&device);
        let counts = |counts: &[i64]| Tensor::from_slice(counts, &[2], &device).unwrap();
        let (starts, lengths) = (counts(&[1, 3]), counts(&[3, 3]));
        let options =
            AttentionOptions { key_starts: Some(&starts), key_lengths: Some(&lengths), ..AttentionOptions::default() };
        let weights = scaled_dot_product(&q, &k, &v, options).unwrap().weights.to_vec::<f64>().unwrap();
        for row in weights[..24].chunks(4) {
            assert!(row[0] == 0.0 && row[1] > 0.0 && row[2] > 0.0 && row[3] == 0.0, "{row:?}");
        }
        assert!(weights[24..].iter().all(|&weight| weight == 0.0), "a sequence without keys");
        let wrong = AttentionOptions { key_starts: Some(&q), ..AttentionOptions::default() };
        assert!(scaled_dot_product(&q, &k, &v, wrong).unwrap_err().to_string().contains("key_starts"));
    }

    #[test]
    fn causality_is_that_of_the_fused_attention() {
        let device = device();
        let [q, k, v] = operands(&device); // three queries, four keys
        for (alignment, first) in [(Alignment::TopLeft, 1), (Alignment::BottomRight, 2)] {
            let causal = Causal::Yes(alignment);
            let options = AttentionOptions { causal, ..AttentionOptions::default() };
            let attended = scaled_dot_product(&q, &k, &v, options).unwrap();
            let seen: Vec<bool> = attended.weights.to_vec::<f64>().unwrap().iter().map(|&p| p > 0.0).collect();
            for (row, seen) in seen.chunks(4).enumerate() {
                let expected = [0, 1, 2, 3].map(|key| key < first + row % 3);
                assert_eq!(seen, expected, "{alignment:?}, row {row}");
            }
            let fused = Attention { causal, ..Attention::new(&q, &k, &v) }.run().unwrap();
            let values = |t: &Tensor| t.to_vec::<f64>().unwrap();
            for (a, b) in values(&attended.output).into_iter().zip(values(&fused.output)) {
                assert!((a - b).abs() < 1e-12, "{a} {b}");
            }
        }
        let many = Attention { causal: Causal::Yes(Alignment::TopLeft), ..Attention::new(&k, &q, &q) }.run().unwrap();
        let options = AttentionOptions { causal: Causal::Yes(Alignment::TopLeft), ..AttentionOptions::default() };
        let attended = scaled_dot_product(&k, &q, &q, options).unwrap(); // more queries than keys
        let apart = (attended.output - many.output).unwrap().abs().unwrap().max_all().unwrap();
        assert!(apart.item::<f64>().unwrap() < 1e-12);
    }

    #[test]
    fn segments_keep_apart() {
        let device = device();
        let [q, k, v] = operands(&device);
        let ids = |ids: &[i64], n| Tensor::from_slice(ids, &[2, n], &device).unwrap();
        let (queries, keys) = (ids(&[0, 0, 1, 4, 5, 6], 3), ids(&[0, 1, 1, 0, 5, 5, 4, 4], 4));
        let options = AttentionOptions { segments: Some([&queries, &keys]), ..AttentionOptions::default() };
        let attended = scaled_dot_product(&q, &k, &v, options).unwrap();
        let seen: Vec<bool> = attended.weights.to_vec::<f64>().unwrap().iter().map(|&p| p > 0.0).collect();
        let expected = [0b1001, 0b1001, 0b0110, 0b0011, 0b1100, 0b0000];
        for (row, seen) in seen.chunks(4).enumerate() {
            let bits = seen.iter().fold(0, |bits, &seen| bits * 2 + u8::from(seen));
            assert_eq!(bits, expected[row / 6 * 3 + row % 3], "row {row}");
        }
        let fused = Attention { segments: Some([&queries, &keys]), ..Attention::new(&q, &k, &v) }.run().unwrap();
        let values = |t: &Tensor| t.to_vec::<f64>().unwrap();
        for (a, b) in values(&attended.output).into_iter().zip(values(&fused.output)) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
        let wrong = AttentionOptions { segments: Some([&keys, &keys]), ..AttentionOptions::default() };
        assert!(scaled_dot_product(&q, &k, &v, wrong).unwrap_err().to_string().contains("query segments"));
    }

    #[test]
    fn sinks_are_those_of_the_fused_attention() {
        let device = device();
        let [q, k, v] = operands(&device);
        let visible = mask::key_padding(&[3, 0], 4, &device).unwrap();
        let sinks = Tensor::from_slice(&[0.5, f64::NEG_INFINITY], &[2], &device).unwrap();
        let options = AttentionOptions { sinks: Some(&sinks), ..AttentionOptions::masked(&visible) };
        let attended = scaled_dot_product(&q, &k, &v, options).unwrap();
        let fused =
            Attention { mask: Some(&visible), sinks: Some(&sinks), ..Attention::new(&q, &k, &v) }.run().unwrap();
        let values = |t: &Tensor| t.to_vec::<f64>().unwrap();
        for (a, b) in values(&attended.output).into_iter().zip(values(&fused.output)) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
        let totals = values(&attended.weights.sum(&[-1], false).unwrap());
        assert!(totals[..3].iter().all(|&total| 0.0 < total && total < 0.99), "{totals:?}");
        assert!(totals[3..6].iter().all(|&total| (total - 1.0).abs() < 1e-12), "{totals:?}");
        assert!(totals[6..].iter().all(|&total| total == 0.0), "{totals:?}");
        let wrong = AttentionOptions { sinks: Some(&q), ..AttentionOptions::default() };
        let error = scaled_dot_product(&q, &k, &v, wrong).unwrap_err().to_string();
        assert!(error.contains("sinks") && error.contains("[2]"), "{error}");
    }

    #[test]
    fn gradients_agree_with_differences() {
        let device = device();
        let visible = mask::causal(3, 4, &device).unwrap();
        let dropout = Some((0.3, RngKey::new(5)));
        let [q, k, v] = operands(&device);
        let bias = Tensor::randn(RngKey::new(4), &[2, 1, 4], DType::F64, &device).unwrap();
        let sinks = Tensor::randn(RngKey::new(6), &[2], DType::F64, &device).unwrap();
        gradcheck(
            |x| {
                let (bias, sinks) = (Some(&x[3]), Some(&x[4]));
                let options = AttentionOptions { dropout, bias, sinks, ..AttentionOptions::masked(&visible) };
                Ok(vec![scaled_dot_product(&x[0], &x[1], &x[2], options)?.output])
            },
            &[q, k, v, bias, sinks],
            GradcheckOptions::default(),
        )
        .unwrap();
    }
}
