//! An attention engine that you can see inside.
//!
//! ```
//! use attentia::prelude::*;
//!
//! let device = attentia::device("cpu")?;
//! let q = Tensor::randn(RngKey::new(1), &[1, 2, 4, 8], DType::F32, &device)?;      // [B, H, T, D]
//! let k = Tensor::randn(RngKey::new(2), &[1, 2, 6, 8], DType::F32, &device)?;      // [B, H, S, D]
//! let v = Var::new(Tensor::randn(RngKey::new(3), &[1, 2, 6, 8], DType::F32, &device)?)?;
//! let attended = scaled_dot_product(&q, &k, &v.tensor(), Default::default())?;
//! println!("{}", attended.weights);                                                // who looks where
//! let grads = attended.output.square()?.mean_all()?.backward()?;
//! assert_eq!(grads.get(&v).unwrap().shape().as_slice(), [1, 2, 6, 8]);
//! # Ok::<(), attentia::Error>(())
//! ```
//!
//! | crate | what is in it |
//! |---|---|
//! | [`backend`] | dtypes, layouts, errors, shape rules and the trait that a compute engine implements |
//! | [`tensor`] | tensors, views, gradients of any order, checkpointing, gradient checks |
//! | [`nn`] | layers, parameters by path, losses, optimisers, schedules |
//! | [`attention`] | masks and attention mechanisms |
//! | [`transformer`] | the encoder-decoder, generation, checkpoints |
//! | [`mod@file`] | files that are written whole or not at all |
//!
//! Features choose the rest: `cpu` (on by default) and `reference` are backends; `train` adds tokenizers, batches, the
//! training loop and heat maps.

#![forbid(unsafe_code)]

pub use attentia_attention as attention;
pub use attentia_backend as backend;
#[cfg(feature = "cpu")]
pub use attentia_cpu as cpu;
#[cfg(feature = "train")]
pub use attentia_data as data;
pub use attentia_file as file;
pub use attentia_nn as nn;
#[cfg(feature = "train")]
pub use attentia_picture as picture;
#[cfg(feature = "reference")]
pub use attentia_reference as reference;
pub use attentia_tensor as tensor;
#[cfg(feature = "train")]
pub use attentia_train as train;
pub use attentia_transformer as transformer;

pub use attentia_tensor::{Error, Result};

use attentia_tensor::{Device, ErrorKind};

/// The book's examples are tests of this crate.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../../docs/src/add-an-operation.md")]
    struct AddAnOperation;
    #[doc = include_str!("../../../docs/src/build-a-model.md")]
    struct BuildAModel;
    #[doc = include_str!("../../../docs/src/encoder-decoder.md")]
    struct EncoderDecoder;
}

/// What most programs need.
pub mod prelude {
    pub use crate::attention::{AttentionOptions, AttentionPooling, MultiHeadAttention, mask, scaled_dot_product};
    pub use crate::nn::{AdamW, AdamWConfig, Context, Linear, Optimizer, Precision, Run, Scope};
    pub use crate::tensor::{DType, Device, Grads, RngKey, Tensor, Var, no_grad};
    pub use crate::transformer::{EncoderDecoder, EncoderDecoderConfig, GenerateOptions, generate};
}

/// Names of the devices that this build can start.
pub const DEVICES: &[&str] = &[
    #[cfg(feature = "cpu")]
    "cpu",
    #[cfg(feature = "reference")]
    "reference",
];

/// Starts a device by name, with one thread per core: `cpu`, or `reference` (the slow oracle, for comparison).
pub fn device(name: &str) -> Result<Device> {
    device_with_threads(name, 0)
}

/// Starts a device by name with a number of threads; 0 means one per core.
pub fn device_with_threads(name: &str, threads: usize) -> Result<Device> {
    let _ = threads; // only some builds have a device with threads
    match name {
        #[cfg(feature = "cpu")]
        "cpu" => Ok(Device::new(attentia_cpu::CpuBackend::new(threads)?)),
        #[cfg(feature = "reference")]
        "reference" => Ok(Device::new(attentia_reference::ReferenceBackend::new())),
        _ => Err(Error::new(ErrorKind::BackendUnavailable, "device", format!("there is no device {name:?}"))
            .help(format!("this build has: {}; more come with cargo features", DEVICES.join(", ")))),
    }
}
