//! The training loop, and the translator that it trains.
//!
//! - [`Trainer`] runs steps over batches and reports each of them, and goes on where a checkpoint was made;
//! - [`Generations`] keeps a run's checkpoints in a folder: the last, the one before and the best;
//! - [`Translator`] is a model with its tokenizer: text in, text out, and the attention that connected them;
//! - [`Progress`] shows a run to a person: a bar in a terminal, plain lines elsewhere.

#![forbid(unsafe_code)]

mod error;
mod generations;
mod progress;
mod trainer;
mod translator;

pub use error::{Error, Result};
pub use generations::{Found, Generations};
pub use progress::Progress;
pub use trainer::{Step, TrainConfig, Trainer};
pub use translator::{AttentionMap, Translator};
