//! Steps over batches: forward, loss, backward, clip, update.

use crate::{Error, Result};
use attentia_data::{Batch, Batches, Example, Ids};
use attentia_nn::{
    AdamW, AdamWConfig, Context, Optimizer, Parameters, Run, Schedule, clip_factor, cross_entropy, gradient_norm,
};
use attentia_tensor::{Device, Tensor};
use attentia_transformer::{EncoderDecoder, PAD};
use std::time::{Duration, Instant};

/// How to train.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// Number of updates.
    pub steps: u64,
    /// Greatest number of tokens in a batch, padding included, of source or target, whichever has more.
    pub batch_tokens: usize,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// Share of each target that is spread over the vocabulary.
    pub label_smoothing: f64,
    /// Greatest norm of the gradient.
    pub clip: f64,
    /// Seed of the order of batches and of dropout.
    pub seed: u64,
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its number, from 1.
    pub step: u64,
    /// Mean loss per target token, nats (with label smoothing).
    pub loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Source and target tokens, without padding.
    pub tokens: usize,
    /// Duration.
    pub elapsed: Duration,
}

/// What memory goes with: attention scores of each kind, and activations of each side.
const NEEDS: [fn(&Batch) -> usize; 5] = [
    |b| b.source.rows() * b.source.width() * b.decoder_target.width(),
    |b| b.source.rows() * b.source.width().pow(2),
    |b| b.source.rows() * b.decoder_target.width().pow(2),
    |b| b.source.rows() * b.source.width(),
    |b| b.source.rows() * b.decoder_target.width(),
];

/// Trains a model on examples.
#[derive(Debug)]
pub struct Trainer<'a> {
    model: EncoderDecoder,
    optimizer: AdamW,
    batches: Batches<'a>,
    config: TrainConfig,
    device: Device,
}

/// `[rows, width]` ids as a tensor.
pub(crate) fn tensor(ids: &Ids, device: &Device) -> attentia_tensor::Result<Tensor> {
    Tensor::from_slice(ids.ids(), &ids.shape(), device)
}

impl<'a> Trainer<'a> {
    /// Errors when there is nothing to train on or an example exceeds a batch.
    pub fn new(
        model: EncoderDecoder,
        parameters: Parameters,
        examples: &'a [Example],
        config: TrainConfig,
        device: &Device,
    ) -> Result<Trainer<'a>> {
        if examples.is_empty() {
            return Err(Error::NoExamples);
        }
        let adamw = AdamWConfig { betas: (0.9, 0.98), epsilon: 1e-9, weight_decay: 0.0 };
        Ok(Trainer {
            model,
            optimizer: AdamW::new(parameters, adamw)?,
            batches: Batches::new(examples, config.batch_tokens)?,
            config,
            device: device.clone(),
        })
    }

    /// Runs all steps, and calls `report` after each. The order of batches depends on the seed and the epoch only.
    pub fn run(&mut self, mut report: impl FnMut(&Step)) -> Result<()> {
        self.rehearse()?;
        let (mut epoch, mut order) = (0, self.batches.epoch(self.config.seed, 0));
        for step in 1..=self.config.steps {
            let batch = match order.next() {
                Some(batch) => batch,
                None => {
                    epoch += 1;
                    order = self.batches.epoch(self.config.seed, epoch);
                    order.next().ok_or(Error::NoExamples)?
                }
            };
            report(&self.step(step, &batch)?);
        }
        Ok(())
    }

    /// Forward and backward, without an update, over the batches that need most memory of each kind: what does not fit
    /// fails now and not after an hour, and the steps that follow find all memory there.
    fn rehearse(&self) -> Result<()> {
        for need in NEEDS {
            if let Some(batch) = self.batches.in_order().max_by_key(need) {
                self.loss(0, &batch)?.backward()?;
            }
        }
        Ok(())
    }

    fn loss(&self, step: u64, batch: &Batch) -> Result<Tensor> {
        let mut cx = Context::new(Run { train: true, seed: self.config.seed, step, plan: None });
        let source = tensor(&batch.source, &self.device)?; // [B, S]
        let written = tensor(&batch.decoder_input, &self.device)?; // [B, T]
        let target = tensor(&batch.decoder_target, &self.device)?; // [B, T]
        let logits = self.model.forward(&source, batch.source.lengths(), &written, &mut cx)?; // [B, T, V]
        Ok(cross_entropy(&logits, &target, self.config.label_smoothing, Some(PAD))?.mean)
    }

    /// One step over one batch; `step` is its number, from 1, and sets learning rate and dropout.
    pub fn step(&mut self, step: u64, batch: &Batch) -> Result<Step> {
        let start = Instant::now();
        let loss = self.loss(step, batch)?;
        let value: f64 = loss.to_dtype(attentia_tensor::DType::F64)?.item()?;
        if !value.is_finite() {
            return Err(Error::NotFinite { step, what: "loss", value });
        }
        let grads = loss.backward()?;
        let gradient_norm = gradient_norm(&grads)?;
        if !gradient_norm.is_finite() {
            // An update would carry it into every parameter.
            return Err(Error::NotFinite { step, what: "gradient norm", value: gradient_norm });
        }
        let learning_rate = self.config.schedule.at(step);
        self.optimizer.step_scaled(grads, learning_rate, clip_factor(gradient_norm, self.config.clip))?;
        let tokens = batch.source.tokens() + batch.decoder_target.tokens();
        Ok(Step { step, loss: value, learning_rate, gradient_norm, tokens, elapsed: start.elapsed() })
    }
}
