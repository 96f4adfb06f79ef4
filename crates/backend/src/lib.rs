//! The vocabulary of Attentia, and the one trait that a compute engine implements.
//!
//! Everything here is plain data and pure functions; nothing computes. A tensor library validates a call with
//! [`rules`], allocates the result, and hands strided [`View`]s and a [`ViewMut`] to a [`Backend`]:
//!
//! ```text
//! tensor ── rules (shapes, dtypes) ──► views ──► dyn Backend ──► reference | cpu | cuda | yours
//! ```
//!
//! - [`DType`], [`Shape`], [`Layout`]: what a buffer's elements are and how an operand walks over them;
//! - [`Buffer`], [`View`], [`ViewMut`], [`Source`]: safe handles; memory itself lives in the backends;
//! - [`Unary`], [`Binary`], [`Compare`], [`Reduce`] …: the closed list of primitives;
//! - [`FusedOp`], [`AttentionSpec`]: what a backend may run in one kernel, asked for through [`Support`];
//! - [`RngKey`]: counter-based random bits, the same on every backend;
//! - [`Error`]: says which operand, which shape, where, and what to do.

// Denied and not forbidden, for the one line that declares `ByteOwner`. Nothing here runs unsafe code.
#![deny(unsafe_code)]

mod attention;
mod attention_map;
mod backend;
mod buffer;
mod byte_owner;
mod dtype;
mod epilogue;
mod error;
mod fused;
mod layout;
mod op;
mod philox;
pub mod rules;
mod score;
mod shape;

pub use attention::{
    Alignment, AttentionCotangents, AttentionGrads, AttentionOperands, AttentionOut, AttentionSaved, AttentionSpec,
    Causal, MaskKind, Statistic, Support, TokenIds,
};
pub use attention_map::AttentionMap;
pub use backend::{Backend, Device, MemoryUse};
pub use buffer::{Buffer, HostSlice, HostSliceMut, Source, Storage, View, ViewMut};
pub use byte_owner::ByteOwner;
pub use dtype::{DType, Element, Scalar};
pub use epilogue::{Apply, Epilogue};
pub use error::{Error, ErrorKind, Operand, Result};
pub use fused::{Activation, AdamW, CrossEntropy, Dropout, FusedOp, SoftmaxKind};
pub use layout::Layout;
pub use op::{Accumulation, ArgReduce, Binary, Compare, Reduce, Unary};
pub use philox::{Philox, RngKey};
pub use score::ScoreExpr;
pub use shape::{MAX_RANK, Shape};
