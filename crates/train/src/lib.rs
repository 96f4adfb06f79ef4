//! The training loop, and the translator that it trains.
//!
//! - [`RunConfig`] says what is trained on what and how, as a file; [`Prepared`] makes of a corpus' [`Splits`] what a
//!   training reads; [`run`](run()) trains in a folder, validates, saves, and goes on where it was stopped;
//! - [`Trainer`] runs steps over batches and reports each of them, and goes on where a checkpoint was made;
//! - [`Generations`] keeps a run's checkpoints in a folder: the last, the one before and the best;
//! - [`Translator`] is a model with its tokenizer: text in, text out, and the attention that connected them;
//! - a [`Recorder`] is told what happens: [`Progress`] shows it to a person, [`JsonLines`] and [`TensorBoard`] write it
//!   down.

#![forbid(unsafe_code)]

mod config;
mod error;
mod generations;
mod prepare;
mod progress;
mod record;
mod run;
mod trainer;
mod translator;

pub use config::{
    CheckpointConfig, Compute, CorpusConfig, Decay, ModelConfig, OptimisationConfig, Preset, RunConfig, ValidateConfig,
};
pub use error::{Error, Result};
pub use generations::{Found, Generations};
pub use prepare::{Prepared, SentencePairs, Split, Splits, within};
pub use progress::Progress;
pub use record::{
    Recorder, Report, Sample,
    json_lines::JsonLines,
    tensorboard::{EVENTS, TensorBoard},
};
pub use run::{CONFIG, MODEL, Outcome, RunFolder, run};
pub use trainer::{Best, NotFinite, Step, TrainConfig, Trainer, Validation};
pub use translator::{Attention, AttentionMap, LayerAttention, TranslateOptions, Translation, Translator};
