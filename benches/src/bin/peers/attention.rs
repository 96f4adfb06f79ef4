//! Attention alone, forward and with its gradients: PyTorch's `scaled_dot_product_attention` as it chooses its kernel.

use crate::{Arguments, Comparison, compare};
use anyhow::Result;
use attentia::{
    backend::{Alignment, Causal, DType},
    tensor::{Attention, Fallback, RngKey, Tensor, Var, grad, no_grad},
};
use attentia_benches::{operands::cpu, peer::Peer};
use serde_json::json;

const HEADS: usize = 8;

pub(crate) fn attention(peer: &mut Peer, arguments: &Arguments, lengths: &[usize]) -> Result<Vec<Comparison>> {
    let device = cpu(arguments.threads)?;
    let mut all = Vec::new();
    for dim in [64, 128] {
        for &length in lengths {
            let draw = |i| Tensor::randn(RngKey::new(i), &[1, HEADS, length, dim], DType::F32, &device);
            let (q, k, v, dout) = (draw(1)?, draw(2)?, draw(3)?, draw(4)?);
            let leaves = [Var::new(q.clone())?, Var::new(k.clone())?, Var::new(v.clone())?];
            for causal in [false, true] {
                let attend = |q: &Tensor, k: &Tensor, v: &Tensor| {
                    let causal = if causal { Causal::Yes(Alignment::BottomRight) } else { Causal::No };
                    let call = Attention { causal, fallback: Fallback::Deny, ..Attention::new(q, k, v) };
                    call.run().map(|result| result.output)
                };
                let name = format!("attention {HEADS}x{length}x{dim}{}", if causal { " causal" } else { "" });
                let mut request =
                    json!({"op": "attention", "heads": HEADS, "queries": length, "head_dim": dim, "causal": causal});
                all.push(compare(name.clone(), peer, request.clone(), arguments.rounds, || {
                    no_grad(|| attend(&q, &k, &v)).map(drop)
                })?);
                request["backward"] = true.into();
                all.push(compare(format!("{name} with gradients"), peer, request, arguments.rounds, || {
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
