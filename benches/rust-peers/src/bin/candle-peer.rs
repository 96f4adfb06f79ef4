//! candle on the CPU. Threads: `RAYON_NUM_THREADS`.

use anyhow::Result;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{
    attention::{AttnMask, flash_attn},
    ops,
};
use rust_peers::{Attention, Library, Work, serve};

fn main() -> Result<()> {
    serve(Candle)
}

struct Candle;

impl Library for Candle {
    const NAME: &'static str = "candle";
    const VERSION: &'static str = "0.11.1";

    fn attention(&self, x: Attention) -> Result<Vec<(&'static str, Work)>> {
        prepare(x)
    }

    fn scalar_add(&self, chain: usize) -> Result<Work> {
        let leaf = Var::new(1f32, &Device::Cpu)?;
        let one = Tensor::new(1f32, &Device::Cpu)?;
        Ok(Box::new(move || {
            let mut y = leaf.as_tensor().clone();
            for _ in 0..chain {
                y = (&y + &one)?;
            }
            std::hint::black_box(y.backward()?);
            Ok(())
        }))
    }
}

fn prepare(x: Attention) -> Result<Vec<(&'static str, Work)>> {
    let device = Device::Cpu;
    let draw = |count| Tensor::randn(0f32, 1.0, (1, x.heads, count, x.dim), &device);
    let (q, k, v) = (draw(x.queries)?, draw(x.keys)?, draw(x.keys)?);
    let hidden = if x.causal { Some(hidden(x.queries, x.keys, &device)?) } else { None };
    if x.backward {
        let [q, k, v] = [Var::from_tensor(&q)?, Var::from_tensor(&k)?, Var::from_tensor(&v)?];
        // The last softmax of `ops` has no gradient; this one is made of operations that have.
        let composed: Work = Box::new(move || {
            let scores = scores(&q, &k, hidden.as_ref())?;
            let out = ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
            std::hint::black_box(out.backward()?);
            Ok(())
        });
        return Ok(vec![("composed", composed)]);
    }
    let by_position = |x: &Tensor| x.transpose(1, 2)?.contiguous();
    let (q2, k2, v2) = (by_position(&q)?, by_position(&k)?, by_position(&v)?);
    let scale = 1.0 / (x.dim as f32).sqrt();
    let flash: Work = Box::new(move || {
        let mask = if x.causal { AttnMask::causal() } else { AttnMask::None };
        std::hint::black_box(flash_attn::<f32>(&q2, &k2, &v2, scale, mask, None, None)?);
        Ok(())
    });
    let composed: Work = Box::new(move || {
        let scores = scores(&q, &k, hidden.as_ref())?;
        std::hint::black_box(ops::softmax_last_dim(&scores)?.matmul(&v)?);
        Ok(())
    });
    Ok(vec![("flash_attn", flash), ("composed", composed)])
}

fn scores(q: &Tensor, k: &Tensor, hidden: Option<&Tensor>) -> candle_core::Result<Tensor> {
    let scores = (q.matmul(&k.t()?)? * (1.0 / (q.dim(D::Minus1)? as f64).sqrt()))?;
    match hidden {
        Some(hidden) => scores.broadcast_add(hidden),
        None => Ok(scores),
    }
}

/// −∞ where a key lies behind the query.
fn hidden(queries: usize, keys: usize, device: &Device) -> candle_core::Result<Tensor> {
    let value = |i: usize| if i % keys + queries > i / keys + keys { f32::NEG_INFINITY } else { 0.0 };
    Tensor::from_vec((0..queries * keys).map(value).collect::<Vec<_>>(), (queries, keys), device)?.to_dtype(DType::F32)
}
