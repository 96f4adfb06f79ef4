//! Tests that span several files; what concerns one file is tested at its end.

mod gradients;
mod memory;
mod views;

use crate::{DType, Device, Tensor};
use attentia_reference::ReferenceBackend;

/// A fresh oracle.
pub(crate) fn device() -> Device {
    Device::new(ReferenceBackend::new())
}

/// 0, 1, 2 … of a shape, f64.
pub(crate) fn counted(extents: &[usize], device: &Device) -> Tensor {
    let count: usize = extents.iter().product();
    let extents: Vec<isize> = extents.iter().map(|&e| e as isize).collect();
    Tensor::arange(0, count, 1, DType::F64, device).unwrap().reshape(&extents).unwrap()
}

#[test]
fn tensors_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Tensor>();
    shared::<crate::Var>();
    shared::<crate::Grads>();
    shared::<crate::Sample>();
}
