//! Multi-head attention (Vaswani et al., 2017, §3.2.2).

use super::scaled_dot_product::{AttentionOptions, scaled_dot_product_seen};
use crate::{Cache, KeyValue};
use attentia_nn::{Context, Dropout, Linear, Place, Point, Scope};
use attentia_tensor::{Attention, Causal, Error, ErrorKind, Result, RngKey, Tensor};
use std::sync::Arc;

/// Projects queries, keys and values to H heads, attends in each, and projects the concatenation back.
///
/// ```
/// use attentia_attention::MultiHeadAttention;
/// use attentia_nn::{Context, Part, Place, Scope, Stack};
/// # use attentia_tensor::{DType, Device, RngKey, Tensor};
/// # let device = Device::new(attentia_reference::ReferenceBackend::new());
/// let scope = Scope::new(&device, DType::F32, 0);
/// let place = Place { stack: Stack::Encoder, layer: 0, part: Part::SelfAttention };
/// let attention = MultiHeadAttention::new(&scope / "attention", 8, 2, 0.1, place)?;
/// let x = Tensor::randn(RngKey::new(1), &[1, 5, 8], DType::F32, &device)?;                // [B, T, C]
/// let y = attention.forward(&x, Default::default(), &mut Context::evaluation())?;
/// assert_eq!(y.shape().as_slice(), [1, 5, 8]);
/// # Ok::<(), attentia_tensor::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MultiHeadAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    dropout: f64,
    module: RngKey,
    place: Place,
    path: Arc<str>,
}

impl MultiHeadAttention {
    /// `width` is a multiple of `heads`; `dropout` acts on the weights; `place` names its sites.
    pub fn new(scope: Scope, width: usize, heads: usize, dropout: f64, place: Place) -> Result<MultiHeadAttention> {
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::new(ErrorKind::Argument, "attention", format!("width {width} and {heads} heads"))
                .in_path(&**scope.path())
                .help("the width must be a multiple of the number of heads"));
        }
        Ok(MultiHeadAttention {
            query: Linear::new(&scope / "query", width, width)?,
            key: Linear::new(&scope / "key", width, width)?,
            value: Linear::new(&scope / "value", width, width)?,
            output: Linear::new(&scope / "output", width, width)?,
            heads,
            dropout: Dropout::new(&scope / "dropout", dropout)?.p(),
            module: RngKey::default().path(scope.path()),
            place,
            path: scope.path().clone(),
        })
    }

    /// Self-attention: `x: [B, T, C] → [B, T, C]`. A dropout among the options is replaced by the module's own.
    pub fn forward(&self, x: &Tensor, options: AttentionOptions, cx: &mut Context) -> Result<Tensor> {
        self.attend(x, &self.keys(x, x, cx)?, options, cx)
    }

    /// Keys and values `[B, H, S, D]` of what is looked at: `[B, S, C]` each, the same tensor for a memory.
    pub fn keys(&self, key: &Tensor, value: &Tensor, cx: &mut Context) -> Result<KeyValue> {
        let pair =
            KeyValue { key: self.split(self.key.forward(key)?)?, value: self.split(self.value.forward(value)?)? };
        cx.tap(self.place.at(Point::Key), &pair.key)?;
        cx.tap(self.place.at(Point::Value), &pair.value)?;
        Ok(pair)
    }

    /// What `from: [B, T, C]` finds in keys and values of any source → `[B, T, C]`.
    ///
    /// Keys of N sequences may serve B = N · G queries, G next to each other for each: hypotheses that share a source.
    /// The weights are shown to the context at this module's sites.
    pub fn attend(&self, from: &Tensor, to: &KeyValue, options: AttentionOptions, cx: &mut Context) -> Result<Tensor> {
        self.attend_in(from, to, options, cx).map_err(|e| e.in_path(&*self.path))
    }

    /// One more part of a sequence, whose past is in the cache: `x: [B, T, C] → [B, T, C]`. A mask is over past and
    /// part, `[B, H, T, past + T]`. A part of one position needs no options, a longer one [`AttentionOptions::causal`].
    pub fn extend(&self, x: &Tensor, cache: &mut Cache, options: AttentionOptions, cx: &mut Context) -> Result<Tensor> {
        cache.append(&self.keys(x, x, cx)?).map_err(|e| e.in_path(&*self.path))?;
        self.attend(x, &cache.filled()?, options, cx)
    }

    fn attend_in(&self, from: &Tensor, to: &KeyValue, options: AttentionOptions, cx: &mut Context) -> Result<Tensor> {
        let place = self.place;
        let q = self.split(self.query.forward(from)?)?; // [B, H, T, D]
        cx.tap(place.at(Point::Query), &q)?;
        let [b, h, t, d] = q.dims()?;
        let [n, _, s, _] = to.key.dims()?;
        let shared = b != n && n > 0 && b.is_multiple_of(n);
        if shared && options.causal != Causal::No {
            let what = format!("causal attention of {b} sequences to the keys of {n}");
            return Err(Error::new(ErrorKind::Argument, "attention", what)
                .help("queries that share keys have no position among them: repeat the keys, or hide them by a mask"));
        }
        let q = match shared {
            true => regroup(&q, [n, b / n, h, t, d])?, // [N, H, G·T, D]
            false => q,
        };
        let apart = |x: &Tensor, last: usize| match shared {
            true => regroup(x, [n, h, b / n, t, last])?.reshape(&[b as isize, h as isize, t as isize, last as isize]),
            false => Ok(x.clone()),
        };
        let dropout = (cx.run().train && self.dropout > 0.0).then(|| (self.dropout, cx.dropout_key(self.module)));
        // The G queries of a sequence are one row of ids, as they are one row of queries.
        let of_queries = match options.segments {
            Some([queries, _]) if shared => Some(queries.reshape(&[n as isize, -1])?),
            _ => None,
        };
        let segments = options.segments.map(|[queries, keys]| [of_queries.as_ref().unwrap_or(queries), keys]);
        let options = AttentionOptions { dropout, segments, ..options };
        let biases: Vec<&Tensor> = options.bias.into_iter().collect();
        let fused = Attention {
            scale: options.scale,
            causal: options.causal,
            mask: options.mask,
            key_lengths: options.key_lengths,
            key_starts: options.key_starts,
            segments: options.segments,
            biases: &biases,
            sinks: options.sinks,
            dropout: dropout.map(|(p, key)| attentia_tensor::Dropout { p, key }),
            ..Attention::new(&q, &to.key, &to.value)
        };
        // Nobody looks inside, and the device has a kernel: there is no score matrix.
        let watched = cx.wants(place.at(Point::Scores)) || cx.wants(place.at(Point::Pattern));
        let output = if !watched && fused.explain()?.is_kernel() {
            fused.run()?.output
        } else {
            let attended = scaled_dot_product_seen(&q, &to.key, &to.value, options, |scores| {
                match cx.wants(place.at(Point::Scores)) {
                    true => cx.tap(place.at(Point::Scores), &apart(scores, s)?),
                    false => Ok(()),
                }
            })?;
            if cx.wants(place.at(Point::Pattern)) {
                cx.tap(place.at(Point::Pattern), &apart(&attended.weights, s)?)?;
            }
            attended.output
        };
        let mixed = apart(&output, d)?; // [B, H, T, D]
        cx.tap(place.at(Point::Mixed), &mixed)?;
        let merged = mixed.transpose(1, 2)?.reshape(&[b as isize, t as isize, -1])?; // [B, T, C]
        let output = self.output.forward(&merged)?;
        cx.tap(place.at(Point::Output), &output)?;
        Ok(output)
    }

    /// `[B, T, C] → [B, H, T, D]`, a view.
    fn split(&self, x: Tensor) -> Result<Tensor> {
        let [b, t, c] = x.dims()?;
        x.reshape(&[b as isize, t as isize, self.heads as isize, (c / self.heads) as isize])?.transpose(1, 2)
    }
}

