//! What the engine promises beyond right numbers: the same bits for any number of threads, no hidden copies, graphs of any
//! depth, flat memory, and use from many threads.

mod concurrency;
mod copies;
mod determinism;
mod graph;
mod memory;
mod model;
mod outside;
mod packed;

use attentia_backend::{DType, Device, RngKey};
use attentia_cpu::CpuBackend;
use attentia_tensor::{Result, Tensor, Var, grad};

fn cpu(threads: usize) -> Device {
    Device::new(CpuBackend::new(threads).unwrap())
}

fn random(seed: u64, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::rand_uniform(RngKey::new(seed), -1.0, 1.0, shape, dtype, device)
}

/// The bits of a tensor, whatever its dtype.
fn bits(x: &Tensor) -> Result<Vec<u64>> {
    let x = x.detach();
    match x.dtype() {
        DType::I64 => Ok(x.to_vec::<i64>()?.into_iter().map(|x| x as u64).collect()),
        DType::F64 => Ok(x.to_vec::<f64>()?.into_iter().map(f64::to_bits).collect()),
        // Every narrower float is an f32, bit for bit.
        _ => Ok(x.to_dtype(DType::F32)?.to_vec::<f32>()?.into_iter().map(|x| x.to_bits() as u64).collect()),
    }
}

/// Outputs of a function and the gradients of their sums with respect to the inputs.
fn with_gradients(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>) -> Result<Vec<Tensor>> {
    let leaves = inputs.iter().map(|x| Ok(Var::new(x.clone())?.tensor())).collect::<Result<Vec<_>>>()?;
    let mut all = f(&leaves)?;
    let weights = all.iter().enumerate().map(|(i, y)| random(90 + i as u64, y.shape(), y.dtype(), y.device()));
    let weights = weights.collect::<Result<Vec<_>>>()?;
    let gradients = grad(
        &all.iter().collect::<Vec<_>>(),
        Some(&weights.iter().collect::<Vec<_>>()),
        &leaves.iter().collect::<Vec<_>>(),
        false,
    )?;
    all.extend(gradients.into_iter().flatten());
    Ok(all)
}
