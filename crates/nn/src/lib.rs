//! Layers, parameters by path, losses, optimisers and schedules.
//!
//! - [`Scope`] registers parameters under dotted paths, so that none can be forgotten: the same path names a parameter
//!   in files, in errors and in the random stream that initialised it.
//! - A layer is a cheap clone; its `forward` takes a [`Context`] where it needs to know whether it is training.
//! - [`AdamW`] refuses to step when a trainable parameter has no gradient, and names it.
//!
//! ```
//! use attentia_nn::{AdamW, AdamWConfig, Linear, Optimizer, Scope};
//! use attentia_tensor::{DType, Device, Tensor};
//! # let device = Device::new(attentia_reference::ReferenceBackend::new());
//! let scope = Scope::new(&device, DType::F32, 7);
//! let layer = Linear::new(&scope / "line", 1, 1)?;
//! let mut optimizer = AdamW::new(scope.parameters(), AdamWConfig::default())?;
//! let x = Tensor::from_slice(&[0f32, 1.0, 2.0, 3.0], &[4, 1], &device)?;
//! let y = Tensor::from_slice(&[1f32, 3.0, 5.0, 7.0], &[4, 1], &device)?; // y = 2 x + 1
//! let mut last = f32::INFINITY;
//! for _ in 0..200 {
//!     let loss = (layer.forward(&x)? - &y)?.square()?.mean_all()?;
//!     last = loss.item::<f32>()?;
//!     optimizer.step(loss.backward()?, 0.05)?;
//! }
//! assert!(last < 1e-2, "{last}");
//! # Ok::<(), attentia_tensor::Error>(())
//! ```

#![forbid(unsafe_code)]

mod context;
mod dropout;
mod embedding;
mod feed_forward;
mod initialise;
mod linear;
mod loss;
mod norm;
mod optimizer;
mod precision;
mod schedule;
mod scope;
mod site;
mod state;
mod weight;

pub use context::{Captures, Context, Plan, Run, Sink};
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use feed_forward::{FeedForward, FeedForwardActivation};
pub use initialise::Initialise;
pub use linear::Linear;
pub use loss::{CrossEntropyLoss, cross_entropy};
pub use norm::{LayerNorm, RmsNorm};
pub use optimizer::{
    Optimizer, ParameterGroup,
    adam::{Adam, AdamW, AdamWConfig},
    clip::{clip_factor, gradient_norm},
    sgd::{Sgd, SgdConfig},
};
pub use precision::Precision;
pub use schedule::Schedule;
pub use scope::{Parameters, Scope};
pub use site::{Part, Place, Point, Site, Stack};
pub use state::State;
pub use weight::Weight;
