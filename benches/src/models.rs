//! Models and their sentences, for benches of whole steps.

use anyhow::Result;
use attentia::{
    backend::Device,
    data::{Batch, Batches, Example, Examples},
    nn::{Precision, Schedule, Scope},
    tensor::Tensor,
    train::{TrainConfig, Trainer},
    transformer::{EncoderDecoder, EncoderDecoderConfig},
};

/// Tokens that [`sentences`] draws from.
pub const VOCABULARY: usize = 8000;

/// Pairs of random sentences that fill batches of this width without padding: the end mark makes them as wide.
pub fn sentences(count: usize, width: usize) -> Vec<Example> {
    let mut state = 1u64;
    let mut draw = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        3 + (state >> 33) as u32 % (VOCABULARY as u32 - 3)
    };
    let mut sentence = || (1..width).map(|_| draw()).collect::<Vec<u32>>();
    (0..count).map(|_| Example { source: sentence(), target: sentence() }).collect()
}

/// Sources of `length` tokens each: `[rows, length]`.
pub fn sources(rows: usize, length: usize, device: &Device) -> Result<Tensor> {
    let ids: Vec<i64> = (0..rows * length).map(|i| 3 + (i * 7919 % (VOCABULARY - 3)) as i64).collect();
    Ok(Tensor::from_slice(&ids, &[rows, length], device)?)
}

/// A trainer that has made a step, so that its memory is warm, and batches for the next `steps`.
pub fn warm_trainer<'a>(
    config: EncoderDecoderConfig,
    precision: Precision,
    examples: &'a dyn Examples,
    batch_tokens: usize,
    steps: usize,
    device: &Device,
) -> Result<(Trainer<'a>, Vec<Batch>)> {
    let scope = Scope::new(device, precision, 1);
    let model = EncoderDecoder::new(&scope, config)?;
    let config = TrainConfig {
        steps: steps as u64,
        batch_tokens,
        schedule: Schedule::Constant { peak: 1e-4 },
        ..TrainConfig::default()
    };
    let batches = Batches::new(examples, batch_tokens)?;
    let batches = (0..).flat_map(|epoch| batches.epoch(1, epoch)).take(steps);
    let batches = batches.collect::<attentia::data::Result<Vec<Batch>>>()?;
    let mut trainer = Trainer::new(model, scope.parameters(), examples, config, device)?;
    trainer.accumulate(&batches[0])?;
    trainer.update()?;
    Ok((trainer, batches))
}
