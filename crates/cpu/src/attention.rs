//! Attention without a score matrix in memory (FlashAttention-2: Dao, 2023), forward and backward.
//!
//! ```text
//! forward    for each sequence and key head: pack K into panels of columns, V into panels for each block of keys
//!            for each query head and block of about 30 queries, in any order:          task
//!                Q  = scale · block, packed in rows                                     [rows, D]
//!                O, l = 0    m = −∞
//!                for each block of 512 keys that one of the queries sees:
//!                    S = Q · K                                                          [rows, 512]  L1
//!                    modify, add biases, hide; m' = max(m, max S); P = exp(S − m'); l, O *= exp(m − m'); l += Σ P; drop out P
//!                    O += P · V                                                         [rows, D_v]
//!                out = O / l     lse = m + ln l
//!
//! few        one to four queries read keys and values where they lie; fewer than eight heads in ranges of keys, each with
//!            an O, l and m of its own, which are merged in their order
//!
//! backward   for each sequence, key head and range of keys, in any order:               task
//!                for each block of 512 keys:
//!                    dK, dV = 0
//!                    for each query head of the group and block of queries that sees the keys:
//!                        P = exp(Q Kᵀ − lse)      dP = dout Vᵀ      dS = P ⊙ (dP − delta) · scale
//!                        (with a modifier, times its derivative; dS before the scale is added to biases' gradients)
//!                        dV += Pᵀ dout     dK += dSᵀ Q     dQ += dS K                   five products
//!                        after 16 blocks of queries, dV and dK are added to those of the blocks before, and begin anew
//!            few key heads are cut into ranges of keys, whose dQ are added up in their order
//! ```
//!
//! All blocks are cut from shapes, and each sum has its own order: the bits do not depend on the number of threads.
//! 16-bit operands are widened when they are packed, everything is summed in f32 (f64 in f64), and results are rounded
//! once. A query that sees no key, by mask or by scores of −∞, gives zeros, `lse = −∞` (or its head's sink) and no gradients.
//!
//! A key that is hidden from a query has weight 0 there. What lies before the first key that a block of queries sees, or
//! behind the last, is not weighed; but between them the product is formed, so that an infinity or a NaN in a hidden value reaches the output of
//! its neighbours, as it does in a composition.
//!
//! | file | what |
//! |---|---|
//! | `problem` | extents, strides, and which keys a query sees |
//! | `products` | products of blocks that are packed once and read often |
//! | `scores` | what happens to a block of scores between two products, in every pass |
//! | `weights` | exponentials, below a maximum or a log-sum-exp |
//! | `online` | the forward's step: the online softmax |
//! | `slopes` | the backward's step: gradients of scores |
//! | `statistics` | entropy and others of each row of weights |
//! | `modifier` | expressions in a score |
//! | `segments` | ids of queries and keys, and which keys lie between those of an id |
//! | `sinks` | a logit of each head in the denominator, and its gradient |
//! | `summed` | gradients of biases and of values per head |
//! | `forward`, `backward` | the loops |
//! | `maps` | a second pass for what needs the weights of all queries |

mod backward;
mod forward;
mod maps;
mod modifier;
mod online;
mod problem;
mod products;
mod scores;
mod segments;
mod sinks;
mod slopes;
mod statistics;
mod summed;
#[cfg(test)]
mod tests;
mod weights;

use crate::CpuBackend;
use attentia_backend::{
    AttentionCotangents, AttentionGrads, AttentionMap, AttentionOperands, AttentionOut, AttentionSaved, AttentionSpec,
    DType, Error, ErrorKind, Result, ScoreExpr, Support, View,
};
use half::{bf16, f16};
use problem::OP;
use std::collections::HashSet;

