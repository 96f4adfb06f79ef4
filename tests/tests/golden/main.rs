//! Parity with PyTorch in double precision: modules with their gradients, optimisers, a training, and what it decodes.
//! `tests/golden/README.md` says what the files hold and what made them.

mod modules;
mod optimisers;
mod translator;

use attentia_cpu::CpuBackend;
use attentia_tensor::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;

/// A golden file: tensors by name, and the constants of its cases.
struct Golden {
    tensors: BTreeMap<String, Tensor>,
    constants: BTreeMap<String, String>,
}

fn device() -> Device {
    Device::new(CpuBackend::new(2).unwrap())
}

impl Golden {
    fn read(name: &str, device: &Device) -> Golden {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.safetensors"));
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let constants = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |view: safetensors::tensor::TensorView| {
            let (data, shape) = (view.data(), view.shape());
            match view.dtype() {
                Dtype::F64 => {
                    let values: Vec<f64> = data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect();
                    Tensor::from_vec(values, shape, device)
                }
                Dtype::F32 => {
                    let values: Vec<f32> = data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
                    Tensor::from_vec(values, shape, device)
                }
                Dtype::I64 => {
                    let values: Vec<i64> = data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
                    Tensor::from_vec(values, shape, device)
                }
                Dtype::BOOL => Tensor::from_vec(data.iter().map(|&b| b != 0).collect::<Vec<bool>>(), shape, device),
                other => panic!("{other:?} in a golden file"),
            }
        };
        let tensors = file.iter().map(|(name, view)| (name.to_owned(), tensor(view).unwrap())).collect();
        Golden { tensors, constants }
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no {name} in the golden file"))
    }

    /// Names below a prefix, with the rest of each.
    fn below<'a>(&'a self, prefix: &str) -> Vec<(&'a str, &'a Tensor)> {
        let rest = |(name, tensor): (&'a String, &'a Tensor)| Some((name.strip_prefix(prefix)?, tensor));
        self.tensors.iter().filter_map(rest).collect()
    }

    fn constant(&self, case: &str, name: &str) -> f64 {
        let constants: Value = serde_json::from_str(&self.constants[case]).unwrap();
        constants[name].as_f64().unwrap_or_else(|| panic!("no {name} of {case}"))
    }

    fn floats(&self, name: &str) -> Vec<f64> {
        floats(self.get(name))
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        self.get(name).to_vec().unwrap()
    }
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().to_vec().unwrap()
}

/// Greatest difference, over the greatest magnitude where that is above 1. A NaN is an infinite difference.
fn difference(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
    let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / scale
}

#[track_caller]
fn assert_close(what: &str, ours: &[f64], theirs: &[f64], tolerance: f64) {
    let difference = difference(ours, theirs);
    assert!(difference <= tolerance, "{what}: {difference:.1e} apart, {tolerance:.0e} allowed");
}
