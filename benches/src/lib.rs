//! Timings of Attentia, alone and beside its peers.
//!
//! - `cargo bench -p attentia-benches` runs the criterion groups: products, softmax, norms, elementwise; training step, decoding.
//! - `cargo run --release -p attentia-benches --bin peers -- …` alternates slices of ours and of a peer's in one run,
//!   and reports ratios of medians: the machine's noise hits both.

#![forbid(unsafe_code)]

pub mod models;
pub mod operands;
pub mod peer;
pub mod timing;
