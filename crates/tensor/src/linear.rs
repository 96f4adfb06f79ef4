//! The affine map of a layer, with the weight as layers keep it: `[out, in]`.
//!
//! ```text
//! x [.., K], w [N, K], b [N] → y = x · wᵀ + b   [.., N]
//! R = all rows of x:   y  [R, N] = b, then += x [R, K] · wᵀ [K, N]      the sum starts from the bias: no pass of its own
//!                      dx [R, K] = g [R, N] · w [N, K]
//!                      dw [N, K] = gᵀ [N, R] · x [R, K]                 in the weight's own order, which its optimiser walks
//!                      db [N]    = Σ rows of g
//! ```

use crate::{Backward, Data, Function, Saver, Tensor, function::run_one, tensor::same_device};
use attentia_backend::{Error, ErrorKind, Result, Shape, rules};

/// `x · wᵀ (+ b)` of x `[R, K]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear;

impl Function for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward(&self, inputs: &[&Tensor], save: &mut Saver) -> Result<Vec<Data>> {
        let (x, w) = (inputs[0].data(), inputs[1].data());
        let transposed = w.layout().transpose(0, 1);
        let shape = Shape::new(&[x.shape()[0], w.shape()[0]])?;
        let mut out = Data::alloc(x.device(), x.dtype(), shape)?;
        if let Some(bias) = inputs.get(2) {
            let rows = rules::broadcast_to(bias.meta("bias"), &shape)?;
            x.device().copy(bias.data().view_as(&rows)?, out.view_mut()?)?;
        }
        x.device().matmul(x.view()?, w.view_as(&transposed)?, inputs.len() == 3, out.view_mut()?)?;
        // Each operand is needed for the gradient of the other only.
        if save.needs(1) {
            save.input(0);
        }
        if save.needs(0) {
            save.input(1);
        }
        Ok(vec![out])
    }

    fn backward(&self, mut b: Backward) -> Result<Vec<Option<Tensor>>> {
        let mut saved = std::mem::take(&mut b.saved).into_iter();
        let x = if b.recorded[1] { saved.next() } else { None };
        let w = if b.recorded[0] { saved.next() } else { None };
        let Some(g) = b.take_grad(0) else { return Ok(b.needs.iter().map(|_| None).collect()) };
        let mut gradients = vec![
            w.filter(|_| b.wants(0)).map(|w| g.matmul(&w)).transpose()?,
            x.filter(|_| b.wants(1)).map(|x| g.t()?.matmul(&x)).transpose()?,
        ];
        if b.needs.len() == 3 {
            gradients.push(if b.wants(2) { Some(g.sum(&[0], false)?) } else { None });
        }
        Ok(gradients)
    }

    fn compose(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let y = inputs[0].matmul(&inputs[1].t()?);
        Ok(vec![match inputs.get(2) {
            Some(bias) => y + *bias,
            None => y,
        }?])
    }
}

impl Tensor {
    /// `x wᵀ + b` along the last axis: x `[.., K]`, weight `[N, K]`, bias `[N]`, result `[.., N]`. Errors when K or N
    /// disagree, or dtypes or devices do.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::Tensor;
    /// let x = Tensor::from_slice(&[1.0, 2.0], &[1, 2], &device)?;
    /// let weight = Tensor::from_slice(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], &[3, 2], &device)?;
    /// let bias = Tensor::from_slice(&[0.5, 0.0, 0.0], &[3], &device)?;
    /// assert_eq!(x.linear(&weight, Some(&bias))?.to_vec::<f64>()?, [1.5, 2.0, 3.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        const OP: &str = "linear";
        let metas: Vec<_> =
            [self.meta("x"), weight.meta("weight")].into_iter().chain(bias.map(|b| b.meta("bias"))).collect();
        rules::float(OP, metas[0])?;
        rules::alike(OP, &metas)?;
        let wrong = |what: &str| {
            Error::new(ErrorKind::Shape, OP, what.to_owned()).operands(metas.iter().map(|meta| meta.operand()))
        };
        let (Some(&k), &[n, inner]) = (self.shape().last(), weight.shape().as_slice()) else {
            return Err(
                wrong("the weight is no matrix, or x has no axis").help("x [.., in], weight [out, in], bias [out]")
            );
        };
        if k != inner {
            return Err(wrong(&format!("x ends with {k}, and the weight takes {inner}"))
                .help("the weight is [out, in]; in is the last extent of x"));
        }
        if bias.is_some_and(|bias| bias.shape().as_slice() != [n]) {
            return Err(wrong("the bias is not one number per output").help(format!("expected [{n}]")));
        }
        let mut operands = vec![self, weight];
        operands.extend(bias);
        same_device(OP, &operands)?;
        let mut extents = self.shape().to_vec();
        if let Some(last) = extents.last_mut() {
            *last = n;
        }
        let rows = self.count() / k.max(1);
        // Without elements the rows can't be counted from them.
        let rows = if k == 0 { extents[..extents.len() - 1].iter().product() } else { rows };
        let flat = self.reshape_to(&Shape::new(&[rows, k])?)?;
        operands[0] = &flat;
        run_one(&Linear, &operands)?.reshape_to(&Shape::new(&extents)?)
    }
}