/// `[A, G, H, T, D]`, the axes of x with B split or G and T merged, with axes 1 and 2 exchanged: `[A, H, G·T, D]`, and
/// its own inverse on `[A, H, G, T, D]`.
fn regroup(x: &Tensor, [a, g, h, t, d]: [usize; 5]) -> Result<Tensor> {
    let split = [a, g, h, t, d].map(|extent| extent as isize);
    x.reshape(&split)?.transpose(1, 2)?.reshape(&[a as isize, h as isize, (g * t) as isize, d as isize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use attentia_nn::{Part, Stack};
    use attentia_tensor::{DType, Device, no_grad};

    #[test]
    fn queries_that_share_keys_have_no_order_among_them() {
        let device = Device::new(attentia_reference::ReferenceBackend::new());
        let scope = Scope::new(&device, DType::F64, 0);
        let place = Place { stack: Stack::Decoder, layer: 0, part: Part::CrossAttention };
        let attention = MultiHeadAttention::new(&scope / "attention", 8, 2, 0.0, place).unwrap();
        let of = |b: usize| Tensor::randn(RngKey::new(1), &[b, 3, 8], DType::F64, &device).unwrap();
        let (x, cx) = (of(2), &mut Context::evaluation());
        let attend = |sources: usize, options, cx: &mut Context| {
            let keys = attention.keys(&of(sources), &of(sources), cx)?;
            no_grad(|| attention.attend(&x, &keys, options, cx))
        };
        let error = attend(1, AttentionOptions::causal(), cx).unwrap_err().to_string();
        assert!(error.contains("causal") && error.contains("keys of 1") && error.contains("attention"), "{error}");
        attend(2, AttentionOptions::causal(), cx).unwrap();
        // Padding is of the keys, and shared with them.
        let lengths = Tensor::from_slice(&[2i64], &[1], &device).unwrap();
        let padded = attend(1, AttentionOptions::padded(&lengths), cx).unwrap();
        let masked = crate::mask::key_padding(&[2], 3, &device).unwrap();
        let masked = attend(1, AttentionOptions::masked(&masked), cx).unwrap();
        assert_eq!(padded.to_vec::<f64>().unwrap(), masked.to_vec::<f64>().unwrap());
    }
}
