//! burn on the CPU, with its backend flex. Threads: `RAYON_NUM_THREADS`.

use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor, module::attention, ops::AttentionModuleOptions};
use rust_peers::{Attention, Library, Work, serve};

fn main() -> Result<()> {
    serve(Burn)
}

struct Burn;

impl Library for Burn {
    const NAME: &'static str = "burn";
    const VERSION: &'static str = "0.22.1";

    fn attention(&self, x: Attention) -> Result<Vec<(&'static str, Work)>> {
        prepare(x)
    }

    fn scalar_add(&self, chain: usize) -> Result<Work> {
        let device = Device::default().autodiff();
        let number = || Tensor::<1>::from_floats([1.0f32], &device);
        let (leaf, one) = (number().require_grad(), number());
        Ok(Box::new(move || {
            let mut y = leaf.clone();
            for _ in 0..chain {
                y = y + one.clone();
            }
            std::hint::black_box(y.backward());
            Ok(device.sync()?)
        }))
    }
}

fn prepare(x: Attention) -> Result<Vec<(&'static str, Work)>> {
    let device = if x.backward { Device::default().autodiff() } else { Device::default() };
    let draw = |count| Tensor::<4>::random([1, x.heads, count, x.dim], Distribution::Normal(0.0, 1.0), &device);
    let (q, k, v) = (draw(x.queries), draw(x.keys), draw(x.keys));
    let options = move || AttentionModuleOptions { is_causal: x.causal, ..Default::default() };
    let work: Work = match x.backward {
        true => {
            let (q, k, v) = (q.require_grad(), k.require_grad(), v.require_grad());
            Box::new(move || {
                let out = attention(q.clone(), k.clone(), v.clone(), None, None, options());
                std::hint::black_box(out.sum().backward());
                Ok(device.sync()?)
            })
        }
        false => Box::new(move || {
            std::hint::black_box(attention(q.clone(), k.clone(), v.clone(), None, None, options()));
            Ok(device.sync()?)
        }),
    };
    Ok(vec![("attention", work)])
}
