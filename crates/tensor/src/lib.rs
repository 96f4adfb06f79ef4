//! Tensors with gradients of any order.
//!
//! ```text
//! Tensor method ── rules ──► Function::forward ── views ──► dyn Backend
//!      │                          │
//!      └── edge ──► node ◄── saved values            loss.backward() ──► Grads by Var
//! ```
//!
//! - [`Tensor`]: values on a [`Device`], views without copies, PyTorch's names; every operation gives a `Result`;
//! - [`Var`]: what gradients are taken of and optimisers replace; [`Tensor::backward`] consumes the graph, [`grad`]
//!   gives derivatives of any order, [`no_grad`] and [`checkpoint`] save memory;
//! - [`Function`]: an operation with a derivative; [`apply`] runs your own, [`functions`] lists ours with samples;
//! - feature `ndarray`: conversions to and from `ndarray`, and NumPy's files npy and npz;
//! - [`gradcheck`], [`gradgradcheck`], [`detect_anomaly`]: for whoever writes one.
//!
//! ```
//! # fn main() -> attentia_tensor::Result<()> {
//! # let device = attentia_tensor::Device::new(attentia_reference::ReferenceBackend::new());
//! use attentia_tensor::{DType, RngKey, Tensor, Var};
//! let x = Tensor::randn(RngKey::new(1), &[8, 3], DType::F32, &device)?; // [N, C]
//! let w = Var::new(Tensor::zeros(&[3, 2], DType::F32, &device)?)?;
//! let targets = Tensor::from_slice(&[0i64, 1, 0, 1, 0, 1, 0, 1], &[8], &device)?;
//! let loss = x.matmul(&w.tensor())?.cross_entropy(&targets, Default::default())?.mean_all()?;
//! assert!((loss.item::<f32>()? - 2f32.ln()).abs() < 1e-6);
//! let grads = loss.backward()?;
//! assert_eq!(grads.get(&w).unwrap().dims()?, [3, 2]);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod anomaly;
mod backward;
mod checkpoint;
mod copy;
mod create;
mod data;
mod derivative;
mod display;
mod elementwise;
mod feed_forward;
mod frontier;
mod function;
mod functions;
mod fused;
mod gradcheck;
mod graph;
mod index;
#[cfg(any(test, feature = "ndarray"))]
mod interop;
mod join;
mod linear;
mod matmul;
#[cfg(any(test, feature = "ndarray"))]
mod npy;
#[cfg(any(test, feature = "ndarray"))]
mod npz;
mod operators;
mod reduce;
mod sample;
mod tensor;
mod var;
mod view;
mod window;

#[cfg(test)]
mod tests;

pub use anomaly::detect_anomaly;
pub use attentia_backend::{
    Activation, AdamW, Alignment, Apply, ArgReduce, AttentionCotangents, AttentionGrads, AttentionMap,
    AttentionOperands, AttentionOut, AttentionSaved, AttentionSpec, Backend, Binary, Buffer, Causal, Compare,
    CrossEntropy, DType, Device, Dropout, Element, Epilogue, Error, ErrorKind, FusedOp, Layout, MAX_RANK, MaskKind,
    MemoryUse, Operand, Reduce, Result, RngKey, Scalar, ScoreExpr, Shape, SoftmaxKind, Source, Statistic, Support,
    TokenIds, Unary, View, ViewMut, rules,
};
pub use backward::{Grads, grad};
pub use checkpoint::checkpoint;
pub use data::Data;
pub use feed_forward::Affine;
pub use function::{Backward, Function, Saver, apply};
pub use functions::functions;
pub use fused::attention::{Attention, AttentionResult, Fallback, Tokens, WeightMap};
pub use fused::{kernels_enabled, without_kernels};
pub use gradcheck::{GradcheckOptions, gradcheck, gradgradcheck};
pub use graph::{enable_grad, is_grad_enabled, no_grad};
#[cfg(any(test, feature = "ndarray"))]
pub use npy::{read_npy, write_npy};
#[cfg(any(test, feature = "ndarray"))]
pub use npz::{read_npz, write_npz};
pub use sample::Sample;
pub use tensor::Tensor;
pub use var::{Var, VarId, copy_on_write_count};
pub use view::materialised_bytes;
pub use window::{Index, IntoIndices, Span};
