//! How far attention in f32 is from its definition in f64: the kernel, its composition from primitives, and PyTorch's.

use crate::Arguments;
use anyhow::{Context, Result};
use attentia::{
    backend::{Alignment, Causal, DType},
    tensor::{Attention, Fallback, RngKey, Tensor, Var, grad, without_kernels, write_npz},
};
use attentia_benches::{
    operands::cpu,
    peer::{Peer, number},
};
use clap::Args;
use serde_json::{Value, json};

/// What is attended to.
#[derive(Args, Clone)]
pub(crate) struct Shapes {
    /// Numbers of queries and keys
    #[arg(default_values_t = [64, 128, 1024, 4096])]
    lengths: Vec<usize>,
    #[arg(long, default_value_t = 8)]
    heads: usize,
    /// Head dimensions
    #[arg(long, value_delimiter = ',', default_values_t = [64, 128])]
    dims: Vec<usize>,
    /// Standard deviations of queries: 1 gives ordinary scores, more gives weights that are nearly all of one key
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 30.0])]
    spreads: Vec<f64>,
}

/// Names of results, in order.
const RESULTS: [&str; 4] = ["out", "dq", "dk", "dv"];

/// Who computes, as the peer calls them.
const CANDIDATES: [&str; 3] = ["kernel", "composition", "pytorch"];

pub(crate) fn accuracy(peer: &mut Peer, hello: &Value, arguments: &Arguments, shapes: &Shapes) -> Result<()> {
    let device = cpu(arguments.threads)?;
    println!(
        "Errors in f32, relative to double precision: root mean square (greatest), in 1e-7; ratio to the kernel's"
    );
    println!("{:48} {:>4} {:>16} {:>23} {:>23}", "", "", CANDIDATES[0], CANDIDATES[1], CANDIDATES[2]);
    let (mut all, mut worst) = (Vec::new(), [0f64; 2]);
    for &dim in &shapes.dims {
        for &length in &shapes.lengths {
            for &spread in &shapes.spreads {
                for causal in [false, true] {
                    let draw = |i| Tensor::randn(RngKey::new(i), &[1, shapes.heads, length, dim], DType::F32, &device);
                    let (q, k, v, dout) = (draw(1)?.mul_scalar(spread)?, draw(2)?, draw(3)?, draw(4)?);
                    let kernel = results([&q, &k, &v], &dout, causal, Fallback::Deny)?;
                    let composed = || results([&q, &k, &v], &dout, causal, Fallback::Allow);
                    let composition = without_kernels(composed)?;
                    let errors = errors(peer, [&q, &k, &v, &dout], [&kernel, &composition], causal)?;
                    let causally = if causal { " causal" } else { "" };
                    let name = format!("attention {}x{length}x{dim}{causally}, queries x {spread}", shapes.heads);
                    for (i, result) in RESULTS.into_iter().enumerate() {
                        let of = |candidate: &str| -> Result<[f64; 2]> {
                            let error = &errors[candidate][result];
                            Ok([number(error, "rms")?, number(error, "greatest")?])
                        };
                        let [ours, others @ ..] = CANDIDATES.map(of);
                        let (ours, mut line) = (ours?, String::new());
                        for (other, worst) in others.into_iter().zip(&mut worst) {
                            let other = other?;
                            let ratio = other[0] / ours[0];
                            *worst = worst.max(1.0 / ratio);
                            line += &format!(" {:>9.2} ({:>6.2}) {ratio:>4.2}x", other[0] * 1e7, other[1] * 1e7);
                        }
                        let name = if i == 0 { &*name } else { "" };
                        println!("{name:48} {result:>4} {:>7.2} ({:>6.2}){line}", ours[0] * 1e7, ours[1] * 1e7);
                    }
                    all.push(json!({"name": name, "errors": errors}));
                }
            }
        }
    }
    println!("the kernel's greatest share of the composition's {:.2}, of PyTorch's {:.2}", worst[0], worst[1]);
    if let Some(path) = &arguments.json {
        let report = json!({"pytorch": hello, "unit": "rms and greatest, relative to f64", "cases": all});
        attentia::file::write_atomic(path, format!("{report:#}\n").as_bytes())?;
    }
    Ok(())
}

/// The output and the three gradients.
fn results([q, k, v]: [&Tensor; 3], dout: &Tensor, causal: bool, fallback: Fallback) -> Result<Vec<Tensor>> {
    let leaves = [Var::new(q.clone())?.tensor(), Var::new(k.clone())?.tensor(), Var::new(v.clone())?.tensor()];
    let [q, k, v] = leaves.each_ref();
    let causal = if causal { Causal::Yes(Alignment::BottomRight) } else { Causal::No };
    let out = Attention { causal, fallback, ..Attention::new(q, k, v) }.run()?.output;
    let gradients = grad(&[&out], Some(&[dout]), &[q, k, v], false)?;
    let all = [Some(out.detach())].into_iter().chain(gradients);
    all.map(|x| x.context("attention has no gradient")).collect()
}

/// The peer's errors of the kernel's results, of the composition's, and of its own.
fn errors(peer: &mut Peer, operands: [&Tensor; 4], candidates: [&[Tensor]; 2], causal: bool) -> Result<Value> {
    let mut arrays: Vec<(String, &Tensor)> =
        ["q", "k", "v", "dout"].into_iter().map(str::to_owned).zip(operands).collect();
    for (name, results) in CANDIDATES.into_iter().zip(candidates) {
        arrays.extend(RESULTS.iter().map(|result| format!("{name}/{result}")).zip(results));
    }
    let arrays: Vec<(&str, &Tensor)> = arrays.iter().map(|(name, x)| (&**name, *x)).collect();
    let path = std::env::temp_dir().join(format!("attentia-accuracy-{}.npz", std::process::id()));
    std::fs::write(&path, write_npz(&arrays)?).with_context(|| format!("cannot write {}", path.display()))?;
    let answer = peer.ask(&json!({"op": "attention_errors", "file": path, "causal": causal}));
    std::fs::remove_file(&path)?;
    Ok(answer?["errors"].take())
}