/// A kernel for everything but what is too deep, and says so.
pub(crate) fn support(cpu: &CpuBackend, spec: &AttentionSpec, operands: &AttentionOperands) -> Support {
    let why = match () {
        () if spec.modifier.as_ref().is_some_and(|modifier| deepest(modifier) > modifier::DEEPEST) => {
            format!("a modifier that needs more than {} intermediate results at once", modifier::DEEPEST)
        }
        () => {
            let dims = [operands.q.shape().last(), operands.v.shape().last()].map(|dim| dim.copied().unwrap_or(0));
            match dims.into_iter().find(|dim| *dim > products::DEEPEST) {
                Some(dim) => {
                    format!("a head dimension of {dim}, and the cpu kernel goes up to {}", products::DEEPEST)
                }
                None => {
                    let workspace = match operands.q.dtype() {
                        DType::F64 => forward::workspace::<f64>(cpu.isa, operands),
                        DType::F32 => forward::workspace::<f32>(cpu.isa, operands),
                        _ => forward::workspace::<bf16>(cpu.isa, operands),
                    };
                    return Support::Kernel { name: "cpu flash", workspace };
                }
            }
        }
    };
    Support::Compose { why }
}

/// Rows that an expression or one of its derivatives needs at once.
fn deepest(expression: &ScoreExpr) -> usize {
    let by = |leaf: &&ScoreExpr| matches!(leaf, ScoreExpr::Score | ScoreExpr::Bias(_) | ScoreExpr::HeadScalar(_));
    let leaves: HashSet<_> = expression.leaves().into_iter().filter(by).collect();
    let derivatives = leaves.into_iter().map(|leaf| modifier::depth(&expression.derivative(leaf)));
    derivatives.fold(modifier::depth(expression), usize::max)
}

pub(crate) fn attention(
    cpu: &CpuBackend,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    out: AttentionOut,
) -> Result<()> {
    support(cpu, spec, operands).require(OP)?;
    match operands.q.dtype() {
        DType::F64 => forward::run::<f64, f64>(cpu, spec, operands, out),
        DType::F32 => forward::run::<f32, f32>(cpu, spec, operands, out),
        DType::Bf16 => forward::run::<bf16, f32>(cpu, spec, operands, out),
        DType::F16 => forward::run::<f16, f32>(cpu, spec, operands, out),
        dtype => Err(not_a_float(dtype)),
    }
}

pub(crate) fn attention_backward(
    cpu: &CpuBackend,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    saved: &AttentionSaved,
    cotangents: &AttentionCotangents,
    grads: AttentionGrads,
) -> Result<()> {
    support(cpu, spec, operands).require("attention_backward")?;
    match operands.q.dtype() {
        DType::F64 => backward::run::<f64, f64>(cpu, spec, operands, saved, cotangents, grads),
        DType::F32 => backward::run::<f32, f32>(cpu, spec, operands, saved, cotangents, grads),
        DType::Bf16 => backward::run::<bf16, f32>(cpu, spec, operands, saved, cotangents, grads),
        DType::F16 => backward::run::<f16, f32>(cpu, spec, operands, saved, cotangents, grads),
        dtype => Err(not_a_float(dtype)),
    }
}

/// The same answer as the forward's: what it hides and modifies, maps hide and modify too.
pub(crate) fn maps_support(
    cpu: &CpuBackend,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    gradients: bool,
) -> Support {
    match support(cpu, spec, operands) {
        Support::Kernel { .. } => {
            let workspace = match operands.q.dtype() {
                DType::F64 => maps::workspace::<f64>(operands, gradients),
                DType::F32 => maps::workspace::<f32>(operands, gradients),
                _ => maps::workspace::<bf16>(operands, gradients),
            };
            Support::Kernel { name: "cpu flash maps", workspace }
        }
        compose => compose,
    }
}

pub(crate) fn attention_maps(
    cpu: &CpuBackend,
    spec: &AttentionSpec,
    operands: &AttentionOperands,
    lse: View,
    dout: Option<View>,
    maps: Vec<AttentionMap>,
) -> Result<()> {
    maps_support(cpu, spec, operands, dout.is_some()).require("attention_maps")?;
    match operands.q.dtype() {
        DType::F64 => maps::run::<f64, f64>(cpu, spec, operands, lse, dout, maps),
        DType::F32 => maps::run::<f32, f32>(cpu, spec, operands, lse, dout, maps),
        DType::Bf16 => maps::run::<bf16, f32>(cpu, spec, operands, lse, dout, maps),
        DType::F16 => maps::run::<f16, f32>(cpu, spec, operands, lse, dout, maps),
        dtype => Err(not_a_float(dtype)),
    }
}

fn not_a_float(dtype: DType) -> Error {
    Error::new(ErrorKind::DType, OP, format!("q is {dtype}, expected a float"))
}
