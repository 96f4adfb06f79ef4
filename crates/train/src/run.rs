//! A whole run: steps, validations, checkpoints and records in a folder, from the first step or from where it was
//! stopped.
//!
//! ```text
//! config.toml                   what the run was started with, every key
//! tokenizer.json, *.examples    what it reads, and prepared.toml (`prepare`)
//! last, previous, best          checkpoints, `.safetensors` (`generations`)
//! model.safetensors             at the end: the best parameters, for use only
//! metrics.jsonl, events.out.*   what it reported (`record`)
//! ```
//!
//! A run that is killed at any moment and started again with the same configuration ends with the same bytes as one that
//! was left alone.

use crate::{
    Error, Generations, Prepared, Recorder, Report, Result, RunConfig, Sample, Trainer, TranslateOptions, Translator,
    generations::Found,
};
use attentia_data::Tokenizer;
use attentia_tensor::Device;
use attentia_transformer::{Checkpoint, EncoderDecoder};
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// The run's configuration in its folder.
pub const CONFIG: &str = "config.toml";
/// The model that a finished run leaves in its folder.
pub const MODEL: &str = "model.safetensors";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// Validations had not become better for as long as the configuration allows.
    Stopped,
    /// It was asked to stop, and saved where it was.
    Interrupted,
}

/// A run's folder, locked while this value lives.
#[derive(Debug)]
pub struct RunFolder {
    generations: Generations,
}

impl RunFolder {
    /// Takes the folder for a new run, or, where `resume` says so, for one that goes on if it has begun.
    ///
    /// Errors when another process trains there, when it holds checkpoints or a model and `resume` is false, or when it
    /// cannot be written to.
    pub fn open(folder: &Path, resume: bool) -> Result<RunFolder> {
        if folder.exists() && !folder.is_dir() {
            return Err(Error::NoFolder { path: folder.to_owned() });
        }
        let generations = Generations::open(folder)?;
        if !resume && (generations.any()? || folder.join(MODEL).exists()) {
            return Err(Error::Occupied { folder: folder.to_owned() });
        }
        // What a killed process left half-written.
        for name in crate::prepare::FILES.iter().chain(&[MODEL, CONFIG]) {
            attentia_file::remove_leftovers(folder.join(name))?;
        }
        Ok(RunFolder { generations })
    }

