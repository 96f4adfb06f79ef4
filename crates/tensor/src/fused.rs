//! Operations for which a backend may have one kernel.
//!
//! Each is a [`Function`] whose `compose` is its definition in primitives. Where the device answers
//! [`attentia_backend::Support::Kernel`] the kernel runs, forward and backward; elsewhere the composition is recorded.
//! A backward kernel is a `Function` too, so second derivatives exist through its composition.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod embedding;
pub(crate) mod norm;
pub(crate) mod softmax;

use crate::{
    Function, Tensor, anomaly,
    function::{only, run_one},
    graph::records,
};
use attentia_backend::{FusedOp, Result};
use std::cell::Cell;

thread_local! {
    static KERNELS: Cell<bool> = const { Cell::new(true) };
}

/// Whether fused kernels may run in this thread.
pub fn kernels_enabled() -> bool {
    KERNELS.get()
}

/// Runs `f` with every fused operation composed from primitives, as on a device that has no kernel: to compare the two.
///
/// ```
/// # fn main() -> attentia_tensor::Result<()> {
/// # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
/// use attentia_tensor::{DType, RngKey, Tensor, without_kernels};
/// let x = Tensor::randn(RngKey::new(1), &[5], DType::F64, &device)?;
/// let (fused, composed) = (x.gelu()?, without_kernels(|| x.gelu())?);
/// assert!((fused - composed)?.abs()?.max_all()?.item::<f64>()? < 1e-15);
/// # Ok(())
/// # }
/// ```
pub fn without_kernels<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            KERNELS.set(self.0);
        }
    }
    let _restore = Restore(KERNELS.replace(false));
    f()
}

/// The kernel if the device has one for this dtype, else the composition.
fn fused<F: Function + Clone>(op: FusedOp, function: &F, inputs: &[&Tensor]) -> Result<Tensor> {
    let x = inputs[0];
    match kernels_enabled() && x.device().support(op, x.dtype()).is_kernel() {
        true => run_one(function, inputs),
        false => only(function, function.compose(inputs)?),
    }
}

/// Whether a backward kernel may write over the cotangent: nobody else holds it, and no graph will want it.
fn may_overwrite(cotangent: &mut Tensor, others: &[&Tensor]) -> bool {
    cotangent.data.is_writable() && !anomaly::is_on() && !records(&[cotangent]) && !records(others)
}
