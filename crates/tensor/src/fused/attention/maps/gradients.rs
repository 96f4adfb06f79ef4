//! Maps of attention weights times a loss's gradients by them.
//!
//! ```text
//! dp[b, h, t, s] = dropout(⟨dout[b, h, t], v[b, h', s]⟩)          ∂loss/∂p, the other weights held
//! p · dp         = ∂loss/∂g of a factor g = 1 on this weight        Σ_s p · dp = ⟨dout, out⟩
//! ```

use super::WeightMap;
use crate::{Tensor, fused::attention::Attention};
use attentia_backend::{Result, Support};

impl Attention<'_> {
    /// Maps of `p · dp`, the weights of an attention that has been run times the gradients of a loss by them: one pass over
    /// q, k and v for all of them, without a score matrix. `lse` `[B, H, T]` is what the run returned, `dout`
    /// `[B, H, T, D_v]` the gradient of the loss by its output, of q's dtype.
    ///
    /// `dp = dropout(dout vᵀ)` is the gradient by the normalised weights, with the call's own dropout. `p · dp` has the unit
    /// of the loss: it is the loss's derivative by a factor on that weight, at 1. This is the gradient times attention of
    /// Chefer et al. (2021). A row of it adds up to `Σ dout · out`; a whole head to the derivative by a factor on the head's
    /// output, whose magnitude, averaged over examples, is the importance of a head (Michel et al., 2019).
    ///
    /// A key of weight 0 has 0, whatever its value. [`WeightMap::Blocks`] has the greatest number of each block, which may be
    /// negative; keys that are hidden count as 0. [`WeightMap::Top`] is refused: it orders keys by their scores.
    ///
    /// Where an operand is recorded the maps are composed from primitives, with scores in memory, and gradients flow through
    /// them, to `dout` too; see [`maps`](Self::maps). To look, call it inside [`no_grad`](crate::no_grad): then a kernel
    /// computes them where the device has one.
    ///
    /// ```
    /// # fn main() -> attentia_tensor::Result<()> {
    /// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
    /// use attentia_tensor::{Attention, DType, RngKey, Tensor, Var, WeightMap, grad, no_grad};
    /// let x = Var::new(Tensor::randn(RngKey::new(1), &[2, 3, 6, 4], DType::F64, &device)?)?.tensor(); // [B, H, T, D]
    /// let attention = Attention::new(&x, &x, &x);
    /// let attended = attention.run()?;
    /// let loss = attended.output.tanh()?.sum_all()?;
    /// let gradients = grad(&[&loss], None, &[&attended.output], false)?;
    /// let [Some(dout)] = &gradients[..] else { unreachable!() }; // [2, 3, 6, 4]
    /// let maps = no_grad(|| attention.gradient_maps(&attended.lse, dout, &[WeightMap::Totals]))?;
    /// let [sum, magnitude] = &maps[0][..] else { unreachable!() }; // [2, 3, 6] each
    /// // A row adds up to what its output and the gradient by it have in common.
    /// let common = (dout * &attended.output.detach())?.sum(&[-1], false)?;
    /// assert!((sum - &common)?.abs()?.max_all()?.item::<f64>()? < 1e-12);
    /// assert!((magnitude - &sum.abs()?)?.min_all()?.item::<f64>()? > -1e-12);
    /// // How much each head matters: the mean over both sequences.
    /// let importance = sum.sum(&[-1], false)?.abs()?.mean(&[0], false)?;
    /// assert_eq!(importance.dims()?, [3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When operands disagree; for [`WeightMap::Top`]; when [`Fallback::Deny`](super::Fallback::Deny) forbids to compose what
    /// no kernel serves or gradients are wanted of.
    pub fn gradient_maps(&self, lse: &Tensor, dout: &Tensor, maps: &[WeightMap]) -> Result<Vec<Vec<Tensor>>> {
        self.of_gradients().mapped(lse, Some(dout), maps)
    }

    /// Which kernel [`gradient_maps`](Self::gradient_maps) would take where nothing is recorded, or why it would compose
    /// them.
    pub fn explain_gradient_maps(&self) -> Result<Support> {
        let call = self.of_gradients();
        call.maps_support(&call.function()?, &call.inputs(), true)
    }

    /// The call without what does not matter for gradients of its weights.
    fn of_gradients(&self) -> Attention<'_> {
        Attention { statistics: &[], tokens: None, ..*self }
    }
}
