//! Kernels alone: products, softmax, layer norm, GELU, and what an operation costs when there is nothing to compute.

use crate::{Arguments, Comparison, RustPeer, compare, compare_all};
use anyhow::Result;
use attentia::{
    backend::{Activation, DType, Device, Epilogue, SoftmaxKind, Source},
    tensor::{Tensor, Var},
};
use attentia_benches::{
    operands::{Operand, cpu},
    peer::Peer,
};
use serde_json::json;

pub(crate) fn kernels(peer: &mut Peer, arguments: &Arguments, beside: &[RustPeer]) -> Result<Vec<Comparison>> {
    let others = beside.iter().map(|other| other.start(arguments.threads)).collect::<Result<Vec<_>>>()?;
    let device = cpu(arguments.threads)?;
    let rounds = arguments.rounds;
    let mut all = Vec::new();
    let shapes = [
        (1, 256, 256, 256),
        (1, 512, 512, 512),
        (1, 1024, 1024, 1024),
        (1, 2048, 2048, 2048),
        (1, 512, 2048, 512),
        (1, 64, 512, 512),
        (1, 1, 3072, 768),
        (64, 128, 128, 64),
    ];
    for (batch, m, n, k) in shapes {
        for transpose_b in [false, true] {
            let name = format!("product {batch}x[{m}x{k}]x[{k}x{n}]{}", if transpose_b { " nt" } else { " nn" });
            let request = json!({
                "op": "matmul", "batch": batch, "m": m, "n": n, "k": k, "transpose_b": transpose_b,
            });
            let a = Operand::normal(&device, DType::F32, &[batch, m, k])?;
            let b = match transpose_b {
                true => Operand::normal(&device, DType::F32, &[batch, n, k])?.transposed(),
                false => Operand::normal(&device, DType::F32, &[batch, k, n])?,
            };
            let mut out = Operand::normal(&device, DType::F32, &[batch, m, n])?;
            all.push(compare(name, peer, request, rounds, || {
                device.matmul(a.view()?, b.view()?, Epilogue::NONE, out.view_mut()?)
            })?);
        }
    }
    for (rows, cols) in [(4096, 4096), (256, 512)] {
        let x = Operand::normal(&device, DType::F32, &[rows, cols])?;
        let mut out = Operand::normal(&device, DType::F32, &[rows, cols])?;
        let request = json!({"op": "softmax", "rows": rows, "cols": cols});
        all.push(compare(format!("softmax {rows}x{cols}"), peer, request, rounds, || {
            device.softmax(SoftmaxKind::Softmax, Source::View(x.view()?), None, out.view_mut()?)
        })?);
    }
    for (rows, cols) in [(16384, 768), (512, 768)] {
        let x = Operand::normal(&device, DType::F32, &[rows, cols])?;
        let vector = || Operand::normal(&device, DType::F32, &[cols]);
        let (weight, bias) = (vector()?, vector()?);
        let mut out = Operand::normal(&device, DType::F32, &[rows, cols])?;
        let statistic = || Operand::normal(&device, DType::F32, &[rows, 1]);
        let (mut mean, mut rstd) = (statistic()?, statistic()?);
        let request = json!({"op": "layer_norm", "rows": rows, "cols": cols});
        all.push(compare(format!("layer_norm {rows}x{cols}"), peer, request, rounds, || {
            let (weight, bias) = (Some(weight.view()?), Some(bias.view()?));
            let (mean, rstd) = (mean.view_mut()?, rstd.view_mut()?);
            device.layer_norm(x.view()?, weight, bias, 1e-5, out.view_mut()?, mean, rstd)
        })?);
    }
    for (f, form) in [(Activation::Gelu, "exact"), (Activation::GeluTanh, "tanh")] {
        for len in [16 << 20, 128 << 10] {
            let x = Operand::normal(&device, DType::F32, &[len])?;
            let mut out = Operand::normal(&device, DType::F32, &[len])?;
            let request = json!({"op": "gelu", "len": len, "form": form});
            all.push(compare(format!("gelu {form} {len}"), peer, request, rounds, || {
                device.activation(f, Source::View(x.view()?), out.view_mut()?)
            })?);
        }
    }
    all.push(scalar_add(peer, others, &device, rounds)?);
    eprintln!();
    Ok(all)
}

/// A chain of scalar additions, forward and backward, per addition.
fn scalar_add(peer: &mut Peer, mut others: Vec<Peer>, device: &Device, rounds: usize) -> Result<Comparison> {
    const CHAIN: usize = 1000;
    let leaf = Var::new(Tensor::full(&[], 1.0, DType::F32, device)?)?;
    let one = Tensor::full(&[], 1.0, DType::F32, device)?;
    let request = json!({"op": "scalar_add", "chain": CHAIN, "mode": "forward_backward"});
    let (name, mut others) = ("scalar add, forward and backward".into(), others.iter_mut().collect::<Vec<_>>());
    let mut comparison = compare_all(name, peer, &mut others, request, rounds, || {
        let mut y = leaf.tensor();
        for _ in 0..CHAIN {
            y = y.add(&one)?;
        }
        y.backward().map(drop)
    })?;
    comparison.ours.median_ns /= CHAIN as f64;
    comparison.ours.best_ns /= CHAIN as f64;
    comparison.speed = comparison.pytorch.median_ns / comparison.ours.median_ns;
    Ok(comparison)
}
