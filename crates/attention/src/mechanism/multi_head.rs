//! Multi-head attention (Vaswani et al., 2017, §3.2.2).

use super::scaled_dot_product::scaled_dot_product;
use attentia_nn::{Context, Dropout, Linear, Part, Point, Scope, Site, Stack};
use attentia_tensor::{Error, ErrorKind, Result, RngKey, Tensor};
use std::sync::Arc;

/// Projects queries, keys and values to H heads, attends in each, and projects the concatenation back.
///
/// ```
/// use attentia_attention::MultiHeadAttention;
/// use attentia_nn::{Context, Part, Scope, Stack};
/// # use attentia_tensor::{DType, Device, RngKey, Tensor};
/// # let device = Device::new(attentia_reference::ReferenceBackend::new());
/// let scope = Scope::new(&device, DType::F32, 0);
/// let attention = MultiHeadAttention::new(&scope / "attention", 8, 2, 0.1, (Stack::Encoder, 0, Part::SelfAttention))?;
/// let x = Tensor::randn(RngKey::new(1), &[1, 5, 8], DType::F32, &device)?;
/// let y = attention.forward(&x, &x, None, &mut Context::evaluation())?;
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
    pattern: Site,
    path: Arc<str>,
}

impl MultiHeadAttention {
    /// `width` is a multiple of `heads`; `dropout` acts on the weights; `place` names the site of its pattern.
    pub fn new(
        scope: Scope,
        width: usize,
        heads: usize,
        dropout: f64,
        place: (Stack, u16, Part),
    ) -> Result<MultiHeadAttention> {
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::new(ErrorKind::Argument, "attention", format!("width {width} and {heads} heads"))
                .in_path(&**scope.path())
                .help("the width must be a multiple of the number of heads"));
        }
        let (stack, layer, part) = place;
        Ok(MultiHeadAttention {
            query: Linear::new(&scope / "query", width, width)?,
            key: Linear::new(&scope / "key", width, width)?,
            value: Linear::new(&scope / "value", width, width)?,
            output: Linear::new(&scope / "output", width, width)?,
            heads,
            dropout: Dropout::new(&scope / "dropout", dropout)?.p(),
            module: RngKey::default().path(scope.path()),
            pattern: Site { stack, layer, part, point: Point::Pattern },
            path: scope.path().clone(),
        })
    }

    /// `from: [B, T, C]` asks, `to: [B, S, C]` is looked at (the same tensor for self-attention) → `[B, T, C]`.
    ///
    /// `mask` broadcasts to `[B, H, T, S]`. The weights are shown to the context at this module's pattern site.
    pub fn forward(&self, from: &Tensor, to: &Tensor, mask: Option<&Tensor>, cx: &mut Context) -> Result<Tensor> {
        let q = self.split(self.query.forward(from)?)?; // [B, H, T, D]
        let k = self.split(self.key.forward(to)?)?; // [B, H, S, D]
        let v = self.split(self.value.forward(to)?)?; // [B, H, S, D]
        let dropout = (cx.run().train && self.dropout > 0.0).then(|| (self.dropout, cx.dropout_key(self.module)));
        let attended = scaled_dot_product(&q, &k, &v, mask, dropout).map_err(|e| e.in_path(&*self.path))?;
        cx.tap(self.pattern, &attended.weights)?;
        let [b, _, t, _] = attended.output.dims()?;
        let merged = attended.output.transpose(1, 2)?.reshape(&[b as isize, t as isize, -1])?; // [B, T, C]
        self.output.forward(&merged)
    }

    /// `[B, T, C] → [B, H, T, D]`, a view.
    fn split(&self, x: Tensor) -> Result<Tensor> {
        let [b, t, c] = x.dims()?;
        x.reshape(&[b as isize, t as isize, self.heads as isize, (c / self.heads) as isize])?.transpose(1, 2)
    }
}
