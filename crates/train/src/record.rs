//! What a run reports, and who writes it down.
//!
//! Records are written in the order of steps and only ever appended to. A run that goes on from a checkpoint drops those
//! of later steps first, so that a file tells of one run, however often it was interrupted.

pub mod json_lines;
pub mod tensorboard;

use crate::{Result, Step, Validation, translator::AttentionMap};

/// Somebody who is told about a run.
pub trait Recorder {
    /// The run goes on behind this step, 0 for a new one: what is told of later steps was of a run that is lost.
    fn begin(&mut self, step: u64) -> Result<()>;

    /// After an update.
    fn step(&mut self, step: &Step) -> Result<()>;

    /// After a batch or an update of this step was left out because it was not finite.
    fn skipped(&mut self, step: u64) -> Result<()>;

    /// After a validation.
    fn validation(&mut self, report: &Report) -> Result<()>;

    /// A checkpoint is about to be written: what was told so far must be on the disk before.
    fn flush(&mut self) -> Result<()>;
}

/// A validation as it is reported.
#[derive(Clone, Debug)]
pub struct Report {
    /// Updates before it.
    pub step: u64,
    /// Passes over the data that are complete.
    pub epoch: u64,
    /// Loss and accuracy.
    pub validation: Validation,
    /// Whether it is the best so far.
    pub best: bool,
    /// Sentences of the validation split, translated.
    pub samples: Vec<Sample>,
}

/// A sentence as the model translates it now.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What was read.
    pub source: String,
    /// What should be written.
    pub reference: String,
    /// What was written.
    pub translation: String,
    /// Where the last layer of the decoder looked, mean of its heads.
    pub attention: AttentionMap,
}
