//! Attention: masks, and the mechanisms that weigh values by how well keys fit a query.
//!
//! One form for all: `score → mask → normalise → weight → sum`. A row with nothing to attend to gives zeros and zero
//! gradients; masks are predicates (true: may attend), never large negative numbers.
//!
//! - [`AttentionPooling`]: one learned query, `y = Σ softmax_i(⟨w, x_i⟩) · x_i`;
//! - [`scaled_dot_product`]: `softmax(q kᵀ / √D) v` on `[B, H, T, D]`;
//! - [`MultiHeadAttention`]: the same between projected heads, to itself or to another sequence;
//! - [`Cache`]: keys and values of what was written so far, for decoding;
//! - [`segment_ids`]: ids of sequences that are packed into one.

#![forbid(unsafe_code)]

mod cache;
pub mod mask;
mod mechanism;
mod packing;

pub use cache::{Cache, KeyValue};
pub use mechanism::multi_head::MultiHeadAttention;
pub use mechanism::pooling::AttentionPooling;
pub use mechanism::scaled_dot_product::{Attended, AttentionOptions, scaled_dot_product};
pub use packing::segment_ids;
