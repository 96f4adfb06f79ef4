//! The conformance suite: what every backend has to do, as values.
//!
//! ```text
//! cases/*        one file per family of operations: which operands, which call, how exact
//! case.rs        Case: operands, call, gradient, acceptance
//! judge.rs       runs a case on a device, on the oracle, on the naive composition, and compares
//! matrix.rs      which placements and shapes meet which dtypes
//! layout.rs      the seven placements in memory          fill.rs      what operands hold
//! tolerance.rs   the rules of acceptance                 number.rs    ulps, rounding, host values
//! suite.rs       the harness: one trial per case, counts, skips
//! coverage.rs    what has to be covered, read from the sources of the vocabulary
//! outside.rs     a backend written outside the engine: counts calls, can hide its kernels
//! ```
//!
//! A backend's own test is a device and a predicate for what it doesn't support; see `tests/cpu.rs`. How to add an
//! operation's cases is written in this folder's README.

// Denied and not forbidden, for the owner of bytes in `cases/memory.rs`, which gives the promise of `ByteOwner`.
#![deny(unsafe_code)]

pub mod case;
pub mod cases;
pub mod coverage;
pub mod fill;
mod judge;
pub mod layout;
pub mod matrix;
pub mod number;
pub mod outside;

pub mod suite;
pub mod tolerance;

pub use case::Case;
