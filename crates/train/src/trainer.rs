//! Steps over batches: forward, loss and backward for one batch after the other; after enough of them, one update.
//!
//! ```text
//! repeat `accumulate` times    G += ∂ loss / ∂ parameters    loss: summed over the batch's n_b target tokens
//! n = Σ n_b                    norm = ‖G‖ / n
//! update with                  G / n · min(1, clip / norm)
//! ```
//!
//! so that it does not matter how an update's tokens were cut into batches. All that decides the next step is in a
//! [`Checkpoint`]: a training that is stopped between any two batches goes on in another process with the same bits.

mod diagnosis;
mod position;

use crate::{Error, Result};
use attentia_data::{Batch, Batches, Epoch, Examples, Ids};
use attentia_nn::{
    AdamW, AdamWConfig, Context, CrossEntropyLoss, Optimizer, Parameters, Precision, Run, Schedule, clip_factor,
    cross_entropy, gradient_norm,
};
use attentia_tensor::{DType, Device, Error as TensorError, ErrorKind, Grads, Tensor, no_grad};
use attentia_transformer::{Checkpoint, EncoderDecoder, PAD, Training};
pub use position::Best;
use position::{Accumulated, Position};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Number of updates.
    pub steps: u64,
    /// Greatest number of tokens in a batch, padding included, of source or target, whichever has more.
    pub batch_tokens: usize,
    /// Batches per update, at least 1. Their gradients are summed and divided by the number of target tokens.
    pub accumulate: u64,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// Share of each target that is spread over the vocabulary.
    pub label_smoothing: f64,
    /// Greatest norm of the gradient.
    pub clip: f64,
    /// Seed of the order of batches and of dropout.
    pub seed: u64,
    /// What to do when a loss or a gradient is NaN or infinite.
    pub not_finite: NotFinite,
}

/// What a training does when a loss or a gradient is NaN or infinite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotFinite {
    /// Stops with an error that names the operation and the layer where it appeared first.
    #[default]
    Stop,
    /// Leaves the batch or the update out and goes on; stops all the same at the twentieth without an update between them.
    Skip,
}

/// After so many in a row the model is beyond help.
const MOST_SKIPPED: u64 = 20;

impl Default for TrainConfig {
    /// 1,000 updates of one batch of at most 2,048 tokens a side: warm-up over 200 to 1e-3, then a cosine to zero.
    fn default() -> TrainConfig {
        TrainConfig {
            steps: 1000,
            batch_tokens: 2048,
            accumulate: 1,
            schedule: Schedule::Cosine { peak: 1e-3, warmup: 200, total: 1000, floor: 0.0 },
            label_smoothing: 0.1,
            clip: 1.0,
            seed: 1,
            not_finite: NotFinite::Stop,
        }
    }
}

impl TrainConfig {
    /// Errors name the field that makes no sense.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String, help: &str| {
            Err(TensorError::new(ErrorKind::Argument, "train", what).help(help.to_owned()).into())
        };
        if self.accumulate == 0 {
            return refuse("accumulate is 0".to_owned(), "an update needs at least one batch");
        }
        if self.clip.is_nan() || self.clip <= 0.0 {
            return refuse(format!("clip is {}", self.clip), "a norm above 0; a large one clips nothing");
        }
        Ok(())
    }
}

/// What one update did.
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
    /// Time that its batches and the update took.
    pub elapsed: Duration,
}

impl Step {
    /// Source and target tokens per second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// How well a model foretells examples that it did not learn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Nats per target token, without label smoothing.
    pub loss: f64,
    /// Share of target tokens that had the greatest probability.
    pub accuracy: f64,
}

/// What the names of the tensors in a checkpoint begin with.
const MOMENTS: &str = "optimizer.";
const GRADIENTS: &str = "accumulated.";

/// What memory goes with, of a batch `[B, S, T]`: attention scores of each kind, activations of each side, and all of
/// either.
const NEEDS: [fn([usize; 3]) -> usize; 7] = [
    |[b, s, t]| b * s * t,
    |[b, s, _]| b * s.pow(2),
    |[b, _, t]| b * t.pow(2),
    |[b, s, _]| b * s,
    |[b, _, t]| b * t,
    |[b, s, t]| b * (s + t),
    |[b, s, t]| b * (s + t).pow(2),
];

