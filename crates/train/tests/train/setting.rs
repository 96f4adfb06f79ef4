//! A small training with everything that a resumed one must remember: dropout, shuffled batches, moments, a schedule,
//! updates of two batches.

use attentia_cpu::CpuBackend;
use attentia_data::Example;
use attentia_nn::{Precision, Schedule, Scope};
use attentia_tensor::{DType, Device};
use attentia_train::{Step, TrainConfig, Trainer};
use attentia_transformer::{Checkpoint, EncoderDecoder, EncoderDecoderConfig};

/// The CPU with some threads.
pub fn cpu(threads: usize) -> Device {
    Device::new(CpuBackend::new(threads).unwrap())
}

/// How often more than one of its threads worked.
pub fn parallel_runs(device: &Device) -> usize {
    device.as_any().downcast_ref::<CpuBackend>().unwrap().parallel_runs()
}

/// Sequences of `lengths` tokens out of `vocabulary`, reversed as the target. Drawn by a fixed linear congruence.
pub fn reversals(count: usize, lengths: std::ops::RangeInclusive<usize>, vocabulary: u32, seed: u64) -> Vec<Example> {
    let mut state = seed;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    (0..count)
        .map(|_| {
            let length = lengths.start() + draw((lengths.end() - lengths.start() + 1) as u64) as usize;
            let source: Vec<u32> = (0..length).map(|_| 4 + draw(u64::from(vocabulary) - 4) as u32).collect();
            Example { target: source.iter().rev().copied().collect(), source }
        })
        .collect()
}

/// A model and how it is trained.
pub struct Setting {
    pub model: EncoderDecoderConfig,
    pub precision: Precision,
    pub train: TrainConfig,
    pub examples: Vec<Example>,
}

impl Setting {
    /// A few milliseconds per batch.
    pub fn small() -> Setting {
        Setting {
            model: EncoderDecoderConfig {
                width: 32,
                hidden: 64,
                attention_dropout: 0.1,
                ..EncoderDecoderConfig::tiny(30)
            },
            precision: DType::F32.into(),
            train: TrainConfig {
                steps: 200,
                batch_tokens: 128,
                accumulate: 2,
                schedule: Schedule::InverseSquareRoot { peak: 3e-3, warmup: 20 },
                label_smoothing: 0.1,
                clip: 1.0,
                seed: 5,
                ..TrainConfig::default()
            },
            examples: reversals(200, 2..=9, 30, 1),
        }
    }

    /// The base model on a small vocabulary, a sentence at a time.
    pub fn base() -> Setting {
        let small = Setting::small();
        Setting {
            model: EncoderDecoderConfig::base(500),
            train: TrainConfig { steps: 50, batch_tokens: 8, ..small.train },
            examples: reversals(200, 4..=7, 500, 2),
            ..small
        }
    }

    /// From the first step.
    pub fn begin(&self, device: &Device) -> Trainer<'_> {
        let scope = Scope::new(device, self.precision, 11);
        let model = EncoderDecoder::new(&scope, self.model.clone()).unwrap();
        Trainer::new(model, scope.parameters(), &self.examples, self.train.clone(), device).unwrap()
    }

    /// From a checkpoint.
    pub fn resume(&self, checkpoint: Checkpoint, device: &Device) -> Trainer<'_> {
        let (model, parameters) = checkpoint.model(device).unwrap();
        let mut trainer = Trainer::new(model, parameters, &self.examples, self.train.clone(), device).unwrap();
        trainer.resume(checkpoint).unwrap();
        trainer
    }
}

/// Batches that a checkpoint's training has seen.
pub fn batches(checkpoint: &Checkpoint) -> u64 {
    checkpoint.training.as_ref().unwrap().progress["position"]["batches"].as_u64().unwrap()
}

/// A step's number and the bits of what it reports.
pub fn bits(step: &Step) -> (u64, u64, u64) {
    (step.step, step.loss.to_bits(), step.gradient_norm.to_bits())
}
