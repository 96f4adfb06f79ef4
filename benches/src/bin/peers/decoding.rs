//! Greedy decoding with `base`: a source of 32 tokens, 64 steps with the end token forbidden.
//!
//! Without the cache the sources are still encoded once and the cross keys reused; what is written is read again at
//! each step. PyTorch's way is `peers/decoding.py`, with the fastest of its kernels for few rows.

use crate::{Arguments, Comparison};
use anyhow::Result;
use attentia::{
    backend::{DType, Device},
    nn::Scope,
    transformer::{EncoderDecoder, EncoderDecoderConfig, GenerateOptions, Hypothesis, generate},
};
use attentia_benches::{
    models::{VOCABULARY, sources},
    operands::cpu,
    peer::{Peer, number},
    timing::{Summary, summarise},
};
use serde_json::json;
use std::time::Instant;

const SOURCE: usize = 32;
const STEPS: usize = 64;

fn base(device: &Device) -> Result<EncoderDecoder> {
    let config = EncoderDecoderConfig { tied: false, ..EncoderDecoderConfig::base(VOCABULARY) };
    Ok(EncoderDecoder::new(&Scope::new(device, DType::F32, 1), config)?)
}

/// Writes `sentences` with and without the cache, greedily and with four beams: the tokens must be the same.
pub(crate) fn tokens(threads: usize, sentences: usize) -> Result<()> {
    const ROWS: usize = 20;
    let device = cpu(threads)?;
    let model = base(&device)?;
    let source = sources(sentences, SOURCE, &device)?;
    for beams in [1, 4] {
        for first in (0..sentences).step_by(ROWS) {
            let rows = ROWS.min(sentences - first);
            let source = source.narrow(0, first, rows)?;
            let write = |cached| -> Result<Vec<Vec<Hypothesis>>> {
                let options = GenerateOptions { beams, limit: STEPS, cached, may_end: false, ..Default::default() };
                Ok(generate(&model, &source, &vec![SOURCE; rows], options)?.hypotheses)
            };
            for (row, (cached, whole)) in write(true)?.iter().zip(&write(false)?).enumerate() {
                let same = cached.len() == whole.len() && cached.iter().zip(whole).all(|(a, b)| a.tokens == b.tokens);
                anyhow::ensure!(same, "sentence {}, beams {beams}: the cache changes tokens", first + row);
            }
            eprint!("\rbeams {beams}: {} of {sentences} sentences", first + rows);
        }
        eprintln!();
    }
    println!("{sentences} sentences of {STEPS} tokens: the cache changes none, greedily or with 4 beams");
    Ok(())
}

pub(crate) fn decoding(peer: &mut Peer, arguments: &Arguments) -> Result<Vec<Comparison>> {
    let device = cpu(arguments.threads)?;
    let model = base(&device)?;
    let mut all = Vec::new();
    for batch in [1, 16] {
        let of_batch = decode(peer, &model, batch, arguments.rounds, &device)?;
        let [cached, whole] = [0, 1].map(|i| of_batch[i].ours.median_ns);
        println!("batch {batch}: the cache makes ours {:.2}x as fast", whole / cached);
        all.extend(of_batch);
    }
    Ok(all)
}

/// Cached and uncached, beside PyTorch's cached and uncached.
fn decode(
    peer: &mut Peer,
    model: &EncoderDecoder,
    batch: usize,
    rounds: usize,
    device: &Device,
) -> Result<[Comparison; 2]> {
    let config = model.config();
    let source = sources(batch, SOURCE, device)?;
    let ours = |cached| -> Result<f64> {
        let options = GenerateOptions { limit: STEPS, cached, may_end: false, ..GenerateOptions::default() };
        let start = Instant::now();
        let written = generate(model, &source, &vec![SOURCE; batch], options)?;
        let ns = start.elapsed().as_nanos() as f64;
        anyhow::ensure!(written.steps == STEPS, "{} steps instead of {STEPS}", written.steps);
        Ok(ns)
    };
    // [ours, theirs] of [cached, uncached]
    let mut times: [[Vec<f64>; 2]; 2] = Default::default();
    for cached in [true, false] {
        // PyTorch's fastest: oneDNN for a row, its default for more.
        let kernel = if batch == 1 { "onednn" } else { "default" };
        peer.ask(&json!({
            "op": "decode_open", "batch": batch, "source_length": SOURCE, "kernel": kernel, "d_model": config.width,
            "heads": config.heads, "encoder_layers": config.encoder_layers, "decoder_layers": config.decoder_layers,
            "ff": config.hidden, "vocab": config.vocabulary, "tied": config.tied,
        }))?;
        ours(cached)?; // warm memory
        for _ in 0..rounds {
            times[0][usize::from(!cached)].push(ours(cached)?);
            let request = json!({"op": "decode_run", "steps": STEPS, "cached": cached, "runs": 1, "warm_up": 0});
            times[1][usize::from(!cached)].push(number(&peer.ask(&request)?, "median_ns")?);
        }
    }
    let [ours, theirs] = times.map(|engine| engine.map(|mut times| summarise(&mut times)));
    let comparison = |i: usize, name: &str| {
        let (ours, pytorch): (Summary, Summary) = (ours[i], theirs[i]);
        let name = format!("{STEPS} steps of base, batch {batch}, {name}");
        Comparison::new(name, ours, pytorch)
    };
    Ok([comparison(0, "cached"), comparison(1, "uncached")])
}
