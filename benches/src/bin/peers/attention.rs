//! Attention alone, forward and with its gradients: PyTorch's `scaled_dot_product_attention` as it chooses its kernel, and on
//! request ONNX Runtime's, candle's and burn's, in f32 and as far as they have them.

use crate::{Arguments, Comparison, compare_all};
use anyhow::Result;
use attentia::{
    backend::{Alignment, Causal, DType},
    tensor::{Attention, Fallback, RngKey, Tensor, Var, grad, no_grad},
};
use attentia_benches::{operands::cpu, peer::Peer};
use clap::{Args, ValueEnum};
use serde_json::json;

/// What is attended to.
#[derive(Args, Clone)]
pub(crate) struct Shapes {
    /// Numbers of keys, and of queries unless these are given
    #[arg(default_values_t = [128, 512, 2048])]
    lengths: Vec<usize>,
    /// Queries, as in decoding: full attention and its forward alone
    #[arg(long)]
    queries: Option<usize>,
    #[arg(long, default_value_t = 8)]
    heads: usize,
    /// Head dimensions
    #[arg(long, value_delimiter = ',', default_values_t = [64, 128])]
    dims: Vec<usize>,
    #[arg(long, value_enum, default_value_t = Type::F32)]
    dtype: Type,
    /// Other peers than PyTorch
    #[arg(long, value_enum, value_delimiter = ',')]
    beside: Vec<Other>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Other {
    Onnx,
    Candle,
    Burn,
}

impl Other {
    fn start(self, threads: usize) -> Result<Peer> {
        match self {
            Other::Onnx => Peer::onnx(threads),
            Other::Candle => Peer::rust("candle", threads, true),
            Other::Burn => Peer::rust("burn", threads, true),
        }
    }

    /// Whether it is asked: ONNX Runtime has no gradients, and candle and burn hold several matrices of scores.
    fn takes(self, keys: usize, backward: bool) -> bool {
        match self {
            Other::Onnx => !backward,
            Other::Candle | Other::Burn => keys <= if backward { 4096 } else { 8192 },
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
}

pub(crate) fn attention(peer: &mut Peer, arguments: &Arguments, shapes: &Shapes) -> Result<Vec<Comparison>> {
    let device = cpu(arguments.threads)?;
    let heads = shapes.heads;
    let mut others = Vec::new();
    for &other in &shapes.beside {
        others.push((other, other.start(arguments.threads)?));
    }
    let (dtype, named) = match shapes.dtype {
        Type::F32 => (DType::F32, ""),
        Type::Bf16 => (DType::Bf16, " bf16"),
    };
    let mut all = Vec::new();
    for &dim in &shapes.dims {
        for &length in &shapes.lengths {
            let queries = shapes.queries.unwrap_or(length);
            let draw = |i, count| Tensor::randn(RngKey::new(i), &[1, heads, count, dim], dtype, &device);
            let (q, k, v, dout) = (draw(1, queries)?, draw(2, length)?, draw(3, length)?, draw(4, queries)?);
            let leaves = [Var::new(q.clone())?, Var::new(k.clone())?, Var::new(v.clone())?];
            let causalities: &[bool] = if shapes.queries.is_some() { &[false] } else { &[false, true] };
            for &causal in causalities {
                let attend = |q: &Tensor, k: &Tensor, v: &Tensor| {
                    let causal = if causal { Causal::Yes(Alignment::BottomRight) } else { Causal::No };
                    let call = Attention { causal, fallback: Fallback::Deny, ..Attention::new(q, k, v) };
                    call.run().map(|result| result.output)
                };
                let of_queries = if queries == length { String::new() } else { format!("{queries} of ") };
                let causally = if causal { " causal" } else { "" };
                let name = format!("attention{named} {heads}x{of_queries}{length}x{dim}{causally}");
                let mut request = json!({
                    "op": "attention", "heads": heads, "queries": queries, "keys": length, "head_dim": dim,
                    "causal": causal, "dtype": dtype.name(),
                });
                let mut asked = those_asked(&mut others, length, false);
                all.push(compare_all(name.clone(), peer, &mut asked, request.clone(), arguments.rounds, || {
                    no_grad(|| attend(&q, &k, &v)).map(drop)
                })?);
                if shapes.queries.is_some() {
                    continue;
                }
                request["backward"] = true.into();
                let (mut asked, name) = (those_asked(&mut others, length, true), format!("{name} with gradients"));
                all.push(compare_all(name, peer, &mut asked, request, arguments.rounds, || {
                    let [q, k, v] = leaves.each_ref().map(Var::tensor);
                    let out = attend(&q, &k, &v)?;
                    grad(&[&out], Some(&[&dout]), &[&q, &k, &v], false).map(drop)
                })?);
            }
        }
    }
    eprintln!();
    Ok(all)
}

fn those_asked(others: &mut [(Other, Peer)], keys: usize, backward: bool) -> Vec<&mut Peer> {
    others.iter_mut().filter(|(other, _)| other.takes(keys, backward)).map(|(_, peer)| peer).collect()
}