/// Trains a model on examples.
///
/// ```
/// use attentia_data::Example;
/// use attentia_nn::{Schedule, Scope};
/// use attentia_tensor::{DType, Device};
/// use attentia_train::{TrainConfig, Trainer};
/// use attentia_transformer::{EncoderDecoder, EncoderDecoderConfig};
///
/// let device = Device::new(attentia_cpu::CpuBackend::new(1)?);
/// let examples = [Example { source: vec![4, 5], target: vec![5, 4] }];
/// let config = EncoderDecoderConfig { width: 8, heads: 2, hidden: 8, ..EncoderDecoderConfig::tiny(6) };
/// let train = TrainConfig { steps: 3, schedule: Schedule::Constant { peak: 1e-2 }, ..TrainConfig::default() };
/// let scope = Scope::new(&device, DType::F32, 1);
/// let model = EncoderDecoder::new(&scope, config)?;
/// let mut trainer = Trainer::new(model, scope.parameters(), &examples, train.clone(), &device)?;
/// let first = trainer.next_step()?.expect("the first of three");
/// let saved = trainer.checkpoint("no tokenizer".into())?;
///
/// // Later, perhaps elsewhere: the same two steps that the first trainer would have made.
/// let (model, parameters) = saved.model(&device)?;
/// let mut resumed = Trainer::new(model, parameters, &examples, train, &device)?;
/// resumed.resume(saved)?;
/// while let (Some(a), Some(b)) = (trainer.next_step()?, resumed.next_step()?) {
///     assert!(a.loss == b.loss && a.step > first.step);
/// }
/// # Ok::<(), attentia_train::Error>(())
/// ```
#[derive(Debug)]
pub struct Trainer<'a> {
    model: EncoderDecoder,
    parameters: Parameters,
    optimizer: AdamW,
    batches: Batches<'a>,
    order: Epoch<'a>,
    position: Position,
    gradients: Grads,
    /// Batches of the next update with the numbers of their dropout: looked at again when it is not finite.
    pending: Vec<(u64, Batch)>,
    elapsed: Duration,
    config: TrainConfig,
    device: Device,
}

/// `[rows, width]` ids as a tensor.
pub(crate) fn tensor(ids: &Ids, device: &Device) -> attentia_tensor::Result<Tensor> {
    Tensor::from_slice(ids.ids(), &ids.shape(), device)
}

fn value(loss: &CrossEntropyLoss) -> attentia_tensor::Result<f64> {
    loss.sum.to_dtype(DType::F64)?.item()
}