    /// Removes a run from a folder, and nothing that is not a run's. Nothing happens where there is none.
    ///
    /// Errors when another process trains there.
    pub fn clear(folder: &Path) -> Result<()> {
        if !folder.join(CONFIG).is_file() {
            return Ok(());
        }
        let generations = Generations::open(folder)?;
        generations.clear()?;
        for name in crate::prepare::FILES.iter().chain(&[MODEL, CONFIG]) {
            let path = folder.join(name);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(attentia_file::Error::Write { path, source }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.generations.folder()
    }

    /// The model that the run leaves.
    pub fn model(&self) -> PathBuf {
        self.path().join(MODEL)
    }

    /// The newest checkpoint that is not damaged. Errors as [`Generations::newest`].
    pub fn newest(&self, device: &Device) -> Result<Option<Found>> {
        self.generations.newest(device)
    }
}

/// Trains to the end, or until `interrupted` is set: then what is done is saved after the step, and a run over the same
/// folder with the checkpoint that was [found](RunFolder::newest) goes on.
///
/// Errors of the training, of the folder, or of a recorder; what was saved before is still there.
pub fn run(
    folder: &RunFolder,
    config: &RunConfig,
    data: &Prepared,
    from: Option<Checkpoint>,
    device: &Device,
    recorders: &mut [&mut dyn Recorder],
    interrupted: &AtomicBool,
) -> Result<Outcome> {
    let tokenizer = data.tokenizer.to_json()?;
    let (model, parameters) = data.model(config, device)?;
    let mut trainer = Trainer::new(model.clone(), parameters.clone(), &data.train, config.train_config(), device)?;
    let resumed = from.is_some();
    if let Some(checkpoint) = from {
        trainer.resume(checkpoint)?;
        let best = folder.generations.best();
        if trainer.best().is_some() && !best.is_file() {
            // Better now than after the last step, which asks for it.
            return Err(Error::NoBest { path: best });
        }
    }
    // Only what can go on may replace what the run was started with.
    attentia_file::write_atomic(folder.path().join(CONFIG), config.to_toml()?.as_bytes())?;
    recorders.iter_mut().try_for_each(|recorder| recorder.begin(trainer.steps()))?;
    // What was left out behind the checkpoint's step is not done again, and its record was of a later step.
    for _ in 0..trainer.skipped() {
        recorders.iter_mut().try_for_each(|recorder| recorder.skipped(trainer.steps() + 1))?;
    }
    let mut saved = resumed.then(|| trainer.steps());
    let mut save = |trainer: &Trainer, recorders: &mut [&mut dyn Recorder]| -> Result<()> {
        recorders.iter_mut().try_for_each(|recorder| recorder.flush())?;
        // The same state twice would push the one before it out of the folder.
        if saved.replace(trainer.steps()) != Some(trainer.steps()) {
            folder.generations.save(&trainer.checkpoint(tokenizer.clone())?)?;
        }
        Ok(())
    };
    let patience = config.validate.patience;
    let tired = |trainer: &Trainer| patience > 0 && trainer.worse() >= patience;
    let due = |every: u64, step: u64| every > 0 && step.is_multiple_of(every);
    let mut outcome = Outcome::Finished;
    while trainer.steps() < config.train.steps {
        if tired(&trainer) {
            outcome = Outcome::Stopped;
            break;
        }
        if interrupted.load(Ordering::Relaxed) {
            save(&trainer, recorders)?;
            return Ok(Outcome::Interrupted);
        }
        let skipped = trainer.skipped();
        let Some(step) = trainer.next_batch()? else {
            if trainer.skipped() > skipped {
                recorders.iter_mut().try_for_each(|recorder| recorder.skipped(trainer.steps() + 1))?;
            }
            continue;
        };
        recorders.iter_mut().try_for_each(|recorder| recorder.step(&step))?;
        // The last step too: its model may be the best.
        let last = config.validate.every > 0 && step.step == config.train.steps;
        if (last || due(config.validate.every, step.step)) && !attentia_data::Examples::is_empty(&data.valid) {
            let report = validate(&mut trainer, &model, data, device)?;
            if report.best {
                let best = Checkpoint::of(&model, &parameters, tokenizer.clone(), step.step);
                folder.generations.save_best(&best)?;
            }
            recorders.iter_mut().try_for_each(|recorder| recorder.validation(&report))?;
        }
        if due(config.checkpoint.every, step.step) {
            save(&trainer, recorders)?;
        }
    }
    save(&trainer, recorders)?;
    let finished = match trainer.best() {
        Some(best) if best.step != trainer.steps() => Checkpoint::load(folder.generations.best(), device)?,
        _ => Checkpoint::of(&model, &parameters, tokenizer, trainer.steps()),
    };
    finished.save(folder.model())?;
    Ok(outcome)
}

fn validate(trainer: &mut Trainer, model: &EncoderDecoder, data: &Prepared, device: &Device) -> Result<Report> {
    let validation = trainer.validate(&data.valid)?;
    let best = trainer.select(validation.loss);
    let samples = samples(model, &data.tokenizer, &data.samples, device)?;
    Ok(Report { step: trainer.steps(), epoch: trainer.epochs(), validation, best, samples })
}

fn samples(
    model: &EncoderDecoder,
    tokenizer: &Tokenizer,
    pairs: &[[String; 2]],
    device: &Device,
) -> Result<Vec<Sample>> {
    let translator = Translator::new(model.clone(), tokenizer.clone(), device);
    let sample = |[source, reference]: &[String; 2]| {
        let (translation, attention) = translator.attend(source, TranslateOptions::default())?;
        let (translation, attention) = (translation.text, attention.last_cross()?);
        Ok(Sample { source: source.clone(), reference: reference.clone(), translation, attention })
    };
    // What the model has no positions for is no sample.
    pairs.iter().filter(|[source, _]| translator.check(source).is_ok()).map(sample).collect()
}