impl<'a> Trainer<'a> {
    /// At the start of the first epoch. Runs the batches that need most memory once, without an update: what does not
    /// fit fails now and not after an hour, and the steps that follow find all memory there.
    ///
    /// Errors when the configuration makes no sense, there is nothing to train on or an example exceeds a batch.
    pub fn new(
        model: EncoderDecoder,
        parameters: Parameters,
        examples: &'a dyn Examples,
        config: TrainConfig,
        device: &Device,
    ) -> Result<Trainer<'a>> {
        if examples.is_empty() {
            return Err(Error::NoExamples);
        }
        config.validate()?;
        let adamw = AdamWConfig { betas: (0.9, 0.98), epsilon: 1e-9, weight_decay: 0.0 };
        let batches = Batches::new(examples, config.batch_tokens)?;
        let trainer = Trainer {
            model,
            optimizer: AdamW::new(parameters.clone(), adamw)?,
            parameters,
            order: batches.epoch(config.seed, 0),
            position: Position::start(&batches),
            batches,
            gradients: Grads::new(),
            pending: Vec::new(),
            elapsed: Duration::ZERO,
            config,
            device: device.clone(),
        };
        trainer.rehearse()?;
        Ok(trainer)
    }

    fn rehearse(&self) -> Result<()> {
        let mut gradients = Grads::new();
        let order = self.batches.in_order();
        let extents: Vec<[usize; 3]> = order.extents().collect();
        for need in NEEDS {
            let greatest = (0..extents.len()).max_by_key(|&batch| need(extents[batch]));
            if let Some(batch) = greatest.and_then(|batch| order.clone().nth(batch)).transpose()? {
                let of_batch = self.loss(0, &batch)?.sum.backward()?;
                // Where an update has several batches, the sum so far is in memory beside the gradients of the next.
                if self.config.accumulate > 1 {
                    gradients.accumulate(of_batch)?;
                }
            }
        }
        Ok(())
    }

    /// `number` names the batch's dropout.
    fn loss(&self, number: u64, batch: &Batch) -> Result<CrossEntropyLoss> {
        let cx = Context::new(Run { train: true, seed: self.config.seed, step: number, plan: None });
        let (logits, target) = self.logits(cx, batch)?;
        Ok(cross_entropy(&logits, &target, self.config.label_smoothing, Some(PAD))?)
    }

    /// `[B, T, V]`, and the tokens that they should name, `[B, T]`.
    fn logits(&self, mut cx: Context, batch: &Batch) -> Result<(Tensor, Tensor)> {
        let source = tensor(&batch.source, &self.device)?; // [B, S]
        let written = tensor(&batch.decoder_input, &self.device)?; // [B, T]
        let target = tensor(&batch.decoder_target, &self.device)?; // [B, T]
        Ok((self.model.forward(&source, batch.source.lengths(), &written, &mut cx)?, target))
    }

    /// The next update over the data, or `None` after the last of [`TrainConfig::steps`].
    pub fn next_step(&mut self) -> Result<Option<Step>> {
        while self.optimizer.steps() < self.config.steps {
            if let Some(step) = self.next_batch()? {
                return Ok(Some(step));
            }
        }
        Ok(None)
    }

    /// The next batch of the data, and the update if it completes one, [`TrainConfig::steps`] or not. The order of
    /// batches depends on the seed and the epoch only.
    pub fn next_batch(&mut self) -> Result<Option<Step>> {
        let batch = match self.order.next() {
            Some(batch) => batch?,
            None => {
                self.position.next_epoch();
                self.order = self.batches.epoch(self.config.seed, self.position.epoch);
                self.order.next().ok_or(Error::NoExamples)??
            }
        };
        self.position.batch += 1;
        self.accumulate(&batch)?;
        if self.position.accumulated.batches < self.config.accumulate {
            return Ok(None);
        }
        self.update()
    }

    /// Adds a batch's gradients to those of the next update, or leaves the batch out where its loss is not finite and
    /// [`TrainConfig::not_finite`] says so.
    ///
    /// Errors when its loss is not finite; the gradients are then what they were before.
    pub fn accumulate(&mut self, batch: &Batch) -> Result<()> {
        let start = Instant::now();
        self.position.batches += 1;
        let number = self.position.batches;
        let loss = self.loss(number, batch)?;
        let value = value(&loss)?;
        if !value.is_finite() {
            return self.not_finite("loss", value, &[(number, batch.clone())]);
        }
        let targets = loss.targets;
        self.gradients.accumulate(loss.sum.backward()?)?;
        self.position.accumulated.add(value, targets, batch.source.tokens() + batch.decoder_target.tokens());
        self.pending.push((number, batch.clone()));
        self.elapsed += start.elapsed();
        Ok(())
    }

    /// One update with the gradients so far, or `None` where they are not finite and [`TrainConfig::not_finite`] says to
    /// go on without them.
    ///
    /// Errors when they are not finite, and drops them: the parameters are those of the step before.
    pub fn update(&mut self) -> Result<Option<Step>> {
        let start = Instant::now();
        let step = self.optimizer.steps() + 1;
        let elapsed = std::mem::take(&mut self.elapsed);
        let gradients = std::mem::take(&mut self.gradients);
        let pending = std::mem::take(&mut self.pending);
        let Accumulated { loss, targets, tokens, .. } = std::mem::take(&mut self.position.accumulated);
        let scale = 1.0 / targets.max(1) as f64;
        let gradient_norm = gradient_norm(&gradients)? * scale;
        if !gradient_norm.is_finite() {
            // An update would carry it into every parameter.
            return self.not_finite("gradient norm", gradient_norm, &pending).map(|()| None);
        }
        let learning_rate = self.config.schedule.at(step);
        self.optimizer.step_scaled(gradients, learning_rate, scale * clip_factor(gradient_norm, self.config.clip))?;
        self.position.skipped = 0;
        let elapsed = elapsed + start.elapsed();
        Ok(Some(Step { step, loss: loss * scale, learning_rate, gradient_norm, tokens, elapsed }))
    }

    /// Updates so far.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Passes over the data that are complete.
    pub fn epochs(&self) -> u64 {
        self.position.epoch
    }

    /// Batches and updates that were left out since the last update, because they were not finite.
    pub fn skipped(&self) -> u64 {
        self.position.skipped
    }

    /// How well the model foretells other examples, without dropout and label smoothing.
    pub fn validate(&self, examples: &dyn Examples) -> Result<Validation> {
        if examples.is_empty() {
            return Err(Error::NoExamples);
        }
        let (mut sum, mut right, mut targets) = (0.0, 0, 0);
        for batch in Batches::new(examples, self.config.batch_tokens)?.in_order() {
            let batch = batch?;
            let (logits, target) = no_grad(|| self.logits(Context::evaluation(), &batch))?;
            let foretold = logits.argmax(-1, false)?.to_vec::<i64>()?;
            let named = batch.decoder_target.ids();
            right += foretold.iter().zip(named).filter(|(foretold, named)| **named != PAD && foretold == named).count();
            let loss = no_grad(|| cross_entropy(&logits, &target, 0.0, Some(PAD)))?;
            sum += value(&loss)?;
            targets += loss.targets;
        }
        Ok(Validation { loss: sum / targets as f64, accuracy: right as f64 / targets as f64 })
    }

    /// Takes note of a validation's loss at this step, and says whether it is the least so far. Both are in a
    /// [`checkpoint`](Self::checkpoint), so that a resumed training stops where an undisturbed one does.
    pub fn select(&mut self, loss: f64) -> bool {
        // A loss that is no number is never the best: nothing could be better than it later.
        let better = loss.is_finite() && self.position.best.is_none_or(|best| loss < best.loss);
        if better {
            self.position.best = Some(Best { step: self.optimizer.steps(), loss });
        }
        self.position.worse = if better { 0 } else { self.position.worse + 1 };
        better
    }

    /// The best validation so far.
    pub fn best(&self) -> Option<Best> {
        self.position.best
    }

    /// Validations since the best one.
    pub fn worse(&self) -> u64 {
        self.position.worse
    }

    /// The model, the optimiser, the gradients of an unfinished update and the place in the data, as they are now. The
    /// tokenizer goes with it, in its own JSON.
    pub fn checkpoint(&self, tokenizer: String) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::of(&self.model, &self.parameters, tokenizer, self.optimizer.steps());
        let moments = self.optimizer.state().into_iter().map(|(name, tensor)| (format!("{MOMENTS}{name}"), tensor));
        let gradients = self.parameters.iter().filter_map(|(path, var)| {
            self.gradients.get(var).map(|gradient| (format!("{GRADIENTS}{path}"), gradient.clone()))
        });
        let training = Training {
            progress: self.position.to_json(&self.config, &self.parameters)?,
            tensors: moments.chain(gradients).collect(),
        };
        Ok(Checkpoint { training: Some(training), ..checkpoint })
    }

    /// Goes to where the training that made the checkpoint was: what follows are the steps that it would have made.
    ///
    /// Errors when the checkpoint is one for use only, or is of another model, precision or data, other frozen parameters or
    /// another configuration ([`TrainConfig::steps`] may differ). The trainer is then in no state to go on.
    pub fn resume(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let refuse = |what: String| Error::Resume { what };
        let Checkpoint { config, precision, step, parameters, training, .. } = checkpoint;
        let Some(Training { progress, tensors }) = training else {
            return Err(refuse("the checkpoint holds a model and no training".to_owned()));
        };
        if config != *self.model.config() {
            return Err(refuse("the checkpoint is of another model".to_owned()));
        }
        if precision != self.model.precision() {
            let name = |p: Precision| format!("{} parameters and {} products", p.parameters, p.compute);
            let (was, is) = (name(precision), name(self.model.precision()));
            return Err(refuse(format!("the model had {was}, and has now {is}")));
        }
        let position = Position::from_json(progress, &self.config, &self.parameters, &self.batches)?;
        let (mut moments, mut gradients) = (Vec::new(), Vec::new());
        for (name, tensor) in tensors {
            match (name.strip_prefix(MOMENTS), name.strip_prefix(GRADIENTS)) {
                (Some(name), _) => moments.push((name.to_owned(), tensor)),
                (_, Some(path)) => gradients.push((path.to_owned(), tensor)),
                _ => return Err(refuse(format!("{name} is neither of the optimiser nor a gradient"))),
            }
        }
        self.parameters.load(&parameters)?;
        self.optimizer.load_state(step, &mut moments.into_iter().collect())?;
        self.gradients = Grads::new();
        for (path, gradient) in gradients {
            let var = self.parameters.get(&path).ok_or_else(|| refuse(format!("the model has no {path}")))?;
            self.gradients.insert(var.id(), gradient);
        }
        self.order = self.batches.epoch(self.config.seed, position.epoch);
        if let Some(last) = position.batch.checked_sub(1) {
            self.order.nth(usize::try_from(last).unwrap_or(usize::MAX));
        }
        self.position = position;
        self.pending.clear();
        self.elapsed = Duration::ZERO;
        Ok(())
    }
}
